//! The folder that holds everything an environment keeps: where each thing is, and that only its owner may look. It
//! does not know what is in the files.

use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use release::Release;

/// The value of `schema` in a kept deployment that this version reads and writes.
const DEPLOYMENT_SCHEMA: &str = "slipway.deployment/1";

/// An environment's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StateFolder {
    root: PathBuf,
}

/// What was deployed: enough to deploy it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Deployment {
    schema: String,
    /// Name of the environment.
    pub(crate) name: String,
    /// Its values; secrets are references.
    pub(crate) environment: Environment,
    /// The release.
    pub(crate) release: Release,
}

impl StateFolder {
    /// The folder at `root`, which may not be there yet.
    pub(crate) fn new(root: &Path) -> Result<StateFolder> {
        let root = std::path::absolute(root).with_context(|| format!("cannot resolve {}", root.display()))?;
        Ok(StateFolder { root })
    }

    /// Makes what is missing of it.
    pub(crate) fn create(&self) -> Result<()> {
        for folder in [&self.root, &self.slots(), &self.releases(), &self.volumes()] {
            create_private_dir(folder)?;
        }
        Ok(())
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.root.join("journal.jsonl")
    }

    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    pub(crate) fn slots(&self) -> PathBuf {
        self.root.join("slots")
    }

    pub(crate) fn edge(&self) -> PathBuf {
        self.root.join("edge")
    }

    /// Where the edge's supervisor keeps its records.
    pub(crate) fn edge_process(&self) -> PathBuf {
        self.root.join("edge-process")
    }

    pub(crate) fn volumes(&self) -> PathBuf {
        self.root.join("data")
    }

    pub(crate) fn releases(&self) -> PathBuf {
        self.root.join("releases")
    }

    /// The key for comparing secrets: made on first use, gone with the folder.
    pub(crate) fn secret_key(&self) -> Result<Vec<u8>> {
        let path = self.root.join("key");
        if let Some(key) = stdx::fs::read_if_exists(&path)? {
            return Ok(key);
        }
        let mut key = vec![0; 32];
        let mut random = stdx::fs::open(Path::new("/dev/urandom"))?;
        std::io::Read::read_exact(&mut random, &mut key).context("cannot read /dev/urandom")?;
        stdx::fs::write_atomic(&path, &key, 0o600)?;
        Ok(key)
    }

    /// Keeps what is deployed under its identity.
    pub(crate) fn write_deployment(
        &self,
        id: &str,
        name: &str,
        environment: &Environment,
        release: &Release,
    ) -> Result<()> {
        let deployment = Deployment {
            schema: DEPLOYMENT_SCHEMA.to_owned(),
            name: name.to_owned(),
            environment: environment.clone(),
            release: release.clone(),
        };
        stdx::fs::write_atomic(&self.deployment(id), &serde_json::to_vec(&deployment)?, 0o600)
    }

    /// What was deployed under this identity.
    pub(crate) fn read_deployment(&self, id: &str) -> Result<Deployment> {
        let path = self.deployment(id);
        let deployment: Deployment = serde_json::from_slice(&stdx::fs::read(&path)?)
            .with_context(|| format!("{} is not a kept deployment", path.display()))?;
        anyhow::ensure!(
            deployment.schema == DEPLOYMENT_SCHEMA,
            "{} has the schema `{}`, this version reads `{DEPLOYMENT_SCHEMA}`",
            path.display(),
            deployment.schema
        );
        Ok(deployment)
    }

    fn deployment(&self, id: &str) -> PathBuf {
        self.releases().join(format!("{id}.json"))
    }
}

/// Makes the folder `path`, for its owner only, and what is missing above it.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        stdx::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && path.is_dir() => {}
        made => made.with_context(|| format!("cannot create the folder {}", path.display()))?,
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("cannot protect the folder {}", path.display()))
}

/// Opens the file at `path` for reading and appending, for its owner only; makes it where it is missing.
pub(crate) fn open_private(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).append(true).create(true).mode(0o600);
    options.open(path).with_context(|| format!("cannot open {}", path.display()))
}

/// The wall clock in milliseconds since 1970: for people, never for a decision.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
