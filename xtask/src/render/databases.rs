//! Backups and restores.

use std::fmt::Write as _;

use anyhow::Result;
use data::{Entry, Manifest};
use serde_json::{Value, json};

use super::table::Table;
use super::{bytes, document, print};

/// A backup in a list.
pub(crate) struct BackupRow {
    database: String,
    entry: Entry,
}

/// How the proof of a backup went: where it was restored, or what is wrong with it.
pub(crate) struct VerifiedRow {
    pub(crate) database: String,
    pub(crate) id: String,
    pub(crate) outcome: Result<String, String>,
}

/// Backups that the retention let go.
pub(crate) struct PrunedRow {
    pub(crate) database: String,
    pub(crate) removed: Vec<String>,
}

/// What a restore did, or would do.
pub(crate) struct Restoration<'a> {
    pub(crate) database: &'a str,
    pub(crate) id: String,
    pub(crate) saved: Option<String>,
    /// How the form of the database would change, where nothing was done.
    pub(crate) changes: Option<Vec<String>>,
}

impl BackupRow {
    pub(crate) fn new(entry: Entry, database: &str) -> BackupRow {
        BackupRow { database: database.to_owned(), entry }
    }

    fn json(&self) -> Value {
        match &self.entry {
            Entry::Backup(manifest) => json!({
                "database": self.database, "id": manifest.id, "engine": manifest.engine, "version": manifest.version,
                "taken_at": manifest.taken_at, "size": manifest.size, "digest": manifest.digest, "tables": manifest.tables,
                "fingerprint": manifest.fingerprint, "proof": manifest.proof,
            }),
            Entry::Damaged { id, why } => json!({ "database": self.database, "id": id, "damaged": why }),
        }
    }
}

/// Prints backups.
pub(crate) fn backups(rows: &[BackupRow], as_json: bool) -> Result<()> {
    if as_json {
        let rows: Vec<Value> = rows.iter().map(BackupRow::json).collect();
        return document("slipway.backups/1", json!({ "backups": rows }));
    }
    let mut table = Table::new(["database", "backup", "tables", "rows", "size", "proven by a restore into"]);
    for row in rows {
        match &row.entry {
            Entry::Backup(manifest) => table.row(cells(&row.database, manifest)),
            Entry::Damaged { id, why } => {
                let why = format!("DAMAGED: {}", why.lines().next().unwrap_or_default());
                table.row([
                    row.database.clone(),
                    id.clone(),
                    String::new(),
                    String::new(),
                    String::new(),
                    why,
                ]);
            }
        }
    }
    let none = if rows.is_empty() { "no backups; next: `cargo xtask backup`\n" } else { "" };
    print(&if rows.is_empty() { none.to_owned() } else { table.to_string() })
}

fn cells(database: &str, manifest: &Manifest) -> [String; 6] {
    let rows: u64 = manifest.tables.values().map(|table| table.rows).sum();
    [
        database.to_owned(),
        manifest.id.clone(),
        manifest.tables.len().to_string(),
        rows.to_string(),
        bytes(manifest.size),
        manifest.proof.clone(),
    ]
}

/// Prints what would be backed up.
pub(crate) fn backup_plan(databases: &[&str], as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.backup-plan/1", json!({ "databases": databases }));
    }
    let line = |name: &&str| {
        format!("back {name} up, restore it into a database that is thrown away, and compare\n")
    };
    print(&databases.iter().map(line).collect::<String>())
}

/// Prints how proofs went.
pub(crate) fn verified_backups(rows: &[VerifiedRow], as_json: bool) -> Result<()> {
    if as_json {
        let row = |row: &VerifiedRow| match &row.outcome {
            Ok(place) => json!({ "database": row.database, "id": row.id, "holds": true, "proof": place }),
            Err(why) => json!({ "database": row.database, "id": row.id, "holds": false, "why": why }),
        };
        return document(
            "slipway.backup-proofs/1",
            json!({ "backups": rows.iter().map(row).collect::<Vec<_>>() }),
        );
    }
    let mut text = String::new();
    for row in rows {
        match &row.outcome {
            Ok(place) => writeln!(text, "{} {}: holds, restored into {place}", row.database, row.id)?,
            Err(why) => writeln!(text, "{} {}: does not hold: {why}", row.database, row.id)?,
        }
    }
    print(&text)
}

/// Prints what was removed, or would be.
pub(crate) fn pruned_backups(rows: &[PrunedRow], is_dry_run: bool, as_json: bool) -> Result<()> {
    if as_json {
        let row = |row: &PrunedRow| json!({ "database": row.database, "removed": row.removed });
        let rows: Vec<Value> = rows.iter().map(row).collect();
        return document("slipway.backup-prune/1", json!({ "dry_run": is_dry_run, "databases": rows }));
    }
    let done = if is_dry_run { "would remove" } else { "removed" };
    let mut text = String::new();
    for row in rows {
        match &row.removed[..] {
            [] => writeln!(text, "{}: nothing to remove", row.database)?,
            removed => writeln!(text, "{}: {done} {}", row.database, removed.join(", "))?,
        }
    }
    print(&text)
}

/// Prints what a restore did, or would do.
pub(crate) fn restore(restoration: &Restoration<'_>, as_json: bool) -> Result<()> {
    let Restoration { database, id, saved, changes } = restoration;
    if as_json {
        let value = json!({ "database": database, "id": id, "saved": saved, "dry_run": changes.is_some(), "schema_changes": changes });
        return document("slipway.restore/1", value);
    }
    let text = match (changes, saved) {
        (Some(changes), _) => {
            let form = if changes.is_empty() {
                "\nits form would stay as it is".into()
            } else {
                format!("\nits form would change:\n{}", changes.join("\n"))
            };
            format!("{database} would be as in {id}; the state before would be backed up{form}\n")
        }
        (None, Some(saved)) => format!("{database} is as in {id}; the state before is the backup {saved}\n"),
        (None, None) => format!("{database} is as in {id}\n"),
    };
    print(&text)
}
