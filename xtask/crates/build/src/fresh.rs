//! Whether anything that a build was made from has changed since. A file is compared by content; its size, times and inode
//! only save reading it again, and the change time among them cannot be set back by copying, checking out or touching.

use std::collections::btree_map::Entry;
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
    /// Folders of local packages: everything in them counts, with the exceptions of [`walk_sources`].
    folders: BTreeSet<PathBuf>,
    /// Files and folders that are copied into images: everything in them counts.
    assets: BTreeSet<PathBuf>,
    /// All files that count; `None` for one that was missing and matters when it appears.
    files: BTreeMap<PathBuf, Option<Stamp>>,
    /// Variables by name, as digests: a value can be a secret. `None` for one that was not set.
    env: BTreeMap<String, Option<Digest>>,
    /// Files of the toolchain among them, and what each is part of.
    #[serde(default)]
    toolchain: BTreeMap<PathBuf, String>,
    /// Whatever else the build was asked for.
    request: String,
}

/// A file as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Stamp {
    size: u64,
    inode: u64,
    /// When the content was last changed, as far as whoever changed it tells.
    pub(crate) modified_ns: i64,
    changed_ns: i64,
    /// Of a link: size, inode and change time of what it leads to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    followed: Option<(u64, u64, i64)>,
    /// Whether the other fields can be believed: the file did not change just now.
    settled: bool,
    /// Of the content.
    pub(crate) digest: Digest,
}

/// What makes up [`Inputs`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Sources {
    pub(crate) folders: BTreeSet<PathBuf>,
    pub(crate) assets: BTreeSet<PathBuf>,
    pub(crate) files: BTreeSet<PathBuf>,
    pub(crate) env: BTreeSet<String>,
    pub(crate) request: String,
    /// Files of the toolchain, what each is part of, and its state, which was looked at already.
    pub(crate) toolchain: BTreeMap<PathBuf, (String, Stamp)>,
}

impl Inputs {
    /// Looks at all sources.
    pub(crate) fn take(sources: Sources) -> Result<Inputs> {
        let mut inputs = Inputs {
            folders: sources.folders,
            assets: sources.assets,
            env: sources.env.iter().map(|name| (name.clone(), variable(name))).collect(),
            request: sources.request,
            files: BTreeMap::new(),
            toolchain: BTreeMap::new(),
        };
        for (path, (role, stamp)) in sources.toolchain {
            inputs.toolchain.insert(path.clone(), role);
            inputs.files.insert(path, Some(stamp));
        }
        for path in inputs.present().into_iter().chain(sources.files) {
            if let Entry::Vacant(entry) = inputs.files.entry(path) {
                let stamp = Stamp::take(entry.key())?;
                entry.insert(stamp);
            }
        }
        Ok(inputs)
    }

    /// Looks at these files; what cannot be read counts as missing.
    pub(crate) fn take_files(files: BTreeSet<PathBuf>) -> Inputs {
        let stamped = files.into_iter().map(|path| {
            let stamp = Stamp::take(&path).ok().flatten();
            (path, stamp)
        });
        Inputs { files: stamped.collect(), ..Inputs::default() }
    }

