//! Documents in JSON that somebody else may have written: SBOMs, releases, scan records, tables of the edge, journals, events.
#![no_main]

use std::cell::LazyCell;

use libfuzzer_sys::fuzz_target;
use release::Release;

thread_local! {
    static FOLDER: LazyCell<tempfile::TempDir> = LazyCell::new(|| tempfile::tempdir().unwrap());
}

fuzz_target!(|data: &[u8]| {
    drop(scan::sbom_packages("api", data));
    drop(finding::Record::parse(data));
    edge::fuzzing::table(data);
    if let Ok(release) = Release::parse(data) {
        let bytes = release.to_bytes().unwrap();
        assert_eq!(Release::parse(&bytes).unwrap().to_bytes().unwrap(), bytes);
    }
    for event in ["pull_request", "merge_group", "push"] {
        drop(workflow::Event::parse(event, data));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        drop(workflow::parse_needs(text));
    }
    if let Ok(value) = serde_json::from_slice::<serde_json::Value>(data)
        && let Ok(once) = stdx::json::canonical(&value)
    {
        let again = serde_json::from_slice(&once).unwrap();
        assert_eq!(stdx::json::canonical(&again).unwrap(), once, "canonical JSON is not canonical");
    }
    FOLDER.with(|folder| {
        let path = folder.path().join("journal");
        std::fs::write(&path, data).unwrap();
        deploy::fuzzing::journal(&path);
    });
});
