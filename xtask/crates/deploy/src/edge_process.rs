//! The edge as a process of the environment: started when nobody answers on its socket, supervised like a slot's
//! processes, so that it comes back by itself. It does not know what the edge routes.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge::client::{Client, Error as ClientError};
use edge::control::Observed;

use crate::log;
use crate::outcome::Error;
use crate::replica::{Launcher, ProcessSpec, Replica, Restart, wait_until};
use crate::state::StateFolder;
use stdx::yaml::Problem;

/// How long an edge may take to answer after its start.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Longer than the edge itself gives its requests when it is stopped by a signal.
const STOP_GRACE: Duration = Duration::from_secs(35);

/// How often an edge that broke off is asked again.
const OBSERVE_RETRIES: u32 = 3;

/// How long somebody who only looks waits for the edge, further questions included.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

/// The pause before that.
const OBSERVE_PAUSE: Duration = Duration::from_millis(200);

/// Open files for the edge, two for each request in flight; bounded by the hard limit.
const OPEN_FILES: u64 = 65_536;

/// Size at which the edge's log is rotated.
const LOG_LIMIT_BYTES: u64 = 10 * 1024 * 1024;

/// A client of the environment's edge, whether or not it runs.
pub(crate) fn client(state: &StateFolder) -> Client {
    Client::new(state.edge().join(edge::CONTROL_SOCKET))
}

/// The supervised process.
pub(crate) fn replica(state: &StateFolder) -> Replica {
    Replica::new(state.edge_process())
}

/// What the edge says, or `None` where none runs.
pub(crate) fn observe(state: &StateFolder) -> Result<Option<Observed>> {
    match ask(state) {
        Ok(observed) => Ok(Some(observed)),
        Err(ClientError::Unreachable { .. }) => Ok(None),
        Err(error) => Err(error).context("the edge runs and cannot be asked"),
    }
}

/// The same within [`LOOK_TIMEOUT`], for those who only look.
///
/// # Errors
/// When an edge is there and does not answer in time.
pub(crate) fn look(state: &StateFolder) -> Result<Option<Observed>> {
    let (sender, answer) = mpsc::channel();
    let state = state.clone();
    // The client waits longer. The thread ends with its wait, or with the process.
    std::thread::spawn(move || drop(sender.send(observe(&state))));
    answer
        .recv_timeout(LOOK_TIMEOUT)
        .unwrap_or_else(|_| bail!("the edge runs and has not answered within {} s", LOOK_TIMEOUT.as_secs()))
}

fn ask(state: &StateFolder) -> Result<Observed, ClientError> {
    let mut asked = client(state).observe();
    // A question costs nothing: an edge that was killed while it answered is soon there again, or gone.
    for _ in 0..OBSERVE_RETRIES {
        if !matches!(asked, Err(ClientError::NoAnswer { .. })) {
            break;
        }
        std::thread::sleep(OBSERVE_PAUSE);
        asked = client(state).observe();
    }
    asked
}

/// Makes sure that an edge answers, on the address `listen`.
///
/// # Errors
/// [`Error::Preflight`] when it listens elsewhere, or the address is taken; anything else when it does not start.
pub(crate) fn ensure(
    state: &StateFolder,
    listen: SocketAddr,
    launcher: &Launcher,
) -> Result<Observed, Error> {
    let replica = replica(state);
    let is_coming_back = || replica.folder().exists() && replica.is_supervised();
    let mut observed = observe(state)?;
    if observed.is_none() && is_coming_back() {
        wait_until(START_TIMEOUT, || {
            observed = observe(state).ok().flatten();
            observed.is_some() || !is_coming_back()
        });
    }
    let observed = match observed {
        Some(observed) => observed,
        None => start(state, &replica, listen, launcher)?,
    };
    if observed.listen != listen {
        let message = format!("the edge already listens on {}: run `down` first to move it", observed.listen);
        return Err(Problem::new("edge.listen", message).into());
    }
    Ok(observed)
}

/// What is wrong with an edge that runs without a living supervisor, in words.
pub(crate) fn unsupervised(state: &StateFolder, pid: u32) -> Option<String> {
    let text = format!(
        "the edge (process {pid}) runs without its supervisor and would not be started again: call `down` and `deploy` at a \
         quiet time"
    );
    (!replica(state).is_supervised()).then_some(text)
}

