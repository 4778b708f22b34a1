//! The table in force and what is in flight under it. The invariant: once [`Live::swap`] has returned, every request that
//! took a slot of the old table is counted, so a count of zero means that nobody is on the way to that slot any more.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hyper::header::{HeaderMap, HeaderName};
use stdx::Digest;
use tokio::sync::Notify;

use crate::control::{SlotCounters, Table};
use crate::counters::{Counters, Stream, Tally};
use crate::pause::Gate;
use crate::routing::{Entry, Router};
use crate::upstream::Pool;

/// The table in force, swapped as a whole, and the counters of every slot known.
pub(crate) struct Live {
    in_force: RwLock<Arc<InForce>>,
    counters: Mutex<BTreeMap<String, Arc<Counters>>>,
    /// By service: where its requests are held.
    gates: Mutex<BTreeMap<String, Arc<Gate>>>,
    /// Whether a request may have to be looked at for the header of a preview.
    has_preview: AtomicBool,
    /// Told of requests that could not be sent to their slot and went to the one before.
    pub(crate) unsent: Notify,
}

/// One table with all that is needed to route by it.
#[derive(Default)]
pub(crate) struct InForce {
    pub(crate) table: Table,
    /// The table before, for as long as it can come back.
    pub(crate) former: Option<Table>,
    router: Router,
    former_router: Router,
    preview: Option<Preview>,
    slots: BTreeMap<String, Arc<LiveSlot>>,
}

struct Preview {
    header: HeaderName,
    value: Digest,
    router: Router,
}

/// Which routes a request takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Routes {
    InForce,
    Preview,
    /// Those of before, while they can come back.
    Former,
}

/// A slot of the table in force.
pub(crate) struct LiveSlot {
    pub(crate) name: String,
    pub(crate) counters: Arc<Counters>,
    service: String,
    pools: Vec<Arc<Pool>>,
    turn: AtomicUsize,
    gate: Option<Arc<Gate>>,
}

/// One request on its way to a slot: counted from the moment the slot was taken until this is dropped.
pub(crate) struct Flight {
    pub(crate) slot: Arc<LiveSlot>,
    pub(crate) entry: Arc<Entry>,
}

/// Where a request may go.
pub(crate) enum Picked {
    Flight(Flight),
    /// Nowhere yet: its service is paused.
    Held(Arc<Gate>, Arc<Entry>),
    Nowhere,
}

/// What a drain found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DrainOutcome {
    Drained { in_flight: u64, streams: u64 },
    Routed,
    Unknown,
}

/// What was counted, by slot: since it appeared, and in the last minute.
pub(crate) struct Counted {
    pub(crate) totals: BTreeMap<String, SlotCounters>,
    pub(crate) recent: BTreeMap<String, SlotCounters>,
}

impl Live {
    /// Puts `table`, which is valid, in force as the first one; requests of services with a gate are held.
    pub(crate) fn new(table: Table, former: Option<Table>, gates: BTreeMap<String, Arc<Gate>>) -> Live {
        let live = Live {
            in_force: RwLock::default(),
            counters: Mutex::default(),
            gates: Mutex::new(gates),
            has_preview: AtomicBool::new(false),
            unsent: Notify::new(),
        };
        live.swap(table, former);
        live
    }

