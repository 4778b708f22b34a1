//! Which packages each service is made of. The truth is Cargo's unit graph; the lock file says what else there would be, and
//! `cargo metadata` only describes what the graph names. Compiles nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use workspace::{CargoConfig, Closure, Closures, Network, Workspace};

/// The largest lock files known have a tenth of this.
const MOST_LOCK_BYTES: usize = 32 << 20;
/// So many shortest chains to one package are shown.
const MOST_CHAINS: usize = 8;

/// What a package is to a service. Ordered by how much it matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Class {
    /// In its binary.
    Linked,
    /// Compiled and run to build it, and not in it: build scripts, procedural macros, and what these need.
    BuildOnly,
    /// Compiled for the tests of its package, and neither in the binary nor needed to build it.
    TestOnly,
    /// In the lock file, and in none of its compilations.
    Absent,
}

/// Where a package comes from.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind", content = "from")]
pub enum Source {
    /// A registry, as the lock file names it.
    Registry(String),
    /// A git repository and commit, as the lock file names them.
    Git(String),
    /// A folder of this workspace, or another folder of this machine.
    Path,
}

/// A package, whatever it is used for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Package {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Where it comes from.
    pub source: Source,
    /// SPDX expression of its manifest; unknown for what is absent, because Cargo need not have its manifest.
    pub licence: Option<String>,
    /// SHA-256 of its archive, in hex, from the lock file.
    pub checksum: Option<String>,
    /// Name of its library, as symbols have it.
    #[serde(skip)]
    pub(crate) library: Option<String>,
    /// Where its manifest is.
    #[serde(skip)]
    pub(crate) folder: PathBuf,
}

/// A package in the light of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Used {
    /// The package.
    #[serde(flatten)]
    pub package: Package,
    /// What it is to the service.
    pub class: Class,
    /// The features that it is compiled with.
    pub features: BTreeSet<String>,
}

/// What one service is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// Its binary target.
    pub binary: String,
    /// Cargo's id of its package.
    pub(crate) root: String,
    /// By Cargo's id: all that is compiled for it or for its tests.
    pub used: BTreeMap<String, Used>,
    /// What is locked and not compiled for it.
    pub absent: BTreeSet<Package>,
    pub(crate) edges: BTreeMap<String, BTreeSet<String>>,
}

/// What the services of a workspace are made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// By name.
    pub services: BTreeMap<String, Service>,
    /// Where this is less exact than it should be.
    pub warnings: Vec<String>,
}

impl Package {
    /// `name@version`, as Cargo takes it on its command line.
    pub fn spec(&self) -> String {
        format!("{}@{}", self.name, self.version)
    }

    /// Whether `text` means it: its name, or `name@version`.
    pub fn is_named(&self, text: &str) -> bool {
        self.name == text || self.spec() == text
    }
}

impl Class {
    /// Its name in tables and documents.
    pub fn name(self) -> &'static str {
        match self {
            Class::Linked => "linked",
            Class::BuildOnly => "build-only",
            Class::TestOnly => "test-only",
            Class::Absent => "absent",
        }
    }
}

impl Source {
    fn of(package: &cargo_metadata::Package) -> Source {
        Source::parse(package.source.as_ref().map(|source| source.repr.as_str()))
    }

    fn parse(source: Option<&str>) -> Source {
        match source {
            None => Source::Path,
            Some(text) => match text.strip_prefix("git+") {
                Some(git) => Source::Git(git.to_owned()),
                None => Source::Registry(text.strip_prefix("registry+").unwrap_or(text).to_owned()),
            },
        }
    }

    /// One word.
    pub fn kind(&self) -> &'static str {
        match self {
            Source::Registry(_) => "registry",
            Source::Git(_) => "git",
            Source::Path => "path",
        }
    }
}

impl Report {
    /// Asks Cargo, compiles nothing. `scratch` is a folder that Cargo may keep what it learns of the compiler in.
    ///
    /// # Errors
    /// When the lock file cannot be read.
    pub fn load(
        workspace: &Workspace,
        cargo: &CargoConfig,
        network: Network,
        scratch: &Path,
    ) -> Result<Report> {
        let locked = locked(&workspace.root.join("Cargo.lock"))?;
        let closures = Closures::load(workspace, cargo, network, scratch);
        let mut warnings: Vec<String> = closures.warning.into_iter().collect();
        let tests = Closures::of_tests(workspace, cargo, network, scratch).unwrap_or_else(|error| {
            warnings.push(format!("{error:#}; what only tests need counts as absent"));
            BTreeMap::new()
        });
        let names = closures.services.keys();
        let service = |name: &String| {
            let none = Closure::default();
            let plans = Plans { build: &closures.services[name], tests: tests.get(name).unwrap_or(&none) };
            (name.clone(), service(workspace, &locked, name, plans))
        };
        Ok(Report { services: names.map(service).collect(), warnings })
    }
}

/// What Cargo would compile for a service.
#[derive(Clone, Copy)]
struct Plans<'a> {
    build: &'a Closure,
    tests: &'a Closure,
}

