//! Requests to GitHub as values: what a plan is made of and a dry run prints. They hold no address of a server and no token.

use std::path::PathBuf;

use serde_json::{Value, json};
use stdx::Digest;

/// Request methods that are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Get,
    Post,
    Patch,
    Delete,
}

impl Method {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Post => "POST",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
        }
    }
}

/// What goes with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Empty,
    Json(Value),
    File(Asset),
}

/// A file to upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asset {
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    pub(crate) digest: Digest,
    pub(crate) content_type: &'static str,
}

/// A file that the answer's bytes become.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Save {
    pub(crate) path: PathBuf,
    pub(crate) size: u64,
    /// What GitHub says the bytes are, where it says so.
    pub(crate) digest: Option<Digest>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    /// Below the API's base URL; or an absolute URL of the same server's uploads. `{name}` stands for the member `name` of
    /// an earlier answer, see [`Call::keeps`].
    pub(crate) path: String,
    pub(crate) query: Vec<(&'static str, String)>,
    pub(crate) body: Body,
    /// Where the answer goes that is no JSON.
    pub(crate) save: Option<Save>,
    /// In words that follow "cannot".
    pub(crate) what: String,
    /// The permission that it needs, in GitHub's words.
    pub(crate) permission: &'static str,
    /// Members of the answer that later calls use: name in the answer, name in their paths.
    pub(crate) keeps: &'static [(&'static str, &'static str)],
    /// Whether sending it twice does what sending it once does.
    pub(crate) repeatable: bool,
}

impl Call {
    pub(crate) fn get(path: impl Into<String>, what: &str, permission: &'static str) -> Call {
        Call::new(Method::Get, path, Body::Empty, what, permission)
    }

    pub(crate) fn post(
        path: impl Into<String>,
        body: Value,
        what: impl Into<String>,
        permission: &'static str,
    ) -> Call {
        Call::new(Method::Post, path, Body::Json(body), what, permission)
    }

    pub(crate) fn patch(
        path: impl Into<String>,
        body: Value,
        what: impl Into<String>,
        permission: &'static str,
    ) -> Call {
        Call::new(Method::Patch, path, Body::Json(body), what, permission)
    }

    pub(crate) fn new(
        method: Method,
        path: impl Into<String>,
        body: Body,
        what: impl Into<String>,
        permission: &'static str,
    ) -> Call {
        Call {
            method,
            path: path.into(),
            query: Vec::new(),
            body,
            save: None,
            what: what.into(),
            permission,
            keeps: &[],
            repeatable: method != Method::Post,
        }
    }

    pub(crate) fn query(mut self, name: &'static str, value: impl Into<String>) -> Call {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn keeps(mut self, members: &'static [(&'static str, &'static str)]) -> Call {
        self.keeps = members;
        self
    }

    /// Sends what comes back to a file.
    pub(crate) fn save(mut self, save: Save) -> Call {
        self.save = Some(save);
        self
    }

    /// Marks a call that adds something each time it is sent.
    pub(crate) fn once(mut self) -> Call {
        self.repeatable = false;
        self
    }

    /// Path and query as they are sent.
    pub(crate) fn target(&self) -> String {
        let pairs: Vec<String> =
            self.query.iter().map(|(name, value)| format!("{name}={}", encode(value))).collect();
        if pairs.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, pairs.join("&")) }
    }

    /// What a dry run prints.
    pub(crate) fn show(&self) -> Value {
        let mut shown = json!({ "method": self.method.name(), "target": self.target(), "what": self.what });
        match &self.body {
            Body::Empty => {}
            Body::Json(body) => shown["body"] = body.clone(),
            Body::File(asset) => {
                shown["file"] = json!({
                    "path": asset.path.display().to_string(),
                    "size": asset.size,
                    "digest": asset.digest.to_string(),
                    "content_type": asset.content_type,
                });
            }
        }
        if let Some(save) = &self.save {
            shown["file"] =
                json!({ "path": save.path.display().to_string(), "size": save.size, "digest": save.digest });
        }
        shown
    }
}

/// Percent-encodes all but what a URL leaves unreserved (RFC 3986, section 2.3).
pub(crate) fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

/// `value` without its members that are null: GitHub's schemas take no null for what is left out.
pub(crate) fn compact(mut value: Value) -> Value {
    if let Some(members) = value.as_object_mut() {
        members.retain(|_, member| !member.is_null());
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_leave_their_place_in_a_url() {
        let call = Call::get("/repos/o/r/deployments", "x", "y").query("environment", "a&b=c/../d?#é");
        assert_eq!(call.target(), "/repos/o/r/deployments?environment=a%26b%3Dc%2F..%2Fd%3F%23%C3%A9");
    }
}
