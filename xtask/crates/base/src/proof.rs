//! Proof without running that what is in a root can be started: for every ELF file its loader, its libraries and the symbol
//! versions that it needs are there, where its loader will look; and links lead somewhere. What is opened while a program runs
//! (`dlopen`) nobody can know beforehand: such files are proved by themselves.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use anyhow::Result;
use elf::{Needs, SearchPath};
use oci::{Entry, Source};

use crate::loader::{self, Loader};
use crate::root::{Root, beginning};

/// What is started, and how.
#[derive(Debug, Clone, Default)]
pub struct Start<'a> {
    /// Processor, in Go's words.
    pub architecture: &'a str,
    /// Path of the program; `None` where nobody knows yet.
    pub program: Option<&'a str>,
    /// Folders of the variable LD_LIBRARY_PATH.
    pub library_path: Vec<&'a str>,
    /// Where folders of this machine or of a volume will be mounted: what a link leads to there may be missing now.
    pub mounts: Vec<&'a str>,
}

/// Why something in the root cannot be started.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path inside the root.
    pub file: String,
    /// What is wrong with it.
    pub kind: Kind,
}

/// What is wrong with a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The program of the image is not there.
    NoProgram,
    /// The program is no file that can be executed.
    NotExecutable,
    /// It is for another processor.
    Machine {
        /// The file's, in Go's words.
        found: String,
        /// The image's.
        wanted: String,
    },
    /// It cannot be read as what it says it is.
    Damaged(String),
    /// The loader, or the interpreter of a script, is not there.
    Interpreter(String),
    /// It is the loader of a program, or the interpreter of a script, and nobody may execute it.
    InterpreterMode,
    /// A library is not where the loader looks.
    Library(String),
    /// A library is there, and does not have what is needed from it.
    Version {
        /// Name of the library.
        library: String,
        /// For instance `GLIBC_2.38`.
        version: String,
        /// The newest of the same kind that the library has.
        newest: Option<String>,
    },
    /// A link that leads to nothing.
    Link(String),
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let file = &self.file;
        match &self.kind {
            Kind::NoProgram => write!(f, "/{file}, the image's program, is not in the image"),
            Kind::NotExecutable => write!(f, "/{file}, the image's program, is no file that can be executed"),
            Kind::Machine { found, wanted } => write!(f, "/{file} is for {found} and the image for {wanted}"),
            Kind::Damaged(why) => write!(f, "/{file} is damaged: {why}"),
            Kind::Interpreter(path) => write!(f, "/{file} is started by {path}, which is not in the image"),
            Kind::InterpreterMode => write!(f, "/{file} starts others, and may not be executed"),
            Kind::Library(name) => write!(f, "/{file} needs {name}, which is nowhere that its loader looks"),
            Kind::Version { library, version, newest: Some(newest) } => {
                write!(f, "/{file} needs {version} of {library}, and the image's has {newest} at most")
            }
            Kind::Version { library, version, newest: None } => {
                write!(f, "/{file} needs {version} of {library}, and the image's has no such version")
            }
            Kind::Link(target) => write!(f, "/{file} is a link to {target}, which is not in the image"),
        }
    }
}

impl Problem {
    /// What to do about it.
    pub fn cure(&self) -> &'static str {
        match &self.kind {
            Kind::NoProgram | Kind::NotExecutable => "name a program that is in the image",
            Kind::Machine { .. } => "take the base and the files for the image's processor",
            Kind::Damaged(_) | Kind::InterpreterMode => "see how the file was made",
            Kind::Interpreter(_) | Kind::Library(_) => {
                "take the base `static` or `closure`, or add the package that has it to the base"
            }
            Kind::Version { library, .. } if is_of_libc(library) => {
                "build where the C library is not newer than the base's, take a newer base, or `static` or `closure`"
            }
            Kind::Version { .. } => {
                "take a base with a newer version of the library, or `static` or `closure`"
            }
            Kind::Link(_) => "add what the link leads to, or leave the link out",
        }
    }
}

