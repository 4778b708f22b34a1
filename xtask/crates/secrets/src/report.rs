//! From hits to findings: place, message and key, none of which tells the secret.

use finding::{Check, Finding, Place, Rule, Severity};
use stdx::Digest;

use crate::allow::{Allowed, allowed};
use crate::engine::{self, Hit};
use crate::name::Name;
use crate::rule::{Class, Judge};

/// Digits of the digest in a finding's key. Tokens cannot be guessed from a digest, so that theirs may tell them apart for good;
/// passwords of people can, so that theirs leave millions of candidates for every list that somebody tries.
const TOKEN_DIGITS: usize = 12;
const PASSWORD_DIGITS: usize = 6;

/// The findings in `bytes`; `place` makes one of line and column, both from 1.
pub(crate) fn findings(path: &str, bytes: &[u8], place: impl Fn(u32, u32) -> Place) -> Vec<Finding> {
    let hits = engine::search(&Name::new(path), bytes);
    let mut lines = Lines { bytes, line: 1, start: 0, at: 0 };
    let mut found = Vec::new();
    for hit in hits {
        let allowed = allowed(bytes, hit.range.start, &hit.rule.id);
        let (line, column) = lines.of(hit.range.start);
        if allowed != Allowed::Yes {
            found.push(finding(&hit, place(line, column), allowed == Allowed::WithoutReason));
        }
    }
    found
}

/// What says that a file was not looked at as a whole.
pub(crate) fn partly_scanned() -> Rule {
    Rule {
        id: "secret/partly-scanned".into(),
        check: Check::Secrets,
        title: "not everything was searched".into(),
        why: "What was not looked at may hold a secret.".into(),
        fix: "Keep large data out of the repository; clone with all of the history.".into(),
        url: None,
    }
}

/// The note that only the first `scanned` bytes of `size` were looked at.
pub(crate) fn partly_scanned_note(place: Place, scanned: u64, size: u64) -> Finding {
    Finding {
        severity: Severity::Note,
        rule: partly_scanned(),
        place,
        message: format!("only the first {scanned} of {size} bytes were searched for secrets"),
        key: "size".into(),
    }
}

/// The note that a clone lacks a part of the history.
pub(crate) fn partial_history_note(message: String) -> Finding {
    let place = Place::file(".git");
    Finding { severity: Severity::Note, rule: partly_scanned(), place, message, key: "history".into() }
}

fn finding(hit: &Hit, place: Place, lacks_reason: bool) -> Finding {
    let mut message = format!("{}: {}", hit.rule.title, hint(hit));
    if hit.encoded {
        message.push_str(", behind base64 or hex");
    }
    if let Some(remark) = hit.remark {
        message.push_str("; ");
        message.push_str(remark);
    }
    if lacks_reason {
        message.push_str("; the comment that would allow it gives no reason");
    }
    Finding { severity: hit.severity, rule: hit.rule.to_rule(), place, message, key: key(hit) }
}

fn key(hit: &Hit) -> String {
    let is_guessable = hit.rule.class == Class::Assignment
        || hit.rule.judges.contains(&Judge::Literal)
        || hit.rule.judges.contains(&Judge::BasicAuth);
    let digits = if is_guessable { PASSWORD_DIGITS } else { TOKEN_DIGITS };
    Digest::of(&hit.secret).hex()[..digits].to_owned()
}

/// The prefix that all tokens of the kind share, and the length.
fn hint(hit: &Hit) -> String {
    let length = hit.secret.len();
    let is_prefix = |word: &&String| {
        let start = hit.secret.get(..word.len()).unwrap_or_default();
        hit.rule.class == Class::Provider
            && word.len() * 2 < length
            && start.eq_ignore_ascii_case(word.as_bytes())
    };
    match hit.rule.keywords.iter().find(is_prefix) {
        Some(prefix) => format!("`{prefix}…`, {length} characters"),
        None => format!("{length} characters"),
    }
}

/// Counts lines and columns for places that come in order.
struct Lines<'a> {
    bytes: &'a [u8],
    line: u32,
    start: usize,
    at: usize,
}

impl Lines<'_> {
    fn of(&mut self, at: usize) -> (u32, u32) {
        for newline in memchr::memchr_iter(b'\n', &self.bytes[self.at..at]) {
            self.line = self.line.saturating_add(1);
            self.start = self.at + newline + 1;
        }
        self.at = at;
        let before = &self.bytes[self.start..at];
        let characters = before.iter().filter(|byte| (**byte as i8) >= -0x40).count();
        (self.line, u32::try_from(characters + 1).unwrap_or(u32::MAX))
    }
}
