//! An existing image as a base: its layers are taken as they are, and looked into only to prove that what is put on top can be
//! started. Its files are kept by digest; nothing of it is run.
//!
//! Source: OCI image-spec, `layer.md` (whiteouts).

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use oci::{Compression, Layer, Layout, Source, Tree};
use serde_json::Value;
use stdx::{Digest, DigestWriter};

use crate::debian::deb::{inside, keep};

/// An image that others are put on top of.
#[derive(Debug, Clone)]
pub struct Existing {
    /// From the lowest to the highest.
    pub layers: Vec<Layer>,
    /// What a container of it would see.
    pub tree: Tree,
    /// Environment that it sets.
    pub env: BTreeMap<String, String>,
}

/// Bytes that one layer may unpack to.
const MOST_BYTES: u64 = 32 << 30;
/// Files of all layers together.
const MOST_FILES: usize = 2_000_000;
/// Layers of one image; engines allow 127.
const MOST_LAYERS: usize = 127;

/// A file, folder or link of a layer.
#[derive(Debug, Clone)]
enum Item {
    Dir(u32),
    File(u32, Digest),
    Link(String),
}

/// Reads the image with the manifest `image`, or the one for `architecture` where that is an index; regular files are put into the
/// folder `files` under their digests.
///
/// # Errors
/// When a blob is missing or damaged, or the image is for another processor.
pub fn existing(layout: &Layout, image: Digest, architecture: &str, files: &Path) -> Result<Existing> {
    let manifest = manifest(layout, image, architecture)?;
    let config = json(layout, &digest_at(&manifest, "/config/digest")?)?;
    let found = config["architecture"].as_str().unwrap_or_default();
    ensure!(found == architecture, "it is for {found}, and the image for {architecture}");
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let (descriptors, diff_ids) = (list(&manifest["layers"]), list(&config["rootfs"]["diff_ids"]));
    ensure!(descriptors.len() == diff_ids.len(), "it has layers that its configuration does not name");
    ensure!(descriptors.len() <= MOST_LAYERS, "it has more than {MOST_LAYERS} layers");
    stdx::fs::create_dir_all(files)?;
    let mut items = BTreeMap::new();
    let mut layers = Vec::new();
    for (descriptor, diff_id) in descriptors.iter().zip(diff_ids) {
        let digest = digest_at(descriptor, "/digest")?;
        let diff_id: Digest = diff_id.as_str().unwrap_or_default().parse()?;
        let media_type = descriptor["mediaType"].as_str().unwrap_or_default();
        let layer = Blob { layout, digest, diff_id, media_type }.read(files, &mut items);
        layers.push(layer.with_context(|| format!("cannot read the layer {digest}"))?);
    }
    let mut tree = Tree::new();
    for (path, item) in items {
        match item {
            Item::Dir(mode) => tree.dir(&path, mode, 0)?,
            Item::Link(target) => tree.symlink(&path, &target)?,
            Item::File(mode, digest) => tree.file(&path, mode, Source::Path(files.join(digest.hex())))?,
        }
    }
    let pair = |text: &Value| {
        text.as_str()?.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
    };
    let env = list(&config["config"]["Env"]).iter().filter_map(pair).collect();
    Ok(Existing { layers, tree, env })
}

fn manifest(layout: &Layout, image: Digest, architecture: &str) -> Result<Value> {
    let document = json(layout, &image)?;
    let Some(manifests) = document["manifests"].as_array() else { return Ok(document) };
    let is_ours = |entry: &&Value| {
        entry["platform"]["architecture"] == architecture && entry["platform"]["os"] == "linux"
    };
    let entry = manifests
        .iter()
        .find(is_ours)
        .with_context(|| format!("{image} is an index without linux/{architecture}"))?;
    let manifest = json(layout, &digest_at(entry, "/digest")?)?;
    ensure!(manifest["layers"].is_array(), "{image} names no image");
    Ok(manifest)
}

fn json(layout: &Layout, digest: &Digest) -> Result<Value> {
    serde_json::from_slice(&layout.document(digest)?).with_context(|| format!("{digest} is not JSON"))
}

fn digest_at(value: &Value, pointer: &str) -> Result<Digest> {
    let text = value.pointer(pointer).and_then(Value::as_str).context("a digest is missing")?;
    Ok(text.parse()?)
}

/// A layer of the image.
struct Blob<'a> {
    layout: &'a Layout,
    digest: Digest,
    diff_id: Digest,
    media_type: &'a str,
}

