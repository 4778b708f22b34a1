//! `cargo xtask backup` and `restore`: find the databases of the environment, do it, report.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};
use data::{Before, Connection, Engine, Entry, Postgres, Prune, Retention, Sqlite, Store, Tools};
use deploy::{DatabaseEngine, DatabaseSettings, EnvironmentFile};

use crate::exit::{Code, ResultExt};
use crate::render::{self, BackupRow, PrunedRow, VerifiedRow};
use crate::{flags, render::Restoration};

/// A database of the environment with what is needed to work on it.
struct Database {
    name: String,
    engine: Box<dyn Engine>,
    store: Store,
    retention: Retention,
}

pub(crate) fn backup(flags: &flags::Backup) -> Result<()> {
    let databases = databases(&flags.environment, flags.database.as_deref()).or_exit(Code::Configuration)?;
    end_when_interrupted()?;
    match flags.action {
        flags::BackupAction::Create => create(&databases, flags),
        flags::BackupAction::List => list(&databases, flags),
        flags::BackupAction::Verify => verify(&databases, flags),
        flags::BackupAction::Prune => prune(&databases, flags),
    }
}

pub(crate) fn restore(flags: &flags::Restore) -> Result<()> {
    let state = flags::Environment { environment: flags.environment.clone(), state: flags.state.clone() };
    let databases = databases(&state, flags.database.as_deref()).or_exit(Code::Configuration)?;
    let [database] = &databases[..] else {
        let names: Vec<&str> = databases.iter().map(|database| database.name.as_str()).collect();
        return Err(anyhow!("a restore is of one database: --database {}", names.join(", --database ")))
            .or_exit(Code::Usage);
    };
    end_when_interrupted()?;
    let engine = &*database.engine;
    let id = database.store.get(&flags.id).or_exit(Code::Configuration)?.id;
    if flags.dry_run {
        let changes = database.store.preview(engine, &id).or_exit(Code::Configuration)?;
        return render::restore(
            &Restoration { database: &database.name, id, saved: None, changes: Some(changes) },
            flags.json,
        );
    }
    let before = if flags.no_backup { Before::Nothing } else { Before::BackUp { now: now() } };
    let restored = database.store.restore(engine, &id, before)?;
    let restoration =
        Restoration { database: &database.name, id: restored.id, saved: restored.saved, changes: None };
    render::restore(&restoration, flags.json)
}

fn create(databases: &[Database], flags: &flags::Backup) -> Result<()> {
    if flags.dry_run {
        let names: Vec<&str> = databases.iter().map(|database| database.name.as_str()).collect();
        return render::backup_plan(&names, flags.json);
    }
    let mut rows = Vec::new();
    for database in databases {
        eprintln!("backing up {}", database.name);
        let manifest = database
            .store
            .create(&*database.engine, now())
            .with_context(|| format!("cannot back up {}", database.name))?;
        rows.push(BackupRow::new(Entry::Backup(Box::new(manifest)), &database.name));
    }
    render::backups(&rows, flags.json)
}

fn list(databases: &[Database], flags: &flags::Backup) -> Result<()> {
    let mut rows = Vec::new();
    for database in databases {
        rows.extend(database.store.list()?.into_iter().map(|entry| BackupRow::new(entry, &database.name)));
    }
    render::backups(&rows, flags.json)
}

/// Restores backups into databases that are thrown away: the named one, or the latest of each database.
fn verify(databases: &[Database], flags: &flags::Backup) -> Result<()> {
    let id = flags.id.as_deref().unwrap_or("latest");
    let mut rows = Vec::new();
    for database in databases {
        let outcome = database.store.verify(&*database.engine, id);
        rows.push(VerifiedRow {
            database: database.name.clone(),
            id: database.store.get(id).map_or_else(|_| id.to_owned(), |manifest| manifest.id),
            outcome: outcome.map_err(|error| format!("{error:#}")),
        });
    }
    render::verified_backups(&rows, flags.json)?;
    match rows.iter().filter(|row| row.outcome.is_err()).count() {
        0 => Ok(()),
        1 => Err(anyhow!("1 backup does not hold")).or_exit(Code::PolicyViolated),
        many => Err(anyhow!("{many} backups do not hold")).or_exit(Code::PolicyViolated),
    }
}

