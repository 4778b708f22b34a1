//! How many bytes of a service's binary each package is to blame for. A generic function counts for the crate that needed it with
//! its types, because that crate's absence would save the bytes. Invariant: the parts add up to the size of the file, and what
//! is not known to be anybody's is said to be nobody's.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::ops::Range;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::owners::{Owned, Owner, Owners};
use crate::references::Machine;
use crate::report::{Class, Service};
use crate::unwind;

/// Functions begin at multiples of at most this; what fills up to there counts for the function before.
const MOST_PADDING: u64 = 64;
/// The references of larger code are not looked for.
const MOST_CODE_BYTES: u64 = 1 << 30;
/// So many times, constants that constants refer to are looked for.
const MOST_LINKS: usize = 8;
/// Unwinding tables beyond this are nobody's.
const MOST_TABLE_BYTES: u64 = 512 << 20;

/// Where a build left what is weighed.
#[derive(Debug, Clone)]
pub struct Places {
    /// Folder of the workspace.
    pub root: PathBuf,
    /// The binary as Cargo linked it, symbols included.
    pub linked: PathBuf,
    /// The binary as it is in the image.
    pub finished: PathBuf,
    /// The folder of the standard library's compiled crates.
    pub std_libraries: PathBuf,
}

/// Bytes of one owner.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Bytes {
    /// Code.
    pub text: u64,
    /// Constants and variables that have names.
    pub data: u64,
    /// Tables for unwinding, which each function has.
    pub unwind: u64,
    /// Code that is written there, whichever crate needed it; in no sum.
    pub defined: u64,
}

/// The size of a binary, by owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Weight {
    /// The size of the binary in the image.
    pub file: u64,
    /// By Cargo's id of the package.
    pub packages: BTreeMap<String, Bytes>,
    /// The standard library, and what is compiled into it.
    pub std: Bytes,
    /// The system's C libraries and the C toolchain's start code.
    pub native: Bytes,
    /// What nothing tells the owner of: mostly constants without names.
    pub unattributed: Bytes,
    /// What the file format needs: headers, relocations, dynamic symbols, the list of packages.
    pub overhead: u64,
}

impl Bytes {
    /// What counts for the owner.
    pub fn total(self) -> u64 {
        self.text + self.data + self.unwind
    }
}

impl Weight {
    /// The sum of all parts, which is [`Weight::file`].
    pub fn total(&self) -> u64 {
        let packages: u64 = self.packages.values().map(|bytes| bytes.total()).sum();
        packages + self.std.total() + self.native.total() + self.unattributed.total() + self.overhead
    }

    /// What is no package, by name.
    pub fn others(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("(standard library)", self.std.total()),
            ("(C libraries)", self.native.total()),
            ("(nobody's)", self.unattributed.total()),
            ("(file format)", self.overhead),
        ]
        .into_iter()
    }
}

impl Places {
    /// The folder of the profile.
    pub(crate) fn linked_folder(&self) -> &Path {
        self.linked.parent().unwrap_or(Path::new("."))
    }
}

/// Weighs the service's binary; `None` where it was not built.
///
/// # Errors
/// When a file cannot be read, or the two binaries are not of one build.
pub fn weigh(service: &Service, places: &Places) -> Result<Option<Weight>> {
    if !places.linked.is_file() || !places.finished.is_file() {
        return Ok(None);
    }
    let sections = elf::sections(&places.finished)?;
    ensure!(
        sections == elf::sections(&places.linked)?,
        "{} is not made from {}; next: cargo xtask build",
        places.finished.display(),
        places.linked.display()
    );
    let mut map = Map::new(&elf::symbols(&places.linked)?, &Owners::new(service, places)?);
    map.follow_references(&places.finished, &sections)?;
    let mut sums = Sums::default();
    let mut rest = places.finished.metadata()?.len();
    for section in &sections {
        rest = rest.checked_sub(section.size).context("its sections are larger than the file")?;
        match Kind::of(section) {
            Kind::Overhead => rest += section.size,
            Kind::Code => sums.add_named(section, &map, |bytes| &mut bytes.text),
            Kind::Data => sums.add_named(section, &map, |bytes| &mut bytes.data),
            Kind::Unwind => {}
        }
    }
    sums.add_unwind(&places.finished, &sections, &map)?;
    Ok(Some(sums.weight(service, places.finished.metadata()?.len(), rest)))
}

/// What a section is for.
enum Kind {
    Code,
    Data,
    Unwind,
    Overhead,
}

