//! The form in which a binary goes into an image: what the loader maps, byte for byte where it was, without symbol tables,
//! debug information and the linker's comments, and with sections of ours that are not mapped. It does not know what these say.
//! Invariant: offsets and section numbers of what stays do not change, so nothing inside the file needs to be rewritten.
//!
//! Source: System V ABI, "Object Files" (ELF-64).

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// Linkers make some fifty; only object files of C++ templates have thousands.
const MOST_SECTIONS: u16 = 4096;
/// Names of sections are short.
const MOST_NAME_BYTES: u64 = 1 << 20;
const MOST_NAME_LENGTH: usize = 1 << 10;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SECTION_HEADER: usize = 64;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const SHT_NULL: u32 = 0;
const SHT_PROGBITS: u32 = 1;
const SHT_STRTAB: u32 = 3;
const SHT_NOBITS: u32 = 8;
const SHF_ALLOC: u64 = 2;

/// Copies the binary at `from` to `to` without what the loader does not need, and adds `sections` (name and content), which are
/// not mapped when the program runs. Memory does not grow with the file.
///
/// # Errors
/// When the file is no 64 bit ELF program, contradicts itself, or has a mapped section of one of these names.
pub fn finish(from: &Path, to: &mut dyn Write, sections: &[(&str, &[u8])]) -> Result<()> {
    let file = File::open(from).with_context(|| format!("cannot open {}", from.display()))?;
    let mut source = Source { length: file.metadata()?.len(), file, is_big: false };
    copy(&mut source, to, sections).with_context(|| format!("cannot finish {}", from.display()))
}

/// A file of known length, and its byte order.
struct Source {
    file: File,
    length: u64,
    is_big: bool,
}

/// A section header, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Section {
    name: Vec<u8>,
    raw: [u8; SECTION_HEADER],
}

fn copy(source: &mut Source, to: &mut dyn Write, added: &[(&str, &[u8])]) -> Result<()> {
    let mut header = source.header()?;
    let sections = source.kept_sections(&header)?;
    check_names(&sections, added)?;
    let body = source.body(&header, &sections)?;
    let tail = Tail::new(body, &sections, added, source.is_big)?;
    source.put(&mut header, 40, 8, tail.table_at);
    source.put(&mut header, 58, 2, SECTION_HEADER as u64);
    source.put(&mut header, 60, 2, tail.count);
    source.put(&mut header, 62, 2, tail.count - 1);
    to.write_all(&header)?;
    source.file.seek(SeekFrom::Start(HEADER as u64))?;
    let rest = body - HEADER as u64;
    let copied = std::io::copy(&mut (&source.file).take(rest), to)?;
    ensure!(copied == rest, "it became shorter while it was read");
    to.write_all(&tail.bytes)?;
    Ok(())
}

fn check_names(sections: &[Section], added: &[(&str, &[u8])]) -> Result<()> {
    for (index, (name, _)) in added.iter().enumerate() {
        ensure!(
            name.starts_with('.') && !name.contains('\0') && *name != ".shstrtab",
            "`{name}` is no name of a section"
        );
        ensure!(
            !added[..index].iter().any(|(other, _)| other == name),
            "the section `{name}` is given twice"
        );
        let is_there = sections.iter().any(|section| section.name == name.as_bytes());
        ensure!(!is_there, "it has a section `{name}` already; build it without the tool that wrote it");
    }
    Ok(())
}

impl Source {
    fn bytes(&mut self, at: u64, into: &mut [u8]) -> Result<()> {
        let end = at.checked_add(into.len() as u64);
        ensure!(end.is_some_and(|end| end <= self.length), "it ends before what it points to");
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_exact(into)?;
        Ok(())
    }

    fn number(&self, bytes: &[u8], at: usize, width: usize) -> u64 {
        let digits = &bytes[at..at + width];
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if self.is_big { digits.iter().fold(0, add) } else { digits.iter().rev().fold(0, add) }
    }

    fn put(&self, bytes: &mut [u8], at: usize, width: usize, value: u64) {
        put(bytes, at, width, value, self.is_big);
    }

