//! An OCI image layout on disk: a folder of blobs named by their digest, and an index that names images.
//!
//! Source: OCI image-spec 1.1, "Image Layout Specification".

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci_spec::image::{
    ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageManifest, ImageManifestBuilder, MediaType,
};
use stdx::{Digest, DigestWriter, fs, json};

const LAYOUT_FILE: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
/// Manifests and configurations are small; whatever is larger is refused before it is read.
const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;

/// A layout folder. Blobs are only ever added whole and under their own digest.
#[derive(Debug, Clone)]
pub struct Layout {
    root: PathBuf,
}

/// An image of the layout's index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tagged {
    /// Its name in this layout.
    pub name: String,
    /// Digest of its manifest.
    pub digest: Digest,
}

/// A document about an image, which says so itself: an artifact manifest with a subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// Digest of the artifact's manifest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// What the artifact is.
    pub artifact_type: String,
    /// Of the artifact's manifest.
    pub annotations: BTreeMap<String, String>,
    /// The document itself.
    pub content: Digest,
}

/// The document that stands for "no configuration".
///
/// Source: OCI image-spec, "Guidance for an Empty Descriptor".
const EMPTY_JSON: &[u8] = b"{}";

/// What an index entry is known by: the name of an image, or the digest of an artifact, which has none.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Name(String),
    Artifact(String),
}

/// A blob being written; it appears in the layout when it is finished.
pub(crate) struct BlobWriter {
    layout: Layout,
    out: DigestWriter<tempfile::NamedTempFile>,
}

impl Layout {
    /// Opens the layout at `root`, making an empty one where there is none.
    pub fn create(root: &Path) -> Result<Layout> {
        let layout = Layout { root: root.to_owned() };
        fs::create_dir_all(&layout.blob_folder())?;
        if !root.join("oci-layout").exists() {
            fs::write_atomic(&root.join("oci-layout"), LAYOUT_FILE.as_bytes(), 0o644)?;
        }
        if !root.join("index.json").exists() {
            layout.write_entries(BTreeMap::new())?;
        }
        Ok(layout)
    }

