//! A store in a folder: the one of this machine, or one that several machines mount. Each entry is one file that appears whole
//! by being moved to its name; its first line says which entry it is and what must follow.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use stdx::{Digest, trust};

use crate::{Blob, Found, Key, Kind, Store};

const SCHEMA: &str = "slipway.cache-entry/1";
/// A longer first line is none of ours.
const MAX_HEAD: u64 = 1024;
/// What a killed run left half-written is removed when nobody can be writing it any more.
const ABANDONED: Duration = Duration::from_secs(60 * 60);

/// A folder of entries.
#[derive(Debug, Clone)]
pub struct Folder {
    name: String,
    root: PathBuf,
    /// Whether what others can have put there is believed.
    believes_others: bool,
}

/// An entry, as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// What sort of thing it is.
    pub kind: Kind,
    /// Its key.
    pub key: String,
    /// Bytes on disk.
    pub bytes: u64,
    /// Seconds since it was stored or last used.
    pub idle_s: u64,
}

/// The first line of an entry.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    schema: String,
    key: String,
    digest: Digest,
    size: u64,
}

impl Folder {
    /// The store in the folder `root`, which is made when something is stored. `name` is what users know it by.
    pub fn new(name: &str, root: &Path) -> Folder {
        Folder { name: name.to_owned(), root: root.to_owned(), believes_others: false }
    }

    /// The same store, believed although others than its user and root may write to it: who can do that decides what is run.
    pub fn believing_others(self) -> Folder {
        Folder { believes_others: true, ..self }
    }

    /// Why others can have put something there; `None` where they cannot, or nothing is there.
    pub fn objection(&self) -> Option<String> {
        let folders = [self.root.clone()].into_iter().chain(Kind::ALL.map(|kind| self.folder(kind)));
        let there = folders.filter(|folder| folder.exists());
        there
            .filter_map(|folder| trust::require_own_folder(&folder).err())
            .map(|error| format!("{error:#}"))
            .next()
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// All entries, the one that was idle for longest first.
    pub fn usage(&self) -> Result<Vec<Usage>> {
        let now = SystemTime::now();
        let mut found = Vec::new();
        for kind in Kind::ALL {
            for entry in list(&self.folder(kind))? {
                let Ok(key) = entry.file_name().to_string_lossy().parse::<Key>() else { continue };
                // Another run may have removed it meanwhile.
                let Ok(meta) = entry.metadata() else { continue };
                let idle =
                    meta.modified().ok().and_then(|used| now.duration_since(used).ok()).unwrap_or_default();
                found.push((
                    idle,
                    Usage { kind, key: key.to_string(), bytes: meta.len(), idle_s: idle.as_secs() },
                ));
            }
        }
        found.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.key.cmp(&b.1.key)));
        Ok(found.into_iter().map(|(_, usage)| usage).collect())
    }

    /// What must go so that no more than `limit` bytes are left: what was idle for longest, but never the newest of its kind.
    pub fn excess(&self, limit: u64) -> Result<Vec<Usage>> {
        let entries = self.usage()?;
        let mut total: u64 = entries.iter().map(|entry| entry.bytes).sum();
        let is_newest = |at: usize| !entries[at + 1..].iter().any(|newer| newer.kind == entries[at].kind);
        let mut excess = Vec::new();
        for (at, entry) in entries.iter().enumerate() {
            if total > limit && !is_newest(at) {
                total -= entry.bytes;
                excess.push(entry.clone());
            }
        }
        Ok(excess)
    }

    /// Removes what [`Folder::excess`] names, and what killed runs left half-written. Where another run does so already, nothing
    /// is removed here.
    pub fn collect(&self, limit: u64) -> Result<Vec<Usage>> {
        if !self.root.is_dir() {
            return Ok(Vec::new());
        }
        let path = self.root.join("gc.lock");
        let lock = File::options().create(true).truncate(false).write(true).open(&path);
        let lock = lock.with_context(|| format!("cannot open {}", path.display()))?;
        if lock.try_lock().is_err() {
            return Ok(Vec::new());
        }
        for entry in list(&self.temporary())? {
            let age = entry
                .metadata()
                .and_then(|meta| meta.modified())
                .map(|time| time.elapsed().unwrap_or_default());
            if age.is_ok_and(|age| age > ABANDONED) {
                remove(&entry.path())?;
            }
        }
        let excess = self.excess(limit)?;
        for entry in &excess {
            remove(&self.folder(entry.kind).join(&entry.key))?;
        }
        Ok(excess)
    }

    fn folder(&self, kind: Kind) -> PathBuf {
        self.root.join("v1").join(kind.word())
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("v1/tmp")
    }

    fn require_own(&self, folder: &Path) -> Result<()> {
        if self.believes_others { Ok(()) } else { trust::require_own_folder(folder) }
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder(key.kind).join(key.to_string())
    }

    fn write(&self, key: &Key, content: &Blob) -> Result<()> {
        for folder in [self.temporary(), self.folder(key.kind)] {
            trust::create_own_folder(&folder)?;
            self.require_own(&folder)?;
        }
        let mut file = tempfile::NamedTempFile::new_in(self.temporary())?;
        let head = Head {
            schema: SCHEMA.to_owned(),
            key: key.to_string(),
            digest: content.digest(),
            size: content.size(),
        };
        file.write_all(&serde_json::to_vec(&head)?)?;
        file.write_all(b"\n")?;
        let copied = io::copy(&mut content.open(), &mut file)?;
        anyhow::ensure!(copied == content.size(), "the content changed while it was stored");
        stdx::fs::persist(file, &self.path(key), 0o644)
    }
}

