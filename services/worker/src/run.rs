//! The claim loop and the life of one lease. The invariant: every claimed job ends in exactly one write to the
//! store (success, failure or return), or in none once its lease is lost.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use engine::job::FIT;
use runtime::Shutdown;
use store::{Claim, ClaimRequest, Heartbeat, JobResult, Lease, Stale, Store, StoreError, Timestamp};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::absence::Absence;
use crate::config::Schedule;
use crate::fit::{self, Engine, Failure};

const FIRST_POLL: Duration = Duration::from_millis(50);
/// A worker whose last look at the queue is older than this is not fit.
const CLAIMS_WITHIN: Duration = Duration::from_secs(15);
/// How long returning the leases may take at the end.
const RETURN_TIMEOUT: Duration = Duration::from_secs(2);

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    store: Store,
    engine: Engine,
    schedule: Schedule,
    /// New for every run, so that a lease never seems to belong to a process that came later.
    id: String,
    /// When the queue last answered, in milliseconds since 1970.
    last_claim: AtomicI64,
    absence: Mutex<Absence>,
    /// Turned when the grace period is over.
    give_up: Shutdown,
}

/// How the work on a lease ended.
enum Outcome {
    Done(JobResult),
    Failed(Failure),
    Lost,
    CancelRequested,
    GivenUp,
}

impl Worker {
    /// A worker on a store.
    pub fn new(store: Store, engine: Engine, schedule: Schedule) -> Self {
        Self {
            store,
            engine,
            schedule,
            id: Uuid::now_v7().to_string(),
            last_claim: AtomicI64::new(Timestamp::now().0),
            absence: Mutex::default(),
            give_up: Shutdown::default(),
        }
    }

    /// Whether the queue has answered lately.
    pub fn is_claiming(&self) -> bool {
        let last = Timestamp(self.last_claim.load(Ordering::Relaxed));
        Timestamp::now() < last.plus(CLAIMS_WITHIN + self.schedule.poll)
    }

    /// Runs jobs until shutdown; then finishes those that it holds within the grace period and returns the rest.
    pub async fn run(self: &Arc<Self>, shutdown: &Shutdown) {
        tracing::info!(worker = self.id, "claiming jobs");
        let mut jobs = JoinSet::new();
        let mut pause = FIRST_POLL;
        while !shutdown.is_triggered() {
            while jobs.try_join_next().is_some() {}
            let free = self.schedule.concurrency - jobs.len();
            let claims = self.claim(free).await;
            pause = if claims.is_empty() { (pause * 2).min(self.schedule.poll) } else { FIRST_POLL };
            for claim in claims {
                jobs.spawn(Arc::clone(self).work(claim));
            }
            // A job that ends makes room, and often another one has been waiting for it.
            let has_room = jobs.len() < self.schedule.concurrency;
            tokio::select! {
                () = shutdown.wait() => {}
                Some(_) = jobs.join_next() => pause = FIRST_POLL,
                () = sleep(pause), if has_room => {}
                () = sleep(self.schedule.poll), if !has_room => {}
            }
        }
        self.finish(jobs).await;
    }

    async fn finish(&self, mut jobs: JoinSet<()>) {
        tracing::info!(running = jobs.len(), "finishing jobs");
        let ended = async { while jobs.join_next().await.is_some() {} };
        if timeout(self.schedule.shutdown_grace, ended).await.is_ok() {
            return;
        }
        self.give_up.trigger();
        let ended = async { while jobs.join_next().await.is_some() {} };
        if timeout(RETURN_TIMEOUT, ended).await.is_err() {
            tracing::warn!("not all jobs could be returned: their leases will expire");
        }
    }

    async fn claim(&self, count: usize) -> Vec<Claim> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let request = ClaimRequest { worker: &self.id, kinds: &[FIT], count, lease: self.schedule.lease };
        let now = Timestamp::now();
        match self.store.claim(&request, now).await {
            Ok(claims) => {
                self.last_claim.store(now.0, Ordering::Relaxed);
                claims
            }
            Err(error) => {
                tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "claiming failed");
                Vec::new()
            }
        }
    }

    async fn work(self: Arc<Self>, claim: Claim) {
        let lease = claim.lease;
        let outcome = tokio::select! {
            result = fit::run(&self.store, &self.engine, &claim) => match result {
                Ok(result) => Outcome::Done(result),
                Err(failure) => Outcome::Failed(failure),
            },
            outcome = self.keep(lease) => outcome,
            () = self.give_up.wait() => Outcome::GivenUp,
        };
        let (job, attempt) = (lease.job.to_string(), lease.attempt);
        match self.end(lease, outcome).await {
            Ok((what, Ok(()))) => tracing::info!(job, attempt, outcome = what, "job ended"),
            Ok((what, Err(Stale))) => tracing::warn!(job, attempt, outcome = what, "lease was lost"),
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                tracing::error!(job, attempt, error, "outcome could not be written: the lease will expire");
            }
        }
    }

    /// Prolongs a lease until the work is not wanted any more.
    async fn keep(&self, lease: Lease) -> Outcome {
        loop {
            sleep(self.schedule.lease / 3).await;
            let now = Timestamp::now();
            match self.store.heartbeat(lease, now.plus(self.schedule.lease), now).await {
                Ok(Heartbeat::Held) => {}
                Ok(Heartbeat::Lost) => return Outcome::Lost,
                Ok(Heartbeat::CancelRequested) => return Outcome::CancelRequested,
                // The lease outlives two failed heartbeats; if a third fails too, the fence protects the job.
                Err(error) => {
                    let error = format!("{:#}", anyhow::Error::from(error));
                    tracing::warn!(job = %lease.job, error, "heartbeat failed");
                }
            }
        }
    }

    fn absence(&self) -> MutexGuard<'_, Absence> {
        self.absence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn end(
        &self,
        lease: Lease,
        outcome: Outcome,
    ) -> Result<(&'static str, Result<(), Stale>), StoreError> {
        let now = Timestamp::now();
        Ok(match outcome {
            Outcome::Done(result) => {
                self.absence().ended();
                ("succeeded", self.store.complete(lease, &result, now).await?)
            }
            Outcome::Failed(Failure::Unavailable(reason)) => {
                let pause = self.absence().noticed(Instant::now(), fastrand::f64());
                tracing::warn!(job = %lease.job, reason, pause_ms = pause.as_millis() as u64, "postponed");
                ("postponed", self.store.postpone(lease, &reason, now.plus(pause), now).await?)
            }
            Outcome::Failed(Failure::Lasting(error)) => {
                ("failed for good", self.store.fail(lease, &error, None, now).await?)
            }
            Outcome::Failed(Failure::Passing(error)) => {
                let pause = self.schedule.backoff.pause(lease.attempt, fastrand::f64());
                ("failed", self.store.fail(lease, &error, Some(now.plus(pause)), now).await?)
            }
            Outcome::CancelRequested => ("cancelled", self.store.release(lease, now).await?),
            Outcome::GivenUp => ("returned", self.store.release(lease, now).await?),
            Outcome::Lost => ("discarded", Err(Stale)),
        })
    }
}
