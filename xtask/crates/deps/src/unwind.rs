//! Which function each entry of the unwinding tables is for.
//!
//! Source: Linux Standard Base, "Exception Frames"; DWARF pointer encodings.

use std::collections::BTreeMap;
use std::ops::Range;

/// An entry of `.eh_frame`: the bytes that it takes there, and its function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) bytes: u64,
    /// Address of the function.
    pub(crate) function: u64,
    /// Address of its table in `.gcc_except_table`.
    pub(crate) table: Option<u64>,
}

/// How the addresses of a group of entries are written.
#[derive(Debug, Clone, Copy)]
struct Encoding {
    pointer: u8,
    table: Option<u8>,
    has_extra: bool,
}

struct Reader<'a> {
    section: &'a [u8],
    at: usize,
    /// Of the section, in memory.
    address: u64,
}

/// All entries that can be read; what is damaged or written in another way is left out.
pub(crate) fn entries(section: &[u8], address: u64) -> Vec<Entry> {
    let mut groups: BTreeMap<usize, Option<Encoding>> = BTreeMap::new();
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(range) = record(section, at) {
        let start = at;
        at = range.end;
        let Some(id) = u32_at(section, range.start) else { break };
        let mut reader = Reader { section: &section[..range.end], at: range.start + 4, address };
        if id == 0 {
            groups.insert(start, reader.group());
            continue;
        }
        let group = range.start.checked_sub(id as usize);
        let encoding = group.and_then(|group| groups.get(&group).copied().flatten());
        let Some(encoding) = encoding else { continue };
        if let Some((function, table)) = reader.entry(encoding) {
            found.push(Entry { bytes: (range.end - start) as u64, function, table });
        }
    }
    found
}

/// The content of the record at `at`, after its length.
fn record(section: &[u8], at: usize) -> Option<Range<usize>> {
    let length = u32_at(section, at)? as usize;
    let end = (at + 4).checked_add(length)?;
    (length >= 4 && end <= section.len()).then_some(at + 4..end)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

impl Reader<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.section.get(self.at).copied()?;
        self.at += 1;
        Some(byte)
    }

    /// Skips a number of variable length, and gives its low bits.
    fn leb(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn group(&mut self) -> Option<Encoding> {
        let version = self.byte()?;
        let start = self.at;
        while self.byte()? != 0 {}
        let augmentation = &self.section[start..self.at - 1];
        self.leb()?;
        self.leb()?;
        if version == 1 {
            self.byte().map(drop)?
        } else {
            self.leb().map(drop)?
        }
        let mut encoding =
            Encoding { pointer: 0, table: None, has_extra: augmentation.first() == Some(&b'z') };
        if encoding.has_extra {
            self.leb()?;
        }
        for letter in augmentation {
            match letter {
                b'R' => encoding.pointer = self.byte()?,
                b'L' => encoding.table = Some(self.byte()?),
                b'P' => {
                    let personality = self.byte()?;
                    self.pointer(personality)?;
                }
                b'z' | b'S' | b'B' => {}
                _ => return None,
            }
        }
        Some(encoding)
    }

    fn entry(&mut self, encoding: Encoding) -> Option<(u64, Option<u64>)> {
        let function = self.pointer(encoding.pointer)?;
        // The length of the function has the same width, and is no address.
        self.pointer(encoding.pointer & 0x0f)?;
        if encoding.has_extra {
            self.leb()?;
        }
        let is_none = self.section.get(self.at..self.at + 4).is_none_or(|bytes| bytes == [0; 4]);
        let table = encoding.table.filter(|_| !is_none).and_then(|table| self.pointer(table));
        Some((function, table))
    }

    fn pointer(&mut self, encoding: u8) -> Option<u64> {
        let here = self.address.wrapping_add(self.at as u64);
        let mut take = |width: usize| {
            let bytes = self.section.get(self.at..self.at.checked_add(width)?)?;
            self.at += width;
            let mut number = [0; 8];
            number[..width].copy_from_slice(bytes);
            Some(u64::from_le_bytes(number))
        };
        let value = match encoding & 0x0f {
            0x00 | 0x04 | 0x0c => take(8)?,
            0x03 => take(4)?,
            0x0b => i64::from(take(4)? as u32 as i32) as u64,
            _ => return None,
        };
        match encoding & 0x70 {
            0x00 => Some(value),
            0x10 => Some(here.wrapping_add(value)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_functions_of_this_program_have_entries() {
        let this = std::env::current_exe().unwrap();
        let sections = elf::sections(&this).unwrap();
        let frame = sections.iter().find(|section| section.name == ".eh_frame").unwrap();
        let file = std::fs::read(&this).unwrap();
        let bytes = &file[frame.offset as usize..][..frame.size as usize];
        let entries = entries(bytes, frame.address);
        let covered: u64 = entries.iter().map(|entry| entry.bytes).sum();
        assert!(covered * 10 > frame.size * 9, "{covered} of {}", frame.size);
        let text = sections.iter().find(|section| section.name == ".text").unwrap();
        let is_code = |entry: &&Entry| (text.address..text.address + text.size).contains(&entry.function);
        assert!(entries.iter().filter(is_code).count() * 10 > entries.len() * 9);
        assert!(entries.iter().any(|entry| entry.table.is_some()));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let this = std::env::current_exe().unwrap();
        let sections = elf::sections(&this).unwrap();
        let frame = sections.iter().find(|section| section.name == ".eh_frame").unwrap();
        let file = std::fs::read(&this).unwrap();
        let good = &file[frame.offset as usize..][..(frame.size as usize).min(400)];
        for at in 0..good.len() {
            for byte in [0, 1, 0x7f, 0x80, 0xff] {
                let mut bytes = good.to_vec();
                bytes[at] = byte;
                entries(&bytes, u64::MAX - 5);
            }
            entries(&good[..at], 0);
        }
    }
}
