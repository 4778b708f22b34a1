//! The `signing` section of `slipway.yaml`: where the key that signs images is, and which key counts.

use serde::Deserialize;
use stdx::yaml::{File, Problem};

/// With which key images are signed, and by which they are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SigningSettings {
    /// Where the private key is; images are built unsigned where `None`.
    pub key: Option<KeySource>,
    /// File of the public key, relative to the workspace's root.
    pub public_key: Option<String>,
    /// URI that stands for whoever builds, in provenance; a builder that nobody vouches for where `None`.
    pub builder: Option<String>,
}

/// Where a private key is. It never stands in the file itself.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(try_from = "Wire")]
pub enum KeySource {
    /// The variable that holds it.
    Env(String),
    /// The file that holds it, relative to the workspace's root. Nobody but its owner may be able to read it.
    File(String),
    /// The program that prints it, and its arguments.
    Command(Vec<String>),
}

#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct Wire {
    env: Option<String>,
    file: Option<String>,
    command: Option<Vec<String>>,
}

impl KeySource {
    /// The variable that the key is in, if it is in one.
    pub fn variable(&self) -> Option<&str> {
        match self {
            KeySource::Env(name) => Some(name),
            KeySource::File(_) | KeySource::Command(_) => None,
        }
    }
}

impl TryFrom<Wire> for KeySource {
    type Error = &'static str;

    fn try_from(wire: Wire) -> Result<KeySource, &'static str> {
        match wire {
            Wire { env: Some(name), file: None, command: None } => Ok(KeySource::Env(name)),
            Wire { env: None, file: Some(path), command: None } => Ok(KeySource::File(path)),
            Wire { env: None, file: None, command: Some(words) } => Ok(KeySource::Command(words)),
            Wire { .. } => Err("name one of `env`, `file` and `command`"),
        }
    }
}

impl SigningSettings {
    pub(crate) fn problems(&self, file: &File) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut report = |keys: &[&str], message: &str| {
            problems.push(file.problem(&[&["signing"], keys].concat(), message.to_owned()))
        };
        match &self.key {
            Some(KeySource::Env(name)) => {
                let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
                if name.is_empty() || !name.chars().all(is_plain) {
                    report(&["key", "env"], "name the variable that holds the key, not the key");
                }
            }
            Some(KeySource::File(path)) if path.trim().is_empty() || path.contains("PRIVATE KEY") => {
                report(&["key", "file"], "name the file that holds the key, not the key");
            }
            Some(KeySource::Command(words)) if words.first().is_none_or(|word| word.trim().is_empty()) => {
                report(&["key", "command"], "name a program and its arguments, as a list");
            }
            Some(KeySource::File(_) | KeySource::Command(_)) | None => {}
        }
        if self.public_key.as_ref().is_some_and(|path| path.trim().is_empty()) {
            report(&["public_key"], "name the file of the public key");
        }
        if self.builder.as_ref().is_some_and(|uri| !uri.contains(':') || uri.contains(char::is_whitespace)) {
            report(&["builder"], "must be a URI, such as https://example.com/builders/1");
        }
        problems
    }
}
