//! `cargo xtask deploy resume` and `abort`: what becomes of a deployment that was interrupted.

use anyhow::Result;
use deploy::{Held, Progress, Which};

use super::{Notifier, environment, explain, finish, launcher, site, state};
use crate::exit::{Code, ResultExt};
use crate::render::{self, DeployProgress};
use crate::{cmd, flags};

/// Goes on with it. It is admitted like any other: what was right when it began may be known better by now.
pub(super) fn resume(flags: &flags::Resume) -> Result<()> {
    let root = cmd::workspace_root().or_exit(Code::Configuration)?;
    let file = environment(&root, &flags.environment)?;
    let state = state(&root, &flags.environment)?;
    let kept =
        deploy::kept(&state, Which::Interrupted).map_err(|error| explain(error, &flags.environment))?;
    cmd::verify::require(&root, &kept.release, &file)?;
    cmd::admission::require(&root, &kept.release, &file, flags.scan.as_deref())?;
    let layout = ::build::layout(&root).or_exit(Code::Configuration)?;
    let interrupted = cmd::interruption()?;
    let progress = DeployProgress::new();
    let show = |event: Progress<'_>| progress.show(event);
    let site = site(launcher()?, &state, &layout, &interrupted, &show);
    let notifier = Notifier::begin(&site, "resume", &file, Some(&kept.release));
    let outcome = deploy::resume(&site, held(flags.take_over));
    progress.finish();
    notifier.tell(&outcome);
    finish(&outcome.map_err(|error| explain(error, &flags.environment))?, &state, flags.json)
}

/// Clears it away.
pub(super) fn abort(flags: &flags::Abort) -> Result<()> {
    let root = cmd::workspace_root().or_exit(Code::Configuration)?;
    let state = state(&root, &flags.environment)?;
    let layout = ::build::layout(&root).or_exit(Code::Configuration)?;
    let interrupted = cmd::interruption()?;
    let progress = DeployProgress::new();
    let show = |event: Progress<'_>| progress.show(event);
    let site = site(launcher()?, &state, &layout, &interrupted, &show);
    let aborted = deploy::abort(&site, held(flags.take_over));
    progress.finish();
    render::aborted(&aborted.map_err(|error| explain(error, &flags.environment))?, flags.json)
}

fn held(take_over: bool) -> Held {
    if take_over { Held::TakeOver } else { Held::Refuse }
}
