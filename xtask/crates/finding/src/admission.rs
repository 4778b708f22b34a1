//! Whether a release may be deployed, going by the scan of it and by what is known today. Pure: the clock, today's findings
//! and the policy are passed in. Invariant: what cannot be shown to be in order is refused, and all reasons are given at once.

use std::fmt;

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use stdx::Digest;

use crate::{Check, Finding, Policy, Record, Recorded, Waiver, Waivers};

/// How far the clock of the scanning machine may be ahead.
const MAX_SKEW: SignedDuration = SignedDuration::from_mins(5);

/// What an environment asks of a release.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    /// How old the scan may be.
    pub max_age: SignedDuration,
    /// Which findings refuse the release.
    pub policy: Policy,
}

/// What is known of a release when somebody wants to deploy it.
#[derive(Debug, Clone)]
pub struct Candidate<'a> {
    /// Identity of the release as it is now.
    pub release: Digest,
    /// What its scan found; `None` where nobody scanned it.
    pub record: Option<&'a Record>,
    /// What the advisories of today say of its stored SBOMs, without what is waived today.
    pub today: &'a [Finding],
    /// The waivers of today.
    pub waivers: &'a Waivers,
}

/// A reason not to deploy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody scanned the release.
    Unscanned,
    /// The record is of another release: this one was changed after its scan, or the files were mixed up.
    OtherRelease {
        /// What was scanned.
        scanned: Digest,
    },
    /// The scan left checks out.
    Incomplete(Vec<Check>),
    /// The scan is older than the environment allows.
    TooOld {
        /// From the scan to now.
        age: SignedDuration,
        /// What it may be.
        most: SignedDuration,
    },
    /// The scan is from the future: the clock of one machine is wrong.
    FromTheFuture,
    /// The scan found it, and nobody waived it.
    Found(Box<Finding>),
    /// It was waived when the scan was made, and the waiver has run out since.
    WaiverExpired(Box<Finding>, Waiver),
    /// It was waived when the scan was made, and no waiver covers it any more.
    WaiverWithdrawn(Box<Finding>, Waiver),
    /// An advisory that the scan did not know.
    New(Box<Finding>),
}

/// The checks without which a scan says too little about a release.
const REQUIRED: [Check; 4] = [Check::Advisories, Check::Secrets, Check::Licences, Check::Images];

/// All reasons not to deploy; none where the release is admitted.
pub fn admit(candidate: &Candidate<'_>, requirement: &Requirement, now: Timestamp) -> Vec<Refusal> {
    let Some(record) = candidate.record else { return vec![Refusal::Unscanned] };
    if record.release != candidate.release {
        return vec![Refusal::OtherRelease { scanned: record.release }];
    }
    let mut refusals = Vec::new();
    let left_out: Vec<Check> = REQUIRED.into_iter().filter(|check| !record.checks.contains(check)).collect();
    if !left_out.is_empty() {
        refusals.push(Refusal::Incomplete(left_out));
    }
    let age = now.duration_since(record.scanned_at);
    if age < -MAX_SKEW {
        refusals.push(Refusal::FromTheFuture);
    }
    if age > requirement.max_age {
        refusals.push(Refusal::TooOld { age, most: requirement.max_age });
    }
    let today = TimeZone::UTC.to_datetime(now).date();
    let is_bad = |finding: &Finding| requirement.policy.fails(finding);
    let bad = record.findings.iter().filter(|recorded| is_bad(&recorded.finding));
    refusals.extend(bad.filter_map(|recorded| judge(recorded, candidate.waivers, today)));
    let told = |new: &Finding, refusals: &[Refusal]| {
        refusals
            .iter()
            .filter_map(Refusal::finding)
            .any(|old| old.rule.id == new.rule.id && old.key == new.key)
    };
    for new in candidate.today.iter().filter(|finding| is_bad(finding)) {
        if !told(new, &refusals) {
            refusals.push(Refusal::New(Box::new(new.clone())));
        }
    }
    refusals
}

