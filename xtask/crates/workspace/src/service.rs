//! `service.yaml` beside a package's Cargo.toml: what the service's image is and how the service wants to be run. Every key is
//! optional; a binary without a port, data or variables needs no file at all.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use stdx::yaml::{File, Problem};

use crate::base::Base;

/// The content of a `service.yaml`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ServiceConfig {
    /// One line for people; the package's own description where `None`.
    pub description: Option<String>,
    /// What is in the image.
    pub image: Image,
    /// Where it listens; `None` for a service without a port.
    pub http: Option<Http>,
    /// How to tell that it is fit to serve.
    pub health: Option<Health>,
    /// How to stop it.
    pub stop: Stop,
    /// The variables that it reads.
    pub env: BTreeMap<String, EnvVar>,
    /// The folders it keeps data in.
    pub volumes: Vec<Volume>,
    /// Upper bounds on what it may use.
    pub resources: Resources,
}

/// What is in the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Image {
    /// Binary target; the package's only one, or the one with the package's name, where `None`.
    pub binary: Option<String>,
    /// Arguments that the binary is always started with.
    pub args: Vec<String>,
    /// Environment that is part of the image. Never a place for secrets: whoever has the image can read it.
    pub env: BTreeMap<String, String>,
    /// Files to copy into the image.
    pub assets: Vec<Asset>,
    /// User and group id that it runs as.
    pub user: u32,
    /// What the image's root is made of; as `slipway.yaml` says where `None`, which is `static` unless it says otherwise.
    pub base: Option<Base>,
}

/// A file or folder of the package that is copied into the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Asset {
    /// Path relative to the package's folder.
    pub from: String,
    /// Absolute path inside the image.
    pub to: String,
}

/// The port a service listens on and the paths it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Port that it listens on unless told otherwise.
    pub port: u16,
    /// Variable that tells it another port.
    #[serde(default = "default_port_env")]
    pub port_env: String,
    /// What the edge sends to it.
    #[serde(default)]
    pub routes: Vec<Route>,
}

/// Requests below a path prefix, on any host or one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Host name; any host where `None`.
    #[serde(default)]
    pub host: Option<String>,
    /// Begins with `/`.
    pub path_prefix: String,
    /// Whether the prefix is removed before the request is passed on.
    #[serde(default)]
    pub strip_prefix: bool,
}

/// A GET that must answer 200 to 299 before the service gets any request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Health {
    /// Begins with `/`.
    pub path: String,
    /// From one check to the next.
    #[serde(default = "default_interval_ms")]
    pub interval_ms: u64,
    /// An answer that takes longer counts as unhealthy.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// Healthy answers in a row that make it fit to serve.
    #[serde(default = "default_healthy_threshold")]
    pub healthy_threshold: u32,
    /// How long it may take from the start to being fit to serve.
    #[serde(default = "default_start_timeout_ms")]
    pub start_timeout_ms: u64,
    /// Arguments with which the image's own binary checks itself; recorded as the image's health check.
    #[serde(default)]
    pub command: Vec<String>,
}

/// How a service is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Stop {
    /// Signal name.
    pub signal: String,
    /// From the signal to SIGKILL.
    pub grace_ms: u64,
}

/// A variable that a service reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// What its text must be.
    #[serde(default)]
    pub kind: EnvKind,
    /// Whether a deployment must give it a value.
    #[serde(default)]
    pub required: bool,
    /// Whether its value must never be shown or written down.
    #[serde(default)]
    pub secret: bool,
    /// The value where a deployment gives none.
    #[serde(default)]
    pub default: Option<String>,
    /// What it is for.
    #[serde(default)]
    pub description: String,
}

/// What the text of a variable must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum EnvKind {
    /// Any text.
    #[default]
    String,
    /// A whole number.
    Integer,
    /// A decimal number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// An absolute URL.
    Url,
}

/// A folder that outlives the service's processes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Services that name the same volume share it.
    pub name: String,
    /// Absolute path inside the image.
    pub path: String,
    /// Variable that tells where the folder is on a platform without mounts.
    #[serde(default)]
    pub path_env: Option<String>,
}

/// Upper bounds; no bound where `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// Memory in MiB.
    pub memory_mib: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
}

