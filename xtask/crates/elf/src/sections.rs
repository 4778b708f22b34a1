//! Where two ELF files differ, by section: for whoever has to find out why a build did not give the same bits twice. It looks
//! at files as bytes and judges nothing.

use anyhow::{Context, Result, ensure};
use object::read::archive::ArchiveFile;
use object::read::elf::ElfFile64;
use object::{Endianness, Object, ObjectSection};

/// An archive with more members than this is no library that a compiler wrote.
const MOST_MEMBERS: usize = 100_000;

/// A section whose bytes are not the same in two files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SectionDifference {
    /// Its name, such as `.rodata`; `header` for what belongs to no section.
    pub section: String,
    /// Offset of the first differing byte inside the section.
    pub offset: usize,
    /// What stands there in the first file, from [`SectionDifference::BEFORE`] bytes before that place on.
    pub first: Excerpt,
    /// The same of the second file.
    pub second: Excerpt,
}

/// Bytes around the place where two sections begin to differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Excerpt {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Which of them differ.
    pub core: std::ops::Range<usize>,
}

impl SectionDifference {
    /// How many bytes of context stand in front of the difference, where there are so many.
    pub const BEFORE: usize = 48;
    /// How many bytes follow the place where it begins.
    const AFTER: usize = 96;
    /// So many equal bytes end a difference.
    const RESYNC: usize = 8;
}

/// The sections of two ELF files that differ, in the order of the first file. Sections that only one of them has count with all
/// their bytes.
///
/// # Errors
/// When one of them is not a 64 bit ELF file.
pub fn section_differences(first: &[u8], second: &[u8]) -> Result<Vec<SectionDifference>> {
    let (a, b) = (sections(first)?, sections(second)?);
    let mut differences = Vec::new();
    for (name, bytes) in &a {
        let other = b.iter().find(|(other, _)| other == name).map_or(&[][..], |(_, bytes)| bytes);
        differences.extend(difference(name, bytes, other));
    }
    for (name, bytes) in b.iter().filter(|(name, _)| !a.iter().any(|(other, _)| other == name)) {
        differences.extend(difference(name, &[], bytes));
    }
    if differences.is_empty() {
        differences.extend(difference("header", first, second));
    }
    Ok(differences)
}

/// The members of a static library (`.rlib`, `.a`) by name, in its order.
///
/// # Errors
/// When the file is no archive.
pub fn archive_members(archive: &[u8]) -> Result<Vec<(String, &[u8])>> {
    let file = ArchiveFile::parse(archive).context("not a static library")?;
    let mut members = Vec::new();
    for member in file.members() {
        let member = member?;
        ensure!(members.len() < MOST_MEMBERS, "more than {MOST_MEMBERS} members");
        members.push((String::from_utf8_lossy(member.name()).into_owned(), member.data(archive)?));
    }
    Ok(members)
}

/// Names that stand twice (`.text` of an object has one section for each function) are told apart by a number.
fn sections(file: &[u8]) -> Result<Vec<(String, &[u8])>> {
    let elf = ElfFile64::<Endianness>::parse(file).context("not a 64 bit ELF file")?;
    let mut sections: Vec<(String, &[u8])> = Vec::new();
    let mut seen = std::collections::BTreeMap::<String, usize>::new();
    for section in elf.sections() {
        let name = String::from_utf8_lossy(section.name_bytes().unwrap_or_default()).into_owned();
        let count = seen.entry(name.clone()).and_modify(|count| *count += 1).or_default();
        let name = if *count == 0 { name } else { format!("{name}#{count}") };
        sections.push((name, section.data().unwrap_or_default()));
    }
    Ok(sections)
}

