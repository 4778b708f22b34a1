//! The part of a service's image that is below its own files, and the proof that all of it together starts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base::debian::{Lock, PackageRoot, Wanted};
use base::{Closure, Existing, Root, Start};
use oci::{ImageSpec, Layout, Tree};
use stdx::Digest;
use supply::{Component, Ecosystem, Sbom, Use};
use workspace::{Base, Linkage};

use crate::event::Reporter;
use crate::plan::{ServicePlan, program};
use crate::report::{BuildError, BuiltLayer};
use crate::session::Loaded;
use crate::{bases, pulled, stack};

/// What an image stands on.
pub(crate) struct Rooted {
    /// From the lowest to the highest, with what each is for people.
    trees: Vec<(&'static str, Tree)>,
    /// What it brings along, for the SBOM.
    brought: Brought,
    linkage: Linkage,
    /// An image whose layers come first, as they are.
    below: Option<BaseImage>,
}

/// What is in a root beside our own data, and who needs what of it.
#[derive(Default)]
pub(crate) struct Brought {
    components: Vec<Component>,
    /// By package URL.
    edges: BTreeMap<String, BTreeSet<String>>,
    /// What the image itself calls on.
    direct: BTreeSet<String>,
}

/// An image of another layout.
struct BaseImage {
    layout: Layout,
    existing: Existing,
}

/// The root for the `binary` of a service.
pub(crate) fn root(
    loaded: &Loaded,
    service: &ServicePlan,
    binary: &Path,
    reporter: &dyn Reporter,
) -> Result<Rooted> {
    let users = ("slipway: users, certificates, time zones", base::static_root(service.user)?);
    let mut rooted =
        Rooted { trees: vec![users], brought: Brought::default(), linkage: service.linkage(), below: None };
    match &service.base {
        Base::Static | Base::Auto => {}
        Base::Closure => {
            let closure = closure(binary, &loaded.plan.target)?;
            rooted.trees.push(("slipway: shared libraries", closure.tree()?));
            rooted.brought = Brought::side_by_side(closure.components());
        }
        Base::Debian(packages) => {
            let found = debian(loaded, packages, &service.image.architecture)?;
            let found = found.completed("app", service.user)?;
            rooted.brought = Brought::packages(&found, packages);
            rooted.trees = vec![("slipway: Debian packages", found.tree)];
        }
        Base::Image(reference) => {
            let image = existing(loaded, reference, &service.image.architecture, reporter)?;
            rooted.trees = Vec::new();
            rooted.brought = Brought::side_by_side(vec![image_component(reference)]);
            rooted.below = Some(image);
        }
    }
    Ok(rooted)
}

/// Source: `image.base` in service.yaml, whose form was checked when it was read.
fn existing(
    loaded: &Loaded,
    reference: &str,
    architecture: &str,
    reporter: &dyn Reporter,
) -> Result<BaseImage> {
    let (_, digest) = reference.rsplit_once('@').context("the base has no digest")?;
    let root = &loaded.workspace.root;
    let home = workspace::cargo_home(root).context("neither CARGO_HOME nor HOME is set")?;
    let layout = pulled::layout(root, &home, reference, architecture, reporter)?;
    let files = home.join("slipway/files");
    let existing = base::existing(&layout, digest.parse()?, architecture, &files)
        .with_context(|| format!("cannot take the image {reference} as a base"))?;
    Ok(BaseImage { layout, existing })
}

fn image_component(reference: &str) -> Component {
    let (path, digest) = reference.rsplit_once('@').unwrap_or((reference, ""));
    Component {
        ecosystem: Ecosystem::Generic,
        name: path.rsplit('/').next().unwrap_or(path).to_owned(),
        version: digest.to_owned(),
        usage: Use::Linked,
        licence: None,
        hash: None,
        description: Some("The image that this one is put on top of".to_owned()),
    }
}

fn debian(loaded: &Loaded, packages: &[String], architecture: &str) -> Result<PackageRoot> {
    let root = &loaded.workspace.root;
    let lock = Lock::load(root)?.with_context(|| {
        format!(
            "there is no {}, which says what the base is made of; run `cargo xtask base lock`",
            Lock::FILE
        )
    })?;
    let packages = lock.root(&Wanted::new(packages, &[]), architecture)?;
    stack::debian_store(root)?.root(&lock, &packages, &[])
}

/// Removes components and what points to them.
fn remove(sbom: &mut Sbom, is_gone: impl Fn(&Component) -> bool) {
    let gone: Vec<String> = sbom.components.iter().filter(|one| is_gone(one)).map(Component::purl).collect();
    sbom.components.retain(|component| !is_gone(component));
    for edges in sbom.edges.values_mut() {
        edges.retain(|purl| !gone.contains(purl));
    }
}

fn is_link(problem: &base::Problem) -> bool {
    matches!(problem.kind, base::Kind::Link(_))
}

fn is_of(tree: &Tree, path: &str) -> bool {
    tree.iter().any(|(at, _)| at == path)
}

/// A blob appears in a layout only whole.
fn copy_blob(from: &Layout, to: &Layout, digest: &Digest) -> Result<()> {
    let path = to.blob_path(digest);
    let folder = path.parent().context("a blob without a folder")?;
    stdx::fs::create_dir_all(folder)?;
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    std::io::copy(&mut stdx::fs::open(&from.blob_path(digest))?, &mut file)
        .with_context(|| format!("cannot copy the blob {digest}"))?;
    stdx::fs::persist(file, &path, 0o644)
}

fn closure(binary: &Path, target: &str) -> Result<Closure> {
    base::closure(binary, &|name| bases::locate(target, name)).context("cannot collect its shared libraries")
}

/// Files of this machine that the root of a service is made of, beyond what Cargo knows.
pub(crate) fn sources(service: &ServicePlan, target: &str) -> Result<Vec<PathBuf>> {
    if service.base != Base::Closure || !service.binary_path.exists() {
        return Ok(Vec::new());
    }
    let closure = closure(&service.binary_path, target)?;
    Ok(closure.files.into_values().map(|library| library.source).collect())
}

impl Rooted {
    /// All trees of the image, from the lowest to the highest: the root's and `above`, led around the links of the root.
    ///
    /// # Errors
    /// A [`BuildError::CannotStart`] when something in the image could not be started.
    pub(crate) fn image(
        &self,
        service: &ServicePlan,
        above: Vec<(&'static str, Tree)>,
    ) -> Result<Vec<(&'static str, Tree)>> {
        let mut trees = self.trees.clone();
        let image = self.below.iter().map(|below| &below.existing.tree);
        let below = Root::new(image.clone().chain(self.trees.iter().map(|(_, tree)| tree)))?;
        for (comment, tree) in above {
            trees.push((comment, below.beneath_links(&tree)?));
        }
        let root = Root::new(image.chain(trees.iter().map(|(_, tree)| tree)))?;
        let program = program(&service.binary);
        let library_path = service.image.env.get("LD_LIBRARY_PATH").map_or("", String::as_str);
        let start = Start {
            architecture: &service.image.architecture,
            program: Some(&program),
            library_path: library_path.split(':').filter(|folder| !folder.is_empty()).collect(),
            mounts: service.image.volumes.iter().map(String::as_str).collect(),
        };
        let mut problems = base::prove(&root, &start)?;
        if let Some(below) = &self.below {
            // Its links are its own affair: many images have some that lead nowhere.
            problems.retain(|problem| !(is_link(problem) && is_of(&below.existing.tree, &problem.file)));
        }
        if problems.is_empty() {
            return Ok(trees);
        }
        Err(BuildError::CannotStart { image: service.name.clone(), problems }.into())
    }

    /// Lets `spec` begin with the layers and the environment of the image below, if there is one; its blobs are copied to `layout`.
    pub(crate) fn begin(&self, spec: &mut ImageSpec, layout: &Layout) -> Result<Vec<BuiltLayer>> {
        let Some(BaseImage { layout: from, existing }) = &self.below else { return Ok(Vec::new()) };
        let mut built = Vec::new();
        for layer in &existing.layers {
            let reused = layout.holds(&layer.digest);
            if !reused {
                copy_blob(from, layout, &layer.digest)?;
            }
            let comment = layer.comment.clone();
            built.push(BuiltLayer { comment, digest: layer.digest, size: layer.size, reused });
            spec.layers.push(layer.clone());
        }
        if Root::new([&existing.tree])?.resolve(base::CA_BUNDLE).is_none() {
            spec.env.remove("SSL_CERT_FILE");
        }
        for (name, value) in &existing.env {
            spec.env.entry(name.clone()).or_insert_with(|| value.clone());
        }
        Ok(built)
    }

    /// Adds what the root brings to the SBOM of an image.
    pub(crate) fn describe(&self, sbom: &mut Sbom) {
        if self.below.is_some() {
            // An existing image has its own data, if any.
            base::static_components().iter().for_each(|part| remove_data(sbom, part.name));
        }
        if self.linkage == Linkage::Shared {
            // It is the root's own C library that runs, and that one is named by its file or package.
            let is_linked = |component: &Component| {
                component.name == "glibc"
                    && component.description.as_deref().is_some_and(|text| text.contains("statically"))
            };
            remove(sbom, is_linked);
        }
        self.brought.describe(sbom);
    }
}

impl Brought {
    /// Components of which nobody says what they need.
    fn side_by_side(components: Vec<Component>) -> Brought {
        let direct = components.iter().map(Component::purl).collect();
        Brought { components, edges: BTreeMap::new(), direct }
    }

    /// Packages, of which these were asked for.
    pub(crate) fn packages(root: &PackageRoot, asked: &[String]) -> Brought {
        let (components, edges) = (root.components.clone(), root.edges.clone());
        Brought { components, edges, direct: root.direct(asked) }
    }

    /// Adds it to the SBOM of an image.
    pub(crate) fn describe(&self, sbom: &mut Sbom) {
        // A package brings its own time zones.
        let data = base::static_components();
        let is_brought = |name: &str| self.components.iter().any(|component| component.name == name);
        data.iter().filter(|part| is_brought(part.name)).for_each(|part| remove_data(sbom, part.name));
        sbom.edges.entry(sbom.subject.purl()).or_default().extend(self.direct.iter().cloned());
        for (from, to) in &self.edges {
            sbom.edges.entry(from.clone()).or_default().extend(to.iter().cloned());
        }
        sbom.components.extend(self.components.iter().cloned());
    }
}

fn remove_data(sbom: &mut Sbom, name: &str) {
    remove(sbom, |one: &Component| one.ecosystem == Ecosystem::Generic && one.name == name);
}
