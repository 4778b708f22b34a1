//! The release manifest: the only contract between build and deploy. It says which images belong together, how each one
//! wants to be run, and which source they came from. It knows neither how images are made nor where they will run.
//! Invariant: everything a deployment needs to start, gate and stop a service is in here, so that the same file deployed
//! again, or rolled back to, restores images *and* configuration.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use stdx::Digest;

/// The value of `schema` that this version reads and writes.
pub const SCHEMA: &str = "slipway.release/1";

/// A set of services that are deployed, and rolled back, together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Where the source stood, if the workspace is a git checkout.
    pub git: Option<GitState>,
    /// By service name.
    pub services: BTreeMap<String, Service>,
    /// The migrations that it was built with, by the name of the database; releases of earlier versions name none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub migrations: BTreeMap<String, MigrationSet>,
}

/// The migrations of one database: what decides whether a schema may lose something that this release used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationSet {
    /// Digest over the names and digests of all files.
    pub set: Digest,
    /// Digest of each file, by its path below the folder of migrations.
    pub files: BTreeMap<String, Digest>,
}

/// The commit that was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GitState {
    /// Full commit id.
    pub revision: String,
    /// Whether the work tree held changes that the commit does not.
    pub dirty: bool,
}

/// One service of a release: its image and how it wants to be run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Service {
    /// Version of the Cargo package.
    pub version: String,
    /// Digest of the image manifest.
    pub image: Digest,
    /// Digest of what would really run: layers and run configuration without labels. Two images that differ only in the
    /// commit they were built from have the same content.
    pub content: Digest,
    /// Digest of the SBOM document.
    pub sbom: Digest,
    /// Digest of the same as an SPDX document; releases of earlier versions name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spdx: Option<Digest>,
    /// Digest of the statement that says how the image was built; releases of earlier versions name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provenance: Option<Digest>,
    /// Where it listens; `None` for a service without a port.
    pub http: Option<Http>,
    /// How to tell that it is fit to serve; needs `http`.
    pub health: Option<HealthCheck>,
    /// How to stop it.
    pub stop: Stop,
    /// The variables that it reads, by name.
    pub env: BTreeMap<String, EnvVar>,
    /// The folders it keeps data in.
    pub volumes: Vec<Volume>,
    /// Upper bounds on what it may use.
    pub resources: Resources,
}

/// The port a service listens on and the paths it answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Http {
    /// Port inside its own network namespace.
    pub port: u16,
    /// Variable through which a platform without network namespaces gives it another port.
    pub port_env: String,
    /// What the edge sends to it; empty for a service that only answers health checks.
    pub routes: Vec<Route>,
}

/// Requests below a path prefix, on any host or one host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Host name without port; any host where `None`.
    pub host: Option<String>,
    /// Begins with `/`; matches whole path segments.
    pub path_prefix: String,
    /// Whether the prefix is removed before the request is passed on.
    pub strip_prefix: bool,
}

/// A GET that must answer 200 to 299.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    /// Begins with `/`.
    pub path: String,
    /// Time from one check to the next.
    pub interval_ms: u64,
    /// An answer that takes longer counts as unhealthy.
    pub timeout_ms: u64,
    /// How many healthy answers in a row make it fit to serve.
    pub healthy_threshold: u32,
    /// How long it may take from the start to being fit to serve.
    pub start_timeout_ms: u64,
}

/// How a service is asked to stop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stop {
    /// Signal name, for instance `SIGTERM`.
    pub signal: String,
    /// Time from the signal to SIGKILL.
    pub grace_ms: u64,
}

/// A variable that a service reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnvVar {
    /// What its text must be.
    pub kind: EnvKind,
    /// Whether a deployment without a value for it is refused.
    pub required: bool,
    /// Whether its value must never be shown or written down.
    pub secret: bool,
    /// The value where an environment gives none; never present for a secret.
    pub default: Option<String>,
    /// What it is for, in one sentence.
    pub description: String,
}

/// What the text of a variable must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum EnvKind {
    /// Any text.
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

/// A folder that outlives the service's processes. Services that name the same volume share it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Volume {
    /// Unique within an environment.
    pub name: String,
    /// Where it is mounted inside the image.
    pub path: String,
    /// Variable through which a platform without mounts tells where the folder really is.
    pub path_env: Option<String>,
}

/// Upper bounds; no bound where `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// Memory in bytes.
    pub memory_bytes: Option<u64>,
    /// Open file descriptors.
    pub open_files: Option<u64>,
}

impl Release {
    /// The digest of the manifest's canonical bytes: the release's identity.
    pub fn id(&self) -> Result<Digest> {
        Ok(Digest::of(self.to_bytes()?))
    }

    /// The manifest's canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        stdx::json::canonical(&serde_json::to_value(self)?)
    }

    /// Parses a manifest, refusing another schema before anything else is looked at.
    pub fn parse(bytes: &[u8]) -> Result<Release> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: String,
        }
        let Versioned { schema } = serde_json::from_slice(bytes).context("not a release manifest")?;
        if schema != SCHEMA {
            bail!("the release manifest has the schema `{schema}`, this version reads `{SCHEMA}`");
        }
        serde_json::from_slice(bytes).context("the release manifest is damaged")
    }

    /// Reads a manifest from a file.
    pub fn load(path: &Path) -> Result<Release> {
        Release::parse(&stdx::fs::read(path)?).with_context(|| path.display().to_string())
    }

    /// Writes the manifest to a file, atomically.
    pub fn write(&self, path: &Path) -> Result<()> {
        stdx::fs::write_atomic(path, &self.to_bytes()?, 0o644)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release() -> Release {
        let service = Service {
            version: "1.2.3".into(),
            image: Digest::of("image"),
            content: Digest::of("content"),
            sbom: Digest::of("sbom"),
            spdx: Some(Digest::of("spdx")),
            provenance: None,
            http: Some(Http { port: 8000, port_env: "PORT".into(), routes: vec![] }),
            health: None,
            stop: Stop { signal: "SIGTERM".into(), grace_ms: 10_000 },
            env: BTreeMap::new(),
            volumes: vec![],
            resources: Resources::default(),
        };
        Release {
            schema: SCHEMA.into(),
            git: None,
            services: BTreeMap::from([("api".into(), service)]),
            migrations: BTreeMap::new(),
        }
    }

    #[test]
    fn a_manifest_survives_the_round_trip_and_keeps_its_id() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("release.json");
        release().write(&path).unwrap();
        let read = Release::load(&path).unwrap();
        assert_eq!(read, release());
        assert_eq!(read.id().unwrap(), release().id().unwrap());
    }

    #[test]
    fn another_schema_and_damage_are_told_apart() {
        let text = String::from_utf8(release().to_bytes().unwrap()).unwrap();
        let check = |text: &str, expected: &str| {
            let error = format!("{:#}", Release::parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{error}");
        };
        check(&text.replace("release/1", "release/2"), "this version reads");
        check(&text.replace("sha256:", "sha1:"), "damaged");
        check(&text.replace("\"version\"", "\"versions\""), "damaged");
        check(&text[..text.len() / 2], "not a release manifest");
    }
}
