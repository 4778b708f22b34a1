//! The tar reader, for archives that anybody may have written. Every entry is given or refused, none is passed over: what another
//! reader could take for something else is refused. It knows nothing of what the entries are for. Invariant: memory, time and bytes
//! are bounded by the [`Budget`], whatever the archive says of itself.
//!
//! Source: POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format".

use std::io::{self, Read};

use anyhow::{Context, Result, bail, ensure};

const BLOCK: usize = 512;

/// What is read of an image at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of all layers, unpacked.
    pub bytes: u64,
    /// Entries of all layers, headers of long names and attributes included.
    pub entries: u64,
    /// Bytes of a path, and of what a link holds.
    pub path: usize,
    /// Names in a path.
    pub depth: usize,
    /// Bytes of the long names and attributes of one entry.
    pub extension: u64,
}

impl Default for Limits {
    /// 16 GiB in 400,000 entries; paths as Linux takes them, at most 128 folders deep.
    fn default() -> Limits {
        Limits { bytes: 16 << 30, entries: 400_000, path: 4096, depth: 128, extension: 1 << 20 }
    }
}

/// What is left of the limits: one for all layers of an image.
#[derive(Debug, Clone)]
pub(crate) struct Budget {
    limits: Limits,
    bytes: u64,
    entries: u64,
}

impl Budget {
    pub(crate) fn new(limits: Limits) -> Budget {
        Budget { limits, bytes: limits.bytes, entries: limits.entries }
    }
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    Folder,
    /// Character device, block device or named pipe.
    Special,
}

/// An entry without its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Item {
    /// As it stands in the archive; no byte is zero.
    pub(crate) path: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    /// Of a file's content.
    pub(crate) size: u64,
    /// What a link holds.
    pub(crate) link: Vec<u8>,
}

/// An archive that is read from front to back.
pub(crate) struct Archive<'a, R> {
    reader: R,
    budget: &'a mut Budget,
    /// Bytes of the current entry that were not read.
    left: u64,
    /// Bytes between them and the next header.
    padding: u64,
}

/// What headers in front of an entry say of it.
#[derive(Debug, Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
}

impl<'a, R: Read> Archive<'a, R> {
    pub(crate) fn new(reader: R, budget: &'a mut Budget) -> Archive<'a, R> {
        Archive { reader, budget, left: 0, padding: 0 }
    }

    /// The next entry; what was not read of the current one is passed over.
    pub(crate) fn next(&mut self) -> Result<Option<Item>> {
        let mut extensions = Extensions::default();
        loop {
            self.skip()?;
            let Some(block) = self.header()? else {
                ensure!(extensions.is_empty(), "the archive ends behind a long name");
                return Ok(None);
            };
            let spent = self.budget.entries.checked_sub(1);
            self.budget.entries = spent
                .with_context(|| format!("there are more than {} entries", self.budget.limits.entries))?;
            let size = number(&block[124..136]).context("the size of an entry is no number")?;
            match block[156] {
                b'L' => set(&mut extensions.path, self.long_name(size)?)?,
                b'K' => set(&mut extensions.link, self.long_name(size)?)?,
                b'x' => {
                    self.pax(size)?.into_iter().try_for_each(|(key, value)| extensions.take(&key, value))?
                }
                b'g' => refuse_global(&self.pax(size)?)?,
                kind => return self.item(&block, kind, size, extensions).map(Some),
            }
        }
    }

    /// Reads what follows the last entry, which must be nothing but zeros, and gives the reader back.
    pub(crate) fn finish(mut self) -> Result<R> {
        let mut buffer = [0; 16 * 1024];
        loop {
            let n = self.pull(&mut buffer)?;
            if n == 0 {
                return Ok(self.reader);
            }
            ensure!(buffer[..n].iter().all(|byte| *byte == 0), "something follows the end of the archive");
        }
    }

    fn item(&mut self, block: &[u8; BLOCK], kind: u8, size: u64, extensions: Extensions) -> Result<Item> {
        let size = extensions.size.unwrap_or(size);
        let path = extensions.path.unwrap_or_else(|| header_path(block));
        let link = extensions.link.unwrap_or_else(|| until_zero(&block[157..257]).to_vec());
        let name = String::from_utf8_lossy(&path).into_owned();
        self.check_path(&path, &link).with_context(|| format!("cannot take the path {name:.100}"))?;
        let kind = match kind {
            // From the time before folders had a kind of their own.
            0 | b'0' if path.ends_with(b"/") => Kind::Folder,
            // A contiguous file is a file to whoever has no such thing.
            0 | b'0' | b'7' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' | b'4' | b'6' => Kind::Special,
            b'5' => Kind::Folder,
            b'S' => bail!("{name} is a sparse file, which is not supported"),
            other => {
                bail!("{name} is an entry of the kind `{}`, which is not supported", other.escape_ascii())
            }
        };
        let is_link = matches!(kind, Kind::HardLink | Kind::Symlink);
        ensure!(!is_link || !link.is_empty(), "{name} is a link to nothing");
        ensure!(kind == Kind::File || size == 0, "{name} is no file and has {size} bytes of content");
        self.expect(size)?;
        let mode = number(&block[100..108]).and_then(|mode| u32::try_from(mode).ok());
        let mode = mode.with_context(|| format!("the mode of {name} is no number"))?;
        Ok(Item { path, kind, mode, size, link })
    }

    fn check_path(&self, path: &[u8], link: &[u8]) -> Result<()> {
        let limits = &self.budget.limits;
        for text in [path, link] {
            ensure!(text.len() <= limits.path, "it is {} bytes long, or what it leads to is", text.len());
            ensure!(!text.contains(&0), "it has a zero byte");
        }
        let names = || path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        ensure!(names().all(|name| name.len() <= 255), "it has a name of more than 255 bytes");
        ensure!(names().count() <= limits.depth, "it is more than {} folders deep", limits.depth);
        Ok(())
    }

    /// The next header; `None` at the end of the archive, which some tools (umoci 0.4) do not mark.
    fn header(&mut self) -> Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        let mut read = 0;
        while read < BLOCK {
            match self.pull(&mut block[read..])? {
                0 if read == 0 => return Ok(None),
                0 => bail!("the archive breaks off in a header"),
                n => read += n,
            }
        }
        if block == [0; BLOCK] {
            return Ok(None);
        }
        let sum = |range: &[u8]| range.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        let expected = sum(&block[..148]) + 8 * u64::from(b' ') + sum(&block[156..]);
        ensure!(number(&block[148..156]) == Some(expected), "a header has a wrong checksum");
        Ok(Some(block))
    }

