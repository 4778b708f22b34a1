//! The part of a service's image that is below its own files, and the proof that all of it together starts.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base::debian::{Lock, PackageRoot, Wanted};
use base::{Closure, Root, Start};
use oci::Tree;
use supply::{Component, Sbom};
use workspace::{Base, Linkage};

use crate::plan::{ServicePlan, program};
use crate::report::BuildError;
use crate::session::Loaded;
use crate::{bases, stack};

/// What an image stands on.
pub(crate) struct Rooted {
    /// From the lowest to the highest, with what each is for people.
    trees: Vec<(&'static str, Tree)>,
    /// What is in it, for the SBOM.
    components: Vec<Component>,
    linkage: Linkage,
}

/// The root for the `binary` of a service.
pub(crate) fn root(loaded: &Loaded, service: &ServicePlan, binary: &Path) -> Result<Rooted> {
    let users = ("slipway: users, certificates, time zones", base::static_root(service.user)?);
    let mut rooted = Rooted { trees: vec![users], components: Vec::new(), linkage: service.linkage() };
    match &service.base {
        Base::Static | Base::Auto => {}
        Base::Closure => {
            let closure = closure(binary, &loaded.plan.target)?;
            rooted.trees.push(("slipway: shared libraries", closure.tree()?));
            rooted.components = closure.components();
        }
        Base::Debian(packages) => {
            let packages = debian(loaded, packages, &service.image.architecture)?;
            let packages = packages.completed("app", service.user)?;
            rooted.trees = vec![("slipway: Debian packages", packages.tree)];
            rooted.components = packages.components;
        }
        Base::Image(_) => anyhow::bail!("the base {} is not supported yet", service.base),
    }
    Ok(rooted)
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
        let below = Root::new(self.trees.iter().map(|(_, tree)| tree))?;
        for (comment, tree) in above {
            trees.push((comment, below.beneath_links(&tree)?));
        }
        let root = Root::new(trees.iter().map(|(_, tree)| tree))?;
        let program = program(&service.binary);
        let library_path = service.image.env.get("LD_LIBRARY_PATH").map_or("", String::as_str);
        let start = Start {
            architecture: &service.image.architecture,
            program: Some(&program),
            library_path: library_path.split(':').filter(|folder| !folder.is_empty()).collect(),
            mounts: service.image.volumes.iter().map(String::as_str).collect(),
        };
        let problems = base::prove(&root, &start)?;
        if problems.is_empty() {
            return Ok(trees);
        }
        Err(BuildError::CannotStart { image: service.name.clone(), problems }.into())
    }

    /// Adds what the root brings to the SBOM of an image.
    pub(crate) fn describe(&self, sbom: &mut Sbom) {
        if self.linkage == Linkage::Shared {
            // It is the root's own C library that runs, and that one is named by its file or package.
            let is_linked = |component: &Component| {
                component.name == "glibc"
                    && component.description.as_deref().is_some_and(|text| text.contains("statically"))
            };
            let gone: Vec<String> =
                sbom.components.iter().filter(|one| is_linked(one)).map(Component::purl).collect();
            sbom.components.retain(|component| !is_linked(component));
            for edges in sbom.edges.values_mut() {
                edges.retain(|purl| !gone.contains(purl));
            }
        }
        for component in &self.components {
            sbom.edges.entry(sbom.subject.purl()).or_default().insert(component.purl());
            sbom.components.insert(component.clone());
        }
    }
}
