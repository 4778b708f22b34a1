//! Finds the parts of each action on this machine, named so that another machine finds the same: folders by what they are for,
//! never by where they are. It does not know what is done with them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Package, PackageId};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use workspace::{GraphUnit, UnitGraph};

use crate::action::{Parts, Sort};
use crate::allowance::Allowance;
use crate::fresh::{Inputs, variable, walk_sources};
use crate::graph;
use crate::inputs::{self, Observed};
use crate::plan::{Plan, ServicePlan};
use crate::sbom;
use crate::session::Loaded;

/// To be raised when the same parts come to mean another result.
const FORMAT: &str = "3";
/// What stands for the workspace's folder in names that other machines read.
const WORKSPACE: &str = "{workspace}";

/// Variables that reach Cargo and change no bits, or do so by what counts already: flags, folders, compilers, where packages
/// come from.
const COVERED: [&str; 18] = [
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_JOBS",
    "CARGO_INCREMENTAL",
    "CARGO_BUILD_INCREMENTAL",
    "CARGO_ALIAS_",
    "CARGO_REGISTR",
    "CARGO_SOURCE_",
    "CARGO_NET_",
    "CARGO_HTTP_",
    "CARGO_CACHE_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_BUILD_RUSTFLAGS",
    "RUSTFLAGS",
    "RUSTUP_",
    "RUST_TEST",
];
/// What code that declares a variable may read without a difference: where folders are, and flags that count already.
const PLACES: [&str; 9] = [
    "CARGO",
    "CARGO_BUILD_BUILD_DIR",
    "CARGO_BUILD_RUSTFLAGS",
    "CARGO_BUILD_TARGET_DIR",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_HOME",
    "CARGO_TARGET_DIR",
    "RUSTC",
    "RUSTFLAGS",
];
/// Tables of Cargo's configuration that are no inputs of their own: where packages come from, what is shown, and what the unit
/// graph has already.
const COVERED_TABLES: [&str; 12] = [
    "alias",
    "cache",
    "cargo-new",
    "credential-alias",
    "future-incompat-report",
    "http",
    "net",
    "patch",
    "profile",
    "registries",
    "registry",
    "source",
];
const COVERED_BUILD_KEYS: [&str; 6] =
    ["build-dir", "incremental", "jobs", "rustflags", "target", "target-dir"];

/// What a compilation declared while it ran: looked at before it is known whether a result can be used.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Declared {
    /// Names that other machines can read.
    pub(crate) files: BTreeSet<String>,
    pub(crate) env: BTreeSet<String>,
    /// Those of the files that are libraries of the system which were linked.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) libraries: BTreeSet<String>,
}

/// Finds parts.
pub(crate) struct Ingredients<'a> {
    loaded: &'a Loaded,
    /// The cargo invocation.
    plan: &'a Plan,
    graph: &'a UnitGraph,
    packages: BTreeMap<&'a PackageId, &'a Package>,
    checksums: BTreeMap<(String, String), String>,
    common: Parts,
    /// What records may still have read.
    allowance: RefCell<Allowance>,
}

