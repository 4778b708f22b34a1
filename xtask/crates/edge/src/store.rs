//! The state folder: one edge at a time owns it, and the table in force is on disk before it is in force. A table is read
//! back as it was written or not at all: its digest stands beside it, and the generation before is kept for the day when
//! the newest file is unusable.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use stdx::Digest;

use crate::control::{SCHEMA, Table};
use crate::{client, log, routing};

/// Name of the control socket in the state folder.
pub const CONTROL_SOCKET: &str = "control.sock";

const TABLE: &str = "table.json";
const PREVIOUS: &str = "table.json.previous";
const PID: &str = "edge.pid";

/// Tables name internal addresses only, yet nobody else has business with them.
const MODE: u32 = 0o600;

/// A state folder that this process alone uses.
pub(crate) struct StateDir {
    folder: PathBuf,
    /// Locked for as long as it is open, also when the process dies without a word.
    pid: File,
}

/// A table from disk.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Restored {
    pub(crate) table: Table,
    /// Why the newest file was passed over, where it was.
    pub(crate) fallback: Option<String>,
}

impl StateDir {
    /// Takes the folder, which is created where it is missing.
    ///
    /// # Errors
    /// When another edge has it.
    pub(crate) fn open(folder: &Path) -> Result<StateDir> {
        let socket = folder.join(CONTROL_SOCKET);
        client::check_path(&socket)?;
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
        pid.set_len(0)
            .and_then(|()| (&pid).write_all(format!("{}\n", std::process::id()).as_bytes()))
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(StateDir { folder: folder.to_owned(), pid })
    }

    /// Path of the control socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.join(CONTROL_SOCKET)
    }

    /// The table that was in force last, or the empty one in a new folder.
    ///
    /// # Errors
    /// When files are there and none is usable: an edge that starts empty would answer 404 to everybody.
    pub(crate) fn restore(&self) -> Result<Restored> {
        let newest = self.load(TABLE);
        let reason = match newest {
            Ok(Some(table)) => return Ok(Restored { table, fallback: None }),
            Ok(None) => anyhow!("{} is missing", self.folder.join(TABLE).display()),
            Err(error) => error,
        };
        match self.load(PREVIOUS) {
            Ok(Some(table)) => Ok(Restored { table, fallback: Some(format!("{reason:#}")) }),
            Ok(None) if !self.folder.join(TABLE).exists() => Ok(Restored { table: empty(), fallback: None }),
            Ok(None) => Err(reason.context(self.advice())),
            Err(error) => Err(error.context(format!("{reason:#}")).context(self.advice())),
        }
    }

    fn advice(&self) -> String {
        format!(
            "cannot restore the routing table: repair {}, or move it and {PREVIOUS} away to start empty and deploy again",
            self.folder.join(TABLE).display()
        )
    }

    fn load(&self, name: &str) -> Result<Option<Table>> {
        let path = self.folder.join(name);
        let Some(bytes) = stdx::fs::read_if_exists(&path)? else { return Ok(None) };
        decode(&bytes).map(Some).with_context(|| format!("{} is unusable", path.display()))
    }

    /// Keeps `table`, which follows `in_force`. On failure `in_force` is what the next start restores.
    pub(crate) fn save(&self, table: &Table, in_force: &Table) -> Result<()> {
        // Generation 0 was never applied by anybody: falling back to it would be starting empty.
        if in_force.generation > 0 {
            stdx::fs::write_atomic(&self.folder.join(PREVIOUS), &encode(in_force)?, MODE)?;
        }
        let path = self.folder.join(TABLE);
        stdx::fs::write_atomic(&path, &encode(table)?, MODE).inspect_err(|_| self.take_back(in_force))
    }

    /// A write can fail after its rename, when the folder cannot be synced; then the refused table must not come back.
    fn take_back(&self, in_force: &Table) {
        let path = self.folder.join(TABLE);
        let unchanged = matches!(self.load(TABLE), Ok(Some(table)) if table == *in_force);
        if unchanged || (in_force.generation == 0 && !path.exists()) {
            return;
        }
        let undone = match in_force.generation {
            0 => std::fs::remove_file(&path).map_err(anyhow::Error::from),
            _ => encode(in_force).and_then(|bytes| stdx::fs::write_atomic(&path, &bytes, MODE)),
        };
        if let Err(error) = undone {
            log::event("table_not_taken_back", json!({ "path": path, "error": format!("{error:#}") }));
        }
    }

    /// Removes what only a running edge has and leaves the folder to the next one.
    pub(crate) fn close(&self) {
        for name in [CONTROL_SOCKET, PID] {
            let _ = std::fs::remove_file(self.folder.join(name));
        }
        let _ = self.pid.unlock();
    }
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
    Table { schema: SCHEMA.into(), generation: 0, routes: Vec::new(), slots: Default::default() }
}

