//! Errors that a caller may want to tell apart: what the user must mend before anything can be moved.

use ureq::http::StatusCode;

/// How many bytes of an error's text are shown.
const MAX_DETAIL: usize = 600;

/// Why a registry cannot be used, or what it answered.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The registry asks for credentials, and there are none.
    #[error("{host} asks for a login, and there are no credentials for it; run `docker login {host}`")]
    NotLoggedIn {
        /// The registry.
        host: String,
    },
    /// The registry does not accept the credentials.
    #[error(
        "{host} does not accept the credentials that are stored for it ({detail}); run `docker login {host}` again"
    )]
    Refused {
        /// The registry.
        host: String,
        /// What it said.
        detail: String,
    },
    /// The credentials are good, and not for this.
    #[error(
        "{host} denies access to {repository} ({detail}); is the name right, and may this account {action} there?"
    )]
    Denied {
        /// The registry.
        host: String,
        /// The repository.
        repository: String,
        /// What was tried, as a verb.
        action: &'static str,
        /// What it said.
        detail: String,
    },
    /// The registry's certificate cannot be trusted.
    #[error("cannot trust the certificate of {host} ({detail}); {}", trust(host, detail))]
    Untrusted {
        /// The registry.
        host: String,
        /// What is wrong with it.
        detail: String,
    },
    /// Credentials would go where others can read them.
    #[error("{0}")]
    Unsafe(String),
    /// There is no such server.
    #[error("there is no host {host}; is the name right, and does this machine reach it?")]
    NoSuchHost {
        /// The registry.
        host: String,
    },
    /// Something else that the registry answered.
    #[error("{method} {url}: the registry answered {status}{detail}")]
    Status {
        /// Of the request.
        method: String,
        /// Of the request, without its query.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What it said, with a colon before it, or nothing.
        detail: String,
    },
}

impl Error {
    /// Whether it lasts until the user changes something: a login, a name, a certificate.
    pub fn is_configuration(&self) -> bool {
        !matches!(self, Error::Status { .. })
    }
}

/// What the body of an error says, in one line; control characters are taken out.
///
/// Source: distribution-spec 1.1, "Error Codes".
pub(crate) fn detail(status: StatusCode, body: &[u8]) -> String {
    let document: Option<serde_json::Value> = serde_json::from_slice(body).ok();
    let errors = document.as_ref().and_then(|document| document["errors"].as_array());
    let text = |one: &serde_json::Value| {
        let part = |key: &str| one[key].as_str().unwrap_or_default().to_owned();
        match (part("code"), part("message")) {
            (code, message) if message.is_empty() => code,
            (code, message) if code.is_empty() => message,
            (code, message) => format!("{code}: {message}"),
        }
    };
    let said = match errors {
        Some(errors) => errors.iter().take(5).map(text).collect::<Vec<_>>().join("; "),
        None => String::from_utf8_lossy(&body[..body.len().min(MAX_DETAIL)]).trim().to_owned(),
    };
    let said: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_DETAIL).collect();
    if said.is_empty() || said.starts_with('<') { status.to_string() } else { said }
}

/// What to do about a certificate that is not trusted.
fn trust(host: &str, detail: &str) -> String {
    if detail.contains("CaUsedAsEndEntity") {
        return "it is an authority's own and no server's; make one with `openssl req -x509 -addext basicConstraints=critical,CA:FALSE …`"
            .to_owned();
    }
    format!(
        "if its authority is your own, put the authority's certificate into /etc/docker/certs.d/{host}/ca.crt, or name a file of \
         all trusted authorities with SSL_CERT_FILE"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_told_in_one_line() {
        let said = |body: &str| detail(StatusCode::FORBIDDEN, body.as_bytes());
        assert_eq!(said(r#"{"errors":[{"code":"DENIED","message":"no\u001b[31m"}]}"#), "DENIED: no [31m");
        assert_eq!(said(r#"{"errors":[{"code":"DENIED"},{"message":"x"}]}"#), "DENIED; x");
        assert_eq!(said("plain\ntext"), "plain text");
        assert_eq!(said("<html>"), "403 Forbidden");
        assert_eq!(said(""), "403 Forbidden");
        assert!(said(&"x".repeat(100_000)).len() <= MAX_DETAIL);
    }

    #[test]
    fn what_to_do_about_a_certificate_goes_by_what_is_wrong_with_it() {
        let text = |detail: &str| {
            Error::Untrusted { host: "r.example:5".to_owned(), detail: detail.to_owned() }.to_string()
        };
        assert!(text("UnknownIssuer").contains("/etc/docker/certs.d/r.example:5/ca.crt"));
        assert!(text("Other(OtherError(CaUsedAsEndEntity))").contains("CA:FALSE"));
    }
}
