//! The subcommands, one file each.

pub(crate) mod admission;
pub(crate) mod base;
pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod ci;
pub(crate) mod deploy;
pub(crate) mod deps;
pub(crate) mod down;
pub(crate) mod github;
pub(crate) mod init;
pub(crate) mod keep;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod pull;
pub(crate) mod push;
pub(crate) mod release;
pub(crate) mod rollback;
pub(crate) mod scan;
pub(crate) mod status;
pub(crate) mod test;
pub(crate) mod verify;

pub(crate) use test::Files as TestFiles;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

use crate::exit::Code;

/// A flag that the first Ctrl-C (or SIGTERM, or the end of the terminal) raises; the second one ends the program at once.
fn interruption() -> Result<Arc<AtomicBool>> {
    let raised = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        flag::register_conditional_shutdown(signal, Code::Interrupted as i32, Arc::clone(&raised))
            .and_then(|_| flag::register(signal, Arc::clone(&raised)))
            .context("cannot listen for signals")?;
    }
    Ok(raised)
}

/// The root of the workspace that the user stands in.
fn workspace_root() -> Result<std::path::PathBuf> {
    let here = std::env::current_dir().context("the current folder is gone")?;
    workspace::locate(&here)
}
