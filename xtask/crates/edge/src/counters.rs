//! What is counted for one slot: on the way of a request by additions alone, without a lock. Totals only rise while the
//! slot stays in the table; the recent past is what they rose by since pictures that are taken now and then.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};

use crate::control::SlotCounters;
use crate::histogram::{Histogram, Picture};

/// Retired slots are remembered for this many generations, so that a drain that is asked late is answered, not refused.
const REMEMBERED_GENERATIONS: u64 = 64;

/// How often a picture is kept.
const HISTORY_STEP: Duration = Duration::from_secs(5);

/// Pictures that are kept: five minutes, enough for a record of a service with one request in a few seconds.
const HISTORY_LENGTH: usize = 60;

/// What counts as recent where nothing else is asked for.
const RECENT: Duration = Duration::from_secs(60);

/// What was counted for one slot name.
pub(crate) struct Counters {
    in_flight: AtomicU64,
    streams: AtomicU64,
    totals: Totals,
    history: Mutex<VecDeque<(Instant, Tally)>>,
    /// The last generation that had the slot.
    last_generation: AtomicU64,
    idle: Notify,
    /// Since when no route leads to the slot any more.
    retired: watch::Sender<Option<Instant>>,
}

#[derive(Default)]
struct Totals {
    statuses: [AtomicU64; 5],
    unanswered: AtomicU64,
    cut: AtomicU64,
    connect_errors: AtomicU64,
    rescued: AtomicU64,
    first_byte: Histogram,
    total: Histogram,
}

/// Totals at one moment, or what they rose by.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Tally {
    /// Answers by the first digit of their status.
    pub(crate) statuses: [u64; 5],
    /// Requests that the service took and gave no answer to.
    pub(crate) unanswered: u64,
    /// Answers that the service did not bring to their end.
    pub(crate) cut: u64,
    /// Requests that could not be sent and were answered by the edge.
    pub(crate) connect_errors: u64,
    /// Requests that could not be sent and went elsewhere.
    pub(crate) rescued: u64,
    pub(crate) first_byte: Picture,
    pub(crate) total: Picture,
}

/// One upgraded connection to a slot, counted until this is dropped.
pub(crate) struct Stream(Arc<Counters>);

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            in_flight: AtomicU64::new(0),
            streams: AtomicU64::new(0),
            totals: Totals::default(),
            history: Mutex::default(),
            last_generation: AtomicU64::new(0),
            idle: Notify::new(),
            retired: watch::Sender::new(None),
        }
    }
}

impl Counters {
    /// The service began an answer with `status`, `first_byte` after it had the request.
    pub(crate) fn answered(&self, status: StatusCode, first_byte: Duration) {
        let class = usize::from(status.as_u16() / 100).clamp(1, 5) - 1;
        self.totals.statuses[class].fetch_add(1, Ordering::Relaxed);
        self.totals.first_byte.record(first_byte);
    }

    /// An answer came to its end, `total` after the head of its request.
    pub(crate) fn completed(&self, total: Duration) {
        self.totals.total.record(total);
    }

    /// The service took a request and gave no answer.
    pub(crate) fn unanswered(&self) {
        self.totals.unanswered.fetch_add(1, Ordering::Relaxed);
    }

    /// The service did not bring an answer to its end.
    pub(crate) fn cut(&self) {
        self.totals.cut.fetch_add(1, Ordering::Relaxed);
    }

    /// A request could not be sent and is answered by the edge.
    pub(crate) fn connect_error(&self) {
        self.totals.connect_errors.fetch_add(1, Ordering::Relaxed);
    }

    /// A request could not be sent and goes elsewhere.
    pub(crate) fn rescued(&self) {
        self.totals.rescued.fetch_add(1, Ordering::Relaxed);
    }

    /// A request takes the slot; [`Counters::leave`] is its end.
    pub(crate) fn enter(&self) {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn leave(&self) {
        if self.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.idle.notify_waiters();
        }
    }

