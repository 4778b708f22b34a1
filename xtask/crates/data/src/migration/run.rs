//! Migrations carried out, statement by statement, with a bound on waiting for locks; where one stops, it is named, and so is what stays.
//! It decides the order and the transactions; a [`Runner`] talks to the database. Invariant: a script that can run in one transaction
//! does, and is noted as applied in that very transaction.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::Serialize;
use stdx::Digest;

use super::files::Migration;
use crate::sql::{Change, Dialect, Dropped, Statement, changes, split};

/// Where it is noted which migrations were applied.
const TABLE: &str = "slipway_migrations";

/// A session with a database.
pub trait Runner {
    /// Runs one statement and gives the first column of the rows.
    ///
    /// # Errors
    /// When the database refuses it.
    fn run(&mut self, sql: &str) -> Result<Vec<String>>;
}

/// Where sessions come from: an error ends a session, and the next attempt needs another.
pub trait Sessions {
    /// Opens one.
    ///
    /// # Errors
    /// When the database cannot be reached.
    fn open(&self) -> Result<Box<dyn Runner + '_>>;
}

/// How migrations are carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Settings {
    /// Whose SQL it is.
    pub dialect: Dialect,
    /// How long a statement waits for its lock.
    pub lock_timeout: Duration,
    /// How often a script is tried whose lock was not to be had.
    pub attempts: u32,
    /// Pause between attempts: time in which others finish.
    pub pause: Duration,
}

/// A script that stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stopped {
    /// The migration.
    pub migration: String,
    /// Line of the statement, from 1.
    pub line: u32,
    /// The statement, without its constants.
    pub statement: String,
    /// What the database said.
    pub why: String,
    /// What stays of the script.
    pub remains: Remains,
    /// Whether a lock was not to be had in time, so that it may go well another time.
    pub is_lock_timeout: bool,
}

/// What stays of a script that stopped.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Remains {
    /// Nothing: it ran in one transaction.
    Nothing,
    /// The statements before this one, by their lines: it cannot run in a transaction.
    Lines(Vec<u32>),
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: `{}` stopped: {}", self.migration, self.line, self.statement, self.why)?;
        match &self.remains {
            Remains::Nothing => f.write_str("; nothing was changed"),
            Remains::Lines(lines) if lines.is_empty() => {
                f.write_str("; no statement before it was carried out")
            }
            Remains::Lines(lines) => {
                let lines: Vec<String> = lines.iter().map(u32::to_string).collect();
                write!(
                    f,
                    "; it cannot run in a transaction, so the statements of line {} stay",
                    lines.join(", ")
                )
            }
        }
    }
}

impl std::error::Error for Stopped {}

/// Carries out what is not applied yet, and gives the names of what was.
///
/// # Errors
/// [`Stopped`] where a statement fails; anything else before a statement was run.
pub fn apply(migrations: &[Migration], sessions: &dyn Sessions, settings: Settings) -> Result<Vec<String>> {
    let mut runner = sessions.open()?;
    let applied = applied(&mut *runner)?;
    drop(runner);
    let pending = pending(migrations, &applied)?;
    let scripts = pending
        .iter()
        .map(|migration| Script::of(migration, settings.dialect))
        .collect::<Result<Vec<_>>>()?;
    for script in &scripts {
        patiently(script, sessions, settings)?;
    }
    Ok(pending.iter().map(|migration| migration.name.clone()).collect())
}

/// What was not applied yet. Pure.
///
/// # Errors
/// When an applied migration was edited since: nobody knows then what the database holds.
pub fn pending<'a>(
    migrations: &'a [Migration],
    applied: &BTreeMap<String, Digest>,
) -> Result<Vec<&'a Migration>> {
    let mut pending = Vec::new();
    for migration in migrations {
        match applied.get(&migration.name) {
            None => pending.push(migration),
            Some(digest) if *digest == Digest::of(&migration.text) => {}
            Some(_) => bail!("{} was edited after it was applied: write another migration", migration.path),
        }
    }
    Ok(pending)
}

/// A script cut into what is sent.
struct Script<'a> {
    migration: &'a Migration,
    statements: Vec<Statement>,
    is_transactional: bool,
}

