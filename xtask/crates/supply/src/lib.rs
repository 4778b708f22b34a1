//! What software is made of, as documents that other tools read. So far: components and the CycloneDX SBOM. Documents are
//! values of their input alone: no clock, no random number, no name of the machine.

mod audit;
mod component;
mod cyclonedx;

pub use audit::audit;
pub use component::{Component, Ecosystem, Hash, Use};
pub use cyclonedx::{Sbom, cyclonedx};