/// Neither root nor the first user of a usual machine.
const DEFAULT_USER: u32 = 10_001;
/// What the seven octal digits of a tar header hold.
const MAX_USER: u32 = 0o7_777_777;
const STOP_SIGNALS: [&str; 6] = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2"];

fn default_port_env() -> String {
    "PORT".to_owned()
}

fn default_interval_ms() -> u64 {
    200
}

fn default_timeout_ms() -> u64 {
    2_000
}

fn default_healthy_threshold() -> u32 {
    3
}

fn default_start_timeout_ms() -> u64 {
    30_000
}

impl Default for Image {
    fn default() -> Image {
        Image {
            binary: None,
            args: vec![],
            env: BTreeMap::new(),
            assets: vec![],
            user: DEFAULT_USER,
            base: None,
        }
    }
}

impl Default for Stop {
    fn default() -> Stop {
        Stop { signal: "SIGTERM".to_owned(), grace_ms: 10_000 }
    }
}

/// Where a service's settings stand: a file, and the keys above them.
pub(crate) struct Place<'a> {
    file: &'a File,
    above: &'a [&'a str],
}

impl<'a> Place<'a> {
    pub(crate) fn new(file: &'a File, above: &'a [&'a str]) -> Place<'a> {
        Place { file, above }
    }

    fn problem(&self, keys: &[&str], message: impl Into<String>) -> Problem {
        self.file.problem(&[self.above, keys].concat(), message)
    }
}

impl ServiceConfig {
    /// The name of the file, in a package's folder.
    pub const FILE: &'static str = "service.yaml";

    /// Reads the file in the package folder `folder`; `None` where there is none. What is wrong with values is added to
    /// `problems`.
    ///
    /// # Errors
    /// When the file is not YAML of this shape.
    pub fn load(folder: &Path, problems: &mut Vec<Problem>) -> Result<Option<ServiceConfig>> {
        let Some(file) = File::read_if_exists(&folder.join(ServiceConfig::FILE))? else { return Ok(None) };
        let config: ServiceConfig = file.parse()?;
        config.check(&Place::new(&file, &[]), folder, problems);
        Ok(Some(config))
    }

    pub(crate) fn check(&self, file: &Place<'_>, folder: &Path, problems: &mut Vec<Problem>) {
        self.check_image(file, folder, problems);
        self.check_network(file, problems);
        self.check_variables(file, problems);
        let mut report = |key: &str, message: String| {
            problems.push(file.problem(&key.split('.').collect::<Vec<_>>(), message))
        };
        if !STOP_SIGNALS.contains(&self.stop.signal.as_str()) {
            report("stop.signal", format!("`{}` is none of {}", self.stop.signal, STOP_SIGNALS.join(", ")));
        }
        for volume in &self.volumes {
            if !is_name(&volume.name) {
                report("volumes.name", format!("`{}` is not a name of a-z, 0-9 and -", volume.name));
            }
            if !volume.path.starts_with('/') || volume.path == "/" {
                report("volumes.path", format!("`{}` must be an absolute path below /", volume.path));
            }
        }
    }

    fn check_image(&self, file: &Place<'_>, folder: &Path, problems: &mut Vec<Problem>) {
        let mut report = |key: &str, message: String| {
            problems.push(file.problem(&key.split('.').collect::<Vec<_>>(), message))
        };
        if self.image.user == 0 {
            report("image.user", "0 is root; services run as an ordinary user".to_owned());
        }
        if self.image.user > MAX_USER {
            report("image.user", format!("{} is more than a layer can record ({MAX_USER})", self.image.user));
        }
        if let Some(message) = self.image.base.as_ref().and_then(Base::problem) {
            report("image.base", message);
        }
        for asset in &self.image.assets {
            if !folder.join(&asset.from).exists() {
                report("image.assets.from", format!("there is no {} in the package's folder", asset.from));
            }
            if !asset.to.starts_with('/') {
                report("image.assets.to", format!("`{}` must be an absolute path", asset.to));
            }
        }
        for name in self.image.env.keys().filter(|name| self.env.get(*name).is_some_and(|var| var.secret)) {
            report("image.env", format!("`{name}` is a secret: an image is no place for its value"));
        }
    }

    fn check_network(&self, file: &Place<'_>, problems: &mut Vec<Problem>) {
        let mut report = |key: &str, message: String| {
            problems.push(file.problem(&key.split('.').collect::<Vec<_>>(), message))
        };
        if let Some(http) = &self.http {
            if http.port < 1024 {
                report("http.port", format!("{} needs root to listen on; choose 1024 or more", http.port));
            }
            for route in &http.routes {
                if !route.path_prefix.starts_with('/') {
                    report("http.routes.path_prefix", format!("`{}` must begin with /", route.path_prefix));
                }
            }
        }
        if let Some(health) = &self.health {
            if self.http.is_none() {
                report("health", "there is no `http.port` to check".to_owned());
            }
            if !health.path.starts_with('/') {
                report("health.path", format!("`{}` must begin with /", health.path));
            }
            if health.healthy_threshold == 0 || health.interval_ms == 0 || health.timeout_ms == 0 {
                report(
                    "health",
                    "interval_ms, timeout_ms and healthy_threshold must be at least 1".to_owned(),
                );
            }
        }
    }

    fn check_variables(&self, file: &Place<'_>, problems: &mut Vec<Problem>) {
        for (name, var) in &self.env {
            let mut report = |message: &str| problems.push(file.problem(&["env", name], message));
            if var.secret && var.default.is_some() {
                report("a secret has no default");
            }
            if var.required && var.default.is_some() {
                report("a variable with a default is not required");
            }
            if let Some(default) = &var.default
                && !var.kind.admits(default)
            {
                report(&format!("the default `{default}` is not of the kind {:?}", var.kind));
            }
        }
    }
}

impl EnvKind {
    fn admits(self, text: &str) -> bool {
        match self {
            EnvKind::String => true,
            EnvKind::Integer => text.parse::<i64>().is_ok(),
            EnvKind::Number => text.parse::<f64>().is_ok_and(f64::is_finite),
            EnvKind::Boolean => matches!(text, "true" | "false"),
            EnvKind::Url => {
                text.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty())
            }
        }
    }
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(ServiceConfig::FILE), text).unwrap();
        let mut problems = Vec::new();
        ServiceConfig::load(folder.path(), &mut problems).unwrap().unwrap();
        let prefix = format!("{}/", folder.path().display());
        problems.iter().map(|problem| problem.to_string().replace(&prefix, "")).collect()
    }

    #[test]
    fn an_empty_file_is_a_service_with_defaults() {
        assert!(problems("").is_empty());
        let mut none = Vec::new();
        assert_eq!(ServiceConfig::load(Path::new("/nowhere"), &mut none).unwrap(), None);
    }

    #[test]
    fn each_rule_is_reported_at_its_line() {
        let check = |text: &str, expected: &str| assert_eq!(problems(text), [expected], "{text}");
        check(
            "image:\n  user: 0\n",
            "service.yaml:2: image.user: 0 is root; services run as an ordinary user",
        );
        check(
            "image:\n  assets:\n    - from: gone\n      to: /x\n",
            "service.yaml:3: image.assets.from: there is no gone in the package's folder",
        );
        check(
            "http:\n  port: 80\n",
            "service.yaml:2: http.port: 80 needs root to listen on; choose 1024 or more",
        );
        check("health:\n  path: /x\n", "service.yaml:1: health: there is no `http.port` to check");
        check("env:\n  A: { secret: true, default: x }\n", "service.yaml:2: env.A: a secret has no default");
        check(
            "env:\n  A: { kind: integer, default: x }\n",
            "service.yaml:2: env.A: the default `x` is not of the kind Integer",
        );
        check(
            "volumes:\n  - name: data\n    path: data\n",
            "service.yaml:3: volumes.path: `data` must be an absolute path below /",
        );
    }

    #[test]
    fn all_problems_are_found_in_one_go() {
        assert_eq!(problems("image: { user: 0 }\nhttp: { port: 1 }\nstop: { signal: KILL }\n").len(), 3);
    }

    #[test]
    fn the_schema_in_the_reference_is_what_is_read() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../docs/reference/service.schema.json");
        let expected = serde_json::to_string_pretty(&schemars::schema_for!(ServiceConfig)).unwrap() + "\n";
        if std::env::var_os("SLIPWAY_UPDATE").is_some() {
            std::fs::write(&path, &expected).unwrap();
        }
        let real = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(real == expected, "write it anew: SLIPWAY_UPDATE=1 cargo test -p slipway-workspace schema");
    }
}
