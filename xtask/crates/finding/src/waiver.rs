//! Waivers: findings that somebody decided to live with for a while. Each has a reason, an owner and a day on which it ends;
//! one that ended, or that waives nothing any more, is a finding itself. What day it is, is passed in.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::Result;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use stdx::Digest;
use stdx::yaml::{self, File, Problem};

use crate::{Check, Finding, Place, Rule, Severity, glob_matches};

/// More waivers than a person can keep in mind are no waivers.
const MOST_WAIVERS: usize = 1_000;
/// Larger files are refused before they are parsed.
const MOST_BYTES: usize = 1 << 20;

/// A decision to live with some findings until a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waiver {
    /// Id of the rule.
    pub rule: String,
    /// Only findings at this path, below this folder, or at paths of this pattern.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub place: Option<String>,
    /// Only findings about this package: `name` or `name@version`.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub package: Option<String>,
    /// Only the finding with this fingerprint.
    #[serde(default, deserialize_with = "given", skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<Digest>,
    /// Why that is acceptable.
    pub reason: String,
    /// Who decided, and is asked when it ends.
    pub owner: String,
    /// The last day on which it holds.
    pub expires: Date,
}

/// A key that is there has a value: without one it would look like a limit and be none.
fn given<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The waivers of a workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Waivers {
    /// Relative to the workspace's root.
    path: String,
    /// With the line that each begins on.
    waivers: Vec<(Waiver, Option<u32>)>,
}

/// A finding, and the waiver that covers it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Waived {
    /// What was found.
    pub finding: Finding,
    /// Why it does not count.
    pub waiver: Waiver,
}

/// Findings after waivers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judged {
    /// What counts, with what is wrong with the waivers themselves.
    pub open: Vec<Finding>,
    /// What does not count.
    pub waived: Vec<Waived>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    #[serde(default)]
    waivers: Vec<Waiver>,
}

impl Waivers {
    /// Reads the file at `path`, relative to `root`; a missing file has no waivers. No waiver may end more than
    /// `most_days` days after `today`.
    ///
    /// # Errors
    /// When the file is not of this shape, or values are wrong: all of them at once.
    pub fn load(root: &Path, path: &str, today: Date, most_days: u32) -> Result<Waivers> {
        let Some(file) = File::read_if_exists(&root.join(path))? else {
            return Ok(Waivers { path: path.to_owned(), waivers: vec![] });
        };
        // The text is bounded before a parser sees it: aliases of YAML multiply.
        let limit = |what: &str| Problem {
            file: file.path.clone(),
            line: None,
            key: "waivers".into(),
            message: what.into(),
        };
        if file.text.len() > MOST_BYTES {
            return Err(limit("the file is larger than 1 MiB").into());
        }
        let document: Document = file.parse()?;
        if document.waivers.len() > MOST_WAIVERS {
            return Err(limit("there are more than 1000 waivers").into());
        }
        let lines = item_lines(&file.text);
        let with_line = |(index, waiver): (usize, Waiver)| (waiver, lines.get(index).copied());
        let waivers: Vec<_> = document.waivers.into_iter().enumerate().map(with_line).collect();
        let mut problems = Vec::new();
        for (index, (waiver, line)) in waivers.iter().enumerate() {
            for (key, message) in waiver.problems(today, most_days) {
                let (file, key) = (file.path.clone(), format!("waivers[{index}].{key}"));
                problems.push(Problem { file, line: line.map(|line| line as usize), key, message });
            }
        }
        yaml::refuse_if_any(&problems)?;
        Ok(Waivers { path: path.to_owned(), waivers })
    }

    /// Sets aside what waivers cover. `complete` are the checks that looked at everything: only for those is a waiver that
    /// covered nothing known to be of no use.
    pub fn apply(&self, findings: Vec<Finding>, today: Date, complete: &BTreeSet<Check>) -> Judged {
        let mut judged = Judged::default();
        let mut used = vec![false; self.waivers.len()];
        for finding in findings {
            let mut covering = None;
            for (index, (waiver, _)) in self.waivers.iter().enumerate() {
                if waiver.covers(&finding) {
                    used[index] = true;
                    if waiver.expires >= today {
                        covering = covering.or(Some(waiver));
                    }
                }
            }
            match covering {
                Some(waiver) => judged.waived.push(Waived { finding, waiver: waiver.clone() }),
                None => judged.open.push(finding),
            }
        }
        for ((waiver, line), used) in self.waivers.iter().zip(used) {
            let is_known = match Check::of_rule(&waiver.rule) {
                Some(check) => complete.contains(&check),
                // The rule may be of any check; secrets, migrations and waivers name theirs.
                None => Check::ALL.iter().all(|check| {
                    matches!(check, Check::Secrets | Check::Migrations | Check::Waivers)
                        || complete.contains(check)
                }),
            };
            if waiver.expires < today {
                judged.open.push(self.stale(waiver, *line, Stale::Expired));
            } else if !used && is_known {
                judged.open.push(self.stale(waiver, *line, Stale::Unused));
            }
        }
        judged
    }

