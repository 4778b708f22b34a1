//! Rules: what is checked, why it matters and how to mend it.

use serde::{Deserialize, Serialize};

/// What is checked.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Unique and stable: `<check>/<name>` in lower case with dashes, or the id of an advisory (`RUSTSEC-2021-0003`).
    pub id: String,
    /// The part of a scan that it belongs to.
    pub check: Check,
    /// A few words.
    pub title: String,
    /// Why it matters, in one or two sentences.
    pub why: String,
    /// How to mend it, in one or two sentences.
    pub fix: String,
    /// Where to read more.
    pub url: Option<String>,
}

/// The parts of a scan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Check {
    /// Known vulnerabilities of packages, and packages that nobody keeps up.
    Advisories,
    /// Keys, tokens and passwords where they do not belong.
    Secrets,
    /// Licences outside the policy.
    Licences,
    /// What is in the images that were built.
    Images,
    /// Service and environment files.
    Configuration,
    /// GitHub Actions workflows.
    Workflows,
    /// Migrations of databases.
    Migrations,
    /// The waivers themselves: expired, or waiving nothing.
    Waivers,
}

impl Check {
    /// All of them, in the order in which reports show them.
    pub const ALL: [Check; 8] = [
        Check::Advisories,
        Check::Secrets,
        Check::Licences,
        Check::Images,
        Check::Configuration,
        Check::Workflows,
        Check::Migrations,
        Check::Waivers,
    ];

    /// Its name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Check::Advisories => "advisories",
            Check::Secrets => "secrets",
            Check::Licences => "licences",
            Check::Images => "images",
            Check::Configuration => "configuration",
            Check::Workflows => "workflows",
            Check::Migrations => "migrations",
            Check::Waivers => "waivers",
        }
    }

    /// The check with this name.
    pub fn parse(name: &str) -> Option<Check> {
        Check::ALL.into_iter().find(|check| check.name() == name)
    }

    /// The check that a rule belongs to, by the rule's id alone: what stands before the `/` is the check's name or the
    /// beginning of it (`secret/private-key`), and what has no `/` is the id of an advisory.
    pub fn of_rule(id: &str) -> Option<Check> {
        match id.split_once('/') {
            None => Some(Check::Advisories),
            Some((word, _)) if word.len() >= 3 => {
                Check::ALL.into_iter().find(|check| check.name().starts_with(word))
            }
            Some(_) => None,
        }
    }
}

/// How bad a finding is. Ordered: `Note` is least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Good to know; never fails anything.
    Note,
    /// Should be mended some day.
    Low,
    /// Should be mended soon.
    Medium,
    /// Must be mended before the next release.
    High,
    /// Must be mended now.
    Critical,
}

impl Severity {
    /// Its name in files and reports.
    pub fn name(self) -> &'static str {
        match self {
            Severity::Note => "note",
            Severity::Low => "low",
            Severity::Medium => "medium",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// All of them, least first.
    pub const ALL: [Severity; 5] =
        [Severity::Note, Severity::Low, Severity::Medium, Severity::High, Severity::Critical];

    /// One step less, but never less than `Low`: something is still wrong. A note stays a note.
    pub fn one_lower(self) -> Severity {
        match self {
            Severity::Note => Severity::Note,
            Severity::Low | Severity::Medium => Severity::Low,
            Severity::High => Severity::Medium,
            Severity::Critical => Severity::High,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rules_id_names_its_check() {
        assert_eq!(Check::of_rule("secret/private-key"), Some(Check::Secrets));
        assert_eq!(Check::of_rule("licences/not-allowed"), Some(Check::Licences));
        assert_eq!(Check::of_rule("RUSTSEC-2021-0003"), Some(Check::Advisories));
        assert_eq!((Check::of_rule("x/y"), Check::of_rule("/y")), (None, None));
    }
}
