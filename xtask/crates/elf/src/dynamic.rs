//! What a dynamic loader reads of a file: the loader's name, the libraries and symbol versions that it needs, those that it
//! provides, and where it looks for libraries. Sections are not looked at: a stripped file may have none, and a loader never does.
//!
//! Source: System V ABI, chapters 4 and 5; "ELF Symbol Versioning" by Ulrich Drepper.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use object::read::ReadCache;
use object::read::elf::{FileHeader, ProgramHeader};
use object::{Endianness, ReadRef, elf};

/// What a file needs in order to be loaded, and what it gives to others.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needs {
    /// Processor, in Go's words: `amd64`, `arm64`; `unknown` for one that images are not made for.
    pub machine: String,
    /// Whether a loader could load it: an executable or a shared library, and no object file or core dump.
    pub is_loadable: bool,
    /// The loader that it asks for; `None` for a static binary and for most libraries.
    pub interpreter: Option<String>,
    /// Names of the libraries that it needs, in its own order.
    pub libraries: Vec<String>,
    /// Symbol versions that must be there, by library. Those that it could do without are left out.
    pub versions: BTreeMap<String, BTreeSet<String>>,
    /// Where it wants libraries to be looked for.
    pub run_path: Option<SearchPath>,
    /// Its own name as a library.
    pub name: Option<String>,
    /// Symbol versions that it provides; empty for a library without versions.
    pub provides: BTreeSet<String>,
}

/// Folders in which a file wants its libraries to be looked for; `$ORIGIN` stands for its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchPath {
    /// For its own libraries and for theirs, before what the environment says.
    Inherited(Vec<String>),
    /// For its own libraries only, after what the environment says.
    Own(Vec<String>),
}

/// Bytes of the longest name that is read.
const LONGEST_NAME: u64 = 4096;
/// Entries of any list: real files have a few hundred.
const MOST_ENTRIES: usize = 16_384;

/// Whether a file that begins so claims to be ELF.
pub fn is_elf(beginning: &[u8]) -> bool {
    beginning.starts_with(&elf::ELFMAG)
}

/// What the file at `path` needs.
///
/// # Errors
/// When it is not an ELF file of 64 bits, or is damaged.
pub fn needs(path: &Path) -> Result<Needs> {
    let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    let cache = ReadCache::new(file);
    read(&cache).with_context(|| format!("cannot read {}", path.display()))
}

/// The same of a file that is in memory.
///
/// # Errors
/// As for [`needs`].
pub fn needs_of(bytes: &[u8]) -> Result<Needs> {
    read(bytes)
}

/// A processor in Go's words.
pub(crate) fn machine(machine: elf::Machine) -> &'static str {
    match machine {
        elf::EM_X86_64 => "amd64",
        elf::EM_AARCH64 => "arm64",
        elf::EM_RISCV => "riscv64",
        elf::EM_PPC64 => "ppc64le",
        elf::EM_S390 => "s390x",
        _ => "unknown",
    }
}

type Header = elf::FileHeader64<Endianness>;

fn read<'data, R: ReadRef<'data>>(data: R) -> Result<Needs> {
    let class = data.read_bytes_at(0, 5).ok().and_then(|magic| magic.get(4).copied());
    ensure!(class == Some(elf::ELFCLASS64.0), "it is not a 64 bit ELF file");
    let header = Header::parse(data)?;
    let endian = header.endian()?;
    let kind = header.e_type(endian);
    let mut needs = Needs {
        machine: machine(header.e_machine(endian)).to_owned(),
        is_loadable: kind == elf::ET_EXEC || kind == elf::ET_DYN,
        ..Needs::default()
    };
    let mut segments = Segments { data, endian, loads: Vec::new() };
    let mut dynamic = None;
    for segment in header.program_headers(endian, data)? {
        let (offset, size) = segment.file_range(endian);
        match segment.p_type(endian) {
            elf::PT_LOAD => segments.loads.push((segment.p_vaddr(endian), offset, size)),
            elf::PT_DYNAMIC => dynamic = Some((offset, size)),
            elf::PT_INTERP => {
                let bytes = data.read_bytes_at(offset, size.min(LONGEST_NAME)).ok();
                let bytes = bytes.context("its interpreter lies outside the file")?;
                needs.interpreter = Some(text(bytes.split(|byte| *byte == 0).next().unwrap_or_default())?);
            }
            _ => {}
        }
    }
    if let Some((offset, size)) = dynamic {
        Table::read(&segments, offset, size)?.fill(&segments, &mut needs)?;
    }
    Ok(needs)
}

