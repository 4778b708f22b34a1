//! From whatever a killed deployment left behind to one of two clean states: what served before, or what was switched
//! to. The edge's table says which. Invariant: nothing that the table leads to is ever stopped here, and doing it
//! twice is doing it once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use edge::control::{Slot, Table};

use crate::driver::drain;
use crate::fail_point::FailPoint;
use crate::journal::{Activation, Entry, History, Journal, Open};
use crate::observe;
use crate::operation::{Site, note};
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
    let open = history.open.take();
    let is_switched = open.as_ref().is_some_and(|open| is_switched(open, &table, state));
    if let Some(open) = open.as_ref().filter(|_| is_switched) {
        history.activations.push(Activation::of(&open.plan));
    }
    // Nothing but the switch changes the table, so after one that was recorded any other table is an older one.
    let is_certain = is_switched && open.as_ref().is_some_and(|open| open.switched);
    let expected = history.current().map(|current| table_of(current, table.generation + 1, state));
    if let Some(expected) = expected.filter(|expected| is_lost(&table, expected, is_certain, &runs(state))) {
        note(site, "the edge had lost its routing table: restored it from the journal");
        client.apply(&expected)?;
        table = expected;
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

/// Whether the interrupted plan was switched to. Its table in force says so; so does its journal, unless the edge, which
/// lost that table since, serves with another one.
fn is_switched(open: &Open, table: &Table, state: &StateFolder) -> bool {
    let runs = runs(state);
    let after = table_of(&Activation::of(&open.plan), table.generation, state);
    let is_in_force = is_alike(table, &after);
    if open.switched {
        let is_whole = |table: &Table| !table.slots.is_empty() && table.slots.keys().all(|slot| runs(slot));
        return is_in_force || is_whole(&after) || !is_whole(table);
    }
    // With services without a port only, both tables are alike; then the generation alone tells.
    is_in_force && table.generation > open.plan.edge_generation
}

/// Whether `table` is an older one than `expected`, which is what the journal says: it leads to something that does not
/// run, while all that `expected` leads to does.
fn is_lost(table: &Table, expected: &Table, is_certain: bool, runs: &dyn Fn(&str) -> bool) -> bool {
    let leads_nowhere = table.slots.is_empty() || table.slots.keys().any(|slot| !runs(slot));
    let serves = |(name, slot): (&String, &Slot)| !slot.upstreams.is_empty() && runs(name);
    let is_whole = !expected.slots.is_empty() && expected.slots.iter().all(serves);
    is_whole && !is_alike(table, expected) && (leads_nowhere || is_certain)
}

fn is_alike(table: &Table, other: &Table) -> bool {
    table.routes == other.routes && table.slots.keys().eq(other.slots.keys())
}

/// The table that leads to what was active.
fn table_of(active: &Activation, generation: u64, state: &StateFolder) -> Table {
    let mut slots = BTreeMap::new();
    for (service, name) in &active.slots {
        let folder = SlotFolder::new(state, name);
        if folder.record().is_some_and(|record| record.has_port) {
            slots.insert(name.clone(), Slot { service: service.clone(), upstreams: folder.upstreams() });
        }
    }
    Table { generation, routes: active.routes.clone(), slots, ..Table::default() }
}

fn runs(state: &StateFolder) -> impl Fn(&str) -> bool {
    |slot| SlotFolder::new(state, slot).is_running()
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

#[cfg(test)]
mod tests {
    use super::*;

    fn table(slots: &[&str]) -> Table {
        let slot = |name: &&str| {
            let slot =
                Slot { service: name[..1].to_owned(), upstreams: vec!["127.0.0.1:1".parse().unwrap()] };
            ((*name).to_owned(), slot)
        };
        let slots = slots.iter().map(slot).collect();
        Table { generation: 1, slots, ..Table::default() }
    }

    #[test]
    fn a_table_is_lost_when_it_leads_nowhere_and_what_the_journal_knows_runs() {
        let check = |present: &[&str], expected: &[&str], running: &[&str], is_certain, is_lost_then| {
            let runs = |slot: &str| running.contains(&slot);
            let found = is_lost(&table(present), &table(expected), is_certain, &runs);
            assert_eq!(found, is_lost_then, "{present:?} {expected:?} {running:?} {is_certain}");
        };
        check(&["a2", "b1"], &["a2", "b1"], &["a2", "b1"], false, false);
        check(&[], &["a2", "b1"], &["a2", "b1"], false, true);
        // An older table, of which a part still runs.
        check(&["a1", "b1"], &["a2", "b1"], &["a2", "b1"], false, true);
        check(&["a1", "b1"], &["a2", "b1"], &["b1"], false, false);
        // A switch that no record tells of: the table goes before the journal.
        check(&["a2"], &["a1"], &["a1", "a2"], false, false);
        // A switch that was recorded, and the old slots were not stopped yet.
        check(&["a1"], &["a2"], &["a1", "a2"], true, true);
        check(&["a1"], &["a2"], &["a1"], true, false);
        check(&[], &[], &[], true, false);
    }
}
