//! A folder of advisories in the RustSec project's layout, read package by package: a workspace asks for some hundred of its
//! folders, never for all of it. What lies there was written by others: names, sizes and counts are bounded, links are not
//! followed, and an advisory that does not parse is told, never dropped.

use std::fs;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use jiff::Timestamp;
use jiff::civil::Date;
use rustsec::Advisory;
use stdx::Cmd;

/// The longest advisory of the real database has a tenth of this.
const MOST_BYTES: u64 = 256 << 10;
/// The package with the most advisories has about thirty.
const MOST_ENTRIES: usize = 1_000;
/// The real database has some 700 packages.
const MOST_PACKAGES: usize = 100_000;

/// A folder of advisories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Database {
    folder: PathBuf,
    date: Option<Date>,
}

/// The part of the database that a package is looked up in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Collection {
    /// What people publish.
    Crates,
    /// What comes with the compiler.
    Rust,
}

/// What the database has to say.
#[derive(Debug)]
pub(crate) enum Entry {
    /// An advisory about some version of the package.
    Advisory(Box<Advisory>),
    /// A file that this program does not understand.
    Unreadable { id: String, error: String },
}

impl Database {
    /// Opens the folder. Its age is that of the checked out commit, or of the newest advisory where it is no git checkout.
    ///
    /// # Errors
    /// When it is no such folder.
    pub fn open(folder: &Path) -> Result<Database> {
        let date = commit_date(folder).or_else(|| newest(folder));
        Database::of_date(folder, date)
    }

    /// Opens a folder of known age.
    pub(crate) fn of_date(folder: &Path, date: Option<Date>) -> Result<Database> {
        ensure!(
            folder.join("crates").is_dir(),
            "{} is no advisory database: it has no folder `crates`",
            folder.display()
        );
        Ok(Database { folder: folder.to_owned(), date })
    }

    /// The day of its content.
    pub fn date(&self) -> Option<Date> {
        self.date
    }

    /// Where it lies.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it has about `package`, by file name.
    pub(crate) fn about(&self, collection: Collection, package: &str) -> Result<Vec<Entry>> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if package.is_empty() || !package.chars().all(is_name) {
            return Ok(vec![]);
        }
        let collection = match collection {
            Collection::Crates => "crates",
            Collection::Rust => "rust",
        };
        let folder = self.folder.join(collection).join(package);
        let read = |path: &PathBuf| entry(path, package);
        files(&folder)?.iter().map(read).filter_map(Result::transpose).collect()
    }
}

/// The advisories of one package's folder; none where there is no such folder.
fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot read {}", folder.display());
    match fs::symlink_metadata(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(error).with_context(context),
        Ok(meta) => ensure!(meta.is_dir(), "{} is not a folder", folder.display()),
    }
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).with_context(context)? {
        let entry = entry.with_context(context)?;
        let name = entry.file_name();
        let is_draft = name.to_string_lossy().starts_with("RUSTSEC-0000-0000");
        if entry.path().extension().is_some_and(|extension| extension == "md") && !is_draft {
            files.push(entry.path());
        }
        ensure!(files.len() <= MOST_ENTRIES, "{} has more than {MOST_ENTRIES} advisories", folder.display());
    }
    files.sort();
    Ok(files)
}

/// `None` for an advisory about another package than its folder says.
fn entry(path: &Path, package: &str) -> Result<Option<Entry>> {
    let id = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let unreadable = |error: &dyn std::fmt::Display| {
        let error = error.to_string().lines().next().unwrap_or_default().to_owned();
        Ok(Some(Entry::Unreadable { id: id.clone(), error }))
    };
    let meta = fs::symlink_metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
    if !meta.is_file() || meta.len() > MOST_BYTES {
        return unreadable(&"it is no file of at most 256 KiB");
    }
    let mut text = String::new();
    if let Err(error) = stdx::fs::open(path)?.take(MOST_BYTES).read_to_string(&mut text) {
        return unreadable(&error);
    }
    match text.parse::<Advisory>() {
        Ok(advisory) if advisory.metadata.package.as_str() != package => {
            unreadable(&format!("it is about the package {}", advisory.metadata.package))
        }
        Ok(advisory)
            if advisory.metadata.source.as_ref().is_some_and(|source| !source.is_default_registry()) =>
        {
            Ok(None)
        }
        Ok(advisory) => Ok(Some(Entry::Advisory(Box::new(advisory)))),
        Err(error) => unreadable(&error),
    }
}

/// The day of the checked out commit, by plumbing that reads no configuration which could start a program.
fn commit_date(folder: &Path) -> Option<Date> {
    // Without this git would climb up and tell of the repository that the folder lies in.
    folder.join(".git").exists().then_some(())?;
    commit_time(&git(folder).args(["cat-file", "commit", "HEAD"]).read().ok()?)
}

