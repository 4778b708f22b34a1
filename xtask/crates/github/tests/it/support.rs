//! Starts the program with a request and reads its response.

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

/// Planted as the token: must never be seen in any output.
pub(crate) const TOKEN: &str = "ghs_PlantedTokenThatMustNeverBeSeen0123";

/// A commit.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// How a run of the program ended.
pub(crate) struct Run {
    pub(crate) response: Value,
    pub(crate) stderr: String,
}

impl Run {
    #[track_caller]
    pub(crate) fn done(&self) -> &Value {
        assert!(self.response["done"].is_object(), "{}\n{}", self.response, self.stderr);
        &self.response["done"]
    }

    #[track_caller]
    pub(crate) fn outcome(&self) -> &str {
        self.done()["outcome"].as_str().unwrap()
    }

    /// Asserts the kind of the failure and parts of its message.
    #[track_caller]
    pub(crate) fn fails(&self, kind: &str, texts: &[&str]) {
        let error = &self.response["error"];
        assert_eq!(error["kind"], kind, "{}\n{}", self.response, self.stderr);
        for text in texts {
            assert!(error["message"].as_str().unwrap().contains(text), "`{text}` is not in {error}");
        }
    }
}

/// The request document for an action.
#[allow(clippy::needless_pass_by_value, reason = "callers make the action on the spot")]
pub(crate) fn request(api: &str, action: Value) -> Value {
    json!({
        "schema": "slipway.github-request/1", "api": api, "repository": "octocat/example", "dry_run": false,
        "max_wait_ms": 5_000, "timeout_ms": 20_000, "action": action,
    })
}

/// Runs the program with the planted token.
pub(crate) fn run(request: &Value) -> Run {
    run_with(request, &[("GITHUB_TOKEN", TOKEN)])
}

/// Runs the program with other variables.
pub(crate) fn run_with(request: &Value, env: &[(&str, &str)]) -> Run {
    let mut child = Command::new(env!("CARGO_BIN_EXE_slipway-github"))
        .env_remove("GH_TOKEN")
        .env_remove("GITHUB_TOKEN")
        .envs(env.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(request.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let (stdout, stderr) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(!stdout.contains(TOKEN) && !stderr.contains(TOKEN), "the token is shown: {stdout}{stderr}");
    assert!(output.status.success(), "{stdout}{stderr}");
    Run { response: serde_json::from_str(&stdout).unwrap(), stderr }
}

/// A deployment that begins: the action that most error cases are shown with.
pub(crate) fn deployment_start() -> Value {
    json!({ "deployment-start": {
        "environment": "production", "commit": COMMIT, "key": "run-1", "description": "release 7",
        "environment_url": "https://example.org", "log_url": "https://ci.example.org/1", "production": true } })
}

/// The end of the same deployment.
pub(crate) fn deployment_finish(state: &str) -> Value {
    json!({ "deployment-finish": {
        "environment": "production", "key": "run-1", "state": state, "description": null,
        "environment_url": "https://example.org", "log_url": "https://ci.example.org/1", "auto_inactive": true } })
}
