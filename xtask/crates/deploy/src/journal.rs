//! What was done, in order, on disk before it matters: one checksummed record a line, synced one by one. It decides
//! nothing; the truth about what serves is the edge's table. Invariant: a record once written is never changed. What
//! a crash tore off at the end is cut; anything else that is not as it was written is refused. Each record carries the
//! token of the lock that it was written under: one with an older token than a record before it came from an operation
//! that had been overtaken, and does not count.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use edge::control::Route;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::lock::Fence;
use crate::outcome::Error;
use crate::plan::Plan;
use crate::state::{open_private, unix_ms};

/// The open journal of an environment.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    file: File,
    next: u64,
    fence: Option<Fence>,
}

/// What the journal tells of the past.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// What served, oldest first; one entry per change.
    pub activations: Vec<Activation>,
    /// The deployment that was begun and not ended.
    pub open: Option<Open>,
    /// The highest token that a record carries.
    pub token: u64,
}

/// What served from one change to the next.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Activation {
    /// The deployment that made it so; empty where that is not known.
    pub deployment: String,
    /// Slot by service.
    pub slots: BTreeMap<String, String>,
    /// The routes.
    pub routes: Vec<Route>,
}

/// A deployment that was begun and not ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Open {
    /// What it was to do.
    pub plan: Plan,
    /// The last step that was recorded, with its phase.
    pub last: String,
    /// Whether the switch was recorded as done.
    pub switched: bool,
    /// Whether it had switched, as the first operation found that took it up.
    pub judged: Option<bool>,
}

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Entry {
    /// A deployment begins.
    Begin {
        /// What it will do.
        plan: Plan,
    },
    /// A step of the deployment that was begun last.
    Step {
        /// Kind and slot.
        step: String,
        /// Before or after.
        phase: Phase,
    },
    /// Another operation takes up the deployment that was begun last.
    Judged {
        /// Whether it found that it had switched.
        switched: bool,
    },
    /// The deployment ended.
    End {
        /// How.
        outcome: String,
        /// What serves now, if that changed.
        active: Option<Activation>,
    },
    /// The journal begins anew after an earlier one was damaged.
    Repaired {
        /// What serves.
        active: Activation,
    },
    /// Everything was stopped.
    Down,
}

/// Before or after a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Phase {
    /// It is about to be carried out.
    Intent,
    /// It was carried out.
    Done,
    /// It was not.
    Failed,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    sequence: u64,
    /// For people.
    unix_ms: u64,
    /// Records of earlier versions have none.
    #[serde(default, skip_serializing_if = "is_zero")]
    token: u64,
    entry: Entry,
    checksum: String,
}

impl Journal {
    /// Opens the journal at `path`, cutting off what a crash left half-written, and tells its history.
    ///
    /// # Errors
    /// [`Error::JournalDamaged`] when a record is not as it was written.
    pub(crate) fn open(path: &Path) -> Result<(Journal, History), Error> {
        let read = read(path)?;
        let file = open_private(path)?;
        if file.metadata().context("cannot look at the journal")?.len() > read.length {
            file.set_len(read.length)
                .and_then(|()| file.sync_all())
                .with_context(|| format!("cannot mend {}", path.display()))?;
        }
        if let Some(folder) = path.parent() {
            stdx::fs::sync_dir(folder)?;
        }
        let next = read.entries.len() as u64 + 1;
        let journal = Journal { path: path.to_owned(), file, next, fence: None };
        Ok((journal, History::of(read)))
    }

    /// From now on records carry the token of `fence`, and none is written once there is a higher one.
    pub(crate) fn guard(&mut self, fence: Fence) {
        self.fence = Some(fence);
    }

    /// # Errors
    /// [`Overtaken`] when another operation was granted the lock, or wrote into the journal.
    fn check_guard(&self) -> Result<u64> {
        let Some(fence) = &self.fence else { return Ok(0) };
        fence.check()?;
        Ok(fence.token())
    }

    /// Appends a record and returns when it is on disk.
    ///
    /// # Errors
    /// When it could not be written; the journal is then as it was before. [`Overtaken`](crate::lock::Overtaken) where
    /// this operation may not write any more.
    pub(crate) fn append(&mut self, entry: Entry) -> Result<()> {
        let line = line(self.next, self.check_guard()?, entry)?;
        let length = self.file.metadata().context("cannot look at the journal")?.len();
        let written = self.file.write_all(&line).and_then(|()| self.file.sync_data());
        if let Err(error) = written {
            // A torn record would be cut at the next start; cutting it now lets this process go on.
            let cut = self.file.set_len(length).and_then(|()| self.file.sync_all());
            let note = if cut.is_ok() { "" } else { ", nor cut back" };
            return Err(error).with_context(|| format!("{} cannot be written{note}", self.path.display()));
        }
        self.next += 1;
        Ok(())
    }
}

