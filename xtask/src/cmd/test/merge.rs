//! `cargo xtask test merge`: the proof that all shards together ran each test exactly once, and their results as one.

use anyhow::{Context, Result, anyhow};
use shard::Report;

use super::{Site, output, plan};
use crate::exit::{Code, ResultExt};
use crate::{flags, render};

/// More names than a person reads.
const SHOWN: usize = 50;

pub(super) fn run(flags: &flags::TestMerge) -> Result<()> {
    let mut reports = Vec::new();
    for path in &flags.reports {
        let report = stdx::fs::read(path).and_then(|bytes| Report::parse(&bytes));
        reports.push(
            report.with_context(|| format!("cannot use {}", path.display())).or_exit(Code::Configuration)?,
        );
    }
    let plan = flags.plan.as_deref().map(plan::load).transpose().or_exit(Code::Configuration)?;
    let merged = match shard::merge(&reports, plan.as_ref()) {
        Ok(merged) => merged,
        Err(problems) => return refuse(&problems),
    };
    let site = Site::open(flags.timings.as_deref())?;
    if let Err(error) = site.remember(&merged, None) {
        eprintln!("warning: what the tests took is not remembered: {error:#}");
    }
    let files =
        output::write_to(&site.folder, &merged, flags.report.as_deref(), flags.junit.as_deref(), "merged")?;
    let digest = reports.iter().find_map(|report| Some(report.shard.as_ref()?.plan));
    if let (Some(digest), false) = (digest, flags.json) {
        eprintln!("{} shards of the plan {} ran each test exactly once", reports.len(), digest.short());
    }
    render::test_report(&merged, &files, flags.json)?;
    if merged.failed > 0 {
        return Err(anyhow!("tests failed: {}", merged.failed)).or_exit(Code::TestsFailed);
    }
    super::refuse_nothing(&merged)
}

fn refuse(problems: &[String]) -> Result<()> {
    let mut text: String = problems.iter().take(SHOWN).map(|problem| format!("\n  {problem}")).collect();
    if problems.len() > SHOWN {
        text += &format!("\n  and {} more", problems.len() - SHOWN);
    }
    Err(anyhow!("the shards did not run each test exactly once:{text}")).or_exit(Code::PolicyViolated)
}
