//! One tar archive that `docker load` of any version takes: an OCI image layout with Docker's own `manifest.json` beside it.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use oci_spec::image::{ImageConfiguration, ImageManifest};
use serde_json::{Value, json};
use stdx::{Digest, DigestWriter, json as canonical_json};

use crate::compress::Compression;
use crate::layout::{Layout, digest_of};
use crate::tar;
use crate::unpack::compression;

/// The form of layers in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveLayers {
    /// As the layout has them.
    AsStored,
    /// Those that are compressed with zstd as plain archives, for engines that cannot read it. The manifest then is another one; the
    /// configuration, which gives the image its id there, is the same.
    WithoutZstd,
}

/// A blob of the archive.
struct Blob {
    path: PathBuf,
    compression: Compression,
    size: u64,
}

/// What an archive holds of an image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArchiveForm {
    /// How its layers are stored.
    pub layers: ArchiveLayers,
    /// So many layers, counted from the lowest, are named without their content. An engine takes such an archive when it has an image
    /// with exactly these lowest layers.
    pub without_lowest: usize,
}

impl From<ArchiveLayers> for ArchiveForm {
    /// The whole image.
    fn from(layers: ArchiveLayers) -> ArchiveForm {
        ArchiveForm { layers, without_lowest: 0 }
    }
}

/// Writes the image of `layout` with the manifest digest `image` to `out`, to be loaded under the name `reference`
/// (`name:tag`). Gives the digest of the manifest that the archive has.
///
/// Readers use an archive only when they found the documents at its end. These are written after every blob was compared with its
/// digest, so that a damaged blob is never used.
pub fn write_archive(
    layout: &Layout,
    image: Digest,
    reference: &str,
    form: impl Into<ArchiveForm>,
    out: &mut impl Write,
) -> Result<Digest> {
    let form = form.into();
    let stored = layout.manifest(&image)?;
    let config = digest_of(stored.config())?;
    let mut blobs = BTreeMap::new();
    let layers = layers(layout, &stored, form, &mut blobs)?;
    let size = layout.document(&config)?.len() as u64;
    let plain = |path, size| Blob { path, compression: Compression::None, size };
    blobs.insert(config, plain(layout.blob_path(&config), size));
    let manifest = manifest(layout, &image, &layers)?;
    for (digest, blob) in &blobs {
        write_blob(digest, blob, out).with_context(|| format!("cannot send the blob {digest}"))?;
    }
    let digest = Digest::of(&manifest);
    tar::write_file(&name(&digest), manifest.len() as u64, manifest.as_slice(), out)?;
    let layers: Vec<Digest> = layers.iter().map(|(digest, _)| *digest).collect();
    documents((digest, manifest.len()), &config, &layers, reference, out)?;
    out.write_all(&[0; 1024])?;
    Ok(digest)
}

fn write_blob(digest: &Digest, blob: &Blob, out: &mut impl Write) -> Result<()> {
    let mut content =
        Observed { inner: blob.compression.open(&blob.path)?, seen: DigestWriter::new(io::sink()) };
    tar::write_file(&name(digest), blob.size, &mut content, out)?;
    let (_, found, _) = content.seen.finish();
    ensure!(found == *digest, "{} is damaged: its content is {found}", blob.path.display());
    Ok(())
}

/// Passes on what it reads, and knows its digest.
struct Observed<R> {
    inner: R,
    seen: DigestWriter<io::Sink>,
}

impl<R: Read> Read for Observed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        self.seen.write_all(&buffer[..n])?;
        Ok(n)
    }
}

fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Digest and size of each layer in the archive, from the lowest up; what is in them goes to `blobs`.
fn layers(
    layout: &Layout,
    manifest: &ImageManifest,
    form: ArchiveForm,
    blobs: &mut BTreeMap<Digest, Blob>,
) -> Result<Vec<(Digest, u64)>> {
    let config = layout.document(&digest_of(manifest.config())?)?;
    let config: ImageConfiguration = serde_json::from_slice(&config).context("no image configuration")?;
    let diff_ids = config.rootfs().diff_ids();
    ensure!(
        diff_ids.len() == manifest.layers().len(),
        "the image has layers that its configuration does not name"
    );
    let mut layers = Vec::new();
    for (at, (layer, diff_id)) in manifest.layers().iter().zip(diff_ids).enumerate() {
        let stored = digest_of(layer)?;
        let path = layout.blob_path(&stored);
        let is_expanded =
            form.layers == ArchiveLayers::WithoutZstd && compression(layer)? == Compression::Zstd;
        if at < form.without_lowest {
            // Whoever has the layer does not look at its size.
            layers.push(if is_expanded { (diff_id.parse()?, 0) } else { (stored, layer.size()) });
            continue;
        }
        let (digest, blob) = if is_expanded {
            let content = Compression::Zstd.open(&path)?.take(MAX_EXPANDED);
            let (found, size) =
                Digest::of_reader(content).with_context(|| format!("cannot read {stored}"))?;
            ensure!(found == diff_id.parse()?, "the layer {stored} is not what the configuration says");
            (found, Blob { path, compression: Compression::Zstd, size })
        } else {
            let size = stdx::fs::open(&path)?.metadata()?.len();
            (stored, Blob { path, compression: Compression::None, size })
        };
        layers.push((digest, blob.size));
        blobs.insert(digest, blob);
    }
    Ok(layers)
}

/// What a layer may grow to: a bomb does not fill the engine's disk.
const MAX_EXPANDED: u64 = 64 << 30;

