//! What users see: results on standard output as a table or one JSON document, progress on standard error.

mod attest;
mod base;
mod cache;
pub(crate) mod ci;
mod databases;
mod deploy;
mod deps;
mod github;
mod init;
mod migrations;
mod progress;
mod scan;
mod table;
mod test;
mod transfer;
mod verify;

use std::collections::BTreeMap;
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::path::Path;

use ::build::{Action, BuiltService, Loaded, PlatformsReport, Report};
use ::release::Release;
use anyhow::{Context, Result};
use serde_json::{Value, json};

pub(crate) use attest::{key, verified};
pub(crate) use base::{images, lock_changes, locked};
pub(crate) use cache::{moved as cache_moved, removed as cache_removed, stats as cache_stats};
pub(crate) use databases::{
    BackupRow, PrunedRow, Restoration, VerifiedRow, backup_plan, backups, pruned_backups, restore,
    verified_backups,
};
pub(crate) use deploy::{DeployProgress, aborted, down, down_plan, outcome, preview, status, timeline};
pub(crate) use deps::{deps, deps_check, deps_diff, why};
pub(crate) use github::{github, github_skipped};
pub(crate) use init::init;
pub(crate) use migrations::{migration_rules, migrations};
pub(crate) use progress::Progress;
pub(crate) use scan::{Scanned, ScannedCheck, annotate, plain, scanned};
use table::Table;
pub(crate) use test::{
    TEST_PLAN, TestProgress, github_annotations, github_summary, test_matrix, test_plan, test_plan_document,
    test_plan_summary, test_report,
};
pub(crate) use transfer::{PlannedPush, PushedImage, TransferProgress, pulled, push_plan, pushed};
pub(crate) use verify::{verification, verifications};

/// Prints a plan, and of each action whether its result is there already.
pub(crate) fn plan(loaded: &Loaded, explained: Option<&[Action]>, as_json: bool) -> Result<()> {
    for warning in &loaded.warnings {
        eprintln!("warning: {warning}");
    }
    let plan = &loaded.plan;
    // It explains, and decides nothing here: a machine without a C compiler still has a plan.
    let break_even = loaded.break_even().ok();
    if as_json {
        let mut value = serde_json::to_value(plan)?;
        value["break_even"] = serde_json::to_value(break_even)?;
        if let Some(actions) = explained {
            value["actions"] = serde_json::to_value(actions)?;
        }
        return document("slipway.build-plan/1", value);
    }
    let mut text = cache::lines(explained.unwrap_or_default());
    writeln!(text, "in {}", plan.root.display())?;
    for plan in plan.invocations() {
        for (name, value) in &plan.env {
            match value {
                Some(value) => writeln!(text, "  {name}={}", value.replace('\x1f', " "))?,
                None => writeln!(text, "  unset {name}")?,
            }
        }
        writeln!(text, "  {}", plan.command())?;
    }
    text += &break_even.map(linking).unwrap_or_default();
    for service in &plan.services {
        let (name, path) = (&service.name, service.binary_path.display());
        writeln!(text, "pack {name} on the base {} from {path}", service.base)?;
        for (from, to) in &service.assets {
            writeln!(text, "  copy {} to {to}", from.display())?;
        }
    }
    print(&text)
}

/// The arithmetic behind `base: auto`.
fn linking(even: ::build::BreakEven) -> String {
    let ::build::BreakEven { sizes, services, shared_from } = even;
    let choice = match even.choice() {
        workspace::Linkage::Static => "static",
        workspace::Linkage::Shared => "shared",
    };
    format!(
        "linking {services} services: static {services} x {} = {}, shared {} once; shared is smaller from {shared_from} services on, \
         so `auto` is {choice} here\n",
        bytes(sizes.static_extra),
        bytes(services * sizes.static_extra),
        bytes(sizes.shared),
    )
}

/// Prints the plans of a build for several platforms.
pub(crate) fn plans(plans: &BTreeMap<String, Loaded>, as_json: bool) -> Result<()> {
    if as_json {
        let plans =
            plans.iter().map(|(platform, loaded)| Ok((platform, serde_json::to_value(&loaded.plan)?)));
        let plans = plans.collect::<Result<BTreeMap<_, _>>>()?;
        return document("slipway.build-platforms-plan/1", json!({ "platforms": plans }));
    }
    for (platform, loaded) in plans {
        print(&format!("{platform}:\n"))?;
        plan(loaded, None, false)?;
    }
    print("an index of these under each service's name\n")
}

/// Prints what a build gave.
pub(crate) fn report(report: &Report, signed: &Signed, explain: bool, as_json: bool) -> Result<()> {
    if as_json {
        let mut value = serde_json::to_value(report)?;
        value["signed_by"] = json!(signed.by());
        return document("slipway.build/1", value);
    }
    let mut table = Table::new(["image", "digest", "size", "unpacked", "layers", "seconds"]);
    for service in &report.services {
        table.row([
            service.name.clone(),
            service.image.to_string(),
            bytes(service.size),
            bytes(service.unpacked_size),
            layers(service),
            seconds(service.elapsed_ms),
        ]);
    }
    let took = seconds(report.elapsed_ms);
    let (units, compiled, layout) = (report.units, report.compiled, report.layout.display());
    let summary = match &report.reason {
        None => format!("nothing changed ({took} s)"),
        Some(reason) => {
            format!("{reason}; compiled {compiled} of {units} units; images in {layout} ({took} s)")
        }
    };
    let actions = if explain { cache::actions(report) } else { String::new() };
    print(&format!("{actions}{table}{summary}\n{signed}"))
}

