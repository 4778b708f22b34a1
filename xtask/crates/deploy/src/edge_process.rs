//! The edge as a process of the environment: started when nobody answers on its socket, replaced when it is another program
//! or has other options, supervised like a slot's processes, so that it comes back by itself. It does not know what the edge
//! routes.

use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use edge::client::{Client, Error as ClientError};
use edge::control::{Observed, Program};
use edge::{CertificateFiles, Listener, OptionsFile, Protocol};

use crate::environment::{Edge, EdgeCertificate};
use crate::log;
use crate::outcome::Error;
use crate::replica::{Launcher, ProcessSpec, Replica, Restart, wait_until};
use crate::state::{StateFolder, create_private_dir};
use stdx::yaml::Problem;

/// How long an edge may take to answer after its start.
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// Longer than the edge itself gives its requests when it is stopped by a signal.
const STOP_GRACE: Duration = Duration::from_secs(35);

/// How long an edge that runs may take to answer a question.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Name of the file of an edge's options.
const OPTIONS: &str = "edge.json";

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

/// What the edge says, or `None` where none runs.
pub(crate) fn observe(state: &StateFolder) -> Result<Option<Observed>> {
    match ask(state) {
        Ok(observed) => Ok(Some(observed)),
        Err(ClientError::Unreachable { .. }) => Ok(None),
        Err(error) => {
            let pid = newest(state).and_then(|(_, replica)| replica.process()).map(|process| process.pid);
            let next = pid.map_or_else(String::new, |pid| {
                format!(": where it stays so, `kill -9 {pid}`; its supervisor starts it again, and clients wait meanwhile")
            });
            Err(error).with_context(|| format!("the edge runs and cannot be asked{next}"))
        }
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
    let client = client(state).with_patience(ANSWER_TIMEOUT);
    let mut asked = client.observe();
    // A question costs nothing: an edge that was killed while it answered is soon there again, or gone. One that hangs is
    // not asked again.
    let is_broken = |asked: &Result<Observed, ClientError>| match asked {
        Err(ClientError::NoAnswer { source, .. }) => source.kind() != std::io::ErrorKind::TimedOut,
        _ => false,
    };
    for _ in 0..OBSERVE_RETRIES {
        if !is_broken(&asked) {
            break;
        }
        std::thread::sleep(OBSERVE_PAUSE);
        asked = client.observe();
    }
    asked
}

/// Makes sure that an edge answers which is the launcher's program with the options of `edge`. One that is not is replaced
/// without a request lost; `say` is told.
///
/// # Errors
/// [`Error::Preflight`] when an address is taken or the edge that was to replace another one does not come up, and then that
/// one serves on; anything else when no edge starts.
pub(crate) fn ensure(
    state: &StateFolder,
    edge: &Edge,
    launcher: &Launcher,
    say: &dyn Fn(&str),
) -> Result<Observed, Error> {
    let is_coming_back =
        || newest(state).is_some_and(|(_, replica)| replica.folder().exists() && replica.is_supervised());
    let mut observed = observe(state)?;
    if observed.is_none() && is_coming_back() {
        wait_until(START_TIMEOUT, || {
            observed = observe(state).ok().flatten();
            observed.is_some() || !is_coming_back()
        });
    }
    let Some(observed) = observed else { return start(state, edge, launcher) };
    clear(state, observed.instance);
    let Some(reason) = outdated(state, &observed, edge, launcher) else { return Ok(observed) };
    if observed.program.is_none() {
        let message = format!(
            "the edge is of a version that cannot be replaced while it serves ({reason}): call `down` and `deploy` at a quiet time"
        );
        return Err(Problem::new("edge", message).into());
    }
    let new = replace(state, &observed, edge, launcher, &reason)?;
    say(&format!("replaced the edge: {reason}"));
    Ok(new)
}

/// Why the edge that runs is not the one that is wanted, if it is not.
pub(crate) fn outdated(
    state: &StateFolder,
    observed: &Observed,
    edge: &Edge,
    launcher: &Launcher,
) -> Option<String> {
    let Some(program) = observed.program else {
        // It says neither its program nor its options.
        let listen = observed.listen;
        return (listen != edge.listen).then(|| format!("it listens on {listen}"));
    };
    let is_other = |wanted: Option<Program>| wanted.is_some_and(|wanted| wanted != program);
    if options(edge).digest().ok() != observed.options {
        Some("its options changed".to_owned())
    } else if is_other(Program::at(&launcher.program)) {
        Some("its program changed".to_owned())
    } else {
        (!is_supervised(state, observed.instance)).then(|| "it ran without its supervisor".to_owned())
    }
}

/// What is wrong with an edge that runs without a living supervisor, in words.
pub(crate) fn unsupervised(state: &StateFolder, observed: &Observed) -> Option<String> {
    let text = format!(
        "the edge (process {}) runs without its supervisor and would not be started again: the next `deploy` replaces it",
        observed.pid
    );
    (!is_supervised(state, observed.instance)).then_some(text)
}

fn is_supervised(state: &StateFolder, instance: u64) -> bool {
    folder(state, instance).is_supervised()
}

/// Stops the edge after its last requests, for which it has at most `timeout`, and those that it replaced. Returns whether one
/// ran.
pub(crate) fn stop(state: &StateFolder, timeout: Duration) -> Result<bool> {
    let asked = client(state).stop(timeout);
    for (_, replica) in instances(state).into_iter().rev() {
        replica.stop()?;
    }
    match asked {
        Ok(()) => Ok(true),
        Err(ClientError::Unreachable { .. }) => Ok(false),
        Err(error) => Err(error).context("the edge was killed: it did not stop as asked"),
    }
}

/// What is in the way of listening on the addresses, as a finding.
pub(crate) fn check_addresses(edge: &Edge) -> Option<Problem> {
    edge.addresses().into_iter().find_map(|(_, address)| check_address(address))
}

/// What is in the way of listening on the address, as a finding.
fn check_address(listen: SocketAddr) -> Option<Problem> {
    let error = TcpListener::bind(listen).err()?;
    let message = if error.kind() == std::io::ErrorKind::AddrInUse {
        format!("{listen} is in use by {}: stop it, or choose another address here", owner(listen))
    } else {
        format!("cannot listen on {listen}: {error}")
    };
    Some(Problem::new("edge.listen", message))
}

fn start(state: &StateFolder, edge: &Edge, launcher: &Launcher) -> Result<Observed, Error> {
    for (_, replica) in instances(state) {
        replica.stop()?;
    }
    if let Some(problem) = check_addresses(edge).or_else(|| check_socket(state)) {
        return Err(problem.into());
    }
    let number = newest(state).map_or(1, |(number, _)| number + 1);
    match launch(state, number, edge, launcher)? {
        Ok(observed) => {
            clear(state, number);
            Ok(observed)
        }
        Err(said) => Err(anyhow::anyhow!("the edge does not start on {}\n{said}", edge.listen).into()),
    }
}

/// A new edge in the place of the one that was observed: it takes over by itself, or nothing changes.
fn replace(
    state: &StateFolder,
    observed: &Observed,
    edge: &Edge,
    launcher: &Launcher,
    reason: &str,
) -> Result<Observed, Error> {
    let newest = newest(state).map_or(0, |(number, _)| number);
    let number = newest.max(observed.instance) + 1;
    launch(state, number, edge, launcher)?.map_err(|said| {
        let message = format!(
            "the edge was to be replaced ({reason}), and the new one does not come up; the one that ran serves on\n{said}"
        );
        Problem::new("edge", message).into()
    })
}

/// Starts an edge under a supervisor; where it does not come to serve, it is removed again and its last words returned.
fn launch(
    state: &StateFolder,
    number: u64,
    edge: &Edge,
    launcher: &Launcher,
) -> Result<Result<Observed, String>> {
    let replica = folder(state, number);
    create_private_dir(&state.edge_process())?;
    create_private_dir(replica.folder())?;
    let file = replica.folder().join(OPTIONS);
    stdx::fs::write_atomic(&file, &serde_json::to_vec_pretty(&options(edge))?, 0o600)?;
    replica.launch(&spec(state, number, edge, launcher)?, &Default::default(), launcher)?;
    let mut observed = None;
    wait_until(START_TIMEOUT, || {
        observed = observe(state).ok().flatten().filter(|observed| observed.instance == number);
        observed.is_some() || !replica.exits().is_empty()
    });
    if let Some(observed) = observed {
        return Ok(Ok(observed));
    }
    let said = log::tail(&replica.log(), 5)?.join("\n");
    replica.stop()?;
    stdx::fs::remove_dir_all(replica.folder())?;
    Ok(Err(said))
}

/// Edges that were started, oldest first. The number 0 is one from before there were numbers.
fn instances(state: &StateFolder) -> Vec<(u64, Replica)> {
    let entries = std::fs::read_dir(state.edge_process()).into_iter().flatten().flatten();
    let number = |entry: std::fs::DirEntry| entry.file_name().to_str()?.parse::<u64>().ok();
    let first = Replica::new(state.edge_process());
    let mut numbers: Vec<_> = entries.filter_map(number).filter(|number| *number > 0).collect();
    numbers.extend(first.spec_path().exists().then_some(0));
    numbers.sort_unstable();
    numbers.into_iter().map(|number| (number, folder(state, number))).collect()
}

fn newest(state: &StateFolder) -> Option<(u64, Replica)> {
    instances(state).pop()
}

fn folder(state: &StateFolder, number: u64) -> Replica {
    let all = state.edge_process();
    Replica::new(if number == 0 { all } else { all.join(number.to_string()) })
}

/// Stops what a killed deployment began beside the edge that serves, and removes what is over. A retired edge that still
/// finishes something is left to it.
fn clear(state: &StateFolder, serving: u64) {
    for (number, replica) in instances(state) {
        let is_over = number < serving && !replica.is_running();
        if number > 0 && (is_over || number > serving && replica.stop().is_ok()) {
            // What stays is looked at again by the next deployment.
            let _ = stdx::fs::remove_dir_all(replica.folder());
        }
    }
}

/// What the edge is told; the paths of certificates were made absolute when the environment was read.
fn options(edge: &Edge) -> OptionsFile {
    let encrypted = if edge.tls.is_some() { Protocol::Https } else { Protocol::Http };
    let mut listen: Vec<_> = std::iter::once(edge.listen)
        .chain(edge.listen_also.iter().copied())
        .map(|address| Listener { address, protocol: encrypted })
        .collect();
    listen.extend(edge.listen_plain.iter().map(|&address| Listener { address, protocol: Protocol::Http }));
    let redirect = edge.tls.iter().filter_map(|tls| tls.redirect_http);
    listen.extend(redirect.map(|address| Listener { address, protocol: Protocol::RedirectToHttps }));
    let files = |pair: &EdgeCertificate| CertificateFiles { cert: pair.cert.clone(), key: pair.key.clone() };
    OptionsFile {
        listen,
        certificates: edge.tls.iter().flat_map(|tls| tls.certificates.iter().map(files)).collect(),
        access_log: edge.access_log.unwrap_or_default(),
        admin: edge.admin_listen,
        trust_forwarded: edge.trust_forwarded.unwrap_or_default(),
        max_connections: edge.max_connections,
        head_timeout_ms: edge.head_timeout_ms,
        idle_timeout_ms: edge.idle_timeout_ms,
        send_timeout_ms: edge.send_timeout_ms,
        answer_timeout_ms: edge.answer_timeout_ms,
        stall_timeout_ms: edge.stall_timeout_ms,
        retire_timeout_ms: edge.retire_timeout_ms,
        ..OptionsFile::new(edge.listen)
    }
}

/// A socket's address has room for 107 bytes (unix(7)).
fn check_socket(state: &StateFolder) -> Option<Problem> {
    let socket = state.edge().join(edge::LONGEST_SOCKET);
    let length = socket.as_os_str().len();
    let message = format!(
        "the path {} has {length} bytes and the system allows 107: use a shorter folder",
        socket.display()
    );
    (length > 107).then(|| Problem::new("state folder", message))
}

fn spec(state: &StateFolder, number: u64, edge: &Edge, launcher: &Launcher) -> Result<ProcessSpec> {
    let mut args = Vec::new();
    for arg in &launcher.edge_args {
        args.push(arg.to_str().context("an argument for the edge is not UTF-8")?.to_owned());
    }
    let file = folder(state, number).folder().join(OPTIONS);
    for path in [state.edge(), file] {
        args.push(path.to_str().context("the state folder is not UTF-8")?.to_owned());
    }
    args.push(number.to_string());
    Ok(ProcessSpec {
        schema: ProcessSpec::schema(),
        program: launcher.program.clone(),
        args,
        env: Default::default(),
        cwd: state.root().to_owned(),
        port: Some(edge.listen.port()),
        stop_signal: "SIGTERM".to_owned(),
        grace_ms: u64::try_from(STOP_GRACE.as_millis()).unwrap_or(u64::MAX),
        memory_bytes: None,
        open_files: Some(OPEN_FILES),
        restart: Restart::OnFailure,
        log_limit_bytes: LOG_LIMIT_BYTES,
        keeps_descriptors: true,
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
