//! The way to an engine on another machine: the user's own `ssh` forwards a local socket to the engine's, and runs a shell there for
//! the two questions that the engine's API does not answer. One connection, one login; the other machine needs neither an agent nor
//! the docker client.
//!
//! Invariant: ssh ends with this program, also when that is killed: the shell at the other end reads from us.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use stdx::{Cmd, Tied};

use crate::endpoint::Endpoint;
use crate::error::{Error, Result};

/// What ssh may need: names, a slow login, a proxy between.
const LOGIN: Duration = Duration::from_secs(30);
/// What a question to the shell may need.
const ANSWER: Duration = Duration::from_secs(10);
/// The most that is kept of what ssh says, and of a line that the shell answers.
const MAX_TEXT: usize = 4096;
/// The most lines that an answer has.
const MAX_LINES: usize = 64;
/// Says that all before it was the answer.
const MARK: &str = "slipway-answered";

/// A connection that lasts as long as this value, and is made anew where it broke.
pub(crate) struct Tunnel {
    endpoint: Endpoint,
    config: Option<PathBuf>,
    /// Of the local socket; only this user may enter it.
    folder: tempfile::TempDir,
    running: Mutex<Option<Running>>,
}

struct Running {
    child: Child,
    _tied: Tied,
    shell: ChildStdin,
    answers: Receiver<String>,
    said: Arc<Mutex<String>>,
}

impl Tunnel {
    /// Logs in. `config` is a file for ssh to read instead of the user's own.
    pub(crate) fn open(endpoint: &Endpoint, config: Option<&Path>) -> Result<Tunnel> {
        // Not the user's own temporary folder: paths of sockets have 107 bytes at most.
        let folder = tempfile::Builder::new().prefix("slipway-").tempdir_in("/tmp");
        let folder = folder.map_err(|error| Error::local("make a folder for a socket", error))?;
        let tunnel = Tunnel {
            endpoint: endpoint.clone(),
            config: config.map(Path::to_owned),
            folder,
            running: Mutex::new(None),
        };
        tunnel.ensure()?;
        Ok(tunnel)
    }

    /// The local socket that leads to the engine.
    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("engine.sock")
    }

    /// Logs in again where the connection broke.
    pub(crate) fn ensure(&self) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(running) = running.as_mut()
            && matches!(running.child.try_wait(), Ok(None))
        {
            return Ok(());
        }
        *running = None;
        *running = Some(self.log_in()?);
        Ok(())
    }

    /// What ssh said last, for errors of the connections that it carries.
    pub(crate) fn said(&self) -> String {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let said = running.as_ref().map(|running| Arc::clone(&running.said));
        said.map(|said| said.lock().unwrap_or_else(PoisonError::into_inner).trim().to_owned())
            .unwrap_or_default()
    }

    /// What the other machine's shell prints for `script`; `None` where it does not answer.
    pub(crate) fn ask(&self, script: &str) -> Option<Vec<String>> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.as_mut()?.ask(script)
    }

    fn command(&self) -> Cmd {
        let socket = match &self.endpoint {
            Endpoint::Ssh { socket, .. } => socket.display().to_string(),
            Endpoint::Unix(_) | Endpoint::Tcp(_) => String::new(),
        };
        let mut cmd = Cmd::new("ssh");
        if let Some(config) = &self.config {
            cmd = cmd.arg("-F").arg(config);
        }
        // Nobody answers questions here. A connection of the user's own is not shared: it could end under us.
        for option in [
            "BatchMode=yes",
            "ExitOnForwardFailure=yes",
            "StreamLocalBindMask=0177",
            "StreamLocalBindUnlink=yes",
            "ConnectTimeout=15",
            "ServerAliveInterval=10",
            "ServerAliveCountMax=3",
            "ControlMaster=no",
            "ControlPath=none",
            "ForwardAgent=no",
            "ForwardX11=no",
            "PermitLocalCommand=no",
            "RequestTTY=no",
        ] {
            cmd = cmd.args(["-o", option]);
        }
        if let Endpoint::Ssh { port: Some(port), .. } = &self.endpoint {
            cmd = cmd.args(["-p", &port.to_string()]);
        }
        let destination = self.endpoint.ssh_destination().unwrap_or_default();
        cmd.args(["-L", &format!("{}:{socket}", self.socket().display()), "--", &destination, "exec sh"])
    }

    fn log_in(&self) -> Result<Running> {
        let cmd = self.command();
        let failed = |cause: anyhow::Error| Error::local(format!("run `{cmd}`"), cause);
        let mut command = cmd.to_std().map_err(failed)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
        let mut child = command.spawn().map_err(|error| self.unreachable(&error.to_string()))?;
        let tied = Tied::new(&child);
        let (Some(shell), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(failed(anyhow::anyhow!("it has no pipes")));
        };
        let said = Arc::new(Mutex::new(String::new()));
        let (lines, answers) = sync_channel(MAX_LINES);
        std::thread::spawn(move || read_lines(stdout, &lines));
        let saying = Arc::clone(&said);
        std::thread::spawn(move || keep_last(stderr, &saying));
        let mut running = Running { child, _tied: tied, shell, answers, said };
        let since = Instant::now();
        if running.ask_within("", LOGIN).is_some() {
            return Ok(running);
        }
        let is_late = since.elapsed() >= LOGIN;
        // What ssh said last comes with its end.
        running.end();
        let said = running.said.lock().unwrap_or_else(PoisonError::into_inner).trim().to_owned();
        Err(self.unreachable(if said.is_empty() && is_late { "no answer" } else { &said }))
    }

    fn unreachable(&self, said: &str) -> Error {
        let destination = self.endpoint.ssh_destination().unwrap_or_default();
        Error::Unreachable {
            endpoint: self.endpoint.to_string(),
            cause: format!("ssh says: {}", said.lines().collect::<Vec<_>>().join(" | ")),
            next: next_step(said, &destination),
        }
    }
}

