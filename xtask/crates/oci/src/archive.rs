//! One tar archive that `docker load` of any version takes: an OCI image layout with Docker's own `manifest.json` beside it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use oci_spec::image::{ImageConfiguration, ImageManifest};
use serde_json::{Value, json};
use stdx::{Digest, json as canonical_json};

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

/// Writes the image of `layout` with the manifest digest `image` to `out`, to be loaded under the name `reference`
/// (`name:tag`). Gives the digest of the manifest that the archive has.
pub fn write_archive(
    layout: &Layout,
    image: Digest,
    reference: &str,
    form: ArchiveLayers,
    out: &mut impl Write,
) -> Result<Digest> {
    let stored = layout.manifest(&image)?;
    let config = digest_of(stored.config())?;
    let mut blobs = BTreeMap::new();
    let layers = layers(layout, &stored, form, &mut blobs)?;
    let size = layout.document(&config)?.len() as u64;
    let plain = |path, size| Blob { path, compression: Compression::None, size };
    blobs.insert(config, plain(layout.blob_path(&config), size));
    let manifest = manifest(layout, &image, &layers)?;
    for (digest, blob) in &blobs {
        let content = blob.compression.open(&blob.path)?;
        tar::write_file(&name(digest), blob.size, content, out)
            .with_context(|| format!("cannot send the blob {digest}"))?;
    }
    let digest = Digest::of(&manifest);
    tar::write_file(&name(&digest), manifest.len() as u64, manifest.as_slice(), out)?;
    let layers: Vec<Digest> = layers.iter().map(|(digest, _)| *digest).collect();
    documents((digest, manifest.len()), &config, &layers, reference, out)?;
    out.write_all(&[0; 1024])?;
    Ok(digest)
}

fn name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Digest and size of each layer in the archive, from the lowest up; what is in them goes to `blobs`.
fn layers(
    layout: &Layout,
    manifest: &ImageManifest,
    form: ArchiveLayers,
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
    for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
        let stored = digest_of(layer)?;
        let path = layout.blob_path(&stored);
        let is_expanded = form == ArchiveLayers::WithoutZstd && compression(layer)? == Compression::Zstd;
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
        let archive = |form| {
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
}
