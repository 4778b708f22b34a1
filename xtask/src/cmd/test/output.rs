//! The files that a run leaves: its report, JUnit for other tools, and what GitHub shows.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use shard::Report;

use crate::{flags, render, runner};

/// Where the results of a run are.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) report: PathBuf,
    pub(crate) junit: PathBuf,
}

pub(super) fn write(folder: &Path, report: &Report, flags: &flags::TestRun) -> Result<Files> {
    write_to(folder, report, flags.report.as_deref(), flags.junit.as_deref(), &name(flags))
}

/// Removes what an earlier run left under the same names: a run that does not come to its end must not seem to have that result.
pub(super) fn remove_earlier(folder: &Path, flags: &flags::TestRun) -> Result<()> {
    let files = Files::new(folder, flags.report.as_deref(), flags.junit.as_deref(), &name(flags))?;
    for path in [files.report, files.junit] {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot replace {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

fn name(flags: &flags::TestRun) -> String {
    flags.shard.map_or_else(|| "report".to_owned(), |part| format!("report-{}-of-{}", part.index, part.of))
}

impl Files {
    /// Where the user wants them, else the report in `folder` under `name` and its JUnit form beside it.
    fn new(folder: &Path, report: Option<&Path>, junit: Option<&Path>, name: &str) -> Result<Files> {
        let report = report.map_or_else(|| folder.join(format!("{name}.json")), Path::to_owned);
        let junit = junit.map_or_else(|| beside(&report), Path::to_owned);
        let absolute = |path: &Path| std::path::absolute(path).context("the current folder is gone");
        Ok(Files { report: absolute(&report)?, junit: absolute(&junit)? })
    }
}

/// Writes the report and its JUnit form to where the user wants them, else the one to `folder` under `name` and the other beside it.
pub(super) fn write_to(
    folder: &Path,
    report: &Report,
    wanted: Option<&Path>,
    junit: Option<&Path>,
    name: &str,
) -> Result<Files> {
    let files = Files::new(folder, wanted, junit, name)?;
    stdx::fs::write_atomic(&files.report, &serde_json::to_vec_pretty(report)?, 0o644)?;
    stdx::fs::write_atomic(&files.junit, shard::junit(report).as_bytes(), 0o644)?;
    tell_github(report)?;
    Ok(files)
}

/// The same name for JUnit; never the report's own.
fn beside(report: &Path) -> PathBuf {
    let is_taken = report.extension().is_some_and(|extension| extension == "xml");
    report.with_extension(if is_taken { "junit.xml" } else { "xml" })
}

/// Inside GitHub Actions: failures at their lines, and a summary on the page of the run.
fn tell_github(report: &Report) -> Result<()> {
    if std::env::var("GITHUB_ACTIONS").as_deref() != Ok("true") {
        return Ok(());
    }
    eprint!("{}", render::github_annotations(report));
    runner::summarise(&render::github_summary(report))
}
