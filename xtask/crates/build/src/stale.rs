//! Cargo takes an object for fresh when its source is not *newer*; a source that was copied, unpacked or restored with an old
//! time would come out as the old program. So whatever changed by content without a newer time is forgotten on Cargo's behalf:
//! the fingerprints of its package are removed, and Cargo compiles it again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};

use crate::fresh::{Inputs, Stamp, nanoseconds};
use crate::store::State;

/// Removes from Cargo's `folders` the fingerprints of local packages that Cargo could take for fresh by mistake, and notes in `state` what Cargo is
/// going to see. `members` are folders and names of local packages, `vendored` those of others
/// that can be edited, `linked` files of the C toolchain that Cargo does not know
/// of. The state must be written before Cargo runs. It is one state for all targets and
/// ways of linking, so the fingerprints of all of them go.
pub(crate) fn forget(
    folders: &[PathBuf],
    state: &mut State,
    inputs: &Inputs,
    members: &[(PathBuf, String)],
    vendored: &[(PathBuf, String)],
    linked: &BTreeSet<PathBuf>,
) -> Result<()> {
    let mut packages: BTreeSet<String> =
        suspects(state, inputs, members, vendored, linked)?.into_iter().map(str::to_owned).collect();
    let relinked = relinked(state)?;
    if !relinked.is_empty() {
        packages.extend(members.iter().map(|(_, name)| name.clone()));
        packages.extend(relinked);
    }
    for folder in folders {
        for entry in std::fs::read_dir(folder.join(".fingerprint")).into_iter().flatten().flatten() {
            let name = entry.file_name();
            // `<package>-<hash>`
            let package = name.to_str().and_then(|name| name.rsplit_once('-')).map(|(package, _)| package);
            if package.is_some_and(|package| packages.contains(package)) {
                std::fs::remove_dir_all(entry.path())
                    .with_context(|| format!("cannot remove {}", entry.path().display()))?;
            }
        }
    }
    note(state, inputs);
    note_libraries(state)?;
    state.compiled_ns = nanoseconds(SystemTime::now());
    Ok(())
}

/// Notes the content of all inputs as known to Cargo.
pub(crate) fn note(state: &mut State, inputs: &Inputs) {
    let known = inputs.files().filter_map(|(path, stamp)| Some((path.to_owned(), stamp?.digest)));
    state.seen.extend(known);
}

/// Libraries that went are noted, too: Cargo is told once.
fn note_libraries(state: &mut State) -> Result<()> {
    for path in state.libraries.keys() {
        match Stamp::take(path)? {
            Some(stamp) => _ = state.seen.insert(path.clone(), stamp.digest),
            None => _ = state.seen.remove(path),
        }
    }
    Ok(())
}

/// The packages that must be linked again because a library of the system is another one, or is found elsewhere.
fn relinked(state: &State) -> Result<BTreeSet<String>> {
    let mut packages = BTreeSet::new();
    for (path, of) in &state.libraries {
        if Stamp::take(path)?.map(|stamp| stamp.digest) != state.seen.get(path).copied() {
            packages.extend(of.iter().cloned());
        }
    }
    Ok(packages)
}

fn suspects<'a>(
    state: &State,
    inputs: &Inputs,
    members: &'a [(PathBuf, String)],
    vendored: &'a [(PathBuf, String)],
    linked: &BTreeSet<PathBuf>,
) -> Result<BTreeSet<&'a str>> {
    let all = || members.iter().chain(vendored).map(|(_, name)| name.as_str()).collect();
    if state.seen.is_empty() {
        // Nobody knows what Cargo's output was made from, if there is any.
        return Ok(all());
    }
    let mut packages = BTreeSet::new();
    let taken: BTreeSet<&Path> = inputs.files().map(|(path, _)| path).collect();
    let declared = state.seen.keys().filter(|path| !taken.contains(path.as_path()));
    let declared = declared.map(|path| Ok((path.clone(), Stamp::take(path)?))).collect::<Result<Vec<_>>>()?;
    let files = inputs.files().chain(declared.iter().map(|(path, stamp)| (path.as_path(), stamp.as_ref())));
    for (path, stamp) in files {
        let Some(stamp) = stamp else { continue };
        // A file that was put back while Cargo ran, with its old time, is one that Cargo may have read as it was in between.
        let was_put_back = stamp.is_changed_behind(state.compiled_ns);
        let is_same = state.seen.get(path) == Some(&stamp.digest);
        if is_same && !was_put_back {
            continue;
        }
        // Cargo knows these by their checksum alone.
        if let Some((_, name)) = vendored.iter().find(|(folder, _)| path.starts_with(folder)) {
            packages.insert(name.as_str());
            continue;
        }
        let owners = members.iter().filter(|(folder, _)| path.starts_with(folder));
        let owner = owners.max_by_key(|(folder, _)| folder.components().count());
        let is_unnoticed = stamp.modified_ns <= state.compiled_ns;
        match owner {
            _ if linked.contains(path) && !is_same => return Ok(all()),
            Some((_, name)) if is_unnoticed => _ = packages.insert(name.as_str()),
            // Manifests, the lock file and Cargo's configuration are read by content; another file out there was declared.
            None if is_unnoticed && !taken.contains(path) => return Ok(all()),
            _ => {}
        }
    }
    Ok(packages)
}
