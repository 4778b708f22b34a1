//! Facts about a Cargo workspace: its root and configuration, its packages, which of them are services and how each wants to
//! be built and run, and which compiled packages end up in which binary. It reads; it never builds or changes anything.

mod config;
mod load;
mod service;
mod split;

pub use config::{BuildSettings, ImageSettings, Settings};
pub use load::{CargoConfig, Service, Workspace, locate, target_dir};
pub use service::{
    Asset, EnvKind, EnvVar, Health, Http, Image, Resources, Route, ServiceConfig, Stop, Volume,
};
pub use split::{Split, Unit, split};
