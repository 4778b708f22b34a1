//! Flags of the commands that put releases live and look after them.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Which environment, and where it keeps its state.
#[derive(Debug, Args)]
pub(crate) struct Environment {
    /// Name of the environment: `deploy/environments/<name>.yaml`; `local` exists without a file.
    #[arg(default_value = "local")]
    pub(crate) environment: String,
    /// Folder for journal, slots, data and logs [default: .slipway/<environment> in the workspace]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
}

/// Build, start beside what serves, check, switch traffic, drain and stop what served before.
///
/// Nothing is switched before the new release is healthy. If it does not become healthy, what served before serves on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask deploy                    to this machine: the environment `local`
  cargo xtask deploy local --dry-run    what would be started, switched and stopped, and how it differs from what runs
  cargo xtask deploy local --json       the outcome as one JSON document
  cargo xtask deploy staging --release v1.json    a release that was built and scanned before
  cargo xtask deploy resume staging     go on with a deployment that was interrupted
  cargo xtask deploy abort staging      or clear it away")]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Deploy {
    #[command(subcommand)]
    pub(crate) interrupted: Option<Interrupted>,
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Deploy this release manifest instead of building one; its images lie in the image layout of this workspace.
    #[arg(long, value_name = "FILE")]
    pub(crate) release: Option<PathBuf>,
    /// The record of the release's scan [default: the one that `scan --release` wrote for it here]
    #[arg(long, value_name = "FILE")]
    pub(crate) scan: Option<PathBuf>,
    /// Print the plan and change nothing in the environment.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// First move a damaged journal aside and begin a new one from what is running.
    #[arg(long)]
    pub(crate) repair: bool,
}

/// What to do with a deployment that was interrupted.
#[derive(Debug, Subcommand)]
pub(crate) enum Interrupted {
    Resume(Resume),
    Abort(Abort),
}

/// Go on with a deployment that was interrupted, to its end: the same release with the same values.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask deploy resume             the environment `local`
  cargo xtask deploy resume staging --take-over    its deployer still runs, and hangs")]
pub(crate) struct Resume {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Take the lock from a deployer that hangs. Should it go on, it can change nothing any more.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// The record of the release's scan [default: the one that `scan --release` wrote for it here]
    #[arg(long, value_name = "FILE")]
    pub(crate) scan: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Clear away what an interrupted deployment left behind. What serves serves on.
///
/// Before the switch that are the new slots; after it, the old ones: then the new release serves, and `rollback` goes back.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask deploy abort              the environment `local`
  cargo xtask deploy abort staging --take-over    its deployer still runs, and hangs")]
pub(crate) struct Abort {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Take the lock from a deployer that hangs. Should it go on, it can change nothing any more.
    #[arg(long)]
    pub(crate) take_over: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what is really running: asked from the edge, the processes and their health checks.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask status                    the environment `local`
  cargo xtask status --timeline         who did what and how it ended; exit code 13 if that record was changed
  cargo xtask status local --json       the same as one JSON document")]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Show who did what to the environment, when, and how it ended.
    #[arg(long)]
    pub(crate) timeline: bool,
    /// Print one JSON document instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what services wrote.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask logs                      the last lines of every service
  cargo xtask logs api --follow         go on with what it writes
  cargo xtask logs api -n 500           more lines")]
pub(crate) struct Logs {
    /// One service; all where none is named.
    pub(crate) service: Option<String>,
    /// Name of the environment.
    #[arg(long, short, default_value = "local")]
    pub(crate) environment: String,
    /// Folder of the environment [default: .slipway/<environment> in the workspace]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state: Option<PathBuf>,
    /// How many of the last lines of each process.
    #[arg(long, short = 'n', default_value_t = 50)]
    pub(crate) lines: usize,
    /// Go on with what is added, until Ctrl-C.
    #[arg(long, short)]
    pub(crate) follow: bool,
    /// Print one JSON document a line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Go back to the release and configuration that served before.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask rollback                  the environment `local`
  cargo xtask rollback --dry-run        what would be started, switched and stopped
  cargo xtask rollback local --json     the outcome as one JSON document")]
pub(crate) struct Rollback {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Print the plan and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// First move a damaged journal aside and begin a new one from what is running: then nothing earlier is known.
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Stop all services of an environment and its edge. Data stays unless asked otherwise.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask down                      stop the environment `local`; its data stays
  cargo xtask down --delete-data        and delete its data
  cargo xtask down --delete-data --dry-run    what would be stopped and deleted")]
pub(crate) struct Down {
    #[command(flatten)]
    pub(crate) environment: Environment,
    /// Print what would be stopped and deleted, and change nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Delete the data of the services as well. It cannot be brought back.
    #[arg(long)]
    pub(crate) delete_data: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}
