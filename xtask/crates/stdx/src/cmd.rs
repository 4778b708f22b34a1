//! A command as a value: what would run can be printed, compared in a test, and run by one function.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

/// A program with its arguments, working folder and changes to the environment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmd {
    /// Program name (looked up on PATH) or path.
    pub program: OsString,
    /// Arguments after the program.
    pub args: Vec<OsString>,
    /// Variables to set (`Some`) or remove (`None`) on top of the inherited environment.
    pub env: BTreeMap<OsString, Option<OsString>>,
    /// Working folder; the caller's own where `None`.
    pub cwd: Option<PathBuf>,
}

impl Cmd {
    /// `program` without arguments, in the caller's folder and environment.
    pub fn new(program: impl Into<OsString>) -> Cmd {
        Cmd { program: program.into(), args: Vec::new(), env: BTreeMap::new(), cwd: None }
    }

    /// Appends one argument.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Cmd {
        self.args.push(arg.into());
        self
    }

    /// Appends arguments.
    pub fn args(mut self, args: impl IntoIterator<Item = impl Into<OsString>>) -> Cmd {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable.
    pub fn env(mut self, name: impl Into<OsString>, value: impl Into<OsString>) -> Cmd {
        self.env.insert(name.into(), Some(value.into()));
        self
    }

    /// Removes a variable.
    pub fn env_remove(mut self, name: impl Into<OsString>) -> Cmd {
        self.env.insert(name.into(), None);
        self
    }

    /// Sets the working folder.
    pub fn cwd(mut self, folder: impl Into<PathBuf>) -> Cmd {
        self.cwd = Some(folder.into());
        self
    }

    /// The command for `std::process`, for callers that stream its output.
    ///
    /// # Errors
    /// When the caller's own working folder is gone.
    pub fn to_std(&self) -> Result<Command> {
        let shell = xshell::Shell::new()?;
        if let Some(folder) = &self.cwd {
            shell.change_dir(folder);
        }
        let mut cmd = shell.cmd(&self.program).args(&self.args);
        for (name, value) in &self.env {
            cmd = match value {
                Some(value) => cmd.env(name, value),
                None => cmd.env_remove(name),
            };
        }
        Ok(cmd.into())
    }

    /// Runs to the end and returns standard output as text, without the trailing line break.
    ///
    /// # Errors
    /// When the program cannot be started, exits with another status than 0 (the error then holds its standard error), or
    /// prints what is not UTF-8.
    pub fn read(&self) -> Result<String> {
        let output = self.to_std()?.output().with_context(|| format!("cannot run {self}"))?;
        if !output.status.success() {
            let stderr = String::from_utf8_lossy(&output.stderr);
            anyhow::bail!("`{self}` failed with {}\n{}", output.status, stderr.trim_end());
        }
        let text = String::from_utf8(output.stdout)
            .with_context(|| format!("`{self}` printed what is not UTF-8"))?;
        Ok(text.trim_end_matches(['\n', '\r']).to_owned())
    }
}

/// As one would type it into a shell; for people, never for a shell.
impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.program.to_string_lossy())?;
        for arg in &self.args {
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(|c: char| c.is_whitespace() || "'\"$\\".contains(c)) {
                write!(f, " '{}'", arg.replace('\'', "'\\''"))?;
            } else {
                write!(f, " {arg}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_as_typed() {
        let cmd = Cmd::new("git").args(["log", "-1", "--format=%ct x"]).arg("it's");
        assert_eq!(cmd.to_string(), r"git log -1 '--format=%ct x' 'it'\''s'");
    }

    #[test]
    fn output_is_text_in_the_given_folder_and_environment() {
        let cmd = Cmd::new("sh")
            .args(["-c", "pwd; echo $X; echo ${HOME-none}"])
            .cwd("/")
            .env("X", "1")
            .env_remove("HOME");
        assert_eq!(cmd.read().unwrap(), "/\n1\nnone");
    }

    #[test]
    fn failure_shows_the_command_and_its_standard_error() {
        let error = Cmd::new("sh").args(["-c", "echo broken >&2; exit 3"]).read().unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.contains("broken"), "{error}");
        let error = format!("{:#}", Cmd::new("no-such-program").read().unwrap_err());
        assert!(error.contains("no-such-program"), "{error}");
    }
}
