//! The files that a run leaves: its report, JUnit for other tools, and what GitHub shows.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use shard::Report;

use crate::{flags, render};

/// Where the results of a run are.
#[derive(Debug)]
pub(crate) struct Files {
    pub(crate) report: PathBuf,
    pub(crate) junit: PathBuf,
}

pub(super) fn write(folder: &Path, report: &Report, flags: &flags::TestRun) -> Result<Files> {
    let name = match &report.shard {
        None => "report".to_owned(),
        Some(part) => format!("report-{}-of-{}", part.index, part.of),
    };
    write_to(folder, report, flags.report.as_deref(), flags.junit.as_deref(), &name)
}

/// Writes the report and its JUnit form to where the user wants them, else to `folder` under `name`.
pub(super) fn write_to(
    folder: &Path,
    report: &Report,
    wanted: Option<&Path>,
    junit: Option<&Path>,
    name: &str,
) -> Result<Files> {
    let path = |wanted: Option<&Path>, ending: &str| {
        let default = folder.join(format!("{name}.{ending}"));
        std::path::absolute(wanted.unwrap_or(&default)).context("the current folder is gone")
    };
    let files = Files { report: path(wanted, "json")?, junit: path(junit, "xml")? };
    stdx::fs::write_atomic(&files.report, &serde_json::to_vec_pretty(report)?, 0o644)?;
    stdx::fs::write_atomic(&files.junit, shard::junit(report).as_bytes(), 0o644)?;
    tell_github(report)?;
    Ok(files)
}

/// Inside GitHub Actions: failures at their lines, and a summary on the page of the run.
fn tell_github(report: &Report) -> Result<()> {
    if std::env::var("GITHUB_ACTIONS").as_deref() != Ok("true") {
        return Ok(());
    }
    eprint!("{}", render::github_annotations(report));
    if let Some(path) = std::env::var_os("GITHUB_STEP_SUMMARY").filter(|path| !path.is_empty()) {
        let path = PathBuf::from(path);
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(&path);
        file.as_mut()
            .map_err(|error| std::io::Error::new(error.kind(), error.to_string()))
            .and_then(|file| file.write_all(render::github_summary(report).as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
