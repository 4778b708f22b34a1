//! The worker: claims jobs from the queue, runs them and keeps their leases alive. Computing happens embedded or in
//! the inference service. A worker that is killed loses nothing: its leases expire and another one takes over.

mod absence;
mod config;
mod fit;
mod remote;
mod run;

use std::sync::Arc;

use anyhow::Result;
use runtime::{BuildInfo, Health, Shutdown, middleware, server};
use store::Store;

pub use config::{Config, Inference, Schedule};
pub use fit::Engine;
pub use run::Worker;

/// Identity of this program.
pub const BUILD: BuildInfo = BuildInfo::new(env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"));

/// The listener answers health checks only.
const BODY_LIMIT_BYTES: usize = 1 << 10;

/// Runs the worker until shutdown.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<()> {
    let store = Store::open(&config.data_folder).await?;
    let engine = Engine::new(&config.inference);
    let worker = Arc::new(Worker::new(store.clone(), engine, config.schedule));
    let http = &config.common.http;

    let checked = Arc::clone(&worker);
    let health = Health::new(&config.common.release, shutdown.clone()).check("queue", move || {
        let alive = checked.is_claiming();
        async move { if alive { Ok(()) } else { Err("no claim has succeeded lately".to_owned()) } }
    });
    let listener = server::listen(http).await?;
    let app = middleware::wrap(health.routes(), &config.common, BODY_LIMIT_BYTES);

    let (served, ()) =
        tokio::join!(server::serve(listener, app, http, shutdown.clone()), worker.run(&shutdown));
    store.close().await;
    served
}
