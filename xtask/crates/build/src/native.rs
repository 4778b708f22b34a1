//! Libraries of the system that build scripts ask to have linked: where the linker finds them, and which files decide that. Cargo
//! tells neither. Invariant: a file that would be taken if it were there counts as missing, so that its coming is a change.
//!
//! Source: the Cargo book, "Build Scripts" (`rustc-link-*`); the GNU linker's manual, `-l`, `-L`, "Implicit Linker Scripts".

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use stdx::Cmd;

/// Folders that linkers look into by themselves, after those that the C compiler names.
const LAST: [&str; 3] = ["/usr/local/lib", "/usr/lib", "/lib"];
/// A longer file that is neither object nor archive is no linker script.
const MAX_SCRIPT: u64 = 64 << 10;
/// Scripts that lead to more files than this are none of any system.
const MOST_FILES: usize = 4_000;

/// What one build script asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    libraries: Vec<Library>,
    folders: Vec<PathBuf>,
    /// Files that arguments of the linker name.
    files: Vec<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Library {
    name: String,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// An archive.
    Static,
    /// A shared library, or an archive where there is none.
    Any,
    /// The name is that of a file.
    Verbatim,
}

/// Where libraries are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Found {
    /// What is linked.
    pub(crate) linked: BTreeSet<PathBuf>,
    /// That, and what would be linked instead if it were there.
    pub(crate) looked_at: BTreeSet<PathBuf>,
    /// Names of libraries that are not where they are looked for.
    pub(crate) missing: BTreeSet<String>,
}

/// Where to look.
pub(crate) struct Search<'a> {
    /// Folders that any build script names.
    pub(crate) named: &'a [PathBuf],
    /// Folders that the linker knows by itself.
    pub(crate) own: &'a [PathBuf],
    /// Whether the program takes no shared library.
    pub(crate) is_static: bool,
}

impl Wanted {
    /// Reads what a build script told Cargo. Relative paths start at `root`, where rustc runs.
    pub(crate) fn parse(output: &str, root: &Path) -> Wanted {
        let mut wanted = Wanted::default();
        for line in output.lines() {
            let said = line.strip_prefix("cargo::").or_else(|| line.strip_prefix("cargo:"));
            let Some((key, value)) = said.and_then(|said| said.split_once('=')) else { continue };
            match key {
                "rustc-link-lib" => wanted.libraries.extend(Library::parse(value)),
                "rustc-link-search" => wanted.add_folder(value, root),
                "rustc-flags" => wanted.add_flags(value, root),
                _ if key.starts_with("rustc-link-arg") => {
                    let value =
                        value.split_once("=-").map_or(value, |(binary, _)| &value[binary.len() + 1..]);
                    wanted.add_argument(value, root);
                }
                _ => {}
            }
        }
        wanted
    }

    /// Whether it asks for nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.libraries.is_empty() && self.files.is_empty()
    }

    /// Folders to look into.
    pub(crate) fn folders(&self) -> &[PathBuf] {
        &self.folders
    }

    fn add_folder(&mut self, value: &str, root: &Path) {
        let (kind, path) = match value.split_once('=') {
            Some((kind @ ("dependency" | "crate" | "framework" | "native" | "all"), path)) => (kind, path),
            _ => ("all", value),
        };
        if matches!(kind, "native" | "all") {
            self.folders.push(root.join(path));
        }
    }

    fn add_flags(&mut self, value: &str, root: &Path) {
        let mut words = value.split_whitespace();
        while let Some(word) = words.next() {
            let (flag, rest) = word.split_at(word.len().min(2));
            let rest = if rest.is_empty() { words.next().unwrap_or_default() } else { rest };
            match flag {
                "-l" => self.libraries.extend(Library::parse(rest)),
                "-L" => self.add_folder(rest, root),
                _ => {}
            }
        }
    }

    fn add_argument(&mut self, value: &str, root: &Path) {
        for word in value.split(',').filter(|word| !word.is_empty() && *word != "-Wl") {
            if let Some(name) = word.strip_prefix("-l") {
                self.libraries.push(Library::named(name));
            } else if let Some(folder) = word.strip_prefix("-L") {
                self.folders.push(root.join(folder));
            } else {
                let path = word.rsplit('=').next().unwrap_or(word);
                let path = root.join(path.strip_prefix("-T").unwrap_or(path));
                self.files.extend(path.is_file().then_some(path));
            }
        }
    }
}

impl Library {
    /// `[KIND[:MODIFIERS]=]NAME[:RENAME]`
    fn parse(text: &str) -> Option<Library> {
        let (kind, name) = text.split_once('=').unwrap_or(("", text));
        let (kind, modifiers) = kind.split_once(':').unwrap_or((kind, ""));
        let kind = match kind {
            _ if modifiers.contains("+verbatim") => Kind::Verbatim,
            "static" | "static-nobundle" => Kind::Static,
            "" | "dylib" => Kind::Any,
            _ => return None,
        };
        let name = name.split(':').next().unwrap_or(name).trim().to_owned();
        (!name.is_empty()).then_some(Library { name, kind })
    }

