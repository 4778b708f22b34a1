//! The operations on an environment, each readable as its steps. They return data; showing it is the caller's. Every
//! operation that changes something holds the environment's lock from its first look to its last record.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use oci::Layout;
use release::Release;
use serde::Serialize;
use stdx::Digest;

use crate::driver::{Driven, Driver};
use crate::edge_process;
use crate::environment::{EnvironmentFile, Value};
use crate::fail_point::FailPoint;
use crate::journal::{Activation, Entry, History, Journal};
use crate::lock::{Holder, Lock};
use crate::machine::{End, Step};
use crate::observe;
use crate::outcome::{Error, Evidence, Outcome, refuse_full_disk};
use crate::plan::{Plan, plan};
use crate::recover;
use crate::replica::Launcher;
use crate::slot::SlotFolder;
use crate::state::{Deployment, Found, StateFolder, unix_ms};
use crate::target::{Facts, Secret, Target, resolve};
use stdx::yaml::Problem;

/// How long requests in flight may take when everything is stopped.
const DOWN_TIMEOUT: Duration = Duration::from_secs(10);

/// Where an environment is, and how to work on it.
pub struct Site<'a> {
    /// The environment's folder; made by the first deployment.
    pub state: &'a Path,
    /// The OCI image layout that holds the release's images.
    pub layout: &'a Path,
    /// How to start supervisors and the edge.
    pub launcher: Launcher,
    /// What the operator typed, for those who find the environment locked.
    pub command: String,
    /// Set it to have a deployment give up and clear away. After the switch it goes on to its end all the same.
    pub interrupt: &'a AtomicBool,
    /// Told what happens, from several threads.
    pub report: &'a (dyn Fn(Progress<'_>) + Sync),
}

/// What happens during an operation.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub enum Progress<'a> {
    /// The plan that is carried out now.
    Planned {
        /// The plan.
        plan: &'a Plan,
    },
    /// A step began.
    StepStarted {
        /// Which.
        step: &'a Step,
    },
    /// A step was carried out.
    StepDone {
        /// Which.
        step: &'a Step,
        /// How long it took.
        elapsed: Duration,
    },
    /// A step failed.
    StepFailed {
        /// Which.
        step: &'a Step,
        /// What is known.
        evidence: &'a Evidence,
    },
    /// Something that the operator should know.
    Note {
        /// One sentence.
        text: &'a str,
    },
}

/// What [`down`] does with the data of the services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Volumes {
    /// Stays.
    Keep,
    /// Is deleted.
    Remove,
}

/// What [`down`] did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Down {
    /// The slots that ran.
    pub stopped: Vec<String>,
    /// Whether an edge ran.
    pub edge_stopped: bool,
    /// The volumes that were deleted.
    pub volumes_removed: Vec<String>,
}

/// Makes what runs in the environment what `release` and `file` say, or leaves everything as it is.
///
/// # Errors
/// See [`Error`]; what served before serves on in each case.
pub fn deploy(site: &Site<'_>, release: &Release, file: &EnvironmentFile) -> Result<Outcome, Error> {
    let session = StateFolder::create(site.state).and_then(|state| Session::open(site, state));
    let outcome = session.and_then(|session| session.deploy(release, file));
    // From the first record of its journal on, a deployment that fails ends with an outcome, not with an error.
    outcome.map_err(|error| refuse_full_disk(error, site.state))
}

/// The plan that [`deploy`] would carry out now. Nothing is changed.
///
/// # Errors
/// As of [`deploy`].
pub fn dry_run(site: &Site<'_>, release: &Release, file: &EnvironmentFile) -> Result<Plan, Error> {
    let (state, _) = StateFolder::find(site.state)?;
    let history = History::load(&state.journal())?;
    let key = stdx::fs::read_if_exists(&state.root().join("key"))?.unwrap_or_default();
    let target = resolve(release, file, &facts(site, &state, key, release, file)?)?;
    let table = match edge_process::observe(&state)? {
        Some(observed) => {
            if let Some(reason) = edge_process::outdated(&state, &observed, &target.edge, &site.launcher) {
                note(site, &format!("the edge would be replaced: {reason}"));
            }
            observed.table
        }
        None => {
            if let Some(problem) = edge_process::check_addresses(&target.edge) {
                return Err(problem.into());
            }
            observe::empty_table()
        }
    };
    Ok(plan(&target, &observe::observe(&table, &history, &state, &observe::health_checks(&target))?))
}

