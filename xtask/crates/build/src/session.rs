//! A build from beginning to end: see whether anything changed, plan, compile, assemble, remember.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Result, bail};
use cache::Mode;
use cargo_metadata::PackageId;
use oci::{Layout, Pruned};
use stdx::Digest;
use workspace::{CargoConfig, Platform, Service, ServiceConfig, Settings, UnitGraph, Workspace};

use crate::assemble::{Built, assemble};
use crate::bases::{self, BreakEven};
use crate::event::{Event, Reporter};
use crate::fresh::{Inputs, Sources};
use crate::git::GitState;
use crate::identity::{self, Identity};
use crate::plan::{self, Facts, Plan};
use crate::report::{Action, BuildError, Report};
use crate::reuse::{Moved, Reuse};
use crate::store::{Paths, Remembered, State};
use crate::stores::Stores;
use crate::toolchain::Toolchain;
use crate::vouch::Voucher;
use crate::work::Work;
use crate::{cross, graph, inputs, named};

/// A day: whoever reads an image or deploys a release that nobody else knows of has begun by then.
const PRUNE_GRACE: Duration = Duration::from_secs(24 * 60 * 60);

/// A workspace whose images can be built.
#[derive(Debug)]
pub struct Session {
    pub(crate) root: PathBuf,
    pub(crate) settings: Settings,
    pub(crate) paths: Paths,
    pub(crate) git: Option<GitState>,
    reuse: Mode,
    started: Instant,
    /// When this looked where the source stands, or just before: what was touched since is vouched for by nobody.
    opened: SystemTime,
    pub(crate) platform: Option<Platform>,
    naming: Naming,
}

/// What the layout calls the images of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Naming {
    /// Each has its service's name.
    Service,
    /// They have no names: an index will, that lists them.
    InIndex,
}

/// Everything that planning read; running needs it again.
#[derive(Debug)]
pub struct Loaded {
    /// What will be done.
    pub plan: Plan,
    /// What the user should know before it is done.
    pub warnings: Vec<String>,
    pub(crate) workspace: Workspace,
    pub(crate) toolchain: Toolchain,
    pub(crate) lock: Vec<u8>,
    /// The C compiler that knows where the target's libraries lie.
    pub(crate) compiler: Option<PathBuf>,
    /// Files of the C toolchain that are linked in.
    pub(crate) runtime: BTreeSet<PathBuf>,
    /// When the images say that they were made, in seconds since 1970.
    pub(crate) created: i64,
    /// Folders of local packages, and the packages' names.
    pub(crate) members: Vec<(PathBuf, String)>,
    /// The same of packages of others that lie somewhere else than in Cargo's home.
    pub(crate) vendored: Vec<(PathBuf, String)>,
    /// Files that settings name: wrappers of compilers, scripts of linkers.
    pub(crate) named: BTreeSet<PathBuf>,
    pub(crate) cargo: CargoConfig,
    pub(crate) names: Vec<String>,
    root: PathBuf,
    memory: PathBuf,
    pub(crate) identity: OnceLock<Identity>,
}

impl Loaded {
    /// What the compiler, the standard library, the linker, the C compiler and the C library are, by version and digest.
    pub fn toolchain_identity(&self) -> &BTreeMap<String, String> {
        &self.identity().facts
    }

    /// The same with the files behind it. The first call looks at them; their digests are remembered on disk.
    pub(crate) fn identity(&self) -> &Identity {
        self.identity.get_or_init(|| {
            Identity::find(&identity::Places {
                root: &self.root,
                toolchain: &self.toolchain,
                cargo: &self.cargo,
                env: &self.plan.env,
                runtime: &self.runtime,
                memory: &self.memory,
            })
        })
    }
}

/// Where the images of the workspace at `root` are, or will be.
pub fn layout(root: &Path) -> Result<PathBuf> {
    Ok(Paths::new(root, &workspace::target_dir(root)?).layout())
}

/// The folder of everything that is made from the workspace at `root`, apart from Cargo's own output.
pub fn output_folder(root: &Path) -> Result<PathBuf> {
    Ok(Paths::new(root, &workspace::target_dir(root)?).folder().to_owned())
}

/// Where Cargo leaves the binaries of images, symbols included.
pub fn linked_folder(root: &Path, target: &str, profile: &str) -> Result<PathBuf> {
    let build_dir = Paths::new(root, &workspace::target_dir(root)?).build_dir();
    Ok(build_dir.join(target).join(plan::profile_folder(profile)))
}

