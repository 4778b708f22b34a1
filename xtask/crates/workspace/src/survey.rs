//! Looks at a workspace that may have no settings yet, without resolving its dependencies: what could be services, and what
//! whoever adopts it should know. It reads and changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, MetadataCommand};

use crate::config::Settings;
use crate::discover::Discovery;
use crate::include;
use crate::load::cargo;
use crate::service::ServiceConfig;

/// What was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// Binaries, and which of them look like services.
    pub discovery: Discovery,
    /// Whether there is a `slipway.yaml`.
    pub has_settings: bool,
    /// Whether there is a lock file.
    pub has_lock: bool,
    /// Whether Cargo's configuration has an alias `xtask`, which counts for more than an installed program.
    pub has_alias: bool,
    /// Manifests below the root of packages that do not belong to this workspace.
    pub nested: BTreeSet<PathBuf>,
    /// Packages outside the root that a member depends on by path.
    pub outside: BTreeSet<PathBuf>,
}

/// Deeper than this nobody keeps a workspace inside another.
const MAX_DEPTH: usize = 6;
/// A tree with more folders is not searched to its end.
const MAX_FOLDERS: usize = 20_000;

/// Folders of other tools, and of packages that only tests look at.
const SKIPPED: [&str; 6] = ["node_modules", "vendor", "tests", "test", "testdata", "fixtures"];

impl Survey {
    /// Looks at the workspace at `root`.
    pub fn take(root: &Path) -> Result<Survey> {
        let metadata = MetadataCommand::new()
            .cargo_path(cargo().program)
            .current_dir(root)
            .no_deps()
            .exec()
            .context("cannot read the packages of this workspace")?;
        let members: BTreeSet<PathBuf> = metadata
            .packages
            .iter()
            .map(|package| package.manifest_path.clone().into_std_path_buf())
            .collect();
        let folders = members.iter().filter_map(|manifest| manifest.parent());
        let declared =
            folders.filter(|folder| folder.join(ServiceConfig::FILE).is_file()).map(Path::to_owned);
        Ok(Survey {
            discovery: Discovery::of(&metadata, &declared.collect()),
            has_settings: root.join(Settings::FILE).exists(),
            has_lock: root.join("Cargo.lock").is_file(),
            has_alias: include::configuration(root)?.alias.contains_key("xtask"),
            nested: nested(root, metadata.target_directory.as_std_path(), &members),
            outside: outside(root, &metadata),
        })
    }
}

/// Manifests below `root` that are not among `members`; of a foreign workspace only the topmost.
fn nested(root: &Path, target: &Path, members: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![(root.to_owned(), 0)];
    let mut seen = 0;
    while let Some((folder, depth)) = todo.pop() {
        seen += 1;
        let manifest = folder.join("Cargo.toml");
        if depth > 0 && manifest.is_file() && !members.contains(&manifest) {
            found.insert(manifest);
            continue;
        }
        if depth == MAX_DEPTH || seen > MAX_FOLDERS {
            continue;
        }
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
            let name = entry.file_name();
            let is_hidden = name.as_encoded_bytes().starts_with(b".");
            let is_skipped = is_hidden || SKIPPED.iter().any(|skipped| name == *skipped);
            if is_folder && !is_skipped && entry.path() != target {
                todo.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

fn outside(root: &Path, metadata: &Metadata) -> BTreeSet<PathBuf> {
    let dependencies = metadata.packages.iter().flat_map(|package| &package.dependencies);
    let paths = dependencies.filter_map(|dependency| dependency.path.as_ref());
    paths.map(|path| path.as_std_path().to_owned()).filter(|path| !path.starts_with(root)).collect()
}
