//! A folder as one stream: tar inside zstd, in byte order of the paths. Unpacking believes nothing: paths stay inside the new
//! folder, nothing is written through a link, and sizes and counts are bounded.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use tar::{Archive, Builder, EntryType, Header};

/// As fast as disks are, and a third smaller than nothing at all.
const LEVEL: i32 = 3;
/// Bytes of a path, and of what a link holds: Linux takes no more.
const LONGEST_NAME: u64 = 4096;

/// What an archive may hold.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How many files, folders and links.
    pub entries: usize,
    /// Bytes of all files.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 500_000, bytes: 32 << 30 }
    }
}

/// Writes what is below `root`, with whole seconds of the files' times: Cargo compares them.
pub fn pack(root: &Path, out: &mut dyn Write) -> Result<()> {
    let mut encoder = zstd::Encoder::new(out, LEVEL)?;
    encoder.include_checksum(true)?;
    let mut builder = Builder::new(encoder);
    let mut names = Vec::new();
    collect(root, Path::new(""), &mut names)?;
    for name in names {
        append(&mut builder, root, &name)
            .with_context(|| format!("cannot archive {}", root.join(&name).display()))?;
    }
    builder.into_inner()?.finish()?;
    Ok(())
}

fn collect(root: &Path, name: &Path, names: &mut Vec<PathBuf>) -> Result<()> {
    let folder = root.join(name);
    let entries = fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?;
    let mut entries = entries.collect::<io::Result<Vec<_>>>()?;
    entries.sort_by_key(fs::DirEntry::file_name);
    for entry in entries {
        let name = name.join(entry.file_name());
        names.push(name.clone());
        if entry.file_type()?.is_dir() {
            collect(root, &name, names)?;
        }
    }
    Ok(())
}

fn append<W: Write>(builder: &mut Builder<W>, root: &Path, name: &Path) -> Result<()> {
    let path = root.join(name);
    let meta = fs::symlink_metadata(&path)?;
    let mut header = Header::new_gnu();
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or_default());
    header.set_size(0);
    if meta.is_dir() {
        header.set_entry_type(EntryType::Directory);
        header.set_mode(0o755);
        builder.append_data(&mut header, name, io::empty())?;
    } else if meta.is_symlink() {
        header.set_entry_type(EntryType::Symlink);
        header.set_mode(0o777);
        builder.append_link(&mut header, name, fs::read_link(&path)?)?;
    } else if meta.is_file() {
        header.set_entry_type(EntryType::Regular);
        header.set_mode(if meta.permissions().mode() & 0o100 == 0 { 0o644 } else { 0o755 });
        header.set_size(meta.len());
        // A file that grows meanwhile must not shift what follows; one that shrinks is an error of the writer.
        builder.append_data(&mut header, name, File::open(&path)?.take(meta.len()))?;
    }
    Ok(())
}

/// Unpacks what [`pack`] wrote into the new folder `into`.
///
/// # Errors
/// When there is such a folder already, or the archive is damaged or holds what [`pack`] never writes; what was unpacked until
/// then is left.
pub fn unpack(from: impl Read, into: &Path, limits: Limits) -> Result<()> {
    fs::create_dir(into).with_context(|| format!("cannot create the folder {}", into.display()))?;
    let mut archive = Archive::new(zstd::Decoder::new(from)?.take(limits.stream()));
    let mut unpacking = Unpacking { into, left: limits, links: BTreeSet::new() };
    let mut long = Long::default();
    // Raw: otherwise the reader takes long names into memory, however long they say they are.
    for entry in archive.entries()?.raw(true) {
        let mut entry = entry.context("the archive is damaged")?;
        if long.take(&mut entry)? {
            continue;
        }
        let Long { name, link } = std::mem::take(&mut long);
        let name = name.map_or_else(|| entry.path().map(Cow::into_owned), Ok)?;
        unpacking
            .entry(&mut entry, &name, link)
            .with_context(|| format!("cannot unpack {}", name.display()))?;
    }
    // The decoder compares its checksum at the end of the stream, which lies behind the end of the archive.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).context("the archive is damaged")?;
    ensure!(rest.limit() > 0, "the archive is too large");
    Ok(())
}

impl Limits {
    /// Bytes of an archive that keeps within them: contents, and the headers and names of entries.
    fn stream(self) -> u64 {
        let most_around_an_entry = 4 * 512 + 2 * LONGEST_NAME;
        self.bytes
            .saturating_add((self.entries as u64).saturating_add(1024).saturating_mul(most_around_an_entry))
    }
}

