//! What a run gave, as a document; and the proof, from the documents of all shards, that each test ran exactly once. It trusts no
//! count: every shard says which tests it found in which binary and which it ran, and these are compared.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::run::{Outcome, Verdict};
use crate::timings::Timings;
use crate::{Inventory, Plan, Test};

/// A run, or all shards of one together.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// `slipway.test-report/1`.
    pub schema: String,
    /// Class of the machine.
    pub runner: String,
    /// What ran the tests.
    pub engine: Engine,
    /// What was asked for, in words: shards of one run all have the same.
    pub selection: String,
    /// Which part of a plan this is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<Part>,
    /// Wall time of building, listing and running.
    pub elapsed_ms: u64,
    /// Tests by verdict. Documentation tests count each.
    pub passed: usize,
    /// Failed, or interrupted.
    pub failed: usize,
    /// Ignored.
    pub skipped: usize,
    /// The tests that were found in each binary and are part of the selection, whichever shard runs them.
    pub listed: BTreeMap<String, BTreeSet<String>>,
    /// The tests that were this run's to run.
    pub tests: Vec<Outcome>,
    /// Documentation tests one by one.
    #[serde(default)]
    pub doctests: Vec<Outcome>,
    /// Processor seconds to build each binary that was built.
    #[serde(default)]
    pub builds: BTreeMap<String, f64>,
}

/// What ran the tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Engine {
    /// This program.
    Builtin,
    /// cargo-nextest.
    Nextest,
}

/// A part of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Counted from 1.
    pub index: u32,
    /// How many there are.
    pub of: u32,
    /// Of which plan.
    pub plan: Digest,
    /// The shards that run tests of each binary: all binaries of the plan.
    pub binaries: BTreeMap<String, Vec<u32>>,
}

impl Report {
    /// What documents of this kind call themselves.
    pub const SCHEMA: &'static str = "slipway.test-report/1";

    /// Reads a document.
    ///
    /// # Errors
    /// When it is of another kind or version, or damaged.
    pub fn parse(bytes: &[u8]) -> Result<Report> {
        let report: Report = serde_json::from_slice(bytes).context("no report of tests")?;
        anyhow::ensure!(
            report.schema == Report::SCHEMA,
            "`{}` is another kind of document than `{}`",
            report.schema,
            Report::SCHEMA
        );
        Ok(report)
    }

    /// Counts the verdicts.
    pub fn count(&mut self) {
        let whole_as_one =
            |outcome: &&Outcome| outcome.test != Test::doctests() || self.counts_as_one(outcome);
        let all: Vec<Verdict> =
            self.tests.iter().filter(whole_as_one).chain(&self.doctests).map(|o| o.verdict).collect();
        let number = |wanted: &[Verdict]| all.iter().filter(|verdict| wanted.contains(verdict)).count();
        self.passed = number(&[Verdict::Passed]);
        self.failed = number(&[Verdict::Failed, Verdict::Interrupted]);
        self.skipped = number(&[Verdict::Skipped]);
    }

    /// Documentation tests count each; only a failure that none of them explains counts as one.
    fn counts_as_one(&self, whole: &Outcome) -> bool {
        let is_explained = self.doctests.iter().any(|outcome| outcome.verdict == Verdict::Failed);
        matches!(whole.verdict, Verdict::Failed | Verdict::Interrupted) && !is_explained
    }

    /// What failed, in order of name.
    pub fn failures(&self) -> Vec<&Outcome> {
        let is_bad = |o: &&Outcome| matches!(o.verdict, Verdict::Failed | Verdict::Interrupted);
        let mut failures: Vec<&Outcome> = self.tests.iter().filter(is_bad).collect();
        failures.sort_by(|a, b| a.test.cmp(&b.test));
        failures
    }

    /// Adds what was learnt to the timings: of tests that passed, since one that fails may stop early.
    pub fn record(&self, timings: &mut Timings, now: u64) {
        for outcome in self.tests.iter().filter(|outcome| outcome.verdict == Verdict::Passed) {
            timings.record(&outcome.test, &self.runner, outcome.seconds, now);
        }
        for (binary, seconds) in &self.builds {
            timings.record_build(binary, &self.runner, *seconds, now);
        }
        if self.selection == ALL {
            for (binary, tests) in &self.listed {
                timings.retain(binary, &tests.iter().map(String::as_str).collect());
                timings.record_listing(binary, tests.len());
            }
        }
    }

    /// Forgets what is known of binaries that there are no more. Only for a report of everything.
    pub fn forget_others(&self, timings: &mut Timings, inventory: &Inventory) {
        if self.selection == ALL {
            timings.retain_binaries(&inventory.binaries.keys().map(String::as_str).collect());
        }
    }
}

/// The selection of a run without filters.
pub const ALL: &str = "all";

/// Puts the reports of all shards together.
///
/// # Errors
/// What stands against it that each test ran exactly once, a line each; `plan` is compared as well where it is given.
pub fn merge(reports: &[Report], plan: Option<&Plan>) -> Result<Report, Vec<String>> {
    let Some((first, part)) = reports.iter().find_map(|report| Some((report, report.shard.as_ref()?))) else {
        return Err(vec!["no report of a shard was given".to_owned()]);
    };
    let mut problems = Vec::new();
    let mut by_shard: BTreeMap<u32, &Report> = BTreeMap::new();
    for report in reports {
        match &report.shard {
            None => problems.push("one report is of a run without shards".to_owned()),
            Some(other)
                if other.of != part.of || other.plan != part.plan || other.binaries != part.binaries =>
            {
                problems.push(format!(
                    "shard {}/{} belongs to the plan {}, shard {}/{} to {}",
                    other.index, other.of, other.plan, part.index, part.of, part.plan
                ));
            }
            Some(other) => {
                if by_shard.insert(other.index, report).is_some() {
                    problems.push(format!("there are two reports of shard {}/{}", other.index, other.of));
                }
            }
        }
        if report.selection != first.selection {
            problems.push(format!("one shard ran `{}`, another `{}`", first.selection, report.selection));
        }
    }
    let missing = (1..=part.of.min(1_000)).filter(|index| !by_shard.contains_key(index));
    problems.extend(missing.map(|index| format!("there is no report of shard {index}/{}", part.of)));
    let listed = listings(&by_shard, &part.binaries, &mut problems);
    exactly_once(&by_shard, &part.binaries, &listed, &mut problems);
    if let Some(plan) = plan {
        as_planned(plan, part, &first.selection, &by_shard, &listed, &mut problems);
    }
    if problems.is_empty() { Ok(together(&by_shard, first, listed)) } else { Err(problems) }
}

