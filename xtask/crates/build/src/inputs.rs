//! Which files and variables a build depends on: those that are known before Cargo runs, and those that compilers and build
//! scripts declared while it ran.
//!
//! Source: the Cargo book, "Build Cache" (dep-info files) and "Build Scripts" (`rerun-if-*`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use cargo_metadata::PackageId;
use stdx::Cmd;
use workspace::{CargoConfig, Linkage, Settings};

use crate::compile::{Script, short_name};
use crate::fresh::{Sources, walk_sources};
use crate::native::{self, Search, Wanted};
use crate::plan::Plan;
use crate::session::Loaded;
use crate::toolchain::Toolchain;

/// Variables whose names begin so reach Cargo, compilers or linkers.
const PREFIXES: [&str; 9] =
    ["CARGO", "RUST", "CC", "CXX", "CFLAGS", "CXXFLAGS", "LDFLAGS", "AR", "PKG_CONFIG"];
/// What Cargo tells this program about itself, and what changes no bits.
const IRRELEVANT: [&str; 8] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_NAME",
    "CARGO_TERM_",
    "RUST_RECURSION_COUNT",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "CARGO_MAKEFLAGS",
];

/// What Cargo tells a package about itself: of whoever reads another variable the bits may depend on it, whatever its name.
const CARGOS_OWN: [&str; 7] = [
    "CARGO_PKG_",
    "CARGO_MANIFEST_",
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_PRIMARY_PACKAGE",
    "CARGO_MAKEFLAGS",
    "CARGO_TERM_",
];

/// Files and variables declared while a build ran.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) files: BTreeSet<PathBuf>,
    /// Those of them that were declared for the binary of one service, as Cargo itself lists them.
    pub(crate) of_service: BTreeMap<String, BTreeSet<PathBuf>>,
    /// Those of them that packages of others asked for.
    pub(crate) foreign: BTreeSet<PathBuf>,
    pub(crate) env: BTreeSet<String>,
    /// Libraries of the system that are linked because build scripts ask for them, and the packages that these are of.
    pub(crate) libraries: BTreeMap<PathBuf, BTreeSet<PackageId>>,
    /// All files that decide which ones these are, and the names of the packages that ask.
    pub(crate) looked_at: BTreeMap<PathBuf, BTreeSet<String>>,
    /// Libraries that are not where linkers look for them, and who asks for each.
    pub(crate) unresolved: BTreeMap<String, String>,
    /// Folders of local packages whose build script declared nothing: it may have read any file in them.
    pub(crate) silent: BTreeSet<PathBuf>,
}

/// Names of the variables that are set and could matter.
pub(crate) fn relevant_variables() -> BTreeSet<String> {
    let names = std::env::vars_os().filter_map(|(name, _)| name.into_string().ok());
    names.filter(|name| PREFIXES.iter().any(|prefix| name.starts_with(prefix)) && is_relevant(name)).collect()
}

fn is_relevant(name: &str) -> bool {
    !IRRELEVANT.iter().any(|prefix| name.starts_with(prefix))
}

/// What matters whatever the services are: manifests and configuration from the root upwards, the toolchain.
pub(crate) fn known(root: &Path, cargo: &CargoConfig, toolchain: &Toolchain) -> Sources {
    let mut files = BTreeSet::new();
    for name in ["Cargo.toml", "Cargo.lock", Settings::FILE, base::debian::Lock::FILE] {
        files.insert(root.join(name));
    }
    for folder in root.ancestors() {
        for name in [".cargo/config.toml", ".cargo/config", "rust-toolchain.toml", "rust-toolchain"] {
            files.insert(folder.join(name));
        }
    }
    files.extend(["config.toml", "config"].map(|name| cargo.cargo_home.join(name)));
    files.extend(workspace::configuration_files(root, &cargo.cargo_home));
    files.insert(toolchain.sysroot.join("bin/rustc"));
    let mut env = relevant_variables();
    env.extend(["PATH", "SOURCE_DATE_EPOCH"].map(str::to_owned));
    Sources { files, env, ..Sources::default() }
}

