//! The environment as it is: asked from the edge, the processes and the services themselves. The journal adds only
//! what cannot be seen, and a damaged one does not stand in the way.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use edge::control::{Observed, Route, SlotCounters};
use serde::Serialize;

use crate::edge_process;
use crate::gate::{Answer, Subject};
use crate::journal::History;
use crate::lock::{self, Holder};
use crate::log::{self, Follow};
use crate::observe::{self, HealthChecks};
use crate::outcome::Error;
use crate::plan::Condition;
use crate::process::ProcessId;
use crate::replica::Exit;
use crate::slot::SlotFolder;
use crate::state::StateFolder;
use stdx::yaml::Problem;

/// How often a log is looked at for new lines.
const FOLLOW_POLL: Duration = Duration::from_millis(200);

/// An environment as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The edge; `None` where none answers.
    pub edge: Option<EdgeStatus>,
    /// The slots on disk, by service.
    pub services: BTreeMap<String, Vec<SlotStatus>>,
    /// Who is working on the environment.
    pub locked_by: Option<Holder>,
    /// The deployment that serves, by the journal.
    pub deployment: Option<String>,
    /// The deployment that a rollback goes back to.
    pub previous: Option<String>,
    /// What an operator should know: an interrupted deployment, a damaged journal, an edge that does not answer or would
    /// not come back.
    pub trouble: Vec<String>,
    /// Whether the journal has to be repaired before anything can be deployed.
    pub needs_repair: bool,
}

/// The edge as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EdgeStatus {
    /// Its process id.
    pub pid: u32,
    /// Where it listens.
    pub listen: SocketAddr,
    /// Generation of the table in force.
    pub generation: u64,
    /// The routes in force.
    pub routes: Vec<Route>,
}

/// A slot as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SlotStatus {
    /// Its name.
    pub slot: String,
    /// What it is there for.
    pub role: Role,
    /// What it is doing.
    pub condition: Condition,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
    /// What the edge counted; `None` for a slot that the edge does not know.
    pub counters: Option<SlotCounters>,
}

/// What a slot is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// It serves.
    Active,
    /// It served, and is kept to be started again.
    Retained,
    /// It was left behind; the next operation clears it away.
    Leftover,
}

/// A process of a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessStatus {
    /// The process, if it runs.
    pub process: Option<ProcessId>,
    /// Whether its supervisor runs.
    pub is_supervised: bool,
    /// Where it listens.
    pub address: Option<SocketAddr>,
    /// Time since its start.
    pub uptime_ms: Option<u64>,
    /// How often it was started again.
    pub restarts: u32,
    /// How the last one before it ended.
    pub last_exit: Option<Exit>,
    /// What it answers to its health check now.
    pub health: Answer,
}

/// Which lines of which logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// One service; all where `None`.
    pub service: Option<String>,
    /// How many of the last lines of each process.
    pub lines: usize,
    /// Whether to go on with what is added.
    pub mode: LogMode,
}

/// Whether to go on with what is added to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMode {
    /// Only what is there.
    Once,
    /// Until the interrupt flag is set; slots that start meanwhile are followed, too.
    Follow,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// The service.
    pub service: String,
    /// Its slot.
    pub slot: String,
    /// Which of its processes, from 0.
    pub replica: usize,
    /// The line.
    pub text: String,
}

/// The environment in the folder `state` as it is. Nothing is changed.
///
/// # Errors
/// [`Error::Preflight`] where there is no environment; anything else when a file cannot be read.
pub fn status(state: &Path) -> Result<Status, Error> {
    let state = StateFolder::open(state)?;
    let mut trouble = Vec::new();
    let (history, needs_repair) = match History::load(&state.journal()) {
        Ok(history) => (history, false),
        Err(error @ Error::JournalDamaged { .. }) => {
            trouble.push(error.to_string());
            (History::default(), true)
        }
        Err(error) => return Err(error),
    };
    let observed = edge_process::look(&state).unwrap_or_else(|error| {
        trouble.push(format!("{error:#}"));
        None
    });
    trouble.extend(observed.as_ref().and_then(|edge| edge_process::unsupervised(&state, edge)));
    let table = observed.as_ref().map_or_else(observe::empty_table, |observed| observed.table.clone());
    let active = observe::active(&table, &history, &state);
    let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let context =
        Look { history: &history, checks: health_checks(&state, &history), observed: observed.as_ref() };
    for folder in SlotFolder::all(&state)? {
        let Some(record) = folder.record() else { continue };
        let is_active = active.get(&record.service) == Some(&folder.name);
        services.entry(record.service.clone()).or_default().push(context.slot(
            &folder,
            &record.service,
            is_active,
        ));
    }
    let locked_by = lock::holder(&state.lock());
    let interrupted = history.open.as_ref().filter(|_| locked_by.is_none());
    trouble.extend(interrupted.map(|open| format!("a deployment was interrupted at {}", open.last)));
    Ok(Status {
        edge: observed.map(|observed| EdgeStatus {
            pid: observed.pid,
            listen: observed.listen,
            generation: observed.table.generation,
            routes: observed.table.routes,
        }),
        services,
        deployment: history.current().map(|current| current.deployment.clone()).filter(|id| !id.is_empty()),
        previous: history.previous().map(|past| past.deployment.clone()),
        trouble,
        needs_repair,
        locked_by,
    })
}