type Listed = BTreeMap<String, BTreeSet<String>>;

/// All tests, as the shards found them: those that built the same binary must have found the same.
fn listings(
    by_shard: &BTreeMap<u32, &Report>,
    binaries: &BTreeMap<String, Vec<u32>>,
    problems: &mut Vec<String>,
) -> Listed {
    let mut all = Listed::new();
    for (binary, shards) in binaries {
        for (index, report) in shards.iter().filter_map(|shard| by_shard.get_key_value(shard)) {
            let Some(listed) = report.listed.get(binary) else {
                problems.push(format!("shard {index} did not look into {binary}"));
                continue;
            };
            let known = all.entry(binary.clone()).or_insert_with(|| listed.clone());
            if known != listed {
                let names: Vec<&String> = known.symmetric_difference(listed).take(5).collect();
                problems.push(format!("shards found different tests in {binary}: {names:?}"));
            }
        }
    }
    all
}

fn exactly_once(
    by_shard: &BTreeMap<u32, &Report>,
    binaries: &BTreeMap<String, Vec<u32>>,
    listed: &Listed,
    problems: &mut Vec<String>,
) {
    let mut ran: BTreeMap<&Test, Vec<u32>> = BTreeMap::new();
    for (index, report) in by_shard {
        for outcome in &report.tests {
            if outcome.verdict == Verdict::Interrupted {
                problems.push(format!("shard {index} was interrupted in {}", outcome.test));
            }
            ran.entry(&outcome.test).or_default().push(*index);
        }
    }
    for (test, shards) in &ran {
        let is_listed = listed.get(&test.binary).is_some_and(|names| names.contains(&test.name));
        if shards.len() > 1 {
            problems.push(format!("{test} ran {} times: in shards {shards:?}", shards.len()));
        }
        if !is_listed {
            problems.push(format!("{test} ran in shard {} but is in no list", shards[0]));
        }
        let is_planned = |shard: &u32| binaries.get(&test.binary).is_some_and(|of| of.contains(shard));
        if let Some(stray) = shards.iter().find(|shard| !is_planned(shard)) {
            problems.push(format!("{test} ran in shard {stray}, which has no part of {}", test.binary));
        }
    }
    for (binary, names) in listed {
        for name in names {
            let test = Test { binary: binary.clone(), name: name.clone() };
            if !ran.contains_key(&test) {
                problems.push(format!("{test} ran in no shard"));
            }
        }
    }
}

fn as_planned(
    plan: &Plan,
    part: &Part,
    selection: &str,
    by_shard: &BTreeMap<u32, &Report>,
    listed: &Listed,
    problems: &mut Vec<String>,
) {
    if plan.digest != part.plan {
        problems.push(format!("the shards ran the plan {}, not {}", part.plan, plan.digest));
        return;
    }
    for (index, report) in by_shard {
        for Outcome { test, .. } in &report.tests {
            if plan.shard_of(&test.binary, &test.name) != Some(*index) {
                problems.push(format!("{test} ran in shard {index}, against the plan"));
            }
        }
    }
    // A plan of the tests of the last time, or a choice of tests, differs by design.
    if !plan.is_exact || selection != ALL {
        return;
    }
    let skipped: BTreeSet<(&str, &str)> = by_shard
        .values()
        .flat_map(|report| &report.tests)
        .filter(|outcome| outcome.verdict == Verdict::Skipped)
        .map(|outcome| (outcome.test.binary.as_str(), outcome.test.name.as_str()))
        .collect();
    for (binary, assignment) in &plan.binaries {
        let found = listed.get(binary);
        let lost = assignment.tests.keys().filter(|name| !found.is_some_and(|names| names.contains(*name)));
        problems.extend(lost.map(|name| format!("{binary} {name} is planned, but is gone")));
        // A plan has the tests that run; ignored ones are where their binary is.
        let is_new = |name: &&String| {
            !assignment.tests.contains_key(*name) && !skipped.contains(&(binary.as_str(), name.as_str()))
        };
        let new = found.into_iter().flatten().filter(is_new);
        problems.extend(new.map(|name| format!("{binary} {name} is not in the plan")));
    }
}

fn together(by_shard: &BTreeMap<u32, &Report>, first: &Report, listed: Listed) -> Report {
    let mut merged = Report { shard: None, listed, elapsed_ms: 0, ..first.clone() };
    (merged.tests, merged.doctests) = (Vec::new(), Vec::new());
    for report in by_shard.values() {
        merged.elapsed_ms = merged.elapsed_ms.max(report.elapsed_ms);
        merged.tests.extend(report.tests.iter().cloned());
        merged.doctests.extend(report.doctests.iter().cloned());
        merged.builds.extend(report.builds.iter().map(|(binary, seconds)| (binary.clone(), *seconds)));
    }
    merged.tests.sort_by(|a, b| a.test.cmp(&b.test));
    merged.count();
    merged
}
