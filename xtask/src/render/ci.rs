//! What `cargo xtask ci` shows: files, jobs, runs and the gate's judgement.

use std::fmt::Write as _;

use anyhow::Result;
use serde_json::{Value, json};
use workflow::{Action, Body, Drift, JobReport, Judgement, Outcome, Progress, Workflow};

use super::table::Table;
use super::{document, print};
use crate::flags::CiGenerate;

/// Prints which files were written or removed, or would be.
pub(crate) fn generated(written: &[String], removed: &[String], flags: &CiGenerate) -> Result<()> {
    if flags.json {
        let value = json!({"written": written, "removed": removed, "dry_run": flags.dry_run});
        return document("slipway.ci-generate/1", value);
    }
    let (wrote, gone, nothing) = match flags.dry_run {
        true => ("would write", "would remove", "nothing would change"),
        false => ("wrote", "removed", "nothing changed"),
    };
    let mut text = String::new();
    written.iter().try_for_each(|path| writeln!(text, "{wrote} {path}"))?;
    removed.iter().try_for_each(|path| writeln!(text, "{gone} {path}"))?;
    if text.is_empty() {
        writeln!(text, "{nothing}")?;
    }
    print(&text)
}

/// Prints how files differ, and which pins were taken over.
pub(crate) fn checked(drifts: &[Drift], taken: &[String], as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.ci-check/1", json!({"drifts": drifts, "taken": taken}));
    }
    let mut text = String::new();
    taken.iter().try_for_each(|pin| writeln!(text, "took over {pin}"))?;
    drifts.iter().try_for_each(|drift| writeln!(text, "{drift}"))?;
    print(if text.is_empty() { "generated files are as they would be written\n" } else { &text })
}

/// Prints the jobs of all workflows.
pub(crate) fn list(workflows: &[Workflow], as_json: bool) -> Result<()> {
    let jobs = || workflows.iter().flat_map(|workflow| workflow.jobs.iter().map(move |job| (workflow, job)));
    if as_json {
        let jobs: Vec<Value> = jobs()
            .map(|(workflow, job)| {
                json!({"workflow": workflow.file, "job": job.id, "needs": job.needs, "about": job.about, "commands": lines(job)})
            })
            .collect();
        return document("slipway.ci-list/1", json!({"jobs": jobs}));
    }
    let mut table = Table::new(["job", "needs", "what"]);
    for (workflow, job) in jobs() {
        table.row([format!("{}/{}", workflow.file, job.id), job.needs.join(" "), job.about.to_owned()]);
    }
    print(&table.to_string())
}

/// The command lines of a job.
fn lines(job: &workflow::Job) -> Vec<String> {
    match &job.body {
        Body::Call { .. } => Vec::new(),
        Body::Steps(steps) => {
            let line = |step: &workflow::Step| match &step.action {
                Action::Run(run) => Some(run.line()),
                _ => None,
            };
            steps.steps.iter().filter_map(line).collect()
        }
    }
}

/// Shows on standard error what a run of jobs is at.
pub(crate) fn progress(event: Progress<'_>) {
    match event {
        Progress::Started(job) => eprintln!("{job}"),
        Progress::Step(name, word) => eprintln!("  {name}: {word}"),
        Progress::Ended(job, Outcome::Skipped, _) => eprintln!("{job}: skipped"),
        Progress::Ended(_, outcome, seconds) => eprintln!("  {} ({seconds} s)", word(outcome)),
    }
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Success => "green",
        Outcome::Failure => "red",
        Outcome::Skipped => "skipped",
    }
}

/// Prints how jobs ended; what went wrong first comes last, where a reader looks.
pub(crate) fn ran(reports: &[JobReport], as_json: bool) -> Result<()> {
    if as_json {
        document("slipway.ci-run/1", json!({"jobs": reports}))?;
    } else {
        let mut table = Table::new(["job", "result", "seconds", "failed step"]);
        for report in reports {
            let failed = report.failed_step.clone().unwrap_or_default();
            let seconds = format!("{:.1}", report.elapsed_ms as f64 / 1000.0);
            table.row([report.name.clone(), word(report.result).to_owned(), seconds, failed]);
        }
        print(&table.to_string())?;
    }
    for report in reports.iter().rev().filter(|report| report.result == Outcome::Failure) {
        eprintln!("--- {}: {}", report.name, report.failed_step.as_deref().unwrap_or_default());
        eprint!("{}", report.output);
    }
    Ok(())
}

/// Prints what the gate found.
pub(crate) fn judgement(judgement: &Judgement, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.ci-gate/1", serde_json::to_value(judgement)?);
    }
    let mut table = Table::new(["job", "planned", "ended"]);
    for verdict in &judgement.jobs {
        table.row([verdict.job.clone(), verdict.planned.clone(), verdict.result.clone()]);
    }
    print(&format!(
        "{table}tests: {} planned, {} ran once\n",
        count(judgement.planned_tests),
        count(judgement.run_tests)
    ))
}

fn count(count: Option<u64>) -> String {
    count.map_or_else(|| "none".to_owned(), |count| count.to_string())
}

/// The same for the page that GitHub shows of a run.
pub(crate) fn judgement_summary(judgement: &Judgement) -> String {
    let mut text = String::from("| job | planned | ended |\n|---|---|---|\n");
    for verdict in &judgement.jobs {
        text.push_str(&format!("| {} | {} | {} |\n", verdict.job, verdict.planned, verdict.result));
    }
    text.push_str(&format!(
        "\nTests: {} planned, {} ran once.\n",
        count(judgement.planned_tests),
        count(judgement.run_tests)
    ));
    judgement.problems.iter().for_each(|problem| text.push_str(&format!("- {problem}\n")));
    text
}
