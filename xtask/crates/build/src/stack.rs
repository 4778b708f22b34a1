//! Images of other people's programs that a workspace's stack needs (`images:` of `slipway.yaml`), made of Debian packages, and the
//! lock file that says which. Nothing of the workspace is compiled for them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use base::debian::{self, Lock, PackageRoot, Store, Wanted};
use base::{Root, Start};
use oci::{ImageSpec, Layout, Source, Tree};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stdx::Digest;
use supply::{Commit, PACKAGES_TYPE, Resource};
use workspace::{Base, Settings, StackImage, Workspace};

use crate::documents::{Described, Documents, Making};
use crate::event::{Event, Reporter};
use crate::git::GitState;
use crate::pack::Packer;
use crate::plan::{architecture, compression};
use crate::report::{BuildError, BuiltLayer};
use crate::root::Brought;
use crate::sbom;
use crate::session::Session;
use crate::store::State;

/// An image of somebody else's program that is in the layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltImage {
    /// Its name in the layout.
    pub name: String,
    /// Version of the first package that was asked for.
    pub version: String,
    /// Digest of the manifest.
    pub image: Digest,
    /// Digest of the SBOM.
    pub sbom: Digest,
    /// Where the SBOM lies.
    pub sbom_path: PathBuf,
    /// Digest of the same as an SPDX document.
    pub spdx: Digest,
    /// Where that lies.
    pub spdx_path: PathBuf,
    /// Digest of the statement that says how the image was built.
    pub provenance: Digest,
    /// Where that lies.
    pub provenance_path: PathBuf,
    /// How many packages are in it.
    pub packages: usize,
    /// Bytes of all layers as they are kept and sent.
    pub size: u64,
    /// Bytes of all layers, unpacked.
    pub unpacked_size: u64,
    /// From the lowest to the highest.
    pub layers: Vec<BuiltLayer>,
}

/// How large an image is.
#[derive(Clone, Copy)]
struct Sizes {
    packages: usize,
    size: u64,
    unpacked_size: u64,
}

impl BuiltImage {
    fn of(described: Described, version: String, sizes: Sizes, layers: Vec<BuiltLayer>) -> BuiltImage {
        let Described { name, image, cyclonedx, spdx, provenance } = described;
        let Sizes { packages, size, unpacked_size } = sizes;
        BuiltImage {
            name,
            version,
            image,
            sbom: cyclonedx.digest,
            sbom_path: cyclonedx.path,
            spdx: spdx.digest,
            spdx_path: spdx.path,
            provenance: provenance.digest,
            provenance_path: provenance.path,
            packages,
            size,
            unpacked_size,
            layers,
        }
    }

    /// The image and what is said of it.
    pub fn described(&self) -> Described {
        let documents = [
            (&*self.sbom_path, self.sbom),
            (&*self.spdx_path, self.spdx),
            (&*self.provenance_path, self.provenance),
        ];
        Described::at(&self.name, self.image, documents)
    }
}

/// What locking changes: a package's versions before and after, by processor and name.
pub type LockChange = BTreeMap<String, BTreeMap<String, (Option<String>, Option<String>)>>;

/// The time of images whose user fixed none: the first that zip archives can hold, as build scripts are told.
const CREATED: i64 = 315_532_800;
/// Where programs of packages lie.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Where Debian packages are kept on this machine, for all workspaces.
///
/// # Errors
/// When there is no home folder.
pub fn debian_store(root: &Path) -> Result<Store> {
    let home = workspace::cargo_home(root).context("neither CARGO_HOME nor HOME is set")?;
    Ok(Store::new(&home.join("slipway/debian")))
}

