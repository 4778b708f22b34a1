//! The `deps` section of `slipway.yaml`: what services may be made of, and how large their binaries may be.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use stdx::yaml::{File, Problem};

/// What services may be made of.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DepsSettings {
    /// The file of recorded sizes, relative to the workspace's root.
    pub record: String,
    /// For every service.
    pub all: Budget,
    /// For single services: lists are added to those of `all`, numbers replace them.
    pub services: BTreeMap<String, Budget>,
}

/// What one service may be made of. Packages are written `name` or `name@version`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Budget {
    /// Packages that must not be in the binary.
    pub forbid: BTreeSet<String>,
    /// Packages that only tests may use: neither in the binary nor needed to build it.
    pub dev_only: BTreeSet<String>,
    /// How many packages may be in the binary.
    pub max_packages: Option<usize>,
    /// How many packages may be in the binary in more than one version.
    pub max_duplicates: Option<usize>,
    /// Packages that may be there in several versions and do not count.
    pub allow_duplicates: BTreeSet<String>,
    /// How large the binary may be.
    pub max_bytes: Option<u64>,
    /// By how many bytes it may be larger than recorded.
    pub max_growth_bytes: Option<u64>,
    /// By how many percent it may be larger than recorded.
    pub max_growth_percent: Option<u32>,
}

impl Default for DepsSettings {
    fn default() -> DepsSettings {
        DepsSettings { record: "deps.lock".to_owned(), all: Budget::default(), services: BTreeMap::new() }
    }
}

impl DepsSettings {
    /// What holds for the service.
    pub fn budget(&self, service: &str) -> Budget {
        let none = Budget::default();
        let (all, own) = (&self.all, self.services.get(service).unwrap_or(&none));
        let joined = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.union(b).cloned().collect();
        Budget {
            forbid: joined(&all.forbid, &own.forbid),
            dev_only: joined(&all.dev_only, &own.dev_only),
            max_packages: own.max_packages.or(all.max_packages),
            max_duplicates: own.max_duplicates.or(all.max_duplicates),
            allow_duplicates: joined(&all.allow_duplicates, &own.allow_duplicates),
            max_bytes: own.max_bytes.or(all.max_bytes),
            max_growth_bytes: own.max_growth_bytes.or(all.max_growth_bytes),
            max_growth_percent: own.max_growth_percent.or(all.max_growth_percent),
        }
    }

    pub(crate) fn problems(&self, file: &File) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |keys: &[&str], message: String| {
            problems.push(file.problem(&[&["deps"], keys].concat(), message));
        };
        if self.record.trim().is_empty() || self.record.starts_with('/') || self.record.contains("..") {
            report(&["record"], "must be a path below the workspace's root".to_owned());
        }
        let own = self.services.iter().map(|(name, budget)| (vec!["services", name.as_str()], budget));
        for (keys, budget) in [(vec!["all"], &self.all)].into_iter().chain(own) {
            let lists = [
                ("forbid", &budget.forbid),
                ("dev_only", &budget.dev_only),
                ("allow_duplicates", &budget.allow_duplicates),
            ];
            for (list, packages) in lists {
                for package in packages.iter().filter(|package| !is_package(package)) {
                    let message = format!("`{package}` is no package: write `name` or `name@version`");
                    report(&[keys.as_slice(), &[list]].concat(), message);
                }
            }
        }
        problems
    }
}

fn is_package(text: &str) -> bool {
    let (name, version) = text.split_once('@').unwrap_or((text, "0"));
    let is_name = |c: char| c.is_alphanumeric() || c == '-' || c == '_';
    !name.is_empty() && name.chars().all(is_name) && version.starts_with(|c: char| c.is_ascii_digit())
}
