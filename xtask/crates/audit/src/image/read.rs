//! From a layout to the entries of an image: every layer in order, and the file system that they make together. It judges
//! nothing but what stands in the way of reading. Invariant: memory and time are bounded, whatever the sizes and the number of entries.

use std::collections::BTreeMap;
use std::io::{self, Read};

use anyhow::{Context, Result, ensure};
use oci::{Compression, Layout};
use serde_json::Value;
use stdx::{Digest, DigestWriter};
use tar::EntryType;

use super::Report;

/// More layers than any engine stacks.
const MAX_LAYERS: usize = 256;
/// Images of an index.
const MAX_IMAGES: usize = 32;
/// Entries of all layers, a long one counting as several.
const MAX_ENTRIES: usize = 400_000;
/// Bytes of names and content that count as one more entry.
const KEPT_PER_UNIT: usize = 512;
/// Bytes of all layers, unpacked: a bomb ends here.
const MAX_UNPACKED: u64 = 16 << 30;
/// Names and attributes of one entry; Linux allows 64 KiB of attributes.
const MAX_EXTENSION: u64 = 1024 * 1024;
/// Two blocks of zeros.
const END_MARK: u64 = 1024;
/// What is kept of a file whose content is looked at.
const MAX_CONTENT: u64 = 64 * 1024;
/// Smaller files are not compared with each other: nobody would mend that.
const MIN_COMPARED: u64 = 1024 * 1024;

/// What a layer says of a path.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub(super) path: String,
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) size: u64,
    pub(super) link: Option<String>,
    pub(super) has_capabilities: bool,
    /// Beginning of the content, for the few files that are read.
    pub(super) content: Option<Vec<u8>>,
    /// Of the content of large files.
    pub(super) digest: Option<Digest>,
    /// Number of its layer, from 0.
    pub(super) layer: usize,
}

impl Item {
    /// Bytes that stay in memory.
    fn kept(&self) -> usize {
        self.path.len()
            + self.link.as_ref().map_or(0, String::len)
            + self.content.as_ref().map_or(0, Vec::len)
    }
}

/// All that was read.
#[derive(Debug, Default)]
pub(super) struct Content {
    /// Entries of all layers, those included that are gone later.
    pub(super) all: Vec<Item>,
    /// Numbers in `all` of the entries that are there in the end, by path.
    pub(super) last: BTreeMap<String, usize>,
    /// Numbers in `all` of files that a later layer removes.
    pub(super) removed: Vec<usize>,
    /// Entries, kept bytes and looks at removed folders, in units of an entry.
    spent: usize,
}

impl Content {
    fn spend(&mut self, units: usize) -> Result<()> {
        self.spent = self.spent.saturating_add(units);
        ensure!(self.spent <= MAX_ENTRIES, "the layers have more entries, or longer ones, than are read");
        Ok(())
    }

    /// Entries that are there in the end.
    pub(super) fn present(&self) -> impl Iterator<Item = &Item> {
        self.last.values().map(|index| &self.all[*index])
    }
}

/// The manifests that `digest` stands for: its own, or those of an index. Attestations beside images are passed over: nothing that an
/// engine would run, which goes by the platform.
pub(super) fn manifests(layout: &Layout, digest: &Digest) -> Result<Vec<Value>> {
    let document = json(layout, digest)?;
    let Some(listed) = document["manifests"].as_array() else { return Ok(vec![document]) };
    // Who reads it as what is up to the reader (CVE-2021-41190).
    ensure!(document["layers"].is_null(), "the document {digest} is an index and a manifest at once");
    ensure!(listed.len() <= MAX_IMAGES, "the index {digest} lists more than {MAX_IMAGES} images");
    let is_image = |entry: &&Value| {
        entry["annotations"]["vnd.docker.reference.type"].as_str() != Some("attestation-manifest")
            || entry["platform"]["os"].as_str() != Some("unknown")
    };
    let images: Vec<_> = listed.iter().filter(is_image).collect();
    ensure!(!images.is_empty(), "the index {digest} lists no image");
    images.into_iter().map(|entry| json(layout, &digest_of(entry)?)).collect()
}

