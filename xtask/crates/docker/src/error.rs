//! What can go wrong with an engine, told apart where a caller acts on the difference. Texts name what was asked, and the next step
//! where it is known.

use std::time::Duration;

/// Why an engine did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// There is no way to it, or nobody answers there.
    #[error("cannot reach the Docker engine at {endpoint}: {cause}; {next}")]
    Unreachable {
        /// As it was named.
        endpoint: String,
        /// What was seen.
        cause: String,
        /// What the user can do.
        next: String,
    },
    /// It answers, and cannot do what this program needs.
    #[error(
        "the Docker engine at {endpoint} speaks version {found} of the API, and 1.41 is the oldest that works; install Docker 20.10 or newer"
    )]
    TooOld {
        /// As it was named.
        endpoint: String,
        /// Newest version that it speaks.
        found: String,
    },
    /// No answer in time. Whether the engine did it is not known.
    #[error("cannot {what}: the Docker engine did not answer within {} s", after.as_secs_f32())]
    Deadline {
        /// What was asked for.
        what: String,
        /// How long was waited.
        after: Duration,
    },
    /// The connection broke. Whether the engine did it is not known.
    #[error("cannot {what}: the connection to the Docker engine broke: {cause}")]
    Broken {
        /// What was asked for.
        what: String,
        /// What was seen.
        cause: String,
    },
    /// The flag that this engine heeds was set.
    #[error("interrupted: {what}")]
    Interrupted {
        /// What was under way.
        what: String,
    },
    /// The engine does not have what was named.
    #[error("cannot {what}: {message}")]
    NotFound {
        /// What was asked for.
        what: String,
        /// The engine's own words.
        message: String,
    },
    /// Another container has this name.
    #[error("there is a container with the name {name} already{}", by.as_ref().map(|id| format!(": {id}")).unwrap_or_default())]
    NameTaken {
        /// The name.
        name: String,
        /// Id of that container, where the engine tells.
        by: Option<String>,
    },
    /// What is there now stands against it: it is in use, it runs, it is stopped already.
    #[error("cannot {what}: {message}")]
    Conflict {
        /// What was asked for.
        what: String,
        /// The engine's own words.
        message: String,
    },
    /// The engine refused, for a reason of its own.
    #[error("cannot {what}: the Docker engine says: {message}")]
    Refused {
        /// What was asked for.
        what: String,
        /// The engine's own words.
        message: String,
    },
    /// What was asked for cannot be honoured, here or by nobody.
    #[error("cannot {what}: {problem}")]
    Unsupported {
        /// What was asked for.
        what: String,
        /// What of it, and the next step.
        problem: String,
    },
    /// What the engine has is not what was meant.
    #[error("the engine has {name} as {found}, and it should be {expected}; nothing of it is used")]
    WrongImage {
        /// Name of the image.
        name: String,
        /// Its id there.
        found: String,
        /// The id that it should have.
        expected: String,
    },
    /// Something on this machine failed.
    #[error("cannot {what}: {cause:#}")]
    Local {
        /// What was to be done.
        what: String,
        /// Why not.
        cause: anyhow::Error,
    },
}

/// What this crate's functions give.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn unsupported(what: impl Into<String>, problem: impl Into<String>) -> Error {
        Error::Unsupported { what: what.into(), problem: problem.into() }
    }

    pub(crate) fn local(what: impl Into<String>, cause: impl Into<anyhow::Error>) -> Error {
        Error::Local { what: what.into(), cause: cause.into() }
    }

    /// Whether what was to be removed or looked at is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Error::NotFound { .. })
    }

    /// Whether the same call may succeed later without anybody changing anything: the engine was away, or the way to it.
    pub fn is_passing(&self) -> bool {
        matches!(self, Error::Unreachable { .. } | Error::Broken { .. } | Error::Deadline { .. })
    }
}