/// Stops the edge after its last requests, for which it has at most `timeout`. Returns whether one ran.
pub(crate) fn stop(state: &StateFolder, timeout: Duration) -> Result<bool> {
    let asked = client(state).stop(timeout);
    replica(state).stop()?;
    match asked {
        Ok(()) => Ok(true),
        Err(ClientError::Unreachable { .. }) => Ok(false),
        Err(error) => Err(error).context("the edge was killed: it did not stop as asked"),
    }
}

/// What is in the way of listening on the address, as a finding.
pub(crate) fn check_address(listen: SocketAddr) -> Option<Problem> {
    let error = TcpListener::bind(listen).err()?;
    let message = if error.kind() == std::io::ErrorKind::AddrInUse {
        format!("{listen} is in use by {}: stop it, or choose another address here", owner(listen))
    } else {
        format!("cannot listen on {listen}: {error}")
    };
    Some(Problem::new("edge.listen", message))
}

fn start(
    state: &StateFolder,
    replica: &Replica,
    listen: SocketAddr,
    launcher: &Launcher,
) -> Result<Observed, Error> {
    replica.stop()?;
    if let Some(problem) = check_address(listen) {
        return Err(problem.into());
    }
    if let Some(problem) = check_socket(state) {
        return Err(problem.into());
    }
    replica.launch(&spec(state, listen, launcher)?, &Default::default(), launcher)?;
    let mut observed = None;
    wait_until(START_TIMEOUT, || {
        observed = observe(state).ok().flatten();
        observed.is_some() || !replica.exits().is_empty()
    });
    if let Some(observed) = observed {
        return Ok(observed);
    }
    let said = log::tail(&replica.log(), 5)?.join("\n");
    replica.stop()?;
    Err(anyhow::anyhow!("the edge does not start on {listen}\n{said}").into())
}

/// A socket's address has room for 107 bytes (unix(7)).
fn check_socket(state: &StateFolder) -> Option<Problem> {
    let socket = state.edge().join(edge::CONTROL_SOCKET);
    let length = socket.as_os_str().len();
    let message = format!(
        "the path {} has {length} bytes and the system allows 107: use a shorter folder",
        socket.display()
    );
    (length > 107).then(|| Problem::new("state folder", message))
}

fn spec(state: &StateFolder, listen: SocketAddr, launcher: &Launcher) -> Result<ProcessSpec> {
    let mut args = Vec::new();
    for arg in &launcher.edge_args {
        args.push(arg.to_str().context("an argument for the edge is not UTF-8")?.to_owned());
    }
    args.push(state.edge().to_str().context("the state folder is not UTF-8")?.to_owned());
    args.push(listen.to_string());
    Ok(ProcessSpec {
        schema: ProcessSpec::schema(),
        program: launcher.program.clone(),
        args,
        env: Default::default(),
        cwd: state.root().to_owned(),
        port: Some(listen.port()),
        stop_signal: "SIGTERM".to_owned(),
        grace_ms: u64::try_from(STOP_GRACE.as_millis()).unwrap_or(u64::MAX),
        memory_bytes: None,
        open_files: Some(OPEN_FILES),
        restart: Restart::OnFailure,
        log_limit_bytes: LOG_LIMIT_BYTES,
    })
}

/// Who listens on the address, for people.
fn owner(listen: SocketAddr) -> String {
    let owners = listening_inodes(listen.port()).into_iter().flat_map(crate::process::owners_of_socket);
    let names: Vec<_> =
        owners.map(|pid| format!("the process {pid} ({})", crate::process::name(pid))).collect();
    if names.is_empty() { "a process of another user".to_owned() } else { names.join(" and ") }
}

/// Inodes of the sockets that listen on `port`: column 2 is the local address, 4 the state (0A listens), 10 the
/// inode.
fn listening_inodes(port: u16) -> Vec<u64> {
    let tables =
        ["/proc/net/tcp", "/proc/net/tcp6"].map(|path| std::fs::read_to_string(path).unwrap_or_default());
    let inode = |line: &str| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let (_, local_port) = columns.get(1)?.rsplit_once(':')?;
        let is_wanted = u16::from_str_radix(local_port, 16).ok()? == port && *columns.get(3)? == "0A";
        if is_wanted { columns.get(9)?.parse().ok() } else { None }
    };
    tables.iter().flat_map(|table| table.lines().skip(1)).filter_map(inode).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_address_names_its_owner() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let message = check_address(address).unwrap().to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        assert!(message.contains("edge.listen") && message.contains(&address.to_string()), "{message}");
        drop(listener);
        assert_eq!(check_address(address), None);
    }
}
