//! Which findings fail a scan: a threshold for each check. It knows neither files nor environments' names; whoever reads those
//! makes the policy.

use std::collections::BTreeMap;

use crate::{Check, Finding, Severity};

/// From which severity on findings of each check fail.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    thresholds: BTreeMap<Check, Severity>,
}

impl Default for Policy {
    /// A linked vulnerability of medium severity should not be shipped; elsewhere medium is advice.
    fn default() -> Policy {
        let threshold = |check| match check {
            Check::Advisories => Severity::Medium,
            _ => Severity::High,
        };
        Policy { thresholds: Check::ALL.into_iter().map(|check| (check, threshold(check))).collect() }
    }
}

impl Policy {
    /// This policy with other thresholds where `changes` names some.
    pub fn with(mut self, changes: &BTreeMap<Check, Severity>) -> Policy {
        self.thresholds.extend(changes);
        self
    }

    /// One threshold for all checks.
    pub fn at(severity: Severity) -> Policy {
        Policy { thresholds: Check::ALL.into_iter().map(|check| (check, severity)).collect() }
    }

    /// Whether the finding fails the scan. A note never does; a waiver that is expired or waives nothing always does,
    /// because a threshold that let it pass would make expiry a decoration.
    pub fn fails(&self, finding: &Finding) -> bool {
        match (finding.severity, finding.rule.check) {
            (Severity::Note, _) => false,
            (_, Check::Waivers) => true,
            (severity, check) => severity >= self.thresholds.get(&check).copied().unwrap_or(Severity::Low),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::finding;

    #[test]
    fn notes_never_fail_and_stale_waivers_always_do() {
        let at = |check, severity| {
            let mut finding = finding(1, "k");
            finding.severity = severity;
            finding.rule.check = check;
            finding
        };
        let policy = Policy::default();
        assert!(policy.fails(&at(Check::Advisories, Severity::Medium)));
        assert!(!policy.fails(&at(Check::Licences, Severity::Medium)));
        let critical = Policy::at(Severity::Critical);
        assert!(critical.fails(&at(Check::Waivers, Severity::Low)));
        assert!(!critical.fails(&at(Check::Secrets, Severity::High)));
        assert!(!Policy::at(Severity::Note).fails(&at(Check::Advisories, Severity::Note)));
        let looser = Policy::default().with(&BTreeMap::from([(Check::Advisories, Severity::Critical)]));
        assert!(!looser.fails(&at(Check::Advisories, Severity::High)));
        assert!(looser.fails(&at(Check::Secrets, Severity::High)));
    }
}
