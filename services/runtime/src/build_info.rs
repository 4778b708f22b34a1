//! What was built: name, version and, where the build provides it, the revision of the source. No time stamp and
//! no path, so that equal sources give equal bytes.

/// Identity of a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BuildInfo {
    /// Name of the service.
    pub name: &'static str,
    /// Version of its package.
    pub version: &'static str,
    /// Revision of its source: the value of `BUILD_REVISION` while it was compiled.
    pub revision: Option<&'static str>,
}

impl BuildInfo {
    /// The identity of a service of this workspace.
    pub const fn new(name: &'static str, version: &'static str) -> Self {
        Self { name, version, revision: option_env!("BUILD_REVISION") }
    }

    /// Version and revision as one word, such as `0.1.0+3f2a91c`.
    pub fn release(&self) -> String {
        match self.revision {
            Some(revision) => format!("{}+{revision}", self.version),
            None => self.version.to_owned(),
        }
    }
}
