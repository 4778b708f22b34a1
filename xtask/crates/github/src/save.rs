//! A file that is fetched: written and hashed as it comes. Invariant: never more bytes on the disk than were announced, and no
//! success unless they are the ones that were announced.

use std::fs::File;
use std::io::Write;

use anyhow::Context;
use stdx::DigestWriter;

use crate::call::{Call, Save};
use crate::failure::Failure;

/// A file that is being written.
pub(crate) struct Sink<'a> {
    save: &'a Save,
    writer: DigestWriter<File>,
    left: u64,
}

impl<'a> Sink<'a> {
    /// Begins the file anew: an attempt that broke off may have left a part of it.
    pub(crate) fn create(save: &'a Save) -> Result<Sink<'a>, Failure> {
        let file = File::create(&save.path)
            .with_context(|| format!("cannot create {}", save.path.display()))
            .map_err(|error| Failure::input(&error))?;
        Ok(Sink { save, writer: DigestWriter::new(file), left: save.size })
    }

    pub(crate) fn write(&mut self, bytes: &[u8], call: &Call) -> Result<(), Failure> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| differs(call, "it is longer"))?;
        let written = self.writer.write_all(bytes);
        written
            .with_context(|| format!("cannot write {}", self.save.path.display()))
            .map_err(|error| Failure::input(&error))
    }

    /// Compares what came with what was announced.
    pub(crate) fn finish(self, call: &Call) -> Result<(), Failure> {
        if self.left > 0 {
            return Err(differs(call, "it is shorter"));
        }
        let (file, digest, _) = self.writer.finish();
        if self.save.digest.is_some_and(|announced| announced != digest) {
            return Err(differs(call, "its digest is another"));
        }
        let kept = file.sync_all().with_context(|| format!("cannot write {}", self.save.path.display()));
        kept.map_err(|error| Failure::input(&error))
    }
}

fn differs(call: &Call, how: &str) -> Failure {
    Failure::unexpected(call, format!("what came is not what GitHub says it holds: {how}"))
}
