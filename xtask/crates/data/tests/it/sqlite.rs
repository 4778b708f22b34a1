use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use data::migration::Migration;
use data::migration::run::{Remains, Settings, Stopped, apply};
use data::{Before, Dialect, Entry, Prune, Retention, Sqlite, Store};
use rusqlite::Connection;

use crate::rig::{NOW, SmallDisk, backups, leftovers};

struct Rig {
    folder: tempfile::TempDir,
    path: PathBuf,
    store: Store,
}

impl Rig {
    /// A database in write-ahead logging with every kind of thing in it.
    fn new() -> Rig {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("app.db");
        let connection = Connection::open(&path).unwrap();
        connection.execute_batch(
            "PRAGMA journal_mode = WAL;
             CREATE TABLE debit (id INTEGER PRIMARY KEY AUTOINCREMENT, amount INTEGER NOT NULL CHECK (amount > 0)) STRICT;
             CREATE TABLE credit (id TEXT PRIMARY KEY, amount INTEGER NOT NULL, note, twice AS (amount * 2)) WITHOUT ROWID;
             CREATE TABLE \"odd \"\"name\" (a REFERENCES debit (id) ON DELETE CASCADE, b BLOB UNIQUE);
             CREATE INDEX by_note ON credit (note) WHERE note IS NOT NULL;
             CREATE VIEW large AS SELECT * FROM debit WHERE amount > 10;
             CREATE TRIGGER t AFTER DELETE ON debit BEGIN DELETE FROM credit WHERE id = old.id; END;
             INSERT INTO \"odd \"\"name\" VALUES (NULL, x'00ff'), (NULL, '00'), (NULL, 1.5);",
        ).unwrap();
        (1..=50).for_each(|n| transfer(&connection, n));
        let store = Store::new(folder.path().join("backups"), "app");
        Rig { folder, path, store }
    }

    fn engine(&self) -> Sqlite {
        Sqlite::new(&self.path)
    }

    fn dump(&self, id: &str) -> PathBuf {
        self.folder.path().join("backups").join(id).join("dump")
    }
}

/// One transaction that writes both sides: no backup may hold one of them alone.
fn transfer(connection: &Connection, n: u64) {
    connection.execute_batch(&format!(
        "BEGIN IMMEDIATE; INSERT INTO debit (amount) VALUES ({n}); INSERT INTO credit VALUES ('{n}', {n}, 'n{n}'); COMMIT"
    )).unwrap();
}

fn count(path: &Path, sql: &str) -> i64 {
    Connection::open(path).unwrap().query_row(sql, [], |row| row.get(0)).unwrap()
}

#[test]
fn a_backup_under_writes_is_one_moment_and_holds_nobody_up() {
    let rig = Rig::new();
    // Enough that writes fall between reading one table, reading the next and copying.
    let many = "WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 20000)";
    let connection = Connection::open(&rig.path).unwrap();
    connection.execute_batch(&format!("{many} INSERT INTO debit (amount) SELECT n FROM n")).unwrap();
    connection
        .execute_batch(&format!("{many} INSERT INTO credit SELECT 'many ' || n, n, NULL FROM n"))
        .unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let (written, slowest) = (Arc::new(AtomicU64::new(50)), Arc::new(AtomicU64::new(0)));
    let writer = {
        let (path, stop, written, slowest) =
            (rig.path.clone(), stop.clone(), written.clone(), slowest.clone());
        std::thread::spawn(move || {
            let connection = Connection::open(path).unwrap();
            connection.busy_timeout(Duration::from_secs(5)).unwrap();
            while !stop.load(Ordering::SeqCst) {
                let started = Instant::now();
                transfer(&connection, written.fetch_add(1, Ordering::SeqCst) + 1);
                slowest.fetch_max(started.elapsed().as_millis() as u64, Ordering::SeqCst);
            }
        })
    };
    for at in 0..5 {
        let before = written.load(Ordering::SeqCst);
        let manifest = rig.store.create(&rig.engine(), NOW + at).unwrap();
        assert_eq!(manifest.tables["debit"].rows, manifest.tables["credit"].rows, "a torn transaction");
        assert!(manifest.tables["debit"].rows + 1 >= 20_000 + before, "an older moment than the call");
    }
    stop.store(true, Ordering::SeqCst);
    writer.join().unwrap();
    assert!(written.load(Ordering::SeqCst) > 60, "the writer stood still");
    assert!(slowest.load(Ordering::SeqCst) < 4_000, "a write waited {slowest:?} ms");
    assert_eq!(backups(&rig.store).len(), 5);
    rig.store.verify(&rig.engine(), "latest").unwrap();
}