impl History {
    /// Reads the history at `path` without changing the file; a missing file is an empty history.
    pub(crate) fn load(path: &Path) -> Result<History, Error> {
        Ok(History::of(read(path)?))
    }

    fn of(read: Read) -> History {
        let mut history = History::default();
        for entry in read.entries {
            match entry {
                Entry::Begin { plan } => {
                    history.open =
                        Some(Open { plan, last: "begin".to_owned(), switched: false, judged: None });
                }
                Entry::Step { step, phase } => {
                    if let Some(open) = &mut history.open {
                        open.switched |= step == "switch" && phase == Phase::Done;
                        open.last = format!("{step} ({})", phase.name());
                    }
                }
                Entry::Judged { switched } => {
                    if let Some(open) = &mut history.open {
                        open.judged = Some(switched);
                    }
                }
                Entry::End { active, .. } => {
                    history.open = None;
                    history.activations.extend(active);
                }
                Entry::Repaired { active } => {
                    history = History { activations: vec![active], ..History::default() }
                }
                Entry::Down => {
                    history.open = None;
                    history.activations.push(Activation::default());
                }
            }
        }
        history.token = read.token;
        history
    }

    /// What served last.
    pub fn current(&self) -> Option<&Activation> {
        self.activations.last()
    }

    /// The deployment to go back to: the last one that had other slots than what serves now.
    pub fn previous(&self) -> Option<&Activation> {
        let mut past = self.activations.iter().rev().filter(|past| !past.slots.is_empty());
        let current = past.next()?;
        past.find(|past| past.slots != current.slots && !past.deployment.is_empty())
    }

    /// The slots that ever served, with the position of their last time.
    pub(crate) fn last_active(&self) -> BTreeMap<&str, usize> {
        let slots = self.activations.iter().enumerate();
        slots.flat_map(|(index, past)| past.slots.values().map(move |slot| (slot.as_str(), index))).collect()
    }
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Intent => "intent",
            Phase::Done => "done",
            Phase::Failed => "failed",
        }
    }
}

#[derive(Default)]
struct Read {
    entries: Vec<Entry>,
    /// Bytes up to the end of the last whole record.
    length: u64,
    /// The highest token.
    token: u64,
}

fn read(path: &Path) -> Result<Read, Error> {
    let bytes = stdx::fs::read_if_exists(path)?.unwrap_or_default();
    let mut read = Read::default();
    // Only what ends in a line break was written whole: the break is the last byte of its record.
    for (index, line) in
        bytes.split_inclusive(|byte| *byte == b'\n').enumerate().filter(|(_, line)| line.ends_with(b"\n"))
    {
        let damaged = |detail| Error::JournalDamaged { file: path.to_owned(), line: index + 1, detail };
        let record = parse(line).map_err(damaged)?;
        read.length += line.len() as u64;
        // Written by an operation that had been overtaken, in the moment between its look and its write.
        if record.token < read.token {
            continue;
        }
        let sequence = read.entries.len() as u64 + 1;
        if record.sequence != sequence {
            let detail = format!("the record has the number {}, {sequence} was expected", record.sequence);
            return Err(damaged(detail));
        }
        read.token = record.token;
        read.entries.push(record.entry);
    }
    Ok(read)
}

fn parse(line: &[u8]) -> Result<Record, String> {
    let record: Record = serde_json::from_slice(line).map_err(|error| format!("not a record ({error})"))?;
    let expected = checksum(record.sequence, record.unix_ms, record.token, &record.entry).ok();
    if expected.as_deref() != Some(record.checksum.as_str()) {
        return Err("the record does not match its checksum".to_owned());
    }
    Ok(record)
}

fn line(sequence: u64, token: u64, entry: Entry) -> Result<Vec<u8>> {
    let unix_ms = unix_ms();
    let checksum = checksum(sequence, unix_ms, token, &entry)?;
    let mut line = serde_json::to_vec(&Record { sequence, unix_ms, token, entry, checksum })?;
    line.push(b'\n');
    Ok(line)
}