struct Look<'a> {
    history: &'a History,
    checks: HealthChecks,
    observed: Option<&'a Observed>,
}

impl Look<'_> {
    fn slot(&self, folder: &SlotFolder, service: &str, is_active: bool) -> SlotStatus {
        let health = self.checks.get(service).and_then(Option::as_ref);
        let processes: Vec<_> =
            folder.subjects().iter().map(|subject| process(subject, subject.ask(health))).collect();
        let is_well = |process: &ProcessStatus| process.is_supervised && process.health.is_healthy();
        let condition = match folder.is_running() {
            false => Condition::Stopped,
            true if processes.iter().all(is_well) => Condition::Serving,
            true => Condition::Broken,
        };
        let once_served = self.history.last_active().contains_key(folder.name.as_str());
        let role = match (is_active, condition, once_served) {
            (true, _, _) => Role::Active,
            (false, Condition::Stopped, true) => Role::Retained,
            (false, _, _) => Role::Leftover,
        };
        let counters = self.observed.and_then(|observed| observed.slots.get(&folder.name)).copied();
        SlotStatus { slot: folder.name.clone(), role, condition, processes, counters }
    }
}

fn process(subject: &Subject, health: Answer) -> ProcessStatus {
    let process = subject.replica.process();
    ProcessStatus {
        process,
        is_supervised: subject.replica.is_supervised(),
        address: subject.address,
        uptime_ms: process.and_then(|process| process.uptime_ms()),
        restarts: subject.replica.record().map_or(0, |record| record.restarts),
        last_exit: subject.replica.exits().pop(),
        health,
    }
}

/// The health checks of what was deployed last; none where that is not known.
fn health_checks(state: &StateFolder, history: &History) -> HealthChecks {
    let newest = history.activations.iter().rev().find(|past| !past.deployment.is_empty());
    let deployment = newest.and_then(|past| state.read_deployment(&past.deployment).ok());
    let services = deployment.map(|deployment| deployment.release.services).unwrap_or_default();
    services.into_iter().map(|(name, service)| (name, service.health)).collect()
}

/// Hands the lines that `query` asks for to `sink`: of the slots that run, and of the newest slot where none does.
///
/// # Errors
/// [`Error::Preflight`] where there is no environment, or no such service in it; anything else when a log cannot be read.
pub fn logs(
    state: &Path,
    query: &LogQuery,
    interrupt: &AtomicBool,
    sink: &mut dyn FnMut(LogLine),
) -> Result<(), Error> {
    let state = StateFolder::open(state)?;
    if let Some(service) = &query.service {
        check_service(&state, service)?;
    }
    let mut followed: BTreeMap<(String, usize), (String, Follow)> = BTreeMap::new();
    let mut is_first = true;
    loop {
        for (service, folder) in log_slots(&state, query)? {
            for (index, replica) in folder.replicas().iter().enumerate() {
                let key = (folder.name.clone(), index);
                if followed.contains_key(&key) {
                    continue;
                }
                let follow = Follow::new(&replica.log());
                let lines = if is_first { query.lines } else { usize::MAX };
                for text in log::tail(&replica.log(), lines)? {
                    sink(LogLine {
                        service: service.clone(),
                        slot: folder.name.clone(),
                        replica: index,
                        text,
                    });
                }
                followed.insert(key, (service.clone(), follow));
            }
        }
        if query.mode == LogMode::Once || interrupt.load(Ordering::Relaxed) {
            return Ok(());
        }
        is_first = false;
        std::thread::sleep(FOLLOW_POLL);
        for ((slot, replica), (service, follow)) in &mut followed {
            for text in follow.lines()? {
                sink(LogLine { service: service.clone(), slot: slot.clone(), replica: *replica, text });
            }
        }
    }
}

fn check_service(state: &StateFolder, service: &str) -> Result<(), Error> {
    let records = SlotFolder::all(state)?.into_iter().filter_map(|folder| folder.record());
    let known: BTreeSet<_> = records.map(|record| record.service).collect();
    if known.contains(service) {
        return Ok(());
    }
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    Err(Problem::new("logs", format!("no service `{service}` was deployed here; there is {known}")).into())
}

fn log_slots(state: &StateFolder, query: &LogQuery) -> Result<Vec<(String, SlotFolder)>> {
    let mut by_service: BTreeMap<String, Vec<SlotFolder>> = BTreeMap::new();
    for folder in SlotFolder::all(state)? {
        let Some(record) = folder.record() else { continue };
        if query.service.as_ref().is_none_or(|wanted| *wanted == record.service) {
            by_service.entry(record.service).or_default().push(folder);
        }
    }
    let mut chosen = Vec::new();
    for (service, mut folders) in by_service {
        if folders.iter().any(SlotFolder::is_running) {
            folders.retain(SlotFolder::is_running);
        } else {
            folders.sort_by_key(SlotFolder::last_started);
            folders.drain(..folders.len().saturating_sub(1));
        }
        chosen.extend(folders.into_iter().map(|folder| (service.clone(), folder)));
    }
    Ok(chosen)
}
