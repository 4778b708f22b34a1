//! Programs and libraries: what they need, their symbols and sections, and their form in an image, which must be read as before
//! and have every byte that is mapped where it was.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;

thread_local! {
    static FOLDER: LazyCell<tempfile::TempDir> = LazyCell::new(|| tempfile::tempdir().unwrap());
}

const ADDED: &[(&str, &[u8])] = &[(".dep-v0", b"some bytes")];

fuzz_target!(|data: &[u8]| {
    base::debian::fuzzing::loader(data);
    let before = elf::needs_of(data);
    drop(elf::section_differences(data, &data[..data.len() / 2]));
    drop(elf::archive_members(data));
    FOLDER.with(|folder| {
        let path = folder.path().join("program");
        std::fs::write(&path, data).unwrap();
        let from_file = elf::needs(&path);
        assert_eq!(before.as_ref().ok(), from_file.as_ref().ok(), "a file is read otherwise than memory");
        drop(elf::symbols(&path));
        drop(elf::archive_symbols(&path));
        drop(elf::require_static(&path, "amd64"));
        let sections = elf::sections(&path);
        let mut finished = Vec::new();
        if elf::finish(&path, &mut finished, ADDED).is_err() {
            return;
        }
        assert_eq!(before.as_ref().ok(), elf::needs_of(&finished).ok().as_ref(), "it needs something else");
        std::fs::write(&path, &finished).unwrap();
        let again = elf::sections(&path).expect("our own output is read");
        // Names outside their table are no names to one reader, and empty to the other.
        let sections = sections.unwrap_or_else(|_| again.clone());
        assert_eq!(sections, again, "mapped sections");
        check(data, &finished, &sections);
        drop(elf::section_differences(data, &finished));
    });
});

/// The bytes of every segment and of every mapped section are where they were.
fn check(before: &[u8], after: &[u8], sections: &[elf::Section]) {
    let is_big = before[5] == 2;
    let number = |at: usize, width: usize| {
        let digits = before[at..at + width].iter();
        let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        if is_big { digits.fold(0, add) } else { digits.rev().fold(0, add) }
    };
    let table = number(32, 8) as usize;
    let segments = (0..number(56, 2) as usize).map(|index| {
        let at = table + index * 56;
        (number(at + 8, 8) as usize, number(at + 32, 8) as usize)
    });
    let sections = sections.iter().map(|section| (section.offset as usize, section.size as usize));
    for (start, size) in segments.chain(sections) {
        // The header says where the section table is, which moves.
        let from = start.max(64);
        let end = start + size;
        if from < end {
            assert_eq!(before[from..end], after[from..end], "bytes {from} to {end}");
        }
    }
}
