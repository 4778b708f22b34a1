//! The life of the edge: take the state folder, restore, listen, serve, stop or hand over. It does not know what is in a
//! request.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::access::AccessLog;
use crate::doors::{self, Door};
use crate::gauge::Gauge;
use crate::handover::{self, Taken};
use crate::headers::RequestIds;
use crate::live::Live;
use crate::options::Protocol;
use crate::proxy::Proxy;
use crate::socket::Control;
use crate::store::{Restored, StateDir};
use crate::switch::Switch;
use crate::tls::Certificates;
use crate::{Options, admin, log};

/// When stopping: how long idle connections stay open for a last request, which is answered with `Connection: close`.
const LAST_REQUEST_GRACE: Duration = Duration::from_millis(500);

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

/// How the edge is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// Soon: in-flight requests get this long.
    Stop(Duration),
    /// Another edge serves: with the last connection.
    Retire,
}

/// What tells the edge to end.
struct Endings {
    told: watch::Receiver<Option<Ending>>,
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that closes takes its programs along; the edge belongs to no terminal.
    _hangup: Signal,
    stop_timeout: Duration,
}

/// What counts whether the edge is done.
struct Work {
    /// Requests whose answer has not been handed to the connection in full.
    busy: Gauge,
    /// Connections that speak HTTP.
    conversations: Gauge,
    /// All connections.
    connections: Gauge,
}

/// Serves until told to stop by the control socket, SIGTERM or SIGINT, or until another edge has taken over and the last
/// connection is over. Blocks the calling thread.
///
/// # Errors
/// When the state folder is another edge's or unusable, when there is a routing table that cannot be restored, when a
/// certificate cannot be used, or when an address cannot be listened on.
pub fn serve(options: Options) -> Result<()> {
    // Whatever can be wrong with this edge shows before it takes anything from another one.
    let certificates = match options.listen.iter().any(|listener| listener.protocol == Protocol::Https) {
        true => Some(Arc::new(Certificates::load(&options.certificates)?)),
        false => None,
    };
    ensure!(!options.listen.is_empty(), "an edge needs an address to listen on");
    let Some(taken) = handover::take(&options)? else {
        log::flush();
        return Ok(());
    };
    let Taken { state, restored, listeners, predecessor } = taken;
    let state = Arc::new(state);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let begin = Begin { options, certificates, restored, listeners, predecessor };
    let outcome = runtime.block_on(run(begin, &state));
    state.close();
    runtime.shutdown_timeout(Duration::from_millis(100));
    log::flush();
    outcome
}

/// What an edge begins with beside its folder.
struct Begin {
    options: Options,
    certificates: Option<Arc<Certificates>>,
    restored: Restored,
    listeners: Vec<std::net::TcpListener>,
    predecessor: Option<handover::Predecessor>,
}

async fn run(begin: Begin, state: &Arc<StateDir>) -> Result<()> {
    let Begin { options, certificates, restored, listeners, predecessor } = begin;
    let max_connections = raise_file_limit(options.max_connections);
    let doors = doors::open(&options.listen, listeners)?;
    // From here on, whenever this process dies, its next one listens on the same sockets.
    handover::keep(options.keeper.as_ref(), doors.iter().map(|door| door.listener.as_fd()));
    let mut endings = Endings::new(options.stop_timeout)?;
    let (phase, phases) = watch::channel(Phase::Serving);
    let work = Work { busy: Gauge::new(), conversations: Gauge::new(), connections: Gauge::new() };
    let access = AccessLog::new(&options.state_dir, options.access_log);
    let switch = Switch::restore(restored.table.clone(), Arc::clone(state), Arc::clone(&access));
    let live = Arc::clone(switch.live());
    let proxy = Arc::new(Proxy {
        live: Arc::clone(&live),
        ids: RequestIds::new(),
        phase: phases,
        busy: work.busy.clone(),
        connections: work.connections.clone(),
        tls: certificates.as_ref().map(|certificates| certificates.config()).transpose()?,
        https_port: https_port(&doors),
        access: Arc::clone(&access),
        options,
    });
    let control =
        Arc::new(Control::new(&proxy, state, &switch, &doors, certificates.clone(), endings.sender()));
    if let Some(predecessor) = predecessor {
        tokio::task::spawn_blocking(move || predecessor.retire()).await??;
        state.own();
    }
    control.listen(&state.socket())?;
    settle(state, &restored);
    report_start(&doors, max_connections, &restored, proxy.options.instance);
    let mut background = JoinSet::new();
    background.spawn(sweep(live));
    if let Some(address) = proxy.options.admin {
        background.spawn(admin::serve(address, Arc::clone(&switch), proxy.phase.clone()));
    }
    if let Some(certificates) = certificates {
        background.spawn(certificates.watch());
    }
    let mut accepting = JoinSet::new();
    for door in doors {
        let (proxy, conversations) = (Arc::clone(&proxy), work.conversations.clone());
        accepting.spawn(doors::accept(door, proxy, conversations, max_connections));
    }

    let mut ending = endings.next().await;
    phase.send_replace(Phase::Stopping);
    while let Some(accepted) = accepting.join_next().await {
        accepted.context("the accept loop failed")?;
    }
    control.close_doors();
    if ending == Ending::Retire {
        handover::keep(proxy.options.keeper.as_ref(), []);
        ending = retire(&work, &mut endings, proxy.options.retire_timeout).await;
    }
    let Ending::Stop(timeout) = ending else { return Ok(()) };
    log::event(
        "stopping",
        json!({ "timeout_ms": timeout.as_millis() as u64, "in_flight": work.busy.count() }),
    );
    let is_complete = finish(&work.busy, &work.conversations, &phase, timeout).await;
    log::event("stopped", json!({ "complete": is_complete, "cut_off": work.busy.count() }));
    access.flush();
    control.close();
    Ok(())
}

