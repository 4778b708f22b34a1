//! Roots of Debian packages: chosen from signed lists, locked by digest, fetched through the mirror that a machine is configured
//! with, unpacked without root and without running anything of them.

mod apt;
mod control;
pub(crate) mod deb;
mod depends;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod index;
mod licence;
mod lock;
mod relation;
mod resolve;
mod tree;
mod version;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use oci::{Entry, Tree};
use serde::{Deserialize, Serialize};

use crate::root::Root;
use stdx::{Digest, trust};
use supply::{Component, Ecosystem, Hash, Use};

pub use apt::{KEYRING_VARIABLE, MIRROR_VARIABLE, SECURITY_MIRROR_VARIABLE};
pub use lock::{Lock, LockedPackage, LockedRoot, Suite, Wanted};
pub use version::compare;

use deb::Content;
use depends::Described;

/// Packages on this machine, for all workspaces: files by digest, so that nothing in it can be stale.
#[derive(Debug, Clone)]
pub struct Store {
    folder: PathBuf,
}

/// Packages side by side.
#[derive(Debug, Clone)]
pub struct PackageRoot {
    /// Their files.
    pub tree: Tree,
    /// What they are, for the SBOM.
    pub components: Vec<Component>,
    /// Which of them need which others, by package URL.
    pub edges: BTreeMap<String, BTreeSet<String>>,
}

impl PackageRoot {
    /// The packages with what a running system has beside them, for as much as no package brings it: users, name service order,
    /// certificates, time zones, folders for what is temporary. Installation scripts would make these.
    ///
    /// # Errors
    /// When a package has a file where a folder must be.
    pub fn completed(self, user_name: &str, user: u32) -> Result<PackageRoot> {
        let mut tree = self.tree.clone();
        let packaged = Root::new([&self.tree])?;
        for (path, entry) in crate::root_for(user_name, user)?.iter() {
            match entry {
                _ if packaged.resolve(path).is_some() => {}
                Entry::Dir { mode, owner } => tree.dir(path, *mode, *owner)?,
                Entry::Symlink { target } => tree.symlink(path, target)?,
                Entry::File { mode, source } => tree.file(path, *mode, source.clone())?,
            }
        }
        for folder in ["run", "var/tmp", "var/log"] {
            tree.dir(folder, if folder == "var/tmp" { 0o1777 } else { 0o755 }, 0)?;
        }
        Ok(PackageRoot { tree, ..self })
    }

    /// Package URLs of what was asked for by name, and of what none of that leads to: a root can leave out what stands between.
    pub fn direct(&self, asked: &[String]) -> BTreeSet<String> {
        let is_asked = |component: &&Component| asked.contains(&component.name);
        let mut direct: BTreeSet<String> =
            self.components.iter().filter(is_asked).map(Component::purl).collect();
        let mut reached = BTreeSet::new();
        direct.iter().for_each(|purl| self.reach(purl, &mut reached));
        for purl in self.components.iter().map(Component::purl) {
            if !reached.contains(&purl) {
                self.reach(&purl, &mut reached);
                direct.insert(purl);
            }
        }
        direct
    }

    fn reach(&self, from: &str, reached: &mut BTreeSet<String>) {
        let mut todo = vec![from];
        while let Some(purl) = todo.pop() {
            if reached.insert(purl.to_owned()) {
                todo.extend(self.edges.get(purl).into_iter().flatten().map(String::as_str));
            }
        }
    }
}

/// Form of what is kept of an unpacked package; another form is another folder.
const UNPACKED: &str = "unpacked-2";

/// What is kept of a package that was unpacked.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Unpacked {
    /// SHA-256 of the package's file.
    package: String,
    content: Content,
}

/// Chooses packages for all `roots` from what the archives have now. Versions of `before` are kept where they can be had.
///
/// # Errors
/// When apt is missing, the archives cannot be reached or trusted, or packages cannot be had together.
pub fn choose(
    store: &Store,
    release: &str,
    architectures: &[String],
    roots: &[Wanted],
    before: Option<&Lock>,
) -> Result<Lock> {
    let (indices, suites) = apt::Apt::new(&store.folder.join("apt"))?.update(release, architectures)?;
    lock::lock(release, suites, &indices, roots, before)
}

impl Store {
    /// The store in `folder`, which need not be there yet.
    pub fn new(folder: &Path) -> Store {
        Store { folder: folder.to_owned() }
    }

    fn packages(&self) -> PathBuf {
        self.folder.join("packages")
    }

    fn files(&self) -> PathBuf {
        self.folder.join("files")
    }

