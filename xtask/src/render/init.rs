//! What `init` found, wrote, and what comes next.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::Result;
use serde_json::json;
use workspace::{Settings, Survey};

use super::table::Table;
use super::{document, print};

/// Prints what was found, and what was `written`, if anything was; else the file's text.
pub(crate) fn init(
    survey: &Survey,
    text: &str,
    written: Option<&Path>,
    tool: &str,
    as_json: bool,
) -> Result<()> {
    let notes = notes(survey, tool);
    let next = next(survey, tool);
    let discovery = &survey.discovery;
    if as_json {
        let content = json!({
            "written": written, "text": text, "services": discovery.services, "left_out": discovery.left_out,
            "declared": discovery.declared, "notes": notes, "next": next,
        });
        return document("slipway.init/1", content);
    }
    for note in &notes {
        eprintln!("note: {note}");
    }
    let Some(path) = written else { return print(text) };
    let mut out = found(survey);
    writeln!(out, "wrote {}", path.display())?;
    writeln!(out, "next: {}", next.join(", then "))?;
    print(&out)
}

fn found(survey: &Survey) -> String {
    let discovery = &survey.discovery;
    if !discovery.declared.is_empty() {
        return format!("services: {} (each has a service.yaml)\n", discovery.declared.join(", "));
    }
    let mut table = Table::new(["service", "binary", "package", "why"]);
    for service in &discovery.services {
        let cells = [&service.service, &service.binary, &service.package, &service.reason];
        table.row(cells.map(Clone::clone));
    }
    for binary in &discovery.left_out {
        table.row([
            "(none)".to_owned(),
            binary.binary.clone(),
            binary.package.clone(),
            binary.reason.clone(),
        ]);
    }
    table.to_string()
}

/// What whoever adopts the workspace should know before the first build.
fn notes(survey: &Survey, tool: &str) -> Vec<String> {
    let mut notes = Vec::new();
    if survey.has_alias && tool == "cargo slipway" {
        notes.push(
            "this workspace has an alias `xtask` of its own: call this program as `cargo slipway`".to_owned(),
        );
    }
    for path in &survey.outside {
        notes.push(format!(
            "{} lies outside the workspace: images hold what is there, and their digests depend on where it lies",
            path.display()
        ));
    }
    for manifest in &survey.nested {
        notes.push(format!("{} is no member of this workspace; it is not built", manifest.display()));
    }
    if survey.has_settings {
        notes.push(format!("there is a {} already", Settings::FILE));
    }
    notes
}

fn next(survey: &Survey, tool: &str) -> Vec<String> {
    let lock = (!survey.has_lock).then(|| "cargo generate-lockfile".to_owned());
    lock.into_iter().chain([format!("{tool} build")]).collect()
}
