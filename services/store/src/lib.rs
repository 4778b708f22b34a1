//! Jobs, their results and the durable queue, in one SQLite file that several processes of several releases share.
//!
//! It does not know what jobs do. The invariants: a job is run by whoever holds its lease, named by job and attempt;
//! every write that carries a stale lease changes nothing; a result exists exactly when its job has succeeded.
//! The clock is passed in.

pub mod backoff;
mod database;
mod job;
mod ledger;
mod migrations;
mod queue;

pub use database::{Store, StoreError};
pub use job::{BatchId, Job, JobId, JobResult, JobState, NewJob, Timestamp};
pub use ledger::{Batch, Idempotency, Recorded};
pub use queue::{Claim, ClaimRequest, Heartbeat, Lease, Stale};
