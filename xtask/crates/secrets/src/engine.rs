//! From bytes to hits: keywords first, then the pattern of the rule, then its judges. It does not know where bytes come from.
//! Invariant: time is linear in the bytes; every look at the surroundings of a keyword is bounded.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickKind, MatchKind};
use finding::Severity;
use regex::bytes::Captures;

use crate::decode;
use crate::judge::{self, Subject};
use crate::name::Name;
use crate::rule::{Class, Judge, Reach, Spec, specs};

/// The longest secret that is looked at from its keyword on: an RSA key of 16 kbit in PEM form has 13 KB.
const LONGEST: usize = 16 * 1024;
/// How much of a line is looked at on either side of a keyword. Minified files have lines of megabytes.
const LINE_BEFORE: usize = 256;
const LINE_AFTER: usize = 1024;
/// How far back the beginning of a name is looked for.
const LONGEST_NAME: usize = 64;
/// Files to which a rule applies as a whole are small.
const WHOLE_FILE: usize = 256 * 1024;
/// How far into a file a NUL byte makes it a binary one.
const BINARY_WITHIN: usize = 8 * 1024;

/// A secret, found.
pub(crate) struct Hit {
    pub(crate) rule: &'static Spec,
    /// Of the secret; of the encoded text where it was decoded.
    pub(crate) range: Range<usize>,
    pub(crate) secret: Vec<u8>,
    pub(crate) severity: Severity,
    /// Stands in base64 or hex.
    pub(crate) encoded: bool,
    /// What lowers the severity, for the message.
    pub(crate) remark: Option<&'static str>,
}

/// Finds the keywords of all rules at once.
struct Keywords {
    automaton: AhoCorasick,
    /// The rules of each keyword.
    rules: Vec<Vec<usize>>,
}

static KEYWORDS: LazyLock<Keywords> = LazyLock::new(|| {
    let words: BTreeSet<String> =
        specs().iter().flat_map(|spec| &spec.keywords).map(|word| word.to_ascii_lowercase()).collect();
    let of = |word: &String| {
        let has = |spec: &Spec| spec.keywords.iter().any(|other| other.eq_ignore_ascii_case(word));
        specs().iter().enumerate().filter(|(_, spec)| has(spec)).map(|(index, _)| index).collect()
    };
    let automaton = AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::Standard)
        .kind(Some(AhoCorasickKind::DFA))
        .build(&words);
    Keywords {
        automaton: automaton.expect("keywords are few and short"),
        rules: words.iter().map(of).collect(),
    }
});

/// All secrets in `bytes`, in order, the strongest rule where several apply.
pub(crate) fn search(name: &Name<'_>, bytes: &[u8]) -> Vec<Hit> {
    let is_binary = memchr::memchr(0, &bytes[..bytes.len().min(BINARY_WITHIN)]).is_some();
    let mut search = Search { name, bytes, is_binary, encoded: false, hits: Vec::new(), seen: None };
    search.keywords();
    search.whole_file();
    let mut hits = std::mem::take(&mut search.hits);
    for (range, decoded) in decode::texts(bytes) {
        let mut inner =
            Search { name, bytes: &decoded, is_binary: true, encoded: true, hits: Vec::new(), seen: None };
        inner.keywords();
        hits.extend(inner.hits.into_iter().map(|hit| Hit { range: range.clone(), encoded: true, ..hit }));
    }
    strongest(hits)
}

struct Search<'a> {
    name: &'a Name<'a>,
    bytes: &'a [u8],
    is_binary: bool,
    encoded: bool,
    hits: Vec<Hit>,
    /// The rule and the line that were tried last: a line with a keyword ten times is searched once.
    seen: Option<(usize, Range<usize>)>,
}

