//! A layer's archive, as it stands behind the compression: laid out as files, and read file by file.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use oci::Limits;

thread_local! {
    static FOLDER: LazyCell<tempfile::TempDir> = LazyCell::new(|| tempfile::tempdir().unwrap());
}

const LIMITS: Limits = Limits { bytes: 8 << 20, entries: 300, path: 4096, depth: 128, extension: 1 << 20 };

fuzz_target!(|data: &[u8]| {
    FOLDER.with(|outer| {
        let into = outer.path().join("rootfs");
        std::fs::create_dir(&into).unwrap();
        let laid_out = oci::fuzzing::lay_out(data, &into, LIMITS);
        let visited = oci::fuzzing::visit(data, LIMITS);
        assert!(laid_out.is_err() || visited.is_ok(), "{visited:?}");
        std::fs::remove_dir_all(&into).unwrap();
        // Nothing may have been written beside it.
        assert_eq!(std::fs::read_dir(outer.path()).unwrap().count(), 0);
    });
});
