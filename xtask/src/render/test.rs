//! What testing shows: progress, results, plans, and what GitHub displays of them.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _, stderr};
use std::time::Duration;

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::{Value, json};
use shard::{Builds, Event, Method, Outcome, Plan, Report, Verdict};

use super::{Table, document, print};
use crate::cmd::TestFiles;
use crate::runner::{data, property};

/// Kind and version of plans.
pub(crate) const TEST_PLAN: &str = "slipway.test-plan/1";

/// GitHub shows no more annotations than this of one step.
const MAX_ANNOTATIONS: usize = 10;

/// Shows tests as they end: a bar on a terminal, else a line each.
pub(crate) struct TestProgress {
    bar: Option<ProgressBar>,
}

impl TestProgress {
    pub(crate) fn new(tests: usize) -> TestProgress {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(tests as u64);
            if let Ok(style) = ProgressStyle::with_template("{bar:30} {pos}/{len}  {wide_msg}") {
                bar.set_style(style);
            }
            bar
        });
        TestProgress { bar }
    }

    pub(crate) fn event(&self, event: &Event<'_>) {
        match (event, &self.bar) {
            (Event::Slow(test, since), _) => self.line(&format!("slow   {:>8}  {test}", took(*since))),
            (Event::Finished(outcome), Some(bar)) if outcome.verdict == Verdict::Passed => {
                bar.inc(1);
                bar.set_message(outcome.test.to_string());
            }
            (Event::Finished(outcome), _) => self.line(&line(outcome)),
        }
    }

    fn line(&self, text: &str) {
        match &self.bar {
            Some(bar) => bar.println(text),
            // A reader that has seen enough is no reason to stop testing.
            None => drop(writeln!(stderr(), "{text}")),
        }
    }

    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}

fn took(duration: Duration) -> String {
    format!("{:.2} s", duration.as_secs_f64())
}

fn line(outcome: &Outcome) -> String {
    let word = match outcome.verdict {
        Verdict::Passed => "pass",
        Verdict::Failed => "FAIL",
        Verdict::Skipped => "skip",
        Verdict::Interrupted => "ended",
    };
    format!("{word:<6} {:>8}  {}", format!("{:.3} s", outcome.seconds), outcome.test)
}

/// Prints the results: what failed with its output, where the files are, and the counts as the last line.
pub(crate) fn test_report(report: &Report, files: &TestFiles, as_json: bool) -> Result<()> {
    if as_json {
        let text = serde_json::to_string_pretty(report)?;
        return print(&format!("{text}\n"));
    }
    let mut text = String::new();
    for outcome in report.tests.iter().filter(|o| o.verdict == Verdict::Passed && !o.output.is_empty()) {
        writeln!(text, "--- output of {}\n{}", outcome.test, outcome.output.trim_end())?;
    }
    for outcome in report.failures() {
        writeln!(text, "--- {} ({})\n{}", outcome.test, outcome.reason, outcome.output.trim_end())?;
    }
    for outcome in report.failures() {
        writeln!(text, "{} ({})", line(outcome), outcome.reason)?;
    }
    if let Some(part) = &report.shard {
        writeln!(text, "shard {}/{} of the plan {}", part.index, part.of, part.plan.short())?;
    }
    let seconds = report.elapsed_ms as f64 / 1000.0;
    writeln!(
        text,
        "report in {}, JUnit in {} ({seconds:.1} s)",
        files.report.display(),
        files.junit.display()
    )?;
    writeln!(text, "{} passed, {} failed, {} skipped", report.passed, report.failed, report.skipped)?;
    print(&text)
}

/// Prints a plan.
pub(crate) fn test_plan(plan: &Plan, as_json: bool) -> Result<()> {
    if as_json {
        return document(TEST_PLAN, serde_json::to_value(plan)?);
    }
    let mut table = Table::new(["shard", "tests", "test seconds", "build seconds", "builds"]);
    let count = plan.shards.len();
    for (shard, index) in plan.shards.iter().zip(1..) {
        let builds = match plan.builds {
            Builds::Everything => "everything".to_owned(),
            Builds::PerShard => {
                let selectors = plan.selectors(index);
                let names: Vec<String> = selectors.iter().map(ToString::to_string).collect();
                if names.is_empty() { "nothing".to_owned() } else { names.join(" ") }
            }
        };
        table.row([
            format!("{index}/{count}"),
            shard.tests.to_string(),
            format!("{:.2}", shard.test_seconds),
            format!("{:.2}", shard.build_seconds),
            builds,
        ]);
    }
    print(&format!("{table}{}", summary(plan)))
}

/// Says on standard error what a plan is worth.
pub(crate) fn test_plan_summary(plan: &Plan) {
    eprint!("{}", summary(plan));
}

fn summary(plan: &Plan) -> String {
    let quality = &plan.quality;
    let mut text = format!("plan {}: ", plan.digest.short());
    text += match plan.method {
        Method::Balanced => "balanced by what tests took before",
        Method::Slice => "every n-th test: too few of them were ever measured to balance",
    };
    let _ = writeln!(
        text,
        "; slowest shard {:.2} s, {:.3} times what no plan can beat; every n-th test: {:.2} s",
        plan.makespan(),
        plan.over_bound(),
        plan.slice_seconds
    );
    let _ = write!(text, "timings: {} of {} tests measured", quality.measured, quality.tests);
    let mut add = |is_there: bool, words: String| {
        if is_there {
            text += &words;
        }
    };
    add(quality.renamed > 0, format!(", {} under an earlier name", quality.renamed));
    add(quality.other_runner > 0, format!(", {} on other machines", quality.other_runner));
    add(
        quality.measured == 0 && quality.tests > 0,
        " (NOTHING measured: `cargo xtask test` measures; are its timings kept?)".to_owned(),
    );
    add(quality.age_days.is_some(), format!(", {} days old", quality.age_days.unwrap_or(0)));
    add(
        quality.spread.is_some(),
        format!(", longest over shortest run {:.1}", quality.spread.unwrap_or(1.0)),
    );
    add(
        plan.builds == Builds::PerShard,
        format!("; {} of {} builds measured", quality.builds_measured, quality.binaries),
    );
    add(!plan.is_exact, "; tests as of the last time, new ones are placed by name".to_owned());
    text + "\n"
}