fn service(workspace: &Workspace, locked: &[Package], name: &str, plans: Plans<'_>) -> Service {
    let Plans { build, tests } = plans;
    let packages: BTreeMap<&str, &cargo_metadata::Package> =
        workspace.metadata.packages.iter().map(|package| (package.id.repr.as_str(), package)).collect();
    let classes = [
        (Class::TestOnly, &tests.build_only),
        (Class::TestOnly, &tests.linked),
        (Class::BuildOnly, &build.build_only),
        (Class::Linked, &build.linked),
    ];
    let mut used = BTreeMap::new();
    for (class, ids) in classes {
        for (id, features) in ids {
            let Some(package) = packages.get(id.as_str()) else { continue };
            let package = describe(package, locked);
            used.insert(id.clone(), Used { package, class, features: features.clone() });
        }
    }
    let compiled: BTreeSet<(&str, &str, &str)> = used.values().map(|one| identity(&one.package)).collect();
    let absent = locked.iter().filter(|one| !compiled.contains(&identity(one))).cloned().collect();
    let mut edges = build.edges.clone();
    for (from, to) in &tests.edges {
        edges.entry(from.clone()).or_default().extend(to.iter().cloned());
    }
    let known = workspace.services.get(name);
    // Where there is no service, each package of the workspace stands for one.
    let member = || workspace.metadata.workspace_packages().into_iter().find(|one| one.name == name);
    let root = known.map(|service| &service.package).or_else(|| member().map(|one| &one.id));
    Service {
        name: name.to_owned(),
        binary: known.map(|service| service.binary.clone()).unwrap_or_default(),
        root: root.map(|id| id.repr.clone()).unwrap_or_default(),
        used,
        absent,
        edges,
    }
}

/// Lock file and metadata write a git source differently, so its kind has to do.
fn identity(package: &Package) -> (&str, &str, &'static str) {
    (&package.name, &package.version, package.source.kind())
}

fn describe(package: &cargo_metadata::Package, locked: &[Package]) -> Package {
    let library = package.targets.iter().find(|target| is_library(target));
    let mut described = Package {
        name: package.name.to_string(),
        version: package.version.to_string(),
        source: Source::of(package),
        licence: package.license.clone(),
        checksum: None,
        library: library.map(|target| target.name.replace('-', "_")),
        folder: package
            .manifest_path
            .parent()
            .map(|folder| folder.as_std_path().to_owned())
            .unwrap_or_default(),
    };
    let lock = locked.iter().find(|one| identity(one) == identity(&described));
    described.checksum = lock.and_then(|one| one.checksum.clone());
    described
}

fn is_library(target: &cargo_metadata::Target) -> bool {
    target.is_lib() || target.is_rlib() || target.is_staticlib() || target.is_cdylib() || target.is_dylib()
}

/// The packages of a lock file.
fn locked(path: &Path) -> Result<Vec<Package>> {
    let text = stdx::fs::read_to_string(path)?;
    parse_lock(&text).with_context(|| format!("cannot read {}", path.display()))
}

fn parse_lock(text: &str) -> Result<Vec<Package>> {
    ensure!(text.len() <= MOST_LOCK_BYTES, "it is larger than 32 MiB");
    let lock: cargo_lock::Lockfile = text.parse()?;
    let package = |package: cargo_lock::Package| Package {
        name: package.name.to_string(),
        version: package.version.to_string(),
        source: Source::parse(package.source.map(|source| source.to_string()).as_deref()),
        licence: None,
        checksum: package.checksum.map(|checksum| checksum.to_string()),
        library: None,
        folder: PathBuf::new(),
    };
    Ok(lock.packages.into_iter().map(package).collect())
}

impl Service {
    /// What it uses in this way, sorted by name and version.
    pub fn of_class(&self, class: Class) -> Vec<&Package> {
        let mut found: Vec<&Package> =
            self.used.values().filter(|one| one.class == class).map(|one| &one.package).collect();
        if class == Class::Absent {
            found.extend(&self.absent);
        }
        found.sort();
        found
    }

    /// The shortest chains of packages from the service to each package that `text` names, at most eight for each: who is to be
    /// asked when it is not wanted.
    pub fn why(&self, text: &str) -> Vec<Vec<&Used>> {
        let named = |(_, used): &(&String, &Used)| used.package.is_named(text);
        self.used.iter().filter(named).flat_map(|(id, _)| self.chains(id)).collect()
    }

    fn chains(&self, to: &str) -> Vec<Vec<&Used>> {
        let distances = self.distances();
        let mut chains = vec![vec![to]];
        // From the package back to the service, always to those that are one step nearer.
        while let Some(from) = chains.first().and_then(|chain| chain.last()).copied() {
            let Some(distance) = distances.get(from).filter(|distance| **distance > 0) else { break };
            let mut longer = Vec::new();
            for chain in &chains {
                let Some(last) = chain.last() else { continue };
                let nearer = self.edges.iter().filter(|(id, needed)| {
                    distances.get(id.as_str()).is_some_and(|one| one + 1 == *distance)
                        && needed.contains(*last)
                });
                longer.extend(nearer.map(|(id, _)| [chain.as_slice(), &[id.as_str()]].concat()));
                longer.truncate(MOST_CHAINS);
            }
            chains = longer;
        }
        let used = |chain: Vec<&str>| chain.iter().rev().filter_map(|id| self.used.get(*id)).collect();
        chains.into_iter().filter(|chain| distances.contains_key(chain[0])).map(used).collect()
    }

    /// Steps from the service to each package.
    fn distances(&self) -> BTreeMap<&str, usize> {
        let mut distances = BTreeMap::from([(self.root.as_str(), 0)]);
        let mut todo = VecDeque::from([self.root.as_str()]);
        while let Some(id) = todo.pop_front() {
            let next = distances[id] + 1;
            for needed in self.edges.get(id).into_iter().flatten() {
                if !distances.contains_key(needed.as_str()) {
                    distances.insert(needed, next);
                    todo.push_back(needed);
                }
            }
        }
        distances
    }
}
