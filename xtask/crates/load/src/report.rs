//! What became of the requests.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

/// The value of `schema` in a report that this version writes.
pub const SCHEMA: &str = "slipway.load-report/1";

/// The outcome of one run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Where requests went.
    pub target: String,
    /// From the first request to the last answer.
    pub duration_ms: u64,
    /// Requests begun.
    pub sent: u64,
    /// Requests answered in full with a status below 400.
    pub ok: u64,
    /// The others.
    pub lost: u64,
    /// Requests that were due and not begun, because too many were in flight: the generator was overrun.
    pub skipped: u64,
    /// The longest delay between the moment a request was due and the moment it began: how honest the rate is.
    pub max_lag_us: u64,
    /// By profile name.
    pub profiles: BTreeMap<String, ProfileReport>,
    /// The first lost requests in the order in which they were found lost.
    pub losses: Vec<Loss>,
    /// By value of the header that says which release answered; answers without it are not counted.
    pub served_by: BTreeMap<String, ServedBy>,
    /// Ids of requests that were answered in full with success, in the order of the answers.
    pub acknowledged: Vec<String>,
}

/// The part of one profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProfileReport {
    /// Requests begun.
    pub sent: u64,
    /// How many ended how; the key is [`Outcome::label`].
    pub outcomes: BTreeMap<String, u64>,
    /// Of the requests that were answered with success, from the moment they were due.
    pub latency: Latency,
}

/// Percentiles, in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Latency {
    /// Half of the requests took at most this long.
    pub p50_us: u64,
    /// 99 of 100 requests took at most this long.
    pub p99_us: u64,
    /// The slowest.
    pub max_us: u64,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// Answered in full with a status below 400.
    Ok {
        /// The status.
        status: u16,
    },
    /// Answered in full with a status from 400.
    HttpError {
        /// The status.
        status: u16,
    },
    /// No connection.
    ConnectError,
    /// The connection was reset, or was found closed by a client that does not look, before an answer began.
    Reset,
    /// The connection ended in good order before the head of the answer was complete.
    EarlyEof,
    /// The answer began and its body did not come to its end.
    Truncated,
    /// No complete answer in time.
    Timeout,
    /// What came is not HTTP.
    Malformed,
}

/// One lost request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loss {
    /// Name of the profile.
    pub profile: String,
    /// When the request was due, from the start of the run.
    pub due_ms: u64,
    /// When it was found lost, from the start of the run.
    pub lost_ms: u64,
    /// Method and target.
    pub request: String,
    /// Its id, where it had one.
    pub id: Option<String>,
    /// How it ended.
    #[serde(flatten)]
    pub outcome: Outcome,
    /// The error, or the beginning of the answer.
    pub detail: String,
}

/// What one release answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServedBy {
    /// Answers.
    pub count: u64,
    /// Time of the first one, from the start of the run.
    pub first_ms: u64,
    /// Time of the last one.
    pub last_ms: u64,
}

/// What a comparison with the server's ledger found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LedgerVerdict {
    /// Acknowledged, and not in the ledger.
    pub missing: Vec<String>,
    /// More than once in the ledger.
    pub duplicated: Vec<String>,
}

impl Report {
    /// Whether every request that was due was sent and answered with success. A run without requests proves nothing.
    pub fn is_lossless(&self) -> bool {
        self.sent > 0 && self.lost == 0 && self.skipped == 0
    }

    /// Compares the acknowledged ids with those that the server recorded, in any order. An id that is recorded and not
    /// acknowledged is no fault: its answer may be what was lost.
    pub fn check_ledger<I: AsRef<str>>(&self, ledger: impl IntoIterator<Item = I>) -> LedgerVerdict {
        let (mut recorded, mut duplicated) = (BTreeSet::new(), BTreeSet::new());
        for id in ledger {
            let id = id.as_ref().to_owned();
            if !recorded.insert(id.clone()) {
                duplicated.insert(id);
            }
        }
        let missing = self.acknowledged.iter().filter(|id| !recorded.contains(*id)).cloned().collect();
        LedgerVerdict { missing, duplicated: duplicated.into_iter().collect() }
    }
}

impl LedgerVerdict {
    /// Whether the ledger holds every acknowledged id, and none twice.
    pub fn is_clean(&self) -> bool {
        self.missing.is_empty() && self.duplicated.is_empty()
    }
}

impl Outcome {
    /// Whether the request was served.
    pub fn is_ok(self) -> bool {
        matches!(self, Outcome::Ok { .. })
    }

    /// The outcome in one word, with the status where there is one.
    pub fn label(self) -> String {
        match self {
            Outcome::Ok { status } => format!("ok_{status}"),
            Outcome::HttpError { status } => format!("http_error_{status}"),
            Outcome::ConnectError => "connect_error".into(),
            Outcome::Reset => "reset".into(),
            Outcome::EarlyEof => "early_eof".into(),
            Outcome::Truncated => "truncated".into(),
            Outcome::Timeout => "timeout".into(),
            Outcome::Malformed => "malformed".into(),
        }
    }
}

impl Latency {
    /// Of the given times, which are sorted here.
    pub(crate) fn of(times_us: &mut [u64]) -> Latency {
        times_us.sort_unstable();
        // Nearest rank: the smallest time that at least that share of all times does not exceed.
        let at = |percent: usize| {
            times_us.get((times_us.len() * percent).div_ceil(100).saturating_sub(1)).copied()
        };
        let percentile = |percent| at(percent).unwrap_or_default();
        Latency { p50_us: percentile(50), p99_us: percentile(99), max_us: percentile(100) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_by_nearest_rank() {
        assert_eq!(Latency::of(&mut []), Latency::default());
        assert_eq!(Latency::of(&mut [7]), Latency { p50_us: 7, p99_us: 7, max_us: 7 });
        let mut times: Vec<u64> = (1..=200).rev().collect();
        assert_eq!(Latency::of(&mut times), Latency { p50_us: 100, p99_us: 198, max_us: 200 });
    }
}
