//! Doors for the fuzz targets of `ci/fuzz`, which only exist there: what they lead to is private.

use std::io::Read;
use std::path::Path;

use anyhow::Result;

use crate::entries::{Budget, Limits};

/// Lays the entries of an archive out in the folder `into`.
pub fn lay_out(archive: impl Read, into: &Path, limits: Limits) -> Result<()> {
    crate::unpack::lay_out(archive, into, &mut Budget::new(limits)).map(drop)
}

/// Reads every file of an archive, and gives how many bytes they have.
pub fn visit(archive: impl Read, limits: Limits) -> Result<u64> {
    let mut bytes = 0;
    crate::visit::visit_archive(archive, &mut Budget::new(limits), &mut |_, content| {
        bytes += std::io::copy(content, &mut std::io::sink())?;
        Ok(())
    })?;
    Ok(bytes)
}
