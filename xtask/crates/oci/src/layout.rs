//! An OCI image layout on disk: a folder of blobs named by their digest, and an index that names images.
//!
//! Source: OCI image-spec 1.1, "Image Layout Specification".

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci_spec::image::{ANNOTATION_REF_NAME, Descriptor, ImageIndex, ImageManifest, MediaType};
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

/// A blob being written; it appears in the layout when it is finished.
pub(crate) struct BlobWriter {
    folder: PathBuf,
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
            layout.write_index(BTreeMap::new())?;
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

    /// Adds a blob that is in memory.
    pub fn put(&self, bytes: &[u8]) -> Result<Digest> {
        let mut blob = self.blob_writer()?;
        blob.write_all(bytes)?;
        Ok(blob.finish()?.0)
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
        let tags = self.index()?.into_iter();
        tags.map(|(name, descriptor)| Ok(Tagged { name, digest: digest_of(&descriptor)? })).collect()
    }

    /// Lets `name` stand for the image whose manifest has this digest and size.
    pub fn tag(&self, name: &str, digest: &Digest, size: u64) -> Result<()> {
        let mut index = self.index()?;
        let mut descriptor = descriptor(MediaType::ImageManifest, digest, size)?;
        descriptor.set_annotations(Some([(ANNOTATION_REF_NAME.to_owned(), name.to_owned())].into()));
        index.insert(name.to_owned(), descriptor);
        self.write_index(index)
    }

    pub(crate) fn blob_writer(&self) -> Result<BlobWriter> {
        let folder = self.blob_folder();
        let file = tempfile::NamedTempFile::new_in(&folder)
            .with_context(|| format!("cannot create a file in {}", folder.display()))?;
        Ok(BlobWriter { folder, out: DigestWriter::new(file) })
    }

    fn blob_folder(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    fn index(&self) -> Result<BTreeMap<String, Descriptor>> {
        let path = self.root.join("index.json");
        let index: ImageIndex = serde_json::from_slice(&fs::read(&path)?).with_context(|| {
            format!(
                "{} is damaged; remove the folder {} and build again",
                path.display(),
                self.root.display()
            )
        })?;
        let name =
            |descriptor: &Descriptor| descriptor.annotations().as_ref()?.get(ANNOTATION_REF_NAME).cloned();
        Ok(index.manifests().iter().filter_map(|entry| Some((name(entry)?, entry.clone()))).collect())
    }

    fn write_index(&self, images: BTreeMap<String, Descriptor>) -> Result<()> {
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
    /// Puts the blob in its place. One that lies there already is replaced: it may have been damaged since.
    pub(crate) fn finish(self) -> Result<(Digest, u64)> {
        let (file, digest, size) = self.out.finish();
        fs::persist(file, &self.folder.join(digest.hex()), 0o644)?;
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