    fn header(&mut self) -> Result<[u8; HEADER]> {
        let mut header = [0; HEADER];
        self.bytes(0, &mut header).context("it is no ELF file")?;
        ensure!(header.starts_with(b"\x7fELF\x02"), "it is no 64 bit ELF file");
        ensure!(header[6] == 1, "it has a version that nobody reads");
        self.is_big = match header[5] {
            1 => false,
            2 => true,
            _ => bail!("it has no byte order"),
        };
        let kind = self.number(&header, 16, 2) as u16;
        ensure!(kind == ET_EXEC || kind == ET_DYN, "it is no program");
        let programs = self.number(&header, 56, 2);
        let width = self.number(&header, 54, 2);
        ensure!(
            programs == 0 || width == PROGRAM_HEADER as u64,
            "its program headers have {width} bytes each"
        );
        ensure!(self.number(&header, 52, 2) == HEADER as u64, "its header has another length than it should");
        Ok(header)
    }

    /// All section headers up to the last one that is mapped; one in between that is not is emptied, so that numbers stay.
    fn kept_sections(&mut self, header: &[u8]) -> Result<Vec<Section>> {
        let (table, count) = (self.number(header, 40, 8), self.number(header, 60, 2) as u16);
        let (width, names) = (self.number(header, 58, 2), self.number(header, 62, 2));
        let empty = Section { name: vec![], raw: [0; SECTION_HEADER] };
        if table == 0 || count == 0 {
            return Ok(vec![empty]);
        }
        ensure!(width == SECTION_HEADER as u64, "its section headers have {width} bytes each");
        ensure!(count <= MOST_SECTIONS, "it has {count} sections");
        let mut raw = vec![[0; SECTION_HEADER]; usize::from(count)];
        for (index, one) in raw.iter_mut().enumerate() {
            let at =
                table.checked_add((index * SECTION_HEADER) as u64).context("its section table is nowhere")?;
            self.bytes(at, one)?;
        }
        let names = match raw.get(names as usize) {
            Some(section) => self.names(section)?,
            None => bail!("its table of section names is not there"),
        };
        let is_kept = |raw: &[u8; SECTION_HEADER]| {
            self.number(raw, 8, 8) & SHF_ALLOC != 0 && self.number(raw, 4, 4) as u32 != SHT_NULL
        };
        let last = raw.iter().rposition(is_kept).unwrap_or(0);
        let kept: Vec<bool> = raw.iter().map(is_kept).collect();
        let mut sections = Vec::new();
        for (index, mut raw) in raw.into_iter().enumerate().take(last + 1) {
            if !kept[index] {
                sections.push(empty.clone());
                continue;
            }
            let start = self.number(&raw, 0, 4) as usize;
            let name = names.get(start..).and_then(|rest| rest.split(|byte| *byte == 0).next());
            // Relocations of static programs can point to the symbol table, which goes.
            let link = self.number(&raw, 40, 4) as usize;
            if !kept.get(link).copied().unwrap_or(false) {
                self.put(&mut raw, 40, 4, 0);
            }
            let name =
                name.filter(|name| name.len() <= MOST_NAME_LENGTH).context("a section has no name")?.to_vec();
            sections.push(Section { name, raw });
        }
        Ok(sections)
    }

    fn names(&mut self, section: &[u8]) -> Result<Vec<u8>> {
        let (at, size) = (self.number(section, 24, 8), self.number(section, 32, 8));
        ensure!(size <= MOST_NAME_BYTES, "its section names have {size} bytes");
        let mut names = vec![0; size as usize];
        self.bytes(at, &mut names)?;
        Ok(names)
    }

    /// How much of the file is mapped, or needed to map it.
    fn body(&mut self, header: &[u8], sections: &[Section]) -> Result<u64> {
        let (table, count) = (self.number(header, 32, 8), self.number(header, 56, 2));
        let mut ends = vec![Some(HEADER as u64), table.checked_add(count * PROGRAM_HEADER as u64)];
        if count == 0 {
            ends.pop();
        }
        for index in 0..count {
            let mut raw = [0; PROGRAM_HEADER];
            let at = table
                .checked_add(index * PROGRAM_HEADER as u64)
                .context("its program headers are nowhere")?;
            self.bytes(at, &mut raw)?;
            ends.push(self.number(&raw, 8, 8).checked_add(self.number(&raw, 32, 8)));
        }
        for Section { raw, .. } in sections {
            let is_empty = [SHT_NULL, SHT_NOBITS].contains(&(self.number(raw, 4, 4) as u32));
            if !is_empty {
                ends.push(self.number(raw, 24, 8).checked_add(self.number(raw, 32, 8)));
            }
        }
        let end = ends.into_iter().collect::<Option<Vec<u64>>>().and_then(|ends| ends.into_iter().max());
        let end = end.context("a segment ends nowhere")?;
        ensure!(end <= self.length, "it ends before what it maps");
        Ok(end)
    }
}

