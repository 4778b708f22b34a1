//! `cargo xtask cache`: what is kept of earlier builds, and where.

use ::build::Session;
use ::cache::Mode;
use anyhow::{Result, anyhow};

use crate::exit::{Code, ResultExt};
use crate::flags::{self, CacheCommand};
use crate::render::{self, Progress};

/// Events in which a run on GitHub builds what somebody proposes, or what a person started on a branch of theirs.
const TRUSTED_EVENTS: [&str; 2] = ["push", "schedule"];

pub(crate) fn run(flags: &flags::Cache) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let session =
        |mode| Session::open(&root).map(|session| session.with_cache(mode)).or_exit(Code::Configuration);
    match &flags.command {
        CacheCommand::Stats(flags) => {
            let stores = session(Mode::Local)?.stores()?;
            render::cache_stats(&stores, &stores.local.usage()?, flags.json)
        }
        CacheCommand::Gc(flags) => {
            let stores = session(Mode::Local)?.stores()?;
            let limit = flags.limit.unwrap_or(stores.limit);
            let removed =
                if flags.dry_run { stores.local.excess(limit) } else { stores.local.collect(limit) };
            render::cache_removed(&removed?, flags.json)
        }
        CacheCommand::Push(flags) => {
            let session = session(choose(Some(Mode::ReadWrite), &variable)?)?;
            let (progress, interrupted) = (Progress::new(), super::interruption()?);
            let moved = session.push_cache(&flags.services, flags.dry_run, &progress, &interrupted);
            progress.finish();
            render::cache_moved(&moved.or_exit(Code::Configuration)?, flags.json)
        }
        CacheCommand::Pull(flags) => {
            let session = session(choose(Some(Mode::Local), &variable)?)?;
            let progress = Progress::new();
            let moved = session.pull_cache(&flags.services, flags.dry_run, &progress);
            progress.finish();
            render::cache_moved(&moved.or_exit(Code::Configuration)?, flags.json)
        }
    }
}

/// How results are used: as the command line says, or the variable, or the default. A run on GitHub that builds what nobody has
/// agreed to yet never writes, whatever is asked for.
pub(crate) fn mode(flags: &flags::CacheMode) -> Result<Mode> {
    choose(flags.mode, &variable)
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

fn choose(asked: Option<Mode>, env: &dyn Fn(&str) -> Option<String>) -> Result<Mode> {
    let mode = match (asked, env("SLIPWAY_CACHE")) {
        (Some(mode), _) => mode,
        (None, Some(text)) => text.parse().map_err(|error| anyhow!("SLIPWAY_CACHE: {error}"))?,
        (None, None) => Mode::default(),
    };
    let is_on_github = env("GITHUB_ACTIONS").is_some_and(|value| value == "true");
    let event = env("GITHUB_EVENT_NAME").unwrap_or_default();
    let is_trusted = !is_on_github || TRUSTED_EVENTS.contains(&event.as_str());
    Ok(if is_trusted || mode == Mode::Off { mode } else { Mode::Read })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_counts_before_the_variable_and_a_proposed_change_never_writes() {
        let check = |asked: Option<Mode>, env: &[(&str, &str)], expected: Mode| {
            let found =
                |name: &str| env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            assert_eq!(choose(asked, &found).unwrap(), expected, "{asked:?} {env:?}");
        };
        check(None, &[], Mode::Local);
        check(None, &[("SLIPWAY_CACHE", "read-write")], Mode::ReadWrite);
        check(Some(Mode::Off), &[("SLIPWAY_CACHE", "read-write")], Mode::Off);
        for event in
            ["pull_request", "pull_request_target", "merge_group", "workflow_dispatch", "issue_comment", ""]
        {
            let env = [("GITHUB_ACTIONS", "true"), ("GITHUB_EVENT_NAME", event)];
            check(Some(Mode::ReadWrite), &env, Mode::Read);
            check(None, &env, Mode::Read);
            check(Some(Mode::Off), &env, Mode::Off);
        }
        check(
            Some(Mode::ReadWrite),
            &[("GITHUB_ACTIONS", "true"), ("GITHUB_EVENT_NAME", "push")],
            Mode::ReadWrite,
        );
        assert!(choose(None, &|_| Some("on".to_owned())).is_err());
    }
}
