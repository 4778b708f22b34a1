//! One connection of a client from its first byte to its last: TLS, HTTP/1.1 or HTTP/2. It does not know routes. The edge
//! closes a connection only when it stops, or when the client is silent, broken or abusive.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use crate::headers::Scheme;
use crate::options::Protocol;
use crate::proxy::Proxy;
use crate::server::Phase;
use crate::stall::WriteLimit;
use crate::{http2, redirect};

/// Longest request head. Common servers allow 8 to 64 KiB; each connection may hold one in memory.
pub(crate) const MAX_HEAD_BYTES: usize = 64 * 1024;

/// The other end of a connection.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Peer {
    pub(crate) address: SocketAddr,
    pub(crate) scheme: Scheme,
}

/// Serves one connection of a client until it ends or carries an upgraded protocol.
pub(crate) async fn converse(stream: TcpStream, address: SocketAddr, protocol: Protocol, proxy: Arc<Proxy>) {
    let stream = WriteLimit::new(stream, proxy.options.stall_timeout);
    match (protocol, &proxy.tls) {
        (Protocol::Https, Some(config)) => {
            let accepting = tokio_rustls::TlsAcceptor::from(Arc::clone(config)).accept(stream);
            // A client that breaks off, or does not speak TLS, is nobody's concern.
            let Ok(Ok(stream)) = tokio::time::timeout(proxy.options.head_timeout, accepting).await else {
                return;
            };
            let peer = Peer { address, scheme: Scheme::Https };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                http2::converse(stream, peer, proxy).await;
            } else {
                http1(stream, peer, proxy, Protocol::Https).await;
            }
        }
        // No edge starts with encrypted listeners and without certificates.
        (Protocol::Https, None) => {}
        (Protocol::Http | Protocol::RedirectToHttps, _) => {
            http1(stream, Peer { address, scheme: Scheme::Http }, proxy, protocol).await;
        }
    }
}

async fn http1<S>(stream: S, peer: Peer, proxy: Arc<Proxy>, protocol: Protocol)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut phase = proxy.phase.clone();
    let (head_timeout, idle_timeout) = (proxy.options.head_timeout, proxy.options.idle_timeout);
    let has_spoken = Arc::new(AtomicBool::new(false));
    let spoken = Arc::clone(&has_spoken);
    let service = service_fn(move |request: Request<Incoming>| {
        spoken.store(true, Ordering::Relaxed);
        let proxy = Arc::clone(&proxy);
        async move {
            Ok::<_, Infallible>(match protocol {
                Protocol::RedirectToHttps => redirect::answer(&proxy, &request),
                Protocol::Http | Protocol::Https => proxy.handle(peer, request).await,
            })
        }
    });
    let mut builder = http1::Builder::new();
    // For hyper this time runs from the end of the last answer to the end of the next head, so it bounds idling as well.
    builder.timer(TokioTimer::new()).header_read_timeout(idle_timeout).max_buf_size(MAX_HEAD_BYTES);
    let connection = builder.serve_connection(TokioIo::new(stream), service).with_upgrades();
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
