//! The environment as it is: asked from the edge, the processes and the services themselves. The journal adds only
//! what cannot be seen, and a damaged one does not stand in the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Result;
use edge::control::{Observed, Route, SlotCounters};
use release::HealthCheck;
use serde::Serialize;

use crate::edge_process;
use crate::gate::Answer;
use crate::journal::History;
use crate::lock::{self, Holder};
use crate::observe::{self, HealthChecks};
use crate::outcome::Error;
use crate::plan::Condition;
use crate::platform::{self, Description, Instance, Platform};
use crate::process::ProcessId;
use crate::replica::Exit;
use crate::state::StateFolder;

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
    /// The name of its container, on a platform that has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whether it is started again when it ends.
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
    let look =
        Look { history: &history, checks: health_checks(&state, &history), observed: observed.as_ref() };
    let seen = platform::open(&state).map_err(anyhow::Error::from).and_then(|it| look.services(&*it));
    let services = seen.unwrap_or_else(|error| {
        trouble.push(format!("what runs cannot be seen: {error:#}"));
        BTreeMap::new()
    });
    let locked_by = lock::holder(&state.lock());
    let interrupted = history.open.as_ref().filter(|_| locked_by.is_none());
    trouble.extend(interrupted.map(|open| format!("a deployment was interrupted at {}", open.last)));
    Ok(Status {
        services,
        deployment: history.current().map(|current| current.deployment.clone()).filter(|id| !id.is_empty()),
        previous: history.previous().map(|past| past.deployment.clone()),
        edge: observed.map(|observed| EdgeStatus {
            pid: observed.pid,
            listen: observed.listen,
            generation: observed.table.generation,
            routes: observed.table.routes,
        }),
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
    fn services(&self, platform: &dyn Platform) -> Result<BTreeMap<String, Vec<SlotStatus>>> {
        let table = self.observed.map_or_else(observe::empty_table, |observed| observed.table.clone());
        let active = observe::active(&table, self.history, platform)?;
        let mut services: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for slot in platform.slots()? {
            let Some(Description { service, .. }) = platform.describe(&slot)? else { continue };
            let is_active = active.get(&service) == Some(&slot);
            let status = self.slot(platform, slot, &service, is_active)?;
            services.entry(service).or_default().push(status);
        }
        Ok(services)
    }

    fn slot(
        &self,
        platform: &dyn Platform,
        slot: String,
        service: &str,
        is_active: bool,
    ) -> Result<SlotStatus> {
        let health = self.checks.get(service).and_then(Option::as_ref);
        let processes: Vec<_> =
            platform.instances(&slot)?.into_iter().map(|instance| process(instance, health)).collect();
        let is_well = |process: &ProcessStatus| process.is_supervised && process.health.is_healthy();
        let condition = match platform.is_running(&slot)? {
            false => Condition::Stopped,
            true if processes.iter().all(is_well) => Condition::Serving,
            true => Condition::Broken,
        };
        let once_served = self.history.last_active().contains_key(slot.as_str());
        let role = match (is_active, condition, once_served) {
            (true, _, _) => Role::Active,
            (false, Condition::Stopped, true) => Role::Retained,
            (false, _, _) => Role::Leftover,
        };
        let counters = self.observed.and_then(|observed| observed.slots.get(&slot)).copied();
        Ok(SlotStatus { slot, role, condition, processes, counters })
    }
}

fn process(mut instance: Instance, health: Option<&HealthCheck>) -> ProcessStatus {
    ProcessStatus {
        health: instance.ask(health),
        process: instance.process,
        container: instance.container,
        is_supervised: instance.is_supervised,
        address: instance.address,
        uptime_ms: instance.uptime_ms,
        restarts: instance.restarts,
        last_exit: instance.exits.pop(),
    }
}

/// The health checks of what was deployed last; none where that is not known.
fn health_checks(state: &StateFolder, history: &History) -> HealthChecks {
    let newest = history.activations.iter().rev().find(|past| !past.deployment.is_empty());
    let deployment = newest.and_then(|past| state.read_deployment(&past.deployment).ok());
    let services = deployment.map(|deployment| deployment.release.services).unwrap_or_default();
    services.into_iter().map(|(name, service)| (name, service.health)).collect()
}