/// Where two runs of bytes begin to differ; `None` where they do not.
pub fn difference(name: &str, first: &[u8], second: &[u8]) -> Option<SectionDifference> {
    if first == second {
        return None;
    }
    let common = first.iter().zip(second).take_while(|(a, b)| a == b).count();
    let mut end = common;
    let mut equal = 0;
    while equal < SectionDifference::RESYNC && end < common + SectionDifference::AFTER {
        match (first.get(end), second.get(end)) {
            (Some(a), Some(b)) if a == b => equal += 1,
            (None, _) | (_, None) => break,
            _ => equal = 0,
        }
        end += 1;
    }
    let excerpt = |bytes: &[u8]| {
        let from = common.saturating_sub(SectionDifference::BEFORE);
        let to = bytes.len().min(common + SectionDifference::AFTER);
        let core_end = (end - equal).clamp(common, to.max(common));
        Excerpt {
            bytes: bytes.get(from..to).unwrap_or_default().to_vec(),
            core: common - from..core_end - from,
        }
    };
    Some(SectionDifference {
        section: name.to_owned(),
        offset: common,
        first: excerpt(first),
        second: excerpt(second),
    })
}

impl Excerpt {
    /// The differing bytes with up to `context` bytes on each side.
    pub fn window(&self, context: usize) -> &[u8] {
        let from = self.core.start.saturating_sub(context).min(self.bytes.len());
        let to = self.core.end.saturating_add(context).min(self.bytes.len());
        &self.bytes[from..to.max(from)]
    }

    /// The text around the difference, as far as it can be read; other bytes in hexadecimal.
    pub fn text(&self) -> String {
        let is_text = |byte: &u8| (b' '..=b'~').contains(byte);
        let (start, end) = (self.core.start.min(self.bytes.len()), self.core.end.min(self.bytes.len()));
        let readable = self.bytes[start..end].iter().all(is_text);
        if !readable || start >= end {
            let hex: Vec<String> = self.window(8).iter().take(24).map(|byte| format!("{byte:02x}")).collect();
            return hex.join(" ");
        }
        let from = self.bytes[..start].iter().rposition(|byte| !is_text(byte)).map_or(0, |at| at + 1);
        let to =
            self.bytes[end..].iter().position(|byte| !is_text(byte)).map_or(self.bytes.len(), |at| end + at);
        String::from_utf8_lossy(&self.bytes[from..to]).into_owned()
    }

    /// Whether the differing bytes are text.
    pub fn is_readable(&self) -> bool {
        let core = self.window(0);
        !core.is_empty() && core.iter().all(|byte| (b' '..=b'~').contains(byte))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_shown_with_its_surroundings() {
        let (a, b) = (b"\0built at 1700000000 by cargo\0rest", b"\0built at 1700000999 by cargo\0rest");
        let found = difference(".rodata", a, b).unwrap();
        assert_eq!(
            (found.offset, found.first.window(0), found.second.window(0)),
            (17, &b"000"[..], &b"999"[..])
        );
        assert_eq!(found.first.text(), "built at 1700000000 by cargo");
        assert_eq!(difference(".rodata", a, a), None);
        let longer = difference("x", b"ab", b"abc").unwrap();
        assert_eq!((longer.offset, longer.first.window(0), longer.second.window(0)), (2, &b""[..], &b""[..]));
        assert!(!longer.first.is_readable());
    }

    #[test]
    fn sections_of_two_programs_are_compared_by_name() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        assert_eq!(section_differences(&program, &program).unwrap(), []);
        let mut other = program.clone();
        let at =
            program.windows(9).position(|window| window == b"is_reada\0" || window == b"built at ").unwrap();
        other[at] ^= 1;
        let found = section_differences(&program, &other).unwrap();
        assert_eq!(found.len(), 1);
        assert!(found[0].section.starts_with(".rodata"), "{}", found[0].section);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let head = &program[..program.len().min(1 << 16)];
        let mut state = 7_u64;
        for _ in 0..500 {
            let mut mutated = head.to_vec();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = (state >> 33) as usize % 512;
                mutated[at] = (state >> 20) as u8;
            }
            section_differences(&mutated, head).ok();
            mutated[..8].copy_from_slice(b"!<arch>\n");
            archive_members(&mutated).ok();
        }
    }
}
