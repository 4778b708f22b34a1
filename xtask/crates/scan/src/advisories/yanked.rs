//! Versions that their authors withdrew ("yanked"), as far as Cargo's own copy of the registry's index knows. It asks no
//! network: what Cargo never looked at, or looked at before the version was withdrawn, is not known here.
//!
//! Source: the index cache of Cargo 1.68 and later: a head, then version and JSON line in turn, each ended by a zero byte.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use finding::{Check, Rule, Severity};
use memchr::memmem;
use serde::Deserialize;

use super::{Placeless, usage};
use crate::package::{Class, Package};

/// The package with the most versions has a tenth of this.
const MOST_BYTES: u64 = 32 << 20;

/// Cargo's copies of the public registry's index.
pub(super) struct Index {
    folders: Vec<PathBuf>,
}

#[derive(Deserialize)]
struct Line {
    vers: String,
    yanked: bool,
}

impl Index {
    /// Those below `cargo_home`. The name tells which are of the public registry; a mirror's have another name and are left
    /// alone.
    pub(super) fn open(cargo_home: &Path) -> Index {
        let entries = fs::read_dir(cargo_home.join("registry/index")).into_iter().flatten();
        let folders = entries.filter_map(Result::ok).map(|entry| entry.path());
        let is_public = |folder: &PathBuf| {
            folder.file_name().is_some_and(|name| name.to_string_lossy().starts_with("index.crates.io-"))
        };
        Index { folders: folders.filter(is_public).map(|folder| folder.join(".cache")).collect() }
    }

    /// What to say of the package, if it is compiled at all and known to be withdrawn.
    pub(super) fn judge(&self, package: &Package) -> Option<Placeless> {
        if package.class() == Class::Absent || !package.is_from_crates_io {
            return None;
        }
        let path = relative_path(&package.name)?;
        let version = package.version.to_string();
        let is_yanked = self
            .folders
            .iter()
            .filter_map(|folder| read(&folder.join(&path)))
            .any(|file| yanked(&file, &version));
        is_yanked.then(|| Placeless {
            severity: Severity::Low,
            message: format!(
                "{} {} and was withdrawn by its author (yanked)",
                package.spec(),
                usage(package)
            ),
            key: package.spec(),
            rule: Rule {
                id: "advisories/yanked".to_owned(),
                check: Check::Advisories,
                title: "withdrawn version".to_owned(),
                why: "Authors withdraw versions that are broken; no new lock file can choose this one."
                    .to_owned(),
                fix: "Update it: `cargo update` and the name of the package.".to_owned(),
                url: None,
            },
        })
    }
}

/// Where an index has a package: `1/a`, `2/ab`, `3/a/abc`, `ab/cd/abcd`.
fn relative_path(name: &str) -> Option<String> {
    let name = name.to_ascii_lowercase();
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    if name.is_empty() || !name.chars().all(is_name) {
        return None;
    }
    Some(match name.len() {
        1 | 2 => format!("{}/{name}", name.len()),
        3 => format!("3/{}/{name}", &name[..1]),
        _ => format!("{}/{}/{name}", &name[..2], &name[2..4]),
    })
}

fn read(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path).ok()?.take(MOST_BYTES).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

fn yanked(cache: &[u8], version: &str) -> bool {
    let key = format!("\0{version}\0");
    let Some(at) = memmem::find(cache, key.as_bytes()) else { return false };
    let rest = &cache[at + key.len()..];
    let line = &rest[..memchr::memchr(0, rest).unwrap_or(rest.len())];
    serde_json::from_slice::<Line>(line).is_ok_and(|line| line.vers == version && line.yanked)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CACHE: &[u8] = b"\x03\x02\0\0\0etag\x001.0.0\0{\"name\":\"a\",\"vers\":\"1.0.0\",\"yanked\":true}\x001.0.1\0{\"vers\":\"1.0.1\",\"yanked\":false}\0";

    #[test]
    fn a_withdrawn_version_is_known_from_cargos_own_copy() {
        assert!(yanked(CACHE, "1.0.0"));
        assert!(!yanked(CACHE, "1.0.1") && !yanked(CACHE, "1.0.2") && !yanked(CACHE, "etag"));
        let paths = ["a", "ab", "abc", "Abcd-e"].map(|name| relative_path(name).unwrap());
        assert_eq!(paths, ["1/a", "2/ab", "3/a/abc", "ab/cd/abcd-e"]);
        assert_eq!((relative_path("../x"), relative_path("")), (None, None));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for at in 0..CACHE.len() {
            for byte in [0, b'"', b'{', 0xff] {
                let mut bytes = CACHE.to_vec();
                bytes[at] = byte;
                yanked(&bytes, "1.0.0");
                yanked(&bytes[..at], "1.0.0");
            }
        }
    }
}
