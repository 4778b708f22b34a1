//! One operation at a time on an environment: an advisory lock on a file, which the kernel takes back when its holder
//! dies. The file's content says who holds it and is for people only. A holder that hangs can be overtaken: each grant
//! carries a token that is higher than all before it, and whoever has an older one may not change anything any more.
//!
//! Invariant: the highest token that was ever granted is on disk before anything is done under it.

use std::fmt;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::outcome::Error;
use crate::replica::wait_until;
use crate::state::{StateFolder, open_private};

/// How long a held lock is asked for again.
const LOOK_TIMEOUT: Duration = Duration::from_millis(300);

/// How long the file with the tokens may be in use: nobody holds it for longer than a write takes.
const GRANT_TIMEOUT: Duration = Duration::from_secs(5);

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
    fence: Fence,
}

/// The token of a grant, and where the highest one stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    path: PathBuf,
    token: u64,
}

/// The lock was granted to somebody else meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "another operation took the environment over while this one did not go on (its token is {newest}, that of this one {own}); \
     this one changes nothing more"
)]
pub struct Overtaken {
    own: u64,
    newest: u64,
}

/// What to do about somebody else who holds the lock.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Held {
    /// Leave it to them.
    #[default]
    Refuse,
    /// Take it from them: they hang, and are barred from changing anything should they go on.
    TakeOver,
}

/// Who holds a lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Holder {
    /// Process id.
    pub pid: u32,
    /// What it is doing.
    pub command: String,
    /// Since when, in milliseconds since 1970.
    pub since_unix_ms: u64,
}

impl Lock {
    /// Takes the environment's lock for `holder`.
    ///
    /// # Errors
    /// [`Error::LockHeld`] when somebody else has it.
    pub(crate) fn acquire(state: &StateFolder, holder: &Holder, held: Held) -> Result<Lock, Error> {
        let path = state.lock();
        let file = match (take(&path)?, held) {
            (Some(file), _) => file,
            (None, Held::Refuse) => return Err(Error::LockHeld(read(&path))),
            (None, Held::TakeOver) => {
                // The lock belongs to the file, not to its name: who holds it goes on holding a file without one.
                std::fs::remove_file(&path).with_context(|| format!("cannot replace {}", path.display()))?;
                take(&path)?.ok_or_else(|| Error::LockHeld(read(&path)))?
            }
        };
        let fence = Fence { path: state.fence(), token: 0 };
        let mut lock = Lock { _file: file, fence };
        lock.note(holder)?;
        Ok(lock)
    }

    /// Grants the next token, higher than `floor` and all before it.
    ///
    /// # Errors
    /// When it cannot be kept on disk.
    pub(crate) fn grant(&mut self, floor: u64) -> Result<Fence> {
        let path = &self.fence.path;
        let context = || format!("cannot write {}", path.display());
        let mut file = open_in_place(path)?;
        let is_ours = || rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok();
        anyhow::ensure!(wait_until(GRANT_TIMEOUT, is_ours), "{} is in use", path.display());
        let token = parse(&mut file).max(floor) + 1;
        // Always as long as before: what is written in place needs no room on a full disk.
        file.rewind()
            .and_then(|()| file.write_all(format!("{token:020}\n").as_bytes()))
            .with_context(context)?;
        file.sync_all().with_context(context)?;
        self.fence.token = token;
        Ok(self.fence.clone())
    }

    fn note(&mut self, holder: &Holder) -> Result<()> {
        let text = serde_json::to_string(holder).context("cannot describe the lock's holder")?;
        let file = &mut self._file;
        // The text is for people: a full disk does not stand in the way of `down`, which makes room.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        Ok(())
    }
}

impl Fence {
    /// The token.
    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    /// Whether nobody was granted a higher token since.
    ///
    /// # Errors
    /// [`Overtaken`] otherwise.
    pub(crate) fn check(&self) -> Result<(), Overtaken> {
        let newest = File::open(&self.path).map_or(0, |mut file| parse(&mut file));
        if newest > self.token { Err(Overtaken { own: self.token, newest }) } else { Ok(()) }
    }
}

/// The lock on the file at `path`, unless somebody else has it.
fn take(path: &Path) -> Result<Option<File>> {
    let file = open_private(path)?;
    let mut taken = Ok(());
    // Somebody who asks who holds it holds it for a moment.
    wait_until(LOOK_TIMEOUT, || {
        taken = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
        taken != Err(Errno::WOULDBLOCK)
    });
    match taken {
        Ok(()) => Ok(Some(file)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}

fn open_in_place(path: &Path) -> Result<File> {
    open_private(path)?;
    let file = File::options().read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

/// The number in the file; what is no number counts as none.
fn parse(file: &mut File) -> u64 {
    let mut text = String::new();
    let read = file.rewind().and_then(|()| file.take(64).read_to_string(&mut text));
    read.ok().and_then(|_| text.trim().parse().ok()).unwrap_or(0)
}

/// Who holds the lock at `path` now, if anybody does.
pub(crate) fn holder(path: &Path) -> Option<Holder> {
    let file = File::open(path).ok()?;
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
        Err(Errno::WOULDBLOCK) => Some(read(path)),
        _ => None,
    }
}

/// The holder may not have written its name yet.
fn read(path: &Path) -> Holder {
    let known = std::fs::read(path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    known.unwrap_or_else(|| Holder { pid: 0, command: "unknown".to_owned(), since_unix_ms: 0 })
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let now = crate::state::unix_ms();
        let seconds = now.saturating_sub(self.since_unix_ms) / 1000;
        write!(f, "the process {} (`{}`, for {seconds} s)", self.pid, self.command)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> (tempfile::TempDir, StateFolder) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(&folder.path().join("state")).unwrap();
        (folder, state)
    }

    fn me(command: &str) -> Holder {
        Holder { pid: 7, command: command.to_owned(), since_unix_ms: crate::state::unix_ms() }
    }

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let (_folder, state) = state();
        assert_eq!(holder(&state.lock()), None);
        let lock = Lock::acquire(&state, &me("deploy local"), Held::Refuse).unwrap();
        let error = Lock::acquire(&state, &me("other"), Held::Refuse).unwrap_err().to_string();
        assert!(error.contains("process 7") && error.contains("deploy local"), "{error}");
        assert_eq!(holder(&state.lock()).unwrap().command, "deploy local");
        drop(lock);
        assert_eq!(holder(&state.lock()), None);
        Lock::acquire(&state, &me("x"), Held::Refuse).unwrap();
    }

    #[test]
    fn tokens_rise_and_who_was_overtaken_is_told_so() {
        let (_folder, state) = state();
        let mut first = Lock::acquire(&state, &me("first"), Held::Refuse).unwrap();
        let old = first.grant(0).unwrap();
        assert_eq!((old.token(), old.check()), (1, Ok(())));
        let mut second = Lock::acquire(&state, &me("second"), Held::TakeOver).unwrap();
        let new = second.grant(0).unwrap();
        assert_eq!((new.token(), new.check()), (2, Ok(())));
        assert_eq!(old.check(), Err(Overtaken { own: 1, newest: 2 }));
        drop(first);
        assert!(
            Lock::acquire(&state, &me("third"), Held::Refuse).is_err(),
            "the end of the first frees nothing"
        );
        drop(second);
        let mut third = Lock::acquire(&state, &me("third"), Held::TakeOver).unwrap();
        assert_eq!(third.grant(9).unwrap().token(), 10, "the journal knew more than the file");
        std::fs::remove_file(state.fence()).unwrap();
        assert_eq!(third.grant(10).unwrap().token(), 11);
    }
}
