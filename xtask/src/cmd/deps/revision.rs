//! Another revision of the workspace, in a folder of its own: the user's work tree, index and list of work trees stay as they are.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use stdx::Cmd;

fn git(folder: &Path) -> Cmd {
    Cmd::new("git").cwd(folder)
}

/// Puts the files of `revision` into a temporary folder; gives the full id of its commit as well.
pub(super) fn check_out(root: &Path, revision: &str) -> Result<(String, tempfile::TempDir)> {
    let name = format!("{revision}^{{commit}}");
    let commit = git(root).args(["rev-parse", "--verify", "--quiet", "--end-of-options", &name]).read();
    let commit = commit.with_context(|| format!("git knows no revision `{revision}`"))?;
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let index = folder.path().join("index");
    let tree = format!("--prefix={}/", folder.path().join("tree").display());
    let top = top(root)?;
    let run = |args: &[&str]| git(&top).args(args).env("GIT_INDEX_FILE", &index).read();
    run(&["read-tree", &commit])?;
    run(&["checkout-index", "--all", &tree])?;
    Ok((commit, folder))
}

/// The folder in `folder` that the workspace at `root` is at the other revision.
pub(super) fn workspace(root: &Path, folder: &Path) -> Result<PathBuf> {
    let root = root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
    let below = root.strip_prefix(top(&root)?).unwrap_or(Path::new("")).to_owned();
    Ok(folder.join("tree").join(below))
}

fn top(root: &Path) -> Result<PathBuf> {
    let top: PathBuf = git(root).args(["rev-parse", "--show-toplevel"]).read()?.into();
    top.canonicalize().with_context(|| format!("cannot find {}", top.display()))
}
