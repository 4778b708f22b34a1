//! What was built before, by the digest of everything it was built from: on this machine, in a folder, in a registry. The crate
//! knows nothing of Cargo or images. Invariant: an entry is used only whole and with the content it was stored with; anything
//! else counts as missing.

mod archive;
mod blob;
mod folder;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod layered;
mod remote;

pub use archive::{Limits, pack, unpack};
pub use blob::Blob;
pub use folder::{Folder, Usage};
pub use key::{Key, Kind};
pub use layered::{Access, Layered, Mode};
pub use remote::Remote;

use anyhow::Result;

/// Where entries are kept.
pub trait Store: Send + Sync {
    /// What users know it by.
    fn name(&self) -> &str;

    /// The entry of this key, compared with the digest that it was stored with.
    ///
    /// # Errors
    /// When the store cannot be asked; a damaged entry is no error.
    fn get(&self, key: &Key) -> Result<Found>;

    /// Whether there is an entry of this key, by its name alone.
    fn holds(&self, key: &Key) -> Result<bool>;

    /// Keeps an entry. Another run that looks meanwhile finds it whole or not at all.
    fn put(&self, key: &Key, content: &Blob) -> Result<()>;

    /// Forgets an entry; it may be missing.
    fn remove(&self, key: &Key) -> Result<()>;
}

/// What a store has under a key.
#[derive(Debug, Clone)]
pub enum Found {
    /// The entry, as it was stored.
    Whole(Blob),
    /// Nothing.
    Missing,
    /// Something that is not what was stored under this key, and what is wrong with it.
    Damaged(String),
}
