//! HTTP/2 towards clients: each stream becomes a request like one of HTTP/1.1, and what one connection may ask of the edge is
//! bounded. It does not know routes.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Uri, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use crate::body::{DownloadError, ResponseBody};
use crate::connection::{MAX_HEAD_BYTES, Peer};
use crate::log;
use crate::proxy::Proxy;
use crate::server::Phase;

/// Streams of one connection at once; what common servers allow.
const MAX_STREAMS: u32 = 128;

/// Streams that a client may give up on one connection, beyond those that it let end: more is the attack of
/// CVE-2023-44487, which makes the edge begin work that nobody waits for.
const MAX_GIVEN_UP: u64 = 256;

/// Bytes of one answer that may wait for the client in the edge.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// Bytes of one request body, and of all of a connection, that may wait for the service in the edge.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// How often a connection is looked at, at most.
const SHORTEST_TICK: Duration = Duration::from_millis(50);
const LONGEST_TICK: Duration = Duration::from_secs(5);

/// The streams of one connection.
struct Streams {
    counts: Mutex<Counts>,
    given_up: AtomicU64,
    ended: AtomicU64,
    abuse: Notify,
}

struct Counts {
    /// When the last stream began or ended.
    moved: Instant,
    open: Vec<Weak<Stream>>,
    total: u64,
}

/// One stream from its request to the end of its answer.
struct Stream {
    streams: Arc<Streams>,
    /// Since when the client could take the next part of the answer; `None` while the service is to give it.
    offered: Mutex<Option<Instant>>,
    is_over: std::sync::atomic::AtomicBool,
}

/// An answer that tells its stream whose turn it is.
struct Watched {
    inner: ResponseBody,
    stream: Arc<Stream>,
}

/// Serves one connection of a client until it ends.
pub(crate) async fn converse<S>(stream: S, peer: Peer, proxy: Arc<Proxy>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut phase = proxy.phase.clone();
    let options = proxy.options.clone();
    let streams = Arc::new(Streams::new());
    let began = Arc::clone(&streams);
    let service = service_fn(move |request: Request<Incoming>| {
        let (proxy, stream) = (Arc::clone(&proxy), began.begin());
        async move {
            let answer = proxy.handle(peer, as_http1(request)).await;
            Ok::<_, Infallible>(answer.map(|inner| Watched { inner, stream }))
        }
    });
    let connection = builder().serve_connection(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    let shortest = options.head_timeout.min(options.idle_timeout).min(options.stall_timeout);
    let mut ticks = tokio::time::interval((shortest / 4).clamp(SHORTEST_TICK, LONGEST_TICK));
    let opened = Instant::now();
    let mut leaving: Option<Instant> = None;
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = streams.abuse.notified() => {
                let fields = json!({ "client": peer.address.to_string(), "given_up": MAX_GIVEN_UP });
                return log::event("streams_given_up", fields);
            }
            _ = phase.wait_for(|phase| *phase != Phase::Serving), if leaving.is_none() => {
                // Says which requests are answered; those that come after are not begun, and safe to be sent again.
                leaving = Some(Instant::now());
                connection.as_mut().graceful_shutdown();
            }
            _ = ticks.tick() => {
                let now = Instant::now();
                let idle = streams.idle_for(now);
                let has_not_spoken = streams.counts().total == 0 && now - opened >= options.head_timeout;
                if has_not_spoken || streams.is_stalled(now, options.stall_timeout) {
                    return;
                }
                // What was asked to leave and has nothing to wait for is closed.
                if leaving.is_some_and(|since| idle.min(now - since) >= options.stall_timeout) {
                    return;
                }
                if leaving.is_none() && idle >= options.idle_timeout {
                    leaving = Some(now);
                    connection.as_mut().graceful_shutdown();
                }
            }
        }
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(MAX_HEAD_BYTES).unwrap_or(u32::MAX))
        .max_send_buf_size(MAX_SEND_BUFFER)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    builder
}

/// The request as one of HTTP/1.1: the authority is the host (RFC 9113, section 8.3.1), the fields of cookies are one
/// (section 8.2.3).
fn as_http1(mut request: Request<Incoming>) -> Request<Incoming> {
    *request.version_mut() = Version::HTTP_11;
    let uri = std::mem::take(request.uri_mut());
    if let Some(host) = uri.authority().and_then(|host| HeaderValue::from_str(host.as_str()).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    let target = uri.path_and_query().cloned();
    *request.uri_mut() = target.map_or(uri, Uri::from);
    join_cookies(request.headers_mut());
    request
}

fn join_cookies(headers: &mut HeaderMap) {
    let parts: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if parts.len() > 1
        && let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, joined);
    }
}

