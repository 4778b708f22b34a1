//! `cargo xtask status`: what is really running, and with `--timeline` what was done.

use std::path::Path;

use anyhow::{Result, anyhow};

use crate::exit::{Code, ResultExt};
use crate::{flags, render};

pub(crate) fn run(flags: &flags::Status) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let state = super::deploy::state(&root, &flags.environment)?;
    if flags.timeline {
        return timeline(&state, flags.json);
    }
    let mut status = deploy::status(&state)?;
    if status.needs_repair {
        status.trouble.push(super::deploy::repair_hint(&flags.environment));
    }
    render::status(&status, flags.json)
}

/// Shows the audit, and ends with an error where it is not what was written.
fn timeline(state: &Path, as_json: bool) -> Result<()> {
    let audit = deploy::Audit::load(state)?;
    render::timeline(&audit, as_json)?;
    match audit.damage {
        None => Ok(()),
        Some(damage) => {
            Err(anyhow!("the record of what was done is damaged: {damage}")).or_exit(Code::PolicyViolated)
        }
    }
}
