//! Bodies on their way through: frames pass one at a time, so a slow reader slows its writer and nothing is gathered. The
//! response body carries the guards that say until when a request is in flight.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::access::Pending;
use crate::error::EdgeError;
use crate::events::{EventStream, is_event_stream};
use crate::gauge::Held;
use crate::live::Flight;
use crate::policy::RoutePolicy;
use crate::stall::Stall;
use crate::upstream::{Connection, Pool};

/// How long a service may leave `Expect: 100-continue` unanswered before the body is sent all the same (RFC 9110, section
/// 10.1.1, leaves the time to the client; curl waits as long).
const CONTINUE_PATIENCE: Duration = Duration::from_secs(1);

/// The request body towards the service.
pub(crate) struct Upload {
    inner: Option<Incoming>,
    progress: Arc<Progress>,
    gate: Option<Gate>,
    stall: Stall,
    /// How much may still come.
    room: Option<u64>,
    /// When all must have come.
    deadline: Option<Pin<Box<Sleep>>>,
}

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error("{0}")]
    GivenUp(EdgeError),
}

/// How far an upload is, for the one who waits for the answer.
pub(crate) struct Progress {
    state: Mutex<(Instant, Waiting)>,
    /// Whether the service was willing to take the body so far.
    is_wanted: AtomicBool,
    /// Why the body was given up, if it was: 0, or the number of a [`GivenUp`].
    given_up: AtomicU8,
    /// The most that the route allows.
    most: AtomicU64,
}

/// Why an upload may be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GivenUp {
    Stalled = 1,
    TooLong,
    TooSlow,
}

/// Whose turn it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Waiting {
    Client,
    Service,
}

/// Holds the body back until the service asks for it.
struct Gate {
    /// `None` when the final answer came without a word about the body: then it stays here.
    permission: Option<oneshot::Receiver<()>>,
    patience: Pin<Box<Sleep>>,
}

impl Upload {
    /// The body of a client that may stop sending for as long as `stall_timeout`.
    pub(crate) fn new(body: Incoming, stall_timeout: Duration) -> Upload {
        let inner = (!body.is_end_stream()).then_some(body);
        Upload { inner, stall: Stall::new(stall_timeout), ..Upload::none() }
    }

    /// No body at all.
    pub(crate) fn none() -> Upload {
        let state = Mutex::new((Instant::now(), Waiting::Service));
        let (is_wanted, given_up) = (AtomicBool::new(true), AtomicU8::new(0));
        Upload {
            inner: None,
            progress: Arc::new(Progress { state, is_wanted, given_up, most: AtomicU64::new(0) }),
            gate: None,
            stall: Stall::new(Duration::MAX),
            room: None,
            deadline: None,
        }
    }

    /// Holds what comes to the limits of a route.
    pub(crate) fn limit(&mut self, policy: &RoutePolicy) {
        if self.is_empty() {
            return;
        }
        self.room = policy.max_body_bytes;
        self.progress.most.store(self.room.unwrap_or(0), Ordering::Relaxed);
        self.deadline = policy.request_timeout.map(|timeout| Box::pin(tokio::time::sleep(timeout)));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.inner.is_none()
    }

    pub(crate) fn progress(&self) -> Arc<Progress> {
        Arc::clone(&self.progress)
    }

    /// Holds the body of `request` back until the service says `100 Continue`, or says nothing for a while.
    pub(crate) fn hold_until_continue(request: &mut Request<Upload>) {
        let (open, permission) = oneshot::channel();
        let gate =
            Gate { permission: Some(permission), patience: Box::pin(tokio::time::sleep(CONTINUE_PATIENCE)) };
        request.body_mut().gate = Some(gate);
        request.body().progress.is_wanted.store(false, Ordering::Release);
        let open = Mutex::new(Some(open));
        hyper::ext::on_informational(request, move |answer| {
            if answer.status() == StatusCode::CONTINUE {
                let open = open.lock().unwrap_or_else(PoisonError::into_inner).take();
                let _ = open.map(|open| open.send(()));
            }
        });
    }

