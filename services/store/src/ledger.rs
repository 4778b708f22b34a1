//! What was asked for and what became of it: submitting jobs once per idempotency key, and reading jobs, results and
//! batches.

use std::str::FromStr;

use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{Row, Sqlite, Transaction};

use crate::database::{Store, StoreError};
use crate::job::{BatchId, Job, JobId, JobResult, JobState, NewJob, Timestamp, parse_id, parse_json};

/// What became of a submission that may have been made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recorded<T> {
    /// It is new.
    New(T),
    /// The same request with the same key was made before.
    Before(T),
    /// The key was used before for another request.
    Conflict,
}

/// Lets a client repeat a request whose answer was lost.
#[derive(Debug, Clone, PartialEq)]
pub struct Idempotency {
    /// Chosen by the client.
    pub key: String,
    /// The request as the client wrote it, to which a repetition must be equal. Not the input of the work: defaults
    /// filled in by one release would make the repetition differ in the next.
    pub request: Value,
}

/// A batch as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// Its id.
    pub id: BatchId,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// Its jobs in the order of submission, those that succeeded with the document of their result.
    pub jobs: Vec<(Job, Option<Value>)>,
}

impl Store {
    /// Records a job that was done while its client waited, together with its result.
    pub async fn record(
        &self,
        job: &NewJob,
        result: &JobResult,
        idempotency: Option<&Idempotency>,
        now: Timestamp,
    ) -> Result<Recorded<JobId>, StoreError> {
        let mut transaction = self.begin().await?;
        if let Some(idempotency) = idempotency {
            let before = sqlx::query("SELECT id, request FROM jobs WHERE kind = ?1 AND idempotency_key = ?2")
                .bind(job.kind)
                .bind(&idempotency.key)
                .fetch_optional(&mut *transaction)
                .await?;
            if let Some(row) = before {
                return repeated(&row, &idempotency.request);
            }
        }
        let id = JobId::new();
        let row = JobRow { id, batch: None, idempotency, state: JobState::Succeeded, attempt: 1 };
        insert_job(&mut transaction, &row, job, now).await?;
        insert_result(&mut transaction, id, result, now).await?;
        transaction.commit().await?;
        Ok(Recorded::New(id))
    }

    /// Queues all jobs of a batch or none.
    pub async fn submit(
        &self,
        jobs: &[NewJob],
        idempotency: Option<&Idempotency>,
        now: Timestamp,
    ) -> Result<Recorded<BatchId>, StoreError> {
        let mut transaction = self.begin().await?;
        if let Some(idempotency) = idempotency {
            let before = sqlx::query("SELECT id, request FROM batches WHERE idempotency_key = ?1")
                .bind(&idempotency.key)
                .fetch_optional(&mut *transaction)
                .await?;
            if let Some(row) = before {
                return repeated(&row, &idempotency.request);
            }
        }
        let batch = BatchId::new();
        sqlx::query(
            "INSERT INTO batches (id, idempotency_key, request, total, created_at) VALUES (?1, ?2, ?3, ?4, ?5)",
        )
        .bind(batch.to_string())
        .bind(idempotency.map(|idempotency| &idempotency.key))
        .bind(idempotency.map(|idempotency| idempotency.request.to_string()))
        .bind(jobs.len() as i64)
        .bind(now.0)
        .execute(&mut *transaction)
        .await?;
        for job in jobs {
            let (id, batch) = (JobId::new(), Some(batch));
            let row = JobRow { id, batch, idempotency: None, state: JobState::Queued, attempt: 0 };
            insert_job(&mut transaction, &row, job, now).await?;
        }
        transaction.commit().await?;
        Ok(Recorded::New(batch))
    }

    /// A job.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let row = sqlx::query("SELECT * FROM jobs WHERE id = ?1")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(Job::from_row).transpose()
    }

    /// Jobs, newest first, from before another one on.
    pub async fn jobs(&self, limit: u32, before: Option<JobId>) -> Result<Vec<Job>, StoreError> {
        let rows = sqlx::query("SELECT * FROM jobs WHERE ?1 IS NULL OR id < ?1 ORDER BY id DESC LIMIT ?2")
            .bind(before.map(|id| id.to_string()))
            .bind(limit)
            .fetch_all(&self.reader)
            .await?;
        rows.iter().map(Job::from_row).collect()
    }

    /// The result of a job. None unless it has succeeded.
    pub async fn result(&self, id: JobId) -> Result<Option<JobResult>, StoreError> {
        let row = sqlx::query("SELECT document, data FROM results WHERE job_id = ?1")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        row.as_ref().map(JobResult::from_row).transpose()
    }

    /// A batch.
    pub async fn batch(&self, id: BatchId) -> Result<Option<Batch>, StoreError> {
        let batch = sqlx::query("SELECT created_at FROM batches WHERE id = ?1")
            .bind(id.to_string())
            .fetch_optional(&self.reader)
            .await?;
        let Some(batch) = batch else { return Ok(None) };
        let rows = sqlx::query(
            "SELECT jobs.*, results.document FROM jobs LEFT JOIN results ON results.job_id = jobs.id
             WHERE batch_id = ?1 ORDER BY id",
        )
        .bind(id.to_string())
        .fetch_all(&self.reader)
        .await?;
        let jobs = rows
            .iter()
            .map(|row| {
                let document: Option<&str> = row.try_get("document")?;
                Ok((Job::from_row(row)?, document.map(parse_json).transpose()?))
            })
            .collect::<Result<_, StoreError>>()?;
        Ok(Some(Batch { id, created_at: Timestamp(batch.try_get("created_at")?), jobs }))
    }
}

fn repeated<T>(row: &SqliteRow, request: &Value) -> Result<Recorded<T>, StoreError>
where
    T: FromStr<Err = uuid::Error>,
{
    let before = parse_json(row.try_get("request")?)?;
    let id = parse_id(row.try_get("id")?)?;
    Ok(if before == *request { Recorded::Before(id) } else { Recorded::Conflict })
}

/// The columns of a new row that are not the client's.
struct JobRow<'a> {
    id: JobId,
    batch: Option<BatchId>,
    idempotency: Option<&'a Idempotency>,
    state: JobState,
    attempt: u32,
}

async fn insert_job(
    transaction: &mut Transaction<'_, Sqlite>,
    row: &JobRow<'_>,
    job: &NewJob,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO jobs (id, batch_id, kind, state, attempt, max_attempts, run_at, params, idempotency_key, request,
             created_at, updated_at, finished_at)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?7, ?7, ?11)",
    )
    .bind(row.id.to_string())
    .bind(row.batch.map(|batch| batch.to_string()))
    .bind(job.kind)
    .bind(row.state.as_str())
    .bind(row.attempt)
    .bind(job.max_attempts)
    .bind(now.0)
    .bind(job.params.to_string())
    .bind(row.idempotency.map(|idempotency| &idempotency.key))
    .bind(row.idempotency.map(|idempotency| idempotency.request.to_string()))
    .bind(row.state.is_final().then_some(now.0))
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

pub(crate) async fn insert_result(
    transaction: &mut Transaction<'_, Sqlite>,
    job: JobId,
    result: &JobResult,
    now: Timestamp,
) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO results (job_id, document, data, created_at) VALUES (?1, ?2, ?3, ?4)")
        .bind(job.to_string())
        .bind(result.document.to_string())
        .bind(result.data_bytes())
        .bind(now.0)
        .execute(&mut **transaction)
        .await?;
    Ok(())
}