    /// All files that count, with what is known of them.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&Path, Option<&Stamp>)> {
        self.files.iter().map(|(path, stamp)| (path.as_path(), stamp.as_ref()))
    }

    /// The content of a file that counts; `None` where it is missing or does not count.
    pub(crate) fn digest(&self, path: &Path) -> Option<Digest> {
        Some(self.files.get(path)?.as_ref()?.digest)
    }

    /// What differs from now, in words; `None` where nothing does. `request` is what is asked for now, `env` the names of the
    /// variables that are set now and could matter.
    pub(crate) fn difference(&self, request: &str, env: &BTreeSet<String>) -> Result<Option<String>> {
        if self.request != request {
            return Ok(Some("another version of this tool, or another commit".to_owned()));
        }
        if let Some(new) = env.iter().find(|name| !self.env.contains_key(*name)) {
            return Ok(Some(format!("the variable {new} is new")));
        }
        for (name, value) in &self.env {
            if variable(name) != *value {
                return Ok(Some(format!("the variable {name} changed")));
            }
        }
        if let Some(new) = self.present().iter().find(|path| !self.files.contains_key(*path)) {
            return Ok(Some(format!("{} is new", new.display())));
        }
        for (path, stamp) in &self.files {
            let same = match stamp {
                Some(stamp) => stamp.still_holds(path)?,
                None => fs::symlink_metadata(path).is_err(),
            };
            if !same {
                return Ok(Some(match self.toolchain.get(path) {
                    Some(role) => format!("the {role} changed ({})", path.display()),
                    None => format!("{} changed", path.display()),
                }));
            }
        }
        Ok(None)
    }

    /// Takes further files and variables in, as they are now. Whoever declared a folder wants to know of new files in it.
    pub(crate) fn extend(&mut self, files: BTreeSet<PathBuf>, env: &BTreeSet<String>) -> Result<()> {
        let (folders, mut files): (BTreeSet<_>, BTreeSet<_>) =
            files.into_iter().partition(|path| path.is_dir());
        folders.iter().for_each(|folder| walk_sources(folder, &mut files));
        self.folders.extend(folders);
        for path in files {
            if let Entry::Vacant(entry) = self.files.entry(path) {
                let stamp = Stamp::take(entry.key())?;
                entry.insert(stamp);
            }
        }
        self.env.extend(env.iter().map(|name| (name.clone(), variable(name))));
        Ok(())
    }

    /// The files that have not been as they are since before `begun`: of all others it is known which content a build saw that
    /// began then. A change that was undone again is a change, too.
    pub(crate) fn touched_since(&self, begun: SystemTime) -> BTreeSet<PathBuf> {
        let begun = nanoseconds(begun);
        let untouched = |path: &Path, stamp: &Option<Stamp>| match (fs::symlink_metadata(path), stamp) {
            (Ok(meta), Some(stamp)) => {
                let followed = fs::metadata(path).map_or(0, |followed| changed_ns(&followed));
                changed_ns(&meta) == stamp.changed_ns && stamp.changed_ns.max(followed) < begun
            }
            (Err(_), None) => true,
            _ => false,
        };
        let touched =
            self.files.iter().filter(|(path, stamp)| !untouched(path, stamp)).map(|(path, _)| path.clone());
        let new = self.present().into_iter().filter(|path| !self.files.contains_key(path));
        touched.chain(new).collect()
    }

    /// The folders of local packages and assets in which a file came, went or was renamed since `begun`: it may have been read.
    pub(crate) fn folders_touched_since(&self, begun: SystemTime) -> BTreeSet<PathBuf> {
        let begun = nanoseconds(begun);
        let roots = self.folders.iter().chain(&self.assets);
        let files = self.files.keys().filter(|path| roots.clone().any(|root| path.starts_with(root)));
        let above = files.flat_map(|path| path.ancestors().skip(1));
        let inside = above.filter(|folder| roots.clone().any(|root| folder.starts_with(root)));
        let folders: BTreeSet<&Path> = inside.collect();
        let touched = |folder: &&&Path| fs::metadata(folder).is_ok_and(|meta| changed_ns(&meta) >= begun);
        folders.iter().filter(touched).map(|folder| folder.to_path_buf()).collect()
    }

    /// Folders of local packages, and what is copied into images.
    pub(crate) fn roots(&self) -> impl Iterator<Item = &PathBuf> {
        self.folders.iter().chain(&self.assets)
    }

    /// Whether the file counts as part of the toolchain.
    pub(crate) fn is_tool(&self, path: &Path) -> bool {
        self.toolchain.contains_key(path)
    }

    /// Whether the file is copied into an image.
    pub(crate) fn is_asset(&self, path: &Path) -> bool {
        self.assets.iter().any(|asset| path.starts_with(asset))
    }

    /// Whether the file lies in the folder of a package, and counts for that reason.
    pub(crate) fn is_in_package(&self, path: &Path) -> bool {
        self.folders.iter().any(|folder| path.starts_with(folder))
    }

    fn present(&self) -> BTreeSet<PathBuf> {
        let mut present = BTreeSet::new();
        self.folders.iter().for_each(|folder| walk_sources(folder, &mut present));
        self.assets.iter().for_each(|path| walk(path, &|_, _| true, &mut present));
        present
    }
}

/// A variable's value as a digest: it can be a secret.
pub(crate) fn variable(name: &str) -> Option<Digest> {
    std::env::var_os(name).map(|value| Digest::of(value.as_bytes()))
}

impl Stamp {
    /// The file at `path` as it is; `None` where there is none.
    pub(crate) fn take(path: &Path) -> Result<Option<Stamp>> {
        let Ok(meta) = fs::symlink_metadata(path) else { return Ok(None) };
        let changed_ns = changed_ns(&meta);
        let followed = followed(path, &meta);
        let last = followed.map_or(changed_ns, |(.., followed_ns)| followed_ns.max(changed_ns));
        let is_old = last < nanoseconds(SystemTime::now()) - RACY.as_nanos() as i64;
        Ok(Some(Stamp {
            size: meta.len(),
            inode: meta.ino(),
            modified_ns: modified_ns(&meta),
            changed_ns,
            followed,
            settled: is_old,
            digest: content(path, &meta)?,
        }))
    }