impl Blob<'_> {
    /// Puts what is in it on top of `items`.
    fn read(&self, files: &Path, items: &mut BTreeMap<String, Item>) -> Result<Layer> {
        let path = self.layout.blob_path(&self.digest);
        let (found, size) = Digest::of_reader(stdx::fs::open(&path)?)?;
        ensure!(found == self.digest, "{} is damaged: its content is {found}", path.display());
        let compression = Compression::of_media_type(self.media_type).with_context(|| {
            format!("layers of the type `{}` are not supported as a base", self.media_type.escape_debug())
        })?;
        let plain = compression.open(&path)?;
        let mut archive = tar::Archive::new(Hashing {
            inner: plain.take(MOST_BYTES),
            hash: DigestWriter::new(std::io::sink()),
        });
        let mut new = BTreeMap::new();
        for entry in archive.entries()? {
            add(&mut entry?, files, items, &mut new)?;
        }
        let mut rest = archive.into_inner();
        std::io::copy(&mut rest, &mut std::io::sink())?;
        let (_, found, unpacked_size) = rest.hash.finish();
        ensure!(found == self.diff_id, "its content is {found}, and the configuration says {}", self.diff_id);
        for (path, item) in new {
            let is_folder = matches!(item, Item::Dir(_));
            if !is_folder {
                hide(items, &path);
            }
            items.insert(path, item);
        }
        ensure!(items.len() <= MOST_FILES, "it has too many files");
        let comment = "the base image".to_owned();
        Ok(Layer { diff_id: found, digest: self.digest, size, unpacked_size, compression, comment })
    }
}

/// Adds an entry to `new`; what it hides of lower layers goes from `below` at once.
fn add(
    entry: &mut tar::Entry<'_, impl Read>,
    files: &Path,
    below: &mut BTreeMap<String, Item>,
    new: &mut BTreeMap<String, Item>,
) -> Result<()> {
    let Some(path) = inside(&entry.path_bytes())? else { return Ok(()) };
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
    if name == ".wh..wh..opq" {
        let prefix = format!("{folder}/");
        below.retain(|path, _| !path.starts_with(&prefix));
        return Ok(());
    }
    if let Some(hidden) = name.strip_prefix(".wh.") {
        hide(below, format!("{folder}/{hidden}").trim_start_matches('/'));
        return Ok(());
    }
    let mode = entry.header().mode()? & 0o1777;
    let kind = entry.header().entry_type();
    let target = || -> Result<String> {
        let target = entry.link_name_bytes().context("a link without a target")?;
        Ok(std::str::from_utf8(&target).context("a link's target is not UTF-8")?.to_owned())
    };
    let item = if kind.is_dir() {
        Item::Dir(mode)
    } else if kind.is_symlink() {
        Item::Link(target()?)
    } else if kind.is_hard_link() {
        let first = inside(target()?.as_bytes())?;
        let first = first.and_then(|first| new.get(&first).or_else(|| below.get(&first)).cloned());
        first.with_context(|| format!("{path} is a link to what did not come before it"))?
    } else if kind.is_file() {
        let (digest, _) = keep(entry, files)?;
        Item::File(mode & 0o777, digest)
    } else {
        // Devices and pipes are nothing that the proof looks at.
        return Ok(());
    };
    ensure!(new.len() < MOST_FILES, "it has too many files");
    new.insert(path, item);
    Ok(())
}

/// Removes the entry at `path` and all below it.
fn hide(items: &mut BTreeMap<String, Item>, path: &str) {
    items.remove(path);
    let prefix = format!("{path}/");
    items.retain(|path, _| !path.starts_with(&prefix));
}

struct Hashing<R> {
    inner: R,
    hash: DigestWriter<std::io::Sink>,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.hash.write_all(&buffer[..read])?;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::ImageSpec;

    fn spec(layers: Vec<Layer>) -> ImageSpec {
        ImageSpec {
            architecture: "amd64".into(),
            created: "1970-01-01T00:00:00Z".into(),
            layers,
            entrypoint: vec!["/x".into()],
            cmd: vec![],
            env: BTreeMap::from([("A".into(), "1=2".into())]),
            user: "1:1".into(),
            working_dir: "/".into(),
            exposed_ports: vec![],
            volumes: vec![],
            stop_signal: "SIGTERM".into(),
            health_check: None,
            labels: BTreeMap::new(),
        }
    }

    #[test]
    fn layers_are_merged_with_whiteouts_and_kept_as_they_are() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(&folder.path().join("layout")).unwrap();
        let layer = |paths: &[&str], compression| {
            let mut tree = Tree::new();
            for path in paths {
                tree.file(path, 0o755, Source::Bytes(path.as_bytes().to_vec())).unwrap();
            }
            Layer::pack(&tree, compression, "", &layout).unwrap()
        };
        let layers = vec![
            layer(&["a/one", "a/two", "b/three", "c"], Compression::Gzip),
            layer(&["a/.wh.one", "b/.wh..wh..opq", "b/four"], Compression::Zstd),
        ];
        let image = spec(layers.clone()).to_image().unwrap().write("x", &layout).unwrap();
        let files = folder.path().join("files");
        let found = existing(&layout, image, "amd64", &files).unwrap();
        let paths: Vec<_> = found.tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "a/two", "b", "b/four", "c"]);
        assert_eq!(
            found.layers.iter().map(|l| l.digest).collect::<Vec<_>>(),
            layers.iter().map(|l| l.digest).collect::<Vec<_>>()
        );
        assert_eq!(found.env["A"], "1=2");
        assert!(existing(&layout, image, "arm64", &files).unwrap_err().to_string().contains("for amd64"));
        std::fs::write(layout.blob_path(&layers[0].digest), b"damaged").unwrap();
        assert!(
            format!("{:#}", existing(&layout, image, "amd64", &files).unwrap_err()).contains("is damaged")
        );
    }
}
