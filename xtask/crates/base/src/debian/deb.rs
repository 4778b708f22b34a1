//! A `.deb` file: an `ar` archive of two compressed tar archives. What is in it is unpacked without root and without running
//! anything; owners, times and the setuid bit are left behind.
//!
//! Source: deb(5), ar(5).

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use stdx::{Digest, DigestWriter};

/// What a package brings.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Content {
    /// What it says of itself.
    pub(crate) control: String,
    /// By path, without `/` in front.
    pub(crate) items: BTreeMap<String, Item>,
}

/// A file, folder or link of a package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub(crate) enum Item {
    Dir { mode: u32 },
    File { mode: u32, digest: Digest, size: u64 },
    Link { target: String },
}

/// Bytes that one package may unpack to.
const MOST_BYTES: u64 = 8 << 30;
/// Files that one package may have.
const MOST_ITEMS: usize = 500_000;
const LONGEST_PATH: usize = 4096;
/// Memory of the decoder, which a file can choose; `xz -9` makes files that need a quarter.
const MOST_XZ_KIB: u32 = 256 << 10;
/// Bytes of a control file.
const LARGEST_CONTROL: u64 = 1 << 20;

/// Unpacks the file at `deb`: each regular file is put into the folder `files` under the hex digits of its digest.
///
/// # Errors
/// When it is no package, or holds what cannot be unpacked safely.
pub(crate) fn unpack(deb: &Path, files: &Path) -> Result<Content> {
    let members = members(&mut stdx::fs::open(deb)?)?;
    let mut content = Content::default();
    for (name, offset, size) in &members {
        let mut file = stdx::fs::open(deb)?;
        file.seek(SeekFrom::Start(*offset))?;
        let member = BufReader::with_capacity(1 << 18, file.take(*size));
        if let Some(end) = name.strip_prefix("control.tar") {
            content.control = control(decompressed(end, member)?)?;
        } else if let Some(end) = name.strip_prefix("data.tar") {
            data(decompressed(end, member)?, files, &mut content.items)?;
        }
    }
    ensure!(
        members.first().is_some_and(|(name, ..)| name == "debian-binary"),
        "it does not begin as a package does"
    );
    ensure!(!content.control.is_empty(), "it does not say what it is");
    Ok(content)
}

/// Name, offset and size of each member of an `ar` archive.
fn members(file: &mut (impl Read + Seek)) -> Result<Vec<(String, u64, u64)>> {
    const MAGIC: &[u8; 8] = b"!<arch>\n";
    const HEADER: u64 = 60;
    let end = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(0))?;
    let mut magic = [0; 8];
    file.read_exact(&mut magic).context("it is too short")?;
    ensure!(&magic == MAGIC, "it is no `ar` archive");
    let mut members = Vec::new();
    let mut at = MAGIC.len() as u64;
    while at < end {
        let mut header = [0; HEADER as usize];
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header).context("it ends too early")?;
        let text =
            |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).map(str::trim_end).ok();
        let name =
            text(0..16).map(|name| name.trim_end_matches('/').to_owned()).context("a name is not UTF-8")?;
        let size: u64 = text(48..58).and_then(|size| size.parse().ok()).context("a size is no number")?;
        let start = at + HEADER;
        let stop = start.checked_add(size).filter(|stop| *stop <= end).context("it ends too early")?;
        members.push((name, start, size));
        ensure!(members.len() <= 16, "it has too many members");
        at = stop + stop % 2;
    }
    Ok(members)
}

fn decompressed<'a>(end: &str, member: impl std::io::BufRead + 'a) -> Result<Box<dyn Read + 'a>> {
    Ok(match end {
        "" => Box::new(member),
        ".gz" => Box::new(flate2::bufread::GzDecoder::new(member)),
        ".xz" => Box::new(lzma_rust2::XzReader::new_mem_limit(member, true, MOST_XZ_KIB)),
        ".zst" => Box::new(zstd::stream::read::Decoder::with_buffer(member)?),
        other => bail!("the compression `{}` is not known", other.escape_debug()),
    })
}

fn control(archive: impl Read) -> Result<String> {
    for entry in tar::Archive::new(archive.take(64 << 20)).entries()? {
        let entry = entry?;
        if entry.path()?.to_string_lossy().trim_start_matches("./") == "control" {
            let mut text = String::new();
            entry.take(LARGEST_CONTROL).read_to_string(&mut text).context("its control file is not text")?;
            return Ok(text);
        }
    }
    bail!("it has no control file")
}

