//! The state folder: one edge at a time owns it, and the table in force is on disk before it is in force. A table is read
//! back as it was written or not at all: its digest stands beside it. It is kept twice, and a table is acknowledged when
//! both files have it: whichever one is damaged then, the other gives what is in force, never slots that were stopped.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Seek, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Error, Result, anyhow, bail, ensure};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use stdx::Digest;

use crate::control::{READ_SCHEMAS, SCHEMA, Table};
use crate::{client, log};

/// Name of the control socket in the state folder.
pub const CONTROL_SOCKET: &str = "control.sock";

/// No socket in the state folder has a longer name: `handover` names those of retired edges.
pub const LONGEST_SOCKET: &str = "old-4194304.sock";

const TABLE: &str = "table.json";
const COPY: &str = "table.json.copy";
const PID: &str = "edge.pid";

/// Tables name internal addresses only, yet nobody else has business with them.
const MODE: u32 = 0o600;

/// A state folder that this process alone uses.
pub(crate) struct StateDir {
    folder: PathBuf,
    /// Locked for as long as it is open, also when the process dies without a word. `None` once the folder is another edge's.
    pid: Mutex<Option<File>>,
    writing: Mutex<Access>,
}

/// What is kept beside the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Note {
    /// The last bake.
    Bake,
    /// Services that are paused.
    Pauses,
}

impl Note {
    fn name(self) -> &'static str {
        match self {
            Note::Bake => "bake",
            Note::Pauses => "pauses",
        }
    }

    fn file(self) -> String {
        format!("{}.json", self.name())
    }
}

/// Whether this edge may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Owned,
    /// The lock is shared with the edge that is about to hand over: whichever of the two fails, the other one goes on.
    Shared,
    /// The folder may be another edge's by now.
    GivenUp,
}

/// A table from disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) table: Table,
    /// What is wrong with the first file, where the copy had to do.
    pub(crate) fallback: Option<String>,
}

