//! What the edge does with the requests of one route besides passing them on. Everything that is absent changes nothing.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The rules of one route.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// How many requests one client may make.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimit>,
    /// A longer request body is answered 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    /// How long a client may take to send the whole body of a request, before it is answered 408.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// How long the service may take to begin its answer, before it is answered 504; the edge's own limit where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_timeout_ms: Option<u64>,
    /// How long the service may be silent in the midst of an answer before that is cut off. Event streams are exempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence_timeout_ms: Option<u64>,
    /// Headers of answers by name, set where the service has not set them itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// The value of `Strict-Transport-Security`, set in the same way, but over TLS alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hsts: Option<String>,
    /// When streams (WebSocket, event streams) of a slot that no route leads to any more are closed; never by the edge
    /// where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<StreamPolicy>,
}

/// A token bucket for each client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// Requests allowed in each period, evenly.
    pub requests: u32,
    /// The period.
    pub per_ms: u64,
    /// Requests at once that a client which was quiet may make; at least 1.
    pub burst: u32,
    /// The header whose value tells clients apart; their address where absent, or where the request has none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
}

/// When streams of a retired slot are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StreamPolicy {
    /// How long they may go on after the last route left their slot.
    pub max_age_ms: u64,
    /// Over which time after that they are closed, evenly, so that their clients do not all come back at once.
    pub spread_ms: u64,
}