impl Streams {
    fn new() -> Streams {
        Streams {
            counts: Mutex::new(Counts { moved: Instant::now(), open: Vec::new(), total: 0 }),
            given_up: AtomicU64::new(0),
            ended: AtomicU64::new(0),
            abuse: Notify::new(),
        }
    }

    fn begin(self: &Arc<Self>) -> Arc<Stream> {
        let stream = Arc::new(Stream {
            streams: Arc::clone(self),
            offered: Mutex::new(None),
            is_over: std::sync::atomic::AtomicBool::new(false),
        });
        let mut counts = self.counts();
        counts.open.retain(|open| open.strong_count() > 0);
        counts.open.push(Arc::downgrade(&stream));
        counts.total += 1;
        counts.moved = Instant::now();
        stream
    }

    /// Zero while a stream is open.
    fn idle_for(&self, now: Instant) -> Duration {
        let counts = self.counts();
        let is_open = counts.open.iter().any(|open| open.strong_count() > 0);
        if is_open { Duration::ZERO } else { now.saturating_duration_since(counts.moved) }
    }

    /// Whether the client has left a part of an answer standing for `limit`.
    fn is_stalled(&self, now: Instant, limit: Duration) -> bool {
        let since = |stream: Arc<Stream>| *stream.offered();
        let offered = self.counts().open.iter().filter_map(Weak::upgrade).filter_map(since).min();
        offered.is_some_and(|since| now.saturating_duration_since(since) >= limit)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn offered(&self) -> MutexGuard<'_, Option<Instant>> {
        self.offered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.streams.counts().moved = Instant::now();
        if self.is_over.load(Ordering::Relaxed) {
            self.streams.ended.fetch_add(1, Ordering::Relaxed);
            return;
        }
        let given_up = self.streams.given_up.fetch_add(1, Ordering::Relaxed) + 1;
        if given_up > self.streams.ended.load(Ordering::Relaxed) + MAX_GIVEN_UP {
            self.streams.abuse.notify_one();
        }
    }
}

impl Body for Watched {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, DownloadError>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(cx);
        // The next part is asked for when this one has found room on its way to the client.
        *self.stream.offered() = polled.is_ready().then(Instant::now);
        let is_last = matches!(polled, Poll::Ready(None)) || self.inner.is_end_stream();
        self.stream.is_over.store(is_last, Ordering::Relaxed);
        polled
    }

    fn is_end_stream(&self) -> bool {
        let is_last = self.inner.is_end_stream();
        // An answer without a body is never asked for a part of it.
        self.stream.is_over.fetch_or(is_last, Ordering::Relaxed);
        is_last
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cookies_become_one_field() {
        let mut headers = HeaderMap::new();
        for part in ["a=1", "b=2; c=3"] {
            headers.append(header::COOKIE, HeaderValue::from_static(part));
        }
        join_cookies(&mut headers);
        assert_eq!(headers.get_all(header::COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    #[test]
    fn streams_that_are_given_up_are_counted_against_those_that_end() {
        let streams = Arc::new(Streams::new());
        let end = || {
            let stream = streams.begin();
            stream.is_over.store(true, Ordering::Relaxed);
        };
        (0..10).for_each(|_| end());
        (0..MAX_GIVEN_UP + 10).for_each(|_| drop(streams.begin()));
        let is_abused = || {
            let mut cx = Context::from_waker(std::task::Waker::noop());
            std::pin::pin!(streams.abuse.notified()).poll(&mut cx).is_ready()
        };
        assert!(!is_abused());
        drop(streams.begin());
        assert!(is_abused());
    }

    #[test]
    fn a_part_that_nobody_takes_is_a_stall_and_a_silent_service_is_not() {
        let streams = Arc::new(Streams::new());
        let (waiting, offered) = (streams.begin(), streams.begin());
        let (now, limit) = (Instant::now(), Duration::from_secs(1));
        assert!(!streams.is_stalled(now + limit * 9, limit), "both wait for the service");
        *offered.offered() = Some(now);
        assert!(!streams.is_stalled(now, limit));
        assert!(streams.is_stalled(now + limit, limit));
        assert_eq!(streams.idle_for(now + limit), Duration::ZERO);
        drop((waiting, offered));
        assert!(streams.idle_for(Instant::now() + limit) >= limit);
    }
}
