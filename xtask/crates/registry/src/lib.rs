//! A client of registries that speak the OCI distribution protocol: blobs, manifests, tags and referrers. It knows nothing of
//! what the blobs mean. Invariant: what a registry sends counts only after its digest was compared.
//!
//! Source: OCI distribution-spec 1.1; Docker's token protocol ("Token Authentication Specification").

mod auth;
mod blob;
mod challenge;
mod client;
mod credentials;
mod document;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod link;
#[cfg(test)]
mod mutated;
mod options;
mod pull;
mod push;
mod reference;
mod referrers;
mod repository;
mod retry;
mod said;
mod tls;
mod upload;

pub use blob::Transfer;
pub use error::Error;
pub use options::Options;
pub use pull::{pull, pull_with};
pub use push::{Plan, PlannedBlob, Push, Pushed, push};
pub use reference::{ParseReferenceError, Reference};
pub use repository::{Manifest, Registry, Repository};
pub use said::{ByContent, Says};

/// Takes what happens during a transfer, from several threads.
pub trait Progress: Sync {
    /// So many bytes will be moved, beyond what was announced before.
    fn announced(&self, bytes: u64);
    /// So many bytes more were moved.
    fn moved(&self, bytes: u64);
    /// A thing worth a line: what was sent, mounted or found there already.
    fn done(&self, what: &str);
}

/// Shows nothing.
#[derive(Debug, Clone, Copy)]
pub struct Silent;

impl Progress for Silent {
    fn announced(&self, _: u64) {}
    fn moved(&self, _: u64) {}
    fn done(&self, _: &str) {}
}
