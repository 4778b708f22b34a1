//! The plan of a build: everything that will be done, as data. Making it runs nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cargo_metadata::Package;
use oci::{Compression, HealthCheck, ImageSpec};
use serde::Serialize;
use stdx::Cmd;
use workspace::{
    Base, CargoConfig, KeySource, Linkage, Platform, Service, ServiceConfig, Settings, Workspace,
};

use crate::cross::Tools;
use crate::flags::{self, Remap};
use crate::git::GitState;
use crate::toolchain::Toolchain;

/// By these a job on GitHub proves who it is, and fills the caches of later ones.
///
/// Source: GitHub's documentation of OpenID Connect; actions/toolkit, `packages/cache`.
const IDENTITY: [&str; 3] =
    ["ACTIONS_ID_TOKEN_REQUEST_TOKEN", "ACTIONS_ID_TOKEN_REQUEST_URL", "ACTIONS_RUNTIME_TOKEN"];

/// The output folder of the invocation that links shared libraries, in that of the other one.
pub(crate) const SHARED: &str = "shared";

/// What a build will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Folder of the workspace.
    pub root: PathBuf,
    /// Target triple.
    pub target: String,
    /// Cargo profile.
    pub profile: String,
    /// Cargo's own output, apart from every other build of the workspace.
    pub build_dir: PathBuf,
    /// Arguments of the one cargo invocation.
    pub cargo_args: Vec<String>,
    /// Variables that the invocation gets (`Some`) or must not see (`None`), apart from those it inherits.
    pub env: BTreeMap<String, Option<String>>,
    /// Where the source stands.
    pub git: Option<GitState>,
    /// The platform, where the images will be listed in an index and have no names of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub platform: Option<String>,
    /// How layers are kept.
    pub compression: Compression,
    /// The images, by name of the service.
    pub services: Vec<ServicePlan>,
    /// A second cargo invocation, for services that are linked in the other way; it has no services of its own here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub also: Option<Box<Plan>>,
    /// Paths of this machine that no binary may hold.
    #[serde(skip)]
    pub(crate) remaps: Vec<Remap>,
}

/// What will be in one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ServicePlan {
    /// Name of the service.
    pub name: String,
    /// Version of its package.
    pub version: String,
    /// How it wants to be run.
    #[serde(skip)]
    pub(crate) config: ServiceConfig,
    /// Binary target.
    pub binary: String,
    /// Where Cargo will put the binary.
    pub binary_path: PathBuf,
    /// Files and folders that are copied, and where to.
    pub assets: Vec<(PathBuf, String)>,
    /// User and group id.
    pub user: u32,
    /// What its root is made of; never `auto`.
    pub base: Base,
    /// The image without its layers.
    #[serde(skip)]
    pub(crate) image: ImageSpec,
    #[serde(skip)]
    pub(crate) package: cargo_metadata::PackageId,
}

pub(crate) struct Facts<'a> {
    pub(crate) workspace: &'a Workspace,
    pub(crate) cargo: &'a CargoConfig,
    pub(crate) toolchain: &'a Toolchain,
    pub(crate) git: Option<&'a GitState>,
    /// Seconds since 1970 of the commit.
    pub(crate) commit_time: Option<i64>,
    pub(crate) lock: &'a [u8],
    pub(crate) build_dir: &'a Path,
    /// Looks a variable of this process up.
    pub(crate) env: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) tools: &'a Tools,
    /// Where the images will be listed in an index.
    pub(crate) platform: Option<Platform>,
}

/// Plans the images of `selected`.
pub(crate) fn plan(facts: &Facts<'_>, selected: &[(&Service, Base)]) -> Result<Plan> {
    let linked = |linkage| {
        let of = selected.iter().filter(|(_, base)| base.linkage() == Some(linkage));
        of.map(|(service, _)| *service).collect::<Vec<_>>()
    };
    let (alone, shared) = (linked(Linkage::Static), linked(Linkage::Shared));
    let mut plan = match shared.as_slice() {
        [] => invocation(facts, Linkage::Static, &alone)?,
        _ if alone.is_empty() => invocation(facts, Linkage::Shared, &shared)?,
        _ => {
            let also = Some(Box::new(invocation(facts, Linkage::Shared, &shared)?));
            Plan { also, ..invocation(facts, Linkage::Static, &alone)? }
        }
    };
    plan.services =
        selected.iter().map(|(service, base)| service_plan(facts, service, base)).collect::<Result<_>>()?;
    Ok(plan)
}

