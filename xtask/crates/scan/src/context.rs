//! What every check of a scan may ask for. Facts that cost time are loaded by whoever asks first, once; warnings are collected.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::{Result, anyhow};
use finding::Check;
use jiff::Timestamp;
use jiff::civil::Date;
use workspace::{CargoConfig, Closures, Network, Settings, Workspace};

use crate::lock;
use crate::package::{self, Package};

/// What the user asked for, and what time it is.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Nothing may be asked over the network.
    pub offline: bool,
    /// The git history is looked at as well.
    pub history: bool,
    /// What time it is.
    pub now: Timestamp,
}

/// A scan under way. Checks run at the same time and share it.
#[derive(Debug)]
pub struct Context {
    /// Folder of the workspace.
    pub root: PathBuf,
    /// Content of `slipway.yaml`.
    pub settings: Settings,
    /// What the user asked for.
    pub options: Options,
    warnings: Mutex<BTreeSet<String>>,
    incomplete: Mutex<BTreeSet<Check>>,
    graph: OnceLock<Result<Graph, String>>,
}

/// What the services are made of.
#[derive(Debug)]
pub struct Graph {
    /// The workspace, loaded.
    pub workspace: Workspace,
    /// What is compiled for each service.
    pub closures: Closures,
    /// Folder of Cargo's registry sources and of what is fetched.
    pub cargo_home: PathBuf,
    /// The target triple.
    pub target: String,
    /// Every package of the lock file and of the services.
    pub packages: Vec<Package>,
}

impl Options {
    /// The day, in UTC.
    pub fn today(&self) -> Date {
        jiff::tz::TimeZone::UTC.to_datetime(self.now).date()
    }
}

impl Context {
    /// A scan of the workspace at `root`. Reads `slipway.yaml` and no more.
    pub fn open(root: PathBuf, options: Options) -> Result<Context> {
        let settings = Settings::load(&root)?;
        let (warnings, incomplete, graph) = Default::default();
        Ok(Context { root, settings, options, warnings, incomplete, graph })
    }

    /// Tells the user something that is no finding.
    pub fn warn(&self, text: impl Into<String>) {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).insert(text.into());
    }

    /// Says that the check did not look at everything, and why: its waivers may look unused.
    pub fn incomplete(&self, check: Check, why: impl Into<String>) {
        self.incomplete.lock().unwrap_or_else(PoisonError::into_inner).insert(check);
        self.warn(why);
    }

    /// What was said with [`Context::warn`], and the checks that did not look at everything.
    pub fn finish(self) -> (Vec<String>, BTreeSet<Check>) {
        let warnings = self.warnings.into_inner().unwrap_or_else(PoisonError::into_inner);
        let incomplete = self.incomplete.into_inner().unwrap_or_else(PoisonError::into_inner);
        (warnings.into_iter().collect(), incomplete)
    }

    /// What the services are made of: asks Cargo twice, compiles nothing.
    ///
    /// # Errors
    /// When the workspace or its lock file cannot be read.
    pub fn graph(&self) -> Result<&Graph> {
        let load = || self.load_graph().map_err(|error| format!("{error:#}"));
        self.graph.get_or_init(load).as_ref().map_err(|text| anyhow!("{text}"))
    }

    fn load_graph(&self) -> Result<Graph> {
        let cargo = CargoConfig::load(&self.root, self.settings.build.target.as_deref())?;
        let network = if self.options.offline { Network::Forbidden } else { Network::Allowed };
        let workspace = Workspace::load_with(&self.root, self.settings.clone(), &cargo.target, network)?;
        let scratch = workspace::slipway_dir(&self.root, &workspace::target_dir(&self.root)?).join("scan");
        let closures = Closures::load(&workspace, &cargo, network, &scratch);
        if let Some(warning) = &closures.warning {
            self.warn(warning.clone());
        }
        let locked = lock::read(&self.root.join("Cargo.lock"))?;
        let packages = package::join(locked, &workspace, &closures);
        Ok(Graph { workspace, closures, cargo_home: cargo.cargo_home, target: cargo.target, packages })
    }
}
