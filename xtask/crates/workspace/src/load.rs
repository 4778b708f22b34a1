//! Finding and reading a workspace: its root, Cargo's configuration, its packages and services.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Node, Package, PackageId, TargetKind};
use stdx::{Cmd, Digest, yaml};

use crate::base::Linkage;
use crate::config::Settings;
use crate::service::ServiceConfig;

/// A loaded workspace.
#[derive(Debug, Clone)]
pub struct Workspace {
    /// Folder of the root manifest.
    pub root: PathBuf,
    /// Content of `slipway.yaml`.
    pub settings: Settings,
    /// By name: the closed set. Features are always resolved for all of them, so that building one gives the bits that
    /// building all gives.
    pub services: BTreeMap<String, Service>,
    /// What Cargo says of the dependency graph, for the one target.
    pub metadata: Metadata,
}

/// A package whose binary becomes an image.
#[derive(Debug, Clone)]
pub struct Service {
    /// The package's name.
    pub name: String,
    /// Cargo's id of the package.
    pub package: PackageId,
    /// Folder of the package.
    pub folder: PathBuf,
    /// Binary target.
    pub binary: String,
    /// Content of its `service.yaml`, or defaults.
    pub config: ServiceConfig,
}

/// Whether Cargo may download.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    /// It may.
    Allowed,
    /// It may not.
    Forbidden,
}

impl Network {
    pub(crate) fn cargo_flag(self) -> Option<&'static str> {
        match self {
            Network::Allowed => None,
            Network::Forbidden => Some("--offline"),
        }
    }
}

/// What Cargo's configuration files and environment say for one workspace and target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CargoConfig {
    /// The target triple to build for.
    pub target: String,
    /// The flags that Cargo would give rustc for that target, from the environment or the configuration files by Cargo's
    /// own rules of precedence.
    pub rustflags: Vec<String>,
    /// The linker that the user chose for the target.
    pub linker: Option<PathBuf>,
    /// Folder of Cargo's registry and git checkouts.
    pub cargo_home: PathBuf,
    /// Variables of the `[env]` tables.
    pub env: BTreeMap<String, String>,
    /// Those of them that Cargo sets whatever the environment says.
    pub forced_env: Vec<String>,
}

/// The root of the workspace that the folder `from` is in.
pub fn locate(from: &Path) -> Result<PathBuf> {
    // A manifest with a `[workspace]` table is its own root: Cargo need not be asked.
    let manifest = std::fs::read_to_string(from.join("Cargo.toml")).unwrap_or_default();
    if manifest.lines().any(|line| line.trim_end() == "[workspace]") {
        return Ok(from.to_owned());
    }
    let cmd = cargo().args(["locate-project", "--workspace", "--message-format", "plain"]).cwd(from);
    let manifest = PathBuf::from(cmd.read().context("no Cargo workspace here")?);
    Ok(manifest.parent().context("a manifest without a folder")?.to_owned())
}

/// The cargo that runs this program, where Cargo says which one that is.
pub(crate) fn cargo() -> Cmd {
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// Cargo's folder for build output, by its configuration. Asks neither Cargo nor rustc.
pub fn target_dir(root: &Path) -> Result<PathBuf> {
    let config = cargo_config2::Config::load_with_cwd(root).context("cannot read Cargo's configuration")?;
    Ok(root.join(config.build.target_dir.as_deref().unwrap_or(Path::new("target"))))
}

/// The tool's own folder in Cargo's target folder `target_dir`, so that `cargo clean` clears it. A target folder outside the
/// workspace may serve several workspaces: each has a folder of its own there.
pub fn slipway_dir(root: &Path, target_dir: &Path) -> PathBuf {
    if target_dir.starts_with(root) {
        target_dir.join("slipway")
    } else {
        target_dir.join(format!("slipway-{}", Digest::of(root.as_os_str().as_encoded_bytes()).short()))
    }
}

/// What Cargo's configuration says about running tests on this machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestConfig {
    /// Whether compilers are called through a program of the user's.
    pub has_rustc_wrapper: bool,
    /// The program, with arguments, through which binaries for this machine are run; empty for none.
    pub runner: Vec<std::ffi::OsString>,
    /// Variables of the `[env]` tables, and whether each counts for more than the environment.
    pub env: BTreeMap<String, (std::ffi::OsString, bool)>,
}

impl TestConfig {
    /// Reads Cargo's configuration as seen from the workspace root.
    pub fn load(root: &Path) -> Result<TestConfig> {
        let config =
            cargo_config2::Config::load_with_cwd(root).context("cannot read Cargo's configuration")?;
        let host = config.host_triple().context("cannot ask rustc for its host")?.to_owned();
        let runner = config.runner(host.as_str())?;
        let env = config.env.iter().map(|(name, value)| (name.clone(), (value.value.clone(), value.force)));
        Ok(TestConfig {
            has_rustc_wrapper: config.build.rustc_wrapper.is_some(),
            runner: runner
                .map(|r| [r.path.into_os_string()].into_iter().chain(r.args).collect())
                .unwrap_or_default(),
            env: env.collect(),
        })
    }
}

