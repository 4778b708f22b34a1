//! Files that a workspace's owner writes: settings, service files, environments, waivers; and the audit of the same text as a
//! workflow of GitHub.
#![no_main]

use std::cell::LazyCell;

use finding::Waivers;
use libfuzzer_sys::fuzz_target;
use workspace::{ServiceConfig, Settings};

thread_local! {
    static FOLDER: LazyCell<tempfile::TempDir> = LazyCell::new(|| tempfile::tempdir().unwrap());
}

fuzz_target!(|data: &str| {
    FOLDER.with(|folder| {
        let folder = folder.path();
        for name in [Settings::FILE, ServiceConfig::FILE, "production.yaml"] {
            std::fs::write(folder.join(name), data).unwrap();
        }
        drop(Settings::load(folder));
        drop(ServiceConfig::load(folder, &mut Vec::new()));
        drop(deploy::EnvironmentFile::load(folder, "production"));
        drop(Waivers::load(folder, "production.yaml", jiff::civil::date(2026, 1, 1), 90));
        drop(workflow::Pins::parse(data));
    });
});
