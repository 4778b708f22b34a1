//! SQLite files: backed up while services write, restored by one rename. It knows nothing of who uses the file, but finds out
//! whether anybody does. Invariant: a restore changes the file only when no other process has it open.

mod inspect;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use crate::Dialect;
use crate::engine::{Engine, Proof, Taken, compare};
use crate::migration::run::{Runner, Sessions};
use crate::schema::Schema;
use crate::store::Manifest;

/// How long a reader waits for a writer that holds the whole file.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Pages that are copied at once: 16 MiB of the usual size.
const PAGES_AT_ONCE: i32 = 4096;
const JOURNAL_MODE: &str = "journal_mode";

/// A database file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sqlite {
    path: PathBuf,
}

impl Sqlite {
    /// The database in the file `path`, which may be missing only for a restore.
    pub fn new(path: impl Into<PathBuf>) -> Sqlite {
        Sqlite { path: path.into() }
    }

    fn connect(&self) -> Result<Connection> {
        open(&self.path)
    }
}

/// Opens a file that is there. Write-ahead logging needs the right to write even for readers.
fn open(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)
        .with_context(|| format!("cannot open {}", path.display()))?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    Ok(connection)
}

impl Engine for Sqlite {
    fn dialect(&self) -> Dialect {
        Dialect::Sqlite
    }

    fn dump(&self, file: &Path) -> Result<Taken> {
        let source = self.connect()?;
        source.pragma_update(None, "query_only", true)?;
        let mode: String = source.pragma_query_value(None, JOURNAL_MODE, |row| row.get(0))?;
        // The first read begins the snapshot that everything below sees, and the copy with it.
        source.execute_batch("BEGIN")?;
        let mut taken = inspect::taken(&source)?;
        taken.settings.insert(JOURNAL_MODE.to_owned(), mode);
        let mut target = Connection::open(file).with_context(|| format!("cannot make {}", file.display()))?;
        copy(&source, &mut target)?;
        source.execute_batch("COMMIT")?;
        // One file that is whole by itself: the source's mode comes back with a restore.
        target.pragma_update(None, JOURNAL_MODE, "delete")?;
        target
            .close()
            .map_err(|(_, error)| error)
            .with_context(|| format!("cannot finish {}", file.display()))?;
        Ok(taken)
    }

    fn rehearse(&self, file: &Path, scratch: &Path) -> Result<(Taken, Proof)> {
        let copy = scratch.join("rehearsal");
        std::fs::copy(file, &copy).with_context(|| format!("cannot copy {}", file.display()))?;
        let taken = sound(&copy);
        std::fs::remove_file(&copy).with_context(|| format!("cannot remove {}", copy.display()))?;
        Ok((taken?, Proof { place: format!("a copy, read by SQLite {}", rusqlite::version()) }))
    }

    fn schema(&self) -> Result<Schema> {
        inspect::schema(&self.connect()?)
    }

    fn admit(&self, manifest: &Manifest) -> Result<()> {
        ensure!(
            manifest.engine == Dialect::Sqlite,
            "{} is a backup of {}, and this is SQLite",
            manifest.id,
            manifest.engine.name()
        );
        Ok(())
    }

    fn restore(&self, file: &Path, manifest: &Manifest) -> Result<()> {
        let folder =
            self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let next = tempfile::Builder::new().prefix(".restoring-").tempfile_in(folder);
        let next =
            next.with_context(|| format!("cannot make a file in {}", folder.display()))?.into_temp_path();
        std::fs::copy(file, &next).with_context(|| format!("cannot copy {}", file.display()))?;
        let found = sound(&next)?;
        compare((&manifest.tables, &manifest.form), (&found.contents, &found.schema))?;
        if let Some(mode) = manifest.settings.get(JOURNAL_MODE) {
            let connection = open(&next)?;
            connection.pragma_update(None, JOURNAL_MODE, mode)?;
            connection.close().map_err(|(_, error)| error)?;
        }
        self.like_before(&next)?;
        stdx::fs::open(&next)?.sync_all()?;
        // From here on only the rename can fail.
        let _quiet = Quiet::of(&self.path)?;
        std::fs::rename(&next, &self.path)
            .with_context(|| format!("cannot replace {}", self.path.display()))?;
        stdx::fs::sync_dir(folder)
    }
}

