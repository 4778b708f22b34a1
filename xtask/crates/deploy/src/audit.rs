//! Who did what to the environment, when, and how it ended: one record a line, each carrying the digest of the one
//! before it, so that a record that was changed or removed is found and named. It decides nothing and nothing is
//! decided by it. Invariant: a record once written is never changed; what a crash tore off at the end is cut before
//! the next one is written.
//!
//! The chain alone cannot tell that its newest records were cut off. The digest of the last one is shown by `status`
//! and sent with every notification: whoever has it can tell.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::state::{StateFolder, open_private, unix_ms};

/// The value of `schema` in a record that this version reads and writes.
const SCHEMA: &str = "slipway.audit/1";

/// One thing that was done, or begun.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditRecord {
    schema: String,
    /// Rises by one with each record.
    pub sequence: u64,
    /// When, in milliseconds since 1970, by the clock of the machine that did it.
    pub unix_ms: u64,
    /// What was done.
    #[serde(flatten)]
    pub event: AuditEvent,
    /// Digest of the record before; of nothing at all for the first.
    previous: Digest,
    /// Digest of this record without this member.
    pub digest: Digest,
}

/// What a record is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEvent {
    /// Who did it, as far as the machine can tell.
    pub who: String,
    /// The command that was typed.
    pub command: String,
    /// `deploy`, `rollback`, `resume`, `abort`, `repair` or `down`.
    pub operation: String,
    /// `begun`, or how it ended.
    pub outcome: String,
    /// What else there is to say, in one line; never a value of a variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Identity of the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<Digest>,
    /// Identity of the release together with the environment's values.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deployment: Option<String>,
    /// The commit that the release was built from, with `+changes` where the work tree had some.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// The fencing token of the lock that it was done under.
    pub token: u64,
    /// How long it took; 0 where it begins.
    pub took_ms: u64,
}

/// What the audit of an environment says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Audit {
    /// All records up to the first that is not as it was written, oldest first.
    pub records: Vec<AuditRecord>,
    /// Digest of the last one.
    pub head: Option<Digest>,
    /// What is wrong, naming the line.
    pub damage: Option<String>,
}

impl Audit {
    /// The audit of the environment in the folder `state`. Nothing is changed.
    ///
    /// # Errors
    /// Where there is no environment, or the file cannot be read.
    pub fn load(state: &Path) -> Result<Audit, crate::outcome::Error> {
        Ok(read(&StateFolder::open(state)?.audit())?.0)
    }
}

/// Who works here, as far as this machine can tell: for the record, not for a decision.
pub fn operator() -> String {
    let variable = |name: &str| std::env::var(name).ok().filter(|text| !text.is_empty());
    if variable("GITHUB_ACTIONS").as_deref() == Some("true") {
        let run = variable("GITHUB_RUN_ID").map(|id| format!(", run {id}")).unwrap_or_default();
        return format!("{} (GitHub{run})", variable("GITHUB_ACTOR").unwrap_or_else(|| "unknown".to_owned()));
    }
    let name = ["SUDO_USER", "USER", "LOGNAME"].into_iter().find_map(variable);
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{}@{host}", name.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw())))
}

/// Appends a record of `event` and returns its digest.
///
/// # Errors
/// When it cannot be written. A damaged audit is written on: what comes after the damage is a chain of its own.
pub(crate) fn append(state: &StateFolder, event: AuditEvent) -> Result<Digest> {
    let path = state.audit();
    let (audit, length, last) = read(&path)?;
    let file = open_private(&path)?;
    let context = || format!("cannot write {}", path.display());
    if file.metadata().with_context(context)?.len() > length {
        file.set_len(length).with_context(context)?;
    }
    let (sequence, previous) = match (last, audit.head) {
        (Some(last), _) => (last.sequence + 1, last.digest),
        (None, _) => (1, Digest::of("")),
    };
    let record = record(sequence, previous, event)?;
    let mut line = serde_json::to_vec(&record)?;
    line.push(b'\n');
    let mut writer = &file;
    let written = writer.write_all(&line).and_then(|()| file.sync_data());
    if written.is_err() {
        let _ = file.set_len(length);
    }
    written.with_context(context)?;
    Ok(record.digest)
}

fn record(sequence: u64, previous: Digest, event: AuditEvent) -> Result<AuditRecord> {
    let mut record = AuditRecord {
        schema: SCHEMA.to_owned(),
        sequence,
        unix_ms: unix_ms(),
        event,
        previous,
        digest: previous,
    };
    record.digest = digest(&record)?;
    Ok(record)
}

fn digest(record: &AuditRecord) -> Result<Digest> {
    let mut value = serde_json::to_value(record)?;
    if let Some(members) = value.as_object_mut() {
        members.remove("digest");
    }
    Ok(Digest::of(stdx::json::canonical(&value)?))
}

