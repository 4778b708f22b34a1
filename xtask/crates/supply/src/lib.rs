//! What software is made of and how it was made, as documents that other tools read and as signed statements. Documents are
//! values of their input alone: no clock, no random number, no name of the machine. The crate knows neither registries nor
//! where keys are kept.
//!
//! Invariant: nothing that was read from a signed statement counts before its signature was checked.

mod about;
mod audit;
mod bundle;
mod component;
mod cyclonedx;
mod judge;
mod key;
mod licence;
mod provenance;
mod spdx;
mod statement;

pub use about::{About, Detail};
pub use audit::audit;
pub use bundle::{BUNDLE, MAX_BUNDLE, Rejected, sign, verify};
pub use component::{Component, Ecosystem, Hash, Use};
pub use cyclonedx::{Sbom, cyclonedx};
pub use judge::{Attached, Check, Expected, Named, Outcome, Verdict, judge, judge_index};
pub use key::{PublicKey, SigningKey};
pub use provenance::{
    BUILD_TYPE, Builder, Commit, Definition, LOCAL_BUILDER, PACKAGES_TYPE, Provenance, Resource, Run,
    dependencies,
};
pub use spdx::spdx;
pub use statement::{Statement, Subject, predicate};