/// What follows the mapped bytes: added sections, names, section headers.
struct Tail {
    bytes: Vec<u8>,
    table_at: u64,
    count: u64,
}

impl Tail {
    fn new(body: u64, kept: &[Section], added: &[(&str, &[u8])], is_big: bool) -> Result<Tail> {
        let mut bytes = Vec::new();
        let mut names = vec![0];
        let mut table = Vec::new();
        for section in kept {
            let mut raw = section.raw;
            let is_null = raw == [0; SECTION_HEADER];
            let name = if is_null { 0 } else { name_at(&mut names, &section.name) };
            put(&mut raw, 0, 4, name, is_big);
            table.push(raw);
        }
        for (name, content) in added {
            let place = bytes.len()..bytes.len() + content.len();
            table.push(raw_header(name_at(&mut names, name.as_bytes()), SHT_PROGBITS, body, &place, is_big));
            bytes.extend_from_slice(content);
        }
        let own_name = name_at(&mut names, b".shstrtab");
        let place = bytes.len()..bytes.len() + names.len();
        table.push(raw_header(own_name, SHT_STRTAB, body, &place, is_big));
        bytes.extend_from_slice(&names);
        let unaligned = (body + bytes.len() as u64) % 8;
        bytes.extend(std::iter::repeat_n(0, ((8 - unaligned) % 8) as usize));
        let table_at = body + bytes.len() as u64;
        let count = table.len();
        ensure!(count <= usize::from(MOST_SECTIONS), "it would have {count} sections");
        bytes.extend(table.into_iter().flatten());
        Ok(Tail { bytes, table_at, count: count as u64 })
    }
}

/// Where in the table of names this one is put.
fn name_at(names: &mut Vec<u8>, name: &[u8]) -> u64 {
    let at = names.len() as u64;
    names.extend_from_slice(name);
    names.push(0);
    at
}

/// The header of a section that is not mapped.
fn raw_header(name: u64, kind: u32, body: u64, place: &Range<usize>, is_big: bool) -> [u8; SECTION_HEADER] {
    let mut raw = [0; SECTION_HEADER];
    put(&mut raw, 0, 4, name, is_big);
    put(&mut raw, 4, 4, u64::from(kind), is_big);
    put(&mut raw, 24, 8, body + place.start as u64, is_big);
    put(&mut raw, 32, 8, place.len() as u64, is_big);
    put(&mut raw, 48, 8, 1, is_big);
    raw
}

