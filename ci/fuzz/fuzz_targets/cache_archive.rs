//! The archive of a cache's entry, as it stands behind the compression.
#![no_main]

use libfuzzer_sys::fuzz_target;

const LIMITS: cache::Limits = cache::Limits { entries: 300, bytes: 8 << 20 };

fuzz_target!(|data: &[u8]| {
    let outer = tempfile::tempdir().unwrap();
    let compressed = cache::fuzzing::compressed(data);
    drop(cache::unpack(compressed.as_slice(), &outer.path().join("into"), LIMITS));
    assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 1);
});
