//! The durable queue. A claim leases a job for a time and counts as an attempt; whoever holds the lease renews it,
//! and ends it with success, failure or return. The attempt number is the fence: once another claim raised it,
//! writes of the former holder find no row. An expired lease needs nobody's word: the next claim takes the job back.

use std::time::Duration;

use serde_json::Value;
use sqlx::{Row, Sqlite, Transaction};

use crate::database::{Store, StoreError};
use crate::job::{JobId, JobResult, Timestamp, parse_id, parse_json};
use crate::ledger::insert_result;

/// Who may claim what.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    /// Identity of this process run; never that of an earlier run.
    pub worker: &'a str,
    /// The kinds of jobs that it knows.
    pub kinds: &'a [&'a str],
    /// Most jobs to claim.
    pub count: u32,
    /// How long the lease holds without a heartbeat.
    pub lease: Duration,
}

/// The right to run one attempt of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// The job.
    pub job: JobId,
    /// The attempt, counted from 1.
    pub attempt: u32,
}

/// A leased job.
#[derive(Debug, Clone, PartialEq)]
pub struct Claim {
    /// The right to run it.
    pub lease: Lease,
    /// What to do.
    pub kind: String,
    /// Input of the work.
    pub params: Value,
}

/// What a heartbeat learned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    /// The lease holds on.
    Held,
    /// The lease holds on, but the work is not wanted any more.
    CancelRequested,
    /// The lease is lost: the work must be thrown away.
    Lost,
}

/// The lease was lost before; nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stale;

const EXPIRED: &str = "the lease expired: the worker was killed, hung or lost the store";

impl Store {
    /// Leases jobs that are due, oldest first. Expired leases are taken back before.
    pub async fn claim(&self, request: &ClaimRequest<'_>, now: Timestamp) -> Result<Vec<Claim>, StoreError> {
        if request.count == 0 || !self.has_due(now).await? {
            return Ok(Vec::new());
        }
        let mut transaction = self.begin().await?;
        take_back_expired(&mut transaction, now).await?;
        let kinds = serde_json::to_string(request.kinds).unwrap_or_default();
        let rows = sqlx::query(
            "UPDATE jobs SET state = 'running', attempt = attempt + 1, worker = ?1, lease_until = ?2, updated_at = ?3
             WHERE id IN (
                 SELECT id FROM jobs
                 WHERE state = 'queued' AND run_at <= ?3 AND kind IN (SELECT value FROM json_each(?4))
                 ORDER BY run_at, id LIMIT ?5)
             RETURNING id, attempt, kind, params",
        )
        .bind(request.worker)
        .bind(now.plus(request.lease).0)
        .bind(now.0)
        .bind(kinds)
        .bind(request.count)
        .fetch_all(&mut *transaction)
        .await?;
        let claims = rows
            .iter()
            .map(|row| {
                let lease = Lease { job: parse_id(row.try_get("id")?)?, attempt: row.try_get("attempt")? };
                let params = parse_json(row.try_get("params")?)?;
                Ok(Claim { lease, kind: row.try_get("kind")?, params })
            })
            .collect::<Result<_, StoreError>>()?;
        transaction.commit().await?;
        Ok(claims)
    }

    /// Prolongs a lease.
    pub async fn heartbeat(
        &self,
        lease: Lease,
        until: Timestamp,
        now: Timestamp,
    ) -> Result<Heartbeat, StoreError> {
        let row = sqlx::query(
            "UPDATE jobs SET lease_until = ?3, updated_at = ?4
             WHERE id = ?1 AND attempt = ?2 AND state = 'running' RETURNING cancel_requested",
        )
        .bind(lease.job.to_string())
        .bind(lease.attempt)
        .bind(until.0)
        .bind(now.0)
        .fetch_optional(&self.writer)
        .await?;
        Ok(match row {
            None => Heartbeat::Lost,
            Some(row) if row.try_get::<bool, _>(0)? => Heartbeat::CancelRequested,
            Some(_) => Heartbeat::Held,
        })
    }

    /// Ends a lease with success; state and result are written together or not at all.
    pub async fn complete(
        &self,
        lease: Lease,
        result: &JobResult,
        now: Timestamp,
    ) -> Result<Result<(), Stale>, StoreError> {
        let mut transaction = self.begin().await?;
        let changed = sqlx::query(
            "UPDATE jobs SET state = 'succeeded', lease_until = NULL, updated_at = ?3, finished_at = ?3
             WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
        )
        .bind(lease.job.to_string())
        .bind(lease.attempt)
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        if changed.rows_affected() == 0 {
            return Ok(Err(Stale));
        }
        insert_result(&mut transaction, lease.job, result, now).await?;
        transaction.commit().await?;
        Ok(Ok(()))
    }

