//! PostgreSQL's own programs, of the server's own version: installed on this machine, or in the server's image. A dump by a
//! newer program may not be readable by the server that it came from.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use stdx::{Cmd, Tied};

use super::connection::{Access, Connection};

/// Where the programs are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tools {
    /// Installed here; the folder of the right version is looked for.
    Installed,
    /// In this folder.
    Folder(PathBuf),
    /// In an image: each call is a container that is removed at its end.
    Image {
        /// `docker` or `podman`.
        engine: PathBuf,
        /// Name of the image.
        image: String,
    },
}

/// The programs of one version, and the way to the server.
pub(super) struct Programs<'a> {
    place: Place,
    access: &'a Access,
    socket: Option<&'a Path>,
}

enum Place {
    Folder(PathBuf),
    Image { engine: PathBuf, image: String },
}

/// A running program that does not outlive this one.
pub(super) struct Running {
    pub(super) child: Child,
    _tied: Tied,
}

impl Drop for Running {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

impl Tools {
    /// The programs of the major version, or of any one to ask the server for its own.
    pub(super) fn programs<'a>(
        &self,
        access: &'a Access,
        connection: &'a Connection,
        major: Option<u32>,
    ) -> Result<Programs<'a>> {
        let place = match self {
            Tools::Folder(folder) => Place::Folder(folder.clone()),
            Tools::Image { engine, image } => Place::Image { engine: engine.clone(), image: image.clone() },
            Tools::Installed => Place::Folder(installed(major)?),
        };
        let programs = Programs { place, access, socket: connection.socket_folder() };
        if let Some(major) = major {
            let text = programs.version("pg_dump")?;
            if version_in(&text) != Some(major) {
                bail!(
                    "the server has version {major}, and the programs that were found are `{text}`: {}",
                    next(major)
                );
            }
        }
        Ok(programs)
    }
}

fn next(major: u32) -> String {
    format!(
        "install postgresql-client-{major}, or name an image that has it with `tools: {{ image: postgres:{major} }}`"
    )
}

/// The folder of an installed version; without one the newest.
fn installed(major: Option<u32>) -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = Vec::new();
    for root in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt", "/usr"] {
        for entry in std::fs::read_dir(root).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name.trim_start_matches("postgresql@").trim_start_matches("pgsql-");
            let folder = entry.path().join("bin");
            if let (Ok(number), true) = (number.parse(), folder.join("pg_dump").exists()) {
                found.push((number, folder));
            }
        }
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    for folder in std::env::split_paths(&path).filter(|folder| folder.join("pg_dump").exists()) {
        let text = Cmd::new(folder.join("pg_dump")).arg("--version").read();
        found.extend(text.ok().as_deref().and_then(version_in).map(|number| (number, folder)));
    }
    // The first of a version is the real one; PATH may lead to a wrapper that chooses by itself.
    let chosen = match major {
        Some(major) => found.into_iter().find(|(number, _)| *number == major).with_context(|| {
            format!("no programs of PostgreSQL {major} are installed here: {}", next(major))
        })?,
        None => found.into_iter().rev().max_by_key(|(number, _)| *number).context(
            "no programs of PostgreSQL are installed here: install postgresql-client, or name an image with `tools: { image: … }`",
        )?,
    };
    Ok(chosen.1)
}

/// The major version in `pg_dump (PostgreSQL) 15.14 (Debian …)`.
fn version_in(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl Programs<'_> {
    /// A call of a program with arguments, as it would be typed.
    pub(super) fn command(&self, program: &str, args: &[&str]) -> Cmd {
        let (service, password) = (self.access.service_file(), self.access.password_file());
        match &self.place {
            Place::Folder(folder) => {
                let mut command = Cmd::new(folder.join(program))
                    .args(args)
                    .env("PGSERVICEFILE", service)
                    .env("PGPASSFILE", password);
                // What the caller's shell says about another server must not lead this one astray.
                for (name, _) in std::env::vars_os().filter(|(name, _)| is_libpq(name)) {
                    command = command.env_remove(name);
                }
                command.env("LC_MESSAGES", "C")
            }
            Place::Image { engine, image } => {
                let (user, group) =
                    (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
                let folder = self.access.folder().display().to_string();
                let mut command =
                    Cmd::new(engine).args(["run", "--rm", "--interactive", "--network", "host", "--user"]);
                command = command
                    .arg(format!("{user}:{group}"))
                    .args(["--volume", &format!("{folder}:{folder}:ro")]);
                if let Some(socket) = self.socket {
                    command = command.args(["--volume", &format!("{0}:{0}", socket.display())]);
                }
                for (name, value) in [("PGSERVICEFILE", service), ("PGPASSFILE", password)] {
                    command = command.args(["--env", &format!("{name}={}", value.display())]);
                }
                command.args(["--entrypoint", program, image]).args(args)
            }
        }
    }

    /// Starts a program with standard input, output and error as given.
    pub(super) fn start(
        &self,
        program: &str,
        args: &[&str],
        [stdin, stdout, stderr]: [Stdio; 3],
    ) -> Result<Running> {
        use std::os::unix::process::CommandExt;
        let command = self.command(program, args);
        let mut process: Command = command.to_std()?;
        let child = process.stdin(stdin).stdout(stdout).stderr(stderr).process_group(0).spawn();
        let child = child.with_context(|| format!("cannot run {command}"))?;
        let tied = Tied::new(&child);
        Ok(Running { child, _tied: tied })
    }

    fn version(&self, program: &str) -> Result<String> {
        self.command(program, &["--version"]).read()
    }
}

fn is_libpq(name: &std::ffi::OsStr) -> bool {
    let name = name.to_string_lossy();
    name.starts_with("PG") && !["PGSERVICEFILE", "PGPASSFILE"].contains(&&*name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_what_programs_say() {
        assert_eq!(version_in("pg_dump (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)"), Some(15));
        assert_eq!(version_in("pg_dump (PostgreSQL) 18beta1"), Some(18));
        assert_eq!(version_in("hello"), None);
    }
}
