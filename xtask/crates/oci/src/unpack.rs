//! From an image in a layout to a folder and the command to run in it. Nothing of the image is believed before its digest
//! was checked, and no entry is written outside the target folder or through a link.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration};
use stdx::{Digest, DigestWriter};

use crate::compress::Compression;
use crate::entries::{Archive, Budget, Item, Kind, Limits};
use crate::layout::{Layout, digest_of};

/// An image laid out as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// The folder that is the image's `/`.
    pub rootfs: PathBuf,
    /// How it wants to be run.
    pub config: RunConfig,
}

/// The part of an image's configuration that says what to run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunConfig {
    /// Program (an absolute path inside the image) and its fixed arguments.
    pub entrypoint: Vec<String>,
    /// Further arguments that a deployment may replace.
    pub cmd: Vec<String>,
    /// Environment, in the image's order.
    pub env: Vec<(String, String)>,
    /// Working folder inside the image.
    pub working_dir: String,
    /// `uid:gid` or `uid`.
    pub user: String,
    /// Signal that asks it to stop.
    pub stop_signal: Option<String>,
}

/// Unpacks the image with the manifest digest `image` into the folder `into`, which must be empty or missing, within the default
/// [`Limits`].
///
/// # Errors
/// When a blob is missing or is not what its digest says, when a layer holds what cannot be unpacked safely (a path out of
/// the folder, a device, a file below a link), or when writing fails; `into` may then hold a part of the image.
pub fn unpack(layout: &Layout, image: Digest, into: &Path) -> Result<Unpacked> {
    unpack_within(layout, image, into, Limits::default())
}

/// The same within other limits.
///
/// # Errors
/// As [`unpack`], and when the image is larger than `limits`.
pub fn unpack_within(layout: &Layout, image: Digest, into: &Path, limits: Limits) -> Result<Unpacked> {
    let manifest = layout.manifest(&image)?;
    let config = layout.document(&digest_of(manifest.config())?)?;
    let config: ImageConfiguration = serde_json::from_slice(&config)
        .with_context(|| format!("the configuration of {image} is not an image configuration"))?;
    let diff_ids = config.rootfs().diff_ids();
    ensure!(
        diff_ids.len() == manifest.layers().len(),
        "the image {image} has layers that its configuration does not name"
    );
    stdx::fs::create_dir_all(into)?;
    ensure!(fs::read_dir(into)?.next().is_none(), "the folder {} is not empty", into.display());
    let mut budget = Budget::new(limits);
    for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
        unpack_layer(layout, layer, &diff_id.parse()?, into, &mut budget)
            .with_context(|| format!("cannot unpack the layer {}", layer.digest()))?;
    }
    Ok(Unpacked { rootfs: into.to_owned(), config: run_config(&config) })
}

fn run_config(image: &ImageConfiguration) -> RunConfig {
    let config = image.config().clone().unwrap_or_default();
    let pair = |text: &String| text.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
    RunConfig {
        entrypoint: config.entrypoint().clone().unwrap_or_default(),
        cmd: config.cmd().clone().unwrap_or_default(),
        env: config.env().iter().flatten().filter_map(pair).collect(),
        working_dir: config.working_dir().clone().unwrap_or_else(|| "/".to_owned()),
        user: config.user().clone().unwrap_or_default(),
        stop_signal: config.stop_signal().clone(),
    }
}

fn unpack_layer(
    layout: &Layout,
    layer: &Descriptor,
    diff_id: &Digest,
    into: &Path,
    budget: &mut Budget,
) -> Result<()> {
    let blob = checked(layout, layer)?;
    let hashing =
        HashingReader { inner: compression(layer)?.open(&blob)?, hash: DigestWriter::new(io::sink()) };
    let (_, found, _) = lay_out(hashing, into, budget)?.hash.finish();
    ensure!(found == *diff_id, "its content is {found}, the configuration says {diff_id}");
    Ok(())
}