    /// Of the waivers that cover the finding, expired or not, the one that holds longest.
    pub(crate) fn about(&self, finding: &Finding) -> Option<&Waiver> {
        let covering = self.waivers.iter().map(|(waiver, _)| waiver).filter(|waiver| waiver.covers(finding));
        covering.max_by_key(|waiver| waiver.expires)
    }

    #[cfg(test)]
    pub(crate) fn of(waivers: Vec<Waiver>) -> Waivers {
        Waivers { path: String::new(), waivers: waivers.into_iter().map(|waiver| (waiver, None)).collect() }
    }

    fn stale(&self, waiver: &Waiver, line: Option<u32>, stale: Stale) -> Finding {
        let Waiver { rule, owner, expires, .. } = waiver;
        let what = waiver.scope();
        let (id, title, why, fix, message) = match stale {
            Stale::Expired => (
                "waivers/expired",
                "expired waiver",
                "The decision to live with a finding was made for a time, and the time is over.",
                "Mend what it waived and remove the waiver, or decide again and give it a new day.",
                format!("the waiver of {rule}{what} by {owner} ended on {expires}"),
            ),
            Stale::Unused => (
                "waivers/unused",
                "waiver of nothing",
                "A waiver that covers no finding would silently cover the next one.",
                "Remove it.",
                format!("the waiver of {rule}{what} by {owner} covers no finding"),
            ),
        };
        Finding {
            severity: Severity::High,
            rule: Rule {
                id: id.to_owned(),
                check: Check::Waivers,
                title: title.to_owned(),
                why: why.to_owned(),
                fix: fix.to_owned(),
                url: None,
            },
            place: Place::File { path: self.path.clone(), line, column: None },
            message,
            key: format!("{rule}{what}"),
        }
    }
}

#[derive(Clone, Copy)]
enum Stale {
    Expired,
    Unused,
}

impl Waiver {
    /// Whether it is about this finding, expired or not. Notes need no waiver, so none covers them: one that is left over when
    /// a finding has become a note is unused.
    fn covers(&self, finding: &Finding) -> bool {
        let is_about_packages = matches!(finding.rule.check, Check::Advisories | Check::Licences);
        // The key begins with `name@version`; more may follow.
        let spec = finding.key.split(' ').next().unwrap_or_default();
        let is_package = |package: &String| {
            is_about_packages && (spec == package || spec.split('@').next() == Some(package.as_str()))
        };
        self.rule == finding.rule.id
            && finding.severity > Severity::Note
            && finding.rule.check != Check::Waivers
            && self.place.as_ref().is_none_or(|place| glob_matches(place, &finding.place.stable()))
            && self.package.as_ref().is_none_or(is_package)
            && self.fingerprint.is_none_or(|fingerprint| fingerprint == finding.fingerprint())
    }

    fn scope(&self) -> String {
        let package = self.package.iter().map(|package| format!(" for {package}"));
        let place = self.place.iter().map(|place| format!(" in {place}"));
        let fingerprint =
            self.fingerprint.iter().map(|digest| format!(" with fingerprint {}", digest.short()));
        package.chain(place).chain(fingerprint).collect()
    }

    fn problems(&self, today: Date, most_days: u32) -> Vec<(&'static str, String)> {
        let mut problems = Vec::new();
        let needed = [("rule", &self.rule), ("reason", &self.reason), ("owner", &self.owner)];
        let given = [("place", &self.place), ("package", &self.package)];
        let given = given.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?)));
        for (key, value) in needed.into_iter().chain(given) {
            if value.trim().is_empty() {
                problems.push((key, "must not be empty".to_owned()));
            }
        }
        let days = (self.expires - today).get_days();
        if days > i32::try_from(most_days).unwrap_or(i32::MAX) {
            let message = format!(
                "{} is {days} days ahead, and no waiver may hold longer than {most_days} (`scan.max_waiver_days`)",
                self.expires
            );
            problems.push(("expires", message));
        }
        if self.rule.starts_with("waivers/") {
            problems.push(("rule", "a waiver cannot waive findings about waivers".to_owned()));
        }
        problems
    }
}

