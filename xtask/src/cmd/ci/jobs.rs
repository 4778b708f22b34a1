//! What jobs call: plan, lint, gate, and the two small steps between. Each reads documents of other commands, and what GitHub says
//! by variables and files; without GitHub results go to standard output.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};
use stdx::Cmd;
use workflow::plan::Tests;
use workflow::{Base, Event, MAX_EVENT_BYTES, Settings, outputs, plan};

use super::read_bounded;
use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, print};
use crate::runner;

/// More than a plan of a hundred thousand tests takes.
const MAX_BYTES: u64 = 64 * 1024 * 1024;
/// GitHub's limit for the jobs of a matrix.
const MAX_SUBJECTS: usize = 256;

pub(super) fn plan(root: &Path, settings: &Settings, flags: &flags::CiPlan) -> Result<()> {
    let read = |path| read_bounded(path, MAX_BYTES);
    let tests = Tests::parse(&read(&flags.matrix)?).or_exit(Code::Configuration)?;
    let event = event(settings).or_exit(Code::Configuration)?;
    let base = commit(root, &event.base).or_exit(Code::Configuration)?;
    if let Some(folder) = &flags.tool {
        let program = std::env::current_exe().context("cannot find this program")?;
        stdx::fs::write_atomic(&root.join(folder).join("cargo-slipway"), &stdx::fs::read(&program)?, 0o755)?;
    }
    let shown = if base.is_empty() { "everything" } else { &base };
    let count = tests.count.map_or_else(|| "tests".to_owned(), |count| format!("{count} tests"));
    runner::summarise(&format!("{count} in {} shards; compared with {shown}.\n", tests.shards.len()))?;
    give(&plan::outputs(&tests, &base, event.may_write && settings.code_scanning))
}

/// What the run is for: from GitHub where it is one of GitHub's.
fn event(settings: &Settings) -> Result<Event> {
    let Ok(name) = std::env::var("GITHUB_EVENT_NAME") else {
        return Ok(Event::local(&settings.default_branch));
    };
    let path = std::env::var_os("GITHUB_EVENT_PATH")
        .context("GITHUB_EVENT_NAME is set and GITHUB_EVENT_PATH is not")?;
    Event::parse(&name, &read_bounded(Path::new(&path), MAX_EVENT_BYTES)?)
}

/// The commit that a change is compared with; empty for everything, which is also right where git knows no common commit.
fn commit(root: &Path, base: &Base) -> Result<String> {
    match base {
        Base::Everything => Ok(String::new()),
        Base::Commit(commit) => Ok(commit.clone()),
        Base::MergeBase(with) => {
            let git = Cmd::new("git").args(["merge-base", "--end-of-options", with, "HEAD"]).cwd(root);
            Ok(git.read().unwrap_or_default())
        }
    }
}

pub(super) fn lint(root: &Path) -> Result<()> {
    let cargo = || Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).cwd(root);
    let format = cargo().args(["fmt", "--all", "--check"]);
    let lints =
        cargo().args(["clippy", "--workspace", "--all-targets", "--locked", "--", "--deny", "warnings"]);
    let is_formatted = passes(&format)?;
    let is_clean = passes(&lints)?;
    if !is_clean {
        return Err(anyhow!("lints: `{lints}` found something")).or_exit(Code::PolicyViolated);
    }
    if !is_formatted {
        return Err(anyhow!("formatting: next: cargo fmt --all")).or_exit(Code::WouldChange);
    }
    Ok(())
}

fn passes(cmd: &Cmd) -> Result<bool> {
    Ok(cmd.to_std()?.status().with_context(|| format!("cannot run {cmd}"))?.success())
}

pub(super) fn gate(settings: &Settings, flags: &flags::CiGate) -> Result<()> {
    let needs =
        std::env::var("NEEDS").context("NEEDS is not set: only the job `gate` knows how the others ended");
    let needs = workflow::parse_needs(&needs.or_exit(Code::Configuration)?).or_exit(Code::PolicyViolated)?;
    let run_tests = merged(&flags.tests).or_exit(Code::PolicyViolated)?;
    let judgement = workflow::judge(&workflow::ci(settings), &needs, run_tests, settings.exact_test_plan);
    runner::summarise(&render::ci::judgement_summary(&judgement))?;
    render::ci::judgement(&judgement, flags.json)?;
    if judgement.problems.is_empty() {
        return Ok(());
    }
    Err(anyhow!("not as planned: {}", judgement.problems.join("; "))).or_exit(Code::PolicyViolated)
}

/// How many tests the merged report proves to have run once; `None` where there is no report: a merge that proves nothing writes
/// none.
fn merged(path: &Path) -> Result<Option<u64>> {
    if !path.exists() {
        return Ok(None);
    }
    let bytes = read_bounded(path, MAX_BYTES)?;
    let report: Value =
        serde_json::from_slice(&bytes).with_context(|| format!("{} is not JSON", path.display()))?;
    // An ignored test is in the report, and in no plan.
    let ran = |tests: &Vec<Value>| tests.iter().filter(|test| test["verdict"] != "skipped").count() as u64;
    report["tests"]
        .as_array()
        .map(ran)
        .map(Some)
        .with_context(|| format!("{} is not a report of tests", path.display()))
}

pub(super) fn prune(root: &Path, flags: &flags::CiPrune) -> Result<()> {
    let cargo = || Cmd::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).cwd(root);
    let metadata = cargo().args(["metadata", "--no-deps", "--locked", "--format-version", "1"]).read()?;
    let metadata: Value =
        serde_json::from_str(&metadata).context("cargo metadata printed what is not JSON")?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let names = packages.filter_map(|package| package["name"].as_str());
    let clean = cargo().args(["clean", "--locked"]).args(names.flat_map(|name| ["--package", name]));
    if flags.dry_run {
        return print(&format!("{clean}\n"));
    }
    clean.read().map(drop)
}

pub(super) fn subjects(flags: &flags::CiSubjects) -> Result<()> {
    let build: Value = serde_json::from_slice(&read_bounded(&flags.build, MAX_BYTES)?)
        .with_context(|| format!("{} is not JSON", flags.build.display()))?;
    if build["schema"] != "slipway.build/1" {
        bail!("{} is not a report of `cargo xtask build --json`", flags.build.display());
    }
    let services = build["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    if services.is_empty() || services.len() > MAX_SUBJECTS {
        bail!("{} images are not between 1 and {MAX_SUBJECTS}", services.len());
    }
    let include = services.iter().map(subject).collect::<Result<Vec<_>>>()?;
    give(&BTreeMap::from([("matrix", json!({"include": include}).to_string())]))
}

fn subject(service: &Value) -> Result<Value> {
    let text =
        |key: &str| service[key].as_str().with_context(|| format!("a service of the report has no `{key}`"));
    let digest: stdx::Digest = text("image")?.parse()?;
    let sbom = Path::new(text("sbom_path")?).file_name().context("an SBOM without a name")?;
    Ok(json!({"name": text("name")?, "digest": digest, "sbom": sbom.to_string_lossy()}))
}

/// Hands values on to other jobs, or prints them where there are none.
fn give(values: &BTreeMap<&str, String>) -> Result<()> {
    let text = outputs::write(values)?;
    match std::env::var_os("GITHUB_OUTPUT") {
        Some(path) => runner::append(Path::new(&path), &text),
        None => print(&text),
    }
}
