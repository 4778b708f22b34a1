//! The `cache` section of `slipway.yaml`: where results are kept, on this machine and for others, and how much of them.

use serde::Deserialize;
use stdx::yaml::{File, Problem};

/// Where results are kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct CacheSettings {
    /// The store of this machine.
    pub local: LocalCache,
    /// One that others share; none where `None`.
    pub remote: Option<RemoteCache>,
}

/// The store of this machine.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LocalCache {
    /// Its folder, relative to the workspace's root, or absolute; below Cargo's home where `None`.
    pub path: Option<String>,
    /// How large it may grow.
    pub limit_gib: u64,
}

/// A store that others share: a registry or a folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RemoteCache {
    /// A repository of a registry, such as `registry.example.com/team/cache`.
    #[serde(default)]
    pub registry: Option<String>,
    /// A folder that several machines mount, relative to the workspace's root, or absolute.
    #[serde(default)]
    pub folder: Option<String>,
    /// Whether a folder is believed although others than its user and root may write to it: they decide what is run then.
    #[serde(default)]
    pub others_may_write: bool,
    /// Whether it is looked into.
    #[serde(default = "yes")]
    pub read: bool,
    /// Whether a run that is asked to (`--cache read-write`) writes to it.
    #[serde(default)]
    pub write: bool,
}

fn yes() -> bool {
    true
}

impl Default for LocalCache {
    fn default() -> LocalCache {
        LocalCache { path: None, limit_gib: 10 }
    }
}

impl CacheSettings {
    pub(crate) fn problems(&self, file: &File) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report =
            |keys: &[&str], message: &str| problems.push(file.problem(&[&["cache"], keys].concat(), message));
        let is_blank = |text: &Option<String>| text.as_ref().is_some_and(|text| text.trim().is_empty());
        if is_blank(&self.local.path) {
            report(&["local", "path"], "name a folder");
        }
        if !(1..=16_384).contains(&self.local.limit_gib) {
            report(&["local", "limit_gib"], "must be between 1 and 16384");
        }
        if let Some(remote) = &self.remote {
            if remote.registry.is_some() == remote.folder.is_some() {
                report(&["remote"], "needs either `registry` or `folder`");
            }
            for (key, value) in [("registry", &remote.registry), ("folder", &remote.folder)] {
                if is_blank(value) {
                    report(&["remote", key], "must not be empty");
                }
            }
            if remote.registry.as_ref().is_some_and(|name| !name.contains('/')) {
                report(
                    &["remote", "registry"],
                    "name a repository as well, such as `registry.example.com/team/cache`",
                );
            }
        }
        problems
    }
}
