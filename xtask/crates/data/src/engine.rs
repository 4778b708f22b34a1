//! What backups need of a database, whichever it is. Two implementations: SQLite files and PostgreSQL servers.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::Dialect;
use crate::contents::{Contents, differences};
use crate::schema::Schema;
use crate::store::Manifest;

/// What was in a database at the moment of a dump.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Counts and checksums.
    pub contents: Contents,
    /// Its form.
    pub schema: Schema,
    /// Version of the program that wrote it.
    pub version: String,
    /// What a restore must set again, by name.
    pub settings: std::collections::BTreeMap<String, String>,
}

/// How a dump was proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Where it was restored to, in words.
    pub place: String,
}

/// A database that can be dumped and restored.
pub trait Engine {
    /// Whose SQL it speaks.
    fn dialect(&self) -> Dialect;

    /// Writes all of it into `file`, and says what was in it in the very same snapshot.
    ///
    /// # Errors
    /// When the database cannot be read or the file not be written.
    fn dump(&self, file: &Path) -> Result<Taken>;

    /// Restores `file` into a database that is thrown away, and says what came back.
    ///
    /// # Errors
    /// When it cannot be restored.
    fn rehearse(&self, file: &Path, scratch: &Path) -> Result<(Taken, Proof)>;

    /// The form of the database as it is.
    ///
    /// # Errors
    /// When it cannot be read.
    fn schema(&self) -> Result<Schema>;

    /// Why a backup cannot be restored here: another engine, or a version that cannot read it.
    ///
    /// # Errors
    /// When the database cannot be asked, or the backup does not fit.
    fn admit(&self, manifest: &Manifest) -> Result<()>;

    /// Puts the contents of `file` in the place of what is there: all of it, or nothing changes.
    ///
    /// # Errors
    /// When it fails; then the database is as before.
    fn restore(&self, file: &Path, manifest: &Manifest) -> Result<()>;
}

/// Compares what came back with what was taken.
pub(crate) fn compare(taken: (&Contents, &Schema), found: (&Contents, &Schema)) -> Result<()> {
    let mut lines = differences(taken.0, found.0);
    lines.extend(taken.1.difference(found.1));
    const MOST: usize = 20;
    let more = lines.len().saturating_sub(MOST);
    lines.truncate(MOST);
    if more > 0 {
        lines.push(format!("and {more} more"));
    }
    ensure!(lines.is_empty(), "what came back is not what was taken:\n  {}", lines.join("\n  "));
    Ok(())
}
