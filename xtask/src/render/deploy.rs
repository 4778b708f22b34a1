//! What deploying shows: plans, progress, outcomes and the state of an environment.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{IsTerminal, stderr};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use deploy::{
    Aborted, Action, Audit, Condition, Difference, Down, Evidence, Files, Outcome, Plan, Preview,
    ProcessStatus, Progress, Role, SlotStatus, Status,
};
use edge::control::Route;
use indicatif::ProgressBar;
use serde_json::json;
use stdx::Digest;

use super::table::Table;
use super::{document, print};

/// Progress of a deployment on standard error: a line for each step that is done, and on a terminal what is going on.
pub(crate) struct DeployProgress {
    bar: Option<ProgressBar>,
}

impl DeployProgress {
    /// A spinner where standard error is a terminal.
    pub(crate) fn new() -> DeployProgress {
        let bar = stderr().is_terminal().then(ProgressBar::new_spinner);
        if let Some(bar) = &bar {
            bar.enable_steady_tick(Duration::from_millis(120));
        }
        DeployProgress { bar }
    }

    /// Takes the spinner away.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Shows one event.
    pub(crate) fn show(&self, event: Progress<'_>) {
        match event {
            Progress::StepStarted { step } => {
                if let Some(bar) = &self.bar {
                    bar.set_message(step.to_string());
                }
            }
            Progress::StepDone { step, elapsed } => {
                self.line(&format!("{step} ({} ms)", elapsed.as_millis()))
            }
            Progress::StepFailed { step, .. } => self.line(&format!("{step} failed")),
            Progress::Note { text } => self.line(text),
            _ => {}
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            None => eprintln!("{text}"),
        }
    }
}

/// Prints what a deployment would do, and how that differs from what runs.
pub(crate) fn preview(preview: &Preview, as_json: bool) -> Result<()> {
    let plan = &preview.plan;
    if as_json {
        let mut value = serde_json::to_value(plan)?;
        value["differences"] = serde_json::to_value(&preview.differences)?;
        return document("slipway.deploy-plan/1", value);
    }
    let mut text = actions(plan);
    for (service, difference) in &preview.differences {
        for line in differences(difference) {
            writeln!(text, "{service}: {line}")?;
        }
    }
    if plan.routes_before == plan.routes_after {
        writeln!(text, "routes stay as they are")?;
    }
    for route in plan.routes_before.iter().filter(|route| !plan.routes_after.contains(route)) {
        writeln!(text, "- {}", describe(route))?;
    }
    for route in plan.routes_after.iter().filter(|route| !plan.routes_before.contains(route)) {
        writeln!(text, "+ {}", describe(route))?;
    }
    print(&text)
}

/// A line for each thing that would change; names of variables, never values.
fn differences(difference: &Difference) -> Vec<String> {
    let mut lines = Vec::new();
    let short =
        |digest: &Option<Digest>| digest.map_or_else(|| "nothing".to_owned(), |digest| digest.short());
    if let Some((before, after)) = &difference.image {
        lines.push(format!("image {} becomes {}", short(before), short(after)));
    }
    if let Some((before, after)) = difference.replicas {
        lines.push(format!("{before} replicas become {after}"));
    }
    let mut variables = |what: &str, names: &BTreeSet<String>| {
        if !names.is_empty() {
            let names = names.iter().cloned().collect::<Vec<_>>().join(", ");
            lines.push(format!("{what} {names}"));
        }
    };
    variables("sets", &difference.variables_added);
    variables("no longer sets", &difference.variables_removed);
    variables("changes the value of", &difference.variables_changed);
    if difference.otherwise_changed {
        lines.push("a secret, a bound, a volume or how it is stopped changes".to_owned());
    }
    if let Some(condition @ (Condition::Broken | Condition::Stopped)) = difference.condition {
        lines.push(format!("what serves is {}", condition_name(condition)));
    }
    lines
}

