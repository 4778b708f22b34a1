//! The table in force and what is in flight under it. The invariant: once [`Live::swap`] has returned, every request that
//! took a slot of the old table is counted, so a count of zero means that nobody is on the way to that slot any more.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper::StatusCode;
use tokio::sync::Notify;

use crate::control::{SlotCounters, Table};
use crate::routing::{Entry, Router};
use crate::upstream::Pool;

/// Retired slots are remembered for this many generations, so that a drain that is asked late is answered, not refused.
const REMEMBERED_GENERATIONS: u64 = 64;

/// The table in force, swapped as a whole, and the counters of every slot known.
pub(crate) struct Live {
    in_force: RwLock<Arc<InForce>>,
    counters: Mutex<BTreeMap<String, Arc<Counters>>>,
}

/// One table with all that is needed to route by it.
pub(crate) struct InForce {
    pub(crate) table: Table,
    router: Router,
    slots: BTreeMap<String, Arc<LiveSlot>>,
}

/// A slot of the table in force.
pub(crate) struct LiveSlot {
    pub(crate) name: String,
    pub(crate) counters: Arc<Counters>,
    pools: Vec<Arc<Pool>>,
    turn: AtomicUsize,
}

/// What was counted for one slot name.
#[derive(Default)]
pub(crate) struct Counters {
    in_flight: AtomicU64,
    streams: AtomicU64,
    pub(crate) requests: AtomicU64,
    pub(crate) server_errors: AtomicU64,
    pub(crate) connect_errors: AtomicU64,
    /// The last generation that had the slot.
    last_generation: AtomicU64,
    idle: Notify,
}

/// One request on its way to a slot: counted from the moment the slot was taken until this is dropped.
pub(crate) struct Flight {
    pub(crate) slot: Arc<LiveSlot>,
    pub(crate) entry: Arc<Entry>,
}

/// One upgraded connection to a slot, counted until this is dropped.
pub(crate) struct Stream(Arc<Counters>);

/// What a drain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainOutcome {
    Drained { in_flight: u64, streams: u64 },
    Routed,
    Unknown,
}

impl Live {
    /// Puts `table`, which is valid, in force as the first one.
    pub(crate) fn new(table: Table) -> Live {
        let nothing =
            InForce { table: crate::store::empty(), router: Router::default(), slots: BTreeMap::new() };
        let live = Live { in_force: RwLock::new(Arc::new(nothing)), counters: Mutex::default() };
        live.swap(table);
        live
    }

    /// What is in force now.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the slot for a request and counts it; `host` as from [`crate::routing::normal_host`].
    pub(crate) fn pick(&self, host: &str, path: &str) -> Option<Flight> {
        // The count rises while the read lock is held, and a swap needs the write lock. So of any pick and any swap, either
        // the pick has counted before the swap returns, or it sees the new table. A drain begins after the swap: it cannot
        // read zero between "slot taken" and "counted".
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
        let entry = in_force.router.find(host, path)?;
        let slot = Arc::clone(in_force.slots.get(&entry.slot)?);
        slot.counters.in_flight.fetch_add(1, Ordering::AcqRel);
        Some(Flight { slot, entry: Arc::clone(entry) })
    }

    /// Puts `table`, which is valid, in force. Connection pools and counters of slots that stay are kept; idle connections
    /// to upstreams that left are closed before this returns.
    pub(crate) fn swap(&self, table: Table) {
        let mut counters = self.counters();
        let old = self.in_force();
        let slots = table.slots.iter().map(|(name, slot)| {
            let before = old.slots.get(name);
            let pools = slot.upstreams.iter().map(|&address| {
                let kept = before.and_then(|slot| slot.pools.iter().find(|pool| pool.address == address));
                kept.map_or_else(|| Arc::new(Pool::new(address)), Arc::clone)
            });
            let counters = counters.entry(name.clone()).or_default();
            if before.is_none() {
                counters.reset_totals();
            }
            counters.last_generation.store(table.generation, Ordering::Relaxed);
            let (counters, turn) = (Arc::clone(counters), AtomicUsize::new(0));
            (name.clone(), Arc::new(LiveSlot { name: name.clone(), counters, pools: pools.collect(), turn }))
        });
        let slots = slots.collect();
        let generation = table.generation;
        let new = Arc::new(InForce { router: Router::new(&table.routes), table, slots });
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        let kept: Vec<_> = new.pools().map(Arc::as_ptr).collect();
        old.pools().filter(|pool| !kept.contains(&Arc::as_ptr(pool))).for_each(|pool| pool.close());
        counters.retain(|_, counters| counters.is_busy() || counters.is_remembered(generation));
    }

