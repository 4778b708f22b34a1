//! Running a build: open the workspace's build output, see whether anything changed, plan, compile, check, pack, remember.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::time::{Instant, SystemTime};

use anyhow::{Context, Result};
use cargo_metadata::PackageId;
use oci::{Image, Layout};
use serde::{Deserialize, Serialize};
use stdx::Digest;
use workspace::{CargoConfig, Service, ServiceConfig, Settings, Workspace};

use crate::compile::{Compiled, compile};
use crate::event::{Event, Reporter};
use crate::fresh::{Inputs, Sources};
use crate::git::GitState;
use crate::leak::{self, Leak};
use crate::plan::{self, Facts, Plan, ServicePlan};
use crate::store::{Paths, Remembered, State};
use crate::toolchain::Toolchain;
use crate::{elf, inputs, pack, sbom};

/// What a caller may want to tell apart.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Cargo, the compiler or packing failed.
    #[error("the build failed")]
    Failed(#[source] anyhow::Error),
    /// A binary carries paths of this machine.
    #[error(
        "the binary of {service} carries paths of this machine, so nobody can build the same bits elsewhere"
    )]
    Leaks {
        /// Name of the service.
        service: String,
        /// The paths, some of them where there are many.
        leaks: Vec<Leak>,
    },
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What a build gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Target triple.
    pub target: String,
    /// Where the source stood.
    pub git: Option<GitState>,
    /// The OCI image layout that holds the images.
    pub layout: PathBuf,
    /// By name of the service.
    pub services: Vec<BuiltService>,
    /// How many compilations there were, and how many of them had to be run.
    pub units: usize,
    /// See `units`.
    pub compiled: usize,
    /// Why there was something to do; `None` where nothing had changed.
    pub reason: Option<String>,
    /// Wall time of the whole build.
    pub elapsed_ms: u64,
}

/// An image that is in the layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltService {
    /// Name of the service, and of the image in the layout.
    pub name: String,
    /// Version of its package.
    pub version: String,
    /// Folder of its package.
    pub folder: PathBuf,
    /// Digest of the manifest.
    pub image: Digest,
    /// Digest of what runs, whatever commit it was built from.
    pub content: Digest,
    /// Digest of the SBOM.
    pub sbom: Digest,
    /// Where the SBOM lies.
    pub sbom_path: PathBuf,
    /// Bytes of the binary.
    pub binary_size: u64,
    /// Bytes of all layers, unpacked.
    pub unpacked_size: u64,
    /// Bytes of all layers as they are kept and sent.
    pub size: u64,
    /// From the lowest to the highest.
    pub layers: Vec<BuiltLayer>,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltLayer {
    /// What is in it.
    pub comment: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Whether it was packed before.
    pub reused: bool,
}

/// A workspace whose images can be built.
#[derive(Debug)]
pub struct Session {
    root: PathBuf,
    settings: Settings,
    paths: Paths,
    git: Option<GitState>,
    started: Instant,
}

/// Everything that planning read; running needs it again.
#[derive(Debug)]
pub struct Loaded {
    /// What will be done.
    pub plan: Plan,
    workspace: Workspace,
    cargo: CargoConfig,
    toolchain: Toolchain,
    lock: Vec<u8>,
    names: Vec<String>,
}

impl Session {
    /// Opens the workspace at `root`: reads `slipway.yaml` and where the source stands, no more.
    pub fn open(root: &Path) -> Result<Session> {
        let settings = Settings::load(root)?;
        let paths = Paths::new(&workspace::target_dir(root)?);
        Ok(Session {
            root: root.to_owned(),
            settings,
            paths,
            git: GitState::load(root)?,
            started: Instant::now(),
        })
    }

    /// The result of the last build of the same services, if nothing that it was made from changed since and all of it is
    /// still there. Neither Cargo nor a compiler is asked, and no binary is read.
    pub fn unchanged(&self, names: &[String]) -> Option<Report> {
        let state = State::load(&self.paths);
        let remembered = state.results.get(&selection(names))?;
        let same = remembered.inputs.difference(&self.request()).ok()?.is_none()
            && self.is_present(&remembered.report);
        let mut report = remembered.report.clone();
        report.reason = None;
        report.compiled = 0;
        report.elapsed_ms = elapsed_ms(self.started);
        for layer in report.services.iter_mut().flat_map(|service| &mut service.layers) {
            layer.reused = true;
        }
        same.then_some(report)
    }

    /// Where the images are, or will be.
    pub fn layout(&self) -> PathBuf {
        self.paths.layout()
    }