/// The configuration that the manifest names.
pub(super) fn config(layout: &Layout, manifest: &Value) -> Result<Value> {
    json(layout, &digest_of(&manifest["config"])?)
}

fn json(layout: &Layout, digest: &Digest) -> Result<Value> {
    serde_json::from_slice(&layout.document(digest)?).with_context(|| format!("{digest} is not JSON"))
}

fn digest_of(descriptor: &Value) -> Result<Digest> {
    let text = descriptor["digest"].as_str().context("a descriptor without a digest")?;
    text.parse().with_context(|| format!("`{text}` is not a digest that can be read"))
}

/// Reads all layers. What cannot be read is a finding, and the rest is read all the same.
pub(super) fn layers(layout: &Layout, manifest: &Value, report: &mut Report<'_>) -> Content {
    layers_within(layout, manifest, MAX_UNPACKED, report)
}

/// The same with a bound on the bytes of all layers, unpacked.
pub(super) fn layers_within(
    layout: &Layout,
    manifest: &Value,
    mut unpacked: u64,
    report: &mut Report<'_>,
) -> Content {
    let mut content = Content::default();
    let layers = manifest["layers"].as_array().map(Vec::as_slice).unwrap_or_default();
    if layers.len() > MAX_LAYERS {
        report.add("image/not-readable", "layers", format!("only the first {MAX_LAYERS} layers were read"));
    }
    for (number, layer) in layers.iter().take(MAX_LAYERS).enumerate() {
        let media_type = layer["mediaType"].as_str().unwrap_or_default();
        let Some(compression) = Compression::of_media_type(media_type) else {
            let message = format!("the layer {number} is of the type `{media_type}`");
            report.add("image/unknown-media-type", media_type, message);
            continue;
        };
        if let Err(error) = read_layer(layout, layer, (number, compression), &mut unpacked, &mut content) {
            let message = format!("the layer {number} cannot be read: {error:#}");
            report.add("image/not-readable", &number.to_string(), message);
        }
    }
    content
}

fn read_layer(
    layout: &Layout,
    layer: &Value,
    (number, compression): (usize, Compression),
    unpacked: &mut u64,
    content: &mut Content,
) -> Result<()> {
    let digest = digest_of(layer)?;
    ensure!(layout.holds(&digest), "the blob {digest} is missing or damaged");
    let open = || compression.open(&layout.blob_path(&digest));
    // Both readings count, whether they come to their end or not: the same bomb may be in every layer.
    let before = *unpacked;
    let mut looked_at = open()?.take(before);
    let looked = refuse_large_extensions((&mut looked_at).chain(io::repeat(0).take(END_MARK)));
    *unpacked = looked_at.limit();
    ensure!(*unpacked > 0, "the layers are larger than {MAX_UNPACKED} bytes");
    looked?;
    // Some tools (umoci 0.4) leave out the padding of the last file and the end mark; engines take that, and so do we.
    let end = io::repeat(0).take(END_MARK);
    let mut archive = tar::Archive::new(open()?.take(before).chain(end));
    let mut left = before;
    for entry in archive.entries()? {
        let mut entry = entry?;
        // A sparse file may be larger than what there is of it.
        left = left.saturating_sub(entry.size());
        *unpacked = left.min(*unpacked);
        ensure!(*unpacked > 0, "the layers are larger than {MAX_UNPACKED} bytes");
        let item = item(&mut entry, number)?;
        content.spend(1 + item.kept() / KEPT_PER_UNIT)?;
        place(item, content)?;
    }
    Ok(())
}