/// What the services and images of a workspace ask to be made of, each once.
fn wanted_roots(root: &Path, settings: &Settings) -> Result<Vec<Wanted>> {
    let cargo = workspace::CargoConfig::load(root, settings.build.target.as_deref())?;
    let workspace = Workspace::load(root, settings.clone(), &cargo.target)?;
    let bases = workspace
        .services
        .values()
        .map(|service| service.config.image.base.as_ref().unwrap_or(&workspace.settings.image.base));
    let services = bases.filter_map(|base| match base {
        Base::Debian(packages) => Some(Wanted::new(packages, &[])),
        Base::Static | Base::Closure | Base::Auto | Base::Image(_) => None,
    });
    let images = settings.images.values().map(wanted);
    let mut all: Vec<Wanted> = services.chain(images).collect();
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

fn wanted(image: &StackImage) -> Wanted {
    Wanted::new(&image.base.debian, &image.base.without)
}

impl Session {
    /// Builds the images of these names, all of `images:` where none is named.
    ///
    /// # Errors
    /// A [`BuildError`].
    pub fn build_images(
        &self,
        names: &[String],
        reporter: &dyn Reporter,
        interrupted: &AtomicBool,
    ) -> Result<Vec<BuiltImage>> {
        let refused = |error: anyhow::Error| {
            if error.is::<BuildError>() { error } else { BuildError::Refused(error).into() }
        };
        let selected = self.selected_images(names).map_err(refused)?;
        let _lock = self.paths.lock(reporter, interrupted).map_err(refused)?;
        let state = Mutex::new(State::load(&self.paths));
        let lock = Lock::load(&self.root).and_then(|lock| {
            lock.with_context(|| format!("there is no {}; run `cargo xtask base lock`", Lock::FILE))
        });
        let lock = lock.map_err(refused)?;
        let mut built = Vec::new();
        for (name, image) in selected {
            let one = self.build_image(name, image, &lock, &state);
            built.push(one.with_context(|| format!("cannot build the image {name}"))?);
            reporter.event(Event::Packed { service: name.to_owned() });
        }
        let state = state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.write(&self.paths)?;
        Ok(built)
    }

    fn selected_images(&self, names: &[String]) -> Result<Vec<(&str, &StackImage)>> {
        let all = &self.settings.images;
        if let Some(name) = names.iter().find(|name| !all.contains_key(*name)) {
            let known: Vec<&str> = all.keys().map(String::as_str).collect();
            let known = if known.is_empty() { "no `images:` at all".to_owned() } else { known.join(", ") };
            bail!("slipway.yaml has no image `{name}`; it has {known}");
        }
        let is_selected = |name: &String| names.is_empty() || names.contains(name);
        Ok(all
            .iter()
            .filter(|(name, _)| is_selected(name))
            .map(|(name, image)| (name.as_str(), image))
            .collect())
    }

    fn build_image(
        &self,
        name: &str,
        image: &StackImage,
        lock: &Lock,
        state: &Mutex<State>,
    ) -> Result<BuiltImage> {
        let target = workspace::CargoConfig::load(&self.root, self.settings.build.target.as_deref())?.target;
        let architecture = architecture(&target)?;
        let locked = lock.root(&wanted(image), architecture)?;
        let packages = debian_store(&self.root)?.root(lock, &locked, &image.base.drop)?;
        let packages = packages.completed(&image.user.name, image.user.id)?;
        let own = Root::new([&packages.tree])?.beneath_links(&own_tree(image)?)?;
        prove(name, image, architecture, &packages, &own)?;

        let layout = Layout::create(&self.paths.layout())?;
        let packer = Packer::new(&layout, state, compression(&self.settings));
        let asked = &image.base.debian;
        let version = asked.first().and_then(|first| locked.get(first.as_str()));
        let version = version.map(|package| package.version.clone()).unwrap_or_default();
        let mut spec = spec(name, image, architecture, &version);
        let layers = pack(&packer, name, &mut spec, [&packages.tree, &own])?;
        let made = spec.to_image()?;
        let vendor = self.settings.image.vendor.as_deref();
        let mut sbom = sbom::of_packages(name, &version, created(), vendor);
        Brought::packages(&packages, asked).describe(&mut sbom);
        sbom.about.layers = spec.layers.iter().map(|layer| layer.digest).collect();
        let documents = Documents::of(self.making(name, image, &target, made.digest())?, &sbom)?;
        let described = documents.beside(name, made.digest(), &self.paths, None);
        made.write(name, &layout)?;
        publish(&documents, &described, &layout)?;
        let size = layers.iter().map(|layer| layer.size).sum();
        let unpacked_size = spec.layers.iter().map(|layer| layer.unpacked_size).sum();
        Ok(BuiltImage::of(described, version, Sizes { packages: locked.len(), size, unpacked_size }, layers))
    }

    /// What is said of how the image is made: all that was asked for, and where that stood.
    fn making<'a>(
        &'a self,
        name: &'a str,
        image: &StackImage,
        target: &str,
        digest: Digest,
    ) -> Result<Making<'a>> {
        let external =
            [("image", json!(name)), ("target", json!(target)), ("definition", serde_json::to_value(image)?)];
        let environment = json!({ "SOURCE_DATE_EPOCH": created().to_string() });
        let internal = [
            ("compression", serde_json::to_value(compression(&self.settings))?),
            ("environment", environment),
            ("format", json!(oci::FORMAT)),
        ];
        let named = |(name, value): (&str, Value)| (name.to_owned(), value);
        let commit = |git: &GitState| {
            let GitState { revision, dirty, doubts } = git.clone();
            Resource::of_commit(&Commit { revision, dirty, repository: None, doubts })
        };
        let lock = Digest::of(stdx::fs::read(&self.root.join(Lock::FILE))?);
        let sources = self.git.iter().map(commit).chain([Resource::of_digest(Lock::FILE, &lock)]);
        Ok(Making {
            build_type: PACKAGES_TYPE,
            name,
            image: digest,
            builder: self.settings.signing.builder.as_deref(),
            external: external.into_iter().map(named).collect(),
            internal: internal.into_iter().map(named).collect(),
            sources: sources.collect(),
        })
    }

    /// Where the images are.
    pub fn layout(&self) -> std::path::PathBuf {
        self.paths.layout()
    }
}

