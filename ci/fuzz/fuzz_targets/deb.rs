//! A Debian package: the archive, its two members, and the root that is made of it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let outer = tempfile::tempdir().unwrap();
    let (path, files) = (outer.path().join("package.deb"), outer.path().join("files"));
    std::fs::write(&path, data).unwrap();
    std::fs::create_dir(&files).unwrap();
    if let Ok(names) = base::debian::fuzzing::deb(&path, &files) {
        let there = std::fs::read_dir(&files).unwrap().count();
        assert_eq!(there, names.len(), "the store has other files than the package");
    }
    assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 2);
});
