//! What is said over the edge's control socket: one JSON document a line, one answer a request. The types are the wire
//! format; [`Table`] is also what the edge keeps on disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::routing;

mod bake;
mod policy;

pub use bake::{Bake, BakeReport, BakeState, Cause, Figures, Rules};
pub use policy::{Policy, RateLimit, StreamPolicy};

/// The value of `schema` in a routing table that this version writes.
pub const SCHEMA: &str = "slipway.edge-table/2";

/// Schemas of tables on disk that this version reads; what they lack is absent.
pub(crate) const READ_SCHEMAS: [&str; 2] = [SCHEMA, "slipway.edge-table/1"];

/// All routes of the edge. It is replaced as a whole: no request ever sees half of two tables.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Rises by one with every table that the edge accepts; 0 is the empty table of a new edge.
    pub generation: u64,
    /// Tried from the most specific to the least: an exact host before any host, a longer path prefix before a shorter one.
    pub routes: Vec<Route>,
    /// The places that requests go to, by slot name.
    pub slots: BTreeMap<String, Slot>,
    /// Other routes for requests that know a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<Preview>,
    /// Whether each request becomes a line of `access.log` in the state folder.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<AccessLog>,
}

/// Routes that a request takes when a header of it has the right value. The header is not passed on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preview {
    /// Name of the header, in lower case.
    pub header: String,
    /// Digest of its value: the value itself is nowhere kept.
    pub value: Digest,
    /// Take the place of the table's routes.
    pub routes: Vec<Route>,
}

/// A file with a line for each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AccessLog {
    /// A longer file is kept under another name and a new one begun.
    pub max_bytes: u64,
    /// Former files that are kept.
    pub keep: u32,
    /// Whether the query is written, which may hold what is nobody's business.
    #[serde(default)]
    pub query: bool,
}

/// The empty table of a new edge.
impl Default for Table {
    fn default() -> Table {
        Table {
            schema: SCHEMA.into(),
            generation: 0,
            routes: Vec::new(),
            slots: BTreeMap::new(),
            preview: None,
            access_log: None,
        }
    }
}

impl Table {
    /// Whether requests can be routed by this table: what the edge checks before it puts one in force, without the
    /// generation.
    ///
    /// # Errors
    /// The first reason why not, for people.
    pub fn check(&self) -> Result<(), String> {
        routing::check(self).map_err(|error| format!("{error:#}"))
    }
}

/// Requests for a host below a path prefix go to a slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Host name without port, compared without regard to case; any host where `None`.
    pub host: Option<String>,
    /// Begins with `/`; matches whole path segments: `/a` matches `/a` and `/a/b`, not `/ab`.
    pub path_prefix: String,
    /// Whether the prefix is removed before the request is passed on.
    pub strip_prefix: bool,
    /// A key of [`Table::slots`].
    pub slot: String,
    /// What else is done with its requests.
    #[serde(default, skip_serializing_if = "is_default")]
    pub policy: Policy,
}

fn is_default(policy: &Policy) -> bool {
    *policy == Policy::default()
}

/// One running release of one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// The service that runs here; shown in logs and answers.
    pub service: String,
    /// Where its processes listen; requests take turns.
    pub upstreams: Vec<SocketAddr>,
}

