//! What is written down about results: which inputs their compilations declared, for whoever looks for one, and what actions were
//! last made from here, for whoever wants to know what changed. Neither is believed further than that.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, ensure};
use cache::{Blob, Key, Kind};
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::action::Parts;
use crate::ingredients::Declared;
use crate::store::Paths;

const RECORD: &str = "slipway.cache-record/1";
/// A larger record is none of ours.
const MAX_RECORD: u64 = 16 << 20;
/// How many sets of declared inputs a record holds: the oldest one is forgotten.
const MOST_SETS: usize = 8;
/// More files or variables than this nobody declares.
const MOST_NAMES: usize = 50_000;
const LONGEST_NAME: usize = 4_096;
/// What actions were last made from, to tell what changed; whoever deletes it loses only words.
const LAST: &str = "slipway.actions/1";

/// Which inputs compilations declared, newest first, and what the newest result was made from.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    schema: String,
    pub(crate) sets: Vec<Declared>,
    pub(crate) latest: Parts,
}

/// What each action was last made from on this machine.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Last {
    schema: String,
    actions: BTreeMap<String, Parts>,
    /// What was set since it was read.
    #[serde(skip)]
    changed: BTreeSet<String>,
}

impl Last {
    /// What is known; nothing where the file is missing or damaged.
    pub(crate) fn load(paths: &Paths) -> Last {
        let bytes = stdx::fs::read_if_exists(&paths.actions()).ok().flatten();
        let last = bytes.and_then(|bytes| serde_json::from_slice::<Last>(&bytes).ok());
        last.filter(|last| last.schema == LAST).unwrap_or_default()
    }

    /// What the action was last made from, if that is known.
    pub(crate) fn parts(&self, action: &str) -> Option<&Parts> {
        self.actions.get(action)
    }

    pub(crate) fn set(&mut self, action: &str, parts: Parts) {
        self.actions.insert(action.to_owned(), parts);
        self.changed.insert(action.to_owned());
    }

    /// Takes over what was set in `other`.
    pub(crate) fn merge(&mut self, mut other: Last) {
        for action in other.changed {
            self.actions.extend(other.actions.remove_entry(&action));
        }
    }

    pub(crate) fn write(mut self, paths: &Paths) -> Result<()> {
        self.schema = LAST.to_owned();
        stdx::fs::write_atomic(&paths.actions(), &serde_json::to_vec(&self)?, 0o644)
    }
}

impl Record {
    /// Of sets from the newest to the oldest.
    pub(crate) fn new(mut sets: Vec<Declared>, latest: &Parts) -> Record {
        let mut seen = Vec::new();
        sets.retain(|set| {
            let is_new = !seen.contains(set);
            seen.push(set.clone());
            is_new
        });
        sets.truncate(MOST_SETS);
        Record { schema: RECORD.to_owned(), sets, latest: latest.clone() }
    }

    pub(crate) fn blob(&self) -> Result<Blob> {
        Ok(Blob::of_bytes(&serde_json::to_vec(self)?))
    }

    pub(crate) fn read(blob: &Blob) -> Result<Record> {
        let record: Record = serde_json::from_slice(&blob.bytes(MAX_RECORD)?)?;
        ensure!(record.schema == RECORD, "its schema is `{}`", record.schema);
        ensure!(record.sets.len() <= MOST_SETS, "it has {} sets of inputs", record.sets.len());
        let is_bounded = |set: &Declared| {
            let names = set.files.iter().chain(&set.env).chain(&set.libraries);
            set.files.len() <= MOST_NAMES
                && set.env.len() <= MOST_NAMES
                && names.into_iter().all(|name| name.len() <= LONGEST_NAME && !name.contains('\0'))
        };
        ensure!(record.sets.iter().all(is_bounded), "it names more inputs than any build has");
        Ok(record)
    }
}

/// Where the record lies: by what users call the action, so that it is found whatever changed.
pub(crate) fn record_key(kind: Kind, name: &str) -> Key {
    Key { kind: Kind::Record, digest: Digest::of(format!("{}\0{name}", kind.word())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn a_record_that_asks_for_too_much_is_none() {
        let set = |files: BTreeSet<String>| Declared { files, ..Declared::default() };
        let read = |sets: Vec<Declared>| {
            let record = Record { schema: RECORD.to_owned(), sets, latest: Parts::default() };
            Record::read(&record.blob().unwrap()).is_ok()
        };
        assert!(read(vec![set(["/usr/include/zlib.h".to_owned()].into())]));
        assert!(!read(vec![set(["a".repeat(LONGEST_NAME + 1)].into())]));
        assert!(!read(vec![set(["a\0b".to_owned()].into())]));
        assert!(!read(vec![set((0..=MOST_NAMES).map(|name| name.to_string()).collect())]));
        assert!(!read((0..=MOST_SETS).map(|name| set([name.to_string()].into())).collect()));
    }

    #[test]
    fn a_record_keeps_the_newest_sets_once_each_and_nothing_else_is_one() {
        let set = |name: usize| Declared { files: [name.to_string()].into(), ..Declared::default() };
        let sets = [vec![set(3)], (0..12).map(set).collect()].concat();
        let record = Record::read(&Record::new(sets, &Parts::default()).blob().unwrap()).unwrap();
        assert_eq!(record.sets, [3, 0, 1, 2, 4, 5, 6, 7].map(set));
        for text in ["", "{}", "[]", "{\"schema\":\"slipway.cache-record/2\",\"sets\":[],\"latest\":[]}"] {
            assert!(Record::read(&Blob::of_bytes(text.as_bytes())).is_err(), "{text}");
        }
    }
}