fn checksum(sequence: u64, unix_ms: u64, token: u64, entry: &Entry) -> Result<String> {
    let mut body = serde_json::json!({ "sequence": sequence, "unix_ms": unix_ms, "entry": entry });
    if token != 0 {
        body["token"] = token.into();
    }
    Ok(Digest::of(stdx::json::canonical(&body)?).short())
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(token: &u64) -> bool {
    *token == 0
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn activation(deployment: &str, slot: &str) -> Activation {
        Activation {
            deployment: deployment.into(),
            slots: [("a".to_owned(), slot.to_owned())].into(),
            routes: vec![],
        }
    }

    fn ended(deployment: &str, slot: &str) -> Entry {
        Entry::End { outcome: "deployed".into(), active: Some(activation(deployment, slot)) }
    }

    fn written() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        let (mut journal, history) = Journal::open(&path).unwrap();
        assert_eq!(history, History::default());
        for (deployment, slot) in [("d1", "s1"), ("d2", "s2"), ("d3", "s2")] {
            journal.append(ended(deployment, slot)).unwrap();
        }
        (folder, path)
    }

    #[test]
    fn history_tells_what_serves_and_what_to_go_back_to() {
        let (_folder, path) = written();
        let (mut journal, history) = Journal::open(&path).unwrap();
        assert_eq!(history.current().unwrap().deployment, "d3");
        assert_eq!(history.previous().unwrap().deployment, "d1", "d2 had the same slots as d3");
        assert_eq!(history.last_active(), [("s1", 0), ("s2", 2)].into());
        journal.append(Entry::Down).unwrap();
        let history = History::load(&path).unwrap();
        assert!(history.current().unwrap().slots.is_empty());
        assert_eq!(history.previous().unwrap().deployment, "d1");
    }

    #[test]
    fn every_torn_tail_is_cut_and_the_rest_stays() {
        let (_folder, path) = written();
        let bytes = fs::read(&path).unwrap();
        let ends: Vec<_> = (1..=bytes.len()).filter(|length| bytes[length - 1] == b'\n').collect();
        for length in 0..bytes.len() {
            fs::write(&path, &bytes[..length]).unwrap();
            let whole = ends.iter().filter(|end| **end <= length).count();
            let (mut journal, history) = Journal::open(&path).unwrap();
            assert_eq!(history.activations.len(), whole, "cut at {length}");
            journal.append(Entry::Down).unwrap();
            assert_eq!(
                History::load(&path).unwrap().activations.len(),
                whole + 1,
                "appended after a cut at {length}"
            );
        }
    }

    #[test]
    fn every_other_change_is_refused_with_its_line() {
        let (_folder, path) = written();
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        for index in 0..bytes.len() {
            changed[index] ^= 1;
            fs::write(&path, &changed).unwrap();
            let line = 1 + bytes[..index].iter().filter(|byte| **byte == b'\n').count();
            match History::load(&path) {
                Err(Error::JournalDamaged { line: found, .. }) => assert_eq!(found, line, "byte {index}"),
                // Without its line break the last record is a torn one.
                Ok(_) => assert_eq!(index, bytes.len() - 1),
                Err(error) => panic!("{error}"),
            }
            changed[index] = bytes[index];
        }
        let text = String::from_utf8(bytes).unwrap();
        let without_second: Vec<_> =
            text.lines().enumerate().filter(|(index, _)| *index != 1).map(|(_, line)| line).collect();
        fs::write(&path, without_second.join("\n") + "\n").unwrap();
        let error = History::load(&path).unwrap_err().to_string();
        assert!(error.contains("journal.jsonl:2:") && error.contains("--repair"), "{error}");
    }

    #[test]
    fn what_an_overtaken_operation_writes_is_refused_and_what_slips_through_does_not_count() {
        let folder = tempfile::tempdir().unwrap();
        let state = crate::state::StateFolder::create(&folder.path().join("state")).unwrap();
        let holder = crate::lock::Holder { pid: 1, command: String::new(), since_unix_ms: 0 };
        let mut lock = crate::lock::Lock::acquire(&state, &holder, crate::lock::Held::Refuse).unwrap();
        let (mut old, _) = Journal::open(&state.journal()).unwrap();
        old.guard(lock.grant(0).unwrap());
        old.append(ended("d1", "s1")).unwrap();
        let (mut new, history) = Journal::open(&state.journal()).unwrap();
        assert_eq!(history.token, 1);
        new.guard(lock.grant(history.token).unwrap());
        // Between its look and its write nothing tells the old one.
        let late = line(old.next, 1, ended("late", "s9")).unwrap();
        new.append(ended("d2", "s2")).unwrap();
        old.file.write_all(&late).unwrap();
        let error = old.append(Entry::Down).unwrap_err();
        assert!(error.is::<crate::lock::Overtaken>(), "{error:#}");
        new.append(ended("d3", "s3")).unwrap();
        let deployments = |history: History| {
            history.activations.into_iter().map(|past| past.deployment).collect::<Vec<_>>()
        };
        assert_eq!(deployments(History::load(&state.journal()).unwrap()), ["d1", "d2", "d3"]);
        let (mut third, _) = Journal::open(&state.journal()).unwrap();
        third.guard(lock.grant(0).unwrap());
        third.append(ended("d4", "s4")).unwrap();
        assert_eq!(deployments(History::load(&state.journal()).unwrap()), ["d1", "d2", "d3", "d4"]);
    }
}