    /// Ends a lease with a failure: to be tried again at a time, or, without one or without attempts left, dead.
    pub async fn fail(
        &self,
        lease: Lease,
        error: &str,
        retry_at: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<Result<(), Stale>, StoreError> {
        let changed = sqlx::query(
            "UPDATE jobs SET
                 state = CASE WHEN cancel_requested THEN 'cancelled'
                              WHEN ?4 IS NULL OR attempt >= max_attempts THEN 'dead'
                              ELSE 'queued' END,
                 finished_at = CASE WHEN cancel_requested OR ?4 IS NULL OR attempt >= max_attempts THEN ?5 END,
                 run_at = coalesce(?4, run_at), worker = NULL, lease_until = NULL, updated_at = ?5, last_error = ?3,
                 error_history = json_insert(
                     error_history, '$[#]', json_object('attempt', attempt, 'at', ?5, 'error', ?3))
             WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
        )
        .bind(lease.job.to_string())
        .bind(lease.attempt)
        .bind(error)
        .bind(retry_at.map(|at| at.0))
        .bind(now.0)
        .execute(&self.writer)
        .await?;
        Ok(if changed.rows_affected() == 0 { Err(Stale) } else { Ok(()) })
    }

    /// Returns a job unfinished, to be run by another worker at once. The attempt is not held against it.
    pub async fn release(&self, lease: Lease, now: Timestamp) -> Result<Result<(), Stale>, StoreError> {
        self.put_back(lease, None, now, now).await
    }

    /// Returns a job that could not be worked on for a reason that is not its own, to be run at a time. The attempt is
    /// not held against it, and the reason is kept as the last error only: there is no limit to how often this happens.
    pub async fn postpone(
        &self,
        lease: Lease,
        reason: &str,
        run_at: Timestamp,
        now: Timestamp,
    ) -> Result<Result<(), Stale>, StoreError> {
        self.put_back(lease, Some(reason), run_at, now).await
    }

    /// The number of the attempt stays, because it is the fence; so the limit moves instead.
    async fn put_back(
        &self,
        lease: Lease,
        reason: Option<&str>,
        run_at: Timestamp,
        now: Timestamp,
    ) -> Result<Result<(), Stale>, StoreError> {
        let changed = sqlx::query(
            "UPDATE jobs SET
                 state = CASE WHEN cancel_requested THEN 'cancelled' ELSE 'queued' END,
                 finished_at = CASE WHEN cancel_requested THEN ?3 END,
                 max_attempts = max_attempts + 1, run_at = ?4, worker = NULL, lease_until = NULL, updated_at = ?3,
                 last_error = coalesce(?5, last_error)
             WHERE id = ?1 AND attempt = ?2 AND state = 'running'",
        )
        .bind(lease.job.to_string())
        .bind(lease.attempt)
        .bind(now.0)
        .bind(run_at.0)
        .bind(reason)
        .execute(&self.writer)
        .await?;
        Ok(if changed.rows_affected() == 0 { Err(Stale) } else { Ok(()) })
    }

    /// Asks for a job not to be done: one that waits is cancelled at once, the worker of one that runs learns it at
    /// its next heartbeat. Whether there was anything left to cancel.
    pub async fn cancel(&self, job: JobId, now: Timestamp) -> Result<bool, StoreError> {
        let changed = sqlx::query(
            "UPDATE jobs SET cancel_requested = 1, updated_at = ?2,
                 finished_at = CASE state WHEN 'queued' THEN ?2 END,
                 state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END
             WHERE id = ?1 AND state IN ('queued', 'running')",
        )
        .bind(job.to_string())
        .bind(now.0)
        .execute(&self.writer)
        .await?;
        Ok(changed.rows_affected() > 0)
    }

    /// Looks before taking the write lock, so that idle workers do not disturb writers.
    async fn has_due(&self, now: Timestamp) -> Result<bool, StoreError> {
        let found = sqlx::query(
            "SELECT 1 FROM jobs WHERE state = 'queued' AND run_at <= ?1
             UNION ALL SELECT 1 FROM jobs WHERE state = 'running' AND lease_until <= ?1 LIMIT 1",
        )
        .bind(now.0)
        .fetch_optional(&self.reader)
        .await?;
        Ok(found.is_some())
    }
}

/// Puts jobs back whose lease expired. The attempt stays counted: a job that kills its worker every time dies.
async fn take_back_expired(
    transaction: &mut Transaction<'_, Sqlite>,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE jobs SET
             state = CASE WHEN cancel_requested THEN 'cancelled'
                          WHEN attempt >= max_attempts THEN 'dead'
                          ELSE 'queued' END,
             finished_at = CASE WHEN cancel_requested OR attempt >= max_attempts THEN ?1 END,
             run_at = ?1, worker = NULL, lease_until = NULL, updated_at = ?1, last_error = ?2,
             error_history = json_insert(
                 error_history, '$[#]', json_object('attempt', attempt, 'at', ?1, 'error', ?2))
         WHERE state = 'running' AND lease_until <= ?1",
    )
    .bind(now.0)
    .bind(EXPIRED)
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
