//! What `cargo test --workspace` would build and run, asked from Cargo without building: the targets, how each is selected, and
//! where its package lies. It does not know which tests are in them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::{Metadata, MetadataCommand, Package, PackageId, Target, TargetKind};
use stdx::Cmd;

use crate::{Binary, DOCTESTS, Inventory, Selector, Test};

/// The test targets of a workspace.
#[derive(Debug)]
pub struct Targets {
    /// Root of the workspace.
    pub root: PathBuf,
    /// Cargo's folder for build output.
    pub target_folder: PathBuf,
    /// All binaries with tests, none of them listed yet.
    pub inventory: Inventory,
    pub(crate) metadata: Metadata,
    /// Binaries whose `main` is the author's own.
    pub(crate) without_harness: BTreeSet<String>,
    /// The examples beside each binary, and whether any is needed: tests may run them, and `cargo test` builds them.
    examples: BTreeMap<Selector, BTreeSet<String>>,
    /// Selectors that cargo refuses: they also name a target whose features are off, which `cargo test` leaves out.
    refused: BTreeSet<Selector>,
}

impl Targets {
    /// Asks Cargo.
    ///
    /// # Errors
    /// When the lock file is missing or does not fit the manifests.
    pub fn load(root: &Path) -> Result<Targets> {
        if !root.join("Cargo.lock").is_file() {
            bail!("{} has no Cargo.lock; run `cargo generate-lockfile` and commit it", root.display());
        }
        let metadata = MetadataCommand::new()
            .cargo_path(cargo().program)
            .current_dir(root)
            .other_options(["--locked".to_owned()])
            .exec()
            .context(
                "cannot read the workspace; an outdated Cargo.lock is mended by `cargo update --workspace`",
            )?;
        let mut inventory = Inventory::default();
        let mut without_harness = BTreeSet::new();
        let mut examples: BTreeMap<Selector, BTreeSet<String>> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        let features = features(&metadata);
        let is_enabled = |package: &Package, target: &Target| {
            let enabled = features.get(&package.id);
            target
                .required_features
                .iter()
                .all(|feature| enabled.is_some_and(|set| set.contains(feature.as_str())))
        };
        for package in metadata.workspace_packages() {
            let own_main = own_main(package)?;
            let (enabled, disabled): (Vec<&Target>, Vec<&Target>) =
                package.targets.iter().partition(|target| is_enabled(package, target));
            refused.extend(disabled.into_iter().filter_map(selector));
            let is_example = |target: &&&Target| target.kind.contains(&TargetKind::Example) && !target.test;
            let of_package: BTreeSet<String> =
                enabled.iter().filter(is_example).map(|t| t.name.clone()).collect();
            for target in enabled {
                add(&mut inventory, package, target)?;
                if let (Some(selector), true) = (selector(target), target.test && !of_package.is_empty()) {
                    examples.entry(selector).or_default().extend(of_package.iter().cloned());
                }
                let has_own_main = selector(target).is_some_and(|selector| own_main.contains(&selector));
                if let (Some(id), true) = (binary_id(package.name.as_str(), target), has_own_main) {
                    without_harness.insert(id);
                }
            }
        }
        Ok(Targets {
            root: root.to_owned(),
            target_folder: metadata.target_directory.as_std_path().to_owned(),
            inventory,
            metadata,
            without_harness,
            examples,
            refused,
        })
    }

    /// The command that builds what the selectors name, or all tests.
    pub fn build_command(&self, selectors: Option<&BTreeSet<Selector>>) -> Cmd {
        let cmd = cargo().args(["test", "--workspace", "--locked", "--no-run"]).cwd(&self.root);
        cmd.args(["--message-format", "json-render-diagnostics"]).args(self.selection(selectors))
    }

    /// The command that builds the examples that tests of these binaries may run. Without selectors `cargo test` builds them;
    /// with selectors it does not.
    pub fn examples_command(&self, selectors: Option<&BTreeSet<Selector>>) -> Option<Cmd> {
        let names: BTreeSet<&String> =
            selectors?.iter().filter_map(|selector| self.examples.get(selector)).flatten().collect();
        let cmd = cargo().args(["build", "--workspace", "--locked", "--profile", "test"]).cwd(&self.root);
        let args = names.iter().flat_map(|name| ["--example", name.as_str()]);
        (!names.is_empty()).then(|| cmd.args(args))
    }

