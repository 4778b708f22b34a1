//! One request from its head to its answer's head. The invariant: a request is sent a second time only when nothing of it
//! was sent before, or when it is a GET or HEAD without a body that got no answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::body::{Download, Open, ResponseBody, Source, Upload, Waiting};
use crate::error::EdgeError;
use crate::gauge::Gauge;
use crate::headers::{self, RequestIds};
use crate::live::{Flight, Live, LiveSlot};
use crate::log::{self, AccessEntry};
use crate::server::Phase;
use crate::upstream::{Connection, Pool};
use crate::{Options, routing};

/// A local connect that takes longer hangs in a full backlog: another upstream may do better.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits between rounds over all upstreams of a slot: the first, and the longest of those that double from it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

/// How long a client's half of an upgraded connection stays open after the service has ended its own.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// What all connections share.
pub(crate) struct Proxy {
    pub(crate) live: Arc<Live>,
    pub(crate) options: Options,
    pub(crate) ids: RequestIds,
    pub(crate) phase: watch::Receiver<Phase>,
    /// Requests whose answer has not been handed to the connection in full.
    pub(crate) busy: Gauge,
    /// Connections of clients, upgraded ones included.
    pub(crate) connections: Gauge,
}

/// A request while it looks for a service that takes it.
struct Errand {
    host: String,
    uri: Uri,
    request: Request<Upload>,
    /// What is needed to send the request again although it may have been sent; used up by doing so.
    spare: Option<Parts>,
    /// `X-Forwarded-Prefix` of a trusted client.
    client_prefix: Option<HeaderValue>,
}

/// What became of one try.
enum Outcome {
    Answered(Response<Incoming>),
    /// Nothing was sent: here is the request again.
    NotSent(Request<Upload>, String),
    /// It may have been sent.
    Lost(String),
    Failed(EdgeError),
}

/// Whose turn it is over the tries of one request.
struct Turns {
    deadline: Instant,
    slot: Option<Arc<LiveSlot>>,
    first: usize,
    tried: usize,
    pause: Duration,
}

