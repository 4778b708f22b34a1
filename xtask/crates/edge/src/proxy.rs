//! One request from its head to its answer's head. The invariant: a request is sent a second time only when nothing of it
//! was sent before, or when it is a GET or HEAD without a body that got no answer.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::http::request::Parts;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::sync::watch;

use crate::access::{self, AccessLog};
use crate::body::{Download, Open, ResponseBody, Source, Upload, Waiting};
use crate::connection::Peer;
use crate::error::EdgeError;
use crate::gauge::Gauge;
use crate::headers::{self, RequestIds, Scheme};
use crate::live::{Flight, Live, LiveSlot, Picked, Routes};
use crate::pause::{Gate, Passage};
use crate::policy::RoutePolicy;
use crate::server::Phase;
use crate::stream::{self, Ending};
use crate::upstream::{Connection, Pool};
use crate::{Options, log, routing};

/// A local connect that takes longer hangs in a full backlog: another upstream may do better.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Waits between rounds over all upstreams of a slot: the first, and the longest of those that double from it.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_millis(100);

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
    pub(crate) access: Arc<AccessLog>,
    /// What encrypted connections are accepted with.
    pub(crate) tls: Option<Arc<rustls::ServerConfig>>,
    /// Where they are accepted first of all.
    pub(crate) https_port: Option<u16>,
}

/// A request while it looks for a service that takes it.
struct Errand {
    client: IpAddr,
    began: Instant,
    routes: Routes,
    host: String,
    uri: Uri,
    request: Request<Upload>,
    /// What is needed to send the request again although it may have been sent; used up by doing so.
    spare: Option<Parts>,
    /// `X-Forwarded-Prefix` of a trusted client.
    client_prefix: Option<HeaderValue>,
    is_admitted: bool,
    /// How often a slot was taken for it.
    tries: u32,
}

/// An answer of a service on its way to the client.
struct Reply {
    head: Response<()>,
    source: Source,
    slot: Arc<LiveSlot>,
    upstream: SocketAddr,
    retries: u32,
}

