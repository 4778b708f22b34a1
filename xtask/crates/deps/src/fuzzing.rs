//! Doors for the fuzz targets of `ci/fuzz`, which only exist there: what they lead to is private.

/// Reads a mangled name.
pub fn symbol(name: &str) -> bool {
    crate::mangled::parse(name).is_some()
}

/// Reads a table of unwind information.
pub fn unwind(section: &[u8], address: u64) -> usize {
    crate::unwind::entries(section, address).len()
}
