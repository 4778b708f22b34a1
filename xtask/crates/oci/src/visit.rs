//! A look at every file of every layer, without unpacking: also at those that a later layer hides.

use std::io::Read;

use anyhow::{Context, Result};
use oci_spec::image::Descriptor;
use stdx::Digest;

use crate::entries::{Archive, Budget, Kind, Limits};
use crate::layout::Layout;
use crate::unpack::{checked, compression};

/// A regular file in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// Inside the image, without `/` or `./` in front. It is what the archive says, so that nothing may be opened by it.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// Calls `visit` with every regular file of the image with the manifest digest `image`, or of every image of that index, from the lowest
/// layer up. What it does not read is skipped. A hard link is no file of its own: its content is seen under its other name.
///
/// # Errors
/// When a blob is missing or is not what its digest says, when a layer is no archive, holds what cannot be told for sure (a sparse file,
/// an entry with two names), when an image is larger than the default [`Limits`], or when `visit` fails.
pub fn visit_files(
    layout: &Layout,
    image: Digest,
    mut visit: impl FnMut(&LayerFile, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    for image in layout.listed(&image)? {
        let mut budget = Budget::new(Limits::default());
        for layer in layout.manifest(&image)?.layers() {
            visit_layer(layout, layer, &mut budget, &mut visit)
                .with_context(|| format!("cannot read the layer {}", layer.digest()))?;
        }
    }
    Ok(())
}

fn visit_layer(
    layout: &Layout,
    layer: &Descriptor,
    budget: &mut Budget,
    visit: &mut impl FnMut(&LayerFile, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let blob = checked(layout, layer)?;
    visit_archive(compression(layer)?.open(&blob)?, budget, visit)
}

/// The files of one archive.
pub(crate) fn visit_archive(
    archive: impl Read,
    budget: &mut Budget,
    visit: &mut impl FnMut(&LayerFile, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let mut archive = Archive::new(archive, budget);
    while let Some(item) = archive.next()? {
        if item.kind == Kind::File {
            let path = String::from_utf8_lossy(&item.path);
            let path = path.trim_start_matches("./").trim_start_matches('/').to_owned();
            let file = LayerFile { path, size: item.size };
            visit(&file, &mut archive).with_context(|| format!("cannot read {}", file.path))?;
        }
    }
    archive.finish().map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Compression, Layer, Source, Tree};

    #[test]
    fn files_of_all_layers_are_seen_and_damage_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let layer = |content: &str, compression| {
            let mut tree = Tree::new();
            tree.file("etc/a", 0o444, Source::Bytes(content.into())).unwrap();
            Layer::pack(&tree, compression, "", &layout).unwrap()
        };
        let layers = vec![layer("old", Compression::Gzip), layer("newer", Compression::Zstd)];
        let blob = layout.blob_path(&layers[1].digest);
        let image = crate::unpack::tests::image(&layout, layers);
        let mut seen = Vec::new();
        let mut look = |file: &LayerFile, content: &mut dyn Read| {
            seen.push((file.path.clone(), file.size, std::io::read_to_string(content)?));
            Ok(())
        };
        visit_files(&layout, image, &mut look).unwrap();
        assert_eq!(seen, [("etc/a".into(), 3, "old".into()), ("etc/a".into(), 5, "newer".into())]);
        std::fs::write(blob, "damaged").unwrap();
        assert!(visit_files(&layout, image, |_, _| Ok(())).is_err());
    }
}
