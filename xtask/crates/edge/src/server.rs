//! The life of the edge: take the state folder, restore, listen, serve, stop. It does not know what is in a request. A
//! connection of a client is closed by the edge only when it stops, or when the client is silent or broken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Mutex, watch};

use crate::gauge::{Gauge, Held};
use crate::headers::RequestIds;
use crate::live::Live;
use crate::proxy::Proxy;
use crate::socket::{self, Control};
use crate::stall::WriteLimit;
use crate::store::{Restored, StateDir};
use crate::{Options, log};

/// How long a client's connection may be idle between requests. Longer than the pools of usual clients keep theirs, so
/// that the client is the side that closes.
const CLIENT_IDLE_TIMEOUT: Duration = Duration::from_secs(120);

/// Longest request head. Common servers allow 8 to 64 KiB; each connection may hold one in memory.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// A client that vanished without a word is noticed after about two minutes of silence: probes begin after the first, and
/// a missing answer to this many in a row ends the connection. It also ends upgraded ones, which may be silent for long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// When stopping: how long idle connections stay open for a last request, which is answered with `Connection: close`.
const LAST_REQUEST_GRACE: Duration = Duration::from_millis(500);

/// When stopping: how long connections that wait in the backlog are still taken, while more may come.
const BACKLOG_TIME: Duration = Duration::from_millis(100);

/// When stopping: how long finished answers may at least take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// Files that are not connections.
const RESERVED_FILES: u64 = 64;

/// A connection of a client, and two handles of one to an upstream.
const FILES_PER_CONNECTION: u64 = 3;

/// Where the edge is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Serving,
    /// Nothing new is accepted; answers say that they are the last.
    Stopping,
    /// Idle connections are closed.
    Closing,
}

/// Serves until told to stop by the control socket, SIGTERM or SIGINT. Blocks the calling thread.
///
/// # Errors
/// When the state folder is another edge's or unusable, when there is a routing table that cannot be restored, or when the
/// address cannot be listened on.
pub fn serve(options: Options) -> Result<()> {
    let state = Arc::new(StateDir::open(&options.state_dir)?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async { run(options, &state, restore(&state)?).await });
    state.close();
    runtime.shutdown_timeout(Duration::from_millis(100));
    log::flush();
    outcome
}

/// The table to begin with, kept twice again where one file was damaged.
fn restore(state: &StateDir) -> Result<Restored> {
    let restored = state.restore()?;
    if let Some(reason) = &restored.fallback {
        let next = "compare the generation with that of the last deployment; deploy again if it is older";
        let generation = restored.table.generation;
        let fields = json!({ "reason": reason, "restored_generation": generation, "next": next });
        log::event("TABLE_UNUSABLE", fields);
    }
    if let Err(error) = state.repair(&restored.table) {
        log::event("table_not_repaired", json!({ "error": format!("{error:#}") }));
    }
    Ok(restored)
}

async fn run(options: Options, state: &Arc<StateDir>, restored: Restored) -> Result<()> {
    let max_connections = raise_file_limit(options.max_connections);
    let listener = TcpListener::bind(options.listen)
        .await
        .with_context(|| format!("cannot listen on {}: is another program using it?", options.listen))?;
    let listen = listener.local_addr()?;
    let control_listener = socket::bind(&state.socket())?;
    let (stop, mut stopped) = watch::channel(None);
    let (phase, phases) = watch::channel(Phase::Serving);
    report_start(listen, max_connections, &restored);

    let live = Arc::new(Live::new(restored.table));
    let control = Control {
        live: Arc::clone(&live),
        state: Arc::clone(state),
        listen,
        stop,
        applying: Mutex::default(),
    };
    let control = Arc::new(control);
    let stop_timeout = options.stop_timeout;
    let proxy = Arc::new(Proxy {
        live: Arc::clone(&live),
        options,
        ids: RequestIds::new(),
        phase: phases,
        busy: Gauge::new(),
        connections: Gauge::new(),
    });
    let conversations = Gauge::new();
    let control_task = tokio::spawn(socket::serve(control_listener, Arc::clone(&control)));
    let accepting =
        tokio::spawn(accept(listener, Arc::clone(&proxy), conversations.clone(), max_connections));
    let sweeping = tokio::spawn(sweep(live));

    let timeout = wait_for_stop(&mut stopped, stop_timeout).await?;
    log::event(
        "stopping",
        json!({ "timeout_ms": timeout.as_millis() as u64, "in_flight": proxy.busy.count() }),
    );
    phase.send_replace(Phase::Stopping);
    accepting.await.context("the accept loop failed")?;
    let is_complete = finish(&proxy.busy, &conversations, &phase, timeout).await;
    log::event("stopped", json!({ "complete": is_complete, "cut_off": proxy.busy.count() }));
    sweeping.abort();
    control_task.abort();
    Ok(())
}