/// Where addresses lie in the file.
struct Segments<R> {
    data: R,
    endian: Endianness,
    /// Address, offset and size in the file.
    loads: Vec<(u64, u64, u64)>,
}

impl<'data, R: ReadRef<'data>> Segments<R> {
    fn offset(&self, address: u64) -> Result<u64> {
        let inside = |(start, offset, size): &(u64, u64, u64)| {
            let distance = address.checked_sub(*start).filter(|distance| distance < size)?;
            offset.checked_add(distance)
        };
        self.loads.iter().find_map(inside).context("an address lies outside the file")
    }

    fn at<T: object::Pod>(&self, offset: u64) -> Result<&'data T> {
        self.data.read_at(offset).ok().context("it ends too early")
    }

    /// The same of what a loader sees, which is no more than what is mapped.
    fn mapped<T: object::Pod>(&self, offset: u64) -> Result<&'data T> {
        let end = offset.checked_add(size_of::<T>() as u64);
        ensure!(end.is_some_and(|end| self.end(offset).is_ok_and(|last| end <= last)), "it ends too early");
        self.at(offset)
    }

    /// Where the segment ends that has this offset.
    fn end(&self, offset: u64) -> Result<u64> {
        let end = |(_, start, size): &(u64, u64, u64)| {
            start.checked_add(*size).filter(|end| (*start..*end).contains(&offset))
        };
        self.loads.iter().filter_map(end).max().context("a name lies outside what is mapped")
    }
}

/// The entries of the dynamic segment that matter here.
#[derive(Default)]
struct Table {
    needed: Vec<u64>,
    name: Option<u64>,
    rpath: Option<u64>,
    runpath: Option<u64>,
    strings: Option<u64>,
    needs: Option<u64>,
    defines: Option<u64>,
}

impl Table {
    fn read<'data, R: ReadRef<'data>>(segments: &Segments<R>, offset: u64, size: u64) -> Result<Table> {
        let mut table = Table::default();
        let entry = size_of::<elf::Dyn64<Endianness>>() as u64;
        for index in 0..(size / entry).min(MOST_ENTRIES as u64) {
            let at = offset.checked_add(index * entry).context("it ends too early")?;
            let found: &elf::Dyn64<Endianness> = segments.at(at)?;
            let value = found.d_val.get(segments.endian);
            match found.d_tag.get(segments.endian) {
                elf::DT_NULL => break,
                elf::DT_NEEDED => table.needed.push(value),
                elf::DT_SONAME => table.name = Some(value),
                elf::DT_RPATH => table.rpath = Some(value),
                elf::DT_RUNPATH => table.runpath = Some(value),
                elf::DT_STRTAB => table.strings = Some(value),
                elf::DT_VERNEED => table.needs = Some(value),
                elf::DT_VERDEF => table.defines = Some(value),
                _ => {}
            }
        }
        Ok(table)
    }

    fn fill<'data, R: ReadRef<'data>>(&self, segments: &Segments<R>, needs: &mut Needs) -> Result<()> {
        let Some(strings) = self.strings else { return Ok(()) };
        let strings = segments.offset(strings)?;
        let string = |at: u64| {
            let offset = strings.checked_add(at).context("a name lies outside the file")?;
            let end = offset.saturating_add(LONGEST_NAME).min(segments.end(offset)?);
            let bytes = segments.data.read_bytes_at_until(offset..end, 0).ok();
            text(bytes.context("a name lies outside the file or is too long")?)
        };
        needs.libraries = self.needed.iter().map(|at| string(*at)).collect::<Result<_>>()?;
        needs.name = self.name.map(string).transpose()?;
        let folders = |at: u64| {
            let path = string(at)?;
            Ok::<_, anyhow::Error>(path.split(':').filter(|f| !f.is_empty()).map(str::to_owned).collect())
        };
        // A loader ignores the older entry where both are.
        needs.run_path = match (self.rpath, self.runpath) {
            (_, Some(at)) => Some(SearchPath::Own(folders(at)?)),
            (Some(at), None) => Some(SearchPath::Inherited(folders(at)?)),
            (None, None) => None,
        };
        if let Some(address) = self.needs {
            needs.versions = required(segments, segments.offset(address)?, &string)?;
        }
        if let Some(address) = self.defines {
            needs.provides = provided(segments, segments.offset(address)?, &string)?;
        }
        Ok(())
    }
}

