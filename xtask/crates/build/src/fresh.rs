//! Whether anything that a build was made from has changed since. A file is compared by content; its size, times and inode
//! only save reading it again, and the change time among them cannot be set back by copying, checking out or touching.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use stdx::Digest;

/// A file that changed this shortly before it was looked at may change again within the same tick of the file system's clock.
const RACY: Duration = Duration::from_secs(2);

/// Everything that a build was made from, as it was.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Inputs {
    /// Folders of local packages: everything in them counts, with the exceptions of [`walk`].
    folders: BTreeSet<PathBuf>,
    /// Files in those folders and elsewhere; `None` for one that was missing and matters when it appears.
    files: BTreeMap<PathBuf, Option<Stamp>>,
    /// Variables by name, as digests: a value can be a secret. `None` for one that was not set.
    env: BTreeMap<String, Option<Digest>>,
    /// Whatever else the build was asked for.
    request: String,
}

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    size: u64,
    inode: u64,
    modified_ns: i64,
    changed_ns: i64,
    /// Whether the other fields are old enough to be believed.
    settled: bool,
    digest: Digest,
}

/// What makes up [`Inputs`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) folders: BTreeSet<PathBuf>,
    pub(crate) files: BTreeSet<PathBuf>,
    pub(crate) env: BTreeSet<String>,
    pub(crate) request: String,
}

impl Inputs {
    /// Looks at all sources.
    pub(crate) fn take(sources: &Sources) -> Result<Inputs> {
        let mut paths = sources.files.clone();
        for folder in &sources.folders {
            walk(folder, &mut paths)?;
        }
        let mut files = BTreeMap::new();
        for path in paths {
            let stamp = Stamp::take(&path)?;
            files.insert(path, stamp);
        }
        let env = sources.env.iter().map(|name| (name.clone(), variable(name))).collect();
        Ok(Inputs { folders: sources.folders.clone(), files, env, request: sources.request.clone() })
    }

    /// What differs from now, in words; `None` where nothing does. `request` is what is asked for now.
    pub(crate) fn difference(&self, request: &str) -> Result<Option<String>> {
        if self.request != request {
            return Ok(Some("another version of this tool, or another commit".to_owned()));
        }
        for (name, value) in &self.env {
            if variable(name) != *value {
                return Ok(Some(format!("the variable {name} changed")));
            }
        }
        let mut present = BTreeSet::new();
        for folder in &self.folders {
            walk(folder, &mut present)?;
        }
        if let Some(new) = present.iter().find(|path| !self.files.contains_key(*path)) {
            return Ok(Some(format!("{} is new", new.display())));
        }
        for (path, stamp) in &self.files {
            let same = match stamp {
                Some(stamp) => stamp.still_holds(path)?,
                None => fs::symlink_metadata(path).is_err(),
            };
            if !same {
                return Ok(Some(format!("{} changed", path.display())));
            }
        }
        Ok(None)
    }

    /// Takes further files and variables in, as they are now.
    ///
    /// Returns `false` where one of the files changed after `since`: then nobody knows which content the build saw.
    pub(crate) fn extend(
        &mut self,
        files: &BTreeSet<PathBuf>,
        env: &BTreeSet<String>,
        since: SystemTime,
    ) -> Result<bool> {
        let since = nanoseconds(since);
        for path in files.iter().filter(|path| !path.is_dir()) {
            if !self.files.contains_key(path) {
                let stamp = Stamp::take(path)?;
                if stamp.as_ref().is_some_and(|stamp| stamp.changed_ns >= since) {
                    return Ok(false);
                }
                self.files.insert(path.clone(), stamp);
            }
        }
        self.env.extend(env.iter().map(|name| (name.clone(), variable(name))));
        Ok(true)
    }
}

fn variable(name: &str) -> Option<Digest> {
    std::env::var_os(name).map(|value| Digest::of(value.as_bytes()))
}

impl Stamp {
    fn take(path: &Path) -> Result<Option<Stamp>> {
        let Ok(meta) = fs::symlink_metadata(path) else { return Ok(None) };
        let changed_ns = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
        let settled = changed_ns < nanoseconds(SystemTime::now()) - RACY.as_nanos() as i64;
        Ok(Some(Stamp {
            size: meta.len(),
            inode: meta.ino(),
            modified_ns: meta.mtime() * 1_000_000_000 + meta.mtime_nsec(),
            changed_ns,
            settled,
            digest: content(path, &meta)?,
        }))
    }