/// A finding of the scan counts unless it was waived then and is waived now: a waiver that came later is a decision that
/// the scan shows to nobody.
fn judge(recorded: &Recorded, waivers: &Waivers, today: Date) -> Option<Refusal> {
    let finding = Box::new(recorded.finding.clone());
    let Some(then) = &recorded.waived else { return Some(Refusal::Found(finding)) };
    let now = waivers.about(&finding);
    match now {
        _ if then.expires < today => Some(Refusal::WaiverExpired(finding, then.clone())),
        None => Some(Refusal::WaiverWithdrawn(finding, then.clone())),
        Some(now) if now.expires < today => Some(Refusal::WaiverExpired(finding, now.clone())),
        Some(_) => None,
    }
}

impl Refusal {
    /// The finding that it is about, if it is about one.
    fn finding(&self) -> Option<&Finding> {
        match self {
            Refusal::Found(finding)
            | Refusal::WaiverExpired(finding, _)
            | Refusal::WaiverWithdrawn(finding, _)
            | Refusal::New(finding) => Some(finding),
            Refusal::Unscanned
            | Refusal::OtherRelease { .. }
            | Refusal::Incomplete(_)
            | Refusal::TooOld { .. }
            | Refusal::FromTheFuture => None,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unscanned => f.write_str("nobody scanned it, or it was changed after its scan"),
            Refusal::OtherRelease { scanned } => write!(
                f,
                "its scan is of another release ({}): the release file was changed after the scan, or the files were mixed up",
                scanned.short()
            ),
            Refusal::Incomplete(checks) => {
                let names: Vec<_> = checks.iter().map(|check| check.name()).collect();
                write!(f, "its scan left out {}", names.join(", "))
            }
            Refusal::TooOld { age, most } => {
                write!(f, "its scan is {} old, and may be {}", span(*age), span(*most))
            }
            Refusal::FromTheFuture => f.write_str(
                "its scan is from the future: the clock of this machine or of the scanning one is wrong",
            ),
            Refusal::Found(finding) => write!(f, "the scan found {}", named(finding)),
            Refusal::WaiverExpired(finding, waiver) => {
                write!(f, "the waiver of {} ran out on {} ({})", waiver.owner, waiver.expires, named(finding))
            }
            Refusal::WaiverWithdrawn(finding, waiver) => {
                write!(f, "the waiver of {} was withdrawn since the scan ({})", waiver.owner, named(finding))
            }
            Refusal::New(finding) => write!(f, "new since the scan: {}", named(finding)),
        }
    }
}

fn named(finding: &Finding) -> String {
    format!("{} {} in {}: {}", finding.severity.name(), finding.rule.id, finding.place, finding.message)
}

