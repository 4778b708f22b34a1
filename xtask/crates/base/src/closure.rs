//! The base `closure`: the loader and the shared libraries that a binary needs, taken from the toolchain that linked it, and
//! nothing else. Each lies where its loader looks first, whatever folder it has on this machine.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use oci::{Source, Tree};
use stdx::Digest;
use supply::{Component, Ecosystem, Hash, Use};

use crate::loader::Loader;

/// The shared libraries of one binary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closure {
    /// By path inside the image.
    pub files: BTreeMap<String, Library>,
}

/// A file of this machine that goes into the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Library {
    /// Where it lies on this machine.
    pub source: PathBuf,
    /// Digest of its content.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
}

/// What the `binary` needs beside itself; `locate` gives the file that the linker takes for the name of a library.
///
/// # Errors
/// When a library is not found, or a file is damaged.
pub fn closure(binary: &Path, locate: &dyn Fn(&str) -> Option<PathBuf>) -> Result<Closure> {
    let needs = elf::needs(binary)?;
    let Some(interpreter) = needs.interpreter else {
        ensure!(
            needs.libraries.is_empty(),
            "{} needs libraries and names no loader for them",
            binary.display()
        );
        return Ok(Closure::default());
    };
    let loader_name = interpreter.rsplit('/').next().unwrap_or(&interpreter);
    let found =
        locate(loader_name).or_else(|| Some(PathBuf::from(&interpreter)).filter(|path| path.exists()));
    let source = found.with_context(|| missing(loader_name, &binary.display().to_string()))?;
    let loader = Loader::new(&interpreter, &stdx::fs::read(&source)?);
    let folder = loader.folders.first().cloned().unwrap_or_else(|| "/lib".to_owned());
    let mut files = BTreeMap::from([(interpreter.clone(), Library::read(source)?)]);
    let mut seen = BTreeSet::from([loader_name.to_owned()]);
    let mut todo: VecDeque<(String, String)> =
        needs.libraries.into_iter().map(|library| (library, binary.display().to_string())).collect();
    while let Some((library, wanted_by)) = todo.pop_front() {
        if loader.is_own(&library) || !seen.insert(library.clone()) {
            continue;
        }
        ensure!(!library.contains('/'), "{wanted_by} needs {library} by path, which no image can promise");
        let source = locate(&library).with_context(|| missing(&library, &wanted_by))?;
        todo.extend(elf::needs(&source)?.libraries.into_iter().map(|next| (next, library.clone())));
        files.insert(format!("{folder}/{library}"), Library::read(source)?);
    }
    Ok(Closure { files })
}

fn missing(library: &str, wanted_by: &str) -> String {
    format!(
        "{wanted_by} needs {library}, which the linker does not find; install the package that has it, or link it statically"
    )
}

impl Library {
    fn read(source: PathBuf) -> Result<Library> {
        let file = stdx::fs::open(&source)?;
        let (digest, size) =
            Digest::of_reader(file).with_context(|| format!("cannot read {}", source.display()))?;
        Ok(Library { source, digest, size })
    }
}

impl Closure {
    /// The files as a layer.
    ///
    /// # Errors
    /// When a path is none that an image can hold.
    pub fn tree(&self) -> Result<Tree> {
        let mut tree = Tree::new();
        for (path, library) in &self.files {
            tree.file(path, 0o555, Source::Path(library.source.clone()))?;
        }
        Ok(tree)
    }

    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.values().map(|library| library.size).sum()
    }

    /// The libraries for the SBOM, each by its digest. Its version is what follows `.so.` in its name.
    pub fn components(&self) -> Vec<Component> {
        let component = |(path, library): (&String, &Library)| {
            let name = path.rsplit('/').next().unwrap_or(path);
            Component {
                ecosystem: Ecosystem::Generic,
                name: name.to_owned(),
                version: name.split_once(".so.").map_or("0", |(_, version)| version).to_owned(),
                usage: Use::Linked,
                licence: None,
                hash: Some(Hash(library.digest.hex())),
                description: Some("A shared library of the toolchain".to_owned()),
            }
        };
        self.files.iter().map(component).collect()
    }
}