/// Lets this process have the files that its connections need; returns how many connections it may have.
fn raise_file_limit(wanted: usize) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit });
    let allowed = if raised.is_ok() { limit.maximum } else { limit.current };
    let room = allowed.map_or(usize::MAX, |files| {
        usize::try_from(files.saturating_sub(RESERVED_FILES) / FILES_PER_CONNECTION).unwrap_or(usize::MAX)
    });
    wanted.min(room).max(1)
}

fn report_start(listen: SocketAddr, max_connections: usize, restored: &Restored) {
    let fields = json!({
        "listen": listen,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "generation": restored.table.generation,
        "routes": restored.table.routes.len(),
        "max_connections": max_connections,
    });
    log::event("started", fields);
}

/// Returns how long in-flight requests get.
async fn wait_for_stop(
    stopped: &mut watch::Receiver<Option<Duration>>,
    default: Duration,
) -> Result<Duration> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // A terminal that closes takes its programs along; the edge belongs to no terminal.
    let _hangup = signal(SignalKind::hangup())?;
    tokio::select! {
        _ = terminate.recv() => Ok(default),
        _ = interrupt.recv() => Ok(default),
        told = stopped.wait_for(Option::is_some) => Ok(told.ok().and_then(|told| *told).unwrap_or(default)),
    }
}

async fn sweep(live: Arc<Live>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        live.close_aged(Instant::now());
    }
}

/// Accepts until the edge stops, and then what is already in the backlog: closing a listener drops that.
async fn accept(listener: TcpListener, proxy: Arc<Proxy>, conversations: Gauge, max_connections: usize) {
    let mut phase = proxy.phase.clone();
    let mut is_full_reported = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            accepted = accept_one(&listener, &proxy.connections, max_connections) => accepted,
        };
        begin(accepted, &proxy, &conversations).await;
        if proxy.connections.count() >= max_connections && !std::mem::replace(&mut is_full_reported, true) {
            log::event("connections_at_limit", json!({ "max_connections": max_connections }));
        }
    }
    let until = Instant::now() + BACKLOG_TIME;
    while Instant::now() < until {
        let waiting = accept_one(&listener, &proxy.connections, max_connections);
        match tokio::time::timeout(Duration::ZERO, waiting).await {
            Ok(accepted) => begin(accepted, &proxy, &conversations).await,
            Err(_) => return,
        }
    }
}

