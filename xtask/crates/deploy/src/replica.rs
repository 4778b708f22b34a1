//! One supervised process and the folder in which its supervisor keeps what it knows: what to run, who runs, how
//! earlier ones ended, what they wrote. Starting and stopping from the outside; the inside is `supervisor`.
//!
//! Invariant: after [`Replica::stop`] returned, nothing of this replica runs and no supervisor that was on its way
//! starts anything: a supervisor holds the folder's lock, and looks for the stop mark after it took the lock.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::fs::FlockOperation;
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::process::ProcessId;
use crate::state::{create_private_dir, open_private};

/// The value of `schema` in a process specification that this version reads and writes.
const SCHEMA: &str = "slipway.process/1";

/// How often a wait looks again.
const POLL: Duration = Duration::from_millis(10);

/// How long a supervisor may take to start its process.
const LAUNCH_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a supervisor waits for the lock while somebody looks.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);

/// Time beyond the grace that a supervisor may take to stop its process.
const STOP_MARGIN: Duration = Duration::from_secs(5);

/// How to start the programs that this crate needs beside itself: the caller's own binary with hidden subcommands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launcher {
    /// The program, an absolute path.
    pub program: PathBuf,
    /// Arguments that make it call [`crate::supervise`] with the path that follows them.
    pub supervise_args: Vec<OsString>,
    /// Arguments that make it run an edge; its state folder, the file of its options and its instance follow them.
    pub edge_args: Vec<OsString>,
}

/// What a supervisor runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProcessSpec {
    /// The schema's name and version.
    pub(crate) schema: String,
    /// The program, an absolute path.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// Its whole environment but the secrets, which the supervisor reads from its standard input.
    pub(crate) env: BTreeMap<String, String>,
    /// Its working folder.
    pub(crate) cwd: PathBuf,
    /// The port it was told to listen on.
    pub(crate) port: Option<u16>,
    /// The signal that asks it to stop.
    pub(crate) stop_signal: String,
    /// Time from that signal to SIGKILL.
    pub(crate) grace_ms: u64,
    /// Bound on its data segment.
    pub(crate) memory_bytes: Option<u64>,
    /// Bound on its open files.
    pub(crate) open_files: Option<u64>,
    /// When it is started again.
    pub(crate) restart: Restart,
    /// Size at which its log is rotated.
    pub(crate) log_limit_bytes: u64,
    /// Whether its standard input is a socket over which it leaves descriptors for the next process.
    #[serde(default)]
    pub(crate) keeps_descriptors: bool,
}

/// When a process that ended is started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Restart {
    /// Always.
    Always,
    /// Unless it ended with status 0.
    OnFailure,
}

/// What a supervisor says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The supervisor.
    pub(crate) supervisor: ProcessId,
    /// The process it runs; `None` between two of them.
    pub(crate) child: Option<ProcessId>,
    /// The port of the process.
    pub(crate) port: Option<u16>,
    /// How often the process was started again.
    pub(crate) restarts: u32,
}

/// The end of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exit {
    /// When, in milliseconds since 1970.
    pub unix_ms: u64,
    /// Its exit status.
    pub status: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Why it could not be started.
    pub error: Option<String>,
    /// The bytes of memory that it may use, if it was ended because it used more; 0 where there is no bound but the
    /// machine's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_memory: Option<u64>,
    /// Whether it had been asked to stop.
    pub requested: bool,
    /// How long it had run.
    pub uptime_ms: u64,
}

/// The folder of one supervised process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replica {
    folder: PathBuf,
}

impl ProcessSpec {
    /// The value of [`ProcessSpec::schema`].
    pub(crate) fn schema() -> String {
        SCHEMA.to_owned()
    }
}

