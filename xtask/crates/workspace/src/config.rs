//! `slipway.yaml` at the workspace root: what holds for all services. Every key is optional.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};
use stdx::yaml::{self, File};

use crate::base::Base;
use crate::cache::CacheSettings;
use crate::deps::DepsSettings;
use crate::platform::{Compression, Platform};
use crate::scan::ScanSettings;
use crate::services::ServiceEntry;
use crate::signing::SigningSettings;
use crate::stack::{self, DebianSettings, StackImage};

/// Settings of the whole workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How binaries are compiled.
    pub build: BuildSettings,
    /// What all images have in common.
    pub image: ImageSettings,
    /// Where Debian packages come from.
    pub debian: DebianSettings,
    /// Images of other people's programs, by name.
    pub images: BTreeMap<String, StackImage>,
    /// What services may be made of.
    pub deps: DepsSettings,
    /// By name: all services of the workspace, instead of those that are found.
    pub services: Option<BTreeMap<String, Option<ServiceEntry>>>,
    /// What scans go by.
    pub scan: ScanSettings,
    /// How images are signed.
    pub signing: SigningSettings,
    /// How tests run.
    pub test: TestSettings,
    /// Where results are kept.
    pub cache: CacheSettings,
    /// The block of the generated workflows, which has a reader of its own.
    #[cfg_attr(test, schemars(with = "serde_json::Map<String, serde_json::Value>"))]
    #[serde(deserialize_with = "elsewhere")]
    pub ci: (),
}

/// Any value: whoever reads the block judges it.
fn elsewhere<'de, D: Deserializer<'de>>(deserializer: D) -> Result<(), D::Error> {
    IgnoredAny::deserialize(deserializer).map(drop)
}

/// How binaries are compiled.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BuildSettings {
    /// Cargo profile.
    pub profile: String,
    /// Target triple; this machine's processor with glibc where `None`.
    pub target: Option<String>,
    /// What images are built for where the command line does not say; for `target` where empty.
    pub platforms: Vec<Platform>,
    /// Features beyond the default ones: `package/feature`.
    pub features: Vec<String>,
    /// Whether the default features of the services' packages are on.
    pub default_features: bool,
}

/// What all images have in common.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ImageSettings {
    /// Put before the service's name to make the image's name, for instance `registry.example.com/team/`.
    pub prefix: String,
    /// Who distributes the images.
    pub vendor: Option<String>,
    /// What roots are made of, for services that do not say.
    pub base: Base,
    /// How layers are kept.
    pub compression: Compression,
}

/// How tests run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct TestSettings {
    /// A test that runs for longer is called slow, once for each time this long.
    pub slow_after_s: u64,
    /// A test that runs for longer is ended and has failed; never where `None`.
    pub timeout_s: Option<u64>,
    /// Tests that cannot all run at the same time.
    pub groups: Vec<TestGroup>,
}

/// Tests that share something which only so many of them can use at the same time.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct TestGroup {
    /// Its name.
    pub name: String,
    /// How many run at the same time.
    pub max_threads: usize,
    /// Which: the id of a test binary, or one and, after a space, how the names of the tests begin.
    pub tests: Vec<String>,
}

impl TestGroup {
    /// Whether the test of this name in this binary is one of them.
    pub fn holds(&self, binary: &str, name: &str) -> bool {
        self.tests.iter().any(|entry| match entry.split_once(' ') {
            Some((id, prefix)) => id == binary && name.starts_with(prefix.trim()),
            None => entry == binary,
        })
    }
}

impl Default for TestSettings {
    fn default() -> TestSettings {
        TestSettings { slow_after_s: 60, timeout_s: None, groups: Vec::new() }
    }
}

impl Default for BuildSettings {
    fn default() -> BuildSettings {
        BuildSettings {
            profile: "release".to_owned(),
            target: None,
            platforms: vec![],
            features: vec![],
            default_features: true,
        }
    }
}

impl BuildSettings {
    /// Cargo's arguments that choose features.
    pub fn feature_args(&self) -> impl Iterator<Item = String> {
        let none = (!self.default_features).then(|| "--no-default-features".to_owned());
        none.into_iter().chain(self.features.iter().map(|feature| format!("--features={feature}")))
    }
}

impl Settings {
    /// The name of the file, at the workspace root.
    pub const FILE: &'static str = "slipway.yaml";

    /// Reads the settings of the workspace at `root`; defaults where the file is missing.
    pub fn load(root: &Path) -> Result<Settings> {
        let Some(file) = File::read_if_exists(&root.join(Settings::FILE))? else {
            return Ok(Settings::default());
        };
        let settings: Settings = file.parse()?;
        yaml::refuse_if_any(&settings.problems(&file))?;
        Ok(settings)
    }

