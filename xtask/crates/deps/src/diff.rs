//! What changed in a service between two revisions. Pure.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::record::Recorded;
use crate::report::{Class, Service, Used};

/// A service at one revision, with its sizes where they are known.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// What it is made of.
    pub service: &'a Service,
    /// What that weighs.
    pub sizes: Option<&'a Recorded>,
}

/// What changed in one package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Change {
    /// It is used and was not.
    Came,
    /// It was used and is not.
    Went,
    /// It is used in another version.
    Version {
        /// The version before.
        from: String,
    },
    /// It is used in another way.
    Class {
        /// What it was before.
        from: Class,
    },
    /// It is compiled with other features.
    Features {
        /// Those that are new.
        added: BTreeSet<String>,
        /// Those that are gone.
        removed: BTreeSet<String>,
    },
    /// Only its size is another.
    Bytes,
}

/// One package that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Changed {
    /// Its name; of what is no package, a name in parentheses.
    pub name: String,
    /// Its version, the new one where there are two.
    pub version: String,
    /// What it is, or was.
    pub class: Option<Class>,
    /// What changed.
    pub change: Change,
    /// Bytes before, where known.
    pub before: Option<u64>,
    /// Bytes now, where known.
    pub now: Option<u64>,
}

/// Compares two states of one service; what only tests use or nobody compiles does not count.
pub fn diff(before: Option<Side<'_>>, now: Option<Side<'_>>) -> Vec<Changed> {
    let (mut old, mut new) = (used(before), used(now));
    let size = |side: Option<Side<'_>>, spec: &str| side?.sizes?.parts.get(spec).copied();
    let mut found = Vec::new();
    let mut push = |from: Option<&Used>, to: Option<&Used>, change: Option<Change>| {
        let Some(used) = to.or(from) else { return };
        let sizes = (
            from.and_then(|one| size(before, &one.package.spec())),
            to.and_then(|one| size(now, &one.package.spec())),
        );
        let both_known = sizes.0.is_some() && sizes.1.is_some();
        let change = change.or((both_known && sizes.0 != sizes.1).then_some(Change::Bytes));
        found.extend(change.map(|change| Changed {
            name: used.package.name.clone(),
            version: used.package.version.clone(),
            class: Some(used.class),
            change,
            before: sizes.0,
            now: sizes.1,
        }));
    };
    let both: Vec<_> = old.keys().filter(|key| new.contains_key(*key)).cloned().collect();
    for key in both {
        if let (Some(from), Some(to)) = (old.remove(&key), new.remove(&key)) {
            push(Some(from), Some(to), changed(from, to));
        }
    }
    for (name, _) in old.keys().cloned().collect::<Vec<_>>() {
        let of_name = |map: &BTreeMap<Key, &Used>| -> Vec<Key> {
            map.keys().filter(|key| key.0 == name).cloned().collect()
        };
        if let ([from], [to]) = (of_name(&old).as_slice(), of_name(&new).as_slice())
            && let (Some(from), Some(to)) = (old.remove(from), new.remove(to))
        {
            push(Some(from), Some(to), Some(Change::Version { from: from.package.version.clone() }));
        }
    }
    old.values().for_each(|from| push(Some(from), None, Some(Change::Went)));
    new.values().for_each(|to| push(None, Some(to), Some(Change::Came)));
    found.extend(others(before, now));
    found.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
    found
}

type Key = (String, String);

fn used(side: Option<Side<'_>>) -> BTreeMap<Key, &Used> {
    let all = side.into_iter().flat_map(|side| side.service.used.values());
    let counts = all.filter(|used| matches!(used.class, Class::Linked | Class::BuildOnly));
    counts.map(|used| ((used.package.name.clone(), used.package.version.clone()), used)).collect()
}

fn changed(from: &Used, to: &Used) -> Option<Change> {
    if from.class != to.class {
        return Some(Change::Class { from: from.class });
    }
    let minus = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect();
    (from.features != to.features).then(|| Change::Features {
        added: minus(&to.features, &from.features),
        removed: minus(&from.features, &to.features),
    })
}

/// Sizes of what is no package.
fn others(before: Option<Side<'_>>, now: Option<Side<'_>>) -> Vec<Changed> {
    let sizes = |side: Option<Side<'_>>| -> BTreeMap<String, u64> {
        let parts = side.and_then(|side| side.sizes).map(|sizes| sizes.parts.clone()).unwrap_or_default();
        parts.into_iter().filter(|(name, _)| name.starts_with('(')).collect()
    };
    let (old, new) = (sizes(before), sizes(now));
    let other = |(name, now): (&String, &u64)| {
        let before = old.get(name).filter(|before| *before != now)?;
        Some(Changed {
            name: name.clone(),
            version: String::new(),
            class: None,
            change: Change::Bytes,
            before: Some(*before),
            now: Some(*now),
        })
    };
    new.iter().filter_map(other).collect()
}