impl<'a> Script<'a> {
    fn of(migration: &'a Migration, dialect: Dialect) -> Result<Script<'a>> {
        let statements = split(&migration.text, dialect).with_context(|| migration.path.clone())?;
        let all: Vec<Change> = statements.iter().flat_map(|statement| changes(statement, dialect)).collect();
        if let Some(statement) = statements.iter().find(|statement| !statement.is_plain_sql()) {
            bail!(
                "{}:{}: a command of psql, or rows for COPY: only SQL can be carried out",
                migration.path,
                statement.line()
            );
        }
        let is_transactional = !all.iter().any(|change| stands_alone(change, dialect));
        Ok(Script { migration, statements, is_transactional })
    }

    fn sql(&self, statement: &Statement) -> &'a str {
        self.migration.text.get(statement.span()).unwrap_or_default()
    }
}

/// Whether a transaction around it is refused, or is what the script does by itself.
fn stands_alone(change: &Change, dialect: Dialect) -> bool {
    match change {
        Change::Begin | Change::End => true,
        Change::CreateIndex { is_concurrent, .. }
        | Change::Drop { is_concurrent, .. }
        | Change::Reindex { is_concurrent }
        | Change::DetachPartition { is_concurrent, .. }
            if *is_concurrent =>
        {
            true
        }
        Change::Create { what: Dropped::Database, .. } | Change::Drop { what: Dropped::Database, .. } => true,
        Change::Rewrite { what, .. } => *what == "vacuum",
        // SQLite ignores it inside a transaction, and then drops rows that refer to a rebuilt table.
        Change::Set { name, .. } => dialect == Dialect::Sqlite && name == "foreign_keys",
        _ => false,
    }
}

fn applied(runner: &mut dyn Runner) -> Result<BTreeMap<String, Digest>> {
    runner
        .run(&format!("CREATE TABLE IF NOT EXISTS {TABLE} (name text PRIMARY KEY, digest text NOT NULL)"))?;
    let names = runner.run(&format!("SELECT name FROM {TABLE} ORDER BY name"))?;
    let digests = runner.run(&format!("SELECT digest FROM {TABLE} ORDER BY name"))?;
    let pair = |(name, digest): (String, String)| {
        Ok((name, digest.parse().context("a digest in the table of migrations is none")?))
    };
    names.into_iter().zip(digests).map(pair).collect()
}

/// Tries again where a lock was not to be had and nothing was changed.
fn patiently(script: &Script<'_>, sessions: &dyn Sessions, settings: Settings) -> Result<()> {
    let mut attempt = 1;
    loop {
        let mut runner = sessions.open()?;
        let Err(stopped) = once(script, &mut *runner, settings) else { return Ok(()) };
        let may_go_well = stopped.is_lock_timeout && stopped.remains == Remains::Nothing;
        if !may_go_well || attempt >= settings.attempts {
            return Err(stopped.into());
        }
        drop(runner);
        std::thread::sleep(settings.pause);
        attempt += 1;
    }
}

fn once(script: &Script<'_>, runner: &mut dyn Runner, settings: Settings) -> Result<(), Stopped> {
    let note = format!(
        "INSERT INTO {TABLE} (name, digest) VALUES ('{}', '{}')",
        script.migration.name.replace('\'', "''"),
        Digest::of(&script.migration.text)
    );
    let mut passed = Vec::new();
    let stop = |statement: Option<&Statement>, error: anyhow::Error, passed: &[u32]| {
        let why = format!("{error:#}");
        Stopped {
            migration: script.migration.path.clone(),
            line: statement.map_or(1, Statement::line),
            statement: statement.map_or_else(|| "its transaction".to_owned(), Statement::summary),
            is_lock_timeout: why.contains("lock timeout") || why.contains("database is locked"),
            why,
            remains: if script.is_transactional { Remains::Nothing } else { Remains::Lines(passed.to_vec()) },
        }
    };
    let mut prepare = || -> Result<()> {
        if settings.dialect == Dialect::Postgres {
            runner.run(&format!("SET lock_timeout = {}", settings.lock_timeout.as_millis()))?;
        }
        let begin = if settings.dialect == Dialect::Sqlite { "BEGIN IMMEDIATE" } else { "BEGIN" };
        if script.is_transactional { runner.run(begin).map(drop) } else { Ok(()) }
    };
    prepare().map_err(|error| stop(None, error, &[]))?;
    for statement in &script.statements {
        if let Err(error) = runner.run(script.sql(statement)) {
            if script.is_transactional {
                // A session that the error ended has rolled back by itself.
                let _ = runner.run("ROLLBACK");
            }
            return Err(stop(Some(statement), error, &passed));
        }
        passed.push(statement.line());
    }
    let mut finish = || -> Result<()> {
        runner.run(&note)?;
        if script.is_transactional { runner.run("COMMIT").map(drop) } else { Ok(()) }
    };
    finish().map_err(|error| stop(None, error, &passed))
}
