//! The notices of third parties: the licence texts that must go along with the images, each once, with the packages that came
//! with it. The same packages give the same bytes on every machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cargo_metadata::Package;

use crate::context::Context;
use crate::licences::{spec, third_party};

/// The longest licence in use (GPL-3.0) has 35 kB; some packages collect a dozen in one file.
const MOST_BYTES: u64 = 1 << 20;
/// Files of one package.
const MOST_FILES: usize = 50;
const NAMES: [&str; 6] = ["licence", "license", "copying", "copyright", "notice", "unlicense"];
const RULE: &str = "------------------------------------------------------------------------";

/// The text of the notice file for all services: licence files of what is linked into them, grouped by text. Packages that came
/// without any are named.
///
/// # Errors
/// When the workspace cannot be read.
pub fn notices(context: &Context) -> Result<String> {
    let graph = context.graph()?;
    let linked = third_party(graph).into_iter().filter(|(_, services)| services.is_some());
    let mut groups: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut without = BTreeSet::new();
    for (package, _) in linked {
        let texts = texts(package);
        if texts.is_empty() {
            without.insert(name(package));
        }
        for text in texts {
            groups.entry(text).or_default().insert(name(package));
        }
    }
    Ok(render(groups, &without))
}

fn render(groups: BTreeMap<String, BTreeSet<String>>, without: &BTreeSet<String>) -> String {
    let mut sorted: Vec<(BTreeSet<String>, String)> =
        groups.into_iter().map(|(text, packages)| (packages, text)).collect();
    sorted.sort();
    let list = |packages: &BTreeSet<String>| {
        packages.iter().fold(String::new(), |mut text, package| {
            let _ = writeln!(text, "  {package}");
            text
        })
    };
    let mut text = "Third-party notices\n\nThe services contain the packages named here, under the licences that follow.\n".to_owned();
    for (packages, licence) in &sorted {
        let _ = write!(text, "\n{RULE}\n{}\n{licence}\n", list(packages));
    }
    if !without.is_empty() {
        let _ = write!(text, "\n{RULE}\nPackages that came without a licence text:\n\n{}", list(without));
    }
    text
}

fn name(package: &Package) -> String {
    let unnamed = if package.license_file.is_some() { "licence in a file" } else { "no licence" };
    let licence = package.license.as_deref().unwrap_or(unnamed);
    format!("{} ({licence})", spec(package)).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// The licence texts in the package's folder, each once.
fn texts(package: &Package) -> BTreeSet<String> {
    let Some(folder) = package.manifest_path.as_std_path().parent() else { return BTreeSet::new() };
    let mut files: BTreeSet<PathBuf> = named(package, folder).into_iter().collect();
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    files.extend(entries.map(|entry| entry.path()).filter(|path| is_licence(path)));
    files.iter().take(MOST_FILES).filter_map(|path| read(path)).collect()
}

/// The licence file that the manifest names. What is published must come with the package: a manifest may name any file of this
/// machine. In a git checkout it may lie above the package.
fn named(package: &Package, folder: &Path) -> Option<PathBuf> {
    let file = folder.join(package.license_file.as_ref()?).canonicalize().ok()?;
    let is_git = package.source.as_ref().is_some_and(|source| source.repr.starts_with("git+"));
    let checkout = folder.ancestors().find(|folder| is_git && folder.join(".git").exists());
    file.starts_with(checkout.unwrap_or(folder).canonicalize().ok()?).then_some(file)
}

fn is_licence(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    // `license.rs` is code that is named after what it is about.
    let is_code = path.extension().is_some_and(|extension| extension == "rs" || extension == "toml");
    !is_code && NAMES.iter().any(|word| name.starts_with(word))
}

/// The text with Unix line ends and without blank ends, so that copies of one licence are one.
fn read(path: &Path) -> Option<String> {
    fs::symlink_metadata(path).ok().filter(|meta| meta.is_file() && meta.len() <= MOST_BYTES)?;
    let mut text = String::new();
    fs::File::open(path).ok()?.take(MOST_BYTES).read_to_string(&mut text).ok()?;
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().map(str::trim_end).collect();
    let text = lines.join("\n").trim_matches('\n').to_owned();
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_of_a_text_are_one_and_code_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(folder.path().join(name), text).unwrap();
        write("LICENSE-MIT", "MIT\r\n\r\ntext  \n\n");
        write("LICENSE.txt", "MIT\n\ntext\n");
        write("COPYING", "other");
        write("license.rs", "fn main() {}");
        write("README", "no");
        fs::write(folder.path().join("NOTICE"), [0xff, 0xfe]).unwrap();
        let package: Package = serde_json::from_value(serde_json::json!({
            "name": "tiny", "version": "1.1.0", "id": "tiny", "license": "MIT", "dependencies": [], "targets": [],
            "features": {}, "manifest_path": folder.path().join("Cargo.toml"),
        }))
        .unwrap();
        assert_eq!(texts(&package), BTreeSet::from(["MIT\n\ntext".to_owned(), "other".to_owned()]));
    }

    #[test]
    fn a_manifest_publishes_no_file_of_this_machine() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("id_rsa", "private");
        write("checkout/TERMS", "above");
        write("checkout/tiny/TERMS", "inside");
        fs::create_dir(folder.path().join("checkout/.git")).unwrap();
        std::os::unix::fs::symlink(folder.path(), folder.path().join("checkout/tiny/out")).unwrap();
        let private = folder.path().join("id_rsa");
        let texts = |source: Option<&str>, file: &str| {
            let package: Package = serde_json::from_value(serde_json::json!({
                "name": "tiny", "version": "1.1.0", "id": "tiny", "source": source, "license_file": file, "dependencies": [],
                "targets": [], "features": {}, "manifest_path": folder.path().join("checkout/tiny/Cargo.toml"),
            }))
            .unwrap();
            texts(&package).into_iter().collect::<String>()
        };
        for source in [None, Some("git+https://example.org/r#0"), Some("registry+https://example.org")] {
            for file in ["../../id_rsa", "out/id_rsa", private.to_str().unwrap()] {
                assert_eq!(texts(source, file), "", "{source:?} {file}");
            }
            assert_eq!(texts(source, "TERMS"), "inside");
        }
        assert_eq!(texts(Some("git+https://example.org/r#0"), "../TERMS"), "above");
        assert_eq!(texts(None, "../TERMS"), "");
    }

    #[test]
    fn the_file_does_not_depend_on_the_order_of_anything() {
        let packages = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let groups = BTreeMap::from([
            ("A".to_owned(), packages(&["z@1 (MIT)"])),
            ("B".to_owned(), packages(&["c@1 (MIT)", "a@1 (MIT)"])),
        ]);
        let text = render(groups, &packages(&["q@1 (MIT)"]));
        let at = |what: &str| text.find(what).unwrap();
        assert!(at("  a@1 (MIT)\n  c@1 (MIT)\n\nB\n") < at("  z@1 (MIT)\n\nA\n"), "{text}");
        assert!(text.ends_with("without a licence text:\n\n  q@1 (MIT)\n"), "{text}");
    }
}