/// The plan as a file.
pub(crate) fn test_plan_document(plan: &Plan) -> Result<Vec<u8>> {
    let mut value = serde_json::to_value(plan)?;
    value["schema"] = json!(TEST_PLAN);
    Ok(serde_json::to_vec_pretty(&value)?)
}

/// Prints the matrix of a workflow: a job for each shard, with the number of tests that it is expected to run.
pub(crate) fn test_matrix(plan: &Plan) -> Result<()> {
    let count = plan.shards.len();
    let include: Vec<Value> = plan
        .shards
        .iter()
        .zip(1..)
        .map(|(shard, index): (_, u32)| {
            json!({
                "shard": format!("{index}/{count}"),
                "index": index,
                "of": count,
                "tests": shard.tests,
                "seconds": (shard.seconds() * 100.0).round() / 100.0,
                "exact": plan.is_exact,
                "plan": plan.digest,
            })
        })
        .collect();
    print(&format!("{}\n", json!({ "include": include })))
}

/// A line for each failure that makes GitHub show it at its place.
pub(crate) fn github_annotations(report: &Report) -> String {
    let annotation = |outcome: &&Outcome| {
        let title = property(&outcome.test.to_string());
        let place =
            panic_place(&outcome.output).map(|(file, line)| format!("file={},line={line},", property(file)));
        let message = panic_message(&outcome.output).unwrap_or_else(|| outcome.reason.clone());
        format!("::error {}title={title}::{}\n", place.unwrap_or_default(), data(&message))
    };
    report.failures().iter().take(MAX_ANNOTATIONS).map(annotation).collect()
}

/// Where the test panicked: `thread 'x' panicked at src/lib.rs:3:5:`.
fn panic_place(output: &str) -> Option<(&str, u32)> {
    let place = output.lines().find_map(|line| line.split_once(" panicked at ").map(|(_, place)| place))?;
    let mut parts = place.trim_end_matches(':').rsplitn(3, ':');
    let (_column, line, file) = (parts.next()?, parts.next()?, parts.next()?);
    Some((file, line.parse().ok()?))
}

/// The lines between where the test panicked and what the harness says next.
fn panic_message(output: &str) -> Option<String> {
    let lines = output.lines().skip_while(|line| !line.contains(" panicked at ")).skip(1);
    let is_over =
        |line: &&str| line.starts_with("note: ") || line.starts_with("stack backtrace:") || line.is_empty();
    let message: Vec<&str> = lines.take_while(|line| !is_over(line)).take(20).collect();
    (!message.is_empty()).then(|| message.join("\n"))
}

/// A section of the summary page.
pub(crate) fn github_summary(report: &Report) -> String {
    let title = match &report.shard {
        None => "Tests".to_owned(),
        Some(part) => format!("Tests, shard {}/{} of plan `{}`", part.index, part.of, part.plan.short()),
    };
    let mut text = format!(
        "### {title}\n\n{} passed, {} failed, {} skipped in {:.1} s\n\n",
        report.passed,
        report.failed,
        report.skipped,
        report.elapsed_ms as f64 / 1000.0
    );
    let cell = |text: &str| text.replace('|', "\\|").replace('`', "'").replace(['\n', '\r'], " ");
    let failures = report.failures();
    if !failures.is_empty() {
        text += "| failed | why |\n|---|---|\n";
        for outcome in failures {
            let _ = writeln!(text, "| `{}` | {} |", cell(&outcome.test.to_string()), cell(&outcome.reason));
        }
        text += "\n";
    }
    let mut slowest: Vec<&Outcome> = report.tests.iter().collect();
    slowest.sort_by(|a, b| b.seconds.total_cmp(&a.seconds).then_with(|| a.test.cmp(&b.test)));
    text += "| slowest | seconds |\n|---|---|\n";
    for outcome in slowest.into_iter().take(5) {
        let _ = writeln!(text, "| `{}` | {:.2} |", cell(&outcome.test.to_string()), outcome.seconds);
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "running 1 test\n\nthread 'm::x' (12) panicked at crates/a/src/lib.rs:7:9:\n\
        assertion `left == right` failed: 100%\n  left: 1\n right: 2\nnote: run with `RUST_BACKTRACE=1`\n";

    #[test]
    fn a_failure_is_shown_at_its_line_and_cannot_forge_commands() {
        assert_eq!(panic_place(OUTPUT), Some(("crates/a/src/lib.rs", 7)));
        let message = panic_message(OUTPUT).unwrap();
        assert_eq!(message, "assertion `left == right` failed: 100%\n  left: 1\n right: 2");
        assert_eq!(data("1%\n::error::x"), "1%25%0A::error::x");
        assert_eq!(property("a,b:c"), "a%2Cb%3Ac");
        assert_eq!(panic_place("thread 'x' panicked at nowhere"), None);
    }
}
