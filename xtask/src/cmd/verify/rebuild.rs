//! Building the commit again that an image's provenance names, in another setting, and saying where the two differ.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use ::build::{Circumstance, Difference, ImageAt, Request, SOURCE_DATE_EPOCH, Session, What};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stdx::Digest;
use supply::{Commit, Provenance, Resource, Statement};
use workspace::Platform;

use super::source::Source;
use crate::exit::{Code, ResultExt};
use crate::render::Progress;

/// What building again gave.
pub(crate) struct Rebuilt {
    /// Name of the service.
    pub(crate) service: String,
    /// The commit that was built.
    pub(crate) revision: String,
    /// Digest of what building again gave.
    pub(crate) found: Digest,
    /// Where the images differ; `None` where they are the same to the bit.
    pub(crate) difference: Option<Difference>,
    /// Parts of toolchain, packages and base that are not what the provenance says, where the images differ: then other bits are no
    /// wonder.
    pub(crate) others: Vec<String>,
    /// In which circumstances it was built again.
    pub(crate) circumstances: Vec<Circumstance>,
}

impl Rebuilt {
    /// Whether both are the same to the bit.
    pub(crate) fn is_same(&self) -> bool {
        self.difference.is_none()
    }
}

/// Builds the commit that `provenance` names, which must be in the repository of the workspace at `root`. What is built does not
/// see the variable `secret`.
pub(crate) fn rebuild(
    root: &Path,
    source: &Source,
    provenance: &Provenance,
    secret: Option<&str>,
    interrupted: &AtomicBool,
) -> Result<Rebuilt> {
    // What cannot be built again was not found to differ: it cannot be judged.
    let commit = commit(provenance).or_exit(Code::Configuration)?;
    let service =
        provenance.service().context("the provenance names no service").or_exit(Code::Configuration)?;
    let service = service.to_owned();
    let platform = platform(provenance).or_exit(Code::Configuration)?;
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let names = [service.clone()];
    let progress = Progress::new();
    let what = if provenance.is_of_packages() { What::Packages } else { What::Services };
    let rebuilt = ::build::rebuild(&Request {
        what,
        program: &program,
        root,
        commit: Some(&commit.revision),
        epoch: epoch(provenance),
        platform: Some(platform),
        services: &names,
        secret,
        reporter: &progress,
        interrupted,
    });
    progress.finish();
    let rebuilt = rebuilt?;
    let found = rebuilt.images.iter().find(|built| built.name == service);
    let found = found.with_context(|| format!("building again gave no image of {service}"))?;
    let (mut difference, mut others) = (None, Vec::new());
    if found.image != source.image() {
        // A registry's image is fetched only for this.
        let scratch = tempfile::tempdir().context("cannot create a folder for the image")?;
        let layout = source.in_layout(scratch.path()).or_exit(Code::Configuration)?;
        let first = BTreeMap::from([(service.as_str(), ImageAt { layout: &layout, image: source.image() })]);
        let is_built_here = ::build::layout(root).is_ok_and(|built| built == layout);
        let session = Session::open_platform(root, platform).or_exit(Code::Configuration)?;
        let here = (is_built_here && what == What::Services)
            .then(|| session.plan_at(&commit.revision, &names))
            .transpose();
        let compared = rebuilt.compare(&first, here.or_exit(Code::Configuration)?.flatten().as_ref())?;
        difference = compared.into_iter().next().and_then(|service| service.difference);
        ensure!(difference.is_some(), "two images with different digests do not differ");
        others = other_resources(provenance, &found.provenance_path)?;
    }
    let (found, circumstances) = (found.image, rebuilt.circumstances.clone());
    Ok(Rebuilt { service, revision: commit.revision, found, difference, others, circumstances })
}

/// The commit that can be built again.
fn commit(provenance: &Provenance) -> Result<Commit> {
    let commit = provenance.commit().context("the provenance names no commit to build")?;
    ensure!(
        !commit.dirty,
        "the image was built from a work tree with changes that the commit does not hold: nobody can build it again"
    );
    Ok(commit)
}

/// The platform that was built for.
fn platform(provenance: &Provenance) -> Result<Platform> {
    let target = provenance.build_definition.external_parameters.get("target").and_then(Value::as_str);
    target.and_then(Platform::of_target).context("the provenance names no target that is known here")
}

/// The time that was fixed for the build, where it is not the usual one.
fn epoch(provenance: &Provenance) -> Option<&str> {
    let environment = provenance.build_definition.internal_parameters.get("environment")?;
    let epoch = environment.get("SOURCE_DATE_EPOCH")?.as_str()?;
    (epoch != SOURCE_DATE_EPOCH && epoch.parse::<i64>().is_ok()).then_some(epoch)
}

/// What the build was made with and of then, where that is another here, in words.
fn other_resources(provenance: &Provenance, path: &Path) -> Result<Vec<String>> {
    let statement = Statement::parse(&stdx::fs::read(path)?)?;
    let here = Provenance::parse(&statement.predicate)?;
    let resources = |provenance: &Provenance| provenance.build_definition.resolved_dependencies.clone();
    let (then, now) = (resources(provenance), resources(&here));
    let key = |resource: &Resource| {
        (resource.name.clone(), resource.uri.clone().filter(|uri| uri.starts_with("pkg:")))
    };
    let mut found = Vec::new();
    for old in &then {
        match now.iter().find(|new| key(new) == key(old)) {
            Some(new) if new.digest == old.digest && new.annotations == old.annotations => {}
            Some(new) => {
                found.push(format!("{}: was {}, is {} here", old.name, identity(old), identity(new)))
            }
            None => found.push(format!("{}: was {}, is not used here", old.name, identity(old))),
        }
    }
    let known: Vec<_> = then.iter().map(key).collect();
    let added = now.iter().filter(|new| !known.contains(&key(new)));
    found.extend(added.map(|new| format!("{}: is {} here, was not used", new.name, identity(new))));
    Ok(found)
}

fn identity(resource: &Resource) -> String {
    let version = resource.annotations.get("version").and_then(|version| version.as_str());
    let text = resource.digest.values().next().map(String::as_str).or(version).unwrap_or("unknown");
    crate::render::plain(text)
}
