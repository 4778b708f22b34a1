//! The public interface: makes synthetic lenses, submits batches of fits, answers with jobs and results. It does not
//! run jobs itself (the worker does) and keeps nothing in memory: any two processes of it on one store are equal.

mod batches;
mod config;
mod idempotency;
mod jobs;
mod store_problem;
mod synthetic;

use anyhow::Result;
use axum::routing::{get, post};
use axum::{Json, Router};
use runtime::{BuildInfo, Common, Health, Shutdown, middleware, server};
use serde_json::json;
use store::Store;

pub use config::Config;

/// Identity of this program.
pub const BUILD: BuildInfo = BuildInfo::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

const BODY_LIMIT_BYTES: usize = 4 << 20;

/// What the handlers share.
#[derive(Debug, Clone)]
pub struct AppState {
    /// Jobs and results.
    pub store: Store,
    /// Attempts that a queued job gets.
    pub max_attempts: u32,
}

/// The service without a listener.
pub fn app(common: &Common, state: AppState, health: Health) -> Router {
    let welcome = json!({
        "message": "gravitational lens analysis",
        "version": common.release,
        "revision": BUILD.revision,
        "health": "/health",
        "models": "/api/v1/models",
    });
    let routes = Router::new()
        .route("/", get(|| async { Json(welcome) }))
        .route("/api/v1/models", get(|| async { Json(json!({ "models": engine::models() })) }))
        .route("/api/v1/synthetic", post(synthetic::create))
        .route("/api/v1/batch", post(batches::submit))
        .route("/api/v1/batch/{id}/status", get(batches::status))
        .route("/api/v1/jobs", get(jobs::list))
        .route("/api/v1/jobs/{id}", get(jobs::show))
        .route("/api/v1/jobs/{id}/result", get(jobs::result))
        .route("/api/v1/jobs/{id}/cancel", post(jobs::cancel))
        .with_state(state)
        .merge(health.routes());
    middleware::wrap(routes, common, BODY_LIMIT_BYTES)
}

/// Runs the service until shutdown.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<()> {
    let store = Store::open(&config.data_folder).await?;
    let checked = store.clone();
    let health = Health::new(&config.common.release, shutdown.clone())
        .fact("gpu_available", false)
        .check("db", move || store_problem::check(checked.clone()));
    let listener = server::listen(&config.common.http).await?;
    let state = AppState { store: store.clone(), max_attempts: config.max_attempts };
    let app = app(&config.common, state, health);
    let served = server::serve(listener, app, &config.common.http, shutdown).await;
    store.close().await;
    served
}