impl Sqlite {
    /// Gives the new file the owner and the rights of the old one.
    fn like_before(&self, next: &Path) -> Result<()> {
        let Ok(before) = std::fs::metadata(&self.path) else {
            return Ok(std::fs::set_permissions(next, std::fs::Permissions::from_mode(0o600))?);
        };
        std::fs::set_permissions(next, before.permissions())?;
        let now = std::fs::metadata(next)?;
        if (now.uid(), now.gid()) != (before.uid(), before.gid()) {
            std::os::unix::fs::chown(next, Some(before.uid()), Some(before.gid()))
                .with_context(|| format!("cannot give {} to its owner", next.display()))?;
        }
        Ok(())
    }
}

/// A connection that runs statements of migrations.
struct Migrations(Connection);

impl Runner for Migrations {
    fn run(&mut self, sql: &str) -> Result<Vec<String>> {
        let mut statement = self.0.prepare(sql).map_err(without_statement)?;
        let mut rows = statement.query([])?;
        let mut answer = Vec::new();
        while let Some(row) = rows.next()? {
            answer.push(row.get_ref(0)?.as_str().unwrap_or_default().to_owned());
        }
        Ok(answer)
    }
}

impl Sessions for Sqlite {
    fn open(&self) -> Result<Box<dyn Runner + '_>> {
        let connection =
            Connection::open(&self.path).with_context(|| format!("cannot open {}", self.path.display()))?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(Box::new(Migrations(connection)))
    }
}

/// An error without the statement that it is about: a constant in it may be a secret.
fn without_statement(error: rusqlite::Error) -> anyhow::Error {
    match error {
        rusqlite::Error::SqlInputError { msg, .. } => anyhow!("{msg}"),
        error => error.into(),
    }
}

fn copy(source: &Connection, target: &mut Connection) -> Result<()> {
    let backup = Backup::new(source, target)?;
    loop {
        match backup.step(PAGES_AT_ONCE).context("cannot copy the pages")? {
            StepResult::Done => return Ok(()),
            StepResult::More => {}
            StepResult::Busy | StepResult::Locked => std::thread::sleep(Duration::from_millis(20)),
            _ => bail!("SQLite answered what this version does not know"),
        }
    }
}

/// What is in a copy, after SQLite itself found nothing wrong with it.
fn sound(copy: &Path) -> Result<Taken> {
    let connection = open(copy)?;
    let verdict: String = connection
        .pragma_query_value(None, "integrity_check", |row| row.get(0))
        .context("SQLite cannot read it")?;
    ensure!(verdict == "ok", "SQLite finds it damaged: {verdict}");
    inspect::taken(&connection)
}

/// That nobody has a database file open, for as long as this value lives.
struct Quiet(#[expect(dead_code, reason = "its lock ends with it")] Option<Connection>);

impl Quiet {
    /// Brings the write-ahead log home and locks everybody out.
    fn of(path: &Path) -> Result<Quiet> {
        if !path.exists() {
            return Ok(Quiet(None));
        }
        let users = users(path);
        let stop = "stop the services that use it first (`cargo xtask down`), then restore again";
        ensure!(users.is_empty(), "{} is open in the processes {users:?}; {stop}", path.display());
        let connection = open(path)?;
        connection.busy_timeout(Duration::from_millis(500))?;
        // Only a single user can leave write-ahead logging: so this also finds those that the system hides.
        let mode =
            connection.pragma_update_and_check(None, JOURNAL_MODE, "delete", |row| row.get::<_, String>(0));
        let is_alone = mode.as_deref() == Ok("delete") && connection.execute_batch("BEGIN EXCLUSIVE").is_ok();
        // A file that is no database has no users and nothing to lose.
        let is_foreign = mode
            .as_ref()
            .is_err_and(|error| error.sqlite_error_code() == Some(rusqlite::ErrorCode::NotADatabase));
        ensure!(is_alone || is_foreign, "{} is in use; {stop}", path.display());
        Ok(Quiet(Some(connection)))
    }
}

/// Other processes that have the file open, as far as this user may see them.
fn users(path: &Path) -> Vec<u32> {
    let Ok(wanted) = std::fs::metadata(path) else { return vec![] };
    let is_open_in = |process: &Path| {
        let files = std::fs::read_dir(process.join("fd")).into_iter().flatten().flatten();
        let same = |meta: std::fs::Metadata| (meta.dev(), meta.ino()) == (wanted.dev(), wanted.ino());
        files.into_iter().any(|file| std::fs::metadata(file.path()).is_ok_and(same))
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut found: Vec<u32> = processes
        .filter_map(|process| Some((process.file_name().to_str()?.parse().ok()?, process.path())))
        .filter(|(id, path)| *id != std::process::id() && is_open_in(path))
        .map(|(id, _)| id)
        .collect();
    found.sort_unstable();
    found
}

/// The settings that a restore sets again.
pub(crate) type Settings = BTreeMap<String, String>;
