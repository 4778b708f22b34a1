//! The switch point: a small reverse proxy whose routes change atomically, without a request lost. It is told its routes
//! over a control socket ([`control`], [`client`]) and knows nothing of releases, health or who deploys what. The
//! invariant: a slot that left the table and was drained is never sent anything again.

mod access;
mod admin;
mod bake;
mod body;
pub mod client;
mod connection;
pub mod control;
mod counters;
mod doors;
mod error;
mod events;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gauge;
mod handover;
mod headers;
mod histogram;
mod http2;
mod limit;
mod live;
mod log;
mod metrics;
mod options;
mod pause;
mod policy;
mod proxy;
mod redirect;
mod routing;
mod server;
mod socket;
mod stall;
mod statistics;
mod store;
mod stream;
mod switch;
mod tls;
mod upstream;
mod watch;
mod websocket;

pub use handover::{Keeping, MAX_KEEPING_BYTES};
pub use options::{CertificateFiles, Listener, Options, OptionsFile, Protocol, SCHEMA as OPTIONS_SCHEMA};
pub use server::serve;
pub use store::{CONTROL_SOCKET, LONGEST_SOCKET};
