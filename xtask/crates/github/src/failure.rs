//! What can go wrong, told apart by what the reader has to do about it. Texts name the call and the next step; text that a
//! server sent is shortened and rid of control characters first.

use std::time::Duration;

use http::StatusCode;
use serde_json::Value;

use crate::call::Call;

/// Longer texts of a server are cut: an HTML page of an outage says nothing beyond its first line.
const MAX_MESSAGE: usize = 600;

/// Why a request was not carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// There is no token, or none that can be one.
    #[error("{0}")]
    NoToken(String),
    /// GitHub does not know the token.
    #[error("GitHub refused the token in {variable}: {message}")]
    Token {
        /// The variable that held it.
        variable: String,
        /// What GitHub said.
        message: String,
    },
    /// The token may not do this.
    #[error("not allowed to {what}: {message}; the token needs {needs}")]
    Permission {
        /// The call, in words.
        what: String,
        /// What GitHub said.
        message: String,
        /// The permission that the call needs.
        needs: String,
    },
    /// There is no such thing, or the token does not let us see it.
    #[error(
        "cannot {what}: not found; the repository `{repository}` does not exist, lacks what was named, or the token in use cannot see it (it needs {needs})"
    )]
    NotFound {
        /// The call, in words.
        what: String,
        /// `owner/name`.
        repository: String,
        /// The permission that the call needs.
        needs: String,
    },
    /// GitHub found a fault with what was asked for.
    #[error("GitHub refused to {what}: {message}{}", list(.fields))]
    Invalid {
        /// The call, in words.
        what: String,
        /// What GitHub said.
        message: String,
        /// What it said about single fields.
        fields: Vec<String>,
    },
    /// Waiting for a rate limit would take longer than allowed.
    #[error("GitHub's {limit} rate limit was hit and asks to wait {} s, more than is left of the allowed {} s; try again then, or allow more with --max-wait", .wait.as_secs(), .allowed.as_secs())]
    RateLimited {
        /// `primary` or `secondary`.
        limit: &'static str,
        /// How long GitHub wants us to wait.
        wait: Duration,
        /// How long the caller lets us wait in all.
        allowed: Duration,
    },
    /// The server did not answer, or only with errors of its own.
    #[error("cannot {what}: {message} (attempts: {attempts})")]
    Unavailable {
        /// The call, in words.
        what: String,
        /// What happened last.
        message: String,
        /// How many attempts there were.
        attempts: u32,
    },
    /// A write failed in a way that does not tell whether it happened.
    #[error("cannot {what}: {message}; whether it happened is not known")]
    Unknown {
        /// The call, in words.
        what: String,
        /// What happened.
        message: String,
    },
    /// The answer is not one that GitHub gives.
    #[error("cannot {what}: {message}")]
    Unexpected {
        /// The call, in words.
        what: String,
        /// What is odd about the answer.
        message: String,
    },
    /// What is there already does not allow it.
    #[error("{0}")]
    Refused(String),
    /// Somebody ended it.
    #[error("interrupted; nothing of it is left behind")]
    Interrupted,
    /// The request, or a file that it names, is wrong.
    #[error("{0}")]
    Input(String),
}

impl Failure {
    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Failure::NoToken(_) => "no-token",
            Failure::Token { .. } => "token",
            Failure::Permission { .. } => "permission",
            Failure::NotFound { .. } => "not-found",
            Failure::Invalid { .. } => "invalid",
            Failure::RateLimited { .. } => "rate-limited",
            Failure::Unavailable { .. } | Failure::Unknown { .. } => "unavailable",
            Failure::Unexpected { .. } => "unexpected",
            Failure::Refused(_) => "refused",
            Failure::Interrupted => "interrupted",
            Failure::Input(_) => "input",
        }
    }

    /// An input that cannot be used, with the chain of causes.
    pub(crate) fn input(error: &anyhow::Error) -> Failure {
        Failure::Input(format!("{error:#}"))
    }

    pub(crate) fn unexpected(call: &Call, message: impl Into<String>) -> Failure {
        Failure::Unexpected { what: call.what.clone(), message: message.into() }
    }
}

fn list(fields: &[String]) -> String {
    fields.iter().map(|field| format!("\n  {field}")).collect()
}

/// The failure that a final answer stands for. Rate limits and errors of the server are dealt with before.
pub(crate) fn of_status(
    call: &Call,
    status: StatusCode,
    body: &Value,
    repository: &str,
    variable: &str,
) -> Failure {
    let what = call.what.clone();
    let message = message(status, body);
    let needs = call.permission.to_owned();
    match status.as_u16() {
        401 => Failure::Token { variable: variable.to_owned(), message },
        403 => Failure::Permission { what, message, needs },
        404 | 410 => Failure::NotFound { what, repository: repository.to_owned(), needs },
        400 | 409 | 422 => Failure::Invalid { what, message, fields: fields(body) },
        301 | 302 | 307 | 308 => Failure::Unexpected {
            what,
            message: format!(
                "the server sends us elsewhere ({status}); redirects are not followed, so that the token stays with the \
                 server that it is meant for: has `{repository}` been renamed? Name it with --repository"
            ),
        },
        _ => Failure::Unexpected { what, message: format!("{status}: {message}") },
    }
}

/// What a server said, fit for a terminal.
pub(crate) fn message(status: StatusCode, body: &Value) -> String {
    match body["message"].as_str().or(body.as_str()) {
        Some(text) if !text.trim().is_empty() => clean(text),
        _ => status.canonical_reason().unwrap_or("no reason given").to_owned(),
    }
}

/// The `errors` of GitHub's answer 422: objects of resource, field, code and message, or plain texts.
fn fields(body: &Value) -> Vec<String> {
    let Some(errors) = body["errors"].as_array() else { return Vec::new() };
    let one = |error: &Value| {
        let texts =
            |names: [&str; 2]| names.into_iter().filter_map(|name| error[name].as_str()).collect::<Vec<_>>();
        match (error, texts(["resource", "field"]), texts(["code", "message"])) {
            (Value::String(text), ..) => clean(text),
            (_, place, why) if why.is_empty() && place.is_empty() => clean(&error.to_string()),
            (_, place, why) => clean(&format!("{}: {}", place.join("."), why.join(", "))),
        }
    };
    errors.iter().take(20).map(one).collect()
}

/// One line without control characters, not too long.
pub(crate) fn clean(text: &str) -> String {
    let visible = |c: char| if c.is_control() || is_invisible(c) { ' ' } else { c };
    let line: String = text.trim().chars().map(visible).take(MAX_MESSAGE).collect();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Characters that change how the text around them is read: marks of direction, and zero-width ones.
pub(crate) fn is_invisible(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn fields_of_an_invalid_request_are_shown_in_both_forms() {
        let body = json!({ "message": "Validation Failed", "errors": [
            { "resource": "Release", "field": "tag_name", "code": "already_exists" }, "a plain text", 3
        ]});
        let call = Call::get("/x", "create the release", "`contents: write`");
        let text = of_status(&call, StatusCode::UNPROCESSABLE_ENTITY, &body, "o/r", "GH_TOKEN").to_string();
        assert_eq!(
            text,
            "GitHub refused to create the release: Validation Failed\n  Release.tag_name: already_exists\n  a plain text\n  3"
        );
    }

    #[test]
    fn a_servers_text_cannot_steer_a_terminal() {
        assert_eq!(clean("a\u{1b}[31mb\r\nc\u{202e}d"), "a [31mb c d");
        assert_eq!(clean(&"x".repeat(10_000)).len(), MAX_MESSAGE);
    }
}