/// Packs the trees of the image, from the lowest.
fn pack(packer: &Packer<'_>, name: &str, spec: &mut ImageSpec, trees: [&Tree; 2]) -> Result<Vec<BuiltLayer>> {
    let comments = ["slipway: Debian packages", "slipway: files and folders"];
    let mut layers = Vec::new();
    for (comment, tree) in comments.into_iter().zip(trees).filter(|(_, tree)| !tree.is_empty()) {
        let (layer, reused) = packer.layer(name, comment, tree)?;
        let (digest, size) = (layer.digest, layer.size);
        layers.push(BuiltLayer { comment: comment.to_owned(), digest, size, reused });
        spec.layers.push(layer);
    }
    Ok(layers)
}

/// Attaches what is said of the image. No release names these documents: what was said of another build of the same bits, at
/// another commit, has had its time.
fn publish(documents: &Documents, described: &Described, layout: &Layout) -> Result<()> {
    let attached = layout.referrers(&described.image)?;
    if !attached.iter().any(|one| one.content == described.provenance.digest) {
        layout.detach(&described.image)?;
    }
    documents.publish(described, layout)
}

/// What an image has beside its packages.
fn own_tree(image: &StackImage) -> Result<Tree> {
    let mut tree = Tree::new();
    for folder in image.dirs.iter().chain(&image.volumes) {
        tree.dir(folder, 0o750, image.user.id)?;
    }
    for (path, text) in &image.files {
        let mode = if text.starts_with("#!") { 0o555 } else { 0o444 };
        tree.file(path, mode, Source::Bytes(text.clone().into_bytes()))?;
    }
    Ok(tree)
}

fn prove(
    name: &str,
    image: &StackImage,
    architecture: &str,
    packages: &PackageRoot,
    own: &Tree,
) -> Result<()> {
    let root = Root::new([&packages.tree, own])?;
    let library_path = image.env.get("LD_LIBRARY_PATH").map_or("", String::as_str);
    let start = Start {
        architecture,
        program: image.entrypoint.first().map(String::as_str),
        library_path: library_path.split(':').filter(|folder| !folder.is_empty()).collect(),
        mounts: image.volumes.iter().map(String::as_str).collect(),
    };
    let problems = base::prove(&root, &start)?;
    if problems.is_empty() {
        return Ok(());
    }
    Err(BuildError::CannotStart { image: name.to_owned(), problems }.into())
}