struct Unpacking<'a> {
    into: &'a Path,
    left: Limits,
    links: BTreeSet<PathBuf>,
}

/// What entries in front of an entry say of it, because its header has no room for so much.
#[derive(Default)]
struct Long {
    name: Option<PathBuf>,
    link: Option<PathBuf>,
}

impl Long {
    /// Whether it is such an entry, and is kept for the next one.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool> {
        let place = match entry.header().entry_type() {
            EntryType::GNULongName => &mut self.name,
            EntryType::GNULongLink => &mut self.link,
            _ => return Ok(false),
        };
        ensure!(entry.size() <= LONGEST_NAME, "an entry has a name of {} bytes", entry.size());
        ensure!(place.is_none(), "an entry has two long names");
        let mut name = Vec::new();
        entry.read_to_end(&mut name)?;
        name.pop_if(|last| *last == 0);
        *place = Some(PathBuf::from(OsString::from_vec(name)));
        Ok(true)
    }
}

impl Unpacking<'_> {
    fn entry(
        &mut self,
        entry: &mut tar::Entry<'_, impl Read>,
        name: &Path,
        long_link: Option<PathBuf>,
    ) -> Result<()> {
        self.left.entries = self.left.entries.checked_sub(1).context("the archive has too many entries")?;
        ensure!(is_inside(name), "its path leads out of the folder");
        ensure!(!name.ancestors().any(|folder| self.links.contains(folder)), "its path leads through a link");
        let path = self.into.join(name);
        match entry.header().entry_type() {
            EntryType::Directory => fs::create_dir(&path)?,
            EntryType::Symlink => {
                let short = || Ok::<_, anyhow::Error>(entry.link_name()?.map(Cow::into_owned));
                let target = long_link.map_or_else(short, |link| Ok(Some(link)))?;
                let target = target.context("a link without a target")?;
                let folder = name.parent().unwrap_or(Path::new(""));
                ensure!(stays_inside(folder, &target), "the link leads out of the folder");
                symlink(&target, &path)?;
                self.links.insert(name.to_owned());
            }
            EntryType::Regular => self.file(entry, &path)?,
            other => bail!("an entry of the sort {other:?} is never archived"),
        }
        Ok(())
    }

    fn file(&mut self, entry: &mut tar::Entry<'_, impl Read>, path: &Path) -> Result<()> {
        let size = entry.size();
        self.left.bytes = self.left.bytes.checked_sub(size).context("the archive is too large")?;
        let mode = if entry.header().mode()? & 0o100 == 0 { 0o644 } else { 0o755 };
        let modified = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(entry.header().mtime()?))
            .context("its time is none")?;
        let mut file = File::create_new(path)?;
        let copied = io::copy(entry, &mut file)?;
        ensure!(copied == size, "the archive ends early");
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.set_modified(modified)?;
        Ok(())
    }
}

/// Whether the relative path names something below the folder that it is in, without detours.
fn is_inside(name: &Path) -> bool {
    let is_plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    !name.as_os_str().as_bytes().contains(&0)
        && name.components().next().is_some()
        && name.components().all(is_plain)
}

