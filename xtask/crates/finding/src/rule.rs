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
    /// The waivers themselves: expired, or waiving nothing.
    Waivers,
}

impl Check {
    /// All of them, in the order in which reports show them.
    pub const ALL: [Check; 7] = [
        Check::Advisories,
        Check::Secrets,
        Check::Licences,
        Check::Images,
        Check::Configuration,
        Check::Workflows,
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
            Check::Waivers => "waivers",
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
}