fn prune(databases: &[Database], flags: &flags::Backup) -> Result<()> {
    let mode = if flags.dry_run { Prune::DryRun } else { Prune::Remove };
    let mut rows = Vec::new();
    for database in databases {
        let removed = database.store.prune(database.retention, now(), mode)?;
        rows.push(PrunedRow { database: database.name.clone(), removed });
    }
    render::pruned_backups(&rows, flags.dry_run, flags.json)
}

/// The databases of the environment, or the one that is named.
fn databases(flags: &flags::Environment, wanted: Option<&str>) -> Result<Vec<Database>> {
    let root = super::workspace_root()?;
    let file = EnvironmentFile::load(&root.join("deploy/environments"), &flags.environment)?;
    let state = super::deploy::state(&root, flags)?;
    let settings = &file.environment.databases;
    let names = || settings.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
    if settings.is_empty() {
        anyhow::bail!(
            "the environment {} names no databases: add `databases:` to its file (docs/guide/data.md)",
            file.name
        );
    }
    if let Some(wanted) = wanted {
        anyhow::ensure!(
            settings.contains_key(wanted),
            "no database is called `{wanted}`; there are: {}",
            names()
        );
    }
    let chosen = settings.iter().filter(|(name, _)| wanted.is_none_or(|wanted| wanted == *name));
    chosen
        .map(|(name, settings)| database(name, settings, &state).with_context(|| format!("databases.{name}")))
        .collect()
}

fn database(name: &str, settings: &DatabaseSettings, state: &Path) -> Result<Database> {
    let is_plain =
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    anyhow::ensure!(
        is_plain,
        "a database's name is made of letters, digits, `-` and `_`: its backups are in a folder of that name"
    );
    let engine: Box<dyn Engine> = match settings.engine {
        DatabaseEngine::Sqlite => Box::new(Sqlite::new(settings.file(state)?)),
        DatabaseEngine::Postgres => {
            let url = settings.url.as_ref().context(
                "`url` is missing: `{ from_env: NAME }`, `{ from_file: PATH }` or `{ command: [...] }`",
            )?;
            Box::new(Postgres::new(Connection::parse(&url.read()?)?, tools(settings)?)?)
        }
    };
    let folder = settings.backups.folder.clone().unwrap_or_else(|| beside(state));
    let keep_seconds = i64::from(settings.backups.keep_days) * 86_400;
    Ok(Database {
        name: name.to_owned(),
        engine,
        store: Store::new(folder.join(name), name),
        retention: Retention { keep: settings.backups.keep, keep_seconds },
    })
}

fn tools(settings: &DatabaseSettings) -> Result<Tools> {
    let Some(tools) = &settings.tools else { return Ok(Tools::Installed) };
    match (&tools.folder, &tools.image) {
        (Some(folder), None) => Ok(Tools::Folder(folder.clone())),
        (None, Some(image)) => Ok(Tools::Image { engine: tools.engine.clone(), image: image.clone() }),
        _ => Err(anyhow!("`tools` names a `folder` or an `image`")),
    }
}

/// Beside the state, not in it: what removes the state must not remove what saves it.
fn beside(state: &Path) -> PathBuf {
    let mut name = state.file_name().unwrap_or_default().to_owned();
    name.push(".backups");
    state.with_file_name(name)
}

/// Ends this program with all that it started: an unfinished backup does not count, and an unfinished restore changes nothing.
fn end_when_interrupted() -> Result<()> {
    let interrupted = super::interruption()?;
    std::thread::spawn(move || {
        while !interrupted.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(50));
        }
        stdx::kill_tied();
        eprintln!("error: interrupted");
        std::process::exit(Code::Interrupted as i32);
    });
    Ok(())
}

fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
