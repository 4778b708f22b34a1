//! Orders that change what is in force: tables, bakes, pauses. One at a time, and on disk before it is in force. It does not
//! know how orders arrive, nor what speaks against a new slot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, MutexGuard as AsyncMutexGuard};

use crate::access::AccessLog;
use crate::bake::{self, Kept, Objection};
use crate::control::{Bake, BakeReport, BakeState, Cause, Figures, Refusal, Request, Response, Table};
use crate::live::Live;
use crate::pause::Gate;
use crate::socket::refused;
use crate::store::{Note, StateDir};
use crate::watch::Baking;
use crate::{handover, log, metrics};

/// A request that is held longer has been given up by its client.
const LONGEST_HOLD: Duration = Duration::from_secs(10 * 60);

/// A longer pause is one that was forgotten.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 60 * 60);

/// More that wait would be too much for any service that goes on.
const MOST_HELD: u32 = 100_000;

/// What is in force, and who may change it.
pub(crate) struct Switch {
    live: Arc<Live>,
    state: Arc<StateDir>,
    access: Arc<AccessLog>,
    /// One change at a time is kept and put in force.
    changing: AsyncMutex<()>,
    /// The last bake, which may be over.
    baking: Mutex<Option<Arc<Baking>>>,
}

/// How a service is paused, as it is kept on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pause {
    hold_ms: u64,
    max_held: u32,
    end_after_ms: u64,
}

impl Switch {
    /// Puts `table` in force as the first one, with the bake and the pauses that go with it. Times begin anew: nobody knows
    /// how long the edge was away.
    pub(crate) fn restore(table: Table, state: Arc<StateDir>, access: Arc<AccessLog>) -> Arc<Switch> {
        let kept: Option<Kept> = state.recall(Note::Bake);
        let (kept, redo) = kept.map(|kept| resumed(kept, &table)).unzip();
        let (kept, redo): (Option<Kept>, Option<Objection>) = (kept.flatten(), redo.flatten());
        let is_baking =
            kept.as_ref().is_some_and(|kept| matches!(kept.report.state, BakeState::Baking { .. }));
        let former = kept.as_ref().filter(|_| is_baking).map(|kept| kept.former.clone());
        let pauses: BTreeMap<String, Pause> = state.recall(Note::Pauses).unwrap_or_default();
        let gates = pauses.iter().map(|(service, pause)| (service.clone(), Arc::new(pause.gate()))).collect();
        access.set_file(table.access_log);
        let live = Arc::new(Live::new(table, former, gates));
        let switch =
            Switch { live, state, access, changing: AsyncMutex::default(), baking: Mutex::default() };
        let switch = Arc::new(switch);
        for (service, pause) in pauses {
            log::event("still_paused", json!({ "service": service, "end_after_ms": pause.end_after_ms }));
            switch.end_later(vec![service], Duration::from_millis(pause.end_after_ms));
        }
        if let Some(kept) = kept {
            let baking = Arc::new(Baking::new(kept, Instant::now(), |slot| switch.live.tally(slot)));
            *switch.baking() = Some(Arc::clone(&baking));
            if is_baking {
                log::event("baking_again", json!({ "generation": baking.report(&switch.live).generation }));
                tokio::spawn(crate::watch::watch(Arc::clone(&switch), baking, redo));
            }
        }
        switch
    }

    pub(crate) fn live(&self) -> &Arc<Live> {
        &self.live
    }

    /// Carries out an order.
    pub(crate) async fn order(self: &Arc<Switch>, order: Request) -> Response {
        match order {
            Request::Apply { table, bake } => self.apply(table, bake).await,
            Request::Finish => self.finish().await,
            Request::Revert => self.revert().await,
            Request::Pause { services, hold_ms, max_held, drain_ms, end_after_ms } => {
                let pause = Pause { hold_ms, max_held, end_after_ms };
                self.pause(services, pause, Duration::from_millis(drain_ms)).await
            }
            Request::Resume { services } => self.resume(services).await,
            Request::Metrics => Response::Metrics { text: self.metrics() },
            Request::Observe
            | Request::Drain { .. }
            | Request::Stop { .. }
            | Request::HandOver { .. }
            | Request::Serving
            | Request::Reload => refused(Refusal::Malformed, "no order that changes anything".into()),
        }
    }

    /// All figures in the format of Prometheus.
    pub(crate) fn metrics(&self) -> String {
        metrics::render(&self.live, self.bake_report().as_ref(), self.access.dropped())
    }

