//! What is there now: the edge's table, the slots and what runs of them. Nothing is taken from memory that can
//! be looked at; only which slot of a service without a port serves is known from the journal alone.

use std::collections::BTreeMap;

use anyhow::Result;
use edge::control::Table;
use release::HealthCheck;

use crate::journal::History;
use crate::plan::{Condition, Observed, ObservedSlot};
use crate::platform::{Instance, Platform};
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
pub(crate) fn active(
    table: &Table,
    history: &History,
    platform: &dyn Platform,
) -> Result<BTreeMap<String, String>> {
    let mut active: BTreeMap<_, _> =
        table.slots.iter().map(|(name, slot)| (slot.service.clone(), name.clone())).collect();
    for (service, slot) in history.current().iter().flat_map(|current| &current.slots) {
        let Some(description) = platform.describe(slot)? else { continue };
        let is_lost = match active.get(service) {
            Some(routed) if routed == slot => false,
            Some(routed) => !platform.is_running(routed)? && platform.is_running(slot)?,
            None => platform.is_running(slot)?,
        };
        if !description.has_port || is_lost {
            active.insert(service.clone(), slot.clone());
        }
    }
    Ok(active)
}

/// Everything that a plan is made from.
pub(crate) fn observe(
    table: &Table,
    history: &History,
    platform: &dyn Platform,
    checks: &HealthChecks,
) -> Result<Observed> {
    let last_active = history.last_active();
    let mut slots = BTreeMap::new();
    for name in platform.slots()? {
        let Some(description) = platform.describe(&name)? else { continue };
        let health = checks.get(&description.service).and_then(Option::as_ref);
        let condition = condition(platform, &name, description.replicas, health)?;
        let last_active = last_active.get(name.as_str()).copied();
        let slot =
            ObservedSlot { service: description.service, run: description.run, condition, last_active };
        slots.insert(name, slot);
    }
    let active = active(table, history, platform)?;
    Ok(Observed { generation: table.generation, routes: table.routes.clone(), active, slots })
}

fn condition(
    platform: &dyn Platform,
    slot: &str,
    replicas: u32,
    health: Option<&HealthCheck>,
) -> Result<Condition> {
    if !platform.is_running(slot)? {
        return Ok(Condition::Stopped);
    }
    let instances = platform.instances(slot)?;
    // An instance that nobody starts again serves, but would not come back: as good a reason to replace it as a failed
    // check.
    let is_well = |instance: &Instance| instance.is_supervised && is_healthy(instance, health);
    let all = instances.len() == replicas as usize && instances.iter().all(is_well);
    Ok(if all { Condition::Serving } else { Condition::Broken })
}

/// One failed answer may be a moment's load: replacing a slot is worth a second question.
fn is_healthy(instance: &Instance, health: Option<&HealthCheck>) -> bool {
    (0..2).any(|_| instance.ask(health).is_healthy())
}