impl Store for Folder {
    fn name(&self) -> &str {
        &self.name
    }

    fn get(&self, key: &Key) -> Result<Found> {
        let path = self.path(key);
        let file = match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
            opened => opened.with_context(|| format!("cannot open {}", path.display()))?,
        };
        self.require_own(&self.folder(key.kind))?;
        if let (false, Err(error)) = (self.believes_others, trust::require_own_file(&file, &path)) {
            return Ok(Found::Damaged(format!("{error:#}")));
        }
        let found = match check(&file, key).with_context(|| format!("cannot read {}", path.display()))? {
            Ok(offset) => Blob::in_file(file, offset.0).map(|blob| (blob, offset.1))?,
            Err(damage) => return Ok(Found::Damaged(damage)),
        };
        let (blob, head) = found;
        if (blob.digest(), blob.size()) != (head.digest, head.size) {
            return Ok(Found::Damaged("its content is not the one that was stored".to_owned()));
        }
        // Order of use, for the collection; a store that cannot be written has no such order.
        if let Ok(file) = File::options().append(true).open(&path) {
            file.set_modified(SystemTime::now()).ok();
        }
        Ok(Found::Whole(blob))
    }

    fn holds(&self, key: &Key) -> Result<bool> {
        Ok(self.path(key).is_file())
    }

    fn put(&self, key: &Key, content: &Blob) -> Result<()> {
        self.write(key, content).with_context(|| format!("cannot store {key} in {}", self.root.display()))
    }

    fn remove(&self, key: &Key) -> Result<()> {
        remove(&self.path(key))
    }
}

