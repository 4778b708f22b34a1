//! `cargo xtask deps`: ask Cargo what the services are made of, weigh what was built, and show, compare, record or judge it.

mod revision;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ::deps::{Places, Record, Recorded, Report, Service, Side, Sizes, Violation, Weight};
use anyhow::{Context, Result, anyhow, bail};
use stdx::Cmd;
use workspace::{Budget, CargoConfig, Network, Settings, Workspace};

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render;

pub(crate) fn run(flags: &flags::Deps) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let mut loaded = Loaded::load(root, flags).or_exit(Code::Configuration)?;
    for warning in &loaded.report.warnings {
        eprintln!("warning: {warning}");
    }
    if let Some(package) = &flags.why {
        let found = render::why(&loaded.report, package, flags.json)?;
        let unknown = || anyhow!("no service uses a package `{package}`");
        return if found { Ok(()) } else { Err(unknown()).or_exit(Code::NothingSelected) };
    }
    loaded.weigh().or_exit(Code::Configuration)?;
    if let Some(path) = &flags.svg {
        loaded.draw(path).or_exit(Code::Configuration)?;
    }
    if flags.record {
        return loaded.record().or_exit(Code::Configuration);
    }
    if let Some(revision) = &flags.diff {
        return diff(&loaded, revision, flags);
    }
    if flags.check {
        return check(&loaded, flags);
    }
    render::deps(&loaded.report, &loaded.weights, flags.all, flags.json)
}

/// Everything that is known of one state of the workspace.
struct Loaded {
    root: PathBuf,
    settings: Settings,
    target: String,
    /// All services, also those that were not asked for.
    names: BTreeSet<String>,
    report: Report,
    /// Of the services that were built.
    weights: BTreeMap<String, Weight>,
}

impl Loaded {
    fn load(root: PathBuf, flags: &flags::Deps) -> Result<Loaded> {
        let (mut loaded, workspace) = Loaded::load_all(root, flags)?;
        workspace.select(&flags.services)?;
        if !flags.services.is_empty() {
            loaded.report.services.retain(|name, _| flags.services.contains(name));
        }
        Ok(loaded)
    }

    fn load_all(root: PathBuf, flags: &flags::Deps) -> Result<(Loaded, Workspace)> {
        let settings = Settings::load(&root)?;
        let cargo = CargoConfig::load(&root, settings.build.target.as_deref())?;
        let network = if flags.offline { Network::Forbidden } else { Network::Allowed };
        let workspace = Workspace::load_with(&root, settings.clone(), &cargo.target, network)?;
        let scratch = workspace::slipway_dir(&root, &workspace::target_dir(&root)?).join("scan");
        let report = Report::load(&workspace, &cargo, network, &scratch)?;
        let names = report.services.keys().cloned().collect();
        let target = cargo.target;
        Ok((Loaded { root, settings, target, names, report, weights: BTreeMap::new() }, workspace))
    }

    /// Weighs the binaries of the last build.
    fn weigh(&mut self) -> Result<()> {
        let linked = build::linked_folder(&self.root, &self.target, &self.settings.build.profile)?;
        let finished = build::finished_folder(&self.root)?;
        if !finished.is_dir() {
            return Ok(());
        }
        let std_libraries = std_libraries(&self.root, &self.target)?;
        for (name, service) in &self.report.services {
            let places = Places {
                root: self.root.clone(),
                linked: linked.join(&service.binary),
                finished: finished.join(name),
                std_libraries: std_libraries.clone(),
            };
            let weight = ::deps::weigh(service, &places);
            let weight = weight.with_context(|| format!("cannot weigh the binary of {name}"))?;
            self.weights.extend(weight.map(|weight| (name.clone(), weight)));
        }
        Ok(())
    }

    fn record_path(&self) -> PathBuf {
        self.root.join(&self.settings.deps.record)
    }

    /// What would be written down for the services that were built.
    fn sizes(&self) -> BTreeMap<String, Recorded> {
        let services = self.report.services.iter();
        services
            .filter_map(|(name, service)| {
                Some((name.clone(), Recorded::new(service, self.weights.get(name)?)))
            })
            .collect()
    }

