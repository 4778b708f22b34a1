//! What a scan of a release found, kept beside the release: what a deployment goes by. It is bound to the release by the
//! release's digest, so that neither can be changed without the other being refused.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::{Check, Finding, Judged, Waiver};

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
    /// When.
    pub scanned_at: Timestamp,
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
    pub waived: Option<Waiver>,
}

impl Record {
    /// The record of a scan of `release` that ended in `judged`.
    pub fn new(release: Digest, scanned_at: Timestamp, checks: BTreeSet<Check>, judged: &Judged) -> Record {
        let open = judged.open.iter().map(|finding| Recorded { finding: finding.clone(), waived: None });
        let waived = judged
            .waived
            .iter()
            .map(|waived| Recorded { finding: waived.finding.clone(), waived: Some(waived.waiver.clone()) });
        let mut findings: Vec<Recorded> = open.chain(waived).collect();
        findings.sort_by(|a, b| b.finding.severity.cmp(&a.finding.severity).then(a.finding.cmp(&b.finding)));
        Record { schema: SCHEMA.to_owned(), release, scanned_at, checks, findings }
    }

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
