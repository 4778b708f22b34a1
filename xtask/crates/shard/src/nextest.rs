//! Runs a selection with cargo-nextest: the tests by name in a generated configuration, the results from its JUnit file. The
//! selection replaces the default filter of the user's own configuration; everything else there stays in force.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use stdx::Cmd;

use crate::run::{Job, Options, Outcome, Verdict};
use crate::targets::cargo;
use crate::{Selector, Targets, junit};

/// The profile that is generated, and the name by which the configuration is known to cargo-nextest.
const NAME: &str = "slipway";

/// Long tests start first: so many of them by name, in so many steps of priority.
const STEPS: usize = 20;
const TESTS_A_STEP: usize = 10;

/// More is no report of tests.
const MAX_REPORT: u64 = 512 << 20;

/// Whether cargo-nextest can be called.
pub fn is_installed(root: &Path) -> bool {
    let cmd = cargo().args(["nextest", "--version"]).cwd(root);
    cmd.to_std()
        .and_then(|mut command| Ok(command.stderr(Stdio::null()).output()?))
        .is_ok_and(|o| o.status.success())
}

/// Runs the jobs. cargo-nextest shows its own progress on standard error.
///
/// # Errors
/// When it cannot be run, or did not run exactly these tests.
pub fn run(
    targets: &Targets,
    selectors: Option<&BTreeSet<Selector>>,
    jobs: &[Job],
    options: &Options<'_>,
) -> Result<Vec<Outcome>> {
    let mut config =
        tempfile::Builder::new().suffix(".toml").tempfile().context("cannot make a temporary file")?;
    config.write_all(configuration(jobs, options).as_bytes()).context("cannot write a temporary file")?;
    let results = targets.target_folder.join("nextest").join(NAME).join("junit.xml");
    if results.exists() {
        std::fs::remove_file(&results).with_context(|| format!("cannot remove {}", results.display()))?;
    }
    let cmd = command(targets, selectors, config.path(), options);
    let status = cmd.to_std()?.status().with_context(|| format!("cannot run {cmd}"))?;
    // 100: tests failed, which the results say as well.
    if !status.success() && status.code() != Some(100) {
        bail!("`{cmd}` ended with {status}");
    }
    let size = results.metadata().with_context(|| format!("`{cmd}` left no {}", results.display()))?.len();
    if size > MAX_REPORT {
        bail!("{} has {size} bytes: that is no report", results.display());
    }
    complete(jobs, junit::parse(&stdx::fs::read_to_string(&results)?)?)
}

fn command(
    targets: &Targets,
    selectors: Option<&BTreeSet<Selector>>,
    config: &Path,
    options: &Options<'_>,
) -> Cmd {
    let mut tool = std::ffi::OsString::from(format!("{NAME}:"));
    tool.push(config);
    let cmd =
        cargo().args(["nextest", "run", "--workspace", "--locked", "--profile", NAME]).cwd(&targets.root);
    let cmd = cmd.arg("--tool-config-file").arg(tool).args(["--no-fail-fast", "--run-ignored", "all"]);
    let cmd = cmd.args(targets.selection(selectors));
    if options.is_output_shown { cmd.arg("--no-capture") } else { cmd }
}

/// One outcome for each job, and no other.
fn complete(jobs: &[Job], outcomes: Vec<Outcome>) -> Result<Vec<Outcome>> {
    let mut found: BTreeMap<_, Outcome> = BTreeMap::new();
    for outcome in outcomes {
        found.insert(outcome.test.clone(), outcome);
    }
    let take = |job: &Job| {
        let missing = || Outcome::new(&job.test, Verdict::Interrupted, 0.0, "cargo-nextest did not run it");
        found.remove(&job.test).unwrap_or_else(missing)
    };
    let complete = jobs.iter().map(take).collect();
    if let Some(stray) = found.keys().next() {
        bail!("cargo-nextest ran {stray}, which was not selected");
    }
    Ok(complete)
}