    fn expect(&mut self, size: u64) -> Result<()> {
        ensure!(size <= self.budget.bytes, self.too_large());
        self.left = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn too_large(&self) -> String {
        format!("the layers are larger than {} bytes", self.budget.limits.bytes)
    }

    fn skip(&mut self) -> Result<()> {
        let mut buffer = [0; 16 * 1024];
        while self.left > 0 {
            ensure!(self.read(&mut buffer)? > 0, "the archive breaks off in a file");
        }
        while self.padding > 0 {
            let length = buffer.len().min(usize::try_from(self.padding).unwrap_or(usize::MAX));
            match self.pull(&mut buffer[..length])? {
                // The padding of the last file is left out by the same tools that leave out the end.
                0 => self.padding = 0,
                n => self.padding -= n as u64,
            }
        }
        Ok(())
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        ensure!(size <= self.budget.limits.extension, "an entry has {size} bytes of names and attributes");
        self.expect(size)?;
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        ensure!(bytes.len() as u64 == size, "the archive breaks off in a long name");
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64) -> Result<Vec<u8>> {
        let bytes = self.extension(size)?;
        Ok(bytes.strip_suffix(b"\0").unwrap_or(&bytes).to_vec())
    }

    fn pax(&mut self, size: u64) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        pax_records(&self.extension(size)?).context("an entry has attributes that cannot be read")
    }

    /// Reads from the archive, within what is left of the budget.
    fn pull(&mut self, buffer: &mut [u8]) -> Result<usize> {
        let n = self.reader.read(buffer).context("cannot read the archive")?;
        let left = self.budget.bytes.checked_sub(n as u64);
        self.budget.bytes = left.with_context(|| self.too_large())?;
        Ok(n)
    }
}

/// The content of the current entry.
impl<R: Read> Read for Archive<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if length == 0 {
            return Ok(0);
        }
        let n = self.pull(&mut buffer[..length]).map_err(io::Error::other)?;
        if n == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive breaks off in a file"));
        }
        self.left -= n as u64;
        Ok(n)
    }
}

impl Extensions {
    fn is_empty(&self) -> bool {
        self.path.is_none() && self.link.is_none() && self.size.is_none()
    }

    fn take(&mut self, key: &[u8], value: Vec<u8>) -> Result<()> {
        match key {
            b"path" => set(&mut self.path, value),
            b"linkpath" => set(&mut self.link, value),
            b"size" => {
                let size = std::str::from_utf8(&value).ok().and_then(|text| text.parse().ok());
                set(&mut self.size, size.context("the size of an entry is no number")?)
            }
            _ => refuse_sparse(key),
        }
    }
}

