//! Cargo's configuration files, those that others include among them. The library that reads them does not follow `include`:
//! where one stands, all files are put together here by Cargo's rules, and the library reads the result. It does not know
//! what the keys mean, but for those whose values are paths relative to their file.
//!
//! Source: the Cargo book, "Configuration": "Hierarchical structure", "Including extra configuration files", "Config-relative
//! paths".

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow, bail, ensure};
use cargo_config2::{Config, ResolveOptions};
use toml::{Table, Value};

use crate::cargo::cargo_home;

/// Files that include files that include files: deeper than this is a mistake.
const MAX_DEPTH: usize = 16;
/// Lists that the file closer to the workspace replaces; others are joined.
const REPLACED_LISTS: [&str; 3] = ["runner", "browser", "credential-provider"];
/// Variables that hold a folder relative to the one that Cargo was started in.
const FOLDER_VARIABLES: [&str; 3] = ["CARGO_TARGET_DIR", "CARGO_BUILD_TARGET_DIR", "CARGO_BUILD_BUILD_DIR"];

/// Cargo's configuration as seen from `root`.
pub(crate) fn configuration(root: &Path) -> Result<Config> {
    let home = cargo_home(root);
    let files = found_files(root, home.as_deref());
    let config = if files.iter().any(|file| has_include(file)) {
        joined(root, &files)
    } else {
        Config::load_with_cwd(root).map_err(Into::into)
    };
    config.context("cannot read Cargo's configuration")
}

/// Every configuration file that counts as seen from `root`, those that are included among them; what cannot be read is left
/// out.
pub fn configuration_files(root: &Path, cargo_home: &Path) -> BTreeSet<PathBuf> {
    let mut files = BTreeSet::new();
    for file in found_files(root, Some(cargo_home)) {
        // Whoever reads the configuration itself reports what is wrong with it.
        load(&file, &mut files, 0).ok();
        files.insert(file);
    }
    files
}

/// The files that Cargo finds by itself, the ones that count most first.
fn found_files(root: &Path, home: Option<&Path>) -> Vec<PathBuf> {
    let mut folders: Vec<PathBuf> = root.ancestors().map(|folder| folder.join(".cargo")).collect();
    if let Some(home) = home.filter(|home| !folders.iter().any(|folder| folder == home)) {
        folders.push(home.to_owned());
    }
    let file = |folder: PathBuf| {
        // The name without an ending counts more, as in Cargo.
        ["config", "config.toml"].map(|name| folder.join(name)).into_iter().find(|file| file.is_file())
    };
    folders.into_iter().filter_map(file).collect()
}

fn has_include(file: &Path) -> bool {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    let mut top_level = text.lines().take_while(|line| !line.trim_start().starts_with('['));
    top_level.any(|line| {
        line.split_once('=').is_some_and(|(key, _)| key.trim().trim_matches(['"', '\'']) == "include")
    })
}

/// Puts the files together and has the result read as the only file there is.
fn joined(root: &Path, files: &[PathBuf]) -> Result<Config> {
    let above = Path::new("/.cargo/config.toml");
    ensure!(!above.exists(), "{} and `include` in other files cannot both be followed", above.display());
    let mut all = Table::new();
    for file in files.iter().rev() {
        merge(&mut all, load(file, &mut BTreeSet::new(), 0)?, &file.display().to_string())?;
    }
    let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
    stdx::fs::write_atomic(&folder.path().join("config.toml"), toml::to_string(&all)?.as_bytes(), 0o600)?;
    let absolute = |(name, value): (OsString, OsString)| {
        let is_folder = FOLDER_VARIABLES.iter().any(|folder| name == **folder) && !value.is_empty();
        let value = if is_folder { root.join(value).into_os_string() } else { value };
        (name, value)
    };
    let options =
        ResolveOptions::default().cargo_home(folder.path().to_owned()).env(std::env::vars_os().map(absolute));
    Ok(Config::load_with_options("/", options)?)
}

/// The file with what it includes below it, and its relative paths made absolute. Files that were read are noted in `seen`.
fn load(file: &Path, seen: &mut BTreeSet<PathBuf>, depth: usize) -> Result<Table> {
    ensure!(depth < MAX_DEPTH, "{}: `include` is nested too deeply, or in a circle", file.display());
    seen.insert(file.to_owned());
    let text = stdx::fs::read_to_string(file)?;
    let mut table: Table = text.parse().with_context(|| format!("cannot parse {}", file.display()))?;
    let mut all = Table::new();
    for (path, is_optional) in included(table.remove("include"), file)? {
        let path = file.parent().unwrap_or(file).join(path);
        if is_optional && !path.exists() {
            seen.insert(path);
            continue;
        }
        merge(&mut all, load(&path, seen, depth + 1)?, &path.display().to_string())?;
    }
    // Paths are relative to the folder that holds the file's folder, which is called `.cargo` as a rule.
    let base = file.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    make_absolute(&mut table, base);
    merge(&mut all, table, &file.display().to_string())?;
    Ok(all)
}

