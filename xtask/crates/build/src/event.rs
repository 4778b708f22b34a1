//! What happens while a plan runs, for whoever shows it.

/// Something that happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Another build of this workspace runs; this one waits for it.
    Waiting,
    /// Cargo starts; `units` is how many compilations it will report, as far as earlier builds tell.
    CompileStarted {
        /// Expected number of compilations.
        units: usize,
    },
    /// One compilation is done.
    Compiled {
        /// Name of the package.
        package: String,
        /// Whether the result was there already.
        fresh: bool,
    },
    /// A line that a compiler or build script wrote for people.
    Diagnostic(String),
    /// All compilations are done.
    CompileFinished {
        /// How many there were.
        units: usize,
        /// How many of them had to be run.
        compiled: usize,
    },
    /// So much of an image that a base names is here.
    Fetching {
        /// Its name in a registry.
        image: String,
        /// Bytes that are here; none in the first event.
        bytes: u64,
        /// Bytes of all that is fetched.
        of: u64,
    },
    /// A service's image is in the layout.
    Packed {
        /// Name of the service.
        service: String,
    },
}

/// Takes events as they happen, from several threads.
pub trait Reporter: Sync {
    /// Takes one event.
    fn event(&self, event: Event);
}
