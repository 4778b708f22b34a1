//! Image indexes: one name for the images of several platforms. An index is made of images that are in the layout already, so that
//! a reader who sees it finds all that it names. It knows nothing of how its images came to be.
//!
//! Source: OCI image-spec 1.1, "Image Index Specification".

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, MediaType};
use serde_json::{Value, json};
use stdx::{Digest, json as canonical_json};

use crate::layout::{Layout, descriptor, digest_of};

/// More images than any index that is built here lists.
const MAX_IMAGES: usize = 64;

/// An image of an index.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct PlatformImage {
    /// `linux/amd64`: operating system and processor in Go's words, and the processor's variant where the image names one.
    pub platform: String,
    /// Digest of its manifest.
    pub image: Digest,
}

impl Layout {
    /// Makes an index of `images`, each for the platform that its own configuration names, and lets `name` stand for it. The order
    /// in which they are given does not matter.
    ///
    /// # Errors
    /// When an image is missing, or two are for the same platform.
    pub fn put_index(
        &self,
        name: &str,
        images: &[Digest],
        annotations: &BTreeMap<String, String>,
    ) -> Result<Digest> {
        let mut entries = BTreeMap::new();
        for image in images {
            let (platform, fields) = self.platform(image)?;
            let size = self.document(image)?.len();
            let entry = json!({
                "mediaType": MediaType::ImageManifest.to_string(),
                "digest": image,
                "size": size,
                "platform": fields,
            });
            let taken = entries.insert(platform.clone(), entry);
            ensure!(taken.is_none(), "the index {name} would list two images for {platform}");
        }
        let mut index = json!({
            "schemaVersion": 2,
            "mediaType": MediaType::ImageIndex.to_string(),
            "manifests": entries.into_values().collect::<Vec<_>>(),
        });
        if !annotations.is_empty() {
            index["annotations"] = json!(annotations);
        }
        let bytes = canonical_json::canonical(&index)?;
        let digest = self.put(&bytes)?;
        self.name(name, descriptor(MediaType::ImageIndex, &digest, bytes.len() as u64)?)?;
        Ok(digest)
    }

    /// The images that `digest` stands for: those of an index, or the one whose manifest it is. What an index lists beside images
    /// (attestations, for no platform) is left out.
    ///
    /// # Errors
    /// When the document is neither, lists too many images, or one that is not there.
    pub fn images(&self, digest: &Digest) -> Result<Vec<PlatformImage>> {
        let image = |image: Digest| Ok(PlatformImage { platform: self.platform(&image)?.0, image });
        self.listed(digest)?.into_iter().map(image).collect()
    }

    /// The same without their platforms, which take reading their configurations.
    pub(crate) fn listed(&self, digest: &Digest) -> Result<Vec<Digest>> {
        let Some(index) = self.index_document(digest)? else { return Ok(vec![*digest]) };
        let is_image = |entry: &&Descriptor| match entry.platform() {
            Some(platform) => platform.os().to_string() != "unknown",
            None => true,
        };
        let entries: Vec<_> = index.manifests().iter().filter(is_image).collect();
        ensure!(entries.len() <= MAX_IMAGES, "the index {digest} lists more than {MAX_IMAGES} images");
        entries.into_iter().map(digest_of).collect()
    }

    /// The annotations that the manifests of all `images` have alike.
    pub fn common_annotations(&self, images: &[Digest]) -> Result<BTreeMap<String, String>> {
        let mut common: Option<BTreeMap<String, String>> = None;
        for image in images {
            let own = self.manifest(image)?.annotations().clone().unwrap_or_default();
            common = Some(match common {
                None => own.into_iter().collect(),
                Some(common) => {
                    common.into_iter().filter(|(key, value)| own.get(key) == Some(value)).collect()
                }
            });
        }
        Ok(common.unwrap_or_default())
    }

