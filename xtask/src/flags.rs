//! Every flag of every subcommand, and nothing else: a file for each group of commands.

mod base;
mod build;
mod cache;
mod ci;
mod data;
mod deploy;
mod deps;
mod github;
mod registry;
mod release;
mod scan;
mod test;
mod verify;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(crate) use base::*;
pub(crate) use build::*;
pub(crate) use cache::*;
pub(crate) use ci::*;
pub(crate) use data::*;
pub(crate) use deploy::*;
pub(crate) use deps::*;
pub(crate) use github::*;
pub(crate) use registry::*;
pub(crate) use release::*;
pub(crate) use scan::*;
pub(crate) use test::*;
pub(crate) use verify::*;

const EXIT_CODES: &str = "\
Exit codes:
   0 done                      11 tests failed      20 deployment rolled back
   1 other error               12 nothing selected  21 deployment needs a human
   2 usage                     13 policy violated   22 environment locked
   3 configuration or machine  14 not reproducible 130 interrupted
  10 build failed              15 a check would change files";

/// From a Cargo workspace to running services.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", version, after_help = EXIT_CODES)]
pub(crate) struct Slipway {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Init(Init),
    Build(Build),
    Base(Base),
    Cache(Cache),
    Push(Push),
    Pull(Pull),
    Test(Box<Test>),
    Scan(Scan),
    Deps(Deps),
    Release(Release),
    Verify(Verify),
    Key(Key),
    Ci(Ci),
    Deploy(Deploy),
    Status(Status),
    Logs(Logs),
    Rollback(Rollback),
    Down(Down),
    Backup(Backup),
    Restore(Restore),
    Migrations(Migrations),
    Github(Github),
    /// Run one process of a slot; started by a deployment.
    #[command(hide = true)]
    Supervise {
        spec: PathBuf,
    },
    /// Run the edge of an environment; started by a deployment.
    #[command(hide = true)]
    Edge {
        state: PathBuf,
        options: PathBuf,
        instance: u64,
    },
}