impl Kind {
    fn of(section: &elf::Section) -> Kind {
        const OVERHEAD: [&str; 14] = [
            ".interp",
            ".note",
            ".gnu.",
            ".hash",
            ".dyn",
            ".rel",
            ".got",
            ".plt",
            ".iplt",
            ".eh_frame_hdr",
            ".init_array",
            ".fini_array",
            ".preinit_array",
            ".dep-v0",
        ];
        match section.name.as_str() {
            ".eh_frame" | ".gcc_except_table" => Kind::Unwind,
            name if OVERHEAD.iter().any(|prefix| name.starts_with(prefix)) => Kind::Overhead,
            _ if section.is_code => Kind::Code,
            _ => Kind::Data,
        }
    }
}

/// Whose memory is.
struct Map {
    /// Ranges that have a name: sorted, and none overlaps another.
    ranges: Vec<(u64, u64, Owned)>,
    /// Where constants without a name begin, as far as anything refers to them, and who does so first.
    marks: BTreeMap<u64, Owner>,
}

impl Map {
    fn new(symbols: &[elf::Symbol], owners: &Owners) -> Map {
        // The compiler numbers constants that have no name when it has to share them; that number is nobody's either.
        let is_named = |symbol: &&elf::Symbol| {
            !["anon.", ".Lanon.", "switch.table.", "__unnamed_"]
                .iter()
                .any(|prefix| symbol.name.starts_with(prefix))
        };
        let mut sorted: Vec<&elf::Symbol> = symbols.iter().filter(is_named).collect();
        // Of several names for one place the longest one counts, and the first by name.
        sorted.sort_by(|a, b| (a.address, b.size, &a.name).cmp(&(b.address, a.size, &b.name)));
        let mut ranges: Vec<(u64, u64, Owned)> = Vec::new();
        let mut covered = 0;
        for symbol in sorted {
            let start = symbol.address.max(covered);
            let Some(end) = symbol.address.checked_add(symbol.size).filter(|end| *end > start) else {
                continue;
            };
            ranges.push((start, end, owners.of(symbol)));
            covered = end;
        }
        Map { ranges, marks: BTreeMap::new() }
    }

    /// Finds out whose the constants without a name are: of the function that refers to them, or of the constant that does.
    fn follow_references(&mut self, path: &Path, sections: &[elf::Section]) -> Result<()> {
        let mut header = [0; 64];
        File::open(path)?.read_exact(&mut header)?;
        let Some(machine) = Machine::of(&header) else { return Ok(()) };
        let data: Vec<_> = sections.iter().filter(|one| matches!(Kind::of(one), Kind::Data)).collect();
        let is_data =
            |address: u64| data.iter().any(|one| one.address <= address && address - one.address < one.size);
        let mut marks = BTreeMap::new();
        for section in sections.iter().filter(|one| one.is_code && one.size <= MOST_CODE_BYTES) {
            let code = content(path, section)?;
            let first = self.ranges.partition_point(|(start, ..)| *start < section.address);
            for (start, end, owned) in &self.ranges[first..] {
                let range = |address: &u64| usize::try_from(address - section.address).ok();
                let Some(body) = range(start).zip(range(end)).and_then(|(from, to)| code.get(from..to))
                else {
                    break;
                };
                machine.references(body, *start, |target| {
                    if is_data(target) && self.named(target).is_none() {
                        marks.entry(target).or_insert(owned.by);
                    }
                });
            }
        }
        self.marks = marks;
        self.follow_relocations(path, sections, machine, is_data)
    }

    /// Constants refer to constants; chains longer than this are not followed to their ends.
    fn follow_relocations(
        &mut self,
        path: &Path,
        sections: &[elf::Section],
        machine: Machine,
        is_data: impl Fn(u64) -> bool,
    ) -> Result<()> {
        let Some(section) =
            sections.iter().find(|one| one.name == ".rela.dyn" && one.size <= MOST_TABLE_BYTES)
        else {
            return Ok(());
        };
        let table = content(path, section)?;
        let number = |bytes: &[u8]| bytes.iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let entries =
            table.chunks_exact(24).filter(|entry| number(&entry[8..16]) == machine.relative_relocation());
        let pairs: Vec<(u64, u64)> =
            entries.map(|entry| (number(&entry[..8]), number(&entry[16..24]))).collect();
        let pairs: Vec<(u64, u64)> = pairs
            .into_iter()
            .filter(|(_, target)| is_data(*target) && self.named(*target).is_none())
            .collect();
        // Each begins something of its own, so that nothing is taken for a part of what lies before it.
        for (_, target) in &pairs {
            self.marks.entry(*target).or_insert(Owner::Unknown);
        }
        for _ in 0..MOST_LINKS {
            let mut found = 0;
            for (from, target) in &pairs {
                let owner = self.owner(*from);
                if owner != Owner::Unknown && self.marks.get(target) == Some(&Owner::Unknown) {
                    self.marks.insert(*target, owner);
                    found += 1;
                }
            }
            if found == 0 {
                break;
            }
        }
        Ok(())
    }