    /// Writes the sizes down; those of services that are there and were not asked for stay.
    fn record(&self) -> Result<()> {
        let missing = self.report.services.keys().find(|name| !self.weights.contains_key(*name));
        if let Some(name) = missing {
            bail!("{name} was not built, so it has no size; next: cargo xtask build {name}");
        }
        let path = self.record_path();
        let mut record = Record::load(&path)?;
        record.services.retain(|name, _| self.names.contains(name));
        record.services.extend(self.sizes());
        stdx::fs::write_atomic(&path, record.to_text()?.as_bytes(), 0o644)?;
        eprintln!("recorded {} services in {}", self.weights.len(), path.display());
        Ok(())
    }

    /// One picture at `path`; of several services, `<name>-<service>.svg` beside it.
    fn draw(&self, path: &Path) -> Result<()> {
        let Some(first) = self.weights.keys().next() else {
            bail!("no service was built, so there is nothing to draw; next: cargo xtask build");
        };
        let is_single = self.report.services.len() == 1;
        for (name, weight) in &self.weights {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let file =
                if is_single { path.to_owned() } else { path.with_file_name(format!("{stem}-{name}.svg")) };
            let picture = ::deps::svg(&self.report.services[name], weight);
            stdx::fs::write_atomic(&file, picture.as_bytes(), 0o644)
                .with_context(|| format!("cannot draw {first}"))?;
            eprintln!("drew {}", file.display());
        }
        Ok(())
    }
}

/// Where the compiled crates of the standard library are.
fn std_libraries(root: &Path, target: &str) -> Result<PathBuf> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let cmd = Cmd::new(rustc).args(["--print", "target-libdir", "--target", target]).cwd(root);
    Ok(cmd.read()?.into())
}

fn diff(loaded: &Loaded, revision: &str, flags: &flags::Deps) -> Result<()> {
    let (commit, folder) = revision::check_out(&loaded.root, revision).or_exit(Code::Configuration)?;
    let root = revision::workspace(&loaded.root, folder.path()).or_exit(Code::Configuration)?;
    let old = Loaded::load_all(root, flags)
        .and_then(|(old, _)| Ok((Record::load(&old.record_path())?, old)))
        .with_context(|| format!("cannot read the workspace at {revision}"));
    let (record, old) = old.or_exit(Code::Configuration)?;
    let now_recorded = Record::load(&loaded.record_path()).or_exit(Code::Configuration)?;
    let now_sizes = loaded.sizes();
    let mut changes = BTreeMap::new();
    let names = loaded.report.services.keys();
    let gone = old.report.services.keys().filter(|_| flags.services.is_empty());
    for name in names.chain(gone) {
        let before = old.report.services.get(name);
        let before = before.map(|service| Side { service, sizes: record.services.get(name) });
        let sizes = now_sizes.get(name).or_else(|| now_recorded.services.get(name));
        let now = loaded.report.services.get(name).map(|service| Side { service, sizes });
        changes.insert(name.clone(), ::deps::diff(before, now));
    }
    render::deps_diff(&commit, &changes, flags.json)
}

fn check(loaded: &Loaded, flags: &flags::Deps) -> Result<()> {
    let record = Record::load(&loaded.record_path()).or_exit(Code::Configuration)?;
    let settings = &loaded.settings.deps;
    if let Some(name) = settings.services.keys().find(|name| !loaded.names.contains(*name)) {
        let error = anyhow!("deps.services.{name} of slipway.yaml: there is no such service");
        return Err(error).or_exit(Code::Configuration);
    }
    let check = |(name, service): (&String, &Service)| {
        let sizes = Sizes { now: loaded.weights.get(name), recorded: record.services.get(name) };
        ::deps::check(service, &settings.budget(name), sizes)
    };
    let violations: Vec<Violation> = loaded.report.services.iter().flat_map(check).collect();
    let names = loaded.report.services.keys();
    let judged = names.filter(|name| settings.budget(name) != Budget::default()).count();
    render::deps_check(&violations, judged, flags.json)?;
    match violations.len() {
        0 => Ok(()),
        1 => Err(anyhow!("1 thing is against the budget")).or_exit(Code::PolicyViolated),
        many => Err(anyhow!("{many} things are against the budget")).or_exit(Code::PolicyViolated),
    }
}
