//! The files of a work tree. Invariant: nothing outside the root is read, because links are not followed; what git ignores is
//! skipped because it never reaches anybody else.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

use anyhow::{Context, Result};
use finding::{Finding, Place};
use stdx::Cmd;

use crate::report::partly_scanned_note;
use crate::{Options, pool, report};

/// How deep folders may lie in each other outside a git checkout.
const DEEPEST: usize = 128;

/// The secrets in the files below `root`: in a git checkout the tracked ones and those that git does not ignore, elsewhere all.
///
/// # Errors
/// When a file or folder cannot be read, or when it was interrupted.
pub fn tree(root: &Path, options: &Options<'_>) -> Result<Vec<Finding>> {
    let paths = match listed_by_git(root)? {
        Some(paths) => paths,
        None => walk(root, options)?,
    };
    files(root, &paths, options)
}

/// The secrets in these files, given relative to `root`; for what is about to be committed. What is no regular file is skipped.
///
/// # Errors
/// When a file cannot be read, or when it was interrupted.
pub fn files(root: &Path, paths: &[PathBuf], options: &Options<'_>) -> Result<Vec<Finding>> {
    pool::each(paths, options, |path| scan_file(root, path, options))
}

fn scan_file(root: &Path, path: &Path, options: &Options<'_>) -> Result<Vec<Finding>> {
    let name = path.to_string_lossy();
    let Some(file) = open(root, path).with_context(|| format!("cannot read {name}"))? else {
        return Ok(Vec::new());
    };
    let size = file.metadata()?.len();
    let most = options.most_bytes_per_file;
    let mut bytes = Vec::with_capacity(usize::try_from(size.min(most)).unwrap_or(0));
    file.take(most).read_to_end(&mut bytes).with_context(|| format!("cannot read {name}"))?;
    let mut found = report::findings(&name, &bytes, |line, column| Place::file_line(&*name, line, column));
    if size > most {
        found.push(partly_scanned_note(Place::file(&*name), most, size));
    }
    Ok(found)
}

/// The regular file at `path` below `root`; `None` where there is something else, a link on the way, or nothing any more.
fn open(root: &Path, path: &Path) -> Result<Option<File>> {
    let mut whole = root.to_owned();
    for component in path.components() {
        let Component::Normal(name) = component else { return Ok(None) };
        whole.push(name);
        match std::fs::symlink_metadata(&whole) {
            Ok(meta) if meta.is_dir() || meta.is_file() => {}
            Ok(_) => return Ok(None),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
    if !whole.is_file() {
        return Ok(None);
    }
    // A pipe that took the file's place since then must not block.
    let no_block = (rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NONBLOCK).bits();
    Ok(Some(File::options().read(true).custom_flags(no_block.cast_signed()).open(&whole)?))
}

/// What git has or would add below `root`, in submodules as well; `None` where it is no checkout, or one that ignores it as a whole.
fn listed_by_git(root: &Path) -> Result<Option<Vec<PathBuf>>> {
    let root = root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
    if !root.ancestors().any(|folder| folder.join(".git").exists()) {
        return Ok(None);
    }
    let mut found = Vec::new();
    let mut checkouts = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = checkouts.pop() {
        for path in ls_files(&root.join(&folder))? {
            let whole = folder.join(&path);
            if depth < DEEPEST && is_submodule(&root.join(&whole), &path) {
                checkouts.push((whole, depth + 1));
            } else {
                found.push(whole);
            }
        }
    }
    found.sort();
    found.dedup();
    Ok((!found.is_empty()).then_some(found))
}

/// A checkout that is committed with the one around it. Git names one that is merely there with a `/` at its end, and would
/// add nothing of it.
fn is_submodule(whole: &Path, listed: &Path) -> bool {
    !listed.as_os_str().as_bytes().ends_with(b"/")
        && std::fs::symlink_metadata(whole).is_ok_and(|meta| meta.is_dir())
        && whole.join(".git").exists()
}

fn ls_files(root: &Path) -> Result<Vec<PathBuf>> {
    // `-t` puts `? ` before what is not tracked.
    let cmd = git(root).args(["ls-files", "-z", "-t", "--cached", "--others", "--exclude-standard"]);
    let output = cmd.to_std()?.output().with_context(|| format!("cannot run {cmd}"))?;
    anyhow::ensure!(
        output.status.success(),
        "`{cmd}` failed with {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    let mut caches = BTreeMap::new();
    let mut paths = Vec::new();
    for entry in output.stdout.split(|byte| *byte == 0).filter(|entry| entry.len() > 2) {
        let path = Path::new(OsStr::from_bytes(&entry[2..]));
        // Build output that nobody has told git to ignore yet.
        if entry[0] != b'?' || !is_cached(root, path, &mut caches) {
            paths.push(path.to_owned());
        }
    }
    Ok(paths)
}

/// Whether a folder around `path`, below `root`, says that it can be made again.
///
/// Source: Cache Directory Tagging Specification, `CACHEDIR.TAG`.
fn is_cached(root: &Path, path: &Path, known: &mut BTreeMap<PathBuf, bool>) -> bool {
    let folders = path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty());
    folders.into_iter().any(|folder| {
        let tag = || root.join(folder).join("CACHEDIR.TAG").is_file();
        *known.entry(folder.to_owned()).or_insert_with(tag)
    })
}

/// Git in `root`, unable to run what a repository's own configuration names.
pub(crate) fn git(root: &Path) -> Cmd {
    let quiet =
        ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", "-c", "core.quotePath=false"];
    Cmd::new("git")
        .args(["--no-replace-objects"])
        .args(quiet)
        .cwd(root)
        .env("GIT_OPTIONAL_LOCKS", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .env("GIT_TERMINAL_PROMPT", "0")
}

/// All regular files below `root` but git's own and what Cargo built.
fn walk(root: &Path, options: &Options<'_>) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![(PathBuf::new(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        options.check()?;
        let whole = root.join(&folder);
        let entries =
            std::fs::read_dir(&whole).with_context(|| format!("cannot list {}", whole.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("cannot list {}", whole.display()))?;
            let (kind, path) = (entry.file_type()?, folder.join(entry.file_name()));
            let is_made = entry.file_name() == ".git" || entry.path().join("CACHEDIR.TAG").is_file();
            if kind.is_dir() && !is_made && depth < DEEPEST {
                folders.push((path, depth + 1));
            } else if kind.is_file() {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}