    /// The name under which an engine or registry has the image.
    pub fn reference(&self, service: &BuiltService) -> String {
        // A `+` of a version's build part is not allowed in a tag.
        format!("{}{}:{}", self.settings.image.prefix, service.name, service.version.replace('+', "_"))
    }

    /// Reads everything that planning needs, and plans the images of `names` (all services where empty).
    pub fn plan(&self, names: &[String]) -> Result<Loaded> {
        let cargo = CargoConfig::load(&self.root, self.settings.build.target.as_deref())?;
        let workspace = Workspace::load(&self.root, self.settings.clone(), &cargo.target)?;
        let toolchain = Toolchain::load(&self.root)?;
        let lock = stdx::fs::read(&self.root.join("Cargo.lock"))?;
        let facts = Facts {
            workspace: &workspace,
            cargo: &cargo,
            toolchain: &toolchain,
            git: self.git.as_ref(),
            lock: &lock,
            build_dir: &self.paths.build_dir(),
            env: &|name| std::env::var(name).ok(),
        };
        let plan = plan::plan(&facts, &workspace.select(names)?)?;
        Ok(Loaded { plan, workspace, cargo, toolchain, lock, names: names.to_vec() })
    }

    /// Runs the plan.
    ///
    /// # Errors
    /// A [`BuildError`] where compiling, checking or packing failed.
    pub fn run(&self, loaded: &Loaded, reporter: &dyn Reporter, interrupted: &AtomicBool) -> Result<Report> {
        let _lock = self.paths.lock(reporter)?;
        let state = State::load(&self.paths);
        let begun = SystemTime::now();
        let before = self.reason(&state, loaded);
        let inputs = Inputs::take(&self.sources(loaded)?)?;
        reporter.event(Event::CompileStarted { units: state.units });
        let compiled = compile(&loaded.plan, reporter, interrupted).map_err(|error| {
            if interrupted.load(std::sync::atomic::Ordering::SeqCst) {
                BuildError::Interrupted
            } else {
                BuildError::Failed(error)
            }
        })?;
        reporter.event(Event::CompileFinished { units: compiled.units.len(), compiled: compiled.compiled });
        let state = Mutex::new(state);
        let services = self.assemble(loaded, &compiled, &state, reporter).map_err(failed)?;
        let report = Report {
            target: loaded.plan.target.clone(),
            git: self.git.clone(),
            layout: self.paths.layout(),
            services,
            units: compiled.units.len(),
            compiled: compiled.compiled,
            reason: Some(before),
            elapsed_ms: elapsed_ms(self.started),
        };
        self.remember(loaded, state, inputs, begun, &report)?;
        Ok(report)
    }

    /// Checks and packs every service, each on a thread of its own.
    fn assemble(
        &self,
        loaded: &Loaded,
        compiled: &Compiled,
        state: &Mutex<State>,
        reporter: &dyn Reporter,
    ) -> Result<Vec<BuiltService>> {
        let layout = Layout::create(&self.paths.layout())?;
        let origin = sbom::Origin {
            metadata: &loaded.workspace.metadata,
            units: &compiled.units,
            toolchain: &loaded.toolchain,
            checksums: sbom::checksums(&loaded.lock)?,
            glibc: sbom::glibc_version("cc"),
        };
        let finish = |service: &ServicePlan| {
            let (image, mut built) = self.pack(loaded, compiled, service, &layout, state)?;
            let document = supply::cyclonedx(&sbom::sbom(&origin, &service.package))?;
            built.sbom = Digest::of(&document);
            built.sbom_path = self.paths.sbom(&service.name);
            stdx::fs::write_atomic(&built.sbom_path, &document, 0o644)?;
            reporter.event(Event::Packed { service: service.name.clone() });
            Ok((image, built))
        };
        let packed: Vec<Result<(Image, BuiltService)>> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                loaded.plan.services.iter().map(|service| scope.spawn(|| finish(service))).collect();
            let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        let mut services = Vec::new();
        for (service, packed) in loaded.plan.services.iter().zip(packed) {
            let (image, built) = packed?;
            image.write(&service.name, &layout)?;
            services.push(built);
        }
        Ok(services)
    }

    fn pack(
        &self,
        loaded: &Loaded,
        compiled: &Compiled,
        service: &ServicePlan,
        layout: &Layout,
        state: &Mutex<State>,
    ) -> Result<(Image, BuiltService)> {
        let binary = compiled.binaries.get(&service.binary).with_context(|| {
            format!("cargo did not build the binary `{}` of {}", service.binary, service.name)
        })?;
        elf::require_static(binary, &service.image.architecture)?;
        let home = std::env::home_dir();
        let leaks = leak::leaks(binary, &loaded.plan.remaps, home.as_deref(), &members(&loaded.workspace))?;
        if !leaks.is_empty() {
            return Err(BuildError::Leaks {
                service: service.name.clone(),
                leaks: leaks.into_iter().collect(),
            }
            .into());
        }
        pack::pack(service, binary, layout, state)
            .with_context(|| format!("cannot pack the image of {}", service.name))
    }

