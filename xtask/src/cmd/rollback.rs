//! `cargo xtask rollback`: a deployment of what served before.

use anyhow::Result;
use deploy::Progress;

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::DeployProgress;

pub(crate) fn run(flags: &flags::Rollback) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let state = super::deploy::state(&root, &flags.environment)?;
    let layout = ::build::layout(&root).or_exit(Code::Configuration)?;
    let interrupted = super::interruption()?;
    let progress = DeployProgress::new();
    let show = |event: Progress<'_>| progress.show(event);
    let site = super::deploy::site(super::deploy::launcher()?, &state, &layout, &interrupted, &show);
    if flags.repair {
        ::deploy::repair(&site)?;
    }
    let outcome = ::deploy::rollback(&site);
    progress.finish();
    let outcome = outcome.map_err(|error| super::deploy::explain(error, &flags.environment))?;
    super::deploy::finish(&outcome, &state, flags.json)
}
