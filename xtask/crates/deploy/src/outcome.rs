//! What an operation gives back: findings before anything was touched, typed refusals that a caller branches on, and
//! the evidence of a failure. It knows no exit codes and prints nothing; `Display` is for people.

use std::fmt;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use serde::Serialize;

use stdx::yaml::Problem;

use crate::gate::Answer;
use crate::lock::{Holder, Overtaken};
use crate::plan::Plan;
use crate::replica::Exit;

/// Why an operation did not run, or did not run to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Configuration or surroundings do not allow it; nothing was changed.
    #[error("{}", lines(.0))]
    Preflight(Vec<Problem>),
    /// Another operation is at work on the same environment.
    #[error("the environment is locked by {0}; wait for it to end, then try again")]
    LockHeld(Holder),
    /// The journal cannot be believed.
    #[error(
        "{}:{line}: the journal is damaged: {detail}; what serves goes on serving, and `deploy --repair` mends it",
        file.display()
    )]
    JournalDamaged {
        /// The journal.
        file: PathBuf,
        /// The first line that is not what it was.
        line: usize,
        /// What is wrong with it.
        detail: String,
    },
    /// Another operation took the environment over.
    #[error(transparent)]
    Overtaken(Overtaken),
    /// The interrupt flag was set before anything was changed.
    #[error("interrupted before anything was changed")]
    Interrupted,
    /// Anything else.
    #[error(transparent)]
    Other(#[from] anyhow::Error),
}

/// How an operation that ran ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// What runs is what was asked for; nothing was touched.
    NothingToDo {
        /// The plan that is empty.
        plan: Plan,
    },
    /// The new slots serve.
    Deployed {
        /// What was done.
        plan: Plan,
        /// What went wrong after the switch, without harm to what serves; the next operation takes it up again.
        unfinished: Vec<Evidence>,
    },
    /// Something failed before the switch: what served before serves on.
    RolledBack {
        /// What was to be done.
        plan: Plan,
        /// The failure that caused it.
        evidence: Evidence,
        /// What could not be cleared away; the next operation takes it up again.
        left_behind: Vec<Evidence>,
    },
    /// The interrupt flag was set before the switch: what served before serves on.
    Interrupted {
        /// What was to be done.
        plan: Plan,
        /// What could not be cleared away; the next operation takes it up again.
        left_behind: Vec<Evidence>,
    },
    /// Nobody can say whether the switch happened; old and new slots run on.
    NeedsHuman {
        /// What was to be done.
        plan: Plan,
        /// What is known.
        evidence: Evidence,
    },
}

/// What is known of a failure.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The step that failed, as the journal names it.
    pub step: String,
    /// The reason.
    pub message: String,
    /// The last health answers, oldest first.
    pub answers: Vec<Answer>,
    /// Every end of a process of the slot.
    pub exits: Vec<Exit>,
    /// The last lines that the slot's processes wrote.
    pub log_tail: Vec<String>,
}

impl Evidence {
    /// Evidence that is a reason and nothing else.
    pub(crate) fn new(step: impl fmt::Display, message: impl Into<String>) -> Evidence {
        Evidence { step: step.to_string(), message: message.into(), ..Evidence::default() }
    }
}

impl From<Vec<Problem>> for Error {
    fn from(problems: Vec<Problem>) -> Error {
        Error::Preflight(problems)
    }
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Error {
        Error::Preflight(vec![problem])
    }
}

impl fmt::Display for Evidence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.step, self.message)?;
        for answer in &self.answers {
            write!(f, "\n  health: {answer}")?;
        }
        for exit in &self.exits {
            write!(f, "\n  process: {exit}")?;
        }
        for line in &self.log_tail {
            write!(f, "\n  log: {line}")?;
        }
        Ok(())
    }
}

/// Tells apart what a caller branches on. A full disk that was met before anything was changed is a finding like any
/// other.
pub(crate) fn classify(error: Error, state: &Path) -> Error {
    match error {
        Error::Other(error) if error.is::<Overtaken>() => match error.downcast::<Overtaken>() {
            Ok(overtaken) => Error::Overtaken(overtaken),
            Err(error) => Error::Other(error),
        },
        Error::Other(error) if is_disk_full(&error) => {
            let message = format!("{error:#}: make room on the file system of {}", state.display());
            Problem::new("disk", message).into()
        }
        other => other,
    }
}

fn is_disk_full(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let kind = match cause.downcast_ref::<rustix::io::Errno>() {
            Some(errno) => Some(errno.kind()),
            None => cause.downcast_ref::<io::Error>().map(io::Error::kind),
        };
        matches!(kind, Some(ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
    })
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}
