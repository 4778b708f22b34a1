//! PostgreSQL: dumped by its own programs in one snapshot with the checksums, rehearsed in a database that is thrown away, restored in
//! one transaction. Invariant: nothing is committed by a restore before what came back was compared with what was taken.

mod connection;
mod inspect;
mod rehearsal;
mod session;
mod tools;

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;

use anyhow::{Context, Result, ensure};

use connection::Access;
pub use connection::Connection;
use rehearsal::Rehearsal;
use session::{Session, read_errors};
use tools::Programs;
pub use tools::Tools;

use crate::Dialect;
use crate::engine::{Engine, Proof, Taken, compare};
use crate::migration::run::{Runner, Sessions};
use crate::schema::Schema;
use crate::store::Manifest;

/// A database of a server.
#[derive(Debug)]
pub struct Postgres {
    connection: Connection,
    tools: Tools,
    access: Access,
    /// The server's version, once it was asked.
    version: OnceLock<Version>,
}

/// The server's version.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Version {
    /// As it says it.
    text: String,
    /// Dumps are exchanged within one of these.
    major: u32,
}

impl Postgres {
    /// The database at `connection`, through these programs.
    ///
    /// # Errors
    /// When the files that tell them where it is cannot be written.
    pub fn new(connection: Connection, tools: Tools) -> Result<Postgres> {
        let access = Access::new(&connection)?;
        Ok(Postgres { connection, tools, access, version: OnceLock::new() })
    }

    fn version(&self) -> Result<Version> {
        if let Some(version) = self.version.get() {
            return Ok(version.clone());
        }
        let programs = self.tools.programs(&self.access, &self.connection, None)?;
        let mut session = self.session(&programs)?;
        let number: u32 = session.json("SELECT pg_catalog.current_setting('server_version_num')")?;
        let text = session.ask("SHOW server_version")?.concat();
        session.close()?;
        let version = Version { text, major: number / 10_000 };
        Ok(self.version.get_or_init(|| version).clone())
    }

    fn programs(&self, version: &Version) -> Result<Programs<'_>> {
        self.tools.programs(&self.access, &self.connection, Some(version.major))
    }

    fn session(&self, programs: &Programs<'_>) -> Result<Session> {
        Session::open(programs, self.connection.database())
            .with_context(|| format!("cannot use {}", self.connection))
    }
}

impl Engine for Postgres {
    fn dialect(&self) -> Dialect {
        Dialect::Postgres
    }

    fn dump(&self, file: &Path) -> Result<Taken> {
        let version = self.version()?;
        let programs = self.programs(&version)?;
        let mut session = self.session(&programs)?;
        session.ask("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL lock_timeout = '30s'")?;
        let snapshot = session.ask("SELECT pg_catalog.pg_export_snapshot()")?.concat();
        let snapshot = format!("--snapshot={snapshot}");
        let info = connection::conninfo(self.connection.database());
        let args =
            ["--format=custom", "--no-password", "--lock-wait-timeout=30s", &snapshot, "--dbname", &info];
        let output = File::options().write(true).create_new(true).mode(0o600).open(file);
        let output = output.with_context(|| format!("cannot make {}", file.display()))?;
        let mut dump = programs.start("pg_dump", &args, [Stdio::null(), output.into(), Stdio::piped()])?;
        let errors = dump.child.stderr.take().context("pg_dump has no output for errors")?;
        let errors = std::thread::spawn(move || read_errors(errors));
        // Both see the moment of the snapshot, so both go on at once.
        let taken = inspect::taken(&mut session, &version.text);
        let status = dump.child.wait().context("cannot wait for pg_dump")?;
        let said = errors.join().unwrap_or_default();
        ensure!(status.success(), "pg_dump ended with {status}: {}", said.trim());
        let taken = taken?;
        session.ask("COMMIT")?;
        session.close()?;
        Ok(taken)
    }

    fn rehearse(&self, file: &Path, _scratch: &Path) -> Result<(Taken, Proof)> {
        let version = self.version()?;
        let programs = self.programs(&version)?;
        let rehearsal = Rehearsal::create(&programs, self.connection.database())?;
        rehearsal.restore(file)?;
        let mut session = Session::open(&programs, rehearsal.database())?;
        let taken = inspect::taken(&mut session, &version.text)?;
        session.close()?;
        let place = format!("a database of its own on the same server, PostgreSQL {}", version.text);
        rehearsal.remove()?;
        Ok((taken, Proof { place }))
    }

    fn schema(&self) -> Result<Schema> {
        let version = self.version()?;
        let mut session = self.session(&self.programs(&version)?)?;
        inspect::schema(&mut session)
    }

    fn admit(&self, manifest: &Manifest) -> Result<()> {
        ensure!(
            manifest.engine == Dialect::Postgres,
            "{} is a backup of {}, and this is PostgreSQL",
            manifest.id,
            manifest.engine.name()
        );
        let version = self.version()?;
        let taken: Option<u32> =
            manifest.version.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse().ok());
        ensure!(
            taken == Some(version.major),
            "{} was taken of PostgreSQL {}, and this is {}: restore it on a server of that version and upgrade that",
            manifest.id,
            manifest.version,
            version.text
        );
        Ok(())
    }

    fn restore(&self, file: &Path, manifest: &Manifest) -> Result<()> {
        let version = self.version()?;
        let programs = self.programs(&version)?;
        let mut session = self.session(&programs)?;
        session.ask("BEGIN; SET LOCAL lock_timeout = '15s'")?;
        let transaction = session.ask(TRANSACTION)?;
        session
            .ask(CLEAR)
            .context("what is there cannot be removed: does a release still use it? nothing was changed")?;
        script_of(&programs, file, &mut session)
            .context("the dump cannot be restored; nothing was changed")?;
        let found = inspect::taken(&mut session, &version.text)?;
        compare((&manifest.tables, &manifest.form), (&found.contents, &found.schema))
            .context("nothing was changed")?;
        let is_same = session.ask(TRANSACTION)? == transaction;
        ensure!(
            is_same,
            "the dump ended the transaction by itself: look at {} before it is used",
            self.connection
        );
        session.ask("COMMIT")?;
        session.close()
    }
}

