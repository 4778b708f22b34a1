//! Connections to upstreams: opened, kept while idle, and given up before the service's own keep-alive ends. It does not
//! know routes; whether a request may be sent again is the caller's decision.

use std::io;
use std::net::{Shutdown, SocketAddr, TcpStream as StdTcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;

use crate::body::Upload;

/// Shorter than the keep-alive of usual servers (5 s and up), so that the edge is the side that closes.
const MAX_IDLE_AGE: Duration = Duration::from_secs(4);

/// Idle connections kept to one upstream; more come from a burst that is over.
const MAX_IDLE: usize = 128;

/// How long a connection whose answer is complete may take to be ready for the next request: a service may answer while
/// it still reads what the client uploads.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// The idle connections to one upstream of one slot.
pub(crate) struct Pool {
    pub(crate) address: SocketAddr,
    idle: Mutex<Idle>,
}

#[derive(Default)]
struct Idle {
    connections: Vec<(Instant, Connection)>,
    /// The slot left the table: what comes back is closed.
    closed: bool,
}

/// An open connection that one request at a time uses.
pub(crate) struct Connection {
    pub(crate) sender: SendRequest<Upload>,
    /// The same socket again, to look at without the detour over the event loop.
    probe: StdTcpStream,
    /// Runs the connection; `None` once it carries an upgraded protocol.
    task: Option<AbortHandle>,
}

impl Pool {
    pub(crate) fn new(address: SocketAddr) -> Pool {
        Pool { address, idle: Mutex::default() }
    }

    /// The connection used last that is still good.
    pub(crate) fn take(&self) -> Option<Connection> {
        loop {
            let (since, connection) = self.idle().connections.pop()?;
            if since.elapsed() < MAX_IDLE_AGE && connection.is_usable() {
                return Some(connection);
            }
        }
    }

    /// Keeps a connection whose answer is complete for the next request.
    pub(crate) fn put(self: &Arc<Pool>, mut connection: Connection) {
        if connection.sender.is_ready() {
            return self.keep(connection);
        }
        let pool = Arc::clone(self);
        tokio::spawn(async move {
            let ready = tokio::time::timeout(READY_TIMEOUT, connection.sender.ready()).await;
            if matches!(ready, Ok(Ok(()))) {
                pool.keep(connection);
            }
        });
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.idle();
        if !idle.closed && idle.connections.len() < MAX_IDLE {
            idle.connections.push((Instant::now(), connection));
        }
    }

    /// Closes the idle connections.
    pub(crate) fn clear(&self) {
        let connections = std::mem::take(&mut self.idle().connections);
        drop(connections);
    }

    /// Closes the idle connections, and each other as soon as its answer is complete.
    pub(crate) fn close(&self) {
        self.idle().closed = true;
        self.clear();
    }

    /// Closes connections that were idle for too long at `now`.
    pub(crate) fn close_aged(&self, now: Instant) {
        let is_young = |since: Instant| now.saturating_duration_since(since) < MAX_IDLE_AGE;
        self.idle().connections.retain(|(since, _)| is_young(*since));
    }

    fn idle(&self) -> MutexGuard<'_, Idle> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Connects to `address`.
///
/// # Errors
/// When nobody accepts it within `timeout`.
pub(crate) async fn connect(address: SocketAddr, timeout: Duration) -> io::Result<TcpStream> {
    let stream = match tokio::time::timeout(timeout, TcpStream::connect(address)).await {
        Ok(stream) => stream?,
        Err(_) => return Err(io::Error::new(io::ErrorKind::TimedOut, "connect timed out")),
    };
    // While nobody listens on a local port, the system may give out that very port for our own end, and the connection
    // then talks to itself.
    if stream.local_addr()? == stream.peer_addr()? {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    Ok(stream)
}

impl Connection {
    /// Opens a connection.
    ///
    /// # Errors
    /// When nobody accepts it within `timeout`. Nothing was sent then.
    pub(crate) async fn open(address: SocketAddr, timeout: Duration) -> io::Result<Connection> {
        let stream = connect(address, timeout).await?;
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let probe = stream.try_clone()?;
        let (sender, connection) =
            handshake(TokioIo::new(TcpStream::from_std(stream)?)).await.map_err(io::Error::other)?;
        // The outcome reaches whoever waits for the answer.
        let task = tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(Connection { sender, probe, task: Some(task.abort_handle()) })
    }

    /// Lets the connection live on as an upgraded one.
    pub(crate) fn detach(mut self) {
        self.task = None;
    }

    /// Whether the peer has neither closed the connection nor sent what nobody asked for.
    fn is_usable(&self) -> bool {
        let quiet = self.probe.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        quiet && self.sender.is_ready()
    }
}

impl Drop for Connection {
    /// Closes the connection here and now, not when its task gets its turn: once a drain was answered, no idle connection
    /// may be left for the service to trip over while it stops.
    fn drop(&mut self) {
        if let Some(task) = self.task.take() {
            let _ = self.probe.shutdown(Shutdown::Both);
            task.abort();
        }
    }
}