    pub(crate) fn open_stream(self: &Arc<Counters>) -> Stream {
        self.streams.fetch_add(1, Ordering::AcqRel);
        Stream(Arc::clone(self))
    }

    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Acquire)
    }

    pub(crate) fn streams(&self) -> u64 {
        self.streams.load(Ordering::Acquire)
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.in_flight() > 0 || self.streams() > 0
    }

    pub(crate) fn is_remembered(&self, generation: u64) -> bool {
        generation.saturating_sub(self.last_generation.load(Ordering::Relaxed)) <= REMEMBERED_GENERATIONS
    }

    /// The slot is in the table of `generation`.
    pub(crate) fn seen_in(&self, generation: u64) {
        self.last_generation.store(generation, Ordering::Relaxed);
    }

    /// The slot appeared in a table: its record begins anew, while what is open from before stays counted.
    pub(crate) fn begin_anew(&self) {
        self.totals.clear();
        self.history().clear();
    }

    /// Whether a route leads to the slot; where none does, since when is remembered.
    pub(crate) fn set_routed(&self, is_routed: bool, now: Instant) {
        self.retired.send_if_modified(|retired| {
            let wanted = if is_routed { None } else { retired.or(Some(now)) };
            std::mem::replace(retired, wanted) != wanted
        });
    }

    pub(crate) fn retirement(&self) -> watch::Receiver<Option<Instant>> {
        self.retired.subscribe()
    }

    /// Waits until nothing is in flight, and no upgraded connection is open where `streams` are waited for.
    pub(crate) async fn wait_idle(&self, streams: bool) {
        loop {
            let mut notified = std::pin::pin!(self.idle.notified());
            // Registered before the count is read, so that a flight that ends in between is not missed.
            notified.as_mut().enable();
            if self.in_flight() == 0 && (!streams || self.streams() == 0) {
                return;
            }
            notified.await;
        }
    }

    /// The totals now.
    pub(crate) fn tally(&self) -> Tally {
        self.totals.picture()
    }

    /// Keeps a picture for the recent past, where it is time for one.
    pub(crate) fn remember(&self, now: Instant) {
        let mut history = self.history();
        let last = history.back().map(|(at, _)| *at);
        if last.is_some_and(|last| now.saturating_duration_since(last) < HISTORY_STEP) {
            return;
        }
        if history.len() == HISTORY_LENGTH {
            history.pop_front();
        }
        history.push_back((now, self.tally()));
    }

    /// What came in the last `window`, or since the record begins.
    pub(crate) fn recent(&self, now: Instant, window: Duration) -> Tally {
        let history = self.history();
        let is_within = |at: Instant| now.saturating_duration_since(at) <= window;
        let (tally, first) = (self.tally(), history.front().map(|(at, _)| at));
        match history.iter().find(|(at, _)| is_within(*at)) {
            // While no picture was given up, the first one is from when the slot appeared.
            Some((at, _)) if history.len() < HISTORY_LENGTH && Some(at) == first => tally,
            Some((_, then)) => tally.since(then),
            None => tally.since(history.back().map_or(&Tally::default(), |(_, then)| then)),
        }
    }

    /// What the record has of the last minutes.
    pub(crate) fn record(&self, now: Instant) -> Tally {
        self.recent(now, HISTORY_STEP * (HISTORY_LENGTH as u32 - 1))
    }

    /// All since the slot appeared.
    pub(crate) fn snapshot(&self) -> SlotCounters {
        self.shown(&self.tally())
    }

    /// The last minute.
    pub(crate) fn recent_snapshot(&self, now: Instant) -> SlotCounters {
        self.shown(&self.recent(now, RECENT))
    }

    fn shown(&self, tally: &Tally) -> SlotCounters {
        SlotCounters {
            in_flight: self.in_flight(),
            streams: self.streams(),
            requests: tally.requests(),
            server_errors: tally.server_errors(),
            connect_errors: tally.connect_errors,
            statuses: tally.statuses,
            early_ends: tally.unanswered + tally.cut,
            rescued: tally.rescued,
            first_byte: tally.first_byte.latency(),
            total: tally.total.latency(),
        }
    }

    fn history(&self) -> MutexGuard<'_, VecDeque<(Instant, Tally)>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Totals {
    fn picture(&self) -> Tally {
        let read = |total: &AtomicU64| total.load(Ordering::Relaxed);
        Tally {
            statuses: self.statuses.each_ref().map(read),
            unanswered: read(&self.unanswered),
            cut: read(&self.cut),
            connect_errors: read(&self.connect_errors),
            rescued: read(&self.rescued),
            first_byte: self.first_byte.picture(),
            total: self.total.picture(),
        }
    }

    fn clear(&self) {
        let single = [&self.unanswered, &self.cut, &self.connect_errors, &self.rescued];
        self.statuses.iter().chain(single).for_each(|total| total.store(0, Ordering::Relaxed));
        self.first_byte.clear();
        self.total.clear();
    }
}

