//! The `scan` section of `slipway.yaml`: where advisories come from, which licences are allowed, what fails, how long a waiver
//! may hold.

use std::collections::BTreeMap;

use finding::{Check, Severity};
use serde::Deserialize;
use stdx::yaml::{File, Problem};

/// What scans go by.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ScanSettings {
    /// From which severity on findings of a check fail, where it differs from the default.
    #[cfg_attr(test, schemars(with = "BTreeMap<String, String>"))]
    pub fail_on: BTreeMap<Check, Severity>,
    /// The file of waivers, relative to the workspace's root.
    pub waivers: String,
    /// How many days ahead a waiver may end at most.
    pub max_waiver_days: u32,
    /// Where advisories come from.
    pub advisories: AdvisorySettings,
    /// Which licences are allowed.
    pub licences: LicenceSettings,
    /// What images must be like.
    pub images: ImageLimits,
}

/// What images must be like.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ImageLimits {
    /// The largest sum of an image's layers as they are stored; no limit where `None`.
    pub max_mib: Option<u64>,
}

/// Where advisories come from, and how old they may be.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AdvisorySettings {
    /// A folder or git checkout (relative to the workspace's root, or absolute), or a URL for `git clone`.
    pub database: String,
    /// A fetched database is asked for again after this many hours.
    pub refresh_hours: u32,
    /// A database that is older than this is warned about.
    pub warn_age_days: u32,
    /// A database that is older than this is a finding.
    pub max_age_days: u32,
}

/// Which licences are allowed for what is linked into services.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct LicenceSettings {
    /// SPDX licence identifiers, some with an exception (`Apache-2.0 WITH LLVM-exception`).
    pub allow: Vec<String>,
    /// Single packages that are judged otherwise.
    pub exceptions: Vec<LicenceException>,
}

/// How one package is judged otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct LicenceException {
    /// `name` or `name@version`.
    pub package: String,
    /// Identifiers that are allowed for it as well.
    #[serde(default)]
    pub allow: Vec<String>,
    /// The SPDX expression that somebody read out of its files, in place of what its manifest says.
    #[serde(default)]
    pub licence: Option<String>,
    /// Why.
    pub reason: String,
}

/// Where the RustSec project publishes its advisories.
const DATABASE: &str = "https://github.com/RustSec/advisory-db.git";

/// Licences that ask for no more than a notice, and dedications to the public.
const ALLOW: [&str; 16] = [
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BlueOak-1.0.0",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

impl Default for ScanSettings {
    fn default() -> ScanSettings {
        ScanSettings {
            fail_on: BTreeMap::new(),
            waivers: "ci/waivers.yaml".to_owned(),
            max_waiver_days: 180,
            advisories: AdvisorySettings::default(),
            licences: LicenceSettings::default(),
            images: ImageLimits::default(),
        }
    }
}

impl Default for AdvisorySettings {
    fn default() -> AdvisorySettings {
        AdvisorySettings {
            database: DATABASE.to_owned(),
            refresh_hours: 24,
            warn_age_days: 14,
            max_age_days: 90,
        }
    }
}

impl Default for LicenceSettings {
    fn default() -> LicenceSettings {
        LicenceSettings { allow: ALLOW.map(str::to_owned).into(), exceptions: vec![] }
    }
}

impl ScanSettings {
    pub(crate) fn problems(&self, file: &File) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report =
            |keys: &[&str], message: &str| problems.push(file.problem(&[&["scan"], keys].concat(), message));
        if self.advisories.database.trim().is_empty() {
            report(&["advisories", "database"], "name a folder, a git checkout or a URL");
        }
        if self.advisories.warn_age_days > self.advisories.max_age_days {
            report(&["advisories", "warn_age_days"], "is more than max_age_days");
        }
        if self.waivers.trim().is_empty() || self.waivers.starts_with('/') || self.waivers.contains("..") {
            report(&["waivers"], "must be a path below the workspace's root");
        }
        for exception in &self.licences.exceptions {
            let package = &exception.package;
            if package.trim().is_empty() || exception.reason.trim().is_empty() {
                report(&["licences", "exceptions"], &format!("`{package}` needs a package and a reason"));
            }
            if exception.allow.is_empty() == exception.licence.is_none() {
                let message = format!("`{package}` needs either `allow` or `licence`");
                report(&["licences", "exceptions"], &message);
            }
        }
        problems
    }
}