impl StateDir {
    /// Takes the folder, which is created where it is missing.
    ///
    /// # Errors
    /// When another edge has it.
    pub(crate) fn open(folder: &Path) -> Result<StateDir> {
        let socket = folder.join(CONTROL_SOCKET);
        client::check_path(&folder.join(LONGEST_SOCKET))?;
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true).mode(0o700);
        builder
            .create(folder)
            .with_context(|| format!("cannot create the state folder {}", folder.display()))?;
        let path = folder.join(PID);
        let pid = lock(&path)?;
        ensure!(
            client::connect(&socket).is_err(),
            "another edge answers at {}: stop it first, or use another state folder",
            socket.display()
        );
        write_pid(&pid).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(StateDir::new(folder, pid, Access::Owned))
    }

    /// The folder of an edge that hands over, with its very lock: it is never unlocked in between. Nothing is written until
    /// [`StateDir::own`].
    ///
    /// # Errors
    /// When `lock` is not the lock of the folder.
    pub(crate) fn share(folder: &Path, lock: File) -> Result<StateDir> {
        let path = folder.join(PID);
        let (given, there) = (lock.metadata()?, std::fs::metadata(&path)?);
        ensure!(
            (given.dev(), given.ino()) == (there.dev(), there.ino()),
            "what was handed over is not the lock {}",
            path.display()
        );
        Ok(StateDir::new(folder, lock, Access::Shared))
    }

    fn new(folder: &Path, pid: File, access: Access) -> StateDir {
        StateDir { folder: folder.to_owned(), pid: Mutex::new(Some(pid)), writing: Mutex::new(access) }
    }

    /// The same lock again, for the edge that takes over.
    pub(crate) fn lock(&self) -> Result<File> {
        let pid = self.pid();
        let pid = pid.as_ref().context("this edge has given up its state folder")?;
        pid.try_clone().context("cannot share the lock of the state folder")
    }

    /// The folder is this edge's alone: the other one has let go of it.
    pub(crate) fn own(&self) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = Access::Owned;
        let written = self.pid().as_ref().map(write_pid);
        if let Some(Err(error)) = written {
            log::event("pid_not_written", json!({ "error": error.to_string() }));
        }
    }

    /// The folder is another edge's, which has the lock too: this one only closes its own handle.
    pub(crate) fn give_up(&self) {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) = Access::GivenUp;
        self.pid().take();
    }

    /// Whether the folder is another edge's.
    pub(crate) fn is_given_up(&self) -> bool {
        *self.writing.lock().unwrap_or_else(PoisonError::into_inner) == Access::GivenUp
    }

    /// The folder's path.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    fn pid(&self) -> MutexGuard<'_, Option<File>> {
        self.pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Path of the control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(CONTROL_SOCKET)
    }

    /// The table that was in force last, or the empty one in a new folder: the highest generation of what is usable.
    ///
    /// # Errors
    /// When files are there and none is usable: an edge that starts empty would answer 404 to everybody.
    pub(crate) fn restore(&self) -> Result<Restored> {
        let missing = || anyhow!("{} is missing", self.folder.join(TABLE).display());
        match (self.load(TABLE), self.load(COPY)) {
            (Ok(Some(first)), Ok(Some(copy))) if copy.generation > first.generation => {
                let reason = anyhow!("{} is older than its copy", self.folder.join(TABLE).display());
                Ok(fallen_back(copy, &reason))
            }
            (Ok(Some(table)), _) => Ok(Restored { table, fallback: None }),
            (Ok(None), Ok(None)) => Ok(Restored { table: empty(), fallback: None }),
            (Ok(None), Ok(Some(copy))) => Ok(fallen_back(copy, &missing())),
            (Err(reason), Ok(Some(copy))) => Ok(fallen_back(copy, &reason)),
            (Err(reason), Ok(None)) => Err(self.unusable(reason)),
            (Ok(None), Err(error)) => Err(self.unusable(error.context(missing()))),
            (Err(reason), Err(error)) => Err(self.unusable(error.context(format!("{reason:#}")))),
        }
    }

    fn unusable(&self, error: Error) -> Error {
        error.context(format!(
            "cannot restore the routing table: repair {}, or move it and {COPY} away to start empty and deploy again",
            self.folder.join(TABLE).display()
        ))
    }

    fn load(&self, name: &str) -> Result<Option<Table>> {
        let path = self.folder.join(name);
        let Some(bytes) = stdx::fs::read_if_exists(&path)? else { return Ok(None) };
        decode(&bytes).map(Some).with_context(|| format!("{} is unusable", path.display()))
    }

    /// Keeps `table`, which follows `in_force`, in the first file; once it is in force, [`StateDir::copy`] does the rest. On
    /// failure `in_force` is what the next start restores.
    pub(crate) fn save(&self, table: &Table, in_force: &Table) -> Result<()> {
        let access = self.write_access()?;
        // What a failure goes back to must be there: a copy may have failed, or been damaged since.
        self.write_where_different(COPY, in_force)?;
        let path = self.folder.join(TABLE);
        let written = stdx::fs::write_atomic(&path, &encode(table)?, MODE);
        let written = written.inspect_err(|_| self.take_back(in_force));
        drop(access);
        written
    }

    /// Keeps `in_force` in the second file too.
    pub(crate) fn copy(&self, in_force: &Table) -> Result<()> {
        let _access = self.write_access()?;
        self.write_where_different(COPY, in_force)
    }

    /// Makes both files hold what was restored; a damaged one has been reported by then.
    pub(crate) fn repair(&self, restored: &Table) -> Result<()> {
        let _access = self.write_access()?;
        self.write_where_different(TABLE, restored)?;
        self.write_where_different(COPY, restored)
    }

    /// Keeps what belongs to the table in force and is not routed by: `None` keeps nothing.
    pub(crate) fn keep(&self, note: Note, value: Option<&impl Serialize>) -> Result<()> {
        let _access = self.write_access()?;
        let path = self.folder.join(note.file());
        match value {
            Some(value) => stdx::fs::write_atomic(&path, &seal(note.name(), value)?, MODE),
            None if path.exists() => {
                std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))
            }
            None => Ok(()),
        }
    }

    /// What was kept; what is unusable is reported, and then nothing.
    pub(crate) fn recall<T: DeserializeOwned>(&self, note: Note) -> Option<T> {
        let path = self.folder.join(note.file());
        let read = || -> Result<Option<T>> {
            let Some(bytes) = stdx::fs::read_if_exists(&path)? else { return Ok(None) };
            Ok(Some(serde_json::from_value(unseal(note.name(), &bytes)?)?))
        };
        read().unwrap_or_else(|error| {
            let name = note.name().to_uppercase();
            log::event(&format!("{name}_UNUSABLE"), json!({ "path": path, "error": format!("{error:#}") }));
            None
        })
    }

    fn write_where_different(&self, name: &str, table: &Table) -> Result<()> {
        // Generation 0 was never applied by anybody: falling back to it would be starting empty.
        let is_kept = table.generation == 0 || matches!(self.load(name), Ok(Some(kept)) if kept == *table);
        if is_kept {
            return Ok(());
        }
        stdx::fs::write_atomic(&self.folder.join(name), &encode(table)?, MODE)
    }

    fn write_access(&self) -> Result<MutexGuard<'_, Access>> {
        let access = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(*access == Access::Owned, "this edge has given up its state folder: it is stopping");
        Ok(access)
    }

    /// A write can fail after its rename, when the folder cannot be synced; then the refused table must not come back.
    fn take_back(&self, in_force: &Table) {
        let path = self.folder.join(TABLE);
        let unchanged = matches!(self.load(TABLE), Ok(Some(table)) if table == *in_force);
        if unchanged || (in_force.generation == 0 && !path.exists()) {
            return;
        }
        let undone = match in_force.generation {
            0 => std::fs::remove_file(&path).map_err(Error::from),
            _ => encode(in_force).and_then(|bytes| stdx::fs::write_atomic(&path, &bytes, MODE)),
        };
        if let Err(error) = undone {
            log::event("table_not_taken_back", json!({ "path": path, "error": format!("{error:#}") }));
        }
    }

    /// Leaves the folder to the next edge. The file of the lock stays: somebody may have opened it already, and would
    /// then lock a file that nobody else can find while a third one locks a new file of its name.
    pub(crate) fn close(&self) {
        // After the last write, and no write comes after this.
        let access = std::mem::replace(
            &mut *self.writing.lock().unwrap_or_else(PoisonError::into_inner),
            Access::GivenUp,
        );
        // Unlocking a shared lock would unlock it for the other edge as well.
        let Some(pid) = self.pid().take().filter(|_| access == Access::Owned) else { return };
        let _ = std::fs::remove_file(self.socket());
        let _ = pid.set_len(0);
        let _ = pid.unlock();
    }
}

