//! Several stores as one: asked in order, and filled backwards. A store that fails is left out for the rest of the run, and an
//! entry that is damaged counts as missing; both are noted for the user, and neither stops anything.

use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::{Blob, Found, Key, Store};

/// What a run may do with stores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// Nothing: what is signed or deployed comes from the sources alone.
    Off,
    /// Look, and write nowhere: for changes that nobody has agreed to yet.
    Read,
    /// Write to this machine's store and look into the others: for people.
    #[default]
    Local,
    /// Write to all stores that settings allow: for the branch that everybody trusts.
    ReadWrite,
}

/// Stores in the order in which they are asked.
#[derive(Default)]
pub struct Layered {
    members: Vec<Member>,
    notes: Mutex<Vec<String>>,
}

struct Member {
    store: Box<dyn Store>,
    access: Access,
    failed: AtomicBool,
}

/// What is done with a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Whether it is looked into.
    pub reads: bool,
    /// Whether it is written to.
    pub writes: bool,
    /// Whether other machines use it.
    pub is_shared: bool,
}

impl Mode {
    /// The words of the command line and of `SLIPWAY_CACHE`.
    pub const WORDS: [(&'static str, Mode); 4] =
        [("off", Mode::Off), ("read", Mode::Read), ("local", Mode::Local), ("read-write", Mode::ReadWrite)];
}

impl FromStr for Mode {
    type Err = String;

    fn from_str(text: &str) -> Result<Mode, String> {
        let known = Mode::WORDS.iter().find(|(word, _)| *word == text);
        known.map(|(_, mode)| *mode).ok_or_else(|| {
            format!(
                "`{text}` is no mode of the cache; there are: {}",
                Mode::WORDS.map(|(word, _)| word).join(", ")
            )
        })
    }
}

impl Layered {
    /// Adds a store that is asked after all others. Whether it is one that others share decides what is worth keeping there.
    pub fn add(&mut self, store: Box<dyn Store>, access: Access) {
        self.members.push(Member { store, access, failed: AtomicBool::new(false) });
    }

    /// Whether there is no store at all.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Whether something that is put will be kept anywhere.
    pub fn writes(&self) -> bool {
        self.members.iter().any(Member::is_written)
    }

    /// Whether something that is put will be of use to other machines.
    pub fn shares(&self) -> bool {
        self.members.iter().any(|member| member.access.is_shared && member.is_written())
    }

    /// The entry, with the name of the store that had it. The stores before it have it from now on.
    pub fn get(&self, key: &Key) -> Option<(Blob, String)> {
        for (at, member) in self.members.iter().enumerate() {
            if let Some(blob) = self.ask(member, key) {
                self.members[..at].iter().for_each(|earlier| self.keep(earlier, key, &blob));
                return Some((blob, member.store.name().to_owned()));
            }
        }
        None
    }

    /// The entries of this key of all stores, asked one after the other as they are wanted, and whether each is shared.
    pub fn all(&self, key: Key) -> impl Iterator<Item = (Blob, bool)> {
        self.members.iter().filter_map(move |member| Some((self.ask(member, &key)?, member.access.is_shared)))
    }

    /// Puts the entry into the stores of this machine that are written to.
    pub fn put_here(&self, key: &Key, content: &Blob) {
        let here = self.members.iter().filter(|member| !member.access.is_shared);
        here.for_each(|member| self.keep(member, key, content));
    }

    /// Puts the entry into every store that is written to.
    pub fn put(&self, key: &Key, content: &Blob) {
        self.members.iter().for_each(|member| self.keep(member, key, content));
    }

    /// The first store that has an entry of this name.
    pub fn holder(&self, key: &Key) -> Option<String> {
        let mut read = self.members.iter().filter(|member| member.access.reads);
        let found = read.find(|member| self.tried(member, member.store.holds(key)).unwrap_or(false));
        found.map(|member| member.store.name().to_owned())
    }

    /// Whether every store that is written to has an entry of this name.
    pub fn is_kept(&self, key: &Key) -> bool {
        let mut written = self.members.iter().filter(|member| member.is_written());
        written.all(|member| self.tried(member, member.store.holds(key)).unwrap_or(true))
    }

    /// What the user should know, once.
    pub fn notes(&self) -> Vec<String> {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn ask(&self, member: &Member, key: &Key) -> Option<Blob> {
        if !member.access.reads || member.failed.load(Ordering::SeqCst) {
            return None;
        }
        match self.tried(member, member.store.get(key))? {
            Found::Whole(blob) => Some(blob),
            Found::Missing => None,
            Found::Damaged(why) => {
                self.note(format!(
                    "the cache {} has a damaged entry {key}: {why}; it counts as missing",
                    member.store.name()
                ));
                if member.access.writes {
                    self.tried(member, member.store.remove(key));
                }
                None
            }
        }
    }

    fn keep(&self, member: &Member, key: &Key, content: &Blob) {
        if member.is_written() {
            self.tried(member, member.store.put(key, content));
        }
    }

    fn tried<T>(&self, member: &Member, result: anyhow::Result<T>) -> Option<T> {
        result
            .inspect_err(|error| {
                member.failed.store(true, Ordering::SeqCst);
                self.note(format!("the cache {} is left out from here on: {error:#}", member.store.name()));
            })
            .ok()
    }

    /// Adds something that the user should know.
    pub fn note(&self, text: String) {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }
}

impl Member {
    fn is_written(&self) -> bool {
        self.access.writes && !self.failed.load(Ordering::SeqCst)
    }
}

impl std::fmt::Debug for Layered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.members.iter().map(|member| (member.store.name(), member.access));
        f.debug_map().entries(names).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Folder, Kind};
    use stdx::Digest;

    const OPEN: Access = Access { reads: true, writes: true, is_shared: false };
    const CLOSED: Access = Access { writes: false, ..OPEN };

    fn key() -> Key {
        Key { kind: Kind::Service, digest: Digest::of("x") }
    }

    #[test]
    fn stores_are_asked_in_order_and_filled_backwards_where_they_may_be() {
        let folder = tempfile::tempdir().unwrap();
        let store = |name: &str| Box::new(Folder::new(name, &folder.path().join(name)));
        store("far").put(&key(), &Blob::of_bytes(b"x")).unwrap();
        let mut layered = Layered::default();
        layered.add(store("closed"), CLOSED);
        layered.add(store("near"), OPEN);
        layered.add(store("far"), CLOSED);
        assert_eq!(layered.get(&key()).unwrap().1, "far");
        assert_eq!(layered.get(&key()).unwrap().1, "near");
        assert!(!store("closed").holds(&key()).unwrap());
    }

    #[test]
    fn a_damaged_entry_is_noted_removed_and_looked_for_elsewhere() {
        let folder = tempfile::tempdir().unwrap();
        let near = Folder::new("near", &folder.path().join("near"));
        let far = Folder::new("far", &folder.path().join("far"));
        for store in [&near, &far] {
            store.put(&key(), &Blob::of_bytes(b"x")).unwrap();
        }
        let path = near.root().join("v1/service").join(key().to_string());
        std::fs::write(&path, "{").unwrap();
        let mut layered = Layered::default();
        layered.add(Box::new(near), OPEN);
        layered.add(Box::new(far), CLOSED);
        assert_eq!(layered.get(&key()).unwrap().1, "far");
        assert!(layered.notes()[0].contains("damaged entry"));
        assert_eq!(layered.get(&key()).unwrap().1, "near");
        assert!(layered.notes().is_empty());
    }

    #[test]
    fn a_store_that_fails_is_left_out_and_said_so_once() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("file"), "").unwrap();
        let mut layered = Layered::default();
        layered.add(Box::new(Folder::new("broken", &folder.path().join("file/below"))), OPEN);
        for _ in 0..2 {
            layered.put(&key(), &Blob::of_bytes(b"x"));
            assert!(layered.get(&key()).is_none());
        }
        assert_eq!(layered.notes().len(), 1);
    }
}
