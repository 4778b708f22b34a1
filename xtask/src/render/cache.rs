//! What was reused and what is kept, in words.

use std::collections::BTreeMap;

use ::build::{Action, Moved, Outcome, Report, Stores};
use ::cache::Usage;
use anyhow::Result;
use serde_json::json;

use super::table::Table;
use super::{bytes, document, print};

/// What this machine's store holds.
pub(crate) fn stats(stores: &Stores, usage: &[Usage], as_json: bool) -> Result<()> {
    let total: u64 = usage.iter().map(|entry| entry.bytes).sum();
    let folder = stores.local.root();
    if as_json {
        let value =
            json!({ "folder": folder, "limit_bytes": stores.limit, "bytes": total, "entries": usage });
        return document("slipway.cache-stats/1", value);
    }
    let mut kinds: BTreeMap<_, (usize, u64)> = BTreeMap::new();
    for entry in usage {
        let sums = kinds.entry(entry.kind).or_default();
        *sums = (sums.0 + 1, sums.1 + entry.bytes);
    }
    let mut table = Table::new(["what", "entries", "size"]);
    for (kind, (count, size)) in kinds {
        table.row([kind.word().to_owned(), count.to_string(), bytes(size)]);
    }
    print(&format!("{table}{} of {} in {}\n", bytes(total), bytes(stores.limit), folder.display()))
}

/// What was removed from this machine's store, or would be.
pub(crate) fn removed(removed: &[Usage], dry_run: bool, as_json: bool) -> Result<()> {
    let total: u64 = removed.iter().map(|entry| entry.bytes).sum();
    if as_json {
        return document("slipway.cache-gc/1", json!({ "bytes": total, "entries": removed }));
    }
    let mut table = Table::new(["entry", "size", "idle"]);
    for entry in removed {
        table.row([entry.key.clone(), bytes(entry.bytes), format!("{} h", entry.idle_s / 3600)]);
    }
    if removed.is_empty() {
        return print("nothing to remove: the store is within its limit\n");
    }
    let verb = if dry_run { "would be removed" } else { "removed" };
    print(&format!("{table}{} entries, {} {verb}\n", removed.len(), bytes(total)))
}

/// What was moved between stores, or would be.
pub(crate) fn moved(moved: &[Moved], as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.cache-transfer/1", json!({ "entries": moved }));
    }
    let mut table = Table::new(["result of", "found in", "sent to", "size"]);
    for entry in moved {
        let name = |store: &Option<String>| store.clone().unwrap_or_else(|| "-".to_owned());
        table.row([entry.entry.clone(), name(&entry.from), name(&entry.to), bytes(entry.bytes)]);
    }
    print(&table.to_string())
}

/// One line for each action of a build.
pub(crate) fn actions(report: &Report) -> String {
    if report.actions.is_empty() {
        return "all actions: hit (this workspace, nothing changed)\n".to_owned();
    }
    lines(&report.actions)
}

/// One line for each action.
pub(crate) fn lines(actions: &[Action]) -> String {
    actions.iter().map(|action| line(action) + "\n").collect()
}

fn line(action: &Action) -> String {
    let Action { action, outcome, from, reason } = action;
    match (outcome, from, reason) {
        (Outcome::Hit, Some(from), _) => format!("{action}: hit ({from})"),
        (Outcome::Hit, None, Some(reason)) => format!("{action}: hit (this workspace, {reason})"),
        (Outcome::Hit, None, None) => format!("{action}: hit (this workspace)"),
        (Outcome::Miss, _, reason) => {
            format!("{action}: miss, {}", reason.as_deref().unwrap_or("nothing is known of an earlier build"))
        }
    }
}
