//! Whether files are what a commit holds, by content: what git's index was told to overlook, and what git ignores, is looked at like
//! everything else. It does not know what the files are for.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{Seek, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};

use crate::git::git;

/// A link that leads through more others than this leads nowhere.
const MOST_LINKS: usize = 40;
/// Nobody nests repositories deeper.
const MOST_NESTED: usize = 8;

/// Files that are to be held against a commit, by absolute path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Files {
    /// Were read: the commit must have them.
    pub(crate) read: BTreeSet<PathBuf>,
    /// Lie where they could have been read: where the commit has them, they must be the same.
    pub(crate) near: BTreeSet<PathBuf>,
    /// Folders from which nothing that the commit has may be missing.
    pub(crate) folders: BTreeSet<PathBuf>,
}

/// What is wrong with one file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    /// Absolute.
    pub(crate) path: PathBuf,
    pub(crate) what: What,
}

/// How a file differs from the commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum What {
    /// Its content or mode is another.
    Changed,
    /// It is not there.
    Missing,
    /// The commit does not have it.
    Unknown,
}

impl What {
    /// What follows the name of a file.
    pub(crate) fn words(self) -> &'static str {
        match self {
            What::Changed => "differs from the commit",
            What::Missing => "is missing, and the commit has it",
            What::Unknown => "was read, and is in no commit",
        }
    }
}

/// What differs from the commit `revision` of the repository whose work tree is at `top`. Files elsewhere are no matter of it.
///
/// # Errors
/// When git cannot be asked.
pub(crate) fn differences(top: &Path, revision: &str, files: &Files) -> Result<BTreeSet<Difference>> {
    let mut held = Held { found: BTreeSet::new() };
    held.repository(top, revision, files, MOST_NESTED)?;
    Ok(held.found)
}

struct Held {
    found: BTreeSet<Difference>,
}

/// An entry of a commit's tree.
struct Entry {
    mode: String,
    object: String,
}

impl Held {
    fn repository(&mut self, top: &Path, revision: &str, files: &Files, nested: usize) -> Result<()> {
        ensure!(nested > 0, "repositories are nested too deeply in {}", top.display());
        let tree = tree(top, revision)?;
        let mut contents = BTreeMap::new();
        let mut inner: BTreeMap<String, Files> = BTreeMap::new();
        let each =
            files.read.iter().map(|path| (path, true)).chain(files.near.iter().map(|path| (path, false)));
        for (path, is_read) in each {
            for (place, is_link) in places(top, path) {
                let Some(name) = name_below(top, &place) else { continue };
                match tree.get(&name) {
                    Some(entry) if is_link => self.link(&place, entry)?,
                    Some(entry) => _ = contents.insert(place, (name, entry)),
                    None => match module(&tree, &name) {
                        Some(module) => {
                            let files = inner.entry(module.to_owned()).or_default();
                            let set = if is_read { &mut files.read } else { &mut files.near };
                            set.insert(place);
                        }
                        None if is_read && place.symlink_metadata().is_ok() => {
                            self.add(&place, What::Unknown)
                        }
                        None => {}
                    },
                }
            }
        }
        self.contents(top, &contents)?;
        self.missing(top, &tree, &files.folders);
        for (module, files) in inner {
            self.repository(&top.join(&module), &tree[&module].object, &files, nested - 1)?;
        }
        Ok(())
    }

    fn add(&mut self, path: &Path, what: What) {
        self.found.insert(Difference { path: path.to_owned(), what });
    }

    fn link(&mut self, place: &Path, entry: &Entry) -> Result<()> {
        let target =
            std::fs::read_link(place).with_context(|| format!("cannot read the link {}", place.display()))?;
        let mut file = tempfile::NamedTempFile::new().context("cannot create a temporary file")?;
        file.write_all(target.as_os_str().as_bytes())?;
        let folder = place.parent().unwrap_or(place);
        let object = git(folder).args(["hash-object", "--no-filters", "--"]).arg(file.path()).read()?;
        if entry.mode != "120000" || object != entry.object {
            self.add(place, What::Changed);
        }
        Ok(())
    }