impl CargoConfig {
    /// Reads Cargo's configuration as seen from the workspace root.
    pub fn load(root: &Path, target: Option<&str>) -> Result<CargoConfig> {
        let config =
            cargo_config2::Config::load_with_cwd(root).context("cannot read Cargo's configuration")?;
        let cargo_home = cargo_home(root).context("neither CARGO_HOME nor HOME is set")?;
        refuse_includes(root, &cargo_home)?;
        let target = match target {
            Some(target) => target.to_owned(),
            None => default_target(config.host_triple().context("cannot ask rustc for its host")?)?,
        };
        let rustflags = config.rustflags(target.as_str())?.map(|flags| flags.flags).unwrap_or_default();
        let linker = config.linker(target.as_str())?;
        let text = |value: &cargo_config2::EnvConfigValue| value.value.to_string_lossy().into_owned();
        let env = config.env.iter().map(|(name, value)| (name.clone(), text(value))).collect();
        let forced_env =
            config.env.iter().filter(|(_, value)| value.force).map(|(name, _)| name.clone()).collect();
        Ok(CargoConfig { target, rustflags, linker, cargo_home, env, forced_env })
    }

    /// The flags that can decide what is compiled for an image: the user's, then static linking.
    pub fn image_rustflags(&self) -> Vec<String> {
        self.linking_rustflags(Linkage::Static)
    }

    /// The user's flags, then how the binary is linked. Rust's own default is shared with glibc and static with musl.
    pub fn linking_rustflags(&self, linkage: Linkage) -> Vec<String> {
        let ours = match linkage {
            Linkage::Static if self.target.ends_with("-linux-gnu") => Some("-Ctarget-feature=+crt-static"),
            Linkage::Shared if self.target.ends_with("-linux-musl") => Some("-Ctarget-feature=-crt-static"),
            Linkage::Static | Linkage::Shared => None,
        };
        self.rustflags.iter().cloned().chain(ours.map(str::to_owned)).collect()
    }
}

/// Cargo follows `include` in its configuration; what is read here does not, and would silently lose what stands there.
fn refuse_includes(root: &Path, cargo_home: &Path) -> Result<()> {
    let folders = root.ancestors().map(|folder| folder.join(".cargo")).chain([cargo_home.to_owned()]);
    for file in folders.flat_map(|folder| ["config.toml", "config"].map(|name| folder.join(name))) {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let top_level = text.lines().take_while(|line| !line.trim_start().starts_with('['));
        for (index, line) in top_level.enumerate() {
            if line.split_once('=').is_some_and(|(key, _)| key.trim() == "include") {
                bail!(
                    "{}:{}: include: not supported; write what it includes into this file",
                    file.display(),
                    index + 1
                );
            }
        }
    }
    Ok(())
}

/// Cargo's folder of registries and checkouts, as seen from `root`; `None` where neither CARGO_HOME nor HOME is set.
pub fn cargo_home(root: &Path) -> Option<PathBuf> {
    match std::env::var_os("CARGO_HOME").filter(|value| !value.is_empty()) {
        Some(home) => Some(root.join(home)),
        None => Some(std::env::home_dir()?.join(".cargo")),
    }
}

/// Images are Linux images, linked against glibc whatever the host's own default is.
fn default_target(host: &str) -> Result<String> {
    let architecture = host.split('-').next().unwrap_or_default();
    if !host.contains("linux") {
        bail!(
            "this machine is {host}; set `build.target` in slipway.yaml to a Linux target that is installed"
        );
    }
    Ok(format!("{architecture}-unknown-linux-gnu"))
}

impl Workspace {
    /// What Cargo resolved each package to, by id.
    pub fn nodes(&self) -> BTreeMap<&PackageId, &Node> {
        let nodes = self.metadata.resolve.iter().flat_map(|resolve| &resolve.nodes);
        nodes.map(|node| (&node.id, node)).collect()
    }

    /// Loads the workspace at `root` with its dependency graph for `target`.
    ///
    /// # Errors
    /// When the lock file is missing or does not fit the manifests, when a file is not of the right shape (all problems of
    /// all services' values are listed at once), or when there is no service.
    pub fn load(root: &Path, settings: Settings, target: &str) -> Result<Workspace> {
        let workspace = Workspace::load_with(root, settings, target, Network::Allowed)?;
        if workspace.services.is_empty() {
            bail!("no package of this workspace has a binary to make an image of");
        }
        Ok(workspace)
    }

