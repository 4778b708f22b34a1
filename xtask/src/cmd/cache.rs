//! `cargo xtask cache`: what is kept of earlier builds, and where.

use std::fs::File;
use std::io::Read;

use ::build::Session;
use ::cache::Mode;
use anyhow::{Result, anyhow};
use serde_json::Value;

use crate::exit::{Code, ResultExt};
use crate::flags::{self, CacheCommand};
use crate::render::{self, Progress};

/// GitHub's documents about events have at most 25 MB.
const MAX_EVENT: u64 = 25 << 20;

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
            let limit = flags.limit.map_or(stores.limit, |limit| limit.0);
            let removed =
                if flags.dry_run { stores.local.excess(limit) } else { stores.local.collect(limit) };
            render::cache_removed(&removed?, flags.dry_run, flags.json)
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

/// Whether somebody asked for a way to use results.
pub(crate) fn is_asked_for(flags: &flags::CacheMode) -> bool {
    flags.mode.is_some() || variable("SLIPWAY_CACHE").is_some()
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
    let is_trusted = !is_on_github || is_agreed(env);
    Ok(if is_trusted || mode == Mode::Off { mode } else { Mode::Read })
}

/// Whether GitHub runs what is on the default branch, for an event that nobody else can bring about.
fn is_agreed(env: &dyn Fn(&str) -> Option<String>) -> bool {
    match env("GITHUB_EVENT_NAME").as_deref() {
        Some("schedule") => true,
        // Whoever may push a branch may push to any, and robots push what they propose.
        Some("push") => default_branch(env)
            .is_some_and(|branch| env("GITHUB_REF") == Some(format!("refs/heads/{branch}"))),
        _ => false,
    }
}

fn default_branch(env: &dyn Fn(&str) -> Option<String>) -> Option<String> {
    let path = env("GITHUB_EVENT_PATH")?;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_EVENT).read_to_end(&mut bytes).ok()?;
    let event: Value = serde_json::from_slice(&bytes).ok()?;
    Some(event["repository"]["default_branch"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_have_units() {
        let bytes = |text: &str| text.parse::<flags::Size>().map(|size| size.0).ok();
        assert_eq!(
            [bytes("5"), bytes("500MB"), bytes("10GiB"), bytes("1 kib")],
            [Some(5), Some(500_000_000), Some(10 << 30), Some(1024)]
        );
        for wrong in ["", "GiB", "1.5GiB", "-1", "10G", "99999999999TiB"] {
            assert_eq!(bytes(wrong), None, "{wrong}");
        }
    }

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
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("event.json");
        std::fs::write(&path, r#"{"repository":{"default_branch":"main"}}"#).unwrap();
        let path = path.to_str().unwrap();
        for (git_ref, path, expected) in [
            ("refs/heads/main", path, Mode::ReadWrite),
            ("refs/heads/robot/main", path, Mode::Read),
            ("refs/tags/main", path, Mode::Read),
            ("refs/heads/main", "/no/such/file", Mode::Read),
        ] {
            let event = [("GITHUB_EVENT_NAME", "push"), ("GITHUB_REF", git_ref), ("GITHUB_EVENT_PATH", path)];
            check(Some(Mode::ReadWrite), &[&[("GITHUB_ACTIONS", "true")], &event[..]].concat(), expected);
        }
        assert!(choose(None, &|_| Some("on".to_owned())).is_err());
    }
}
