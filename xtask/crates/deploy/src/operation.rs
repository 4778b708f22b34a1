//! The operations on an environment, each readable as its steps. They return data; showing it is the caller's. Every
//! operation that changes something holds the environment's lock from its first look to its last record.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use release::Release;
use serde::Serialize;

use crate::audit::{self, AuditEvent};
use crate::difference::{self, Difference};
use crate::edge_process;
use crate::environment::EnvironmentFile;
use crate::facts::facts;
use crate::fail_point::FailPoint;
use crate::journal::{Entry, History, Journal};
use crate::lock::{Held, Holder, Lock};
use crate::machine::Step;
use crate::observe;
use crate::outcome::{Error, Evidence, Outcome, classify};
use crate::plan::{Plan, plan};
use crate::platform::{self, Platform};
use crate::recover;
use crate::replica::Launcher;
use crate::session::{self, Ended, Session};
use crate::state::{Deployment, Found, StateFolder, unix_ms};
use crate::target::resolve;

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
    /// What the operator typed, for those who find the environment locked, and for the audit.
    pub command: String,
    /// Who the operator is, for the audit.
    pub who: String,
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

/// What a deployment would do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Preview {
    /// The plan that would be carried out.
    pub plan: Plan,
    /// How services would differ from what runs, by name; those that would not are left out.
    pub differences: BTreeMap<String, Difference>,
}

/// How an interrupted deployment was cleared away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Aborted {
    /// The last step of it that was recorded.
    pub interrupted_at: String,
    /// Whether it had switched: then its release serves, and `rollback` goes back.
    pub switched: bool,
}

/// Which deployment is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one that a rollback goes back to.
    Previous,
    /// The one that was begun and not ended.
    Interrupted,
}

/// A deployment that an environment keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Name of the environment.
    pub environment: String,
    /// The release.
    pub release: Release,
}

/// Makes what runs in the environment what `release` and `file` say, or leaves everything as it is.
///
/// # Errors
/// See [`Error`]; what served before serves on in each case.
pub fn deploy(site: &Site<'_>, release: &Release, file: &EnvironmentFile) -> Result<Outcome, Error> {
    // From the first record of its journal on, a deployment that fails ends with an outcome, not with an error.
    run(site, "deploy", StateFolder::create(site.state), Held::Refuse, |session| {
        session.deploy(release, file)
    })
}

/// The plan that [`deploy`] would carry out now, and how it differs from what runs. Nothing is changed.
///
/// # Errors
/// As of [`deploy`].
pub fn dry_run(site: &Site<'_>, release: &Release, file: &EnvironmentFile) -> Result<Preview, Error> {
    let (state, _) = StateFolder::find(site.state)?;
    let history = History::load(&state.journal())?;
    preview(site, &state, &history, release, file)
}

/// Goes back to what served before the last change: images, values and services together.
///
/// # Errors
/// As of [`deploy`], and when there is nothing to go back to.
pub fn rollback(site: &Site<'_>) -> Result<Outcome, Error> {
    run(site, "rollback", StateFolder::open(site.state), Held::Refuse, Session::roll_back)
}

/// The plan that [`rollback`] would carry out now. Nothing is changed.
///
/// # Errors
/// As of [`rollback`].
pub fn rollback_dry_run(site: &Site<'_>) -> Result<Preview, Error> {
    let state = StateFolder::open(site.state)?;
    let history = History::load(&state.journal())?;
    let id = session::previous(&history).ok_or_else(session::nothing_to_go_back_to)?;
    let Deployment { name, environment, release, .. } = state.read_deployment(&id)?;
    preview(site, &state, &history, &release, &EnvironmentFile::built_in(&name, environment))
}

/// Goes on with the deployment that was interrupted, to its end.
///
/// # Errors
/// As of [`deploy`], and when none was interrupted.
pub fn resume(site: &Site<'_>, held: Held) -> Result<Outcome, Error> {
    run(site, "resume", StateFolder::open(site.state), held, Session::resume)
}