fn write_pid(mut file: &File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes())
}

fn fallen_back(table: Table, reason: &Error) -> Restored {
    Restored { table, fallback: Some(format!("{reason:#}")) }
}

fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let pid = std::fs::read_to_string(path).unwrap_or_default();
            bail!(
                "another edge (process {}) has locked {}: stop it first, or use another state folder",
                pid.trim(),
                path.display()
            )
        }
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

/// The table of an edge that was never told one.
pub(crate) fn empty() -> Table {
    Table::default()
}

/// The file of `table`: the table, and the digest of its canonical JSON.
pub(crate) fn encode(table: &Table) -> Result<Vec<u8>> {
    seal("table", table)
}

/// The table of a file's bytes.
///
/// # Errors
/// When it is not exactly what was written.
pub(crate) fn decode(bytes: &[u8]) -> Result<Table> {
    let value = unseal("table", bytes)?;
    let schema = value.get("schema").and_then(Value::as_str).unwrap_or_default();
    ensure!(READ_SCHEMAS.contains(&schema), "its schema is `{schema}`, this edge knows `{SCHEMA}`");
    let table = Table { schema: SCHEMA.into(), ..serde_json::from_value(value)? };
    table.check().map_err(Error::msg)?;
    Ok(table)
}

/// A document with one member `name` and the digest of its canonical JSON.
fn seal(name: &str, value: &impl Serialize) -> Result<Vec<u8>> {
    let value = serde_json::to_value(value)?;
    let digest = Digest::of(stdx::json::canonical(&value)?);
    let mut bytes = serde_json::to_vec_pretty(&json!({ "digest": digest, name: value }))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The member `name` of a document, as it was written or not at all.
fn unseal(name: &str, bytes: &[u8]) -> Result<Value> {
    let mut file: Value = serde_json::from_slice(bytes).context("not JSON, or cut off")?;
    let value = file.get_mut(name).map(Value::take).with_context(|| format!("no {name} in it"))?;
    let digest = file.get("digest").and_then(Value::as_str).context("no digest in it")?;
    let is_whole = digest == Digest::of(stdx::json::canonical(&value)?).to_string();
    ensure!(is_whole, "its digest does not match its {name}");
    Ok(value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Route, Slot};

    fn table(generation: u64) -> Table {
        let slot = Slot { service: "demo".into(), upstreams: vec!["127.0.0.1:4000".parse().unwrap()] };
        let route = Route {
            host: Some("h".into()),
            path_prefix: "/".into(),
            strip_prefix: false,
            slot: "a".into(),
            policy: Default::default(),
        };
        Table { generation, routes: vec![route], slots: [("a".to_owned(), slot)].into(), ..Table::default() }
    }

    fn saved(folder: &Path, upto: u64) -> StateDir {
        let state = StateDir::open(folder).unwrap();
        let mut in_force = empty();
        for generation in 1..=upto {
            state.save(&table(generation), &in_force).unwrap();
            in_force = table(generation);
            state.copy(&in_force).unwrap();
        }
        state
    }

    /// A small generator of numbers that look random: the seed makes a failure repeatable.
    fn random(state: &mut u64) -> usize {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 16) as usize
    }

    #[test]
    fn what_was_saved_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let state = saved(folder.path(), 0);
        assert_eq!(state.restore().unwrap(), Restored { table: empty(), fallback: None });
        drop(state);
        let state = saved(folder.path(), 3);
        assert_eq!(state.restore().unwrap(), Restored { table: table(3), fallback: None });
    }

    #[test]
    fn a_broken_missing_or_newer_file_falls_back_to_the_other_which_has_the_same_table() {
        let folder = tempfile::tempdir().unwrap();
        let state = saved(folder.path(), 3);
        let newer =
            String::from_utf8(encode(&table(3)).unwrap()).unwrap().replace("edge-table/2", "edge-table/3");
        for name in [TABLE, COPY] {
            let path = folder.path().join(name);
            for broken in [Some(""), Some("{"), Some("\0\0\0"), Some(newer.as_str()), None] {
                match broken {
                    Some(text) => std::fs::write(&path, text).unwrap(),
                    None => std::fs::remove_file(&path).unwrap(),
                }
                let restored = state.restore().unwrap();
                assert_eq!(restored.table, table(3), "{name}: {broken:?}");
                assert_eq!(restored.fallback.is_some(), name == TABLE, "{name}: {broken:?}");
                assert!(restored.fallback.is_none_or(|reason| reason.contains(TABLE)));
                state.repair(&restored.table).unwrap();
                assert_eq!(std::fs::read(&path).unwrap(), encode(&table(3)).unwrap(), "{name}: {broken:?}");
            }
        }
    }

    /// The files after each step of applying generation 3, as a crash there leaves them.
    #[test]
    fn after_a_crash_at_any_point_the_highest_generation_is_restored() {
        let folder = tempfile::tempdir().unwrap();
        let state = saved(folder.path(), 2);
        assert_eq!(state.restore().unwrap(), Restored { table: table(2), fallback: None });
        state.save(&table(3), &table(2)).unwrap();
        assert_eq!(state.load(COPY).unwrap(), Some(table(2)));
        assert_eq!(state.restore().unwrap(), Restored { table: table(3), fallback: None });
        state.copy(&table(3)).unwrap();
        assert_eq!(state.load(COPY).unwrap(), Some(table(3)));
        assert_eq!(state.restore().unwrap(), Restored { table: table(3), fallback: None });
        // An older first file, such as one from a backup, does not win over its copy.
        std::fs::write(folder.path().join(TABLE), encode(&table(1)).unwrap()).unwrap();
        let restored = state.restore().unwrap();
        assert_eq!(restored.table, table(3));
        assert!(restored.fallback.unwrap().contains("older"));
    }

    #[test]
    fn a_copy_that_failed_is_made_up_for_before_the_next_table() {
        let folder = tempfile::tempdir().unwrap();
        let state = saved(folder.path(), 1);
        state.save(&table(2), &table(1)).unwrap();
        // No copy of 2 was made. The next save fails, and what it goes back to is there twice.
        let path = folder.path().join(TABLE);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(state.save(&table(3), &table(2)).is_err());
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(state.restore().unwrap().table, table(2));
    }

    #[test]
    fn nothing_usable_is_an_error_that_names_the_file_and_never_an_empty_table() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        state.save(&table(1), &empty()).unwrap();
        assert!(!folder.path().join(COPY).exists(), "generation 0 is nothing to fall back to");
        std::fs::write(folder.path().join(TABLE), "{").unwrap();
        let error = format!("{:#}", state.restore().unwrap_err());
        assert!(error.contains("table.json") && error.contains("deploy again"), "{error}");
        std::fs::write(folder.path().join(COPY), "").unwrap();
        assert!(state.restore().is_err());
        std::fs::remove_file(folder.path().join(TABLE)).unwrap();
        assert!(state.restore().is_err(), "the copy alone, unusable");
    }

    #[test]
    fn a_table_of_the_schema_before_is_read_and_kept_as_one_of_now() {
        let folder = tempfile::tempdir().unwrap();
        let old = serde_json::json!({
            "schema": "slipway.edge-table/1",
            "generation": 4,
            "routes": [{ "host": "h", "path_prefix": "/", "strip_prefix": false, "slot": "a" }],
            "slots": { "a": { "service": "demo", "upstreams": ["127.0.0.1:4000"] } },
        });
        let bytes = seal("table", &old).unwrap();
        std::fs::write(folder.path().join(TABLE), &bytes).unwrap();
        std::fs::write(folder.path().join(COPY), &bytes).unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        assert_eq!(state.restore().unwrap(), Restored { table: table(4), fallback: None });
        state.save(&table(5), &table(4)).unwrap();
        assert_eq!(state.restore().unwrap().table, table(5));
    }

    /// Property (deploy.md, section 9): damage of any kind to any of the files, also to both tables at once, gives the table
    /// in force or a refusal to start; never an empty table, never routes that were not in force.
    #[test]
    fn a_thousand_mutations_of_the_state_never_start_empty_nor_with_a_wrong_release() {
        let folder = tempfile::tempdir().unwrap();
        let state = saved(folder.path(), 7);
        state.keep(Note::Bake, Some(&json!({ "a": 1 }))).unwrap();
        let good = encode(&table(7)).unwrap();
        let (mut seed, mut refused) = (0xfeed_u64, 0);
        for round in 0..1000 {
            let mut is_one_whole = false;
            // In most rounds both tables are damaged, each in its own way.
            for (number, name) in [TABLE, COPY].iter().enumerate() {
                let path = folder.path().join(name);
                let _ = std::fs::remove_dir(&path);
                let is_spared = random(&mut seed).is_multiple_of(4) && number == round % 2;
                is_one_whole |= is_spared;
                let bytes = if is_spared { Some(good.clone()) } else { mutated(&good, &mut seed) };
                match bytes {
                    Some(bytes) => std::fs::write(&path, bytes).unwrap(),
                    None => drop(std::fs::remove_file(&path)),
                }
            }
            let is_gone = [TABLE, COPY].iter().all(|name| !folder.path().join(name).exists());
            match state.restore() {
                Ok(restored) if is_gone => assert_eq!(restored.table, empty(), "files deleted: a new edge"),
                Ok(restored) => assert_eq!(restored.table, table(7), "round {round}"),
                Err(error) => {
                    assert!(!is_one_whole, "round {round}: {error:#}");
                    refused += 1;
                }
            }
            let path = folder.path().join(Note::Bake.file());
            let note = std::fs::read(&path).unwrap();
            std::fs::write(&path, mutated(&note, &mut seed).unwrap_or_default()).unwrap();
            let recalled: Option<Value> = state.recall(Note::Bake);
            assert!(recalled.is_none_or(|value| value == json!({ "a": 1 })));
            std::fs::write(&path, note).unwrap();
        }
        assert!(refused > 300, "only {refused} rounds left nothing usable");
    }

    /// One kind of damage that disks and people do; `None` is a file that is gone.
    fn mutated(good: &[u8], seed: &mut u64) -> Option<Vec<u8>> {
        let mut bytes = good.to_vec();
        let at = random(seed) % bytes.len();
        match random(seed) % 9 {
            0 => bytes.truncate(at),
            1 => drop(bytes.remove(at)),
            2 => bytes[at] = random(seed) as u8,
            3 => bytes[at] ^= 1 << (random(seed) % 8),
            4 => bytes[at..].fill(0),
            5 => bytes = Vec::new(),
            6 => bytes.extend_from_slice(good),
            7 => bytes = String::from_utf8_lossy(good).replace("edge-table/2", "edge-table/9").into_bytes(),
            _ => return None,
        }
        Some(bytes)
    }

    #[test]
    fn a_failed_save_leaves_the_table_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let state = saved(folder.path(), 2);
        let path = folder.path().join(TABLE);
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(state.save(&table(3), &table(2)).is_err());
        std::fs::remove_dir(&path).unwrap();
        assert_eq!(state.restore().unwrap().table, table(2));
        state.save(&table(3), &table(2)).unwrap();
        state.take_back(&table(2));
        assert_eq!(state.restore().unwrap(), Restored { table: table(2), fallback: None });
    }

    #[test]
    fn a_folder_has_one_owner_and_a_path_that_fits() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let error = format!("{:#}", StateDir::open(folder.path()).err().unwrap());
        assert!(error.contains(&std::process::id().to_string()), "{error}");
        state.close();
        drop(StateDir::open(folder.path()).unwrap());
        assert!(state.save(&table(1), &empty()).is_err(), "the folder is not its own any more");
        let long = folder.path().join("x".repeat(120));
        let error = format!("{:#}", StateDir::open(&long).err().unwrap());
        assert!(error.contains("shorter folder"), "{error}");
    }

    #[test]
    fn who_opened_the_lock_file_before_a_close_locks_the_one_that_later_ones_find() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(PID);
        let state = StateDir::open(folder.path()).unwrap();
        let early = OpenOptions::new().write(true).open(&path).unwrap();
        state.close();
        assert_eq!(std::fs::read(&path).unwrap(), b"", "it names no process that has gone");
        early.try_lock().unwrap();
        assert!(StateDir::open(folder.path()).is_err());
    }
}