fn is_of_libc(library: &str) -> bool {
    ["libc.so", "libm.so", "ld-linux", "libpthread.so", "libdl.so", "librt.so"]
        .iter()
        .any(|name| library.starts_with(name))
}

/// Proves that everything in `root` can be started; gives all reasons why not, each once, in order of paths.
///
/// # Errors
/// When a file of the root cannot be read on this machine.
pub fn prove(root: &Root<'_>, start: &Start<'_>) -> Result<Vec<Problem>> {
    let mut proof = Proof::new(root, start)?;
    proof.links();
    proof.files();
    proof.program()?;
    Ok(proof.problems.into_iter().collect())
}

struct Proof<'a> {
    root: &'a Root<'a>,
    start: &'a Start<'a>,
    /// Every loadable ELF file of the root, by its real path.
    files: BTreeMap<&'a str, Needs>,
    /// What `ldconfig` found, where it was run.
    cached: BTreeMap<String, String>,
    loaders: BTreeMap<String, Loader>,
    problems: BTreeSet<Problem>,
}

/// A file of a process, and who asked for it.
struct Loaded {
    path: String,
    /// The folders that this file and those above it want searched for what is below them.
    inherited: Vec<String>,
}

impl<'a> Proof<'a> {
    fn new(root: &'a Root<'a>, start: &'a Start<'a>) -> Result<Proof<'a>> {
        let content = |path: &str| root.file(path).map(|(_, source)| beginning(source, 64 << 20)).transpose();
        let cached = content("/etc/ld.so.cache")?.map(|bytes| loader::cached(&bytes)).unwrap_or_default();
        let mut proof = Proof {
            root,
            start,
            files: BTreeMap::new(),
            cached,
            loaders: BTreeMap::new(),
            problems: BTreeSet::new(),
        };
        for (path, entry) in root.iter() {
            let Entry::File { source, .. } = entry else { continue };
            if !elf::is_elf(&beginning(source, 4)?) {
                continue;
            }
            let needs = match source {
                Source::Bytes(bytes) => elf::needs_of(bytes),
                Source::Path(path) => elf::needs(path),
            };
            match needs {
                Ok(needs) if needs.is_loadable => proof.add(path, needs)?,
                Ok(_) => {}
                Err(error) => proof.report(path, Kind::Damaged(error.root_cause().to_string())),
            }
        }
        Ok(proof)
    }

    fn add(&mut self, path: &'a str, needs: Needs) -> Result<()> {
        if needs.machine != self.start.architecture {
            let kind = Kind::Machine { found: needs.machine, wanted: self.start.architecture.to_owned() };
            self.report(path, kind);
            return Ok(());
        }
        if let Some(interpreter) = &needs.interpreter
            && !self.loaders.contains_key(interpreter)
            && let Some((_, source)) = self.root.file(interpreter)
        {
            let loader = Loader::new(interpreter, &beginning(source, 16 << 20)?);
            self.loaders.insert(interpreter.clone(), loader);
        }
        self.files.insert(path, needs);
        Ok(())
    }

    fn report(&mut self, file: &str, kind: Kind) {
        self.problems.insert(Problem { file: file.to_owned(), kind });
    }

    fn links(&mut self) {
        for (path, entry) in self.root.iter() {
            let Entry::Symlink { target } = entry else { continue };
            if self.root.resolve(path).is_none() && !self.is_mounted(path, target) {
                self.report(path, Kind::Link(target.clone()));
            }
        }
    }

    /// Whether a link leads to a place that an engine fills when it starts the container.
    fn is_mounted(&self, path: &str, target: &str) -> bool {
        let absolute = if target.starts_with('/') {
            target.to_owned()
        } else {
            let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
            format!("/{folder}/{target}")
        };
        let absolute = without_dots(&absolute);
        let fixed = ["/proc", "/sys", "/dev", "/run", "/var/run", "/tmp"];
        let below = |folder: &&str| {
            absolute.strip_prefix(*folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        let engine = ["/etc/mtab", "/etc/hostname", "/etc/hosts", "/etc/resolv.conf"];
        fixed.iter().chain(&self.start.mounts).any(below) || engine.contains(&absolute.as_str())
    }

    /// Programs with all that they load, then the libraries that no program asked for.
    fn files(&mut self) {
        let mut seen = BTreeSet::new();
        let programs: Vec<&str> = self
            .files
            .iter()
            .filter(|(_, needs)| needs.interpreter.is_some())
            .map(|(path, _)| *path)
            .collect();
        for program in programs {
            let interpreter = self.files[program].interpreter.clone().unwrap_or_default();
            self.may_start(&interpreter);
            match self.loaders.get(&interpreter).cloned() {
                Some(loader) => seen.extend(self.process(program, &interpreter, &loader)),
                // The loader of a library that can also be run (libc.so.6 is one) is its own affair as long as nobody runs it.
                None if self.files[program].name.is_some() => {}
                None => self.report(program, Kind::Interpreter(interpreter)),
            }
        }
        let Some((interpreter, loader)) =
            self.loaders.iter().next().map(|(path, loader)| (path.clone(), loader.clone()))
        else {
            let needy = |(path, needs): (&&'a str, &Needs)| Some((*path, needs.libraries.first()?.clone()));
            let needy: Vec<_> = self.files.iter().filter_map(needy).collect();
            for (path, library) in needy {
                self.report(path, Kind::Library(library));
            }
            return;
        };
        let rest: Vec<&str> = self.files.keys().copied().filter(|path| !seen.contains(*path)).collect();
        for library in rest {
            self.process(library, &interpreter, &loader);
        }
    }

    /// Loads `program` as its loader would, and gives the real paths of all files of the process.
    fn process(&mut self, program: &str, interpreter: &str, loader: &Loader) -> BTreeSet<String> {
        // The loader is in the process before everything else.
        let mut by_name: BTreeMap<String, String> = BTreeMap::new();
        if let Some(path) = self.root.resolve(interpreter) {
            by_name.extend(interpreter.rsplit('/').next().map(|name| (name.to_owned(), path)));
        }
        let mut seen = BTreeSet::from([program.to_owned()]);
        let first = Loaded { path: program.to_owned(), inherited: Vec::new() };
        let mut todo = VecDeque::from([first]);
        let mut needed = Vec::new();
        while let Some(file) = todo.pop_front() {
            let Some(needs) = self.files.get(file.path.as_str()).cloned() else { continue };
            let (own, inherited) = self.folders(&file, &needs);
            for library in needs.libraries.iter().filter(|library| !loader.is_own(library)) {
                if by_name.contains_key(library) {
                    continue;
                }
                let Some(path) = self.find(library, &own, loader) else {
                    self.report(&file.path, Kind::Library(library.clone()));
                    continue;
                };
                by_name.insert(library.clone(), path.clone());
                if let Some(name) = self.files.get(path.as_str()).and_then(|needs| needs.name.clone()) {
                    by_name.entry(name).or_insert_with(|| path.clone());
                }
                if seen.insert(path.clone()) {
                    todo.push_back(Loaded { path, inherited: inherited.clone() });
                }
            }
            needed.push((file.path, needs.versions));
        }
        if !loader.is_musl {
            self.versions(needed, &by_name);
        }
        seen
    }

    /// Where the libraries of `file` are looked for before the loader's own folders, and what files below it inherit.
    fn folders(&self, file: &Loaded, needs: &Needs) -> (Vec<String>, Vec<String>) {
        let origin = file.path.rsplit_once('/').map_or("", |(folder, _)| folder);
        let real = |folder: &String| {
            folder.replace("${ORIGIN}", "$ORIGIN").replace("$ORIGIN", &format!("/{origin}"))
        };
        let environment = self.start.library_path.iter().map(|folder| (*folder).to_owned());
        match &needs.run_path {
            Some(SearchPath::Own(folders)) => {
                (environment.chain(folders.iter().map(real)).collect(), file.inherited.clone())
            }
            Some(SearchPath::Inherited(folders)) => {
                let inherited: Vec<String> =
                    folders.iter().map(real).chain(file.inherited.iter().cloned()).collect();
                (inherited.iter().cloned().chain(environment).collect(), inherited)
            }
            None => (file.inherited.iter().cloned().chain(environment).collect(), file.inherited.clone()),
        }
    }

    fn find(&self, library: &str, folders: &[String], loader: &Loader) -> Option<String> {
        // A loader passes over files that are not for its processor.
        let usable =
            |path: &str| self.root.resolve(path).filter(|real| self.files.contains_key(real.as_str()));
        if library.contains('/') {
            return usable(library);
        }
        let inside = |folder: &String| usable(&format!("{folder}/{library}"));
        folders
            .iter()
            .find_map(inside)
            .or_else(|| self.cached.get(library).and_then(|path| usable(path)))
            .or_else(|| loader.folders.iter().find_map(inside))
    }

    fn versions(
        &mut self,
        needed: Vec<(String, BTreeMap<String, BTreeSet<String>>)>,
        by_name: &BTreeMap<String, String>,
    ) {
        for (file, versions) in needed {
            for (library, versions) in versions {
                let provider = by_name.get(&library).and_then(|path| self.files.get(path.as_str()));
                // Without any versions in it a library serves all; and one that is missing was reported.
                let Some(provides) = provider.map(|needs| &needs.provides).filter(|all| !all.is_empty())
                else {
                    continue;
                };
                let missing = versions.iter().filter(|version| !provides.contains(*version));
                let kinds: Vec<Kind> = missing
                    .map(|version| Kind::Version {
                        library: library.clone(),
                        version: version.clone(),
                        newest: newest(provides, version),
                    })
                    .collect();
                for kind in kinds {
                    self.report(&file, kind);
                }
            }
        }
    }

    /// A kernel executes the interpreter by itself, with its own permission bits.
    fn may_start(&mut self, interpreter: &str) {
        if let Some((mode, _)) = self.root.file(interpreter)
            && mode & 0o001 == 0
        {
            let real = self.root.resolve(interpreter).unwrap_or_default();
            self.report(&real, Kind::InterpreterMode);
        }
    }

    fn program(&mut self) -> Result<()> {
        let Some(program) = self.start.program else { return Ok(()) };
        let file = program.trim_start_matches('/');
        let Some(real) = self.root.resolve(program) else {
            self.report(file, Kind::NoProgram);
            return Ok(());
        };
        let Some((mode, source)) = self.root.file(&real) else {
            self.report(file, Kind::NotExecutable);
            return Ok(());
        };
        if mode & 0o001 == 0 {
            self.report(file, Kind::NotExecutable);
        }
        let head = beginning(source, 256)?;
        if let Some(line) = head.strip_prefix(b"#!") {
            let line = line.split(|byte| *byte == b'\n').next().unwrap_or_default();
            let line = String::from_utf8_lossy(line).trim().to_owned();
            let interpreter = line.split_whitespace().next().unwrap_or_default().to_owned();
            self.may_start(&interpreter);
            if self.root.file(&interpreter).is_none() {
                self.report(file, Kind::Interpreter(interpreter));
            }
        } else if !elf::is_elf(&head) {
            self.report(file, Kind::NotExecutable);
        }
        Ok(())
    }
}

/// `path` with `.` and `..` worked out as text.
fn without_dots(path: &str) -> String {
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()),
            name => names.push(name),
        }
    }
    format!("/{}", names.join("/"))
}

/// The highest version in `provides` with the same word in front as `version`: `GLIBC_2.36` for `GLIBC_2.38`.
fn newest(provides: &BTreeSet<String>, version: &str) -> Option<String> {
    let word = |version: &str| version.split_once('_').map(|(word, _)| word.to_owned());
    let numbers = |version: &str| -> Option<Vec<u32>> {
        version.split_once('_')?.1.split('.').map(|part| part.parse().ok()).collect()
    };
    let same = provides.iter().filter(|one| word(one) == word(version) && numbers(one).is_some());
    same.max_by_key(|one| numbers(one)).cloned()
}

#[cfg(test)]
mod tests;
