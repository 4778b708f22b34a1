//! Entries of a cache: archives of folders, files of a folder store, manifests of a registry store, records.
#![no_main]

use std::sync::LazyLock;

use cache::{Folder, Found, Key, Kind, Limits, Store};
use libfuzzer_sys::fuzz_target;
use stdx::Digest;

static KEY: LazyLock<Key> = LazyLock::new(|| Key { kind: Kind::Record, digest: Digest::of("key") });
const LIMITS: Limits = Limits { entries: 300, bytes: 32 << 20 };

fuzz_target!(|data: &[u8]| {
    cache::fuzzing::manifest(data, &KEY);
    build::fuzzing::record(data);
    let outer = tempfile::tempdir().unwrap();
    let into = outer.path().join("into");
    if cache::unpack(data, &into, LIMITS).is_ok() {
        // What was unpacked can be packed, and is the same again.
        let pack = |folder: &std::path::Path| {
            let mut packed = Vec::new();
            cache::pack(folder, &mut packed).map(|()| packed)
        };
        let packed = pack(&into).expect("what was unpacked can be packed");
        let again = outer.path().join("again");
        cache::unpack(packed.as_slice(), &again, Limits::default()).expect("what was packed can be unpacked");
        assert_eq!(pack(&again).unwrap(), packed);
        std::fs::remove_dir_all(&again).unwrap();
    }
    assert!(std::fs::read_dir(outer.path()).unwrap().count() <= 1, "something was written beside the folder");
    let folder = outer.path().join("store");
    std::fs::create_dir_all(folder.join("v1/record")).unwrap();
    std::fs::write(folder.join("v1/record").join(KEY.to_string()), data).unwrap();
    if let Ok(Found::Whole(blob)) = Folder::new("store", &folder).get(&KEY) {
        assert!(data.ends_with(&blob.bytes(1 << 30).unwrap()));
    }
});
