//! From whatever a killed deployment left behind to one of two clean states: what served before, or what was switched
//! to. The edge's table says which. Invariant: nothing that the table leads to is ever stopped here, and doing it
//! twice is doing it once.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Result, bail};
use edge::client::{Client, Error as ClientError};
use edge::control::{Refusal, Slot, Table};

use crate::driver::drain;
use crate::fail_point::FailPoint;
use crate::journal::{Activation, Entry, History, Journal, Open};
use crate::observe;
use crate::operation::{Site, note};
use crate::outcome::Error;
use crate::platform::{self, Platform};
use crate::state::{StateFolder, unix_ms};

/// How often the edge's table may change under whoever takes a deployment up.
const TAKE_UP_ATTEMPTS: u32 = 5;

/// Clears up after an operation that did not end, and returns the table in force after that.
pub(crate) fn recover(
    site: &Site<'_>,
    state: &StateFolder,
    platform: &dyn Platform,
    journal: &mut Journal,
    history: &mut History,
    drain_timeout: Duration,
) -> Result<Table> {
    let fail_point = FailPoint::from_env();
    fail_point.pass("recover", "before-intent");
    let client = crate::edge_process::client(state);
    let mut table = client.observe()?.table;
    let running = platform::running(platform)?;
    let runs = |slot: &str| running.contains(slot);
    let open = history.open.take();
    let is_switched = match &open {
        Some(open) => {
            let judge = |table: &Table| {
                let after = table_of(&Activation::of(&open.plan), table.generation, platform)?;
                Ok(is_switched(open, table, &after, &runs))
            };
            take_up(open.judged, &judge, &client, &mut table, journal)?
        }
        None => false,
    };
    if let Some(open) = open.as_ref().filter(|_| is_switched) {
        history.activations.push(Activation::of(&open.plan));
    }
    // Nothing but the switch changes the table, so after one that was recorded any other table is an older one.
    let is_certain = is_switched && open.as_ref().is_some_and(|open| open.switched);
    let expected = history.current().map(|current| table_of(current, table.generation + 1, platform));
    let expected = expected.transpose()?;
    if let Some(expected) = expected.filter(|expected| is_lost(&table, expected, is_certain, &runs)) {
        note(site, "the edge had lost its routing table: restored it from the journal");
        client.apply(&expected)?;
        table = expected;
    }
    fail_point.pass("recover", "after-intent");
    clear(site, &client, platform, &table, history, drain_timeout)?;
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

/// Bars whoever began the deployment and may still be on the way: an order of theirs to the edge is stale from now on.
/// Says whether the deployment had switched, as the first one found that took it up. What was found goes into the journal
/// first: the generation, which tells of a switch as well, says nothing after.
fn take_up(
    judged: Option<bool>,
    judge: &dyn Fn(&Table) -> Result<bool>,
    client: &Client,
    table: &mut Table,
    journal: &mut Journal,
) -> Result<bool> {
    let mut switched = judged.map_or_else(|| judge(table), Ok)?;
    let mut is_written = judged.is_some();
    for _ in 0..TAKE_UP_ATTEMPTS {
        if !is_written {
            journal.append(Entry::Judged { switched })?;
        }
        let barred = Table { generation: table.generation + 1, ..table.clone() };
        match client.apply(&barred) {
            Ok(_) => {
                *table = barred;
                return Ok(switched);
            }
            // Their last order came in between: what it did counts.
            Err(ClientError::Refused { reason: Refusal::StaleGeneration, .. }) => {
                *table = client.observe()?.table;
                (switched, is_written) = (judge(table)?, false);
            }
            Err(error) => return Err(error.into()),
        }
    }
    bail!("the edge's table changes again and again: somebody else still works on the environment")
}

/// Whether the interrupted plan was switched to. Its table in force says so; so does its journal, unless the edge, which
/// lost that table since, serves with another one.
fn is_switched(open: &Open, table: &Table, after: &Table, runs: &dyn Fn(&str) -> bool) -> bool {
    let is_in_force = is_alike(table, after);
    if open.switched {
        let is_whole = |table: &Table| !table.slots.is_empty() && table.slots.keys().all(|slot| runs(slot));
        return is_in_force || is_whole(after) || !is_whole(table);
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
fn table_of(active: &Activation, generation: u64, platform: &dyn Platform) -> Result<Table> {
    let mut slots = BTreeMap::new();
    for (service, name) in &active.slots {
        if platform.describe(name)?.is_some_and(|description| description.has_port) {
            let upstreams = platform::upstreams(platform, name)?;
            slots.insert(name.clone(), Slot { service: service.clone(), upstreams });
        }
    }
    Ok(Table { generation, routes: active.routes.clone(), slots, ..Table::default() })
}

/// Stops what runs and does not serve, and removes what never served.
fn clear(
    site: &Site<'_>,
    client: &Client,
    platform: &dyn Platform,
    table: &Table,
    history: &History,
    drain_timeout: Duration,
) -> Result<()> {
    let active: BTreeSet<_> = observe::active(table, history, platform)?.into_values().collect();
    let once_active = history.last_active();
    for slot in platform.slots()?.into_iter().filter(|slot| !active.contains(slot)) {
        if platform.is_running(&slot)? {
            note(site, &format!("stopping {slot}, which runs and does not serve"));
            if let Some(rest) = drain(client, &slot, drain_timeout)? {
                note(site, &rest);
            }
            platform.stop(&slot)?;
        }
        if platform.describe(&slot)?.is_none() || !once_active.contains_key(slot.as_str()) {
            platform.remove(&slot)?;
        }
    }
    // What is left then does no harm, and is no reason to refuse a deployment.
    if let Err(error) = platform.tidy() {
        note(site, &format!("could not tidy up: {error:#}"));
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
    let active = visible(state, &*platform::open(state)?)?;
    let aside = state.root().join(format!("journal-damaged-{}.jsonl", unix_ms()));
    std::fs::rename(state.journal(), &aside).map_err(anyhow::Error::from)?;
    let (mut journal, _) = Journal::open(&state.journal())?;
    journal.append(Entry::Repaired { active })?;
    note(site, &format!("{damage}; moved it to {} and began a new one", aside.display()));
    Ok(true)
}

/// What serves, without the journal: the edge's table, and what runs of the services that are not in it.
fn visible(state: &StateFolder, platform: &dyn Platform) -> Result<Activation> {
    let mut active = Activation::default();
    if let Some(observed) = crate::edge_process::observe(state)? {
        active.slots = observed.table.slots.into_iter().map(|(name, slot)| (slot.service, name)).collect();
        active.routes = observed.table.routes;
    }
    for slot in platform::running(platform)? {
        if let Some(description) = platform.describe(&slot)? {
            active.slots.entry(description.service).or_insert(slot);
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