impl Search<'_> {
    fn keywords(&mut self) {
        let keywords = &*KEYWORDS;
        let bytes = self.bytes;
        for found in keywords.automaton.find_overlapping_iter(bytes) {
            for index in &keywords.rules[found.pattern().as_usize()] {
                self.try_rule(*index, found.start());
            }
        }
    }

    /// Rules that look at files of certain names as a whole.
    fn whole_file(&mut self) {
        if self.is_binary || self.bytes.len() > WHOLE_FILE {
            return;
        }
        for spec in specs().iter().filter(|spec| spec.reach == Reach::File && spec.wants(self.name.file)) {
            for captures in spec.regex().captures_iter(self.bytes) {
                self.judge(spec, 0, &captures);
            }
        }
    }

    fn try_rule(&mut self, index: usize, at: usize) {
        let spec = &specs()[index];
        if !self.applies(spec) {
            return;
        }
        let bytes = self.bytes;
        match spec.reach {
            Reach::Keyword => {
                if spec.class == Class::Assignment || is_boundary(bytes, at) {
                    let window = &bytes[at..bytes.len().min(at + LONGEST)];
                    if let Some(captures) = spec.regex().captures(window) {
                        self.judge(spec, at, &captures);
                    }
                }
            }
            Reach::Line => {
                let line = line_around(bytes, at);
                if self.seen.as_ref().is_some_and(|seen| *seen == (index, line.clone())) {
                    return;
                }
                for captures in spec.regex().captures_iter(&bytes[line.clone()]) {
                    self.judge(spec, line.start, &captures);
                }
                self.seen = Some((index, line));
            }
            Reach::File => {}
        }
    }

    fn applies(&self, spec: &Spec) -> bool {
        let here = match spec.class {
            Class::Provider => true,
            // A token in base64 is one in base64; keys are kept so as well, in variables and in Kubernetes secrets.
            Class::Format => !self.encoded || spec.judges.contains(&Judge::Pem),
            Class::Assignment => !self.is_binary && self.name.may_assign(),
        };
        here && spec.wants(self.name.file)
    }

    fn judge(&mut self, spec: &'static Spec, base: usize, captures: &Captures<'_>) {
        let Some(secret) = captures.name("secret").or_else(|| captures.get(0)) else { return };
        let range = base + secret.start()..base + secret.end();
        let subject = Subject {
            spec,
            name: self.name,
            secret: secret.as_bytes(),
            key: captures.name("key").map_or(&[][..], |key| key.as_bytes()),
            key_prefix: captures
                .name("key")
                .map_or(&[][..], |key| name_before(self.bytes, base + key.start())),
            host: captures.name("host").map_or(&[][..], |host| host.as_bytes()),
            before: &self.bytes[..range.start],
        };
        let Some(verdict) = judge::judge(&subject) else { return };
        self.hits.push(Hit {
            rule: spec,
            range,
            secret: secret.as_bytes().to_vec(),
            severity: verdict.severity,
            encoded: self.encoded,
            remark: verdict.remark,
        });
    }
}

/// Whether a token may begin at `at`: the byte before belongs to no word, or ends an escape such as `\n` or `%3D`.
fn is_boundary(bytes: &[u8], at: usize) -> bool {
    let before = &bytes[at.saturating_sub(3)..at];
    match before {
        _ if !bytes[at].is_ascii_alphanumeric() => true,
        [.., last] if !last.is_ascii_alphanumeric() => true,
        [.., b'\\', b'n' | b'r' | b't'] => true,
        [b'%', high, low] => high.is_ascii_hexdigit() && low.is_ascii_hexdigit(),
        before => before.is_empty(),
    }
}

/// The part of a name that stands before `at`.
fn name_before(bytes: &[u8], at: usize) -> &[u8] {
    let window = &bytes[at.saturating_sub(LONGEST_NAME)..at];
    let is_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"_-.".contains(byte);
    let start = window.iter().rposition(|byte| !is_name(byte)).map_or(0, |foreign| foreign + 1);
    &window[start..]
}

fn line_around(bytes: &[u8], at: usize) -> Range<usize> {
    let from = at.saturating_sub(LINE_BEFORE);
    let to = bytes.len().min(at + LINE_AFTER);
    let start = memchr::memrchr(b'\n', &bytes[from..at]).map_or(from, |newline| from + newline + 1);
    let end = memchr::memchr(b'\n', &bytes[at..to]).map_or(to, |newline| at + newline);
    start..end
}

/// One hit for each place: of two that overlap, the one of the stronger class, then of the earlier rule.
fn strongest(mut hits: Vec<Hit>) -> Vec<Hit> {
    hits.sort_by_key(|hit| (hit.rule.class, hit.encoded, hit.rule.order, hit.range.start, hit.range.end));
    // Kept ranges do not overlap, so the neighbours in this map are all that must be looked at.
    let mut taken = std::collections::BTreeMap::<usize, usize>::new();
    hits.retain(|hit| {
        let overlaps =
            taken.range(..hit.range.end).next_back().is_some_and(|(_, end)| *end > hit.range.start);
        if !overlaps {
            taken.insert(hit.range.start, hit.range.end);
        }
        !overlaps
    });
    hits.sort_by_key(|hit| hit.range.start);
    hits
}