impl Proxy {
    /// Answers one request; what goes wrong becomes an answer too.
    pub(crate) async fn handle(
        &self,
        client: SocketAddr,
        request: Request<Incoming>,
    ) -> Response<ResponseBody> {
        let held = self.busy.hold();
        let id = headers::request_id(request.headers(), &self.ids);
        let access = self.options.access_log.then(|| access_entry(client, &request, &id));
        let answer = self.answer(client, &id, request).await;
        let mut slot = String::new();
        let (mut head, source) = match answer {
            Ok((head, open, source)) => {
                slot = open;
                (head, source)
            }
            Err(error) => {
                let (head, bytes) = error.answer(&id).into_parts();
                (Response::from_parts(head, ()), Source::Edge(Some(bytes)))
            }
        };
        head.headers_mut().insert(headers::REQUEST_ID, id);
        if *self.phase.borrow() != Phase::Serving && head.status() != StatusCode::SWITCHING_PROTOCOLS {
            head.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        let status = head.status().as_u16();
        let mut body = ResponseBody::new(source, held);
        body.access = access.map(|entry| entry.answered(status, slot));
        head.map(|()| body)
    }

    async fn answer(
        &self,
        client: SocketAddr,
        id: &HeaderValue,
        mut request: Request<Incoming>,
    ) -> Result<(Response<()>, String, Source), EdgeError> {
        if request.method() == Method::CONNECT {
            return Err(EdgeError::ConnectMethod);
        }
        let upgrade = headers::upgrade(request.headers());
        let client_upgrade = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let errand = self.prepare(client, id, request, upgrade)?;
        let (answer, open) = self.forward(errand).await?;
        let (slot, is_body_wanted) = (open.flight.slot.name.clone(), open.is_reusable);
        let is_upgrade = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let (mut head, source) = match (is_upgrade, client_upgrade) {
            (true, Some(client_upgrade)) => {
                (self.switch_protocol(client_upgrade, answer, open), Source::Edge(None))
            }
            (true, None) => {
                open.flight.slot.counters.server_errors.fetch_add(1, Ordering::Relaxed);
                let error = EdgeError::NoAnswer("101 without a request for it".into());
                return Err(report(&open.flight, error));
            }
            (false, _) => {
                let (parts, body) = answer.into_parts();
                (Response::from_parts(parts, ()), Source::Service(Download::new(body, open)))
            }
        };
        *head.version_mut() = Version::HTTP_11;
        headers::to_client(head.headers_mut(), is_upgrade);
        if !is_body_wanted {
            // The client may send the body or not, so where its next request would begin is anybody's guess.
            head.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok((head, slot, source))
    }

    /// The request as the service will see it, but for what depends on the route.
    fn prepare(
        &self,
        client: SocketAddr,
        id: &HeaderValue,
        request: Request<Incoming>,
        upgrade: Option<HeaderValue>,
    ) -> Result<Errand, EdgeError> {
        let (mut parts, body) = request.into_parts();
        let host = headers::host(parts.version, &parts.uri, &parts.headers).map_err(EdgeError::BadRequest)?;
        let about = headers::Client {
            address: client.ip(),
            host: host.as_ref(),
            is_proxy_trusted: self.options.trust_forwarded,
        };
        headers::to_service(&mut parts.headers, &about, upgrade);
        parts.headers.insert(headers::REQUEST_ID, id.clone());
        parts.version = Version::HTTP_11;
        let uri = std::mem::take(&mut parts.uri);
        let client_prefix = parts.headers.get(headers::FORWARDED_PREFIX).cloned();
        let body = Upload::new(body, self.options.stall_timeout);
        let spare = (headers::is_repeatable(&parts.method) && body.is_empty()).then(|| head_of(&parts));
        let is_held = headers::expects_continue(&parts.headers) && !body.is_empty();
        let mut request = Request::from_parts(parts, body);
        if is_held {
            Upload::hold_until_continue(&mut request);
        }
        let host =
            routing::normal_host(host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or_default());
        Ok(Errand { host, uri, request, spare, client_prefix })
    }

    /// Sends the request to the slot in force, again and again while nothing of it was sent and there is time.
    async fn forward(&self, mut errand: Errand) -> Result<(Response<Incoming>, Open), EdgeError> {
        let mut turns = Turns::new(self.options.send_timeout);
        let mut use_pool = true;
        loop {
            let flight = self.live.pick(&errand.host, errand.uri.path()).ok_or(EdgeError::NoRoute)?;
            let pool = turns.next(&flight.slot);
            let mut connection = match connect(&pool, use_pool, &turns).await {
                Ok(connection) => connection,
                Err(error) => {
                    turns.pause(flight, error).await?;
                    continue;
                }
            };
            let progress = errand.request.body().progress();
            errand.address(&flight);
            match self.send(&mut connection, errand.request).await {
                Outcome::Answered(answer) => {
                    flight.slot.counters.answered(answer.status());
                    let is_reusable = progress.is_wanted();
                    let upload = progress;
                    return Ok((answer, Open { connection, pool, flight, is_reusable, upload }));
                }
                Outcome::NotSent(request, error) => {
                    errand.request = request;
                    if !use_pool {
                        turns.pause(flight, error).await?;
                    }
                }
                Outcome::Lost(error) => {
                    let spare = errand.spare.take();
                    let head = spare.ok_or_else(|| flight.failed(EdgeError::NoAnswer(error)))?;
                    errand.request = Request::from_parts(head, Upload::none());
                }
                Outcome::Failed(error) => return Err(flight.failed(error)),
            }
            // A connection that was kept too long says nothing about the service: the next try opens one.
            use_pool = false;
        }
    }

    /// Sends the request and waits for the head of the answer.
    async fn send(&self, connection: &mut Connection, request: Request<Upload>) -> Outcome {
        let progress = request.body().progress();
        progress.touch();
        let mut answer = std::pin::pin!(connection.sender.try_send_request(request));
        loop {
            let (since, _) = progress.stalled();
            let deadline = since + self.options.answer_timeout;
            match tokio::time::timeout_at(deadline.into(), &mut answer).await {
                Ok(Ok(answer)) => return Outcome::Answered(answer),
                Ok(Err(mut error)) => {
                    let request = error.take_message();
                    let text = format!("{:#}", anyhow::Error::new(error.into_error()));
                    return match request {
                        Some(request) => Outcome::NotSent(request, text),
                        None if progress.is_abandoned() => Outcome::Failed(EdgeError::UploadStalled),
                        None => Outcome::Lost(text),
                    };
                }
                Err(_) => match progress.stalled() {
                    (moved, _) if moved > since => {}
                    (_, Waiting::Client) => return Outcome::Failed(EdgeError::UploadStalled),
                    (_, Waiting::Service) => return Outcome::Failed(EdgeError::AnswerTimeout),
                },
            }
        }
    }

    /// Joins the two connections once both sides have switched, and returns the head of the answer.
    fn switch_protocol(&self, client: OnUpgrade, mut answer: Response<Incoming>, open: Open) -> Response<()> {
        let service = hyper::upgrade::on(&mut answer);
        open.connection.detach();
        let (stream, held) = (open.flight.into_stream(), self.connections.hold());
        tokio::spawn(async move {
            if let (Ok(client), Ok(service)) = tokio::join!(client, service) {
                tunnel(TokioIo::new(client), TokioIo::new(service)).await;
            }
            drop((stream, held));
        });
        let (parts, _) = answer.into_parts();
        Response::from_parts(parts, ())
    }
}

impl Errand {
    /// Sets what depends on the route that was taken.
    fn address(&mut self, flight: &Flight) {
        let target = self.uri.path_and_query().map_or("/", |target| target.as_str());
        let target = flight.entry.upstream_target(target);
        // What was parsed as a target stays one without its prefix.
        *self.request.uri_mut() = target.parse().unwrap_or_default();
        let prefix = flight.entry.stripped_prefix().and_then(|prefix| HeaderValue::from_str(prefix).ok());
        match prefix.or_else(|| self.client_prefix.clone()) {
            Some(prefix) => self.request.headers_mut().insert(headers::FORWARDED_PREFIX, prefix),
            None => self.request.headers_mut().remove(headers::FORWARDED_PREFIX),
        };
    }
}

impl Turns {
    fn new(send_timeout: Duration) -> Turns {
        Turns { deadline: Instant::now() + send_timeout, slot: None, first: 0, tried: 0, pause: FIRST_PAUSE }
    }

    /// The upstream for the next try: each in turn, anew when the table has changed.
    fn next(&mut self, slot: &Arc<LiveSlot>) -> Arc<Pool> {
        if !self.slot.as_ref().is_some_and(|before| Arc::ptr_eq(before, slot)) {
            self.slot = Some(Arc::clone(slot));
            self.first = slot.next_turn();
            self.tried = 0;
        }
        self.tried += 1;
        Arc::clone(slot.pool(self.first.wrapping_add(self.tried - 1)))
    }

    /// After a try that sent nothing: lets go of the slot, and waits a little when all its upstreams had their turn.
    async fn pause(&mut self, flight: Flight, error: String) -> Result<(), EdgeError> {
        let is_round_over = self.tried.is_multiple_of(flight.slot.size());
        let pause = if is_round_over { self.pause } else { Duration::ZERO };
        if Instant::now() + pause >= self.deadline {
            flight.slot.counters.connect_errors.fetch_add(1, Ordering::Relaxed);
            return Err(report(&flight, EdgeError::NotSent(error)));
        }
        drop(flight);
        if is_round_over {
            tokio::time::sleep(pause).await;
            self.pause = (pause * 2).min(LONGEST_PAUSE);
        }
        Ok(())
    }
}

impl Flight {
    /// The service took the request and did not answer it.
    fn failed(&self, error: EdgeError) -> EdgeError {
        self.slot.counters.requests.fetch_add(1, Ordering::Relaxed);
        if error != EdgeError::UploadStalled {
            self.slot.counters.server_errors.fetch_add(1, Ordering::Relaxed);
        }
        report(self, error)
    }
}

fn report(flight: &Flight, error: EdgeError) -> EdgeError {
    let (EdgeError::NotSent(detail) | EdgeError::NoAnswer(detail)) = &error else { return error };
    let fields = json!({ "slot": flight.slot.name, "code": error.code(), "error": detail });
    log::event("upstream_failed", fields);
    error
}

async fn connect(pool: &Arc<Pool>, use_pool: bool, turns: &Turns) -> Result<Connection, String> {
    if let Some(connection) = use_pool.then(|| pool.take()).flatten() {
        return Ok(connection);
    }
    let left = turns.deadline.saturating_duration_since(Instant::now());
    let opened = Connection::open(pool.address, left.min(CONNECT_TIMEOUT)).await;
    opened.map_err(|error| format!("{}: {error}", pool.address))
}

/// A copy of the head without its extensions, which belong to one message.
fn head_of(parts: &Parts) -> Parts {
    let (mut copy, ()) = Request::new(()).into_parts();
    copy.method = parts.method.clone();
    copy.version = parts.version;
    copy.headers = parts.headers.clone();
    copy
}

/// Passes bytes both ways until both sides have ended. A client may end its half and listen on; when the service has
/// ended, nobody is left for the client to talk to.
async fn tunnel(client: TokioIo<Upgraded>, service: TokioIo<Upgraded>) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_service, to_service) = tokio::io::split(service);
    let mut up = std::pin::pin!(pass(from_client, to_service));
    let mut down = std::pin::pin!(pass(from_service, to_client));
    // Either side ends it by closing, or by breaking: there is nobody to tell.
    let _ = tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => down.await,
            broken => broken,
        },
        ended = &mut down => match ended {
            Ok(()) => tokio::time::timeout(LEAVE_TIME, up).await.unwrap_or(Ok(())),
            broken => broken,
        },
    };
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

fn access_entry(client: SocketAddr, request: &Request<Incoming>, id: &HeaderValue) -> AccessEntry {
    let text =
        |value: Option<&HeaderValue>| value.and_then(|value| value.to_str().ok()).unwrap_or("").to_owned();
    AccessEntry {
        began: Instant::now(),
        method: request.method().to_string(),
        host: text(request.headers().get(header::HOST)),
        path: request.uri().path().to_owned(),
        client: client.to_string(),
        request_id: text(Some(id)),
        status: 0,
        slot: String::new(),
        bytes: 0,
        is_complete: false,
    }
}