/// Goes back to what served before the last change: images, values and services together.
///
/// # Errors
/// As of [`deploy`], and when there is nothing to go back to.
pub fn rollback(site: &Site<'_>) -> Result<Outcome, Error> {
    let outcome = StateFolder::open(site.state)
        .and_then(|state| Session::open(site, state))
        .and_then(Session::roll_back);
    outcome.map_err(|error| refuse_full_disk(error, site.state))
}

/// Stops everything: the edge after its last requests, then the services without a port, then the others. What
/// [`Volumes`] says of the data happens to it. What fails does not keep the rest from being stopped, nor does a damaged
/// journal or a full disk.
///
/// # Errors
/// When the environment is locked; at the end, what did not stop.
pub fn down(site: &Site<'_>, volumes: Volumes) -> Result<Down, Error> {
    let state = StateFolder::open(site.state)?;
    let _lock = lock(site, &state)?;
    let (journal, history) = match Journal::open(&state.journal()) {
        Ok((journal, history)) => (Some(journal), Some(history)),
        Err(error @ Error::JournalDamaged { .. }) => {
            note(site, &format!("{error}; without it all slots that are complete are kept"));
            (None, None)
        }
        Err(error) => return Err(error),
    };
    let mut failures = Vec::new();
    let edge_stopped = failed(&mut failures, edge_process::stop(&state, DOWN_TIMEOUT)).unwrap_or(false);
    let stopped = stop_slots(&state, history.as_ref(), &mut failures)?;
    if failures.is_empty() {
        // The routes lead nowhere now: an edge that is started again must not come back with them.
        failed(&mut failures, stdx::fs::remove_dir_all(&state.edge()));
    }
    // What still runs may still write.
    let volumes_removed = match volumes {
        Volumes::Remove if failures.is_empty() => failed(&mut failures, remove_volumes(&state)),
        Volumes::Keep | Volumes::Remove => None,
    };
    if !failures.is_empty() {
        let list: String = failures.iter().map(|error| format!("\n  {error:#}")).collect();
        return Err(anyhow!("not everything could be stopped; call `down` again:{list}").into());
    }
    if let Some(Err(error)) = journal.map(|mut journal| journal.append(Entry::Down)) {
        note(site, &format!("{error:#}; the next deployment finds out by itself that nothing runs"));
    }
    Ok(Down { stopped, edge_stopped, volumes_removed: volumes_removed.unwrap_or_default() })
}

/// Stops all slots, those of services without a port first: they may still need the others. Slots that never served
/// are removed, unless nothing is known of the past.
fn stop_slots(
    state: &StateFolder,
    history: Option<&History>,
    failures: &mut Vec<anyhow::Error>,
) -> Result<Vec<String>> {
    let mut folders = SlotFolder::all(state)?;
    folders.sort_by_key(|folder| folder.record().is_none_or(|record| record.has_port));
    let once_active = history.map(History::last_active);
    let mut stopped = Vec::new();
    for folder in folders {
        if folder.is_running() && failed(failures, folder.stop()).is_some() {
            stopped.push(folder.name.clone());
        }
        let has_served = || once_active.as_ref().is_none_or(|all| all.contains_key(folder.name.as_str()));
        if folder.record().is_none() || !has_served() {
            failed(failures, folder.remove());
        }
    }
    Ok(stopped)
}

/// The value, or `None` and one more failure.
fn failed<T>(failures: &mut Vec<anyhow::Error>, result: Result<T>) -> Option<T> {
    result.map_err(|error| failures.push(error)).ok()
}

/// Moves a damaged journal aside and begins a new one from what can be seen. Returns whether it was damaged.
///
/// # Errors
/// When the environment is locked, or the journal cannot be replaced.
pub fn repair(site: &Site<'_>) -> Result<bool, Error> {
    let (state, found) = StateFolder::find(site.state)?;
    if found == Found::Room {
        return Ok(false);
    }
    let _lock = lock(site, &state)?;
    recover::repair(site, &state)
}

pub(crate) fn note(site: &Site<'_>, text: &str) {
    (site.report)(Progress::Note { text });
}