    /// What cargo is told in order to build what the selectors name, or everything.
    pub(crate) fn selection<'a>(&self, selectors: Option<&'a BTreeSet<Selector>>) -> Vec<&'a str> {
        let selectors = selectors.filter(|selectors| selectors.is_disjoint(&self.refused));
        selectors
            .into_iter()
            .flatten()
            .filter(|selector| selector.is_built())
            .flat_map(Selector::args)
            .collect()
    }

    /// Whether any library may have documentation tests.
    pub fn has_doctests(&self) -> bool {
        self.inventory.binaries.contains_key(DOCTESTS)
    }
}

/// The cargo that runs this program, where Cargo says which one that is.
pub(crate) fn cargo() -> Cmd {
    Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// The features that are on when all members are built together, by package.
fn features(metadata: &Metadata) -> BTreeMap<&PackageId, BTreeSet<&str>> {
    let nodes = metadata.resolve.iter().flat_map(|resolve| &resolve.nodes);
    nodes.map(|node| (&node.id, node.features.iter().map(|feature| feature.as_str()).collect())).collect()
}

fn add(inventory: &mut Inventory, package: &Package, target: &Target) -> Result<()> {
    if target.doctest {
        let mut doctests = Binary::new(Selector::Doc);
        doctests.tests.insert(Test::doctests().name, false);
        doctests.is_listed = true;
        inventory.binaries.insert(DOCTESTS.to_owned(), doctests);
    }
    if !target.test {
        return Ok(());
    }
    let (Some(id), Some(selector)) = (binary_id(package.name.as_str(), target), selector(target)) else {
        return Ok(());
    };
    if inventory.binaries.insert(id, Binary::new(selector)).is_some() {
        bail!("two packages of this workspace are called {}: their tests cannot be told apart", package.name);
    }
    Ok(())
}

fn is_library(kind: &TargetKind) -> bool {
    !matches!(
        kind,
        TargetKind::Bin
            | TargetKind::Test
            | TargetKind::Bench
            | TargetKind::Example
            | TargetKind::CustomBuild
    )
}

fn selector(target: &Target) -> Option<Selector> {
    let name = || target.name.clone();
    match target.kind.first()? {
        TargetKind::Bin => Some(Selector::Bin(name())),
        TargetKind::Test => Some(Selector::Test(name())),
        TargetKind::Bench => Some(Selector::Bench(name())),
        TargetKind::Example => Some(Selector::Example(name())),
        kind => is_library(kind).then_some(Selector::Lib),
    }
}

/// The id of a target's tests, as cargo-nextest forms it.
pub(crate) fn binary_id(package: &str, target: &Target) -> Option<String> {
    let name = &target.name;
    match target.kind.first()? {
        TargetKind::Bin => Some(format!("{package}::bin/{name}")),
        TargetKind::Test => Some(format!("{package}::{name}")),
        TargetKind::Bench => Some(format!("{package}::bench/{name}")),
        TargetKind::Example => Some(format!("{package}::example/{name}")),
        kind => is_library(kind).then(|| package.to_owned()),
    }
}

/// The targets that say `harness = false`: Cargo does not tell.
fn own_main(package: &Package) -> Result<BTreeSet<Selector>> {
    let path = package.manifest_path.as_std_path();
    let text = stdx::fs::read_to_string(path)?;
    let manifest: toml::Table =
        text.parse().with_context(|| format!("{} is not a manifest", path.display()))?;
    let is_own = |table: &toml::Value| table.get("harness").and_then(toml::Value::as_bool) == Some(false);
    let mut own: BTreeSet<Selector> =
        manifest.get("lib").filter(|table| is_own(table)).map(|_| Selector::Lib).into_iter().collect();
    let selector = |kind: &str, name: String| match kind {
        "test" => Selector::Test(name),
        "bin" => Selector::Bin(name),
        "bench" => Selector::Bench(name),
        _ => Selector::Example(name),
    };
    for kind in ["test", "bin", "bench", "example"] {
        let tables = manifest.get(kind).and_then(toml::Value::as_array).into_iter().flatten();
        let names = tables.filter(|table| is_own(table)).filter_map(|table| table.get("name")?.as_str());
        own.extend(names.map(|name| selector(kind, name.to_owned())));
    }
    Ok(own)
}
