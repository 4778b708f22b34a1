//! One request over one connection, and the connections that a profile keeps. Nothing here repeats a request.

use std::collections::VecDeque;
use std::error::Error as StdError;
use std::io;
use std::net::{SocketAddr, TcpStream as StdTcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{self, HeaderName};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::plan::ConnectionUse;
use crate::report::Outcome;

/// How much of an answer that is a loss goes into the report.
const DETAIL_BYTES: usize = 200;

/// An open connection.
pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
    /// The same socket again, to see what the event loop has not noticed yet.
    probe: StdTcpStream,
}

/// The connections of one profile.
pub(crate) struct Connections {
    target: SocketAddr,
    usage: ConnectionUse,
    wanted: usize,
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    idle: VecDeque<Connection>,
    open: usize,
}

/// One of the open connections is in use; it is closed when this is dropped.
struct Lease<'a>(&'a Connections);

/// What became of a request.
pub(crate) struct Answer {
    pub(crate) outcome: Outcome,
    pub(crate) served_by: Option<String>,
    /// The error, or the beginning of an answer that is a loss.
    pub(crate) detail: String,
}

impl Answer {
    pub(crate) fn lost(outcome: Outcome, detail: impl Into<String>) -> Answer {
        Answer { outcome, served_by: None, detail: detail.into() }
    }
}

impl Connections {
    pub(crate) fn new(target: SocketAddr, usage: ConnectionUse, wanted: usize) -> Connections {
        Connections { target, usage, wanted, kept: Mutex::default() }
    }

    /// Sends one request as this kind of client does.
    pub(crate) async fn exchange(
        &self,
        request: Request<Full<Bytes>>,
        served_by: Option<&HeaderName>,
    ) -> Answer {
        let (lease, kept) = self.take();
        let mut connection = match kept {
            Some(connection) => connection,
            None => match Connection::open(self.target).await {
                Ok(connection) => connection,
                Err(error) => return Answer::lost(Outcome::ConnectError, error.to_string()),
            },
        };
        let (answer, is_last) = connection.exchange(request, served_by).await;
        if self.usage != ConnectionUse::New && answer.outcome.is_answered() && !is_last {
            lease.put(connection).await;
        }
        answer
    }

    /// The connection that was idle longest, once as many are open as are wanted; else leave to open one.
    fn take(&self) -> (Lease<'_>, Option<Connection>) {
        let mut kept = self.kept();
        while kept.open >= self.wanted && self.usage != ConnectionUse::New {
            let Some(connection) = kept.idle.pop_front() else { break };
            if self.usage == ConnectionUse::KeepAliveNaive || connection.is_open() {
                return (Lease(self), Some(connection));
            }
            kept.open -= 1;
        }
        kept.open += 1;
        (Lease(self), None)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lease<'_> {
    /// Gives an answered connection back.
    async fn put(self, mut connection: Connection) {
        // The naive client finds out when it sends.
        let is_ready =
            connection.sender.ready().await.is_ok() || self.0.usage == ConnectionUse::KeepAliveNaive;
        let mut kept = self.0.kept();
        if is_ready && kept.open <= self.0.wanted {
            kept.idle.push_back(connection);
            // What this lease counted stays open.
            kept.open += 1;
        }
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        self.0.kept().open -= 1;
    }
}

impl Connection {
    async fn open(target: SocketAddr) -> io::Result<Connection> {
        let stream = TcpStream::connect(target).await?;
        // While nobody listens on a local port, the system may give out that very port for our own end, and the
        // connection then talks to itself.
        if stream.local_addr()? == stream.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        stream.set_nodelay(true)?;
        let stream = stream.into_std()?;
        let probe = stream.try_clone()?;
        let (sender, connection) =
            handshake(TokioIo::new(TcpStream::from_std(stream)?)).await.map_err(io::Error::other)?;
        // What ends the connection reaches the request that is on it.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(Connection { sender, probe })
    }

    fn is_open(&self) -> bool {
        let quiet = self.probe.peek(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock);
        quiet && !self.sender.is_closed()
    }

    /// The answer, and whether the server said that it is the last on this connection.
    async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        served_by: Option<&HeaderName>,
    ) -> (Answer, bool) {
        let response = match self.sender.send_request(request).await {
            Ok(response) => response,
            Err(error) => return (Answer::lost(before_head(&error), describe(error)), true),
        };
        let is_last = says_close(&response);
        let served_by = served_by.and_then(|name| response.headers().get(name));
        let served_by = served_by.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut beginning = Vec::new();
        while let Some(frame) = body.frame().await {
            match frame {
                Ok(frame) => {
                    let data = frame.data_ref().map_or(&[][..], |data| data);
                    let room = DETAIL_BYTES - beginning.len();
                    beginning.extend_from_slice(&data[..data.len().min(room)]);
                }
                Err(error) => {
                    let answer = Answer { served_by, ..Answer::lost(Outcome::Truncated, describe(error)) };
                    return (answer, true);
                }
            }
        }
        let answer = match status {
            ..400 => Answer { outcome: Outcome::Ok { status }, served_by, detail: String::new() },
            _ => {
                let detail = String::from_utf8_lossy(&beginning).into_owned();
                Answer { outcome: Outcome::HttpError { status }, served_by, detail }
            }
        };
        (answer, is_last)
    }
}

impl Outcome {
    /// Whether the exchange came to its end, so that the connection is still in step.
    fn is_answered(self) -> bool {
        matches!(self, Outcome::Ok { .. } | Outcome::HttpError { .. })
    }
}

fn says_close<B>(response: &Response<B>) -> bool {
    let values = response.headers().get_all(header::CONNECTION).iter();
    let mut tokens = values.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    tokens.any(|token| token.trim().eq_ignore_ascii_case("close"))
}

/// How a request ended of whose answer there is no head.
fn before_head(error: &hyper::Error) -> Outcome {
    let mut cause: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(source) = cause {
        if source.is::<io::Error>() {
            return Outcome::Reset;
        }
        cause = source.source();
    }
    if error.is_incomplete_message() {
        Outcome::EarlyEof
    } else if error.is_parse() {
        Outcome::Malformed
    } else {
        Outcome::Reset
    }
}

/// An error with its causes in one line.
fn describe(error: hyper::Error) -> String {
    format!("{:#}", anyhow::Error::new(error))
}
