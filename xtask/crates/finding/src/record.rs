//! What a scan of a release found, kept beside the release: what a deployment goes by. It is bound to the release by the
//! release's digest, so that neither can be changed without the other being refused.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::{Check, Finding};

/// The value of `schema` that this version reads and writes.
pub const SCHEMA: &str = "slipway.scan-record/1";
/// A record is small; whatever is larger is refused before it is parsed.
const MAX_BYTES: u64 = 64 << 20;

/// What a scan of a release found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Identity of the release that was scanned.
    pub release: Digest,
    /// When, in seconds since 1970.
    pub scanned_at: u64,
    /// What was checked.
    pub checks: BTreeSet<Check>,
    /// What was found, the worst first.
    pub findings: Vec<Recorded>,
}

/// A finding, and whether it was waived at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// What was found.
    pub finding: Finding,
    /// Who took it on until when.
    pub waived: Option<Waived>,
}

/// The part of a waiver that a deployment goes by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Waived {
    /// Who answers for it.
    pub owner: String,
    /// Why it may stay for now.
    pub reason: String,
    /// The last day on which it holds, as `2026-12-31`.
    pub expires: String,
}

impl Record {
    /// Reads a record from a file.
    ///
    /// # Errors
    /// When it is no record of this schema.
    pub fn load(path: &Path) -> Result<Record> {
        let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
        if size > MAX_BYTES {
            bail!("{} is {size} bytes long: no scan record is", path.display());
        }
        Record::parse(&stdx::fs::read(path)?).with_context(|| path.display().to_string())
    }

    /// Parses a record, refusing another schema before anything else is looked at.
    ///
    /// # Errors
    /// When it is no record of this schema.
    pub fn parse(bytes: &[u8]) -> Result<Record> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: String,
        }
        let Versioned { schema } = serde_json::from_slice(bytes).context("not a scan record")?;
        if schema != SCHEMA {
            bail!("the scan record has the schema `{schema}`, this version reads `{SCHEMA}`");
        }
        serde_json::from_slice(bytes).context("the scan record is damaged")
    }

    /// Writes the record to a file, atomically.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, path: &Path) -> Result<()> {
        stdx::fs::write_atomic(path, &stdx::json::canonical(&serde_json::to_value(self)?)?, 0o644)
    }
}
