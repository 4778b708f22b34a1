//! The gate: green only if every job ended as planned and every planned test ran exactly once. Which jobs there are and which of
//! them may be skipped comes from the definitions, not from the run: a job that was lost, renamed, skipped or cancelled is red. It
//! reads nothing and decides over values.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use serde_json::Value;

use crate::expr::{Condition, Ended};
use crate::model::{Job, Workflow};
use crate::plan::PROVEN;

/// More jobs than a workflow of ours has.
const MAX_JOBS: usize = 1_000;

/// A job, as it ended and as it had to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The job.
    pub job: String,
    /// How it had to end.
    pub planned: String,
    /// How it ended.
    pub result: String,
}

/// What the gate found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Judgement {
    /// Each job.
    pub jobs: Vec<Verdict>,
    /// How many tests were planned.
    pub planned_tests: Option<u64>,
    /// How many ran exactly once.
    pub run_tests: Option<u64>,
    /// What is not as planned; green where empty.
    pub problems: Vec<String>,
}

/// The results of all jobs that the gate needs, from GitHub's document of them.
///
/// # Errors
/// When the document is not such a one.
pub fn parse_needs(text: &str) -> Result<BTreeMap<String, Ended>> {
    let document: BTreeMap<String, Value> =
        serde_json::from_str(text).context("NEEDS is not the document of results that GitHub makes")?;
    if document.len() > MAX_JOBS {
        bail!("NEEDS has more than {MAX_JOBS} jobs");
    }
    let ended = |job: &Value| {
        let outputs = job["outputs"].as_object().into_iter().flatten();
        let outputs =
            outputs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect();
        Ended { result: job["result"].as_str().unwrap_or("unknown").to_owned(), outputs }
    };
    Ok(document.iter().map(|(name, job)| (name.clone(), ended(job))).collect())
}

/// Judges the jobs of `workflow`. `run_tests` is how many tests the shards' merged report proves to have run exactly once; `None`
/// where there is no such report. `counts_tests` says whether the plan has to count the tests.
pub fn judge(
    workflow: &Workflow,
    needs: &BTreeMap<String, Ended>,
    run_tests: Option<u64>,
    counts_tests: bool,
) -> Judgement {
    let mut problems = Vec::new();
    let judged: Vec<&Job> = workflow.jobs.iter().filter(|job| job.id != GATE).collect();
    let outputs = needs.get("plan").map(|plan| &plan.outputs);
    let mut jobs = Vec::new();
    for job in &judged {
        let planned = planned(job, outputs).unwrap_or_else(|problem| {
            problems.push(problem);
            "known"
        });
        let result = needs.get(&job.id).map_or("missing", |ended| ended.result.as_str());
        if planned != result {
            problems.push(format!("{}: {result}, planned was {planned}", job.id));
        }
        jobs.push(Verdict { job: job.id.clone(), planned: planned.to_owned(), result: result.to_owned() });
    }
    for name in needs.keys().filter(|name| !judged.iter().any(|job| job.id == **name)) {
        problems.push(format!("{name}: is a job that nobody planned"));
    }
    let output = |name: &str| outputs.and_then(|outputs| outputs.get(name)).map(String::as_str);
    let planned_tests = output("tests").and_then(|count| count.parse().ok());
    // Without a count of its own the plan must have been allowed to have none; the merged reports prove the rest.
    let is_proven = !counts_tests && output("tests") == Some(PROVEN);
    let expected = if is_proven { run_tests } else { planned_tests };
    problems.extend(tests_problem(expected, output("test") == Some("true"), run_tests));
    Judgement { jobs, planned_tests, run_tests, problems }
}

const GATE: &str = "gate";

/// Only a job whose definition has a condition can be planned not to run.
fn planned(job: &Job, outputs: Option<&BTreeMap<String, String>>) -> Result<&'static str, String> {
    match job.when {
        Some(Condition::Planned(name) | Condition::PlannedAnyway(name)) => {
            match outputs.and_then(|outputs| outputs.get(name)).map(String::as_str) {
                Some("true") => Ok("success"),
                Some("false") => Ok("skipped"),
                _ => Err(format!("{}: the plan does not say whether it was to run", job.id)),
            }
        }
        _ => Ok("success"),
    }
}

