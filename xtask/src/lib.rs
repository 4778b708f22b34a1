//! Slipway's command line: from a Cargo workspace to running services. Each subcommand is a file of `cmd` and reads as its
//! steps; the work is done by the crates below `crates/`.

mod cmd;
#[cfg(test)]
mod examples;
mod exit;
mod flags;
mod github;
mod loading;
mod manifest;
#[cfg(test)]
mod reference;
mod render;
mod runner;

use std::process::ExitCode;

use clap::Parser;

use crate::flags::{Command, Slipway};

/// Runs the program: parses the command line, carries the command out, and gives the exit code.
pub fn main() -> ExitCode {
    if let Some(code) = shard::run_as_compiler() {
        return code;
    }
    let flags = Slipway::parse_from(arguments());
    match run(&flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => exit::report(&error),
    }
}

/// As a Cargo subcommand the program is called `cargo-xtask xtask …`: the word is Cargo's, not the user's. Jobs of CI pass it on
/// under the name `cargo-slipway`, which the alias `xtask` can lead to where a workspace has one.
fn arguments() -> impl Iterator<Item = std::ffi::OsString> {
    let program = std::env::args_os().next().unwrap_or_default();
    let program = program.to_string_lossy();
    let word = ["xtask", "slipway"].into_iter().find(|word| program.ends_with(&format!("cargo-{word}")));
    std::env::args_os()
        .enumerate()
        .filter(move |(at, arg)| !(*at == 1 && word.is_some_and(|word| arg == word)))
        .map(|(_, arg)| arg)
}

fn run(flags: &Slipway) -> anyhow::Result<()> {
    match &flags.command {
        Command::Init(flags) => cmd::init::run(flags),
        Command::Build(flags) => cmd::build::run(flags),
        Command::Base(flags) => cmd::base::run(flags),
        Command::Cache(flags) => cmd::cache::run(flags),
        Command::Push(flags) => cmd::push::run(flags),
        Command::Pull(flags) => cmd::pull::run(flags),
        Command::Test(flags) => cmd::test::run(flags),
        Command::Release(flags) => cmd::release::run(flags),
        Command::Verify(flags) => cmd::verify::run(flags),
        Command::Key(flags) => cmd::key::run(flags),
        Command::Scan(flags) => cmd::scan::run(flags),
        Command::Deps(flags) => cmd::deps::run(flags),
        Command::Ci(flags) => cmd::ci::run(flags),
        Command::Deploy(flags) => cmd::deploy::run(flags),
        Command::Status(flags) => cmd::status::run(flags),
        Command::Logs(flags) => cmd::logs::run(flags),
        Command::Rollback(flags) => cmd::rollback::run(flags),
        Command::Down(flags) => cmd::down::run(flags),
        Command::Backup(flags) => cmd::databases::backup(flags),
        Command::Restore(flags) => cmd::databases::restore(flags),
        Command::Migrations(flags) => cmd::migrations::run(flags),
        Command::Github(flags) => cmd::github::run(flags),
        Command::Supervise { spec } => deploy::supervise(spec),
        Command::Edge { state, options, instance } => {
            edge::serve(edge::Options::load(options, state, *instance)?)
        }
    }
}
