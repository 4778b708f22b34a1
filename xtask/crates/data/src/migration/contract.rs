//! Expand and contract: whether something may be taken away, by what the releases that run, or are kept for a rollback, were
//! built with. Pure: which releases these are is passed in.

use std::collections::BTreeMap;

use release::MigrationSet;
use stdx::Digest;

use super::files::{Migration, is_called};

/// Which releases could still use the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Running {
    /// Nobody said: some release does, and needs all that is there.
    Unknown,
    /// These, running or kept for a rollback.
    Releases(Vec<RunningRelease>),
}

/// A release that runs or is kept for a rollback.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningRelease {
    /// What people know it by.
    pub name: String,
    /// The migrations that it was built with; a release that does not say needs everything.
    pub migrations: Option<MigrationSet>,
}

/// Whether a statement may take something away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Yes, and why.
    Fine(String),
    /// No, and who needs it.
    Needed(String),
}

/// The set of migrations of a release, as its manifest carries it.
pub fn set_of(migrations: &[Migration]) -> MigrationSet {
    let digest = |migration: &Migration| (migration.name.clone(), Digest::of(&migration.text));
    let files: BTreeMap<String, Digest> = migrations.iter().map(digest).collect();
    let lines: String = files.iter().map(|(name, digest)| format!("{digest} {name}\n")).collect();
    MigrationSet { set: Digest::of(lines), files }
}

impl Running {
    /// Whether nothing runs and nothing is kept.
    pub(super) fn is_nobody(&self) -> bool {
        matches!(self, Running::Releases(releases) if releases.is_empty())
    }

    /// Whether what is no longer used since the migration `after` may be taken away; `None`: the script does not say since when.
    pub(super) fn may_contract(&self, after: Option<&str>) -> Verdict {
        let releases = match self {
            Running::Releases(releases) if releases.is_empty() => {
                return Verdict::Fine("no release runs or is kept".into());
            }
            Running::Releases(releases) => releases,
            Running::Unknown => {
                return match after {
                    Some(after) => {
                        Verdict::Fine(format!("a deployment checks that every running release has {after}"))
                    }
                    None => Verdict::Needed("a release that runs may need it".into()),
                };
            }
        };
        let Some(after) = after else {
            let names: Vec<&str> = releases.iter().map(|release| release.name.as_str()).collect();
            return Verdict::Needed(format!("{} may need it", names.join(", ")));
        };
        let lacks = |release: &&RunningRelease| {
            let has = |set: &MigrationSet| set.files.keys().any(|name| is_called(name, after));
            !release.migrations.as_ref().is_some_and(has)
        };
        let lacking: Vec<&str> = releases.iter().filter(lacks).map(|release| release.name.as_str()).collect();
        match lacking.is_empty() {
            true => Verdict::Fine(format!("every release that runs or is kept has {after}")),
            false => Verdict::Needed(format!("built without {after}: {}", lacking.join(", "))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(name: &str, files: &[&str]) -> RunningRelease {
        let migration = |name: &&str| Migration {
            name: (*name).to_owned(),
            path: (*name).to_owned(),
            text: String::new(),
        };
        let migrations: Vec<Migration> = files.iter().map(migration).collect();
        RunningRelease { name: name.to_owned(), migrations: Some(set_of(&migrations)) }
    }

    #[test]
    fn something_is_taken_away_only_when_every_release_was_built_after_it_fell_out_of_use() {
        let old = release("old", &["0001_a.sql"]);
        let new = release("new", &["0001_a.sql", "0002_stop.sql"]);
        let silent = RunningRelease { name: "silent".into(), migrations: None };
        let check = |releases: &[&RunningRelease], after: Option<&str>, expected: Result<&str, &str>| {
            let running = Running::Releases(releases.iter().map(|release| (*release).clone()).collect());
            let verdict = running.may_contract(after);
            let expected = match expected {
                Ok(why) => Verdict::Fine(why.into()),
                Err(why) => Verdict::Needed(why.into()),
            };
            assert_eq!(verdict, expected);
        };
        check(&[], None, Ok("no release runs or is kept"));
        check(&[&new], None, Err("new may need it"));
        check(&[&new], Some("0002_stop"), Ok("every release that runs or is kept has 0002_stop"));
        check(&[&new, &old], Some("0002_stop.sql"), Err("built without 0002_stop.sql: old"));
        check(&[&silent, &new], Some("0002_stop"), Err("built without 0002_stop: silent"));
        assert!(matches!(Running::Unknown.may_contract(None), Verdict::Needed(_)));
    }

    #[test]
    fn the_digest_of_a_set_goes_by_names_and_contents_alone() {
        let migration = |name: &str, text: &str| Migration {
            name: name.into(),
            path: format!("x/{name}"),
            text: text.into(),
        };
        let (a, b) = (migration("a", "1"), migration("b", "2"));
        assert_eq!(set_of(&[a.clone(), b.clone()]), set_of(&[b.clone(), a.clone()]));
        assert_ne!(set_of(std::slice::from_ref(&a)).set, set_of(&[a, b]).set);
    }
}