/// Lays the entries of one archive out over what lower layers made, and gives the reader back, at its end.
pub(crate) fn lay_out<R: Read>(archive: R, into: &Path, budget: &mut Budget) -> Result<R> {
    let mut archive = Archive::new(archive, budget);
    let mut made = Made { into, paths: BTreeSet::new() };
    while let Some(item) = archive.next()? {
        made.entry(&item, &mut archive)
            .with_context(|| format!("cannot unpack {}", String::from_utf8_lossy(&item.path)))?;
    }
    archive.finish()
}

/// The blob of a layer, once its content was found to be what its digest says.
pub(crate) fn checked(layout: &Layout, layer: &Descriptor) -> Result<PathBuf> {
    let path = layout.blob_path(&digest_of(layer)?);
    let (found, _) = Digest::of_reader(stdx::fs::open(&path)?)?;
    ensure!(found == digest_of(layer)?, "{} is damaged: its content is {found}; build again", path.display());
    Ok(path)
}

/// The compression of a layer that can be read.
pub(crate) fn compression(layer: &Descriptor) -> Result<Compression> {
    let media_type = layer.media_type().to_string();
    Compression::of_media_type(&media_type)
        .with_context(|| format!("layers of the type {media_type} are not supported"))
}

/// What one layer made; the rest of the folder is that of the layers below it.
struct Made<'a> {
    into: &'a Path,
    paths: BTreeSet<PathBuf>,
}

impl Made<'_> {
    fn entry(&mut self, item: &Item, content: &mut impl Read) -> Result<()> {
        let target = self.place(&item.path)?;
        let name = target.file_name().unwrap_or_default();
        if let Some(removed) = name.as_bytes().strip_prefix(b".wh.") {
            return self.whiteout(&target, removed);
        }
        if item.kind == Kind::Folder && target == self.into {
            return Ok(());
        }
        ensure!(target != self.into, "the path names nothing");
        let is_folder = is_folder(&target);
        if !(item.kind == Kind::Folder && is_folder) {
            ensure!(!self.paths.contains(&target), "the layer has it twice");
            remove(&target)?;
        }
        match item.kind {
            Kind::Folder => {
                if !is_folder {
                    fs::create_dir(&target)?;
                }
                // The owner must stay able to remove what is unpacked.
                fs::set_permissions(&target, Permissions::from_mode(item.mode & 0o1777 | 0o700))?;
            }
            Kind::File => {
                let mut file = File::create_new(&target)?;
                io::copy(content, &mut file)?;
                // Set-user-id bits have no place in what runs without a container around it.
                file.set_permissions(Permissions::from_mode(item.mode & 0o777 | 0o400))?;
            }
            Kind::Symlink => symlink(OsStr::from_bytes(&item.link), &target)?,
            Kind::HardLink => self.hard_link(&item.link, &target)?,
            Kind::Special => bail!("devices and named pipes are not supported"),
        }
        self.paths.insert(target);
        Ok(())
    }

    /// `path` below the folder, provided that it stays there and no folder above it is a link. Folders above it that no layer has are
    /// made.
    fn place(&self, path: &[u8]) -> Result<PathBuf> {
        let target = self.inside(path)?;
        for folder in target.ancestors().skip(1).take_while(|folder| *folder != self.into) {
            let meta = fs::symlink_metadata(folder);
            ensure!(!meta.is_ok_and(|meta| meta.is_symlink()), "a folder above it is a link");
        }
        let parent = target.parent().filter(|_| target != self.into).unwrap_or(self.into);
        fs::create_dir_all(parent).context("the folder above it cannot be made")?;
        Ok(target)
    }

    fn inside(&self, path: &[u8]) -> Result<PathBuf> {
        let mut target = self.into.to_owned();
        for component in Path::new(OsStr::from_bytes(path)).components() {
            match component {
                Component::Normal(name) => target.push(name),
                Component::CurDir => {}
                _ => bail!("the path leaves the image"),
            }
        }
        Ok(target)
    }

    /// A second name of a file that is there already.
    fn hard_link(&self, link: &[u8], target: &Path) -> Result<()> {
        let source = self.place(link).context("its other name is no path of the image")?;
        let meta =
            fs::symlink_metadata(&source).context("the file that it is another name of is not there")?;
        ensure!(meta.is_file(), "it is another name of what is no file");
        Ok(fs::hard_link(source, target)?)
    }

    /// Removes what lower layers made: one entry, or all in a folder.
    ///
    /// Source: OCI image-spec 1.1, "Whiteouts".
    fn whiteout(&self, target: &Path, removed: &[u8]) -> Result<()> {
        let folder = target.parent().unwrap_or(self.into);
        if removed == b".wh..opq" {
            return self.remove_lower(folder);
        }
        ensure!(!matches!(removed, b"" | b"." | b".."), "it removes nothing that has a name");
        let gone = folder.join(OsStr::from_bytes(removed));
        if self.paths.contains(&gone) {
            return if is_folder(&gone) { self.remove_lower(&gone) } else { Ok(()) };
        }
        remove(&gone)
    }

    fn remove_lower(&self, folder: &Path) -> Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            let is_own = self.paths.range(path.clone()..).next().is_some_and(|own| own.starts_with(&path));
            if !is_own {
                remove(&path)?;
            } else if is_folder(&path) {
                self.remove_lower(&path)?;
            }
        }
        Ok(())
    }
}

