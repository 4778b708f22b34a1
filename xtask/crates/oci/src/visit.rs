//! A look at every file of every layer, without unpacking: also at those that a later layer hides.

use std::io::Read;

use anyhow::{Context, Result, ensure};
use oci_spec::image::Descriptor;
use stdx::Digest;

use crate::layout::{Layout, digest_of};
use crate::unpack::compression;

/// A regular file in a layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerFile {
    /// Inside the image, without `/` or `./` in front. It is what the archive says, so that nothing may be opened by it.
    pub path: String,
    /// In bytes.
    pub size: u64,
}

/// Calls `visit` with every regular file of the image with the manifest digest `image`, or of every image of that index, from the lowest layer up. What it does not
/// read is skipped.
///
/// # Errors
/// When a blob is missing or is not what its digest says, when a layer is no archive, or when `visit` fails.
pub fn visit_files(
    layout: &Layout,
    image: Digest,
    mut visit: impl FnMut(&LayerFile, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    for listed in layout.images(&image)? {
        for layer in layout.manifest(&listed.image)?.layers() {
            visit_layer(layout, layer, &mut visit)
                .with_context(|| format!("cannot read the layer {}", layer.digest()))?;
        }
    }
    Ok(())
}

fn visit_layer(
    layout: &Layout,
    layer: &Descriptor,
    visit: &mut impl FnMut(&LayerFile, &mut dyn Read) -> Result<()>,
) -> Result<()> {
    let path = layout.blob_path(&digest_of(layer)?);
    let (found, _) = Digest::of_reader(stdx::fs::open(&path)?)?;
    ensure!(found == digest_of(layer)?, "{} is damaged: its content is {found}; build again", path.display());
    let archive = compression(layer)?.open(&path)?;
    for entry in tar::Archive::new(archive).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let path =
                entry.path()?.to_string_lossy().trim_start_matches("./").trim_start_matches('/').to_owned();
            let file = LayerFile { path, size: entry.size() };
            visit(&file, &mut entry).with_context(|| format!("cannot read {}", file.path))?;
        }
    }
    Ok(())
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