/// A question or an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// One lives at a time, and not for long.
#[allow(clippy::large_enum_variant)]
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is in force, and what is in flight.
    Observe,
    /// Put `table` in force if the present generation is `table.generation - 1`, and keep it on disk first.
    Apply {
        /// The new table.
        table: Table,
        /// Watch the new slots for a while, and go back to the routes of before when they do worse.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        bake: Option<Bake>,
    },
    /// End the bake now: the new slots stay.
    Finish,
    /// End the bake now: the former routes are put in force again.
    Revert,
    /// Hold new requests to services until `Resume`, and answer when none is in flight any more, or after `drain_ms`.
    Pause {
        /// Names of services.
        services: Vec<String>,
        /// How long each request is held before it is answered 503.
        hold_ms: u64,
        /// How many are held for each service; the others are answered 503 at once.
        max_held: u32,
        /// How long to wait for what is in flight.
        drain_ms: u64,
        /// When the pause ends without a `Resume`.
        end_after_ms: u64,
    },
    /// Let the requests to services pass again, in the order in which they came.
    Resume {
        /// Names of services.
        services: Vec<String>,
    },
    /// All figures as text in the format of Prometheus.
    Metrics,
    /// Answer when no request is in flight to `slot` any more, or after `timeout_ms`. Refused while a route leads to it.
    Drain {
        /// Name of the slot.
        slot: String,
        /// How long to wait.
        timeout_ms: u64,
        /// Whether to wait for upgraded connections as well.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        streams: bool,
    },
    /// Stop accepting, finish what is in flight for at most `timeout_ms`, and exit.
    Stop {
        /// How long to wait.
        timeout_ms: u64,
    },
    /// Give the state folder and the listening sockets to the edge that asks. Refused to an edge of an older instance. This
    /// edge serves on until [`Request::Serving`] comes on the same connection, and keeps everything when it does not.
    HandOver {
        /// The instance of the edge that asks.
        instance: u64,
    },
    /// After [`Response::HandedOver`]: the other edge is ready. This one accepts nothing new and ends with its last connection.
    Serving,
    /// Read the certificates again.
    Reload,
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
// One lives at a time, and not for long.
#[allow(clippy::large_enum_variant)]
#[serde(tag = "response", rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// To `Observe`.
    Observed(Observed),
    /// To `Apply`: the table is in force and on disk.
    Applied {
        /// Its generation.
        generation: u64,
    },
    /// To `Finish` and `Revert`: how the bake ended.
    Baked(BakeReport),
    /// To `Pause`.
    Paused {
        /// Requests to the paused services that are still in flight: 0 unless time ran out.
        in_flight: u64,
        /// Upgraded connections to them, which are not paused.
        streams: u64,
    },
    /// To `Resume`.
    Resumed {
        /// Requests that were held and go on.
        released: u64,
    },
    /// To `Metrics`.
    Metrics {
        /// Lines of the exposition format.
        text: String,
    },
    /// To `Drain`.
    Drained {
        /// Requests still in flight: 0 unless time ran out.
        in_flight: u64,
        /// Upgraded connections (WebSocket) still open.
        streams: u64,
    },
    /// To `Stop`.
    Stopping,
    /// To `HandOver`, with descriptors: the lock of the state folder, then the listening sockets.
    HandedOver {
        /// The table in force.
        table: Table,
    },
    /// To `Serving`.
    Retiring,
    /// To `Reload`: these are in force.
    Reloaded {
        /// How many certificates.
        certificates: usize,
    },
    /// The request was understood and not carried out; nothing changed.
    Refused {
        /// Why.
        reason: Refusal,
        /// The same for people.
        message: String,
    },
}

/// Why a request was not carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The line was not a request that this version knows.
    Malformed,
    /// Another table came first.
    StaleGeneration,
    /// A route to an unknown slot, a slot without upstreams, or a bad prefix.
    InvalidTable,
    /// The table could not be kept on disk, so it was not put in force.
    NotDurable,
    /// The slot is still routed to, or unknown.
    SlotInUse,
    /// There is no bake that could be ended, or one with slots that are not there.
    InvalidBake,
    /// A pause of an unknown service, or for a time that is too long.
    InvalidPause,
    /// The edge that asks is older than the one that serves.
    Superseded,
    /// This edge is stopping, or has handed over already.
    Stopping,
    /// A certificate or its key cannot be used; those in force stay.
    BadCertificate,
}

