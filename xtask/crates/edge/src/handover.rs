//! One edge in the place of another without a request lost: the new one is given the lock of the state folder, the table and
//! the listening sockets themselves, so that what waits to be accepted is never dropped. It does not know what is in a
//! request. The invariant: until the new edge says that it serves, the old one has everything and serves.

use std::fs::File;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stdx::descriptors;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::control::{Refusal, Request, Response};
use crate::store::{CONTROL_SOCKET, Restored, StateDir};
use crate::{Options, client, log};

/// How long an edge may take from being given everything to serving. It has read its certificates before.
pub(crate) const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the folder may be neither free nor answered for: an edge that starts or ends just now.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// How often it is looked at again.
const BUSY_POLL: Duration = Duration::from_millis(50);

/// How long a retired edge may take to answer beyond a wait that the request itself asks for.
const RETIRED_TIMEOUT: Duration = Duration::from_secs(2);

/// No honest answer is longer.
const MAX_LINE_BYTES: usize = 8 * 1024 * 1024;

/// Names of the control sockets of retired edges: `old-<pid>.sock`.
const RETIRED_PREFIX: &str = "old-";
const RETIRED_SUFFIX: &str = ".sock";

/// What an edge begins with.
pub(crate) struct Taken {
    pub(crate) state: StateDir,
    pub(crate) restored: Restored,
    /// Sockets that listen already.
    pub(crate) listeners: Vec<TcpListener>,
    /// The edge that waits to hear that this one serves.
    pub(crate) predecessor: Option<Predecessor>,
}

/// The connection to the edge that hands over.
pub(crate) struct Predecessor(UnixStream);

/// Takes the state folder, from another edge if one has it; `None` where that one is newer.
///
/// # Errors
/// When the folder or its table is unusable, or another edge has it and does not hand over.
pub(crate) fn take(options: &Options) -> Result<Option<Taken>> {
    let kept = options.keeper.as_ref().map_or_else(Vec::new, |keeper| kept_sockets(keeper));
    let deadline = Instant::now() + BUSY_TIMEOUT;
    loop {
        if options.instance > 0
            && let Ok(socket) = client::connect(&options.state_dir.join(CONTROL_SOCKET))
        {
            return ask_for_everything(options, socket);
        }
        let state = match StateDir::open(&options.state_dir) {
            Ok(state) => state,
            Err(_) if options.instance > 0 && Instant::now() < deadline => {
                std::thread::sleep(BUSY_POLL);
                continue;
            }
            Err(error) => return Err(error),
        };
        let restored = state.restore().inspect_err(|_| state.close())?;
        return Ok(Some(Taken { state, restored, listeners: kept, predecessor: None }));
    }
}

fn ask_for_everything(options: &Options, socket: UnixStream) -> Result<Option<Taken>> {
    let (answer, mut given) = exchange(&socket, &Request::HandOver { instance: options.instance })
        .context("the edge that serves does not hand over")?;
    let table = match answer {
        Response::HandedOver { table } => table,
        Response::Refused { reason: Refusal::Superseded, message } => {
            log::event("superseded", json!({ "reason": message }));
            return Ok(None);
        }
        Response::Refused { message, .. } => bail!("the edge that serves does not hand over: {message}"),
        other => bail!("the edge that serves gave an answer that this version does not know: {other:?}"),
    };
    table.check().map_err(anyhow::Error::msg).context("the table that was handed over")?;
    ensure!(!given.is_empty(), "the edge that serves handed over no lock");
    let listeners = given.split_off(1).into_iter().map(TcpListener::from).collect();
    let lock = given.pop().map(File::from).context("the edge that serves handed over no lock")?;
    let state = StateDir::share(&options.state_dir, lock)?;
    let restored = Restored { table, fallback: None };
    Ok(Some(Taken { state, restored, listeners, predecessor: Some(Predecessor(socket)) }))
}

impl Predecessor {
    /// Says that this edge serves; from the answer on the other one accepts nothing.
    ///
    /// # Errors
    /// When the other one has kept everything, or is gone.
    pub(crate) fn retire(&self) -> Result<()> {
        match exchange(&self.0, &Request::Serving).context("the edge that hands over is gone")?.0 {
            Response::Retiring => Ok(()),
            other => bail!("the edge that hands over went back on it: {other:?}"),
        }
    }
}

/// One request and its answer with descriptors.
fn exchange(socket: &UnixStream, request: &Request) -> Result<(Response, Vec<OwnedFd>)> {
    socket.set_read_timeout(Some(HAND_OVER_TIMEOUT))?;
    socket.set_write_timeout(Some(HAND_OVER_TIMEOUT))?;
    descriptors::send(socket, &line(request)?, &[])?;
    let (answer, given) = descriptors::receive(socket, MAX_LINE_BYTES)?;
    ensure!(!answer.is_empty(), "the connection was closed");
    Ok((serde_json::from_slice(&answer)?, given))
}

fn line(document: &impl Serialize) -> Result<Vec<u8>> {
    let mut line = serde_json::to_vec(document)?;
    line.push(b'\n');
    Ok(line)
}

