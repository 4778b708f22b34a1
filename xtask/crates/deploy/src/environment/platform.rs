//! What an environment file says of the platform. Invariant: a platform without settings is one word, so that files
//! that name nothing else stay what they were.

use std::fmt;

use serde::de::{self, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// What runs the services.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[cfg_attr(test, derive(schemars::JsonSchema), schemars(with = "tests::PlatformForm"))]
#[serde(rename_all = "lowercase")]
pub enum PlatformSettings {
    /// Processes on this machine.
    #[default]
    Process,
    /// Containers of a Docker engine.
    Docker(DockerSettings),
}

/// A Docker engine, and how containers are run there.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct DockerSettings {
    /// `unix:///path` or `ssh://user@host`; where absent, the engine that the `docker` client would use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The network that the environment's containers share.
    pub network: NetworkSettings,
}

/// The network of an environment's containers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSettings {
    /// Whether containers may open connections to anywhere else.
    pub egress: bool,
}

impl PlatformSettings {
    /// Its name in an environment file.
    pub fn name(&self) -> &'static str {
        match self {
            PlatformSettings::Process => "process",
            PlatformSettings::Docker(_) => "docker",
        }
    }
}

impl<'de> Deserialize<'de> for PlatformSettings {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<PlatformSettings, D::Error> {
        deserializer.deserialize_any(PlatformVisitor)
    }
}

struct PlatformVisitor;

impl<'de> Visitor<'de> for PlatformVisitor {
    type Value = PlatformSettings;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`process`, `docker` or `{ docker: { … } }`")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<PlatformSettings, E> {
        match name {
            "process" => Ok(PlatformSettings::Process),
            "docker" => Ok(PlatformSettings::Docker(DockerSettings::default())),
            other => Err(E::unknown_variant(other, &["process", "docker"])),
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PlatformSettings, A::Error> {
        let Some(name) = map.next_key::<String>()? else {
            return Err(de::Error::custom("`docker` is missing"));
        };
        let settings = match name.as_str() {
            "docker" => {
                PlatformSettings::Docker(map.next_value::<Option<DockerSettings>>()?.unwrap_or_default())
            }
            "process" => {
                map.next_value::<Option<Nothing>>()?;
                PlatformSettings::Process
            }
            other => return Err(de::Error::unknown_field(other, &["docker", "process"])),
        };
        match map.next_key::<String>()? {
            None => Ok(settings),
            Some(second) => {
                Err(de::Error::custom(format!("`{second}` beside `{name}`: an environment has one platform")))
            }
        }
    }
}

/// The settings of a platform that has none.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[cfg(test)]
pub(super) mod tests {
    use schemars::JsonSchema;

    use super::*;

    /// What runs the services.
    #[derive(JsonSchema)]
    #[schemars(untagged)]
    #[expect(dead_code, reason = "it stands for its schema")]
    pub(super) enum PlatformForm {
        /// A platform without further settings.
        Name(PlatformName),
        /// Docker with settings.
        Settings(WithSettings),
    }

    #[derive(JsonSchema)]
    #[schemars(rename_all = "lowercase")]
    #[expect(dead_code, reason = "it stands for its schema")]
    pub(super) enum PlatformName {
        /// Processes on this machine.
        Process,
        /// Containers of the Docker engine that the `docker` client would use.
        Docker,
    }

    #[derive(JsonSchema)]
    #[schemars(deny_unknown_fields)]
    #[expect(dead_code, reason = "it stands for its schema")]
    pub(super) struct WithSettings {
        /// Containers of a Docker engine.
        docker: DockerSettings,
    }

    #[test]
    fn a_platform_is_a_word_or_has_settings() {
        let read = |text: &str| parse(text);
        let docker = |host: Option<&str>, egress| {
            Ok(PlatformSettings::Docker(DockerSettings {
                host: host.map(str::to_owned),
                network: NetworkSettings { egress },
            }))
        };
        assert_eq!(read("process"), Ok(PlatformSettings::Process));
        assert_eq!(read("docker"), docker(None, false));
        assert_eq!(read("{ docker: }"), docker(None, false));
        assert_eq!(
            read("{ docker: { host: 'ssh://a@b', network: { egress: true } } }"),
            docker(Some("ssh://a@b"), true)
        );
        let fails = |text: &str, expected: &str| {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        };
        fails("podman", "`podman`");
        fails("{ docker: { hots: x } }", "hots");
        fails("{ docker: { network: { egres: true } } }", "egres");
        fails("{ process: { host: x } }", "host");
        fails("{ docker: {}, process: {} }", "one platform");
        fails("{}", "missing");
        fails("[docker]", "`process`, `docker` or");
    }

    #[test]
    fn what_is_kept_is_read_again_and_a_plain_platform_stays_a_word() {
        let check = |settings: PlatformSettings, expected: &str| {
            let text = serde_json::to_string(&settings).unwrap();
            assert_eq!(text, expected);
            assert_eq!(serde_json::from_str::<PlatformSettings>(&text).unwrap(), settings);
        };
        check(PlatformSettings::Process, r#""process""#);
        check(
            PlatformSettings::Docker(DockerSettings::default()),
            r#"{"docker":{"network":{"egress":false}}}"#,
        );
    }

    fn parse(text: &str) -> Result<PlatformSettings, String> {
        stdx::yaml::File { path: None, text: format!("platform: {text}\n") }
            .parse::<Wrapped>()
            .map(|wrapped| wrapped.platform)
            .map_err(|problem| problem.to_string())
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wrapped {
        platform: PlatformSettings,
    }
}