fn configuration(jobs: &[Job], options: &Options<'_>) -> String {
    let mut text = format!("[profile.{NAME}]\ndefault-filter = {}\n", quoted(&filter(jobs)));
    let _ = writeln!(text, "test-threads = {}\nfail-fast = false", options.slots);
    let period = options.slow_after.as_secs().max(1);
    let _ = match options.timeout {
        None => writeln!(text, "slow-timeout = \"{period}s\""),
        Some(timeout) => {
            writeln!(
                text,
                "slow-timeout = {{ period = \"{}s\", terminate-after = 1 }}",
                timeout.as_secs().max(1)
            )
        }
    };
    let _ = writeln!(text, "[profile.{NAME}.junit]\npath = \"junit.xml\"");
    for (group, limit) in &options.groups {
        let _ = writeln!(text, "[test-groups.{}]\nmax-threads = {limit}", quoted(&group_name(group)));
    }
    let mut longest: Vec<&Job> = jobs.iter().collect();
    longest.sort_by(|a, b| b.expected.total_cmp(&a.expected).then_with(|| a.test.cmp(&b.test)));
    for (step, jobs) in longest.chunks(TESTS_A_STEP).take(STEPS).enumerate() {
        let priority = 100 - step as i32 * 5;
        add_override(&mut text, jobs.iter().copied(), &format!("priority = {priority}"));
    }
    for group in options.groups.keys() {
        let members: Vec<&Job> = jobs.iter().filter(|job| job.group.as_ref() == Some(group)).collect();
        if !members.is_empty() {
            add_override(
                &mut text,
                members.into_iter(),
                &format!("test-group = {}", quoted(&group_name(group))),
            );
        }
    }
    text
}

/// Groups of a tool's configuration carry the tool's name.
fn group_name(group: &str) -> String {
    format!("@tool:{NAME}:{group}")
}

fn add_override<'a>(text: &mut String, jobs: impl Iterator<Item = &'a Job>, setting: &str) {
    let filter = filter(jobs);
    let _ = writeln!(text, "[[profile.{NAME}.overrides]]\nfilter = {}\n{setting}", quoted(&filter));
}

/// An expression that exactly these tests fulfil.
fn filter<'a>(jobs: impl IntoIterator<Item = &'a Job>) -> String {
    let mut by_binary: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for job in jobs {
        let term = format!("test(={})", escape(&job.test.name));
        by_binary.entry(&job.test.binary).or_default().push(term);
    }
    let terms: Vec<String> = by_binary
        .into_iter()
        .map(|(binary, tests)| format!("(binary_id(={}) & ({}))", escape(binary), tests.join(" | ")))
        .collect();
    if terms.is_empty() { "none()".to_owned() } else { terms.join(" | ") }
}

/// In an expression, whatever is no plain letter is written by its number: so nothing in a name can end the term.
fn escape(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_:-/".contains(c);
    name.chars().map(|c| if plain(c) { c.to_string() } else { format!("\\u{{{:x}}}", c as u32) }).collect()
}

/// ASCII text as a TOML string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::time::Duration;

    use super::*;
    use crate::Test;

    fn job(name: &str, expected: f64, group: Option<&str>) -> Job {
        let test = Test { binary: "a::it".to_owned(), name: name.to_owned() };
        let group = group.map(str::to_owned);
        Job { test, command: Cmd::new("x"), expected, group, must_report: true }
    }

    #[test]
    fn the_configuration_is_toml_whatever_tests_are_called() {
        let interrupt = AtomicBool::new(false);
        let jobs = [job("m::plain", 2.0, Some("db")), job("case (\"ü\\\"), x", 1.0, None)];
        let options = Options {
            slots: 3,
            groups: [("db".to_owned(), 1)].into(),
            slow_after: Duration::from_secs(60),
            timeout: Some(Duration::from_secs(90)),
            is_output_shown: false,
            interrupt: &interrupt,
        };
        let parsed: toml::Table = configuration(&jobs, &options).parse().unwrap();
        let profile = &parsed["profile"]["slipway"];
        let expected = r"(binary_id(=a::it) & (test(=m::plain) | test(=case\u{20}\u{28}\u{22}\u{fc}\u{5c}\u{22}\u{29}\u{2c}\u{20}x)))";
        assert_eq!(profile["default-filter"].as_str(), Some(expected));
        assert_eq!(profile["overrides"].as_array().unwrap().len(), 2);
        assert_eq!(parsed["test-groups"]["@tool:slipway:db"]["max-threads"].as_integer(), Some(1));
    }

    #[test]
    fn a_test_that_did_not_run_is_an_outcome_and_one_too_many_an_error() {
        let ran = |name: &str| Outcome::new(&job(name, 0.0, None).test, Verdict::Passed, 0.1, "");
        let outcomes = complete(&[job("a", 0.0, None), job("b", 0.0, None)], vec![ran("a")]).unwrap();
        assert_eq!((outcomes[0].verdict, outcomes[1].verdict), (Verdict::Passed, Verdict::Interrupted));
        assert!(complete(&[job("a", 0.0, None)], vec![ran("a"), ran("z")]).is_err());
    }
}