/// Where the binaries are as they go into images, by name of the service.
pub fn finished_folder(root: &Path) -> Result<PathBuf> {
    Ok(Paths::new(root, &workspace::target_dir(root)?).finished_folder())
}

impl Loaded {
    /// What static and shared linking cost for all services of the workspace, from real sizes on this machine: one program is
    /// linked both ways.
    pub fn break_even(&self) -> Result<BreakEven> {
        let services = self.workspace.services.len() as u64;
        Ok(BreakEven::new(bases::measure(&self.plan.target)?, services))
    }
}

impl Session {
    /// Opens the workspace at `root`: reads `slipway.yaml` and where the source stands, no more.
    pub fn open(root: &Path) -> Result<Session> {
        Session::open_as(root, None, Naming::Service)
    }

    /// Opens the workspace at `root` to build for `platform` instead of the configured target.
    pub fn open_platform(root: &Path, platform: Platform) -> Result<Session> {
        Session::open_as(root, Some(platform), Naming::Service)
    }

    /// The same, of a workspace whose images have no names of their own because an index lists them.
    pub fn open_listed(root: &Path, platform: Platform) -> Result<Session> {
        Session::open_as(root, Some(platform), Naming::InIndex)
    }

    pub(crate) fn open_as(root: &Path, platform: Option<Platform>, naming: Naming) -> Result<Session> {
        let opened = SystemTime::now();
        let mut settings = Settings::load(root)?;
        if let Some(platform) = platform {
            settings.build.target = Some(platform.target(settings.build.target.as_deref()));
        }
        let paths = Paths::new(root, &workspace::target_dir(root)?);
        let git = GitState::load(root)?;
        let (root, started) = (root.to_owned(), Instant::now());
        Ok(Session { root, settings, paths, git, reuse: Mode::Off, started, opened, platform, naming })
    }

    /// Folder of the workspace.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What `slipway.yaml` says.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The folder of everything that is made, apart from Cargo's own output.
    pub fn folder(&self) -> &Path {
        self.paths.folder()
    }

    /// Lets builds take results that were made before, here or elsewhere. Without it every image comes from the sources alone,
    /// and from what this workspace's own target folder holds.
    pub fn with_cache(self, mode: Mode) -> Session {
        Session { reuse: mode, ..self }
    }

    /// Whether nothing that a store had may be used.
    pub(crate) fn is_from_sources(&self) -> bool {
        self.reuse == Mode::Off
    }

    /// The stores that results are kept in, as settings and mode allow.
    pub fn stores(&self) -> Result<Stores> {
        Stores::open(&self.root, &self.settings.cache, self.reuse)
    }

    /// The name under which an engine or registry has the image.
    pub fn reference(&self, name: &str, version: &str) -> String {
        // A version may have what no tag can: `+` in Cargo's, `:` and `~` in Debian's.
        let plain = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' };
        let tag: String = version.chars().map(plain).collect();
        format!("{}{name}:{tag}", self.settings.image.prefix)
    }

    /// Cargo's output for images.
    pub(crate) fn build_dir(&self) -> PathBuf {
        self.paths.build_dir()
    }

    /// Plans the images of `names` (all services where empty). Nothing is compiled or written.
    pub fn plan(&self, names: &[String]) -> Result<Loaded> {
        let (cargo, workspace, toolchain) = self.ask()?;
        if let Some(name) = workspace.services.keys().find(|name| self.settings.images.contains_key(*name)) {
            bail!(
                "`{name}` is a service, and an image of `images:` in {} as well: one needs another name",
                Settings::FILE
            );
        }
        let env = |name: &str| cargo.variable(name, std::env::var(name).ok());
        let tools = cross::load(&cargo, &toolchain, &workspace, &env)?;
        let lock = stdx::fs::read(&self.root.join("Cargo.lock"))?;
        let facts = Facts {
            workspace: &workspace,
            cargo: &cargo,
            toolchain: &toolchain,
            git: self.git.as_ref(),
            commit_time: self.git.as_ref().map(|git| git.commit_time(&self.root)).transpose()?,
            lock: &lock,
            build_dir: &self.paths.build_dir(),
            env: &env,
            tools: &tools,
            platform: self.platform.filter(|_| self.naming == Naming::InIndex),
        };
        let auto = || {
            let sizes = bases::measure(&cargo.target)?;
            Ok(BreakEven::new(sizes, bases::open_services(&workspace)).choice())
        };
        let selected = bases::choose(&workspace, &workspace.select(names)?, auto)?;
        bases::check(&cargo, &selected)?;
        let plan = plan::plan(&facts, &selected)?;
        let created = plan::created(&facts);
        let mut warnings = warnings(&workspace);
        warnings.extend(identity::linker_warning(&cargo));
        let runtime = inputs::runtime_objects(tools.compiler.as_deref());
        let members = members(&workspace);
        let vendored = vendored(&workspace, &cargo);
        let named = named::files(&self.root, &cargo)?;
        Ok(Loaded {
            plan,
            warnings,
            workspace,
            toolchain,
            lock,
            compiler: tools.compiler,
            runtime,
            created,
            members,
            vendored,
            named,
            cargo,
            names: names.to_vec(),
            root: self.root.clone(),
            memory: self.paths.toolchain(),
            identity: OnceLock::new(),
        })
    }