fn is_folder(path: &Path) -> bool {
    fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir())
}

/// Removes what is at `path`, if anything; a link, never what it leads to.
fn remove(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(meta) if meta.is_dir() => Ok(fs::remove_dir_all(path)?),
        Ok(_) => Ok(fs::remove_file(path)?),
    }
}

struct HashingReader<R> {
    inner: R,
    hash: DigestWriter<io::Sink>,
}

impl<R: Read> Read for HashingReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buffer)?;
        io::Write::write_all(&mut self.hash, &buffer[..n])?;
        Ok(n)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::entries::tests::entry;
    use crate::{ImageSpec, Layer, Source, Tree};

    pub(crate) fn image(layout: &Layout, layers: Vec<Layer>) -> Digest {
        spec(layers).to_image().unwrap().write("test", layout).unwrap()
    }

    pub(crate) fn spec(layers: Vec<Layer>) -> ImageSpec {
        ImageSpec {
            architecture: "amd64".into(),
            created: "1970-01-01T00:00:00Z".into(),
            layers,
            entrypoint: vec!["/app/run".into()],
            cmd: vec![],
            env: [("A".to_owned(), "b=c".to_owned())].into(),
            user: "10001:10001".into(),
            working_dir: "/app".into(),
            exposed_ports: vec![],
            volumes: vec![],
            stop_signal: "SIGINT".into(),
            health_check: None,
            labels: Default::default(),
        }
    }

    fn sample(layout: &Layout) -> Digest {
        let mut tree = Tree::new();
        tree.file("app/run", 0o4555, Source::Bytes(b"#!/bin/sh\n".to_vec())).unwrap();
        tree.symlink("app/link", "run").unwrap();
        let first = Layer::pack(&tree, Compression::Zstd, "", layout).unwrap();
        let mut tree = Tree::new();
        tree.dir("app/data", 0o550, 0).unwrap();
        let second = Layer::pack(&tree, Compression::None, "", layout).unwrap();
        image(layout, vec![first, second])
    }

    #[test]
    fn an_image_comes_back_as_files_and_a_command() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(&folder.path().join("layout")).unwrap();
        let unpacked = unpack(&layout, sample(&layout), &folder.path().join("rootfs")).unwrap();
        let mode =
            |path: &str| fs::metadata(unpacked.rootfs.join(path)).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode("app/run"), mode("app/link"), mode("app/data")), (0o555, 0o555, 0o750));
        assert_eq!(unpacked.config.entrypoint, ["/app/run"]);
        assert_eq!(unpacked.config.env, [("A".to_owned(), "b=c".to_owned())]);
        assert_eq!(
            (unpacked.config.working_dir.as_str(), unpacked.config.stop_signal.as_deref()),
            ("/app", Some("SIGINT"))
        );
    }

    #[test]
    fn one_flipped_bit_in_any_blob_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(&folder.path().join("layout")).unwrap();
        let digest = sample(&layout);
        for (index, blob) in fs::read_dir(folder.path().join("layout/blobs/sha256")).unwrap().enumerate() {
            let path = blob.unwrap().path();
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            let middle = bad.len() / 2;
            bad[middle] ^= 1;
            fs::write(&path, bad).unwrap();
            let error =
                format!("{:#}", unpack(&layout, digest, &folder.path().join(index.to_string())).unwrap_err());
            assert!(error.contains("damaged"), "{error}");
            fs::write(&path, good).unwrap();
        }
        unpack(&layout, digest, &folder.path().join("good")).unwrap();
    }

    /// An image of layers whose archives were made by hand, as an attacker would.
    fn by_hand(layout: &Layout, archives: &[Vec<u8>]) -> Digest {
        let layer = |archive: &Vec<u8>| {
            let digest = layout.put(archive).unwrap();
            let (size, comment) = (archive.len() as u64, String::new());
            let compression = Compression::None;
            Layer { diff_id: digest, digest, size, unpacked_size: size, compression, comment }
        };
        image(layout, archives.iter().map(layer).collect())
    }

    /// What became of the layers: paths and contents, or the error.
    fn unpacked(archives: &[Vec<u8>]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(&folder.path().join("layout")).unwrap();
        let digest = by_hand(&layout, archives);
        let into = folder.path().join("inside/rootfs");
        let unpacked = unpack(&layout, digest, &into);
        let names: Vec<_> =
            list(folder.path()).into_iter().filter(|name| !name.starts_with("layout")).collect();
        assert!(names.iter().all(|name| name == "inside" || name.starts_with("inside/rootfs")), "{names:?}");
        unpacked.map(|_| list(&into)).map_err(|error| format!("{error:#}"))
    }

    fn list(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![folder.to_owned()];
        while let Some(path) = todo.pop() {
            for entry in fs::read_dir(path).unwrap() {
                let entry = entry.unwrap();
                let name = entry.path().strip_prefix(folder).unwrap().to_string_lossy().into_owned();
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
                let content = if entry.file_type().unwrap().is_file() && !name.starts_with("layout") {
                    format!("={}", String::from_utf8_lossy(&fs::read(entry.path()).unwrap()))
                } else {
                    String::new()
                };
                found.push(format!("{name}{content}"));
            }
        }
        found.sort();
        found
    }

    #[test]
    fn nothing_is_written_outside_the_folder() {
        let cases: [&[(&str, u8, &str)]; 12] = [
            &[("../evil", b'0', "")],
            &[("/evil", b'0', "")],
            &[("a/../../evil", b'0', "")],
            &[("link", b'2', ".."), ("link/evil", b'0', "")],
            &[("link", b'2', ".."), ("link/a/evil", b'0', "")],
            &[("device", b'4', "")],
            &[("hard", b'1', "/etc/passwd")],
            &[("hard", b'1', "../../layout/index.json")],
            &[("link", b'2', "../../layout"), ("hard", b'1', "link/index.json")],
            &[("link", b'2', "../../layout/index.json"), ("hard", b'1', "link")],
            &[("same", b'2', "../evil"), ("same", b'0', "")],
            &[("link", b'2', "../../layout"), ("link/.wh.index.json", b'0', "")],
        ];
        for entries in cases {
            let archive =
                entries.iter().flat_map(|(path, kind, link)| entry(path, *kind, b"", link)).collect();
            assert!(unpacked(&[archive]).is_err(), "{entries:?}");
        }
    }

    #[test]
    fn upper_layers_replace_and_remove_what_lower_ones_made() {
        let file = |path: &str, content: &str| entry(path, b'0', content.as_bytes(), "");
        let lower = [
            file("a/one", "1"),
            file("a/two", "2"),
            file("b/deep/x", "x"),
            entry("link", b'2', b"", "a"),
            entry("a/same", b'1', b"", "a/one"),
        ];
        let upper = [file("a/one", "new"), file("a/.wh.two", ""), file("link", "a file")];
        let opaque = [file("b/own", "o"), file("b/.wh..wh..opq", "")];
        assert_eq!(
            unpacked(&[lower.concat(), upper.concat(), opaque.concat()]).unwrap(),
            ["a", "a/one=new", "a/same=1", "b", "b/own=o", "link=a file"]
        );
        let error = unpacked(&[[file("a", "1"), file("a", "2")].concat()]).unwrap_err();
        assert!(error.contains("twice"), "{error}");
    }

    #[test]
    fn an_image_larger_than_the_limits_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(&folder.path().join("layout")).unwrap();
        let mut tree = Tree::new();
        tree.file("zeros", 0o444, Source::Bytes(vec![0; 1 << 20])).unwrap();
        let layers: Vec<_> = [Compression::Gzip, Compression::Zstd]
            .map(|compression| Layer::pack(&tree, compression, "", &layout).unwrap())
            .into();
        assert!(layers.iter().all(|layer| layer.size < 10_000));
        let digest = image(&layout, layers);
        let limits = |bytes| Limits { bytes, ..Limits::default() };
        let within =
            |name: &str, bytes| unpack_within(&layout, digest, &folder.path().join(name), limits(bytes));
        // Both layers count together.
        let error = format!("{:#}", within("small", 2 << 20).unwrap_err());
        assert!(error.contains("larger than 2097152 bytes"), "{error}");
        within("large", 3 << 20).unwrap();
    }

    /// A generator of its own: the same bytes each time, without a crate.
    fn random(state: &mut u64, below: usize) -> usize {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 33) as usize % below
    }

    #[test]
    fn no_bytes_make_it_panic_or_leave_the_folder() {
        let long = format!("{}/name", "d".repeat(120));
        let good = [
            entry("etc/", b'5', b"", ""),
            entry("etc/passwd", b'0', b"root", ""),
            entry("PaxHeader", b'x', b"18 path=etc/group\n", ""),
            entry("short", b'0', b"group", ""),
            entry("long", b'L', long.as_bytes(), ""),
            entry("short", b'0', b"deep", ""),
            entry("lib", b'2', b"", "../../layout"),
            entry("etc/same", b'1', b"", "etc/passwd"),
            entry("etc/.wh.old", b'0', b"", ""),
            vec![0; 1024],
        ]
        .concat();
        unpacked(std::slice::from_ref(&good)).unwrap();
        let mut state = 7;
        let (mut taken, mut refused) = (0, 0);
        for _ in 0..120 {
            let mut bytes = good.clone();
            for _ in 0..=random(&mut state, 3) {
                let header = random(&mut state, bytes.len() / 512) * 512;
                let at = header
                    + [0, 100, 124, 156, 157, 257, 345][random(&mut state, 7)]
                    + random(&mut state, 12);
                bytes[at] = [b'/', b'.', b'7', 0, 0xff, b'x'][random(&mut state, 6)];
                let sum: u32 = bytes[header..header + 512]
                    .iter()
                    .enumerate()
                    .map(|(at, byte)| if (148..156).contains(&at) { 32 } else { u32::from(*byte) })
                    .sum();
                bytes[header + 148..header + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            if random(&mut state, 8) == 0 {
                bytes.truncate(random(&mut state, bytes.len()));
            }
            let folder = tempfile::tempdir().unwrap();
            let into = folder.path().join("inside/rootfs");
            fs::create_dir_all(&into).unwrap();
            let budget = || Budget::new(Limits::default());
            lay_out(good.as_slice(), &into, &mut budget()).unwrap();
            let seen = crate::visit::visit_archive(bytes.as_slice(), &mut budget(), &mut |_, content| {
                Ok(_ = io::copy(content, &mut io::sink())?)
            });
            match lay_out(bytes.as_slice(), &into, &mut budget()) {
                Ok(_) => taken += 1,
                Err(_) => refused += 1,
            }
            // What one refuses, the other may only take where it does not look: at what has no content.
            assert!(seen.is_ok() || refused > 0);
            let outside =
                list(folder.path()).into_iter().find(|name| !format!("{name}/").starts_with("inside/"));
            assert_eq!(outside, None);
        }
        assert!(taken > 10 && refused > 10, "{taken} taken, {refused} refused");
    }
}