/// When the images say that they were made, in seconds since 1970.
fn created() -> i64 {
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    fixed.unwrap_or(CREATED)
}

fn spec(name: &str, image: &StackImage, architecture: &str, version: &str) -> ImageSpec {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("SSL_CERT_FILE".to_owned(), base::CA_BUNDLE.to_owned()),
    ]);
    env.extend(image.env.clone());
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), name.to_owned()),
        ("org.opencontainers.image.version".to_owned(), version.to_owned()),
    ]);
    labels.extend(image.labels.clone());
    ImageSpec {
        architecture: architecture.to_owned(),
        created: stdx::time::rfc3339(created()),
        layers: vec![],
        entrypoint: image.entrypoint.clone(),
        cmd: image.cmd.clone(),
        env,
        user: format!("{0}:{0}", image.user.id),
        working_dir: "/".to_owned(),
        exposed_ports: image.ports.clone(),
        volumes: image.volumes.clone(),
        stop_signal: image.stop_signal.clone(),
        health_check: None,
        labels,
    }
}

/// The packages that two locks differ in.
pub(crate) fn changes(before: Option<&Lock>, after: &Lock) -> LockChange {
    let versions = |lock: &Lock, architecture: &str| -> BTreeMap<String, String> {
        let packages = lock.packages.get(architecture);
        packages.into_iter().flatten().map(|(name, one)| (name.clone(), one.version.clone())).collect()
    };
    let mut all = LockChange::new();
    for architecture in after.packages.keys() {
        let old = before.map(|before| versions(before, architecture)).unwrap_or_default();
        let new = versions(after, architecture);
        let names = old.keys().chain(new.keys());
        let changed = names.filter(|name| old.get(*name) != new.get(*name));
        let changed: BTreeMap<_, _> =
            changed.map(|name| (name.clone(), (old.get(name).cloned(), new.get(name).cloned()))).collect();
        if !changed.is_empty() {
            all.insert(architecture.clone(), changed);
        }
    }
    all
}

impl Session {
    /// Chooses Debian packages for all services and images. Unless everything is updated, the lock is kept where it answers all that is
    /// asked, and its versions are kept where they can still be had. The lock that holds then, and what changed in it.
    ///
    /// # Errors
    /// When packages cannot be chosen.
    pub fn lock_packages(&self, update: Update) -> Result<(Lock, LockChange)> {
        let settings = &self.settings.debian;
        let wanted = wanted_roots(&self.root, &self.settings)?;
        let before = Lock::load(&self.root)?;
        ensure!(
            !wanted.is_empty() || before.is_some(),
            "nothing to lock: no service and no image has a base of Debian packages \
             (`image.base: {{ debian: [...] }}` of services, `images:` in slipway.yaml)"
        );
        let kept = before.as_ref().filter(|_| update == Update::WhatIsAsked);
        if let Some(kept) = kept
            && kept.release == settings.release
            && kept.roots.iter().map(|root| &root.wanted).eq(&wanted)
            && kept.packages.keys().eq(&sorted(&settings.architectures))
        {
            return Ok((kept.clone(), LockChange::new()));
        }
        let store = debian_store(&self.root)?;
        let after = debian::choose(&store, &settings.release, &settings.architectures, &wanted, kept)?;
        let changes = changes(before.as_ref(), &after);
        Ok((after, changes))
    }

    /// Writes the lock file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_lock(&self, lock: &Lock) -> Result<()> {
        stdx::fs::write_atomic(&self.root.join(Lock::FILE), &lock.to_bytes()?, 0o644)
    }
}

fn sorted(names: &[String]) -> Vec<String> {
    let mut names = names.to_vec();
    names.sort_unstable();
    names.dedup();
    names
}

/// What locking may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Update {
    /// Only what is asked for and not locked yet.
    WhatIsAsked,
    /// Everything, to the latest.
    Everything,
}
