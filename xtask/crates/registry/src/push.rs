//! From a layout to a registry: an image or an index with all that it is made of and all that is attached to it. Children go
//! before parents and the tag goes last, so that whatever breaks leaves nothing that a reader could see half of.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use anyhow::{Context, Result, ensure};
use oci::Layout;
use stdx::Digest;

use crate::Progress;
use crate::blob::Transfer;
use crate::client::Source;
use crate::document::{Descriptor, Document};
use crate::reference::Reference;
use crate::repository::{Registry, Repository};
use crate::said::{ByContent, Says, leave_out};

/// An index may name indexes, and not for ever.
const MAX_DEPTH: usize = 4;

/// A registry may miss a blob that it had a moment ago: somebody else sent the same one, or it was swept away.
const MAX_ATTEMPTS: u32 = 4;

/// What is to be sent, and where.
#[derive(Debug, Clone, Copy)]
pub struct Push<'a> {
    /// The registry of `to`.
    pub registry: &'a Registry,
    /// Where the image is.
    pub layout: &'a Layout,
    /// Its manifest, or that of an index.
    pub image: &'a Digest,
    /// Repository and tag. With neither tag nor digest nothing is tagged: the image is there by its digest.
    pub to: &'a Reference,
    /// Further tags.
    pub tags: &'a [String],
    /// Tells what documents say: what is attached there already in other words is not attached again.
    pub says: &'a dyn Says,
}

/// What a push did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pushed {
    /// Digest of the manifest or index that the tags stand for.
    pub digest: Option<Digest>,
    /// Bytes of blobs and manifests that were sent, repetitions included.
    pub sent_bytes: u64,
    /// How many blobs were sent.
    pub sent: usize,
    /// How many blobs were taken over from other repositories, and their bytes.
    pub mounted: usize,
    /// Their bytes.
    pub mounted_bytes: u64,
    /// How many blobs were there already.
    pub present: usize,
    /// Their bytes.
    pub present_bytes: u64,
    /// Documents that are attached to the image.
    pub referrers: usize,
    /// Requests that were answered, by the registry and by whom it leads to.
    pub requests: u64,
}

/// What a push would do, as far as looking tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Whether the tag stands for this very image already.
    pub is_unchanged: bool,
    /// Each blob once, in the order of sending.
    pub blobs: Vec<PlannedBlob>,
}

/// A blob of a plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBlob {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What would be done.
    pub transfer: Transfer,
}

/// A manifest with what must be there before it.
pub(crate) struct Node {
    pub(crate) digest: Digest,
    pub(crate) bytes: Vec<u8>,
    pub(crate) document: Document,
    /// What an index lists.
    pub(crate) children: Vec<Node>,
    /// Manifests that are about it.
    pub(crate) referrers: Vec<Node>,
}

/// Sends the image or index `image` of `layout`, and all that is attached to it and its parts.
pub fn push(layout: &Layout, image: &Digest, to: &Reference, progress: &dyn Progress) -> Result<Pushed> {
    let registry = Registry::connect(&to.host)?;
    Push { registry: &registry, layout, image, to, tags: &[], says: &ByContent }.run(progress)
}