/// Flags hold for all that one cargo invocation compiles, so that each way of linking has an invocation and an output folder of
/// its own. Features are resolved for all services in both: which base another service has changes no bits of this one.
fn invocation(facts: &Facts<'_>, linkage: Linkage, selected: &[&Service]) -> Result<Plan> {
    let Facts { workspace, cargo, .. } = facts;
    let profile = workspace.settings.build.profile.clone();
    let build_dir = build_dir(facts, linkage);
    let remaps = flags::remaps(&workspace.root, cargo, &build_dir, facts.toolchain, &workspace.metadata);
    let rustflags = flags::rustflags(cargo, linkage, facts.toolchain, &remaps)?;
    let env = environment(facts, &build_dir, &profile, &rustflags, &remaps)?;
    Ok(Plan {
        root: workspace.root.clone(),
        target: cargo.target.clone(),
        cargo_args: cargo_args(workspace, cargo, &build_dir, selected, &env),
        env,
        build_dir,
        git: facts.git.cloned(),
        platform: facts.platform.map(|platform| platform.to_string()),
        compression: compression(&workspace.settings),
        services: Vec::new(),
        also: None,
        profile,
        remaps,
    })
}

fn build_dir(facts: &Facts<'_>, linkage: Linkage) -> PathBuf {
    match linkage {
        Linkage::Static => facts.build_dir.to_owned(),
        Linkage::Shared => facts.build_dir.join(SHARED),
    }
}

/// The set of services is closed: features are resolved for all of them, whichever binaries are asked for, so that building
/// one gives the bits that building all gives.
fn cargo_args(
    workspace: &Workspace,
    cargo: &CargoConfig,
    build_dir: &Path,
    selected: &[&Service],
    env: &BTreeMap<String, Option<String>>,
) -> Vec<String> {
    let mut args: Vec<String> = ["build", "--locked", "--message-format=json"].map(str::to_owned).into();
    args.extend([
        format!("--profile={}", workspace.settings.build.profile),
        format!("--target={}", cargo.target),
    ]);
    args.push(format!("--target-dir={}", build_dir.display()));
    args.extend(workspace.settings.build.feature_args());
    // A package can have several services, and a binary too, with other arguments.
    let packages = workspace.services.values().map(|service| format!("--package={}", service.package));
    args.extend(packages.collect::<BTreeSet<_>>());
    let binaries = selected.iter().map(|service| format!("--bin={}", service.binary));
    args.extend(binaries.collect::<BTreeSet<_>>());
    args.extend(flags::forced_c_flags(cargo, env));
    args
}

fn environment(
    facts: &Facts<'_>,
    build_dir: &Path,
    profile: &str,
    rustflags: &[String],
    remaps: &[Remap],
) -> Result<BTreeMap<String, Option<String>>> {
    if let Some(epoch) = (facts.env)("SOURCE_DATE_EPOCH") {
        ensure!(
            epoch.parse::<i64>().is_ok(),
            "SOURCE_DATE_EPOCH is `{epoch}`, and must be seconds since 1970"
        );
    }
    let mut env = flags::environment(facts.cargo, profile, facts.lock, rustflags, remaps, facts.env);
    // Cargo's own setting for intermediate files would lead them away from where this build looks for them.
    env.insert("CARGO_BUILD_BUILD_DIR".to_owned(), Some(build_dir.display().to_string()));
    // Build scripts and macros are code of others: whoever can sign has no business there.
    let key = facts.workspace.settings.signing.key.as_ref().and_then(KeySource::variable);
    for name in key.into_iter().chain(IDENTITY) {
        env.insert(name.to_owned(), None);
    }
    env.extend(facts.tools.env.iter().map(|(name, value)| (name.clone(), Some(value.clone()))));
    Ok(env)
}

