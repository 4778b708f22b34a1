//! From a registry into a layout: an image or an index with all that it is made of and all that is attached to it. Names come
//! last: what breaks leaves blobs that nothing names.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result, ensure};
use oci::Layout;
use stdx::Digest;

use crate::Progress;
use crate::document::{Descriptor, Document};
use crate::reference::Reference;
use crate::repository::{Manifest, Registry, Repository};

/// Indexes of indexes, and documents about documents.
const MAX_DEPTH: usize = 4;
/// Manifests of one pull; whoever lists more wants to keep us busy.
const MAX_MANIFESTS: usize = 4096;
/// Their bytes together: they are in memory until all of them are known.
const MAX_MANIFEST_BYTES: usize = 64 * 1024 * 1024;

/// What is to be had before anything gets a name.
#[derive(Default)]
struct Found {
    manifests: BTreeMap<Digest, Manifest>,
    manifest_bytes: usize,
    blobs: BTreeMap<Digest, Descriptor>,
    referrers: Vec<Digest>,
}

/// Takes the image or index that `from` names into the layout, under its tag where it has one, with all that is attached to it.
/// Blobs that the layout has are not read again.
///
/// # Errors
/// When there is no such image, or the registry sends what its digest does not fit.
pub fn pull(from: &Reference, layout: &Layout, progress: &dyn Progress) -> Result<Digest> {
    pull_with(&Registry::connect(&from.host)?, from, layout, progress)
}

/// The same over a connection that there is already.
pub fn pull_with(
    registry: &Registry,
    from: &Reference,
    layout: &Layout,
    progress: &dyn Progress,
) -> Result<Digest> {
    let repository = registry.repository(&from.repository);
    let mut found = Found::default();
    let root = repository.manifest(&from.selector())?;
    let root = root
        .with_context(|| format!("there is no image {from}: neither the repository nor the tag may exist"))?;
    let digest = root.digest;
    walk(&repository, root, MAX_DEPTH, &mut found)?;
    let missing: Vec<&Descriptor> = found.blobs.values().filter(|blob| !layout.holds(&blob.digest)).collect();
    read_blobs(&repository, layout, &missing, progress)?;
    for manifest in found.manifests.values() {
        layout.put(&manifest.bytes)?;
    }
    for referrer in &found.referrers {
        layout.adopt(None, referrer)?;
    }
    let name = from.tag.clone().unwrap_or_else(|| from.selector());
    layout.adopt(Some(&name), &digest)?;
    Ok(digest)
}

/// Takes note of a manifest, of all that it names and of all that is about it.
fn walk(repository: &Repository, manifest: Manifest, depth: usize, found: &mut Found) -> Result<()> {
    let digest = manifest.digest;
    let document = Document::parse(&manifest.bytes)?;
    found.manifest_bytes += manifest.bytes.len();
    ensure!(
        found.manifest_bytes <= MAX_MANIFEST_BYTES,
        "its manifests have more than {MAX_MANIFEST_BYTES} bytes"
    );
    if found.manifests.insert(digest, manifest).is_some() {
        return Ok(());
    }
    ensure!(found.manifests.len() <= MAX_MANIFESTS, "more than {MAX_MANIFESTS} manifests belong to it");
    for blob in document.blobs() {
        let known = found.blobs.entry(blob.digest).or_insert_with(|| blob.clone());
        ensure!(known.size == blob.size, "two manifests give {} two sizes", blob.digest);
    }
    ensure!(depth > 0 || document.children().is_empty(), "{digest} is an index of indexes of indexes");
    for child in document.children() {
        walk(repository, fetch(repository, child)?, depth - 1, found)?;
    }
    if depth > 0 {
        for entry in repository.listed_referrers(&digest)? {
            let referrer = fetch(repository, &entry)?;
            let about = Document::parse(&referrer.bytes)?.subject.map(|subject| subject.digest);
            if about == Some(digest) {
                found.referrers.push(entry.digest);
                walk(repository, referrer, depth - 1, found)?;
            }
        }
    }
    Ok(())
}

fn fetch(repository: &Repository, entry: &Descriptor) -> Result<Manifest> {
    let manifest = repository.manifest(&entry.digest.to_string())?;
    manifest.with_context(|| format!("the registry names {} and does not have it", entry.digest))
}

fn read_blobs(
    repository: &Repository,
    layout: &Layout,
    missing: &[&Descriptor],
    progress: &dyn Progress,
) -> Result<()> {
    progress.announced(missing.iter().fold(0, |sum: u64, blob| sum.saturating_add(blob.size)));
    let queue = Mutex::new(missing.iter());
    let failures = Mutex::new(Vec::new());
    let failed = AtomicBool::new(false);
    let work = || {
        while !failed.load(Ordering::Relaxed) {
            let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
            let Some(blob) = next else { return };
            if let Err(error) = read_blob(repository, &layout.blob_path(&blob.digest), blob, progress) {
                failed.store(true, Ordering::Relaxed);
                failures.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(error);
            }
        }
    };
    let threads = repository.client().options.threads.clamp(1, missing.len().max(1));
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(work);
        }
    });
    let first = failures.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).into_iter().next();
    first.map_or(Ok(()), Err)
}

/// Reads a blob beside its place; it appears there when its digest was compared.
fn read_blob(repository: &Repository, path: &Path, blob: &Descriptor, progress: &dyn Progress) -> Result<()> {
    let folder = path.parent().context("a blob's path has a folder")?;
    let mut file = tempfile::NamedTempFile::new_in(folder)
        .with_context(|| format!("cannot create a file in {}", folder.display()))?;
    repository.read_blob(&blob.digest, blob.size, &mut Counted { inner: &mut file, progress })?;
    stdx::fs::persist(file, path, 0o644)?;
    progress.done(&format!("{} read ({} bytes)", blob.digest.short(), blob.size));
    Ok(())
}

/// Tells how much of a blob came.
struct Counted<'a, W> {
    inner: W,
    progress: &'a dyn Progress,
}

impl<W: Write> Write for Counted<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.progress.moved(written as u64);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
