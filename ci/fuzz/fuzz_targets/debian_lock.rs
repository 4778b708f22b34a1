//! The lock of Debian packages: what is read is written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Ok(lock) = base::debian::fuzzing::lock(data) else { return };
    let written = lock.to_bytes().unwrap();
    let again = base::debian::fuzzing::lock(&written).unwrap();
    assert_eq!(written, again.to_bytes().unwrap());
    for root in &lock.roots {
        for architecture in ["amd64", "arm64"] {
            drop(lock.root(&root.wanted, architecture));
        }
    }
});
