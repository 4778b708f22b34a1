//! `cargo xtask migrations`: load, judge, report.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use data::migration::{
    self, Judge, Judgement, LockTimeout, Migration, Running, RunningRelease, Setting, Transaction,
};

use release::Release;

use crate::exit::{Code, ResultExt};
use crate::{flags, render};

pub(crate) fn run(flags: &flags::Migrations) -> Result<()> {
    match &flags.command {
        flags::MigrationsCommand::Check(flags) => check(flags),
        flags::MigrationsCommand::Rules { json } => render::migration_rules(&migration::rules(), *json),
    }
}

fn check(flags: &flags::MigrationsCheck) -> Result<()> {
    let root = std::env::current_dir()?;
    let mut judgement = Judgement::default();
    for path in &flags.paths {
        judgement.extend(judge(path, &root, flags).or_exit(Code::Configuration)?);
    }
    if judgement.files == 0 {
        return Err(anyhow!("no migrations are there: files that end in `.sql`, and lead forward"))
            .or_exit(Code::NothingSelected);
    }
    render::migrations(&judgement, flags.json)?;
    match judgement.refused().count() {
        0 => Ok(()),
        1 => Err(anyhow!("1 statement is refused")).or_exit(Code::PolicyViolated),
        many => Err(anyhow!("{many} statements are refused")).or_exit(Code::PolicyViolated),
    }
}

/// Judges what a folder holds one file after the other, each as a deployment of its own; or one file after those before it.
fn judge(path: &Path, root: &Path, flags: &flags::MigrationsCheck) -> Result<Judgement> {
    let mut judge = Judge::new(setting(flags, path)?);
    let is_folder = path.is_dir();
    let all = if is_folder { migration::discover(path, root)? } else { vec![migration::load(path, root)?] };
    let since = match &flags.since {
        None => 0,
        Some(name) => 1 + position(&all, name)?,
    };
    if !is_folder {
        before(path, root)?.iter().for_each(|migration| judge.learn(migration));
    }
    let mut judgement = Judgement::default();
    for (at, migration) in all.iter().enumerate() {
        if at < since {
            judge.learn(migration);
        } else {
            judgement.extend(judge.judge(std::slice::from_ref(migration)));
        }
    }
    Ok(judgement)
}

fn position(all: &[Migration], name: &str) -> Result<usize> {
    all.iter()
        .position(|migration| migration.is_called(name))
        .ok_or_else(|| anyhow!("no migration is called `{name}`"))
}

/// The migrations that come before a file in its folder: they say which tables there are.
fn before(path: &Path, root: &Path) -> Result<Vec<Migration>> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Tools that keep each migration in a folder of its own call the file `up.sql`.
    let is_up = path.file_name().is_some_and(|name| name == "up.sql");
    let folder: PathBuf = if is_up { folder.join("..") } else { folder.to_owned() };
    let mut all = migration::discover(&folder, root)?;
    let same = |migration: &Migration| same_file(&folder.join(&migration.name), path);
    let end = all.iter().position(same).unwrap_or(0);
    all.truncate(end);
    Ok(all)
}

fn same_file(a: &Path, b: &Path) -> bool {
    a.canonicalize().ok().zip(b.canonicalize().ok()).is_some_and(|(a, b)| a == b)
}

/// The releases that are named, with the migrations that each was built with.
fn running(flags: &flags::MigrationsCheck) -> Result<Running> {
    let Some(database) = &flags.database else { return Ok(Running::Unknown) };
    if flags.running.is_empty() {
        return Ok(Running::Unknown);
    }
    let release = |path: &PathBuf| {
        let release = Release::load(path)?;
        Ok(RunningRelease {
            name: path.display().to_string(),
            migrations: release.migrations.get(database).cloned(),
        })
    };
    Ok(Running::Releases(flags.running.iter().map(release).collect::<Result<_>>()?))
}

fn setting(flags: &flags::MigrationsCheck, path: &Path) -> Result<Setting> {
    Ok(Setting {
        dialect: flags.dialect.map_or_else(|| guess(path), Into::into),
        lock_timeout: if flags.lock_timeout_by_runner {
            LockTimeout::ByRunner
        } else {
            LockTimeout::ByScript
        },
        transaction: if flags.in_transaction { Transaction::PerFile } else { Transaction::AsWritten },
        running: running(flags)?,
    })
}

/// A folder that is called after SQLite holds its migrations; anything else is PostgreSQL's, whose rules are more.
fn guess(path: &Path) -> data::Dialect {
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    let is_sqlite = path.to_string_lossy().to_lowercase().contains("sqlite");
    if is_sqlite { data::Dialect::Sqlite } else { data::Dialect::Postgres }
}
