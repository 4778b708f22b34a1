//! A place in a statement's tokens, and how one moves on from there. Every step forward is bounded by the tokens.

use super::lex::{Kind, Token};

/// A place in tokens.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    tokens: &'a [Token],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(tokens: &'a [Token]) -> Cursor<'a> {
        Cursor { tokens, at: 0 }
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at >= self.tokens.len()
    }

    pub(super) fn peek(&self) -> Option<&'a Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn next(&mut self) -> Option<&'a Token> {
        let token = self.tokens.get(self.at)?;
        self.at += 1;
        Some(token)
    }

    /// Passes these words, all of them or none.
    pub(super) fn eat(&mut self, words: &[&str]) -> bool {
        let is_there = words
            .iter()
            .enumerate()
            .all(|(offset, word)| self.tokens.get(self.at + offset).is_some_and(|token| token.is_word(word)));
        if is_there {
            self.at += words.len();
        }
        is_there
    }

    /// Passes the first of the alternatives that is there.
    pub(super) fn eat_any(&mut self, alternatives: &[&[&str]]) -> bool {
        alternatives.iter().any(|words| self.eat(words))
    }

    pub(super) fn eat_symbol(&mut self, symbol: &str) -> bool {
        let is_there = self.peek().is_some_and(|token| token.is_symbol(symbol));
        self.at += usize::from(is_there);
        is_there
    }

    /// Whether any word that is left, at any depth, is this one.
    pub(super) fn has_word(&self, word: &str) -> bool {
        self.tokens[self.at.min(self.tokens.len())..].iter().any(|token| token.is_word(word))
    }

    /// Whether these words follow each other anywhere in what is left.
    pub(super) fn has(&self, words: &[&str]) -> bool {
        let rest = &self.tokens[self.at.min(self.tokens.len())..];
        rest.windows(words.len()).any(|part| part.iter().zip(words).all(|(token, word)| token.is_word(word)))
    }

    /// An identifier, with or without quotes.
    pub(super) fn identifier(&mut self) -> Option<String> {
        let token = self.peek().filter(|token| token.is_identifier())?;
        self.at += 1;
        Some(token.text.clone())
    }

    /// A name with its schema; that of the default schema stands without it.
    pub(super) fn name(&mut self) -> Option<String> {
        let mut parts = vec![self.identifier()?];
        while self.eat_symbol(".") {
            parts.push(self.identifier()?);
        }
        if parts.len() > 1 && ["public", "main"].contains(&parts[0].as_str()) {
            parts.remove(0);
        }
        Some(parts.join("."))
    }

    /// Names between commas.
    pub(super) fn names(&mut self) -> Option<Vec<String>> {
        let mut names = vec![self.name()?];
        while self.eat_symbol(",") {
            names.push(self.name()?);
        }
        Some(names)
    }

    /// What stands in the parentheses that begin here, without them.
    pub(super) fn group(&mut self) -> Option<Cursor<'a>> {
        if !self.peek()?.is_symbol("(") {
            return None;
        }
        let start = self.at + 1;
        let mut depth = 0_usize;
        while let Some(token) = self.next() {
            if token.is_symbol("(") {
                depth += 1;
            } else if token.is_symbol(")") {
                depth -= 1;
                if depth == 0 {
                    return Some(Cursor::new(&self.tokens[start..self.at - 1]));
                }
            }
        }
        None
    }

    /// What is left, cut at commas that stand in no parentheses.
    pub(super) fn list(&mut self) -> Vec<Cursor<'a>> {
        let rest = &self.tokens[self.at.min(self.tokens.len())..];
        self.at = self.tokens.len();
        let mut depth = 0_i64;
        let is_comma = |token: &Token| {
            depth += i64::from(token.is_symbol("(") || token.is_symbol("["));
            depth -= i64::from(token.is_symbol(")") || token.is_symbol("]"));
            depth == 0 && token.is_symbol(",")
        };
        rest.split(is_comma).map(Cursor::new).filter(|part| !part.is_at_end()).collect()
    }

    /// The text of what is left, one space between tokens.
    pub(super) fn text(&self) -> String {
        text(&self.tokens[self.at.min(self.tokens.len())..])
    }

    /// The text of all tokens from `start` of this cursor's clone to here.
    pub(super) fn since(&self, start: &Cursor<'a>) -> String {
        text(&self.tokens[start.at.min(self.at)..self.at])
    }
}

fn text(tokens: &[Token]) -> String {
    let token = |token: &Token| match token.kind {
        Kind::Text => format!("'{}'", token.text.replace('\'', "''")),
        Kind::Quoted if !is_plain(&token.text) => format!("\"{}\"", token.text),
        _ => token.text.clone(),
    };
    tokens.iter().map(token).collect::<Vec<_>>().join(" ")
}

/// Whether an identifier means the same with and without quotes, reserved words apart.
fn is_plain(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

impl Token {
    pub(super) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Word && self.text == word
    }

    pub(super) fn is_symbol(&self, symbol: &str) -> bool {
        self.kind == Kind::Symbol && self.text == symbol
    }

    pub(super) fn is_identifier(&self) -> bool {
        matches!(self.kind, Kind::Word | Kind::Quoted)
    }
}