impl Replica {
    pub(crate) fn new(folder: impl Into<PathBuf>) -> Replica {
        Replica { folder: folder.into() }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn spec_path(&self) -> PathBuf {
        self.folder.join("spec.json")
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.folder.join("log")
    }

    fn record_path(&self) -> PathBuf {
        self.folder.join("supervisor.json")
    }

    pub(crate) fn exits_path(&self) -> PathBuf {
        self.folder.join("exits.jsonl")
    }

    fn lock_path(&self) -> PathBuf {
        self.folder.join("supervisor.lock")
    }

    fn stop_mark(&self) -> PathBuf {
        self.folder.join("stop")
    }

    pub(crate) fn spec(&self) -> Result<ProcessSpec> {
        let path = self.spec_path();
        let spec: ProcessSpec = serde_json::from_slice(&stdx::fs::read(&path)?)
            .with_context(|| format!("{} is not a process specification", path.display()))?;
        if spec.schema != SCHEMA {
            bail!("{} has the schema `{}`, this version reads `{SCHEMA}`", path.display(), spec.schema);
        }
        Ok(spec)
    }

    /// What the supervisor said last; `None` where it has not said anything, or nothing readable.
    pub(crate) fn record(&self) -> Option<Record> {
        let bytes = stdx::fs::read_if_exists(&self.record_path()).ok()??;
        serde_json::from_slice(&bytes).ok()
    }

    pub(crate) fn write_record(&self, record: &Record) -> Result<()> {
        stdx::fs::write_atomic(&self.record_path(), &serde_json::to_vec(record)?, 0o600)
    }

    /// Every end of a process since the last start, oldest first.
    pub(crate) fn exits(&self) -> Vec<Exit> {
        let Ok(file) = File::open(self.exits_path()) else { return Vec::new() };
        let lines = BufReader::new(file).lines().map_while(Result::ok);
        lines.filter_map(|line| serde_json::from_str(&line).ok()).collect()
    }

    /// The process that runs, whether or not its supervisor does.
    pub(crate) fn process(&self) -> Option<ProcessId> {
        self.record()?.child.filter(ProcessId::is_alive)
    }

    /// Whether a supervisor or the process runs.
    pub(crate) fn is_running(&self) -> bool {
        self.process().is_some() || self.is_locked().unwrap_or(false)
    }

    pub(crate) fn is_supervised(&self) -> bool {
        self.record().is_some_and(|record| record.supervisor.is_alive())
    }

    /// Takes the lock on behalf of a supervisor; `None` where another one lives.
    pub(crate) fn lock_for_supervisor(&self) -> Result<Option<File>> {
        let mut lock = None;
        // Somebody who only looks holds it for a moment.
        let deadline = Instant::now() + LOOK_TIMEOUT;
        while lock.is_none() && Instant::now() < deadline {
            lock = self.lock()?;
            std::thread::sleep(if lock.is_none() { POLL } else { Duration::ZERO });
        }
        Ok(lock)
    }

    /// A supervisor holds the lock exclusively as long as it lives; `None` where another one does.
    fn lock(&self) -> Result<Option<File>> {
        let path = self.lock_path();
        let file = open_private(&path)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Whether a supervisor holds the lock. Looking shares it for a moment and makes no file.
    fn is_locked(&self) -> Result<bool> {
        let path = self.lock_path();
        let file = match File::open(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
            file => file.with_context(|| format!("cannot open {}", path.display()))?,
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(false),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
            Err(error) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }

    /// Whether the supervisor shall end; the folder may be gone already.
    pub(crate) fn is_stop_wanted(&self) -> bool {
        self.stop_mark().exists() || !self.spec_path().exists()
    }

    /// Starts a supervisor with `spec` and returns when it has started, or tried to start, its process.
    pub(crate) fn launch(
        &self,
        spec: &ProcessSpec,
        secrets: &BTreeMap<String, &str>,
        launcher: &Launcher,
    ) -> Result<()> {
        create_private_dir(&self.folder)?;
        create_private_dir(&self.log())?;
        if self.is_running() {
            bail!("{} runs already", self.folder.display());
        }
        for stale in [self.stop_mark(), self.record_path(), self.exits_path()] {
            remove_file(&stale)?;
        }
        stdx::fs::write_atomic(&self.spec_path(), &serde_json::to_vec(spec)?, 0o600)?;
        let mut child = self.spawn_supervisor(launcher)?;
        let sent = child
            .stdin
            .take()
            .map(|mut stdin| stdin.write_all(&serde_json::to_vec(secrets)?).map_err(anyhow::Error::from));
        let ready = self.await_record(&mut child);
        // Nobody else collects the supervisor's status while this process lives.
        std::thread::spawn(move || child.wait());
        ready?;
        sent.transpose().context("cannot hand the values to the supervisor").map(drop)
    }

    fn spawn_supervisor(&self, launcher: &Launcher) -> Result<Child> {
        let said = open_private(&self.folder.join("supervisor.log"))?;
        Command::new(&launcher.program)
            .args(&launcher.supervise_args)
            .arg(self.spec_path())
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(said.try_clone().context("cannot share the supervisor's log")?)
            .stderr(said)
            .spawn()
            .with_context(|| format!("cannot start the supervisor {}", launcher.program.display()))
    }

    fn await_record(&self, supervisor: &mut Child) -> Result<()> {
        let deadline = Instant::now() + LAUNCH_TIMEOUT;
        loop {
            if self.record().is_some_and(|record| record.child.is_some()) || !self.exits().is_empty() {
                return Ok(());
            }
            if let Some(status) = supervisor.try_wait().context("cannot look at the supervisor")? {
                let said = std::fs::read_to_string(self.folder.join("supervisor.log")).unwrap_or_default();
                bail!(
                    "the supervisor ended with {status}: {}",
                    said.lines().last().unwrap_or("it said nothing")
                );
            }
            if Instant::now() > deadline {
                bail!("the supervisor has not started its process after {} s", LAUNCH_TIMEOUT.as_secs());
            }
            std::thread::sleep(POLL);
        }
    }

    /// Asks the process to stop, waits for its grace, and makes sure of it. Nothing happens where nothing runs.
    pub(crate) fn stop(&self) -> Result<()> {
        if !self.folder.exists() {
            return Ok(());
        }
        let (signal, grace) = match self.spec() {
            Ok(spec) => (crate::process::signal(&spec.stop_signal), Duration::from_millis(spec.grace_ms)),
            Err(_) => (None, Duration::ZERO),
        };
        // On a full disk no mark can be made; without its specification a supervisor on its way does not start either.
        if open_private(&self.stop_mark()).is_err() {
            let _ = remove_file(&self.spec_path());
        }
        self.stop_supervisor(grace + STOP_MARGIN)?;
        let Some(process) = self.process() else { return Ok(()) };
        process.signal_group(signal.unwrap_or(Signal::TERM))?;
        if !wait_until(grace, || !process.is_alive()) {
            process.signal_group(Signal::KILL)?;
        }
        if wait_until(STOP_MARGIN, || !process.is_alive()) {
            return Ok(());
        }
        bail!("the process {} does not end, not even by SIGKILL", process.pid)
    }

    /// Waits until no supervisor holds the lock.
    fn stop_supervisor(&self, timeout: Duration) -> Result<()> {
        let deadline = Instant::now() + timeout;
        let (mut asked, mut killed) = (None, false);
        while self.is_locked()? {
            let supervisor = self.record().map(|record| record.supervisor);
            if let Some(supervisor) = supervisor.filter(|supervisor| asked != Some(*supervisor)) {
                supervisor.signal(Signal::TERM)?;
                asked = Some(supervisor);
            }
            if Instant::now() > deadline {
                match supervisor {
                    Some(supervisor) if !killed => supervisor.signal(Signal::KILL)?,
                    _ if Instant::now() > deadline + STOP_MARGIN => {
                        bail!("the supervisor of {} does not end", self.folder.display())
                    }
                    _ => {}
                }
                killed = true;
            }
            std::thread::sleep(POLL);
        }
        Ok(())
    }
}

/// Whether `holds` became true within `timeout`.
pub(crate) fn wait_until(timeout: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + timeout;
    loop {
        if holds() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

impl fmt::Display for Exit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, self.status, self.signal) {
            (Some(error), _, _) => write!(f, "did not start: {error}"),
            (None, Some(status), _) => write!(f, "ended with status {status}"),
            (None, None, Some(signal)) => write!(f, "was ended by signal {signal}"),
            (None, None, None) => write!(f, "ended"),
        }?;
        match self.out_of_memory {
            Some(0) => write!(f, ": the machine was out of memory")?,
            Some(limit) => write!(f, ": it used more memory than the {} MiB that it may", limit >> 20)?,
            None => {}
        }
        write!(f, " after {} ms", self.uptime_ms)?;
        if self.requested { write!(f, ", as asked") } else { Ok(()) }
    }
}
