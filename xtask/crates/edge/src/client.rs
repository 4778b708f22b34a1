//! A blocking client of the edge's control socket: one connection a request, every wait bounded. It holds no state, so a
//! caller that was interrupted simply asks again.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::{SocketAddr, UnixStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::control::{Bake, BakeReport, Observed, Refusal, Request, Response, Table};

/// How long the edge may take to answer beyond a wait that the request itself asks for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// No honest answer is longer; a socket that is not the edge's must not fill the memory.
const MAX_ANSWER_BYTES: u64 = 8 * 1024 * 1024;

/// Asks the edge behind one control socket.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    patience: Duration,
}

/// What was still open when a drain ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Drained {
    /// Requests still in flight: 0 unless time ran out.
    pub in_flight: u64,
    /// Upgraded connections (WebSocket) still open.
    pub streams: u64,
}

/// How services are paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pause {
    /// How long each request is held before it is answered 503.
    pub hold: Duration,
    /// How many are held for each service; the others are answered 503 at once.
    pub max_held: u32,
    /// How long to wait for what is in flight.
    pub drain_timeout: Duration,
    /// When the pause ends without a word: nobody may be left to say it.
    pub end_after: Duration,
}

/// Why there is no answer, or not the wanted one.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket: the edge is not running, or not yet.
    #[error("cannot connect to the edge at {}", socket.display())]
    Unreachable {
        /// Path of the control socket.
        socket: PathBuf,
        /// The connect error.
        source: io::Error,
    },
    /// The edge understood and did not carry it out; nothing changed.
    #[error("the edge refused: {message}")]
    Refused {
        /// Why, to branch on.
        reason: Refusal,
        /// The same for people.
        message: String,
    },
    /// The connection broke or the answer did not come in time. An order may have been carried out: observe to find out.
    #[error("no answer from the edge at {}", socket.display())]
    NoAnswer {
        /// Path of the control socket.
        socket: PathBuf,
        /// The read or write error.
        source: io::Error,
    },
    /// The answer is not one that this version knows for the request.
    #[error("the edge at {} gave an answer that this version does not know: {detail}", socket.display())]
    UnknownAnswer {
        /// Path of the control socket.
        socket: PathBuf,
        /// What is wrong with it.
        detail: String,
    },
}

/// What a control request gives.
pub type Result<T> = std::result::Result<T, Error>;

impl Client {
    /// A client of the control socket at `socket`; nothing is opened yet.
    pub fn new(socket: impl Into<PathBuf>) -> Client {
        Client { socket: socket.into(), patience: ANSWER_TIMEOUT }
    }

    /// The same, with another limit on how long the edge may take to answer.
    pub fn with_patience(self, patience: Duration) -> Client {
        Client { patience, ..self }
    }

    /// What is in force, and what is in flight.
    ///
    /// # Errors
    /// When the edge cannot be asked.
    pub fn observe(&self) -> Result<Observed> {
        match self.ask(&Request::Observe, Duration::ZERO)?.0 {
            Response::Observed(observed) => Ok(observed),
            other => Err(self.unexpected(other)),
        }
    }

    /// Puts `table` in force and returns its generation.
    ///
    /// # Errors
    /// [`Error::Refused`] when the edge kept its present table; with any other error, observe to see which is in force.
    pub fn apply(&self, table: &Table) -> Result<u64> {
        self.put(&Request::Apply { table: table.clone(), bake: None })
    }

    /// Puts `table` in force, watches its new slots as `bake` says, and returns its generation. Whether the edge went back is
    /// in [`Observed::bake`].
    ///
    /// # Errors
    /// As those of [`Client::apply`]; [`Refusal::InvalidBake`] when it does not fit the tables.
    pub fn apply_with_bake(&self, table: &Table, bake: &Bake) -> Result<u64> {
        self.put(&Request::Apply { table: table.clone(), bake: Some(bake.clone()) })
    }

    fn put(&self, apply: &Request) -> Result<u64> {
        match self.ask(apply, Duration::ZERO)?.0 {
            Response::Applied { generation } => Ok(generation),
            other => Err(self.unexpected(other)),
        }
    }

    /// Ends the bake now: the new slots stay.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::InvalidBake`] when none lasts.
    pub fn finish_bake(&self) -> Result<BakeReport> {
        self.end_bake(&Request::Finish)
    }

    /// Ends the bake now: the former routes are in force again, under the next generation.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::InvalidBake`] when none lasts.
    pub fn revert_bake(&self) -> Result<BakeReport> {
        self.end_bake(&Request::Revert)
    }

    fn end_bake(&self, order: &Request) -> Result<BakeReport> {
        match self.ask(order, Duration::ZERO)?.0 {
            Response::Baked(report) => Ok(report),
            other => Err(self.unexpected(other)),
        }
    }

    /// Holds new requests to services, and waits until none is in flight any more, at most `pause.drain_timeout`. What was
    /// held already when a pause is ordered again is held anew.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::InvalidPause`] for a service without a slot, or for times that are too long.
    pub fn pause(&self, services: &[String], pause: &Pause) -> Result<Drained> {
        let order = Request::Pause {
            services: services.to_vec(),
            hold_ms: millis(pause.hold),
            max_held: pause.max_held,
            drain_ms: millis(pause.drain_timeout),
            end_after_ms: millis(pause.end_after),
        };
        match self.ask(&order, pause.drain_timeout)?.0 {
            Response::Paused { in_flight, streams } => Ok(Drained { in_flight, streams }),
            other => Err(self.unexpected(other)),
        }
    }