    /// Bytes first; where they differ, as git would store them, for a checkout may have changed ends of lines or fetched large files.
    fn contents(&mut self, top: &Path, contents: &BTreeMap<PathBuf, (String, &Entry)>) -> Result<()> {
        let mut there = Vec::new();
        for (path, (name, entry)) in contents {
            match path.symlink_metadata() {
                Ok(meta) if meta.is_file() && !name.contains('\n') && !name.starts_with('"') => {
                    there.push((path, name, *entry));
                }
                Ok(_) => self.add(path, What::Changed),
                Err(_) => self.add(path, What::Missing),
            }
        }
        let names: Vec<&str> = there.iter().map(|(_, name, _)| name.as_str()).collect();
        let found = objects(top, &names, &["--no-filters"])?;
        let differ = |((_, _, entry), object): &(&(_, _, &Entry), &String)| entry.object != **object;
        let others: Vec<_> = there.iter().zip(&found).filter(differ).map(|(one, _)| *one).collect();
        let names: Vec<&str> = others.iter().map(|(_, name, _)| name.as_str()).collect();
        for ((path, _, entry), object) in others.iter().zip(objects(top, &names, &[])?) {
            if entry.object != object {
                self.add(path, What::Changed);
            }
        }
        self.modes(top, &there);
        Ok(())
    }

    /// What git goes by of a file's mode, where the file system has modes.
    fn modes(&mut self, top: &Path, there: &[(&PathBuf, &String, &Entry)]) {
        use std::os::unix::fs::PermissionsExt;
        let differs = |(path, _, entry): &&(&PathBuf, &String, &Entry)| {
            let is_program = path.symlink_metadata().is_ok_and(|meta| meta.permissions().mode() & 0o100 != 0);
            is_program != (entry.mode == "100755")
        };
        let others: Vec<_> = there.iter().filter(differs).collect();
        let counts = || {
            let asked = git(top).args(["config", "--type=bool", "core.fileMode"]).read();
            asked.map_or(true, |text| text != "false")
        };
        if !others.is_empty() && counts() {
            others.iter().for_each(|(path, _, _)| self.add(path, What::Changed));
        }
    }

    /// A package ends where another one begins, as for whoever looks for its sources.
    fn missing(&mut self, top: &Path, tree: &BTreeMap<String, Entry>, folders: &BTreeSet<PathBuf>) {
        let names: BTreeSet<String> = folders.iter().filter_map(|folder| name_below(top, folder)).collect();
        for (name, _) in tree.iter().filter(|(_, entry)| entry.mode != "160000") {
            let path = Path::new(name);
            let is_hidden = path.components().any(|part| part.as_os_str().as_bytes().starts_with(b"."));
            let package = |folder: &&Path| {
                names.contains(&folder.display().to_string())
                    || tree.contains_key(&folder.join("Cargo.toml").display().to_string())
            };
            let owner = path.ancestors().skip(1).find(package).map(|folder| folder.display().to_string());
            if !is_hidden
                && owner.is_some_and(|owner| names.contains(&owner))
                && top.join(name).symlink_metadata().is_err()
            {
                self.add(&top.join(name), What::Missing);
            }
        }
    }
}

/// The commit's files by path.
fn tree(top: &Path, revision: &str) -> Result<BTreeMap<String, Entry>> {
    let listed = git(top).args(["ls-tree", "-r", "-z", "--full-tree", revision]).read();
    let listed = listed.with_context(|| format!("cannot list the commit {revision}"))?;
    let entry = |line: &str| {
        let (head, name) = line.split_once('\t')?;
        let mut words = head.split(' ');
        let (mode, object) = (words.next()?.to_owned(), words.nth(1)?.to_owned());
        Some((name.to_owned(), Entry { mode, object }))
    };
    Ok(listed.split('\0').filter_map(entry).collect())
}