/// Prints what builds for several platforms gave.
pub(crate) fn platforms(report: &PlatformsReport, signed: &Signed, as_json: bool) -> Result<()> {
    if as_json {
        let mut value = serde_json::to_value(report)?;
        value["signed_by"] = json!(signed.by());
        return document("slipway.build-platforms/1", value);
    }
    let mut table = Table::new(["image", "platform", "digest", "size", "unpacked", "layers", "seconds"]);
    for index in &report.indexes {
        let cells = [&index.name, "index", &index.index.to_string(), "", "", "", ""];
        table.row(cells.map(str::to_owned));
        for (platform, report) in &report.platforms {
            for service in report.services.iter().filter(|service| service.name == index.name) {
                table.row([
                    String::new(),
                    platform.clone(),
                    service.image.to_string(),
                    bytes(service.size),
                    bytes(service.unpacked_size),
                    layers(service),
                    seconds(service.elapsed_ms),
                ]);
            }
        }
    }
    let mut text = table.to_string();
    for (platform, report) in &report.platforms {
        let (units, compiled) = (report.units, report.compiled);
        match &report.reason {
            None => writeln!(text, "{platform}: nothing changed")?,
            Some(reason) => writeln!(text, "{platform}: {reason}; compiled {compiled} of {units} units")?,
        }
    }
    print(&format!("{text}({} s)\n{signed}", seconds(report.elapsed_ms)))
}

/// What became of signing.
pub(crate) enum Signed {
    /// By the key that bundles call so.
    By(String),
    /// `signing.key` is configured, and this machine does not have it.
    NoKey,
    /// With `--unsigned`.
    AsAsked,
    /// Nobody asked for signatures: nothing is said of them.
    NotConfigured,
}

impl Signed {
    fn by(&self) -> Option<&str> {
        match self {
            Signed::By(key) => Some(key),
            Signed::NoKey | Signed::AsAsked | Signed::NotConfigured => None,
        }
    }
}

impl fmt::Display for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Signed::By(key) => writeln!(f, "signed by the key {key}"),
            Signed::NoKey => writeln!(f, "unsigned: there is no key (`signing.key` in slipway.yaml)"),
            Signed::AsAsked => writeln!(f, "unsigned, as asked"),
            Signed::NotConfigured => Ok(()),
        }
    }
}

/// Prints a release manifest, and where it was written.
pub(crate) fn release(release: &Release, path: Option<&Path>, as_json: bool) -> Result<()> {
    let id = release.id()?;
    if as_json {
        let path = path.map(|path| path.display().to_string());
        return document("slipway.release-report/1", json!({ "id": id, "path": path, "release": release }));
    }
    let mut table = Table::new(["service", "version", "image", "sbom"]);
    for (name, service) in &release.services {
        table.row([
            name.clone(),
            service.version.clone(),
            service.image.to_string(),
            service.sbom.short().to_string(),
        ]);
    }
    let git = match &release.git {
        Some(git) if git.dirty => format!(" from {} with changes", git.revision),
        Some(git) => format!(" from {}", git.revision),
        None => String::new(),
    };
    let place = path.map(|path| format!(" in {}", path.display())).unwrap_or_default();
    print(&format!("{table}release {}{git}{place}\n", id.short()))
}

fn seconds(milliseconds: u64) -> String {
    format!("{:.2}", milliseconds as f64 / 1000.0)
}

/// Writes results to standard output. A reader that has seen enough (`| head`) is no error, and changes nothing about the exit
/// code: that still says how it went.
pub(crate) fn print(text: &str) -> Result<()> {
    write(text).map(drop)
}

/// Writes a part of what may go on for ever; `false` where nobody reads any more.
pub(crate) fn print_while_read(text: &str) -> Result<bool> {
    write(text)
}

fn write(text: &str) -> Result<bool> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true).context("cannot write to standard output"),
    }
}

fn layers(service: &BuiltService) -> String {
    let reused = service.layers.iter().filter(|layer| layer.reused).count();
    format!("{} new, {reused} reused", service.layers.len() - reused)
}

/// Prints one JSON document; consumers refuse a schema that they do not know.
fn document(schema: &str, mut value: Value) -> Result<()> {
    value["schema"] = json!(schema);
    print(&format!("{}\n", serde_json::to_string_pretty(&value)?))
}

/// A size for people, in powers of 1000 as registries show it.
pub(crate) fn bytes(size: u64) -> String {
    match size {
        0..1_000 => format!("{size} B"),
        1_000..1_000_000 => format!("{:.1} kB", size as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.2} MB", size as f64 / 1e6),
        _ => format!("{:.2} GB", size as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_for_people() {
        assert_eq!(
            [0, 999, 1_000, 999_949, 5_120_000, 10 << 30].map(bytes),
            ["0 B", "999 B", "1.0 kB", "999.9 kB", "5.12 MB", "10.74 GB"]
        );
    }
}