    /// The same, where there may be no service, and the network may be forbidden: then packages that Cargo has not downloaded
    /// are an error.
    pub fn load_with(root: &Path, settings: Settings, target: &str, network: Network) -> Result<Workspace> {
        if !root.join("Cargo.lock").is_file() {
            bail!("{} has no Cargo.lock; run `cargo generate-lockfile` and commit it", root.display());
        }
        let options = ["--locked", "--filter-platform", target].into_iter().chain(network.cargo_flag());
        let metadata = MetadataCommand::new()
            .cargo_path(cargo().program)
            .current_dir(root)
            .features(CargoOpt::SomeFeatures(vec![]))
            .other_options(options.map(str::to_owned).collect::<Vec<_>>())
            .exec()
            .context("cannot read the dependency graph; an outdated Cargo.lock is mended by `cargo update --workspace`")?;
        let services = services(&metadata)?;
        Ok(Workspace { root: root.to_owned(), settings, services, metadata })
    }

    /// The services with these names, or all where `names` is empty.
    pub fn select(&self, names: &[String]) -> Result<Vec<&Service>> {
        if names.is_empty() {
            return Ok(self.services.values().collect());
        }
        let known = || self.services.keys().cloned().collect::<Vec<_>>().join(", ");
        let find = |name: &String| {
            self.services
                .get(name)
                .with_context(|| format!("there is no service `{name}`; there are: {}", known()))
        };
        let mut selected = names.iter().map(find).collect::<Result<Vec<_>>>()?;
        selected.sort_by(|a, b| a.name.cmp(&b.name));
        selected.dedup_by(|a, b| a.name == b.name);
        Ok(selected)
    }

    /// What Cargo says of the service's package.
    pub fn package(&self, service: &Service) -> &Package {
        &self.metadata[&service.package]
    }
}

/// Packages with a `service.yaml`; where there is none at all, every package with a binary but the one of this tool.
fn services(metadata: &Metadata) -> Result<BTreeMap<String, Service>> {
    let mut problems = Vec::new();
    let mut declared = Vec::new();
    for package in metadata.workspace_packages() {
        if let Some(config) = ServiceConfig::load(folder(package), &mut problems)? {
            declared.push((package, config));
        }
    }
    yaml::refuse_if_any(&problems)?;
    if declared.is_empty() {
        let has_service = |package: &&&Package| {
            let mut names = binaries(package).peekable();
            names.peek().is_some() && !binaries(package).any(|name| name == "xtask" || name == "cargo-xtask")
        };
        let packages = metadata.workspace_packages();
        declared =
            packages.iter().filter(has_service).map(|package| (*package, ServiceConfig::default())).collect();
    }
    let mut services = BTreeMap::new();
    let packages: Vec<&Package> = declared.iter().map(|(package, _)| *package).collect();
    for (package, config) in declared {
        let service = Service {
            name: package.name.to_string(),
            package: package.id.clone(),
            folder: folder(package).to_owned(),
            binary: binary(package, &config)?,
            config,
        };
        // Cargo picks binaries by name alone, among all packages of a build.
        let also =
            |other: &&&Package| other.id != package.id && binaries(other).any(|name| name == service.binary);
        if let Some(other) = packages.iter().find(also) {
            bail!(
                "the packages {} and {} both have a binary `{}`; rename one",
                other.name,
                package.name,
                service.binary
            );
        }
        services.insert(service.name.clone(), service);
    }
    Ok(services)
}

fn folder(package: &Package) -> &Path {
    let manifest = package.manifest_path.as_std_path();
    manifest.parent().unwrap_or(manifest)
}

fn binaries(package: &Package) -> impl Iterator<Item = &str> {
    package
        .targets
        .iter()
        .filter(|target| target.kind.contains(&TargetKind::Bin))
        .map(|target| target.name.as_str())
}

fn binary(package: &Package, config: &ServiceConfig) -> Result<String> {
    let names: Vec<&str> = binaries(package).collect();
    let file = folder(package).join(ServiceConfig::FILE);
    let list = || if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    if let Some(wanted) = &config.image.binary {
        if !names.contains(&wanted.as_str()) {
            bail!(
                "{}: image.binary: the package has no binary `{wanted}`; it has: {}",
                file.display(),
                list()
            );
        }
        return Ok(wanted.clone());
    }
    let preferred = package
        .default_run
        .as_deref()
        .or_else(|| names.iter().copied().find(|name| *name == package.name.as_str()));
    match (names.as_slice(), preferred) {
        ([only], _) => Ok((*only).to_owned()),
        (_, Some(preferred)) => Ok(preferred.to_owned()),
        _ => {
            let example = names.first().copied().unwrap_or_default();
            bail!(
                "{}: image.binary: name one of the package's binaries: {}; next: write `image: {{ binary: {example} }}` into that \
                 file, or `default-run` into the package's Cargo.toml",
                file.display(),
                list()
            )
        }
    }
}
