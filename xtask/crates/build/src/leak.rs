//! The leak gate: no path of the building machine may be in a binary, nor its name where that cannot stand there by chance. One that
//! is there makes the same source give other bits elsewhere, and tells strangers where things lie.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use memchr::memmem::Finder;

use crate::flags::Remap;

/// How much is searched at a time.
const CHUNK: usize = 1 << 20;
/// Chunks overlap by this much: longer than any path worth showing.
const OVERLAP: usize = 1 << 10;
/// A host name is looked for only where it is this long and has a digit or a mark in it: others are words that programs use.
const SHORTEST_HOST: usize = 6;
/// A file's name is not longer on Linux, spaces in it included.
const LONGEST_NAME: usize = 255;
/// How many leaks are worth showing.
const MOST: usize = 5;

/// A path of the building machine inside a binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Leak {
    /// The path, as far as it can be told from what stands beside it; or the name of the machine, in words.
    pub path: String,
    /// The package whose code carries it, where the path tells.
    pub package: Option<String>,
}

/// A folder or a name to look for.
struct Needle {
    text: Vec<u8>,
    /// The name of the machine: a word of its own, not the beginning of a path.
    is_host: bool,
    /// A folder directly below `/` has a short name that may stand in a binary by chance: inside another path, or as a path of
    /// the image itself.
    is_short: bool,
}

/// Searches the binary for the paths that should have been replaced, for `home`, and for the name of this machine.
pub(crate) fn leaks(
    binary: &Path,
    remaps: &[Remap],
    home: Option<&Path>,
    members: &[(PathBuf, String)],
) -> Result<BTreeSet<Leak>> {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    search(binary, remaps, home, host.trim(), members)
}

fn search(
    binary: &Path,
    remaps: &[Remap],
    home: Option<&Path>,
    host: &str,
    members: &[(PathBuf, String)],
) -> Result<BTreeSet<Leak>> {
    let mut folders: BTreeSet<&Path> = remaps.iter().map(|remap| remap.from.as_path()).collect();
    // A home such as /tmp, as containers have it, is no secret and no place of the source.
    folders.extend(home.filter(|home| home.components().count() > 2 || *home == Path::new("/root")));
    // Where the machine has the very folder that stands for another, its name says nothing.
    folders.retain(|folder| !remaps.iter().any(|remap| Path::new(&remap.to).starts_with(folder)));
    let needles: Vec<Needle> = folders.into_iter().filter_map(needle).chain(host_needle(host)).collect();
    let mut file = stdx::fs::open(binary)?;
    let mut found = BTreeSet::new();
    let mut window: Vec<u8> = Vec::new();
    loop {
        let read = file.by_ref().take(CHUNK as u64).read_to_end(&mut window);
        if read.with_context(|| format!("cannot read {}", binary.display()))? == 0 || found.len() >= MOST {
            return Ok(found);
        }
        for needle in &needles {
            find(&window, needle, members, &mut found);
        }
        window.drain(..window.len().saturating_sub(OVERLAP));
    }
}

fn needle(folder: &Path) -> Option<Needle> {
    let depth = folder.components().count() - 1;
    let text = format!("{}/", folder.to_str()?.trim_end_matches('/')).into_bytes();
    (depth > 0).then_some(Needle { text, is_host: false, is_short: depth == 1 })
}

fn host_needle(host: &str) -> Option<Needle> {
    let is_telling =
        host.len() >= SHORTEST_HOST && host.contains(|c: char| c.is_ascii_digit() || "-.".contains(c));
    let is_common = host.starts_with("localhost");
    (is_telling && !is_common).then(|| Needle {
        text: host.as_bytes().to_vec(),
        is_host: true,
        is_short: false,
    })
}

fn find(window: &[u8], needle: &Needle, members: &[(PathBuf, String)], found: &mut BTreeSet<Leak>) {
    for at in Finder::new(&needle.text).find_iter(window) {
        if needle.is_host {
            let before = at.checked_sub(1).and_then(|before| window.get(before));
            let beside = [before, window.get(at + needle.text.len())];
            if !beside.into_iter().flatten().any(|byte| is_name_byte(*byte)) {
                let name = String::from_utf8_lossy(&needle.text).into_owned();
                found.insert(Leak { path: format!("the name of this machine, {name}"), package: None });
            }
            continue;
        }
        let inside_a_path = at > 0 && is_path_byte(window[at - 1]);
        if needle.is_short && inside_a_path {
            continue;
        }
        let path = path(&window[at..], needle.text.len());
        if needle.is_short && !exists(&path) {
            continue;
        }
        let package = package(&path, members);
        found.insert(Leak { path, package });
        if found.len() >= MOST {
            return;
        }
    }
}

/// The path at the start of `window`, of which the first `known` bytes are one. A path may hold spaces; texts are not separated from
/// each other in a binary, so what comes after a space counts only as far as this machine has it.
fn path(window: &[u8], known: usize) -> String {
    let is_end = |byte: &u8| !is_path_byte(*byte);
    let end_after =
        |start: usize| window[start..].iter().position(is_end).map_or(window.len(), |length| start + length);
    let mut end = end_after(known);
    let mut longer = end;
    // Whatever stands behind a space may be the next word of a sentence.
    while longer - end < LONGEST_NAME && window.get(longer) == Some(&b' ') {
        longer = end_after(longer + 1);
        let text = String::from_utf8_lossy(&window[..longer]);
        let folder = text.rfind('/').filter(|slash| *slash > end).map(|slash| &text[..slash]);
        if [Some(text.as_ref()), folder].into_iter().flatten().any(|path| Path::new(path).exists()) {
            end = longer;
        }
    }
    String::from_utf8_lossy(&window[..end]).into_owned()
}