/// The paths of an `include`, and whether each may be missing.
fn included(value: Option<Value>, file: &Path) -> Result<Vec<(String, bool)>> {
    let entry = |value: Value| match value {
        Value::String(path) => Ok((path, false)),
        Value::Table(table) => {
            let path =
                table.get("path").and_then(Value::as_str).context("an entry of `include` has no path")?;
            Ok((path.to_owned(), table.get("optional").and_then(Value::as_bool).unwrap_or(false)))
        }
        _ => bail!("an entry of `include` is neither a path nor a table"),
    };
    let entries = match value {
        None => return Ok(Vec::new()),
        Some(Value::Array(values)) => values.into_iter().map(entry).collect(),
        Some(_) => Err(anyhow!("`include` is no list")),
    };
    entries.with_context(|| format!("cannot follow {}", file.display()))
}

/// Adds a file that counts for more.
fn merge(all: &mut Table, more: Table, place: &str) -> Result<()> {
    for (key, value) in more {
        match (all.get_mut(&key), value) {
            (Some(Value::Table(below)), Value::Table(above)) => merge(below, above, place)?,
            (Some(Value::Array(below)), Value::Array(above)) if !REPLACED_LISTS.contains(&key.as_str()) => {
                below.extend(above);
            }
            // A list of arguments may be written as one text, and then replaces what is below.
            (Some(Value::Table(_)), _) => bail!("{place}: `{key}` is a table in another file"),
            (_, value) => _ = all.insert(key, value),
        }
    }
    Ok(())
}

fn make_absolute(table: &mut Table, base: &Path) {
    let join = |value: &mut Value, is_program: bool| {
        let value = match value {
            Value::Array(words) => words.first_mut(),
            value => Some(value),
        };
        if let Some(Value::String(text)) = value
            && (!is_program || text.contains('/'))
        {
            *text = base.join(&text).display().to_string();
        }
    };
    if let Some(Value::Table(build)) = table.get_mut("build") {
        for (key, value) in build.iter_mut() {
            match key.as_str() {
                "target-dir" | "build-dir" => join(value, false),
                "rustc" | "rustc-wrapper" | "rustc-workspace-wrapper" | "rustdoc" => join(value, true),
                _ => {}
            }
        }
    }
    for target in tables_in(table, "target") {
        for key in ["linker", "runner"] {
            target.get_mut(key).into_iter().for_each(|value| join(value, true));
        }
    }
    for variable in tables_in(table, "env") {
        if variable.remove("relative").and_then(|value| value.as_bool()) == Some(true) {
            variable.get_mut("value").into_iter().for_each(|value| join(value, false));
        }
    }
}

fn tables_in<'a>(table: &'a mut Table, key: &str) -> impl Iterator<Item = &'a mut Table> {
    let inner = table.get_mut(key).and_then(Value::as_table_mut);
    inner.into_iter().flat_map(Table::iter_mut).filter_map(|(_, value)| value.as_table_mut())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, name: &str, text: &str) {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    #[test]
    fn included_files_count_less_and_their_paths_are_relative_to_themselves() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(
            root,
            ".cargo/config.toml",
            "include = [\"a.toml\", { path = \"gone.toml\", optional = true }]\n[build]\nrustflags = [\"own\"]\n[env]\nA = \"own\"\n",
        );
        write(
            root,
            ".cargo/a.toml",
            "include = [\"../deep/b.toml\"]\n[build]\nrustflags = [\"a\"]\ntarget-dir = \"out\"\n[env]\nA = \"a\"\n",
        );
        write(
            root,
            "deep/b.toml",
            "[build]\nrustflags = [\"b\"]\n[env]\nB = { value = \"x\", relative = true, force = true }\n",
        );
        let config = configuration(root).unwrap();
        assert_eq!(config.build.rustflags.as_ref().unwrap().flags, ["b", "a", "own"]);
        assert_eq!(config.build.target_dir.as_deref(), Some(root.join("out").as_path()));
        assert_eq!(config.env["A"].value, "own");
        assert_eq!(
            (Path::new(&config.env["B"].value), config.env["B"].force),
            (&*root.join(".cargo/../x"), true)
        );
        let files = configuration_files(root, Path::new("/nowhere"));
        let names = [".cargo/config.toml", ".cargo/a.toml", ".cargo/gone.toml", ".cargo/../deep/b.toml"];
        assert!(names.iter().all(|name| files.contains(&root.join(name))), "{files:?}");
    }

    #[test]
    fn a_circle_and_a_missing_file_are_errors() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path(), ".cargo/config.toml", "include = [\"config.toml\"]\n");
        let error = format!("{:#}", configuration(folder.path()).unwrap_err());
        assert!(error.contains("in a circle"), "{error}");
        write(folder.path(), ".cargo/config.toml", "include = [\"gone.toml\"]\n");
        let error = format!("{:#}", configuration(folder.path()).unwrap_err());
        assert!(error.contains("gone.toml"), "{error}");
    }
}