/// What a process says to whoever keeps descriptors for it, and what comes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "descriptors", rename_all = "snake_case", deny_unknown_fields)]
pub enum Keeping {
    /// Give me what you keep.
    Give,
    /// Keep these, and nothing else.
    Keep,
    /// Done; here are those that were asked for.
    Here,
}

/// Longest line about kept descriptors.
pub const MAX_KEEPING_BYTES: usize = 1024;

/// Listening sockets that an earlier process left with the supervisor. Without them the addresses are bound anew.
fn kept_sockets(keeper: &UnixStream) -> Vec<TcpListener> {
    match ask_keeper(keeper, Keeping::Give, &[]) {
        Ok(given) => given.into_iter().map(TcpListener::from).collect(),
        Err(error) => {
            log::event("keeper_failed", json!({ "error": format!("{error:#}") }));
            Vec::new()
        }
    }
}

/// Leaves the sockets with the supervisor in place of all before. Without that only the supervisor's restart is worse.
pub(crate) fn keep<'a>(keeper: Option<&Arc<UnixStream>>, sockets: impl IntoIterator<Item = BorrowedFd<'a>>) {
    let Some(keeper) = keeper else { return };
    let sockets: Vec<_> = sockets.into_iter().collect();
    if let Err(error) = ask_keeper(keeper, Keeping::Keep, &sockets) {
        log::event("keeper_failed", json!({ "error": format!("{error:#}") }));
    }
}

fn ask_keeper(keeper: &UnixStream, word: Keeping, sockets: &[BorrowedFd<'_>]) -> Result<Vec<OwnedFd>> {
    keeper.set_read_timeout(Some(RETIRED_TIMEOUT))?;
    keeper.set_write_timeout(Some(RETIRED_TIMEOUT))?;
    descriptors::send(keeper, &line(&word)?, sockets)?;
    let (answer, given) = descriptors::receive(keeper, MAX_KEEPING_BYTES)?;
    ensure!(serde_json::from_slice::<Keeping>(&answer)? == Keeping::Here, "it answered something else");
    Ok(given)
}

/// Sends an answer with descriptors on a control connection.
pub(crate) async fn send_with(
    stream: &mut tokio::net::UnixStream,
    answer: &Response,
    given: &[BorrowedFd<'_>],
) -> io::Result<()> {
    let line = line(answer).map_err(io::Error::other)?;
    let sent = stream
        .async_io(tokio::io::Interest::WRITABLE, || descriptors::send_some(stream.as_fd(), &line, given))
        .await?;
    stream.write_all(&line[sent..]).await
}

/// The control socket of this process once it has retired.
pub(crate) fn retired_socket(folder: &Path) -> PathBuf {
    folder.join(format!("{RETIRED_PREFIX}{}{RETIRED_SUFFIX}", std::process::id()))
}

/// Edges of the folder that handed over and are not over: those whose control sockets are there.
fn retired_sockets(folder: &Path) -> Vec<(u32, PathBuf)> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let retired = entries.filter_map(|entry| {
        let name = entry.file_name();
        let pid = name.to_str()?.strip_prefix(RETIRED_PREFIX)?.strip_suffix(RETIRED_SUFFIX)?;
        Some((pid.parse().ok()?, entry.path()))
    });
    let mut retired: Vec<_> = retired.collect();
    retired.sort();
    retired
}

/// Asks each retired edge of the folder, all at once; `wait` is how long the request itself may take. `None` is for one that
/// does not answer in time. What is left of dead ones is removed.
pub(crate) async fn ask_retired(
    folder: &Path,
    request: &Request,
    wait: Duration,
) -> Vec<(u32, Option<Response>)> {
    let mut asking = tokio::task::JoinSet::new();
    for (pid, path) in retired_sockets(folder) {
        let request = request.clone();
        asking.spawn(async move {
            let answer = tokio::time::timeout(wait + RETIRED_TIMEOUT, ask_one(&path, &request)).await;
            (pid, answer.unwrap_or(Ok(None)))
        });
    }
    let mut answers = Vec::new();
    while let Some(asked) = asking.join_next().await {
        if let Ok((pid, Ok(answer))) = asked {
            answers.push((pid, answer));
        }
    }
    answers.sort_by_key(|(pid, _)| *pid);
    answers
}

/// # Errors
/// When nobody is there.
async fn ask_one(path: &Path, request: &Request) -> io::Result<Option<Response>> {
    let stream = match tokio::net::UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error) => {
            let _ = std::fs::remove_file(path);
            return Err(error);
        }
    };
    let mut stream = BufReader::new(stream);
    stream.get_mut().write_all(&line(request).map_err(io::Error::other)?).await?;
    let mut answer = Vec::new();
    (&mut stream).take(MAX_LINE_BYTES as u64).read_until(b'\n', &mut answer).await?;
    // One that ended while it was asked has nothing left in flight.
    if answer.is_empty() {
        Err(io::ErrorKind::UnexpectedEof.into())
    } else {
        Ok(serde_json::from_slice(&answer).ok())
    }
}