/// What the file says, how many of its bytes are whole lines, and the last record that can be read, damaged or not.
fn read(path: &Path) -> Result<(Audit, u64, Option<AuditRecord>)> {
    let bytes = stdx::fs::read_if_exists(path)?.unwrap_or_default();
    let (mut audit, mut length, mut last) = (Audit::default(), 0, None::<AuditRecord>);
    for (index, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
        // A crash can tear the last line off, and only that one.
        if !line.ends_with(b"\n") {
            break;
        }
        length += line.len() as u64;
        let record = serde_json::from_slice::<AuditRecord>(line);
        if audit.damage.is_none() {
            match check(line, record.as_ref().ok(), last.as_ref()) {
                Ok(record) => {
                    audit.head = Some(record.digest);
                    audit.records.push(record.clone());
                }
                Err(why) => {
                    audit.damage = Some(format!("{}:{}: {why}", path.display(), index + 1));
                }
            }
        }
        last = record.ok().or(last);
    }
    Ok((audit, length, last))
}

/// Whether `record` follows `last`.
fn check<'a>(
    line: &[u8],
    record: Option<&'a AuditRecord>,
    last: Option<&AuditRecord>,
) -> Result<&'a AuditRecord, String> {
    let record = record.ok_or("the line is no record of the audit")?;
    let expected = last.map_or(1, |last| last.sequence + 1);
    let previous = last.map_or_else(|| Digest::of(""), |last| last.digest);
    if record.schema != SCHEMA {
        return Err(format!("the record has the schema `{}`, this version reads `{SCHEMA}`", record.schema));
    }
    // The line as it would be written: so a member that this version does not know is found as well.
    let is_as_written =
        serde_json::to_vec(record).is_ok_and(|bytes| line.strip_suffix(b"\n") == Some(&bytes));
    if !is_as_written || digest(record).ok() != Some(record.digest) {
        return Err(format!("record {} was changed after it was written", record.sequence));
    }
    if record.sequence > expected {
        return Err(format!("records {expected} to {} were removed", record.sequence - 1));
    }
    if record.sequence != expected || record.previous != previous {
        return Err(format!("record {} does not follow the one before it", record.sequence));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn written(count: usize) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let state = StateFolder::create(&folder.path().join("state")).unwrap();
        for number in 0..count {
            let event = AuditEvent {
                who: "a".into(),
                operation: "deploy".into(),
                outcome: format!("o{number}"),
                ..AuditEvent::default()
            };
            append(&state, event).unwrap();
        }
        (folder, state.audit())
    }

    #[test]
    fn a_chain_that_nobody_touched_is_whole() {
        let (folder, _) = written(3);
        let audit = Audit::load(&folder.path().join("state")).unwrap();
        let outcomes: Vec<_> = audit.records.iter().map(|record| record.event.outcome.as_str()).collect();
        assert_eq!((outcomes, audit.damage.as_deref()), (vec!["o0", "o1", "o2"], None));
        assert_eq!(audit.head, Some(audit.records[2].digest));
    }

    #[test]
    fn a_changed_byte_is_found_and_its_line_is_named() {
        let (_folder, path) = written(3);
        let bytes = fs::read(&path).unwrap();
        let mut changed = bytes.clone();
        // Every byte takes seconds; the last one is special.
        for index in (0..bytes.len()).rev().step_by(7) {
            changed[index] ^= 1;
            fs::write(&path, &changed).unwrap();
            changed[index] = bytes[index];
            let line = 1 + bytes[..index].iter().filter(|byte| **byte == b'\n').count();
            let damage = read(&path).unwrap().0.damage;
            // Without its line break the last record is a torn one.
            let is_torn = index == bytes.len() - 1;
            assert_eq!(damage.is_none(), is_torn, "byte {index}");
            assert!(is_torn || damage.unwrap().contains(&format!("audit.jsonl:{line}: ")), "byte {index}");
        }
    }

    #[test]
    fn removed_and_exchanged_lines_are_found() {
        let (_folder, path) = written(4);
        let text = fs::read_to_string(&path).unwrap();
        let lines: Vec<_> = text.lines().collect();
        let check = |kept: &[usize], expected: &str| {
            let text: String = kept.iter().map(|index| format!("{}\n", lines[*index])).collect();
            fs::write(&path, text).unwrap();
            let damage = read(&path).unwrap().0.damage.unwrap();
            assert!(damage.contains(expected), "{kept:?}: {damage}");
        };
        check(&[1, 2, 3], ":1: records 1 to 1 were removed");
        check(&[0, 3], ":2: records 2 to 3 were removed");
        check(&[0, 2, 1, 3], ":2: records 2 to 2 were removed");
        check(&[0, 0, 1], ":2: record 1 does not follow");
    }

    #[test]
    fn a_torn_tail_is_cut_and_the_chain_goes_on() {
        let (folder, path) = written(2);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 5]).unwrap();
        let state = StateFolder::create(&folder.path().join("state")).unwrap();
        append(&state, AuditEvent::default()).unwrap();
        let audit = read(&path).unwrap().0;
        assert_eq!((audit.records.len(), audit.damage), (2, None));
    }
}
