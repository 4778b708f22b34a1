//! What services wrote: of the slots that run, and of the newest slot where none does. It knows slots and lines, and
//! nothing of where a platform keeps them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use serde::Serialize;
use stdx::yaml::Problem;

use crate::outcome::Error;
use crate::platform::{self, Follow, Platform};
use crate::state::StateFolder;

/// How often a log is looked at for new lines.
const FOLLOW_POLL: Duration = Duration::from_millis(200);

/// Which lines of which logs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogQuery {
    /// One service; all where `None`.
    pub service: Option<String>,
    /// How many of the last lines of each process.
    pub lines: usize,
    /// Whether to go on with what is added.
    pub mode: LogMode,
}

/// Whether to go on with what is added to a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMode {
    /// Only what is there.
    Once,
    /// Until the interrupt flag is set; slots that start meanwhile are followed, too.
    Follow,
}

/// A line of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LogLine {
    /// The service.
    pub service: String,
    /// Its slot.
    pub slot: String,
    /// Which of its processes, from 0.
    pub replica: usize,
    /// The line.
    pub text: String,
}

/// Hands the lines that `query` asks for to `sink`: of the slots that run, and of the newest slot where none does.
///
/// # Errors
/// [`Error::Preflight`] where there is no environment, or no such service in it; anything else when a log cannot be read.
pub fn logs(
    state: &Path,
    query: &LogQuery,
    interrupt: &AtomicBool,
    sink: &mut dyn FnMut(LogLine),
) -> Result<(), Error> {
    let platform = platform::open(&StateFolder::open(state)?)?;
    if let Some(service) = &query.service {
        check_service(&*platform, service)?;
    }
    let mut followed: BTreeMap<(String, usize), (String, Box<dyn Follow>)> = BTreeMap::new();
    let mut is_first = true;
    loop {
        for (service, slot) in chosen(&*platform, query)? {
            for replica in 0..platform.instances(&slot)?.len() {
                let key = (slot.clone(), replica);
                if followed.contains_key(&key) {
                    continue;
                }
                let lines = if is_first { query.lines } else { usize::MAX };
                let (lines, follow) = platform.log(&slot, replica, lines)?;
                for text in lines {
                    sink(LogLine { service: service.clone(), slot: slot.clone(), replica, text });
                }
                followed.insert(key, (service.clone(), follow));
            }
        }
        if query.mode == LogMode::Once || interrupt.load(Ordering::Relaxed) {
            return Ok(());
        }
        is_first = false;
        std::thread::sleep(FOLLOW_POLL);
        for ((slot, replica), (service, follow)) in &mut followed {
            for text in follow.lines()? {
                sink(LogLine { service: service.clone(), slot: slot.clone(), replica: *replica, text });
            }
        }
    }
}

fn check_service(platform: &dyn Platform, service: &str) -> Result<(), Error> {
    let mut known = BTreeSet::new();
    for slot in platform.slots()? {
        known.extend(platform.describe(&slot)?.map(|description| description.service));
    }
    if known.contains(service) {
        return Ok(());
    }
    let known = known.into_iter().collect::<Vec<_>>().join(", ");
    Err(Problem::new("logs", format!("no service `{service}` was deployed here; there is {known}")).into())
}

/// The slots whose logs are wanted, with their services.
fn chosen(platform: &dyn Platform, query: &LogQuery) -> Result<Vec<(String, String)>> {
    let mut by_service: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for slot in platform.slots()? {
        let Some(description) = platform.describe(&slot)? else { continue };
        if query.service.as_ref().is_none_or(|wanted| *wanted == description.service) {
            let (is_running, started) = (platform.is_running(&slot)?, platform.last_started(&slot)?);
            by_service.entry(description.service).or_default().push((is_running, started, slot));
        }
    }
    let mut chosen = Vec::new();
    for (service, mut slots) in by_service {
        if slots.iter().any(|(is_running, ..)| *is_running) {
            slots.retain(|(is_running, ..)| *is_running);
        } else {
            slots.sort_by_key(|(_, started, _)| *started);
            slots.drain(..slots.len().saturating_sub(1));
        }
        chosen.extend(slots.into_iter().map(|(.., slot)| (service.clone(), slot)));
    }
    Ok(chosen)
}
