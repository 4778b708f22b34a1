//! Files that a request names, read in bounds.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Scan reports and SBOMs of the largest workspaces have some megabytes.
const MAX_JSON: u64 = 64 << 20;

/// GitHub takes no longer texts anyhow.
const MAX_TEXT: u64 = 1 << 20;

/// The JSON document at `path`.
pub(crate) fn json(path: &Path) -> Result<Value> {
    serde_json::from_slice(&read(path, MAX_JSON)?).with_context(|| format!("{} is not JSON", path.display()))
}

/// The text at `path`; bytes that are not UTF-8 are replaced.
pub(crate) fn text(path: &Path) -> Result<String> {
    Ok(String::from_utf8_lossy(&read(path, MAX_TEXT)?).into_owned())
}

fn read(path: &Path, bound: u64) -> Result<Vec<u8>> {
    let file: File = stdx::fs::open(path)?;
    let mut bytes = Vec::new();
    file.take(bound + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > bound {
        bail!("{} is longer than {bound} bytes", path.display());
    }
    Ok(bytes)
}
