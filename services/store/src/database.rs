//! The SQLite file: opening, pragmas, the two pools. Write-ahead logging lets readers work beside the one writer;
//! every transaction that writes takes the write lock at its begin, because SQLite refuses to upgrade a reader
//! whose snapshot is old, whatever the busy timeout.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Sqlite, SqlitePool, Transaction};
use thiserror::Error;
use tokio::time::{Instant, sleep};

use crate::migrations;

const FILE: &str = "lensing.db";
const LOCK_FILE: &str = "lensing.db.lock";
/// How long a writer waits for writers of other processes; each holds the lock for about a millisecond.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for a connection before it is told that the store is not available.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
const READERS: u32 = 4;
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
const OPEN_POLL: Duration = Duration::from_millis(20);

/// Why the store cannot be used.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The data folder cannot be used.
    #[error("failed to use the data folder {}: set LENS_DATA__DIR to one that can be written", .path.display())]
    Folder {
        /// The folder, or the file in it.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another process has been opening the file for too long.
    #[error("{} is held by another process", .0.display())]
    Locked(PathBuf),
    /// The schema of the file does not fit this release.
    #[error("failed to migrate {}", .path.display())]
    Migrate {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        source: sqlx::migrate::MigrateError,
    },
    /// The database refused.
    #[error("database error")]
    Database(#[from] sqlx::Error),
    /// A row is not what this release writes.
    #[error("row of the store cannot be read: {0}")]
    Corrupt(String),
}

/// The open store; clones share it.
#[derive(Debug, Clone)]
pub struct Store {
    pub(crate) writer: SqlitePool,
    pub(crate) reader: SqlitePool,
}

impl Store {
    /// Opens the store in a data folder, creating both if need be, and brings its schema up to date. Processes that
    /// start at once take turns.
    pub async fn open(folder: &Path) -> Result<Self, StoreError> {
        let in_folder = |path: &Path, source| StoreError::Folder { path: path.to_owned(), source };
        fs::create_dir_all(folder).map_err(|error| in_folder(folder, error))?;
        let path = folder.join(FILE);
        let options = SqliteConnectOptions::new()
            .filename(&path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // What was acknowledged survives a power cut too: in this mode each commit waits for the disk.
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(BUSY_TIMEOUT)
            .foreign_keys(true);

        let lock_path = folder.join(LOCK_FILE);
        let lock = File::create(&lock_path).map_err(|error| in_folder(&lock_path, error))?;
        wait_for_lock(&lock, &lock_path).await?;
        let writer = pool(&options, 1).await?;
        let migrated = migrations::migrator().run(&writer).await;
        drop(lock);
        if let Err(source) = migrated {
            writer.close().await;
            return Err(StoreError::Migrate { path, source });
        }
        Ok(Self { writer, reader: pool(&options, READERS).await? })
    }

    /// Succeeds if the store answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        sqlx::query("SELECT count(*) FROM (SELECT 1 FROM jobs LIMIT 1)").execute(&self.reader).await?;
        Ok(())
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.reader.close().await;
        self.writer.close().await;
    }

    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Sqlite>, StoreError> {
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }
}

/// The switch to write-ahead logging and the migrations are not safe against each other in two processes: SQLite
/// answers "locked" at once to the first and sqlx has no lock for the second.
async fn wait_for_lock(lock: &File, path: &Path) -> Result<(), StoreError> {
    let deadline = Instant::now() + OPEN_TIMEOUT;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => sleep(OPEN_POLL).await,
            Err(TryLockError::WouldBlock) => return Err(StoreError::Locked(path.to_owned())),
            Err(TryLockError::Error(source)) => {
                return Err(StoreError::Folder { path: path.to_owned(), source });
            }
        }
    }
}

async fn pool(options: &SqliteConnectOptions, connections: u32) -> Result<SqlitePool, sqlx::Error> {
    SqlitePoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(ACQUIRE_TIMEOUT)
        .test_before_acquire(false)
        .connect_with(options.clone())
        .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::Row;

    #[tokio::test]
    async fn every_commit_is_on_disk_before_it_is_acknowledged() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).await.unwrap();
        let row = sqlx::query("PRAGMA synchronous").fetch_one(&store.writer).await.unwrap();
        let (full, mode) = (2, row.get::<i64, _>(0));
        assert_eq!(mode, full);
    }
}