    /// Waits until nothing is in flight to `slot`, at most `timeout`, and closes the idle connections to it.
    pub(crate) async fn drain(&self, slot: &str, timeout: Duration) -> DrainOutcome {
        let known = self.counters().get(slot).cloned();
        let Some(counters) = known else { return DrainOutcome::Unknown };
        if self.in_force().router.leads_to(slot) {
            return DrainOutcome::Routed;
        }
        let _ = tokio::time::timeout(timeout, counters.wait_idle()).await;
        let in_force = self.in_force();
        if in_force.router.leads_to(slot) {
            return DrainOutcome::Routed;
        }
        if let Some(slot) = in_force.slots.get(slot) {
            slot.pools.iter().for_each(|pool| pool.clear());
        }
        let now = counters.snapshot();
        DrainOutcome::Drained { in_flight: now.in_flight, streams: now.streams }
    }

    /// The counters of every slot in the table, and of retired ones with something still open.
    pub(crate) fn observe(&self) -> (Table, BTreeMap<String, SlotCounters>) {
        let counters = self.counters();
        let table = self.in_force().table.clone();
        let shown =
            counters.iter().filter(|(name, counters)| table.slots.contains_key(*name) || counters.is_busy());
        let shown = shown.map(|(name, counters)| (name.clone(), counters.snapshot())).collect();
        (table, shown)
    }

    /// Closes connections that were idle for too long at `now`.
    pub(crate) fn close_aged(&self, now: Instant) {
        self.in_force().pools().for_each(|pool| pool.close_aged(now));
    }

    fn counters(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Counters>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InForce {
    fn pools(&self) -> impl Iterator<Item = &Arc<Pool>> {
        self.slots.values().flat_map(|slot| &slot.pools)
    }
}

impl LiveSlot {
    /// The turn of the next request: upstream number `turn`, `turn + 1` and so on, each modulo [`LiveSlot::size`].
    pub(crate) fn next_turn(&self) -> usize {
        self.turn.fetch_add(1, Ordering::Relaxed)
    }

    /// How many upstreams there are.
    pub(crate) fn size(&self) -> usize {
        self.pools.len()
    }

    /// The pool of the upstream whose turn it is; a valid table has no slot without upstreams.
    pub(crate) fn pool(&self, turn: usize) -> &Arc<Pool> {
        &self.pools[turn % self.pools.len()]
    }
}

impl Counters {
    /// The service answered with `status`.
    pub(crate) fn answered(&self, status: StatusCode) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.server_errors.fetch_add(u64::from(status.is_server_error()), Ordering::Relaxed);
    }

    fn is_busy(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) > 0 || self.streams.load(Ordering::Acquire) > 0
    }

    fn is_remembered(&self, generation: u64) -> bool {
        generation.saturating_sub(self.last_generation.load(Ordering::Relaxed)) <= REMEMBERED_GENERATIONS
    }

    fn reset_totals(&self) {
        for total in [&self.requests, &self.server_errors, &self.connect_errors] {
            total.store(0, Ordering::Relaxed);
        }
    }

    async fn wait_idle(&self) {
        loop {
            let mut notified = std::pin::pin!(self.idle.notified());
            // Registered before the count is read, so that a flight that ends in between is not missed.
            notified.as_mut().enable();
            if self.in_flight.load(Ordering::Acquire) == 0 {
                return;
            }
            notified.await;
        }
    }

    fn snapshot(&self) -> SlotCounters {
        SlotCounters {
            in_flight: self.in_flight.load(Ordering::Acquire),
            streams: self.streams.load(Ordering::Acquire),
            requests: self.requests.load(Ordering::Relaxed),
            server_errors: self.server_errors.load(Ordering::Relaxed),
            connect_errors: self.connect_errors.load(Ordering::Relaxed),
        }
    }
}

