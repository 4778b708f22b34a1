//! Doors for the fuzz targets of `ci/fuzz`, which only exist there: what they lead to is private.

use cache::Blob;

use crate::record::Record;
use workspace::UnitGraph;

/// Reads a unit graph and the settings of all of its units.
pub fn graph(text: &str) -> Option<usize> {
    let graph = UnitGraph::parse(text).ok()?;
    Some(graph.units.iter().map(|unit| graph.settings(unit).to_string().len()).sum())
}

/// Reads a record of a cache.
pub fn record(bytes: &[u8]) {
    let Ok(record) = Record::read(&Blob::of_bytes(bytes)) else { return };
    let again = record.blob().and_then(|blob| Record::read(&blob)).expect("a record of our own can be read");
    assert_eq!(again.sets.len(), record.sets.len());
}

/// Reads the lines that Cargo prints.
pub fn step(line: &str) -> bool {
    crate::diagnostics::step(line).is_some()
}
