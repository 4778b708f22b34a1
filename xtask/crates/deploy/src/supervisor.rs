//! The inside of a supervisor process: it leaves the deployer's session, bounds itself, runs one process in its own
//! process group, starts it again when it ends, and stops it when asked. It knows neither images nor the edge, and
//! nobody has to watch it: when it is killed, its process goes on and is found through the record.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use signal_hook::consts::{SIGCHLD, SIGINT, SIGTERM};

use crate::keeper::Keeper;
use crate::log;
use crate::process::ProcessId;
use crate::replica::{Exit, ProcessSpec, Record, Replica, Restart};
use crate::state::{open_private, unix_ms};

/// How often the size of the log and the stop mark are looked at. Between two looks the log may grow beyond its
/// limit; the mark stops a supervisor that could not write down its process id, because the disk was full.
const CHECK: Duration = Duration::from_millis(500);

/// Pause before the first new start; it doubles with each end that comes soon after the start.
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two starts.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// A process that ran this long is healthy enough to begin again with the first pause.
const LONG_RUN: Duration = Duration::from_secs(30);

/// Runs what the specification at `spec` says until it is told to stop by SIGTERM. The secrets are read from standard
/// input: a JSON object of variables. Call it in a process of its own, before anything else was done there.
///
/// # Errors
/// When the specification cannot be read, another supervisor runs it, or signals cannot be received.
pub fn supervise(spec: &Path) -> Result<()> {
    let signals = receive_signals()?;
    let folder = spec.parent().context("the specification has no folder")?;
    let replica = Replica::new(folder);
    let secrets = read_secrets()?;
    let Some(_lock) = replica.lock_for_supervisor()? else {
        bail!("another supervisor runs {}", folder.display())
    };
    // Read under the lock: a supervisor that comes late must not run what was replaced meanwhile.
    let spec = replica.spec()?;
    isolate(&spec)?;
    let supervisor = ProcessId::of(std::process::id()).context("cannot look at myself in /proc")?;
    let record = Record { supervisor, child: None, port: spec.port, restarts: 0 };
    Supervisor { replica, spec, secrets, signals, record, keeper: Keeper::default() }.run();
    Ok(())
}

struct Supervisor {
    replica: Replica,
    spec: ProcessSpec,
    secrets: BTreeMap<String, String>,
    signals: Receiver<i32>,
    record: Record,
    keeper: Keeper,
}

enum Ended {
    ByItself(ExitStatus),
    AsAsked,
}

impl Supervisor {
    fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        while !self.replica.is_stop_wanted() {
            let start = Instant::now();
            match self.spawn() {
                Ok(child) => match self.watch(child, start) {
                    Ended::AsAsked => return,
                    Ended::ByItself(status)
                        if status.success() && self.spec.restart == Restart::OnFailure =>
                    {
                        return;
                    }
                    Ended::ByItself(_) => {}
                },
                Err(error) => self.note_exit(&Exit { error: Some(format!("{error:#}")), ..Exit::default() }),
            }
            pause = if start.elapsed() > LONG_RUN { FIRST_PAUSE } else { pause };
            if self.is_stopped_within(pause) {
                return;
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
            self.record.restarts += 1;
        }
    }

    fn spawn(&mut self) -> Result<Child> {
        let log = open_private(&log::current(&self.replica.log()))?;
        let stdin = if self.spec.keeps_descriptors { self.keeper.connect()? } else { Stdio::null() };
        let child = Command::new(&self.spec.program)
            .args(&self.spec.args)
            .env_clear()
            .envs(&self.spec.env)
            .envs(&self.secrets)
            .current_dir(&self.spec.cwd)
            .process_group(0)
            .stdin(stdin)
            .stdout(log.try_clone().context("cannot share the log")?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("cannot start {}", self.spec.program.display()))?;
        self.note_child(ProcessId::of(child.id()));
        Ok(child)
    }

    /// Waits for the end of the process, its own or asked for.
    fn watch(&mut self, mut child: Child, start: Instant) -> Ended {
        loop {
            let is_asked = match self.signals.recv_timeout(CHECK) {
                Ok(signal) => signal != SIGCHLD,
                Err(RecvTimeoutError::Timeout) => {
                    complain(log::rotate(&self.replica.log(), self.spec.log_limit_bytes));
                    self.replica.is_stop_wanted()
                }
                // The thread that receives signals never ends; without it the mark alone would tell.
                Err(RecvTimeoutError::Disconnected) => {
                    std::thread::sleep(CHECK);
                    self.replica.is_stop_wanted()
                }
            };
            if is_asked {
                let status = self.stop(&mut child);
                self.note_end(status, start, true);
                return Ended::AsAsked;
            }
            if has_ended(&child)
                && let Some(status) = end(&mut child)
            {
                self.note_end(Some(status), start, false);
                return Ended::ByItself(status);
            }
        }
    }