impl Flight {
    /// The request became an upgraded connection: counted there before it is no longer counted here.
    pub(crate) fn into_stream(self) -> Stream {
        self.slot.counters.streams.fetch_add(1, Ordering::AcqRel);
        Stream(Arc::clone(&self.slot.counters))
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        if self.slot.counters.in_flight.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.slot.counters.idle.notify_waiters();
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Route, SCHEMA, Slot};
    use std::sync::atomic::AtomicBool;

    fn table(generation: u64, routed: &str, slots: &[&str]) -> Table {
        let route = Route { host: None, path_prefix: "/".into(), strip_prefix: false, slot: routed.into() };
        let slot = Slot { service: "s".into(), upstreams: vec!["127.0.0.1:1".parse().unwrap()] };
        let slots = slots.iter().map(|&name| (name.to_owned(), slot.clone())).collect();
        Table { schema: SCHEMA.into(), generation, routes: vec![route], slots }
    }

    #[tokio::test]
    async fn a_drain_waits_for_the_last_flight_and_refuses_a_routed_slot() {
        let live = Live::new(table(1, "a", &["a"]));
        let flight = live.pick("h", "/").unwrap();
        assert_eq!(live.drain("a", Duration::ZERO).await, DrainOutcome::Routed);
        assert_eq!(live.drain("x", Duration::ZERO).await, DrainOutcome::Unknown);
        live.swap(table(2, "b", &["b"]));
        let open = DrainOutcome::Drained { in_flight: 1, streams: 0 };
        assert_eq!(live.drain("a", Duration::from_millis(5)).await, open);
        assert_eq!(live.observe().1.keys().collect::<Vec<_>>(), ["a", "b"]);
        let stream = flight.into_stream();
        let done = DrainOutcome::Drained { in_flight: 0, streams: 1 };
        assert_eq!(live.drain("a", Duration::from_secs(60)).await, done);
        drop(stream);
        assert_eq!(live.observe().1.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[tokio::test]
    async fn a_slot_that_comes_back_keeps_its_flights_and_begins_new_totals() {
        let live = Live::new(table(1, "a", &["a"]));
        let flight = live.pick("h", "/").unwrap();
        flight.slot.counters.requests.store(9, Ordering::Relaxed);
        live.swap(table(2, "b", &["b"]));
        live.swap(table(3, "a", &["a", "b"]));
        assert_eq!(live.observe().1["a"], SlotCounters { in_flight: 1, ..SlotCounters::default() });
    }

    /// Each slot has a flag that is raised once the slot is drained, as a service that is stopped. A request that finds
    /// its slot's flag raised was lost.
    #[test]
    fn no_request_is_between_taken_and_counted_when_a_drain_reads_zero() {
        let live = Arc::new(Live::new(table(1, "0", &["0", "1"])));
        let stopped = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let (over, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (live, stopped) = (Arc::clone(&live), Arc::clone(&stopped));
                let (over, lost) = (Arc::clone(&over), Arc::clone(&lost));
                std::thread::spawn(move || {
                    while !over.load(Ordering::Acquire) {
                        let flight = live.pick("h", "/").unwrap();
                        let number: usize = flight.slot.name.parse().unwrap();
                        std::hint::spin_loop();
                        lost.fetch_add(u64::from(stopped[number].load(Ordering::Acquire)), Ordering::AcqRel);
                    }
                })
            })
            .collect();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        for generation in 2..3000_u64 {
            let (new, old) = ((generation % 2) as usize, ((generation + 1) % 2) as usize);
            stopped[new].store(false, Ordering::Release);
            live.swap(table(generation, &new.to_string(), &["0", "1"]));
            let outcome = runtime.block_on(live.drain(&old.to_string(), Duration::from_secs(10)));
            assert_eq!(outcome, DrainOutcome::Drained { in_flight: 0, streams: 0 });
            stopped[old].store(true, Ordering::Release);
        }
        over.store(true, Ordering::Release);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(lost.load(Ordering::Acquire), 0);
    }
}