    fn named(&self, address: u64) -> Option<&(u64, u64, Owned)> {
        let after = self.ranges.partition_point(|(start, ..)| *start <= address);
        self.ranges[..after].last().filter(|(_, end, _)| address < *end)
    }

    fn owner(&self, address: u64) -> Owner {
        if let Some((.., owned)) = self.named(address) {
            return owned.by;
        }
        let after = self.ranges.partition_point(|(start, ..)| *start <= address);
        let free_from = self.ranges[..after].last().map_or(0, |(_, end, _)| *end);
        let mark = self.marks.range(free_from..=address).next_back();
        mark.map_or(Owner::Unknown, |(_, owner)| *owner)
    }
}

#[derive(Default)]
struct Sums {
    owners: BTreeMap<Owner, Bytes>,
}

impl Sums {
    fn at(&mut self, owner: Owner) -> &mut Bytes {
        self.owners.entry(owner).or_default()
    }

    fn add_named(&mut self, section: &elf::Section, map: &Map, field: fn(&mut Bytes) -> &mut u64) {
        let (start, end) = (section.address, section.address.saturating_add(section.size));
        let first = map.ranges.partition_point(|(_, end, _)| *end <= start);
        let mut at = start;
        let mut last = Owner::Unknown;
        for (from, to, owned) in map.ranges[first..].iter().take_while(|(from, ..)| *from < end) {
            let (from, to) = ((*from).max(start), (*to).min(end));
            let gap = from.saturating_sub(at);
            let filler = if gap < MOST_PADDING { last } else { Owner::Unknown };
            self.add_unnamed(at..at + gap, filler, map, field);
            *field(self.at(owned.by)) += to - from;
            if section.is_code {
                self.at(owned.defined).defined += to - from;
            }
            (at, last) = (to, owned.by);
        }
        self.add_unnamed(at..end, Owner::Unknown, map, field);
    }

    /// Bytes between names: up to the first mark `filler`'s, then each mark's up to the next.
    fn add_unnamed(
        &mut self,
        range: Range<u64>,
        filler: Owner,
        map: &Map,
        field: fn(&mut Bytes) -> &mut u64,
    ) {
        let (mut at, mut owner) = (range.start, filler);
        for (mark, next) in map.marks.range(range.clone()) {
            *field(self.at(owner)) += mark - at;
            (at, owner) = (*mark, *next);
        }
        *field(self.at(owner)) += range.end - at;
    }

    /// Entries count for their functions; the tables that they point to reach to the next one.
    fn add_unwind(&mut self, path: &Path, sections: &[elf::Section], map: &Map) -> Result<()> {
        let named = |name: &str| sections.iter().find(|section| section.name == name);
        let mut tables = BTreeMap::new();
        if let Some(frame) = named(".eh_frame").filter(|frame| frame.size <= MOST_TABLE_BYTES) {
            let mut left = frame.size;
            for entry in unwind::entries(&content(path, frame)?, frame.address) {
                let owner = map.owner(entry.function);
                let Some(rest) = left.checked_sub(entry.bytes) else { break };
                left = rest;
                self.at(owner).unwind += entry.bytes;
                tables.extend(entry.table.map(|table| (table, owner)));
            }
            self.at(Owner::Unknown).unwind += left;
        } else if let Some(frame) = named(".eh_frame") {
            self.at(Owner::Unknown).unwind += frame.size;
        }
        let Some(section) = named(".gcc_except_table") else { return Ok(()) };
        let (mut at, mut owner) = (section.address, Owner::Unknown);
        let end = section.address.saturating_add(section.size);
        for (table, next) in tables.range(section.address..end) {
            self.at(owner).unwind += table - at;
            (at, owner) = (*table, *next);
        }
        self.at(owner).unwind += end - at;
        Ok(())
    }

    fn weight(mut self, service: &Service, file: u64, overhead: u64) -> Weight {
        let linked = service.used.iter().filter(|(_, used)| used.class == Class::Linked);
        let packages = linked.enumerate().map(|(place, (id, _))| {
            (id.clone(), self.owners.get(&Owner::Package(place)).copied().unwrap_or_default())
        });
        let packages = packages.collect();
        let mut take = |owner| self.owners.remove(&owner).unwrap_or_default();
        let (std, native) = (take(Owner::Std), take(Owner::Native));
        Weight { file, packages, std, native, unattributed: take(Owner::Unknown), overhead }
    }
}

fn content(path: &Path, section: &elf::Section) -> Result<Vec<u8>> {
    let mut file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
    file.seek(SeekFrom::Start(section.offset))?;
    let mut bytes = vec![0; usize::try_from(section.size)?];
    file.read_exact(&mut bytes)
        .with_context(|| format!("cannot read {} of {}", section.name, path.display()))?;
    Ok(bytes)
}
