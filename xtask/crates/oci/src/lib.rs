//! Images as values: a file tree becomes a layer, layers and a run configuration become an image, an image lies in an
//! OCI image layout. Packing is deterministic: the same tree gives the same bytes on every machine. The crate knows nothing
//! of Cargo, of services or of why an image is made.
//!
//! Invariant: every byte that reaches a digest is written by this crate (tar headers, gzip framing, JSON) or by the one
//! pinned encoder. Whoever changes such a byte raises [`FORMAT`] and the golden digests in the tests.

mod adopt;
mod archive;
mod compress;
mod entries;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gzip;
mod image;
mod index;
mod layer;
mod layout;
mod prune;
mod tar;
mod tree;
mod unpack;
mod visit;

pub use archive::{ArchiveForm, ArchiveLayers, write_archive};
pub use compress::Compression;
pub use entries::Limits;
pub use image::{HealthCheck, Image, ImageSpec};
pub use index::PlatformImage;
pub use layer::Layer;
pub use layout::{Layout, Referrer, Tagged};
pub use prune::Pruned;
pub use tree::{Entry, Source, Tree};
pub use unpack::{RunConfig, Unpacked, unpack, unpack_within};
pub use visit::{LayerFile, visit_files};

/// Version of the bytes that packing gives for one input. It is recorded in every image's configuration.
pub const FORMAT: u32 = 1;