/// The folder that Cargo keeps a profile's output in.
pub(crate) fn profile_folder(profile: &str) -> &str {
    if profile == "bench" { "release" } else { profile }
}

fn service_plan(facts: &Facts<'_>, service: &Service, base: &Base) -> Result<ServicePlan> {
    let package = facts.workspace.package(service);
    let profile = &facts.workspace.settings.build.profile;
    let build_dir = build_dir(facts, base.linkage().unwrap_or(Linkage::Static));
    let binary_path = build_dir.join(&facts.cargo.target).join(profile_folder(profile)).join(&service.binary);
    let assets = &service.config.image.assets;
    Ok(ServicePlan {
        name: service.name.clone(),
        version: package.version.to_string(),
        config: service.config.clone(),
        binary: service.binary.clone(),
        binary_path,
        assets: assets.iter().map(|asset| (service.folder.join(&asset.from), asset.to.clone())).collect(),
        user: service.config.image.user,
        base: base.clone(),
        image: image(facts, service, package)?,
        package: service.package.clone(),
    })
}

fn image(facts: &Facts<'_>, service: &Service, package: &Package) -> Result<ImageSpec> {
    let config = &service.config;
    let program = program(&service.binary);
    let mut entrypoint = vec![program.clone()];
    entrypoint.extend(config.image.args.iter().cloned());
    let mut env = BTreeMap::from([("SSL_CERT_FILE".to_owned(), base::CA_BUNDLE.to_owned())]);
    env.extend(config.image.env.clone());
    if let Some(http) = &config.http {
        env.entry(http.port_env.clone()).or_insert_with(|| http.port.to_string());
    }
    for volume in &config.volumes {
        if let Some(name) = &volume.path_env {
            env.entry(name.clone()).or_insert_with(|| volume.path.clone());
        }
    }
    let check = config.health.as_ref().filter(|health| !health.command.is_empty());
    Ok(ImageSpec {
        architecture: architecture(&facts.cargo.target)?.to_owned(),
        created: stdx::time::rfc3339(created(facts)),
        layers: vec![],
        entrypoint,
        cmd: vec![],
        env,
        user: format!("{0}:{0}", config.image.user),
        working_dir: "/".to_owned(),
        exposed_ports: config.http.iter().map(|http| http.port).collect(),
        volumes: config.volumes.iter().map(|volume| volume.path.clone()).collect(),
        stop_signal: config.stop.signal.clone(),
        health_check: check.map(|health| HealthCheck {
            command: [program].into_iter().chain(health.command.iter().cloned()).collect(),
            interval_ms: DOCKER_CHECK_INTERVAL_MS,
            timeout_ms: health.timeout_ms,
            start_period_ms: health.start_timeout_ms,
            retries: config.health.as_ref().map_or(1, |health| health.healthy_threshold),
        }),
        labels: labels(facts, service, package),
    })
}

/// An engine starts a process for each check, so it checks less often than a deployment, which only opens a connection.
const DOCKER_CHECK_INTERVAL_MS: u64 = 10_000;

/// Where the binary lies inside the image.
pub(crate) fn program(binary: &str) -> String {
    format!("/app/{binary}")
}

/// The commit's time, or what the user fixed, or 1970: never this machine's clock.
pub(crate) fn created(facts: &Facts<'_>) -> i64 {
    let fixed = (facts.env)("SOURCE_DATE_EPOCH").and_then(|text| text.parse().ok());
    fixed.or(facts.commit_time).unwrap_or(0)
}

/// The label that names the commit.
pub(crate) const REVISION: &str = "org.opencontainers.image.revision";

/// Source: OCI image-spec, "Pre-Defined Annotation Keys".
fn labels(facts: &Facts<'_>, service: &Service, package: &Package) -> BTreeMap<String, String> {
    let description = service.config.description.clone().or_else(|| package.description.clone());
    let authors = (!package.authors.is_empty()).then(|| package.authors.join(", "));
    let values = [
        ("title", Some(service.name.clone())),
        ("description", description),
        ("version", Some(package.version.to_string())),
        ("licenses", package.license.clone()),
        ("source", package.repository.clone()),
        ("url", package.homepage.clone()),
        ("documentation", package.documentation.clone()),
        ("authors", authors),
        ("vendor", facts.workspace.settings.image.vendor.clone()),
        ("revision", facts.git.map(GitState::label)),
        ("created", Some(stdx::time::rfc3339(created(facts)))),
    ];
    let named = values
        .into_iter()
        .filter_map(|(name, value)| Some((format!("org.opencontainers.image.{name}"), value?)));
    named.collect()
}

