//! Backups on disk: taken, proven, listed, pruned. It knows folders and manifests, and leaves each database to its engine. Invariant: a
//! backup has its name only once it was restored and compared; whatever ends before leaves nothing that counts.

mod retention;

use std::fs::File;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::Dialect;
use crate::contents::Contents;
use crate::engine::{Engine, compare};
use crate::schema::Schema;

pub use retention::Retention;
use retention::{Kept, expired};

/// The value of `schema` that this version reads and writes.
pub const SCHEMA: &str = "slipway.backup/1";
const MANIFEST: &str = "manifest.json";
const DUMP: &str = "dump";
/// What the folder of a backup that is being taken begins with.
const TAKING: &str = ".taking-";
const MOST_MANIFEST_BYTES: usize = 64 << 20;

/// What is known of a backup; it lies beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Its name: the time at which it was taken.
    pub id: String,
    /// The name of the database in the environment.
    pub database: String,
    /// Whose dump it is.
    pub engine: Dialect,
    /// Version of the server, or of SQLite.
    pub version: String,
    /// When it was taken, RFC 3339 in UTC.
    pub taken_at: String,
    /// The same in seconds since 1970.
    pub taken_at_seconds: i64,
    /// Size of the dump in bytes.
    pub size: u64,
    /// Digest of the dump.
    pub digest: Digest,
    /// What was in each table in the snapshot of the dump.
    pub tables: Contents,
    /// Digest of the form of the database.
    pub fingerprint: Digest,
    /// The form itself: what a release that was built for it needs.
    pub form: Schema,
    /// What a restore sets again.
    pub settings: std::collections::BTreeMap<String, String>,
    /// How it was proven.
    pub proof: String,
}

/// A folder in the store.
#[derive(Debug)]
pub enum Entry {
    /// A backup whose manifest and size agree.
    Backup(Box<Manifest>),
    /// Something that cannot count as one.
    Damaged {
        /// Name of the folder.
        id: String,
        /// What is wrong with it.
        why: String,
    },
}

/// The backups of one database.
#[derive(Debug)]
pub struct Store {
    folder: PathBuf,
    database: String,
}