async fn begin(
    accepted: std::io::Result<(TcpStream, SocketAddr)>,
    proxy: &Arc<Proxy>,
    conversations: &Gauge,
) {
    match accepted {
        Ok((stream, client)) => {
            let held = [conversations.hold(), proxy.connections.hold()];
            tokio::spawn(converse(stream, client, Arc::clone(proxy), held));
        }
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
        Err(error) => {
            log::event("accept_failed", json!({ "error": error.to_string() }));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// The next connection as soon as there is room for it; others wait in the backlog.
async fn accept_one(
    listener: &TcpListener,
    connections: &Gauge,
    max_connections: usize,
) -> std::io::Result<(TcpStream, SocketAddr)> {
    connections.wait_below(max_connections).await;
    listener.accept().await
}

/// Serves one connection of a client until it ends or carries an upgraded protocol.
async fn converse(stream: TcpStream, client: SocketAddr, proxy: Arc<Proxy>, _held: [Held; 2]) {
    // Without these it is a worse connection, and still one.
    let _ = tune(&stream);
    let mut phase = proxy.phase.clone();
    let (head_timeout, stall_timeout) = (proxy.options.head_timeout, proxy.options.stall_timeout);
    let has_spoken = Arc::new(AtomicBool::new(false));
    let spoken = Arc::clone(&has_spoken);
    let service = service_fn(move |request| {
        spoken.store(true, Ordering::Relaxed);
        let proxy = Arc::clone(&proxy);
        async move { Ok::<_, std::convert::Infallible>(proxy.handle(client, request).await) }
    });
    let mut builder = http1::Builder::new();
    // For hyper this time runs from the end of the last answer to the end of the next head, so it bounds idling as well.
    builder.timer(TokioTimer::new()).header_read_timeout(CLIENT_IDLE_TIMEOUT).max_buf_size(MAX_HEAD_BYTES);
    let stream = TokioIo::new(WriteLimit::new(stream, stall_timeout));
    let connection = builder.serve_connection(stream, service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let mut first_head = std::pin::pin!(tokio::time::sleep(head_timeout));
    loop {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = &mut first_head, if !first_head.is_elapsed() => {
                if !has_spoken.load(Ordering::Relaxed) {
                    return;
                }
            }
            _ = phase.wait_for(|phase| *phase == Phase::Closing) => break,
        }
    }
    // What has not asked anything by now waits for no answer.
    if has_spoken.load(Ordering::Relaxed) {
        connection.as_mut().graceful_shutdown();
        let _ = connection.await;
    }
}

fn tune(stream: &TcpStream) -> std::io::Result<()> {
    use rustix::net::sockopt;
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Waits for in-flight requests, at most `timeout`, then closes the connections. Whether all came to their end.
async fn finish(
    busy: &Gauge,
    conversations: &Gauge,
    phase: &watch::Sender<Phase>,
    timeout: Duration,
) -> bool {
    let began = Instant::now();
    let grace = tokio::time::timeout(LAST_REQUEST_GRACE.min(timeout), conversations.wait_idle());
    if grace.await.is_ok() {
        return true;
    }
    let left = timeout.saturating_sub(began.elapsed());
    let is_complete = tokio::time::timeout(left, busy.wait_idle()).await.is_ok();
    phase.send_replace(Phase::Closing);
    let left = timeout.saturating_sub(began.elapsed());
    let flush = if is_complete { left.max(FLUSH_TIMEOUT) } else { Duration::from_millis(10) };
    let _ = tokio::time::timeout(flush, conversations.wait_idle()).await;
    is_complete
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::sockopt;

    #[tokio::test]
    async fn an_answer_that_is_still_leaving_gets_what_is_left_of_the_time() {
        let (busy, conversations) = (Gauge::new(), Gauge::new());
        let (phase, mut phases) = watch::channel(Phase::Stopping);
        let leaving = conversations.hold();
        tokio::spawn(async move {
            let _ = phases.wait_for(|phase| *phase == Phase::Closing).await;
            tokio::time::sleep(FLUSH_TIMEOUT * 3 / 2).await;
            drop(leaving);
        });
        assert!(finish(&busy, &conversations, &phase, Duration::from_secs(60)).await);
        assert_eq!(conversations.count(), 0);
    }

    #[tokio::test]
    async fn a_vanished_client_is_probed_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (_client, accepted) = tokio::join!(TcpStream::connect(address), listener.accept());
        let stream = accepted.unwrap().0;
        assert!(!sockopt::socket_keepalive(&stream).unwrap());
        tune(&stream).unwrap();
        assert!(sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
    }
}
