//! Doors for the fuzz targets of `ci/fuzz`, which only exist there: what they lead to is private.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use stdx::Digest;

use super::{Lock, deb, index, licence, lock, relation, resolve, tree, version};

/// Reads a `Packages` file and chooses its first package with all that it needs.
pub fn packages(text: &str) -> Result<usize> {
    let mut found = index::Index::default();
    found.add("debian", text)?;
    let asked: Vec<String> = found.packages.keys().take(1).cloned().collect();
    let request = resolve::Request { asked: &asked, without: &[], preferred: BTreeMap::new() };
    Ok(resolve::resolve(&found, &request)?.len())
}

/// Reads a `Release` file and gives the paths of its files.
pub fn release(text: &str) -> Result<BTreeSet<String>> {
    Ok(index::release(text)?.files.into_keys().collect())
}

/// Reads a field of dependencies and holds each bound against a version.
pub fn relations(text: &str, found: &str) -> Result<usize> {
    let groups = relation::groups(text)?;
    Ok(groups.iter().flatten().filter(|alternative| alternative.admits(found)).count())
}

/// The later of two versions, where both are some.
pub fn compare(a: &str, b: &str) -> Option<Ordering> {
    (version::is_valid(a) && version::is_valid(b)).then(|| version::compare(a, b))
}

/// Reads a copyright file.
pub fn licence(text: &str) -> Option<String> {
    licence::licence(text)
}

/// Unpacks a package into the folder `files` and makes a root of it; gives the names of the files that it must have put there.
pub fn deb(path: &Path, files: &Path) -> Result<BTreeSet<String>> {
    let content = deb::unpack(path, files)?;
    assert!(deb::is_whole(&content, files), "a file of the package is not what it should be");
    let digests = content.items.values().filter_map(|item| match item {
        deb::Item::File { digest, .. } => Some(Digest::hex(digest)),
        deb::Item::Dir { .. } | deb::Item::Link { .. } => None,
    });
    let names = digests.collect();
    // Packages may contradict themselves: that is an error, and no panic.
    drop(tree::tree(&BTreeMap::from([("package", content)]), &[], files));
    Ok(names)
}

/// Reads a lock file.
pub fn lock(bytes: &[u8]) -> Result<Lock> {
    lock::Lock::parse(bytes)
}

/// Reads a loader, and its index of libraries.
pub fn loader(bytes: &[u8]) -> usize {
    crate::loader::Loader::new("/lib64/ld-linux-x86-64.so.2", bytes);
    crate::loader::cached(bytes).len()
}