fn tests_problem(planned: Option<u64>, has_shards: bool, run: Option<u64>) -> Option<String> {
    match (planned, has_shards, run) {
        (None, _, _) => Some("tests: the plan does not say how many there are".to_owned()),
        (Some(0), false, None) => None,
        (Some(0), _, _) => Some("tests: none were planned and shards ran".to_owned()),
        (Some(planned), false, _) => Some(format!("tests: {planned} were planned and no shard for them")),
        (Some(planned), true, None) => {
            Some(format!("tests: {planned} were planned and no report says that they ran"))
        }
        (Some(planned), true, Some(run)) => {
            (planned != run).then(|| format!("tests: {planned} were planned and {run} ran"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const TESTS: u64 = 12;

    fn green(report: bool) -> (Workflow, BTreeMap<String, Ended>) {
        let workflow = crate::define::ci(&Settings::default());
        let mut needs: BTreeMap<String, Ended> = workflow
            .job(GATE)
            .unwrap()
            .needs
            .iter()
            .map(|name| (name.clone(), Ended { result: "success".to_owned(), ..Ended::default() }))
            .collect();
        let outputs =
            [("test", "true".to_owned()), ("tests", TESTS.to_string()), ("report", report.to_string())];
        needs.get_mut("plan").unwrap().outputs =
            outputs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        if !report {
            needs.get_mut("report").unwrap().result = "skipped".to_owned();
        }
        (workflow, needs)
    }

    #[test]
    fn the_gate_needs_every_job_and_is_green_when_all_is_as_planned() {
        for report in [true, false] {
            let (workflow, needs) = green(report);
            assert_eq!(needs.len(), workflow.jobs.len() - 1);
            assert_eq!(judge(&workflow, &needs, Some(TESTS), true).problems, Vec::<String>::new());
        }
    }

    #[test]
    fn every_change_of_one_job_is_red() {
        for report in [true, false] {
            let (workflow, good) = green(report);
            for name in good.keys() {
                for result in ["success", "skipped", "failure", "cancelled", "", "Success"] {
                    let mut needs = good.clone();
                    needs.get_mut(name).unwrap().result = result.to_owned();
                    let is_red = !judge(&workflow, &needs, Some(TESTS), true).problems.is_empty();
                    assert_eq!(is_red, good[name].result != result, "{name} {result}");
                }
                let mut needs = good.clone();
                needs.remove(name);
                assert!(!judge(&workflow, &needs, Some(TESTS), true).problems.is_empty(), "without {name}");
            }
            let mut needs = good;
            needs.insert("more".to_owned(), Ended { result: "success".to_owned(), ..Ended::default() });
            assert!(!judge(&workflow, &needs, Some(TESTS), true).problems.is_empty());
        }
    }

    #[test]
    fn every_change_of_a_count_or_an_output_is_red() {
        let (workflow, good) = green(true);
        for run in [None, Some(0), Some(TESTS - 1), Some(TESTS + 1)] {
            assert!(!judge(&workflow, &good, run, true).problems.is_empty(), "{run:?}");
        }
        for name in ["test", "tests", "report"] {
            for value in ["", "0", "false", "11", "True", "-1", "x"] {
                let mut needs = good.clone();
                needs.get_mut("plan").unwrap().outputs.insert(name.to_owned(), value.to_owned());
                assert!(!judge(&workflow, &needs, Some(TESTS), true).problems.is_empty(), "{name}={value}");
            }
            let mut needs = good.clone();
            needs.get_mut("plan").unwrap().outputs.remove(name);
            assert!(!judge(&workflow, &needs, Some(TESTS), true).problems.is_empty(), "without {name}");
        }
    }

    #[test]
    fn a_skipped_job_is_green_only_when_the_plan_says_exactly_that() {
        let (workflow, good) = green(false);
        for value in ["", "0", "False", "true", "no"] {
            let mut needs = good.clone();
            needs.get_mut("plan").unwrap().outputs.insert("report".to_owned(), value.to_owned());
            assert!(!judge(&workflow, &needs, Some(TESTS), true).problems.is_empty(), "{value}");
        }
    }

    #[test]
    fn any_document_is_parsed_or_refused() {
        let (_, good) = green(true);
        let document: BTreeMap<_, _> = good
            .iter()
            .map(|(name, job)| (name, serde_json::json!({"result": job.result, "outputs": job.outputs})))
            .collect();
        let text = serde_json::json!(document).to_string();
        assert_eq!(parse_needs(&text).unwrap(), good);
        for bad in ["", "null", "[]", "1", "{\"a\": 1", &"[".repeat(100_000)] {
            assert!(parse_needs(bad).is_err(), "{bad}");
        }
        assert_eq!(parse_needs("{\"a\": 1}").unwrap()["a"].result, "unknown");
    }

    #[test]
    fn a_plan_that_need_not_count_goes_by_the_proof_and_only_by_it() {
        let (workflow, mut needs) = green(true);
        let judged =
            |needs: &BTreeMap<String, Ended>, run, counts| judge(&workflow, needs, run, counts).problems;
        needs.get_mut("plan").unwrap().outputs.insert("tests".to_owned(), PROVEN.to_owned());
        assert_eq!(judged(&needs, Some(TESTS), false), Vec::<String>::new());
        assert!(!judged(&needs, None, false).is_empty(), "no proof");
        assert!(!judged(&needs, Some(TESTS), true).is_empty(), "a count was asked for");
        needs.get_mut("plan").unwrap().outputs.insert("tests".to_owned(), "11".to_owned());
        assert!(!judged(&needs, Some(TESTS), false).is_empty(), "another count");
    }
}
