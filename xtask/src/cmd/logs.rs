//! `cargo xtask logs`: what services wrote.

use std::io::{Write, stdout};
use std::path::Path;

use anyhow::{Error, Result};
use deploy::{LOCAL, LogLine, LogMode, LogQuery};

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
    deploy::logs(&state, &query, &interrupted, &mut sink).map_err(|error| explain(error, &root, flags))
}

/// The first word of `logs` is a service, and that of its neighbours an environment.
fn explain(error: deploy::Error, root: &Path, flags: &flags::Logs) -> Error {
    let is_environment = |name: &&String| {
        let file = root.join(format!("deploy/environments/{name}.yaml"));
        deploy::check_name(name).is_ok() && (*name == LOCAL || file.exists())
    };
    let is_refused = matches!(error, deploy::Error::Preflight(_));
    let error = Error::new(error);
    match flags.service.as_ref().filter(is_environment) {
        Some(name) if is_refused => error.context(format!(
            "`{name}` is the name of an environment: its logs are shown by `cargo xtask logs --environment {name}`"
        )),
        _ => error,
    }
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
