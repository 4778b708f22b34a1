//! The Docker engine's API as typed capabilities: images without a registry, hardened containers, networks, volumes, secrets, events.
//! The crate knows nothing of services, slots or releases: what a name or a label means is the caller's business.
//!
//! Invariant: nothing counts because the engine was asked for it. An image is the one that was meant when its id says so, a container
//! has what it was given when the engine honoured every part of it; otherwise there is an error, and nothing is left behind.
//!
//! Callers use threads; that the library below is asynchronous does not show.

mod container;
mod endpoint;
mod engine;
mod error;
mod events;
mod facts;
mod image;
mod logs;
mod network;
mod once;
mod restart;
mod retention;
mod secrets;
mod spec;
mod ssh;
mod transfer;
mod volume;

pub use container::{Container, Created, Health, Listed, Phase, Stopped};
pub use endpoint::{Endpoint, Environment};
pub use engine::{Connect, Engine};
pub use error::{Error, Result};
pub use events::{Event, Happening, Watch, Watched};
pub use facts::{CanLimit, Facts, MemoryFolder, Store};
pub use image::{Image, RegistryLogin};
pub use logs::{Line, LogQuery, Stream};
pub use network::{Egress, Network, NetworkSpec};
pub use once::{Ended, Ending, OutputBound};
pub use retention::{Inventory, Kept, Removed};
pub use secrets::{Secret, SecretValue};
pub use spec::{
    Access, Attachment, Command, ContainerSpec, DEFAULT_UID, HealthCheck, Limits, LogRotation, Mount,
    MountSource, Restart, RootFilesystem, User,
};
pub use transfer::{Transfer, TransferKind};
pub use volume::{Volume, VolumeSpec};

use std::collections::BTreeMap;

/// Names and values that an engine keeps with what it has, and by which it finds it again.
pub type Labels = BTreeMap<String, String>;
