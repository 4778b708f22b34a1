//! `cargo xtask ci`: the generated workflows, and what their jobs call.

mod files;
mod jobs;

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail};
use workflow::{Local, Outcome, Settings};

use crate::exit::{Code, ResultExt};
use crate::flags::{self, CiCommand};
use crate::render;

pub(crate) fn run(flags: &flags::Ci) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let settings = Settings::load(&root).or_exit(Code::Configuration)?;
    match &flags.command {
        CiCommand::Generate(flags) => files::generate(&root, &settings, flags),
        CiCommand::Check(flags) => files::check(&root, &settings, flags),
        CiCommand::List(flags) => render::ci::list(&workflow::workflows(&settings), flags.json),
        CiCommand::Run(flags) => run_here(&root, &settings, flags),
        CiCommand::Plan(flags) => jobs::plan(&root, &settings, flags),
        CiCommand::Lint => jobs::lint(&root),
        CiCommand::Gate(flags) => jobs::gate(&settings, flags),
        CiCommand::Prune(flags) => jobs::prune(&root, flags),
        CiCommand::Subjects(flags) => jobs::subjects(flags),
    }
}

/// Runs jobs here; the exit code is that of the first that went red.
fn run_here(root: &Path, settings: &Settings, flags: &flags::CiRun) -> Result<()> {
    let (file, job) = match &flags.job {
        None => ("ci", None),
        Some(name) => match name.split_once('/') {
            None => ("ci", Some(name.as_str())),
            Some((file, job)) => (file, Some(job)),
        },
    };
    let workflows = workflow::workflows(settings);
    let workflow = workflows
        .iter()
        .find(|workflow| workflow.file == file)
        .with_context(|| format!("there is no workflow `{file}`; next: cargo xtask ci list"))
        .or_exit(Code::Configuration)?;
    let input = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("`{text}` is not NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    let environments: Vec<String> =
        settings.environments.iter().map(|environment| environment.name.clone()).collect();
    let local = Local {
        root,
        tool: &tool(flags)?,
        workflow,
        environments: &environments,
        inputs: flags.input.iter().map(input).collect::<Result<_>>().or_exit(Code::Configuration)?,
    };
    if let Some(job) = job
        && workflow.job(job).is_none()
    {
        return Err(anyhow!("there is no job `{job}` in {file}.yml; next: cargo xtask ci list"))
            .or_exit(Code::Configuration);
    }
    let reports = local.run(job, &mut render::ci::progress)?;
    render::ci::ran(&reports, flags.json)?;
    match reports.iter().find(|report| report.result == Outcome::Failure) {
        None => Ok(()),
        Some(red) => Err(anyhow!("the job {} is red; its log is {}", red.name, red.log.display()))
            .or_exit(Code::of_status(red.exit_status)),
    }
}

fn tool(flags: &flags::CiRun) -> Result<PathBuf> {
    match &flags.tool {
        Some(tool) => std::path::absolute(tool).context("the current folder is gone"),
        None => std::env::current_exe().context("cannot find this program"),
    }
}

/// The file at `path`, which another program wrote, unless it is longer than `most` bytes.
fn read_bounded(path: &Path, most: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    stdx::fs::open(path)?
        .take(most + 1)
        .read_to_end(&mut bytes)
        .with_context(|| format!("cannot read {}", path.display()))?;
    if bytes.len() as u64 > most {
        bail!("{} has more than {most} bytes", path.display());
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use workflow::{Action, Arg, Body, Run};

    use super::*;
    use crate::flags::Slipway;

    fn runs(workflow: &workflow::Workflow) -> impl Iterator<Item = &Run> {
        let steps = workflow.jobs.iter().filter_map(|job| match &job.body {
            Body::Steps(steps) => Some(&steps.steps),
            Body::Call { .. } => None,
        });
        steps.flatten().filter_map(|step| match &step.action {
            Action::Run(run) => Some(run),
            _ => None,
        })
    }

    #[test]
    fn every_command_line_of_the_workflows_is_one_of_ours() {
        let workflows = workflow::workflows(&Settings::default());
        let runs: Vec<&Run> = workflows.iter().flat_map(runs).collect();
        let mut parsed = 0;
        for run in runs {
            let args = run.args.iter().map(|arg| match arg {
                Arg::Text(text) => text.clone(),
                Arg::Var("SHARD") => "1/2".to_owned(),
                Arg::Var(_) | Arg::Files(..) => "1".to_owned(),
                Arg::Around(before, _, after) => format!("{before}1{after}"),
            });
            let words = std::iter::once("cargo xtask".to_owned()).chain(args);
            if let Err(error) = Slipway::try_parse_from(words) {
                panic!("{}: {error}", run.line());
            }
            parsed += 1;
        }
        assert!(parsed >= 20, "only {parsed} lines were parsed");
    }
}
