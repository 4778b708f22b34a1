//! `cargo xtask logs`: what services wrote.

use std::io::{Write, stdout};

use anyhow::Result;
use deploy::{LogLine, LogMode, LogQuery};

use crate::exit::{Code, ResultExt};
use crate::flags;

pub(crate) fn run(flags: &flags::Logs) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let environment =
        flags::Environment { environment: flags.environment.clone(), state: flags.state.clone() };
    let state = super::deploy::state(&root, &environment)?;
    let mode = if flags.follow { LogMode::Follow } else { LogMode::Once };
    let query = LogQuery { service: flags.service.clone(), lines: flags.lines, mode };
    let interrupted = super::interruption()?;
    // A reader that closed the pipe (`| head`) has seen enough.
    let mut sink = |line: LogLine| {
        if write(&line, flags.json).is_err() {
            std::process::exit(0);
        }
    };
    deploy::logs(&state, &query, &interrupted, &mut sink)
}

fn write(line: &LogLine, as_json: bool) -> Result<()> {
    let mut out = stdout().lock();
    if as_json {
        writeln!(out, "{}", serde_json::to_string(line)?)?;
    } else {
        writeln!(out, "{} | {}", line.slot, line.text)?;
    }
    Ok(())
}
