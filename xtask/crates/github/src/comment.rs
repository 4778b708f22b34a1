//! The pull-request comment that is updated in place. It is found by a marker that readers do not see. Invariant: only a comment
//! that begins with the marker *and* was written by who we are is changed; anyone may write the marker.

use anyhow::Result;
use serde_json::{Value, json};

use crate::call::Call;
use crate::client::Client;
use crate::failure::Failure;
use crate::request::Comment;
use crate::response::Outcome;
use crate::run::Plan;
use crate::{difference, files, markdown};

const NEEDS: &str =
    "the permission `pull-requests: write` (a workflow on a pull request from a fork never has it)";

/// A comment as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    pull: u64,
    body: String,
}

/// A comment of ours that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    id: u64,
    body: String,
    url: Option<String>,
}

/// Who writes with our token.
enum Author {
    /// An app: its login cannot be asked for with its own token, its kind is seen on comments.
    App,
    Login(String),
}

pub(crate) async fn plan(client: &Client, comment: &Comment) -> Result<Plan, Failure> {
    let wanted = load(comment)?;
    let author = match client.is_app() {
        true => Author::App,
        false => {
            let call = Call::get("/user", "ask whose token it is", "to be a user's token");
            let answer = client.send(&call).await?;
            let login = answer.body["login"].as_str();
            Author::Login(
                login.ok_or_else(|| Failure::unexpected(&call, "the answer has no `login`"))?.to_owned(),
            )
        }
    };
    let path = format!("{}/issues/{}/comments", client.repository(), comment.pull);
    let comments =
        client.list(&Call::get(path, "list the comments of the pull request", NEEDS), None).await?;
    let marker = marker(&comment.name);
    let ours: Vec<_> = comments.iter().filter_map(|comment| author.own(comment, &marker)).collect();
    lower(&client.repository(), &wanted, &ours)
}

impl Author {
    /// The comment, if it begins with the marker and is ours.
    fn own(&self, comment: &Value, marker: &str) -> Option<Observed> {
        let body = comment["body"].as_str().filter(|body| body.starts_with(marker))?;
        let user = &comment["user"];
        let is_ours = match self {
            Author::App => user["type"] == "Bot",
            Author::Login(login) => user["login"] == login.as_str(),
        };
        is_ours.then_some(())?;
        let url = comment["html_url"].as_str().map(str::to_owned);
        Some(Observed { id: comment["id"].as_u64()?, body: body.to_owned(), url })
    }
}

fn marker(name: &str) -> String {
    format!("<!-- slipway:comment:{name} -->")
}

/// Composes the comment from the files that it is made of.
pub(crate) fn load(comment: &Comment) -> Result<Wanted, Failure> {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if comment.name.is_empty() || comment.name.len() > 50 || !comment.name.bytes().all(is_plain) {
        return Err(Failure::Input(format!(
            "`{}` cannot name a comment: 1 to 50 lower-case letters, digits and dashes",
            comment.name
        )));
    }
    let sections = || -> Result<Vec<String>> {
        let parts = [
            comment.title.as_ref().map(|title| format!("## {title}\n")),
            comment.body.as_deref().map(files::text).transpose()?,
            difference::images(&comment.builds)?,
            difference::dependencies(&comment.sboms)?,
            difference::findings(&comment.scans)?,
        ];
        Ok(parts.into_iter().flatten().collect())
    };
    let sections = sections().map_err(|error| Failure::input(&error))?;
    if sections.is_empty() {
        return Err(Failure::Input(
            "there is nothing to say: name a file with --body, --build, --sbom or --scan".to_owned(),
        ));
    }
    let body = format!("{}\n{}", marker(&comment.name), sections.join("\n"));
    Ok(Wanted { pull: comment.pull, body: markdown::bounded(&body, markdown::MAX_BODY) })
}

pub(crate) fn lower(repository: &str, wanted: &Wanted, ours: &[Observed]) -> Result<Plan, Failure> {
    let mut plan = Plan {
        thing: "comment",
        outcome: Outcome::Created,
        calls: Vec::new(),
        id: None,
        url: None,
        notes: Vec::new(),
    };
    let body = json!({ "body": wanted.body });
    let Some(first) = ours.first() else {
        let path = format!("{repository}/issues/{}/comments", wanted.pull);
        plan.calls.push(Call::post(path, body, "write the comment", NEEDS).keeps(&[("id", "comment")]));
        return Ok(plan);
    };
    (plan.id, plan.url) = (Some(first.id), first.url.clone());
    if ours.len() > 1 {
        plan.notes.push(format!(
            "{} comments of this name are there; the first one is kept up to date",
            ours.len()
        ));
    }
    // GitHub gives line breaks back as they were typed into its own form, and trims the end.
    let same = |text: &str| text.replace("\r\n", "\n").trim_end().to_owned();
    if same(&first.body) == same(&wanted.body) {
        plan.outcome = Outcome::Unchanged;
        return Ok(plan);
    }
    plan.outcome = Outcome::Updated;
    let path = format!("{repository}/issues/comments/{}", first.id);
    plan.calls.push(Call::patch(path, body, "update the comment", NEEDS));
    Ok(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::Compared;

    fn comment(name: &str) -> Comment {
        Comment {
            pull: 4,
            name: name.into(),
            title: Some("Report".into()),
            body: None,
            builds: Compared::default(),
            sboms: Compared::default(),
            scans: Compared::default(),
        }
    }

    #[test]
    fn only_our_own_comment_with_the_marker_first_is_ours() {
        let marker = marker("report");
        let made = |login: &str, kind: &str, body: String| json!({ "id": 1, "html_url": "u", "body": body, "user": { "login": login, "type": kind } });
        let ours = made("me", "User", format!("{marker}\ntext"));
        let author = Author::Login("me".into());
        assert!(author.own(&ours, &marker).is_some());
        assert!(author.own(&made("you", "User", format!("{marker}\ntext")), &marker).is_none());
        assert!(author.own(&made("me", "User", format!("> {marker}")), &marker).is_none());
        assert!(Author::App.own(&ours, &marker).is_none());
        assert!(Author::App.own(&made("github-actions[bot]", "Bot", marker.clone()), &marker).is_some());
        assert!(author.own(&json!({ "body": null }), &marker).is_none());
    }

    #[test]
    fn an_equal_comment_is_left_alone() {
        let wanted = load(&comment("report")).unwrap();
        let there = |body: &str| Observed { id: 9, body: body.into(), url: None };
        let plan = |ours: &[Observed]| lower("/repos/o/r", &wanted, ours).unwrap();
        assert_eq!(plan(&[]).calls[0].path, "/repos/o/r/issues/4/comments");
        assert_eq!(plan(&[there(&wanted.body.replace('\n', "\r\n"))]).outcome, Outcome::Unchanged);
        let other = plan(&[there("other"), there("again")]);
        assert_eq!((other.calls[0].path.as_str(), other.notes.len()), ("/repos/o/r/issues/comments/9", 1));
    }

    #[test]
    fn names_cannot_end_the_marker() {
        for bad in ["", "a-->", "A", "a b"] {
            assert!(load(&comment(bad)).is_err(), "{bad}");
        }
    }
}
