//! A bake while it lasts: asks new slots whether they take connections, looks at what they have counted, and has the former
//! routes put back. What speaks against a slot is decided elsewhere.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use crate::bake::{INTERVAL, Kept, Objection, Watch};
use crate::control::{BakeReport, BakeState, Cause};
use crate::counters::Tally;
use crate::live::Live;
use crate::log;
use crate::switch::Switch;
use crate::upstream;

/// How often a new slot is asked whether it takes connections.
const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// The second question after a refusal, and the least time between two.
const RECHECK: Duration = Duration::from_millis(50);

/// Refusals in a row of all processes of a slot that make it one that has gone.
const REFUSALS: u32 = 2;

/// A process that hangs takes connections until its backlog is full; then they time out for so long.
const PROBE_TIMEOUT: Duration = Duration::from_millis(100);
const TIMEOUTS: u32 = 10;

/// Until a table that could not be kept is tried again.
const RETRY: Duration = Duration::from_secs(1);

/// A bake that is on, or how it ended.
pub(crate) struct Baking {
    kept: Mutex<Kept>,
    watches: Mutex<Vec<Watch>>,
    began: Instant,
    is_over: watch::Sender<bool>,
}

/// What a slot says to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    Taken,
    Refused,
    TimedOut,
}

impl Baking {
    pub(crate) fn new(kept: Kept, began: Instant, counted: impl Fn(&str) -> Tally) -> Baking {
        let watches = Mutex::new(kept.watches(counted));
        let is_over = watch::Sender::new(!matches!(kept.report.state, BakeState::Baking { .. }));
        Baking { kept: Mutex::new(kept), watches, began, is_over }
    }

    pub(crate) fn is_on(&self) -> bool {
        !*self.is_over.borrow()
    }

    pub(crate) fn kept(&self) -> Kept {
        self.lock().clone()
    }

    /// How it stands, with the figures of now while it lasts.
    pub(crate) fn report(&self, live: &Live) -> BakeReport {
        let kept = self.kept();
        if !self.is_on() {
            return kept.report;
        }
        let left = self.whole(&kept).saturating_sub(self.began.elapsed());
        let left_ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        let figures = self.watches();
        let figures = figures.iter().map(|watch| watch.figures(&kept.bake.rules, &live.tally(watch.slot())));
        BakeReport { state: BakeState::Baking { left_ms }, figures: figures.collect(), ..kept.report }
    }

    /// Ends it with the figures of now; one that is over stays as it is.
    pub(crate) fn end(&self, state: BakeState, reason: String, live: &Live) -> BakeReport {
        let report = self.report(live);
        if !self.is_on() {
            return report;
        }
        let report = BakeReport { state, reason, ..report };
        self.lock().report = report.clone();
        self.is_over.send_replace(true);
        report
    }

    /// Nobody here watches any more; how it goes on is another edge's business.
    pub(crate) fn abandon(&self) {
        self.is_over.send_replace(true);
    }

    fn whole(&self, kept: &Kept) -> Duration {
        Duration::from_millis(kept.bake.for_ms)
    }