    fn poll_gate(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(gate) = &mut self.gate else { return Poll::Ready(()) };
        let Some(permission) = &mut gate.permission else { return Poll::Pending };
        match Pin::new(permission).poll(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => {
                gate.permission = None;
                return Poll::Pending;
            }
            Poll::Pending => ready!(gate.patience.as_mut().poll(cx)),
        }
        self.gate = None;
        self.progress.is_wanted.store(true, Ordering::Release);
        Poll::Ready(())
    }

    /// Ready when the client has let the transfer stand for too long: the answer, which may come at the same time, has not
    /// moved either.
    fn poll_stalled(&mut self, cx: &mut Context<'_>) -> Poll<UploadError> {
        loop {
            ready!(self.stall.poll_exceeded(cx));
            self.stall.moved();
            if self.progress.stalled().0.elapsed() >= self.stall.limit() {
                return Poll::Ready(self.progress.give_up(GivenUp::Stalled));
            }
        }
    }

    fn take_room(&mut self, frame: &Frame<Bytes>) -> Result<(), UploadError> {
        let (Some(room), Some(data)) = (&mut self.room, frame.data_ref()) else { return Ok(()) };
        match room.checked_sub(data.len() as u64) {
            Some(left) => *room = left,
            None => return Err(self.progress.give_up(GivenUp::TooLong)),
        }
        Ok(())
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<UploadError> {
        match &mut self.deadline {
            Some(deadline) => deadline.as_mut().poll(cx).map(|()| self.progress.give_up(GivenUp::TooSlow)),
            None => Poll::Pending,
        }
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, UploadError>>> {
        ready!(self.poll_gate(cx));
        let this = &mut *self;
        let Some(body) = &mut this.inner else { return Poll::Ready(None) };
        match Pin::new(body).poll_frame(cx) {
            Poll::Ready(frame) => {
                this.stall.moved();
                *this.progress.state() = (Instant::now(), Waiting::Service);
                let within = |frame| this.take_room(&frame).map(|()| frame);
                Poll::Ready(frame.map(|frame| frame.map_err(UploadError::from).and_then(within)))
            }
            Poll::Pending => {
                this.progress.state().1 = Waiting::Client;
                if let Poll::Ready(error) = this.poll_deadline(cx) {
                    return Poll::Ready(Some(Err(error)));
                }
                this.poll_stalled(cx).map(|error| Some(Err(error)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map_or(SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Progress {
    /// Since when nothing has moved, and who should move.
    pub(crate) fn stalled(&self) -> (Instant, Waiting) {
        *self.state()
    }

    /// Something moves, or the wait for it begins.
    pub(crate) fn touch(&self) {
        self.state().0 = Instant::now();
    }

    /// Why the body was given up, if it was: the client's doing, not the service's.
    pub(crate) fn given_up(&self) -> Option<EdgeError> {
        let known = [GivenUp::Stalled, GivenUp::TooLong, GivenUp::TooSlow];
        let given_up = self.given_up.load(Ordering::Acquire);
        known.into_iter().find(|known| *known as u8 == given_up).map(|known| self.error(known))
    }

    fn give_up(&self, why: GivenUp) -> UploadError {
        self.given_up.store(why as u8, Ordering::Release);
        UploadError::GivenUp(self.error(why))
    }

    fn error(&self, why: GivenUp) -> EdgeError {
        match why {
            GivenUp::Stalled => EdgeError::UploadStalled,
            GivenUp::TooLong => EdgeError::BodyTooLong(self.most.load(Ordering::Relaxed)),
            GivenUp::TooSlow => EdgeError::UploadTooSlow,
        }
    }

    /// False while the service was asked whether it wants the body and has not said so.
    pub(crate) fn is_wanted(&self) -> bool {
        self.is_wanted.load(Ordering::Acquire)
    }

    fn state(&self) -> MutexGuard<'_, (Instant, Waiting)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The response body towards the client.
pub(crate) struct ResponseBody {
    source: Source,
    pub(crate) access: Option<Pending>,
    _held: Held,
}

/// Where a response body comes from.
pub(crate) enum Source {
    /// The edge itself.
    Edge(Option<Bytes>),
    /// The service.
    Service(Download),
}

/// A service's response body. When it ends, its connection goes back to the pool and then its flight is over; when it is
/// dropped before, the connection is closed, which tells the service.
pub(crate) struct Download {
    inner: Incoming,
    open: Option<Open>,
    /// What arrives here counts as movement for the request's body too.
    upload: Arc<Progress>,
    silence: Option<Stall>,
    events: Option<Box<EventStream>>,
}

/// What a request holds until its answer is complete. The order of the fields is the order in which they are let go.
pub(crate) struct Open {
    pub(crate) connection: Connection,
    pub(crate) pool: Arc<Pool>,
    pub(crate) flight: Flight,
    /// Whether another request may follow on the connection.
    pub(crate) is_reusable: bool,
    /// The request's body, which may still be on its way.
    pub(crate) upload: Arc<Progress>,
    /// When the head of the request was there.
    pub(crate) began: Instant,
}

/// Why an answer is cut off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DownloadError {
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error("the service stopped sending its answer")]
    Silent,
}

type Polled = Poll<Option<Result<Frame<Bytes>, DownloadError>>>;

impl ResponseBody {
    pub(crate) fn new(source: Source, held: Held) -> ResponseBody {
        ResponseBody { source, access: None, _held: held }
    }
}

impl Download {
    /// The body of an answer with these headers.
    pub(crate) fn new(inner: Incoming, headers: &HeaderMap, open: Open) -> Download {
        let upload = Arc::clone(&open.upload);
        let events = EventStream::of(headers, inner.size_hint().exact().is_some(), &open.flight);
        let silence = open.flight.entry.policy.silence_timeout.filter(|_| !is_event_stream(headers));
        Download {
            inner,
            open: Some(open),
            upload,
            silence: silence.map(Stall::new),
            events: events.map(Box::new),
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Polled {
        if let Some(events) = &mut self.events
            && let Poll::Ready(last) = events.poll_end(cx)
        {
            // The service did nothing wrong: it was told to go.
            self.finish(false);
            return Poll::Ready(last.map(|last| Ok(Frame::data(last))));
        }
        let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(cx) else {
            return self.poll_silence(cx);
        };
        self.upload.touch();
        if let Some(silence) = &mut self.silence {
            silence.moved();
        }
        match &frame {
            Some(Err(_)) => self.cut(),
            Some(Ok(frame)) => {
                if let (Some(events), Some(data)) = (&mut self.events, frame.data_ref()) {
                    events.see(data);
                }
                if self.inner.is_end_stream() {
                    self.finish(true);
                }
            }
            None => self.finish(true),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(DownloadError::from)))
    }

    fn poll_silence(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(silence) = &mut self.silence else { return Poll::Pending };
        ready!(silence.poll_exceeded(cx));
        self.cut();
        Poll::Ready(Some(Err(DownloadError::Silent)))
    }

    /// The answer has no end; unless its request was given up, that is the service's doing.
    fn cut(&mut self) {
        if let Some(open) = self.open.take()
            && self.upload.given_up().is_none()
        {
            open.flight.slot.counters.cut();
        }
    }

    /// The answer came to its end; the connection goes back where it `is_whole`.
    fn finish(&mut self, is_whole: bool) {
        if let Some(Open { connection, pool, flight, is_reusable, began, .. }) = self.open.take() {
            flight.slot.counters.completed(began.elapsed());
            if is_whole && is_reusable {
                pool.put(connection);
            } else {
                drop(connection);
            }
            drop(flight);
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream() || self.events.as_ref().is_some_and(|events| events.is_over())
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.inner.is_end_stream() {
            self.finish(true);
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = DownloadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Edge(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Source::Service(download) => ready!(download.poll(cx)),
        };
        if let Some(access) = &mut this.access {
            access.note(|entry| match &frame {
                Some(Ok(frame)) => entry.bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(_)) => entry.is_complete = false,
                None => entry.is_complete = true,
            });
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Edge(bytes) => bytes.is_none(),
            Source::Service(download) => download.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Edge(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, Bytes::len) as u64),
            Source::Service(download) => download.inner.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let is_ended = self.is_end_stream();
        if let Some(access) = &mut self.access {
            access.note(|entry| entry.is_complete |= is_ended);
        }
    }
}
