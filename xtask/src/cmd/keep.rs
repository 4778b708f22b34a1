//! Which images must stay when old ones are removed: those of the release that was created last, and those that an environment can
//! go back to. Environments may lie anywhere, so each deployment notes where its own does.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use stdx::Digest;

/// Folders of environments, one a line.
const NOTES: &str = "environments";

/// Notes that the environment in the folder `state` runs images of the workspace at `root`.
pub(crate) fn note(root: &Path, state: &Path) -> Result<()> {
    let state = std::path::absolute(state)?;
    let mut noted = noted(root)?;
    if noted.insert(state) {
        let lines: String = noted.iter().map(|path| format!("{}\n", path.display())).collect();
        stdx::fs::write_atomic(&file(root)?, lines.as_bytes(), 0o644)?;
    }
    Ok(())
}

/// Digests that a release names.
///
/// # Errors
/// When a release cannot be read: what it names is not known then, and nothing may be removed.
pub(crate) fn named(root: &Path) -> Result<BTreeSet<Digest>> {
    let mut files = vec![super::release::default_path(root)?];
    let mut environments = noted(root)?;
    environments.extend(list(&root.join(".slipway"))?);
    for environment in environments {
        files.extend(list(&environment.join("releases"))?);
    }
    let mut digests = BTreeSet::new();
    for file in files {
        if let Some(bytes) = stdx::fs::read_if_exists(&file)? {
            let document =
                serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", file.display()))?;
            collect(&document, &mut digests);
        }
    }
    Ok(digests)
}

/// Every digest in the document, whichever version of it this is.
fn collect(value: &Value, digests: &mut BTreeSet<Digest>) {
    match value {
        Value::String(text) => digests.extend(text.parse::<Digest>().ok()),
        Value::Array(values) => values.iter().for_each(|value| collect(value, digests)),
        Value::Object(members) => members.values().for_each(|value| collect(value, digests)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn file(root: &Path) -> Result<PathBuf> {
    Ok(::build::output_folder(root)?.join(NOTES))
}

fn noted(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let bytes = stdx::fs::read_if_exists(&file(root)?)?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&bytes).lines().map(PathBuf::from).collect())
}

/// What is in the folder; nothing where there is none.
fn list(folder: &Path) -> Result<Vec<PathBuf>> {
    match std::fs::read_dir(folder) {
        Err(error)
            if matches!(error.kind(), std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) =>
        {
            Ok(Vec::new())
        }
        entries => {
            let paths = entries.and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
            paths.with_context(|| format!("cannot list {}", folder.display()))
        }
    }
}
