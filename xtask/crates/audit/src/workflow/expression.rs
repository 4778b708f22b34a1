//! GitHub's expressions: what stands in `${{ }}`. It tells which contexts (`github.event.pull_request.title`) can reach an
//! expression's result; it evaluates nothing. Invariant: any text ends in a list or in `None`, in bounded depth.
//!
//! Source: GitHub's documentation, "Evaluate expressions in workflows and actions".

/// Deeper nesting is given up.
const MAX_DEPTH: usize = 32;

/// One `${{ … }}` of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fenced<'a> {
    /// With its fence.
    pub(crate) raw: &'a str,
    /// Without.
    pub(crate) inner: &'a str,
}

/// All expressions of `text`, in order. An end inside a quoted string does not count.
pub(crate) fn fenced(text: &str) -> Vec<Fenced<'_>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = text[from..].find("${{").map(|at| from + at) {
        let body = start + 3;
        let mut is_quoted = false;
        let end = text[body..].char_indices().find(|(at, c)| {
            if *c == '\'' {
                is_quoted = !is_quoted;
            }
            !is_quoted && text[body + at..].starts_with("}}")
        });
        let Some((length, _)) = end else { break };
        found.push(Fenced { raw: &text[start..body + length + 2], inner: text[body..body + length].trim() });
        from = body + length + 2;
    }
    found
}

/// The contexts whose value can be in the expression's result, in lower case, with `*` for an index; `None` where it is not an
/// expression. `github.ref == 'x'` gives none: its result is true or false.
pub(crate) fn contexts(expression: &str) -> Option<Vec<String>> {
    let mut parser = Parser { tokens: tokens(expression)?, at: 0, depth: 0 };
    let flow = parser.or()?;
    (parser.at == parser.tokens.len()).then_some(flow)
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Name(String),
    Text(String),
    Number,
    Operator(&'static str),
}

const OPERATORS: [&str; 17] =
    ["==", "!=", "<=", ">=", "&&", "||", "<", ">", "!", "(", ")", "[", "]", ".", ",", "*", "-"];

fn tokens(text: &str) -> Option<Vec<Token>> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = if first == '\'' {
            let (value, length) = quoted(rest)?;
            tokens.push(Token::Text(value));
            length
        } else if first.is_ascii_digit() {
            tokens.push(Token::Number);
            rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len())
        } else if first.is_ascii_alphabetic() || first == '_' {
            let length =
                rest.find(|c: char| !c.is_ascii_alphanumeric() && !"_-".contains(c)).unwrap_or(rest.len());
            tokens.push(Token::Name(rest[..length].to_ascii_lowercase()));
            length
        } else {
            let operator = OPERATORS.into_iter().find(|operator| rest.starts_with(operator))?;
            tokens.push(Token::Operator(operator));
            operator.len()
        };
        rest = rest[length..].trim_start();
    }
    Some(tokens)
}

/// A quoted string at the beginning of `text` and its length there; two quotes stand for one.
fn quoted(text: &str) -> Option<(String, usize)> {
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c != '\'' {
            value.push(c);
        } else if chars.next_if(|(_, next)| *next == '\'').is_some() {
            value.push('\'');
        } else {
            return Some((value, at + 1));
        }
    }
    None
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

/// Contexts that flow into a result.
type Flow = Vec<String>;

impl Parser {
    fn take(&mut self, operator: &str) -> bool {
        let is_there = matches!(self.tokens.get(self.at), Some(Token::Operator(found)) if *found == operator);
        self.at += usize::from(is_there);
        is_there
    }

