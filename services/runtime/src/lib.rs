//! What every service needs around its real work: configuration, structured logs, health, graceful shutdown, an
//! HTTP server with limits, and errors as problem documents.
//!
//! It does not know what any service does. Whatever reads clock, environment or signals does so at the rim
//! ([`program`], [`config::Source::load`]); the rest is handed its input.

pub mod build_info;
pub mod config;
pub mod extract;
pub mod health;
pub mod healthcheck;
pub mod logs;
pub mod middleware;
pub mod problem;
pub mod program;
pub mod request_id;
pub mod server;
pub mod settings;
pub mod shutdown;

pub use build_info::BuildInfo;
pub use health::Health;
pub use problem::{Problem, Violations};
pub use settings::Common;
pub use shutdown::Shutdown;
