//! What is said over the edge's control socket: one JSON document a line, one answer a request. The types are the wire
//! format; [`Table`] is also what the edge keeps on disk.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::routing;

/// The value of `schema` in a routing table that this version reads and writes.
pub const SCHEMA: &str = "slipway.edge-table/1";

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
#[serde(tag = "request", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// What is in force, and what is in flight.
    Observe,
    /// Put `table` in force if the present generation is `table.generation - 1`, and keep it on disk first.
    Apply {
        /// The new table.
        table: Table,
    },
    /// Answer when no request is in flight to `slot` any more, or after `timeout_ms`. Refused while a route leads to it.
    Drain {
        /// Name of the slot.
        slot: String,
        /// How long to wait.
        timeout_ms: u64,
    },
    /// Stop accepting, finish what is in flight for at most `timeout_ms`, and exit.
    Stop {
        /// How long to wait.
        timeout_ms: u64,
    },
}

/// The answer to a [`Request`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "response", rename_all = "snake_case", deny_unknown_fields)]
pub enum Response {
    /// To `Observe`.
    Observed(Observed),
    /// To `Apply`: the table is in force and on disk.
    Applied {
        /// Its generation.
        generation: u64,
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
}

/// The edge as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Observed {
    /// Its process id.
    pub pid: u32,
    /// Version of the program.
    pub version: String,
    /// Where it accepts requests.
    pub listen: SocketAddr,
    /// What is in force.
    pub table: Table,
    /// By slot, retired slots with something still in flight included.
    pub slots: BTreeMap<String, SlotCounters>,
}

/// Counters of one slot since it appeared in a table.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
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
}
