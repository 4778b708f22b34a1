//! The inference service: recovers lens parameters from convergence maps over HTTP. It does not know jobs or the
//! store. At most as many maps as it has places are analysed at once; who finds none in time is told to come back.

mod config;
mod pool;

use std::sync::Arc;

use anyhow::Result;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use engine::PredictRequest;
use runtime::extract::JsonBody;
use runtime::{BuildInfo, Common, Health, Problem, Shutdown, middleware, server};
use serde_json::json;

pub use config::Config;
pub use pool::Pool;

/// Identity of this program.
pub const BUILD: BuildInfo = BuildInfo::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// A map of 256 pixels on a side has about 1.3 MiB as JSON; this leaves room for blanks and long numbers.
const BODY_LIMIT_BYTES: usize = 8 << 20;

/// The service without a listener.
pub fn app(common: &Common, pool: Pool, health: Health) -> Router {
    let routes = Router::new()
        .route("/v1/models", get(|| async { Json(json!({ "models": engine::models() })) }))
        .route("/v1/predict", post(predict))
        .with_state(Arc::new(pool))
        .merge(health.routes());
    middleware::wrap(routes, common, BODY_LIMIT_BYTES)
}

/// Runs the service until shutdown.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<()> {
    let pool = Pool::new(config.concurrency, config.wait);
    let health = Health::new(&config.common.release, shutdown.clone()).fact("gpu_available", false);
    let listener = server::listen(&config.common.http).await?;
    let app = app(&config.common, pool, health);
    server::serve(listener, app, &config.common.http, shutdown).await
}

async fn predict(State(pool): State<Arc<Pool>>, body: JsonBody<PredictRequest>) -> Result<Response, Problem> {
    let prediction = pool.run(move || engine::predict(&body.value)).await?;
    Ok(Json(prediction.map_err(Problem::validation)?).into_response())
}
