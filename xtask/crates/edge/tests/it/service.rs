//! A service to put behind the edge: what it does is the path of the request.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::header::HeaderMap;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};

/// Ids that POSTs to `/ledger` brought, over all services that share it.
pub(crate) type Ledger = Arc<Mutex<Vec<String>>>;

type Body = BoxBody<Bytes, Infallible>;

/// A running service.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    runtime: Option<Runtime>,
}

/// What the test sees of it, and tells it.
pub(crate) struct Seen {
    name: String,
    ledger: Ledger,
    /// Bytes of request bodies received.
    pub(crate) received: AtomicU64,
    /// Bytes of `/download` produced.
    pub(crate) produced: AtomicU64,
    /// Requests to `/hang` that were begun, and given up because their client left.
    pub(crate) hanging: AtomicU64,
    pub(crate) cancelled: AtomicU64,
    /// Connections accepted, and those that are open.
    pub(crate) accepted: AtomicU64,
    pub(crate) open: AtomicU64,
    /// Answers that wait for the test's word go on when this rises.
    pub(crate) word: watch::Sender<u64>,
    /// Requests that were answered, or are about to be.
    pub(crate) requests: AtomicU64,
    /// Of a hundred answers, so many have status 500.
    pub(crate) failing_percent: AtomicU64,
    /// Every answer takes so much longer.
    pub(crate) delay_ms: AtomicU64,
}

impl Service {
    pub(crate) fn start(name: &str) -> Service {
        Service::start_on("127.0.0.1:0".parse().unwrap(), name, &Ledger::default())
    }

    pub(crate) fn start_on(address: SocketAddr, name: &str, ledger: &Ledger) -> Service {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = runtime.block_on(TcpListener::bind(address)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Seen {
            name: name.to_owned(),
            ledger: Arc::clone(ledger),
            received: AtomicU64::new(0),
            produced: AtomicU64::new(0),
            hanging: AtomicU64::new(0),
            cancelled: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            word: watch::Sender::new(0),
            requests: AtomicU64::new(0),
            failing_percent: AtomicU64::new(0),
            delay_ms: AtomicU64::new(0),
        });
        runtime.spawn(accept(listener, Arc::clone(&seen)));
        Service { address, seen, runtime: Some(runtime) }
    }

