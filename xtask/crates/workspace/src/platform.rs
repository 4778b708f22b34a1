//! Platforms of images, as `slipway.yaml` and `--platform` name them, and the Rust targets that make them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Processors: in Go's words, as images have them, and in Rust's.
const PROCESSORS: [(&str, &str); 5] = [
    ("amd64", "x86_64"),
    ("arm64", "aarch64"),
    ("ppc64le", "powerpc64le"),
    ("riscv64", "riscv64gc"),
    ("s390x", "s390x"),
];

/// How layers are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Every engine and registry reads it.
    #[default]
    Gzip,
    /// Faster and smaller; engines read it since 2023.
    Zstd,
}

/// A platform that images can be built for: Linux on a known processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "String"))]
pub struct Platform {
    /// In Go's words.
    architecture: &'static str,
}

/// A text that names no platform that images can be built for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParsePlatformError(String);

impl Platform {
    /// The processor in Go's words, for instance `arm64`.
    pub fn architecture(&self) -> &'static str {
        self.architecture
    }

    /// The platform that binaries of the target triple run on.
    pub fn of_target(target: &str) -> Option<Platform> {
        let mut parts = target.split('-');
        let processor = parts.next()?;
        let found = PROCESSORS.iter().find(|(_, rust)| *rust == processor)?;
        parts.any(|part| part == "linux").then_some(Platform { architecture: found.0 })
    }

    /// The platform that containers on this machine run on; `None` for a processor that no image is for.
    pub fn of_this_machine() -> Option<Platform> {
        Platform::of_target(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
    }

    /// The target triple to build with. `configured` is that of `build.target`: it is used where it makes this platform, and otherwise
    /// its C library is.
    pub fn target(&self, configured: Option<&str>) -> String {
        if let Some(target) = configured.filter(|target| Platform::of_target(target) == Some(*self)) {
            return target.to_owned();
        }
        let known = PROCESSORS.iter().find(|(go, _)| *go == self.architecture);
        let processor = known.map_or(self.architecture, |(_, rust)| rust);
        let library = configured.and_then(|target| target.rsplit('-').next()).unwrap_or("gnu");
        format!("{processor}-unknown-linux-{library}")
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux/{}", self.architecture)
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Platform, ParsePlatformError> {
        let refuse = || ParsePlatformError(text.to_owned());
        let processor = text.strip_prefix("linux/").ok_or_else(refuse)?;
        // The only variant that Docker names and that means nothing.
        let processor = if processor == "arm64/v8" { "arm64" } else { processor };
        let found = PROCESSORS.iter().find(|(go, _)| *go == processor).ok_or_else(refuse)?;
        Ok(Platform { architecture: found.0 })
    }
}

impl fmt::Display for ParsePlatformError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = PROCESSORS.map(|(go, _)| format!("linux/{go}")).join(", ");
        write!(f, "`{}` is no platform that images can be built for; there are {known}", self.0)
    }
}

impl std::error::Error for ParsePlatformError {}

impl<'de> Deserialize<'de> for Platform {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Platform, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_the_targets_that_the_configuration_asks_for() {
        let check = |platform: &str, configured: Option<&str>, expected: &str| {
            assert_eq!(platform.parse::<Platform>().unwrap().target(configured), expected);
        };
        check("linux/amd64", None, "x86_64-unknown-linux-gnu");
        check("linux/arm64/v8", None, "aarch64-unknown-linux-gnu");
        check("linux/riscv64", None, "riscv64gc-unknown-linux-gnu");
        check("linux/arm64", Some("x86_64-unknown-linux-musl"), "aarch64-unknown-linux-musl");
        check("linux/amd64", Some("x86_64-custom-linux-gnu"), "x86_64-custom-linux-gnu");
    }

    #[test]
    fn what_is_no_platform_is_refused_with_those_that_there_are() {
        for text in ["", "linux", "linux/", "amd64", "windows/amd64", "linux/arm64/v7", "linux/x86_64"] {
            let error = text.parse::<Platform>().unwrap_err().to_string();
            assert!(error.contains("linux/arm64"), "{error}");
        }
        assert_eq!(Platform::of_target("aarch64-apple-darwin"), None);
        assert_eq!(Platform::of_target("wasm32-wasip2"), None);
    }
}