/// The file of `table`: the table, and the digest of its canonical JSON.
fn encode(table: &Table) -> Result<Vec<u8>> {
    let table = serde_json::to_value(table)?;
    let digest = Digest::of(stdx::json::canonical(&table)?);
    let mut bytes = serde_json::to_vec_pretty(&json!({ "digest": digest, "table": table }))?;
    bytes.push(b'\n');
    Ok(bytes)
}

/// The table of a file's bytes.
///
/// # Errors
/// When it is not exactly what was written.
fn decode(bytes: &[u8]) -> Result<Table> {
    let mut file: Value = serde_json::from_slice(bytes).context("not JSON, or cut off")?;
    let table = file.get_mut("table").map(Value::take).context("no table in it")?;
    let schema = table.get("schema").and_then(Value::as_str).unwrap_or_default();
    ensure!(schema == SCHEMA, "its schema is `{schema}`, this edge knows `{SCHEMA}`");
    let digest = file.get("digest").and_then(Value::as_str).context("no digest in it")?;
    ensure!(
        digest == Digest::of(stdx::json::canonical(&table)?).to_string(),
        "its digest does not match its table"
    );
    let table: Table = serde_json::from_value(table)?;
    routing::check(&table)?;
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Route, Slot};

    fn table(generation: u64) -> Table {
        let slot = Slot { service: "demo".into(), upstreams: vec!["127.0.0.1:4000".parse().unwrap()] };
        let route =
            Route { host: Some("h".into()), path_prefix: "/".into(), strip_prefix: false, slot: "a".into() };
        Table {
            schema: SCHEMA.into(),
            generation,
            routes: vec![route],
            slots: [("a".to_owned(), slot)].into(),
        }
    }

    fn saved(folder: &Path, upto: u64) -> StateDir {
        let state = StateDir::open(folder).unwrap();
        let mut in_force = empty();
        for generation in 1..=upto {
            state.save(&table(generation), &in_force).unwrap();
            in_force = table(generation);
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
    fn a_broken_missing_or_newer_table_falls_back_to_the_generation_before() {
        let folder = tempfile::tempdir().unwrap();
        let state = saved(folder.path(), 3);
        let path = folder.path().join(TABLE);
        let newer =
            String::from_utf8(encode(&table(3)).unwrap()).unwrap().replace("edge-table/1", "edge-table/2");
        for broken in [Some(""), Some("{"), Some("\0\0\0"), Some(newer.as_str()), None] {
            match broken {
                Some(text) => std::fs::write(&path, text).unwrap(),
                None => std::fs::remove_file(&path).unwrap(),
            }
            let restored = state.restore().unwrap();
            assert_eq!(restored.table, table(2), "{broken:?}");
            assert!(restored.fallback.unwrap().contains(TABLE));
        }
    }

    #[test]
    fn nothing_usable_is_an_error_that_names_the_file_and_never_an_empty_table() {
        let folder = tempfile::tempdir().unwrap();
        let state = saved(folder.path(), 1);
        assert!(!folder.path().join(PREVIOUS).exists(), "generation 0 is nothing to fall back to");
        std::fs::write(folder.path().join(TABLE), "{").unwrap();
        let error = format!("{:#}", state.restore().unwrap_err());
        assert!(error.contains("table.json") && error.contains("deploy again"), "{error}");
        std::fs::write(folder.path().join(PREVIOUS), "").unwrap();
        assert!(state.restore().is_err());
        std::fs::remove_file(folder.path().join(TABLE)).unwrap();
        assert!(state.restore().is_err(), "the previous file alone, unusable");
    }

    #[test]
    fn a_thousand_mutations_never_give_an_altered_table() {
        let (good, mut seed, mut refused) = (encode(&table(7)).unwrap(), 0x5eed_u64, 0);
        for _ in 0..1000 {
            let mut bytes = good.clone();
            let at = random(&mut seed) % bytes.len();
            match random(&mut seed) % 4 {
                0 => bytes.truncate(at),
                1 => drop(bytes.remove(at)),
                2 => bytes[at] = random(&mut seed) as u8,
                _ => bytes[at] ^= 1 << (random(&mut seed) % 8),
            }
            match decode(&bytes) {
                Ok(read) => assert_eq!(read, table(7), "accepted: {}", String::from_utf8_lossy(&bytes)),
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 500, "only {refused} mutations were noticed");
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
        let long = folder.path().join("x".repeat(120));
        let error = format!("{:#}", StateDir::open(&long).err().unwrap());
        assert!(error.contains("shorter folder"), "{error}");
    }
}
