//! The control socket: reads one request a line, does it, answers one line. Whatever arrives, the edge goes on.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};

use crate::control::{Observed, Program, Refusal, Request, Response, Retired};
use crate::doors::Door;
use crate::handover;
use crate::live::DrainOutcome;
use crate::log;
use crate::proxy::Proxy;
use crate::server::Ending;
use crate::store::StateDir;
use crate::switch::Switch;
use crate::tls::Certificates;

/// Longest request line: a table of some thousand routes.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// How long a connection may take to send a line, or sit idle.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections served at once; others wait.
const MAX_CONNECTIONS: usize = 64;

/// A longer wait is a mistake, and would outlive whoever asked.
const MAX_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// How long whoever looks waits for edges that have retired.
const OBSERVE_WAIT: Duration = Duration::ZERO;

/// What control requests act on.
pub(crate) struct Control {
    proxy: Arc<Proxy>,
    state: Arc<StateDir>,
    switch: Arc<Switch>,
    /// Where requests are accepted, for as long as they are.
    doors: std::sync::Mutex<Vec<Arc<Door>>>,
    listen: SocketAddr,
    certificates: Option<Arc<Certificates>>,
    /// The file of this process's program.
    program: Option<Program>,
    /// Receives how the edge is to end.
    ending: watch::Sender<Option<Ending>>,
}

/// Opens the control socket of a state folder that this process owns: a file from a dead edge is replaced. It appears under
/// its name with its permissions already set.
fn bind(path: &Path) -> Result<UnixListener> {
    let fresh = path.with_extension("new");
    let _ = std::fs::remove_file(&fresh);
    let bound = || -> std::io::Result<UnixListener> {
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, path)?;
        Ok(listener)
    };
    bound().with_context(|| format!("cannot listen on the control socket {}", path.display()))
}