/// The line of each item of the list, in block style; an item in flow style has none.
fn item_lines(text: &str) -> Vec<u32> {
    let mut level = None;
    let mut lines = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let content = line.trim_start();
        if content == "-" || content.starts_with("- ") {
            let indent = line.len() - content.len();
            if *level.get_or_insert(indent) == indent {
                lines.extend(u32::try_from(index + 1));
            }
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::tests::finding;

    const TODAY: Date = date(2030, 1, 10);
    const FILE: &str = "ci/waivers.yaml";

    fn load(text: &str) -> Result<Waivers> {
        let folder = tempfile::tempdir()?;
        std::fs::create_dir(folder.path().join("ci"))?;
        std::fs::write(folder.path().join(FILE), text)?;
        Waivers::load(folder.path(), FILE, TODAY, 90)
    }

    fn one(scope: &str, expires: &str) -> Waivers {
        load(&format!(
            "waivers:\n  - rule: secret/private-key\n    reason: a test key\n    owner: team-a\n    expires: {expires}\n{scope}"
        ))
        .unwrap()
    }

    fn judge(waivers: &Waivers, findings: Vec<Finding>) -> (usize, Vec<String>) {
        let judged = waivers.apply(findings, TODAY, &BTreeSet::from(Check::ALL));
        (judged.waived.len(), judged.open.into_iter().map(|finding| finding.rule.id).collect())
    }

    #[test]
    fn a_waiver_covers_until_its_last_day_and_is_a_finding_after_it() {
        let found = || vec![finding(3, "k")];
        assert_eq!(judge(&one("", "2030-01-10"), found()), (1, vec![]));
        let expired = judge(&one("", "2030-01-09"), found());
        assert_eq!(expired, (0, vec!["secret/private-key".into(), "waivers/expired".into()]));
    }

    #[test]
    fn a_waiver_of_nothing_is_a_finding_where_that_is_known() {
        let waivers = one("", "2030-02-01");
        assert_eq!(judge(&waivers, vec![]), (0, vec!["waivers/unused".into()]));
        let unknown = waivers.apply(vec![], TODAY, &BTreeSet::from([Check::Advisories]));
        assert_eq!(unknown, Judged::default());
        let text = "waivers:\n  - rule: other/rule\n    reason: r\n    owner: o\n    expires: 2030-01-11\n";
        let judged = |checks: &[Check]| {
            load(text).unwrap().apply(vec![], TODAY, &checks.iter().copied().collect()).open.len()
        };
        assert_eq!((judged(&Check::ALL), judged(&[Check::Advisories])), (1, 0));
        let mut note = finding(1, "k");
        note.severity = Severity::Note;
        assert_eq!(
            judge(&waivers, vec![note]),
            (0, vec!["secret/private-key".into(), "waivers/unused".into()])
        );
    }

    #[test]
    fn place_and_fingerprint_narrow_it() {
        let digest = finding(1, "k").fingerprint();
        for (scope, waived) in [
            ("    place: a/*.pem\n".to_owned(), 1),
            ("    place: b\n".to_owned(), 0),
            (format!("    fingerprint: {digest}\n"), 1),
            (format!("    fingerprint: {}\n", Digest::of("x")), 0),
            // A secret's key is no package.
            ("    package: k\n".to_owned(), 0),
        ] {
            assert_eq!(judge(&one(&scope, "2030-02-01"), vec![finding(1, "k")]).0, waived, "{scope}");
        }
    }

    #[test]
    fn a_package_is_named_with_or_without_its_version() {
        let mut finding = finding(1, "smallvec@1.6.0");
        finding.rule.check = Check::Advisories;
        for (package, waived) in [("smallvec", 1), ("smallvec@1.6.0", 1), ("smallvec@1.6.1", 0), ("small", 0)]
        {
            let waivers = one(&format!("    package: {package}\n"), "2030-02-01");
            assert_eq!(judge(&waivers, vec![finding.clone()]).0, waived, "{package}");
        }
    }

    #[test]
    fn mistakes_name_file_line_and_key() {
        let error = |text: &str| load(text).unwrap_err().to_string();
        let item = "waivers:\n- {rule: r, reason: r, owner: o, expires: 2030-01-11, until: x}\n";
        assert!(error(item).contains("unknown field `until`"), "{}", error(item));
        let missing = error("waivers:\n  - rule: r\n    reason: r\n    owner: o\n");
        assert!(missing.contains("waivers.yaml:2: waivers[0]") && missing.contains("expires"), "{missing}");
        let text = "waivers:\n  - rule: r\n    reason: r\n    owner: o\n    expires: 2030-01-11\n  - rule: r\n    reason: ' '\n    owner: o\n    expires: 2030-05-01\n";
        let both = error(text);
        assert!(both.contains("waivers.yaml:6: waivers[1].reason"), "{both}");
        assert!(both.contains("waivers[1].expires: 2030-05-01 is 111 days ahead"), "{both}");
    }

    #[test]
    fn a_limit_without_a_value_is_no_waiver_of_everything() {
        for limit in ["place:", "package:", "fingerprint:", "place: ''", "package: ' '"] {
            let text = format!(
                "waivers:\n  - rule: secret/private-key\n    reason: r\n    owner: o\n    expires: 2030-01-11\n    {limit}\n"
            );
            let error = load(&text).unwrap_err().to_string();
            assert!(error.contains("waivers.yaml:2: waivers[0]."), "{limit}: {error}");
        }
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good =
            "waivers:\n  - rule: r\n    place: a/**\n    reason: r\n    owner: o\n    expires: 2030-01-11\n";
        for at in 0..good.len() {
            for byte in [b'\0', b'-', b'*', b'&', b'{', b':', b' ', 0xff] {
                let mut bytes = good.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = String::from_utf8(bytes)
                    .map(|text| load(&text).map(|waivers| judge(&waivers, vec![finding(1, "k")])));
            }
        }
    }
}