fn put(bytes: &mut [u8], at: usize, width: usize, value: u64, is_big: bool) {
    for index in 0..width {
        let shift = 8 * if is_big { width - 1 - index } else { index };
        bytes[at + index] = (value >> shift) as u8;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    fn finished(from: &Path, sections: &[(&str, &[u8])]) -> Vec<u8> {
        let mut out = Vec::new();
        finish(from, &mut out, sections).unwrap();
        out
    }

    /// A small program, as a linker of this machine makes it.
    fn program(folder: &Path, compiler: &str, flags: &[&str]) -> Option<std::path::PathBuf> {
        let source = folder.join("a.c");
        std::fs::write(&source, "#include <stdio.h>\nint main(void) { puts(\"it runs\"); return 7; }\n")
            .unwrap();
        let path = folder.join(format!("{compiler}{}", flags.concat()));
        let status =
            Command::new(compiler).args(flags).arg("-g").arg("-o").arg(&path).arg(&source).status().ok()?;
        assert!(status.success());
        Some(path)
    }

    fn text(command: &str, args: &[&str], path: &Path) -> String {
        let out = Command::new(command).args(args).arg(path).output().unwrap();
        assert!(out.status.success() && out.stderr.is_empty(), "{}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    #[test]
    fn a_finished_program_runs_and_the_field_s_tools_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let mut checked = 0;
        for flags in [&["-pie"][..], &["-static-pie"], &["-static"], &["-no-pie"]] {
            let Some(path) = program(folder.path(), "cc", flags) else { continue };
            let out = folder.path().join("out");
            std::fs::write(&out, finished(&path, &[(".dep-v0", b"content")])).unwrap();
            Command::new("chmod").arg("+x").arg(&out).status().unwrap();
            let run = Command::new(&out).output().unwrap();
            assert_eq!((run.status.code(), run.stdout.as_slice()), (Some(7), &b"it runs\n"[..]), "{flags:?}");
            let all = text("readelf", &["-aW"], &out);
            assert!(
                all.contains(".dep-v0") && !all.contains(".comment") && !all.contains(".symtab"),
                "{all}"
            );
            assert!(text("readelf", &["-x", ".dep-v0"], &out).contains("636f6e74 656e74"));
            let stripped = folder.path().join("stripped");
            Command::new("strip").args(["-R", ".comment", "-o"]).arg(&stripped).arg(&path).status().unwrap();
            let (ours, theirs) = (out.metadata().unwrap().len(), stripped.metadata().unwrap().len());
            assert!(ours.abs_diff(theirs) < 400, "{flags:?}: {ours} beside {theirs}");
            checked += 1;
        }
        assert!(checked > 0, "no C compiler");
    }

    /// Found by fuzzing: what was written could not be read again.
    #[test]
    fn a_header_of_another_version_is_refused() {
        let mut bytes = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        bytes[6] = 0x69;
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &bytes).unwrap();
        let error = finish(file.path(), &mut Vec::new(), &[]).unwrap_err();
        assert!(format!("{error:#}").contains("version"), "{error:#}");
    }

    #[test]
    fn a_program_for_another_processor_is_finished_as_well() {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = program(folder.path(), "aarch64-linux-gnu-gcc", &["-static-pie"]) else { return };
        let out = folder.path().join("out");
        std::fs::write(&out, finished(&path, &[(".dep-v0", b"x")])).unwrap();
        let all = text("readelf", &["-aW"], &out);
        assert!(all.contains("AArch64") && all.contains(".dep-v0") && !all.contains(".symtab"));
    }

    #[test]
    fn finishing_is_deterministic_and_finishing_twice_changes_nothing() {
        let this = std::env::current_exe().unwrap();
        let once = finished(&this, &[]);
        assert!(once == finished(&this, &[]));
        assert!(once.len() as u64 * 2 < this.metadata().unwrap().len(), "debug information is gone");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &once).unwrap();
        assert!(finished(file.path(), &[]) == once);
    }

    #[test]
    fn names_are_checked() {
        let this = std::env::current_exe().unwrap();
        let refuse = |sections: &[(&str, &[u8])]| {
            format!("{:#}", finish(&this, &mut Vec::new(), sections).unwrap_err())
        };
        assert!(refuse(&[("x", b"")]).contains("no name of a section"));
        assert!(refuse(&[(".x", b""), (".x", b"")]).contains("twice"));
        assert!(refuse(&[(".text", b"")]).contains("already"));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let folder = tempfile::tempdir().unwrap();
        let Some(path) = program(folder.path(), "cc", &["-pie"]) else { return };
        let good = std::fs::read(&path).unwrap();
        let headers = good.len() - SECTION_HEADER * 40;
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as usize
        };
        let damaged = folder.path().join("damaged");
        for round in 0..4000 {
            let mut bytes = good.clone();
            for _ in 0..1 + next() % 4 {
                let at =
                    if next() % 2 == 0 { next() % 0x400 } else { headers + next() % (good.len() - headers) };
                bytes[at] = [0, 1, 0x7f, 0x80, 0xff, next() as u8][next() % 6];
            }
            if round % 8 == 0 {
                bytes.truncate(next() % good.len());
            }
            std::fs::write(&damaged, &bytes).unwrap();
            let mut out = Vec::new();
            if finish(&damaged, &mut out, &[(".dep-v0", b"x")]).is_ok() {
                assert!(
                    out.len()
                        <= good.len()
                            + (MOST_SECTIONS as usize + 2) * SECTION_HEADER
                            + MOST_NAME_BYTES as usize
                );
            }
        }
    }
}