    fn still_holds(&self, path: &Path) -> Result<bool> {
        let Ok(meta) = fs::symlink_metadata(path) else { return Ok(false) };
        let modified_ns = meta.mtime() * 1_000_000_000 + meta.mtime_nsec();
        let changed_ns = meta.ctime() * 1_000_000_000 + meta.ctime_nsec();
        let untouched = (self.size, self.inode, self.modified_ns, self.changed_ns)
            == (meta.len(), meta.ino(), modified_ns, changed_ns);
        if untouched && self.settled {
            return Ok(true);
        }
        Ok(self.size == meta.len() && content(path, &meta)? == self.digest)
    }
}

/// The digest of a file's bytes, of a link's target; folders count by what is in them.
fn content(path: &Path, meta: &fs::Metadata) -> Result<Digest> {
    if meta.file_type().is_symlink() {
        let target =
            fs::read_link(path).with_context(|| format!("cannot read the link {}", path.display()))?;
        return Ok(Digest::of(target.as_os_str().as_bytes()));
    }
    if !meta.is_file() {
        return Ok(Digest::of(b""));
    }
    let (digest, _) = Digest::of_reader(stdx::fs::open(path)?)
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(digest)
}

fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Adds the files below `folder` but for hidden ones, build output and packages of their own.
pub(crate) fn walk(folder: &Path, files: &mut BTreeSet<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))?;
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        if name.as_bytes().starts_with(b".") || name == OsStr::new("target") {
            continue;
        }
        let path = entry.path();
        if !entry.file_type()?.is_dir() {
            files.insert(path);
        } else if !path.join("Cargo.toml").exists() {
            walk(&path, files)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::FileTimes;

    struct Fixture {
        folder: tempfile::TempDir,
        inputs: Inputs,
    }

    impl Fixture {
        fn new() -> Fixture {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            fs::create_dir_all(path("src")).unwrap();
            fs::create_dir_all(path("target")).unwrap();
            fs::create_dir_all(path("other")).unwrap();
            fs::write(path("src/lib.rs"), "1").unwrap();
            fs::write(path("other/Cargo.toml"), "").unwrap();
            let sources = Sources {
                folders: [folder.path().to_owned()].into(),
                files: [path("absent.toml")].into(),
                env: ["SLIPWAY_TEST_UNSET".to_owned()].into(),
                request: "all".into(),
            };
            let inputs = Inputs::take(&sources).unwrap();
            Fixture { folder, inputs }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn difference(&self) -> Option<String> {
            let found = self.inputs.difference("all").unwrap()?;
            Some(found.replace(&format!("{}/", self.folder.path().display()), ""))
        }
    }

    #[test]
    fn nothing_changed() {
        let fixture = Fixture::new();
        fs::write(fixture.path("target/x"), "build output").unwrap();
        fs::write(fixture.path("other/lib.rs"), "another package").unwrap();
        fs::write(fixture.path(".hidden"), "").unwrap();
        assert_eq!(fixture.difference(), None);
    }

    #[test]
    fn each_change_is_named() {
        let check = |change: &dyn Fn(&Fixture), expected: &str| {
            let fixture = Fixture::new();
            change(&fixture);
            assert_eq!(fixture.difference().as_deref(), Some(expected));
        };
        check(&|f| fs::write(f.path("src/lib.rs"), "2").unwrap(), "src/lib.rs changed");
        check(&|f| fs::remove_file(f.path("src/lib.rs")).unwrap(), "src/lib.rs changed");
        check(&|f| fs::write(f.path("src/new.rs"), "").unwrap(), "src/new.rs is new");
        check(&|f| fs::write(f.path("absent.toml"), "").unwrap(), "absent.toml changed");
        let fixture = Fixture::new();
        assert!(fixture.inputs.difference("some").unwrap().is_some());
    }

    #[test]
    fn same_content_under_other_times_is_no_change_and_other_content_under_the_same_times_is_one() {
        let fixture = Fixture::new();
        let file = fixture.path("src/lib.rs");
        let times = fs::metadata(&file).unwrap();
        fs::write(&file, "1").unwrap();
        assert_eq!(fixture.difference(), None);
        fs::write(&file, "2").unwrap();
        let set = FileTimes::new().set_modified(times.modified().unwrap());
        fs::File::options().write(true).open(&file).unwrap().set_times(set).unwrap();
        assert_eq!(fixture.difference().as_deref(), Some("src/lib.rs changed"));
    }
}
