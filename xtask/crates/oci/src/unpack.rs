//! From an image in a layout to a folder and the command to run in it. Nothing of the image is believed before its digest
//! was checked, and no entry is written outside the target folder or through a link.

use std::fs::{self, File, Permissions};
use std::io::{self, Read};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use oci_spec::image::{Descriptor, ImageConfiguration};
use stdx::{Digest, DigestWriter};
use tar::EntryType;

use crate::compress::Compression;
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

/// Unpacks the image with the manifest digest `image` into the folder `into`, which must be empty or missing.
///
/// # Errors
/// When a blob is missing or is not what its digest says, when a layer holds what cannot be unpacked safely (a path out of
/// the folder, a device, a file below a link), or when writing fails; `into` may then hold a part of the image.
pub fn unpack(layout: &Layout, image: Digest, into: &Path) -> Result<Unpacked> {
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
    for (layer, diff_id) in manifest.layers().iter().zip(diff_ids) {
        unpack_layer(layout, layer, &diff_id.parse()?, into)
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

fn unpack_layer(layout: &Layout, layer: &Descriptor, diff_id: &Digest, into: &Path) -> Result<()> {
    let path = layout.blob_path(&digest_of(layer)?);
    let (found, _) = Digest::of_reader(stdx::fs::open(&path)?)?;
    ensure!(found == digest_of(layer)?, "{} is damaged: its content is {found}; build again", path.display());
    let archive = compression(layer)?.open(&path)?;
    let mut archive =
        tar::Archive::new(HashingReader { inner: archive, hash: DigestWriter::new(io::sink()) });
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        unpack_entry(&mut entry, into).with_context(|| format!("cannot unpack {name}"))?;
    }
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink())?;
    let (_, found, _) = rest.hash.finish();
    ensure!(found == *diff_id, "its content is {found}, the configuration says {diff_id}");
    Ok(())
}

/// The compression of a layer that can be read.
pub(crate) fn compression(layer: &Descriptor) -> Result<Compression> {
    let media_type = layer.media_type().to_string();
    Compression::of_media_type(&media_type)
        .with_context(|| format!("layers of the type {media_type} are not supported"))
}

fn unpack_entry(entry: &mut tar::Entry<'_, impl Read>, into: &Path) -> Result<()> {
    let target = safe_path(&entry.path()?, into)?;
    let name = target.file_name().unwrap_or_default().to_string_lossy();
    ensure!(!name.starts_with(".wh."), "layers that remove files are not supported");
    let mode = entry.header().mode()?;
    match entry.header().entry_type() {
        EntryType::Directory => {
            if !target.is_dir() {
                fs::create_dir(&target)?;
            }
            // The owner must stay able to remove what is unpacked.
            fs::set_permissions(&target, Permissions::from_mode(mode & 0o1777 | 0o700))?;
        }
        EntryType::Regular => {
            let mut file = File::create_new(&target)?;
            io::copy(entry, &mut file)?;
            // Set-user-id bits have no place in what runs without a container around it.
            file.set_permissions(Permissions::from_mode(mode & 0o777 | 0o400))?;
        }
        EntryType::Symlink => symlink(entry.link_name()?.context("a link without a target")?, &target)?,
        other => bail!("entries of the kind {other:?} are not supported"),
    }
    Ok(())
}

/// `path` below `into`, provided that it stays there and no folder above it is a link.
fn safe_path(path: &Path, into: &Path) -> Result<PathBuf> {
    let mut target = into.to_owned();
    for component in path.components() {
        let is_link = fs::symlink_metadata(&target).is_ok_and(|meta| meta.file_type().is_symlink());
        ensure!(target == into || !is_link, "a folder above it is a link");
        match component {
            Component::Normal(name) => target.push(name),
            Component::CurDir => {}
            _ => bail!("the path leaves the image"),
        }
    }
    ensure!(target != into, "the path names nothing");
    Ok(target)
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

    /// A layer whose archive was made by hand, as an attacker would.
    fn hostile(layout: &Layout, entries: &[(&str, EntryType, &str)]) -> Digest {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, kind, link) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_mode(0o755);
            header.set_size(0);
            if !link.is_empty() {
                header.set_link_name(link).unwrap();
            }
            header.set_cksum();
            builder.append(&header, io::empty()).unwrap();
        }
        let archive = builder.into_inner().unwrap();
        let digest = layout.put(&archive).unwrap();
        let size = archive.len() as u64;
        let comment = String::new();
        let layer = Layer {
            diff_id: digest,
            digest,
            size,
            unpacked_size: size,
            compression: Compression::None,
            comment,
        };
        image(layout, vec![layer])
    }

    #[test]
    fn nothing_is_written_outside_the_folder() {
        use EntryType::{Block, Link, Regular, Symlink};
        let cases: [&[(&str, EntryType, &str)]; 7] = [
            &[("../evil", Regular, "")],
            &[("/evil", Regular, "")],
            &[("a/../../evil", Regular, "")],
            &[("link", Symlink, ".."), ("link/evil", Regular, "")],
            &[("device", Block, "")],
            &[("hard", Link, "/etc/passwd")],
            &[("same", Symlink, "../evil"), ("same", Regular, "")],
        ];
        for entries in cases {
            let folder = tempfile::tempdir().unwrap();
            let layout = Layout::create(&folder.path().join("layout")).unwrap();
            let digest = hostile(&layout, entries);
            assert!(unpack(&layout, digest, &folder.path().join("inside/rootfs")).is_err(), "{entries:?}");
            assert!(
                !folder.path().join("inside/evil").exists() && !folder.path().join("evil").exists(),
                "{entries:?}"
            );
        }
    }
}
