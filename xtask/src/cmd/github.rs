//! `cargo xtask github`: load what surrounds us, ask `slipway-github`, report. The work is done by that program; see ADR 6.

use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use serde_json::{Value, json};

use crate::exit::{Code, ResultExt};
use crate::flags::{
    Github, GithubCheck, GithubCommand, GithubComment, GithubCommon, GithubDeployment, GithubLevel,
    GithubRelease, GithubReleaseCommand, GithubReleaseDownload, GithubState, GithubStatus,
};
use crate::github::{Missing, Surroundings, ask};
use crate::render;

/// One request may take so long, uploads apart.
const TIMEOUT_MS: u64 = 30_000;

/// Failures that `--optional` takes for "not here": a token that may not write is what pull requests from forks have.
const ABSENT: [&str; 2] = ["no-token", "permission"];

/// Failures that the caller can mend, after which nothing has to be cleaned up.
const MENDABLE: [&str; 6] = ["no-token", "token", "permission", "not-found", "input", "refused"];

pub(crate) fn run(flags: &Github) -> Result<()> {
    let GithubCommon { optional, dry_run, json, .. } = flags.common;
    let request = match request(flags) {
        Err(error) if optional && error.is::<Missing>() => {
            return render::github_skipped(&error.to_string(), json);
        }
        request => request.or_exit(Code::Configuration)?,
    };
    let response = ask(&request)?;
    let error = &response["error"];
    if error.is_null() {
        return render::github(&response, dry_run, json);
    }
    let (kind, message) = (error["kind"].as_str().unwrap_or_default(), error["message"].as_str());
    let message = message.unwrap_or("slipway-github gave no reason").to_owned();
    if optional && ABSENT.contains(&kind) {
        return render::github_skipped(&message, json);
    }
    let code = match kind {
        "interrupted" => Code::Interrupted,
        _ if MENDABLE.contains(&kind) => Code::Configuration,
        _ => Code::Other,
    };
    Err(anyhow!(message)).or_exit(code)
}

/// The request document.
fn request(flags: &Github) -> Result<Value> {
    let here = Surroundings::load()?;
    let GithubCommon { repository, dry_run, max_wait, .. } = &flags.common;
    if !dry_run {
        here.need_token()?;
    }
    let repository = match repository {
        Some(repository) => repository.clone(),
        None => here.repository()?,
    };
    let action = match &flags.command {
        GithubCommand::Deployment(GithubDeployment::Start(start)) => {
            let commit = commit(start.commit.as_ref(), here.source_commit())?;
            let mut action = status(&here, &start.status, &repository)?;
            action["commit"] = json!(commit);
            action["production"] = json!(start.production);
            json!({ "deployment-start": action })
        }
        GithubCommand::Deployment(GithubDeployment::Finish(finish)) => {
            let mut action = status(&here, &finish.status, &repository)?;
            action["state"] = json!(match finish.state {
                GithubState::Success => "success",
                GithubState::Failure => "failure",
                GithubState::Error => "error",
                GithubState::Inactive => "inactive",
            });
            action["auto_inactive"] = json!(!finish.keep_earlier);
            json!({ "deployment-finish": action })
        }
        GithubCommand::Check(check) => json!({ "check": self::check(&here, check, &repository)? }),
        GithubCommand::Comment(comment) => json!({ "comment": self::comment(&here, comment)? }),
        GithubCommand::Release(GithubRelease { command: Some(command), .. }) => {
            let GithubReleaseCommand::Download(GithubReleaseDownload { tag, into }) = command;
            json!({ "release-download": { "tag": tag, "into": into } })
        }
        GithubCommand::Release(release) => json!({ "release": self::release(release)? }),
    };
    Ok(json!({
        "schema": "slipway.github-request/1",
        "api": here.api,
        "repository": repository,
        "dry_run": dry_run,
        "max_wait_ms": u64::from(*max_wait) * 1_000,
        "timeout_ms": TIMEOUT_MS,
        "action": action,
    }))
}

fn status(here: &Surroundings, status: &GithubStatus, repository: &str) -> Result<Value> {
    let key = match (&status.key, here.run_key()) {
        (Some(key), _) => key.clone(),
        (None, Some(key)) => key,
        (None, None) => commit(None, here.source_commit())?,
    };
    Ok(json!({
        "environment": status.environment,
        "key": key,
        "description": status.description,
        "environment_url": status.url,
        "log_url": status.log_url.clone().or_else(|| here.run_url(repository)),
    }))
}

fn check(here: &Surroundings, check: &GithubCheck, repository: &str) -> Result<Value> {
    Ok(json!({
        "name": check.name,
        "commit": commit(check.commit.as_ref(), here.shown_commit()?)?,
        "files": check.files,
        "summary": check.summary,
        "fail_on": match check.fail_on {
            GithubLevel::Notice => "notice",
            GithubLevel::Warning => "warning",
            GithubLevel::Failure => "failure",
        },
        "details_url": check.details_url.clone().or_else(|| here.run_url(repository)),
    }))
}

fn comment(here: &Surroundings, comment: &GithubComment) -> Result<Value> {
    let pull = match comment.pull {
        Some(pull) => pull,
        None => here.pull()?,
    };
    Ok(json!({
        "pull": pull,
        "name": comment.name,
        "title": comment.title,
        "body": comment.body,
        "builds": { "base": comment.base_build, "head": comment.build },
        "sboms": { "base": comment.base_sbom, "head": comment.sbom },
        "scans": { "base": comment.base_scan, "head": comment.scan },
    }))
}

fn release(release: &GithubRelease) -> Result<Value> {
    Ok(json!({
        "tag": release.tag,
        "commit": release.commit,
        "title": release.title,
        "notes": release.notes,
        "assets": files(&release.assets)?,
        "draft": release.draft,
        "prerelease": release.prerelease,
        "replace": release.replace,
    }))
}

/// The files named, and those in the folders named. A folder within one is an error: a release has no folders, and to leave it out
/// silently would be to release less than was asked for.
fn files(named: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for path in named {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        let read = || format!("cannot read {}", path.display());
        let entries = std::fs::read_dir(path).with_context(read)?;
        let mut inside =
            entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>().with_context(read)?;
        if let Some(folder) = inside.iter().find(|path| path.is_dir()) {
            bail!("{} is a folder in a folder; a release has files only: name its files", folder.display());
        }
        if inside.is_empty() {
            bail!("{} has no files to attach", path.display());
        }
        inside.sort();
        files.append(&mut inside);
    }
    Ok(files)
}

fn commit(given: Option<&String>, found: Option<String>) -> Result<String> {
    given.cloned().or(found).context("there is no commit here: name it with --commit")
}
