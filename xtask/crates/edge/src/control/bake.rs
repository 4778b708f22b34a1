//! What is agreed on, and told, about the time after a switch in which the edge can still go back by itself.

use serde::{Deserialize, Serialize};

/// A watch over new slots, given together with the table that leads to them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bake {
    /// Slots that served so far and are kept running: those of the table in force.
    pub from: Vec<String>,
    /// Slots that are watched: those of the new table. One is compared with the slot of the same service in `from`.
    pub to: Vec<String>,
    /// How long.
    pub for_ms: u64,
    /// What makes the edge go back.
    pub rules: Rules,
}

/// What makes the edge go back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rules {
    /// Requests that a slot must have had before its record says anything.
    pub min_requests: u64,
    /// Errors of a thousand requests that are no reason to go back. A service without a record of its own to compare with
    /// must not have significantly more; one with a record must have significantly more than that, too.
    pub max_errors_per_mille: u32,
    /// Probability, of a thousand, that a release as good as the one before is taken back, for each kind of rule over the
    /// whole time. What is "significant" follows from it.
    pub false_rollbacks_per_mille: u32,
    /// How much slower than before 99 of 100 answers may begin, in percent; absent: latency is no reason.
    pub max_slowdown_percent: Option<u32>,
    /// Answers that begin within this time are never too slow.
    pub fast_enough_ms: u64,
    /// How long after the switch slow answers are forgiven: caches fill, connections are opened.
    pub warm_up_ms: u64,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules {
            min_requests: 20,
            max_errors_per_mille: 20,
            false_rollbacks_per_mille: 10,
            max_slowdown_percent: Some(300),
            fast_enough_ms: 100,
            warm_up_ms: 2000,
        }
    }
}

/// The last bake that was ordered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BakeReport {
    /// Generation of the table that came with it.
    pub generation: u64,
    /// How it stands.
    pub state: BakeState,
    /// Why it ended as it did, for people; empty while it lasts.
    pub reason: String,
    /// What was compared, one for each slot that is watched.
    pub figures: Vec<Figures>,
}

/// How a bake stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case", deny_unknown_fields)]
pub enum BakeState {
    /// It lasts.
    Baking {
        /// For so much longer.
        left_ms: u64,
    },
    /// Its time is over and nothing spoke against the new slots.
    Passed,
    /// It was ended by an order; the new slots stay.
    Finished,
    /// The former routes are in force again.
    Reverted {
        /// Since this generation.
        generation: u64,
        /// By the edge, or by an order.
        cause: Cause,
    },
    /// The new slots failed and there is nothing to go back to: no route was in force before.
    Failed {
        /// How.
        cause: Cause,
    },
    /// Another table was put in force.
    Superseded,
}

/// Why the edge goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// No process of a new slot takes connections.
    Unreachable,
    /// Too many errors.
    Errors,
    /// Answers begin too late.
    Latency,
    /// It was told to.
    Asked,
}

/// What is known of a new slot and of the one before.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// The new slot.
    pub slot: String,
    /// The slot of the same service that served before.
    pub before: Option<String>,
    /// Since the switch, what could not be sent included.
    pub requests: u64,
    /// Of those: answers from 500 to 599, none at all, cut off, or not sent.
    pub errors: u64,
    /// 99 of 100 answers began within this time.
    pub p99_us: u64,
    /// The same of the slot before, in the minutes before the switch.
    pub before_requests: u64,
    /// Its errors.
    pub before_errors: u64,
    /// Its time.
    pub before_p99_us: u64,
    /// Whether there were requests enough to say anything.
    pub is_judged: bool,
}
