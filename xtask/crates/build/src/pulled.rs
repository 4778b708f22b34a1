//! Existing images that bases name in registries: fetched once into a layout of this machine, for all workspaces. It does not know
//! what is in them. Invariant: an image is used only when its name is in the layout, which it gets after all of its blobs.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};
use oci::Layout;
use registry::{Reference, Registry};
use serde_json::Value;
use stdx::Digest;

use crate::event::{Event, Reporter};

/// Services of one build ask at once; what they have in common is fetched once.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// The layout that has the base `name@digest`: a folder of the workspace at `root`, or the one below `home` that keeps images of
/// registries, into which the image for `architecture` is fetched where it is not there yet.
pub(crate) fn layout(
    root: &Path,
    home: &Path,
    base: &str,
    architecture: &str,
    reporter: &dyn Reporter,
) -> Result<Layout> {
    let (name, digest) = base.rsplit_once('@').context("the base has no digest")?;
    let folder = root.join(name);
    if folder.join("oci-layout").is_file() {
        return Layout::open(&folder);
    }
    // A name without a host could be a folder that is not there as well as an image of Docker's registry.
    let host = name.split('/').next().unwrap_or_default();
    if !name.contains('/') || !(host == "localhost" || host.contains(['.', ':'])) || host.starts_with('.') {
        bail!(
            "{name} is no folder with an OCI image layout; write registry.example/{name}@{digest} for an image in a registry \\
             (docker.io/library/{name} on Docker Hub), or fetch it: `cargo xtask pull REFERENCE --layout {name}`"
        );
    }
    let from: Reference = base.parse()?;
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let layout = Layout::create(&folder_of_pulled(home))?;
    fetch(&from, &layout, architecture, reporter).with_context(|| format!("cannot fetch the base {from}"))?;
    Ok(layout)
}

fn folder_of_pulled(home: &Path) -> PathBuf {
    home.join("slipway/bases")
}

fn fetch(from: &Reference, layout: &Layout, architecture: &str, reporter: &dyn Reporter) -> Result<()> {
    let digest = from.digest.context("the base has no digest")?;
    let is_whole = |digest: Digest| -> Result<bool> {
        Ok(layout.tags()?.iter().any(|tagged| tagged.name == digest.to_string() && tagged.digest == digest))
    };
    if is_whole(digest)? {
        return Ok(());
    }
    let image = match layout.holds(&digest) {
        true => listed(&layout.document(&digest)?, architecture)?.unwrap_or(digest),
        false => digest,
    };
    if image != digest && is_whole(image)? {
        return Ok(());
    }
    let registry = Registry::connect(&from.host)?;
    let manifest = registry.repository(&from.repository).manifest(&digest.to_string())?;
    let manifest = manifest.with_context(|| format!("the registry has no {from}"))?;
    // Of an index only the image that is needed.
    let image = listed(&manifest.bytes, architecture)?.unwrap_or(digest);
    let one = Reference { tag: None, digest: Some(image), ..from.clone() };
    let told = Told { reporter, image: from.to_string(), moved: AtomicU64::new(0), all: AtomicU64::new(0) };
    told.tell();
    registry::pull_with(&registry, &one, layout, &told)?;
    layout.put(&manifest.bytes)?;
    Ok(())
}

/// Tells of a transfer what a build tells of everything.
struct Told<'a> {
    reporter: &'a dyn Reporter,
    image: String,
    moved: AtomicU64,
    all: AtomicU64,
}

impl Told<'_> {
    fn tell(&self) {
        let (bytes, of) = (self.moved.load(Ordering::Relaxed), self.all.load(Ordering::Relaxed));
        self.reporter.event(Event::Fetching { image: self.image.clone(), bytes, of });
    }
}

impl registry::Progress for Told<'_> {
    fn announced(&self, bytes: u64) {
        self.all.fetch_add(bytes, Ordering::Relaxed);
    }

    fn moved(&self, bytes: u64) {
        self.moved.fetch_add(bytes, Ordering::Relaxed);
        self.tell();
    }

    fn done(&self, _: &str) {}
}

/// The image for `architecture` that an index lists; `None` where the document is an image itself.
fn listed(document: &[u8], architecture: &str) -> Result<Option<Digest>> {
    let document: Value = serde_json::from_slice(document).context("its manifest is no JSON")?;
    let Some(manifests) = document["manifests"].as_array() else { return Ok(None) };
    let is_ours = |entry: &&Value| {
        entry["platform"]["architecture"] == architecture && entry["platform"]["os"] == "linux"
    };
    let entry = manifests.iter().find(is_ours);
    let digest = entry.and_then(|entry| entry["digest"].as_str());
    Ok(Some(digest.with_context(|| format!("it is an index without linux/{architecture}"))?.parse()?))
}
