//! `debian:` and `images:` of `slipway.yaml`: which release of Debian packages come from, and images of other people's programs
//! that this workspace's stack needs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stdx::yaml::{File, Problem};

use crate::base::is_package_name;

/// Where Debian packages come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DebianSettings {
    /// Release, by codename.
    pub release: String,
    /// Processors that packages are locked for, in Debian's words.
    pub architectures: Vec<String>,
}

/// An image that is made of Debian packages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StackImage {
    /// What its root is made of.
    pub base: StackBase,
    /// Files with the text given here, by path.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Empty folders that belong to the image's user.
    #[serde(default)]
    pub dirs: Vec<String>,
    /// Name and number of the user that it runs as.
    pub user: StackUser,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Program (an absolute path) and arguments that always stand.
    pub entrypoint: Vec<String>,
    /// Arguments that whoever starts it may replace.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// TCP ports it listens on.
    #[serde(default)]
    pub ports: Vec<u16>,
    /// Folders that want a volume.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Signal that asks it to stop.
    #[serde(default = "default_stop_signal")]
    pub stop_signal: String,
    /// Labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Debian packages, and what of them is left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StackBase {
    /// Packages, which come with what they depend on.
    pub debian: Vec<String>,
    /// Packages that are left out although others ask for them, with what only they ask for.
    #[serde(default)]
    pub without: Vec<String>,
    /// Paths that are left out, with all below them.
    #[serde(default)]
    pub drop: Vec<String>,
}

/// Whom a program runs as.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StackUser {
    /// Name of user and group.
    pub name: String,
    /// Number of user and group.
    pub id: u32,
}

fn default_stop_signal() -> String {
    "SIGTERM".to_owned()
}

impl Default for DebianSettings {
    fn default() -> DebianSettings {
        DebianSettings { release: "bookworm".to_owned(), architectures: vec!["amd64".to_owned()] }
    }
}

impl DebianSettings {
    pub(crate) fn problems(&self, file: &File) -> Vec<Problem> {
        let is_word = |text: &str| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit())
        };
        let mut problems = Vec::new();
        if !is_word(&self.release) {
            let message = format!("`{}` is no codename of a release, such as bookworm", self.release);
            problems.push(file.problem(&["debian", "release"], message));
        }
        if self.architectures.is_empty() || !self.architectures.iter().all(|name| is_word(name)) {
            let message = "name processors in Debian's words, such as amd64 and arm64";
            problems.push(file.problem(&["debian", "architectures"], message));
        }
        problems
    }
}

/// What is wrong with `images:`.
pub(crate) fn problems(images: &BTreeMap<String, StackImage>, file: &File) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, image) in images {
        let mut report = |key: &str, message: String| {
            problems.push(file.problem(&["images", name, key], message));
        };
        let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if name.is_empty() || !name.chars().all(is_name) {
            report("", format!("`{name}` is not a name of a-z, 0-9 and -"));
        }
        for package in image.base.debian.iter().chain(&image.base.without) {
            if !is_package_name(package) {
                report("base", format!("`{package}` is no name of a Debian package"));
            }
        }
        if image.base.debian.is_empty() {
            report("base", "name at least one package".to_owned());
        }
        if image.user.id == 0 || image.user.id > 65_533 {
            report("user", format!("{} is no ordinary user: 1 to 65533", image.user.id));
        }
        let is_user = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c);
        if image.user.name.is_empty() || !image.user.name.chars().all(is_user) {
            report("user", format!("`{}` is no name of a user", image.user.name));
        }
        if !image.entrypoint.first().is_some_and(|program| program.starts_with('/')) {
            report("entrypoint", "begin with the absolute path of a program".to_owned());
        }
        let paths = image.files.keys().chain(&image.dirs).chain(&image.volumes).chain(&image.base.drop);
        for path in paths.filter(|path| !path.starts_with('/') || path.len() < 2) {
            report("base", format!("`{path}` must be an absolute path below /"));
        }
    }
    problems
}
