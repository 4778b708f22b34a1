//! The control socket: reads one request a line, does it, answers one line. Whatever arrives, the edge goes on.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Mutex, Semaphore, watch};

use crate::control::{Observed, Refusal, Request, Response, Table};
use crate::live::{DrainOutcome, Live};
use crate::log;
use crate::store::StateDir;

/// Longest request line: a table of some thousand routes.
const MAX_LINE_BYTES: u64 = 1024 * 1024;

/// How long a connection may take to send a line, or sit idle.
const LINE_TIMEOUT: Duration = Duration::from_secs(30);

/// Connections served at once; others wait.
const MAX_CONNECTIONS: usize = 64;

/// A longer wait is a mistake, and would outlive whoever asked.
const MAX_DRAIN: Duration = Duration::from_secs(24 * 60 * 60);

/// What control requests act on.
pub(crate) struct Control {
    pub(crate) live: Arc<Live>,
    pub(crate) state: Arc<StateDir>,
    pub(crate) listen: std::net::SocketAddr,
    /// Receives how long in-flight requests get when the edge is to stop.
    pub(crate) stop: watch::Sender<Option<Duration>>,
    /// One table at a time is kept and put in force.
    pub(crate) applying: Mutex<()>,
}

/// Opens the control socket of a state folder that this process owns: a file from a dead edge is replaced. It appears under
/// its name with its permissions already set.
pub(crate) fn bind(path: &Path) -> Result<UnixListener> {
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
pub(crate) async fn serve(listener: UnixListener, control: Arc<Control>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let control = Arc::clone(&control);
                tokio::spawn(async move {
                    let _ = control.converse(stream).await;
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
    async fn converse(&self, stream: UnixStream) -> std::io::Result<()> {
        let (reader, mut writer) = stream.into_split();
        let mut reader = BufReader::new(reader);
        loop {
            let mut line = Vec::new();
            let mut bounded = (&mut reader).take(MAX_LINE_BYTES + 1);
            tokio::time::timeout(LINE_TIMEOUT, bounded.read_until(b'\n', &mut line)).await??;
            if line.len() as u64 > MAX_LINE_BYTES {
                let answer =
                    refused(Refusal::Malformed, format!("the line is longer than {MAX_LINE_BYTES} bytes"));
                return send(&mut writer, &answer).await;
            }
            // A line without its end is one that the sender did not finish.
            if !line.ends_with(b"\n") {
                return Ok(());
            }
            let answer = match serde_json::from_slice(&line) {
                Ok(Request::Stop { timeout_ms }) => {
                    // Said before it is done: afterwards there may be no time left to say it.
                    let _ = send(&mut writer, &Response::Stopping).await;
                    self.stop.send_replace(Some(Duration::from_millis(timeout_ms)));
                    // The caller sees the end of this connection when the edge has let go of everything.
                    return std::future::pending().await;
                }
                Ok(Request::Observe) => self.observe(),
                Ok(Request::Apply { table }) => self.apply(table).await,
                Ok(Request::Drain { slot, timeout_ms }) => {
                    self.drain(&slot, Duration::from_millis(timeout_ms)).await
                }
                Err(error) => refused(Refusal::Malformed, format!("not a control request: {error}")),
            };
            send(&mut writer, &answer).await?;
        }
    }

    fn observe(&self) -> Response {
        let (table, slots) = self.live.observe();
        Response::Observed(Observed {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: self.listen,
            table,
            slots,
        })
    }

    async fn apply(&self, table: Table) -> Response {
        let _one_at_a_time = self.applying.lock().await;
        let in_force = self.live.in_force();
        let present = in_force.table.generation;
        if Some(table.generation) != present.checked_add(1) {
            let text =
                format!("generation {} does not follow {present}, which is in force", table.generation);
            return refused(Refusal::StaleGeneration, text);
        }
        if let Err(message) = table.check() {
            return refused(Refusal::InvalidTable, message);
        }
        let (generation, routes, slots) = (table.generation, table.routes.len(), table.slots.len());
        let (state, kept) = (Arc::clone(&self.state), table.clone());
        let saved = tokio::task::spawn_blocking(move || state.save(&kept, &in_force.table)).await;
        if let Err(error) = saved.map_err(anyhow::Error::from).flatten() {
            let text = format!("the table was not kept: {error:#}");
            log::event("table_not_kept", json!({ "generation": generation, "error": text }));
            return refused(Refusal::NotDurable, text);
        }
        self.live.swap(table.clone());
        self.copy(table).await;
        log::event("applied", json!({ "generation": generation, "routes": routes, "slots": slots }));
        Response::Applied { generation }
    }

    /// Keeps the table in force a second time. Whoever asked is answered after this: what the answer sets off, such as
    /// stopping old slots, finds no older table on disk. A failure changes nothing that is in force, and the next table is
    /// not kept before it is made up for.
    async fn copy(&self, table: Table) {
        let (state, generation) = (Arc::clone(&self.state), table.generation);
        let copied = tokio::task::spawn_blocking(move || state.copy(&table)).await;
        if let Err(error) = copied.map_err(anyhow::Error::from).flatten() {
            let fields = json!({ "generation": generation, "error": format!("{error:#}") });
            log::event("table_not_copied", fields);
        }
    }

    async fn drain(&self, slot: &str, timeout: Duration) -> Response {
        match self.live.drain(slot, timeout.min(MAX_DRAIN)).await {
            DrainOutcome::Drained { in_flight, streams } => {
                log::event("drained", json!({ "slot": slot, "in_flight": in_flight, "streams": streams }));
                Response::Drained { in_flight, streams }
            }
            DrainOutcome::Routed => refused(Refusal::SlotInUse, format!("a route leads to slot `{slot}`")),
            DrainOutcome::Unknown => refused(Refusal::SlotInUse, format!("there is no slot `{slot}`")),
        }
    }
}

fn refused(reason: Refusal, message: String) -> Response {
    Response::Refused { reason, message }
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), answer: &Response) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(answer)?;
    line.push(b'\n');
    tokio::time::timeout(LINE_TIMEOUT, writer.write_all(&line)).await?
}
