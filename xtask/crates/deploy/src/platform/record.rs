//! What an environment remembers of its platform: `status`, `logs`, `down` and `rollback` are called without an
//! environment file. Environments of earlier versions have no such record; they run processes.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::environment::PlatformSettings;
use crate::state::StateFolder;

/// The value of `schema` in a record that this version reads and writes.
const SCHEMA: &str = "slipway.platform/1";

/// The platform of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PlatformRecord {
    schema: String,
    /// Name of the environment.
    pub(crate) environment: String,
    /// What tells what belongs to this state folder from what belongs to another one of an environment with the same
    /// name. It is no secret.
    pub(crate) id: String,
    /// What the environment file said, with everything that it left open.
    pub(crate) settings: PlatformSettings,
}

impl PlatformRecord {
    /// A record for an environment that has none yet.
    pub(crate) fn new(environment: &str, settings: PlatformSettings) -> Result<PlatformRecord> {
        let mut random = [0; 8];
        let mut source = stdx::fs::open("/dev/urandom".as_ref())?;
        std::io::Read::read_exact(&mut source, &mut random).context("cannot read /dev/urandom")?;
        Ok(PlatformRecord {
            schema: SCHEMA.to_owned(),
            environment: environment.to_owned(),
            id: format!("{:016x}", u64::from_ne_bytes(random)),
            settings,
        })
    }

    /// What the environment wrote down; `None` for one that was never deployed to, or by an earlier version.
    pub(crate) fn load(state: &StateFolder) -> Result<Option<PlatformRecord>> {
        let path = path(state);
        let Some(bytes) = stdx::fs::read_if_exists(&path)? else { return Ok(None) };
        let record: PlatformRecord = serde_json::from_slice(&bytes)
            .with_context(|| format!("{} does not name a platform", path.display()))?;
        let known = record.schema == SCHEMA;
        ensure!(
            known,
            "{} has the schema `{}`, this version reads `{SCHEMA}`",
            path.display(),
            record.schema
        );
        Ok(Some(record))
    }

    pub(crate) fn write(&self, state: &StateFolder) -> Result<()> {
        stdx::fs::write_atomic(&path(state), &serde_json::to_vec(self)?, 0o600)
    }
}

fn path(state: &StateFolder) -> PathBuf {
    state.root().join("platform.json")
}
