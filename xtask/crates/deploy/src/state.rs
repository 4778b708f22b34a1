//! The folder that holds everything an environment keeps: where each thing is, and that only its owner may look. It
//! does not know what is in the files. Invariant: nothing is made, changed or removed in a folder that does not carry
//! our mark, and only a deployment sets it, in a folder that was missing or empty.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::environment::Environment;
use crate::outcome::Error;
use release::Release;
use stdx::yaml::Problem;

/// The file that marks a folder as an environment's.
const MARKER: &str = "slipway-state";

/// What is in it: the version of the folder's layout that this version reads and writes.
const SCHEMA: &str = "slipway.state/1\n";

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

/// What is at the place of an environment's folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, or an empty folder: a deployment may begin there.
    Room,
    /// An environment.
    Environment,
}

impl StateFolder {
    /// The environment in the folder `root`. Nothing is changed.
    ///
    /// # Errors
    /// [`Error::Preflight`] where there is none.
    pub(crate) fn open(root: &Path) -> Result<StateFolder, Error> {
        match StateFolder::find(root)? {
            (state, Found::Environment) => Ok(state),
            (state, Found::Room) => Err(no_deployment(&state.root, "")),
        }
    }

    /// What is at `root`. Nothing is changed.
    ///
    /// # Errors
    /// [`Error::Preflight`] where something else is than an environment of this user.
    pub(crate) fn find(root: &Path) -> Result<(StateFolder, Found), Error> {
        let root = std::path::absolute(root).with_context(|| format!("cannot resolve {}", root.display()))?;
        let meta = match std::fs::symlink_metadata(&root) {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Ok((StateFolder { root }, Found::Room));
            }
            meta => meta.with_context(|| format!("cannot look at {}", root.display()))?,
        };
        // A link could lead to a folder that somebody else chose.
        if !meta.is_dir() {
            return Err(no_deployment(&root, " is not a folder"));
        }
        if meta.uid() != rustix::process::geteuid().as_raw() {
            return Err(no_deployment(&root, &format!(" belongs to the user {}", meta.uid())));
        }
        match stdx::fs::read_if_exists(&root.join(MARKER))? {
            // A crash while the mark was set leaves less of it.
            Some(text) if SCHEMA.as_bytes().starts_with(&text) => {
                Ok((StateFolder { root }, Found::Environment))
            }
            Some(text) => {
                let text = String::from_utf8_lossy(&text);
                let text = format!("its layout is `{}`, this version reads `{}`", text.trim(), SCHEMA.trim());
                Err(Problem::new(root.display().to_string(), text).into())
            }
            None if is_empty(&root)? => Ok((StateFolder { root }, Found::Room)),
            None => {
                Err(no_deployment(&root, " holds other things, and a deployment begins in an empty folder"))
            }
        }
    }

    /// The environment in the folder `root`, which is made where there is room for it.
    ///
    /// # Errors
    /// As of [`StateFolder::find`].
    pub(crate) fn create(root: &Path) -> Result<StateFolder, Error> {
        let (state, _) = StateFolder::find(root)?;
        create_private_dir(&state.root)?;
        state.mark()?;
        for folder in [state.slots(), state.releases(), state.volumes()] {
            create_private_dir(&folder)?;
        }
        Ok(state)
    }

    /// Sets the mark in place, so that no other file is ever in a folder without it.
    fn mark(&self) -> Result<()> {
        let path = self.root.join(MARKER);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(false).mode(0o600).open(&path);
        let written = file.and_then(|mut file| {
            let is_whole = file.metadata()?.len() == SCHEMA.len() as u64;
            if is_whole { Ok(()) } else { file.write_all(SCHEMA.as_bytes()).and_then(|()| file.sync_all()) }
        });
        written.with_context(|| format!("cannot write {}", path.display()))
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

    /// The highest token that was granted with the lock.
    pub(crate) fn fence(&self) -> PathBuf {
        self.root.join("fence")
    }

    pub(crate) fn audit(&self) -> PathBuf {
        self.root.join("audit.jsonl")
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

fn no_deployment(root: &Path, why: &str) -> Error {
    let path = root.display();
    let detail = match why {
        "" => "; deploy first, or name the right environment or `--state`".to_owned(),
        why => format!(": it{why}"),
    };
    Problem::new("state folder", format!("no deployment here: {path}{detail}")).into()
}

fn is_empty(folder: &Path) -> Result<bool> {
    let mut entries =
        std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    Ok(entries.next().is_none())
}

/// Makes the folder `path`, for its owner only, and what is missing above it.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    if let Some(parent) = path.parent() {
        stdx::fs::create_dir_all(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists && path.is_dir() => {}
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
