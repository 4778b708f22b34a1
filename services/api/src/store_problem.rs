//! Failures of the store as answers: the cause goes to the log, the client is told to come back.

use runtime::Problem;
use runtime::problem::Kind;
use store::{Store, StoreError};

const RETRY_AFTER_S: u32 = 1;

/// The answer to a request that the store failed.
pub(crate) fn problem(error: StoreError) -> Problem {
    if matches!(error, StoreError::Corrupt(_)) {
        return Problem::internal(&error);
    }
    tracing::error!(error = format!("{:#}", anyhow::Error::from(error)), "store failed");
    Problem::new(Kind::StoreUnavailable, "try again in a moment").retry_after(RETRY_AFTER_S)
}

/// The health check of the store.
pub(crate) async fn check(store: Store) -> Result<(), String> {
    store.ping().await.map_err(|error| {
        tracing::warn!(error = format!("{:#}", anyhow::Error::from(error)), "store does not answer");
        "does not answer".to_owned()
    })
}