    /// What Cargo and the compiler say of themselves and of the workspace; they are asked at the same time.
    fn ask(&self) -> Result<(CargoConfig, Workspace, Toolchain)> {
        std::thread::scope(|scope| {
            let toolchain = scope.spawn(|| Toolchain::load(&self.root));
            let cargo = CargoConfig::load(&self.root, self.settings.build.target.as_deref())?;
            let workspace = Workspace::load(&self.root, self.settings.clone(), &cargo.target)?;
            let toolchain = toolchain.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok((cargo, workspace, toolchain))
        })
    }

    /// As [`Session::plan`], where what Cargo left here can be of `revision`: the work tree is at it, without changes.
    pub fn plan_at(&self, revision: &str, names: &[String]) -> Result<Option<Loaded>> {
        let is_there = self.git.as_ref().is_some_and(|git| git.revision == revision && !git.dirty);
        is_there.then(|| self.plan(names)).transpose()
    }

    /// Takes results of the workspace as it is from the shared store into this machine's, where `dry_run` does not forbid it.
    ///
    /// # Errors
    /// Also when there is no shared store that may be read from.
    pub fn pull_cache(&self, names: &[String], dry_run: bool, reporter: &dyn Reporter) -> Result<Vec<Moved>> {
        crate::stores::require_read(&self.settings.cache)?;
        self.with_reuse(names, reporter, |reuse, inputs| reuse.pull(inputs, dry_run))
    }

    /// Gives results of the workspace as it is to the shared store, where `dry_run` does not forbid it.
    ///
    /// # Errors
    /// When there is no shared store that may be written to.
    pub fn push_cache(
        &self,
        names: &[String],
        dry_run: bool,
        reporter: &dyn Reporter,
        interrupted: &AtomicBool,
    ) -> Result<Vec<Moved>> {
        let to = crate::stores::open_written(&self.root, &self.settings.cache, self.reuse)?;
        // Cargo's folder must stay as it is while it is archived.
        let _lock = self.paths.lock(reporter, interrupted)?;
        self.with_reuse(names, reporter, |reuse, inputs| reuse.push(inputs, &*to, dry_run))
    }

    /// What a build of `names` would do, as far as that is known before: nothing is compiled or restored.
    pub fn explain(&self, names: &[String], reporter: &dyn Reporter) -> Result<Vec<Action>> {
        self.with_reuse(names, reporter, |reuse, inputs| reuse.explain(inputs))
    }