/// The objects and archives of the C toolchain that a binary is linked with, as its `compiler` finds them. Cargo does not know of
/// them.
pub(crate) fn runtime_objects(compiler: Option<&Path>) -> BTreeSet<PathBuf> {
    const NAMES: [&str; 15] = [
        "libc.a",
        "libm.a",
        "libpthread.a",
        "libgcc.a",
        "libgcc_eh.a",
        "crt1.o",
        "rcrt1.o",
        "crti.o",
        "crtbeginS.o",
        "crtn.o",
        // These count where a binary is linked to shared libraries.
        "Scrt1.o",
        "libc_nonshared.a",
        "libc.so.6",
        "libm.so.6",
        "libgcc_s.so.1",
    ];
    let Some(compiler) = compiler else { return BTreeSet::new() };
    let path = |name: &&str| {
        let printed = Cmd::new(compiler).arg(format!("-print-file-name={name}")).read().ok()?;
        // The compiler prints the bare name of what it does not find.
        Some(PathBuf::from(printed)).filter(|path| path.is_absolute())
    };
    stdx::threads::map(&NAMES, path).into_iter().flatten().collect()
}

/// What compilers and build scripts declared; `None` where Cargo left no account of it. `scripts` are those that were run. Files of
/// registries and of the toolchain are left out: the lock file and the compiler stand for them.
pub(crate) fn observed(plan: &Plan, loaded: &Loaded, scripts: &[Script]) -> Result<Option<Observed>> {
    let (cargo, members) = (&loaded.cargo, &loaded.members);
    let mut observed = Observed::default();
    for service in &plan.services {
        let dep_info = service.binary_path.with_extension("d");
        let Some(bytes) = stdx::fs::read_if_exists(&dep_info)? else { return Ok(None) };
        let files = dep_info_files(&String::from_utf8_lossy(&bytes));
        observed.files.extend(files.iter().cloned());
        observed.of_service.insert(service.name.clone(), files);
    }
    for folder in plan.profile_folders() {
        let dep_infos = list(&folder.join("deps"))
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "d"));
        for dep_info in dep_infos {
            observed.env.extend(dep_info_env(&String::from_utf8_lossy(&stdx::fs::read(&dep_info)?)));
        }
        for script in list(&folder.join("build")) {
            if let Some(output) = stdx::fs::read_if_exists(&script.join("output"))? {
                observed.add_script(&String::from_utf8_lossy(&output), package_folder(&script, members));
            }
        }
    }
    observed.add_libraries(plan, loaded, scripts)?;
    let ours = |path: &PathBuf| !path.starts_with(&cargo.cargo_home) && !path.starts_with(&plan.build_dir);
    observed.libraries.retain(|path, _| ours(path));
    observed.looked_at.retain(|path, _| ours(path));
    observed.foreign.extend(observed.looked_at.keys().cloned());
    observed.foreign.retain(ours);
    observed.of_service.values_mut().for_each(|files| files.retain(ours));
    observed.files.extend(observed.foreign.iter().cloned());
    observed.files.retain(ours);
    observed.env.retain(|name| !CARGOS_OWN.iter().any(|prefix| name.starts_with(prefix)));
    Ok(Some(observed))
}

impl Observed {
    /// What the scripts that were run ask to have linked. All of them have a say in where the linker looks.
    fn add_libraries(&mut self, plan: &Plan, loaded: &Loaded, scripts: &[Script]) -> Result<()> {
        let mut wanted = Vec::new();
        for script in scripts {
            let said = stdx::fs::read_if_exists(&script.output)?.unwrap_or_default();
            let said = String::from_utf8_lossy(&said);
            wanted.push((&script.package, Wanted::parse(&said, &plan.root)));
            let folder = script.output.parent().and_then(|folder| package_folder(folder, &loaded.members));
            self.silent.extend(folder.filter(|_| !said.contains("rerun-if-")).map(Path::to_owned));
        }
        if wanted.iter().all(|(_, wanted)| wanted.is_empty()) {
            return Ok(());
        }
        let mut named: Vec<PathBuf> = Vec::new();
        for folder in wanted.iter().flat_map(|(_, wanted)| wanted.folders()) {
            if !named.contains(folder) {
                named.push(folder.clone());
            }
        }
        let own = native::own_folders(loaded.compiler.as_deref());
        let is_static = plan.services.iter().all(|service| service.linkage() == Linkage::Static);
        let search = Search { named: &named, own: &own, is_static };
        for (package, wanted) in wanted {
            let found = native::Found::new(&wanted, &search);
            let name = short_name(&package.repr).to_owned();
            for path in found.linked {
                self.libraries.entry(path).or_default().insert(package.clone());
            }
            for path in found.looked_at {
                self.looked_at.entry(path).or_default().insert(name.clone());
            }
            self.unresolved.extend(found.missing.into_iter().map(|library| (library, name.clone())));
        }
        Ok(())
    }

