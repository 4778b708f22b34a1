//! From the name of a symbol to the package that its bytes are counted for. Rust's names tell the crate; where several packages
//! have a crate of that name, their compiled libraries are asked; C's names are looked up in the archives that build scripts
//! made.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::Result;
use memchr::memmem;

use crate::bytes::Places;
use crate::mangled::{self, CrateName, Mangled};
use crate::report::{Class, Service};

/// Build scripts leave their archives near the top of their folders.
const MOST_DEPTH: usize = 8;

/// Whose bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner {
    /// A package, by its place among those that are linked.
    Package(usize),
    /// The standard library, and what is compiled into it.
    Std,
    /// The C library and the C toolchain's start code.
    Native,
    Unknown,
}

/// The owner of a symbol, and where the function is written if that is elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owned {
    pub(crate) by: Owner,
    pub(crate) defined: Owner,
}

pub(crate) struct Owners {
    /// By crate: the packages that have one of this name.
    crates: BTreeMap<String, Vec<usize>>,
    std_crates: BTreeSet<String>,
    /// By name and disambiguator, for names that several have.
    told_apart: BTreeMap<CrateName, usize>,
    /// By name of the symbol and, where only its own object file sees it, source file.
    natives: BTreeMap<(String, Option<String>), usize>,
}

impl Owners {
    pub(crate) fn new(service: &Service, places: &Places) -> Result<Owners> {
        let linked: Vec<_> = service.used.iter().filter(|(_, used)| used.class == Class::Linked).collect();
        let mut crates: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (place, (id, used)) in linked.iter().enumerate() {
            let package = &used.package;
            let binary = (**id == service.root).then(|| service.binary.replace('-', "_"));
            for name in package
                .library
                .iter()
                .chain(binary.iter().filter(|name| Some(*name) != package.library.as_ref()))
            {
                crates.entry(name.clone()).or_default().push(place);
            }
        }
        let std_crates = std_crates(&places.std_libraries);
        let mut told_apart = BTreeMap::new();
        for (name, having) in &crates {
            if having.len() > 1 || std_crates.contains(name) {
                let folders: Vec<(usize, &Path)> =
                    having.iter().map(|place| (*place, linked[*place].1.package.folder.as_path())).collect();
                tell_apart(name, &folders, places, &mut told_apart)?;
            }
        }
        let by_name: BTreeMap<&str, usize> =
            linked.iter().enumerate().map(|(place, (_, used))| (used.package.name.as_str(), place)).collect();
        let natives = natives(&places.linked_folder().join("build"), &by_name);
        Ok(Owners { crates, std_crates, told_apart, natives })
    }

    pub(crate) fn of(&self, symbol: &elf::Symbol) -> Owned {
        let same = |owner| Owned { by: owner, defined: owner };
        match mangled::parse(&symbol.name) {
            Some(Mangled::V0 { defined, instantiated }) => {
                let defined = self.of_crate(&defined);
                let by = instantiated.map_or(defined, |one| self.of_crate(&one));
                Owned { by: if by == Owner::Unknown { defined } else { by }, defined }
            }
            Some(Mangled::Legacy(names)) => same(self.of_legacy(&names)),
            None if symbol.name.starts_with("__rust") || symbol.name.starts_with("rust_") => same(Owner::Std),
            None => {
                let found = self.natives.get(&(symbol.name.clone(), symbol.file.clone()));
                same(found.map_or(Owner::Native, |place| Owner::Package(*place)))
            }
        }
    }

    fn of_crate(&self, name: &CrateName) -> Owner {
        let is_std = self.std_crates.contains(&name.name);
        match self.crates.get(&name.name).map(Vec::as_slice) {
            Some([only]) if !is_std => Owner::Package(*only),
            Some(_) => match self.told_apart.get(name) {
                Some(place) => Owner::Package(*place),
                None if is_std => Owner::Std,
                None => Owner::Unknown,
            },
            None if is_std => Owner::Std,
            None => Owner::Unknown,
        }
    }

    /// What is in the standard library's crates by name is theirs: a package's own code has names of the current scheme, unless
    /// the user asked for the old one.
    fn of_legacy(&self, names: &[String]) -> Owner {
        let package = |name: &String| match self.crates.get(name).map(Vec::as_slice) {
            Some([only]) if !self.std_crates.contains(name) => Some(Owner::Package(*only)),
            _ => None,
        };
        let is_std = names.iter().any(|name| self.std_crates.contains(name));
        names.iter().find_map(package).unwrap_or(if is_std { Owner::Std } else { Owner::Unknown })
    }
}

