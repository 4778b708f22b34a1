//! The advisory database: a folder of the user's, or a repository that is fetched once, kept below Cargo's home for all
//! workspaces, and asked for again when it is older than a limit.
//!
//! Invariant: a reader sees one whole database. A fetch makes a new folder beside the others and then replaces the file that
//! names the current one; fetches of several processes wait for each other.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Seek;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use super::Database;
use super::database::{commit_time, git};
use crate::context::Context;

const SCHEMA: &str = "slipway.advisory-cache/1";
/// A clone of the real database takes seconds. Where there is a copy, nobody shall wait long for a newer one.
const MOST_TIME: Duration = Duration::from_secs(180);
const MOST_TIME_WITH_COPY: Duration = Duration::from_secs(30);
/// The real database has 20 MB with its history.
const MOST_BYTES: u64 = 512 << 20;
const POLL: Duration = Duration::from_millis(50);

/// The file that names the current folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Current {
    schema: String,
    /// Without what may be secret in it.
    url: String,
    /// The commit that was fetched, which is also the folder's name.
    commit: String,
    /// The day of the commit.
    date: Option<Date>,
    fetched: Timestamp,
}

struct Cache<'a> {
    folder: PathBuf,
    url: &'a str,
}

/// The database that the settings name.
///
/// # Errors
/// When there is none, and it cannot be fetched.
pub(super) fn database(context: &Context) -> Result<Database> {
    let settings = &context.settings.scan.advisories;
    if !is_url(&settings.database) {
        return Database::open(&context.root.join(&settings.database));
    }
    let home = workspace::cargo_home(&context.root).context("neither CARGO_HOME nor HOME is set")?;
    let url = settings.database.as_str();
    let folder = home.join("slipway/advisories").join(&Digest::of(url).hex()[..16]);
    let cache = Cache { folder, url };
    let known = cache.current();
    let is_fresh = |current: &Current| {
        let age = context.options.now.duration_since(current.fetched).as_hours();
        (0..i64::from(settings.refresh_hours)).contains(&age)
    };
    let current = match known {
        Some(current) if context.options.offline || is_fresh(&current) => current,
        None if context.options.offline => bail!(
            "there is no copy of {} on this machine; scan once without --offline, or name a folder in `scan.advisories.database`",
            shown(url)
        ),
        known => match cache.fetch(context.options.now, is_fresh) {
            Ok(current) => current,
            Err(error) => {
                let known = known.with_context(|| format!("cannot fetch the advisories: {error:#}"))?;
                context.warn(format!("cannot fetch newer advisories: {error:#}"));
                known
            }
        },
    };
    Database::of_date(&cache.folder.join(&current.commit), current.date)
}

/// A URL, or the short form `user@host:path`; anything else is a path.
fn is_url(database: &str) -> bool {
    database.contains("://")
        || database.split_once(':').is_some_and(|(host, _)| host.contains('@') && !host.contains('/'))
}

/// The URL without the user and password, and without the query: tokens stand in both.
fn shown(url: &str) -> String {
    hidden(url).into_iter().fold(url.to_owned(), |text, part| text.replacen(part, "", 1))
}

/// What `shown` leaves out, with the signs that it is set apart by.
fn hidden(url: &str) -> [&str; 2] {
    let Some((_, rest)) = url.split_once("://") else { return ["", ""] };
    let (rest, query) = rest.split_at(rest.find(['?', '#']).unwrap_or(rest.len()));
    let host = rest.split('/').next().unwrap_or_default();
    [&host[..host.rfind('@').map_or(0, |at| at + 1)], query]
}

/// What git says about `url`, without what is not shown of it.
fn without_hidden(url: &str, text: &str) -> String {
    let hidden = hidden(url).into_iter().filter(|part| !part.is_empty());
    hidden.fold(text.trim().to_owned(), |text, part| text.replace(part, ""))
}

