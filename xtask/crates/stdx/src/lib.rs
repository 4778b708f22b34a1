//! What every other crate stands on: content digests, canonical JSON, commands as values, descriptors over sockets, and file
//! operations whose errors name the path. It knows nothing of Cargo, images or deployments.

mod cmd;
pub mod descriptors;
mod digest;
pub mod fs;
pub mod json;
pub mod threads;
mod tied;
pub mod time;
pub mod trust;
pub mod yaml;

pub use cmd::Cmd;
pub use digest::{Digest, DigestWriter, ParseDigestError};
pub use tied::{Tied, kill_tied};
