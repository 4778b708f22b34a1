//! From whatever a killed deployment left behind to one of two clean states: what served before, or what was switched
//! to. The edge's table says which. Invariant: nothing that the table leads to is ever stopped here, and doing it
//! twice is doing it once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use edge::control::{SCHEMA, Slot, Table};

use crate::driver::drain;
use crate::fail_point::FailPoint;
use crate::journal::{Activation, Entry, History, Journal, Open};
use crate::observe;
use crate::operation::{Progress, Site};
use crate::outcome::Error;
use crate::slot::SlotFolder;
use crate::state::{StateFolder, unix_ms};

/// Clears up after an operation that did not end, and returns the table in force after that.
pub(crate) fn recover(
    site: &Site<'_>,
    state: &StateFolder,
    journal: &mut Journal,
    history: &mut History,
    drain_timeout: Duration,
) -> Result<Table> {
    let fail_point = FailPoint::from_env();
    fail_point.pass("recover", "before-intent");
    let client = crate::edge_process::client(state);
    let mut table = client.observe()?.table;
    if let Some(restored) = lost_table(&table, history, state) {
        note(site, "the edge had lost its routing table: restored it from the journal");
        client.apply(&restored)?;
        table = restored;
    }
    let open = history.open.take();
    let is_switched = open.as_ref().is_some_and(|open| is_switched(open, &table, state));
    if let Some(open) = open.as_ref().filter(|_| is_switched) {
        history.activations.push(Activation::of(&open.plan));
    }
    fail_point.pass("recover", "after-intent");
    clear(site, state, &table, history, drain_timeout)?;
    fail_point.pass("recover", "after-effect");
    if let Some(open) = open {
        let outcome = if is_switched { "finished by recovery" } else { "undone by recovery" };
        note(site, &format!("an earlier deployment was interrupted at {}: {outcome}", open.last));
        journal.append(Entry::End {
            outcome: outcome.to_owned(),
            active: is_switched.then(|| Activation::of(&open.plan)),
        })?;
    }
    fail_point.pass("recover", "after-done");
    Ok(table)
}

/// Whether the table of the interrupted plan is in force.
fn is_switched(open: &Open, table: &Table, state: &StateFolder) -> bool {
    let after = open.plan.active_after();
    let with_port =
        |slot: &&String| SlotFolder::new(state, slot).record().is_some_and(|record| record.has_port);
    let expected: BTreeSet<_> = after.values().filter(with_port).collect();
    let is_in_force =
        table.routes == open.plan.routes_after && table.slots.keys().collect::<BTreeSet<_>>() == expected;
    // With services without a port only, both tables are alike; then the generation alone tells.
    open.switched || (is_in_force && table.generation > open.plan.edge_generation)
}

/// The table to put in force when the edge's own leads to nothing that runs, and what served last by the journal does
/// run.
fn lost_table(table: &Table, history: &History, state: &StateFolder) -> Option<Table> {
    let current = history.current()?;
    let runs = |slot: &String| SlotFolder::new(state, slot).is_running();
    let mut slots = BTreeMap::new();
    for (service, name) in &current.slots {
        let upstreams = SlotFolder::new(state, name).upstreams();
        if !upstreams.is_empty() {
            slots.insert(name.clone(), Slot { service: service.clone(), upstreams });
        }
    }
    let is_lost = !slots.is_empty() && !table.slots.keys().any(runs) && slots.keys().all(runs);
    is_lost.then(|| Table {
        schema: SCHEMA.to_owned(),
        generation: table.generation + 1,
        routes: current.routes.clone(),
        slots,
    })
}

/// Stops what runs and does not serve, and removes what never served.
fn clear(
    site: &Site<'_>,
    state: &StateFolder,
    table: &Table,
    history: &History,
    drain_timeout: Duration,
) -> Result<()> {
    let active: BTreeSet<_> = observe::active(table, history, state).into_values().collect();
    let client = crate::edge_process::client(state);
    let once_active = history.last_active();
    for folder in SlotFolder::all(state)?.into_iter().filter(|folder| !active.contains(&folder.name)) {
        if folder.is_running() {
            note(site, &format!("stopping {}, which runs and does not serve", folder.name));
            if let Some(rest) = drain(&client, &folder.name, drain_timeout)? {
                note(site, &rest);
            }
            folder.stop()?;
        }
        if folder.record().is_none() || !once_active.contains_key(folder.name.as_str()) {
            folder.remove()?;
        }
    }
    Ok(())
}

/// Moves a damaged journal aside and begins a new one with what serves, as it can be seen. Returns whether that was
/// needed.
///
/// # Errors
/// When the journal or the slots cannot be read or written.
pub(crate) fn repair(site: &Site<'_>, state: &StateFolder) -> Result<bool, Error> {
    let damage = match History::load(&state.journal()) {
        Ok(_) => return Ok(false),
        Err(error @ Error::JournalDamaged { .. }) => error,
        Err(error) => return Err(error),
    };
    let active = visible(state)?;
    let aside = state.root().join(format!("journal-damaged-{}.jsonl", unix_ms()));
    std::fs::rename(state.journal(), &aside).map_err(anyhow::Error::from)?;
    let (mut journal, _) = Journal::open(&state.journal())?;
    journal.append(Entry::Repaired { active })?;
    note(site, &format!("{damage}; moved it to {} and began a new one", aside.display()));
    Ok(true)
}

/// What serves, without the journal: the edge's table, and what runs of the services that are not in it.
fn visible(state: &StateFolder) -> Result<Activation> {
    let mut active = Activation::default();
    if let Some(observed) = crate::edge_process::observe(state)? {
        active.slots = observed.table.slots.into_iter().map(|(name, slot)| (slot.service, name)).collect();
        active.routes = observed.table.routes;
    }
    for folder in SlotFolder::all(state)? {
        if let Some(record) = folder.record().filter(|_| folder.is_running()) {
            active.slots.entry(record.service).or_insert(folder.name);
        }
    }
    Ok(active)
}

fn note(site: &Site<'_>, text: &str) {
    (site.report)(Progress::Note { text });
}
