//! `cargo xtask deploy`: build, plan, show, deploy, report.

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use ::build::Session;
use anyhow::{Context, Result};
use deploy::{EnvironmentFile, Launcher, Outcome, Progress, Site};

use crate::exit::{Code, ResultExt};
use crate::render::{self, DeployProgress};
use crate::{flags, manifest};

pub(crate) fn run(flags: &flags::Deploy) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let file = environment(&root, &flags.environment)?;
    let interrupted = super::interruption()?;
    let session = Session::open(&root).or_exit(Code::Configuration)?;
    let report = super::build::images(&session, &[], &interrupted)?;
    let release = manifest::release(&report).or_exit(Code::Configuration)?;
    let state = state(&root, &flags.environment)?;
    let progress = DeployProgress::new();
    let show = |event: Progress<'_>| progress.show(event);
    let site = site(&state, &report.layout, &interrupted, &show)?;
    if flags.dry_run {
        return render::deploy_plan(&::deploy::dry_run(&site, &release, &file)?, flags.json);
    }
    if flags.repair && ::deploy::repair(&site)? {
        eprintln!("the damaged journal was moved aside");
    }
    let outcome = ::deploy::deploy(&site, &release, &file);
    progress.finish();
    finish(&outcome?, &state, flags.json)
}

/// The environment's file, or what stands for it.
fn environment(root: &Path, flags: &flags::Environment) -> Result<EnvironmentFile> {
    Ok(EnvironmentFile::load(&root.join("deploy/environments"), &flags.environment)?)
}

/// The environment's state folder. One inside the workspace is nothing to commit.
pub(crate) fn state(root: &Path, flags: &flags::Environment) -> Result<PathBuf> {
    if let Some(folder) = &flags.state {
        return std::path::absolute(folder).with_context(|| format!("{} is no folder", folder.display()));
    }
    let all = root.join(".slipway");
    if !all.join(".gitignore").exists() {
        stdx::fs::write_atomic(&all.join(".gitignore"), b"*\n", 0o644)?;
    }
    Ok(all.join(&flags.environment))
}

/// Supervisors and the edge are this very program, called in another way.
pub(crate) fn site<'a>(
    state: &'a Path,
    layout: &'a Path,
    interrupt: &'a AtomicBool,
    report: &'a (dyn Fn(Progress<'_>) + Sync),
) -> Result<Site<'a>> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    let launcher =
        Launcher { program, supervise_args: vec!["supervise".into()], edge_args: vec!["edge".into()] };
    let command = std::env::args().skip(1).collect::<Vec<_>>().join(" ");
    Ok(Site { state, layout, launcher, command: format!("cargo xtask {command}"), interrupt, report })
}

/// Shows the outcome and turns it into the exit code.
pub(crate) fn finish(outcome: &Outcome, state: &Path, as_json: bool) -> Result<()> {
    render::outcome(outcome, state, as_json)?;
    let (code, text) = match outcome {
        Outcome::NothingToDo { .. } | Outcome::Deployed { .. } => return Ok(()),
        Outcome::RolledBack { .. } => {
            (Code::RolledBack, "the new release did not become fit to serve; what served before serves on")
        }
        Outcome::Interrupted { .. } => (Code::Interrupted, "interrupted; what served before serves on"),
        Outcome::NeedsHuman { .. } => (
            Code::NeedsHuman,
            "nobody can say whether traffic was switched; look at `cargo xtask status`, then deploy again",
        ),
    };
    Err(anyhow::anyhow!(text)).or_exit(code)
}
