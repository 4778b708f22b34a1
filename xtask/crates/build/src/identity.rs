//! What the toolchain is, by content: two machines that give different bits can see which part of it differs. A file is read
//! once and then known by what the file system says of it; what was found is kept beside the build's state.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use stdx::{Cmd, Digest};
use workspace::CargoConfig;

use crate::cross;
use crate::fresh::Stamp;
use crate::toolchain::Toolchain;

const SCHEMA: &str = "slipway.toolchain/1";

/// What a toolchain is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Versions and digests by name.
    pub(crate) facts: BTreeMap<String, String>,
    /// Every file that counts, what it is part of, and its state.
    pub(crate) files: BTreeMap<PathBuf, (String, Stamp)>,
}

/// Where to look.
pub(crate) struct Places<'a> {
    pub(crate) root: &'a Path,
    pub(crate) toolchain: &'a Toolchain,
    pub(crate) cargo: &'a CargoConfig,
    /// Variables that the build sets: the linker and the C compiler of another processor are among them.
    pub(crate) env: &'a BTreeMap<String, Option<String>>,
    /// Objects and archives of the C library.
    pub(crate) runtime: &'a BTreeSet<PathBuf>,
    /// The file that keeps what was found.
    pub(crate) memory: &'a Path,
}

impl Places<'_> {
    /// What the build sets the variable to, or what this process has.
    fn variable(&self, name: &str) -> Option<OsString> {
        let set = self.env.get(name).cloned().flatten().map(OsString::from);
        set.or_else(|| std::env::var_os(name)).filter(|value| !value.is_empty())
    }

    fn chosen_linker(&self) -> Option<PathBuf> {
        let variable = cross::linker_variable(&self.cargo.target);
        self.cargo.linker.clone().or_else(|| self.env.get(&variable)?.clone().map(PathBuf::from))
    }
}

/// What is kept from one time to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Memory {
    schema: String,
    stamps: BTreeMap<PathBuf, Stamp>,
    /// How rustc calls the linker, by what it was asked with.
    link_args: BTreeMap<String, String>,
    /// What programs say of their versions, by their digests.
    versions: BTreeMap<Digest, String>,
}

/// The programs that make one file of many objects.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Linker {
    /// The C compiler that rustc calls, where it calls one.
    driver: Option<PathBuf>,
    /// The linker proper.
    program: PathBuf,
    /// What tells its version: another name of it may be needed.
    speaker: PathBuf,
}

impl Identity {
    /// Finds out what the toolchain is. What cannot be found is said in its place.
    pub(crate) fn find(places: &Places<'_>) -> Identity {
        let mut memory = Memory::load(places.memory);
        let mut identity = Identity::default();
        let before = memory.clone();
        identity.rustc(places, &mut memory);
        identity.linker(places, &mut memory);
        identity.c_compiler(places, &mut memory);
        for path in places.runtime {
            let name = format!("libc.{}", path.file_name().unwrap_or_default().display());
            let digest = identity.add("C library", path, &mut memory);
            identity
                .facts
                .insert(name, digest.map_or_else(|| "absent".to_owned(), |digest| digest.to_string()));
        }
        memory.stamps.retain(|path, _| identity.files.contains_key(path));
        if before != memory {
            // It saves time and no more.
            serde_json::to_vec(&memory)
                .ok()
                .map(|bytes| stdx::fs::write_atomic(places.memory, &bytes, 0o644));
        }
        identity
    }

    fn rustc(&mut self, places: &Places<'_>, memory: &mut Memory) {
        let Toolchain { release, commit, host, sysroot } = places.toolchain;
        self.facts.insert("rustc".to_owned(), format!("{release} ({commit})"));
        self.facts.insert("rustc.host".to_owned(), host.clone());
        let is_driver = |name: &str| name.starts_with("librustc_driver") || name.starts_with("libLLVM");
        let mut driver = list(&sysroot.join("lib"), &is_driver);
        driver.push(sysroot.join("bin/rustc"));
        self.add_all("rustc.driver", "compiler", &driver, memory);
        let library = sysroot.join("lib/rustlib").join(&places.cargo.target).join("lib");
        let is_library = |name: &str| {
            [".rlib", ".rmeta", ".o", ".a"].iter().any(|end| name.ends_with(end))
                && !name.contains("-stable_rt.")
        };
        let mut files = list(&library, &is_library);
        files.extend(list(&library.join("self-contained"), &|_| true));
        self.add_all("std", "standard library", &files, memory);
    }

