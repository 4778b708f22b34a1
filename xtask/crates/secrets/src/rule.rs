//! The rules as data: what the embedded files say, parsed and checked once. It does not search anything. Invariant: examples in
//! the files are broken by a marker, so that the files themselves hold nothing that looks like a secret.

use std::sync::{LazyLock, OnceLock};

use anyhow::{Context, Result, ensure};
use finding::{Check, Rule, Severity};
use regex::bytes::{Regex, RegexBuilder};
use serde::Deserialize;

/// What stands in the middle of examples and is taken out when they are used.
#[cfg(test)]
pub(crate) const MARKER: &str = "<>";

const FILES: [&str; 4] = [
    include_str!("rules/code.json"),
    include_str!("rules/cloud.json"),
    include_str!("rules/services.json"),
    include_str!("rules/formats.json"),
];

/// One kind of secret.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) struct Spec {
    /// Without the `secret/` in front.
    pub(crate) id: String,
    pub(crate) title: String,
    pub(crate) severity: Severity,
    pub(crate) class: Class,
    /// Any of them must be there, in any case, before the pattern is tried. Empty for rules about whole files.
    #[serde(default)]
    pub(crate) keywords: Vec<String>,
    /// Its group `secret`, or else all that it matches, is the secret.
    pub(crate) pattern: String,
    #[serde(default)]
    pub(crate) reach: Reach,
    /// Names of files to which the rule is limited: a whole name, or an ending that begins with `*`.
    #[serde(default)]
    pub(crate) files: Vec<String>,
    /// In bits a character.
    #[serde(default)]
    pub(crate) entropy: f64,
    #[serde(default)]
    pub(crate) judges: Vec<Judge>,
    /// Where to revoke it, as a phrase that follows "revoke it".
    #[serde(default)]
    pub(crate) revoke: Option<String>,
    #[serde(default)]
    pub(crate) url: Option<String>,
    /// The file name under which the examples are tried.
    #[serde(default)]
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests look at examples"))]
    pub(crate) example_path: Option<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests look at examples"))]
    pub(crate) matches: Vec<String>,
    #[cfg_attr(not(test), expect(dead_code, reason = "only tests look at examples"))]
    pub(crate) rejects: Vec<String>,
    /// Where it stands among all: of two rules that are equally strong, the earlier one is reported.
    #[serde(skip)]
    pub(crate) order: usize,
    #[serde(skip)]
    regex: OnceLock<Regex>,
}

/// How strong the evidence of a rule is by itself. Where rules overlap, the stronger one is reported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Class {
    /// A provider's own form. Reported wherever it stands, in binary files and decoded text too.
    Provider,
    /// A format that holds a key (PEM, a web token). In test data it is worth a remark only.
    Format,
    /// A name that says "password" beside a value that looks like one. Not searched in test data and documents.
    Assignment,
}

/// Where the pattern is tried once a keyword was found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Reach {
    /// It must begin where the keyword begins.
    #[default]
    Keyword,
    /// Anywhere on the line of the keyword.
    Line,
    /// Anywhere in the file; for small files of one purpose.
    File,
}

/// What else must hold for a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Judge {
    /// The last six characters are the CRC-32 of what stands between them and the last `_`, in base 62.
    Crc32Base62,
    /// The last eight characters are the CRC-32 of what stands before the last `_`, in hex.
    Crc32Hex,
    /// Header and claims of a JSON web token that is signed.
    Jwt,
    /// A PEM block with a real body.
    Pem,
    /// The last six characters are the checksum of Bech32 (BIP 173).
    Bech32,
    /// Base64 of `user:password`.
    BasicAuth,
    /// A URL whose password is worth something on a host that is not this machine.
    Url,
    /// Base64 of digits up to the first dot.
    Snowflake,
    /// Random text of a machine, not words.
    Random,
    /// A value of an assignment that looks like a password or a token.
    Assigned,
    /// Not looked up elsewhere. The weakest password counts: a program that logs in with it has stored it.
    Stored,
    /// In a file where values stand without quotes.
    Bare,
    /// Not one of the words that stand in for a value.
    Literal,
}

impl Spec {
    /// The pattern, compiled when it is first needed.
    pub(crate) fn regex(&self) -> &Regex {
        self.regex.get_or_init(|| self.compile().expect("a test compiles every embedded pattern"))
    }

    fn compile(&self) -> Result<Regex, regex::Error> {
        let pattern = match self.reach {
            Reach::Keyword => format!(r"\A(?:{})", self.pattern),
            Reach::Line | Reach::File => self.pattern.clone(),
        };
        RegexBuilder::new(&pattern).unicode(false).build()
    }

    /// What a finding says of the rule.
    pub(crate) fn to_rule(&self) -> Rule {
        let revoke = self.revoke.as_deref().unwrap_or("where it was issued");
        Rule {
            id: format!("secret/{}", self.id),
            check: Check::Secrets,
            title: self.title.clone(),
            why: "Whoever can read the file or its history has it, and whoever has it can use it.".into(),
            fix: format!(
                "Revoke it {revoke} first: it counts as known. Then keep the new one outside the repository, and remove the old one from the history if that is worth the trouble."
            ),
            url: self.url.clone(),
        }
    }

    /// Whether the rule looks at a file of this name.
    pub(crate) fn wants(&self, name: &str) -> bool {
        let fits = |pattern: &String| match pattern.strip_prefix('*') {
            Some(ending) => name.ends_with(ending),
            None => name == pattern,
        };
        self.files.is_empty() || self.files.iter().any(fits)
    }
}

/// All rules, in the order of the files.
pub(crate) fn specs() -> &'static [Spec] {
    static SPECS: LazyLock<Vec<Spec>> =
        LazyLock::new(|| parse(&FILES).expect("a test parses the embedded rules"));
    &SPECS
}

fn parse(files: &[&str]) -> Result<Vec<Spec>> {
    let mut all: Vec<Spec> = Vec::new();
    for file in files {
        let specs: Vec<Spec> = serde_json::from_str(file).context("the rules are not what they must be")?;
        all.extend(specs);
    }
    for (order, spec) in all.iter_mut().enumerate() {
        spec.order = order;
        ensure!(
            !spec.keywords.is_empty() || !spec.files.is_empty(),
            "the rule {} has neither keywords nor files",
            spec.id
        );
    }
    Ok(all)
}