/// Keeps the table that this edge begins with twice again where one file was damaged.
fn settle(state: &StateDir, restored: &Restored) {
    if let Some(reason) = &restored.fallback {
        let next = "compare the generation with that of the last deployment; deploy again if it is older";
        let generation = restored.table.generation;
        let fields = json!({ "reason": reason, "restored_generation": generation, "next": next });
        log::event("TABLE_UNUSABLE", fields);
    }
    if let Err(error) = state.repair(&restored.table) {
        log::event("table_not_repaired", json!({ "error": format!("{error:#}") }));
    }
}

fn https_port(doors: &[Arc<Door>]) -> Option<u16> {
    doors.iter().find(|door| door.protocol == Protocol::Https).map(|door| door.address.port())
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

fn report_start(doors: &[Arc<Door>], max_connections: usize, restored: &Restored, instance: u64) {
    let listen: Vec<_> =
        doors.iter().map(|door| json!({ "address": door.address, "protocol": door.protocol })).collect();
    let fields = json!({
        "listen": listen,
        "pid": std::process::id(),
        "version": env!("CARGO_PKG_VERSION"),
        "instance": instance,
        "generation": restored.table.generation,
        "routes": restored.table.routes.len(),
        "max_connections": max_connections,
    });
    log::event("started", fields);
}

impl Endings {
    fn new(stop_timeout: Duration) -> Result<Endings> {
        Ok(Endings {
            told: watch::channel(None).1,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            _hangup: signal(SignalKind::hangup())?,
            stop_timeout,
        })
    }

    fn sender(&mut self) -> watch::Sender<Option<Ending>> {
        let (sender, told) = watch::channel(None);
        self.told = told;
        sender
    }

    /// The next word about the end; one that was given before the first call counts.
    async fn next(&mut self) -> Ending {
        let stop = Ending::Stop(self.stop_timeout);
        tokio::select! {
            _ = self.terminate.recv() => stop,
            _ = self.interrupt.recv() => stop,
            changed = self.told.changed() => match changed {
                Ok(()) => self.told.borrow_and_update().unwrap_or(stop),
                Err(_) => stop,
            },
        }
    }
}

/// Waits until the last connection is over, which says by itself that it is the last answer. What goes on for longer than
/// `timeout` is cut off, as is everything when this edge is told to stop.
async fn retire(work: &Work, endings: &mut Endings, timeout: Duration) -> Ending {
    log::event(
        "retiring",
        json!({ "connections": work.connections.count(), "in_flight": work.busy.count() }),
    );
    let deadline = tokio::time::Instant::now() + timeout;
    loop {
        tokio::select! {
            () = work.connections.wait_idle() => return Ending::Stop(Duration::ZERO),
            () = tokio::time::sleep_until(deadline) => return Ending::Stop(Duration::ZERO),
            ending = endings.next() => match ending {
                Ending::Stop(_) => return ending,
                Ending::Retire => {}
            }
        }
    }
}

async fn sweep(live: Arc<Live>) {
    let mut ticks = tokio::time::interval(Duration::from_secs(1));
    loop {
        ticks.tick().await;
        live.tick(Instant::now());
    }
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
}