fn nothing_to_go_back_to() -> Error {
    Problem::new("rollback", "no earlier deployment is known in this environment").into()
}

fn remove_volumes(state: &StateFolder) -> Result<Vec<String>> {
    let folder = state.volumes();
    let entries = match std::fs::read_dir(&folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
    };
    let mut names: Vec<_> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names.iter().try_for_each(|name| stdx::fs::remove_dir_all(&folder.join(name)))?;
    Ok(names)
}

fn lock(site: &Site<'_>, state: &StateFolder) -> Result<Lock, Error> {
    let fail_point = FailPoint::from_env();
    fail_point.pass("lock", "before-intent");
    let holder = Holder { pid: std::process::id(), command: site.command.clone(), since_unix_ms: unix_ms() };
    fail_point.pass("lock", "after-intent");
    let lock = Lock::acquire(&state.lock(), &holder)?;
    fail_point.pass("lock", "after-effect");
    fail_point.pass("lock", "after-done");
    Ok(lock)
}

/// A locked environment with its journal open.
struct Session<'a> {
    site: &'a Site<'a>,
    state: StateFolder,
    journal: Journal,
    history: History,
    _lock: Lock,
}

impl<'a> Session<'a> {
    fn open(site: &'a Site<'a>, state: StateFolder) -> Result<Session<'a>, Error> {
        let lock = lock(site, &state)?;
        let (journal, history) = Journal::open(&state.journal())?;
        Ok(Session { site, state, journal, history, _lock: lock })
    }

    /// The deployment that was begun or serves last.
    fn newest_deployment(&self) -> Option<String> {
        let open = self.history.open.as_ref().map(|open| open.plan.deployment.clone());
        let past = self.history.activations.iter().rev().map(|past| past.deployment.clone());
        open.into_iter().chain(past).find(|id| !id.is_empty())
    }

    fn roll_back(mut self) -> Result<Outcome, Error> {
        let id = self.newest_deployment().ok_or_else(nothing_to_go_back_to)?;
        let present = self.state.read_deployment(&id)?;
        let drain_timeout = Duration::from_millis(present.environment.drain_timeout_ms);
        let say = |text: &str| note(self.site, text);
        edge_process::ensure(&self.state, &present.environment.edge, &self.site.launcher, &say)?;
        recover::recover(self.site, &self.state, &mut self.journal, &mut self.history, drain_timeout)?;
        let previous =
            self.history.previous().map(|past| past.deployment.clone()).ok_or_else(nothing_to_go_back_to)?;
        let Deployment { name, environment, release, .. } = self.state.read_deployment(&previous)?;
        self.deploy(&release, &EnvironmentFile::built_in(&name, environment))
    }

    fn deploy(mut self, release: &Release, file: &EnvironmentFile) -> Result<Outcome, Error> {
        let target = resolve(release, file, &self.facts(release, file)?)?;
        if self.site.interrupt.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        let say = |text: &str| note(self.site, text);
        edge_process::ensure(&self.state, &target.edge, &self.site.launcher, &say)?;
        let table = recover::recover(
            self.site,
            &self.state,
            &mut self.journal,
            &mut self.history,
            target.drain_timeout,
        )?;
        let observed =
            observe::observe(&table, &self.history, &self.state, &observe::health_checks(&target))?;
        let plan = plan(&target, &observed);
        (self.site.report)(Progress::Planned { plan: &plan });
        if plan.is_empty() {
            self.retire(&plan);
            return Ok(Outcome::NothingToDo { plan });
        }
        self.state.write_deployment(&target.deployment, &file.name, &file.environment, release)?;
        self.carry_out(&target, plan)
    }

    /// Recovery keeps every slot that ever served; what is too many is removed even where nothing else is to do.
    fn retire(&self, plan: &Plan) {
        for slot in &plan.retire {
            if let Err(error) = SlotFolder::new(&self.state, slot).remove() {
                note(self.site, &format!("{error:#}"));
            }
        }
    }

    fn facts(&self, release: &Release, file: &EnvironmentFile) -> Result<Facts> {
        facts(self.site, &self.state, self.state.secret_key()?, release, file)
    }

    fn carry_out(mut self, target: &Target, plan: Plan) -> Result<Outcome, Error> {
        self.journal.append(Entry::Begin { plan: plan.clone() })?;
        let driver = Driver::new(self.site, &self.state, target, &plan, self.journal);
        let Driven { end, evidence, mut journal } = driver.run();
        let known =
            |step: &Step| evidence.get(step).cloned().unwrap_or_else(|| Evidence::new(step, "failed"));
        let all = |steps: Vec<Step>| steps.iter().map(known).collect::<Vec<_>>();
        let mut finish = |outcome: &str, active: Option<Activation>| {
            // Without this record the next operation looks for itself, and finds the same.
            if let Err(error) = journal.append(Entry::End { outcome: outcome.to_owned(), active }) {
                (self.site.report)(Progress::Note { text: &format!("{error:#}") });
            }
        };
        match end {
            End::Deployed { unfinished } => {
                finish("deployed", Some(Activation::of(&plan)));
                Ok(Outcome::Deployed { unfinished: all(unfinished), plan })
            }
            End::RolledBack { cause: Step::Preflight, .. } => {
                finish("refused", None);
                Err(Problem::new("preflight", known(&Step::Preflight).message).into())
            }
            End::RolledBack { cause, left_behind } => {
                finish("rolled back", None);
                Ok(Outcome::RolledBack { evidence: known(&cause), left_behind: all(left_behind), plan })
            }
            End::Interrupted { left_behind } => {
                finish("interrupted", None);
                Ok(Outcome::Interrupted { left_behind: all(left_behind), plan })
            }
            // Left open in the journal: the next operation asks the edge again.
            End::Unknown => Ok(Outcome::NeedsHuman { evidence: known(&Step::Switch), plan }),
        }
    }
}