/// The nested repository that the path is in.
fn module<'a>(tree: &'a BTreeMap<String, Entry>, name: &str) -> Option<&'a str> {
    let mut above = Path::new(name).ancestors().skip(1).filter_map(Path::to_str);
    let (name, _) =
        above.find_map(|folder| tree.get_key_value(folder).filter(|(_, entry)| entry.mode == "160000"))?;
    Some(name)
}

/// What git calls the content of files, in one call.
fn objects(top: &Path, names: &[&str], args: &[&str]) -> Result<Vec<String>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let mut list = tempfile::tempfile().context("cannot create a temporary file")?;
    list.write_all(format!("{}\n", names.join("\n")).as_bytes())?;
    list.rewind()?;
    let mut command = git(top).args(["hash-object", "--stdin-paths"]).args(args).to_std()?;
    let output = command
        .stdin(list)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .output()
        .context("cannot run git")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`git hash-object` failed with {}\n{}", output.status, said.trim_end());
    let objects: Vec<String> = String::from_utf8(output.stdout)?.lines().map(str::to_owned).collect();
    ensure!(
        objects.len() == names.len(),
        "`git hash-object` says something of {} of {} files",
        objects.len(),
        names.len()
    );
    Ok(objects)
}

/// Where a path leads inside `top`: the links on its way, and the file at its end, whether it is there or not.
fn places(top: &Path, path: &Path) -> Vec<(PathBuf, bool)> {
    let mut found = Vec::new();
    let mut path = lexical(path);
    for _ in 0..MOST_LINKS {
        let Ok(inside) = path.strip_prefix(top) else { break };
        let link = inside
            .ancestors()
            .map(|part| top.join(part))
            .filter(|part| part != top && part.is_symlink())
            .last();
        let Some(link) = link else {
            found.push((path, false));
            break;
        };
        let target = std::fs::read_link(&link).unwrap_or_default();
        let rest = path.strip_prefix(&link).unwrap_or(Path::new("")).to_owned();
        let folder = link.parent().unwrap_or(top).to_owned();
        found.push((link, true));
        path = lexical(&folder.join(target).join(rest));
    }
    found
}

/// The path without `.` and `..`.
fn lexical(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => _ = clean.pop(),
            part => clean.push(part),
        }
    }
    clean
}