impl Tally {
    /// What came since `earlier`.
    pub(crate) fn since(&self, earlier: &Tally) -> Tally {
        let less = u64::saturating_sub;
        Tally {
            statuses: std::array::from_fn(|class| less(self.statuses[class], earlier.statuses[class])),
            unanswered: less(self.unanswered, earlier.unanswered),
            cut: less(self.cut, earlier.cut),
            connect_errors: less(self.connect_errors, earlier.connect_errors),
            rescued: less(self.rescued, earlier.rescued),
            first_byte: self.first_byte.since(&earlier.first_byte),
            total: self.total.since(&earlier.total),
        }
    }

    /// Requests that the service had.
    pub(crate) fn requests(&self) -> u64 {
        self.statuses.iter().sum::<u64>() + self.unanswered
    }

    /// What the service did wrong with them.
    pub(crate) fn server_errors(&self) -> u64 {
        self.statuses[4] + self.unanswered + self.cut
    }

    /// Requests that the service had or should have had.
    pub(crate) fn attempts(&self) -> u64 {
        self.requests() + self.connect_errors + self.rescued
    }

    /// How many of them went wrong.
    pub(crate) fn failures(&self) -> u64 {
        // An answer with status 500 that is cut off besides went wrong once.
        (self.server_errors() + self.connect_errors + self.rescued).min(self.attempts())
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if self.0.streams.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.idle.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(counters: &Counters, count: u64, status: StatusCode) {
        (0..count).for_each(|_| counters.answered(status, Duration::from_millis(1)));
    }

    #[test]
    fn the_recent_past_is_what_came_within_the_window() {
        let (counters, start) = (Counters::default(), Instant::now());
        ask(&counters, 1000, StatusCode::OK);
        for step in 0..100 {
            counters.remember(start + HISTORY_STEP * step);
            ask(&counters, 10, StatusCode::OK);
        }
        let now = start + HISTORY_STEP * 99;
        assert_eq!(counters.tally().requests(), 2000);
        assert_eq!(counters.recent(now, RECENT).requests(), 130);
        assert_eq!(counters.record(now).requests(), 600);
        assert_eq!(counters.recent_snapshot(now).requests, 130);
        assert_eq!(counters.history().len(), HISTORY_LENGTH);
        assert_eq!(counters.recent(now + Duration::from_secs(3600), RECENT).requests(), 10);
        counters.begin_anew();
        assert_eq!(counters.snapshot(), SlotCounters::default());
        ask(&counters, 7, StatusCode::OK);
        counters.remember(now);
        assert_eq!(
            counters.record(now + HISTORY_STEP).requests(),
            7,
            "what came before the first picture counts"
        );
    }

    #[test]
    fn each_kind_of_error_is_counted_once() {
        let counters = Counters::default();
        ask(&counters, 2, StatusCode::OK);
        ask(&counters, 3, StatusCode::BAD_GATEWAY);
        ask(&counters, 1, StatusCode::from_u16(999).unwrap());
        counters.unanswered();
        counters.cut();
        counters.connect_error();
        counters.rescued();
        let shown = counters.snapshot();
        assert_eq!((shown.requests, shown.server_errors, shown.connect_errors), (7, 6, 1));
        assert_eq!((shown.statuses, shown.early_ends, shown.rescued), ([0, 2, 0, 0, 4], 2, 1));
        assert_eq!((counters.tally().attempts(), counters.tally().failures()), (9, 8));
    }

    #[test]
    fn retirement_is_remembered_from_its_first_moment_and_taken_back() {
        let (counters, now) = (Counters::default(), Instant::now());
        let seen = counters.retirement();
        counters.set_routed(false, now);
        counters.set_routed(false, now + Duration::from_secs(9));
        assert_eq!(*seen.borrow(), Some(now));
        counters.set_routed(true, now);
        assert_eq!(*seen.borrow(), None);
    }
}