impl<'a> Ingredients<'a> {
    /// Looks at what all actions have in common.
    pub(crate) fn new(
        loaded: &'a Loaded,
        plan: &'a Plan,
        graph: &'a UnitGraph,
        inputs: &Inputs,
    ) -> Result<Ingredients<'a>> {
        let packages =
            loaded.workspace.metadata.packages.iter().map(|package| (&package.id, package)).collect();
        let checksums = sbom::checksums(&loaded.lock)?;
        let common = Parts::default();
        let allowance = RefCell::default();
        let mut found = Ingredients { loaded, plan, graph, packages, checksums, common, allowance };
        found.common = found.common(inputs)?;
        Ok(found)
    }

    /// What the service's binary is made from, as far as it is known before anything is compiled.
    pub(crate) fn service(&self, service: &ServicePlan, inputs: &Inputs) -> Result<Parts> {
        let mut parts = self.common.clone();
        let closure = graph::closure(self.graph, service)?;
        let units: Vec<&GraphUnit> = closure.iter().map(|index| &self.graph.units[*index]).collect();
        let root =
            units.iter().find(|unit| unit.package == service.package && unit.target.name == service.binary);
        let profile = root.and_then(|unit| unit.profile.as_object()).context("a unit without a profile")?;
        for (key, value) in profile.iter().filter(|(key, _)| *key != "name") {
            parts.add(Sort::Profile, key, value.to_string());
        }
        self.add_units(&units, &mut parts)?;
        for id in units.iter().map(|unit| &unit.package).collect::<BTreeSet<_>>() {
            let package = self.packages.get(id);
            match package {
                Some(package) if is_local(id) || self.is_vendored(package) => {
                    self.add_sources(package, inputs, &mut parts);
                }
                None if is_local(id) => bail!("cargo metadata has no package {id}"),
                _ => {}
            }
        }
        Ok(parts)
    }

    /// What compiled dependencies of the services are made from. Cargo takes them for fresh only where the flags are the same,
    /// and these name folders: so the folders are parts.
    pub(crate) fn dependencies(&self, services: &[&ServicePlan], inputs: &Inputs) -> Result<Parts> {
        let mut parts = self.common.clone();
        let mut closure = BTreeSet::new();
        for service in services {
            closure.extend(graph::closure(self.graph, service)?);
        }
        let units = closure.iter().map(|index| &self.graph.units[*index]);
        let foreign: Vec<&GraphUnit> = units.filter(|unit| !is_local(&unit.package)).collect();
        self.add_units(&foreign, &mut parts)?;
        let ids: BTreeSet<&PackageId> = foreign.iter().map(|unit| &unit.package).collect();
        for package in ids.into_iter().filter_map(|id| self.packages.get(id)) {
            if self.is_vendored(package) {
                self.add_sources(package, inputs, &mut parts);
            }
        }
        let places = [
            ("folder of the workspace", &self.plan.root),
            ("folder of compiled code", &self.plan.build_dir),
            ("home of Cargo", &self.loaded.cargo.cargo_home),
        ];
        for (name, path) in places {
            parts.add(Sort::Place, name, path.display().to_string());
        }
        Ok(parts)
    }

    /// The units behind the service, as Cargo would report them.
    pub(crate) fn units(&self, service: &ServicePlan) -> Result<Vec<workspace::Unit>> {
        let closure = graph::closure(self.graph, service)?;
        let compiled =
            closure.iter().map(|index| &self.graph.units[*index]).filter(|unit| unit.mode == "build");
        let unit = |unit: &GraphUnit| workspace::Unit {
            package: unit.package.clone(),
            host: unit.platform.is_none(),
            features: unit.features.clone(),
        };
        Ok(compiled.map(unit).collect())
    }

    /// What was declared for the service, but for what counts already. Which code read a variable is not known.
    pub(crate) fn declared(&self, service: &ServicePlan, observed: &Observed, parts: &Parts) -> Declared {
        let files = observed.of_service.get(&service.name).into_iter().flatten().chain(&observed.foreign);
        let closure = graph::closure(self.graph, service).unwrap_or_default();
        let packages: BTreeSet<&PackageId> =
            closure.iter().map(|index| &self.graph.units[*index].package).collect();
        let own = observed.libraries.iter().filter(|(_, of)| of.iter().any(|id| packages.contains(id)));
        let libraries = own.map(|(path, _)| self.name(path)).collect();
        Declared { libraries, ..self.beyond(parts, files, observed) }
    }

    /// The same, for dependencies.
    pub(crate) fn declared_by_others(&self, observed: &Observed) -> Declared {
        self.beyond(&Parts::default(), observed.foreign.iter(), observed)
    }

    fn beyond<'f>(
        &self,
        parts: &Parts,
        files: impl Iterator<Item = &'f PathBuf>,
        observed: &Observed,
    ) -> Declared {
        let names = files.map(|path| self.name(path));
        let is_covered =
            |name: &&String| self.plan.env.contains_key(*name) || PLACES.contains(&name.as_str());
        Declared {
            files: names.filter(|name| !parts.has(Sort::File, &shown(name))).collect(),
            env: observed.env.iter().filter(|name| !is_covered(name)).cloned().collect(),
            libraries: BTreeSet::new(),
        }
    }

    /// `parts` with the content of what was declared, as it is now.
    pub(crate) fn with_declared(&self, parts: &Parts, declared: &Declared) -> Parts {
        let mut parts = parts.clone();
        let mut files = BTreeSet::new();
        for path in self.paths(declared) {
            // Whoever declared a folder wants to know of new files in it.
            if path.is_dir() {
                walk_sources(&path, &mut files);
            }
            files.insert(path);
        }
        let stamps = Inputs::take_files(files);
        for (path, stamp) in stamps.files() {
            let content = stamp.map_or("missing".to_owned(), |stamp| stamp.digest.to_string());
            parts.add(Sort::File, shown(&self.name(path)), content);
        }
        for name in &declared.env {
            add_variable(name, &mut parts);
        }
        parts
    }

    /// The same where a record says what was declared: whoever wrote it must not be able to have everything read that there is.
    ///
    /// # Errors
    /// When it asks for more than a build reads, or for what no build does.
    pub(crate) fn with_recorded(&self, parts: &Parts, declared: &Declared) -> Result<Parts> {
        let paths = self.paths(declared);
        self.allowance.borrow_mut().admit(paths.iter().map(PathBuf::as_path))?;
        Ok(self.with_declared(parts, declared))
    }

    /// Where the declared files are here.
    pub(crate) fn paths(&self, declared: &Declared) -> BTreeSet<PathBuf> {
        declared.files.iter().map(|name| self.path(name)).collect()
    }

    /// Where the libraries of the system among them are here.
    pub(crate) fn libraries(&self, declared: &Declared) -> BTreeSet<PathBuf> {
        declared.libraries.iter().map(|name| self.path(name)).collect()
    }

    fn common(&self, inputs: &Inputs) -> Result<Parts> {
        let (plan, cargo) = (self.plan, &self.loaded.cargo);
        let mut parts = Parts::default();
        parts.add(Sort::Tool, "format", FORMAT);
        parts.add(Sort::Target, "target", &plan.target);
        parts.add(Sort::Profile, "name", &plan.profile);
        for (name, value) in self.loaded.toolchain_identity() {
            parts.add(Sort::Toolchain, name, value);
        }
        for path in &self.loaded.named {
            let content = inputs.digest(path).map_or("missing".to_owned(), |digest| digest.to_string());
            parts.add(Sort::File, shown(&self.name(path)), content);
        }
        for (name, value) in &plan.env {
            let value = value.as_deref().unwrap_or_default();
            match name.as_str() {
                // Where intermediate files lie, and a seed that only one package asks for.
                "CARGO_BUILD_BUILD_DIR" | "CONST_RANDOM_SEED" => {}
                "CARGO_ENCODED_RUSTFLAGS" => {
                    parts.add(Sort::Flags, "flags of rustc", self.without_places(value))
                }
                _ => parts.add_digest(Sort::Variable, name, self.without_places(value)),
            }
        }
        for name in inputs::relevant_variables().iter().filter(|name| !is_covered(name)) {
            if !plan.env.contains_key(name) {
                add_variable(name, &mut parts);
            }
        }
        for (table, content) in configuration(&plan.root, &cargo.cargo_home)? {
            parts.add_digest(Sort::Configuration, table, content);
        }
        Ok(parts)
    }

    fn add_units(&self, units: &[&GraphUnit], parts: &mut Parts) -> Result<()> {
        let mut by_package: BTreeMap<&PackageId, (BTreeSet<&str>, Vec<String>)> = BTreeMap::new();
        for unit in units {
            let (features, settings) = by_package.entry(&unit.package).or_default();
            features.extend(unit.features.iter().map(String::as_str));
            settings.push(serde_json::json!([self.graph.settings(unit), unit.features]).to_string());
        }
        for (id, (features, mut settings)) in by_package {
            let (package, version) = name_and_version(id);
            let mut name = format!("{package} {version}");
            if parts.has(Sort::Package, &name) {
                // The same version from two places: neither may hide the other.
                name = format!("{package} {version} of {id}");
            }
            // A package that only runs on this machine may be missing where metadata is for another target.
            let source = self.packages.get(id).and_then(|package| package.source.as_ref());
            let source = source
                .map_or(if is_local(id) { "path" } else { id.repr.as_str() }, |source| source.repr.as_str());
            let checksum = self.checksums.get(&(package.to_owned(), version.to_owned()));
            parts.add(Sort::Package, &name, format!("{source} {}", checksum.map_or("", String::as_str)));
            parts.add(Sort::Features, &name, features.into_iter().collect::<Vec<_>>().join("\x1f"));
            settings.sort_unstable();
            parts.add_digest(Sort::Compilation, &name, settings.join("\n"));
            if package == "const-random" {
                parts.add_digest(
                    Sort::Variable,
                    "CONST_RANDOM_SEED",
                    format!("{:?}", self.plan.env.get("CONST_RANDOM_SEED")),
                );
            }
        }
        Ok(())
    }

    /// The lock file stands for what Cargo unpacked itself; a copy elsewhere can be edited under the same checksum.
    fn is_vendored(&self, package: &Package) -> bool {
        self.loaded.vendored.iter().any(|(folder, _)| Some(folder.as_path()) == folder_of(package))
    }

    /// Everything in the package's folder counts: a build script that declares nothing may read any of it.
    fn add_sources(&self, package: &Package, inputs: &Inputs, parts: &mut Parts) {
        let Some(folder) = package.manifest_path.as_std_path().parent() else { return };
        let mut files = BTreeSet::new();
        walk_sources(folder, &mut files);
        for path in files {
            let content = inputs.digest(&path).map_or("missing".to_owned(), |digest| digest.to_string());
            parts.add(Sort::File, shown(&self.name(&path)), content);
        }
        // What is inherited from the workspace's manifest reaches the code in variables.
        let inherited = serde_json::json!([
            package.authors,
            package.description,
            package.homepage,
            package.repository,
            package.license,
            package.license_file,
            package.readme,
            package.links,
            package.rust_version,
            package.version,
        ]);
        parts.add_digest(Sort::Manifest, package.name.as_str(), inherited.to_string());
    }

    /// Flags and variables with the names that stand for folders of this machine: the bits have no more than these.
    fn without_places(&self, value: &str) -> String {
        let mut value = value.to_owned();
        for remap in self.plan.remaps.iter().rev() {
            let from = remap.from.display().to_string();
            value = value.replace(&format!("={from}={}", remap.to), &format!("={}", remap.to));
        }
        value
    }

    /// The name of a file that users know as `shown`.
    pub(crate) fn unshown(&self, shown: &str) -> String {
        self.name(&self.plan.root.join(shown))
    }

    fn name(&self, path: &Path) -> String {
        match path.strip_prefix(&self.plan.root) {
            Ok(inside) => format!("{WORKSPACE}/{}", inside.display()),
            Err(_) => path.display().to_string(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        match name.strip_prefix(WORKSPACE).and_then(|name| name.strip_prefix('/')) {
            Some(inside) => self.plan.root.join(inside),
            None => PathBuf::from(name),
        }
    }
}

fn folder_of(package: &Package) -> Option<&Path> {
    package.manifest_path.as_std_path().parent()
}

fn is_local(id: &PackageId) -> bool {
    id.repr.starts_with("path+")
}

/// Of an id such as `registry+https://…#name@1.2.3` or `path+file:///…/name#1.2.3`.
///
/// Source: the Cargo book, "Package ID Specifications".
fn name_and_version(id: &PackageId) -> (&str, &str) {
    let (source, fragment) = id.repr.rsplit_once('#').unwrap_or(("", &id.repr));
    let folder = source.split('?').next().unwrap_or(source).rsplit('/').next().unwrap_or(source);
    fragment.split_once('@').unwrap_or((folder, fragment))
}

/// As users know a file.
fn shown(name: &str) -> String {
    name.strip_prefix(WORKSPACE).and_then(|name| name.strip_prefix('/')).unwrap_or(name).to_owned()
}

pub(crate) fn is_covered(name: &str) -> bool {
    let is_flags = name.starts_with("CARGO_TARGET_") && name.ends_with("_RUSTFLAGS");
    // The program that runs, and names that only begin like a compiler's.
    let is_other =
        ["CARGO", "RUSTC"].contains(&name) || name.starts_with("CCACHE_") || name.starts_with("ARCH");
    is_flags || is_other || COVERED.iter().any(|covered| name.starts_with(covered))
}

fn add_variable(name: &str, parts: &mut Parts) {
    let value = variable(name).map_or("not set".to_owned(), |digest| digest.to_string());
    parts.add(Sort::Variable, name, value);
}

/// The tables of Cargo's configuration that count, from the nearest file to the farthest.
pub(crate) fn configuration(root: &Path, cargo_home: &Path) -> Result<BTreeMap<String, String>> {
    let folders = root.ancestors().map(|folder| folder.join(".cargo")).chain([cargo_home.to_owned()]);
    let mut seen = BTreeSet::new();
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for folder in folders.filter(|folder| seen.insert(folder.clone())) {
        // Where both are, Cargo reads the one without an extension.
        let files = ["config", "config.toml"].map(|name| folder.join(name));
        let Some(path) = files.iter().find(|path| path.is_file()) else { continue };
        let document: serde_json::Map<String, Value> = toml::from_str(&stdx::fs::read_to_string(path)?)
            .with_context(|| format!("cannot read {}", path.display()))?;
        for (table, mut content) in document {
            if COVERED_TABLES.contains(&table.as_str()) {
                continue;
            }
            if let (Some(build), "build") = (content.as_object_mut(), table.as_str()) {
                build.retain(|key, _| !COVERED_BUILD_KEYS.contains(&key.as_str()));
            }
            if content != serde_json::json!({}) {
                tables.entry(table).or_default().push(content.to_string());
            }
        }
    }
    Ok(tables.into_iter().map(|(table, contents)| (table, contents.join("\n"))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tables_that_change_bits_count_and_every_file_does() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("a/b");
        let write = |name: &str, text: &str| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write(
            "a/b/.cargo/config.toml",
            "[build]\njobs = 1\nrustflags = []\n[source.x]\nreplace-with = \"y\"\n",
        );
        write("home/config.toml", "[net]\noffline = true\n");
        let read = || configuration(&root, &folder.path().join("home")).unwrap();
        let base = read();
        assert!(!base.contains_key("source") && !base.contains_key("net") && !base.contains_key("build"));
        write("a/.cargo/config.toml", "[env]\nX = \"1\"\n");
        let nearer = read();
        assert!(nearer.contains_key("env"));
        write("a/b/.cargo/config", "[env]\nX = \"2\"\n");
        assert_ne!(read()["env"], nearer["env"]);
    }

    #[test]
    fn every_part_of_the_toolchain_is_a_part_of_every_result() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
        std::fs::create_dir(folder.path().join("src")).unwrap();
        write("Cargo.toml", "[package]\nname = \"app\"\nversion = \"1.0.0\"\nedition = \"2024\"\n");
        write("Cargo.lock", "version = 4\n[[package]]\nname = \"app\"\nversion = \"1.0.0\"\n");
        write("src/main.rs", "fn main() {}\n");
        let session = crate::Session::open(folder.path()).unwrap();
        let parts = |changed: Option<&str>| {
            let mut loaded = session.plan(&[]).unwrap();
            let mut identity = loaded.identity().clone();
            if let Some(name) = changed {
                identity.facts.insert(name.to_owned(), "other".to_owned()).expect(name);
            }
            loaded.identity = identity.into();
            let graph = graph::load(&loaded.plan, &folder.path().join("graph")).unwrap();
            let inputs = Inputs::take(session.sources(&loaded, &[]).unwrap()).unwrap();
            let ingredients = Ingredients::new(&loaded, &loaded.plan, &graph, &inputs).unwrap();
            let services: Vec<_> = loaded.plan.services.iter().collect();
            ingredients.dependencies(&services, &inputs).unwrap()
        };
        let base = parts(None);
        assert_eq!(base.digest().unwrap(), parts(None).digest().unwrap());
        for name in
            ["std", "rustc.driver", "linker.digest", "linker.driver.digest", "cc.digest", "libc.libc.a"]
        {
            let other = parts(Some(name));
            assert_ne!(other.digest().unwrap(), base.digest().unwrap(), "{name}");
            let difference = other.difference(&base).unwrap();
            assert!(difference.starts_with(&format!("the toolchain's {name} changed")), "{difference}");
        }
    }

    #[test]
    fn ids_tell_name_and_version() {
        let check = |id: &str, expected: (&str, &str)| {
            assert_eq!(name_and_version(&PackageId { repr: id.to_owned() }), expected, "{id}");
        };
        check("registry+https://host/index#serde@1.0.0", ("serde", "1.0.0"));
        check("path+file:///w/services/api#0.1.0", ("api", "0.1.0"));
        check("git+https://host/o/tokio?rev=1#tokio-util@0.7.0", ("tokio-util", "0.7.0"));
        check("git+https://host/o/tokio?branch=a/b#0.7.0", ("tokio", "0.7.0"));
    }

    #[test]
    fn variables_that_count_otherwise_do_not_count_twice() {
        for name in [
            "CARGO_HOME",
            "RUSTFLAGS",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUSTFLAGS",
            "CARGO",
            "RUSTUP_TOOLCHAIN",
        ] {
            assert!(is_covered(name), "{name}");
        }
        for name in [
            "CC",
            "CFLAGS",
            "RUSTC_WRAPPER",
            "CARGO_PROFILE_RELEASE_LTO",
            "CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER",
        ] {
            assert!(!is_covered(name), "{name}");
        }
    }
}
