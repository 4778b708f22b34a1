//! Scripts cut into statements, each with its lines and the comments that belong to it. It knows where statements end, and
//! nothing of what they mean.

use super::Dialect;
use super::cursor::Cursor;
use super::lex::{Kind, Lexer, Token, Unreadable};

/// A comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Comment {
    /// Its first line, from 1.
    pub line: u32,
    /// Its text without its marks.
    pub text: String,
}

/// One statement of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Statement {
    /// Its tokens, without comments and the semicolon.
    pub tokens: Vec<Token>,
    /// Comments before and in it; of the last statement also those after it.
    pub comments: Vec<Comment>,
}

impl Statement {
    /// Its first line, from 1.
    pub(crate) fn line(&self) -> u32 {
        self.tokens.first().map_or(1, |token| token.line)
    }

    /// Its text without comments, one space between tokens.
    pub(crate) fn text(&self) -> String {
        Cursor::new(&self.tokens).text()
    }

    /// Whether it is nothing but SQL: neither a command of psql, nor followed by rows.
    pub(crate) fn is_plain_sql(&self) -> bool {
        let is_command = self
            .tokens
            .first()
            .is_some_and(|first| first.kind == Kind::Symbol && first.text.starts_with('\\'));
        !is_command && !is_copy_from_stdin(self)
    }

    /// Where it lies in its script, in bytes, without the semicolon.
    pub(crate) fn span(&self) -> std::ops::Range<usize> {
        let start = self.tokens.first().map_or(0, |token| token.start);
        start..self.tokens.last().map_or(start, |token| token.end)
    }

    /// Its beginning on one line, for people. Text constants are left out: a password may be among them.
    pub(crate) fn summary(&self) -> String {
        const MOST: usize = 90;
        let mut line = String::new();
        let mut before: Option<&Token> = None;
        for token in &self.tokens {
            let is_apart = before.is_some_and(|before| before.end < token.start);
            line += if is_apart { " " } else { "" };
            match token.kind {
                Kind::Text => line += "'…'",
                Kind::Quoted => line += &format!("\"{}\"", token.text),
                _ => line += &token.text,
            }
            if line.chars().count() > MOST {
                return line.chars().take(MOST).chain(['…']).collect();
            }
            before = Some(token);
        }
        line
    }
}

/// Cuts a script into statements; comments after the last one are its own.
///
/// # Errors
/// When it ends inside a constant or a comment.
pub(crate) fn split(text: &str, dialect: Dialect) -> Result<Vec<Statement>, Unreadable> {
    let mut lexer = Lexer::new(text, dialect);
    let mut statements: Vec<Statement> = Vec::new();
    let mut open = Statement { tokens: vec![], comments: vec![] };
    let mut body = Body::default();
    while let Some(mut token) = lexer.next()? {
        match token.kind {
            Kind::Comment => open.comments.push(Comment { line: token.line, text: token.text }),
            Kind::Symbol if token.text == ";" && body.is_closed() => {
                body = Body::default();
                let statement = std::mem::replace(&mut open, Statement { tokens: vec![], comments: vec![] });
                let copies = is_copy_from_stdin(&statement);
                if statement.tokens.is_empty() {
                    open.comments = statement.comments;
                } else {
                    statements.push(statement);
                }
                if copies {
                    lexer.rest_of_line();
                    lexer.skip_copied_rows();
                }
            }
            // A command of psql: it ends with its line.
            Kind::Symbol if token.text == "\\" && open.tokens.is_empty() && dialect == Dialect::Postgres => {
                let rest = lexer.rest_of_line();
                token.end += rest.len();
                token.text += rest.trim_end();
                let comments = std::mem::take(&mut open.comments);
                statements.push(Statement { tokens: vec![token], comments });
            }
            _ => {
                body.pass(&token, &open.tokens, dialect);
                open.tokens.push(token);
            }
        }
    }
    if !open.tokens.is_empty() {
        statements.push(open);
    } else if let Some(last) = statements.last_mut() {
        last.comments.append(&mut open.comments);
    }
    Ok(statements)
}

