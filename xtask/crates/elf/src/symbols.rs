//! Whose a binary's bytes are: its sections and symbols, and those of the object files of an archive.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use object::read::ReadCache;
use object::read::elf::{FileHeader, SectionHeader, Sym};
use object::{Endianness, ReadRef, elf};

/// The largest programs known have a third of this.
const MOST_SYMBOLS: usize = 16 << 20;
/// An object file of an archive beyond this is not looked into.
const MOST_MEMBER_BYTES: u64 = 256 << 20;
/// Nor are archives with more files than this.
const MOST_MEMBERS: usize = 1 << 16;

/// A named range of a binary's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Symbol {
    /// As the linker wrote it; what is no UTF-8 is replaced.
    pub name: String,
    /// Where it begins in memory.
    pub address: u64,
    /// How long it is.
    pub size: u64,
    /// The source file that the compiler named, for symbols that only it sees.
    pub file: Option<String>,
}

/// A section of a binary that is mapped when it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Section {
    /// Its name.
    pub name: String,
    /// Where it begins in memory.
    pub address: u64,
    /// Where it begins in the file.
    pub offset: u64,
    /// How many bytes of the file it has; none where memory only starts as zeros.
    pub size: u64,
    /// Whether it holds code.
    pub is_code: bool,
}

/// The symbols with a size in the symbol table of the binary at `path`; empty where it has none.
///
/// # Errors
/// When the file is no 64 bit ELF file, or contradicts itself.
pub fn symbols(path: &Path) -> Result<Vec<Symbol>> {
    let cache = open(path)?;
    read_symbols(&cache).with_context(|| format!("cannot read the symbols of {}", path.display()))
}

/// The mapped sections of the binary at `path`.
///
/// # Errors
/// When the file is no 64 bit ELF file, or contradicts itself.
pub fn sections(path: &Path) -> Result<Vec<Section>> {
    let cache = open(path)?;
    read_sections(&cache).with_context(|| format!("cannot read the sections of {}", path.display()))
}

/// The symbols of all object files in the static library at `path`; of files in it that are no object files, none.
///
/// # Errors
/// When the file is no archive.
pub fn archive_symbols(path: &Path) -> Result<Vec<Symbol>> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    read_archive(file).with_context(|| format!("cannot read the archive {}", path.display()))
}

fn open(path: &Path) -> Result<ReadCache<File>> {
    Ok(ReadCache::new(File::open(path).with_context(|| format!("cannot open {}", path.display()))?))
}

type Header = elf::FileHeader64<Endianness>;

fn read_symbols<'data>(data: impl ReadRef<'data>) -> Result<Vec<Symbol>> {
    let header = Header::parse(data)?;
    let endian = header.endian()?;
    let table = header.sections(endian, data)?.symbols(endian, data, elf::SHT_SYMTAB)?;
    ensure!(table.len() <= MOST_SYMBOLS, "it has {} symbols", table.len());
    let mut found = Vec::new();
    let mut file = None;
    for symbol in table.iter() {
        let name = || Some(String::from_utf8_lossy(symbol.name(endian, table.strings()).ok()?).into_owned());
        if symbol.st_type() == elf::STT_FILE {
            file = name();
            continue;
        }
        let has_bytes = [elf::STT_FUNC, elf::STT_OBJECT, elf::STT_NOTYPE, elf::STT_GNU_IFUNC];
        if symbol.st_size(endian) == 0
            || symbol.is_undefined(endian)
            || !has_bytes.contains(&symbol.st_type())
        {
            continue;
        }
        found.push(Symbol {
            name: name().context("a symbol has no name")?,
            address: symbol.st_value(endian),
            size: symbol.st_size(endian),
            file: file.clone().filter(|_| symbol.st_bind() == elf::STB_LOCAL),
        });
    }
    Ok(found)
}

