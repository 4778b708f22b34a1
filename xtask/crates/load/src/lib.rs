//! The judge of lost requests: sends requests at a fixed rate whatever the server does, records what became of each, and
//! never sends one twice. It does not know who serves. The invariant: a request that was not answered in full and with
//! success is in the report as lost.
//!
//! An answer whose length neither `Content-Length` nor chunks tell ends when its connection does; that it was cut off is
//! then invisible to any client, so a server under judgement should not send such answers.

mod client;
mod plan;
mod report;
mod run;

pub use plan::{ConnectionUse, Plan, Profile, Stop};
pub use report::{Latency, LedgerVerdict, Loss, Outcome, ProfileReport, Report, SCHEMA, ServedBy};
pub use run::run;
