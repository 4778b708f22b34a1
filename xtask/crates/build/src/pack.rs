//! From a service's plan and its binary to an image in the layout. A layer that was packed before is not packed again: its
//! key describes the tree by content.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result, bail};
use oci::{Compression, Entry, Image, Layer, Layout, Source, Tree};
use stdx::{Digest, json};

use crate::action::{Parts, Sort};
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

/// Packs the images of one build. Services pack at the same time: what several of them share is packed by the first, and no more
/// layers are compressed at a time than there are processors, so that memory does not grow with the number of services.
pub(crate) struct Packer<'a> {
    layout: &'a Layout,
    state: &'a Mutex<State>,
    compression: Compression,
    /// One lock for each layer that somebody is about to pack.
    in_work: Mutex<BTreeMap<Digest, Arc<Mutex<()>>>>,
    free: Mutex<usize>,
    freed: Condvar,
}

impl<'a> Packer<'a> {
    pub(crate) fn new(layout: &'a Layout, state: &'a Mutex<State>, compression: Compression) -> Packer<'a> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let (in_work, freed) = (Mutex::default(), Condvar::new());
        Packer { layout, state, compression, in_work, free: Mutex::new(processors), freed }
    }

    /// Packs one service's image.
    pub(crate) fn pack(&self, plan: &ServicePlan, binary: &Path, root: &Rooted) -> Result<Packed> {
        let above = vec![
            ("slipway: assets and data folders", assets(plan)?),
            ("slipway: binary", binary_tree(plan, binary)?),
        ];
        let trees = root.image(plan, above)?;
        let mut spec = plan.image.clone();
        let mut layers = root.begin(&mut spec, self.layout)?;
        for (comment, tree) in trees.into_iter().filter(|(_, tree)| !tree.is_empty()) {
            let (layer, reused) = self.layer(&plan.name, comment, &tree)?;
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

    /// The layer of `tree` in the image `of`, and whether it was there already.
    pub(crate) fn layer(&self, of: &str, comment: &str, tree: &Tree) -> Result<(Layer, bool)> {
        let entries = describe(tree)?;
        let key = key(&entries, self.compression)?;
        locked(self.state).trees.insert((of.to_owned(), comment.to_owned()), parts(&entries));
        let turn = Arc::clone(locked(&self.in_work).entry(key).or_default());
        let _turn = locked(&turn);
        // A statement of its own: the lock must not be held while a blob is read.
        let known = locked(self.state).layer(&key).cloned();
        if let Some(layer) = known.filter(|layer| self.layout.holds(&layer.digest)) {
            return Ok((layer, true));
        }
        let layer = self.compress(comment, tree)?;
        locked(self.state).remember_layer(key, layer.clone());
        Ok((layer, false))
    }

    fn compress(&self, comment: &str, tree: &Tree) -> Result<Layer> {
        let _processor = Processor::wait_for(self);
        Layer::pack(tree, self.compression, comment, self.layout)
    }
}

/// The right to keep a processor busy.
struct Processor<'a>(&'a Packer<'a>);

impl<'a> Processor<'a> {
    fn wait_for(packer: &'a Packer<'a>) -> Processor<'a> {
        let free = packer.freed.wait_while(locked(&packer.free), |free| *free == 0);
        *free.unwrap_or_else(PoisonError::into_inner) -= 1;
        Processor(packer)
    }
}

impl Drop for Processor<'_> {
    fn drop(&mut self) {
        *locked(&self.0.free) += 1;
        self.0.freed.notify_one();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// With the format number, so that another encoder is another layer.
fn key(entries: &[serde_json::Value], compression: Compression) -> Result<Digest> {
    let description =
        serde_json::json!({ "format": oci::FORMAT, "compression": compression, "entries": entries });
    Ok(Digest::of(json::canonical(&description)?))
}

/// Describes the tree by content.
fn describe(tree: &Tree) -> Result<Vec<serde_json::Value>> {
    let describe = |(path, entry): (&str, &Entry)| {
        Ok(match entry {
            Entry::Dir { mode, owner } => serde_json::json!([path, "dir", mode, owner]),
            Entry::Symlink { target } => serde_json::json!([path, "link", target]),
            Entry::File { mode, source } => serde_json::json!([path, "file", mode, source_digest(source)?]),
        })
    };
    tree.iter().map(describe).collect()
}

/// The same, to tell later what changed.
fn parts(entries: &[serde_json::Value]) -> Parts {
    let mut parts = Parts::default();
    for entry in entries {
        let path = entry[0].as_str().unwrap_or_default();
        parts.add_digest(Sort::File, format!("/{path}"), entry.to_string());
    }
    parts
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
            key(&describe(&tree).unwrap(), Compression::Gzip).unwrap()
        };
        assert_eq!(pack(0o644), pack(0o600));
    }

    #[test]
    fn the_key_tells_content_mode_and_path_apart() {
        let key_of = |path: &str, mode: u32, text: &str| {
            let mut tree = Tree::new();
            tree.file(path, mode, Source::Bytes(text.into())).unwrap();
            key(&describe(&tree).unwrap(), Compression::Gzip).unwrap()
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
