//! Writing and checking the generated files. Files that somebody else wrote are never changed without `--force`.

use std::path::Path;

use anyhow::{Context, Result, anyhow};
use stdx::Cmd;
use stdx::yaml;
use workflow::{Drift, FOLDERS, Files, Kind, Pins, Reimport, Settings};

use super::read_bounded;
use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render;
use crate::runner::{data, property};

/// More than any workflow file is.
const MAX_BYTES: u64 = 1024 * 1024;

pub(super) fn generate(root: &Path, settings: &Settings, flags: &flags::CiGenerate) -> Result<()> {
    refuse_without_tool(root, settings).or_exit(Code::Configuration)?;
    warn_of_another_branch(root, settings);
    let pins = pins(root).or_exit(Code::Configuration)?;
    let drifts = workflow::compare(settings, &pins, &found(root)?);
    let foreign: Vec<&str> =
        drifts.iter().filter(|drift| drift.kind == Kind::Foreign).map(|drift| drift.path.as_str()).collect();
    if !foreign.is_empty() && !flags.force {
        let message = "somebody else wrote what would be replaced";
        return Err(anyhow!("{message}: {}; next: rename it, or --force", foreign.join(", ")))
            .or_exit(Code::Configuration);
    }
    let (stale, wanted): (Vec<&Drift>, Vec<&Drift>) =
        drifts.iter().partition(|drift| drift.kind == Kind::Stale);
    let files = workflow::generate(settings, &pins);
    let mut written: Vec<String> = wanted.iter().map(|drift| drift.path.clone()).collect();
    let removed: Vec<String> = stale.iter().map(|drift| drift.path.clone()).collect();
    let has_lock = root.join(Pins::FILE).exists();
    if !flags.dry_run {
        for path in &written {
            write(root, path, &files[path])?;
        }
        for path in &removed {
            std::fs::remove_file(root.join(path)).with_context(|| format!("cannot remove {path}"))?;
        }
        if !has_lock {
            write(root, Pins::FILE, &pins.to_string())?;
        }
    }
    if !has_lock {
        written.push(Pins::FILE.to_owned());
    }
    render::ci::generated(&written, &removed, flags)
}

/// A push to a branch that no workflow knows starts nothing, and nobody notices.
fn warn_of_another_branch(root: &Path, settings: &Settings) {
    let git =
        Cmd::new("git").args(["symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD"]).cwd(root);
    // Whoever has no remote has nothing to compare with.
    let Some(output) = git.to_std().ok().and_then(|mut git| git.output().ok()) else { return };
    let name = String::from_utf8_lossy(&output.stdout);
    let branch = name.trim().strip_prefix("origin/").unwrap_or_default();
    if !branch.is_empty() && branch != settings.default_branch {
        eprintln!(
            "warning: the default branch of origin is `{branch}`, the workflows are for `{}`; next: `ci: {{ default_branch: {branch} }}` in {}",
            settings.default_branch,
            Settings::FILE
        );
    }
}

pub(super) fn check(root: &Path, settings: &Settings, flags: &flags::CiCheck) -> Result<()> {
    let pins = pins(root).or_exit(Code::Configuration)?;
    let found = found(root)?;
    let drifts = workflow::compare(settings, &pins, &found);
    if drifts.is_empty() {
        return render::ci::checked(&[], &[], flags.json);
    }
    if !flags.fix {
        annotate(&drifts);
        render::ci::checked(&drifts, &[], flags.json)?;
        return Err(anyhow!(
            "{} files are not as they would be written; next: {}",
            drifts.len(),
            next(&drifts)
        ))
        .or_exit(Code::WouldChange);
    }
    match workflow::reimport(settings, &pins, &found) {
        Ok(edited) => {
            let taken: Vec<String> = pins
                .differences(&edited)
                .into_iter()
                .map(|(name, old, new)| format!("{name} {} (was {})", new.version, old.version))
                .collect();
            write(root, Pins::FILE, &edited.to_string())?;
            for (path, text) in workflow::generate(settings, &edited) {
                write(root, &path, &text)?;
            }
            render::ci::checked(&[], &taken, flags.json)
        }
        Err(Reimport::Contradicting(names)) => {
            let message = "the workflows have two different new pins of";
            Err(anyhow!("{message} {}; next: settle on one", names.join(", "))).or_exit(Code::WouldChange)
        }
        Err(Reimport::Drift(rest)) => {
            render::ci::checked(&rest, &[], flags.json)?;
            Err(anyhow!("more than pins was edited, nothing was changed; next: cargo xtask ci generate"))
                .or_exit(Code::WouldChange)
        }
    }
}

/// Lets GitHub show each difference at its line.
fn annotate(drifts: &[Drift]) {
    if std::env::var_os("GITHUB_ACTIONS").is_none() {
        return;
    }
    for drift in drifts {
        eprintln!("::error file={},line={}::{}", property(&drift.path), drift.line, data(&drift.to_string()));
    }
}

fn next(drifts: &[Drift]) -> &'static str {
    if drifts.iter().all(|drift| drift.owner == workflow::Owner::Lock) {
        "cargo xtask ci check --fix to keep a bot's edit, cargo xtask ci generate to undo it"
    } else {
        "cargo xtask ci generate"
    }
}

/// The pins of the workspace; those that the tool comes with where it has no lock file.
fn pins(root: &Path) -> Result<Pins> {
    let path = root.join(Pins::FILE);
    if !path.exists() {
        return Ok(Pins::built_in());
    }
    let text = String::from_utf8(read_bounded(&path, MAX_BYTES)?)
        .map_err(|_| anyhow!("{} is not UTF-8 text", path.display()))?;
    Pins::parse(&text).or_else(|problems| {
        yaml::refuse_if_any(&problems)?;
        Ok(Pins::built_in())
    })
}

/// All files in the folders of generated ones. What is no text is nobody's that we know.
fn found(root: &Path) -> Result<Files> {
    let mut files = Files::new();
    for folder in FOLDERS {
        let path = root.join(folder);
        if !path.exists() {
            continue;
        }
        let context = || format!("cannot read the folder {}", path.display());
        for entry in std::fs::read_dir(&path).with_context(context)? {
            let entry = entry.with_context(context)?;
            if !entry.file_type().with_context(context)?.is_dir() {
                let bytes = read_bounded(&entry.path(), MAX_BYTES)?;
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                files.insert(name, String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }
    Ok(files)
}

fn write(root: &Path, path: &str, text: &str) -> Result<()> {
    stdx::fs::write_atomic(&root.join(path), text.as_bytes(), 0o644)
}

/// A workflow that calls `cargo xtask` where there is none would be red for ever.
fn refuse_without_tool(root: &Path, settings: &Settings) -> Result<()> {
    let config = stdx::fs::read_if_exists(&root.join(".cargo/config.toml"))?.unwrap_or_default();
    let has_alias =
        String::from_utf8_lossy(&config).lines().any(|line| line.trim_start().starts_with("xtask"));
    if settings.tool.is_none() && !has_alias {
        anyhow::bail!(
            "jobs would not find `cargo xtask`: this workspace has no such alias in .cargo/config.toml; next: say where it comes \
             from in slipway.yaml: `ci: {{ tool: {{ repository: https://…, version: <tag or commit> }} }}`"
        );
    }
    Ok(())
}
