//! The sources of the second build: what git would give somebody else, changes that are not committed included, in another
//! folder, with other times and modes, written in another order. Ignored files are left out: nobody else has them.

use std::collections::BTreeSet;
use std::fs::{self, File, FileTimes, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use stdx::Cmd;

/// 2001-09-09: older than anything that a build makes.
pub(super) const OLD: i64 = 1_000_000_000;
/// How deep the copy lies: packages beside the tree are copied to where relative paths look for them.
const DEPTH: usize = 4;
/// Settings of a repository that decide what git takes for a change.
const GIT_SETTINGS: &str = r"^(core\.(filemode|autocrlf|eol|symlinks|ignorecase)|filter\..*)$";

/// Puts the sources of the workspace at `root` below `folder`, as they lie there or as they are in `commit`. `outside` are
/// folders of packages that the workspace reaches beyond its own tree. Gives the copy of `root`.
pub(super) fn copy(
    root: &Path,
    commit: Option<&str>,
    outside: &BTreeSet<PathBuf>,
    folder: &Path,
) -> Result<PathBuf> {
    let root = root.canonicalize().with_context(|| format!("cannot find {}", root.display()))?;
    let top = git(&root).args(["rev-parse", "--show-toplevel"]).read().ok().map(PathBuf::from);
    let tree = top.clone().unwrap_or_else(|| root.clone());
    let place = folder.join(["d"; DEPTH].join("/")).join("source");
    stdx::fs::create_dir_all(&place)?;
    let mut copier = Copier { copied: 0 };
    match (&top, commit) {
        (Some(top), Some(commit)) => repository(top, Some(commit), &place)?,
        (Some(top), None) => {
            copier.listed(top, &place)?;
            repository(top, None, &place)?;
        }
        (None, _) => copier.folder(&tree, &place, &is_build_output)?,
    }
    for package in outside.iter().filter(|package| !package.starts_with(&tree)) {
        let path = relative(package, &tree);
        let up = path.components().filter(|part| *part == Component::ParentDir).count();
        let target = place.join(path);
        if up <= DEPTH && !target.exists() {
            copier.folder(package, &target, &is_build_output)?;
        }
    }
    match root.strip_prefix(&tree) {
        Ok(below) if below != Path::new("") => Ok(place.join(below)),
        _ => Ok(place),
    }
}

struct Copier {
    copied: u64,
}

impl Copier {
    /// What git tracks, and what it would offer to track.
    fn listed(&mut self, top: &Path, place: &Path) -> Result<()> {
        let list = git(top).args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]).read()?;
        let paths: BTreeSet<&str> = list.split('\0').filter(|path| !path.is_empty()).collect();
        for path in paths.into_iter().rev() {
            let (from, to) = (top.join(path), place.join(path));
            match fs::symlink_metadata(&from) {
                // The folder of a submodule.
                Ok(meta) if meta.is_dir() => self.folder(&from, &to, &is_build_output)?,
                Ok(meta) => self.file(&from, &to, &meta)?,
                // Deleted, and that is not committed yet.
                Err(_) => {}
            }
        }
        Ok(())
    }

    fn folder(&mut self, from: &Path, to: &Path, is_left_out: &dyn Fn(&Path) -> bool) -> Result<()> {
        stdx::fs::create_dir_all(to)?;
        let entries = fs::read_dir(from).with_context(|| format!("cannot list {}", from.display()))?;
        let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
        paths.sort();
        for path in paths.iter().rev().filter(|path| !is_left_out(path)) {
            let target = to.join(path.file_name().unwrap_or_default());
            let meta = fs::symlink_metadata(path)?;
            if meta.is_dir() {
                self.folder(path, &target, is_left_out)?
            } else {
                self.file(path, &target, &meta)?
            }
        }
        Ok(())
    }

    fn file(&mut self, from: &Path, to: &Path, meta: &fs::Metadata) -> Result<()> {
        let context = || format!("cannot copy {} to {}", from.display(), to.display());
        stdx::fs::create_dir_all(to.parent().context("a file without a folder")?)?;
        if meta.is_symlink() {
            return symlink(fs::read_link(from)?, to).with_context(context);
        }
        if !meta.is_file() {
            return Ok(());
        }
        fs::copy(from, to).with_context(context)?;
        let mode = if meta.permissions().mode() & 0o100 == 0 { 0o600 } else { 0o700 };
        self.copied += 1;
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(OLD as u64 + self.copied);
        let set = |file: File| {
            file.set_times(FileTimes::new().set_modified(time).set_accessed(time))?;
            file.set_permissions(Permissions::from_mode(mode))
        };
        File::options().append(true).open(to).or_else(|_| File::open(to)).and_then(set).with_context(context)
    }
}

/// Folders that a build makes, and git's own.
fn is_build_output(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    name == ".git" || path.join("CACHEDIR.TAG").exists() || (name == "target" && path.is_dir())
}

