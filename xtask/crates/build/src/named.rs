//! Files that settings name: programs around the compiler, and what flags hand to a linker. Cargo compares the settings and never
//! looks into these files. A word that happens to be the name of a file counts, too: that costs a compile, never a wrong result.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::Result;
use serde_json::Value;
use workspace::CargoConfig;

use crate::ingredients::{configuration, is_covered};
use crate::inputs::relevant_variables;

/// What may stand before the name of a file within a flag, as in `-Tlink.ld` and `@file`.
const LEADS: [&str; 3] = ["-T", "@", "-"];

/// The files that flags, variables and Cargo's configuration name, as far as they exist.
pub(crate) fn files(root: &Path, cargo: &CargoConfig) -> Result<BTreeSet<PathBuf>> {
    let mut words: Vec<String> = cargo.rustflags.clone();
    let names = relevant_variables().into_iter().filter(|name| !is_covered(name));
    words.extend(names.filter_map(|name| std::env::var(name).ok()));
    for content in configuration(root, &cargo.cargo_home)?.into_values() {
        for line in content.lines() {
            strings(&serde_json::from_str(line)?, &mut words);
        }
    }
    Ok(words.iter().flat_map(|text| parts(text)).filter_map(|word| find(root, word)).collect())
}

fn strings(value: &Value, words: &mut Vec<String>) {
    match value {
        Value::String(text) => words.push(text.clone()),
        Value::Array(items) => items.iter().for_each(|item| strings(item, words)),
        Value::Object(items) => items.values().for_each(|item| strings(item, words)),
        _ => {}
    }
}

/// The text itself, and everything in it that could be the name of a file.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let split = text.split([' ', '=', ',', '\x1f']).filter(|word| !word.is_empty());
    split.chain([text]).flat_map(|word| {
        let stripped = LEADS.iter().filter_map(|lead| word.strip_prefix(lead));
        [word].into_iter().chain(stripped).collect::<Vec<_>>()
    })
}

/// A path as Cargo's configuration and a linker that runs in the workspace would take it, or the name of a program.
fn find(root: &Path, word: &str) -> Option<PathBuf> {
    let near = root.ancestors().map(|folder| folder.join(word));
    let path = std::env::var_os("PATH").filter(|_| !word.contains('/'));
    let programs: Vec<PathBuf> =
        path.iter().flat_map(std::env::split_paths).map(|folder| folder.join(word)).collect();
    near.chain(programs).find(|path| path.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_files_are_found_within_flags() {
        let found = |text: &'static str| parts(text).collect::<Vec<_>>();
        assert!(found("-Clink-arg=-Tld/link.ld").contains(&"ld/link.ld"));
        assert!(found("link-args=-Wl,--version-script,my map.txt").contains(&"--version-script"));
        assert!(found("tools/with space").contains(&"tools/with space"));
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("w")).unwrap();
        std::fs::write(folder.path().join("link.ld"), "").unwrap();
        let root = folder.path().join("w");
        assert_eq!(find(&root, "link.ld"), Some(folder.path().join("link.ld")));
        assert_eq!(find(&root, "no such"), None);
        assert!(find(&root, "sh").is_some());
    }
}