/// A span for people.
fn span(duration: SignedDuration) -> String {
    match duration.as_hours() {
        0..2 => format!("{} minutes", duration.as_mins()),
        hours @ 2..48 => format!("{hours} hours"),
        hours => format!("{} days", hours / 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Place, Recorded, Rule, Severity, record};

    fn now() -> Timestamp {
        "2026-11-20T12:00:00Z".parse().unwrap()
    }

    fn admission(candidate: &Candidate<'_>) -> Vec<Refusal> {
        let requirement =
            Requirement { max_age: SignedDuration::from_hours(1), policy: Policy::at(Severity::High) };
        admit(candidate, &requirement, now())
    }

    fn finding(id: &str, severity: Severity) -> Finding {
        let rule = Rule {
            id: id.into(),
            check: Check::Advisories,
            title: String::new(),
            why: String::new(),
            fix: String::new(),
            url: None,
        };
        let place = Place::Image { service: "web".into(), path: None };
        Finding { severity, rule, place, message: "m".into(), key: "k".into() }
    }

    fn recorded(id: &str, severity: Severity, expires: Option<&str>) -> Recorded {
        let waived = expires.map(|expires| Waiver {
            rule: id.into(),
            place: None,
            package: None,
            fingerprint: None,
            owner: "ops".into(),
            reason: "r".into(),
            expires: expires.parse().unwrap(),
        });
        Recorded { finding: finding(id, severity), waived }
    }

    fn scanned(findings: Vec<Recorded>) -> Record {
        Record {
            schema: record::SCHEMA.into(),
            release: Digest::of("release"),
            scanned_at: now() - SignedDuration::from_mins(1),
            checks: Check::ALL.into(),
            findings,
        }
    }

    /// With waivers of today that cover everything they covered then.
    fn refusals(record: &Record, today: &[Finding]) -> Vec<Refusal> {
        let waivers = record.findings.iter().filter_map(|recorded| recorded.waived.clone());
        with_waivers(record, today, &Waivers::of(waivers.collect()))
    }

    fn with_waivers(record: &Record, today: &[Finding], waivers: &Waivers) -> Vec<Refusal> {
        admission(&Candidate { release: Digest::of("release"), record: Some(record), today, waivers })
    }

    #[test]
    fn what_is_in_order_is_admitted() {
        let record = scanned(vec![
            recorded("A", Severity::Medium, None),
            recorded("B", Severity::Critical, Some("2026-11-20")),
        ]);
        assert_eq!(refusals(&record, &[finding("A", Severity::Medium)]), []);
    }

    #[test]
    fn each_thing_out_of_order_is_refused_for_its_own_reason() {
        let waivers = &Waivers::default();
        let candidate = Candidate { release: Digest::of("release"), record: None, today: &[], waivers };
        assert_eq!(admission(&candidate), [Refusal::Unscanned]);
        let changed = Record { release: Digest::of("other"), ..scanned(vec![]) };
        assert_eq!(refusals(&changed, &[]), [Refusal::OtherRelease { scanned: Digest::of("other") }]);
        let age = SignedDuration::from_secs(3_601);
        let old = Record { scanned_at: now() - age, ..scanned(vec![]) };
        assert_eq!(refusals(&old, &[]), [Refusal::TooOld { age, most: SignedDuration::from_hours(1) }]);
        let ahead = Record { scanned_at: now() + SignedDuration::from_secs(301), ..scanned(vec![]) };
        assert_eq!(refusals(&ahead, &[]), [Refusal::FromTheFuture]);
        let thin = Record { checks: [Check::Advisories].into(), ..scanned(vec![]) };
        let left_out = vec![Check::Secrets, Check::Licences, Check::Images];
        assert_eq!(refusals(&thin, &[]), [Refusal::Incomplete(left_out)]);
        let found = scanned(vec![recorded("A", Severity::High, None)]);
        assert_eq!(refusals(&found, &[]), [Refusal::Found(Box::new(finding("A", Severity::High)))]);
        let expired = scanned(vec![recorded("A", Severity::High, Some("2026-11-19"))]);
        assert!(matches!(refusals(&expired, &[])[..], [Refusal::WaiverExpired(..)]));
        let new = [finding("N", Severity::High)];
        assert_eq!(refusals(&scanned(vec![]), &new), [Refusal::New(Box::new(new[0].clone()))]);
    }

    #[test]
    fn a_finding_is_told_once_and_a_withdrawn_waiver_does_not_count() {
        let found = scanned(vec![recorded("A", Severity::High, None)]);
        assert_eq!(refusals(&found, &[finding("A", Severity::High)]).len(), 1);
        let waived = scanned(vec![recorded("A", Severity::High, Some("2026-11-21"))]);
        let today = [finding("A", Severity::High)];
        for known in [&today[..], &[]] {
            let refused = with_waivers(&waived, known, &Waivers::default());
            assert!(matches!(refused[..], [Refusal::WaiverWithdrawn(..)]), "{refused:?}");
            let shortened = recorded("A", Severity::High, Some("2026-11-19")).waived;
            let refused = with_waivers(&waived, known, &Waivers::of(shortened.into_iter().collect()));
            assert!(matches!(refused[..], [Refusal::WaiverExpired(..)]), "{refused:?}");
        }
    }

    #[test]
    fn an_advisory_that_became_worse_is_new() {
        let record = scanned(vec![recorded("A", Severity::Low, None)]);
        assert!(matches!(refusals(&record, &[finding("A", Severity::High)])[..], [Refusal::New(_)]));
    }

    #[test]
    fn all_reasons_are_given_at_once() {
        let mut record =
            scanned(vec![recorded("A", Severity::High, None), recorded("B", Severity::High, None)]);
        record.scanned_at = Timestamp::UNIX_EPOCH;
        assert_eq!(refusals(&record, &[finding("N", Severity::High)]).len(), 4);
    }
}