/// Which of two counts is up to the reader.
fn set<T>(place: &mut Option<T>, value: T) -> Result<()> {
    ensure!(place.is_none(), "an entry has two long names, or two sizes");
    *place = Some(value);
    Ok(())
}

fn refuse_sparse(key: &[u8]) -> Result<()> {
    ensure!(!key.starts_with(b"GNU.sparse."), "an entry is a sparse file, which is not supported");
    Ok(())
}

/// Attributes for all later entries: those that change no more than times and owners may be there.
fn refuse_global(records: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
    for (key, _) in records {
        let is_known = matches!(key.as_slice(), b"path" | b"linkpath" | b"size");
        ensure!(!is_known, "the archive gives all entries the same {}", String::from_utf8_lossy(key));
        refuse_sparse(key)?;
    }
    Ok(())
}

/// Records of the form `<length> <key>=<value>\n`, where the length counts all of it.
fn pax_records(mut bytes: &[u8]) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ').context("a record without a length")?;
        let length = std::str::from_utf8(&bytes[..space]).ok().and_then(|text| text.parse::<usize>().ok());
        let length = length.filter(|length| *length > space && *length <= bytes.len());
        let (record, rest) = bytes.split_at(length.context("a record with a wrong length")?);
        let record = record[space + 1..].strip_suffix(b"\n").context("a record without an end")?;
        let equals = record.iter().position(|byte| *byte == b'=').context("a record without a value")?;
        records.push((record[..equals].to_vec(), record[equals + 1..].to_vec()));
        bytes = rest;
    }
    Ok(records)
}

