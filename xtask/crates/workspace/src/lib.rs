//! Facts about a Cargo workspace: its root and configuration, its packages, which of them are services and how each wants to
//! be built and run, and which compiled packages end up in which binary. It reads; it never builds or changes anything.

mod base;
mod cache;
mod cargo;
mod config;
mod deps;
mod discover;
mod graph;
mod include;
mod load;
mod platform;
mod scan;
mod service;
mod services;
mod signing;
mod split;
mod stack;
mod survey;
mod units;

pub use base::{Base, Linkage};
pub use cache::{CacheSettings, LocalCache, RemoteCache};
pub use cargo::{CargoConfig, TestConfig, cargo_home, target_dir};
pub use config::{BuildSettings, ImageSettings, Settings, TestGroup, TestSettings};
pub use deps::{Budget, DepsSettings};
pub use discover::{Binary, Discovery, LeftOut};
pub use graph::{GraphUnit, UnitGraph, UnitTarget};
pub use include::configuration_files;
pub use load::{Network, Service, Workspace, locate, slipway_dir};
pub use platform::{Compression, ParsePlatformError, Platform};
pub use scan::{AdvisorySettings, ImageLimits, LicenceException, LicenceSettings, ScanSettings};
pub use service::{
    Asset, EnvKind, EnvVar, Health, Http, Image, Resources, Route, ServiceConfig, Stop, Volume,
};
pub use services::ServiceEntry;
pub use signing::{KeySource, SigningSettings};
pub use split::{Split, Unit, split};
pub use stack::{DebianSettings, StackBase, StackImage, StackUser};
pub use survey::Survey;
pub use units::{Closure, Closures};