    /// Whether something was done to the file since then, and its own time does not say so.
    pub(crate) fn is_changed_behind(&self, since_ns: i64) -> bool {
        self.changed_ns >= since_ns && self.modified_ns <= since_ns
    }

    /// Whether the file is still what it was: by what the file system says where that can be believed, else by content.
    pub(crate) fn still_holds(&self, path: &Path) -> Result<bool> {
        let Ok(meta) = fs::symlink_metadata(path) else { return Ok(false) };
        let untouched = (self.size, self.inode, self.modified_ns, self.changed_ns)
            == (meta.len(), meta.ino(), modified_ns(&meta), changed_ns(&meta))
            && self.followed == followed(path, &meta);
        if untouched && self.settled {
            return Ok(true);
        }
        Ok(self.size == meta.len() && content(path, &meta)? == self.digest)
    }
}

/// What a link leads to, as the file system says; a link to nothing leads to no inode.
fn followed(path: &Path, meta: &fs::Metadata) -> Option<(u64, u64, i64)> {
    let known = |meta: fs::Metadata| (meta.len(), meta.ino(), changed_ns(&meta));
    meta.is_symlink().then(|| fs::metadata(path).map_or((0, 0, 0), known))
}

fn modified_ns(meta: &fs::Metadata) -> i64 {
    meta.mtime() * 1_000_000_000 + meta.mtime_nsec()
}

fn changed_ns(meta: &fs::Metadata) -> i64 {
    meta.ctime() * 1_000_000_000 + meta.ctime_nsec()
}

/// The digest of a file's bytes; of a link, of where it leads and of what is there. Anything else counts by being there.
fn content(path: &Path, meta: &fs::Metadata) -> Result<Digest> {
    if meta.is_symlink() {
        let target =
            fs::read_link(path).with_context(|| format!("cannot read the link {}", path.display()))?;
        // What it leads to may never end.
        let is_file = fs::metadata(path).is_ok_and(|meta| meta.is_file());
        let followed = if is_file { fs::read(path).unwrap_or_default() } else { Vec::new() };
        return Ok(Digest::of([target.as_os_str().as_bytes(), b"\0", &followed].concat()));
    }
    if !meta.is_file() {
        return Ok(Digest::of(b""));
    }
    match fs::File::open(path) {
        // Whoever may not read it cannot build from it either.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(Digest::of(b"")),
        opened => {
            let digest = opened.and_then(Digest::of_reader);
            Ok(digest.with_context(|| format!("cannot read {}", path.display()))?.0)
        }
    }
}

/// Nanoseconds since 1970.
pub(crate) fn nanoseconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// Adds the files below `folder` but for hidden ones, build output and packages of their own.
pub(crate) fn walk_sources(folder: &Path, files: &mut BTreeSet<PathBuf>) {
    let counts = |path: &Path, name: &OsStr| {
        let is_hidden = name.as_bytes().starts_with(b".") || name == OsStr::new("target");
        !is_hidden && !path.join("Cargo.toml").exists() && !path.join("CACHEDIR.TAG").exists()
    };
    walk(folder, &counts, files);
}

