//! Flags of the commands for generated workflows.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// GitHub Actions: generate the workflows, check them, run their jobs here.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask ci generate               write .github from the definitions and `ci:` in slipway.yaml
  cargo xtask ci check                  exit 15 when a generated file is not as it would be written
  cargo xtask ci check --fix            take over pins of actions that a bot edited in the workflows
  cargo xtask ci run                    run all jobs here, in order, to the gate
  cargo xtask ci run lint               run one job, after those that it needs
  cargo xtask ci list                   what there is")]
pub(crate) struct Ci {
    #[command(subcommand)]
    pub(crate) command: CiCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CiCommand {
    /// Write the workflows, the composite action and, where there is none, the lock file of actions.
    Generate(CiGenerate),
    /// Compare the files with what would be written.
    Check(CiCheck),
    /// Show the jobs.
    List(CiList),
    /// Run a job here, after those that it needs; all jobs where none is named.
    Run(CiRun),
    /// Say what the other jobs must do; the job `plan` calls it.
    Plan(CiPlan),
    /// Check formatting and lints of the whole workspace; the job `lint` calls it.
    Lint,
    /// Compare how all jobs ended with what was planned; the job `gate` calls it.
    Gate(CiGate),
    /// Remove what is compiled from the workspace's own packages; called before dependencies are kept in a cache.
    Prune(CiPrune),
    /// Name the images that are to be signed; the job `images` calls it.
    Subjects(CiSubjects),
}

#[derive(Debug, Args)]
pub(crate) struct CiGenerate {
    /// Replace files that somebody else wrote.
    #[arg(long)]
    pub(crate) force: bool,
    /// Say what would be written and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiCheck {
    /// Take over pins that were edited in the workflows into ci/actions.lock; whatever else differs stays a failure.
    #[arg(long)]
    pub(crate) fix: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiList {
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask ci run                    all jobs of ci.yml
  cargo xtask ci run test               the shards, after the plan
  cargo xtask ci run build/images       a job of build.yml
  cargo xtask ci run deploy/staging --input environment=staging --input release=v1.2.3")]
pub(crate) struct CiRun {
    /// The job, or `workflow/job`; all jobs of ci.yml where none is named.
    pub(crate) job: Option<String>,
    /// An input of the workflow.
    #[arg(long, value_name = "NAME=VALUE")]
    pub(crate) input: Vec<String>,
    /// The program that stands for `cargo xtask` [default: this one]
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) tool: Option<PathBuf>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiPlan {
    /// What `cargo xtask test plan --matrix` printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) matrix: PathBuf,
    /// Put this program into the folder, for other jobs.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) tool: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct CiGate {
    /// What `cargo xtask test merge` wrote; it may be missing where no tests were planned.
    #[arg(long, value_name = "FILE")]
    pub(crate) tests: PathBuf,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiPrune {
    /// Print the command and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CiSubjects {
    /// What `cargo xtask build --json` printed.
    pub(crate) build: PathBuf,
}