    /// What the counts of now say.
    fn look(&self, live: &Live) -> Option<Objection> {
        let kept = self.kept();
        let (elapsed, whole) = (self.began.elapsed(), self.whole(&kept));
        let mut watches = self.watches();
        let mut looks = watches.iter_mut().map(|watch| {
            let now = live.tally(watch.slot());
            watch.look(&kept.bake.rules, &now, elapsed, whole)
        });
        // Each looks, whatever the others say.
        looks.by_ref().fold(None, Option::or)
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn watches(&self) -> MutexGuard<'_, Vec<Watch>> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Watches over `baking` until it is over; goes back at once where an earlier edge had begun to.
pub(crate) async fn watch(switch: Arc<Switch>, baking: Arc<Baking>, redo: Option<Objection>) {
    let mut is_over = baking.is_over.subscribe();
    let work = async {
        if let Some(objection) = &redo {
            go_back(&switch, &baking, objection).await;
        }
        until_decided(&switch, &baking).await;
    };
    tokio::select! {
        _ = is_over.wait_for(|is_over| *is_over) => {}
        () = work => {}
    }
}

async fn until_decided(switch: &Switch, baking: &Arc<Baking>) {
    let (live, slots) = (switch.live(), watched(switch, baking));
    let whole = baking.whole(&baking.kept());
    let mut failing = BTreeMap::new();
    let mut next_look = baking.began + INTERVAL;
    loop {
        if failing.is_empty() {
            tokio::select! {
                () = tokio::time::sleep(PROBE_INTERVAL) => {}
                () = live.unsent.notified() => {}
            }
        } else {
            tokio::time::sleep(RECHECK).await;
        }
        let mut objection = unreachable(&slots, &mut failing).await;
        if objection.is_none() && Instant::now() >= next_look {
            next_look = Instant::now() + INTERVAL;
            objection = baking.look(live);
        }
        if let Some(objection) = objection {
            return go_back(switch, baking, &objection).await;
        }
        if baking.began.elapsed() >= whole && failing.is_empty() {
            return pass(switch, baking).await;
        }
    }
}

async fn pass(switch: &Switch, baking: &Arc<Baking>) {
    let report = baking.report(switch.live());
    let quiet: Vec<_> = report.figures.iter().filter(|figures| !figures.is_judged).collect();
    let reason = match quiet.first() {
        None => "nothing spoke against the new slots".to_owned(),
        Some(first) => format!(
            "{} of {} slots had too few requests to be judged, {} with {}",
            quiet.len(),
            report.figures.len(),
            first.slot,
            first.requests
        ),
    };
    switch.end_bake(Some(baking), BakeState::Passed, &reason).await;
}

/// Until it is done.
async fn go_back(switch: &Switch, baking: &Arc<Baking>, objection: &Objection) {
    while let Err(error) = switch.go_back(baking, objection).await {
        log::event("NOT_REVERTED", json!({ "reason": objection.reason, "error": format!("{error:#}") }));
        tokio::time::sleep(RETRY).await;
    }
}

fn watched(switch: &Switch, baking: &Baking) -> Vec<(String, Vec<SocketAddr>)> {
    let in_force = switch.live().in_force();
    let slots = &in_force.table.slots;
    let to = baking.kept().bake.to;
    to.into_iter().filter_map(|name| slots.get(&name).map(|slot| (name, slot.upstreams.clone()))).collect()
}

/// The first slot of which no process has taken a connection for a while. `failing` has those that did not last time.
async fn unreachable(
    slots: &[(String, Vec<SocketAddr>)],
    failing: &mut BTreeMap<String, (u32, u32)>,
) -> Option<Objection> {
    for (name, upstreams) in slots {
        let answer = ask(upstreams).await;
        if answer == Answer::Taken {
            failing.remove(name);
            continue;
        }
        let (refusals, timeouts) = failing.entry(name.clone()).or_default();
        match answer {
            Answer::Refused => *refusals += 1,
            Answer::Taken | Answer::TimedOut => *timeouts += 1,
        }
        if *refusals >= REFUSALS || *timeouts >= TIMEOUTS {
            let how = if answer == Answer::Refused { "refuses" } else { "does not take" };
            let reason = format!("slot {name} {how} connections");
            return Some(Objection { cause: Cause::Unreachable, reason });
        }
    }
    None
}

/// What the processes of a slot say to a connection: one that takes it is enough.
async fn ask(upstreams: &[SocketAddr]) -> Answer {
    let mut answer = Answer::Refused;
    for address in upstreams {
        match upstream::connect(*address, PROBE_TIMEOUT).await {
            Ok(_) => return Answer::Taken,
            Err(error) if error.kind() == std::io::ErrorKind::TimedOut => answer = Answer::TimedOut,
            Err(_) => {}
        }
    }
    answer
}
