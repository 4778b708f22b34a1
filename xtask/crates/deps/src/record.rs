//! Sizes that were written down, in a small file for the repository: growth is measured from them, and a revision that has the
//! file need not be built to be compared with.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};

use crate::bytes::Weight;
use crate::report::Service;

const SCHEMA: &str = "slipway.deps-record/1";
/// A record of a thousand services has a tenth of this.
const MOST_BYTES: usize = 64 << 20;

/// The content of the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    schema: String,
    /// By service.
    pub services: BTreeMap<String, Recorded>,
}

/// The sizes of one binary.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Size of the binary.
    pub file: u64,
    /// Bytes of each package that is in it, by `name@version`; of what is no package, by a name in parentheses.
    pub parts: BTreeMap<String, u64>,
}

impl Default for Record {
    fn default() -> Record {
        Record { schema: SCHEMA.to_owned(), services: BTreeMap::new() }
    }
}

impl Recorded {
    /// What would be written down for the service.
    pub fn new(service: &Service, weight: &Weight) -> Recorded {
        let package = |(id, bytes): (&String, &crate::Bytes)| {
            Some((service.used.get(id)?.package.spec(), bytes.total()))
        };
        let mut parts: BTreeMap<String, u64> = weight.packages.iter().filter_map(package).collect();
        parts.extend(weight.others().map(|(name, size)| (name.to_owned(), size)));
        Recorded { file: weight.file, parts }
    }
}

impl Record {
    /// Reads the file at `path`; an empty record where there is none.
    ///
    /// # Errors
    /// When it is no record of this version.
    pub fn load(path: &Path) -> Result<Record> {
        match stdx::fs::read_if_exists(path)? {
            None => Ok(Record::default()),
            Some(bytes) => Record::parse(&bytes)
                .with_context(|| format!("cannot read {}; next: cargo xtask deps --record", path.display())),
        }
    }

    /// Reads a record.
    ///
    /// # Errors
    /// When it is none of this version.
    pub fn parse(bytes: &[u8]) -> Result<Record> {
        ensure!(bytes.len() <= MOST_BYTES, "it is larger than 64 MiB");
        let record: Record = serde_json::from_slice(bytes)?;
        ensure!(
            record.schema == SCHEMA,
            "its schema is `{}`, and this program knows `{SCHEMA}`",
            record.schema
        );
        Ok(record)
    }

    /// As it is written: sorted, one part a line, so that changes are easy to review.
    ///
    /// # Errors
    /// Never in practice: it is plain data.
    pub fn to_text(&self) -> Result<String> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }
}