    /// As linkers name it: `NAME` or `:FILE`.
    fn named(name: &str) -> Library {
        match name.strip_prefix(':') {
            Some(file) => Library { name: file.to_owned(), kind: Kind::Verbatim },
            None => Library { name: name.to_owned(), kind: Kind::Any },
        }
    }

    /// Names of its file, the one that is taken first at the front, and how many of them would be taken.
    fn files(&self, is_static: bool) -> (Vec<String>, usize) {
        let (archive, shared) = (format!("lib{}.a", self.name), format!("lib{}.so", self.name));
        match self.kind {
            Kind::Static => (vec![archive], 1),
            Kind::Verbatim => (vec![self.name.clone()], 1),
            Kind::Any if is_static => (vec![archive, shared], 1),
            Kind::Any => (vec![shared, archive], 2),
        }
    }
}

impl Found {
    /// Looks for everything that is wanted.
    pub(crate) fn new(wanted: &Wanted, search: &Search<'_>) -> Found {
        let mut found = Found::default();
        for file in &wanted.files {
            found.add(file, search);
        }
        for library in &wanted.libraries {
            found.find(library, search);
        }
        found
    }

    /// In folders that somebody named everything counts, in whatever order they come to the linker; of its own, up to the first that has it.
    fn find(&mut self, library: &Library, search: &Search<'_>) {
        let (files, taken) = library.files(search.is_static);
        let (mut first, mut second) = (None, None);
        for folder in search.named {
            self.look(folder, &files, taken, &mut first, &mut second);
        }
        for folder in search.own {
            if first.is_some() {
                break;
            }
            if folder.is_dir() {
                self.look(folder, &files, taken, &mut first, &mut second);
            } else {
                self.looked_at.insert(folder.clone());
            }
        }
        match first.or(second) {
            Some(path) => self.add(&path, search),
            None => _ = self.missing.insert(library.name.clone()),
        }
    }

    fn look(
        &mut self,
        folder: &Path,
        files: &[String],
        taken: usize,
        first: &mut Option<PathBuf>,
        second: &mut Option<PathBuf>,
    ) {
        for (at, file) in files.iter().enumerate() {
            let path = folder.join(file);
            let place = if at < taken { &mut *first } else { &mut *second };
            if place.is_none() && path.is_file() {
                *place = Some(path.clone());
            }
            self.looked_at.insert(path);
        }
    }

    /// A file that is linked, and what it leads to where it is a linker script.
    fn add(&mut self, path: &Path, search: &Search<'_>) {
        self.looked_at.insert(path.to_owned());
        if self.looked_at.len() > MOST_FILES || !self.linked.insert(path.to_owned()) {
            return;
        }
        let head = head(path);
        if head.starts_with(b"!<thin>") {
            // Its members are files of their own.
            self.missing.insert(format!("members of the thin archive {}", path.display()));
        }
        if [&b"\x7fELF"[..], b"!<arch>", b"!<thin>", b"BC"].iter().any(|magic| head.starts_with(magic)) {
            return;
        }
        for word in script_inputs(&String::from_utf8_lossy(&head)) {
            let word = word.strip_prefix('=').unwrap_or(&word);
            if let Some(name) = word.strip_prefix("-l") {
                self.find(&Library::named(name), search);
            } else if word.starts_with('/') {
                self.add(Path::new(word), search);
            } else {
                self.find(&Library { name: word.to_owned(), kind: Kind::Verbatim }, search);
            }
        }
    }
}