/// Whether the first two folders of `path` are on this machine.
fn exists(path: &str) -> bool {
    Path::new("/").join(path.split('/').filter(|name| !name.is_empty()).take(2).collect::<PathBuf>()).exists()
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_'
}

fn is_path_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"/._-+@".contains(&byte)
}

/// The package that a path belongs to: by the folder of a build script's output, of a registry, or of a workspace member.
fn package(path: &str, members: &[(PathBuf, String)]) -> Option<String> {
    let after = |marker: &str| path.split_once(marker).map(|(_, rest)| rest);
    if let Some(rest) = after("/build/") {
        // `<name>-<hash>/out`
        let folder = rest.split('/').next()?;
        return Some(folder.rsplit_once('-').map_or(folder, |(name, _)| name).to_owned());
    }
    if let Some(rest) = after("/registry/src/") {
        return rest.split('/').nth(1).map(str::to_owned);
    }
    let holds = members.iter().filter(|(folder, _)| Path::new(path).starts_with(folder));
    holds.max_by_key(|(folder, _)| folder.components().count()).map(|(_, name)| name.clone())
}

impl fmt::Display for Leak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.package {
            Some(package) => write!(f, "{} (from the package {package})", self.path),
            None => write!(f, "{}", self.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &[u8], expected: &[(&str, Option<&str>)]) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        let remap = |from: &str| Remap { from: from.into(), to: "/x".into() };
        let remaps =
            [remap("/home/u/ws"), remap("/home/u/ws/target"), remap("/home/u/.cargo"), remap("/usr")];
        let members =
            [("/home/u/ws".into(), "root".to_owned()), ("/home/u/ws/services/api".into(), "api".to_owned())];
        let found = search(file.path(), &remaps, Some(Path::new("/home/u")), "build-7", &members).unwrap();
        let leak = |(path, package): &(&str, Option<&str>)| Leak {
            path: (*path).into(),
            package: package.map(str::to_owned),
        };
        assert_eq!(found.into_iter().collect::<Vec<_>>(), expected.iter().map(leak).collect::<Vec<_>>());
    }

    #[test]
    fn the_carrier_is_named_where_the_path_tells() {
        check(
            b"..\0/home/u/ws/services/api/data.txt\0",
            &[("/home/u/ws/services/api/data.txt", Some("api"))],
        );
        let cargo = "/home/u/.cargo/registry/src/index-1/libz-1.2.3/z.c";
        check(cargo.as_bytes(), &[(cargo, Some("libz-1.2.3"))]);
        let out = "/home/u/ws/target/release/build/my-sys-0123abcd/out/gen.rs";
        check(format!("{out} ").as_bytes(), &[(out, Some("my-sys"))]);
        check(b"/home/u/notes:", &[("/home/u/notes", None)]);
    }

    #[test]
    fn clean_bytes_pass_and_short_names_need_a_boundary() {
        check(b"/workspace/a /cargo/registry/src/serde-1/src/lib.rs /rustc/c0ffee/library/src/x", &[]);
        check(b"see \"/usr/bin/x\" or \"/usr/nowhere/x\"", &[("/usr/bin/x", None)]);
    }

    #[test]
    fn the_name_of_the_machine_counts_as_a_word_where_it_cannot_be_there_by_chance() {
        check(b"built on build-7 today", &[("the name of this machine, build-7", None)]);
        check(b"rebuild-7 and build-77", &[]);
        let is_telling = |host: &str| host_needle(host).is_some();
        assert!(is_telling("fv-az1234"));
        assert!(!["vm", "debian", "redis", "localhost.localdomain"].into_iter().any(is_telling));
    }

    #[test]
    fn spaces_are_a_part_of_a_path_where_there_is_such_a_file() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("my work");
        let member = root.join("the api");
        std::fs::create_dir_all(member.join("src")).unwrap();
        std::fs::write(member.join("src/a file.rs"), "").unwrap();
        let check = |text: &str, path: &Path, package: &str| {
            let binary = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(binary.path(), text).unwrap();
            let remaps = [Remap { from: root.clone(), to: "/x".into() }];
            let members = [(root.clone(), "root".to_owned()), (member.clone(), "api".to_owned())];
            let found = search(binary.path(), &remaps, None, "", &members).unwrap();
            let leak = Leak { path: path.display().to_string(), package: Some(package.to_owned()) };
            assert_eq!(found.into_iter().collect::<Vec<_>>(), [leak]);
        };
        let file = member.join("src/a file.rs");
        check(&format!("{} and more", file.display()), &file, "api");
        check(&format!("{}/src/gone.rs is not there", member.display()), &member.join("src/gone.rs"), "api");
        check(&format!("see {}/the other", root.display()), &root.join("the"), "root");
    }

    #[test]
    fn a_path_across_two_chunks_is_found() {
        let mut content = vec![0; CHUNK - 7];
        content.extend_from_slice(b"/home/u/ws/x\0");
        check(&content, &[("/home/u/ws/x", Some("root"))]);
    }
}
