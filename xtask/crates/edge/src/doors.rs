//! The addresses where clients come in: sockets that are there already are used again, others are opened; accepting until the
//! edge stops. It does not know what is spoken on a connection. What waits to be accepted is never dropped by closing a
//! socket while it is accepted from.

use std::net::{SocketAddr, TcpListener as StdTcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::connection;
use crate::gauge::Gauge;
use crate::log;
use crate::options::{Listener, Protocol};
use crate::proxy::Proxy;
use crate::server::Phase;

/// Connections that wait to be accepted, also while the edge is started again. The system may allow fewer.
const BACKLOG: u32 = 4096;

/// When stopping: how long connections that wait in the backlog are still taken, while more may come.
const BACKLOG_TIME: Duration = Duration::from_millis(100);

/// A client that vanished without a word is noticed after about two minutes of silence: probes begin after the first, and
/// a missing answer to this many in a row ends the connection. It also ends upgraded ones, which may be silent for long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_PROBES: u32 = 4;

/// One address where clients come in.
pub(crate) struct Door {
    pub(crate) listener: TcpListener,
    pub(crate) address: SocketAddr,
    pub(crate) protocol: Protocol,
}

/// Opens a door for each of `wanted`: one of the sockets `present` where it listens there.
///
/// # Errors
/// When an address cannot be listened on.
pub(crate) fn open(wanted: &[Listener], mut present: Vec<StdTcpListener>) -> Result<Vec<Arc<Door>>> {
    let mut doors = Vec::new();
    for Listener { address, protocol } in wanted {
        let known = present.iter().position(|socket| socket.local_addr().is_ok_and(|at| at == *address));
        let listener = match known.map(|index| present.swap_remove(index)) {
            Some(socket) => {
                socket.set_nonblocking(true)?;
                TcpListener::from_std(socket)
            }
            None => bind(*address),
        };
        let listener =
            listener.with_context(|| format!("cannot listen on {address}: is another program using it?"))?;
        // Without these connections are worse, and still connections.
        let _ = tune(&listener);
        let address = listener.local_addr()?;
        doors.push(Arc::new(Door { listener, address, protocol: *protocol }));
    }
    Ok(doors)
}

fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Connections of an earlier edge that are still being closed do not keep the address.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Sets on the listening socket what each accepted one then has by itself (tcp(7) on Linux): no calls for every connection.
fn tune(listener: &TcpListener) -> std::io::Result<()> {
    use rustix::net::sockopt;
    sockopt::set_tcp_nodelay(listener, true)?;
    sockopt::set_socket_keepalive(listener, true)?;
    sockopt::set_tcp_keepidle(listener, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(listener, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(listener, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Accepts until the edge stops, and then what is already in the backlog: closing a listener drops that.
pub(crate) async fn accept(door: Arc<Door>, proxy: Arc<Proxy>, conversations: Gauge, max_connections: usize) {
    let mut phase = proxy.phase.clone();
    let mut is_full_reported = false;
    loop {
        let accepted = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => break,
            accepted = accept_one(&door.listener, &proxy.connections, max_connections) => accepted,
        };
        begin(accepted, &door, &proxy, &conversations).await;
        if proxy.connections.count() >= max_connections && !std::mem::replace(&mut is_full_reported, true) {
            log::event("connections_at_limit", json!({ "max_connections": max_connections }));
        }
    }
    let until = Instant::now() + BACKLOG_TIME;
    while Instant::now() < until {
        let waiting = accept_one(&door.listener, &proxy.connections, max_connections);
        match tokio::time::timeout(Duration::ZERO, waiting).await {
            Ok(accepted) => begin(accepted, &door, &proxy, &conversations).await,
            Err(_) => return,
        }
    }
}

async fn begin(
    accepted: std::io::Result<(TcpStream, SocketAddr)>,
    door: &Arc<Door>,
    proxy: &Arc<Proxy>,
    conversations: &Gauge,
) {
    match accepted {
        Ok((stream, client)) => {
            let held = [conversations.hold(), proxy.connections.hold()];
            let (proxy, protocol) = (Arc::clone(proxy), door.protocol);
            tokio::spawn(async move {
                connection::converse(stream, client, protocol, proxy).await;
                drop(held);
            });
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

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;

    use super::*;

    #[tokio::test]
    async fn a_vanished_client_is_probed_for_and_answers_leave_at_once() {
        let address = "127.0.0.1:0".parse().unwrap();
        let doors = open(&[Listener { address, protocol: Protocol::Http }], Vec::new()).unwrap();
        let (_client, accepted) =
            tokio::join!(TcpStream::connect(doors[0].address), doors[0].listener.accept());
        let stream = accepted.unwrap().0;
        assert!(stream.nodelay().unwrap() && sockopt::socket_keepalive(&stream).unwrap());
        assert_eq!(sockopt::tcp_keepidle(&stream).unwrap(), KEEPALIVE_IDLE);
        assert_eq!(sockopt::tcp_keepintvl(&stream).unwrap(), KEEPALIVE_INTERVAL);
        assert_eq!(sockopt::tcp_keepcnt(&stream).unwrap(), KEEPALIVE_PROBES);
    }
}
