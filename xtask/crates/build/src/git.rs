//! Where the source stands.

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use stdx::Cmd;

/// The commit that the work tree is at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GitState {
    /// Full commit id.
    pub revision: String,
    /// Whether the work tree holds changes or files that the commit does not. Before a build that is what git says, ignored files and
    /// those that it was told to overlook apart; after one, what was read counts, too.
    pub dirty: bool,
    /// Why nobody can vouch that what was built is what the commit holds: files, each with what is the matter.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub doubts: Vec<String>,
}

impl GitState {
    /// The state of the checkout that `root` is in; `None` where there is no repository or no commit.
    ///
    /// # Errors
    /// When there is a repository that git cannot or will not read: an image that silently lacks its commit would have another
    /// digest than on the next machine.
    pub fn load(root: &Path) -> Result<Option<GitState>> {
        if top(root).is_none() {
            return Ok(None);
        }
        let status = git(root).args(["status", "--porcelain=v2", "--branch", "--untracked-files=normal"]);
        let status = status.read().context("cannot ask git where the source stands")?;
        let Some(revision) = status.lines().find_map(|line| line.strip_prefix("# branch.oid ")) else {
            return Ok(None);
        };
        if revision == "(initial)" {
            return Ok(None);
        }
        let dirty = status.lines().any(|line| !line.starts_with('#'));
        Ok(Some(GitState { revision: revision.to_owned(), dirty, doubts: Vec::new() }))
    }

    /// The commit's own time, in seconds since 1970.
    pub(crate) fn commit_time(&self, root: &Path) -> Result<i64> {
        let time = git(root).args(["show", "--no-patch", "--format=%ct", &self.revision]).read()?;
        time.trim().parse().with_context(|| format!("git gives the commit time `{time}`"))
    }

    /// The same where there are doubts about what was built.
    pub(crate) fn doubted(&self, doubts: Vec<String>) -> GitState {
        GitState { dirty: self.dirty || !doubts.is_empty(), doubts, ..self.clone() }
    }

    /// The commit id, marked where the work tree differs from it.
    pub fn label(&self) -> String {
        if self.dirty { format!("{}-dirty", self.revision) } else { self.revision.clone() }
    }
}

/// The folder of the work tree that `root` is in.
pub(crate) fn top(root: &Path) -> Option<&Path> {
    root.ancestors().find(|folder| folder.join(".git").exists())
}

/// Git in `root`, blind to objects that were put in the place of others: those of the commit are meant.
pub(crate) fn git(root: &Path) -> Cmd {
    let cmd = Cmd::new("git").args(["-c", "log.showSignature=false"]).cwd(root);
    cmd.env("GIT_OPTIONAL_LOCKS", "0").env("GIT_NO_REPLACE_OBJECTS", "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_is_described_and_its_absence_is_no_error() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(GitState::load(folder.path()).unwrap(), None);
        let git = |args: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
            let cmd = Cmd::new("git").args(identity).args(args).cwd(folder.path());
            cmd.env("GIT_COMMITTER_DATE", "1700000000 +0500").read().unwrap()
        };
        git(&["init", "--quiet"]);
        assert_eq!(GitState::load(folder.path()).unwrap(), None);
        git(&["commit", "--quiet", "--allow-empty", "-m", "x"]);
        let state = GitState::load(folder.path()).unwrap().unwrap();
        assert_eq!((state.dirty, state.revision.len()), (false, 40));
        assert_eq!(state.commit_time(folder.path()).unwrap(), 1_700_000_000);
        std::fs::write(folder.path().join("new"), "").unwrap();
        let state = GitState::load(folder.path()).unwrap().unwrap();
        assert!(state.dirty && state.label().ends_with("-dirty"));
    }
}
