//! The repository, run, commit and pull request that this is about: from the variables of GitHub Actions, the event that started
//! the run, and git. The event is written by whoever opened the pull request: only numbers and commit ids are taken from it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use stdx::Cmd;

/// GitHub's own bound for events.
const MAX_EVENT: u64 = 25 << 20;

/// What `--optional` takes for "not here": no token, no repository, no pull request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Missing(pub(crate) String);

/// What is known without asking GitHub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Surroundings {
    variables: BTreeMap<String, String>,
    /// Base URL of the API.
    pub(crate) api: String,
    /// Whether a variable holds what may be a token.
    has_token: bool,
    /// What git says, where it says something.
    remote: Option<String>,
    head: Option<String>,
}

impl Surroundings {
    /// Reads the environment and asks git in the current folder.
    pub(crate) fn load() -> Result<Surroundings> {
        // The token's own value is never read: that it is there is enough.
        let is_set = |name: &str| std::env::var(name).is_ok_and(|value| !value.trim().is_empty());
        let names = ["API_URL", "SERVER_URL", "REPOSITORY", "SHA", "REF", "RUN_ID", "EVENT_PATH"];
        let variable = |name: &str| Some((name.to_owned(), std::env::var(format!("GITHUB_{name}")).ok()?));
        let variables: BTreeMap<_, _> =
            names.into_iter().filter_map(variable).filter(|(_, value)| !value.is_empty()).collect();
        let git = |args: &[&str]| Cmd::new("git").args(args).read().ok();
        Ok(Surroundings {
            api: variables.get("API_URL").cloned().unwrap_or_else(|| "https://api.github.com".to_owned()),
            has_token: is_set("GH_TOKEN") || is_set("GITHUB_TOKEN"),
            remote: git(&["remote", "get-url", "origin"]),
            head: git(&["rev-parse", "HEAD"]),
            variables,
        })
    }

    fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The host that people see: `github.com`, or the one of a server of one's own.
    fn server(&self) -> &str {
        self.variable("SERVER_URL").unwrap_or("https://github.com").trim_end_matches('/')
    }

    /// `owner/name`. A git remote on another host is not taken: the token is not meant for it.
    pub(crate) fn repository(&self) -> Result<String> {
        if let Some(repository) = self.variable("REPOSITORY") {
            return Ok(repository.to_owned());
        }
        let host = self.server().split("://").last().unwrap_or_default();
        match self.remote.as_deref().and_then(|remote| of_remote(remote, host)) {
            Some(repository) => Ok(repository),
            None => Err(Missing(format!(
                "there is no GITHUB_REPOSITORY and no git remote `origin` on {host}: name it with --repository OWNER/NAME"
            ))
            .into()),
        }
    }

    /// # Errors
    /// [`Missing`] without a variable that holds what may be a token.
    pub(crate) fn need_token(&self) -> Result<()> {
        match self.has_token {
            true => Ok(()),
            false => Err(Missing("there is no token: set GH_TOKEN or GITHUB_TOKEN".to_owned()).into()),
        }
    }

    /// The commit that is built here.
    pub(crate) fn source_commit(&self) -> Option<String> {
        self.variable("SHA").map(str::to_owned).or_else(|| self.head.clone())
    }

    /// The commit that people look at: for a pull request its head, not the merge that was built.
    pub(crate) fn shown_commit(&self) -> Result<Option<String>> {
        let event = self.event()?;
        let head = event["pull_request"]["head"]["sha"].as_str().filter(|sha| is_commit(sha));
        Ok(head.map(str::to_owned).or_else(|| self.source_commit()))
    }

    /// The number of the pull request that started the run.
    pub(crate) fn pull(&self) -> Result<u64> {
        let of_ref = || self.variable("REF")?.strip_prefix("refs/pull/")?.split('/').next()?.parse().ok();
        let number = self.event()?["pull_request"]["number"].as_u64().or_else(of_ref);
        let missing = || Missing("this is no run for a pull request: name its number with --pull".to_owned());
        Ok(number.ok_or_else(missing)?)
    }

    /// What tells this run from others, in all its attempts.
    pub(crate) fn run_key(&self) -> Option<String> {
        self.variable("RUN_ID").map(|id| format!("run-{id}"))
    }

