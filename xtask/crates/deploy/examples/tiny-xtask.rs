//! Plays the part of the command line in tests: the hidden subcommands that supervisors and the edge are started
//! with, and a deployment in a process of its own, which a test may kill.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};
use deploy::{EnvironmentFile, Error, Launcher, Outcome, Progress, Site, Volumes};

fn main() -> Result<ExitCode> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["supervise", spec] => deploy::supervise(Path::new(spec))?,
        ["edge", state, options, instance] => {
            edge::serve(edge::Options::load(Path::new(options), Path::new(state), instance.parse()?)?)?;
        }
        ["deploy", state, layout, release, environments, name] => {
            return run(state, |site| {
                deploy(&Site { layout: Path::new(layout), ..site }, release, environments, name)
            });
        }
        ["down", state] => {
            return run(state, |site| {
                println!("{}", serde_json::to_string(&deploy::down(&site, Volumes::Keep)?)?);
                Ok(ExitCode::SUCCESS)
            });
        }
        ["status", state] => println!("{}", serde_json::to_string(&deploy::status(Path::new(state))?)?),
        _ => bail!("unknown arguments {args:?}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn run(state: &str, operation: impl FnOnce(Site<'_>) -> Result<ExitCode>) -> Result<ExitCode> {
    let program: PathBuf = std::env::current_exe().context("no path of myself")?;
    let site = Site {
        state: Path::new(state),
        layout: Path::new(""),
        launcher: Launcher {
            program,
            supervise_args: vec!["supervise".into()],
            edge_args: vec!["edge".into()],
        },
        command: std::env::args().skip(1).take(1).chain(["test".to_owned()]).collect::<Vec<_>>().join(" "),
        who: "somebody".to_owned(),
        interrupt: &AtomicBool::new(false),
        report: &|progress| {
            if !matches!(progress, Progress::Planned { .. }) {
                eprintln!("{progress:?}");
            }
        },
    };
    operation(site).or_else(|error| match error.downcast_ref::<Error>() {
        Some(Error::Preflight(_)) => {
            eprintln!("{error}");
            Ok(ExitCode::from(3))
        }
        _ => Err(error),
    })
}

fn deploy(site: &Site<'_>, release: &str, environments: &str, name: &str) -> Result<ExitCode> {
    let release = release::Release::load(Path::new(release))?;
    let file = EnvironmentFile::load(Path::new(environments), name)?;
    let outcome = deploy::deploy(site, &release, &file)?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(match outcome {
        Outcome::NothingToDo { .. } | Outcome::Deployed { .. } => ExitCode::SUCCESS,
        Outcome::RolledBack { .. } => ExitCode::from(20),
        Outcome::NeedsHuman { .. } => ExitCode::from(21),
        Outcome::Interrupted { .. } => ExitCode::from(130),
    })
}
