//! `cargo xtask status`: what is really running.

use anyhow::Result;

use crate::exit::{Code, ResultExt};
use crate::{flags, render};

pub(crate) fn run(flags: &flags::Status) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let state = super::deploy::state(&root, &flags.environment)?;
    let mut status = deploy::status(&state)?;
    if status.needs_repair {
        status.trouble.push(super::deploy::repair_hint(&flags.environment));
    }
    render::status(&status, flags.json)
}
