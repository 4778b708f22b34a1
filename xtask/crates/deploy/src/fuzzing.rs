//! A door for the fuzz targets of `ci/fuzz`, which only exists there: what it leads to is private.

use std::path::Path;

/// Reads a journal, mends it, and reads it again: what it tells must stay the same.
pub fn journal(path: &Path) {
    let Ok(before) = crate::journal::History::load(path) else { return };
    let (_, mended) = crate::journal::Journal::open(path).expect("a journal that can be read can be opened");
    let after = crate::journal::History::load(path).expect("a mended journal can be read");
    assert_eq!(format!("{before:?}"), format!("{mended:?}"));
    assert_eq!(format!("{before:?}"), format!("{after:?}"));
}
