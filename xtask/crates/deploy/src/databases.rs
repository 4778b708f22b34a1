//! `databases:` of an environment: which there are, where each lies, and how long its backups stay. It knows the form only; nothing is
//! opened here. Invariant: the URL of a server is a secret, so it is read where it lies and never in the file.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use stdx::Cmd;

/// A database of an environment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DatabaseSettings {
    /// Whose it is.
    pub engine: DatabaseEngine,
    /// SQLite: the volume of the services that holds the file; without one, `path` is absolute.
    pub volume: Option<String>,
    /// SQLite: the file, relative to the volume.
    pub path: Option<PathBuf>,
    /// PostgreSQL: where the URL lies (`postgres://user:password@host/database`).
    pub url: Option<UrlSource>,
    /// PostgreSQL: where its programs are, in the version of the server; installed ones where absent.
    pub tools: Option<DatabaseTools>,
    /// Backups of it.
    #[serde(default)]
    pub backups: BackupSettings,
}

/// Whose a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum DatabaseEngine {
    /// A file.
    Sqlite,
    /// A database of a server.
    Postgres,
}

/// Where the URL of a server lies: exactly one of these.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct UrlSource {
    /// A variable of the caller's environment.
    pub from_env: Option<String>,
    /// A file, relative to the folder that the environment file is in.
    pub from_file: Option<PathBuf>,
    /// A program with its arguments that prints it.
    pub command: Option<Vec<String>>,
}

/// Where PostgreSQL's programs are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct DatabaseTools {
    /// A folder.
    pub folder: Option<PathBuf>,
    /// An image that has them; each call is a container of it.
    pub image: Option<String>,
    /// What runs the image.
    #[serde(default = "docker")]
    pub engine: PathBuf,
}

/// Backups of a database.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct BackupSettings {
    /// The folder that they are in; beside the environment's state where absent.
    pub folder: Option<PathBuf>,
    /// The newest ones stay, however old.
    pub keep: usize,
    /// Younger ones stay, however many.
    pub keep_days: u32,
}

fn docker() -> PathBuf {
    "docker".into()
}

impl Default for BackupSettings {
    fn default() -> BackupSettings {
        BackupSettings { folder: None, keep: 7, keep_days: 30 }
    }
}

impl DatabaseSettings {
    /// Makes the paths in it absolute.
    pub(crate) fn anchor(&mut self, folder: &Path) {
        if let Some(UrlSource { from_file: Some(path), .. }) = &mut self.url {
            *path = folder.join(&*path);
        }
        if let Some(path) = &mut self.backups.folder {
            *path = folder.join(&*path);
        }
    }

    /// The file of a SQLite database in the environment whose state is in the folder `state`.
    ///
    /// # Errors
    /// When the settings name none, or one that lies outside of its volume.
    pub fn file(&self, state: &Path) -> Result<PathBuf> {
        let path = self.path.as_deref().context("`path` is missing: the file, relative to its volume")?;
        let Some(volume) = &self.volume else {
            anyhow::ensure!(path.is_absolute(), "`volume` is missing: without it, `path` is absolute");
            return Ok(path.to_owned());
        };
        let is_inside = |path: &Path| path.components().all(|part| matches!(part, Component::Normal(_)));
        if !is_inside(path) || !is_inside(Path::new(volume)) || Path::new(volume).components().count() != 1 {
            bail!("`{}` in the volume `{volume}` leads out of it", path.display());
        }
        Ok(state.join("data").join(volume).join(path))
    }
}

impl UrlSource {
    /// Reads the URL where it lies. No error holds a part of it.
    ///
    /// # Errors
    /// When there is none, or not exactly one place is named.
    pub fn read(&self) -> Result<String> {
        let text = match (&self.from_env, &self.from_file, &self.command) {
            (Some(name), None, None) => {
                let text = std::env::var(name).ok().filter(|text| !text.is_empty());
                text.with_context(|| format!("the variable {name} is not set"))?
            }
            (None, Some(path), None) => stdx::fs::read_to_string(path)?,
            (None, None, Some(words)) => {
                let (program, args) = words.split_first().context("`command` is empty")?;
                Cmd::new(program).args(args).read()?
            }
            _ => bail!("a URL has one source: `from_env`, `from_file` or `command`"),
        };
        Ok(text.trim().to_owned())
    }
}

impl fmt::Display for DatabaseEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DatabaseEngine::Sqlite => "sqlite",
            DatabaseEngine::Postgres => "postgres",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(text: &str) -> DatabaseSettings {
        let file = stdx::yaml::File { path: None, text: text.to_owned() };
        file.parse().unwrap()
    }

    #[test]
    fn a_file_lies_in_its_volume_and_nowhere_else() {
        let check = |text: &str, expected: Result<&str, &str>| {
            let found = settings(&format!("engine: sqlite\n{text}")).file(Path::new("/s"));
            match expected {
                Ok(path) => assert_eq!(found.unwrap(), Path::new(path)),
                Err(part) => assert!(found.unwrap_err().to_string().contains(part), "{text}"),
            }
        };
        check("volume: data\npath: a/b.db", Ok("/s/data/data/a/b.db"));
        check("path: /x/b.db", Ok("/x/b.db"));
        check("volume: data\npath: ../b.db", Err("leads out of it"));
        check("volume: ..\npath: b.db", Err("leads out of it"));
        check("volume: data\npath: /etc/b.db", Err("leads out of it"));
        check("path: b.db", Err("`volume` is missing"));
        check("volume: data", Err("`path` is missing"));
    }

    #[test]
    fn a_url_has_one_source() {
        let read = |text: &str| settings(&format!("engine: postgres\nurl: {text}")).url.unwrap().read();
        assert_eq!(read("{ command: [printf, 'postgres://x/y\\n'] }").unwrap(), "postgres://x/y");
        assert!(read("{ from_env: SLIPWAY_NO_SUCH }").unwrap_err().to_string().contains("SLIPWAY_NO_SUCH"));
        assert!(read("{}").unwrap_err().to_string().contains("one source"));
        assert!(read("{ from_env: A, from_file: b }").unwrap_err().to_string().contains("one source"));
    }
}