/// What became of one try.
enum Outcome {
    Answered(Response<Incoming>),
    /// Nothing was sent: here is the request again.
    NotSent(Box<Request<Upload>>, String),
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
    pub(crate) async fn handle(&self, client: Peer, request: Request<Incoming>) -> Response<ResponseBody> {
        let (held, began) = (self.busy.hold(), Instant::now());
        let id = headers::request_id(request.headers(), &self.ids);
        let mut access = self.access.begin(|| access_entry(client.address, &request, &id, began));
        let answer = self.answer(client, &id, began, request).await;
        let mut from = None;
        let (mut head, source) = match answer {
            Ok(reply) => {
                from = Some((reply.slot, reply.upstream, reply.retries));
                (reply.head, reply.source)
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
        if let Some(access) = &mut access {
            access.note(|entry| {
                (entry.status, entry.first_byte) = (head.status().as_u16(), began.elapsed());
                if let Some((slot, upstream, retries)) = from {
                    (entry.source, entry.retries) = (Some((slot, upstream)), retries);
                }
            });
        }
        let mut body = ResponseBody::new(source, held);
        body.access = access;
        head.map(|()| body)
    }

    async fn answer(
        &self,
        client: Peer,
        id: &HeaderValue,
        began: Instant,
        mut request: Request<Incoming>,
    ) -> Result<Reply, EdgeError> {
        if request.method() == Method::CONNECT {
            return Err(EdgeError::ConnectMethod);
        }
        let upgrade = headers::upgrade(request.headers());
        let is_websocket =
            upgrade.as_ref().is_some_and(|name| name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let client_upgrade = upgrade.is_some().then(|| hyper::upgrade::on(&mut request));
        let errand = self.prepare(client, id, began, request, upgrade)?;
        let is_secure = self.is_secure(client, errand.request.headers());
        let (answer, open, retries) = self.forward(errand).await?;
        let is_body_wanted = open.is_reusable;
        let (slot, upstream) = (Arc::clone(&open.flight.slot), open.pool.address);
        let is_upgrade = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
        let (mut head, source) = match (is_upgrade, client_upgrade) {
            (true, Some(client_upgrade)) => {
                let mut head = self.switch_protocol(client_upgrade, answer, open, is_websocket);
                headers::to_client(head.headers_mut(), true);
                (head, Source::Edge(None))
            }
            (true, None) => {
                open.flight.slot.counters.cut();
                let error = EdgeError::NoAnswer("101 without a request for it".into());
                return Err(report(&open.flight, error));
            }
            (false, _) => {
                let (mut parts, body) = answer.into_parts();
                headers::to_client(&mut parts.headers, false);
                open.flight.entry.policy.finish(&mut parts.headers, is_secure);
                let download = Download::new(body, &parts.headers, open);
                (Response::from_parts(parts, ()), Source::Service(download))
            }
        };
        *head.version_mut() = Version::HTTP_11;
        if !is_body_wanted {
            // The client may send the body or not, so where its next request would begin is anybody's guess.
            head.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(Reply { head, source, slot, upstream, retries })
    }

    /// Whether the client came over TLS, to here or to a trusted proxy.
    fn is_secure(&self, client: Peer, headers: &HeaderMap) -> bool {
        match self.options.trust_forwarded {
            true => headers::is_secure(headers),
            false => client.scheme == Scheme::Https,
        }
    }

    /// The request as the service will see it, but for what depends on the route.
    fn prepare(
        &self,
        client: Peer,
        id: &HeaderValue,
        began: Instant,
        request: Request<Incoming>,
        upgrade: Option<HeaderValue>,
    ) -> Result<Errand, EdgeError> {
        let (mut parts, body) = request.into_parts();
        let host = headers::host(parts.version, &parts.uri, &parts.headers).map_err(EdgeError::BadRequest)?;
        let about = headers::Client {
            address: client.address.ip(),
            scheme: client.scheme,
            host: host.as_ref(),
            is_proxy_trusted: self.options.trust_forwarded,
        };
        let address = headers::client_address(&parts.headers, &about);
        headers::to_service(&mut parts.headers, &about, upgrade);
        parts.headers.insert(headers::REQUEST_ID, id.clone());
        parts.version = Version::HTTP_11;
        let routes = self.live.routes(&mut parts.headers);
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
        Ok(Errand {
            client: address,
            began,
            routes,
            host,
            uri,
            request,
            spare,
            client_prefix,
            is_admitted: false,
            tries: 0,
        })
    }

    /// Sends the request to the slot in force, again and again while nothing of it was sent and there is time.
    async fn forward(&self, mut errand: Errand) -> Result<(Response<Incoming>, Open, u32), EdgeError> {
        let mut turns = Turns::new(self.options.send_timeout);
        let mut use_pool = true;
        loop {
            let flight = self.take_slot(&mut errand, &mut turns).await?;
            let pool = turns.next(&flight.slot);
            let mut connection = match connect(&pool, use_pool, &turns).await {
                Ok(connection) => connection,
                Err(error) => {
                    self.not_sent(&mut errand, &mut turns, flight, error).await?;
                    continue;
                }
            };
            let progress = errand.request.body().progress();
            errand.address(&flight);
            let limit = flight.entry.policy.answer_timeout.unwrap_or(self.options.answer_timeout);
            match send(&mut connection, errand.request, limit).await {
                Outcome::Answered(answer) => {
                    // From here back to the last byte of the request is what the service took.
                    flight.slot.counters.answered(answer.status(), progress.stalled().0.elapsed());
                    let (is_reusable, began) = (progress.is_wanted(), errand.began);
                    let open = Open { connection, pool, flight, is_reusable, upload: progress, began };
                    return Ok((answer, open, errand.tries - 1));
                }
                Outcome::NotSent(request, error) => {
                    errand.request = *request;
                    if !use_pool {
                        self.not_sent(&mut errand, &mut turns, flight, error).await?;
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

    /// The slot for the next try, once its service is not paused.
    async fn take_slot(&self, errand: &mut Errand, turns: &mut Turns) -> Result<Flight, EdgeError> {
        loop {
            match self.live.pick(errand.routes, &errand.host, errand.uri.path()) {
                Picked::Flight(flight) => {
                    errand.admit(&flight.entry.policy)?;
                    errand.tries += 1;
                    return Ok(flight);
                }
                Picked::Held(gate, entry) => {
                    errand.admit(&entry.policy)?;
                    hold(&gate).await?;
                    *turns = Turns::new(self.options.send_timeout);
                }
                // What was there a moment ago has gone: the routes in force decide.
                Picked::Nowhere if errand.routes != Routes::InForce => errand.routes = Routes::InForce,
                Picked::Nowhere => return Err(EdgeError::NoRoute),
            }
        }
    }

    /// After a try that sent nothing: where the slot before can still take it, the next try goes there.
    async fn not_sent(
        &self,
        errand: &mut Errand,
        turns: &mut Turns,
        flight: Flight,
        error: String,
    ) -> Result<(), EdgeError> {
        let is_round_over = turns.tried.is_multiple_of(flight.slot.size());
        if errand.routes == Routes::Former {
            errand.routes = Routes::InForce;
        } else if is_round_over && errand.routes == Routes::InForce && self.has_other(errand, &flight) {
            self.live.unsent.notify_one();
            flight.slot.counters.rescued();
            errand.routes = Routes::Former;
            return Ok(());
        }
        turns.pause(flight, error).await
    }

    /// Whether the routes before lead elsewhere.
    fn has_other(&self, errand: &Errand, flight: &Flight) -> bool {
        let other = self.live.pick(Routes::Former, &errand.host, errand.uri.path());
        matches!(other, Picked::Flight(other) if other.slot.name != flight.slot.name)
    }

    /// Joins the two connections once both sides have switched, and returns the head of the answer.
    fn switch_protocol(
        &self,
        client: OnUpgrade,
        mut answer: Response<Incoming>,
        open: Open,
        is_websocket: bool,
    ) -> Response<()> {
        let service = hyper::upgrade::on(&mut answer);
        open.connection.detach();
        let ending = Ending::new(open.flight.slot.counters.retirement(), open.flight.entry.policy.streams);
        let (stream, held) = (open.flight.into_stream(), self.connections.hold());
        tokio::spawn(async move {
            if let (Ok(client), Ok(service)) = tokio::join!(client, service) {
                stream::tunnel(TokioIo::new(client), TokioIo::new(service), ending, is_websocket).await;
            }
            drop((stream, held));
        });
        let (parts, _) = answer.into_parts();
        Response::from_parts(parts, ())
    }
}

/// Waits until a paused service goes on.
async fn hold(gate: &Gate) -> Result<(), EdgeError> {
    match gate.pass().await {
        Passage::Released => Ok(()),
        Passage::HeldTooLong | Passage::Full => Err(EdgeError::Paused(gate.hold())),
    }
}

/// Sends the request and waits for the head of the answer, at most `limit` after something moved last.
async fn send(connection: &mut Connection, request: Request<Upload>, limit: Duration) -> Outcome {
    let progress = request.body().progress();
    progress.touch();
    let mut answer = std::pin::pin!(connection.sender.try_send_request(request));
    loop {
        let (since, _) = progress.stalled();
        match tokio::time::timeout_at((since + limit).into(), &mut answer).await {
            Ok(Ok(answer)) => return Outcome::Answered(answer),
            Ok(Err(mut error)) => {
                let request = error.take_message();
                let text = format!("{:#}", anyhow::Error::new(error.into_error()));
                return match (request, progress.given_up()) {
                    (Some(request), _) => Outcome::NotSent(Box::new(request), text),
                    (None, Some(given_up)) => Outcome::Failed(given_up),
                    (None, None) => Outcome::Lost(text),
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

impl Errand {
    /// Holds the request to the rules of its route, once.
    fn admit(&mut self, policy: &RoutePolicy) -> Result<(), EdgeError> {
        if !std::mem::replace(&mut self.is_admitted, true) {
            policy.admit(self.client, self.request.headers(), self.began)?;
            self.request.body_mut().limit(policy);
        }
        Ok(())
    }

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
            flight.slot.counters.connect_error();
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
        if !error.is_clients() {
            self.slot.counters.unanswered();
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

fn access_entry(
    client: SocketAddr,
    request: &Request<Incoming>,
    id: &HeaderValue,
    began: Instant,
) -> access::Entry {
    access::Entry {
        at: SystemTime::now(),
        began,
        client,
        method: request.method().clone(),
        host: request.headers().get(header::HOST).cloned(),
        uri: request.uri().clone(),
        request_id: id.clone(),
        status: 0,
        first_byte: Duration::ZERO,
        total: Duration::ZERO,
        source: None,
        retries: 0,
        bytes: 0,
        is_complete: false,
    }
}
