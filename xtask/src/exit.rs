//! Exit codes, and how an error becomes one.

use std::fmt;
use std::process::ExitCode;

use anyhow::{Error, Result};
use build::BuildError;

/// What an exit code means. Numbers are part of the interface: scripts branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Code {
    /// A bug of this program, or something that none of the others describes.
    Other = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// Something in the configuration, or about this machine, must be mended first. Nothing was changed.
    Configuration = 3,
    /// The build failed.
    BuildFailed = 10,
    /// Tests failed.
    TestsFailed = 11,
    /// Nothing is left to do after what was asked for.
    NothingSelected = 12,
    /// Something that must hold does not: what a scan found is against the policy, shards did not run each test exactly once.
    PolicyViolated = 13,
    /// A binary cannot be built to the same bits elsewhere.
    NotReproducible = 14,
    /// A check found files that are not as they would be written.
    WouldChange = 15,
    /// The deployment failed; what served before serves on.
    RolledBack = 20,
    /// The deployment failed in a way that a person must look at.
    NeedsHuman = 21,
    /// Somebody else is working on the environment.
    LockHeld = 22,
    /// The user interrupted; what was begun was undone or is taken up by the next call.
    Interrupted = 130,
}

impl Code {
    /// The code that a run of this very program ended with.
    pub(crate) fn of_status(status: Option<i32>) -> Code {
        const ALL: &[Code] = &[
            Code::Usage,
            Code::Configuration,
            Code::BuildFailed,
            Code::TestsFailed,
            Code::NothingSelected,
            Code::PolicyViolated,
            Code::NotReproducible,
            Code::WouldChange,
            Code::RolledBack,
            Code::NeedsHuman,
            Code::LockHeld,
            Code::Interrupted,
        ];
        ALL.iter().copied().find(|code| Some(*code as i32) == status).unwrap_or(Code::Other)
    }
}

/// An error that stands for an exit code.
#[derive(Debug)]
struct Coded {
    code: Code,
    error: Error,
}

impl fmt::Display for Coded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for Coded {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.error.source()
    }
}

/// Lets an error stand for an exit code.
pub(crate) trait ResultExt<T> {
    /// Ends the program with `code` if this is an error.
    fn or_exit(self, code: Code) -> Result<T>;
}

impl<T> ResultExt<T> for Result<T> {
    fn or_exit(self, code: Code) -> Result<T> {
        self.map_err(|error| Coded { code, error }.into())
    }
}

/// Prints the error with its causes and gives the exit code.
pub(crate) fn report(error: &Error) -> ExitCode {
    eprintln!("error: {error}");
    for cause in error.chain().skip(1) {
        eprintln!("  caused by: {cause}");
    }
    if let Some(BuildError::Leaks { leaks, .. }) = error.downcast_ref() {
        for leak in leaks {
            eprintln!("  {leak}");
        }
        eprintln!(
            "  next: find `env!(\"CARGO_MANIFEST_DIR\")`, `env!(\"OUT_DIR\")` or a path in the build script of the package \
             named, and read the file at compile time (`include_str!`, `include_bytes!`) or at run time from a path that is given"
        );
    }
    if let Some(BuildError::CannotStart { problems, .. }) = error.downcast_ref() {
        for problem in problems {
            eprintln!("  {problem}; {}", problem.cure());
        }
    }
    ExitCode::from(code(error) as u8)
}

fn code(error: &Error) -> Code {
    if let Some(coded) = error.downcast_ref::<Coded>() {
        return coded.code;
    }
    if error.downcast_ref::<registry::Error>().is_some_and(registry::Error::is_configuration) {
        return Code::Configuration;
    }
    match error.downcast_ref::<deploy::Error>() {
        Some(deploy::Error::Preflight(_)) => return Code::Configuration,
        Some(deploy::Error::LockHeld(_) | deploy::Error::Overtaken(_)) => return Code::LockHeld,
        Some(deploy::Error::JournalDamaged { .. }) => return Code::NeedsHuman,
        Some(deploy::Error::Interrupted) => return Code::Interrupted,
        Some(deploy::Error::Other(_)) => return Code::Other,
        None => {}
    }
    match error.downcast_ref::<BuildError>() {
        Some(BuildError::Refused(_)) => Code::Configuration,
        Some(BuildError::Failed(_) | BuildError::CannotStart { .. }) => Code::BuildFailed,
        Some(BuildError::Leaks { .. } | BuildError::NotReproducible(_)) => Code::NotReproducible,
        Some(BuildError::Interrupted) => Code::Interrupted,
        None => Code::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{Context, anyhow};

    #[test]
    fn the_code_survives_further_context() {
        let failed: Result<()> = Err(anyhow!("bad key")).or_exit(Code::Configuration);
        let error = failed.context("cannot plan").unwrap_err();
        assert_eq!(code(&error), Code::Configuration);
        assert_eq!(format!("{error:#}"), "cannot plan: bad key");
        assert_eq!(code(&BuildError::Interrupted.into()), Code::Interrupted);
        assert_eq!(code(&anyhow!("anything")), Code::Other);
    }
}