/// Serves the control socket for as long as the process lives.
async fn serve(listener: UnixListener, control: Arc<Control>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = Arc::clone(&control);
                tokio::spawn(async move {
                    let _ = control.converse(BufReader::new(stream)).await;
                    drop(place);
                });
            }
            Err(error) => {
                log::event("control_accept_failed", json!({ "error": error.to_string() }));
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Control {
    pub(crate) fn new(
        proxy: &Arc<Proxy>,
        state: &Arc<StateDir>,
        switch: &Arc<Switch>,
        doors: &[Arc<Door>],
        certificates: Option<Arc<Certificates>>,
        ending: watch::Sender<Option<Ending>>,
    ) -> Control {
        Control {
            proxy: Arc::clone(proxy),
            state: Arc::clone(state),
            switch: Arc::clone(switch),
            doors: std::sync::Mutex::new(doors.to_vec()),
            listen: doors.first().map_or(SocketAddr::from(([0, 0, 0, 0], 0)), |door| door.address),
            certificates,
            program: Program::at("/proc/self/exe"),
            ending,
        }
    }

    /// Serves the control socket at `path`, in place of whatever is there, for as long as the process lives.
    pub(crate) fn listen(self: &Arc<Self>, path: &Path) -> Result<()> {
        let listener = bind(path)?;
        tokio::spawn(serve(listener, Arc::clone(self)));
        Ok(())
    }

    /// Nothing is accepted any more: lets go of the sockets.
    pub(crate) fn close_doors(&self) {
        self.doors().clear();
    }

    /// The last thing that an edge does.
    pub(crate) fn close(&self) {
        if self.state.is_given_up() {
            let _ = std::fs::remove_file(handover::retired_socket(self.state.folder()));
        }
    }

    fn doors(&self) -> MutexGuard<'_, Vec<Arc<Door>>> {
        self.doors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn converse(self: &Arc<Self>, mut stream: BufReader<UnixStream>) -> std::io::Result<()> {
        loop {
            let Some(request) = self.read(&mut stream, LINE_TIMEOUT).await? else { return Ok(()) };
            let answer = match request {
                Ok(Request::Stop { timeout_ms }) => {
                    // Said before it is done: afterwards there may be no time left to say it.
                    let _ = send(&mut stream, &Response::Stopping).await;
                    self.ending.send_replace(Some(Ending::Stop(Duration::from_millis(timeout_ms))));
                    // The caller sees the end of this connection when the edge has let go of everything.
                    return std::future::pending().await;
                }
                Ok(Request::Observe) => self.observe().await,
                Ok(Request::Drain { slot, timeout_ms, streams }) => {
                    self.drain(&slot, streams, Duration::from_millis(timeout_ms)).await
                }
                Ok(Request::HandOver { instance }) => self.hand_over(&mut stream, instance).await?,
                Ok(Request::Serving) => refused(Refusal::Malformed, "nothing was handed over".into()),
                Ok(Request::Reload) => self.reload().await,
                Ok(order) => self.switch.order(order).await,
                Err(answer) => answer,
            };
            send(&mut stream, &answer).await?;
        }
    }

    /// The next request, or the answer to a line that is none; `None` at the end of the connection.
    async fn read(
        &self,
        stream: &mut BufReader<UnixStream>,
        timeout: Duration,
    ) -> std::io::Result<Option<Result<Request, Response>>> {
        let mut line = Vec::new();
        let mut bounded = stream.take(MAX_LINE_BYTES + 1);
        tokio::time::timeout(timeout, bounded.read_until(b'\n', &mut line)).await??;
        if line.len() as u64 > MAX_LINE_BYTES {
            let text = format!("the line is longer than {MAX_LINE_BYTES} bytes");
            send(stream, &refused(Refusal::Malformed, text)).await?;
            return Ok(None);
        }
        // A line without its end is one that the sender did not finish.
        if !line.ends_with(b"\n") {
            return Ok(None);
        }
        let request = serde_json::from_slice(&line);
        let malformed = |error| refused(Refusal::Malformed, format!("not a control request: {error}"));
        Ok(Some(request.map_err(malformed)))
    }

    /// Gives everything away and waits to hear that the other edge serves; when that does not come, everything is as before.
    async fn hand_over(
        self: &Arc<Self>,
        stream: &mut BufReader<UnixStream>,
        instance: u64,
    ) -> std::io::Result<Response> {
        let own = self.proxy.options.instance;
        if instance <= own {
            let text = format!("instance {instance} does not follow {own}, which serves");
            return Ok(refused(Refusal::Superseded, text));
        }
        let _nothing_changes_meanwhile = self.switch.hold().await;
        let doors = self.doors().clone();
        if self.state.is_given_up() || doors.is_empty() {
            return Ok(refused(Refusal::Stopping, "this edge is stopping".into()));
        }
        let lock = match self.state.lock() {
            Ok(lock) => lock,
            Err(error) => return Ok(refused(Refusal::Stopping, format!("{error:#}"))),
        };
        let sockets = doors.iter().map(|door| door.listener.as_fd());
        let given: Vec<_> = [lock.as_fd()].into_iter().chain(sockets).collect();
        let table = self.proxy.live.in_force().table.clone();
        log::event("handing_over", json!({ "instance": instance, "generation": table.generation }));
        let sent = handover::send_with(stream.get_mut(), &Response::HandedOver { table }, &given).await;
        let word = match sent {
            Ok(()) => self.read(stream, handover::HAND_OVER_TIMEOUT).await,
            Err(error) => Err(error),
        };
        let is_serving = matches!(word, Ok(Some(Ok(Request::Serving))));
        let retired =
            if is_serving { self.listen(&handover::retired_socket(self.state.folder())) } else { Ok(()) };
        if !is_serving || retired.is_err() {
            let reason =
                retired.err().map_or("it did not begin to serve".to_owned(), |error| format!("{error:#}"));
            log::event("hand_over_failed", json!({ "instance": instance, "reason": reason }));
            return Ok(refused(Refusal::Stopping, "too late: this edge serves on".into()));
        }
        self.state.give_up();
        self.switch.retire();
        self.ending.send_replace(Some(Ending::Retire));
        Ok(Response::Retiring)
    }

    async fn reload(&self) -> Response {
        let Some(certificates) = self.certificates.clone() else {
            return refused(Refusal::BadCertificate, "this edge has no certificates".into());
        };
        let reloaded = tokio::task::spawn_blocking(move || certificates.reload()).await;
        match reloaded.map_err(anyhow::Error::from).flatten() {
            Ok(count) => {
                log::event("certificates_reloaded", json!({ "certificates": count }));
                Response::Reloaded { certificates: count }
            }
            Err(error) => {
                let text = format!("{error:#}");
                log::event("CERTIFICATE_REFUSED", json!({ "error": text }));
                refused(Refusal::BadCertificate, format!("{text}; the certificates in force stay"))
            }
        }
    }

    async fn observe(&self) -> Response {
        let (table, counted) = self.proxy.live.observe();
        let mut observed = Observed {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: self.listen,
            instance: self.proxy.options.instance,
            program: self.program,
            options: self.proxy.options.digest.clone(),
            retired: Vec::new(),
            connections: self.proxy.connections.count() as u64,
            table,
            slots: counted.totals,
            recent: counted.recent,
            bake: self.switch.bake_report(),
            paused: self.proxy.live.paused(),
        };
        for (pid, answer) in self.switch.ask_retired(&Request::Observe, OBSERVE_WAIT).await {
            let Some(Response::Observed(other)) = answer else {
                observed.retired.push(Retired { pid, connections: None });
                continue;
            };
            observed.retired.push(Retired { pid, connections: Some(other.connections) });
            for (slot, counters) in other.slots {
                observed.slots.entry(slot).or_default().add(&counters);
            }
        }
        Response::Observed(observed)
    }

    async fn drain(&self, slot: &str, streams: bool, timeout: Duration) -> Response {
        let timeout = timeout.min(MAX_DRAIN);
        let timeout_ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        let request = Request::Drain { slot: slot.to_owned(), timeout_ms, streams };
        let own = self.proxy.live.drain(slot, streams, timeout);
        let (own, others) = tokio::join!(own, self.switch.ask_retired(&request, timeout));
        let others = others.into_iter().map(|(_, answer)| match answer {
            Some(Response::Drained { in_flight, streams }) => (in_flight, streams),
            // It does not know the slot.
            Some(_) => (0, 0),
            // Nobody can say what it has: that is something.
            None => (1, 0),
        });
        match own {
            DrainOutcome::Drained { in_flight, streams } => {
                let (in_flight, streams) =
                    others.fold((in_flight, streams), |sum, other| (sum.0 + other.0, sum.1 + other.1));
                log::event("drained", json!({ "slot": slot, "in_flight": in_flight, "streams": streams }));
                Response::Drained { in_flight, streams }
            }
            DrainOutcome::Routed => refused(Refusal::SlotInUse, format!("a route leads to slot `{slot}`")),
            DrainOutcome::Unknown => refused(Refusal::SlotInUse, format!("there is no slot `{slot}`")),
        }
    }
}

pub(crate) fn refused(reason: Refusal, message: String) -> Response {
    Response::Refused { reason, message }
}

async fn send(stream: &mut BufReader<UnixStream>, answer: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    tokio::time::timeout(LINE_TIMEOUT, stream.get_mut().write_all(&line)).await?
}