fn is_copy_from_stdin(statement: &Statement) -> bool {
    let words = |token: &Token| token.kind == Kind::Word;
    let mut words = statement.tokens.iter().filter(|token| words(token)).map(|token| token.text.as_str());
    words.next() == Some("copy") && words.any(|word| word == "stdin")
}

/// Statements inside a statement: the body of SQLite's triggers, and of PostgreSQL's routines with `BEGIN ATOMIC`.
#[derive(Default)]
struct Body {
    has_begun: bool,
    depth: usize,
}

impl Body {
    fn is_closed(&self) -> bool {
        !self.has_begun || self.depth == 0
    }

    fn pass(&mut self, token: &Token, before: &[Token], dialect: Dialect) {
        if token.kind != Kind::Word {
            return;
        }
        let is_create =
            before.first().is_some_and(|first| first.kind == Kind::Word && first.text == "create");
        let previous =
            before.last().filter(|token| token.kind == Kind::Word).map(|token| token.text.as_str());
        match (token.text.as_str(), dialect) {
            ("begin", Dialect::Sqlite) if is_create => self.open(),
            ("atomic", Dialect::Postgres) if is_create && previous == Some("begin") => self.open(),
            ("case", _) if self.has_begun => self.depth += 1,
            ("end", _) if self.has_begun => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    fn open(&mut self) {
        self.has_begun = true;
        self.depth += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(dialect: Dialect, text: &str, expected: &[(u32, &str)]) {
        let statements = split(text, dialect).unwrap();
        let found: Vec<(u32, String)> =
            statements.iter().map(|statement| (statement.line(), statement.summary())).collect();
        let expected: Vec<(u32, String)> =
            expected.iter().map(|(line, text)| (*line, (*text).to_owned())).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn semicolons_in_constants_comments_and_bodies_end_nothing() {
        check(
            Dialect::Postgres,
            "SELECT ';', \"a;b\"; -- x;\n/* ; /* ; */ */ SELECT 2",
            &[(1, "select '…', \"a;b\""), (2, "select 2")],
        );
        check(
            Dialect::Postgres,
            "DO $x$ BEGIN; $$ ; END $x$;\nSELECT $1;SELECT E'a\\';b';",
            &[(1, "do '…'"), (2, "select $1"), (2, "select '…'")],
        );
        let function =
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN a THEN 1 END; SELECT 2; END";
        check(
            Dialect::Postgres,
            &format!("{function};\nSELECT 1;"),
            &[
                (
                    1,
                    "create function f() returns int begin atomic select case when a then 1 end; select 2; end",
                ),
                (2, "select 1"),
            ],
        );
        let trigger = "CREATE TRIGGER t AFTER INSERT ON a BEGIN UPDATE a SET b=1; DELETE FROM c; END";
        check(
            Dialect::Sqlite,
            &format!("{trigger};\nBEGIN;SELECT [a;b], `;`;"),
            &[(1, &trigger.to_lowercase()), (2, "begin"), (2, "select \"a;b\", \";\"")],
        );
    }

    #[test]
    fn rows_of_copy_and_commands_of_psql_are_no_sql() {
        check(
            Dialect::Postgres,
            "COPY t (a) FROM stdin;\nit's;\n\\.\n\\set x 'y\nSELECT 1;",
            &[(1, "copy t (a) from stdin"), (4, "\\set x 'y"), (5, "select 1")],
        );
    }

    #[test]
    fn a_script_that_ends_too_early_names_the_line() {
        let check = |text: &str, line, what| {
            assert_eq!(split(text, Dialect::Postgres).unwrap_err(), Unreadable { line, what });
        };
        check("SELECT 1;\n'abc", 2, "a text constant");
        check("/* a /* b */", 1, "a comment");
        check("\n\n$x$ abc $y$", 3, "a text constant");
    }

    #[test]
    fn comments_belong_to_the_statement_after_them() {
        let statements = split("-- a\nSELECT 1; -- b\n\nSELECT 2;\n-- c", Dialect::Postgres).unwrap();
        let texts: Vec<Vec<&str>> = statements
            .iter()
            .map(|statement| statement.comments.iter().map(|comment| comment.text.as_str()).collect())
            .collect();
        assert_eq!(texts, [vec!["a"], vec!["b", "c"]]);
    }
}