    fn problems(&self, file: &File) -> Vec<yaml::Problem> {
        let mut problems = Vec::new();
        let profile = &self.build.profile;
        if profile.is_empty() || profile == "dev" || profile == "test" {
            let message =
                format!("`{profile}` is not a profile to ship; name `release` or one that inherits from it");
            problems.push(file.problem(&["build", "profile"], message));
        }
        let platforms = &self.build.platforms;
        if let Some(twice) = (1..platforms.len()).find(|at| platforms[..*at].contains(&platforms[*at])) {
            let message = format!("{} is named twice", platforms[twice]);
            problems.push(file.problem(&["build", "platforms"], message));
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-/:".contains(c);
        if !self.image.prefix.chars().all(allowed) {
            let message = format!("`{}` has characters that an image name cannot have", self.image.prefix);
            problems.push(file.problem(&["image", "prefix"], message));
        }
        if let Some(message) = self.image.base.problem() {
            problems.push(file.problem(&["image", "base"], message));
        }
        problems.extend(self.debian.problems(file));
        problems.extend(stack::problems(&self.images, file));
        let is_qualified =
            |feature: &&String| feature.split('/').filter(|part| !part.is_empty()).count() == 2;
        for feature in self.build.features.iter().filter(|feature| !is_qualified(feature)) {
            let message = format!("`{feature}` must name package and feature, such as `api/postgres`");
            problems.push(file.problem(&["build", "features"], message));
        }
        if self.services.as_ref().is_some_and(BTreeMap::is_empty) {
            let message = "names no service; remove the key to have them found";
            problems.push(file.problem(&["services"], message));
        }
        problems.extend(self.scan.problems(file));
        problems.extend(self.signing.problems(file));
        problems.extend(self.deps.problems(file));
        problems.extend(self.cache.problems(file));
        self.test.problems(file, &mut problems);
        problems
    }
}

impl TestSettings {
    fn problems(&self, file: &File, problems: &mut Vec<yaml::Problem>) {
        if self.slow_after_s == 0 || self.timeout_s == Some(0) {
            problems.push(file.problem(&["test"], "times are whole seconds, from 1".to_owned()));
        }
        for group in &self.groups {
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_".contains(c);
            if group.name.is_empty() || !group.name.chars().all(is_plain) {
                let message = format!("`{}` is no name of a group: letters, digits, `-` and `_`", group.name);
                problems.push(file.problem(&["test", "groups"], message));
            }
            if group.max_threads == 0 {
                let message = format!("max_threads of {} must be at least 1", group.name);
                problems.push(file.problem(&["test", "groups"], message));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signing::KeySource;

    fn load(text: &str) -> Result<Settings> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join(Settings::FILE), text)?;
        Settings::load(folder.path())
    }

    #[test]
    fn every_key_has_a_default() {
        assert_eq!(load("").unwrap(), Settings::default());
        assert_eq!(load("build:\n").unwrap(), Settings::default());
        assert_eq!(load("ci: { any: [thing] }").unwrap(), Settings::default());
        assert_eq!(load("image: { prefix: r.example/t/ }").unwrap().image.prefix, "r.example/t/");
    }

    #[test]
    fn platforms_and_compressions_are_those_that_there_are() {
        let settings =
            load("build: { platforms: [linux/amd64, linux/arm64] }\nimage: { compression: zstd }").unwrap();
        let platforms: Vec<_> = settings.build.platforms.iter().map(Platform::to_string).collect();
        assert_eq!(platforms, ["linux/amd64", "linux/arm64"]);
        assert_eq!(settings.image.compression, Compression::Zstd);
        for text in ["build:\n  platforms: [linux/x86]\n", "image:\n  compression: xz\n"] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains("slipway.yaml:2"), "{error}");
        }
        assert!(load("build: { platforms: [linux/arm64, linux/arm64] }").is_err());
    }

    #[test]
    fn features_become_arguments_of_cargo() {
        let build = load("build: { features: [a/b, c/d], default_features: false }").unwrap().build;
        let args: Vec<String> = build.feature_args().collect();
        assert_eq!(args, ["--no-default-features", "--features=a/b", "--features=c/d"]);
        assert_eq!(BuildSettings::default().feature_args().count(), 0);
        let error = load("build:\n  features: [plain]\nservices: {}\n").unwrap_err().to_string();
        assert!(
            error.contains("slipway.yaml:2: build.features: `plain`") && error.contains(":3: services"),
            "{error}"
        );
    }

    #[test]
    fn the_schema_in_the_reference_is_what_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/reference/settings.schema.json");
        let expected = serde_json::to_string_pretty(&schemars::schema_for!(Settings)).unwrap() + "\n";
        if std::env::var_os("SLIPWAY_UPDATE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let real = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(real == expected, "write it anew: SLIPWAY_UPDATE=1 cargo test -p slipway-workspace schema");
    }

