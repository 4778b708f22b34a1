//! Serves a router on a listener with bounded connections and a graceful end: stop accepting, finish what is in
//! flight, give up after the grace period. It does not know what it serves.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::settings::Http;
use crate::shutdown::Shutdown;

/// An idle connection is kept this long: longer than proxies keep theirs, so that it is the proxy which closes and
/// no request meets a connection that is going away.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);
/// Pause after a failed accept, which comes from a lack of file descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the listener of a service and logs its address.
pub async fn listen(http: &Http) -> Result<TcpListener> {
    let address = SocketAddr::new(http.host, http.port);
    let listener = TcpListener::bind(address)
        .await
        .with_context(|| format!("failed to listen on {address}: choose another with LENS_HTTP__PORT"))?;
    tracing::info!(address = %listener.local_addr()?, "listening");
    Ok(listener)
}

/// Serves until shutdown. An error means that requests were cut off after the grace period.
pub async fn serve(listener: TcpListener, app: Router, http: &Http, shutdown: Shutdown) -> Result<()> {
    let graceful = GracefulShutdown::new();
    let places = Arc::new(Semaphore::new(http.max_connections));
    let drain_delay = http.drain_delay;
    let stop = async move {
        shutdown.wait().await;
        tokio::time::sleep(drain_delay).await;
    };
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            accepted = accept(&listener, &places) => accepted,
            () = &mut stop => break,
        };
        let (stream, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "failed to accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(app.clone());
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service);
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            // Its error is the client's: it went away or did not speak HTTP.
            let _ = connection.await;
            drop(place);
        });
    }
    drop(listener);
    let busy = graceful.count();
    if tokio::time::timeout(http.shutdown_grace, graceful.shutdown()).await.is_err() {
        bail!("some of {busy} connections were still busy after {:?} and were cut off", http.shutdown_grace);
    }
    tracing::info!("all requests finished");
    Ok(())
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, place))
}