    /// Opens the layout at `root`.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(root: &Path) -> Result<Layout> {
        if !root.join("oci-layout").is_file() {
            bail!("{} is not an OCI image layout: it has no file `oci-layout`", root.display());
        }
        Ok(Layout { root: root.to_owned() })
    }

    /// The layout's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where the blob lies, or would lie.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.blob_folder().join(digest.hex())
    }

    /// Whether the blob of this digest is there, whole and undamaged.
    pub fn holds(&self, digest: &Digest) -> bool {
        let content = std::fs::File::open(self.blob_path(digest)).and_then(Digest::of_reader);
        content.is_ok_and(|(found, _)| found == *digest)
    }

    /// Adds a blob that is in memory. One that is there already and whole is not written again.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.holds(&digest) {
            let mut blob = self.blob_writer()?;
            blob.write_all(bytes)?;
            blob.finish()?;
        }
        Ok(digest)
    }

    /// A small blob (a manifest or configuration), checked against its digest.
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let size = std::fs::metadata(&path).with_context(|| format!("cannot read {}", path.display()))?.len();
        if size > MAX_DOCUMENT {
            bail!("{} is {size} bytes long: no manifest or configuration is", path.display());
        }
        let bytes = fs::read(&path)?;
        if Digest::of(&bytes) != *digest {
            bail!("{} is damaged: its content is {}", path.display(), Digest::of(&bytes));
        }
        Ok(bytes)
    }

    /// The manifest of this digest.
    pub fn manifest(&self, digest: &Digest) -> Result<ImageManifest> {
        let bytes = self.document(digest)?;
        serde_json::from_slice(&bytes).with_context(|| format!("{digest} is not an image manifest"))
    }

    /// The digest of the configuration of the image with this manifest.
    pub fn config(&self, image: &Digest) -> Result<Digest> {
        digest_of(self.manifest(image)?.config())
    }

    /// The images of the index, by name.
    ///
    /// # Errors
    /// When the index cannot be read as one.
    pub fn tags(&self) -> Result<Vec<Tagged>> {
        let named = self.index()?.into_iter().filter_map(|(key, descriptor)| match key {
            Key::Name(name) => Some((name, descriptor)),
            Key::Artifact(_) => None,
        });
        named.map(|(name, descriptor)| Ok(Tagged { name, digest: digest_of(&descriptor)? })).collect()
    }

    /// Attaches the document `content` to the manifest `subject`, which stays as it is: an artifact manifest is added that names
    /// it. The same call again changes nothing.
    ///
    /// Source: OCI image-spec 1.1, "Guidelines for Artifact Usage".
    pub fn attach(
        &self,
        subject: &Digest,
        artifact_type: &str,
        content: &[u8],
        annotations: BTreeMap<String, String>,
    ) -> Result<Referrer> {
        let about = self.document(subject)?;
        let subject_type = if is_index(&about) { MediaType::ImageIndex } else { MediaType::ImageManifest };
        let empty = descriptor(MediaType::EmptyJSON, &self.put(EMPTY_JSON)?, EMPTY_JSON.len() as u64)?;
        let document = self.put(content)?;
        let media_type = MediaType::Other(artifact_type.to_owned());
        let manifest = ImageManifestBuilder::default()
            .schema_version(2u32)
            .media_type(MediaType::ImageManifest)
            .artifact_type(media_type.clone())
            .config(empty)
            .layers(vec![descriptor(media_type.clone(), &document, content.len() as u64)?])
            .subject(descriptor(subject_type, subject, about.len() as u64)?)
            .annotations(annotations.clone().into_iter().collect::<std::collections::HashMap<_, _>>())
            .build()?;
        let manifest = json::canonical(&serde_json::to_value(manifest)?)?;
        let digest = self.put(&manifest)?;
        let size = manifest.len() as u64;
        let mut entry = descriptor(MediaType::ImageManifest, &digest, size)?;
        entry.set_artifact_type(Some(media_type));
        self.change_index(|index| _ = index.insert(Key::Artifact(digest.to_string()), entry))?;
        Ok(Referrer { digest, size, artifact_type: artifact_type.to_owned(), annotations, content: document })
    }

    /// Takes everything off the manifest `subject` that is attached to it. The blobs stay until they are pruned.
    pub fn detach(&self, subject: &Digest) -> Result<()> {
        let gone: Vec<Key> =
            self.referrers(subject)?.iter().map(|one| Key::Artifact(one.digest.to_string())).collect();
        self.change_index(|index| index.retain(|key, _| !gone.contains(key)))
    }

    /// What is attached to the manifest `subject`, in order of digests.
    pub fn referrers(&self, subject: &Digest) -> Result<Vec<Referrer>> {
        let mut found = Vec::new();
        for (key, entry) in self.index()? {
            let Key::Artifact(_) = key else { continue };
            let digest = digest_of(&entry)?;
            let manifest = self.manifest(&digest)?;
            let Some(of) = manifest.subject() else { continue };
            let (Some(artifact_type), Some(content)) = (manifest.artifact_type(), manifest.layers().first())
            else {
                continue;
            };
            if digest_of(of)? == *subject {
                found.push(Referrer {
                    digest,
                    size: entry.size(),
                    artifact_type: artifact_type.to_string(),
                    annotations: manifest.annotations().clone().unwrap_or_default().into_iter().collect(),
                    content: digest_of(content)?,
                });
            }
        }
        Ok(found)
    }

    /// Lets `name` stand for the image whose manifest has this digest and size.
    pub fn tag(&self, name: &str, digest: &Digest, size: u64) -> Result<()> {
        self.name(name, descriptor(MediaType::ImageManifest, digest, size)?)
    }

    /// Lets `name` stand for what `entry` describes.
    pub(crate) fn name(&self, name: &str, mut entry: Descriptor) -> Result<()> {
        entry.set_annotations(Some([(ANNOTATION_REF_NAME.to_owned(), name.to_owned())].into()));
        self.change_index(|index| _ = index.insert(Key::Name(name.to_owned()), entry))
    }

    pub(crate) fn blob_writer(&self) -> Result<BlobWriter> {
        let folder = self.blob_folder();
        let file = tempfile::NamedTempFile::new_in(&folder)
            .with_context(|| format!("cannot create a file in {}", folder.display()))?;
        Ok(BlobWriter { layout: self.clone(), out: DigestWriter::new(file) })
    }

    pub(crate) fn blob_folder(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    /// Changes the index while nobody else does.
    pub(crate) fn change_index(&self, change: impl FnOnce(&mut BTreeMap<Key, Descriptor>)) -> Result<()> {
        let lock = fs::open(&self.root.join("oci-layout"))?;
        lock.lock().with_context(|| format!("cannot lock {}", self.root.display()))?;
        let mut index = self.index()?;
        let before = index.clone();
        change(&mut index);
        if index == before { Ok(()) } else { self.write_entries(index) }
    }

    pub(crate) fn index(&self) -> Result<BTreeMap<Key, Descriptor>> {
        let path = self.root.join("index.json");
        let index: ImageIndex = serde_json::from_slice(&fs::read(&path)?).with_context(|| {
            format!(
                "{} is damaged; remove the folder {} and build again",
                path.display(),
                self.root.display()
            )
        })?;
        let name = |entry: &Descriptor| entry.annotations().as_ref()?.get(ANNOTATION_REF_NAME).cloned();
        let key = |entry: &Descriptor| {
            name(entry).map_or_else(|| Key::Artifact(entry.digest().to_string()), Key::Name)
        };
        Ok(index.manifests().iter().map(|entry| (key(entry), entry.clone())).collect())
    }

    fn write_entries(&self, images: BTreeMap<Key, Descriptor>) -> Result<()> {
        let manifests: Vec<_> = images.into_values().collect();
        let index = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": MediaType::ImageIndex.to_string(),
            "manifests": manifests,
        });
        fs::write_atomic(&self.root.join("index.json"), &json::canonical(&index)?, 0o644)
    }
}