fn header_path(block: &[u8; BLOCK]) -> Vec<u8> {
    let name = until_zero(&block[..100]);
    // GNU's own form has times where this one has the beginning of a long path.
    let prefix = if block[257..263] == *b"ustar\0" { until_zero(&block[345..500]) } else { b"" };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

fn until_zero(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
    &field[..end]
}

/// A number in octal digits, or in base 256 where the first bit is set.
fn number(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let mut bytes = field.iter().copied();
        let first = u64::from(bytes.next()? & 0x7f);
        return bytes.try_fold(first, |sum, byte| Some(sum.checked_mul(256)? | u64::from(byte)));
    }
    let text = std::str::from_utf8(until_zero(field)).ok()?.trim_matches(' ');
    if text.is_empty() { Some(0) } else { u64::from_str_radix(text, 8).ok() }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::tree::{Source, Tree};

    pub(crate) fn header(path: &str, kind: u8, size: u64, link: &str) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, path.as_bytes());
        put(100, b"0000755\0");
        put(124, format!("{size:011o}\0").as_bytes());
        put(148, b"        ");
        put(156, &[kind]);
        put(157, link.as_bytes());
        put(257, b"ustar\x0000");
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        block
    }

    pub(crate) fn entry(path: &str, kind: u8, content: &[u8], link: &str) -> Vec<u8> {
        let mut bytes = header(path, kind, content.len() as u64, link);
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }

    fn record(key: &str, value: &str) -> Vec<u8> {
        let rest = format!(" {key}={value}\n");
        let length = (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).unwrap();
        format!("{length}{rest}").into_bytes()
    }

    fn read(bytes: &[u8], limits: Limits) -> Result<Vec<(String, Kind, String)>> {
        let mut budget = Budget::new(limits);
        let mut archive = Archive::new(bytes, &mut budget);
        let mut seen = Vec::new();
        while let Some(item) = archive.next()? {
            let content = io::read_to_string(&mut archive)?;
            seen.push((String::from_utf8_lossy(&item.path).into_owned(), item.kind, content));
        }
        archive.finish()?;
        Ok(seen)
    }

    fn refusal(bytes: &[u8]) -> String {
        format!("{:#}", read(bytes, Limits::default()).unwrap_err())
    }

    #[test]
    fn what_we_write_comes_back() {
        let mut tree = Tree::new();
        let long = format!("{}/{}", "d".repeat(200), "n".repeat(200));
        tree.file(&long, 0o444, Source::Bytes(b"long".into())).unwrap();
        tree.symlink("a", &"t".repeat(200)).unwrap();
        let mut bytes = Vec::new();
        crate::tar::write(&tree, &mut bytes).unwrap();
        let expected = [
            ("a".to_owned(), Kind::Symlink, String::new()),
            (format!("{}/", "d".repeat(200)), Kind::Folder, String::new()),
            (long, Kind::File, "long".to_owned()),
        ];
        assert_eq!(read(&bytes, Limits::default()).unwrap(), expected);
        // As umoci writes it: without the end, and without the last padding.
        bytes.truncate(bytes.len() - 1024 - 508);
        assert_eq!(read(&bytes, Limits::default()).unwrap(), expected);
    }

    #[test]
    fn every_kind_of_entry_is_given_or_refused() {
        let kind = |kind: u8, link: &str| {
            read(&entry("x", kind, b"", link), Limits::default()).map(|seen| seen[0].1).ok()
        };
        for flag in *b"07" {
            assert_eq!(kind(flag, ""), Some(Kind::File));
        }
        assert_eq!([kind(b'1', "y"), kind(b'2', "y")], [Some(Kind::HardLink), Some(Kind::Symlink)]);
        assert_eq!([b'3', b'4', b'6'].map(|flag| kind(flag, "")), [Some(Kind::Special); 3]);
        assert_eq!(kind(b'5', ""), Some(Kind::Folder));
        for flag in [b'1', b'2', b'S', b'M', b'V', b'D', b'N', b'X', b'A', 0xff] {
            assert_eq!(kind(flag, ""), None, "{}", flag.escape_ascii());
        }
        assert!(refusal(&entry("x", b'S', b"", "")).contains("sparse"));
        for sparse in ["GNU.sparse.major", "GNU.sparse.map"] {
            let bytes = [entry("p", b'x', &record(sparse, "1"), ""), entry("x", b'0', b"", "")].concat();
            assert!(refusal(&bytes).contains("sparse"));
        }
    }

    #[test]
    fn what_two_readers_could_take_for_two_things_is_refused() {
        let file = || entry("x", b'0', b"content", "");
        let refuse = |parts: &[Vec<u8>], text: &str| {
            let error = refusal(&parts.concat());
            assert!(error.contains(text), "{error} lacks {text}");
        };
        let pax = |key: &str, value: &str| entry("p", b'x', &record(key, value), "");
        refuse(&[pax("path", "a"), entry("L", b'L', b"b\0", ""), file()], "two long names");
        refuse(&[pax("path", "a"), pax("path", "b"), file()], "two long names");
        refuse(&[entry("g", b'g', &record("path", "a"), ""), file()], "the same path");
        refuse(&[entry("dir", b'5', b"hidden", "")], "is no file and has 6 bytes");
        refuse(&[file(), vec![0; 512], file()], "follows the end");
        refuse(&[entry("L", b'L', b"b\0", "")], "ends behind a long name");
        refuse(&[pax("path", "a\0b"), file()], "zero byte");
        refuse(&[header("x", b'0', 600, ""), vec![1; 300]], "breaks off");
        refuse(&[entry("p", b'x', b"9 path=a\n99 path=b\n", ""), file()], "cannot be read");
        let mut bad = file();
        bad[0] ^= 1;
        refuse(&[bad], "wrong checksum");
    }

    #[test]
    fn sizes_and_numbers_are_bounded() {
        let limits = Limits { bytes: 10_000, entries: 5, path: 50, depth: 3, extension: 600 };
        let refuse = |bytes: &[u8], text: &str| {
            let error = format!("{:#}", read(bytes, limits).unwrap_err());
            assert!(error.contains(text), "{error} lacks {text}");
        };
        refuse(&header("x", b'0', 10_001, ""), "larger than 10000 bytes");
        refuse(&[entry("x", b'0', &[1; 4000], ""), vec![0; 8000]].concat(), "larger than 10000 bytes");
        refuse(&entry("x", b'0', b"", "").repeat(6), "more than 5 entries");
        refuse(&entry("L", b'L', &[b'a'; 20], "").repeat(2), "two long names");
        refuse(&entry(&"a/".repeat(4), b'5', b"", ""), "more than 3 folders");
        refuse(&entry(&"a".repeat(51), b'0', b"", ""), "51 bytes long");
        refuse(&entry("x", b'2', b"", &"a".repeat(51)), "51 bytes long");
        refuse(&entry("L", b'L', &[b'a'; 601], ""), "601 bytes of names");
        let mut huge = entry("x", b'0', b"", "");
        huge[124..136].copy_from_slice(&[0xff; 12]);
        let sum: u64 = huge[..148].iter().chain(&huge[156..]).map(|byte| u64::from(*byte)).sum::<u64>() + 256;
        huge[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        refuse(&huge, "is no number");
    }
}