    /// Both sides of `||` can be the result.
    fn or(&mut self) -> Option<Flow> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let mut flow = self.and()?;
        while self.take("||") {
            flow.extend(self.and()?);
        }
        self.depth -= 1;
        Some(flow)
    }

    /// Of `&&` the left side is the result only where it counts as false, so that only the right one matters.
    fn and(&mut self) -> Option<Flow> {
        let mut flow = self.comparison()?;
        while self.take("&&") {
            flow = self.comparison()?;
        }
        Some(flow)
    }

    fn comparison(&mut self) -> Option<Flow> {
        let mut flow = self.unary()?;
        while ["==", "!=", "<=", ">=", "<", ">"].into_iter().any(|operator| self.take(operator)) {
            self.unary()?;
            flow = vec![];
        }
        Some(flow)
    }

    fn unary(&mut self) -> Option<Flow> {
        let mut is_negated = false;
        while self.take("!") {
            is_negated = true;
        }
        let flow = self.primary()?;
        Some(if is_negated { vec![] } else { flow })
    }

    fn primary(&mut self) -> Option<Flow> {
        if self.take("(") {
            let flow = self.or()?;
            return self.take(")").then_some(flow);
        }
        if self.take("-") {
            self.at += 1;
            return Some(vec![]);
        }
        let token = self.tokens.get(self.at)?.clone();
        self.at += 1;
        match token {
            Token::Text(_) | Token::Number => Some(vec![]),
            Token::Operator("*") => Some(vec![]),
            Token::Operator(_) => None,
            Token::Name(name) if self.take("(") => self.call(&name),
            Token::Name(name) if ["true", "false", "null", "nan", "infinity"].contains(&name.as_str()) => {
                Some(vec![])
            }
            Token::Name(name) => self.path(name),
        }
    }

    fn call(&mut self, name: &str) -> Option<Flow> {
        let mut flow = Vec::new();
        while !self.take(")") {
            flow.extend(self.or()?);
            if !self.take(",") && self.tokens.get(self.at) != Some(&Token::Operator(")")) {
                return None;
            }
        }
        let is_safe =
            ["contains", "startswith", "endswith", "hashfiles", "success", "failure", "always", "cancelled"]
                .contains(&name);
        let flow = if is_safe { vec![] } else { flow };
        // `fromJSON(x).y`: what follows is a part of the same value.
        self.path(String::new())?;
        Some(flow)
    }

    /// What follows a context's first name: `.name`, `['name']`, `[0]`, `.*`.
    fn path(&mut self, mut path: String) -> Option<Flow> {
        loop {
            if self.take(".") {
                match self.tokens.get(self.at)?.clone() {
                    Token::Name(name) => path = format!("{path}.{name}"),
                    Token::Operator("*") => path.push_str(".*"),
                    Token::Text(_) | Token::Number | Token::Operator(_) => return None,
                }
                self.at += 1;
            } else if self.take("[") {
                match self.tokens.get(self.at).cloned() {
                    Some(Token::Text(name))
                        if self.tokens.get(self.at + 1) == Some(&Token::Operator("]")) =>
                    {
                        self.at += 1;
                        path = format!("{path}.{}", name.to_ascii_lowercase());
                    }
                    _ => {
                        self.or()?;
                        path.push_str(".*");
                    }
                }
                if !self.take("]") {
                    return None;
                }
            } else {
                return Some(if path.is_empty() { vec![] } else { vec![path] });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_contexts_that_reach_the_result_count() {
        let check = |text: &str, expected: Option<&[&str]>| {
            let found = contexts(text);
            assert_eq!(
                found.as_deref().map(|c| c.iter().map(String::as_str).collect::<Vec<_>>()).as_deref(),
                expected,
                "{text}"
            );
        };
        check("github.event.issue.title", Some(&["github.event.issue.title"]));
        check("GitHub.Event['Issue'].labels[0].*", Some(&["github.event.issue.labels.*.*"]));
        check("github.ref == 'x'", Some(&[]));
        check("github.head_ref || github.sha", Some(&["github.head_ref", "github.sha"]));
        check("inputs.a && 'x' || inputs.b", Some(&["inputs.b"]));
        check("format('{0} it''s', matrix.os)", Some(&["matrix.os"]));
        check("contains(github.event.issue.title, 'x')", Some(&[]));
        check("fromJSON(needs.a.outputs.b).c[steps.x.outputs.y]", Some(&["needs.a.outputs.b"]));
        check("!inputs.dry", Some(&[]));
        check("a b", None);
        check("(a", None);
        check("", None);
        check(&"(".repeat(500), None);
    }

    #[test]
    fn a_fence_ends_outside_quotes() {
        let found = fenced("a ${{ x }} b ${{ format('}}', y) }} ${{ open");
        assert_eq!(found.iter().map(|f| f.inner).collect::<Vec<_>>(), ["x", "format('}}', y)"]);
    }
}
