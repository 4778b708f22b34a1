//! `cargo xtask logs`: what services wrote.

use std::path::Path;
use std::sync::atomic::Ordering;

use anyhow::{Error, Result};
use deploy::{LOCAL, LogLine, LogMode, LogQuery};

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::print_while_read;

pub(crate) fn run(flags: &flags::Logs) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let environment =
        flags::Environment { environment: flags.environment.clone(), state: flags.state.clone() };
    let state = super::deploy::state(&root, &environment)?;
    let mode = if flags.follow { LogMode::Follow } else { LogMode::Once };
    let query = LogQuery { service: flags.service.clone(), lines: flags.lines, mode };
    let interrupted = super::interruption()?;
    let mut failure = None;
    let mut sink = |line: LogLine| {
        if interrupted.load(Ordering::SeqCst) {
            return;
        }
        match write(&line, flags.json) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => failure = Some(error),
        }
        // Nobody reads any more: that ends following, too.
        interrupted.store(true, Ordering::SeqCst);
    };
    deploy::logs(&state, &query, &interrupted, &mut sink).map_err(|error| explain(error, &root, flags))?;
    failure.map_or(Ok(()), Err)
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

fn write(line: &LogLine, as_json: bool) -> Result<bool> {
    let text = if as_json { serde_json::to_string(line)? } else { format!("{} | {}", line.slot, line.text) };
    print_while_read(&format!("{text}\n"))
}
