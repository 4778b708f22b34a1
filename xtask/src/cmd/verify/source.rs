//! Where an image is, and what is attached to it there. Everything that is fetched is hostile until it was judged.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci::{Layout, Referrer};
use registry::{Manifest, Reference, Registry, Repository, Silent};
use serde::Deserialize;
use stdx::Digest;
use supply::{Attached, BUNDLE, MAX_BUNDLE, PublicKey};

/// The annotation that says which kind of statement is in a bundle.
const PREDICATE_TYPE: &str = "dev.sigstore.bundle.predicateType";
/// Whoever attaches more to an image wants to keep somebody busy.
const MOST_ATTACHED: usize = 1_000;

/// Where an image is.
pub(crate) enum Source {
    /// In a folder.
    Layout { layout: Layout, image: Digest },
    /// In a registry.
    Registry { registry: Registry, reference: Reference, repository: Repository, image: Manifest },
}

/// The part of a manifest that says what it holds.
#[derive(Deserialize)]
struct Layers {
    #[serde(default)]
    layers: Vec<Layer>,
}

#[derive(Deserialize)]
struct Layer {
    digest: Digest,
    size: u64,
}

/// The part of an index that says what it lists.
#[derive(Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    digest: Digest,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    os: String,
    architecture: String,
}

impl Source {
    /// Finds the image that the user means.
    pub(crate) fn find(root: &Path, image: &str) -> Result<Source> {
        if let Some((folder, name)) = folder(image) {
            let layout = Layout::open(&folder)?;
            return Ok(Source::Layout { image: tagged(&layout, name)?, layout });
        }
        // A service's name has neither; a name in a registry has one or the other.
        if image.contains(['/', ':']) {
            return Source::in_registry(image);
        }
        let built = ::build::layout(root)?;
        let layout = Layout::open(&built).with_context(|| {
            format!("`{image}` is no folder with an image layout, and nothing was built here; next: `cargo xtask build`")
        })?;
        Ok(Source::Layout { image: tagged(&layout, Some(image))?, layout })
    }

    /// An image that was built here.
    pub(crate) fn built(root: &Path, image: Digest) -> Result<Source> {
        let layout = Layout::open(&::build::layout(root)?)?;
        Ok(Source::Layout { layout, image })
    }

    fn in_registry(image: &str) -> Result<Source> {
        let reference: Reference = image.parse()?;
        let registry = Registry::connect(&reference.host)?;
        let repository = registry.repository(&reference.repository);
        let manifest = repository.manifest(&reference.selector())?;
        let image = manifest.with_context(|| format!("the registry has no {reference}"))?;
        Ok(Source::Registry { registry, reference, repository, image })
    }

    /// Digest of its manifest or index.
    pub(crate) fn image(&self) -> Digest {
        match self {
            Source::Layout { image, .. } => *image,
            Source::Registry { image, .. } => image.digest,
        }
    }

    /// The service that `image` names, where that is what it names: then no other one will do.
    pub(crate) fn service(&self, image: &str) -> Option<String> {
        let is_name = folder(image).is_none() && !image.contains(['/', ':']);
        is_name.then(|| image.to_owned())
    }

    /// The images that an index lists, by platform; none where it is an image itself.
    pub(crate) fn listed(&self) -> Result<Vec<(String, Source)>> {
        let manifest = match self {
            Source::Layout { layout, image } => layout.document(image)?,
            Source::Registry { image, .. } => image.bytes.clone(),
        };
        let Index { manifests } = serde_json::from_slice(&manifest).context("the manifest is damaged")?;
        anyhow::ensure!(manifests.len() <= MOST_ATTACHED, "the index lists {} images", manifests.len());
        // What an index lists for no platform is no image.
        let images = manifests.into_iter().filter_map(|entry| Some((entry.platform?, entry.digest)));
        let images = images.filter(|(platform, _)| platform.os != "unknown");
        let source = |(platform, digest): (Platform, Digest)| {
            let name = format!("{}/{}", platform.os, platform.architecture);
            let source = match self {
                Source::Layout { layout, .. } => Source::Layout { layout: layout.clone(), image: digest },
                Source::Registry { registry, reference, repository, .. } => {
                    let image = repository.manifest(&digest.to_string())?;
                    let image =
                        image.with_context(|| format!("the registry lists {digest} and does not have it"))?;
                    Source::Registry {
                        registry: registry.clone(),
                        reference: reference.clone(),
                        repository: repository.clone(),
                        image,
                    }
                }
            };
            Ok((crate::render::plain(&name), source))
        };
        images.map(source).collect()
    }