/// A repository at `place` over the objects of the one at `top`: at the same commit, but on no branch and without tags, as a
/// checkout in CI is.
fn repository(top: &Path, commit: Option<&str>, place: &Path) -> Result<()> {
    let Ok(revision) = git(top)
        .args(["rev-parse", "--verify", "--quiet"])
        .arg(commit.map_or_else(|| "HEAD^{commit}".to_owned(), |commit| format!("{commit}^{{commit}}")))
        .read()
    else {
        anyhow::ensure!(commit.is_none(), "git does not know the commit {}", commit.unwrap_or_default());
        return Ok(());
    };
    git(place).args(["init", "--quiet"]).read()?;
    let path = |name: &str| {
        Ok::<_, anyhow::Error>(top.join(git(top).args(["rev-parse", "--git-path", name]).read()?))
    };
    let own = place.join(".git");
    fs::write(own.join("objects/info/alternates"), format!("{}\n", path("objects")?.display()))
        .context("cannot lead the copied repository to its objects")?;
    for name in ["shallow", "info/exclude"] {
        if path(name)?.is_file() {
            fs::copy(path(name)?, own.join(name)).with_context(|| format!("cannot copy git's {name}"))?;
        }
    }
    // It fails where there are none.
    let settings = git(top)
        .args(["config", "--local", "--null", "--get-regexp", GIT_SETTINGS])
        .read()
        .unwrap_or_default();
    for (name, value) in settings.split('\0').filter_map(|setting| setting.split_once('\n')) {
        git(place).args(["config", name, value]).read()?;
    }
    if commit.is_some() {
        git(place).args(["checkout", "--quiet", "--force", "--detach", &revision]).read()?;
    } else {
        git(place).args(["update-ref", "--no-deref", "HEAD", &revision]).read()?;
        fs::write(own.join("HEAD"), format!("{revision}\n"))
            .context("cannot write the copied repository's HEAD")?;
        if path("index")?.is_file() {
            fs::copy(path("index")?, own.join("index")).context("cannot copy git's index")?;
        }
    }
    Ok(())
}

fn git(folder: &Path) -> Cmd {
    Cmd::new("git").args(["-c", "log.showSignature=false"]).cwd(folder).env("GIT_OPTIONAL_LOCKS", "0")
}

/// `to` as seen from the folder `from`; both are absolute.
fn relative(to: &Path, from: &Path) -> PathBuf {
    let common = to.components().zip(from.components()).take_while(|(a, b)| a == b).count();
    let up = from.components().skip(common).map(|_| Component::ParentDir);
    up.chain(to.components().skip(common)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_has_what_somebody_else_would_have() {
        let folder = tempfile::tempdir().unwrap();
        let (top, place) = (folder.path().join("w"), folder.path().join("v"));
        let path = |name: &str| top.join(name);
        fs::create_dir_all(path("a/target")).unwrap();
        for name in ["a/kept", "a/deleted", ".gitignore"] {
            fs::write(path(name), "ignored\ntarget\n").unwrap();
        }
        let run = |args: &[&str]| {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
            git(&top).args(identity).args(args).read().unwrap()
        };
        run(&["init", "--quiet"]);
        run(&["add", "."]);
        run(&["commit", "--quiet", "-m", "x"]);
        run(&["tag", "v1"]);
        fs::write(path("a/new"), "1").unwrap();
        fs::write(path("ignored"), "1").unwrap();
        fs::write(path("a/target/x"), "1").unwrap();
        fs::remove_file(path("a/deleted")).unwrap();
        let outside = folder.path().join("beside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("lib.rs"), "").unwrap();

        let status = || git(&top).args(["status", "--porcelain"]).read().unwrap();
        let root = copy(&path("a"), None, &[outside].into(), &place).unwrap();
        let has = |name: &str| root.join(name).exists();
        assert!(has("kept") && has("new") && has("../.gitignore") && has("../../beside/lib.rs"));
        assert!(!has("deleted") && !has("../ignored") && !has("target"));
        let theirs = git(&root).args(["status", "--porcelain"]).read().unwrap();
        assert_eq!(theirs.replace(" a/", " "), status().replace(" a/", " "));
        assert!(git(&root).args(["describe", "--tags"]).read().is_err());

        let at_commit = copy(&path("a"), Some("v1"), &BTreeSet::new(), &folder.path().join("c")).unwrap();
        assert!(at_commit.join("deleted").exists() && !at_commit.join("new").exists());
        let unknown = copy(&path("a"), Some("v9"), &BTreeSet::new(), &folder.path().join("d"));
        assert!(unknown.unwrap_err().to_string().contains("v9"));
    }

    #[test]
    fn relative_paths() {
        assert_eq!(relative(Path::new("/a/c/d"), Path::new("/a/b")), Path::new("../c/d"));
        assert_eq!(relative(Path::new("/a/b/d"), Path::new("/a/b")), Path::new("d"));
    }
}
