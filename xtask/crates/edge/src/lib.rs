//! The switch point: a small reverse proxy whose routes change atomically, without a request lost. It is told its routes
//! over a control socket ([`control`], [`client`]) and knows nothing of releases, health or who deploys what. The
//! invariant: a slot that left the table and was drained is never sent anything again.

mod body;
pub mod client;
pub mod control;
mod error;
#[cfg(fuzzing)]
#[doc(hidden)]
pub mod fuzzing;
mod gauge;
mod headers;
mod live;
mod log;
mod proxy;
mod routing;
mod server;
mod socket;
mod stall;
mod store;
mod upstream;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use server::serve;
pub use store::CONTROL_SOCKET;

/// How an edge runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where requests are accepted; port 0 takes a free one, which `observe` tells.
    pub listen: SocketAddr,
    /// The folder of `table.json`, `control.sock` and `edge.pid`: one edge's own, created where it is missing.
    pub state_dir: PathBuf,
    /// Whether each request becomes a line on standard error.
    pub access_log: bool,
    /// Whether `Forwarded` and `X-Forwarded-*` of requests are kept and added to. Only right behind a proxy that sets
    /// them: anybody can send them.
    pub trust_forwarded: bool,
    /// Client connections at once; others wait in the backlog. Less where the system allows fewer open files.
    pub max_connections: usize,
    /// How long a new connection may take to send its first request head.
    pub head_timeout: Duration,
    /// How long a request may look for an upstream that it can be sent to, before it is answered 502.
    pub send_timeout: Duration,
    /// How long a service may take to begin its answer once it has the request, before that is answered 504.
    pub answer_timeout: Duration,
    /// How long a client may leave a transfer standing, before its connection is closed: not read what is ready for it, or
    /// not go on with a body that it began. A service may be silent for as long as it likes between parts of its answer.
    pub stall_timeout: Duration,
    /// How long in-flight requests get when the edge is stopped by a signal.
    pub stop_timeout: Duration,
}

impl Options {
    /// The usual limits.
    pub fn new(listen: SocketAddr, state_dir: impl Into<PathBuf>) -> Options {
        Options {
            listen,
            state_dir: state_dir.into(),
            access_log: false,
            trust_forwarded: false,
            max_connections: 10_000,
            head_timeout: Duration::from_secs(10),
            send_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_secs(30),
        }
    }
}
