//! What a run on GitHub is for: the exact commit that a change is compared with, and whether its code is to be trusted with
//! the permission to show findings. The event's document was partly written by whoever opened the pull request: it is parsed with
//! bounds, and only commits of the right form come out. It runs no command.

use anyhow::{Context, Result, bail};
use serde::Deserialize;

/// More than any event of GitHub's is (it truncates them at 25 MB; what is needed here stands in far less).
pub const MAX_EVENT_BYTES: u64 = 32 * 1024 * 1024;

/// What a change is compared with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Base {
    /// The last common commit with this one.
    MergeBase(String),
    /// This commit.
    Commit(String),
    /// Nothing: everything counts as changed.
    Everything,
}

/// What a run is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What the change is compared with.
    pub base: Base,
    /// Whether the run's token may write: not so for forks and bots, whatever the workflow asks for.
    pub may_write: bool,
}

#[derive(Deserialize)]
struct Payload {
    pull_request: Option<PullRequest>,
    merge_group: Option<MergeGroup>,
    before: Option<String>,
    repository: Option<Repository>,
}

#[derive(Deserialize)]
struct PullRequest {
    base: Side,
    head: Side,
    user: Option<User>,
}

#[derive(Deserialize)]
struct Side {
    sha: String,
    repo: Option<Repository>,
}

#[derive(Deserialize)]
struct Repository {
    id: u64,
}

#[derive(Deserialize)]
struct User {
    login: String,
}

#[derive(Deserialize)]
struct MergeGroup {
    base_sha: String,
}

impl Event {
    /// A run on this machine: compared with the last common commit with the default branch. Showing findings says here where they
    /// are, which anybody may.
    pub fn local(default_branch: &str) -> Event {
        Event { base: Base::MergeBase(default_branch.to_owned()), may_write: true }
    }

    /// The event `name` with its document.
    ///
    /// # Errors
    /// When the document is too long, is not what GitHub sends for that event, or has something else where a commit belongs.
    pub fn parse(name: &str, document: &[u8]) -> Result<Event> {
        if document.len() as u64 > MAX_EVENT_BYTES {
            bail!("the event's document has more than {MAX_EVENT_BYTES} bytes");
        }
        let payload: Payload =
            serde_json::from_slice(document).context("the event's document is not what GitHub sends")?;
        let missing = |key: &str| format!("the event `{name}` has no `{key}`");
        match name {
            "pull_request" => {
                let request = payload.pull_request.with_context(|| missing("pull_request"))?;
                let own = payload.repository.with_context(|| missing("repository"))?.id;
                // A fork that was deleted meanwhile has no repository.
                let is_own = request.head.repo.is_some_and(|repo| repo.id == own);
                let is_bot = request.user.is_some_and(|user| user.login == "dependabot[bot]");
                let base = Base::MergeBase(commit(&request.base.sha)?);
                Ok(Event { base, may_write: is_own && !is_bot })
            }
            "merge_group" => {
                let group = payload.merge_group.with_context(|| missing("merge_group"))?;
                Ok(Event { base: Base::Commit(commit(&group.base_sha)?), may_write: true })
            }
            "push" => {
                let before = commit(&payload.before.with_context(|| missing("before"))?)?;
                // A new branch or tag has nothing before it.
                let is_new = before.chars().all(|c| c == '0');
                let base = if is_new { Base::Everything } else { Base::Commit(before) };
                Ok(Event { base, may_write: true })
            }
            _ => Ok(Event { base: Base::Everything, may_write: true }),
        }
    }
}

/// Nothing but a commit may become an argument of git.
fn commit(text: &str) -> Result<String> {
    let is_commit = matches!(text.len(), 40 | 64) && text.chars().all(|c| c.is_ascii_hexdigit());
    if !is_commit {
        bail!("{:?} is not a commit", text.chars().take(80).collect::<String>());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn sha(digit: &str) -> String {
        digit.repeat(40)
    }

    fn parse(name: &str, document: &Value) -> Result<Event> {
        Event::parse(name, document.to_string().as_bytes())
    }

    fn pull_request(head: &Value, login: &str) -> Value {
        json!({
            "repository": {"id": 1},
            "pull_request": {"base": {"sha": sha("a")}, "head": {"sha": sha("b"), "repo": head}, "user": {"login": login}},
        })
    }

    #[test]
    fn each_event_has_its_exact_base() {
        let check = |name: &str, document: Value, base: Base, may_write: bool| {
            assert_eq!(parse(name, &document).unwrap(), Event { base, may_write }, "{name}");
        };
        check("pull_request", pull_request(&json!({"id": 1}), "me"), Base::MergeBase(sha("a")), true);
        check("pull_request", pull_request(&json!({"id": 2}), "me"), Base::MergeBase(sha("a")), false);
        check("pull_request", pull_request(&Value::Null, "me"), Base::MergeBase(sha("a")), false);
        check(
            "pull_request",
            pull_request(&json!({"id": 1}), "dependabot[bot]"),
            Base::MergeBase(sha("a")),
            false,
        );
        check("merge_group", json!({"merge_group": {"base_sha": sha("c")}}), Base::Commit(sha("c")), true);
        check("push", json!({"before": sha("d")}), Base::Commit(sha("d")), true);
        check("push", json!({"before": sha("0")}), Base::Everything, true);
        check("schedule", json!({}), Base::Everything, true);
    }

    #[test]
    fn hostile_documents_are_refused_and_nothing_panics() {
        for bad in ["--upload-pack=x", "HEAD", "main", "", "a b", "$(id)"] {
            assert!(parse("push", &json!({"before": bad})).is_err(), "{bad}");
            assert!(parse("merge_group", &json!({"merge_group": {"base_sha": bad}})).is_err(), "{bad}");
        }
        let good = pull_request(&json!({"id": 1}), "me").to_string().into_bytes();
        for index in 0..good.len() {
            for byte in [0, b'"', b'{', b'9', 0xff] {
                let mut bytes = good.clone();
                bytes[index] = byte;
                let _ = Event::parse("pull_request", &bytes);
                let _ = Event::parse("pull_request", &good[..index]);
            }
        }
        let deep = "[".repeat(100_000);
        assert!(Event::parse("push", deep.as_bytes()).is_err());
    }
}