fn required<'data, R: ReadRef<'data>>(
    segments: &Segments<R>,
    start: u64,
    string: &impl Fn(u64) -> Result<String>,
) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let endian = segments.endian;
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let (mut at, mut budget) = (start, MOST_ENTRIES);
    loop {
        let need: &elf::Verneed<Endianness> = segments.mapped(at)?;
        let library = string(need.vn_file.get(endian).into())?;
        let mut aux_at = at.saturating_add(need.vn_aux.get(endian).into());
        for _ in 0..need.vn_cnt.get(endian) {
            budget = budget.checked_sub(1).context("it has too many symbol versions")?;
            let aux: &elf::Vernaux<Endianness> = segments.mapped(aux_at)?;
            if aux.vna_flags.get(endian).0 & elf::VER_FLG_WEAK.0 == 0 {
                versions.entry(library.clone()).or_default().insert(string(aux.vna_name.get(endian).into())?);
            }
            aux_at = aux_at.saturating_add(aux.vna_next.get(endian).into());
        }
        budget = budget.checked_sub(1).context("it has too many symbol versions")?;
        match need.vn_next.get(endian) {
            0 => return Ok(versions),
            next => at = at.saturating_add(next.into()),
        }
    }
}

fn provided<'data, R: ReadRef<'data>>(
    segments: &Segments<R>,
    start: u64,
    string: &impl Fn(u64) -> Result<String>,
) -> Result<BTreeSet<String>> {
    let endian = segments.endian;
    let mut versions = BTreeSet::new();
    let mut at = start;
    for _ in 0..MOST_ENTRIES {
        let define: &elf::Verdef<Endianness> = segments.mapped(at)?;
        // The first name is the version itself, the others are those it builds upon.
        if define.vd_cnt.get(endian) > 0 {
            let aux: &elf::Verdaux<Endianness> =
                segments.mapped(at.saturating_add(define.vd_aux.get(endian).into()))?;
            versions.insert(string(aux.vda_name.get(endian).into())?);
        }
        match define.vd_next.get(endian) {
            0 => return Ok(versions),
            next => at = at.saturating_add(next.into()),
        }
    }
    bail!("it has too many symbol versions")
}

fn text(bytes: &[u8]) -> Result<String> {
    Ok(std::str::from_utf8(bytes).context("a name is not UTF-8")?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_bytes() -> Vec<u8> {
        std::fs::read("/proc/self/exe").unwrap()
    }

    #[test]
    fn this_very_test_needs_the_c_library_and_its_versions() {
        let needs = needs(&std::env::current_exe().unwrap()).unwrap();
        assert!(needs.is_loadable && needs.machine != "unknown");
        assert!(needs.interpreter.as_ref().unwrap().contains("ld-linux"), "{needs:?}");
        assert!(needs.libraries.contains(&"libc.so.6".to_owned()), "{needs:?}");
        assert!(needs.versions["libc.so.6"].iter().any(|v| v.starts_with("GLIBC_2.")), "{needs:?}");
        assert_eq!(needs, needs_of(&own_bytes()).unwrap());
    }

    #[test]
    fn a_library_provides_versions() {
        let path = Path::new("/proc/self/maps");
        let maps = std::fs::read_to_string(path).unwrap();
        let libc = maps.split_whitespace().find(|word| word.ends_with("/libc.so.6")).unwrap();
        let needs = needs(Path::new(libc)).unwrap();
        assert_eq!(needs.name.as_deref(), Some("libc.so.6"));
        assert!(needs.provides.contains("GLIBC_2.2.5") || needs.provides.contains("GLIBC_2.17"), "{needs:?}");
    }

    #[test]
    fn no_bytes_make_it_panic_or_run_on() {
        let original = own_bytes();
        // Headers and tables of names lie at the beginning.
        let head = &original[..original.len().min(1 << 16)];
        let mut state = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        for round in 0..4000 {
            let mut bytes = head.to_vec();
            let within = [64, 1024, bytes.len()][round % 3].min(bytes.len());
            for _ in 0..=random(8) {
                let at = random(within);
                bytes[at] = [0, 0xff, 0x7f, random(256) as u8][random(4)];
            }
            bytes.truncate(if round % 5 == 0 { random(bytes.len()) } else { bytes.len() });
            needs_of(&bytes).ok();
        }
    }
}