    /// What is in force now.
    pub(crate) fn in_force(&self) -> Arc<InForce> {
        Arc::clone(&self.in_force.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes the slot for a request and counts it; `host` as from [`crate::routing::normal_host`].
    pub(crate) fn pick(&self, routes: Routes, host: &str, path: &str) -> Picked {
        // The count rises while the read lock is held, and a swap needs the write lock. So of any pick and any swap, either
        // the pick has counted before the swap returns, or it sees the new table. A drain begins after the swap: it cannot
        // read zero between "slot taken" and "counted".
        let in_force = self.in_force.read().unwrap_or_else(PoisonError::into_inner);
        let found = in_force.router(routes).and_then(|router| router.find(host, path));
        let found = found.and_then(|entry| Some((entry, in_force.slots.get(&entry.slot)?)));
        match found {
            Some((entry, slot)) => match &slot.gate {
                Some(gate) => Picked::Held(Arc::clone(gate), Arc::clone(entry)),
                None => {
                    slot.counters.enter();
                    Picked::Flight(Flight { slot: Arc::clone(slot), entry: Arc::clone(entry) })
                }
            },
            None => Picked::Nowhere,
        }
    }

    /// The routes that a request with these headers takes. The header of a preview is removed whatever its value.
    pub(crate) fn routes(&self, headers: &mut HeaderMap) -> Routes {
        if !self.has_preview.load(Ordering::Relaxed) {
            return Routes::InForce;
        }
        let in_force = self.in_force();
        let Some(preview) = &in_force.preview else { return Routes::InForce };
        // Digests are compared: how far they agree says nothing about the value.
        match headers.remove(&preview.header) {
            Some(value) if Digest::of(value.as_bytes()) == preview.value => Routes::Preview,
            _ => Routes::InForce,
        }
    }

    /// Puts `table`, which is valid, in force; the routes of `former` stay known and its slots warm. Connection pools and
    /// counters of slots that stay are kept; idle connections to upstreams that left are closed before this returns.
    pub(crate) fn swap(&self, table: Table, former: Option<Table>) {
        let (mut counters, gates) = (self.counters(), self.gates());
        let old = self.in_force();
        let all = former.iter().flat_map(|former| &former.slots).chain(&table.slots);
        let slots = all.map(|(name, slot)| {
            let before = old.slots.get(name);
            let pools = slot.upstreams.iter().map(|&address| {
                let kept = before.and_then(|slot| slot.pools.iter().find(|pool| pool.address == address));
                kept.map_or_else(|| Arc::new(Pool::new(address)), Arc::clone)
            });
            let counters = counters.entry(name.clone()).or_default();
            if before.is_none() {
                counters.begin_anew();
            }
            counters.seen_in(table.generation);
            let slot = LiveSlot {
                name: name.clone(),
                counters: Arc::clone(counters),
                service: slot.service.clone(),
                pools: pools.collect(),
                turn: AtomicUsize::new(0),
                gate: gates.get(&slot.service).cloned(),
            };
            (name.clone(), Arc::new(slot))
        });
        let slots = slots.collect();
        let generation = table.generation;
        let new = Arc::new(InForce::new(table, former, slots, &old));
        *self.in_force.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&new);
        self.has_preview.store(new.preview.is_some(), Ordering::Relaxed);
        let kept: Vec<_> = new.pools().map(Arc::as_ptr).collect();
        old.pools().filter(|pool| !kept.contains(&Arc::as_ptr(pool))).for_each(|pool| pool.close());
        let now = Instant::now();
        counters.iter().for_each(|(name, counters)| counters.set_routed(new.router.leads_to(name), now));
        counters.retain(|_, counters| counters.is_busy() || counters.is_remembered(generation));
    }

    /// Forgets the table before: it does not come back any more.
    pub(crate) fn forget_former(&self) {
        self.swap(self.in_force().table.clone(), None);
    }

    /// Holds the requests of services, or lets them pass where `gate` is `None`; returns the gates that were there.
    pub(crate) fn set_gates(
        &self,
        services: &[String],
        gate: impl Fn() -> Option<Arc<Gate>>,
    ) -> Vec<Arc<Gate>> {
        let mut before = Vec::new();
        for service in services {
            let mut gates = self.gates();
            before.extend(match gate() {
                Some(gate) => gates.insert(service.clone(), gate),
                None => gates.remove(service),
            });
        }
        let in_force = self.in_force();
        self.swap(in_force.table.clone(), in_force.former.clone());
        before
    }

    /// Where the requests of a service are held.
    pub(crate) fn gate(&self, service: &str) -> Option<Arc<Gate>> {
        self.gates().get(service).cloned()
    }

    /// Services whose requests are held, with how many are.
    pub(crate) fn paused(&self) -> BTreeMap<String, u64> {
        self.gates().iter().map(|(service, gate)| (service.clone(), gate.held())).collect()
    }

    /// Waits until nothing is in flight to the slots of `services`, at most `timeout`; what is then, and open streams.
    pub(crate) async fn wait_idle(&self, services: &[String], timeout: Duration) -> (u64, u64) {
        let in_force = self.in_force();
        let is_of_them = |slot: &&Arc<LiveSlot>| services.contains(&slot.service);
        let slots: Vec<_> = in_force.slots.values().filter(is_of_them).map(|slot| &slot.counters).collect();
        let all_idle = async {
            for counters in &slots {
                counters.wait_idle(false).await;
            }
        };
        let _ = tokio::time::timeout(timeout, all_idle).await;
        slots.iter().fold((0, 0), |(flights, streams), counters| {
            (flights + counters.in_flight(), streams + counters.streams())
        })
    }

    /// Waits until nothing is in flight to `slot`, at most `timeout`, and closes the idle connections to it.
    pub(crate) async fn drain(&self, slot: &str, streams: bool, timeout: Duration) -> DrainOutcome {
        let known = self.counters_of(slot);
        let Some(counters) = known else { return DrainOutcome::Unknown };
        if self.in_force().leads_to(slot) {
            return DrainOutcome::Routed;
        }
        let _ = tokio::time::timeout(timeout, counters.wait_idle(streams)).await;
        let in_force = self.in_force();
        if in_force.leads_to(slot) {
            return DrainOutcome::Routed;
        }
        if let Some(slot) = in_force.slots.get(slot) {
            slot.pools.iter().for_each(|pool| pool.clear());
        }
        DrainOutcome::Drained { in_flight: counters.in_flight(), streams: counters.streams() }
    }

    /// The counters of every slot in the table, and of retired ones with something still open.
    pub(crate) fn observe(&self) -> (Table, Counted) {
        let (counters, in_force, now) = (self.counters(), self.in_force(), Instant::now());
        let is_shown =
            |name: &String, counters: &Counters| in_force.slots.contains_key(name) || counters.is_busy();
        let mut counted = Counted { totals: BTreeMap::new(), recent: BTreeMap::new() };
        for (name, counters) in counters.iter().filter(|(name, counters)| is_shown(name, counters)) {
            counted.totals.insert(name.clone(), counters.snapshot());
            counted.recent.insert(name.clone(), counters.recent_snapshot(now));
        }
        (in_force.table.clone(), counted)
    }

    /// Each slot in the table with its service and its counters.
    pub(crate) fn slots(&self) -> Vec<(String, String, Arc<Counters>)> {
        let in_force = self.in_force();
        let slot =
            |slot: &Arc<LiveSlot>| (slot.name.clone(), slot.service.clone(), Arc::clone(&slot.counters));
        in_force.slots.values().map(slot).collect()
    }

    /// The counters of a slot that is or was in the table.
    pub(crate) fn counters_of(&self, slot: &str) -> Option<Arc<Counters>> {
        self.counters().get(slot).cloned()
    }

    /// What a slot has counted by now; nothing where it is unknown.
    pub(crate) fn tally(&self, slot: &str) -> Tally {
        self.counters_of(slot).map_or_else(Tally::default, |counters| counters.tally())
    }

    /// What is due now and then: closes connections that were idle for too long, remembers what was counted.
    pub(crate) fn tick(&self, now: Instant) {
        let in_force = self.in_force();
        in_force.pools().for_each(|pool| pool.close_aged(now));
        in_force.slots.values().for_each(|slot| slot.counters.remember(now));
    }

    fn counters(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Counters>>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gates(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Gate>>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl InForce {
    fn new(
        table: Table,
        former: Option<Table>,
        slots: BTreeMap<String, Arc<LiveSlot>>,
        old: &InForce,
    ) -> InForce {
        let preview = table.preview.as_ref().and_then(|preview| {
            let router = Router::new(&preview.routes, &old.router);
            let header = HeaderName::from_bytes(preview.header.as_bytes()).ok()?;
            Some(Preview { header, value: preview.value, router })
        });
        let former_routes = former.as_ref().map_or(&[][..], |former| &former.routes);
        InForce {
            router: Router::new(&table.routes, &old.router),
            former_router: Router::new(former_routes, &old.router),
            preview,
            table,
            former,
            slots,
        }
    }

    fn router(&self, routes: Routes) -> Option<&Router> {
        match routes {
            Routes::InForce => Some(&self.router),
            Routes::Former => Some(&self.former_router),
            Routes::Preview => self.preview.as_ref().map(|preview| &preview.router),
        }
    }

    /// Whether requests may still take the slot.
    fn leads_to(&self, slot: &str) -> bool {
        let routers = [Routes::InForce, Routes::Former, Routes::Preview].map(|routes| self.router(routes));
        routers.into_iter().flatten().any(|router| router.leads_to(slot))
    }

    /// Names of services that have a slot.
    pub(crate) fn services(&self) -> BTreeSet<&str> {
        self.slots.values().map(|slot| slot.service.as_str()).collect()
    }

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

impl Flight {
    /// The request became an upgraded connection: counted there before it is no longer counted here.
    pub(crate) fn into_stream(self) -> Stream {
        self.slot.counters.open_stream()
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.slot.counters.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Preview, Route, Slot};
    use std::sync::atomic::{AtomicBool, AtomicU64};

    fn table(generation: u64, routed: &str, slots: &[&str]) -> Table {
        let slot = Slot { service: "s".into(), upstreams: vec!["127.0.0.1:1".parse().unwrap()] };
        let slots = slots.iter().map(|&name| (name.to_owned(), slot.clone())).collect();
        Table { generation, routes: vec![route(routed)], slots, ..Table::default() }
    }

    fn route(slot: &str) -> Route {
        Route {
            host: None,
            path_prefix: "/".into(),
            strip_prefix: false,
            slot: slot.into(),
            policy: Default::default(),
        }
    }

    fn live(table: Table) -> Live {
        Live::new(table, None, BTreeMap::new())
    }

    #[track_caller]
    fn fly(live: &Live, routes: Routes) -> Flight {
        match live.pick(routes, "h", "/") {
            Picked::Flight(flight) => flight,
            Picked::Held(..) | Picked::Nowhere => panic!("no slot was taken"),
        }
    }

    #[tokio::test]
    async fn a_drain_waits_for_the_last_flight_and_refuses_a_routed_slot() {
        let live = live(table(1, "a", &["a"]));
        let flight = fly(&live, Routes::InForce);
        assert_eq!(live.drain("a", false, Duration::ZERO).await, DrainOutcome::Routed);
        assert_eq!(live.drain("x", false, Duration::ZERO).await, DrainOutcome::Unknown);
        live.swap(table(2, "b", &["b"]), None);
        let open = DrainOutcome::Drained { in_flight: 1, streams: 0 };
        assert_eq!(live.drain("a", false, Duration::from_millis(5)).await, open);
        assert_eq!(live.observe().1.totals.keys().collect::<Vec<_>>(), ["a", "b"]);
        let stream = flight.into_stream();
        let done = DrainOutcome::Drained { in_flight: 0, streams: 1 };
        assert_eq!(live.drain("a", false, Duration::from_secs(60)).await, done);
        drop(stream);
        assert_eq!(live.observe().1.totals.keys().collect::<Vec<_>>(), ["b"]);
    }

    #[tokio::test]
    async fn a_slot_that_comes_back_keeps_its_flights_and_begins_new_totals() {
        let live = live(table(1, "a", &["a"]));
        let flight = fly(&live, Routes::InForce);
        flight.slot.counters.connect_error();
        live.swap(table(2, "b", &["b"]), None);
        live.swap(table(3, "a", &["a", "b"]), None);
        assert_eq!(live.observe().1.totals["a"], SlotCounters { in_flight: 1, ..SlotCounters::default() });
    }

    /// Each slot has a flag that is raised once the slot is drained, as a service that is stopped. A request that finds
    /// its slot's flag raised was lost.
    #[test]
    fn no_request_is_between_taken_and_counted_when_a_drain_reads_zero() {
        let live = Arc::new(live(table(1, "0", &["0", "1"])));
        let stopped = Arc::new([AtomicBool::new(false), AtomicBool::new(false)]);
        let (over, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let workers: Vec<_> = (0..4)
            .map(|_| {
                let (live, stopped) = (Arc::clone(&live), Arc::clone(&stopped));
                let (over, lost) = (Arc::clone(&over), Arc::clone(&lost));
                std::thread::spawn(move || {
                    while !over.load(Ordering::Acquire) {
                        let flight = fly(&live, Routes::InForce);
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
            live.swap(table(generation, &new.to_string(), &["0", "1"]), None);
            let outcome = runtime.block_on(live.drain(&old.to_string(), false, Duration::from_secs(10)));
            assert_eq!(outcome, DrainOutcome::Drained { in_flight: 0, streams: 0 });
            stopped[old].store(true, Ordering::Release);
        }
        over.store(true, Ordering::Release);
        workers.into_iter().for_each(|worker| worker.join().unwrap());
        assert_eq!(lost.load(Ordering::Acquire), 0);
    }

    #[tokio::test]
    async fn while_the_table_before_can_come_back_its_slots_are_warm_and_not_drained() {
        let live = live(table(1, "a", &["a"]));
        let before = live.in_force().table.clone();
        live.swap(table(2, "b", &["b"]), Some(before));
        assert_eq!(fly(&live, Routes::InForce).slot.name, "b");
        assert_eq!(fly(&live, Routes::Former).slot.name, "a");
        assert_eq!(live.drain("a", false, Duration::ZERO).await, DrainOutcome::Routed);
        assert_eq!(live.observe().1.totals.keys().collect::<Vec<_>>(), ["a", "b"]);
        live.forget_former();
        assert!(matches!(live.pick(Routes::Former, "h", "/"), Picked::Nowhere));
        let drained = DrainOutcome::Drained { in_flight: 0, streams: 0 };
        assert_eq!(live.drain("a", false, Duration::ZERO).await, drained);
    }

    #[test]
    fn a_preview_is_for_who_knows_the_value_and_its_header_is_never_passed_on() {
        let live = live(table(1, "a", &["a", "b"]));
        let preview =
            Preview { header: "x-preview".into(), value: Digest::of("secret"), routes: vec![route("b")] };
        let headers = |value: &'static str| {
            HeaderMap::from_iter([("x-preview", value)].map(|(name, value)| {
                (HeaderName::from_static(name), hyper::header::HeaderValue::from_static(value))
            }))
        };
        assert_eq!(live.routes(&mut headers("secret")), Routes::InForce, "there is none yet");
        live.swap(Table { preview: Some(preview), ..table(2, "a", &["a", "b"]) }, None);
        for (value, wanted) in
            [("secret", Routes::Preview), ("secre", Routes::InForce), ("", Routes::InForce)]
        {
            let mut headers = headers(value);
            assert_eq!(live.routes(&mut headers), wanted);
            assert!(headers.is_empty());
        }
        assert_eq!(fly(&live, Routes::Preview).slot.name, "b");
        assert_eq!(fly(&live, Routes::InForce).slot.name, "a");
    }

    #[test]
    fn a_paused_service_is_held_over_tables_until_it_goes_on() {
        let live = live(table(1, "a", &["a"]));
        let services = ["s".to_owned()];
        let gate = || Some(Arc::new(Gate::new(Duration::ZERO, 1)));
        assert!(live.set_gates(&services, gate).is_empty());
        live.swap(table(2, "b", &["b"]), None);
        assert!(matches!(live.pick(Routes::InForce, "h", "/"), Picked::Held(..)));
        assert_eq!(live.paused(), [("s".to_owned(), 0)].into());
        assert_eq!(live.set_gates(&services, || None).len(), 1);
        fly(&live, Routes::InForce);
    }
}
