//! What the tests share: folders, stores, small file systems.

use std::path::{Path, PathBuf};
use std::process::Command;

use data::{Entry, Store};

/// A moment in 2026.
pub(crate) const NOW: i64 = 1_790_000_000;

/// The names of the backups that count.
pub(crate) fn backups(store: &Store) -> Vec<String> {
    let entries = store.list().unwrap().into_iter();
    entries
        .filter_map(|entry| match entry {
            Entry::Backup(manifest) => Some(manifest.id),
            Entry::Damaged { .. } => None,
        })
        .collect()
}

/// What is below a folder, but for its lock.
pub(crate) fn leftovers(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
    names.filter(|name| name != ".lock").collect()
}

/// Whether the program can be run here; says so where not, and fails where `SLIPWAY_TEST_REQUIRE` names it as `name`.
pub(crate) fn works(name: &str, program: &str, probe: &[&str]) -> bool {
    let works = Command::new(program).args(probe).output().is_ok_and(|output| output.status.success());
    let is_required =
        std::env::var("SLIPWAY_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|one| one == name));
    assert!(works || !is_required, "{name} is required and does not work");
    if !works {
        eprintln!("skipped: {name} does not work on this machine");
    }
    works
}

/// A file system of a few megabytes.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where this user may not mount one.
    pub(crate) fn mount(folder: &Path, size: &str) -> Option<SmallDisk> {
        std::fs::create_dir_all(folder).unwrap();
        let folder = folder.to_owned();
        let path = folder.to_str().unwrap().to_owned();
        works("mount", "mount", &["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs", &path])
            .then_some(SmallDisk(folder))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}
