//! `cargo xtask deploy`: build, admit, plan, show, deploy, report. `resume` and `abort` are for one that was interrupted.

mod interrupted;
mod notify;

use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use deploy::{EnvironmentFile, Launcher, Outcome, Progress, Site};
use release::Release;

use crate::exit::{Code, ResultExt};
use crate::render::{self, DeployProgress};
use crate::{flags, manifest};

pub(crate) use notify::Notifier;

pub(crate) fn run(flags: &flags::Deploy) -> Result<()> {
    match &flags.interrupted {
        Some(flags::Interrupted::Resume(flags)) => return interrupted::resume(flags),
        Some(flags::Interrupted::Abort(flags)) => return interrupted::abort(flags),
        None => {}
    }
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let file = environment(&root, &flags.environment)?;
    let state = state(&root, &flags.environment)?;
    // The build may put another program in the place of this one.
    let launcher = launcher()?;
    let interrupted = super::interruption()?;
    let release = release(&root, flags, &interrupted)?;
    super::verify::require(&root, &release, &file)?;
    super::admission::require(&root, &release, &file, flags.scan.as_deref())?;
    let layout = ::build::layout(&root).or_exit(Code::Configuration)?;
    let progress = DeployProgress::new();
    let show = |event: Progress<'_>| progress.show(event);
    let site = site(launcher, &state, &layout, &interrupted, &show);
    if flags.dry_run {
        let preview = ::deploy::dry_run(&site, &release, &file);
        progress.finish();
        return render::preview(&preview.map_err(|error| explain(error, &flags.environment))?, flags.json);
    }
    if flags.environment.state.is_none() {
        keep_out_of_git(&root)?;
    }
    super::keep::note(&root, &state).or_exit(Code::Configuration)?;
    if flags.repair {
        ::deploy::repair(&site)?;
    }
    let notifier = Notifier::begin(&site, "deploy", &file, Some(&release));
    let outcome = ::deploy::deploy(&site, &release, &file);
    progress.finish();
    notifier.tell(&outcome);
    finish(&outcome.map_err(|error| explain(error, &flags.environment))?, &state, flags.json)
}

/// The release that the user names, or one of what lies here.
fn release(root: &Path, flags: &flags::Deploy, interrupted: &AtomicBool) -> Result<Release> {
    if let Some(path) = &flags.release {
        return Release::load(path).or_exit(Code::Configuration);
    }
    let mut session = super::build::own_session(root).or_exit(Code::Configuration)?;
    Ok(manifest::release(&super::build::images(&mut session, &[], interrupted)?.report))
}

/// The environment's file, or what stands for it.
pub(crate) fn environment(root: &Path, flags: &flags::Environment) -> Result<EnvironmentFile> {
    Ok(EnvironmentFile::load(&root.join("deploy/environments"), &flags.environment)?)
}

/// The environment's state folder. Nothing is made.
pub(crate) fn state(root: &Path, flags: &flags::Environment) -> Result<PathBuf> {
    ::deploy::check_name(&flags.environment)?;
    if let Some(folder) = &flags.state {
        return std::path::absolute(folder).with_context(|| format!("{} is no folder", folder.display()));
    }
    Ok(root.join(".slipway").join(&flags.environment))
}

/// State folders inside the workspace are nothing to commit.
fn keep_out_of_git(root: &Path) -> Result<()> {
    let path = root.join(".slipway/.gitignore");
    if path.exists() {
        Ok(())
    } else {
        stdx::fs::write_atomic(&path, b"*\n", 0o644).or_exit(Code::Configuration)
    }
}

/// Supervisors and the edge are this very program, called in another way.
pub(crate) fn launcher() -> Result<Launcher> {
    let program = std::env::current_exe().context("cannot tell where this program lies")?;
    Ok(Launcher { program, supervise_args: vec!["supervise".into()], edge_args: vec!["edge".into()] })
}

/// Where the environment is, and how to work on it.
pub(crate) fn site<'a>(
    launcher: Launcher,
    state: &'a Path,
    layout: &'a Path,
    interrupt: &'a AtomicBool,
    report: &'a (dyn Fn(Progress<'_>) + Sync),
) -> Site<'a> {
    let arguments = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let command = ["cargo xtask".to_owned()].into_iter().chain(arguments).collect::<Vec<_>>().join(" ");
    Site { state, layout, launcher, command, who: ::deploy::operator(), interrupt, report }
}

/// What mends a damaged journal, in words.
pub(crate) fn repair_hint(flags: &flags::Environment) -> String {
    let state = flags.state.as_ref().map(|folder| format!(" --state {}", folder.display()));
    format!(
        "`cargo xtask deploy {}{} --repair` moves the damaged journal aside and goes by what runs",
        flags.environment,
        state.unwrap_or_default()
    )
}

/// Adds the next command to an error that has one.
pub(crate) fn explain(error: ::deploy::Error, flags: &flags::Environment) -> anyhow::Error {
    let is_damaged = matches!(error, ::deploy::Error::JournalDamaged { .. });
    let error = anyhow::Error::new(error);
    if is_damaged { error.context(repair_hint(flags)) } else { error }
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
            "nobody can say whether traffic was switched; look at `cargo xtask status`, then `cargo xtask deploy resume` or `abort`",
        ),
    };
    Err(anyhow::anyhow!(text)).or_exit(code)
}