    /// Whether `name` stands for this very document.
    pub fn stands_for(&self, name: &str, image: &Digest) -> Result<bool> {
        Ok(self.tags()?.iter().any(|tagged| tagged.name == name && tagged.digest == *image))
    }

    /// Whether `name` stands for this image, alone or among those of an index.
    pub fn is_named(&self, name: &str, image: &Digest) -> Result<bool> {
        let Some(tagged) = self.tags()?.into_iter().find(|tagged| tagged.name == name) else {
            return Ok(false);
        };
        if tagged.digest == *image {
            return Ok(true);
        }
        let index = self.index_document(&tagged.digest)?;
        let listed = index.iter().flat_map(|index| index.manifests());
        Ok(listed.map(digest_of).collect::<Result<Vec<_>>>()?.contains(image))
    }

    /// The index of this digest; `None` for another document.
    pub(crate) fn index_document(&self, digest: &Digest) -> Result<Option<ImageIndex>> {
        let value: Value = serde_json::from_slice(&self.document(digest)?)
            .with_context(|| format!("{digest} is not JSON"))?;
        if value["manifests"].is_null() {
            return Ok(None);
        }
        // Which of the two it is would be up to the reader (CVE-2021-41190).
        if !value["layers"].is_null() || !value["config"].is_null() {
            bail!("the document {digest} is an index and a manifest at once");
        }
        let index =
            serde_json::from_value(value).with_context(|| format!("{digest} is not an image index"))?;
        Ok(Some(index))
    }

    /// The platform of an image, in one word and as an index has it.
    fn platform(&self, image: &Digest) -> Result<(String, Value)> {
        let bytes = self.document(&self.config(image)?)?;
        let config: ImageConfiguration = serde_json::from_slice(&bytes)
            .with_context(|| format!("the configuration of {image} is not an image configuration"))?;
        let (os, architecture) = (config.os().to_string(), config.architecture().to_string());
        let mut fields = json!({ "os": os, "architecture": architecture });
        let mut text = format!("{os}/{architecture}");
        if let Some(variant) = config.variant() {
            fields["variant"] = json!(variant);
            text = format!("{text}/{variant}");
        }
        Ok((text, fields))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::tests::spec;

    fn image(layout: &Layout, architecture: &str) -> Digest {
        let image =
            crate::ImageSpec { architecture: architecture.into(), ..spec(vec![]) }.to_image().unwrap();
        image.put(layout).unwrap()
    }

    #[test]
    fn an_index_has_one_order_and_is_found_by_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let (arm, amd) = (image(&layout, "arm64"), image(&layout, "amd64"));
        let write = |images: &[Digest]| layout.put_index("api", images, &BTreeMap::new()).unwrap();
        let index = write(&[arm, amd]);
        assert_eq!(write(&[amd, arm]), index);
        let listed: Vec<_> = layout.images(&index).unwrap();
        let platform = |platform: &str, image| PlatformImage { platform: platform.into(), image };
        assert_eq!(listed, [platform("linux/amd64", amd), platform("linux/arm64", arm)]);
        assert_eq!(layout.tags().unwrap()[0].digest, index);
        assert_eq!(layout.images(&arm).unwrap(), [platform("linux/arm64", arm)]);
        assert!(layout.is_named("api", &arm).unwrap() && layout.is_named("api", &index).unwrap());
        assert!(!layout.is_named("api", &image(&layout, "s390x")).unwrap());
        assert!(!layout.is_named("other", &arm).unwrap());
    }

    #[test]
    fn one_platform_twice_and_a_document_that_is_two_things_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let amd = image(&layout, "amd64");
        let error = layout.put_index("api", &[amd, amd], &BTreeMap::new()).unwrap_err().to_string();
        assert!(error.contains("two images for linux/amd64"), "{error}");
        let both = layout.put(br#"{"manifests":[],"layers":[]}"#).unwrap();
        assert!(layout.images(&both).unwrap_err().to_string().contains("at once"));
        assert!(layout.images(&layout.put(b"[").unwrap()).is_err());
    }
}