/// How layers are kept, by the settings.
pub(crate) fn compression(settings: &Settings) -> Compression {
    match settings.image.compression {
        workspace::Compression::Gzip => Compression::Gzip,
        workspace::Compression::Zstd => Compression::Zstd,
    }
}

/// The processor of a target triple, in Go's words.
pub(crate) fn architecture(target: &str) -> Result<&'static str> {
    let platform = Platform::of_target(target);
    Ok(platform.with_context(|| format!("images for the target {target} are not supported"))?.architecture())
}

impl ServicePlan {
    /// How its binary is linked.
    pub(crate) fn linkage(&self) -> Linkage {
        self.base.linkage().unwrap_or(Linkage::Static)
    }
}

impl Plan {
    /// Where Cargo keeps what runs on this machine, and what is made for the target.
    pub(crate) fn profile_folders(&self) -> Vec<PathBuf> {
        let profile = profile_folder(&self.profile);
        let of =
            |plan: &Plan| [plan.build_dir.join(profile), plan.build_dir.join(&plan.target).join(profile)];
        self.invocations().flat_map(of).collect()
    }

    /// This plan's cargo invocation, and the second one where there is one.
    pub fn invocations(&self) -> impl Iterator<Item = &Plan> {
        [self].into_iter().chain(self.also.as_deref())
    }

    /// The folders of every target that was ever built for, in the folder `build_dir` of all invocations.
    pub(crate) fn all_profile_folders(&self, build_dir: &Path) -> Vec<PathBuf> {
        let profile = profile_folder(&self.profile);
        let of = |folder: PathBuf| {
            let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
            let targets = entries.map(|entry| entry.path().join(profile));
            [folder.join(profile)].into_iter().chain(targets).collect::<Vec<_>>()
        };
        [build_dir.to_owned(), build_dir.join(SHARED)].into_iter().flat_map(of).collect()
    }

    /// One plan for each cargo invocation, with the services that it compiles.
    pub(crate) fn parts(&self) -> Vec<Plan> {
        let part = |plan: &Plan| {
            let is_compiled = |service: &&ServicePlan| service.binary_path.starts_with(plan.output_folder());
            let services = self.services.iter().filter(is_compiled).cloned().collect();
            Plan { services, also: None, ..plan.clone() }
        };
        self.invocations().map(part).collect()
    }

    /// Where Cargo puts what is made for the target.
    fn output_folder(&self) -> PathBuf {
        self.build_dir.join(&self.target)
    }

    /// The same for some of the services: an invocation that compiles none of them is left out.
    pub(crate) fn only(&self, names: &BTreeSet<&str>) -> Plan {
        let some = |mut plan: Plan| {
            plan.services.retain(|service| names.contains(service.name.as_str()));
            let wanted: Vec<String> =
                plan.services.iter().map(|service| format!("--bin={}", service.binary)).collect();
            plan.cargo_args.retain(|arg| !arg.starts_with("--bin=") || wanted.contains(arg));
            plan
        };
        let mut parts = self.parts().into_iter().map(some).filter(|plan| !plan.services.is_empty());
        let Some(mut plan) = parts.next() else {
            return Plan { services: vec![], also: None, ..self.clone() };
        };
        if let Some(mut also) = parts.next() {
            plan.services =
                self.services.iter().filter(|one| names.contains(one.name.as_str())).cloned().collect();
            also.services.clear();
            plan.also = Some(Box::new(also));
        }
        plan
    }

    /// The cargo invocation; `also` has one of its own.
    pub fn command(&self) -> Cmd {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut cmd = Cmd::new(cargo).args(&self.cargo_args).cwd(&self.root);
        for (name, value) in &self.env {
            cmd = match value {
                Some(value) => cmd.env(name, value),
                None => cmd.env_remove(name),
            };
        }
        cmd
    }
}
