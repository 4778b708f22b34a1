//! The settings that all services share.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use tracing::Level;

use crate::build_info::BuildInfo;
use crate::config::Reader;
use crate::logs::LEVELS;

/// Settings of every service.
#[derive(Debug, Clone)]
pub struct Common {
    /// Sent as `x-release` with every answer, so that a client can tell which release answered.
    pub release: String,
    /// The HTTP listener.
    pub http: Http,
    /// Least severe level that is logged.
    pub log_level: Level,
}

/// The HTTP listener and its limits.
#[derive(Debug, Clone)]
pub struct Http {
    /// Address to listen on.
    pub host: IpAddr,
    /// Port to listen on; 0 lets the system choose.
    pub port: u16,
    /// After this a request is answered 504.
    pub request_timeout: Duration,
    /// Connections beyond this wait to be accepted.
    pub max_connections: usize,
    /// How long a stopping process still accepts while it already answers that it is not ready.
    pub drain_delay: Duration,
    /// How long requests in flight may take to finish after that.
    pub shutdown_grace: Duration,
}

impl Common {
    /// Reads the shared settings.
    pub fn read(reader: &mut Reader<'_>, build: &BuildInfo, port: u16) -> Self {
        let release = reader.text("release", &build.release());
        if !release.bytes().all(|byte| byte.is_ascii_graphic()) || release.len() > 128 {
            reader.refuse("release", "must be up to 128 printable ASCII characters without a space");
        }
        Self {
            release,
            http: Http::read(reader, port),
            log_level: reader.choice("log.level", "info", &LEVELS),
        }
    }
}

impl Http {
    fn read(reader: &mut Reader<'_>, port: u16) -> Self {
        Self {
            host: reader.parsed("http.host", Ipv4Addr::LOCALHOST.into(), "an IP address"),
            port: reader.parsed("http.port", port, "a port number"),
            request_timeout: reader.milliseconds("http.request_timeout_ms", 30_000, 100..=600_000),
            max_connections: reader.integer("http.max_connections", 2048, 1..=100_000) as usize,
            drain_delay: reader.milliseconds("http.drain_delay_ms", 0, 0..=60_000),
            shutdown_grace: reader.milliseconds("http.shutdown_grace_ms", 15_000, 0..=600_000),
        }
    }
}
