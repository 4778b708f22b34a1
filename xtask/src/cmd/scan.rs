//! `cargo xtask scan`: load, run, judge, report.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use anyhow::{Result, anyhow};
use deploy::EnvironmentFile;
use finding::{Check, Finding, Judged, Place, Policy, Record, Sarif, Waivers};
use release::Release;
use scan::{Context, Options, Package};
use workspace::ServiceConfig;

use checks::{Images, Subject};

use super::admission;
use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, Scanned, ScannedCheck};

pub(crate) fn run(flags: &flags::Scan) -> Result<()> {
    let started = Instant::now();
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let options = Options { offline: flags.offline, history: flags.history, now: jiff::Timestamp::now() };
    let context = Context::open(root, options).or_exit(Code::Configuration)?;
    let settings = &context.settings.scan;
    let waivers = Waivers::load(&context.root, &settings.waivers, options.today(), settings.max_waiver_days)
        .or_exit(Code::Configuration)?;
    let policy = policy(flags, &context).or_exit(Code::Configuration)?;
    let release = flags.release.as_deref().map(Release::load).transpose().or_exit(Code::Configuration)?;
    let stop = super::interruption()?;
    let images = Images::find(&context.root, release.as_ref()).or_exit(Code::Configuration)?;
    let subject = Subject { context: &context, release: release.as_ref(), images, stop: &stop };
    let (findings, checks) = checks::run_all(&subject, &flags.checks);
    if stop.load(Ordering::SeqCst) {
        return Err(anyhow!("interrupted")).or_exit(Code::Interrupted);
    }
    // What was found is shown even where a file of it cannot be written.
    let notices = flags.notices.as_deref().map(|path| write_notices(path, &context)).transpose();
    let services = service_files(&context, &findings);
    let packages = if flags.json { packages(&context, &checks) } else { vec![] };
    let root = context.root.clone();
    let (warnings, incomplete) = context.finish();
    let judged = waivers.apply(findings, options.today(), &complete(&checks, &incomplete, flags));
    let sarif = flags.sarif.as_deref().map(|path| write_sarif(path, &judged, &services)).transpose();
    let record = release.map(|release| record(&root, &release, flags, options, &checks, &judged)).transpose();
    let (record, unrecorded) = match record {
        Ok(record) => (record, Ok(())),
        Err(error) => (None, Err(error)),
    };
    let scanned = Scanned { judged, policy, checks, warnings, packages, record, started };
    render::scanned(&scanned, flags.json)?;
    render::annotate(&scanned, &services)?;
    unrecorded.and(sarif.map(drop)).and(notices.map(drop)).or_exit(Code::Configuration)?;
    finish(&scanned)
}

/// What the services are made of, where a check that succeeded asked Cargo for it anyway.
fn packages(context: &Context, checks: &[ScannedCheck]) -> Vec<Package> {
    let asks = |check: &ScannedCheck| matches!(check.check, Check::Advisories | Check::Licences);
    let is_known = checks.iter().any(|check| asks(check) && check.error.is_none());
    is_known.then(|| context.graph().ok()).flatten().map(|graph| graph.packages.clone()).unwrap_or_default()
}

/// Writes what deployments of the release go by, and says where.
fn record(
    root: &Path,
    release: &Release,
    flags: &flags::Scan,
    options: Options,
    checks: &[ScannedCheck],
    judged: &Judged,
) -> Result<PathBuf> {
    let id = release.id()?;
    let path = match &flags.record {
        Some(path) => path.clone(),
        None => admission::record_path(root, &id)?,
    };
    let ran = checks.iter().filter(|check| check.error.is_none()).map(|check| check.check).collect();
    Record::new(id, options.now, ran, judged).write(&path)?;
    Ok(path)
}

/// The thresholds: the defaults, what `slipway.yaml` changes, what it changes for the environment, or the one flag.
fn policy(flags: &flags::Scan, context: &Context) -> Result<Policy> {
    if let Some(severity) = flags.fail_on {
        return Ok(Policy::at(severity));
    }
    let policy = Policy::default().with(&context.settings.scan.fail_on);
    match &flags.environment {
        None => Ok(policy),
        Some(name) => {
            let file = EnvironmentFile::load(&context.root.join("deploy/environments"), name)?;
            Ok(policy.with(&file.environment.scan.fail_on))
        }
    }
}

/// The checks of which a waiver that covered nothing is known to be of no use. Secrets are also in commits and in images; and
/// of a release its packages are elsewhere, and less is asked about them, than in the workspace.
fn complete(checks: &[ScannedCheck], incomplete: &BTreeSet<Check>, flags: &flags::Scan) -> BTreeSet<Check> {
    let ran = checks.iter().filter(|check| check.error.is_none()).map(|check| check.check);
    let is_whole = |check: &Check| match check {
        Check::Secrets => flags.history,
        Check::Advisories | Check::Licences => flags.release.is_none(),
        _ => true,
    };
    ran.filter(|check| !incomplete.contains(check) && is_whole(check)).collect()
}

/// The file that stands for each service's image, where any finding is in an image.
fn service_files(context: &Context, findings: &[Finding]) -> BTreeMap<String, String> {
    let has_image = findings.iter().any(|finding| matches!(finding.place, Place::Image { .. }));
    let Some(graph) = has_image.then(|| context.graph().ok()).flatten() else { return BTreeMap::new() };
    let file = |folder: &Path| {
        let names = [ServiceConfig::FILE, "Cargo.toml"];
        let path = names.into_iter().map(|name| folder.join(name)).find(|path| path.is_file())?;
        Some(path.strip_prefix(&context.root).ok()?.to_string_lossy().into_owned())
    };
    let services = graph.workspace.services.iter();
    services.filter_map(|(name, service)| Some((name.clone(), file(&service.folder)?))).collect()
}

fn write_notices(path: &Path, context: &Context) -> Result<()> {
    stdx::fs::write_atomic(path, scan::notices(context)?.as_bytes(), 0o644)
}

fn write_sarif(path: &Path, judged: &Judged, service_files: &BTreeMap<String, String>) -> Result<()> {
    let version = env!("CARGO_PKG_VERSION");
    let document =
        finding::sarif(&Sarif { version, open: &judged.open, waived: &judged.waived, service_files });
    let text = format!("{}\n", serde_json::to_string_pretty(&document)?);
    stdx::fs::write_atomic(path, text.as_bytes(), 0o644)
}

/// What could not be looked at is no success, and weighs more than what was found.
fn finish(scanned: &Scanned) -> Result<()> {
    // Checks that need the same fact fail with the same words.
    let mut failed: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for check in &scanned.checks {
        if let Some(error) = &check.error {
            failed.entry(error).or_default().push(check.check.name());
        }
    }
    if !failed.is_empty() {
        let list: Vec<String> =
            failed.iter().map(|(error, checks)| format!("{}: {error}", checks.join(", "))).collect();
        return Err(anyhow!("cannot run every check: {}", list.join("; "))).or_exit(Code::Configuration);
    }
    match scanned.failing() {
        0 => Ok(()),
        1 => Err(anyhow!("1 finding violates the policy")).or_exit(Code::PolicyViolated),
        many => Err(anyhow!("{many} findings violate the policy")).or_exit(Code::PolicyViolated),
    }
}