fn condition_name(condition: Condition) -> &'static str {
    match condition {
        Condition::Serving => "serving",
        Condition::Broken => "broken",
        Condition::Stopped => "stopped",
    }
}

fn actions(plan: &Plan) -> String {
    let mut table = Table::new(["service", "action", "slot", "stops"]);
    for (service, service_plan) in &plan.services {
        let (action, slot) = match &service_plan.action {
            Action::Keep { slot } => ("keep", slot.as_str()),
            Action::Start { slot, files: Files::Unpack } => ("start", slot.as_str()),
            Action::Start { slot, files: Files::Retained } => ("start again", slot.as_str()),
            Action::Remove => ("remove", ""),
        };
        let stops = service_plan.stop.clone().unwrap_or_default();
        table.row([service.clone(), action.to_owned(), slot.to_owned(), stops]);
    }
    table.to_string()
}

fn describe(route: &Route) -> String {
    let strip = if route.strip_prefix { ", prefix removed" } else { "" };
    format!("{}{} to {}{strip}", route.host.as_deref().unwrap_or("*"), route.path_prefix, route.slot)
}

/// Prints how a deployment or rollback ended.
pub(crate) fn outcome(outcome: &Outcome, state: &Path, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.deploy/1", serde_json::to_value(outcome)?);
    }
    match outcome {
        Outcome::NothingToDo { plan } => {
            let text = format!("nothing to do: the environment {} runs this release\n", plan.environment);
            print(&(text + &urls(state)?))
        }
        Outcome::Deployed { plan, unfinished } => {
            report_evidence("after the switch, without harm to what serves:", unfinished);
            print(&(actions(plan) + &urls(state)?))
        }
        Outcome::RolledBack { evidence, left_behind, .. } => {
            eprintln!("{evidence}");
            report_evidence("could not be cleared away; the next deployment does it:", left_behind);
            Ok(())
        }
        Outcome::Interrupted { left_behind, .. } => {
            report_evidence("could not be cleared away; the next deployment does it:", left_behind);
            Ok(())
        }
        Outcome::NeedsHuman { evidence, .. } => {
            eprintln!("{evidence}");
            Ok(())
        }
    }
}

fn report_evidence(heading: &str, all: &[Evidence]) {
    if !all.is_empty() {
        eprintln!("{heading}");
    }
    for evidence in all {
        eprintln!("  {evidence}");
    }
}

/// Where the services answer, a line each.
fn urls(state: &Path) -> Result<String> {
    let Some(edge) = deploy::status(state)?.edge else { return Ok(String::new()) };
    let url = |route: &Route| {
        let host = route.host.clone().unwrap_or_else(|| edge.listen.ip().to_string());
        format!("http://{host}:{}{}  {}\n", edge.listen.port(), route.path_prefix, route.slot)
    };
    if edge.routes.is_empty() {
        return Ok(
            "no URL: no service has a route (`http.port` in its service.yaml gives it one)\n".to_owned()
        );
    }
    Ok(edge.routes.iter().map(url).collect())
}

/// Prints the state of an environment.
pub(crate) fn status(status: &Status, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.status/1", serde_json::to_value(status)?);
    }
    let mut text = String::new();
    match &status.edge {
        None => writeln!(text, "no edge answers")?,
        Some(edge) => {
            writeln!(text, "edge {} on {}, table {}", edge.pid, edge.listen, edge.generation)?;
            for route in &edge.routes {
                writeln!(text, "  {}", describe(route))?;
            }
        }
    }
    let mut table =
        Table::new(["service", "slot", "role", "condition", "health", "restarts", "requests", "in flight"]);
    for (service, slots) in &status.services {
        for slot in slots {
            table.row(slot_row(service, slot));
        }
    }
    write!(text, "{table}")?;
    if let Some(holder) = &status.locked_by {
        writeln!(text, "locked by {holder}")?;
    }
    for trouble in &status.trouble {
        writeln!(text, "trouble: {trouble}")?;
    }
    print(&text)
}

