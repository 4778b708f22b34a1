//! What a database holds, as counts and checksums: enough to say whether a copy holds the same. Independent of the order of rows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use stdx::Digest;

/// The contents of all tables, by name.
pub type Contents = BTreeMap<String, TableContents>;

/// The contents of a table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableContents {
    /// Number of rows.
    pub rows: u64,
    /// Sum of the digests of the rows, in hex.
    pub checksum: String,
}

/// Adds rows up.
#[derive(Default)]
pub(crate) struct Sum {
    rows: u64,
    sum: u128,
}

impl Sum {
    pub(crate) fn add(&mut self, row: &[u8]) {
        let digest = Digest::of(row);
        let mut half = [0; 16];
        half.copy_from_slice(&digest.bytes()[..16]);
        self.sum = self.sum.wrapping_add(u128::from_be_bytes(half));
        self.rows += 1;
    }

    pub(crate) fn finish(self) -> TableContents {
        TableContents { rows: self.rows, checksum: format!("{:032x}", self.sum) }
    }
}

/// What differs between what was taken and what came back, one line a table.
pub(crate) fn differences(taken: &Contents, found: &Contents) -> Vec<String> {
    let mut lines = Vec::new();
    for (name, taken) in taken {
        match found.get(name) {
            None => lines.push(format!("{name} is missing")),
            Some(found) if found.rows != taken.rows => {
                lines.push(format!("{name} has {} rows instead of {}", found.rows, taken.rows));
            }
            Some(found) if found != taken => lines.push(format!("{name} has rows with other contents")),
            Some(_) => {}
        }
    }
    lines.extend(
        found.keys().filter(|name| !taken.contains_key(*name)).map(|name| format!("{name} was not there")),
    );
    lines
}
