//! The admin listener: figures for whoever watches the edge, apart from where clients come in. It answers `GET /metrics` and
//! nothing else, and changes nothing. That it cannot be listened on is no reason not to serve.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use crate::log;
use crate::server::Phase;
use crate::switch::Switch;

/// Connections at once; others wait.
const MAX_CONNECTIONS: usize = 16;

/// How long a head may take to come.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a connection may live.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Until an address that is taken is tried again: an edge that hands over has it until then.
const RETRY: Duration = Duration::from_millis(500);

/// Serves `address` until this edge no longer serves clients.
pub(crate) async fn serve(address: SocketAddr, switch: Arc<Switch>, mut phase: watch::Receiver<Phase>) {
    tokio::select! {
        _ = phase.wait_for(|phase| *phase != Phase::Serving) => {}
        () = accept(address, &switch) => {}
    }
}

async fn accept(address: SocketAddr, switch: &Arc<Switch>) {
    let listener = bind(address).await;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(RETRY).await;
            continue;
        };
        let switch = Arc::clone(switch);
        tokio::spawn(async move {
            let _ = tokio::time::timeout(CONNECTION_TIMEOUT, converse(stream, switch)).await;
            drop(place);
        });
    }
}

async fn bind(address: SocketAddr) -> TcpListener {
    let mut is_reported = false;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                log::event("admin", json!({ "listen": listener.local_addr().unwrap_or(address) }));
                return listener;
            }
            Err(error) => {
                if !std::mem::replace(&mut is_reported, true) {
                    log::event("admin_failed", json!({ "listen": address, "error": error.to_string() }));
                }
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, switch: Arc<Switch>) -> hyper::Result<()> {
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answer(&request, &switch);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.serve_connection(TokioIo::new(stream), service).await
}

fn answer(request: &Request<Incoming>, switch: &Switch) -> Response<String> {
    let is_known = request.method() == Method::GET && request.uri().path() == "/metrics";
    let text = if is_known { switch.metrics() } else { "only GET /metrics is answered here\n".to_owned() };
    let mut answer = Response::new(text);
    if !is_known {
        *answer.status_mut() = StatusCode::NOT_FOUND;
    }
    let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, kind);
    answer
}