    fn linker(&mut self, places: &Places<'_>, memory: &mut Memory) {
        let linker = match link_args(places, memory).and_then(|args| parse_linker(&args, &ask)) {
            Ok(linker) => linker,
            Err(_) => {
                // Why is no fact: it would carry paths of this machine into keys and documents.
                self.facts.insert("linker".to_owned(), "unknown".to_owned());
                return;
            }
        };
        self.add_program("linker", "linker", &linker.program, &linker.speaker, memory);
        if let Some(driver) = &linker.driver {
            self.add_program("linker.driver", "linker's driver", driver, driver, memory);
        }
    }

    /// What build scripts compile C with, as the `cc` crate looks for it.
    fn c_compiler(&mut self, places: &Places<'_>, memory: &mut Memory) {
        let target = &places.cargo.target;
        let names = [
            format!("CC_{target}"),
            format!("CC_{}", target.replace('-', "_")),
            "TARGET_CC".to_owned(),
            "CC".to_owned(),
        ];
        let set = names.iter().find_map(|name| places.variable(name));
        let Some(compiler) = which(&set.unwrap_or_else(|| "cc".into())) else {
            self.facts.insert("cc".to_owned(), "absent".to_owned());
            return;
        };
        self.add_program("cc", "C compiler", &compiler, &compiler, memory);
        for part in ["cc1", "as"] {
            let found = ask(&compiler, part).filter(|path| path.is_file());
            if let Some(digest) = found.and_then(|path| self.add("C compiler", &path, memory)) {
                self.facts.insert(format!("cc.{part}"), digest.to_string());
            }
        }
    }

    fn add_program(&mut self, name: &str, role: &str, program: &Path, speaker: &Path, memory: &mut Memory) {
        let Some(digest) = self.add(role, program, memory) else {
            self.facts.insert(name.to_owned(), "absent".to_owned());
            return;
        };
        // Compilers put the name that they were called by first: a link to one must not seem another one.
        let speaker = speaker.canonicalize().unwrap_or_else(|_| speaker.to_owned());
        let version = memory.versions.entry(digest).or_insert_with(|| {
            let said = Cmd::new(speaker).arg("--version").read().unwrap_or_default();
            said.lines().next().unwrap_or("of an unknown version").to_owned()
        });
        self.facts.insert(name.to_owned(), version.clone());
        self.facts.insert(format!("{name}.digest"), digest.to_string());
    }

    /// One digest for several files, by their names and contents.
    fn add_all(&mut self, name: &str, role: &str, files: &[PathBuf], memory: &mut Memory) {
        let mut text = String::new();
        for path in files {
            if let Some(digest) = self.add(role, path, memory) {
                text.push_str(&format!("{} {digest}\n", path.file_name().unwrap_or_default().display()));
            }
        }
        let digest = if text.is_empty() { "absent".to_owned() } else { Digest::of(text).to_string() };
        self.facts.insert(name.to_owned(), digest);
    }

    /// The digest of a file, which is read only where the file system says that it may have changed.
    fn add(&mut self, role: &str, path: &Path, memory: &mut Memory) -> Option<Digest> {
        let path = path.canonicalize().ok()?;
        let known =
            memory.stamps.get(&path).filter(|stamp| stamp.still_holds(&path).unwrap_or(false)).cloned();
        let stamp = match known {
            Some(stamp) => stamp,
            None => Stamp::take(&path).ok()??,
        };
        let digest = stamp.digest;
        memory.stamps.insert(path.clone(), stamp.clone());
        self.files.entry(path).or_insert((role.to_owned(), stamp));
        Some(digest)
    }
}

impl Memory {
    fn load(path: &Path) -> Memory {
        let bytes = stdx::fs::read_if_exists(path).ok().flatten();
        let memory = bytes.and_then(|bytes| serde_json::from_slice::<Memory>(&bytes).ok());
        let fresh = Memory { schema: SCHEMA.to_owned(), ..Memory::default() };
        memory.filter(|memory| memory.schema == SCHEMA).unwrap_or(fresh)
    }
}

