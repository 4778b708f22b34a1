//! One operation at a time on an environment: an advisory lock on a file, which the kernel takes back when its holder
//! dies. The file's content says who holds it and is for people only.

use std::fmt;
use std::fs::File;
use std::io::{Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use rustix::fs::FlockOperation;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::outcome::Error;
use crate::replica::wait_until;
use crate::state::open_private;

/// How long a held lock is asked for again.
const LOOK_TIMEOUT: Duration = Duration::from_millis(300);

/// Held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
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
    /// Takes the lock at `path` for `holder`.
    ///
    /// # Errors
    /// [`Error::LockHeld`] when somebody else has it.
    pub(crate) fn acquire(path: &Path, holder: &Holder) -> Result<Lock, Error> {
        let mut file = open_private(path)?;
        let mut taken = Ok(());
        // Somebody who asks who holds it holds it for a moment.
        wait_until(LOOK_TIMEOUT, || {
            taken = rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive);
            taken != Err(Errno::WOULDBLOCK)
        });
        match taken {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => return Err(Error::LockHeld(read(path))),
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display()))?,
        }
        let text = serde_json::to_string(holder).context("cannot describe the lock's holder")?;
        // The text is for people: a full disk does not stand in the way of `down`, which makes room.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(text.as_bytes()));
        Ok(Lock { _file: file })
    }
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

    #[test]
    fn the_second_is_told_who_the_first_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("lock");
        let me = |command: &str| Holder {
            pid: 7,
            command: command.to_owned(),
            since_unix_ms: crate::state::unix_ms(),
        };
        assert_eq!(holder(&path), None);
        let lock = Lock::acquire(&path, &me("deploy local")).unwrap();
        let error = Lock::acquire(&path, &me("other")).unwrap_err().to_string();
        assert!(error.contains("process 7") && error.contains("deploy local"), "{error}");
        assert_eq!(holder(&path).unwrap().command, "deploy local");
        drop(lock);
        assert_eq!(holder(&path), None);
        Lock::acquire(&path, &me("x")).unwrap();
    }
}