    /// Ends it at once, with whatever it was doing.
    pub(crate) fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn accept(listener: TcpListener, seen: Arc<Seen>) {
    while let Ok((stream, _)) = listener.accept().await {
        let seen = Arc::clone(&seen);
        seen.accepted.fetch_add(1, Ordering::AcqRel);
        seen.open.fetch_add(1, Ordering::AcqRel);
        tokio::spawn(async move {
            let answering = Arc::clone(&seen);
            let service = service_fn(move |request| {
                let seen = Arc::clone(&answering);
                async move { Ok::<_, Infallible>(answer(request, seen).await) }
            });
            let server = hyper::server::conn::http1::Builder::new();
            let _ = server.serve_connection(TokioIo::new(stream), service).with_upgrades().await;
            seen.open.fetch_sub(1, Ordering::AcqRel);
        });
    }
}

async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Response<Body> {
    let path = request.uri().path().to_owned();
    let turn = seen.requests.fetch_add(1, Ordering::AcqRel);
    tokio::time::sleep(Duration::from_millis(seen.delay_ms.load(Ordering::Acquire))).await;
    if turn * 37 % 100 < seen.failing_percent.load(Ordering::Acquire) {
        let mut response = text("out of order");
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        return response;
    }
    let number: u64 = request.uri().query().and_then(|query| query.parse().ok()).unwrap_or(0);
    let mut response = match path.as_str() {
        "/slow" => {
            tokio::time::sleep(Duration::from_millis(number)).await;
            text(&seen.name)
        }
        "/status" => {
            let mut response = text("");
            *response.status_mut() = StatusCode::from_u16(u16::try_from(number).unwrap()).unwrap();
            response
        }
        "/ledger" => {
            let id = request.into_body().collect().await.unwrap().to_bytes();
            seen.ledger.lock().unwrap().push(String::from_utf8(id.to_vec()).unwrap());
            text("recorded")
        }
        "/request" => text(&describe(&request)),
        "/count" => text(&count(request.into_body(), &seen).await.to_string()),
        "/echo" => Response::new(request.into_body().map_err(|error| panic!("{error}")).boxed()),
        "/early" => {
            let mut response = text("too much");
            *response.status_mut() = StatusCode::PAYLOAD_TOO_LARGE;
            response
        }
        "/download" => download(number, seen.clone()),
        "/word" => on_word(&seen),
        "/tick" => ticks(number, request.into_body()),
        "/cut" => cut_on_word(&seen),
        "/trailers" => trailers(),
        "/hang" => {
            let _guard = Cancelled(Arc::clone(&seen));
            seen.hanging.fetch_add(1, Ordering::AcqRel);
            std::future::pending().await
        }
        "/upgrade" => upgrade(request),
        "/websocket" => websocket(request),
        "/events" => events(number),
        "/own-headers" => {
            let mut response = text("");
            response.headers_mut().insert("x-frame-options", "SAMEORIGIN".parse().unwrap());
            response
        }
        "/mark" => {
            let mut response = text("mine");
            let headers = response.headers_mut();
            headers.insert("x-slipway-edge-error", "forged".parse().unwrap());
            headers.insert("connection", "x-hop".parse().unwrap());
            headers.insert("x-hop", "1".parse().unwrap());
            headers.insert("keep-alive", "timeout=5".parse().unwrap());
            headers.insert("x-request-id", "other".parse().unwrap());
            response
        }
        _ => text(&seen.name),
    };
    response.headers_mut().insert("x-release", seen.name.parse().unwrap());
    response
}

/// Counts requests that were dropped before they were answered.
struct Cancelled(Arc<Seen>);

impl Drop for Cancelled {
    fn drop(&mut self) {
        self.0.cancelled.fetch_add(1, Ordering::AcqRel);
    }
}

fn text(text: &str) -> Response<Body> {
    Response::new(Full::new(Bytes::from(text.to_owned())).boxed())
}

/// The request line and the headers, one a line.
fn describe(request: &Request<Incoming>) -> String {
    let mut lines = vec![format!("{} {} {:?}", request.method(), request.uri(), request.version())];
    lines
        .extend(request.headers().iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
    lines.join("\n")
}

async fn count(mut body: Incoming, seen: &Seen) -> u64 {
    let mut total = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let size = frame.data_ref().map_or(0, |data| data.len() as u64);
        total += size;
        seen.received.fetch_add(size, Ordering::AcqRel);
    }
    total
}

fn channel(response: impl FnOnce(mpsc::Sender<Result<Frame<Bytes>, Infallible>>)) -> Response<Body> {
    let (sender, mut receiver) = mpsc::channel(1);
    response(sender);
    let frames = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
    Response::new(BodyExt::boxed(StreamBody::new(frames)))
}

/// `megabytes` of zeros, a megabyte a frame.
fn download(megabytes: u64, seen: Arc<Seen>) -> Response<Body> {
    channel(|sender| {
        tokio::spawn(async move {
            let block = Bytes::from(vec![0; 1 << 20]);
            for _ in 0..megabytes {
                if sender.send(Ok(Frame::data(block.clone()))).await.is_err() {
                    return;
                }
                seen.produced.fetch_add(1 << 20, Ordering::AcqRel);
            }
        });
    })
}

/// Server-sent events: one at once, one for the test's word, and the end.
fn on_word(seen: &Arc<Seen>) -> Response<Body> {
    let mut word = seen.word.subscribe();
    let mut response = channel(|sender| {
        tokio::spawn(async move {
            let _ = sender.send(Ok(Frame::data("data: one\n\n".into()))).await;
            let _ = word.changed().await;
            let _ = sender.send(Ok(Frame::data("data: two\n\n".into()))).await;
        });
    });
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

/// Ten events, `pause_ms` apart. The request's body is neither read nor refused.
fn ticks(pause_ms: u64, unread: Incoming) -> Response<Body> {
    channel(|sender| {
        tokio::spawn(async move {
            for _ in 0..10 {
                let _ = sender.send(Ok(Frame::data("tick".into()))).await;
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
            }
            drop(unread);
        });
    })
}

/// An answer that says it has 100 bytes and has three, then nothing until the test's word ends the connection.
fn cut_on_word(seen: &Arc<Seen>) -> Response<Body> {
    let mut word = seen.word.subscribe();
    let mut response = channel(|sender| {
        tokio::spawn(async move {
            let _ = sender.send(Ok(Frame::data("one".into()))).await;
            let _ = word.changed().await;
        });
    });
    response.headers_mut().insert("content-length", "100".parse().unwrap());
    response
}

fn trailers() -> Response<Body> {
    let mut response = channel(|sender| {
        tokio::spawn(async move {
            let _ = sender.send(Ok(Frame::data("body".into()))).await;
            let mut trailers = HeaderMap::new();
            trailers.insert("x-sum", "42".parse().unwrap());
            let _ = sender.send(Ok(Frame::trailers(trailers))).await;
        });
    });
    response.headers_mut().insert("trailer", "x-sum".parse().unwrap());
    response
}

/// Switches to a protocol that greets and then echoes.
fn upgrade(mut request: Request<Incoming>) -> Response<Body> {
    let Some(protocol) = request.headers().get("upgrade").cloned() else { return text("no upgrade") };
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let _ = stream.write_all(b"welcome\n").await;
        let mut buffer = [0; 1024];
        while let Ok(n @ 1..) = stream.read(&mut buffer).await {
            let _ = stream.write_all(&buffer[..n]).await;
        }
    });
    let mut response = text("");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", "upgrade".parse().unwrap());
    response.headers_mut().insert("upgrade", protocol);
    response
}

/// Events for as long as somebody listens, each in two pieces that come `pause_ms` apart.
fn events(pause_ms: u64) -> Response<Body> {
    let mut response = channel(|sender| {
        tokio::spawn(async move {
            let mut pieces = (0..).flat_map(|number| [format!("data: {number}"), "\n\n".to_owned()]);
            while let Some([first, last]) = pieces.next().zip(pieces.next()).map(<[String; 2]>::from) {
                if sender.send(Ok(Frame::data(first.into()))).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(pause_ms)).await;
                let _ = sender.send(Ok(Frame::data(last.into()))).await;
            }
        });
    });
    response.headers_mut().insert("content-type", "text/event-stream".parse().unwrap());
    response
}

/// A WebSocket as far as its bytes go: messages of some bytes again and again, and a close frame for a close frame.
fn websocket(mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
        let mut message = vec![0x82, 126, 0x01, 0x2c];
        message.extend([0x88; 300]);
        let (head, rest) = message.split_at(100);
        let talking = async {
            while writer.write_all(head).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(3)).await;
                if writer.write_all(rest).await.is_err() {
                    return;
                }
            }
        };
        // The close frame of the client: masked, with a code.
        let mut close = [0; 8];
        tokio::select! {
            () = talking => {}
            _ = reader.read_exact(&mut close) => {}
        }
        let _ = writer.write_all(&[0x88, 2, close[6] ^ close[2], close[7] ^ close[3]]).await;
    });
    let mut response = text("");
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", "upgrade".parse().unwrap());
    response.headers_mut().insert("upgrade", "websocket".parse().unwrap());
    response
}