fn rustc(root: &Path) -> Cmd {
    Cmd::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into())).cwd(root)
}

/// How rustc calls the linker for these flags: it is asked to link a program that does nothing.
fn link_args(places: &Places<'_>, memory: &mut Memory) -> Result<String> {
    let flags = places.cargo.image_rustflags();
    let path = std::env::var("PATH").unwrap_or_default();
    let Toolchain { release, commit, .. } = places.toolchain;
    let linker = places.chosen_linker();
    let key = format!("{release} {commit} {} {flags:?} {linker:?} {path}", places.cargo.target);
    if let Some(args) = memory.link_args.get(&key) {
        return Ok(args.clone());
    }
    let folder = tempfile::tempdir().context("cannot create a folder")?;
    let source = folder.path().join("probe.rs");
    std::fs::write(&source, "fn main() {}\n").context("cannot write a program that does nothing")?;
    let mut cmd = rustc(places.root).args(["--print=link-args", "--crate-name=probe", "--target"]);
    cmd = cmd.arg(&places.cargo.target).args(flags).arg("-o").arg(folder.path().join("probe")).arg(source);
    if let Some(linker) = linker {
        let mut flag = OsString::from("-Clinker=");
        flag.push(linker);
        cmd = cmd.arg(flag);
    }
    let args = cmd.read()?;
    memory.link_args = BTreeMap::from([(key, args.clone())]);
    Ok(args)
}

/// The linker in a command line as rustc prints it: variables, the program, and arguments in quotes. `ask` gives the path of a part
/// of a C compiler.
fn parse_linker(printed: &str, ask: &dyn Fn(&Path, &str) -> Option<PathBuf>) -> Result<Linker> {
    let line = printed.lines().next().unwrap_or_default();
    let words: Vec<&str> = line.split('"').collect();
    // Outside quotes stand only spaces, and names of variables that end in `=`.
    let pairs = words.chunks(2).filter_map(|pair| Some((*pair.first()?, *pair.get(1)?)));
    let args: Vec<&str> =
        pairs.filter(|(before, _)| !before.trim_end().ends_with('=')).map(|(_, word)| word).collect();
    let program = args.first().filter(|program| !program.is_empty()).context("rustc prints no linker")?;
    let found =
        which(&OsString::from(program)).with_context(|| format!("there is no program `{program}`"))?;
    let name = Path::new(program).file_name().unwrap_or_default().to_string_lossy().into_owned();
    if name == "ld" || ["ld.", "lld", "rust-lld", "mold", "wild"].iter().any(|start| name.starts_with(start))
    {
        return Ok(Linker { driver: None, program: found.clone(), speaker: found });
    }
    let chosen = args.iter().rev().find_map(|arg| arg.strip_prefix("-fuse-ld="));
    let mut own =
        args.iter().filter_map(|arg| arg.strip_prefix("-B")).map(|folder| Path::new(folder).join("ld.lld"));
    let own = own.rfind(|wrapper| wrapper.is_file() && chosen == Some("lld"));
    if let Some(wrapper) = own {
        // The toolchain's own wrapper starts the linker beside its folder.
        let linker = wrapper.parent().and_then(Path::parent).map(|folder| folder.join("rust-lld"));
        let program = linker.filter(|path| path.is_file()).unwrap_or_else(|| wrapper.clone());
        return Ok(Linker { driver: Some(found), program, speaker: wrapper });
    }
    let part = chosen.map_or_else(|| "ld".to_owned(), |name| format!("ld.{name}"));
    let program = ask(&found, &part).with_context(|| format!("{} knows no `{part}`", found.display()))?;
    Ok(Linker { driver: Some(found), speaker: program.clone(), program })
}

/// The path of a part of a C compiler.
fn ask(compiler: &Path, part: &str) -> Option<PathBuf> {
    let printed = Cmd::new(compiler).arg(format!("-print-prog-name={part}")).read().ok()?;
    which(&OsString::from(printed))
}

