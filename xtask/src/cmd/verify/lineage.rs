//! Where in history the commit stands that an image was built from, as the repository of the workspace knows it. An image that was
//! signed long ago is still signed: only its place in history tells it from the one that is meant.

use std::path::Path;

use anyhow::{Context, Result};
use stdx::Cmd;
use supply::{Check, Outcome, Provenance};

/// The full id of the commit that `name` stands for: a commit, a tag or a branch.
///
/// # Errors
/// Where the repository knows no such commit.
pub(super) fn commit(root: &Path, name: &str) -> Result<String> {
    // A full id needs no repository: images of others are verified, too.
    let is_full = [40, 64].contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_full {
        return Ok(name.to_ascii_lowercase());
    }
    let asked = git(root)
        .args(["rev-parse", "--verify", "--quiet", "--end-of-options"])
        .arg(format!("{name}^{{commit}}"));
    asked.read().ok().with_context(|| format!("the repository here knows no commit `{name}`"))
}

/// Whether the image was built from a commit that has `than` (a full id) among its ancestors.
pub(super) fn newer(root: &Path, provenance: Option<&Provenance>, than: &str) -> Check {
    let (outcome, detail) = match judged(root, provenance, than) {
        Ok(detail) => (Outcome::Ok, detail),
        Err(detail) => (Outcome::Failed, detail),
    };
    Check { name: "lineage", outcome, detail }
}

fn judged(root: &Path, provenance: Option<&Provenance>, than: &str) -> Result<String, String> {
    let commit = provenance.and_then(Provenance::commit);
    let commit = commit.ok_or("no provenance that is believed says which commit was built")?;
    let found = &commit.revision;
    if commit.dirty {
        return Err(format!("it was built from {found} with changes, which are in no history"));
    }
    if *found == than {
        return Err(format!("it was built from {than} itself, which is not newer"));
    }
    if !knows(root, than) || !knows(root, found) {
        return Err(format!("the repository here does not have both {found} and {than}; next: `git fetch`"));
    }
    let is_ancestor = git(root).args(["merge-base", "--is-ancestor", than, found]).read().is_ok();
    match is_ancestor {
        true => Ok(format!("{found} has {than} among its ancestors")),
        false => Err(format!("it was built from {found}, which does not have {than} among its ancestors")),
    }
}

fn knows(root: &Path, commit: &str) -> bool {
    git(root).args(["cat-file", "-e"]).arg(format!("{commit}^{{commit}}")).read().is_ok()
}

/// Blind to objects that were put in the place of others, and to history that was grafted on.
fn git(root: &Path) -> Cmd {
    Cmd::new("git").cwd(root).env("GIT_NO_REPLACE_OBJECTS", "1").env("GIT_OPTIONAL_LOCKS", "0")
}