/// Holds other processes off while backups are taken, removed or restored.
struct Held(#[expect(dead_code, reason = "the lock ends with the file")] File);

impl Store {
    /// The backups of the database `name` in the folder that is theirs. Nothing is made.
    pub fn new(folder: PathBuf, database: impl Into<String>) -> Store {
        Store { folder, database: database.into() }
    }

    /// Takes a backup, restores it into a database that is thrown away, compares, and only then keeps it.
    ///
    /// # Errors
    /// When any of that fails: then no backup was taken.
    pub fn create(&self, engine: &dyn Engine, now: i64) -> Result<Manifest> {
        let _held = self.hold()?;
        let taking = self.scratch()?;
        let dump = taking.path().join(DUMP);
        let taken = engine.dump(&dump).context("the database cannot be dumped")?;
        seal(&dump)?;
        let (digest, size) = digest_of(&dump)?;
        let (found, proof) = engine
            .rehearse(&dump, taking.path())
            .context("the dump cannot be restored, so it is no backup")?;
        compare((&taken.contents, &taken.schema), (&found.contents, &found.schema))
            .context("the dump restores to something else, so it is no backup")?;
        // A file that changed under the proof proves nothing.
        ensure!(digest_of(&dump)?.0 == digest, "the dump changed while it was proven, so it is no backup");
        let id = self.free_id(now);
        let manifest = Manifest {
            schema: SCHEMA.to_owned(),
            id: id.clone(),
            database: self.database.clone(),
            engine: engine.dialect(),
            version: taken.version,
            taken_at: stdx::time::rfc3339(now),
            taken_at_seconds: now,
            size,
            digest,
            tables: taken.contents,
            fingerprint: taken.schema.fingerprint()?,
            form: taken.schema,
            settings: taken.settings,
            proof: proof.place,
        };
        stdx::fs::write_atomic(&taking.path().join(MANIFEST), &serde_json::to_vec_pretty(&manifest)?, 0o600)?;
        stdx::fs::sync_dir(taking.path())?;
        let place = self.folder.join(&id);
        std::fs::rename(taking.path(), &place).with_context(|| format!("cannot keep {}", place.display()))?;
        stdx::fs::sync_dir(&self.folder)?;
        Ok(manifest)
    }

    /// What is in the store, oldest first.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self) -> Result<Vec<Entry>> {
        let entries = match std::fs::read_dir(&self.folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            entries => entries.with_context(|| format!("cannot read {}", self.folder.display()))?,
        };
        let mut ids = Vec::new();
        for entry in entries {
            let name = entry?.file_name().to_string_lossy().into_owned();
            if !name.starts_with('.') {
                ids.push(name);
            }
        }
        ids.sort();
        let entry = |id: String| match self.read(&id) {
            Ok(manifest) => Entry::Backup(Box::new(manifest)),
            Err(error) => Entry::Damaged { id, why: format!("{error:#}") },
        };
        Ok(ids.into_iter().map(entry).collect())
    }

    /// The manifest of a backup; `latest` names the newest one.
    ///
    /// # Errors
    /// When there is none, or it is damaged.
    pub fn get(&self, id: &str) -> Result<Manifest> {
        if id != "latest" {
            return self.read(id);
        }
        let mut backups = self.list()?.into_iter().filter_map(|entry| match entry {
            Entry::Backup(manifest) => Some(*manifest),
            Entry::Damaged { .. } => None,
        });
        backups.next_back().with_context(|| format!("there is no backup of {}", self.database))
    }

    /// Reads a backup again, restores it into a database that is thrown away, and compares.
    ///
    /// # Errors
    /// When it is not what it was.
    pub fn verify(&self, engine: &dyn Engine, id: &str) -> Result<String> {
        let manifest = self.get(id)?;
        let dump = self.intact(&manifest)?;
        ensure!(
            manifest.engine == engine.dialect(),
            "{} is a backup of {}",
            manifest.id,
            manifest.engine.name()
        );
        let _held = self.hold()?;
        let scratch = self.scratch()?;
        let (found, proof) =
            engine.rehearse(&dump, scratch.path()).context("the backup cannot be restored")?;
        compare((&manifest.tables, &manifest.form), (&found.contents, &found.schema))?;
        Ok(proof.place)
    }

    /// Puts a backup in the place of what is in the database. `before`: the present state becomes a backup first.
    ///
    /// # Errors
    /// When the backup is not what it was or does not fit, or anything fails: then the database is as before.
    pub fn restore(&self, engine: &dyn Engine, id: &str, before: Before) -> Result<Restored> {
        let manifest = self.get(id)?;
        engine.admit(&manifest)?;
        let dump = self.intact(&manifest)?;
        let saved = match before {
            Before::BackUp { now } => {
                let saved = self
                    .create(engine, now)
                    .context("the present state cannot be backed up first; without: --no-backup")?;
                Some(saved.id)
            }
            Before::Nothing => None,
        };
        let _held = self.hold()?;
        engine.restore(&dump, &manifest)?;
        Ok(Restored { id: manifest.id, saved })
    }

    /// What a restore would do, after everything was looked at that can be without a change.
    ///
    /// # Errors
    /// When the restore would be refused.
    pub fn preview(&self, engine: &dyn Engine, id: &str) -> Result<Vec<String>> {
        let manifest = self.get(id)?;
        engine.admit(&manifest)?;
        self.intact(&manifest)?;
        Ok(engine.schema()?.difference(&manifest.form))
    }

    /// Removes what the retention lets go, and what never became a backup. Gives the names that it removed.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn prune(&self, retention: Retention, now: i64, mode: Prune) -> Result<Vec<String>> {
        let kept = self.list()?.into_iter().filter_map(|entry| match entry {
            Entry::Backup(manifest) => Some(Kept { id: manifest.id, taken_at: manifest.taken_at_seconds }),
            Entry::Damaged { .. } => None,
        });
        let expired = expired(&kept.collect::<Vec<_>>(), retention, now);
        match mode {
            Prune::DryRun => return Ok(expired),
            Prune::Remove => {}
        }
        if expired.is_empty() && !self.folder.exists() {
            return Ok(expired);
        }
        let _held = self.hold()?;
        for id in &expired {
            stdx::fs::remove_dir_all(&self.folder.join(id))?;
        }
        Ok(expired)
    }

    /// A folder for what does not count yet.
    fn scratch(&self) -> Result<tempfile::TempDir> {
        let mode = std::fs::Permissions::from_mode(0o700);
        let folder = tempfile::Builder::new().prefix(TAKING).permissions(mode).tempdir_in(&self.folder);
        folder.with_context(|| format!("cannot make a folder in {}", self.folder.display()))
    }

    /// The dump of a backup whose bytes are what they were.
    fn intact(&self, manifest: &Manifest) -> Result<PathBuf> {
        let dump = self.folder.join(&manifest.id).join(DUMP);
        let (digest, size) = digest_of(&dump)?;
        ensure!(
            size == manifest.size,
            "{} has {size} bytes instead of {}: it is damaged",
            dump.display(),
            manifest.size
        );
        ensure!(
            digest == manifest.digest,
            "{} is not what was written: its digest is {digest}",
            dump.display()
        );
        Ok(dump)
    }

    fn read(&self, id: &str) -> Result<Manifest> {
        let is_plain = !id.is_empty() && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        ensure!(is_plain, "`{}` is no name of a backup", id.escape_debug());
        let folder = self.folder.join(id);
        let path = folder.join(MANIFEST);
        let Some(bytes) = stdx::fs::read_if_exists(&path)? else {
            bail!("there is no backup `{id}` of {}: {} does not exist", self.database, path.display());
        };
        ensure!(bytes.len() <= MOST_MANIFEST_BYTES, "{} is too large", path.display());
        let manifest: Manifest =
            serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
        ensure!(
            manifest.schema == SCHEMA,
            "{} has the schema `{}`, this version reads `{SCHEMA}`",
            path.display(),
            manifest.schema
        );
        ensure!(
            manifest.id == id && manifest.database == self.database,
            "{} is about another backup",
            path.display()
        );
        let dump = folder.join(DUMP);
        let size =
            std::fs::metadata(&dump).with_context(|| format!("cannot look at {}", dump.display()))?.len();
        ensure!(size == manifest.size, "the dump has {size} bytes instead of {}", manifest.size);
        Ok(manifest)
    }

    /// Waits for whoever else works in the store, and clears up what a killed one left.
    fn hold(&self) -> Result<Held> {
        let mut builder = std::fs::DirBuilder::new();
        builder
            .recursive(true)
            .mode(0o700)
            .create(&self.folder)
            .with_context(|| format!("cannot make {}", self.folder.display()))?;
        let path = self.folder.join(".lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            if entry.file_name().to_string_lossy().starts_with(TAKING) {
                stdx::fs::remove_dir_all(&entry.path())?;
            }
        }
        Ok(Held(file))
    }

    /// A name that is free; names sort by time.
    fn free_id(&self, now: i64) -> String {
        let base = stdx::time::rfc3339(now).replace([':', '-'], "");
        let names = std::iter::once(base.clone()).chain((2..).map(|number| format!("{base}-{number}")));
        names.into_iter().find(|name| !self.folder.join(name).exists()).unwrap_or(base)
    }
}

/// What to do with the present state before a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Before {
    /// Back it up.
    BackUp {
        /// The time, in seconds since 1970.
        now: i64,
    },
    /// Let it go.
    Nothing,
}

/// What a restore did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Restored {
    /// The backup that is in place now.
    pub id: String,
    /// The backup of the state before.
    pub saved: Option<String>,
}

/// Whether backups are really removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prune {
    /// Say which.
    DryRun,
    /// Remove them.
    Remove,
}

fn digest_of(path: &Path) -> Result<(Digest, u64)> {
    Digest::of_reader(stdx::fs::open(path)?).with_context(|| format!("cannot read {}", path.display()))
}

/// Only its owner may read it, and it survives a power cut.
fn seal(path: &Path) -> Result<()> {
    let file = stdx::fs::open(path)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600))?;
    file.sync_all().with_context(|| format!("cannot sync {}", path.display()))
}
