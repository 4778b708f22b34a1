//! Processes of this machine as `/proc` shows them, and signals to them. A process is known by its id together with
//! its start time, never by the id alone: ids are given again.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal};
use serde::{Deserialize, Serialize};

/// One process, told apart from any later one with the same id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessId {
    /// Process id.
    pub pid: u32,
    /// Clock ticks from the machine's start to the process's start.
    pub start_time: u64,
}

impl ProcessId {
    /// The process that has the id `pid` now.
    pub fn of(pid: u32) -> Option<ProcessId> {
        let (state, start_time) = stat(pid)?;
        (!matches!(state, 'Z' | 'X')).then_some(ProcessId { pid, start_time })
    }

    /// Whether this very process runs. One that ended and was not waited for does not.
    pub fn is_alive(&self) -> bool {
        ProcessId::of(self.pid) == Some(*self)
    }

    /// Sends `signal` to this very process; nothing happens where it has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid = raw(self.pid)?;
        ignore_gone(rustix::process::kill_process(pid, signal))
            .with_context(|| format!("cannot signal the process {}", self.pid))
    }

    /// Sends `signal` to the process group that this process leads; nothing happens where the process has ended: its id
    /// may be another group's by now.
    pub fn signal_group(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let group = raw(self.pid)?;
        ignore_gone(rustix::process::kill_process_group(group, signal))
            .with_context(|| format!("cannot signal the process group {}", self.pid))
    }

    /// Time since its start, by the machine's own clock.
    pub fn uptime_ms(&self) -> Option<u64> {
        let text = fs::read_to_string("/proc/uptime").ok()?;
        let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
        let ticks = rustix::param::clock_ticks_per_second();
        let since_boot_ms = (seconds * 1000.0) as u64;
        Some(since_boot_ms.saturating_sub(self.start_time.saturating_mul(1000) / ticks.max(1)))
    }
}

/// The signal of this name, if it is one that may ask a process to stop.
pub(crate) fn signal(name: &str) -> Option<Signal> {
    match name.strip_prefix("SIG").unwrap_or(name) {
        "TERM" => Some(Signal::TERM),
        "INT" => Some(Signal::INT),
        "QUIT" => Some(Signal::QUIT),
        "HUP" => Some(Signal::HUP),
        "KILL" => Some(Signal::KILL),
        "USR1" => Some(Signal::USR1),
        "USR2" => Some(Signal::USR2),
        "WINCH" => Some(Signal::WINCH),
        _ => None,
    }
}

/// The processes whose program file lies below `folder`, whoever started them.
pub(crate) fn running_from(folder: &Path) -> Vec<ProcessId> {
    let Ok(folder) = folder.canonicalize() else { return Vec::new() };
    all()
        .filter(|pid| exe(*pid).is_some_and(|exe| exe.starts_with(&folder)))
        .filter_map(ProcessId::of)
        .collect()
}

/// The name of the process's program, for people.
pub(crate) fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm"))
        .map_or_else(|_| "?".to_owned(), |name| name.trim().to_owned())
}

/// The processes that have the socket with this inode open; only those that the caller may look into.
pub(crate) fn owners_of_socket(inode: u64) -> Vec<u32> {
    let wanted = PathBuf::from(format!("socket:[{inode}]"));
    let holds = |pid: &u32| {
        let Ok(files) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
        files.flatten().any(|file| fs::read_link(file.path()).is_ok_and(|target| target == wanted))
    };
    all().filter(holds).collect()
}

fn all() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn exe(pid: u32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/exe")).ok()
}

/// State and start time: fields 3 and 22 of `/proc/<pid>/stat` (proc(5)). The name in field 2 may hold anything, so
/// the fields are counted from the last closing parenthesis.
fn stat(pid: u32) -> Option<(char, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = text.rsplit_once(')')?.1.split_whitespace();
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.parse().ok()?))
}

fn raw(pid: u32) -> Result<Pid> {
    i32::try_from(pid).ok().and_then(Pid::from_raw).with_context(|| format!("{pid} is not a process id"))
}

fn ignore_gone(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(rustix::io::Errno::SRCH) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_process_is_alive_until_it_ends_even_if_nobody_waited() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let id = ProcessId::of(child.id()).unwrap();
        assert!(id.is_alive() && id.uptime_ms().unwrap() < 60_000);
        let later = ProcessId { start_time: id.start_time + 1, ..id };
        assert!(!later.is_alive(), "another start time is another process");
        later.signal(Signal::KILL).unwrap();
        assert!(id.is_alive());
        id.signal(Signal::KILL).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while id.is_alive() {
            assert!(std::time::Instant::now() < deadline);
            std::thread::yield_now();
        }
        child.wait().unwrap();
    }
}