impl BlobWriter {
    /// Puts the blob in its place. One that lies there already stays as it is, unless it was damaged since.
    pub(crate) fn finish(self) -> Result<(Digest, u64)> {
        let (file, digest, size) = self.out.finish();
        if !self.layout.holds(&digest) {
            fs::persist(file, &self.layout.blob_path(&digest), 0o644)?;
        }
        Ok((digest, size))
    }
}

impl Write for BlobWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Whether the document lists images instead of layers.
fn is_index(document: &[u8]) -> bool {
    serde_json::from_slice::<ImageIndex>(document).is_ok()
}

pub(crate) fn descriptor(media_type: MediaType, digest: &Digest, size: u64) -> Result<Descriptor> {
    let digest: oci_spec::image::Digest = digest.to_string().parse().context("not a digest")?;
    Ok(Descriptor::new(media_type, size, digest))
}

pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    Ok(descriptor.digest().to_string().parse::<Digest>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_replaced_and_listed_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let (old, new) = (Digest::of("old"), Digest::of("new"));
        layout.tag("worker", &old, 3).unwrap();
        layout.tag("api", &old, 3).unwrap();
        layout.tag("api", &new, 3).unwrap();
        let tagged = |name: &str, digest| Tagged { name: name.into(), digest };
        assert_eq!(
            Layout::open(folder.path()).unwrap().tags().unwrap(),
            [tagged("api", new), tagged("worker", old)]
        );
    }

    #[test]
    fn what_is_attached_is_found_by_its_subject_and_the_subject_stays() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let subject = layout.put(b"{}").unwrap();
        let other = layout.put(b"{ }").unwrap();
        layout.tag("api", &subject, 2).unwrap();
        let annotations = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        let attach = |content: &[u8]| {
            layout.attach(&subject, "application/spdx+json", content, annotations.clone()).unwrap()
        };
        let attached = attach(b"one");
        assert_eq!(attach(b"one"), attached);
        assert_eq!(layout.referrers(&subject).unwrap(), [attached]);
        assert_eq!(layout.referrers(&other).unwrap(), []);
        assert_eq!(layout.tags().unwrap(), [Tagged { name: "api".into(), digest: subject }]);
        let kept = layout.attach(&other, "application/spdx+json", b"one", annotations.clone()).unwrap();
        layout.detach(&subject).unwrap();
        assert_eq!(
            (layout.referrers(&subject).unwrap(), layout.referrers(&other).unwrap()),
            (vec![], vec![kept])
        );
        assert_eq!(layout.tags().unwrap().len(), 1);
    }

    #[test]
    fn a_damaged_blob_and_a_damaged_index_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let digest = layout.put(b"{}").unwrap();
        std::fs::write(layout.blob_path(&digest), "[]").unwrap();
        let error = layout.document(&digest).unwrap_err().to_string();
        assert!(error.contains("damaged") && error.contains(&digest.hex()), "{error}");
        std::fs::write(folder.path().join("index.json"), "{").unwrap();
        let error = layout.tags().unwrap_err().to_string();
        assert!(error.contains("index.json") && error.contains("build again"), "{error}");
    }

    #[test]
    fn only_a_layout_opens() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Layout::open(folder.path()).unwrap_err().to_string().contains("oci-layout"));
    }
}