/// `git` in `folder`, whatever repository a hook of git may have started this program for. It asks nobody for a password and
/// fetches nothing on its own.
pub(super) fn git(folder: &Path) -> Cmd {
    let cmd = Cmd::new("git").cwd(folder).env("GIT_TERMINAL_PROMPT", "0").env("GIT_NO_LAZY_FETCH", "1");
    let cmd = cmd.env("GIT_LFS_SKIP_SMUDGE", "1").env("LC_ALL", "C");
    ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"]
        .into_iter()
        .fold(cmd, Cmd::env_remove)
}

/// From the raw commit: a line such as `committer Name <address> 1740407442 +0000`.
pub(super) fn commit_time(commit: &str) -> Option<Date> {
    let line =
        commit.lines().take_while(|line| !line.is_empty()).find(|line| line.starts_with("committer "))?;
    let seconds = line.rsplit(' ').nth(1)?.parse().ok()?;
    let time = Timestamp::from_second(seconds).ok()?;
    Some(jiff::tz::TimeZone::UTC.to_datetime(time).date())
}

/// The newest day that any advisory carries, read from the head of each file.
fn newest(folder: &Path) -> Option<Date> {
    let packages = fs::read_dir(folder.join("crates")).ok()?.take(MOST_PACKAGES).filter_map(Result::ok);
    let files = packages.filter_map(|package| files(&package.path()).ok()).flatten();
    files.filter_map(|file| date_of(&file)).max()
}

fn date_of(file: &Path) -> Option<Date> {
    let mut head = Vec::new();
    fs::symlink_metadata(file).ok().filter(|meta| meta.is_file())?;
    fs::File::open(file).ok()?.take(4096).read_to_end(&mut head).ok()?;
    let head = String::from_utf8_lossy(&head);
    let value = head.lines().find_map(|line| line.strip_prefix("date = "))?;
    value.trim().trim_matches('"').parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    const ADVISORY: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2029-0001\"\npackage = \"tiny\"\ndate = \"2029-03-01\"\n\
        [versions]\npatched = [\">= 1.2.0\"]\n```\n\n# Tiny breaks\n\nIt does.\n";

    fn database(files: &[(&str, &str)]) -> (tempfile::TempDir, Database) {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("crates")).unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let database = Database::open(folder.path()).unwrap();
        (folder, database)
    }

    fn brief(entries: &[Entry]) -> Vec<String> {
        let brief = |entry: &Entry| match entry {
            Entry::Advisory(advisory) => advisory.id().to_string(),
            Entry::Unreadable { id, error } => format!("{id}: {error}"),
        };
        entries.iter().map(brief).collect()
    }

    #[test]
    fn an_advisory_is_found_by_the_name_of_its_package() {
        let (_folder, database) = database(&[
            ("crates/tiny/RUSTSEC-2029-0001.md", ADVISORY),
            ("crates/tiny/RUSTSEC-0000-0000.md", "draft"),
        ]);
        assert_eq!(brief(&database.about(Collection::Crates, "tiny").unwrap()), ["RUSTSEC-2029-0001"]);
        assert!(database.about(Collection::Rust, "tiny").unwrap().is_empty());
        assert!(database.about(Collection::Crates, "../crates/tiny").unwrap().is_empty());
        assert_eq!(database.date(), Some(jiff::civil::date(2029, 3, 1)));
    }

    #[test]
    fn what_cannot_be_read_is_told() {
        let large = "x".repeat(300 << 10);
        let (folder, database) = database(&[
            ("crates/tiny/A.md", &large),
            ("crates/tiny/B.md", "no front matter"),
            ("crates/tiny/C.md", &ADVISORY.replace("\"tiny\"", "\"other\"")),
        ]);
        symlink("/etc/passwd", folder.path().join("crates/tiny/D.md")).unwrap();
        let found = brief(&database.about(Collection::Crates, "tiny").unwrap());
        assert_eq!(found.len(), 4, "{found:?}");
        assert!(
            found[0].starts_with("A: it is no file") && found[3].starts_with("D: it is no file"),
            "{found:?}"
        );
        assert!(found[2].contains("it is about the package other"), "{found:?}");
        symlink("/etc", folder.path().join("crates/linked")).unwrap();
        assert!(database.about(Collection::Crates, "linked").is_err());
    }

    #[test]
    fn the_age_is_the_committers() {
        let commit = "tree 0\nauthor A <a@example.org> 1 +0000\ncommitter B <b@example.org> 1740407442 +0200\n\ncommitter x 9 +0000\n";
        assert_eq!(commit_time(commit), Some(jiff::civil::date(2025, 2, 24)));
        assert_eq!(commit_time("committer\n"), None);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("RUSTSEC-2029-0001.md");
        for at in 0..ADVISORY.len() {
            for byte in [b'\0', b'"', b'[', b'`', b'\n', b'9', 0xff] {
                let mut bytes = ADVISORY.as_bytes().to_vec();
                bytes[at] = byte;
                fs::write(&path, &bytes).unwrap();
                let _ = entry(&path, "tiny");
                let _ = date_of(&path);
            }
        }
    }
}