/// As git names it; `None` outside of the work tree, and where the name is no text.
fn name_below(top: &Path, path: &Path) -> Option<String> {
    let name = path.strip_prefix(top).ok().map(Path::as_os_str).and_then(OsStr::to_str)?;
    Some(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use stdx::Cmd;

    struct Repository {
        folder: tempfile::TempDir,
    }

    impl Repository {
        fn new() -> Repository {
            let repository = Repository { folder: tempfile::tempdir().unwrap() };
            for name in [
                "app/src/main.rs",
                "app/Cargo.toml",
                "app/data.txt",
                "app/in/Cargo.toml",
                "app/in/x",
                "shared/x.rs",
                "hidden/.env",
            ] {
                repository.write(name, name);
            }
            symlink("../../shared", repository.path("app/src/linked")).unwrap();
            repository.write(".gitignore", "ignored*\n");
            repository.git(&["init", "--quiet"]);
            repository.git(&["add", "--all"]);
            repository.git(&["commit", "--quiet", "-m", "x"]);
            repository
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn write(&self, name: &str, text: &str) {
            fs::create_dir_all(self.path(name).parent().unwrap()).unwrap();
            fs::write(self.path(name), text).unwrap();
        }

        fn git(&self, args: &[&str]) -> String {
            let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
            Cmd::new("git")
                .args(identity)
                .args(["-c", "protocol.file.allow=always"])
                .args(args)
                .cwd(self.folder.path())
                .read()
                .unwrap()
        }

        /// What differs, where `read` was read and the package `app` could have been.
        fn check(&self, read: &[&str]) -> Vec<String> {
            let near = ["app/src/main.rs", "app/Cargo.toml", "app/data.txt", "app/ignored.txt"];
            let files = Files {
                read: read.iter().map(|name| self.path(name)).collect(),
                near: near.iter().map(|name| self.path(name)).filter(|path| path.exists()).collect(),
                folders: [self.path("app")].into(),
            };
            let found = differences(self.folder.path(), "HEAD", &files).unwrap();
            let shown = |one: Difference| {
                format!("{} {:?}", one.path.strip_prefix(self.folder.path()).unwrap().display(), one.what)
            };
            found.into_iter().map(shown).collect()
        }
    }

    #[test]
    fn what_the_commit_holds_is_no_difference() {
        let repository = Repository::new();
        assert_eq!(
            repository.check(&["app/src/main.rs", "app/src/linked/x.rs", "app/src/../data.txt"]),
            [""; 0]
        );
        repository.write("app/ignored.txt", "lies about");
        repository.write("app/src/main.rs", "app/src/main.rs");
        assert_eq!(repository.check(&["app/src/main.rs"]), [""; 0]);
    }

    #[test]
    fn what_git_overlooks_is_seen() {
        let repository = Repository::new();
        for (flag, name) in [("--assume-unchanged", "app/src/main.rs"), ("--skip-worktree", "app/data.txt")] {
            repository.git(&["update-index", flag, name]);
            repository.write(name, "other");
        }
        repository.write("app/ignored.rs", "read");
        assert_eq!(repository.git(&["status", "--porcelain"]), "");
        let expected = ["app/data.txt Changed", "app/ignored.rs Unknown", "app/src/main.rs Changed"];
        assert_eq!(repository.check(&["app/src/main.rs", "app/ignored.rs"]), expected);
    }

    #[test]
    fn links_modes_and_missing_files_count() {
        let repository = Repository::new();
        let check = |change: &dyn Fn(), expected: &[&str]| {
            change();
            assert_eq!(repository.check(&["app/src/linked/x.rs"]), expected);
            repository.git(&["checkout", "--quiet", "--force", "."]);
        };
        check(&|| fs::remove_file(repository.path("app/data.txt")).unwrap(), &["app/data.txt Missing"]);
        // Other packages, and hidden files, are no matter of this one.
        check(&|| fs::remove_dir_all(repository.path("app/in")).unwrap(), &[]);
        check(&|| repository.write("shared/x.rs", "other"), &["shared/x.rs Changed"]);
        let program = fs::Permissions::from_mode(0o755);
        check(
            &|| fs::set_permissions(repository.path("app/data.txt"), program.clone()).unwrap(),
            &["app/data.txt Changed"],
        );
        let relink = || {
            fs::remove_file(repository.path("app/src/linked")).unwrap();
            symlink("../../hidden/../shared", repository.path("app/src/linked")).unwrap();
        };
        check(&relink, &["app/src/linked Changed"]);
    }

    #[test]
    fn a_checkout_with_other_ends_of_lines_is_the_same() {
        let repository = Repository::new();
        repository.write(".gitattributes", "*.txt text eol=crlf\n");
        repository.write("app/data.txt", "one\r\n");
        repository.git(&["add", "--all"]);
        repository.git(&["commit", "--quiet", "-m", "x"]);
        assert_eq!(repository.check(&["app/data.txt"]), [""; 0]);
        repository.write("app/data.txt", "two\r\n");
        assert_eq!(repository.check(&["app/data.txt"]), ["app/data.txt Changed"]);
    }

    #[test]
    fn a_nested_repository_is_held_against_the_commit_that_is_named() {
        let (inner, outer) = (Repository::new(), Repository::new());
        outer.git(&["submodule", "--quiet", "add", inner.folder.path().to_str().unwrap(), "app/inner"]);
        outer.git(&["commit", "--quiet", "-m", "x"]);
        assert_eq!(outer.check(&["app/inner/shared/x.rs"]), [""; 0]);
        outer.write("app/inner/shared/x.rs", "other");
        assert_eq!(outer.check(&["app/inner/shared/x.rs"]), ["app/inner/shared/x.rs Changed"]);
    }
}
