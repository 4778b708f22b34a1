use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::time::{Duration, Instant};

use data::migration::Migration;
use data::migration::run::{Remains, Settings, Stopped, apply};
use data::{Before, Connection, Dialect, Engine, Postgres, Store, Tools};

use crate::rig::{NOW, SmallDisk, backups, leftovers, works};

const PASSWORD: &str = "s3cret:with\\signs";

/// A server in a temporary folder, reached by a socket and a password; ended with the last test that uses it.
struct Server {
    folder: tempfile::TempDir,
    bin: PathBuf,
    process: Child,
}

static SERVER: Mutex<Weak<Server>> = Mutex::new(Weak::new());
static NUMBER: AtomicU32 = AtomicU32::new(0);

impl Server {
    /// `None` where no server is installed.
    fn shared() -> Option<Arc<Server>> {
        let mut shared = SERVER.lock().unwrap();
        if let Some(server) = shared.upgrade() {
            return Some(server);
        }
        let server = Arc::new(Server::start()?);
        *shared = Arc::downgrade(&server);
        Some(server)
    }

    fn start() -> Option<Server> {
        let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path().join("bin"))
            .collect();
        found.sort();
        let bin =
            found.into_iter().rfind(|bin| bin.join("initdb").exists()).unwrap_or_else(|| "/usr/bin".into());
        if !works("postgres", bin.join("postgres").to_str().unwrap(), &["--version"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let (home, password) = (folder.path().join("data"), folder.path().join("password"));
        std::fs::create_dir(&home).unwrap();
        std::fs::write(&password, PASSWORD).unwrap();
        if rustix::process::geteuid().is_root() {
            // A server refuses to run as root.
            assert!(
                Command::new("chown")
                    .arg("-R")
                    .arg("postgres")
                    .arg(folder.path())
                    .status()
                    .unwrap()
                    .success()
            );
        }
        let made = as_user(&bin.join("initdb"))
            .args([
                "--username=postgres",
                "--auth=scram-sha-256",
                "--no-sync",
                "--encoding=UTF8",
                "--locale=C.UTF-8",
                "--pwfile",
            ])
            .arg(&password)
            .arg("-D")
            .arg(&home)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let process = as_user(&bin.join("postgres"))
            .arg("-D")
            .arg(&home)
            .arg("-k")
            .arg(folder.path())
            .args([
                "-c",
                "listen_addresses=",
                "-c",
                "fsync=off",
                "-c",
                "shared_buffers=16MB",
                "-c",
                "max_wal_size=64MB",
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { folder, bin, process };
        let deadline = Instant::now() + Duration::from_secs(60);
        while server.try_sql("postgres", "SELECT 1").is_err() {
            assert!(Instant::now() < deadline, "the server does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(server)
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres:s3cret%3Awith%5Csigns@/{database}?host={}", self.folder.path().display())
    }

    fn try_sql(&self, database: &str, sql: &str) -> Result<String, String> {
        let mut psql = Command::new(self.bin.join("psql"));
        psql.args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"])
            .arg(self.folder.path());
        let mut child = psql
            .env("PGPASSWORD", PASSWORD)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            Ok(String::from_utf8(output.stdout).unwrap().trim().to_owned())
        } else {
            Err(String::from_utf8(output.stderr).unwrap())
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // At once, and without waiting for anybody.
        let process = rustix::process::Pid::from_child(&self.process);
        let _ = rustix::process::kill_process(process, rustix::process::Signal::INT);
        let _ = self.process.wait();
    }
}

fn as_user(program: &Path) -> Command {
    if !rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(program);
    command
}

/// A database of its own with every kind of thing in it, and its store.
struct Rig {
    server: Arc<Server>,
    database: String,
    folder: tempfile::TempDir,
    store: Store,
}

impl Rig {
    fn new() -> Option<Rig> {
        let server = Server::shared()?;
        let database = format!("app{}", NUMBER.fetch_add(1, Ordering::SeqCst));
        server.try_sql("postgres", &format!("CREATE DATABASE {database}")).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("backups"), "app");
        let rig = Rig { server, database, folder, store };
        rig.sql(
            "CREATE EXTENSION IF NOT EXISTS plpgsql;
             CREATE SCHEMA \"odd schema\";
             CREATE TYPE mood AS ENUM ('low', 'high');
             CREATE DOMAIN positive AS int CHECK (VALUE > 0);
             CREATE TABLE debit (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, amount positive NOT NULL, at timestamptz DEFAULT now());
             CREATE TABLE credit (id serial PRIMARY KEY, amount int NOT NULL, mood mood, tags text[], note jsonb, twice int GENERATED ALWAYS AS (amount * 2) STORED);
             CREATE TABLE \"odd schema\".\"Odd \"\"name\" (a bytea, b float8, c money, d bigint REFERENCES debit (id) ON DELETE CASCADE);
             CREATE TABLE part (at date NOT NULL, n int) PARTITION BY RANGE (at);
             CREATE TABLE part_1 PARTITION OF part FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
             CREATE INDEX by_amount ON credit (amount) WHERE mood IS NOT NULL;
             CREATE UNIQUE INDEX ON credit (lower(note->>'k'));
             CREATE VIEW large AS SELECT * FROM debit WHERE amount > 10;
             CREATE MATERIALIZED VIEW total AS SELECT sum(amount) FROM credit;
             CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN new; END $$;
             CREATE TRIGGER t BEFORE UPDATE ON debit FOR EACH ROW EXECUTE FUNCTION touch();
             INSERT INTO debit (amount) SELECT g FROM generate_series(1, 50) g;
             INSERT INTO credit (amount, mood, tags, note) SELECT g, 'low', ARRAY['a', NULL, 'ö'], jsonb_build_object('k', g) FROM generate_series(1, 50) g;
             INSERT INTO \"odd schema\".\"Odd \"\"name\" VALUES ('\\x00ff', 'NaN', 1.5, 1), (NULL, 0.1, NULL, NULL);
             INSERT INTO part VALUES ('2026-05-05', 1);
             SELECT lo_from_bytea(0, '\\xabcdef');",
        );
        Some(rig)
    }

    fn engine(&self) -> Postgres {
        self.engine_with(Tools::Folder(self.server.bin.clone()))
    }

    fn engine_with(&self, tools: Tools) -> Postgres {
        Postgres::new(Connection::parse(&self.server.url(&self.database)).unwrap(), tools).unwrap()
    }

    fn sql(&self, sql: &str) -> String {
        self.server.try_sql(&self.database, sql).unwrap()
    }

    /// The real programs, but for one that is a script.
    fn tools(&self, program: &str, script: &str) -> Tools {
        let folder = self.folder.path().join(format!("tools-{program}"));
        std::fs::create_dir_all(&folder).unwrap();
        for name in ["psql", "pg_dump", "pg_restore"] {
            let real = self.server.bin.join(name).display().to_string();
            let text =
                if name == program { script.replace("REAL", &real) } else { format!("exec {real} \"$@\"") };
            let path = folder.join(name);
            std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
        }
        Tools::Folder(folder)
    }

    /// Waits until no database of a rehearsal is left; other tests have some for a while.
    fn no_rehearsal_is_left(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.sql("SELECT count(*) FROM pg_database WHERE datname LIKE 'slipway%'") != "0" {
            assert!(Instant::now() < deadline, "a rehearsal was left");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.server.try_sql("postgres", &format!("DROP DATABASE {} WITH (FORCE)", self.database));
    }
}

#[test]
fn a_backup_under_writes_is_one_moment_and_comes_back_whole() {
    let Some(rig) = Rig::new() else { return };
    let stop = Arc::new(AtomicBool::new(false));
    let writer = {
        let (server, database, stop) = (rig.server.clone(), rig.database.clone(), stop.clone());
        std::thread::spawn(move || {
            let transfer = "BEGIN; INSERT INTO debit (amount) VALUES (7); INSERT INTO credit (amount) VALUES (7); COMMIT;".repeat(20);
            let mut rounds = 0;
            while !stop.load(Ordering::SeqCst) {
                server.try_sql(&database, &transfer).unwrap();
                rounds += 1;
            }
            rounds
        })
    };
    let manifest = rig.store.create(&rig.engine(), NOW).unwrap();
    stop.store(true, Ordering::SeqCst);
    assert!(writer.join().unwrap() > 0);
    assert_eq!(
        manifest.tables["public.debit"].rows, manifest.tables["public.credit"].rows,
        "a torn transaction"
    );
    assert_eq!((manifest.tables["large objects"].rows, manifest.tables["public.part_1"].rows), (1, 1));
    rig.store.verify(&rig.engine(), "latest").unwrap();

    // What came later must not survive, nor stand in the way.
    rig.sql("CREATE TABLE young (d bigint REFERENCES debit (id)); ALTER TABLE credit DROP COLUMN note; DELETE FROM part; DROP VIEW large; DROP SCHEMA \"odd schema\" CASCADE; CREATE SCHEMA new; CREATE TYPE new.x AS ENUM ('a')");
    assert!(rig.store.preview(&rig.engine(), "latest").unwrap().len() > 5);
    let restored = rig.store.restore(&rig.engine(), "latest", Before::BackUp { now: NOW + 5 }).unwrap();
    assert_eq!(rig.store.preview(&rig.engine(), &restored.id).unwrap(), [""; 0]);
    assert_eq!(rig.sql("SELECT count(*) FROM part"), "1");
    assert_eq!(rig.sql("SELECT count(*) FROM large WHERE amount > 40"), "10");
    // Numbers go on where they stood.
    let rows = rig.sql("INSERT INTO debit (amount) VALUES (1) RETURNING id > (SELECT max(id) FROM debit)");
    assert_eq!(rows, "t");
    rig.store.restore(&rig.engine(), &restored.saved.unwrap(), Before::Nothing).unwrap();
    assert_eq!(rig.sql("SELECT count(*) FROM young"), "0");
}

#[test]
fn dumps_that_are_not_whole_are_no_backups() {
    let Some(rig) = Rig::new() else { return };
    let folder = rig.folder.path().join("backups");
    let check = |program: &str, script: &str, expected: &str| {
        let error =
            format!("{:#}", rig.store.create(&rig.engine_with(rig.tools(program, script)), NOW).unwrap_err());
        assert!(error.contains(expected), "{script}: {error}");
        assert_eq!(backups(&rig.store), [""; 0]);
        assert_eq!(leftovers(&folder), [""; 0], "{script}");
    };
    let version = "case \"$1\" in --version) exec REAL \"$@\";; esac;";
    check("pg_dump", &format!("{version} REAL \"$@\" | head -c 3000"), "so it is no backup");
    check(
        "pg_dump",
        &format!("{version} REAL \"$@\" > $0.out; head -c 2000 $0.out; kill -9 $$"),
        "signal: 9",
    );
    check(
        "pg_dump",
        &format!("{version} REAL --exclude-table-data=part_1 \"$@\""),
        "public.part_1 has 0 rows instead of 1",
    );
    check("pg_dump", &format!("{version} REAL --exclude-table=credit \"$@\""), "so it is no backup");
    check(
        "pg_dump",
        &format!(
            "{version} REAL \"$@\" > $0.out; size=$(wc -c < $0.out); printf '\\377\\377\\377' | dd of=$0.out bs=1 seek=$((size - 400)) conv=notrunc 2>/dev/null; cat $0.out"
        ),
        "so it is no backup",
    );
    rig.no_rehearsal_is_left();
}

#[test]
fn damage_on_disk_is_found_and_a_full_disk_keeps_what_was() {
    let Some(rig) = Rig::new() else { return };
    let disk = rig.folder.path().join("small");
    let Some(_disk) = SmallDisk::mount(&disk, "1m") else { return };
    let store = Store::new(disk.join("backups"), "app");
    let id = store.create(&rig.engine(), NOW).unwrap().id;
    rig.sql(
        "CREATE TABLE big AS SELECT string_agg(md5(random()::text), '') AS x FROM generate_series(1, 60000)",
    );
    let error = format!("{:#}", store.create(&rig.engine(), NOW + 1).unwrap_err());
    assert!(error.contains("No space left"), "{error}");
    assert_eq!((backups(&store), leftovers(&disk.join("backups")).len()), (vec![id.clone()], 1));
    let dump = disk.join("backups").join(&id).join("dump");
    let mut bytes = std::fs::read(&dump).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(&dump, bytes).unwrap();
    assert!(
        format!("{:#}", store.verify(&rig.engine(), &id).unwrap_err()).contains("is not what was written")
    );
    assert!(store.restore(&rig.engine(), &id, Before::Nothing).is_err());
}

#[test]
fn a_restore_that_fails_changes_nothing() {
    let Some(rig) = Rig::new() else { return };
    let id = rig.store.create(&rig.engine(), NOW).unwrap().id;
    rig.sql("CREATE TABLE young (a int); DELETE FROM credit WHERE id > 10");
    let form = rig.engine().schema().unwrap();
    let version = "case \"$1\" in --version) exec REAL \"$@\";; esac;";
    for (script, expected) in [
        ("REAL \"$@\"; echo 'SELECT 1/0;'", "division by zero"),
        ("REAL \"$@\" | head -n 150; exit 1", "nothing was changed"),
        (
            "REAL \"$@\"; echo 'DELETE FROM public.debit WHERE id = 3;'",
            "public.debit has 49 rows instead of 50",
        ),
        ("REAL \"$@\" | head -n 100; kill -9 $$", "nothing was changed"),
    ] {
        let engine = rig.engine_with(rig.tools("pg_restore", &format!("{version} {script}")));
        let error = format!("{:#}", rig.store.restore(&engine, &id, Before::Nothing).unwrap_err());
        assert!(error.contains(expected), "{script}: {error}");
        assert_eq!(form.difference(&rig.engine().schema().unwrap()), [""; 0], "{script}");
        assert_eq!(rig.sql("SELECT count(*) FROM credit"), "10");
    }
    // Another version, another engine.
    let path = rig.folder.path().join("backups").join(&id).join("manifest.json");
    let text = std::fs::read_to_string(&path).unwrap();
    for (from, to, expected) in [
        ("\"version\": \"1", "\"version\": \"9", "was taken of PostgreSQL 9"),
        ("\"postgres\"", "\"sqlite\"", "is a backup of sqlite"),
    ] {
        std::fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let error = format!("{:#}", rig.store.restore(&rig.engine(), &id, Before::Nothing).unwrap_err());
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn the_password_is_in_no_command_line_and_in_no_environment() {
    let Some(rig) = Rig::new() else { return };
    let seen = rig.folder.path().join("seen");
    let Tools::Folder(folder) = rig.tools("psql", "exec REAL \"$@\"") else { return };
    for program in ["pg_dump", "psql", "pg_restore"] {
        let script = format!(
            "#!/bin/sh\n{{ echo \"$0 $*\"; env; }} >> {}; exec {}/{program} \"$@\"\n",
            seen.display(),
            rig.server.bin.display()
        );
        std::fs::write(folder.join(program), script).unwrap();
    }
    let engine = rig.engine_with(Tools::Folder(folder));
    rig.store.create(&engine, NOW).unwrap();
    rig.store.restore(&engine, "latest", Before::Nothing).unwrap();
    assert!(!format!("{engine:?}").contains("s3cret"));
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("PGPASSFILE=") && seen.contains("--snapshot="), "{seen}");
    assert!(!seen.contains("s3cret"), "{seen}");
    let wrong = rig.server.url(&rig.database).replace("s3cret", "wr0ng");
    let wrong = Postgres::new(Connection::parse(&wrong).unwrap(), Tools::Installed).unwrap();
    let error = format!("{:#}", rig.store.create(&wrong, NOW).unwrap_err());
    assert!(error.contains("password authentication failed") && !error.contains("wr0ng"), "{error}");
}

#[test]
fn the_form_says_whether_an_older_release_runs() {
    let Some(rig) = Rig::new() else { return };
    let before = rig.engine().schema().unwrap();
    let after = |sql: &str| {
        rig.sql(sql);
        let live = rig.engine().schema().unwrap();
        before
            .obstacles(&live)
            .iter()
            .map(|obstacle| format!("{} {obstacle}", obstacle.is_certain))
            .collect::<Vec<_>>()
    };
    assert_eq!(
        after(
            "ALTER TABLE credit ADD more int; ALTER TYPE mood ADD VALUE 'none'; CREATE INDEX ON debit (at); COMMENT ON TABLE debit IS 'x'"
        ),
        [""; 0]
    );
    assert_eq!(
        after("ALTER TABLE debit ALTER COLUMN at SET NOT NULL"),
        ["true column public.debit.at: it refuses nulls now"]
    );
    assert_eq!(
        after("ALTER TABLE debit DROP COLUMN at CASCADE; CREATE VIEW large AS SELECT 1")[0],
        "true column public.debit.at: it is gone"
    );
}

#[test]
fn a_migration_gives_up_on_a_lock_and_names_where_it_stopped() {
    let Some(rig) = Rig::new() else { return };
    let script = |name: &str, text: &str| Migration {
        name: name.into(),
        path: format!("m/{name}"),
        text: text.into(),
    };
    let settings = Settings {
        dialect: Dialect::Postgres,
        lock_timeout: Duration::from_millis(200),
        attempts: 2,
        pause: Duration::from_millis(50),
    };
    let run = |settings: Settings, scripts: &[Migration]| apply(scripts, &rig.engine(), settings);
    let stopped = |settings: Settings, scripts: &[Migration]| {
        run(settings, scripts).unwrap_err().downcast::<Stopped>().unwrap()
    };

    let half = script(
        "1.sql",
        "CREATE TABLE one (a int);\nALTER TABLE debit ADD COLUMN b int;\nINSERT INTO missing VALUES (1);",
    );
    let found = stopped(settings, std::slice::from_ref(&half));
    assert_eq!((found.line, &found.remains, found.is_lock_timeout), (3, &Remains::Nothing, false));
    assert!(found.why.contains("\"missing\" does not exist"), "{found}");
    assert_eq!(rig.sql("SELECT to_regclass('one') IS NULL"), "t");

    let alone = script(
        "1.sql",
        "CREATE INDEX CONCURRENTLY i ON debit (amount);\nCREATE UNIQUE INDEX CONCURRENTLY j ON credit ((1));",
    );
    let found = stopped(settings, std::slice::from_ref(&alone));
    assert_eq!((found.line, found.remains), (2, Remains::Lines(vec![1])));

    // A release holds the table, as a long query does.
    let holder = {
        let (server, database) = (rig.server.clone(), rig.database.clone());
        std::thread::spawn(move || {
            server.try_sql(&database, "BEGIN; LOCK TABLE debit IN ACCESS SHARE MODE; SELECT pg_sleep(4)")
        })
    };
    let deadline = Instant::now() + Duration::from_secs(20);
    while rig.sql("SELECT count(*) FROM pg_locks WHERE relation = 'debit'::regclass AND granted") == "0" {
        assert!(Instant::now() < deadline);
    }
    let alter = script("2.sql", "ALTER TABLE debit ADD COLUMN b int;");
    let found = stopped(settings, std::slice::from_ref(&alter));
    assert!(found.is_lock_timeout && found.remains == Remains::Nothing, "{found}");
    // With patience it goes well once the query is over.
    let patient = Settings { attempts: 200, ..settings };
    assert_eq!(run(patient, &[alter]).unwrap(), ["2.sql"]);
    holder.join().unwrap().unwrap();
}

/// An image with the server's programs and what they are linked to, made from this machine; removed at the end.
struct Image(String);

impl Image {
    fn of(bin: &Path, folder: &Path) -> Image {
        let root = folder.join("image");
        let script = r#"set -e
            mkdir -p "$2/usr/bin" "$2/etc"; cp /etc/passwd /etc/group "$2/etc"
            for program in psql pg_dump pg_restore; do
                cp "$1/$program" "$2/usr/bin"
                for file in $(ldd "$1/$program" | grep -o '/[^ ]*'); do mkdir -p "$2$(dirname $file)"; cp -L "$file" "$2$file"; done
            done
            tar -C "$2" -cf - . | docker import --change 'LABEL slipway.test=data' - "$3""#;
        let name = format!("slipway-test-data:{}", std::process::id());
        let made = Command::new("sh")
            .args(["-c", script, "sh"])
            .args([bin, root.as_path()])
            .arg(&name)
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        Image(name)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let _ = Command::new("docker").args(["rmi", "--force", &self.0]).output();
    }
}

#[test]
fn programs_in_an_image_do_the_same() {
    if !works("docker", "docker", &["info"]) {
        return;
    }
    let Some(rig) = Rig::new() else { return };
    let image = Image::of(&rig.server.bin, rig.folder.path());
    let engine = rig.engine_with(Tools::Image { engine: "docker".into(), image: image.0.clone() });
    let manifest = rig.store.create(&engine, NOW).unwrap();
    assert_eq!(manifest.tables["public.debit"].rows, 50);
    rig.sql("DELETE FROM credit");
    rig.store.restore(&engine, "latest", Before::Nothing).unwrap();
    assert_eq!(rig.sql("SELECT count(*) FROM credit"), "50");
    // What was taken in a container is the same to installed programs.
    rig.store.verify(&rig.engine(), "latest").unwrap();
}