/// Where the content begins, with what the first line says of it; or what is wrong with that line.
fn check(file: &File, key: &Key) -> Result<Result<(u64, Head), String>> {
    let mut line = Vec::new();
    BufReader::new(file).take(MAX_HEAD).read_until(b'\n', &mut line)?;
    let Ok(head) = serde_json::from_slice::<Head>(&line) else {
        return Ok(Err("it does not begin as an entry does".to_owned()));
    };
    if head.schema != SCHEMA || !line.ends_with(b"\n") {
        return Ok(Err(format!("its format is `{}`", head.schema)));
    }
    if head.key != key.to_string() {
        return Ok(Err(format!("it is the entry {}", head.key)));
    }
    let offset = line.len() as u64;
    if file.metadata()?.len() != offset + head.size {
        return Ok(Err("it has another length than what was stored".to_owned()));
    }
    Ok(Ok((offset, head)))
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

fn list(folder: &Path) -> Result<Vec<fs::DirEntry>> {
    match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        read => {
            let entries = read.with_context(|| format!("cannot list {}", folder.display()))?;
            Ok(entries.filter_map(Result::ok).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> Key {
        Key { kind: Kind::Service, digest: Digest::of(text) }
    }

    fn content(found: Found) -> Result<Vec<u8>, String> {
        match found {
            Found::Whole(blob) => Ok(blob.bytes(1 << 20).unwrap()),
            Found::Missing => Err("missing".to_owned()),
            Found::Damaged(why) => Err(why),
        }
    }

    #[test]
    fn what_was_stored_comes_back_and_nothing_else_does() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::new("local", folder.path());
        let get = |name: &str| content(store.get(&key(name)).unwrap());
        assert_eq!(get("a"), Err("missing".to_owned()));
        store.put(&key("a"), &Blob::of_bytes(b"content")).unwrap();
        store.put(&key("b"), &Blob::of_bytes(b"other")).unwrap();
        assert_eq!(get("a").unwrap(), b"content");
        let path = store.path(&key("a"));
        let whole = fs::read(&path).unwrap();
        // Every length short of the whole, and every byte changed.
        for length in 0..whole.len() {
            fs::write(&path, &whole[..length]).unwrap();
            assert!(get("a").is_err(), "cut at {length}");
        }
        for at in 0..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).unwrap();
            assert!(get("a").is_err(), "changed at {at}");
        }
        fs::write(&path, [whole.as_slice(), b"x"].concat()).unwrap();
        assert!(get("a").is_err());
        fs::copy(store.path(&key("b")), &path).unwrap();
        assert_eq!(get("a"), Err(format!("it is the entry {}", key("b"))));
        store.remove(&key("a")).unwrap();
        assert_eq!(get("a"), Err("missing".to_owned()));
    }

    #[test]
    fn what_others_can_have_put_there_is_refused_by_name() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = Folder::new("local", &root);
        store.put(&key("a"), &Blob::of_bytes(b"content")).unwrap();
        let set = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
        assert_eq!(store.objection(), None);
        for open in [root.clone(), root.join("v1"), root.join("v1/service")] {
            set(&open, 0o777);
            let error = format!("{:#}", store.get(&key("a")).unwrap_err());
            assert!(error.contains(&format!("{} can be written to by others", open.display())), "{error}");
            assert!(store.put(&key("b"), &Blob::of_bytes(b"x")).is_err() && store.objection().is_some());
            let believing = store.clone().believing_others();
            assert_eq!(content(believing.get(&key("a")).unwrap()).unwrap(), b"content");
            set(&open, 0o755);
        }
        set(&store.path(&key("a")), 0o666);
        let why = content(store.get(&key("a")).unwrap()).unwrap_err();
        assert!(why.contains("can be written to by others (mode 666)"), "{why}");
        set(&store.path(&key("a")), 0o644);
        assert_eq!(content(store.get(&key("a")).unwrap()).unwrap(), b"content");
    }

    #[test]
    fn the_longest_idle_go_first_and_the_newest_never() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::new("local", folder.path());
        for (name, age) in [("a", 300), ("b", 200), ("c", 100)] {
            store.put(&key(name), &Blob::of_bytes(&[0; 1000])).unwrap();
            let file = File::options().append(true).open(store.path(&key(name))).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        // Looked at, and so no longer the first to go.
        assert!(store.get(&key("a")).is_ok());
        let each = store.usage().unwrap()[0].bytes;
        let names = |usage: Vec<Usage>| usage.into_iter().map(|entry| entry.key).collect::<Vec<_>>();
        assert_eq!(names(store.excess(2 * each).unwrap()), [key("b").to_string()]);
        assert_eq!(names(store.collect(0).unwrap()), [key("b").to_string(), key("c").to_string()]);
        assert_eq!(names(store.usage().unwrap()), [key("a").to_string()]);
    }

    #[test]
    fn half_written_files_are_no_entries_and_go_when_they_are_old() {
        let folder = tempfile::tempdir().unwrap();
        let store = Folder::new("local", folder.path());
        store.put(&key("a"), &Blob::of_bytes(b"x")).unwrap();
        for (name, age) in [("old", 7200), ("new", 1)] {
            let file = File::create(store.temporary().join(name)).unwrap();
            file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        }
        store.collect(1 << 20).unwrap();
        assert_eq!(list(&store.temporary()).unwrap().len(), 1);
        assert_eq!(store.usage().unwrap().len(), 1);
    }
}