    fn add_script(&mut self, output: &str, package: Option<&Path>) {
        for line in output.lines() {
            let Some(line) = line.strip_prefix("cargo::").or_else(|| line.strip_prefix("cargo:")) else {
                continue;
            };
            if let Some(name) = line.strip_prefix("rerun-if-env-changed=") {
                self.env.insert(name.to_owned());
            }
            let Some(path) = line.strip_prefix("rerun-if-changed=").map(Path::new) else { continue };
            match package {
                Some(package) => add(&package.join(path), &mut self.files),
                // A path inside a package of the registry changes with its version only; one out of it is of this machine.
                None if path.is_absolute() => add(path, &mut self.foreign),
                None => {}
            }
        }
    }
}

/// Adds a file that is there or not, or a folder with what is in it.
fn add(path: &Path, files: &mut BTreeSet<PathBuf>) {
    if path.is_dir() {
        walk_sources(path, files);
    }
    files.insert(path.to_owned());
}

/// The local package that a build script's output folder (`<name>-<hash>`) belongs to.
fn package_folder<'a>(script: &Path, members: &'a [(PathBuf, String)]) -> Option<&'a Path> {
    let name = script.file_name()?.to_str()?.rsplit_once('-')?.0;
    members.iter().find(|(_, member)| member == name).map(|(folder, _)| folder.as_path())
}

fn list(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// The prerequisites of the first rule of a dep-info file; spaces inside names are escaped by a backslash.
fn dep_info_files(text: &str) -> BTreeSet<PathBuf> {
    let rule =
        text.lines().find_map(|line| line.split_once(": ")).map_or("", |(_, prerequisites)| prerequisites);
    let unescaped = rule.replace("\\ ", "\0");
    unescaped.split_whitespace().map(|name| PathBuf::from(name.replace('\0', " "))).collect()
}

/// The variables that a dep-info file says were read at compile time.
fn dep_info_env(text: &str) -> impl Iterator<Item = String> {
    let names = text.lines().filter_map(|line| line.strip_prefix("# env-dep:"));
    names.filter_map(|dep| dep.split('=').next()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dep_info_is_read_as_cargo_writes_it() {
        let text = "/t/api: /w/a.rs /w/with\\ space.sql\n\n/w/a.rs:\n# env-dep:API_KEY=1\n# env-dep:UNSET\n";
        let files: Vec<_> = dep_info_files(text).into_iter().collect();
        assert_eq!(files, [PathBuf::from("/w/a.rs"), PathBuf::from("/w/with space.sql")]);
        assert_eq!(dep_info_env(text).collect::<Vec<_>>(), ["API_KEY", "UNSET"]);
    }

    #[test]
    fn build_scripts_declare_files_and_variables_in_both_spellings() {
        let mut observed = Observed::default();
        let output = "cargo:rerun-if-env-changed=A\ncargo::rerun-if-env-changed=B\ncargo::rerun-if-changed=../proto/x\nnoise\n";
        observed.add_script(output, Some(Path::new("/w/services/api")));
        assert_eq!(observed.env.into_iter().collect::<Vec<_>>(), ["A", "B"]);
        assert_eq!(
            observed.files.into_iter().collect::<Vec<_>>(),
            [PathBuf::from("/w/services/api/../proto/x")]
        );
    }
}
