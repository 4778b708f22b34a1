//! Jobs as values, and how they are read from rows.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::Value;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;
use uuid::Uuid;

use crate::database::StoreError;

/// Milliseconds since 1970 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

impl Timestamp {
    /// The time on the clock of this machine.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    /// Some time later.
    #[must_use]
    pub fn plus(self, time: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Timestamp {
    /// RFC 3339 in UTC.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let since = Duration::from_millis(u64::try_from(self.0).unwrap_or_default());
        write!(out, "{}", humantime::format_rfc3339_millis(UNIX_EPOCH + since))
    }
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Uuid);

        impl $name {
            pub(crate) fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.hyphenated().fmt(out)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

id! {
    /// Id of a job; ids of later jobs are greater.
    JobId
}
id! {
    /// Id of a batch of jobs.
    BatchId
}

/// Where a job is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum JobState {
    /// Waits for its time and a worker.
    Queued,
    /// Leased to a worker.
    Running,
    /// Done: it has a result.
    Succeeded,
    /// Given up: out of attempts, or an error that no retry can mend.
    Dead,
    /// Stopped on request.
    Cancelled,
}

impl JobState {
    const ALL: [Self; 5] = [Self::Queued, Self::Running, Self::Succeeded, Self::Dead, Self::Cancelled];

    /// The word for it in the store and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Dead => "dead",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether nothing will change any more.
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Succeeded | Self::Dead | Self::Cancelled => true,
        }
    }

    pub(crate) fn parse(word: &str) -> Result<Self, StoreError> {
        let state = Self::ALL.into_iter().find(|state| state.as_str() == word);
        state.ok_or_else(|| StoreError::Corrupt(format!("unknown job state {word}")))
    }
}

/// A job to be done.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// What to do; a worker claims only the kinds it knows.
    pub kind: &'static str,
    /// Input of the work.
    pub params: Value,
    /// Attempts before it is given up; one that ends without a word (a killed worker) counts too.
    pub max_attempts: u32,
}

/// What a job produced.
#[derive(Debug, Clone, PartialEq)]
pub struct JobResult {
    /// The outcome without its bulk.
    pub document: Value,
    /// Bulk numbers, such as a map. Kept bit for bit.
    pub data: Option<Vec<f64>>,
}

/// A job as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Job {
    /// Its id.
    pub id: JobId,
    /// What to do.
    pub kind: String,
    /// Where it is in its life.
    pub state: JobState,
    /// Attempts begun.
    pub attempt: u32,
    /// Attempts before it is given up.
    pub max_attempts: u32,
    /// Not to be run before.
    pub run_at: Timestamp,
    /// Input of the work.
    pub params: Value,
    /// How the last attempt failed.
    pub last_error: Option<String>,
    /// How all attempts failed, oldest first: an array of `{attempt, at, error}`.
    pub error_history: Value,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When it reached its final state.
    pub finished_at: Option<Timestamp>,
}

impl Job {
    pub(crate) fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        Ok(Self {
            id: parse_id(row.try_get("id")?)?,
            kind: row.try_get("kind")?,
            state: JobState::parse(row.try_get("state")?)?,
            attempt: row.try_get("attempt")?,
            max_attempts: row.try_get("max_attempts")?,
            run_at: Timestamp(row.try_get("run_at")?),
            params: parse_json(row.try_get("params")?)?,
            last_error: row.try_get("last_error")?,
            error_history: parse_json(row.try_get("error_history")?)?,
            created_at: Timestamp(row.try_get("created_at")?),
            finished_at: row.try_get::<Option<i64>, _>("finished_at")?.map(Timestamp),
        })
    }
}

impl JobResult {
    pub(crate) fn from_row(row: &SqliteRow) -> Result<Self, StoreError> {
        let data: Option<Vec<u8>> = row.try_get("data")?;
        let document = parse_json(row.try_get("document")?)?;
        Ok(Self { document, data: data.map(|bytes| from_bytes(&bytes)).transpose()? })
    }

    pub(crate) fn data_bytes(&self) -> Option<Vec<u8>> {
        let data = self.data.as_ref()?;
        Some(data.iter().flat_map(|value| value.to_le_bytes()).collect())
    }
}

pub(crate) fn parse_id<T: FromStr<Err = uuid::Error>>(text: &str) -> Result<T, StoreError> {
    text.parse().map_err(|_| StoreError::Corrupt(format!("bad id {text}")))
}

pub(crate) fn parse_json(text: &str) -> Result<Value, StoreError> {
    serde_json::from_str(text).map_err(|error| StoreError::Corrupt(error.to_string()))
}

fn from_bytes(bytes: &[u8]) -> Result<Vec<f64>, StoreError> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(StoreError::Corrupt(format!("{} bytes are not whole numbers of 8", bytes.len())));
    }
    Ok(chunks.iter().map(|chunk| f64::from_le_bytes(*chunk)).collect())
}