impl Running {
    fn ask(&mut self, script: &str) -> Option<Vec<String>> {
        self.ask_within(script, ANSWER)
    }

    fn ask_within(&mut self, script: &str, deadline: Duration) -> Option<Vec<String>> {
        writeln!(self.shell, "{script}\necho {MARK}").and_then(|()| self.shell.flush()).ok()?;
        let until = Instant::now() + deadline;
        let mut lines = Vec::new();
        loop {
            match self.answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.trim_end().ends_with(MARK) => return Some(lines),
                Ok(line) if lines.len() < MAX_LINES => lines.push(line),
                Ok(_) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }

    fn end(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
        // The thread that reads what ssh said ends with the pipe.
        std::thread::sleep(Duration::from_millis(20));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Sends whole lines of a bounded length on; what is longer is cut.
fn read_lines(from: impl Read, to: &std::sync::mpsc::SyncSender<String>) {
    let mut from = BufReader::new(from);
    loop {
        let mut line = Vec::new();
        match from.by_ref().take(MAX_TEXT as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        // A reader that is gone or asleep must not stop ssh.
        if to.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
            return;
        }
    }
}

/// Keeps the last of what is read.
fn keep_last(mut from: impl Read, kept: &Mutex<String>) {
    let mut buffer = [0; 1024];
    while let Ok(n @ 1..) = from.read(&mut buffer) {
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.extend(String::from_utf8_lossy(&buffer[..n]).chars().filter(|c| *c == '\n' || !c.is_control()));
        let surplus = kept.len().saturating_sub(MAX_TEXT);
        let cut = (surplus..=kept.len()).find(|at| kept.is_char_boundary(*at)).unwrap_or(0);
        kept.drain(..cut);
    }
}

/// What the user can do about what ssh said.
fn next_step(said: &str, destination: &str) -> String {
    let has = |text: &str| said.contains(text);
    if has("Host key verification failed") || has("REMOTE HOST IDENTIFICATION HAS CHANGED") {
        format!(
            "compare the host's key with what its owner says, then `ssh {destination}` once to keep it in known_hosts"
        )
    } else if has("Permission denied") {
        format!(
            "`ssh {destination}` must work without a question: add the key to the host's authorized_keys and to `ssh-add`"
        )
    } else if has("No such file or directory (os error 2)") {
        "install the program `ssh`".to_owned()
    } else if has("not resolve hostname") {
        "check the host's name".to_owned()
    } else {
        format!("`ssh {destination} true` must work without a question")
    }
}

/// What a connection through the tunnel fails with when ssh could not reach the socket at the other end.
pub(crate) fn next_step_there(said: &str) -> Option<&'static str> {
    let failed = said.lines().rev().find(|line| line.contains("open failed"))?;
    Some(if failed.contains("administratively prohibited") {
        "allow `AllowStreamLocalForwarding yes` in the host's sshd_config"
    } else {
        "start the engine there (`systemctl start docker`), and let the login use it (group `docker`)"
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_says_leads_to_the_next_step() {
        let next = |said| next_step(said, "ops@web1");
        assert!(next("Host key verification failed.").contains("known_hosts"));
        assert!(next("ops@web1: Permission denied (publickey).").contains("authorized_keys"));
        assert!(next("ssh: Could not resolve hostname web1").contains("name"));
        assert!(next("Connection refused").contains("ssh ops@web1 true"));
        assert_eq!(next_step_there(""), None);
        let refused = "channel 2: open failed: administratively prohibited: open failed";
        assert!(next_step_there(refused).unwrap().contains("AllowStreamLocalForwarding"));
        let missing = "channel 2: open failed: connect failed: open failed";
        assert!(next_step_there(missing).unwrap().contains("systemctl"));
    }

    #[test]
    fn only_the_last_of_a_flood_is_kept_and_no_bytes_make_it_panic() {
        let kept = Mutex::new(String::new());
        let flood: Vec<u8> = (0..100_000u32).flat_map(|i| [(i % 256) as u8, 0xc3, b'\n']).collect();
        keep_last(flood.as_slice(), &kept);
        assert!(kept.lock().unwrap().len() <= MAX_TEXT);
        let (lines, answers) = sync_channel(20_000);
        read_lines(&flood[..30_000], &lines);
        drop(lines);
        assert!(answers.iter().all(|line| line.len() <= 3 * MAX_TEXT));
    }
}