/// The archive reader takes the long names and pax records of an entry into memory, however long they say they are: they are
/// looked at before. What would make the two readings see other entries is refused: a pax size, which is needed above 8 GiB only,
/// and a list of holes of its own, which no engine's archives have.
fn refuse_large_extensions(reader: impl Read) -> Result<()> {
    let mut archive = tar::Archive::new(reader);
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        let has_list = entry.header().as_gnu().is_some_and(tar::GnuHeader::is_extended);
        ensure!(!kind.is_gnu_sparse() || !has_list, "an entry has a list of holes behind its header");
        let is_pax = kind.is_pax_local_extensions() || kind.is_pax_global_extensions();
        if !is_pax && !kind.is_gnu_longname() && !kind.is_gnu_longlink() {
            continue;
        }
        ensure!(entry.size() <= MAX_EXTENSION, "an entry has {} bytes of names and attributes", entry.size());
        let mut records = Vec::new();
        entry.read_to_end(&mut records)?;
        let has_size = |record: tar::PaxExtension<'_>| record.key_bytes() == b"size";
        ensure!(
            !is_pax || !tar::PaxExtensions::new(&records).flatten().any(has_size),
            "an entry has a pax size"
        );
    }
    Ok(())
}

fn item(entry: &mut tar::Entry<'_, impl Read>, layer: usize) -> Result<Item> {
    let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let parts = path.split('/').filter(|part| !part.is_empty() && *part != ".");
    let path = parts.collect::<Vec<_>>().join("/");
    // What Linux takes as a path.
    ensure!(path.len() <= 4096, "a path is {} bytes long", path.len());
    let header = entry.header();
    // Some unpackers make plain files of these two.
    let kind = match header.entry_type() {
        EntryType::Continuous | EntryType::GNUSparse => EntryType::Regular,
        kind => kind,
    };
    let (mode, uid, size) = (header.mode()? & 0o7777, header.uid()?, entry.size());
    let link = entry.link_name_bytes().map(|link| String::from_utf8_lossy(&link).into_owned());
    let mut has_capabilities = false;
    for extension in entry.pax_extensions()?.into_iter().flatten().flatten() {
        has_capabilities |= extension.key_bytes() == b"SCHILY.xattr.security.capability";
    }
    let (mut content, mut digest) = (None, None);
    if kind.is_file() && super::files::is_read(&path) {
        let mut bytes = Vec::new();
        entry.by_ref().take(MAX_CONTENT).read_to_end(&mut bytes)?;
        content = Some(bytes);
    } else if kind.is_file() && size >= MIN_COMPARED {
        let mut writer = DigestWriter::new(io::sink());
        io::copy(entry, &mut writer)?;
        digest = Some(writer.finish().1);
    }
    Ok(Item { path, kind, mode, uid, size, link, has_capabilities, content, digest, layer })
}

/// Adds the entry to what is there, or removes what it is a whiteout of: only what lower layers made.
fn place(item: Item, content: &mut Content) -> Result<()> {
    let (folder, name) = item.path.rsplit_once('/').unwrap_or(("", &item.path));
    if name == ".wh..wh..opq" {
        return remove_below(folder, item.layer, content);
    }
    if let Some(gone) = name.strip_prefix(".wh.") {
        let gone = if folder.is_empty() { gone.to_owned() } else { format!("{folder}/{gone}") };
        remove_below(&gone, item.layer, content)?;
        remove(&gone, content);
        return Ok(());
    }
    let path = item.path.clone();
    content.all.push(item);
    content.last.insert(path, content.all.len() - 1);
    Ok(())
}

fn remove_below(folder: &str, layer: usize, content: &mut Content) -> Result<()> {
    let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
    let inside = content.last.range(prefix.clone()..).take_while(|(path, _)| path.starts_with(&prefix));
    let (mut seen, mut gone) = (0, Vec::new());
    for (path, index) in inside {
        seen += 1;
        if content.all[*index].layer < layer {
            gone.push(path.clone());
        }
    }
    gone.iter().for_each(|path| remove(path, content));
    content.spend(seen / 16)
}

fn remove(path: &str, content: &mut Content) {
    if let Some(index) = content.last.remove(path) {
        content.removed.push(index);
    }
}
