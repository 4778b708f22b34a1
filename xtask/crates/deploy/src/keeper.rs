//! Descriptors that a supervised process leaves with its supervisor, for the process that is started after it: a listening
//! socket stays open while nobody accepts, so that clients wait instead of being refused. It does not know what they are.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};
use edge::{Keeping, MAX_KEEPING_BYTES};
use stdx::descriptors;

/// What is kept.
#[derive(Debug, Default)]
pub(crate) struct Keeper(Arc<Mutex<Vec<OwnedFd>>>);

impl Keeper {
    /// The standard input of the next process, over which it leaves and gets descriptors.
    ///
    /// # Errors
    /// When this process has no descriptors left.
    pub(crate) fn connect(&self) -> Result<Stdio> {
        let (here, there) = UnixStream::pair().context("cannot make a socket for the process")?;
        let kept = Arc::clone(&self.0);
        std::thread::spawn(move || serve(&here, &kept));
        Ok(Stdio::from(OwnedFd::from(there)))
    }
}

/// Answers until the process ends, or says what nobody understands.
fn serve(socket: &UnixStream, kept: &Mutex<Vec<OwnedFd>>) {
    while let Ok((line, given)) = descriptors::receive(socket, MAX_KEEPING_BYTES) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted = match serde_json::from_slice(&line) {
            Ok(Keeping::Give) => kept.iter().map(AsFd::as_fd).collect(),
            Ok(Keeping::Keep) => {
                *kept = given;
                Vec::new()
            }
            Ok(Keeping::Here) | Err(_) => return,
        };
        let Ok(mut answer) = serde_json::to_vec(&Keeping::Here) else { return };
        answer.push(b'\n');
        if descriptors::send(socket, &answer, &wanted).is_err() {
            return;
        }
    }
}
