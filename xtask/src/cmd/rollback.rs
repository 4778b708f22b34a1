//! `cargo xtask rollback`: a deployment of what served before.

use std::path::Path;

use anyhow::Result;
use deploy::{Environment, EnvironmentFile, Progress};

use crate::cmd::deploy::Notifier;
use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, DeployProgress};

pub(crate) fn run(flags: &flags::Rollback) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let state = super::deploy::state(&root, &flags.environment)?;
    let layout = ::build::layout(&root).or_exit(Code::Configuration)?;
    let interrupted = super::interruption()?;
    let progress = DeployProgress::new();
    let show = |event: Progress<'_>| progress.show(event);
    let site = super::deploy::site(super::deploy::launcher()?, &state, &layout, &interrupted, &show);
    let explain = |error| super::deploy::explain(error, &flags.environment);
    if flags.repair && !flags.dry_run {
        ::deploy::repair(&site)?;
    }
    if flags.dry_run {
        let preview = ::deploy::rollback_dry_run(&site);
        progress.finish();
        return render::preview(&preview.map_err(explain)?, flags.json);
    }
    let file = present_file(&root, &flags.environment);
    let notifier = Notifier::begin(&site, "rollback", &file, None);
    let outcome = ::deploy::rollback(&site);
    progress.finish();
    notifier.tell(&outcome);
    super::deploy::finish(&outcome.map_err(explain)?, &state, flags.json)
}

/// The file as it is today, for those who are told. A rollback needs no file: what it goes back to was kept.
pub(super) fn present_file(root: &Path, flags: &flags::Environment) -> EnvironmentFile {
    super::deploy::environment(root, flags).unwrap_or_else(|error| {
        eprintln!("warning: nobody is told how it ends: {error:#}");
        EnvironmentFile::built_in(&flags.environment, Environment::default())
    })
}
