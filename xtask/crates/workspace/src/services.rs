//! Which binaries of a workspace become images: those that `services:` in `slipway.yaml` names, else packages with a
//! `service.yaml`, else every package with a binary. It reads these files and what Cargo says of the packages, and does not
//! know how anything is built.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, Package, TargetKind};
use serde::Deserialize;
use stdx::yaml::{self, File};

use crate::config::Settings;
use crate::load::Service;
use crate::service::{EnvVar, Health, Http, Image, Place, Resources, ServiceConfig, Stop, Volume};

/// One service of the block `services:` in `slipway.yaml`: what a `service.yaml` can say, for packages that have none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct ServiceEntry {
    /// The package; the one that has the binary where `None`.
    pub package: Option<String>,
    /// One line for people; the package's own description where `None`.
    pub description: Option<String>,
    /// What is in the image. Its binary is the one with the service's name where none is given.
    pub image: Image,
    /// Where it listens; `None` for a service without a port.
    pub http: Option<Http>,
    /// How to tell that it is fit to serve.
    pub health: Option<Health>,
    /// How to stop it.
    pub stop: Stop,
    /// The variables that it reads.
    pub env: BTreeMap<String, EnvVar>,
    /// The folders it keeps data in.
    pub volumes: Vec<Volume>,
    /// Upper bounds on what it may use.
    pub resources: Resources,
}

impl ServiceEntry {
    fn config(self) -> ServiceConfig {
        let ServiceEntry { package: _, description, image, http, health, stop, env, volumes, resources } =
            self;
        ServiceConfig { description, image, http, health, stop, env, volumes, resources }
    }
}

/// The services of the workspace, by name.
///
/// # Errors
/// When a file is not of the right shape, or leaves open which binary is meant. All problems with values are listed at once.
pub(crate) fn services(
    root: &Path,
    settings: &Settings,
    metadata: &Metadata,
) -> Result<BTreeMap<String, Service>> {
    let services = match &settings.services {
        Some(entries) => named(root, entries, metadata)?,
        None => declared(metadata)?,
    };
    refuse_ambiguous(&services, metadata)?;
    Ok(services)
}

/// Cargo picks binaries by name alone, among all packages of a build.
fn refuse_ambiguous(services: &BTreeMap<String, Service>, metadata: &Metadata) -> Result<()> {
    for service in services.values() {
        let has_it = |other: &&Service| {
            other.package != service.package
                && binaries(&metadata[&other.package]).any(|name| name == service.binary)
        };
        if let Some(other) = services.values().find(has_it) {
            bail!(
                "the packages {} and {} both have a binary `{}`; rename one",
                metadata[&other.package].name,
                metadata[&service.package].name,
                service.binary
            );
        }
    }
    Ok(())
}

/// Packages with a `service.yaml`; where there is none at all, every package with a binary but the one of this tool.
fn declared(metadata: &Metadata) -> Result<BTreeMap<String, Service>> {
    let mut problems = Vec::new();
    let mut declared = Vec::new();
    for package in metadata.workspace_packages() {
        if let Some(config) = ServiceConfig::load(folder(package), &mut problems)? {
            declared.push((package, config));
        }
    }
    yaml::refuse_if_any(&problems)?;
    if declared.is_empty() {
        let packages = metadata.workspace_packages();
        let has_service = |package: &&&Package| binaries(package).next().is_some() && !is_tool(package);
        declared =
            packages.iter().filter(has_service).map(|package| (*package, ServiceConfig::default())).collect();
    }
    let service = |(package, config): (&Package, ServiceConfig)| {
        let binary = binary(package, &config)?;
        Ok((package.name.to_string(), Service::new(package.name.to_string(), package, binary, config)))
    };
    declared.into_iter().map(service).collect()
}

/// The services that `slipway.yaml` names. Each has its settings there, or in the `service.yaml` of its package.
fn named(
    root: &Path,
    entries: &BTreeMap<String, Option<ServiceEntry>>,
    metadata: &Metadata,
) -> Result<BTreeMap<String, Service>> {
    let file = File::read_if_exists(&root.join(Settings::FILE))?.unwrap_or_default();
    let mut problems = Vec::new();
    let mut services = BTreeMap::new();
    for (name, entry) in entries {
        let entry = entry.clone().unwrap_or_default();
        let (package, binary) = match found(name, &entry, metadata) {
            Ok(found) => found,
            Err(message) => {
                problems.push(file.problem(&["services", name], message));
                continue;
            }
        };
        let has_settings = entry
            != ServiceEntry {
                package: entry.package.clone(),
                image: Image { binary: entry.image.binary.clone(), ..Image::default() },
                ..ServiceEntry::default()
            };
        let own = ServiceConfig::load(folder(package), &mut problems)?;
        if has_settings && own.is_some() {
            let message = format!(
                "{} holds settings of {} as well; keep them in one place",
                folder(package).join(ServiceConfig::FILE).display(),
                package.name
            );
            problems.push(file.problem(&["services", name], message));
        }
        let mut config = entry.config();
        config.check(&Place::new(&file, &["services", name]), folder(package), &mut problems);
        if let Some(own) = own {
            config = own;
        }
        services.insert(name.clone(), Service::new(name.clone(), package, binary, config));
    }
    yaml::refuse_if_any(&problems)?;
    Ok(services)
}

