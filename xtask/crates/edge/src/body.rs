//! Bodies on their way through: frames pass one at a time, so a slow reader slows its writer and nothing is gathered. The
//! response body carries the guards that say until when a request is in flight.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::{Request, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Sleep;

use crate::gauge::Held;
use crate::live::Flight;
use crate::log::AccessEntry;
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
}

/// Why a request body ended early.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UploadError {
    #[error(transparent)]
    Broken(#[from] hyper::Error),
    #[error("the request body stopped coming")]
    Stalled,
}

/// How far an upload is, for the one who waits for the answer.
pub(crate) struct Progress {
    state: Mutex<(Instant, Waiting)>,
    /// Whether the service was willing to take the body so far.
    is_wanted: AtomicBool,
    /// Whether the body was given up because the client stopped sending.
    is_abandoned: AtomicBool,
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
        let (is_wanted, is_abandoned) = (AtomicBool::new(true), AtomicBool::new(false));
        Upload {
            inner: None,
            progress: Arc::new(Progress { state, is_wanted, is_abandoned }),
            gate: None,
            stall: Stall::new(Duration::MAX),
        }
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
                self.progress.is_abandoned.store(true, Ordering::Release);
                return Poll::Ready(UploadError::Stalled);
            }
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
                Poll::Ready(frame.map(|frame| frame.map_err(UploadError::from)))
            }
            Poll::Pending => {
                this.progress.state().1 = Waiting::Client;
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

    /// Whether the client stopped sending and was given up.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.is_abandoned.load(Ordering::Acquire)
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
    pub(crate) access: Option<AccessEntry>,
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
}

impl ResponseBody {
    pub(crate) fn new(source: Source, held: Held) -> ResponseBody {
        ResponseBody { source, access: None, _held: held }
    }
}

impl Download {
    pub(crate) fn new(inner: Incoming, open: Open) -> Download {
        let upload = Arc::clone(&open.upload);
        Download { inner, open: Some(open), upload }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        self.upload.touch();
        match &frame {
            Some(Err(_)) => {
                if let Some(open) = self.open.take() {
                    open.flight.slot.counters.server_errors.fetch_add(1, Ordering::Relaxed);
                }
            }
            Some(Ok(_)) if !self.inner.is_end_stream() => {}
            Some(Ok(_)) | None => self.complete(),
        }
        Poll::Ready(frame)
    }

    fn complete(&mut self) {
        if let Some(Open { connection, pool, flight, is_reusable, .. }) = self.open.take() {
            if is_reusable {
                pool.put(connection);
            } else {
                drop(connection);
            }
            drop(flight);
        }
    }
}

impl Drop for Download {
    fn drop(&mut self) {
        if self.inner.is_end_stream() {
            self.complete();
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = &mut *self;
        let frame = match &mut this.source {
            Source::Edge(bytes) => bytes.take().map(|bytes| Ok(Frame::data(bytes))),
            Source::Service(download) => ready!(download.poll(cx)),
        };
        if let Some(access) = &mut this.access {
            match &frame {
                Some(Ok(frame)) => access.bytes += frame.data_ref().map_or(0, Bytes::len) as u64,
                Some(Err(_)) => access.is_complete = false,
                None => access.is_complete = true,
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Edge(bytes) => bytes.is_none(),
            Source::Service(download) => download.inner.is_end_stream(),
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
            access.is_complete |= is_ended;
        }
    }
}
