//! Settings of the worker.

use std::path::PathBuf;
use std::time::Duration;

use hyper::Uri;
use runtime::Common;
use runtime::config::Reader;
use store::backoff::Backoff;

use crate::BUILD;

const PORT: u16 = 9101;

/// Settings of the worker.
#[derive(Debug, Clone)]
pub struct Config {
    /// What all services have.
    pub common: Common,
    /// Folder of the store; shared with the public interface.
    pub data_folder: PathBuf,
    /// How jobs are claimed and held.
    pub schedule: Schedule,
    /// Where computing happens.
    pub inference: Inference,
}

/// How jobs are claimed and held.
#[derive(Debug, Clone, Copy)]
pub struct Schedule {
    /// Jobs that run at the same time.
    pub concurrency: usize,
    /// How long a job is safe without a heartbeat; a heartbeat comes three times as often.
    pub lease: Duration,
    /// Longest pause between two looks at an empty queue.
    pub poll: Duration,
    /// When failed jobs are tried again.
    pub backoff: Backoff,
    /// How long a stopping worker lets its jobs run before it returns them to the queue.
    pub shutdown_grace: Duration,
}

/// Where computing happens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inference {
    /// In this process.
    Embedded,
    /// In the inference service.
    Remote {
        /// Its base address.
        url: Uri,
        /// After this an unanswered request has failed.
        timeout: Duration,
    },
}

impl Config {
    /// Reads the settings.
    pub fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            common: Common::read(reader, &BUILD, PORT),
            data_folder: reader.text("data.dir", "data").into(),
            schedule: Schedule::read(reader),
            inference: Inference::read(reader),
        }
    }
}

impl Schedule {
    fn read(reader: &mut Reader<'_>) -> Self {
        let base = reader.milliseconds("worker.retry_base_ms", 1_000, 1..=3_600_000);
        let cap = reader.milliseconds("worker.retry_cap_ms", 300_000, 1..=86_400_000);
        if cap < base {
            reader.refuse("worker.retry_cap_ms", "must not be below worker.retry_base_ms");
        }
        Self {
            concurrency: reader.integer("worker.concurrency", 2, 1..=64) as usize,
            lease: reader.milliseconds("worker.lease_ms", 30_000, 300..=600_000),
            poll: reader.milliseconds("worker.poll_ms", 1_000, 10..=60_000),
            backoff: Backoff { base, cap },
            shutdown_grace: reader.milliseconds("worker.shutdown_grace_ms", 15_000, 0..=600_000),
        }
    }
}

impl Inference {
    fn read(reader: &mut Reader<'_>) -> Self {
        let remote = reader.choice("inference.mode", "embedded", &[("embedded", false), ("remote", true)]);
        let url = reader.optional_text("inference.url");
        let timeout = reader.milliseconds("inference.timeout_ms", 10_000, 10..=600_000);
        if !remote {
            return Self::Embedded;
        }
        match url.as_deref().map(str::parse::<Uri>) {
            Some(Ok(url)) if url.scheme_str() == Some("http") && url.host().is_some() => {
                Self::Remote { url, timeout }
            }
            Some(_) => {
                reader.refuse("inference.url", "must be an http:// URL");
                Self::Embedded
            }
            None => {
                reader.refuse("inference.url", "is needed where inference.mode is remote");
                Self::Embedded
            }
        }
    }
}
