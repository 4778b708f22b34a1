//! Images of other people's programs that a workspace's stack needs (`images:` of `slipway.yaml`), made of Debian packages, and the
//! lock file that says which. Nothing of the workspace is compiled for them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail, ensure};
use base::debian::{self, Lock, PackageRoot, Store, Wanted};
use base::{Root, Start};
use oci::{ImageSpec, Layout, Source, Tree};
use serde::Serialize;
use stdx::Digest;
use supply::{About, Component, Ecosystem, Sbom, Use};
use workspace::{Base, Settings, StackImage, Workspace};

use crate::event::Reporter;
use crate::pack::Packer;
use crate::plan::{architecture, compression};
use crate::report::{BuildError, BuiltLayer};
use crate::session::Session;
use crate::store::State;

/// An image of somebody else's program that is in the layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuiltImage {
    /// Its name in the layout.
    pub name: String,
    /// Version of the first package that was asked for.
    pub version: String,
    /// Digest of the manifest.
    pub image: Digest,
    /// Digest of the SBOM.
    pub sbom: Digest,
    /// How many packages are in it.
    pub packages: usize,
    /// Bytes of all layers as they are kept and sent.
    pub size: u64,
    /// Bytes of all layers, unpacked.
    pub unpacked_size: u64,
    /// From the lowest to the highest.
    pub layers: Vec<BuiltLayer>,
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
        let version = image.base.debian.first().and_then(|first| locked.get(first.as_str()));
        let version = version.map(|package| package.version.clone()).unwrap_or_default();
        let mut spec = spec(name, image, architecture, &version);
        let mut layers = Vec::new();
        for (comment, tree) in
            [("slipway: Debian packages", &packages.tree), ("slipway: files and folders", &own)]
        {
            if tree.is_empty() {
                continue;
            }
            let (layer, reused) = packer.layer(name, comment, tree)?;
            layers.push(BuiltLayer {
                comment: comment.to_owned(),
                digest: layer.digest,
                size: layer.size,
                reused,
            });
            spec.layers.push(layer);
        }
        let sbom = supply::cyclonedx(&sbom(name, &version, &packages.components))?;
        let made = spec.to_image()?;
        let built = BuiltImage {
            name: name.to_owned(),
            version,
            image: made.digest(),
            sbom: layout.put(&sbom)?,
            packages: locked.len(),
            size: layers.iter().map(|layer| layer.size).sum(),
            unpacked_size: spec.layers.iter().map(|layer| layer.unpacked_size).sum(),
            layers,
        };
        stdx::fs::write_atomic(&self.paths.sbom(name, None), &sbom, 0o644)?;
        made.write(name, &layout)?;
        Ok(built)
    }

    /// The name under which an engine has the image.
    pub fn image_reference(&self, image: &BuiltImage) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let tag: String = image.version.chars().map(plain).collect();
        format!("{}{}:{tag}", self.settings.image.prefix, image.name)
    }

    /// Where the images are.
    pub fn layout(&self) -> std::path::PathBuf {
        self.paths.layout()
    }
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

fn spec(name: &str, image: &StackImage, architecture: &str, version: &str) -> ImageSpec {
    let mut env = BTreeMap::from([
        ("PATH".to_owned(), PATH.to_owned()),
        ("SSL_CERT_FILE".to_owned(), base::CA_BUNDLE.to_owned()),
    ]);
    env.extend(image.env.clone());
    let fixed = std::env::var("SOURCE_DATE_EPOCH").ok().and_then(|text| text.parse().ok());
    let mut labels = BTreeMap::from([
        ("org.opencontainers.image.title".to_owned(), name.to_owned()),
        ("org.opencontainers.image.version".to_owned(), version.to_owned()),
    ]);
    labels.extend(image.labels.clone());
    ImageSpec {
        architecture: architecture.to_owned(),
        created: stdx::time::rfc3339(fixed.unwrap_or(CREATED)),
        layers: vec![],
        entrypoint: image.entrypoint.clone(),
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

fn sbom(name: &str, version: &str, components: &[Component]) -> Sbom {
    let subject = Component {
        ecosystem: Ecosystem::Generic,
        name: name.to_owned(),
        version: version.to_owned(),
        usage: Use::Linked,
        licence: None,
        hash: None,
        description: Some("An image of Debian packages".to_owned()),
    };
    let purls = components.iter().map(Component::purl).collect();
    Sbom {
        edges: BTreeMap::from([(subject.purl(), purls)]),
        components: components.iter().cloned().collect(),
        subject,
        about: About::default(),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
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