    fn stop(&self, child: &mut Child) -> Option<ExitStatus> {
        let signal = crate::process::signal(&self.spec.stop_signal).unwrap_or(Signal::TERM);
        signal_group(child, signal);
        let deadline = Instant::now() + Duration::from_millis(self.spec.grace_ms);
        loop {
            if has_ended(child) {
                return end(child);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return end(child);
            }
            let _ = self.signals.recv_timeout(left.min(CHECK));
        }
    }

    fn is_stopped_within(&self, pause: Duration) -> bool {
        let deadline = Instant::now() + pause;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.signals.recv_timeout(left) {
                Ok(SIGCHLD) => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    fn note_child(&mut self, child: Option<ProcessId>) {
        self.record.child = child;
        complain(self.replica.write_record(&self.record));
    }

    fn note_end(&mut self, status: Option<ExitStatus>, start: Instant, requested: bool) {
        self.note_exit(&Exit {
            status: status.and_then(|status| status.code()),
            signal: status.and_then(|status| status.signal()),
            requested,
            uptime_ms: u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX),
            ..Exit::default()
        });
        self.note_child(None);
    }

    fn note_exit(&self, exit: &Exit) {
        let exit = Exit { unix_ms: unix_ms(), ..exit.clone() };
        let write = || -> Result<()> {
            let mut line = serde_json::to_vec(&exit)?;
            line.push(b'\n');
            Ok(open_private(&self.replica.exits_path())?.write_all(&line)?)
        };
        complain(write());
    }
}

/// A supervisor lives on with a full disk: its process serves. So it only says what it could not do, if it can.
fn complain(result: Result<()>) {
    if let Err(error) = result {
        let _ = writeln!(std::io::stderr(), "{error:#}");
    }
}

/// Whether the process ended. It is not collected: until then nobody else gets its id.
fn has_ended(child: &Child) -> bool {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    let ended = pid(child).map(|pid| rustix::process::waitid(WaitId::Pid(pid), options));
    matches!(ended, Some(Ok(Some(_))))
}

/// Kills what is left of the process's group, which must not keep its port nor outlive it, and collects its status.
fn end(child: &mut Child) -> Option<ExitStatus> {
    signal_group(child, Signal::KILL);
    child.wait().ok()
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn signal_group(child: &Child, signal: Signal) {
    if let Some(group) = pid(child) {
        let _ = rustix::process::kill_process_group(group, signal);
    }
}

fn receive_signals() -> Result<Receiver<i32>> {
    let mut signals =
        signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGCHLD]).context("cannot receive signals")?;
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if sender.send(signal).is_err() {
                return;
            }
        }
    });
    Ok(receiver)
}

fn read_secrets() -> Result<BTreeMap<String, String>> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("cannot read the values from standard input")?;
    serde_json::from_str(&text).context("standard input is not a JSON object of variables")
}

/// Leaves the deployer's session and takes on the bounds that the process inherits.
fn isolate(spec: &ProcessSpec) -> Result<()> {
    // Fails for the leader of a process group, which a shell makes of a program that it starts: then there is one
    // already.
    let _ = rustix::process::setsid();
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    rustix::thread::set_no_new_privs(true).context("cannot give up new privileges")?;
    bound(Resource::Core, Some(0));
    bound(Resource::Data, spec.memory_bytes);
    bound(Resource::Nofile, spec.open_files);
    Ok(())
}

/// Sets a limit as near to `wanted` as the hard limit allows.
fn bound(resource: Resource, wanted: Option<u64>) {
    let Some(wanted) = wanted else { return };
    let hard = rustix::process::getrlimit(resource).maximum;
    let limit = hard.map_or(wanted, |hard| hard.min(wanted));
    let both = Rlimit { current: Some(limit), maximum: Some(limit) };
    complain(
        rustix::process::setrlimit(resource, both)
            .with_context(|| format!("cannot set the limit {resource:?} to {limit}")),
    );
}
