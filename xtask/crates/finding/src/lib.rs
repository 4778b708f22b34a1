//! What a scan reports: one form for findings of every kind, so that waivers, policies and outputs are written once. It does
//! not know how anything is found. Invariant: a finding never carries a secret's text, and its fingerprint stays the same
//! when lines move.

mod admission;
mod glob;
mod place;
mod policy;
pub mod record;
mod rule;
mod sarif;
mod waiver;

use serde::{Deserialize, Serialize};
use stdx::Digest;

pub use admission::{Candidate, Refusal, Requirement, admit};
pub use glob::glob_matches;
pub use place::Place;
pub use policy::Policy;
pub use record::{Record, Recorded};
pub use rule::{Check, Rule, Severity};
pub use sarif::{Sarif, sarif};
pub use waiver::{Judged, Waived, Waiver, Waivers};

/// One thing that a scan found wrong, at one place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Finding {
    /// How bad it is here; a rule's findings may differ (an advisory for a package that is only compiled, not linked).
    pub severity: Severity,
    /// The rule that it breaks.
    pub rule: Rule,
    /// Where it is.
    pub place: Place,
    /// What was found, in one sentence that makes sense by itself. Never a secret's text.
    pub message: String,
    /// What tells it from other findings of the rule at this place and does not move with lines: a package and its version,
    /// a key, the digest of a secret.
    pub key: String,
}

impl Finding {
    /// What stays the same from scan to scan while the finding is the same: a digest of rule, place without line, and key.
    pub fn fingerprint(&self) -> Digest {
        // The parts are separated by what none of them can hold.
        Digest::of([self.rule.id.as_str(), &self.place.stable(), &self.key].join("\0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn finding(line: u32, key: &str) -> Finding {
        Finding {
            severity: Severity::High,
            rule: Rule {
                id: "secret/private-key".into(),
                check: Check::Secrets,
                title: "private key".into(),
                why: "whoever reads the repository has it".into(),
                fix: "replace the key and keep the new one out of the repository".into(),
                url: None,
            },
            place: Place::file_line("a/b.pem", line, 1),
            message: "a private key in PEM form".into(),
            key: key.into(),
        }
    }

    #[test]
    fn fingerprints_do_not_move_with_lines_and_tell_keys_apart() {
        assert_eq!(finding(1, "a").fingerprint(), finding(9, "a").fingerprint());
        assert_ne!(finding(1, "a").fingerprint(), finding(1, "b").fingerprint());
    }
}