fn data(archive: impl Read, files: &Path, items: &mut BTreeMap<String, Item>) -> Result<()> {
    let mut budget = MOST_BYTES;
    // One byte more than the budget: whoever reaches it is over it.
    let mut long = Long::default();
    // Raw: otherwise the reader takes long names into memory, however long they say they are.
    for entry in tar::Archive::new(archive.take(MOST_BYTES + 1)).entries()?.raw(true) {
        let mut entry = entry?;
        if long.take(&mut entry)? {
            continue;
        }
        let Long { name, link } = std::mem::take(&mut long);
        let path = inside(&name.unwrap_or_else(|| entry.path_bytes().into_owned()))?;
        let Some(path) = path else { continue };
        let mode = entry.header().mode()?;
        let kind = entry.header().entry_type();
        let item = if kind.is_dir() {
            Item::Dir { mode: mode & 0o1777 }
        } else if kind.is_file() {
            budget = budget.checked_sub(entry.size()).context("it unpacks to too much")?;
            let (digest, size) = keep(&mut entry, files)?;
            Item::File { mode: mode & 0o777, digest, size }
        } else if kind.is_symlink() || kind.is_hard_link() {
            let target = link.or_else(|| entry.link_name_bytes().map(Cow::into_owned));
            let target = target.context("a link without a target")?;
            let target = std::str::from_utf8(&target).context("a link's target is not UTF-8")?;
            ensure!(
                !target.is_empty() && target.len() < LONGEST_PATH && !target.contains('\0'),
                "{path} has no usable target"
            );
            if kind.is_symlink() {
                Item::Link { target: target.to_owned() }
            } else {
                let first = inside(target.as_bytes())?.and_then(|first| items.get(&first).cloned());
                first
                    .with_context(|| format!("{path} is a link to {target}, which did not come before it"))?
            }
        } else {
            bail!("{path} is neither file nor folder nor link");
        };
        ensure!(items.len() < MOST_ITEMS, "it has too many files");
        items.insert(path, item);
    }
    Ok(())
}

/// What entries in front of an entry say of it, because its header has no room for so much.
#[derive(Default)]
struct Long {
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

impl Long {
    /// Whether it is such an entry, and is kept for the next one.
    fn take(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<bool> {
        let place = match entry.header().entry_type() {
            tar::EntryType::GNULongName => &mut self.name,
            tar::EntryType::GNULongLink => &mut self.link,
            _ => return Ok(false),
        };
        ensure!(entry.size() <= LONGEST_PATH as u64, "a path is too long");
        ensure!(place.is_none(), "an entry has two long names");
        let mut name = Vec::new();
        entry.read_to_end(&mut name)?;
        name.pop_if(|last| *last == 0);
        *place = Some(name);
        Ok(true)
    }
}

/// The path of an entry, without `./` in front; `None` for the root itself.
pub(crate) fn inside(path: &[u8]) -> Result<Option<String>> {
    let path = std::str::from_utf8(path).context("a path is not UTF-8")?;
    ensure!(path.len() < LONGEST_PATH && !path.contains('\0'), "a path is too long");
    let names: Vec<&str> = path.split('/').filter(|name| !matches!(*name, "" | ".")).collect();
    ensure!(!names.contains(&".."), "the path `{}` leads out of the package", path.escape_debug());
    Ok((!names.is_empty()).then(|| names.join("/")))
}

/// Puts `content` into the folder `files` under the hex digits of its digest.
pub(crate) fn keep(content: &mut impl Read, files: &Path) -> Result<(Digest, u64)> {
    let file = tempfile::NamedTempFile::new_in(files)
        .with_context(|| format!("cannot write to {}", files.display()))?;
    let mut writer = DigestWriter::new(file);
    std::io::copy(content, &mut writer).context("cannot unpack a file")?;
    writer.flush()?;
    let (file, digest, size) = writer.finish();
    let path = files.join(digest.hex());
    if path.metadata().is_ok_and(|meta| meta.len() == size) {
        return Ok((digest, size));
    }
    file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
    Ok((digest, size))
}

/// Whether every file of the package is in `files` as it should be.
pub(crate) fn is_whole(content: &Content, files: &Path) -> bool {
    content.items.values().all(|item| match item {
        Item::File { digest, size, .. } => File::open(files.join(digest.hex()))
            .and_then(Digest::of_reader)
            .is_ok_and(|(found, length)| found == *digest && length == *size),
        Item::Dir { .. } | Item::Link { .. } => true,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn tarball(fill: impl FnOnce(&mut tar::Builder<Vec<u8>>)) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        fill(&mut builder);
        builder.into_inner().unwrap()
    }

    fn entry(builder: &mut tar::Builder<Vec<u8>>, path: &str, kind: tar::EntryType, link: &str, text: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(0o4755);
        header.set_size(text.len() as u64);
        // The library refuses hostile names that an attacker can write all the same.
        let raw = header.as_gnu_mut().unwrap();
        raw.name[..path.len()].copy_from_slice(path.as_bytes());
        raw.linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_cksum();
        builder.append(&header, text.as_bytes()).unwrap();
    }

    fn ar(members: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = b"!<arch>\n".to_vec();
        for (name, bytes) in members {
            out.extend(
                format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 100_644, bytes.len()).bytes(),
            );
            out.extend(*bytes);
            out.resize(out.len().next_multiple_of(2), b'\n');
        }
        out
    }

    /// A package `name` of these files; the first letter of a path's text tells links (`>`) from files.
    pub(crate) fn package(name: &str, version: &str, more: &str, files: &[(&str, &str)]) -> Vec<u8> {
        let control = tarball(|builder| {
            let text = format!("Package: {name}\nVersion: {version}\nArchitecture: amd64\n{more}");
            entry(builder, "./control", tar::EntryType::Regular, "", &text);
        });
        let data = tarball(|builder| {
            entry(builder, "./", tar::EntryType::Directory, "", "");
            for (path, text) in files {
                match text.strip_prefix('>') {
                    Some(target) => entry(builder, path, tar::EntryType::Symlink, target, ""),
                    None => entry(builder, path, tar::EntryType::Regular, "", text),
                }
            }
        });
        let data = zstd::encode_all(&data[..], 1).unwrap();
        ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar.zst", &data)])
    }

    fn unpacked(bytes: &[u8]) -> Result<Content> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("x.deb"), bytes).unwrap();
        unpack(&folder.path().join("x.deb"), folder.path())
    }

