//! A door for the fuzz targets of `ci/fuzz`, which only exists there: what it leads to is private.

use crate::Key;

/// Reads what a registry has under the name of an entry.
pub fn manifest(bytes: &[u8], key: &Key) -> bool {
    crate::remote::content(bytes, key).is_ok()
}

/// What [`crate::unpack`] takes, around an archive.
pub fn compressed(archive: &[u8]) -> Vec<u8> {
    zstd::encode_all(archive, -5).expect("memory takes everything")
}