/// The folders that the linker behind the C compiler looks into by itself.
pub(crate) fn own_folders(compiler: Option<&Path>) -> Vec<PathBuf> {
    let said = compiler
        .and_then(|compiler| Cmd::new(compiler).arg("-print-search-dirs").read().ok())
        .unwrap_or_default();
    let line = said.lines().find_map(|line| line.strip_prefix("libraries: ")).unwrap_or_default();
    let named = line.strip_prefix('=').unwrap_or(line).split(':').filter(|folder| !folder.is_empty());
    let mut folders: Vec<PathBuf> = Vec::new();
    for folder in named.chain(LAST) {
        // One folder has many names there.
        let folder = Path::new(folder).canonicalize().unwrap_or_else(|_| folder.into());
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders
}

fn head(path: &Path) -> Vec<u8> {
    use std::io::Read;
    let mut head = Vec::new();
    // What cannot be read is not linked either.
    std::fs::File::open(path).and_then(|file| file.take(MAX_SCRIPT).read_to_end(&mut head)).ok();
    head
}

/// The files and libraries that a linker script takes in.
fn script_inputs(text: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("/*") {
        plain.push_str(before);
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    plain.push_str(rest);
    let spaced = plain.replace('(', " ( ").replace(')', " ) ").replace([',', ';', '"'], " ");
    let (mut inputs, mut depth, mut is_input, mut last) = (Vec::new(), 0_usize, false, "");
    for word in spaced.split_whitespace() {
        match word {
            "(" if depth == 0 => (depth, is_input) = (1, matches!(last, "INPUT" | "GROUP")),
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            "AS_NEEDED" => {}
            word if depth > 0 && is_input => inputs.push(word.to_owned()),
            _ => {}
        }
        last = word;
    }
    inputs
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const OBJECT: &str = "\x7fELF";

    struct Folders {
        folder: tempfile::TempDir,
    }

    impl Folders {
        fn new(files: &[(&str, &str)]) -> Folders {
            let folders = Folders { folder: tempfile::tempdir().unwrap() };
            for (name, text) in files {
                let path = folders.folder.path().join(name);
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                fs::write(path, text.replace("{}", folders.folder.path().to_str().unwrap())).unwrap();
            }
            folders
        }

        /// What is linked, what would be, and what is missing.
        fn check(&self, output: &str, is_static: bool) -> [Vec<String>; 3] {
            let path = |name: &str| self.folder.path().join(name);
            let wanted = Wanted::parse(output, self.folder.path());
            let own = [path("gone"), path("usr"), path("late")];
            let search = Search { named: wanted.folders(), own: &own, is_static };
            let Found { linked, looked_at, missing } = Found::new(&wanted, &search);
            let name = |path: &PathBuf| path.strip_prefix(self.folder.path()).unwrap().display().to_string();
            let others = looked_at.difference(&linked).map(name).collect();
            [linked.iter().map(name).collect(), others, missing.into_iter().collect()]
        }
    }

    #[test]
    fn libraries_are_looked_for_as_the_linker_does() {
        let folders = Folders::new(&[
            ("usr/libz.so", OBJECT),
            ("usr/libz.a", "!<arch>\n"),
            ("late/liby.a", "!<arch>\n"),
            ("own/liby.so", OBJECT),
            ("extra.ld", "SECTIONS { }"),
        ]);
        let none: [&str; 0] = [];
        let check = |output: &str, is_static: bool, expected: [&[&str]; 3]| {
            assert_eq!(folders.check(output, is_static), expected.map(<[&str]>::to_vec), "{output}");
        };
        check("cargo:rustc-link-lib=z", true, [&["usr/libz.a"], &["gone", "usr/libz.so"], &none]);
        check("cargo::rustc-link-lib=dylib=z", false, [&["usr/libz.so"], &["gone", "usr/libz.a"], &none]);
        check(
            "cargo::rustc-flags=-lz -L own",
            true,
            [&["usr/libz.a"], &["gone", "own/libz.a", "own/libz.so", "usr/libz.so"], &none],
        );
        let own = "cargo:rustc-link-search=native=own\ncargo:rustc-link-lib=y";
        check(own, false, [&["own/liby.so"], &["own/liby.a"], &none]);
        let others = ["gone", "late/liby.so", "own/liby.a", "own/liby.so", "usr/liby.a", "usr/liby.so"];
        check(own, true, [&["late/liby.a"], &others, &none]);
        check(
            "cargo:rustc-link-lib=static:+whole-archive=z:renamed",
            false,
            [&["usr/libz.a"], &["gone"], &none],
        );
        check(
            "cargo:rustc-link-arg=-Wl,-Textra.ld,-l:libz.a",
            false,
            [&["extra.ld", "usr/libz.a"], &["gone"], &none],
        );
        check(
            "cargo:rustc-link-lib=framework=Security\ncargo:rustc-link-search=crate=own",
            false,
            [&none; 3],
        );
        let [.., missing] = folders.check("cargo:rustc-link-lib=nowhere", false);
        assert_eq!(missing, ["nowhere"]);
    }

    #[test]
    fn linker_scripts_lead_to_the_files_behind_them() {
        let script = "/* GNU ld script */\nOUTPUT_FORMAT(elf64-x86-64)\nGROUP ( {}/lib/libm-2.a AS_NEEDED ( libmvec.a -lz ) )\n";
        let folders = Folders::new(&[
            ("usr/libm.a", script),
            ("lib/libm-2.a", "!<arch>\n"),
            ("usr/libmvec.a", "INPUT(libm.a libmvec.a)"),
            ("usr/libz.a", "!<thin>\n"),
        ]);
        let [linked, _, missing] = folders.check("cargo:rustc-link-lib=m", true);
        assert_eq!(linked, ["lib/libm-2.a", "usr/libm.a", "usr/libmvec.a", "usr/libz.a"]);
        assert!(missing[0].starts_with("members of the thin archive"), "{missing:?}");
    }
}