/// The edge as it is. Unknown members are passed over: whoever asks may be older than the edge.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Observed {
    /// Its process id.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// Where it accepts requests first of all.
    pub listen: SocketAddr,
    /// Rises with each edge that took the place of another one.
    #[serde(default)]
    pub instance: u64,
    /// The file of its program; `None` where the system does not tell.
    #[serde(default)]
    pub program: Option<Program>,
    /// Digest of the options that it was started with; `None` where they came from no file.
    #[serde(default)]
    pub options: Option<String>,
    /// Edges that handed over to this one and finish what they have in flight. It is part of the counters of `slots`.
    #[serde(default)]
    pub retired: Vec<Retired>,
    /// Connections of clients, upgraded ones included.
    #[serde(default)]
    pub connections: u64,
    /// What is in force.
    pub table: Table,
    /// By slot, retired slots with something still in flight included.
    pub slots: BTreeMap<String, SlotCounters>,
    /// The same of the last minute alone.
    #[serde(default)]
    pub recent: BTreeMap<String, SlotCounters>,
    /// The last bake that was ordered.
    #[serde(default)]
    pub bake: Option<BakeReport>,
    /// Services whose requests are held, and how many are.
    #[serde(default)]
    pub paused: BTreeMap<String, u64>,
}

/// One file of a program: another build of it is another file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Device of its file system.
    pub device: u64,
    /// Number in its file system.
    pub inode: u64,
    /// Length in bytes.
    pub size: u64,
    /// Last change of its content, in seconds since 1970 and nanoseconds of the second.
    pub modified: (i64, i64),
}

impl Program {
    /// The file at `path`; `None` where there is none.
    pub fn at(path: impl AsRef<Path>) -> Option<Program> {
        let data = std::fs::metadata(path).ok()?;
        let modified = (data.mtime(), data.mtime_nsec());
        Some(Program { device: data.dev(), inode: data.ino(), size: data.len(), modified })
    }
}

/// An edge that accepts nothing new and finishes what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// Its process id.
    pub pid: u32,
    /// Connections of clients that it still has; `None` where it did not answer.
    pub connections: Option<u64>,
}

/// Counters of one slot since it appeared in a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotCounters {
    /// Requests whose answer is not complete yet.
    pub in_flight: u64,
    /// Upgraded connections that are open.
    pub streams: u64,
    /// Requests passed on in all.
    pub requests: u64,
    /// Answers of the service with a status from 500 to 599, and requests that it took and did not answer to the end.
    pub server_errors: u64,
    /// Requests that could not be sent: answered 502 by the edge.
    pub connect_errors: u64,
    /// Answers by the first digit of their status: 100 to 199, and so on; what is above counts as the last.
    #[serde(default)]
    pub statuses: [u64; 5],
    /// Requests that the service took and did not answer to the end; counted in `server_errors` too.
    #[serde(default)]
    pub early_ends: u64,
    /// Requests that could not be sent here and went to the slot before, during a bake.
    #[serde(default)]
    pub rescued: u64,
    /// From the last byte of the request to the head of the answer.
    #[serde(default)]
    pub first_byte: Latency,
    /// From the head of the request to the end of the answer.
    #[serde(default)]
    pub total: Latency,
}

impl SlotCounters {
    /// Counts what another edge has counted as well. Of latencies those of this edge stay: they cannot be added.
    pub(crate) fn add(&mut self, other: &SlotCounters) {
        let pairs = [
            (&mut self.in_flight, other.in_flight),
            (&mut self.streams, other.streams),
            (&mut self.requests, other.requests),
            (&mut self.server_errors, other.server_errors),
            (&mut self.connect_errors, other.connect_errors),
            (&mut self.early_ends, other.early_ends),
            (&mut self.rescued, other.rescued),
        ];
        pairs.into_iter().for_each(|(sum, more)| *sum += more);
        self.statuses.iter_mut().zip(other.statuses).for_each(|(sum, more)| *sum += more);
    }
}

/// How long things took, within a fifth.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// How many were measured.
    pub count: u64,
    /// Half of them took no longer.
    pub p50_us: u64,
    /// Nine of ten.
    pub p90_us: u64,
    /// 99 of 100.
    pub p99_us: u64,
}
