//! The response document: what was done, or why not. Wire types only.

use serde::Serialize;
use serde_json::Value;

use crate::failure::Failure;

/// The value of `schema` that this version writes.
pub const RESPONSE_SCHEMA: &str = "slipway.github/1";

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Response {
    /// Always [`RESPONSE_SCHEMA`].
    pub schema: &'static str,
    /// Present if it was carried out, or planned.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
    /// Present if it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<Error>,
}

/// What was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Done {
    /// What became of the thing asked for.
    pub outcome: Outcome,
    /// What it is: `deployment`, `check run`, `comment` or `release`.
    pub thing: &'static str,
    /// GitHub's number for it.
    pub id: Option<u64>,
    /// Where people see it.
    pub url: Option<String>,
    /// What the caller should know, in sentences.
    pub notes: Vec<String>,
    /// The requests that were sent, or would be sent, to change something or to fetch files.
    pub requests: Vec<Value>,
    /// Whether the repository was looked at first. Without a token a dry run takes it to be empty.
    pub observed: bool,
}

/// What became of the thing asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is new.
    Created,
    /// It was there and is different now.
    Updated,
    /// It was there just as asked for.
    Unchanged,
    /// It is here now.
    Fetched,
}

/// Why it was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Error {
    /// A word for programs, see [`Failure::kind`].
    pub kind: &'static str,
    /// For people.
    pub message: String,
}

impl Response {
    pub(crate) fn done(done: Done) -> Response {
        Response { schema: RESPONSE_SCHEMA, done: Some(done), error: None }
    }

    /// The response for a failure.
    pub fn failed(failure: &Failure) -> Response {
        let error = Error { kind: failure.kind(), message: failure.to_string() };
        Response { schema: RESPONSE_SCHEMA, done: None, error: Some(error) }
    }

    /// The document. Wherever a server sent the token back to us, it is blotted out.
    pub(crate) fn without(mut self, secret: &str) -> Response {
        let blot = |text: &mut String| *text = text.replace(secret, "***");
        if let Some(error) = &mut self.error {
            blot(&mut error.message);
        }
        if let Some(done) = &mut self.done {
            done.notes.iter_mut().chain(&mut done.url).for_each(blot);
            done.requests.iter_mut().for_each(|request| blot_value(request, secret));
        }
        self
    }

    /// One line of JSON.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec(self).expect("texts and numbers are JSON");
        bytes.push(b'\n');
        bytes
    }
}

fn blot_value(value: &mut Value, secret: &str) {
    match value {
        Value::String(text) if text.contains(secret) => *text = text.replace(secret, "***"),
        Value::Array(items) => items.iter_mut().for_each(|item| blot_value(item, secret)),
        Value::Object(members) => members.values_mut().for_each(|member| blot_value(member, secret)),
        _ => {}
    }
}