/// Clears away what an interrupted deployment left behind: what serves serves on. Returns what was done, in words.
///
/// # Errors
/// As of [`deploy`], and when none was interrupted.
pub fn abort(site: &Site<'_>, held: Held) -> Result<Aborted, Error> {
    run(site, "abort", StateFolder::open(site.state), held, Session::abort)
}

/// The deployment that a rollback goes back to, or that was interrupted: what it would start again.
///
/// # Errors
/// Where there is no environment, or nothing of the kind is known in it.
pub fn kept(state: &Path, which: Which) -> Result<Kept, Error> {
    let state = StateFolder::open(state)?;
    let history = History::load(&state.journal())?;
    let id = match which {
        Which::Previous => session::previous(&history).ok_or_else(session::nothing_to_go_back_to)?,
        Which::Interrupted => {
            history.open.map(|open| open.plan.deployment).ok_or_else(session::not_interrupted)?
        }
    };
    let Deployment { name, release, .. } = state.read_deployment(&id)?;
    Ok(Kept { environment: name, release })
}

fn preview(
    site: &Site<'_>,
    state: &StateFolder,
    history: &History,
    release: &Release,
    file: &EnvironmentFile,
) -> Result<Preview, Error> {
    let key = stdx::fs::read_if_exists(&state.root().join("key"))?.unwrap_or_default();
    let platform = platform::choose(state, &file.name, &file.environment.platform)?.platform;
    let target = resolve(release, file, &facts(site, &*platform, key, release, file)?)?;
    let table = match edge_process::observe(state)? {
        Some(observed) => {
            if let Some(reason) = edge_process::outdated(state, &observed, &target.edge, &site.launcher) {
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
    let observed = observe::observe(&table, history, &*platform, &observe::health_checks(&target))?;
    let differences = difference::differences(&target, &observed, &*platform)?;
    Ok(Preview { plan: plan(&target, &observed), differences })
}

/// Opens the environment, lets `work` do its work, and writes down how it ended.
fn run<'a, T: Ended>(
    site: &'a Site<'a>,
    operation: &str,
    state: Result<StateFolder, Error>,
    held: Held,
    work: impl FnOnce(&mut Session<'a>) -> Result<T, Error>,
) -> Result<T, Error> {
    let result =
        state.and_then(|state| Session::open(site, state, operation, held)).and_then(|mut session| {
            let start = Instant::now();
            let result = work(&mut session);
            session.record_end(result.as_ref().map(|ended| ended as &dyn Ended), start.elapsed());
            result
        });
    result.map_err(|error| classify(error, site.state))
}

/// Stops everything: the edge after its last requests, then the services without a port, then the others. What
/// [`Volumes`] says of the data happens to it. What fails does not keep the rest from being stopped, nor does a damaged
/// journal or a full disk.
///
/// # Errors
/// When the environment is locked; at the end, what did not stop.
pub fn down(site: &Site<'_>, volumes: Volumes) -> Result<Down, Error> {
    let state = StateFolder::open(site.state)?;
    let mut lock = lock(site, &state, Held::Refuse)?;
    let (mut journal, history) = match Journal::open(&state.journal()) {
        Ok((journal, history)) => (Some(journal), Some(history)),
        Err(error @ Error::JournalDamaged { .. }) => {
            note(site, &format!("{error}; without it all slots that are complete are kept"));
            (None, None)
        }
        Err(error) => return Err(error),
    };
    // On a full disk no token can be granted, and the lock alone must do.
    let fence = lock.grant(history.as_ref().map_or(0, |history| history.token)).ok();
    if let (Some(journal), Some(fence)) = (&mut journal, &fence) {
        journal.guard(fence.clone());
    }
    let start = Instant::now();
    let result = stop_all(&state, history.as_ref(), volumes);
    let outcome = match &result {
        Ok(_) => "stopped",
        Err(_) => "not everything was stopped",
    };
    let event = AuditEvent {
        outcome: outcome.to_owned(),
        took_ms: session::millis(start.elapsed()),
        ..session::event(site, "down", fence.map_or(0, |fence| fence.token()))
    };
    if let Err(error) = audit::append(&state, event) {
        note(site, &format!("{error:#}"));
    }
    let down = result?;
    if let Some(Err(error)) = journal.map(|mut journal| journal.append(Entry::Down)) {
        note(site, &format!("{error:#}; the next deployment finds out by itself that nothing runs"));
    }
    Ok(down)
}

/// What [`down`] would do now. Nothing is changed.
///
/// # Errors
/// Where there is no environment, or what runs cannot be seen.
pub fn down_dry_run(state: &Path, volumes: Volumes) -> Result<Down, Error> {
    let state = StateFolder::open(state)?;
    let platform = platform::open(&state)?;
    Ok(Down {
        stopped: platform::running(&*platform)?.into_iter().collect(),
        edge_stopped: edge_process::look(&state)?.is_some(),
        volumes_removed: match volumes {
            Volumes::Keep => Vec::new(),
            Volumes::Remove => platform.volumes()?,
        },
    })
}

fn stop_all(state: &StateFolder, history: Option<&History>, volumes: Volumes) -> Result<Down> {
    let mut failures = Vec::new();
    // First: while what runs cannot be stopped, the edge goes on leading to it.
    let platform = platform::open(state)?;
    let edge_stopped = failed(&mut failures, edge_process::stop(state, DOWN_TIMEOUT)).unwrap_or(false);
    let stopped = stop_slots(&*platform, history, &mut failures)?;
    if failures.is_empty() {
        // The routes lead nowhere now: an edge that is started again must not come back with them.
        failed(&mut failures, stdx::fs::remove_dir_all(&state.edge()));
    }
    let mut volumes_removed = Vec::new();
    // What still runs may still write.
    if volumes == Volumes::Remove && failures.is_empty() {
        for name in failed(&mut failures, platform.volumes()).unwrap_or_default() {
            volumes_removed.extend(failed(&mut failures, platform.remove_volume(&name)).map(|()| name));
        }
    }
    if failures.is_empty() {
        return Ok(Down { stopped, edge_stopped, volumes_removed });
    }
    let list: String = failures.iter().map(|error| format!("\n  {error:#}")).collect();
    Err(anyhow!("not everything could be stopped; call `down` again:{list}"))
}

/// Stops all slots, those of services without a port first: they may still need the others. Slots that never served
/// are removed, unless nothing is known of the past.
fn stop_slots(
    platform: &dyn Platform,
    history: Option<&History>,
    failures: &mut Vec<anyhow::Error>,
) -> Result<Vec<String>> {
    let mut slots = Vec::new();
    for slot in platform.slots()? {
        let description = platform.describe(&slot)?;
        slots.push((
            description.as_ref().is_none_or(|description| description.has_port),
            description.is_some(),
            slot,
        ));
    }
    slots.sort();
    let once_active = history.map(History::last_active);
    let mut stopped = Vec::new();
    for (_, is_finished, slot) in slots {
        if platform.is_running(&slot)? && failed(failures, platform.stop(&slot)).is_some() {
            stopped.push(slot.clone());
        }
        let has_served = once_active.as_ref().is_none_or(|all| all.contains_key(slot.as_str()));
        if !is_finished || !has_served {
            failed(failures, platform.remove(&slot));
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
    let mut lock = lock(site, &state, Held::Refuse)?;
    let is_repaired = recover::repair(site, &state)?;
    if is_repaired {
        let event = session::event(site, "repair", lock.grant(0)?.token());
        audit::append(&state, AuditEvent { outcome: "repaired".to_owned(), ..event })?;
    }
    Ok(is_repaired)
}

pub(crate) fn note(site: &Site<'_>, text: &str) {
    (site.report)(Progress::Note { text });
}

pub(crate) fn lock(site: &Site<'_>, state: &StateFolder, held: Held) -> Result<Lock, Error> {
    let fail_point = FailPoint::from_env();
    fail_point.pass("lock", "before-intent");
    let holder = Holder { pid: std::process::id(), command: site.command.clone(), since_unix_ms: unix_ms() };
    fail_point.pass("lock", "after-intent");
    let lock = Lock::acquire(state, &holder, held)?;
    fail_point.pass("lock", "after-effect");
    fail_point.pass("lock", "after-done");
    Ok(lock)
}