    /// Lets the requests to services pass again, and returns how many were held.
    ///
    /// # Errors
    /// When the edge cannot be asked.
    pub fn resume(&self, services: &[String]) -> Result<u64> {
        match self.ask(&Request::Resume { services: services.to_vec() }, Duration::ZERO)?.0 {
            Response::Resumed { released } => Ok(released),
            other => Err(self.unexpected(other)),
        }
    }

    /// All figures as text in the format of Prometheus.
    ///
    /// # Errors
    /// When the edge cannot be asked.
    pub fn metrics(&self) -> Result<String> {
        match self.ask(&Request::Metrics, Duration::ZERO)?.0 {
            Response::Metrics { text } => Ok(text),
            other => Err(self.unexpected(other)),
        }
    }

    /// Waits until no request is in flight to `slot`, at most `timeout`.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::SlotInUse`] while a route leads to the slot, or when the edge does not know it.
    pub fn drain(&self, slot: &str, timeout: Duration) -> Result<Drained> {
        self.wait_for(slot, false, timeout)
    }

    /// As [`Client::drain`], and waits for upgraded connections as well.
    ///
    /// # Errors
    /// As those of [`Client::drain`].
    pub fn drain_with_streams(&self, slot: &str, timeout: Duration) -> Result<Drained> {
        self.wait_for(slot, true, timeout)
    }

    fn wait_for(&self, slot: &str, streams: bool, timeout: Duration) -> Result<Drained> {
        let request = Request::Drain { slot: slot.to_owned(), timeout_ms: millis(timeout), streams };
        match self.ask(&request, timeout)?.0 {
            Response::Drained { in_flight, streams } => Ok(Drained { in_flight, streams }),
            other => Err(self.unexpected(other)),
        }
    }

    /// Stops the edge and returns when it has let go of its sockets: what is in flight gets at most `timeout`.
    ///
    /// # Errors
    /// When the edge cannot be asked, or holds on for longer than `timeout` and a margin.
    pub fn stop(&self, timeout: Duration) -> Result<()> {
        let (answer, mut connection) = self.ask(&Request::Stop { timeout_ms: millis(timeout) }, timeout)?;
        if answer != Response::Stopping {
            return Err(self.unexpected(answer));
        }
        match connection.read(&mut [0]) {
            Err(source) if source.kind() != io::ErrorKind::ConnectionReset => Err(self.no_answer(source)),
            _ => Ok(()),
        }
    }

    /// Makes the edge read its certificates again; returns how many are in force then.
    ///
    /// # Errors
    /// [`Error::Refused`] with [`Refusal::BadCertificate`] when one cannot be used: those in force stay, all of them.
    pub fn reload(&self) -> Result<usize> {
        match self.ask(&Request::Reload, Duration::ZERO)?.0 {
            Response::Reloaded { certificates } => Ok(certificates),
            other => Err(self.unexpected(other)),
        }
    }

    /// Sends one request and reads one answer. The connection is returned for `stop`, which waits for its end.
    fn ask(&self, request: &Request, wait: Duration) -> Result<(Response, BufReader<UnixStream>)> {
        let mut line = serde_json::to_vec(request).map_err(|error| self.no_answer(error.into()))?;
        line.push(b'\n');
        let stream = connect(&self.socket)
            .map_err(|source| Error::Unreachable { socket: self.socket.clone(), source })?;
        let mut connection = BufReader::new(stream);
        let answer =
            exchange(&mut connection, &line, wait + self.patience).map_err(|error| self.no_answer(error))?;
        let answer = serde_json::from_slice(&answer).map_err(|error| Error::UnknownAnswer {
            socket: self.socket.clone(),
            detail: error.to_string(),
        })?;
        Ok((answer, connection))
    }

    fn no_answer(&self, source: io::Error) -> Error {
        Error::NoAnswer { socket: self.socket.clone(), source }
    }

    fn unexpected(&self, answer: Response) -> Error {
        match answer {
            Response::Refused { reason, message } => Error::Refused { reason, message },
            other => Error::UnknownAnswer { socket: self.socket.clone(), detail: format!("{other:?}") },
        }
    }
}

/// Connects to the socket at `path`; a path that no socket address can hold is told apart from a missing socket.
pub(crate) fn connect(path: &Path) -> io::Result<UnixStream> {
    check_path(path)?;
    UnixStream::connect(path)
}

/// Refuses a path that does not fit into a socket address (108 bytes with the final zero on Linux).
pub(crate) fn check_path(path: &Path) -> io::Result<()> {
    let length = path.as_os_str().len();
    SocketAddr::from_pathname(path).map(drop).map_err(|_| {
        let text = format!(
            "the socket path {} has {length} bytes and the system allows 107: use a shorter folder",
            path.display()
        );
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })
}

/// Sends `line` and reads one line within `timeout`.
fn exchange(connection: &mut BufReader<UnixStream>, line: &[u8], timeout: Duration) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + timeout;
    connection.get_ref().set_write_timeout(Some(ANSWER_TIMEOUT))?;
    connection.get_mut().write_all(line)?;
    let mut answer = Vec::new();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        connection.get_ref().set_read_timeout(Some(left))?;
        let room = MAX_ANSWER_BYTES - answer.len() as u64;
        let read = match connection.by_ref().take(room).read_until(b'\n', &mut answer) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                return Err(io::ErrorKind::TimedOut.into());
            }
            read => read?,
        };
        if answer.ends_with(b"\n") {
            return Ok(answer);
        }
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
