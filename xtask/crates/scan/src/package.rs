//! Packages with what they are to each service.

use std::collections::{BTreeMap, BTreeSet};

use rustsec::semver::Version;
use workspace::{Closures, Workspace};

use crate::lock::Locked;

/// What a package is to a service. Ordered: `Absent` is least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// In the lock file, and in none of its compilations.
    Absent,
    /// Compiled and run to build it, and not in its binary.
    BuildOnly,
    /// In its binary.
    Linked,
}

/// A package, and what it is to which services.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: Version,
    /// Whether it comes from the registry that advisories are about.
    pub is_from_crates_io: bool,
    /// Its line in the lock file, from 1.
    pub line: Option<u32>,
    /// The services that it is linked into.
    pub linked: BTreeSet<String>,
    /// The services that it only helps to build.
    pub build_only: BTreeSet<String>,
}

impl Package {
    /// What it is to the service to which it is most.
    pub fn class(&self) -> Class {
        match (self.linked.is_empty(), self.build_only.is_empty()) {
            (false, _) => Class::Linked,
            (true, false) => Class::BuildOnly,
            (true, true) => Class::Absent,
        }
    }

    /// `name@version`, as Cargo takes it on its command line.
    pub fn spec(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }
}

impl Class {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Class::Linked => "linked",
            Class::BuildOnly => "build-only",
            Class::Absent => "absent",
        }
    }
}

/// Joins what is locked with what is compiled.
pub(crate) fn join(locked: Vec<Locked>, workspace: &Workspace, closures: &Closures) -> Vec<Package> {
    type Key = (String, String, Option<String>);
    let mut uses: BTreeMap<Key, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    let source =
        |package: &cargo_metadata::Package| package.source.as_ref().map(|source| source.repr.clone());
    let keys: BTreeMap<&str, Key> = workspace
        .metadata
        .packages
        .iter()
        .map(|one| (one.id.repr.as_str(), key(&one.name, &one.version, source(one).as_deref())))
        .collect();
    for (service, closure) in &closures.services {
        let linked = closure.linked.keys().map(|id| (id, true));
        for (id, is_linked) in linked.chain(closure.build_only.keys().map(|id| (id, false))) {
            let Some(key) = keys.get(id.as_str()) else { continue };
            let (linked, build_only) = uses.entry(key.clone()).or_default();
            let set = if is_linked { linked } else { build_only };
            set.insert(service.clone());
        }
    }
    let package = |locked: Locked| {
        let key = key(&locked.name, &locked.version, locked.source.as_deref());
        let (linked, build_only) = uses.get(&key).cloned().unwrap_or_default();
        Package {
            is_from_crates_io: locked.source.as_deref().is_some_and(is_crates_io),
            name: locked.name,
            version: locked.version,
            line: locked.line,
            linked,
            build_only,
        }
    };
    locked.into_iter().map(package).collect()
}

/// Cargo writes a commit behind `#` in one place and not in another.
fn key(name: &str, version: &Version, source: Option<&str>) -> (String, String, Option<String>) {
    let source = source.map(|source| source.split('#').next().unwrap_or(source).to_owned());
    (name.to_owned(), version.to_string(), source)
}

/// Both spellings of the one registry: by its git index and by its sparse index.
pub(crate) fn is_crates_io(source: &str) -> bool {
    matches!(
        source.trim_end_matches('/'),
        "registry+https://github.com/rust-lang/crates.io-index" | "sparse+https://index.crates.io"
    )
}