fn slot_row(service: &str, slot: &SlotStatus) -> [String; 8] {
    let role = match slot.role {
        Role::Active => "active",
        Role::Retained => "kept for rollback",
        Role::Leftover => "left over",
    };
    let health = |process: &ProcessStatus| {
        if process.health.is_healthy() {
            "healthy".to_owned()
        } else {
            shortened(&process.health.to_string())
        }
    };
    let asked = slot.processes.iter().filter(|_| slot.condition != Condition::Stopped);
    let health = asked.map(health).collect::<Vec<_>>().join(", ");
    let restarts: u32 = slot.processes.iter().map(|process| process.restarts).sum();
    let counter = |pick: fn(&edge::control::SlotCounters) -> u64| {
        slot.counters.as_ref().map(|counters| pick(counters).to_string()).unwrap_or_default()
    };
    [
        service.to_owned(),
        slot.slot.clone(),
        role.to_owned(),
        condition_name(slot.condition).to_owned(),
        health,
        restarts.to_string(),
        counter(|counters| counters.requests),
        counter(|counters| counters.in_flight),
    ]
}

/// As much of an answer as fits into a table; `--json` has all of it.
fn shortened(text: &str) -> String {
    const MOST: usize = 60;
    if text.chars().count() <= MOST {
        text.to_owned()
    } else {
        text.chars().take(MOST).chain(['…']).collect()
    }
}

/// Prints who did what, oldest first.
pub(crate) fn timeline(audit: &Audit, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.timeline/1", json!(audit));
    }
    let mut table = Table::new(["when", "who", "what", "how it ended", "took", "release", "commit"]);
    for record in &audit.records {
        let event = &record.event;
        let detail = event.detail.as_ref().map(|detail| format!(": {}", shortened(detail)));
        let seconds = i64::try_from(record.unix_ms / 1000).unwrap_or(i64::MAX);
        table.row([
            stdx::time::rfc3339(seconds),
            event.who.clone(),
            event.operation.clone(),
            format!("{}{}", event.outcome, detail.unwrap_or_default()),
            format!("{}.{} s", event.took_ms / 1000, event.took_ms % 1000 / 100),
            event.release.map(|release| release.short()).unwrap_or_default(),
            event.commit.as_deref().map(|commit| commit.chars().take(12).collect()).unwrap_or_default(),
        ]);
    }
    let head = audit.head.map_or_else(|| "nothing was done yet".to_owned(), |head| format!("{head}"));
    print(&format!("{table}{} records, the last one {head}\n", audit.records.len()))
}

/// Prints what became of an interrupted deployment.
pub(crate) fn aborted(aborted: &Aborted, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.abort/1", json!(aborted));
    }
    let end = if aborted.switched {
        "it had switched: its release serves, and what served before was stopped; `cargo xtask rollback` goes back"
    } else {
        "it had not switched: what it began was cleared away, and what served before serves on"
    };
    print(&format!("interrupted at {}; {end}\n", aborted.interrupted_at))
}

/// Prints what would be stopped.
pub(crate) fn down_plan(down: &Down, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.down-plan/1", json!(down));
    }
    let mut text = String::new();
    writeln!(text, "{}", if down.edge_stopped { "would stop the edge" } else { "no edge is running" })?;
    for slot in &down.stopped {
        writeln!(text, "would stop {slot}")?;
    }
    for volume in &down.volumes_removed {
        writeln!(text, "would delete the data of {volume}")?;
    }
    print(&text)
}

/// Prints what was stopped.
pub(crate) fn down(down: &Down, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.down/1", json!(down));
    }
    let mut text = String::new();
    writeln!(text, "{}", if down.edge_stopped { "stopped the edge" } else { "no edge was running" })?;
    for slot in &down.stopped {
        writeln!(text, "stopped {slot}")?;
    }
    for volume in &down.volumes_removed {
        writeln!(text, "deleted the data of {volume}")?;
    }
    print(&text)
}