    /// Those of the packages that are not here, or not whole.
    ///
    /// # Errors
    /// When a digest of the lock is none.
    pub fn missing<'a>(
        &self,
        packages: impl IntoIterator<Item = &'a LockedPackage>,
    ) -> Result<Vec<&'a LockedPackage>> {
        let mut missing = Vec::new();
        for package in packages {
            if !self.holds(&self.packages().join(&package.sha256), &package.digest()?) {
                missing.push(package);
            }
        }
        Ok(missing)
    }

    fn holds(&self, path: &Path, digest: &Digest) -> bool {
        std::fs::File::open(path).and_then(Digest::of_reader).is_ok_and(|(found, _)| found == *digest)
    }

    /// Fetches what is missing of the packages, and gives how many that were.
    ///
    /// # Errors
    /// When apt is missing, or a package cannot be had any more.
    pub fn fetch<'a>(&self, packages: impl IntoIterator<Item = &'a LockedPackage>) -> Result<usize> {
        let missing = self.missing(packages)?;
        if missing.is_empty() {
            return Ok(0);
        }
        stdx::fs::create_dir_all(&self.packages())?;
        // Half a file must never have the name of a whole one.
        let partial = tempfile::tempdir_in(&self.folder).context("cannot make a folder in the store")?;
        apt::Apt::new(&self.folder.join("apt"))?.fetch(&missing, partial.path())?;
        for package in &missing {
            let path = partial.path().join(&package.sha256);
            if !self.holds(&path, &package.digest()?) {
                bail!("{} was fetched, and is not the file that is locked", package.path);
            }
            let to = self.packages().join(&package.sha256);
            // From a mirror on this machine apt gives a link to the file instead of the file.
            let copied = if path.is_symlink() {
                std::fs::copy(&path, partial.path().join("copy")).map(|_| partial.path().join("copy"))
            } else {
                Ok(path)
            };
            copied
                .and_then(|path| std::fs::rename(path, &to))
                .with_context(|| format!("cannot write {}", to.display()))?;
        }
        Ok(missing.len())
    }

    /// The packages side by side, without the paths `drop`. What is missing is fetched.
    ///
    /// # Errors
    /// When a package cannot be had or unpacked, or two do not fit together.
    pub fn root(
        &self,
        lock: &Lock,
        packages: &BTreeMap<&str, &LockedPackage>,
        drop: &[String],
    ) -> Result<PackageRoot> {
        self.fetch(packages.values().copied())?;
        // What is in a package is taken from a list that nobody signed.
        trust::create_own_folder(&self.folder.join(UNPACKED))?;
        trust::require_own_folder(&self.folder.join(UNPACKED))
            .context("the store of Debian packages is not believed")?;
        let mut contents = BTreeMap::new();
        for (name, package) in packages {
            let content =
                self.content(package).with_context(|| format!("cannot unpack the package {name}"))?;
            contents.insert(*name, content);
        }
        let tree = tree::tree(&contents, drop, &self.files())?;
        let components: BTreeMap<&str, Component> = packages
            .iter()
            .map(|(name, package)| (*name, self.component(lock, name, package, &tree)))
            .collect();
        let edges = edges(packages, &contents, &components)?;
        Ok(PackageRoot { tree, components: components.into_values().collect(), edges })
    }

    /// What is in a package; it is unpacked at most once, and again where a file of it is damaged.
    fn content(&self, package: &LockedPackage) -> Result<Content> {
        let known = self.folder.join(UNPACKED).join(format!("{}.json", package.sha256));
        let read = |bytes: Vec<u8>| serde_json::from_slice::<Unpacked>(&bytes).ok();
        // A list of one package under the name of another one says nothing of it.
        let own =
            stdx::fs::read_if_exists(&known)?.and_then(read).filter(|list| list.package == package.sha256);
        if let Some(Unpacked { content, .. }) = own
            && deb::is_whole(&content, &self.files())
        {
            return Ok(content);
        }
        stdx::fs::create_dir_all(&self.files())?;
        let content = deb::unpack(&self.packages().join(&package.sha256), &self.files())?;
        if !deb::is_whole(&content, &self.files()) {
            // Files of the right size and wrong content were taken for ours.
            for item in content.items.values() {
                if let deb::Item::File { digest, .. } = item {
                    std::fs::remove_file(self.files().join(digest.hex())).ok();
                }
            }
            deb::unpack(&self.packages().join(&package.sha256), &self.files())?;
        }
        trust::create_own_folder(&self.folder.join(UNPACKED))?;
        let list = Unpacked { package: package.sha256.clone(), content };
        stdx::fs::write_atomic(&known, &serde_json::to_vec(&list)?, 0o644)?;
        Ok(list.content)
    }

    fn component(&self, lock: &Lock, name: &str, package: &LockedPackage, tree: &Tree) -> Component {
        let path = format!("usr/share/doc/{name}/copyright");
        let found = tree.iter().find(|(at, _)| *at == path).map(|(_, entry)| entry);
        let text = match found {
            Some(Entry::File { source: oci::Source::Path(path), .. }) => std::fs::read_to_string(path).ok(),
            _ => None,
        };
        Component {
            ecosystem: Ecosystem::Debian {
                codename: lock.release.clone(),
                architecture: package.architecture.clone(),
            },
            name: name.to_owned(),
            version: package.version.clone(),
            usage: Use::Linked,
            licence: text.as_deref().and_then(licence::licence),
            hash: Some(Hash(package.sha256.clone())),
            description: None,
        }
    }
}

/// Which packages need which others, by package URL.
fn edges(
    packages: &BTreeMap<&str, &LockedPackage>,
    contents: &BTreeMap<&str, Content>,
    components: &BTreeMap<&str, Component>,
) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let described = packages.iter().filter_map(|(name, package)| {
        let control = &contents.get(name)?.control;
        Some((*name, Described { version: &package.version, control }))
    });
    let purl = |name: &str| components.get(name).map(Component::purl);
    let needs = depends::needs(&described.collect())?;
    let edge =
        |(from, to): (&str, BTreeSet<&str>)| Some((purl(from)?, to.into_iter().filter_map(purl).collect()));
    Ok(needs.into_iter().filter_map(edge).collect())
}
