//! Which files of a folder are migrations, in which order they run, and which part of them runs forward: by the conventions of the
//! usual tools (sqlx, Diesel, refinery, Flyway, golang-migrate, goose, dbmate).

use std::cmp::Ordering;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// The largest script that is read, in bytes: a migration is written by hand.
pub const MOST_BYTES: u64 = 16 << 20;
/// How far below its folder a migration may lie.
const MOST_DEPTH: usize = 4;
const MOST_FILES: usize = 20_000;

/// A script of the schema.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migration {
    /// Path below the folder of migrations, with `/` between its parts.
    pub name: String,
    /// Where it lies, as findings show it.
    pub path: String,
    /// Its text.
    pub text: String,
}

impl Migration {
    /// Whether it is meant by `name`: its own name, that without the suffix, or that of its folder.
    pub fn is_called(&self, name: &str) -> bool {
        is_called(&self.name, name)
    }
}

/// Whether the migration `name` is meant by `wanted`: by its whole name, without the suffix, or by its folder.
pub(super) fn is_called(name: &str, wanted: &str) -> bool {
    let wanted = wanted.trim_end_matches('/');
    let stem = name.strip_suffix(".sql").unwrap_or(name);
    let stem = stem.strip_suffix(".up").unwrap_or(stem);
    name == wanted || stem == wanted || stem.strip_suffix("/up") == Some(wanted)
}

/// The migrations below a folder, in the order in which they run.
///
/// # Errors
/// When the folder or a file cannot be read, is too large, or is no text.
pub fn discover(folder: &Path, root: &Path) -> Result<Vec<Migration>> {
    let mut names = Vec::new();
    collect(folder, "", 0, &mut names)?;
    names.sort_by(|a, b| in_order(a, b));
    let load = |name: String| {
        let migration = load(&folder.join(&name), root)?;
        Ok(Migration { name, ..migration })
    };
    names.into_iter().map(load).collect()
}

/// One file as a migration.
///
/// # Errors
/// As of [`discover`].
pub fn load(path: &Path, root: &Path) -> Result<Migration> {
    let size = std::fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    ensure!(size <= MOST_BYTES, "{} has {size} bytes, a migration at most {MOST_BYTES}", path.display());
    let mut text = stdx::fs::read_to_string(path)?;
    text.truncate(forward(&text));
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let shown = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    Ok(Migration { name, path: shown, text })
}

fn collect(folder: &Path, prefix: &str, depth: usize, names: &mut Vec<String>) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("cannot read {}", folder.display()))?;
        let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
        let kind = entry.file_type().with_context(|| format!("cannot look at {name}"))?;
        if kind.is_dir() && depth < MOST_DEPTH {
            let path: PathBuf = entry.path();
            collect(&path, &format!("{name}/"), depth + 1, names)?;
        } else if kind.is_file() && is_forward(&name) {
            ensure!(names.len() < MOST_FILES, "{} holds more than {MOST_FILES} migrations", folder.display());
            names.push(name);
        }
    }
    Ok(())
}

/// Whether a file leads from one schema to the next, and not back.
fn is_forward(name: &str) -> bool {
    let file = name.rsplit('/').next().unwrap_or(name);
    let is_undo = |file: &str| {
        file.starts_with('U') && file[1..].starts_with(|c: char| c.is_ascii_digit()) && file.contains("__")
    };
    let backward = ["down.sql", "revert.sql", "rollback.sql"];
    let is_backward = backward
        .iter()
        .any(|end| file == *end || file.ends_with(&format!(".{end}")) || file.ends_with(&format!("_{end}")));
    file.ends_with(".sql") && !is_backward && !is_undo(file)
}

/// Where the part of a script that leads forward ends: some tools keep the way back in the same file.
fn forward(text: &str) -> usize {
    let is_back = |line: &str| {
        let line = line.trim().to_lowercase();
        ["-- +goose down", "-- +migrate down", "-- migrate:down", "--//@undo"]
            .iter()
            .any(|mark| line.starts_with(mark))
    };
    let mut at = 0;
    for line in text.split_inclusive('\n') {
        if is_back(line) {
            return at;
        }
        at += line.len();
    }
    at
}

/// Numbers in names count as numbers: `V2` comes before `V10`.
fn in_order(a: &str, b: &str) -> Ordering {
    let (mut a_rest, mut b_rest) = (a, b);
    loop {
        let (a_part, b_part) = (part(a_rest), part(b_rest));
        if a_part.is_empty() || b_part.is_empty() {
            return a_rest.len().cmp(&b_rest.len()).then(a.cmp(b));
        }
        let order = match (digits(a_part), digits(b_part)) {
            (Some(a), Some(b)) => a.len().cmp(&b.len()).then(a.cmp(b)),
            _ => a_part.cmp(b_part),
        };
        if order != Ordering::Equal {
            return order;
        }
        (a_rest, b_rest) = (&a_rest[a_part.len()..], &b_rest[b_part.len()..]);
    }
}

/// The digits or the other characters that a text begins with.
fn part(text: &str) -> &str {
    let is_digit = text.starts_with(|c: char| c.is_ascii_digit());
    let end = text.find(|c: char| c.is_ascii_digit() != is_digit).unwrap_or(text.len());
    &text[..end]
}

/// A number without zeros before it.
fn digits(part: &str) -> Option<&str> {
    part.starts_with(|c: char| c.is_ascii_digit()).then(|| part.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_found_in_the_order_in_which_they_run() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "V10__b.sql",
            "V2__a.sql",
            "U2__a.sql",
            "3_x.up.sql",
            "3_x.down.sql",
            "2024-01-01-000000_d/up.sql",
            "2024-01-01-000000_d/down.sql",
            "README.md",
        ] {
            let path = folder.path().join(name);
            stdx::fs::write_atomic(&path, b"SELECT 1;\n-- +goose Down\nDROP TABLE a;", 0o644).unwrap();
        }
        let found = discover(folder.path(), folder.path()).unwrap();
        let names: Vec<&str> = found.iter().map(|migration| migration.name.as_str()).collect();
        assert_eq!(names, ["3_x.up.sql", "2024-01-01-000000_d/up.sql", "V2__a.sql", "V10__b.sql"]);
        assert!(found.iter().all(|migration| migration.text == "SELECT 1;\n"));
        assert!(
            is_called(names[1], "2024-01-01-000000_d")
                && is_called(names[0], "3_x")
                && !is_called(names[0], "3")
        );
    }
}
