//! Whether the process is alive and whether it can do its work. It does not know what the checks test; a process
//! that is stopping is never ready.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::Value;
use tokio::sync::Mutex;

use crate::shutdown::Shutdown;

/// A check that takes longer counts as failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a good result is given out again, so that many probes cost one check.
const GOOD_FOR: Duration = Duration::from_secs(1);

type Outcome = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Check = Box<dyn Fn() -> Outcome + Send + Sync>;

/// The checks of a process.
pub struct Health {
    release: String,
    shutdown: Shutdown,
    facts: BTreeMap<&'static str, Value>,
    checks: Vec<(&'static str, Check)>,
    last_good: Mutex<Option<(Instant, BTreeMap<&'static str, String>)>>,
}

/// The document that `/health` answers with.
#[derive(Debug, Serialize)]
struct Report {
    status: &'static str,
    timestamp: String,
    version: String,
    checks: BTreeMap<&'static str, String>,
    #[serde(flatten)]
    facts: BTreeMap<&'static str, Value>,
}

impl Health {
    /// A process without checks: ready until it stops.
    pub fn new(release: &str, shutdown: Shutdown) -> Self {
        Self {
            release: release.to_owned(),
            shutdown,
            facts: BTreeMap::new(),
            checks: Vec::new(),
            last_good: Mutex::new(None),
        }
    }

    /// Adds a check. Its error is shown to whoever asks, so it says no more than what is out of order.
    #[must_use]
    pub fn check<F, R>(mut self, name: &'static str, check: F) -> Self
    where
        F: Fn() -> R + Send + Sync + 'static,
        R: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.checks.push((name, Box::new(move || Box::pin(check()))));
        self
    }

    /// Adds a fact to the document of `/health`.
    #[must_use]
    pub fn fact(mut self, name: &'static str, value: impl Into<Value>) -> Self {
        self.facts.insert(name, value.into());
        self
    }

    /// The routes `/health`, `/health/live` and `/health/ready`.
    pub fn routes(self) -> Router {
        Router::new()
            .route("/health", get(answer))
            .route("/health/ready", get(answer))
            .route("/health/live", get(|| async { "alive\n" }))
            .with_state(Arc::new(self))
    }

    async fn report(&self) -> (bool, Report) {
        let (healthy, checks) = if self.shutdown.is_triggered() {
            (false, BTreeMap::from([("shutdown", "stopping".to_owned())]))
        } else {
            self.run_checks().await
        };
        let report = Report {
            status: if healthy { "healthy" } else { "unhealthy" },
            timestamp: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            version: self.release.clone(),
            checks,
            facts: self.facts.clone(),
        };
        (healthy, report)
    }

    async fn run_checks(&self) -> (bool, BTreeMap<&'static str, String>) {
        let mut last_good = self.last_good.lock().await;
        if let Some((at, checks)) = last_good.as_ref()
            && at.elapsed() < GOOD_FOR
        {
            return (true, checks.clone());
        }
        let (mut healthy, mut results) = (true, BTreeMap::new());
        for (name, check) in &self.checks {
            let outcome = match tokio::time::timeout(CHECK_TIMEOUT, check()).await {
                Ok(outcome) => outcome,
                Err(_) => Err("took too long".to_owned()),
            };
            healthy &= outcome.is_ok();
            results.insert(*name, outcome.map_or_else(|error| error, |()| "ok".to_owned()));
        }
        *last_good = healthy.then(|| (Instant::now(), results.clone()));
        (healthy, results)
    }
}

async fn answer(State(health): State<Arc<Health>>) -> Response {
    let (healthy, report) = health.report().await;
    let status = if healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, [("cache-control", "no-store")], Json(report)).into_response()
}