/// The stored manifest, with the layers as the archive has them.
fn manifest(layout: &Layout, image: &Digest, layers: &[(Digest, u64)]) -> Result<Vec<u8>> {
    let stored = layout.document(image)?;
    let mut value: Value = serde_json::from_slice(&stored)?;
    let mut is_changed = false;
    for (entry, (digest, size)) in value["layers"].as_array_mut().into_iter().flatten().zip(layers) {
        if entry["digest"] != json!(digest) {
            entry["digest"] = json!(digest);
            entry["size"] = json!(size);
            entry["mediaType"] = json!(Compression::None.media_type());
            is_changed = true;
        }
    }
    if is_changed { canonical_json::canonical(&value) } else { Ok(stored) }
}

fn documents(
    (image, size): (Digest, usize),
    config: &Digest,
    layers: &[Digest],
    reference: &str,
    out: &mut impl Write,
) -> Result<()> {
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image,
            "size": size,
            "annotations": { "io.containerd.image.name": reference },
        }],
    });
    let docker = json!([{
        "Config": name(config),
        "RepoTags": [reference],
        "Layers": layers.iter().map(name).collect::<Vec<_>>(),
    }]);
    let documents: [(&str, Value); 3] = [
        ("index.json", index),
        ("manifest.json", docker),
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
    ];
    for (path, document) in documents {
        let bytes = canonical_json::canonical(&document)?;
        tar::write_file(path, bytes.len() as u64, bytes.as_slice(), out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::tests::spec;
    use crate::{Layer, Source, Tree};

    #[test]
    fn zstd_layers_become_plain_ones_with_the_same_configuration_and_the_same_bytes_each_time() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let layer = |name: &str, compression| {
            let mut tree = Tree::new();
            tree.file(name, 0o444, Source::Bytes(name.repeat(1000).into())).unwrap();
            Layer::pack(&tree, compression, "", &layout).unwrap()
        };
        let layers = vec![layer("one", Compression::Zstd), layer("two", Compression::Gzip)];
        let (zstd, gzip) = (layers[0].clone(), layers[1].clone());
        let image = spec(layers).to_image().unwrap().write("a", &layout).unwrap();
        let archive = |form: ArchiveLayers| {
            let mut out = Vec::new();
            let digest = write_archive(&layout, image, "a:1", form, &mut out).unwrap();
            (digest, out)
        };
        let names = |bytes: &[u8]| {
            let mut archive = ::tar::Archive::new(bytes);
            let entries = archive.entries().unwrap();
            entries.map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect::<Vec<_>>()
        };
        let (stored, bytes) = archive(ArchiveLayers::AsStored);
        assert_eq!(stored, image);
        assert!(names(&bytes).contains(&name(&zstd.digest)));
        let (converted, bytes) = archive(ArchiveLayers::WithoutZstd);
        assert_ne!(converted, image);
        assert_eq!(archive(ArchiveLayers::WithoutZstd), (converted, bytes.clone()));
        let names = names(&bytes);
        assert!(names.contains(&name(&zstd.diff_id)) && names.contains(&name(&gzip.digest)), "{names:?}");
        assert!(!names.contains(&name(&zstd.digest)));
        assert!(names.contains(&name(&layout.config(&image).unwrap())));
    }

    #[test]
    fn an_archive_for_an_engine_that_has_the_lowest_layers_names_them_without_their_content() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let (image, layers) = image_of(&layout, &["one", "two", "three"]);
        let form = ArchiveForm { layers: ArchiveLayers::AsStored, without_lowest: 2 };
        let mut out = Vec::new();
        assert_eq!(write_archive(&layout, image, "a:1", form, &mut out).unwrap(), image);
        let files = files(&out);
        assert!(!files.contains_key(&name(&layers[0])) && !files.contains_key(&name(&layers[1])));
        assert!(files.contains_key(&name(&layers[2])));
        let docker: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
        assert_eq!(docker[0]["Layers"], json!(layers.iter().map(name).collect::<Vec<_>>()));
    }

    #[test]
    fn a_damaged_layer_ends_the_archive_before_its_documents() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let (image, layers) = image_of(&layout, &["one", "two"]);
        let path = layout.blob_path(&layers[1]);
        let mut bytes = std::fs::read(&path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        let mut out = Vec::new();
        let error = write_archive(&layout, image, "a:1", ArchiveLayers::AsStored, &mut out).unwrap_err();
        let error = format!("{error:#}");
        assert!(error.contains("damaged") && error.contains(&layers[1].hex()), "{error}");
        assert!(!String::from_utf8_lossy(&out).contains("manifest.json"));
    }

    fn image_of(layout: &Layout, names: &[&str]) -> (Digest, Vec<Digest>) {
        let layer = |name: &&str| {
            let mut tree = Tree::new();
            tree.file(name, 0o444, Source::Bytes(name.repeat(1000).into())).unwrap();
            Layer::pack(&tree, Compression::Gzip, "", layout).unwrap()
        };
        let layers: Vec<Layer> = names.iter().map(layer).collect();
        let digests = layers.iter().map(|layer| layer.digest).collect();
        (spec(layers).to_image().unwrap().write("a", layout).unwrap(), digests)
    }

    fn files(archive: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut archive = ::tar::Archive::new(archive);
        let read = |entry: io::Result<::tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            (entry.path().unwrap().display().to_string(), content)
        };
        archive.entries().unwrap().map(read).collect()
    }
}