/// Adds the file `path`, or the files below the folder `path` for which `counts` holds. What cannot be listed has nothing in it.
fn walk(path: &Path, counts: &dyn Fn(&Path, &OsStr) -> bool, files: &mut BTreeSet<PathBuf>) {
    if path.is_symlink() || !path.is_dir() {
        files.insert(path.to_owned());
        return;
    }
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if counts(&entry.path(), &entry.file_name()) {
            walk(&entry.path(), counts, files);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::FileTimes;
    use std::os::unix::fs::symlink;

    struct Fixture {
        folder: tempfile::TempDir,
        inputs: Inputs,
    }

    impl Fixture {
        fn new() -> Fixture {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            for name in ["package/src", "package/target", "package/other", "site/.well-known"] {
                fs::create_dir_all(path(name)).unwrap();
            }
            fs::write(path("package/src/lib.rs"), "1").unwrap();
            fs::write(path("package/other/Cargo.toml"), "").unwrap();
            fs::write(path("site/.well-known/x"), "1").unwrap();
            fs::write(path("linked"), "1").unwrap();
            fs::write(path("ld"), "1").unwrap();
            symlink("../../linked", path("package/src/link.rs")).unwrap();
            let sources = Sources {
                folders: [path("package")].into(),
                assets: [path("site")].into(),
                files: [path("absent.toml")].into(),
                env: ["SLIPWAY_TEST_UNSET".to_owned()].into(),
                request: "all".into(),
                toolchain: [(path("ld"), ("linker".to_owned(), Stamp::take(&path("ld")).unwrap().unwrap()))]
                    .into(),
            };
            let inputs = Inputs::take(sources).unwrap();
            Fixture { folder, inputs }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn difference(&self) -> Option<String> {
            let found = self.inputs.difference("all", &BTreeSet::new()).unwrap()?;
            Some(found.replace(&format!("{}/", self.folder.path().display()), ""))
        }
    }

    #[test]
    fn nothing_changed() {
        let fixture = Fixture::new();
        fs::write(fixture.path("package/target/x"), "build output").unwrap();
        fs::write(fixture.path("package/other/lib.rs"), "another package").unwrap();
        fs::write(fixture.path("package/.hidden"), "").unwrap();
        assert_eq!(fixture.difference(), None);
    }

    #[test]
    fn each_change_is_named() {
        let check = |change: &dyn Fn(&Fixture), expected: &str| {
            let fixture = Fixture::new();
            change(&fixture);
            assert_eq!(fixture.difference().as_deref(), Some(expected));
        };
        check(&|f| fs::write(f.path("package/src/lib.rs"), "2").unwrap(), "package/src/lib.rs changed");
        check(&|f| fs::remove_file(f.path("package/src/lib.rs")).unwrap(), "package/src/lib.rs changed");
        check(&|f| fs::write(f.path("package/src/new.rs"), "").unwrap(), "package/src/new.rs is new");
        check(&|f| fs::write(f.path("linked"), "2").unwrap(), "package/src/link.rs changed");
        check(&|f| fs::write(f.path("site/.well-known/x"), "2").unwrap(), "site/.well-known/x changed");
        check(&|f| fs::write(f.path("absent.toml"), "").unwrap(), "absent.toml changed");
        check(&|f| fs::write(f.path("ld"), "2").unwrap(), "the linker changed (ld)");
        let fixture = Fixture::new();
        assert!(fixture.inputs.difference("some", &BTreeSet::new()).unwrap().is_some());
        let new = fixture.inputs.difference("all", &BTreeSet::from(["RUSTC".to_owned()])).unwrap();
        assert_eq!(new.as_deref(), Some("the variable RUSTC is new"));
    }

    #[test]
    fn same_content_under_other_times_is_no_change_and_other_content_under_the_same_times_is_one() {
        let fixture = Fixture::new();
        let file = fixture.path("package/src/lib.rs");
        let times = fs::metadata(&file).unwrap();
        fs::write(&file, "1").unwrap();
        assert_eq!(fixture.difference(), None);
        fs::write(&file, "2").unwrap();
        let set = FileTimes::new().set_modified(times.modified().unwrap());
        fs::File::options().write(true).open(&file).unwrap().set_times(set).unwrap();
        assert_eq!(fixture.difference().as_deref(), Some("package/src/lib.rs changed"));
    }

    #[test]
    fn an_edit_that_was_undone_is_still_noticed() {
        let fixture = Fixture::new();
        let after = SystemTime::now() + Duration::from_secs(1);
        let touched = |since: SystemTime| {
            let name =
                |path: PathBuf| path.strip_prefix(fixture.folder.path()).unwrap().display().to_string();
            fixture.inputs.touched_since(since).into_iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(touched(after), [""; 0]);
        fs::write(fixture.path("package/src/lib.rs"), "2").unwrap();
        fs::write(fixture.path("package/src/lib.rs"), "1").unwrap();
        assert_eq!(fixture.difference(), None);
        assert_eq!(touched(after), ["package/src/lib.rs"]);
        let just_now = SystemTime::now();
        std::thread::sleep(Duration::from_millis(20));
        fs::write(fixture.path("package/src/new.rs"), "").unwrap();
        assert_eq!(touched(after), ["package/src/lib.rs", "package/src/new.rs"]);
        fs::remove_file(fixture.path("package/src/new.rs")).unwrap();
        let folders = fixture.inputs.folders_touched_since(just_now);
        assert_eq!(folders.into_iter().collect::<Vec<_>>(), [fixture.path("package/src")]);
    }
}
