//! The tar writer: POSIX ustar with every header field chosen here. A pax header is written only where ustar has no room
//! (long names, files over 8 GiB), and then with those keys alone. Owner names are empty and every time is the same.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format".

use std::fs::File;
use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail};

use crate::tree::{Entry, Source, Tree};

const BLOCK: usize = 512;
/// The time of every entry: a layer is named by what it holds, not by when it was made.
const MTIME: u64 = 0;
/// Largest size that eleven octal digits hold.
const MAX_USTAR_SIZE: u64 = 0o777_7777_7777;

struct Header<'a> {
    path: &'a str,
    mode: u32,
    owner: u32,
    size: u64,
    kind: u8,
    link: &'a str,
}

/// Writes `tree` as a tar archive.
///
/// # Errors
/// When a source cannot be read or changes its size while it is read, or `out` refuses.
pub(crate) fn write(tree: &Tree, mut out: impl Write) -> Result<()> {
    for (path, entry) in tree.iter() {
        write_entry(path, entry, &mut out).with_context(|| format!("cannot pack {path}"))?;
    }
    out.write_all(&[0; 2 * BLOCK])?;
    Ok(())
}

/// Writes one regular file whose content is known, for archives that are not layers.
pub(crate) fn write_file(path: &str, size: u64, content: impl Read, out: &mut impl Write) -> Result<()> {
    write_header(&Header { path, mode: 0o644, owner: 0, size, kind: b'0', link: "" }, out)?;
    copy_exactly(content, size, out).with_context(|| format!("cannot pack {path}"))
}

fn write_entry(path: &str, entry: &Entry, out: &mut impl Write) -> Result<()> {
    let header = |kind, mode, owner, size| Header { path, mode, owner, size, kind, link: "" };
    match entry {
        Entry::Dir { mode, owner } => {
            let path = format!("{path}/");
            write_header(&Header { path: &path, ..header(b'5', *mode, *owner, 0) }, out)
        }
        Entry::Symlink { target } => write_header(&Header { link: target, ..header(b'2', 0o777, 0, 0) }, out),
        Entry::File { mode, source: Source::Bytes(bytes) } => {
            write_header(&header(b'0', *mode, 0, bytes.len() as u64), out)?;
            copy_exactly(bytes.as_slice(), bytes.len() as u64, out)
        }
        Entry::File { mode, source: Source::Path(source) } => {
            let file = File::open(source).with_context(|| format!("cannot open {}", source.display()))?;
            let size = file.metadata()?.len();
            write_header(&header(b'0', *mode, 0, size), out)?;
            copy_exactly(file, size, out).with_context(|| format!("cannot read {}", source.display()))
        }
    }
}

fn copy_exactly(mut content: impl Read, size: u64, out: &mut impl Write) -> Result<()> {
    let copied = io::copy(&mut content.by_ref().take(size), out)?;
    if copied != size || content.read(&mut [0])? != 0 {
        bail!("the file changed its size while it was packed");
    }
    let padding = (BLOCK - (size % BLOCK as u64) as usize) % BLOCK;
    out.write_all(&[0; BLOCK][..padding])?;
    Ok(())
}

fn write_header(header: &Header<'_>, out: &mut impl Write) -> Result<()> {
    let mut records = Vec::new();
    let (prefix, name) = split(header.path).unwrap_or_else(|| {
        pax_record("path", header.path, &mut records);
        ("", truncated(header.path))
    });
    let link = if header.link.len() <= 100 {
        header.link
    } else {
        pax_record("linkpath", header.link, &mut records);
        truncated(header.link)
    };
    let mut size = header.size;
    if size > MAX_USTAR_SIZE {
        pax_record("size", &size.to_string(), &mut records);
        size = 0;
    }
    if !records.is_empty() {
        let pax = Header { path: "PaxHeader", size: records.len() as u64, kind: b'x', link: "", ..*header };
        out.write_all(&block("", "PaxHeader", "", pax.size, &pax))?;
        copy_exactly(records.as_slice(), pax.size, out)?;
    }
    out.write_all(&block(prefix, name, link, size, header))?;
    Ok(())
}