    /// The last bake, as it stands.
    pub(crate) fn bake_report(&self) -> Option<BakeReport> {
        let baking = self.baking().clone();
        baking.map(|baking| baking.report(&self.live))
    }

    /// Nothing is changed while this is held.
    pub(crate) async fn hold(&self) -> AsyncMutexGuard<'_, ()> {
        self.changing.lock().await
    }

    /// Another edge decides from now on: a bake that lasts is its business.
    pub(crate) fn retire(&self) {
        if let Some(baking) = self.baking().as_ref() {
            baking.abandon();
        }
    }

    /// What edges say that handed over to this one, directly or not.
    pub(crate) async fn ask_retired(
        &self,
        request: &Request,
        wait: Duration,
    ) -> Vec<(u32, Option<Response>)> {
        if self.state.is_given_up() {
            return Vec::new();
        }
        handover::ask_retired(self.state.folder(), request, wait).await
    }

    /// A retired edge leads its last requests by the table of the one that serves.
    async fn follow(&self, table: Table) -> Response {
        let _one_at_a_time = self.changing.lock().await;
        let (generation, present) = (table.generation, self.live.in_force().table.generation);
        if generation <= present {
            let text = format!("generation {generation} does not follow {present}");
            return refused(Refusal::StaleGeneration, text);
        }
        if let Err(message) = table.check() {
            return refused(Refusal::InvalidTable, message);
        }
        self.live.swap(table, None);
        Response::Applied { generation }
    }

    /// Whoever asked may drain the old slots next: by then no edge leads anybody to them.
    async fn lead_retired(&self, table: Table) {
        let generation = table.generation;
        let order = Request::Apply { table, bake: None };
        for (pid, answer) in self.ask_retired(&order, Duration::ZERO).await {
            if !matches!(answer, Some(Response::Applied { .. })) {
                let fields = json!({ "pid": pid, "generation": generation, "answer": format!("{answer:?}") });
                log::event("retired_edge_not_told", fields);
            }
        }
    }

    async fn apply(self: &Arc<Switch>, table: Table, bake: Option<Bake>) -> Response {
        if self.state.is_given_up() {
            return self.follow(table).await;
        }
        let _one_at_a_time = self.changing.lock().await;
        let former = self.live.in_force().table.clone();
        if Some(table.generation) != former.generation.checked_add(1) {
            let (wanted, present) = (table.generation, former.generation);
            let text = format!("generation {wanted} does not follow {present}, which is in force");
            return refused(Refusal::StaleGeneration, text);
        }
        if let Err(message) = table.check() {
            return refused(Refusal::InvalidTable, message);
        }
        let generation = table.generation;
        let kept = match bake.map(|bake| self.begin(bake, &former, &table)).transpose() {
            Ok(kept) => kept,
            Err(error) => return refused(Refusal::InvalidBake, format!("{error:#}")),
        };
        if let Err(error) = self.put(table, kept.as_ref()).await {
            let text = format!("the table was not kept: {error:#}");
            log::event("table_not_kept", json!({ "generation": generation, "error": text }));
            // The bake that lasts, if one does, is the one to go on with.
            let before = self.baking().as_ref().map(|baking| baking.kept());
            self.keep_bake(before.as_ref());
            return refused(Refusal::NotDurable, text);
        }
        let before = self.baking().take();
        if let Some(before) = before {
            before.end(BakeState::Superseded, "another table came".into(), &self.live);
        }
        match kept {
            Some(kept) => {
                let baking = Arc::new(Baking::new(kept, Instant::now(), |slot| self.live.tally(slot)));
                *self.baking() = Some(Arc::clone(&baking));
                tokio::spawn(crate::watch::watch(Arc::clone(self), baking, None));
            }
            None => self.keep_bake(None::<&Kept>),
        }
        Response::Applied { generation }
    }

    /// What is to be kept of a bake that begins now.
    fn begin(&self, bake: Bake, former: &Table, table: &Table) -> Result<Kept> {
        bake::check(&bake, former, table)?;
        let now = Instant::now();
        let record = |slot: &String| self.live.counters_of(slot).map(|counters| counters.record(now));
        let records = bake.from.iter().filter_map(|slot| Some((slot.clone(), record(slot)?))).collect();
        let figures = bake::pairs(&bake, former, table).into_iter().map(|(slot, before)| Figures {
            slot,
            before,
            ..Figures::default()
        });
        let report = BakeReport {
            generation: table.generation,
            state: BakeState::Baking { left_ms: bake.for_ms },
            reason: String::new(),
            figures: figures.collect(),
        };
        Ok(Kept { former: former.clone(), records, report, bake })
    }

    /// Puts a table in force that follows the present one: kept first, with the bake that comes with it.
    async fn put(&self, table: Table, kept: Option<&Kept>) -> Result<()> {
        let (state, in_force) = (Arc::clone(&self.state), self.live.in_force());
        let (new, bake) = (table.clone(), kept.cloned());
        // A bake without its table is none, so it is kept first.
        let saved = tokio::task::spawn_blocking(move || {
            bake.map_or(Ok(()), |bake| state.keep(Note::Bake, Some(&bake)))?;
            state.save(&new, &in_force.table)
        });
        saved.await.map_err(anyhow::Error::from).flatten()?;
        if self.live.in_force().table.access_log != table.access_log {
            self.access.set_file(table.access_log);
        }
        let (generation, routes, slots) = (table.generation, table.routes.len(), table.slots.len());
        self.live.swap(table.clone(), kept.map(|kept| kept.former.clone()));
        self.copy(table.clone()).await;
        self.lead_retired(table).await;
        log::event("applied", json!({ "generation": generation, "routes": routes, "slots": slots }));
        Ok(())
    }

    /// Keeps the table in force a second time. Whoever asked is answered after this: what the answer sets off, such as
    /// stopping old slots, finds no older table on disk. A failure changes nothing that is in force, and the next table is
    /// not kept before it is made up for.
    async fn copy(&self, table: Table) {
        let (state, generation) = (Arc::clone(&self.state), table.generation);
        let copied = tokio::task::spawn_blocking(move || state.copy(&table)).await;
        if let Err(error) = copied.map_err(anyhow::Error::from).flatten() {
            let fields = json!({ "generation": generation, "error": format!("{error:#}") });
            log::event("table_not_copied", fields);
        }
    }

    async fn finish(&self) -> Response {
        match self.end_bake(None, BakeState::Finished, "told to end").await {
            Some(report) => Response::Baked(report),
            None => refused(Refusal::InvalidBake, "no bake lasts that could be ended".into()),
        }
    }

    async fn revert(&self) -> Response {
        let Some(baking) = self.baking().clone().filter(|baking| baking.is_on()) else {
            return refused(
                Refusal::InvalidBake,
                "no bake lasts whose former routes could be put back".into(),
            );
        };
        let objection = Objection { cause: Cause::Asked, reason: "told to go back".into() };
        match self.go_back(&baking, &objection).await {
            Ok(report) => Response::Baked(report),
            Err(error) => refused(Refusal::NotDurable, format!("the table was not kept: {error:#}")),
        }
    }

    /// Ends the bake that lasts, or only `expected` where one is given: the new slots stay.
    pub(crate) async fn end_bake(
        &self,
        expected: Option<&Arc<Baking>>,
        state: BakeState,
        reason: &str,
    ) -> Option<BakeReport> {
        let _one_at_a_time = self.changing.lock().await;
        let baking = self.baking().clone().filter(|baking| baking.is_on())?;
        if expected.is_some_and(|expected| !Arc::ptr_eq(expected, &baking)) {
            return None;
        }
        // Whoever reads that it is over may drain the old slots at once.
        self.live.forget_former();
        let report = baking.end(state, reason.to_owned(), &self.live);
        self.keep_bake(Some(&baking.kept()));
        log::event("baked", json!({ "report": report }));
        Some(report)
    }

    /// Puts the former routes in force again, under the next generation. Where none were, the new slots stay.
    ///
    /// # Errors
    /// When the table cannot be kept: nothing has changed then, and it can be tried again.
    pub(crate) async fn go_back(&self, baking: &Arc<Baking>, objection: &Objection) -> Result<BakeReport> {
        let one_at_a_time = self.changing.lock().await;
        if !baking.is_on() {
            return Ok(baking.report(&self.live));
        }
        let (cause, mut kept) = (objection.cause, baking.kept());
        if kept.former.routes.is_empty() {
            drop(one_at_a_time);
            let report = self.end_bake(Some(baking), BakeState::Failed { cause }, &objection.reason).await;
            return Ok(report.unwrap_or_else(|| baking.report(&self.live)));
        }
        let generation = self.live.in_force().table.generation + 1;
        let state = BakeState::Reverted { generation, cause };
        kept.report = BakeReport { state, reason: objection.reason.clone(), ..baking.report(&self.live) };
        // The intent is kept first: an edge that dies here goes on with it.
        let (intent, disk) = (kept.clone(), Arc::clone(&self.state));
        let noted = tokio::task::spawn_blocking(move || disk.keep(Note::Bake, Some(&intent)));
        noted.await.map_err(anyhow::Error::from).flatten()?;
        self.put(Table { generation, ..kept.former.clone() }, None).await?;
        let report = baking.end(state, objection.reason.clone(), &self.live);
        log::event("REVERTED", json!({ "report": report }));
        Ok(report)
    }

    async fn pause(self: &Arc<Switch>, services: Vec<String>, pause: Pause, drain: Duration) -> Response {
        {
            let _one_at_a_time = self.changing.lock().await;
            if let Err(error) = self.check_pause(&services, &pause) {
                return refused(Refusal::InvalidPause, format!("{error:#}"));
            }
            if let Err(error) = self.keep_pauses(|pauses| {
                pauses.extend(services.iter().map(|service| (service.clone(), pause)));
            }) {
                return refused(Refusal::NotDurable, format!("the pause was not kept: {error:#}"));
            }
            // Who waited at a former gate comes to the new one.
            for before in self.live.set_gates(&services, || Some(Arc::new(pause.gate()))) {
                before.open();
            }
        }
        log::event("paused", json!({ "services": services, "hold_ms": pause.hold_ms }));
        self.end_later(services.clone(), Duration::from_millis(pause.end_after_ms));
        let drain = drain.min(LONGEST_HOLD);
        let order = Request::Pause {
            services: services.clone(),
            hold_ms: pause.hold_ms,
            max_held: pause.max_held,
            drain_ms: u64::try_from(drain.as_millis()).unwrap_or(u64::MAX),
            end_after_ms: pause.end_after_ms,
        };
        let own = self.live.wait_idle(&services, drain);
        let ((mut in_flight, mut streams), others) = tokio::join!(own, self.ask_retired(&order, drain));
        for (_, answer) in others {
            match answer {
                Some(Response::Paused { in_flight: more, streams: open }) => {
                    (in_flight, streams) = (in_flight + more, streams + open);
                }
                // It does not know the service.
                Some(_) => {}
                // Nobody can say what it has: that is something.
                None => in_flight += 1,
            }
        }
        Response::Paused { in_flight, streams }
    }

    fn check_pause(&self, services: &[String], pause: &Pause) -> Result<()> {
        let in_force = self.live.in_force();
        let known = in_force.services();
        ensure!(!services.is_empty(), "no service is named");
        for service in services {
            ensure!(known.contains(service.as_str()), "no slot of a service `{service}` is in force");
        }
        let longest = |limit: Duration| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
        ensure!(pause.hold_ms <= longest(LONGEST_HOLD), "requests are held for at most {LONGEST_HOLD:?}");
        ensure!(
            (1..=longest(LONGEST_PAUSE)).contains(&pause.end_after_ms),
            "a pause ends by itself after at most {LONGEST_PAUSE:?}"
        );
        ensure!(pause.max_held <= MOST_HELD, "at most {MOST_HELD} requests are held");
        Ok(())
    }

    /// Ends the pauses of `services` after a while, if they are still those of now.
    fn end_later(self: &Arc<Switch>, services: Vec<String>, after: Duration) {
        let switch = Arc::clone(self);
        let gates: Vec<_> = services.iter().filter_map(|service| self.live.gate(service)).collect();
        tokio::spawn(async move {
            tokio::time::sleep(after).await;
            let is_same = |service: &String| {
                let gate = switch.live.gate(service);
                gate.is_some_and(|gate| gates.iter().any(|other| Arc::ptr_eq(other, &gate)))
            };
            let services: Vec<_> = services.into_iter().filter(is_same).collect();
            if !services.is_empty() {
                log::event("PAUSE_ENDED_BY_ITSELF", json!({ "services": services }));
                switch.resume(services).await;
            }
        });
    }

    async fn resume(&self, services: Vec<String>) -> Response {
        let _one_at_a_time = self.changing.lock().await;
        // A pause that comes back after a crash ends by itself; requests that wait for a full disk would not.
        if let Err(error) = self.keep_pauses(|pauses| pauses.retain(|service, _| !services.contains(service)))
        {
            log::event("resume_not_kept", json!({ "error": format!("{error:#}") }));
        }
        let mut released = self.live.set_gates(&services, || None).iter().map(|gate| gate.open()).sum();
        log::event("resumed", json!({ "services": services, "released": released }));
        for (_, answer) in self.ask_retired(&Request::Resume { services }, Duration::ZERO).await {
            if let Some(Response::Resumed { released: more }) = answer {
                released += more;
            }
        }
        Response::Resumed { released }
    }

    /// Changes what is kept on disk of the pauses; a retired edge keeps nothing.
    fn keep_pauses(&self, change: impl FnOnce(&mut BTreeMap<String, Pause>)) -> Result<()> {
        if self.state.is_given_up() {
            return Ok(());
        }
        let mut pauses: BTreeMap<String, Pause> = self.state.recall(Note::Pauses).unwrap_or_default();
        change(&mut pauses);
        self.state.keep(Note::Pauses, (!pauses.is_empty()).then_some(&pauses))
    }

    fn keep_bake(&self, kept: Option<&Kept>) {
        if let Err(error) = self.state.keep(Note::Bake, kept) {
            log::event("bake_not_kept", json!({ "error": format!("{error:#}") }));
        }
    }

    fn baking(&self) -> MutexGuard<'_, Option<Arc<Baking>>> {
        self.baking.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pause {
    fn gate(&self) -> Gate {
        Gate::new(Duration::from_millis(self.hold_ms), usize::try_from(self.max_held).unwrap_or(usize::MAX))
    }
}

