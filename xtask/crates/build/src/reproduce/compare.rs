//! Two images of the same service, compared from the outside in: digest, documents, layers, files, sections, bytes.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result};
use elf::SectionDifference;
use oci::Layout;
use serde_json::Value;
use stdx::Digest;

/// A file of more bytes than this is told by digest alone.
const LARGEST_COMPARED: u64 = 1 << 30;

/// An image in a layout.
#[derive(Debug, Clone, Copy)]
pub struct ImageAt<'a> {
    /// Folder of the layout.
    pub layout: &'a Path,
    /// Digest of the manifest.
    pub image: Digest,
}

/// Where two images begin to differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// In the configuration, at a key.
    Document { key: String, first: String, second: String },
    /// In the form of a layer, while all files are the same: modes, owners, order, compression.
    Layer { number: usize },
    /// In a file of a layer.
    File { path: String, sections: Vec<SectionDifference> },
}

/// Where the two images differ; `None` where they have the same digest.
pub(super) fn place(first: ImageAt<'_>, second: ImageAt<'_>) -> Result<Option<Place>> {
    if first.image == second.image {
        return Ok(None);
    }
    let (a, b) = (Layout::open(first.layout)?, Layout::open(second.layout)?);
    if let Some(path) = differing_file(&files(&a, first.image)?, &files(&b, second.image)?) {
        let (one, other) = (read(&a, first.image, &path)?, read(&b, second.image, &path)?);
        let sections = elf::section_differences(&one, &other);
        let sections =
            sections.unwrap_or_else(|_| elf::difference("content", &one, &other).into_iter().collect());
        return Ok(Some(Place::File { path, sections: sorted(sections) }));
    }
    let layers = |layout: &Layout, image| Ok::<_, anyhow::Error>(layout.manifest(image)?.layers().clone());
    let (one, other) = (layers(&a, &first.image)?, layers(&b, &second.image)?);
    let number = one.iter().zip(&other).position(|(a, b)| a.digest() != b.digest());
    if let Some(number) = number.or_else(|| (one.len() != other.len()).then_some(one.len().min(other.len())))
    {
        return Ok(Some(Place::Layer { number: number + 1 }));
    }
    let config = |layout: &Layout, image| -> Result<Value> {
        let config = layout.config(image)?;
        serde_json::from_slice(&layout.document(&config)?).context("an image's configuration is no JSON")
    };
    let found = value_difference("", &config(&a, &first.image)?, &config(&b, &second.image)?);
    let (key, first, second) = found.unwrap_or_else(|| ("manifest".to_owned(), String::new(), String::new()));
    Ok(Some(Place::Document { key, first, second }))
}

/// Readable differences first, and what the linker derives from all others (the build id, addresses in code) last.
fn sorted(mut sections: Vec<SectionDifference>) -> Vec<SectionDifference> {
    let rank = |difference: &SectionDifference| {
        let name = difference.section.as_str();
        let derived = name.starts_with(".note.gnu.build-id")
            || name.starts_with(".eh_frame")
            || name.starts_with(".rela")
            || name == "header";
        let data = name.starts_with(".rodata") || name.starts_with(".data") || name.starts_with(".comment");
        (derived, !difference.first.is_readable(), !data)
    };
    sections.sort_by_key(rank);
    sections
}

type Files = BTreeMap<String, (Digest, u64)>;

fn files(layout: &Layout, image: Digest) -> Result<Files> {
    let mut files = Files::new();
    oci::visit_files(layout, image, |file, reader| {
        let digest = Digest::of_reader(reader)?;
        files.insert(file.path.clone(), digest);
        Ok(())
    })?;
    Ok(files)
}

fn differing_file(first: &Files, second: &Files) -> Option<String> {
    let changed = first.iter().find(|(path, digest)| second.get(*path) != Some(digest)).map(|(path, _)| path);
    changed.or_else(|| second.keys().find(|path| !first.contains_key(*path))).cloned()
}

/// The content of a file of the image; nothing where it is missing or very large.
fn read(layout: &Layout, image: Digest, path: &str) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    oci::visit_files(layout, image, |file, reader| {
        if file.path == path && file.size < LARGEST_COMPARED {
            content.clear();
            reader.read_to_end(&mut content)?;
        }
        Ok(())
    })?;
    Ok(content)
}

/// The first key, in dots, whose value differs.
fn value_difference(key: &str, first: &Value, second: &Value) -> Option<(String, String, String)> {
    let below = |name: &str| if key.is_empty() { name.to_owned() } else { format!("{key}.{name}") };
    match (first, second) {
        (Value::Object(a), Value::Object(b)) => {
            let names: std::collections::BTreeSet<&String> = a.keys().chain(b.keys()).collect();
            let missing = Value::Null;
            let value = |map: &'_ serde_json::Map<String, Value>, name: &String| {
                map.get(name).unwrap_or(&missing).clone()
            };
            names
                .into_iter()
                .find_map(|name| value_difference(&below(name), &value(a, name), &value(b, name)))
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(index, (a, b))| value_difference(&below(&index.to_string()), a, b))
        }
        _ if first == second => None,
        _ => Some((key.to_owned(), first.to_string(), second.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::{Compression, ImageSpec, Layer, Source, Tree};

    fn image(folder: &Path, text: &str, mode: u32, label: &str) -> Digest {
        let layout = Layout::create(folder).unwrap();
        let mut tree = Tree::new();
        tree.file("/app/same", 0o444, Source::Bytes(b"same".to_vec())).unwrap();
        tree.file("/app/text", mode, Source::Bytes(text.into())).unwrap();
        let layer = Layer::pack(&tree, Compression::Gzip, "x", &layout).unwrap();
        let spec = ImageSpec {
            architecture: "amd64".into(),
            created: "1970-01-01T00:00:00Z".into(),
            layers: vec![layer],
            entrypoint: vec!["/app/text".into()],
            cmd: vec![],
            env: BTreeMap::new(),
            user: "1:1".into(),
            working_dir: "/".into(),
            exposed_ports: [].into(),
            volumes: [].into(),
            stop_signal: "SIGTERM".into(),
            health_check: None,
            labels: [("l".to_owned(), label.to_owned())].into(),
        };
        let image = spec.to_image().unwrap();
        image.write("x", &layout).unwrap();
        image.digest()
    }

    #[test]
    fn the_outermost_difference_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str, mode: u32, label: &str| {
            let layout = folder.path().join(name);
            let image = image(&layout, text, mode, label);
            (layout, image)
        };
        let check = |b: (std::path::PathBuf, Digest)| {
            let a = at("a", "text 1", 0o444, "l");
            place(ImageAt { layout: &a.0, image: a.1 }, ImageAt { layout: &b.0, image: b.1 }).unwrap()
        };
        assert_eq!(check(at("b", "text 1", 0o444, "l")), None);
        let Some(Place::File { path, sections }) = check(at("c", "text 2", 0o444, "l")) else { panic!() };
        assert_eq!(
            (path.as_str(), sections[0].offset, sections[0].second.text().as_str()),
            ("app/text", 5, "text 2")
        );
        assert_eq!(check(at("d", "text 1", 0o555, "l")), Some(Place::Layer { number: 1 }));
        let Some(Place::Document { key, first, second }) = check(at("e", "text 1", 0o444, "m")) else {
            panic!()
        };
        assert_eq!((key.as_str(), first.as_str(), second.as_str()), ("config.Labels.l", "\"l\"", "\"m\""));
    }
}