/// Prefix and name of `path` as ustar keeps them: at most 155 and 100 bytes, split at a slash.
fn split(path: &str) -> Option<(&str, &str)> {
    if path.len() <= 100 {
        return Some(("", path));
    }
    let at = path.match_indices('/').map(|(at, _)| at).find(|at| path.len() - at - 1 <= 100)?;
    let (prefix, name) = (&path[..at], &path[at + 1..]);
    (prefix.len() <= 155 && !name.is_empty()).then_some((prefix, name))
}

fn truncated(text: &str) -> &str {
    let end = (0..=100).rev().find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    &text[..end]
}

/// `<length> <key>=<value>\n`, where the length counts itself.
fn pax_record(key: &str, value: &str, out: &mut Vec<u8>) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
}

fn block(prefix: &str, name: &str, link: &str, size: u64, header: &Header<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, format!("{:07o}\0", header.mode).as_bytes());
    put(108, format!("{:07o}\0", header.owner).as_bytes());
    put(116, format!("{:07o}\0", header.owner).as_bytes());
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, format!("{MTIME:011o}\0").as_bytes());
    // The checksum is computed as if its own field held spaces.
    put(148, b"        ");
    put(156, &[header.kind]);
    put(157, link.as_bytes());
    put(257, b"ustar\x0000");
    put(329, b"0000000\0");
    put(337, b"0000000\0");
    put(345, prefix.as_bytes());
    let checksum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{checksum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(tree: &Tree) -> Vec<u8> {
        let mut out = Vec::new();
        write(tree, &mut out).unwrap();
        out
    }

    /// What an independent reader makes of the archive: path, kind, mode, owner, link, content.
    fn listing(bytes: &[u8]) -> Vec<String> {
        let mut reader = ::tar::Archive::new(bytes);
        let describe = |entry: std::io::Result<::tar::Entry<'_, &[u8]>>| {
            let mut entry = entry.unwrap();
            let mut content = String::new();
            entry.read_to_string(&mut content).unwrap();
            let header = entry.header();
            let link =
                entry.link_name().unwrap().map(|link| format!(" -> {}", link.display())).unwrap_or_default();
            let (mode, owner) = (header.mode().unwrap(), header.uid().unwrap());
            format!("{} {mode:o} {owner}{link} {content}", entry.path().unwrap().display())
                .trim_end()
                .to_owned()
        };
        reader.entries().unwrap().map(describe).collect()
    }

    #[test]
    fn another_reader_sees_what_was_packed() {
        let mut tree = Tree::new();
        tree.dir("data", 0o750, 10001).unwrap();
        tree.file("etc/passwd", 0o444, Source::Bytes(b"root".to_vec())).unwrap();
        tree.symlink("etc/link", "../data").unwrap();
        let expected =
            ["data/ 750 10001", "etc/ 755 0", "etc/link 777 0 -> ../data", "etc/passwd 444 0 root"]
                .map(str::to_owned);
        assert_eq!(listing(&archive(&tree)), expected);
    }

    #[test]
    fn long_names_survive_by_prefix_or_by_pax_header() {
        for (directory, name) in [(90, 90), (150, 100), (200, 120), (20, 200)] {
            let mut tree = Tree::new();
            let path = format!("{}/{}", "d".repeat(directory), "é".repeat(name / 2));
            tree.symlink(&path, &"t".repeat(name)).unwrap();
            let last = listing(&archive(&tree)).pop().unwrap();
            assert_eq!(last, format!("{path} 777 0 -> {}", "t".repeat(name)));
        }
    }

    #[test]
    fn a_pax_record_counts_its_own_length() {
        let mut out = Vec::new();
        pax_record("path", &"a".repeat(91), &mut out);
        assert_eq!(out.len(), 101, "{}", String::from_utf8_lossy(&out));
        assert!(out.starts_with(b"101 path="));
    }

    #[test]
    fn a_source_that_is_not_as_long_as_it_said_is_refused() {
        assert!(copy_exactly(&b"abc"[..], 2, &mut Vec::new()).is_err());
        assert!(copy_exactly(&b"abc"[..], 4, &mut Vec::new()).is_err());
    }

    #[test]
    fn the_archive_ends_with_two_zero_blocks() {
        assert_eq!(archive(&Tree::new()), [0; 1024]);
    }
}
