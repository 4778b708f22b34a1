//! What an action is made from, part by part, in words: the digest of all parts is its key, and the difference of two such lists
//! says why a result cannot be used again. It runs nothing and reads nothing by itself.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use stdx::{Digest, json};

/// How many differences are named before the rest is counted.
const NAMED: usize = 3;

/// What sort of thing a part is, in the order in which differences are told: causes before their consequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Sort {
    /// Of this program.
    Tool,
    /// A part of the compilers.
    Toolchain,
    /// The processor and system.
    Target,
    /// The profile's name and settings.
    Profile,
    /// What rustc is given.
    Flags,
    /// A variable.
    Variable,
    /// A table of Cargo's configuration.
    Configuration,
    /// A folder that the result holds only in.
    Place,
    /// A package, by name and version.
    Package,
    /// The features of a package.
    Features,
    /// A file by its content.
    File,
    /// What Cargo read from a package's manifest.
    Manifest,
    /// How a package is compiled beyond all that: told only where nothing else is.
    Compilation,
}

/// All parts of one action.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Parts(BTreeMap<(Sort, String), String>);

impl Parts {
    /// Adds a part; `value` may be told to the user.
    pub(crate) fn add(&mut self, sort: Sort, name: impl Into<String>, value: impl Into<String>) {
        self.0.insert((sort, name.into()), value.into());
    }

    /// Adds a part whose value is long or a secret.
    pub(crate) fn add_digest(&mut self, sort: Sort, name: impl Into<String>, value: impl AsRef<[u8]>) {
        self.add(sort, name, Digest::of(value).to_string());
    }

    /// Whether there is a part of this name.
    pub(crate) fn has(&self, sort: Sort, name: &str) -> bool {
        self.0.contains_key(&(sort, name.to_owned()))
    }

    /// Names of all parts of a sort.
    pub(crate) fn names(&self, sort: Sort) -> impl Iterator<Item = &str> {
        self.0.keys().filter(move |(other, _)| *other == sort).map(|(_, name)| name.as_str())
    }

    /// Of all parts: equal where all are, whatever machine they were looked at on.
    pub(crate) fn digest(&self) -> Result<Digest> {
        Ok(Digest::of(json::canonical(&serde_json::to_value(self)?)?))
    }

    /// In words, what differs from `before`; `None` where nothing does.
    pub(crate) fn difference(&self, before: &Parts) -> Option<String> {
        let mut told = Vec::new();
        let names: BTreeSet<&(Sort, String)> = self.0.keys().chain(before.0.keys()).collect();
        for name in names {
            let (now, then) = (self.0.get(name), before.0.get(name));
            if now == then || name.0 == Sort::Compilation && !told.is_empty() {
                continue;
            }
            told.extend(self.tell(before, name, then.map(String::as_str), now.map(String::as_str)));
        }
        let rest = told.len().saturating_sub(NAMED);
        told.truncate(NAMED);
        let more = if rest > 0 { format!("; and {rest} more") } else { String::new() };
        (!told.is_empty()).then(|| told.join("; ") + &more)
    }

    fn tell(
        &self,
        before: &Parts,
        (sort, name): &(Sort, String),
        then: Option<&str>,
        now: Option<&str>,
    ) -> Option<String> {
        let verb = match (then, now) {
            (None, _) => "is new",
            (_, None) => "is gone",
            _ => "changed",
        };
        Some(match sort {
            Sort::Tool => "this program is another one".to_owned(),
            Sort::Toolchain => format!("the toolchain's {name} {verb}{}", values(then, now)),
            Sort::Target => format!("the target changed{}", values(then, now)),
            Sort::Profile if name == "name" => format!("the profile changed{}", values(then, now)),
            Sort::Profile => format!("the profile's {name} {verb}{}", values(then, now)),
            Sort::Flags => format!("the {name} changed: {}", words(then, now)),
            Sort::Variable => format!("the variable {name} {verb}"),
            Sort::Configuration => format!("the table [{name}] of Cargo's configuration {verb}"),
            Sort::Place => format!("the {name} is another{}", values(then, now)),
            Sort::Package => return self.tell_package(before, name, then, now),
            Sort::Features if then.is_none() || now.is_none() => return None,
            Sort::Features => format!("the features of {name} changed: {}", words(then, now)),
            Sort::File => format!("{name} {verb}"),
            Sort::Manifest => format!("the manifest of {name} {verb}"),
            Sort::Compilation => format!("how {name} is compiled changed"),
        })
    }