/// What a bake from disk is to an edge that begins with `table`, and what is still to be done about it.
fn resumed(mut kept: Kept, table: &Table) -> (Option<Kept>, Option<Objection>) {
    let is_usable = kept.former.check().is_ok();
    let (of, now) = (kept.report.generation, table.generation);
    match kept.report.state {
        // Its table was never put in force.
        _ if of > now => (None, None),
        BakeState::Baking { .. } if of == now && is_usable => (Some(kept), None),
        BakeState::Baking { .. } => {
            kept.report.state = BakeState::Superseded;
            (Some(kept), None)
        }
        BakeState::Reverted { generation, cause } if generation > now && of == now && is_usable => {
            let objection = Objection { cause, reason: kept.report.reason.clone() };
            kept.report.state = BakeState::Baking { left_ms: kept.bake.for_ms };
            (Some(kept), Some(objection))
        }
        _ => (Some(kept), None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::{Rules, SCHEMA};

    fn kept(state: BakeState) -> Kept {
        let bake =
            Bake { from: vec!["a".into()], to: vec!["b".into()], for_ms: 9000, rules: Rules::default() };
        let report = BakeReport { generation: 2, state, reason: "why".into(), figures: Vec::new() };
        Kept { bake, former: Table::default(), records: BTreeMap::new(), report }
    }

    fn after(state: BakeState, generation: u64) -> (Option<BakeState>, Option<Cause>) {
        let table = Table { generation, ..Table::default() };
        let (kept, redo) = resumed(kept(state), &table);
        (kept.map(|kept| kept.report.state), redo.map(|objection| objection.cause))
    }

    /// What was on disk, and the generation in force, at each point where an edge may die.
    #[test]
    fn an_edge_goes_on_from_wherever_another_one_died() {
        let on = BakeState::Baking { left_ms: 9000 };
        let reverted = BakeState::Reverted { generation: 3, cause: Cause::Errors };
        assert_eq!(after(on, 1), (None, None), "the bake was kept, its table was not");
        assert_eq!(after(on, 2), (Some(on), None), "it lasts");
        assert_eq!(after(on, 5), (Some(BakeState::Superseded), None), "another table came");
        assert_eq!(after(reverted, 2), (Some(on), Some(Cause::Errors)), "the way back was begun");
        assert_eq!(after(reverted, 3), (Some(reverted), None), "it was finished");
        assert_eq!(after(BakeState::Passed, 2), (Some(BakeState::Passed), None));
    }

    #[test]
    fn a_way_back_that_cannot_be_read_is_not_taken() {
        let mut kept = kept(BakeState::Baking { left_ms: 1 });
        kept.former.schema = SCHEMA.replace('2', "9");
        let found = resumed(kept, &Table { generation: 2, ..Table::default() });
        assert_eq!(found.0.map(|kept| kept.report.state), Some(BakeState::Superseded));
    }
}