/// The program of this name or path.
fn which(program: &OsString) -> Option<PathBuf> {
    let path = Path::new(program);
    if path.components().count() > 1 {
        return path.is_file().then(|| path.to_owned());
    }
    let folders = std::env::var_os("PATH")?;
    std::env::split_paths(&folders).map(|folder| folder.join(path)).find(|path| path.is_file())
}

/// Files in the folder whose names fit, sorted.
fn list(folder: &Path, fits: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let paths = entries.map(|entry| entry.path());
    let mut paths: Vec<PathBuf> = paths
        .filter(|path| path.is_file() && path.file_name().and_then(|name| name.to_str()).is_some_and(fits))
        .collect();
    paths.sort();
    paths
}

/// What is known to go wrong with a linker that the user chose; `None` where nothing is.
pub(crate) fn linker_warning(cargo: &CargoConfig) -> Option<String> {
    let by_setting = cargo.linker.as_ref().map(|linker| linker.display().to_string());
    let by_flag = cargo.rustflags.iter().rev().find_map(|flag| {
        let linker = flag.split_once("linker=").map(|(_, name)| name);
        linker.or_else(|| flag.split_once("fuse-ld=").map(|(_, name)| name))
    });
    let name = by_flag.map(str::to_owned).or(by_setting)?;
    let short = Path::new(&name).file_name().unwrap_or_default().to_string_lossy().into_owned();
    // Another processor's C compiler is the only linker there is.
    if short.ends_with("-gcc")
        || short.ends_with("-cc")
        || short == "cc"
        || short == "gcc"
        || short.starts_with("rust-lld")
    {
        return None;
    }
    let known = if short.contains("wild") {
        "it is known to give other bits from time to time"
    } else {
        "its version decides the bits, and other machines have other versions"
    };
    Some(format!(
        "Cargo's configuration or flags name the linker `{name}`: {known}; leave it out, and the toolchain's own is used"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_linker_is_read_from_what_rustc_prints() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("gcc-ld")).unwrap();
        for name in ["cc", "rust-lld", "gcc-ld/ld.lld", "ld.mold", "ld"] {
            std::fs::write(path(name), "").unwrap();
        }
        let ask = |_: &Path, part: &str| Some(path(part)).filter(|path| path.is_file());
        let check = |args: &str| {
            let text = format!("LC_ALL=\"C\" PATH=\"/a:/b\" \"{}\" \"-m64\" {args}\n", path("cc").display());
            parse_linker(&text, &ask).map(|linker| linker.program)
        };
        let own = format!("\"-B{}\" \"-fuse-ld=lld\"", path("gcc-ld").display());
        assert_eq!(check(&own).unwrap(), path("rust-lld"));
        assert_eq!(check(&format!("{own} \"-fuse-ld=mold\"")).unwrap(), path("ld.mold"));
        assert_eq!(check("").unwrap(), path("ld"));
        assert!(check("\"-fuse-ld=gold\"").unwrap_err().to_string().contains("ld.gold"));
        let direct = parse_linker(&format!("\"{}\" \"-flavor\"", path("rust-lld").display()), &ask).unwrap();
        assert_eq!((direct.driver, direct.program), (None, path("rust-lld")));
    }

    #[test]
    fn linkers_that_others_lack_are_warned_of() {
        let check = |flags: &[&str], linker: Option<&str>| {
            let cargo = CargoConfig {
                target: "x86_64-unknown-linux-gnu".into(),
                rustflags: flags.iter().map(|flag| (*flag).to_owned()).collect(),
                linker: linker.map(PathBuf::from),
                cargo_home: "/c".into(),
                env: BTreeMap::new(),
                forced_env: vec![],
            };
            linker_warning(&cargo).unwrap_or_default()
        };
        assert!(check(&["-C", "link-arg=-fuse-ld=mold"], None).contains("`mold`"));
        assert!(check(&["-Clink-arg=--ld-path=x", "-Clinker=wild"], None).contains("from time to time"));
        assert!(check(&[], Some("/opt/clang")).contains("`/opt/clang`"));
        assert_eq!(check(&[], Some("aarch64-linux-gnu-gcc")), "");
        assert_eq!(check(&["-Copt-level=3"], None), "");
    }
}