    /// A new version in the lock file is one difference, not a package that is new and one that is gone.
    fn tell_package(
        &self,
        before: &Parts,
        name: &str,
        then: Option<&str>,
        now: Option<&str>,
    ) -> Option<String> {
        let (bare, version) = name.rsplit_once(' ').unwrap_or((name, ""));
        let lacks = |parts: &Parts, name: &str| !parts.has(Sort::Package, name);
        let other = |here: &Parts, there: &Parts| {
            let mut of_same_name = here.0.keys().filter(|(sort, other)| {
                *sort == Sort::Package
                    && other.rsplit_once(' ').is_some_and(|(other, _)| other == bare)
                    && lacks(there, other)
            });
            of_same_name.next().map(|(_, other)| other.clone())
        };
        match (then, now) {
            (None, _) => Some(match other(before, self) {
                Some(old) => format!("the lock file has {bare} {version} instead of {old}"),
                None => format!("the package {name} is new"),
            }),
            (_, None) if other(self, before).is_some() => None,
            (_, None) => Some(format!("the package {name} is gone")),
            _ => Some(format!("the source or checksum of {name} changed")),
        }
    }
}

/// Short values are worth showing, digests are not.
fn values(then: Option<&str>, now: Option<&str>) -> String {
    let is_short = |value: &&str| value.len() < 60 && !value.starts_with("sha256:");
    match (then.filter(is_short), now.filter(is_short)) {
        (Some(then), Some(now)) => format!(" from {then} to {now}"),
        _ => String::new(),
    }
}

/// Which words came and went.
fn words(then: Option<&str>, now: Option<&str>) -> String {
    let split = |text: Option<&str>| -> Vec<String> {
        text.unwrap_or_default().split('\x1f').filter(|word| !word.is_empty()).map(str::to_owned).collect()
    };
    let (then, now) = (split(then), split(now));
    let came = now.iter().filter(|word| !then.contains(word)).map(|word| format!("+{word}"));
    let went = then.iter().filter(|word| !now.contains(word)).map(|word| format!("-{word}"));
    let words: Vec<String> = came.chain(went).collect();
    if words.is_empty() { "their order".to_owned() } else { words.join(" ") }
}

impl Serialize for Parts {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.0.iter().map(|((sort, name), value)| (sort, name, value)))
    }
}

impl<'de> Deserialize<'de> for Parts {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Parts, D::Error> {
        let parts = Vec::<(Sort, String, String)>::deserialize(deserializer)?;
        Ok(Parts(parts.into_iter().map(|(sort, name, value)| ((sort, name), value)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(list: &[(Sort, &str, &str)]) -> Parts {
        let mut parts = Parts::default();
        list.iter().for_each(|(sort, name, value)| parts.add(*sort, *name, *value));
        parts
    }

    #[test]
    fn each_difference_is_told_in_words() {
        let before = parts(&[
            (Sort::Profile, "name", "release"),
            (Sort::Flags, "flags of rustc", "-Ca\x1f-Cb"),
            (Sort::Package, "serde 1.0.1", "x"),
            (Sort::Package, "old 1.0.0", "x"),
            (Sort::Features, "serde 1.0.1", "std"),
            (Sort::File, "src/main.rs", "1"),
            (Sort::Compilation, "serde 1.0.1", "1"),
        ]);
        let check = |list: &[(Sort, &str, &str)], gone: &[(Sort, &str)], expected: &str| {
            let mut now = before.clone();
            now.0.extend(parts(list).0);
            gone.iter().for_each(|(sort, name)| _ = now.0.remove(&(*sort, (*name).to_owned())));
            assert_eq!(now.difference(&before).as_deref(), Some(expected));
            assert_ne!(now.digest().unwrap(), before.digest().unwrap());
        };
        check(&[(Sort::Profile, "name", "dist")], &[], "the profile changed from release to dist");
        check(&[(Sort::Flags, "flags of rustc", "-Ca\x1f-Cc")], &[], "the flags of rustc changed: +-Cc --Cb");
        check(
            &[(Sort::Flags, "flags of rustc", "-Cb\x1f-Ca")],
            &[],
            "the flags of rustc changed: their order",
        );
        let new = [
            (Sort::Package, "serde 1.0.2", "y"),
            (Sort::Features, "serde 1.0.2", "std"),
            (Sort::Compilation, "a 1", ""),
        ];
        let gone = [(Sort::Package, "serde 1.0.1"), (Sort::Features, "serde 1.0.1")];
        check(&new, &gone, "the lock file has serde 1.0.2 instead of serde 1.0.1");
        check(
            &[(Sort::Features, "serde 1.0.1", "std\x1fderive")],
            &[],
            "the features of serde 1.0.1 changed: +derive",
        );
        check(&[], &[(Sort::Package, "old 1.0.0")], "the package old 1.0.0 is gone");
        check(&[(Sort::Compilation, "serde 1.0.1", "2")], &[], "how serde 1.0.1 is compiled changed");
        check(
            &[
                (Sort::File, "a", "1"),
                (Sort::File, "b", "1"),
                (Sort::File, "c", "1"),
                (Sort::File, "src/main.rs", "2"),
            ],
            &[],
            "a is new; b is new; c is new; and 1 more",
        );
        assert_eq!(before.difference(&before), None);
    }

    #[test]
    fn parts_survive_being_written() {
        let before = parts(&[(Sort::File, "a", "1"), (Sort::Variable, "a", "2")]);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Parts>(&text).unwrap(), before);
    }
}