    #[test]
    fn a_group_holds_a_binary_or_what_begins_so_in_it() {
        let text = "test: { groups: [{ name: db, max_threads: 1, tests: [\"a::it\", \"b::it store::\"] }] }";
        let group = load(text).unwrap().test.groups.remove(0);
        assert!(group.holds("a::it", "x") && group.holds("b::it", "store::x"));
        assert!(!group.holds("b::it", "x") && !group.holds("a", "x"));
        let error = load("test: { timeout_s: 0, groups: [{ name: a b, max_threads: 0, tests: [] }] }");
        assert_eq!(error.unwrap_err().to_string().matches("slipway.yaml:1").count(), 3);
    }

    #[test]
    fn problems_are_listed_together_with_their_lines() {
        let error = load("build:\n  profile: dev\nimage:\n  prefix: Über/\n").unwrap_err().to_string();
        assert!(
            error.contains("slipway.yaml:2: build.profile") && error.contains("slipway.yaml:4: image.prefix"),
            "{error}"
        );
    }

    #[test]
    fn the_key_is_named_and_never_written_here() {
        let key = |text: &str| {
            load(&format!("signing:\n  key: {text}\n")).map(|settings| settings.signing.key.unwrap())
        };
        assert_eq!(key("{ env: KEY }").unwrap(), KeySource::Env("KEY".into()));
        assert_eq!(key("{ file: ../k.pem }").unwrap(), KeySource::File("../k.pem".into()));
        assert_eq!(
            key("{ command: [pass, show, k] }").unwrap(),
            KeySource::Command(vec!["pass".into(), "show".into(), "k".into()])
        );
        for bad in ["{ env: \"-----BEGIN\" }", "{ file: \"\" }", "{ command: [] }"] {
            let error = key(bad).unwrap_err().to_string();
            assert!(error.contains("slipway.yaml:2: signing.key"), "{error}");
        }
        assert!(key("{ env: A, file: b }").is_err() && key("{ vault: a }").is_err());
        let error = load("signing:\n  builder: me\n").unwrap_err().to_string();
        assert!(error.contains("slipway.yaml:2: signing.builder: must be a URI"), "{error}");
    }

    #[test]
    fn budgets_are_checked_and_joined() {
        let text = "deps:\n  all: { forbid: [a], max_packages: 9, max_bytes: 5 }\n  services:\n    api: { forbid: [b@1.0.0], max_packages: 7 }\n";
        let budget = load(text).unwrap().deps.budget("api");
        assert_eq!((budget.forbid.len(), budget.max_packages, budget.max_bytes), (2, Some(7), Some(5)));
        let error = load(
            "deps:\n  record: ../x\n  all:\n    forbid: [\"a b\"]\n  services:\n    api:\n      dev_only: [\"\"]\n",
        );
        let error = error.unwrap_err().to_string();
        for part in [
            "slipway.yaml:2: deps.record",
            "deps.all.forbid: `a b` is no package",
            "deps.services.api.dev_only",
        ] {
            assert!(error.contains(part), "{error}");
        }
        assert!(
            load("deps: { all: { max_byte: 1 } }")
                .unwrap_err()
                .to_string()
                .contains("unknown field `max_byte`")
        );
    }

    #[test]
    fn where_results_are_kept_is_checked() {
        let cache = load("cache: { remote: { folder: /mnt/cache, write: true } }").unwrap().cache;
        assert!(cache.remote.is_some_and(|remote| remote.read && remote.write));
        let text = "cache:\n  local:\n    limit_gib: 0\n  remote:\n    registry: host\n    folder: /x\n";
        let error = load(text).unwrap_err().to_string();
        for expected in [
            "slipway.yaml:3: cache.local.limit_gib",
            "cache.remote: needs either",
            "slipway.yaml:5: cache.remote.registry",
        ] {
            assert!(error.contains(expected), "{error}");
        }
        assert!(load("cache: { remotes: {} }").is_err());
    }

    #[test]
    fn what_scans_go_by_is_checked() {
        let scan = load("scan:\n  fail_on: { advisories: high }\n");
        assert_eq!(scan.unwrap().scan.fail_on[&finding::Check::Advisories], finding::Severity::High);
        let error = load(
            "scan:\n  waivers: /etc/x\n  licences:\n    exceptions:\n      - { package: a, reason: b }\n",
        );
        let error = error.unwrap_err().to_string();
        assert!(error.contains("slipway.yaml:2: scan.waivers"), "{error}");
        assert!(error.contains("slipway.yaml:4: scan.licences.exceptions: `a` needs either"), "{error}");
        let error = load("scan:\n  fail_on:\n    advisory: high\n").unwrap_err().to_string();
        assert!(error.contains("unknown variant `advisory`"), "{error}");
    }
}
