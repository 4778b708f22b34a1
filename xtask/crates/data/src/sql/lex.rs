//! Text to tokens, with the quoting rules of each dialect. It knows no grammar. Invariant: it ends on any text, without recursion,
//! and every token lies inside the text.

use std::fmt;

use super::Dialect;

/// What a token is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or an identifier without quotes; its text is in lower case.
    Word,
    /// An identifier in quotes; its text is without them.
    Quoted,
    /// A text constant; its text is without quotes.
    Text,
    /// A number, or a parameter such as `$1`.
    Number,
    /// Anything else, one character each but for `::`.
    Symbol,
    /// A comment, without its marks.
    Comment,
}

/// A piece of a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Token {
    /// What it is.
    pub kind: Kind,
    /// Its text; see [`Kind`].
    pub text: String,
    /// Line of its first character, from 1.
    pub line: u32,
    /// Byte at which it begins.
    pub start: usize,
    /// Byte after its last one.
    pub end: usize,
}

/// A script that ends inside a constant or a comment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable {
    /// Line on which that begins, from 1.
    pub line: u32,
    /// What does not end.
    pub what: &'static str,
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} begins on line {} and does not end", self.what, self.line)
    }
}

impl std::error::Error for Unreadable {}

/// Walks over a text.
pub(super) struct Lexer<'a> {
    text: &'a str,
    dialect: Dialect,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str, dialect: Dialect) -> Lexer<'a> {
        // Some editors begin files with a byte order mark.
        let at = if text.starts_with('\u{feff}') { '\u{feff}'.len_utf8() } else { 0 };
        Lexer { text, dialect, at, line: 1 }
    }

    /// The next token; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Token>, Unreadable> {
        self.take_while(char::is_whitespace);
        let (start, line) = (self.at, self.line);
        let Some(first) = self.peek() else { return Ok(None) };
        let (kind, text) = self.token(first)?;
        Ok(Some(Token { kind, text, line, start, end: self.at }))
    }

    /// Skips the lines of data that follow a `COPY … FROM stdin`, with the line that ends them.
    pub(super) fn skip_copied_rows(&mut self) {
        while self.at < self.text.len() {
            let rest = &self.text[self.at..];
            let end = rest.find('\n').map_or(rest.len(), |end| end + 1);
            let is_last = rest[..end].trim_end() == "\\.";
            self.advance(end);
            if is_last {
                return;
            }
        }
    }

    /// Skips to the end of the line and gives what was skipped.
    pub(super) fn rest_of_line(&mut self) -> &'a str {
        self.take_while(|c| c != '\n')
    }

    fn token(&mut self, first: char) -> Result<(Kind, String), Unreadable> {
        let rest = &self.text[self.at..];
        if rest.starts_with("--") {
            let text = self.rest_of_line();
            return Ok((Kind::Comment, text.trim_start_matches('-').trim().to_owned()));
        }
        if rest.starts_with("/*") {
            return Ok((Kind::Comment, self.block_comment()?.to_owned()));
        }
        match (first, self.dialect) {
            ('\'', _) => Ok((Kind::Text, self.quoted('\'', false, "a text constant")?)),
            ('"', _) => Ok((Kind::Quoted, self.quoted('"', false, "an identifier")?)),
            ('`', Dialect::Sqlite) => Ok((Kind::Quoted, self.quoted('`', false, "an identifier")?)),
            ('[', Dialect::Sqlite) => Ok((Kind::Quoted, self.quoted(']', false, "an identifier")?)),
            ('$', Dialect::Postgres) => self.dollar(),
            _ if first.is_ascii_digit() => Ok((
                Kind::Number,
                self.take_while(|c| c.is_ascii_alphanumeric() || "_.".contains(c)).to_owned(),
            )),
            _ if is_word(first) => self.word(),
            _ if rest.starts_with("::") => Ok((Kind::Symbol, self.advance(2).to_owned())),
            _ => Ok((Kind::Symbol, self.advance(first.len_utf8()).to_owned())),
        }
    }

    /// A word, or the constant that it is the prefix of.
    fn word(&mut self) -> Result<(Kind, String), Unreadable> {
        let word = self.take_while(|c| is_word(c) || c.is_ascii_digit() || c == '$').to_lowercase();
        let prefixes = ["e", "b", "x", "n"];
        if self.peek() == Some('\'') && prefixes.contains(&word.as_str()) {
            let has_escapes = word == "e" && self.dialect == Dialect::Postgres;
            return Ok((Kind::Text, self.quoted('\'', has_escapes, "a text constant")?));
        }
        Ok((Kind::Word, word))
    }

    /// A constant between dollar signs, or a parameter.
    fn dollar(&mut self) -> Result<(Kind, String), Unreadable> {
        let rest = &self.text[self.at..];
        let tag = rest[1..].find('$').map(|end| &rest[..end + 2]);
        let is_tag = |tag: &&str| {
            let inner = &tag[1..tag.len() - 1];
            !inner.starts_with(|c: char| c.is_ascii_digit())
                && inner.chars().all(|c| is_word(c) || c.is_ascii_digit())
        };
        let Some(tag) = tag.filter(is_tag) else {
            self.advance(1);
            let digits = self.take_while(|c| c.is_ascii_digit());
            return Ok((Kind::Number, format!("${digits}")));
        };
        let line = self.line;
        let body = &rest[tag.len()..];
        let end = body.find(tag).ok_or(Unreadable { line, what: "a text constant" })?;
        self.advance(tag.len() * 2 + end);
        Ok((Kind::Text, body[..end].to_owned()))
    }

    /// What stands between quotes; a doubled quote stands for one.
    fn quoted(&mut self, quote: char, has_escapes: bool, what: &'static str) -> Result<String, Unreadable> {
        let line = self.line;
        self.advance(1);
        let mut text = String::new();
        loop {
            let c = self.peek().ok_or(Unreadable { line, what })?;
            self.advance(c.len_utf8());
            if c == '\\' && has_escapes {
                let escaped = self.peek().ok_or(Unreadable { line, what })?;
                self.advance(escaped.len_utf8());
                text.extend([c, escaped]);
            } else if c != quote {
                text.push(c);
            } else if self.peek() == Some(quote) {
                self.advance(quote.len_utf8());
                text.push(quote);
            } else {
                return Ok(text);
            }
        }
    }

    fn block_comment(&mut self) -> Result<&'a str, Unreadable> {
        let (start, line) = (self.at, self.line);
        let mut depth = 0_usize;
        loop {
            let rest = &self.text[self.at..];
            if rest.starts_with("*/") {
                self.advance(2);
                depth -= 1;
                if depth == 0 {
                    return Ok(self.text[start + 2..self.at - 2].trim());
                }
            } else if rest.starts_with("/*") && (depth == 0 || self.dialect == Dialect::Postgres) {
                self.advance(2);
                depth += 1;
            } else {
                let c = self.peek().ok_or(Unreadable { line, what: "a comment" })?;
                self.advance(c.len_utf8());
            }
        }
    }

    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn take_while(&mut self, mut wanted: impl FnMut(char) -> bool) -> &'a str {
        let rest = &self.text[self.at..];
        let end = rest.find(|c| !wanted(c)).unwrap_or(rest.len());
        self.advance(end)
    }

    fn advance(&mut self, bytes: usize) -> &'a str {
        let passed = &self.text[self.at..self.at + bytes];
        self.line += passed.bytes().filter(|byte| *byte == b'\n').count() as u32;
        self.at += bytes;
        passed
    }
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}