impl Push<'_> {
    /// Looks what would be sent; nothing is changed.
    ///
    /// # Errors
    /// When the layout does not have what the image names, or the registry cannot be asked.
    pub fn plan(&self) -> Result<Plan> {
        let repository = self.repository();
        let (root, is_unchanged) = self.root(&repository)?;
        let mut blobs = Vec::new();
        for blob in blobs_of(&root) {
            let place = repository.place_of(&blob.digest);
            let transfer = match (repository.has_blob(&blob.digest)?, place) {
                (Some(_), _) => Transfer::Present,
                (None, Some(_)) => Transfer::Mounted,
                (None, None) => Transfer::Sent,
            };
            blobs.push(PlannedBlob { digest: blob.digest, size: blob.size, transfer });
        }
        Ok(Plan { is_unchanged, blobs })
    }

    /// Sends what is missing.
    ///
    /// # Errors
    /// When the layout does not have what the image names or its copy is damaged, and when the registry refuses.
    pub fn run(&self, progress: &dyn Progress) -> Result<Pushed> {
        let before = self.registry.shared.client.requests();
        let mut pushed = self.bring(progress)?;
        pushed.requests = self.registry.shared.client.requests() - before;
        Ok(pushed)
    }

    fn bring(&self, progress: &dyn Progress) -> Result<Pushed> {
        let repository = self.repository();
        let (root, is_unchanged) = self.root(&repository)?;
        let mut pushed = Pushed { digest: Some(root.digest), ..Pushed::default() };
        pushed.referrers = count_referrers(&root);
        let blobs = blobs_of(&root);
        if is_unchanged {
            for blob in &blobs {
                repository.note(&blob.digest);
                pushed.present += 1;
                pushed.present_bytes += blob.size;
            }
            return Ok(pushed);
        }
        let mut attempt = 1;
        loop {
            let mut this = pushed.clone();
            self.send_blobs(&blobs, progress, &mut this)?;
            match self.send_documents(&repository, &root) {
                Ok(sent) => return Ok(Pushed { sent_bytes: this.sent_bytes + sent, ..this }),
                Err(error) if attempt < MAX_ATTEMPTS && misses_blob(&error) => {
                    pushed.sent_bytes = this.sent_bytes;
                    blobs.iter().for_each(|blob| repository.forget(&blob.digest));
                    repository.wait(attempt);
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The image with what is to be attached to it, and whether the registry has all of it.
    fn root(&self, repository: &Repository) -> Result<(Node, bool)> {
        let mut root = self.node(self.image, MAX_DEPTH)?;
        if self.is_unchanged(&root)? {
            return Ok((root, true));
        }
        let before = count_referrers(&root);
        leave_out(repository, self.layout, &mut root, self.says)?;
        let is_unchanged = count_referrers(&root) < before && self.is_unchanged(&root)?;
        Ok((root, is_unchanged))
    }

    /// Sends the manifests and sets the tags, and gives the bytes.
    fn send_documents(&self, repository: &Repository, root: &Node) -> Result<u64> {
        let mut sent = send_manifests(repository, root)?;
        for tag in self.all_tags() {
            repository.store_manifest(tag, root.document.media_type(), &root.bytes)?;
            sent += root.bytes.len() as u64;
        }
        Ok(sent)
    }

    fn repository(&self) -> Repository {
        self.registry.repository(&self.to.repository)
    }

    fn all_tags(&self) -> impl Iterator<Item = &str> {
        self.to.tag.iter().chain(self.tags).map(String::as_str)
    }

    /// Whether every tag stands for the image, and the registry lists all that is attached to it. A tag is set when all else is
    /// there, so nothing else needs to be asked.
    fn is_unchanged(&self, root: &Node) -> Result<bool> {
        let repository = self.repository();
        let mut tags: Vec<String> = self.all_tags().map(str::to_owned).collect();
        if tags.is_empty() {
            tags.push(root.digest.to_string());
        }
        for tag in &tags {
            if repository.digest(tag)? != Some(root.digest) {
                return Ok(false);
            }
        }
        has_referrers(&repository, root)
    }

    fn node(&self, digest: &Digest, depth: usize) -> Result<Node> {
        let bytes = self.layout.document(digest)?;
        let document = Document::parse(&bytes).with_context(|| format!("cannot send {digest}"))?;
        ensure!(depth > 0 || document.children().is_empty(), "{digest} is an index of indexes of indexes");
        let mut referrers = Vec::new();
        if depth > 0 {
            for referrer in self.layout.referrers(digest)? {
                referrers.push(self.node(&referrer.digest, depth - 1)?);
            }
        }
        let mut children = Vec::new();
        for child in document.children() {
            children.push(self.node(&child.digest, depth.saturating_sub(1))?);
        }
        Ok(Node { digest: *digest, bytes, document, children, referrers })
    }

    fn send_blobs(&self, blobs: &[Descriptor], progress: &dyn Progress, pushed: &mut Pushed) -> Result<()> {
        let repository = self.repository();
        let queue = Mutex::new(blobs.iter());
        let done = Mutex::new(Vec::new());
        let failed = AtomicBool::new(false);
        let sent = AtomicU64::new(0);
        let work = || {
            while !failed.load(Ordering::Relaxed) {
                let next = queue.lock().unwrap_or_else(std::sync::PoisonError::into_inner).next();
                let Some(blob) = next else { return };
                let outcome = self.send_blob(&repository, blob, progress, &sent);
                failed.fetch_or(outcome.is_err(), Ordering::Relaxed);
                let mut done = done.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                done.push(outcome.map(|transfer| (transfer, blob.size)));
            }
        };
        let threads = self.registry.shared.client.options.threads.clamp(1, blobs.len().max(1));
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
        for outcome in done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner) {
            pushed.count(outcome?);
        }
        pushed.sent_bytes += sent.into_inner();
        Ok(())
    }

    fn send_blob(
        &self,
        repository: &Repository,
        blob: &Descriptor,
        progress: &dyn Progress,
        sent: &AtomicU64,
    ) -> Result<Transfer> {
        let path = self.layout.blob_path(&blob.digest);
        let found =
            std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        ensure!(
            found == blob.size,
            "{} is damaged: it has {found} bytes instead of {}",
            path.display(),
            blob.size
        );
        progress.announced(blob.size);
        let open = || -> Result<Box<dyn Read>> { Ok(Box::new(stdx::fs::open(&path)?)) };
        let moved = |bytes| {
            sent.fetch_add(bytes, Ordering::Relaxed);
            progress.moved(bytes);
        };
        let transfer =
            repository.bring(&blob.digest, blob.size, Source { open: &open, moved: &moved }, None)?;
        let size = blob.size;
        let short = blob.digest.short();
        progress.done(&match transfer {
            Transfer::Present => format!("{short} is there ({size} bytes)"),
            Transfer::Mounted => format!("{short} mounted from another repository ({size} bytes)"),
            Transfer::Sent => format!("{short} sent ({size} bytes)"),
        });
        Ok(transfer)
    }
}

/// Whether a manifest was refused because a blob of it is not there.
fn misses_blob(error: &anyhow::Error) -> bool {
    let status = error.downcast_ref();
    matches!(status, Some(crate::Error::Status { detail, .. }) if detail.contains("BLOB_UNKNOWN"))
}

/// Sends what must be there before the tags, and gives the bytes.
fn send_manifests(repository: &Repository, root: &Node) -> Result<u64> {
    let mut sent = 0;
    for child in &root.children {
        sent += send_node(repository, child)?;
    }
    // What is attached may come only after that which it is attached to; otherwise the tag alone is enough.
    if !root.referrers.is_empty() {
        sent += send_whole(repository, root)?;
        sent += send_referrers(repository, root)?;
    }
    Ok(sent)
}

fn send_node(repository: &Repository, node: &Node) -> Result<u64> {
    let mut sent = 0;
    for child in &node.children {
        sent += send_node(repository, child)?;
    }
    sent += send_whole(repository, node)?;
    Ok(sent + send_referrers(repository, node)?)
}

fn send_whole(repository: &Repository, node: &Node) -> Result<u64> {
    repository.store_manifest(&node.digest.to_string(), node.document.media_type(), &node.bytes)?;
    Ok(node.bytes.len() as u64)
}

/// Sends what is attached to `node`, and sees to it that the registry lists it.
fn send_referrers(repository: &Repository, node: &Node) -> Result<u64> {
    let mut sent = 0;
    let mut unlisted = Vec::new();
    for referrer in &node.referrers {
        let media_type = referrer.document.media_type();
        let digest = referrer.digest.to_string();
        if !repository.store_manifest(&digest, media_type, &referrer.bytes)? {
            unlisted.push(referrer.descriptor());
        }
        sent += referrer.bytes.len() as u64 + send_referrers(repository, referrer)?;
    }
    if !unlisted.is_empty() {
        repository.list_referrers(&node.digest, &unlisted)?;
    }
    Ok(sent)
}

fn has_referrers(repository: &Repository, node: &Node) -> Result<bool> {
    if !node.referrers.is_empty() {
        let listed = repository.listed_referrers(&node.digest)?;
        let is_listed = |referrer: &Node| listed.iter().any(|entry| entry.digest == referrer.digest);
        if !node.referrers.iter().all(is_listed) {
            return Ok(false);
        }
    }
    for below in node.children.iter().chain(&node.referrers) {
        if !has_referrers(repository, below)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn count_referrers(node: &Node) -> usize {
    let below = node.children.iter().chain(&node.referrers);
    node.referrers.len() + below.map(count_referrers).sum::<usize>()
}

/// The blobs of a manifest and of all below it, each once, the largest first: the one that takes longest should not be the last
/// to begin.
fn blobs_of(root: &Node) -> Vec<Descriptor> {
    let mut found = BTreeMap::new();
    collect(root, &mut found);
    let mut blobs: Vec<Descriptor> = found.into_values().collect();
    blobs.sort_by_key(|blob| (std::cmp::Reverse(blob.size), blob.digest));
    blobs
}

fn collect(node: &Node, found: &mut BTreeMap<Digest, Descriptor>) {
    for blob in node.document.blobs() {
        found.entry(blob.digest).or_insert_with(|| blob.clone());
    }
    for below in node.children.iter().chain(&node.referrers) {
        collect(below, found);
    }
}

impl Node {
    fn descriptor(&self) -> Descriptor {
        self.document.descriptor(self.digest, self.bytes.len() as u64)
    }
}

impl Pushed {
    fn count(&mut self, (transfer, size): (Transfer, u64)) {
        let (count, bytes) = match transfer {
            Transfer::Present => (&mut self.present, Some(&mut self.present_bytes)),
            Transfer::Mounted => (&mut self.mounted, Some(&mut self.mounted_bytes)),
            Transfer::Sent => (&mut self.sent, None),
        };
        *count += 1;
        if let Some(bytes) = bytes {
            *bytes += size;
        }
    }
}
