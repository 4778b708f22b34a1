//! What is there now: the edge's table, the slots on disk and their processes. Nothing is taken from memory that can
//! be looked at; only which slot of a service without a port serves is known from the journal alone.

use std::collections::BTreeMap;

use anyhow::Result;
use edge::control::Table;
use release::HealthCheck;

use crate::gate::Answer;
use crate::journal::History;
use crate::plan::{Condition, Observed, ObservedSlot};
use crate::slot::SlotFolder;
use crate::state::StateFolder;
use crate::target::Target;

/// How to ask the slots of each service; a service that is not named is asked for an open port only.
pub(crate) type HealthChecks = BTreeMap<String, Option<HealthCheck>>;

/// The checks of what shall run.
pub(crate) fn health_checks(target: &Target) -> HealthChecks {
    target.services.iter().map(|(name, service)| (name.clone(), service.health.clone())).collect()
}

/// The table of an edge that does not run yet.
pub(crate) fn empty_table() -> Table {
    Table::default()
}

/// The slot that serves each service: what the edge leads to. Where it leads to nothing that runs, the edge lost its
/// table if that slot runs which the journal knows; a service without a port is known from the journal alone.
pub(crate) fn active(table: &Table, history: &History, state: &StateFolder) -> BTreeMap<String, String> {
    let runs = |slot: &str| SlotFolder::new(state, slot).is_running();
    let mut active: BTreeMap<_, _> =
        table.slots.iter().map(|(name, slot)| (slot.service.clone(), name.clone())).collect();
    for (service, slot) in history.current().iter().flat_map(|current| &current.slots) {
        let Some(record) = SlotFolder::new(state, slot).record() else { continue };
        let is_routed = || active.get(service).is_some_and(|routed| routed == slot || runs(routed));
        if !record.has_port || (!is_routed() && runs(slot)) {
            active.insert(service.clone(), slot.clone());
        }
    }
    active
}

/// Everything that a plan is made from.
pub(crate) fn observe(
    table: &Table,
    history: &History,
    state: &StateFolder,
    checks: &HealthChecks,
) -> Result<Observed> {
    let last_active = history.last_active();
    let mut slots = BTreeMap::new();
    for folder in SlotFolder::all(state)? {
        let Some(record) = folder.record() else { continue };
        let health = checks.get(&record.service).and_then(Option::as_ref);
        let condition = condition(&folder, record.replicas, health);
        let last_active = last_active.get(folder.name.as_str()).copied();
        slots.insert(
            folder.name,
            ObservedSlot { service: record.service, run: record.run, condition, last_active },
        );
    }
    let active = active(table, history, state);
    Ok(Observed { generation: table.generation, routes: table.routes.clone(), active, slots })
}

fn condition(folder: &SlotFolder, replicas: u32, health: Option<&HealthCheck>) -> Condition {
    if !folder.is_running() {
        return Condition::Stopped;
    }
    let subjects = folder.subjects();
    // A process without its supervisor serves, but would not come back: as good a reason to replace it as a failed
    // check.
    let is_well =
        |subject: &crate::gate::Subject| subject.replica.is_supervised() && is_healthy(subject, health);
    let all = subjects.len() == replicas as usize && subjects.iter().all(is_well);
    if all { Condition::Serving } else { Condition::Broken }
}

/// One failed answer may be a moment's load: replacing a slot is worth a second question.
fn is_healthy(subject: &crate::gate::Subject, health: Option<&HealthCheck>) -> bool {
    (0..2).any(|_| Answer::is_healthy(&subject.ask(health)))
}