/// The package and binary that an entry means, or in words why that cannot be told.
fn found<'a>(
    name: &str,
    entry: &ServiceEntry,
    metadata: &'a Metadata,
) -> Result<(&'a Package, String), String> {
    if !is_image_name(name) {
        return Err(format!(
            "`{name}` is no name of an image: a-z and 0-9, with single `-`, `_` or `.` between"
        ));
    }
    let packages = metadata.workspace_packages();
    let wanted = entry.image.binary.as_deref().unwrap_or(name);
    let has_it = |package: &Package| binaries(package).any(|binary| binary == wanted);
    if let Some(package_name) = &entry.package {
        let package = packages.iter().find(|package| package.name.as_str() == package_name);
        let package = *package.ok_or_else(|| format!("this workspace has no package `{package_name}`"))?;
        return match (has_it(package), &entry.image.binary) {
            (true, _) => Ok((package, wanted.to_owned())),
            (false, None) => preferred(package).map(|binary| (package, binary)),
            (false, Some(_)) => {
                Err(format!("{package_name} has no binary `{wanted}`; it has: {}", list(package)))
            }
        };
    }
    let holders: Vec<&Package> = packages.iter().copied().filter(|package| has_it(package)).collect();
    let namesake = packages.iter().find(|package| package.name.as_str() == name);
    match (holders.as_slice(), namesake) {
        ([package], _) => Ok((package, wanted.to_owned())),
        ([], Some(package)) if entry.image.binary.is_none() => {
            preferred(package).map(|binary| (*package, binary))
        }
        ([], _) => {
            let all: Vec<&str> = packages.iter().flat_map(|package| binaries(package)).collect();
            let all = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
            Err(format!("this workspace has no binary `{wanted}`; it has: {all}"))
        }
        (many, _) => {
            let names: Vec<&str> = many.iter().map(|package| package.name.as_str()).collect();
            Err(format!(
                "the packages {} have a binary `{wanted}`; name one with `package`",
                names.join(", ")
            ))
        }
    }
}

/// The form that every registry takes. Source: OCI distribution-spec, "Pulling manifests".
fn is_image_name(name: &str) -> bool {
    let is_plain =
        |part: &str| !part.is_empty() && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    name.split(['-', '_', '.']).all(is_plain)
}

impl Service {
    fn new(name: String, package: &Package, binary: String, config: ServiceConfig) -> Service {
        let folder = folder(package).to_owned();
        Service { name, package: package.id.clone(), folder, binary, config }
    }
}

/// Whether this is the package of a tool such as this one, which no image is made of.
pub(crate) fn is_tool(package: &Package) -> bool {
    binaries(package).any(|name| name == "xtask" || name == "cargo-xtask")
}

pub(crate) fn folder(package: &Package) -> &Path {
    let manifest = package.manifest_path.as_std_path();
    manifest.parent().unwrap_or(manifest)
}

pub(crate) fn binaries(package: &Package) -> impl Iterator<Item = &str> {
    package
        .targets
        .iter()
        .filter(|target| target.kind.contains(&TargetKind::Bin))
        .map(|target| target.name.as_str())
}

fn list(package: &Package) -> String {
    let names: Vec<&str> = binaries(package).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The binary that stands for the package: its only one, its `default-run`, or the one with its name.
pub(crate) fn preferred(package: &Package) -> Result<String, String> {
    let names: Vec<&str> = binaries(package).collect();
    let namesake = || names.iter().copied().find(|name| *name == package.name.as_str());
    match (names.as_slice(), package.default_run.as_deref().or_else(namesake)) {
        ([only], _) => Ok((*only).to_owned()),
        (_, Some(preferred)) => Ok(preferred.to_owned()),
        _ => Err(format!("name one of the package's binaries: {}", list(package))),
    }
}

fn binary(package: &Package, config: &ServiceConfig) -> Result<String> {
    let file = folder(package).join(ServiceConfig::FILE);
    if let Some(wanted) = &config.image.binary {
        if !binaries(package).any(|name| name == wanted) {
            bail!(
                "{}: image.binary: the package has no binary `{wanted}`; it has: {}",
                file.display(),
                list(package)
            );
        }
        return Ok(wanted.clone());
    }
    preferred(package).map_err(anyhow::Error::msg).with_context(|| {
        let example = binaries(package).next().unwrap_or_default();
        format!(
            "{}: image.binary: the package {} leaves open which binary is meant; next: `cargo xtask init` makes a service of \
             each in slipway.yaml, or write `image: {{ binary: {example} }}` into that file, or `default-run` into the package's Cargo.toml",
            file.display(),
            package.name
        )
    })
}
