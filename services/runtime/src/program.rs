//! The common main of the services: command line, configuration, logs, tokio runtime, exit code. It does not know
//! what the service does.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::build_info::BuildInfo;
use crate::config::{self, Reader, Source};
use crate::healthcheck;
use crate::logs;
use crate::settings::Common;
use crate::shutdown::Shutdown;

const USAGE: &str = "usage: [--config FILE] [healthcheck | --version | --help]";

/// How a program ends, after sysexits.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum Exit {
    /// Asked to stop and did so, or the check passed.
    Done = 0,
    /// The check failed.
    Unhealthy = 1,
    /// The command line is wrong.
    Usage = 64,
    /// Something it needs cannot be had (port, data folder), or work was cut off at the end.
    Unavailable = 69,
    /// The configuration is wrong.
    Configuration = 78,
}

/// What a service is to the common main.
pub struct Service<C, R> {
    /// Its identity.
    pub build: BuildInfo,
    /// Reads its settings.
    pub read: fn(&mut Reader<'_>) -> C,
    /// The shared part of its settings.
    pub common: fn(&C) -> &Common,
    /// Runs it until shutdown.
    pub run: fn(C, Shutdown) -> R,
}

/// Runs a service as this process.
pub fn main<C, R: Future<Output = Result<()>>>(service: &Service<C, R>) -> ExitCode {
    ExitCode::from(dispatch(service) as u8)
}

fn dispatch<C, R: Future<Output = Result<()>>>(service: &Service<C, R>) -> Exit {
    let arguments = match Arguments::parse(std::env::args_os().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{}: {error}\n{USAGE}", service.build.name);
            return Exit::Usage;
        }
    };
    match arguments.command {
        Command::Help => {
            println!("{} {}\n{USAGE}", service.build.name, service.build.release());
            return Exit::Done;
        }
        Command::Version => {
            println!("{} {}", service.build.name, service.build.release());
            return Exit::Done;
        }
        Command::Serve | Command::Healthcheck => {}
    }
    let settings = match Source::load(arguments.config).and_then(|source| config::read(&source, service.read))
    {
        Ok(settings) => settings,
        Err(problems) => {
            eprintln!("{}: the configuration is not valid\n{problems}", service.build.name);
            return Exit::Configuration;
        }
    };
    if arguments.command == Command::Healthcheck {
        let http = &(service.common)(&settings).http;
        return report(healthcheck::run(http.host, http.port), Exit::Unhealthy);
    }
    report(serve(service, settings), Exit::Unavailable)
}

fn report(result: Result<()>, failure: Exit) -> Exit {
    match result {
        Ok(()) => Exit::Done,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "failed");
            eprintln!("{error:#}");
            failure
        }
    }
}

fn serve<C, R: Future<Output = Result<()>>>(service: &Service<C, R>, settings: C) -> Result<()> {
    logs::start((service.common)(&settings).log_level);
    tracing::info!(service = service.build.name, release = (service.common)(&settings).release, "starting");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("failed to start the threads of the runtime")?;
    let result = runtime.block_on(async {
        let shutdown = Shutdown::on_signals().context("failed to listen for signals")?;
        (service.run)(settings, shutdown).await
    });
    // A computation that is still running must not hold up the end: its result has no reader any more.
    runtime.shutdown_background();
    result
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Command {
    Serve,
    Healthcheck,
    Version,
    Help,
}

#[derive(Debug, PartialEq, Eq)]
struct Arguments {
    config: Option<PathBuf>,
    command: Command,
}

impl Arguments {
    fn parse(arguments: impl Iterator<Item = OsString>) -> Result<Self, String> {
        let mut parsed = Self { config: None, command: Command::Serve };
        let mut arguments = arguments;
        while let Some(argument) = arguments.next() {
            parsed.command = match argument.to_str() {
                Some("--config") => {
                    parsed.config = Some(arguments.next().ok_or("--config needs a file")?.into());
                    continue;
                }
                Some("healthcheck") => Command::Healthcheck,
                Some("--version" | "-V") => Command::Version,
                Some("--help" | "-h") => Command::Help,
                _ => return Err(format!("unknown argument {}", argument.display())),
            };
        }
        Ok(parsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Arguments, String> {
        Arguments::parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn arguments_are_few() {
        assert_eq!(parse(&[]), Ok(Arguments { config: None, command: Command::Serve }));
        assert_eq!(
            parse(&["--config", "a.yaml", "healthcheck"]),
            Ok(Arguments { config: Some("a.yaml".into()), command: Command::Healthcheck })
        );
        assert_eq!(parse(&["--config"]), Err("--config needs a file".to_owned()));
        assert_eq!(parse(&["run"]), Err("unknown argument run".to_owned()));
    }
}