    /// The bundles that are attached to the image. Of one that `key` did not sign only the reason is kept: strangers may attach
    /// more than fits into memory.
    pub(crate) fn attached(&self, key: &PublicKey) -> Result<Vec<Attached>> {
        let referrers = match self {
            Source::Layout { layout, image } => layout.referrers(image)?,
            Source::Registry { repository, image, .. } => repository.referrers(&image.digest)?,
        };
        let bundles: Vec<Referrer> =
            referrers.into_iter().filter(|one| one.artifact_type == BUNDLE).collect();
        if bundles.len() > MOST_ATTACHED {
            bail!("{} bundles are attached to {}: nobody needs that many", bundles.len(), self.image());
        }
        let attached = |one: Referrer| Attached {
            content: self.content(&one).map_err(|error| format!("{error:#}")).and_then(|bytes| {
                supply::verify(&bytes, key).map_err(|rejected| rejected.to_string())?;
                Ok(bytes)
            }),
            predicate_type: one.annotations.get(PREDICATE_TYPE).cloned(),
            artifact_type: one.artifact_type,
        };
        Ok(bundles.into_iter().map(attached).collect())
    }

    /// The folder of a layout that has the image, which is fetched into `scratch` where it is in a registry.
    pub(crate) fn in_layout(&self, scratch: &Path) -> Result<PathBuf> {
        match self {
            Source::Layout { layout, .. } => Ok(layout.root().to_owned()),
            Source::Registry { registry, reference, image, .. } => {
                let from = Reference { tag: None, digest: Some(image.digest), ..reference.clone() };
                registry::pull_with(registry, &from, &Layout::create(scratch)?, &Silent)?;
                Ok(scratch.to_owned())
            }
        }
    }

    fn content(&self, referrer: &Referrer) -> Result<Vec<u8>> {
        let bytes = match self {
            Source::Layout { layout, .. } => {
                let path = layout.blob_path(&referrer.content);
                let size = std::fs::metadata(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?
                    .len();
                anyhow::ensure!(size <= MAX_BUNDLE, "it is {size} bytes long: no bundle is");
                stdx::fs::read(&path)?
            }
            Source::Registry { repository, .. } => {
                let manifest = repository.manifest(&referrer.digest.to_string())?.context("it is gone")?;
                let Layers { layers } =
                    serde_json::from_slice(&manifest.bytes).context("its manifest is damaged")?;
                let layer = layers.first().context("its manifest names no document")?;
                anyhow::ensure!(layer.size <= MAX_BUNDLE, "it is {} bytes long: no bundle is", layer.size);
                let mut bytes = Vec::new();
                repository.read_blob(&layer.digest, layer.size, &mut bytes)?;
                bytes
            }
        };
        anyhow::ensure!(
            Digest::of(&bytes) == referrer.content,
            "it is damaged: its content is {}",
            Digest::of(&bytes)
        );
        Ok(bytes)
    }
}

/// A folder with an image layout, and the name in it: `FOLDER` or `FOLDER:NAME`, with `oci:` in front or not.
fn folder(image: &str) -> Option<(PathBuf, Option<&str>)> {
    let image = image.strip_prefix("oci:").unwrap_or(image);
    let is_layout = |folder: &str| Path::new(folder).join("oci-layout").is_file();
    if is_layout(image) {
        return Some((image.into(), None));
    }
    let (folder, name) = image.rsplit_once(':')?;
    is_layout(folder).then(|| (folder.into(), Some(name)))
}

fn tagged(layout: &Layout, name: Option<&str>) -> Result<Digest> {
    let tags = layout.tags()?;
    let found = match (name, &tags[..]) {
        (None, [one]) => Some(one),
        (Some(name), _) => tags.iter().find(|tag| tag.name == name),
        (None, _) => None,
    };
    let names = || tags.iter().map(|tag| tag.name.as_str()).collect::<Vec<_>>().join(", ");
    let found = found.with_context(|| match name {
        Some(name) => format!("{} has no image `{name}`; it has: {}", layout.root().display(), names()),
        None => format!("{} has several images or none; name one of: {}", layout.root().display(), names()),
    })?;
    Ok(found.digest)
}
