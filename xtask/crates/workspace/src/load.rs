//! Finding and reading a workspace: its root, its packages and services.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Node, Package, PackageId};
use stdx::{Cmd, Digest};

use crate::config::Settings;
use crate::service::ServiceConfig;
use crate::services::services;

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

/// The tool's own folder in Cargo's target folder `target_dir`, so that `cargo clean` clears it. A target folder outside the
/// workspace may serve several workspaces: each has a folder of its own there.
pub fn slipway_dir(root: &Path, target_dir: &Path) -> PathBuf {
    if target_dir.starts_with(root) {
        target_dir.join("slipway")
    } else {
        target_dir.join(format!("slipway-{}", Digest::of(root.as_os_str().as_encoded_bytes()).short()))
    }
}

/// What mends it, where the text of Cargo's error tells.
fn next_step(error: &str) -> &'static str {
    // What Cargo says of the lock file talks of `--offline` as well.
    if error.contains("lock file") {
        "; an outdated Cargo.lock is mended by `cargo update --workspace`"
    } else if error.contains("--offline") {
        "; without a network, packages must have been fetched before: `cargo fetch --locked`"
    } else {
        ""
    }
}

/// Build scripts run here: where images are for another platform, what only this one needs is compiled as well.
fn host_filter(target: &str) -> Option<&'static str> {
    let is_host = cfg!(all(target_os = "linux", target_env = "gnu"))
        && target == format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    (!is_host).then_some("--filter-platform=host-tuple")
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
        let options = ["--locked", "--filter-platform", target].into_iter();
        let options = options.chain(host_filter(target)).chain(network.cargo_flag());
        let mut command = MetadataCommand::new();
        command.cargo_path(cargo().program).current_dir(root);
        command.features(CargoOpt::SomeFeatures(settings.build.features.clone()));
        if !settings.build.default_features {
            command.features(CargoOpt::NoDefaultFeatures);
        }
        let metadata = command.other_options(options.map(str::to_owned).collect::<Vec<_>>()).exec().map_err(
            |error| {
                let next = next_step(&error.to_string());
                anyhow::Error::new(error).context(format!("cannot read the dependency graph{next}"))
            },
        )?;
        let services = services(root, &settings, &metadata)?;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_next_step_is_named_only_where_it_helps() {
        assert!(
            next_step("the lock file needs to be updated but --locked was passed").contains("cargo update")
        );
        assert!(next_step("you may wish to retry without `--offline`").contains("cargo fetch"));
        assert_eq!(next_step("could not find specification for target \"foo\""), "");
    }
}
