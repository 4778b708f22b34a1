//! What happens to every request whatever its route: id, deadline, panic guard, problem documents, release header
//! and one log line. It does not know the routes.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use axum::Router;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use tracing::Instrument;

use crate::problem::{self, Kind, Problem};
use crate::request_id::{self, RequestId};
use crate::settings::Common;

const RELEASE: HeaderName = HeaderName::from_static("x-release");

struct Policy {
    release: Option<HeaderValue>,
    request_timeout: Duration,
}

/// Wraps the routes of a service.
pub fn wrap(routes: Router, common: &Common, body_limit_bytes: usize) -> Router {
    let policy = Policy {
        release: HeaderValue::from_str(&common.release).ok(),
        request_timeout: common.http.request_timeout,
    };
    routes
        .fallback(|| async { Problem::new(Kind::NotFound, "no route has this path") })
        .layer(DefaultBodyLimit::max(body_limit_bytes))
        .layer(from_fn_with_state(Arc::new(policy), handle))
}

async fn handle(State(policy): State<Arc<Policy>>, mut request: Request, next: Next) -> Response {
    let id = RequestId::of(request.headers());
    request.extensions_mut().insert(id.clone());
    // Everything that is logged on behalf of the request carries its id; a span of lower severity would be cut off.
    let span = tracing::error_span!("request", request_id = id.as_str());
    let mut response = answer(&policy, request, next, &id).instrument(span).await;
    let headers = response.headers_mut();
    if let Some(value) = id.header() {
        headers.insert(request_id::HEADER, value);
    }
    if let Some(release) = &policy.release {
        headers.insert(RELEASE, release.clone());
    }
    response
}

async fn answer(policy: &Policy, request: Request, next: Next, id: &RequestId) -> Response {
    let started = Instant::now();
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();

    let handled = AssertUnwindSafe(next.run(request)).catch_unwind();
    let response = match tokio::time::timeout(policy.request_timeout, handled).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Problem::internal(&"a handler panicked").into_response(),
        Err(_) => Problem::new(Kind::Timeout, "the request was given up").into_response(),
    };
    let response = problem::render(response, &path, id, SystemTime::now());

    let route = route.as_ref().map_or("", |route| route.as_str());
    let (status, millis) = (response.status().as_u16(), started.elapsed().as_secs_f64() * 1e3);
    // Probes come several times a second and say nothing as long as they are answered well.
    if route.starts_with("/health") && status == 200 {
        tracing::debug!(%method, route, status, millis, "request");
    } else {
        tracing::info!(%method, route, status, millis, "request");
    }
    response
}