#[test]
fn a_restore_brings_back_rows_form_and_mode() {
    let rig = Rig::new();
    let manifest = rig.store.create(&rig.engine(), NOW).unwrap();
    Connection::open(&rig.path)
        .unwrap()
        .execute_batch("DROP VIEW large; DELETE FROM credit; ALTER TABLE debit ADD COLUMN more INT")
        .unwrap();
    let differs = rig.store.preview(&rig.engine(), &manifest.id).unwrap();
    assert_eq!(differs.len(), 2, "{differs:?}");
    let restored = rig.store.restore(&rig.engine(), &manifest.id, Before::BackUp { now: NOW + 9 }).unwrap();
    assert_eq!(count(&rig.path, "SELECT count(*) FROM credit"), 50);
    assert_eq!(count(&rig.path, "SELECT count(*) FROM large"), 40);
    let mode: String = Connection::open(&rig.path)
        .unwrap()
        .pragma_query_value(None, "journal_mode", |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    assert_eq!(leftovers(rig.folder.path()).iter().filter(|name| name.starts_with(".restoring")).count(), 0);
    // The way back.
    rig.store.restore(&rig.engine(), &restored.saved.unwrap(), Before::Nothing).unwrap();
    assert_eq!(count(&rig.path, "SELECT count(*) FROM credit"), 0);
}

#[test]
fn a_restore_is_refused_while_somebody_has_the_file_open() {
    let rig = Rig::new();
    rig.store.create(&rig.engine(), NOW).unwrap();
    let user = Connection::open(&rig.path).unwrap();
    user.query_row("SELECT count(*) FROM debit", [], |row| row.get::<_, i64>(0)).unwrap();
    let error = rig.store.restore(&rig.engine(), "latest", Before::Nothing).unwrap_err();
    assert!(format!("{error:#}").contains("is in use"), "{error:#}");
    transfer(&user, 51);
    assert_eq!(count(&rig.path, "SELECT count(*) FROM debit"), 51);
    drop(user);
    rig.store.restore(&rig.engine(), "latest", Before::Nothing).unwrap();
    assert_eq!(count(&rig.path, "SELECT count(*) FROM debit"), 50);
}

#[test]
fn a_file_that_is_gone_or_no_database_any_more_is_restored() {
    let rig = Rig::new();
    rig.store.create(&rig.engine(), NOW).unwrap();
    for damage in [None, Some(vec![7; 8192])] {
        match damage {
            None => std::fs::remove_file(&rig.path).unwrap(),
            Some(bytes) => std::fs::write(&rig.path, bytes).unwrap(),
        }
        rig.store.restore(&rig.engine(), "latest", Before::Nothing).unwrap();
        assert_eq!(count(&rig.path, "SELECT count(*) FROM debit"), 50);
    }
}

#[test]
fn damage_of_any_byte_is_found() {
    let rig = Rig::new();
    let id = rig.store.create(&rig.engine(), NOW).unwrap().id;
    let dump = rig.dump(&id);
    let whole = std::fs::read(&dump).unwrap();
    for at in [0, 18, 100, whole.len() / 2, whole.len() - 1] {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        std::fs::write(&dump, bytes).unwrap();
        let error = rig.store.verify(&rig.engine(), &id).unwrap_err();
        assert!(format!("{error:#}").contains("is not what was written"), "{error:#}");
        assert!(rig.store.restore(&rig.engine(), &id, Before::Nothing).is_err());
    }
    std::fs::write(&dump, &whole[..whole.len() - 4096]).unwrap();
    assert_eq!(backups(&rig.store), [""; 0]);
    assert!(
        matches!(&rig.store.list().unwrap()[..], [Entry::Damaged { why, .. }] if why.contains("bytes instead of"))
    );
    std::fs::write(&dump, &whole).unwrap();
    rig.store.verify(&rig.engine(), &id).unwrap();
    for manifest in [&b"{"[..], b"", b"{\"schema\":\"slipway.backup/9\"}"] {
        std::fs::write(dump.with_file_name("manifest.json"), manifest).unwrap();
        assert_eq!(backups(&rig.store), [""; 0]);
    }
}

#[test]
fn a_database_that_is_damaged_itself_gives_no_backup() {
    let rig = Rig::new();
    let mut bytes = std::fs::read(&rig.path).unwrap();
    let size = bytes.len();
    // Pages after the catalogue.
    bytes[4096 + 200..size].fill(0x5a);
    std::fs::write(&rig.path, bytes).unwrap();
    assert!(rig.store.create(&rig.engine(), NOW).is_err());
    assert_eq!(leftovers(&rig.folder.path().join("backups")), [""; 0]);
}

#[test]
fn what_ends_early_leaves_nothing_that_counts() {
    let rig = Rig::new();
    let folder = rig.folder.path().join("backups");
    // As SIGKILL leaves it: a folder without a name of its own.
    let killed = folder.join(".taking-killed");
    std::fs::create_dir_all(&killed).unwrap();
    std::fs::copy(&rig.path, killed.join("dump")).unwrap();
    assert_eq!(backups(&rig.store), [""; 0]);
    rig.store.create(&rig.engine(), NOW).unwrap();
    assert!(!killed.exists());
    // Two in the same second.
    rig.store.create(&rig.engine(), NOW).unwrap();
    let names = backups(&rig.store);
    assert_eq!((names.len(), names[1].starts_with(&names[0])), (2, true), "{names:?}");
}

#[test]
fn a_full_disk_gives_no_backup_and_keeps_those_before() {
    let rig = Rig::new();
    let folder = rig.folder.path().join("small");
    let Some(_disk) = SmallDisk::mount(&folder, "1m") else { return };
    let store = Store::new(folder.join("backups"), "app");
    store.create(&rig.engine(), NOW).unwrap();
    let connection = Connection::open(&rig.path).unwrap();
    connection.execute("INSERT INTO \"odd \"\"name\" VALUES (NULL, randomblob(2000000))", []).unwrap();
    let error = format!("{:#}", store.create(&rig.engine(), NOW + 1).unwrap_err());
    assert!(error.contains("cannot copy the pages") || error.contains("No space left"), "{error}");
    assert_eq!(backups(&store).len(), 1);
    assert_eq!(leftovers(&folder.join("backups")).len(), 1);
    // Room for the dump, and none for the proof.
    connection.execute_batch("DELETE FROM \"odd \"\"name\"; VACUUM; INSERT INTO \"odd \"\"name\" VALUES (NULL, randomblob(600000))").unwrap();
    assert!(store.create(&rig.engine(), NOW + 2).is_err());
    assert_eq!(backups(&store).len(), 1);
}

#[test]
fn pruning_never_takes_the_last_that_counts() {
    let rig = Rig::new();
    for at in 0..4 {
        rig.store.create(&rig.engine(), NOW + at * 86_400).unwrap();
    }
    let names = backups(&rig.store);
    // The two newest are damaged: they do not count.
    for id in &names[2..] {
        std::fs::write(rig.dump(id), b"").unwrap();
    }
    let hard = Retention { keep: 1, keep_seconds: 0 };
    assert_eq!(rig.store.prune(hard, NOW * 2, Prune::DryRun).unwrap(), names[..1]);
    assert_eq!(rig.store.prune(hard, NOW * 2, Prune::Remove).unwrap(), names[..1]);
    assert_eq!(backups(&rig.store), names[1..2]);
    rig.store.verify(&rig.engine(), "latest").unwrap();
}

#[test]
fn the_form_does_not_go_by_the_order_of_creation() {
    let folder = tempfile::tempdir().unwrap();
    let form = |name: &str, sql: &str| {
        let path = folder.path().join(name);
        Connection::open(&path).unwrap().execute_batch(sql).unwrap();
        data::Engine::schema(&Sqlite::new(&path)).unwrap()
    };
    let a =
        form("a", "CREATE TABLE x (a INT, b TEXT CHECK (b > ''));CREATE TABLE y (c);CREATE INDEX i ON x(b);");
    let b = form(
        "b",
        "CREATE TABLE y (c);CREATE TABLE x (b text check(b>'') /* c */, a integer);\nCREATE INDEX j ON x (b);",
    );
    assert_eq!(a.difference(&b), [""; 0]);
    assert_eq!(a.fingerprint().unwrap(), b.fingerprint().unwrap());
    let c =
        form("c", "CREATE TABLE y (c);CREATE TABLE x (b text NOT NULL, a integer);CREATE INDEX j ON x (b);");
    let obstacles: Vec<String> = a.obstacles(&c).iter().map(ToString::to_string).collect();
    assert_eq!(obstacles, ["column x.b: it refuses nulls now"]);
}

#[test]
fn a_migration_that_stops_half_way_is_named_and_changes_nothing() {
    let rig = Rig::new();
    let script = |name: &str, text: &str| Migration {
        name: name.into(),
        path: format!("m/{name}"),
        text: text.into(),
    };
    let settings = Settings {
        dialect: Dialect::Sqlite,
        lock_timeout: Duration::from_secs(1),
        attempts: 1,
        pause: Duration::ZERO,
    };
    let good = script("1.sql", "CREATE TABLE one (a INT); -- first\nINSERT INTO one VALUES (';');");
    let bad = script("2.sql", "CREATE TABLE two (a INT);\nINSERT INTO missing VALUES ('hunter2');");
    let run = |scripts: &[Migration]| apply(scripts, &rig.engine(), settings);
    let stopped = run(&[good.clone(), bad]).unwrap_err();
    assert_eq!(
        stopped.to_string(),
        "m/2.sql:2: `insert into missing values ('…')` stopped: no such table: missing: Error code 1: SQL logic error; nothing was changed"
    );
    assert_eq!(count(&rig.path, "SELECT count(*) FROM one"), 1);
    assert_eq!(count(&rig.path, "SELECT count(*) FROM sqlite_schema WHERE name = 'two'"), 0);
    assert_eq!(run(std::slice::from_ref(&good)).unwrap(), [""; 0]);
    assert!(
        run(&[script("1.sql", "SELECT 1")])
            .unwrap_err()
            .to_string()
            .contains("was edited after it was applied")
    );
    let outside = script("3.sql", "PRAGMA foreign_keys = OFF;\nCREATE TABLE three (a INT);\nFROB;");
    let stopped: Stopped = run(&[good, outside]).unwrap_err().downcast().unwrap();
    assert_eq!((stopped.line, stopped.remains), (3, Remains::Lines(vec![1, 2])));
}