/// Reads what the documents only refer to.
fn facts(
    site: &Site<'_>,
    state: &StateFolder,
    key: Vec<u8>,
    release: &Release,
    file: &EnvironmentFile,
) -> Result<Facts> {
    let mut facts = Facts { key, ..Facts::default() };
    for (service, values) in &file.environment.services {
        for (variable, value) in &values.env {
            if let Some(secret) = read_secret(value) {
                facts.secrets.insert((service.clone(), variable.clone()), secret);
            }
        }
    }
    for (name, service) in &release.services {
        let variables = image_variables(site.layout, service.image);
        let variables = variables.or_else(|| slot_variables(state, service.image));
        facts.image_env.insert(name.clone(), variables.unwrap_or_default());
    }
    Ok(facts)
}

fn read_secret(value: &Value) -> Option<Result<Secret, String>> {
    match value {
        Value::Literal(_) => None,
        Value::FromEnv { from_env } => Some(
            std::env::var(from_env)
                .map(Secret::new)
                .map_err(|_| format!("the variable {from_env} is not set where the deployment was started")),
        ),
        Value::FromFile { from_file } => Some(
            stdx::fs::read_to_string(from_file)
                .map(|text| Secret::new(text.strip_suffix('\n').unwrap_or(&text)))
                .map_err(|error| format!("{error:#}")),
        ),
    }
}

/// The names of the variables that the image sets; `None` where the image is not in the layout (any more).
fn image_variables(layout: &Path, image: Digest) -> Option<BTreeSet<String>> {
    let layout = Layout::open(layout).ok()?;
    let config: Digest = layout.manifest(&image).ok()?.config().digest().to_string().parse().ok()?;
    let config: serde_json::Value = serde_json::from_slice(&layout.document(&config).ok()?).ok()?;
    let variables = config["config"]["Env"].as_array().cloned().unwrap_or_default();
    let name = |variable: &serde_json::Value| Some(variable.as_str()?.split_once('=')?.0.to_owned());
    Some(variables.iter().filter_map(name).collect())
}

/// The same from a slot that was made from the image.
fn slot_variables(state: &StateFolder, image: Digest) -> Option<BTreeSet<String>> {
    let records = SlotFolder::all(state).ok()?.into_iter().filter_map(|folder| folder.record());
    let record = records.into_iter().find(|record| record.image == image)?;
    Some(record.variables().cloned().collect())
}

impl Activation {
    /// What serves after `plan`.
    pub(crate) fn of(plan: &Plan) -> Activation {
        Activation {
            deployment: plan.deployment.clone(),
            slots: plan.active_after(),
            routes: plan.routes_after.clone(),
        }
    }
}