    /// What `run` gives for each cargo invocation.
    fn with_reuse<T>(
        &self,
        names: &[String],
        reporter: &dyn Reporter,
        run: impl Fn(Reuse<'_>, &Inputs) -> Result<Vec<T>>,
    ) -> Result<Vec<T>> {
        stdx::fs::create_dir_all(self.paths.folder())?;
        let stores = self.stores()?;
        let loaded = self.plan(names)?;
        let inputs = Inputs::take(self.sources(&loaded, names)?)?;
        let graphs = self.graphs(&loaded)?;
        let mut given = Vec::new();
        for graph in &graphs {
            let reuse = Reuse::new(&loaded, graph, &inputs, &self.paths, &stores.layered)?;
            given.push(run(reuse, &inputs));
        }
        stores.warn(reporter);
        Ok(given.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
    }

    /// Builds the images of `names` (all services where empty). If nothing that the last build of them was made from changed,
    /// and all that it gave is still there, its report is given again: neither Cargo nor a compiler is asked then.
    ///
    /// # Errors
    /// A [`BuildError`].
    pub fn build(
        &mut self,
        names: &[String],
        reporter: &dyn Reporter,
        interrupted: &AtomicBool,
    ) -> Result<Report> {
        if let Some(report) = self.unchanged(&State::load(&self.paths), names) {
            return Ok(report);
        }
        let lock = self.paths.lock(reporter, interrupted).map_err(refused)?;
        let state = State::load(&self.paths);
        if lock.has_waited {
            // Whoever held the lock may have built the very same, and the world may have changed meanwhile.
            *self = Session { started: self.started, ..self.reopened().map_err(refused)? };
            if let Some(report) = self.unchanged(&state, names) {
                return Ok(report);
            }
        }
        let loaded = self.plan(names).map_err(refused)?;
        for warning in &loaded.warnings {
            reporter.event(Event::Diagnostic(format!("warning: {warning}")));
        }
        self.run(&loaded, state, reporter, interrupted).map_err(failed)
    }

    fn reopened(&self) -> Result<Session> {
        Ok(Session::open_as(&self.root, self.platform, self.naming)?.with_cache(self.reuse))
    }

    /// Whether a build would only give the last one's report again.
    pub(crate) fn has_nothing_to_do(&self, names: &[String]) -> bool {
        self.unchanged(&State::load(&self.paths), names).is_some()
    }

    /// Removes what no name, referrer or remembered build leads to, and neither does `keep`, a day after it was first found so. Other
    /// builds of this workspace wait meanwhile.
    pub fn prune(
        &self,
        keep: BTreeSet<Digest>,
        reporter: &dyn Reporter,
        interrupted: &AtomicBool,
    ) -> Result<Pruned> {
        let _lock = self.paths.lock(reporter, interrupted)?;
        let mut keep = keep;
        for remembered in State::load(&self.paths).results.values() {
            keep.extend(remembered.report.services.iter().flat_map(|service| [service.image, service.sbom]));
        }
        Layout::open(&self.paths.layout())?.prune(&keep, PRUNE_GRACE, SystemTime::now())
    }

    fn run(
        &self,
        loaded: &Loaded,
        mut state: State,
        reporter: &dyn Reporter,
        interrupted: &AtomicBool,
    ) -> Result<Report> {
        let reason = self.reason(&state, &loaded.names);
        let stores = self.stores()?;
        let (inputs, graphs) = std::thread::scope(|scope| {
            // Nobody wants to know, or Cargo does not tell.
            let graphs =
                scope.spawn(|| if self.reuse == Mode::Off { Ok(Vec::new()) } else { self.graphs(loaded) });
            let inputs = self.sources(loaded, &loaded.names).and_then(Inputs::take);
            (inputs, graphs.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let inputs = inputs?;
        let graphs = unless_it_fails(graphs, reporter).unwrap_or_default();
        let reuse =
            graphs.iter().map(|graph| Reuse::new(loaded, graph, &inputs, &self.paths, &stores.layered));
        let reuse = unless_it_fails(reuse.collect::<Result<Vec<_>>>(), reporter).unwrap_or_default();
        let mut work = Work { session: self, loaded, reporter, interrupted, reuse, begun: self.opened };
        let made = work.make(&mut state, &inputs)?;
        let read = work.read(inputs, &made)?;
        let libraries = work.libraries(&read, &made);
        let voucher = Voucher::new(loaded, self.git.as_ref(), &read, self.opened);
        let state = Mutex::new(state);
        let assembled = |source: &Option<GitState>| {
            let built =
                Built { loaded, compiled: &made.compiled, source: source.as_ref(), libraries: &libraries };
            assemble(&built, &self.paths, &state, reporter)
        };
        let mut source = voucher.as_ref().map(Voucher::state);
        let mut services = assembled(&source)?;
        // Packing reads what it packs, too.
        let packed_from = voucher.as_ref().map(Voucher::state);
        if packed_from != source {
            source = packed_from;
            services = assembled(&source)?;
        }
        self.tell_doubts(source.as_ref(), reporter);
        let mut report = Report {
            target: loaded.plan.target.clone(),
            git: source,
            layout: self.paths.layout(),
            services,
            units: made.compiled.units.len(),
            compiled: made.compiled.compiled,
            reason: Some(reason),
            actions: Vec::new(),
            elapsed_ms: elapsed_ms(self.started),
        };
        let state = state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Err(error) = work.remember(state, read, &made, &mut report) {
            // The images are there all the same; the next build only has more to do.
            reporter.event(Event::Diagnostic(format!("warning: cannot remember this build: {error:#}")));
        }
        if let Err(error) = stores.collect() {
            stores.layered.note(format!("{error:#}"));
        }
        stores.warn(reporter);
        report.elapsed_ms = elapsed_ms(self.started);
        Ok(report)
    }

    /// Says why an image is not what git led to expect.
    fn tell_doubts(&self, source: Option<&GitState>, reporter: &dyn Reporter) {
        let expected = self.git.as_ref().is_some_and(|git| !git.dirty);
        if let Some(source) = source.filter(|source| expected && source.dirty) {
            let doubts = source.doubts.join("; ");
            let text = format!(
                "warning: the images do not count as made from the commit {}: {doubts}",
                source.revision
            );
            reporter.event(Event::Diagnostic(text));
        }
    }

    /// What each cargo invocation would compile.
    fn graphs(&self, loaded: &Loaded) -> Result<Vec<(Plan, UnitGraph)>> {
        let graph = |plan: Plan| {
            let graph = graph::load(&plan, &self.paths.graph())?;
            Ok((plan, graph))
        };
        loaded.plan.parts().into_iter().map(graph).collect()
    }

    fn unchanged(&self, state: &State, names: &[String]) -> Option<Report> {
        let remembered = state.results.get(&self.selection(names))?;
        if self.is_from_sources() && (state.restored || remembered.report.came_from_stores()) {
            return None;
        }
        let no_difference = self.difference(remembered).ok()?.is_none();
        let mut report = remembered.report.clone();
        report.reason = None;
        report.compiled = 0;
        report.actions = Vec::new();
        report.elapsed_ms = elapsed_ms(self.started);
        for service in &mut report.services {
            service.elapsed_ms = 0;
            service.layers.iter_mut().for_each(|layer| layer.reused = true);
        }
        no_difference.then_some(report)
    }

    fn difference(&self, remembered: &Remembered) -> Result<Option<String>> {
        let inputs = remembered.inputs.difference(&self.request(), &inputs::relevant_variables())?;
        if inputs.is_some() {
            return Ok(inputs);
        }
        let outputs = remembered.outputs.difference("", &BTreeSet::new())?;
        if outputs.is_some() {
            return Ok(outputs);
        }
        let layout = Layout::open(&self.paths.layout())?;
        for service in &remembered.report.services {
            let is_named = match self.naming {
                Naming::Service => layout.stands_for(&service.name, &service.image)?,
                Naming::InIndex => layout.is_named(&service.name, &service.image)?,
            };
            if !is_named {
                return Ok(Some(format!("the layout has another image of {}", service.name)));
            }
        }
        Ok(None)
    }

    /// In words, why the last build of this selection does not hold any more.
    fn reason(&self, state: &State, names: &[String]) -> String {
        let Some(remembered) = state.results.get(&self.selection(names)) else {
            return "no earlier build to compare with".to_owned();
        };
        match self.difference(remembered) {
            Ok(Some(text)) => text.replace(&format!("{}/", self.root.display()), ""),
            Ok(None) => "asked for again".to_owned(),
            Err(error) => format!("{error:#}"),
        }
    }

    /// What results are remembered by: the services, and where the configuration does not say so, for which platform.
    pub(crate) fn selection(&self, names: &[String]) -> String {
        let selection = selection(names);
        match (self.platform, self.naming) {
            (None, _) => selection,
            (Some(platform), Naming::Service) => format!("{selection}@{platform}"),
            (Some(platform), Naming::InIndex) => format!("{selection}@{platform} in index"),
        }
    }

    /// What is asked for beyond files and variables. This program counts by what the file system says of it: it is large.
    fn request(&self) -> String {
        let program = std::env::current_exe().and_then(std::fs::metadata);
        let program = program.map(|meta| (meta.len(), meta.ino(), meta.mtime(), meta.mtime_nsec())).ok();
        let git = self.git.as_ref().map(GitState::label).unwrap_or_default();
        format!("slipway {} {program:?} format {} at {git}", env!("CARGO_PKG_VERSION"), oci::FORMAT)
    }

    /// Everything that is known to matter to the services `names` (all where empty) before Cargo runs.
    pub(crate) fn sources(&self, loaded: &Loaded, names: &[String]) -> Result<Sources> {
        let mut sources = inputs::known(&self.root, &loaded.cargo, &loaded.toolchain);
        sources.request = self.request();
        sources.toolchain = loaded.identity().files.clone();
        sources.files.extend(loaded.runtime.iter().chain(&loaded.named).cloned());
        sources.folders.extend(loaded.vendored.iter().map(|(folder, _)| folder.clone()));
        for package in loaded.workspace.metadata.workspace_packages() {
            let manifest = package.manifest_path.as_std_path();
            sources.files.insert(manifest.to_owned());
            sources.files.extend(manifest.parent().map(|folder| folder.join(ServiceConfig::FILE)));
        }
        for service in &loaded.plan.services {
            sources.assets.extend(service.assets.iter().map(|(from, _)| from.clone()));
        }
        let selected: Vec<&Service> = loaded.workspace.select(names)?;
        for id in local_closure(&loaded.workspace, &selected) {
            let manifest = loaded.workspace.metadata[&id].manifest_path.as_std_path();
            sources.folders.extend(manifest.parent().map(Path::to_owned));
        }
        Ok(sources)
    }
}

/// Whatever goes wrong with results of earlier builds is told, and costs no more than a compile.
pub(crate) fn unless_it_fails<T>(result: Result<T>, reporter: &dyn Reporter) -> Option<T> {
    let warn = |error: &anyhow::Error| {
        reporter.event(Event::Diagnostic(format!("warning: the cache is not used: {error:#}")));
    };
    result.inspect_err(warn).ok()
}

fn members(workspace: &Workspace) -> Vec<(PathBuf, String)> {
    let local = workspace.metadata.packages.iter().filter(|package| package.source.is_none());
    let folder = |package: &cargo_metadata::Package| {
        let folder = package.manifest_path.as_std_path().parent()?;
        Some((folder.to_owned(), package.name.to_string()))
    };
    local.filter_map(folder).collect()
}

fn vendored(workspace: &Workspace, cargo: &CargoConfig) -> Vec<(PathBuf, String)> {
    let folder = |package: &cargo_metadata::Package| {
        let folder = package.manifest_path.as_std_path().parent()?;
        let is_elsewhere = package.source.is_some() && !folder.starts_with(&cargo.cargo_home);
        is_elsewhere.then(|| (folder.to_owned(), package.name.to_string()))
    };
    workspace.metadata.packages.iter().filter_map(folder).collect()
}

/// What does not stop a build and makes it less than it seems.
fn warnings(workspace: &Workspace) -> Vec<String> {
    let local = workspace.metadata.packages.iter().filter(|package| package.source.is_none());
    let outside = local.filter(|package| !package.manifest_path.as_std_path().starts_with(&workspace.root));
    let warn = |package: &cargo_metadata::Package| {
        format!(
            "the package {} lies outside the workspace ({}): Cargo mixes that path into its symbols, so another machine \
             builds other bits; move it inside, or depend on it by git",
            package.name, package.manifest_path
        )
    };
    outside.map(warn).collect()
}

fn refused(error: anyhow::Error) -> anyhow::Error {
    if error.is::<BuildError>() { error } else { BuildError::Refused(error).into() }
}

fn failed(error: anyhow::Error) -> anyhow::Error {
    if error.is::<BuildError>() { error } else { BuildError::Failed(error).into() }
}

/// Packages without a registry or repository that the services can reach.
fn local_closure(workspace: &Workspace, selected: &[&Service]) -> BTreeSet<PackageId> {
    let nodes = workspace.nodes();
    let mut todo: Vec<&PackageId> = selected.iter().map(|service| &service.package).collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = todo.pop() {
        if workspace.metadata[id].source.is_none() && seen.insert(id.clone()) {
            todo.extend(nodes.get(id).iter().flat_map(|node| &node.dependencies));
        }
    }
    seen
}

fn selection(names: &[String]) -> String {
    let mut names: Vec<&str> = names.iter().map(String::as_str).collect();
    names.sort_unstable();
    names.dedup();
    names.join(",")
}

/// Whole milliseconds since `since`.
pub(crate) fn elapsed_ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