impl Cache<'_> {
    /// What was fetched last, if it is still there. Damage is the same as nothing.
    fn current(&self) -> Option<Current> {
        let bytes = stdx::fs::read_if_exists(&self.folder.join("current.json")).ok()??;
        let current: Current = serde_json::from_slice(&bytes).ok()?;
        let is_whole = current.schema == SCHEMA
            && current.url == shown(self.url)
            && is_commit(&current.commit)
            && self.folder.join(&current.commit).join("crates").is_dir();
        is_whole.then_some(current)
    }

    fn fetch(&self, now: Timestamp, is_fresh: impl Fn(&Current) -> bool) -> Result<Current> {
        stdx::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join("lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        // Whoever held the lock may have fetched the very same.
        let known = self.current();
        if let Some(current) = known.clone().filter(&is_fresh) {
            return Ok(current);
        }
        let temporary = self.folder.join("fetching");
        stdx::fs::remove_dir_all(&temporary)?;
        clone(self.url, &temporary, if known.is_some() { MOST_TIME_WITH_COPY } else { MOST_TIME })?;
        let commit = git(&temporary).args(["rev-parse", "HEAD"]).read()?;
        ensure!(is_commit(&commit), "{} has no commit", shown(self.url));
        let date = commit_time(&git(&temporary).args(["cat-file", "commit", "HEAD"]).read()?);
        // Only the files are needed, and nothing of it shall ever be a repository again.
        stdx::fs::remove_dir_all(&temporary.join(".git"))?;
        Database::of_date(&temporary, date).with_context(|| format!("{} was fetched", shown(self.url)))?;
        let folder = self.folder.join(&commit);
        if known.as_ref().is_none_or(|known| known.commit != commit) {
            stdx::fs::remove_dir_all(&folder)?;
            fs::rename(&temporary, &folder)
                .with_context(|| format!("cannot move the fetched advisories to {}", folder.display()))?;
        }
        let current = Current { schema: SCHEMA.to_owned(), url: shown(self.url), commit, date, fetched: now };
        stdx::fs::write_atomic(&self.folder.join("current.json"), &serde_json::to_vec(&current)?, 0o644)?;
        // Somebody may still read the one before.
        let keep = [Some(&current), known.as_ref()].into_iter().flatten().map(|one| one.commit.as_str());
        self.sweep(&keep.collect());
        Ok(current)
    }

    /// Removes folders of earlier fetches. What cannot be removed only costs space.
    fn sweep(&self, keep: &BTreeSet<&str>) {
        let entries = fs::read_dir(&self.folder).into_iter().flatten().filter_map(Result::ok);
        for entry in entries.filter(|entry| entry.path().is_dir()) {
            if !keep.contains(entry.file_name().to_string_lossy().as_ref()) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// Clones the last commit. What comes in runs nothing here: no hooks, no links, no submodules, no helper transports.
fn clone(url: &str, to: &Path, most_time: Duration) -> Result<()> {
    let parent = to.parent().context("a folder without a parent")?;
    let cmd = git(parent)
        .args([
            "-c",
            "core.symlinks=false",
            "-c",
            "core.hooksPath=/dev/null",
            "-c",
            "protocol.ext.allow=never",
        ])
        .args(["-c", "http.lowSpeedLimit=1000", "-c", "http.lowSpeedTime=30"])
        .args(["clone", "--quiet", "--depth=1", "--single-branch", "--no-tags", "--no-recurse-submodules"])
        .args(["--template=", "--", url])
        .arg(to);
    let mut log = tempfile_in(parent)?;
    let mut child = cmd
        .to_std()?
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log.try_clone()?)
        .spawn()
        .context("cannot run git; it is needed to fetch the advisories")?;
    let ended = wait(&mut child, to, most_time);
    if ended.is_err() {
        let _ = child.kill();
        let _ = child.wait();
    }
    if !ended?.success() {
        log.rewind()?;
        let said = std::io::read_to_string(log).unwrap_or_default();
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("git said nothing");
        bail!("cannot clone {}: {}", shown(url), without_hidden(url, last));
    }
    Ok(())
}

fn tempfile_in(folder: &Path) -> Result<File> {
    let path = folder.join("fetching.log");
    let file = File::options().create(true).truncate(true).read(true).write(true).open(&path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

fn wait(child: &mut Child, folder: &Path, most_time: Duration) -> Result<std::process::ExitStatus> {
    let begun = Instant::now();
    let mut polls = 0_u32;
    let is_small = || -> Result<()> {
        ensure!(size(folder) <= MOST_BYTES, "the repository is larger than {} MiB", MOST_BYTES >> 20);
        Ok(())
    };
    loop {
        if let Some(status) = child.try_wait().context("cannot wait for git")? {
            is_small()?;
            return Ok(status);
        }
        ensure!(begun.elapsed() < most_time, "git took longer than {} s", most_time.as_secs());
        polls += 1;
        if polls.is_multiple_of(20) {
            is_small()?;
        }
        std::thread::sleep(POLL);
    }
}

/// Bytes of all files below `folder`.
fn size(folder: &Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let of = |entry: fs::DirEntry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => size(&entry.path()),
        _ => entry.metadata().map_or(0, |meta| meta.len()),
    };
    entries.map(of).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_secret_in_a_url_is_not_shown() {
        let cases = [
            ("https://user:pa:ss@word@example.org/a@b.git", "https://example.org/a@b.git"),
            ("https://token@example.org", "https://example.org"),
            ("https://s@example.org/s@b?s@", "https://example.org/s@b"),
            ("https://example.org/db.git?token=x#y", "https://example.org/db.git"),
            ("file:///srv/db", "file:///srv/db"),
            ("git@example.org:team/db.git", "git@example.org:team/db.git"),
        ];
        for (url, expected) in cases {
            assert_eq!(shown(url), expected);
        }
    }

    #[test]
    fn urls_and_paths_are_told_apart() {
        for url in ["https://example.org/db.git", "file:///srv/db", "git@example.org:team/db.git"] {
            assert!(is_url(url), "{url}");
        }
        for path in ["ci/advisories", "/srv/db", "../db", "a:b", "x/y@z:w"] {
            assert!(!is_url(path), "{path}");
        }
    }
}