/// The crates of the standard library, by the files that come with the compiler.
fn std_crates(folder: &Path) -> BTreeSet<String> {
    let mut names: BTreeSet<String> =
        ["core", "alloc", "std", "compiler_builtins", "__rustc"].map(str::to_owned).into();
    names.extend(files(folder).iter().filter_map(|path| Some(library(path)?.0)));
    names
}

/// Crate and hash of `lib<crate>-<hash>.rlib`.
fn library(path: &Path) -> Option<(String, String)> {
    let stem = path.file_name()?.to_str()?.strip_prefix("lib")?.strip_suffix(".rlib")?;
    let (name, hash) = stem.rsplit_once('-')?;
    Some((name.to_owned(), hash.to_owned()))
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

/// Finds the disambiguator of each package's crate in its library; which package a library is of stands in the list of sources
/// beside it.
fn tell_apart(
    name: &str,
    having: &[(usize, &Path)],
    places: &Places,
    told_apart: &mut BTreeMap<CrateName, usize>,
) -> Result<()> {
    let folder = places.linked_folder().join("deps");
    for path in files(&folder) {
        let Some((_, hash)) = library(&path).filter(|(found, _)| found == name) else { continue };
        let list = stdx::fs::read_to_string(&folder.join(format!("{name}-{hash}.d"))).unwrap_or_default();
        let is_of = |(_, package): &&(usize, &Path)| {
            list.split_whitespace().any(|source| places.root.join(source).starts_with(package))
        };
        let Some((place, _)) = having.iter().find(is_of) else { continue };
        if let Some(disambiguator) = disambiguator(name, &stdx::fs::read(&path)?) {
            told_apart.insert(CrateName { name: name.to_owned(), disambiguator }, *place);
        }
    }
    Ok(())
}

/// The disambiguator that stands most often before the crate's name: that of the crate itself.
fn disambiguator(name: &str, library: &[u8]) -> Option<String> {
    let separator = if name.starts_with(|c: char| c == '_' || c.is_ascii_digit()) { "_" } else { "" };
    let needle = format!("_{}{separator}{name}", name.len());
    let mut counts: BTreeMap<&[u8], usize> = BTreeMap::new();
    for at in memmem::find_iter(library, needle.as_bytes()) {
        let before = &library[at.saturating_sub(16)..at];
        let digits = before.iter().rev().take_while(|byte| byte.is_ascii_alphanumeric()).count();
        let run = &before[before.len() - digits..];
        // `Cs<digits>`; the digits can hold a `Cs` themselves, so all that fit are counted, and the longest of the most wins.
        for start in 0..run.len().saturating_sub(2) {
            if run[start..].starts_with(b"Cs") {
                *counts.entry(&run[start + 2..]).or_default() += 1;
            }
        }
    }
    let most = counts.into_iter().max_by_key(|(digits, count)| (*count, digits.len()))?.0;
    String::from_utf8(most.to_vec()).ok()
}

/// The symbols of the archives that the build scripts of linked packages left.
fn natives(build: &Path, by_name: &BTreeMap<&str, usize>) -> BTreeMap<(String, Option<String>), usize> {
    let mut natives = BTreeMap::new();
    for folder in files(build) {
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let package = name.rsplit_once('-').and_then(|(package, _)| by_name.get(package));
        let Some(place) = package else { continue };
        let mut archives = Vec::new();
        find_archives(&folder.join("out"), 0, &mut archives);
        for symbol in archives.iter().filter_map(|path| elf::archive_symbols(path).ok()).flatten() {
            natives.entry((symbol.name, symbol.file)).or_insert(*place);
        }
    }
    natives
}

fn find_archives(folder: &Path, depth: usize, archives: &mut Vec<PathBuf>) {
    for path in files(folder) {
        if path.is_dir() && !path.is_symlink() && depth < MOST_DEPTH {
            find_archives(&path, depth + 1, archives);
        } else if path.extension().is_some_and(|extension| extension == "a") {
            archives.push(path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crate_s_disambiguator_is_the_most_frequent_one() {
        let library = b"..NtCs1abc_3foo..NtCs1abc_3foo..NtCszz9_3foo..C3foo..Cs1abc_4fooo";
        assert_eq!(disambiguator("foo", library).unwrap(), "1abc");
        assert_eq!(disambiguator("bar", library), None);
        assert_eq!(disambiguator("foo", b"_3foo"), None);
    }

    #[test]
    fn libraries_by_name() {
        let library = |name: &str| library(Path::new(name)).map(|(name, _)| name);
        assert_eq!(library("/x/libserde_json-0123.rlib").as_deref(), Some("serde_json"));
        assert_eq!(library("/x/libserde.so"), None);
    }
}