/// A result in which "there is none" is an answer.
pub(crate) fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// What the library below said, in our words.
pub(crate) fn told(what: &str, endpoint: &str, error: &bollard::errors::Error) -> Error {
    use bollard::errors::Error as Low;
    let what = what.to_owned();
    match error {
        Low::DockerResponseServerError { status_code, message } => {
            answered(what, *status_code, message.trim().to_owned())
        }
        Low::DockerStreamError { error } => Error::Refused { what, message: error.trim().to_owned() },
        Low::SocketNotFoundError(path) => {
            unreachable(endpoint, std::io::ErrorKind::NotFound, format!("there is no {path}"))
        }
        Low::HyperLegacyError { err } if err.is_connect() => {
            let kind = io_kind(err).unwrap_or(std::io::ErrorKind::Other);
            unreachable(endpoint, kind, chain(err))
        }
        other => Error::Broken { what, cause: chain(other) },
    }
}

fn answered(what: String, status: u16, message: String) -> Error {
    match status {
        404 => Error::NotFound { what, message },
        409 => Error::Conflict { what, message },
        _ => Error::Refused { what, message },
    }
}

fn unreachable(endpoint: &str, kind: std::io::ErrorKind, cause: String) -> Error {
    use std::io::ErrorKind;
    let next = match kind {
        ErrorKind::PermissionDenied => {
            "add your user to the group `docker` (it is as powerful as root there), or name a rootless engine with DOCKER_HOST"
        }
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            "start it (`systemctl start docker`), or name another one with DOCKER_HOST"
        }
        _ => "`docker version` shows what the docker client sees",
    };
    Error::Unreachable { endpoint: endpoint.to_owned(), cause, next: next.to_owned() }
}

fn io_kind(error: &(dyn std::error::Error + 'static)) -> Option<std::io::ErrorKind> {
    let mut at = Some(error);
    while let Some(error) = at {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        at = error.source();
    }
    None
}

/// All causes in one line. The library repeats some of them in its own texts.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut at = error.source();
    while let Some(cause) = at {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        at = cause.source();
    }
    text
}

/// The id that a message about a name in use holds.
///
/// Source: the engine's `daemon/names.go`: `The container name "/x" is already in use by container "<id>".`
pub(crate) fn id_in_use(message: &str) -> Option<String> {
    let after = message.split_once("already in use by container")?.1;
    let id: String =
        after.chars().skip_while(|c| !c.is_ascii_hexdigit()).take_while(char::is_ascii_hexdigit).collect();
    (id.len() >= 12).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_apart() {
        let error = |status| answered("remove x".into(), status, "no".into());
        assert!(error(404).is_not_found());
        assert!(matches!(error(409), Error::Conflict { .. }));
        assert!(matches!(error(500), Error::Refused { .. }));
        assert!(
            !error(500).is_passing()
                && unreachable("e", std::io::ErrorKind::NotFound, String::new()).is_passing()
        );
    }

    #[test]
    fn what_cannot_be_reached_comes_with_the_next_step() {
        let text = |kind| unreachable("unix:///x", kind, "seen".into()).to_string();
        assert!(text(std::io::ErrorKind::PermissionDenied).contains("group `docker`"));
        assert!(text(std::io::ErrorKind::NotFound).contains("systemctl start docker"));
        assert!(
            text(std::io::ErrorKind::TimedOut)
                .starts_with("cannot reach the Docker engine at unix:///x: seen; ")
        );
    }

    #[test]
    fn the_holder_of_a_name_is_read_from_the_message() {
        let id = "4f1e0cf2b8a30b59a0c0d2e9a77a7a3b";
        let message = format!(
            "Conflict. The container name \"/a\" is already in use by container \"{id}\". You have to remove (or rename) that container"
        );
        assert_eq!(id_in_use(&message).as_deref(), Some(id));
        for other in ["", "already in use by container", "already in use by container \"é\"", "in use"] {
            assert_eq!(id_in_use(other), None);
        }
    }
}