    /// Remembers what was built from what, unless a source changed while it was built.
    fn remember(
        &self,
        loaded: &Loaded,
        state: Mutex<State>,
        mut inputs: Inputs,
        begun: SystemTime,
        report: &Report,
    ) -> Result<()> {
        let mut state = state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.units = report.units;
        let observed = inputs::observed(&loaded.plan, &loaded.cargo, &members(&loaded.workspace))?;
        let known = inputs.extend(&observed.files, &observed.env, begun)?;
        if known {
            let remembered = Remembered { inputs, report: report.clone() };
            state.results.insert(selection(&loaded.names), remembered);
        } else {
            state.results.remove(&selection(&loaded.names));
        }
        state.write(&self.paths)
    }

    /// In words, why the last build of this selection does not hold any more.
    fn reason(&self, state: &State, loaded: &Loaded) -> String {
        let Some(remembered) = state.results.get(&selection(&loaded.names)) else {
            return "first build of this selection".to_owned();
        };
        let difference = remembered.inputs.difference(&self.request());
        let relative = |text: String| text.replace(&format!("{}/", self.root.display()), "");
        match difference {
            Ok(Some(text)) => relative(text),
            Ok(None) => "an image or SBOM of the last build is missing".to_owned(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// What is asked for beyond files and variables.
    fn request(&self) -> String {
        let git = self.git.as_ref().map(GitState::label).unwrap_or_default();
        format!("slipway {} format {} at {git}", env!("CARGO_PKG_VERSION"), oci::FORMAT)
    }

    fn is_present(&self, report: &Report) -> bool {
        let Ok(layout) = Layout::open(&report.layout) else { return false };
        let Ok(tags) = layout.tags() else { return false };
        report.services.iter().all(|service| {
            let tagged = tags.iter().any(|tag| tag.name == service.name && tag.digest == service.image);
            let whole = layout.manifest(&service.image).is_ok();
            let layers = service.layers.iter().all(|layer| layout.has(&layer.digest, layer.size));
            tagged && whole && layers && service.sbom_path.is_file()
        })
    }

    /// Everything that is known to matter before Cargo runs.
    fn sources(&self, loaded: &Loaded) -> Result<Sources> {
        let mut sources = inputs::known(&self.root, &loaded.cargo, &loaded.toolchain);
        sources.request = self.request();
        for package in loaded.workspace.metadata.workspace_packages() {
            let manifest = package.manifest_path.as_std_path();
            sources.files.insert(manifest.to_owned());
            sources.files.extend(manifest.parent().map(|folder| folder.join(ServiceConfig::FILE)));
        }
        let selected: Vec<&Service> = loaded.workspace.select(&loaded.names)?;
        for id in local_closure(&loaded.workspace, &selected) {
            let manifest = loaded.workspace.metadata[&id].manifest_path.as_std_path();
            sources.folders.extend(manifest.parent().map(Path::to_owned));
        }
        Ok(sources)
    }
}

/// Whatever goes wrong after compiling is a failed build, unless it says more of itself.
fn failed(error: anyhow::Error) -> anyhow::Error {
    if error.is::<BuildError>() { error } else { BuildError::Failed(error).into() }
}

/// Packages without a registry or repository that the services can reach.
fn local_closure(workspace: &Workspace, selected: &[&Service]) -> BTreeSet<PackageId> {
    let nodes: BTreeMap<_, _> = workspace
        .metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .map(|node| (&node.id, node))
        .collect();
    let mut todo: Vec<&PackageId> = selected.iter().map(|service| &service.package).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if workspace.metadata[id].source.is_none() && seen.insert(id.clone()) {
            todo.extend(nodes.get(id).iter().flat_map(|node| &node.dependencies));
        }
    }
    seen
}

/// Folders of local packages, and the packages' names.
fn members(workspace: &Workspace) -> Vec<(PathBuf, String)> {
    let local = workspace.metadata.packages.iter().filter(|package| package.source.is_none());
    let folder = |package: &cargo_metadata::Package| {
        let folder = package.manifest_path.as_std_path().parent()?;
        Some((folder.to_owned(), package.name.to_string()))
    };
    local.filter_map(folder).collect()
}

fn selection(names: &[String]) -> String {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}

fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