fn read_sections<'data>(data: impl ReadRef<'data>) -> Result<Vec<Section>> {
    let header = Header::parse(data)?;
    let endian = header.endian()?;
    let table = header.sections(endian, data)?;
    let mut found = Vec::new();
    for section in table.iter() {
        let flags = section.sh_flags(endian);
        // What has no kind is not there, whatever else its header says.
        if flags.0 & elf::SHF_ALLOC.0 == 0 || section.sh_type(endian) == elf::SHT_NULL {
            continue;
        }
        let name = table.section_name(endian, section)?;
        found.push(Section {
            name: String::from_utf8_lossy(name).into_owned(),
            address: section.sh_addr(endian),
            offset: section.sh_offset(endian),
            size: section.file_range(endian).map_or(0, |(_, size)| size),
            is_code: flags.0 & elf::SHF_EXECINSTR.0 != 0,
        });
    }
    Ok(found)
}

/// Source: ar(5); the System V and GNU variants.
fn read_archive(mut file: File) -> Result<Vec<Symbol>> {
    let length = file.metadata()?.len();
    let mut magic = [0; 8];
    file.read_exact(&mut magic)?;
    ensure!(&magic == b"!<arch>\n", "it is no archive");
    let mut found = Vec::new();
    let mut at = magic.len() as u64;
    for _ in 0..MOST_MEMBERS {
        let mut header = [0; 60];
        if at.checked_add(60).is_none_or(|end| end > length) {
            break;
        }
        file.seek(SeekFrom::Start(at))?;
        file.read_exact(&mut header)?;
        let size = std::str::from_utf8(&header[48..58]).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let size = size.context("a file in it has no size")?;
        let end = (at + 60).checked_add(size).filter(|end| *end <= length).context("it ends too early")?;
        if size <= MOST_MEMBER_BYTES {
            let mut bytes = vec![0; size as usize];
            file.read_exact(&mut bytes)?;
            found.extend(read_symbols(bytes.as_slice()).unwrap_or_default());
        }
        at = end + end % 2;
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A function with a name that nobody else has.
    #[inline(never)]
    fn slipway_elf_test_symbol() -> u64 {
        std::hint::black_box(7)
    }

    #[test]
    fn this_program_has_its_symbols_inside_its_sections() {
        let this = std::env::current_exe().unwrap();
        assert_eq!(slipway_elf_test_symbol(), 7);
        let symbols = symbols(&this).unwrap();
        let symbol = symbols.iter().find(|symbol| symbol.name.contains("slipway_elf_test_symbol")).unwrap();
        let sections = sections(&this).unwrap();
        let holds = |section: &&Section| {
            section.address <= symbol.address
                && symbol.address + symbol.size <= section.address + section.size
        };
        let section = sections.iter().find(holds).unwrap();
        assert!(section.is_code && section.name == ".text");
        assert!(sections.iter().any(|section| section.name == ".bss" && section.size == 0));
    }

    /// Found by fuzzing: [`crate::finish`] takes such a section out, as a loader would, and sizes counted it.
    #[test]
    fn a_section_without_a_kind_is_none() {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let before = read_sections(bytes.as_slice()).unwrap();
        let header = Header::parse(bytes.as_slice()).unwrap();
        let table = usize::try_from(header.e_shoff(header.endian().unwrap())).unwrap();
        bytes[table + 64 + 4..table + 64 + 8].fill(0);
        assert_eq!(read_sections(bytes.as_slice()).unwrap(), before[1..]);
    }

    #[test]
    fn damaged_files_are_errors() {
        let this = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut head = this[..this.len().min(1 << 16)].to_vec();
        for at in 0..64 {
            for byte in [0, 1, 0x7f, 0xff] {
                let old = std::mem::replace(&mut head[at], byte);
                std::fs::write(file.path(), &head).unwrap();
                let _ = (symbols(file.path()), sections(file.path()));
                head[at] = old;
            }
        }
        for content in [&b""[..], b"!<arch>\n", b"!<arch>\nx", &[b'!'; 300]] {
            std::fs::write(file.path(), content).unwrap();
            let _ = archive_symbols(file.path());
        }
        std::fs::write(file.path(), [&b"!<arch>\n"[..], &[b' '; 60]].concat()).unwrap();
        assert!(archive_symbols(file.path()).is_err());
    }
}