/// Whether a link in `folder` to `target` stays below the root that both are in.
fn stays_inside(folder: &Path, target: &Path) -> bool {
    let mut depth = folder.components().count();
    for part in target.components() {
        match part {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(root: &Path) -> Vec<u8> {
        let mut bytes = Vec::new();
        pack(root, &mut bytes).unwrap();
        bytes
    }

    fn sample(root: &Path) {
        fs::create_dir_all(root.join("b/empty")).unwrap();
        fs::write(root.join("b/run"), "x").unwrap();
        fs::set_permissions(root.join("b/run"), fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(root.join("a"), vec![7; 70_000]).unwrap();
        symlink("../a", root.join("b/link")).unwrap();
        fs::write(root.join("b").join("long".repeat(60)), "long").unwrap();
        for name in ["a", "b/run"] {
            let file = File::options().append(true).open(root.join(name)).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_007)).unwrap();
        }
    }

    #[test]
    fn a_folder_comes_back_with_times_and_modes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        sample(&from);
        unpack(packed(&from).as_slice(), &to, Limits::default()).unwrap();
        assert_eq!(packed(&from), packed(&to));
        assert_eq!(fs::metadata(to.join("b/run")).unwrap().mtime(), 1_000_000_007);
        assert_eq!(fs::metadata(to.join("b/run")).unwrap().permissions().mode() & 0o777, 0o755);
        assert_eq!(fs::read(to.join("b/link")).unwrap().len(), 70_000);
    }

    fn hostile(
        write: impl Fn(&mut Builder<Vec<u8>>, &mut dyn FnMut(EntryType, &str, &str) -> Header),
    ) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        let mut header = |kind: EntryType, name: &str, link: &str| {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(0o644);
            header.set_mtime(0);
            let old = header.as_old_mut();
            old.name[..name.len()].copy_from_slice(name.as_bytes());
            old.linkname[..link.len()].copy_from_slice(link.as_bytes());
            header.set_cksum();
            header
        };
        write(&mut builder, &mut header);
        zstd::encode_all(builder.into_inner().unwrap().as_slice(), 3).unwrap()
    }

    /// An archive of 40 kB that says it has a name of 1 GiB, or that goes on for so long after its end.
    #[test]
    fn small_archives_cannot_become_large_in_memory_or_time() {
        let folder = tempfile::tempdir().unwrap();
        let limits = Limits { entries: 10, bytes: 1 << 20 };
        for (kind, why) in [(EntryType::GNULongName, "a name of"), (EntryType::GNULongLink, "a name of")] {
            let mut header = Header::new_gnu();
            header.set_entry_type(kind);
            header.set_size(1 << 30);
            header.set_cksum();
            let bomb = header.as_bytes().chain(io::repeat(b'n').take(1 << 30));
            let bomb = zstd::encode_all(bomb, 1).unwrap();
            let error =
                unpack(bomb.as_slice(), &folder.path().join(format!("{kind:?}")), limits).unwrap_err();
            assert!(format!("{error:#}").contains(why), "{error:#}");
        }
        let endless = zstd::encode_all(io::repeat(0).take(1 << 30), 1).unwrap();
        let error = unpack(endless.as_slice(), &folder.path().join("endless"), limits).unwrap_err();
        assert!(format!("{error:#}").contains("too large"), "{error:#}");
    }

    #[test]
    fn nothing_gets_out_of_the_folder() {
        let entries: [(EntryType, &str, &str); 7] = [
            (EntryType::Regular, "../out", ""),
            (EntryType::Regular, "/tmp/out", ""),
            (EntryType::Regular, "a/../../out", ""),
            (EntryType::Symlink, "link", "/etc"),
            (EntryType::Symlink, "link", "../out"),
            (EntryType::Link, "hard", "/etc/passwd"),
            (EntryType::Fifo, "pipe", ""),
        ];
        for (kind, name, link) in entries {
            let folder = tempfile::tempdir().unwrap();
            let bytes =
                hostile(|builder, header| builder.append(&header(kind, name, link), io::empty()).unwrap());
            assert!(
                unpack(bytes.as_slice(), &folder.path().join("to"), Limits::default()).is_err(),
                "{kind:?} {name} {link}"
            );
            assert!(!folder.path().join("out").exists());
        }
        let folder = tempfile::tempdir().unwrap();
        let through = hostile(|builder, header| {
            builder.append(&header(EntryType::Directory, "d", ""), io::empty()).unwrap();
            builder.append(&header(EntryType::Symlink, "link", "d"), io::empty()).unwrap();
            builder.append(&header(EntryType::Regular, "link/x", ""), io::empty()).unwrap();
        });
        let error = unpack(through.as_slice(), &folder.path().join("to"), Limits::default()).unwrap_err();
        assert!(format!("{error:#}").contains("through a link"), "{error:#}");
    }

    #[test]
    fn sizes_and_counts_are_bounded() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        sample(&from);
        let bytes = packed(&from);
        for (at, limits) in [Limits { entries: 3, bytes: 1 << 20 }, Limits { entries: 100, bytes: 1000 }]
            .into_iter()
            .enumerate()
        {
            assert!(unpack(bytes.as_slice(), &folder.path().join(at.to_string()), limits).is_err());
        }
    }

    #[test]
    fn no_change_of_the_bytes_goes_unnoticed_or_panics() {
        let folder = tempfile::tempdir().unwrap();
        let from = folder.path().join("from");
        sample(&from);
        let bytes = packed(&from);
        let whole = packed(&from);
        for at in (0..bytes.len()).step_by(bytes.len() / 150 + 1) {
            let mut changed = bytes.clone();
            changed[at] ^= 0x55;
            let cut = &bytes[..at];
            for (name, bytes) in [("changed", changed.as_slice()), ("cut", cut)] {
                let to = folder.path().join(format!("{name}-{at}"));
                if unpack(bytes, &to, Limits::default()).is_ok() {
                    assert_eq!(packed(&to), whole, "{name} at {at}");
                }
            }
        }
    }
}