    /// Where this run is shown.
    pub(crate) fn run_url(&self, repository: &str) -> Option<String> {
        let id = self.variable("RUN_ID")?;
        Some(format!("{}/{repository}/actions/runs/{id}", self.server()))
    }

    /// The event that started the run, `null` without one.
    fn event(&self) -> Result<Value> {
        let Some(path) = self.variable("EVENT_PATH").map(Path::new) else { return Ok(Value::Null) };
        let read = || -> Result<Value> {
            let mut bytes = Vec::new();
            File::open(path)?.take(MAX_EVENT + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_EVENT {
                bail!("it is longer than {MAX_EVENT} bytes");
            }
            Ok(serde_json::from_slice(&bytes)?)
        };
        read().with_context(|| format!("cannot use the event in {} (GITHUB_EVENT_PATH)", path.display()))
    }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// `owner/name` of a git remote on `host`, in the forms that git takes.
fn of_remote(remote: &str, host: &str) -> Option<String> {
    let rest = match remote.split_once("://") {
        Some((_, rest)) => {
            let (authority, path) = rest.split_once('/')?;
            let server = authority.rsplit('@').next()?;
            (server == host).then_some(path)?
        }
        None => {
            let (server, path) = remote.split_once(':')?;
            (server.rsplit('@').next()? == host).then_some(path)?
        }
    };
    let path = rest.trim_matches('/');
    let path = path.strip_suffix(".git").unwrap_or(path);
    (path.split('/').count() == 2).then(|| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn here(variables: &[(&str, &str)], remote: Option<&str>) -> Surroundings {
        Surroundings {
            variables: variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect(),
            api: String::new(),
            has_token: true,
            remote: remote.map(str::to_owned),
            head: Some("h".repeat(40)),
        }
    }

    #[test]
    fn the_repository_comes_from_actions_or_a_remote_on_the_same_host() {
        let of = |remote| here(&[], Some(remote)).repository().ok();
        for remote in [
            "https://github.com/o/r.git",
            "https://x-access-token:s3cret@github.com/o/r",
            "git@github.com:o/r.git",
            "ssh://git@github.com/o/r.git",
        ] {
            assert_eq!(of(remote).as_deref(), Some("o/r"), "{remote}");
        }
        for remote in [
            "https://evil.example/o/r",
            "https://github.com.evil.example/o/r",
            "/srv/r.git",
            "github.com",
            "",
        ] {
            assert_eq!(of(remote), None, "{remote}");
        }
        assert_eq!(here(&[("REPOSITORY", "a/b")], None).repository().unwrap(), "a/b");
        let own = here(&[("SERVER_URL", "https://g.example")], Some("git@g.example:o/r"));
        assert_eq!(own.repository().unwrap(), "o/r");
        let error = here(&[], Some("https://user:s3cret@evil.example/o/r")).repository().unwrap_err();
        assert!(!format!("{error:#}").contains("s3cret"));
    }

    #[test]
    fn an_event_gives_numbers_and_commits_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("event.json");
        let with = |event: &str| {
            std::fs::write(&path, event).unwrap();
            here(&[("EVENT_PATH", path.to_str().unwrap()), ("SHA", "s"), ("REF", "refs/pull/9/merge")], None)
        };
        let sha = "0123456789abcdef0123456789abcdef01234567";
        let event = format!("{{\"pull_request\":{{\"number\":7,\"head\":{{\"sha\":\"{sha}\"}}}}}}");
        assert_eq!(with(&event).pull().unwrap(), 7);
        assert_eq!(with(&event).shown_commit().unwrap().as_deref(), Some(sha));
        let hostile = with("{\"pull_request\":{\"number\":\"7; rm\",\"head\":{\"sha\":\"../../x\"}}}");
        assert_eq!((hostile.pull().unwrap(), hostile.shown_commit().unwrap().as_deref()), (9, Some("s")));
        assert!(with("{").pull().unwrap_err().to_string().contains("GITHUB_EVENT_PATH"));
        assert_eq!(with("[]").pull().unwrap(), 9);
    }
}