    #[test]
    fn a_package_is_unpacked_without_owners_and_setuid_bits() {
        let content =
            unpacked(&package("x", "1", "", &[("./usr/bin/x", "text"), ("usr/bin/y", ">x")])).unwrap();
        assert!(content.control.starts_with("Package: x\n"));
        assert_eq!(
            content.items["usr/bin/x"],
            Item::File { mode: 0o755, digest: Digest::of("text"), size: 4 }
        );
        assert_eq!(content.items["usr/bin/y"], Item::Link { target: "x".into() });
    }

    #[test]
    fn hostile_packages_are_refused() {
        for (path, text) in [("../etc/passwd", "x"), ("a/../../b", "x"), ("a", "")] {
            let result = unpacked(&package("x", "1", "", &[(path, text)]));
            assert_eq!(result.is_err(), path.contains(".."), "{path}");
        }
        let data = tarball(|builder| entry(builder, "dev", tar::EntryType::Block, "", ""));
        let control =
            tarball(|builder| entry(builder, "control", tar::EntryType::Regular, "", "Package: x\n"));
        let bytes = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar", &data)]);
        assert!(unpacked(&bytes).unwrap_err().to_string().contains("neither file"));
        let bytes = ar(&[("debian-binary", b"2.0\n"), ("control.tar", &control), ("data.tar.lz9", &data)]);
        assert!(unpacked(&bytes).unwrap_err().to_string().contains("compression"));
    }

    #[test]
    fn long_names_are_read_and_have_an_end() {
        let (name, target) = ("n/".repeat(90), "t/".repeat(90));
        let data = tarball(|builder| {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            header.set_size(0);
            builder.append_link(&mut header, format!("{name}a"), format!("{target}b")).unwrap();
        });
        let mut items = BTreeMap::new();
        let files = tempfile::tempdir().unwrap();
        super::data(data.as_slice(), files.path(), &mut items).unwrap();
        assert_eq!(items[&format!("{name}a")], Item::Link { target: format!("{target}b") });
        // A package of 300 kB must not fill the memory.
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::GNULongName);
        header.set_size(8 << 30);
        header.set_cksum();
        let bomb = header.as_bytes().chain(std::io::repeat(b'n').take(8 << 30));
        let error = super::data(bomb, files.path(), &mut items).unwrap_err();
        assert!(error.to_string().contains("too long"), "{error:#}");
    }

    #[test]
    fn a_file_does_not_choose_how_much_memory_unpacking_takes() {
        // `x`, compressed, with the largest dictionary that a header can ask for: 4 GiB.
        let xz: &[u8] = b"\xfd\x37\x7a\x58\x5a\x00\x00\x00\xff\x12\xd9\x41\x02\x00\x21\x01\x28\x00\x00\x00\xe6\xa0\x11\xb3\
            \x01\x00\x00\x78\x00\x00\x00\x00\x00\x01\x11\x01\xad\xa6\x58\x04\x06\x72\x9e\x7a\x01\x00\x00\x00\
            \x00\x00\x59\x5a";
        let mut read = decompressed(".xz", xz).unwrap();
        assert!(read.read_to_end(&mut Vec::new()).unwrap_err().to_string().contains("memory"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let original = package("x", "1", "Depends: y\n", &[("./usr/bin/x", "text"), ("usr/bin/y", ">x")]);
        let mut state = 0x1234_5678_9abc_def1_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        for round in 0..1500 {
            let mut bytes = original.clone();
            for _ in 0..=random(6) {
                let at = random(bytes.len());
                bytes[at] = random(256) as u8;
            }
            bytes.truncate(if round % 4 == 0 { random(bytes.len()) } else { bytes.len() });
            unpacked(&bytes).ok();
        }
    }
}
