//! The subcommands, one file each.

pub(crate) mod admission;
pub(crate) mod base;
pub(crate) mod build;
pub(crate) mod cache;
pub(crate) mod ci;
pub(crate) mod databases;
pub(crate) mod deploy;
pub(crate) mod deps;
pub(crate) mod down;
pub(crate) mod github;
pub(crate) mod init;
pub(crate) mod keep;
pub(crate) mod key;
pub(crate) mod logs;
pub(crate) mod migrations;
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
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::exit::Code;

/// A flag that the first Ctrl-C (or SIGTERM, or the end of the terminal) raises; the second one ends the program at once, and what it
/// runs with it. A deployment is left as it is then: `deploy resume` goes on with it, `deploy abort` clears it away.
fn interruption() -> Result<Arc<AtomicBool>> {
    let raised = Arc::new(AtomicBool::new(false));
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).context("cannot listen for signals")?;
    let flag = Arc::clone(&raised);
    std::thread::spawn(move || {
        for _ in signals.forever() {
            if flag.swap(true, Ordering::SeqCst) {
                stdx::kill_tied();
                std::process::exit(Code::Interrupted as i32);
            }
        }
    });
    Ok(raised)
}

/// The root of the workspace that the user stands in.
fn workspace_root() -> Result<std::path::PathBuf> {
    let here = std::env::current_dir().context("the current folder is gone")?;
    workspace::locate(&here)
}