/// The id of the transaction that is open.
const TRANSACTION: &str = "SELECT pg_catalog.pg_current_xact_id()";

/// Runs a dump as a script in the transaction that is open. Alone, pg_restore would end it: after large objects, and at its end.
fn script_of(programs: &Programs<'_>, file: &Path, session: &mut Session) -> Result<()> {
    let dump = stdx::fs::open(file)?;
    let args = ["--single-transaction", "--file=-"];
    let mut script = programs.start("pg_restore", &args, [dump.into(), Stdio::piped(), Stdio::piped()])?;
    let errors = script.child.stderr.take().context("pg_restore has no output for errors")?;
    let errors = std::thread::spawn(move || read_errors(errors));
    let mut text = script.child.stdout.take().context("pg_restore has no output")?;
    let end = feed_but_the_end(session, &mut text)?;
    let status = script.child.wait().context("cannot wait for pg_restore")?;
    let said = errors.join().unwrap_or_default();
    ensure!(status.success(), "pg_restore ended with {status}: {}", said.trim());
    session.feed(without_commit(&end)?.as_slice())?;
    session.ask("SELECT").map(drop)
}

/// Bytes at the end of a script that hold its last statement.
const END_BYTES: usize = 4096;

/// Sends a script but for its end, which is given back.
fn feed_but_the_end(session: &mut Session, script: &mut impl Read) -> Result<Vec<u8>> {
    let (mut held, mut buffer) = (Vec::new(), vec![0; 128 << 10]);
    loop {
        let read = script.read(&mut buffer).context("cannot read the script")?;
        if read == 0 {
            return Ok(held);
        }
        held.extend_from_slice(&buffer[..read]);
        let ready = held.len().saturating_sub(END_BYTES);
        session.feed(&held[..ready])?;
        held.drain(..ready);
    }
}

/// The end of a script without the statement that ends its transaction.
fn without_commit(end: &[u8]) -> Result<Vec<u8>> {
    const COMMIT: &[u8] = b"\nCOMMIT;\n";
    let at = end.windows(COMMIT.len()).rposition(|part| part == COMMIT);
    let at = at.context("the script does not end as scripts of pg_restore do")?;
    Ok([&end[..at], b"\n", &end[at + COMMIT.len()..]].concat())
}

/// A session of psql that runs statements of migrations, and the programs that it needs.
struct Migrations {
    session: Session,
}

impl Runner for Migrations {
    fn run(&mut self, sql: &str) -> Result<Vec<String>> {
        self.session.ask(sql)
    }
}

impl Sessions for Postgres {
    fn open(&self) -> Result<Box<dyn Runner + '_>> {
        let version = self.version()?;
        let mut session = self.session(&self.programs(&version)?)?;
        // Migrations name things as their authors' sessions find them.
        session.ask("RESET search_path")?;
        Ok(Box::new(Migrations { session }))
    }
}

/// Removes what is in the database but for extensions: tables that are younger than the dump would stand in its way.
const CLEAR: &str = r"
SELECT format('DROP SCHEMA %I CASCADE', n.nspname) FROM pg_catalog.pg_namespace n WHERE n.nspname !~ '^pg_'
  AND n.nspname NOT IN ('information_schema', 'public')
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = n.oid AND x.deptype = 'e') \gexec
SELECT format('DROP %s IF EXISTS %s CASCADE', kind, name) FROM (
  SELECT 1 AS turn, CASE c.relkind WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'f' THEN 'FOREIGN TABLE' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind,
         format('%I.%I', n.nspname, c.relname) AS name, c.oid
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'public' AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = c.oid AND x.objsubid = 0 AND x.deptype = 'i')
  UNION ALL
  SELECT 2, 'ROUTINE', c.oid::regprocedure::text, c.oid FROM pg_catalog.pg_proc c JOIN pg_catalog.pg_namespace n ON n.oid = c.pronamespace WHERE n.nspname = 'public'
  UNION ALL
  SELECT 3, CASE c.typtype WHEN 'd' THEN 'DOMAIN' ELSE 'TYPE' END, format('%I.%I', n.nspname, c.typname), c.oid FROM pg_catalog.pg_type c JOIN pg_catalog.pg_namespace n ON n.oid = c.typnamespace
  WHERE n.nspname = 'public' AND (c.typtype IN ('e', 'd', 'r') OR c.typtype = 'c' AND EXISTS (SELECT FROM pg_catalog.pg_class r WHERE r.oid = c.typrelid AND r.relkind = 'c'))
) AS things WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_depend x WHERE x.objid = things.oid AND x.deptype = 'e') ORDER BY turn \gexec
SELECT count(pg_catalog.lo_unlink(oid)) FROM pg_catalog.pg_largeobject_metadata";
