//! From a service's plan and its binary to an image in the layout. A layer that was packed before is not packed again: its
//! key describes the tree by content.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use oci::{Compression, Entry, Image, Layer, Layout, Source, Tree};
use stdx::{Digest, json};

use crate::plan::{ServicePlan, program};
use crate::report::BuiltLayer;
use crate::root::Rooted;
use crate::store::State;

/// An image whose layers are in the layout, and whose documents and name are not.
pub(crate) struct Packed {
    pub(crate) image: Image,
    /// From the lowest to the highest.
    pub(crate) layers: Vec<BuiltLayer>,
    /// Bytes of all layers, unpacked.
    pub(crate) unpacked_size: u64,
}

/// Packs one service's image.
pub(crate) fn pack(
    plan: &ServicePlan,
    binary: &Path,
    root: &Rooted,
    layout: &Layout,
    state: &Mutex<State>,
) -> Result<Packed> {
    let above = vec![
        ("slipway: assets and data folders", assets(plan)?),
        ("slipway: binary", binary_tree(plan, binary)?),
    ];
    let trees = root.image(plan, above)?;
    let mut spec = plan.image.clone();
    let mut layers = Vec::new();
    for (comment, tree) in trees.into_iter().filter(|(_, tree)| !tree.is_empty()) {
        let (layer, reused) = layer(comment, &tree, layout, state)?;
        layers.push(BuiltLayer {
            comment: comment.to_owned(),
            digest: layer.digest,
            size: layer.size,
            reused,
        });
        spec.layers.push(layer);
    }
    let unpacked_size = spec.layers.iter().map(|layer| layer.unpacked_size).sum();
    Ok(Packed { image: spec.to_image()?, layers, unpacked_size })
}

pub(crate) fn layer(
    comment: &str,
    tree: &Tree,
    layout: &Layout,
    state: &Mutex<State>,
) -> Result<(Layer, bool)> {
    let compression = Compression::Gzip;
    let key = key(tree, compression)?;
    let lock = || state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    // A statement of its own: the lock must not be held while a blob is read.
    let known = lock().layer(&key).cloned();
    if let Some(layer) = known.filter(|layer| layout.holds(&layer.digest)) {
        return Ok((layer, true));
    }
    let layer = Layer::pack(tree, compression, comment, layout)?;
    lock().remember_layer(key, layer.clone());
    Ok((layer, false))
}

/// Describes the tree by content; with the format number, so that another encoder is another layer.
fn key(tree: &Tree, compression: Compression) -> Result<Digest> {
    let describe = |(path, entry): (&str, &Entry)| {
        Ok(match entry {
            Entry::Dir { mode, owner } => serde_json::json!([path, "dir", mode, owner]),
            Entry::Symlink { target } => serde_json::json!([path, "link", target]),
            Entry::File { mode, source } => serde_json::json!([path, "file", mode, source_digest(source)?]),
        })
    };
    let entries = tree.iter().map(describe).collect::<Result<Vec<_>>>()?;
    let description =
        serde_json::json!({ "format": oci::FORMAT, "compression": compression, "entries": entries });
    Ok(Digest::of(json::canonical(&description)?))
}

fn source_digest(source: &Source) -> Result<Digest> {
    match source {
        Source::Bytes(bytes) => Ok(Digest::of(bytes)),
        Source::Path(path) => {
            let (digest, _) = Digest::of_reader(stdx::fs::open(path)?)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(digest)
        }
    }
}

fn binary_tree(plan: &ServicePlan, binary: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.file(&program(&plan.binary), 0o555, Source::Path(binary.to_owned()))?;
    Ok(tree)
}

/// What the service asks to have copied, and an empty folder of its own for each volume: an engine gives a new volume the
/// owner and mode of the folder it is mounted over.
fn assets(plan: &ServicePlan) -> Result<Tree> {
    let mut tree = Tree::new();
    for volume in &plan.image.volumes {
        tree.dir(volume, 0o750, plan.user)?;
    }
    for (from, to) in &plan.assets {
        add_asset(&mut tree, from, to)
            .with_context(|| format!("cannot copy {} into the image", from.display()))?;
    }
    Ok(tree)
}

/// Modes are chosen here: the ones on disk depend on the umask of whoever checked the files out.
fn add_asset(tree: &mut Tree, from: &Path, to: &str) -> Result<()> {
    let meta = fs::symlink_metadata(from)?;
    if meta.is_symlink() {
        let target = fs::read_link(from)?;
        return tree.symlink(to, target.to_str().context("the link's target is not UTF-8")?);
    }
    if meta.is_file() {
        let mode = if meta.permissions().mode() & 0o100 == 0 { 0o444 } else { 0o555 };
        return tree.file(to, mode, Source::Path(from.to_owned()));
    }
    if !meta.is_dir() {
        bail!("it is neither file nor folder nor link");
    }
    tree.dir(to, 0o755, 0)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_str().with_context(|| format!("the name {} is not UTF-8", name.display()))?;
        add_asset(tree, &entry.path(), &format!("{}/{name}", to.trim_end_matches('/')))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assets_do_not_depend_on_the_umask_of_the_checkout() {
        let folder = tempfile::tempdir().unwrap();
        let pack = |mode: u32| {
            let dir = folder.path().join(mode.to_string());
            fs::create_dir_all(dir.join("sub")).unwrap();
            for (name, executable) in [("sub/a.sql", 0), ("run.sh", 0o111)] {
                fs::write(dir.join(name), name).unwrap();
                fs::set_permissions(
                    dir.join(name),
                    fs::Permissions::from_mode(mode | executable & mode >> 2),
                )
                .unwrap();
            }
            let mut tree = Tree::new();
            add_asset(&mut tree, &dir, "/app/data").unwrap();
            key(&tree, Compression::Gzip).unwrap()
        };
        assert_eq!(pack(0o644), pack(0o600));
    }

    #[test]
    fn the_key_tells_content_mode_and_path_apart() {
        let key_of = |path: &str, mode: u32, text: &str| {
            let mut tree = Tree::new();
            tree.file(path, mode, Source::Bytes(text.into())).unwrap();
            key(&tree, Compression::Gzip).unwrap()
        };
        let keys = [
            key_of("a", 0o444, "x"),
            key_of("b", 0o444, "x"),
            key_of("a", 0o555, "x"),
            key_of("a", 0o444, "y"),
        ];
        assert_eq!(keys.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }
}
