//! Carries out a plan: asks the machine what to do, does it, writes it down before and after, and tells the machine
//! what became of it. The order of things is the machine's; this knows the edge, the gate and the journal, and what
//! runs slots is behind [`Platform`].

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use edge::client::{Client, Error as ClientError};
use edge::control::{Refusal, Slot, Table};

use crate::fail_point::FailPoint;
use crate::gate::{self, Rules};
use crate::journal::{Entry, Journal, Phase};
use crate::lock::Overtaken;
use crate::machine::{End, Event, Machine, Step};
use crate::operation::{Progress, Site};
use crate::outcome::Evidence;
use crate::plan::{Files, Plan};
use crate::platform::{self, NewSlot, Platform};
use crate::route_policy::AccessLogFile;
use crate::state::StateFolder;
use crate::target::Target;

/// How often the interrupt flag is looked at.
const INTERRUPT_CHECK: Duration = Duration::from_millis(50);

/// How long an edge that does not answer may take to come back while its table is being changed.
const EDGE_RETURN_TIMEOUT: Duration = Duration::from_secs(10);

/// How often an edge that does not answer is asked again.
const EDGE_RETRY: Duration = Duration::from_millis(50);

/// How often the streams to a slot are counted while it is drained.
const STREAM_POLL: Duration = Duration::from_millis(100);

/// One run of one plan.
pub(crate) struct Driver<'a> {
    pub(crate) site: &'a Site<'a>,
    platform: &'a dyn Platform,
    pub(crate) target: &'a Target,
    pub(crate) plan: &'a Plan,
    pub(crate) client: Client,
    journal: Mutex<&'a mut Journal>,
    fail_point: FailPoint,
    giving_up: AtomicBool,
    evidence: Mutex<BTreeMap<Step, Evidence>>,
}

/// How a run ended.
pub(crate) struct Driven {
    pub(crate) end: End,
    /// What is known of each step that failed.
    pub(crate) evidence: BTreeMap<Step, Evidence>,
}

enum Failure {
    /// The step has no effect.
    Failed(Evidence),
    /// Nobody can say whether it has.
    Unknown(Evidence),
}

impl<'a> Driver<'a> {
    pub(crate) fn new(
        site: &'a Site<'a>,
        state: &StateFolder,
        platform: &'a dyn Platform,
        target: &'a Target,
        plan: &'a Plan,
        journal: &'a mut Journal,
    ) -> Driver<'a> {
        Driver {
            site,
            platform,
            target,
            plan,
            client: crate::edge_process::client(state),
            journal: Mutex::new(journal),
            fail_point: FailPoint::from_env(),
            giving_up: AtomicBool::new(false),
            evidence: Mutex::default(),
        }
    }

    /// Runs the plan to its end.
    pub(crate) fn run(self) -> Driven {
        let mut machine = Machine::new(self.plan);
        let end = std::thread::scope(|scope| {
            let (sender, events) = mpsc::channel();
            let mut steps = machine.on(Event::Begin);
            loop {
                for step in steps.drain(..) {
                    let (sender, driver) = (sender.clone(), &self);
                    // The receiver lives until every pending step has answered.
                    scope.spawn(move || drop(sender.send(driver.perform(step))));
                }
                if let Some(end) = machine.end() {
                    return end.clone();
                }
                let event = events.recv_timeout(INTERRUPT_CHECK);
                if self.site.interrupt.load(Ordering::Relaxed) {
                    machine.on(Event::Interrupted);
                }
                if let Ok(event) = event {
                    steps = machine.on(event);
                }
                self.giving_up.store(machine.is_giving_up(), Ordering::Relaxed);
            }
        });
        let evidence = self.evidence.into_inner().unwrap_or_else(PoisonError::into_inner);
        Driven { end, evidence }
    }

    /// A reporter that panics, on a closed terminal for instance, must not end a step in the middle.
    fn report(&self, progress: Progress<'_>) {
        let _ = catch_unwind(AssertUnwindSafe(|| (self.site.report)(progress)));
    }

    fn perform(&self, step: Step) -> Event {
        let start = Instant::now();
        self.report(Progress::StepStarted { step: &step });
        let done = catch_unwind(AssertUnwindSafe(|| self.journaled(&step)));
        let done =
            done.unwrap_or_else(|_| Err(Failure::Unknown(Evidence::new(&step, "a bug: the step panicked"))));
        let (event, evidence): (fn(Step) -> Event, _) = match done {
            Ok(()) => {
                self.report(Progress::StepDone { step: &step, elapsed: start.elapsed() });
                return Event::Done(step);
            }
            Err(Failure::Failed(evidence)) => (Event::Failed, evidence),
            Err(Failure::Unknown(evidence)) => (Event::Unknown, evidence),
        };
        self.note(&step, Phase::Failed);
        self.report(Progress::StepFailed { step: &step, evidence: &evidence });
        self.evidence.lock().unwrap_or_else(PoisonError::into_inner).insert(step.clone(), evidence);
        event(step)
    }

    /// The step between its two records. Before the switch nothing is done that could not be written down; after it,
    /// and when clearing away, a journal that cannot be written is no reason to leave things undone. Whoever was overtaken
    /// does nothing at all any more.
    fn journaled(&self, step: &Step) -> Result<(), Failure> {
        let failed = |error: anyhow::Error| Failure::Failed(Evidence::new(step, format!("{error:#}")));
        self.fail_point.pass(step.name(), "before-intent");
        let is_optional = matches!(step, Step::Drain(_) | Step::Stop(_) | Step::Retire(_) | Step::Discard(_));
        let written = self.append(step, Phase::Intent);
        let is_overtaken = written.as_ref().is_err_and(|error| error.is::<Overtaken>());
        if !is_optional || is_overtaken {
            written.map_err(failed)?;
        }
        self.fail_point.pass(step.name(), "after-intent");
        self.effect(step)?;
        self.fail_point.pass(step.name(), "after-effect");
        self.note(step, Phase::Done);
        self.fail_point.pass(step.name(), "after-done");
        Ok(())
    }

    fn append(&self, step: &Step, phase: Phase) -> Result<()> {
        let entry = Entry::Step { step: step.to_string(), phase };
        self.journal.lock().unwrap_or_else(PoisonError::into_inner).append(entry)
    }

    /// Writes down what happened, as far as that is possible: the effect is there in any case.
    fn note(&self, step: &Step, phase: Phase) {
        if let Err(error) = self.append(step, phase) {
            self.report(Progress::Note { text: &format!("{error:#}") });
        }
    }

    fn effect(&self, step: &Step) -> Result<(), Failure> {
        let failed = |error: anyhow::Error| Failure::Failed(Evidence::new(step, format!("{error:#}")));
        match step {
            Step::Preflight => self.preflight().map_err(failed),
            Step::Unpack(slot) => self.unpack(slot).map_err(failed),
            Step::Start(slot) => self.start(slot).map_err(|error| self.failed_slot(step, slot, &error)),
            Step::Gate(slot) => self.gate(step, slot),
            Step::Switch => self.switch(step),
            Step::Drain(slot) => self.drain(slot).map_err(failed),
            Step::Stop(slot) => self.stop(slot).map_err(failed),
            Step::Retire(slot) => self.platform.remove(slot).map_err(failed),
            Step::Discard(slot) => self.discard(slot).map_err(failed),
        }
    }

    /// A slot that the plan starts.
    fn new_slot<'s>(&'s self, slot: &'s str) -> Result<(NewSlot<'s>, Files)> {
        let found = self.plan.started().find(|(_, name, _)| *name == slot);
        let (service, _, files) = found.with_context(|| format!("the plan does not start {slot}"))?;
        let target = self
            .target
            .services
            .get(service)
            .with_context(|| format!("the release has no service {service}"))?;
        Ok((NewSlot { name: slot, service, target, release: self.plan.release }, files))
    }

    fn failed_slot(&self, step: &Step, slot: &str, error: &anyhow::Error) -> Failure {
        let message = format!("{error:#}");
        Failure::Failed(gate::evidence(&step.to_string(), message, VecDeque::new(), self.platform, slot))
    }

    fn preflight(&self) -> Result<()> {
        let observed = self.client.observe()?;
        ensure!(
            observed.table.generation == self.plan.edge_generation,
            "the edge's table changed since the plan was made: deploy again"
        );
        let mut prepared = Vec::new();
        for (_, slot, _) in self.plan.started().filter(|(_, _, files)| *files == Files::Unpack) {
            prepared.push(self.new_slot(slot)?.0);
        }
        for note in self.platform.check(&prepared, self.site)? {
            self.report(Progress::Note { text: &note });
        }
        Ok(())
    }

    fn unpack(&self, slot: &str) -> Result<()> {
        self.platform.prepare(&self.new_slot(slot)?.0, self.site)
    }

    fn start(&self, slot: &str) -> Result<()> {
        let (new, files) = self.new_slot(slot)?;
        // A retained slot was out of sight for a while: what runs must be what was built.
        if files == Files::Retained && !self.platform.is_intact(slot)? {
            self.report(Progress::Note {
                text: &format!("the files of {slot} changed: unpacking them again"),
            });
            self.platform.prepare(&new, self.site)?;
        }
        self.platform.start(&new, self.site)
    }

    fn gate(&self, step: &Step, slot: &str) -> Result<(), Failure> {
        let failed = |error| self.failed_slot(step, slot, &error);
        let (new, _) = self.new_slot(slot).map_err(failed)?;
        let rules = Rules { health: new.target.health.clone(), settle: self.target.settle };
        let is_given_up =
            || self.giving_up.load(Ordering::Relaxed) || self.site.interrupt.load(Ordering::Relaxed);
        gate::gate(&step.to_string(), self.platform, slot, &rules, &is_given_up).map_err(Failure::Failed)?;
        self.platform.keep_running(slot).map_err(failed)
    }

    /// Puts the table in force, and finds out whether it is when the edge does not say.
    fn switch(&self, step: &Step) -> Result<(), Failure> {
        self.recheck(step)?;
        let failed = |error: anyhow::Error| Failure::Failed(Evidence::new(step, format!("{error:#}")));
        let table = self.table().map_err(failed)?;
        let deadline = Instant::now() + EDGE_RETURN_TIMEOUT;
        loop {
            let error = match self.client.apply(&table) {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            match error {
                ClientError::Refused { .. } => return Err(failed(error.into())),
                ClientError::Unreachable { .. } if Instant::now() < deadline => {
                    std::thread::sleep(EDGE_RETRY)
                }
                ClientError::Unreachable { .. } => return Err(failed(error.into())),
                ClientError::NoAnswer { .. } | ClientError::UnknownAnswer { .. } => {
                    return self.settle_switch(step, &table, &error);
                }
            }
        }
    }

    /// The order was sent and not answered. Either the table is found in force, or the old one is put in force anew,
    /// under the generation that the order wanted: then a late order is refused as stale.
    fn settle_switch(&self, step: &Step, table: &Table, error: &ClientError) -> Result<(), Failure> {
        let deadline = Instant::now() + EDGE_RETURN_TIMEOUT;
        while Instant::now() < deadline {
            if let Ok(observed) = self.client.observe() {
                if observed.table == *table {
                    return Ok(());
                }
                let fence = Table { generation: table.generation, ..observed.table };
                if self.client.apply(&fence).is_ok() {
                    return Err(Failure::Failed(Evidence::new(step, error.to_string())));
                }
            }
            std::thread::sleep(EDGE_RETRY);
        }
        Err(Failure::Unknown(Evidence::new(step, format!("{error}; the edge has not answered since"))))
    }

    /// A new slot that passed its gate early must still be fit when the last one did.
    fn recheck(&self, step: &Step) -> Result<(), Failure> {
        for (_, slot, _) in self.plan.started() {
            let (new, _) = self.new_slot(slot).map_err(|error| self.failed_slot(step, slot, &error))?;
            let rules = Rules { health: new.target.health.clone().map(once), settle: Duration::ZERO };
            gate::gate(&step.to_string(), self.platform, slot, &rules, &|| false).map_err(Failure::Failed)?;
        }
        Ok(())
    }

    fn table(&self) -> Result<Table> {
        let mut slots = BTreeMap::new();
        for (service, slot) in self.plan.active_after() {
            let upstreams = platform::upstreams(self.platform, &slot)?;
            if !upstreams.is_empty() {
                slots.insert(slot, Slot { service, upstreams });
            }
        }
        Ok(Table {
            generation: self.plan.edge_generation + 1,
            routes: self.plan.routes_after.clone(),
            slots,
            access_log: self.target.edge.access_log_file.map(AccessLogFile::control),
            ..Table::default()
        })
    }

    fn drain(&self, slot: &str) -> Result<()> {
        if let Some(rest) = drain(&self.client, slot, self.target.drain_timeout)? {
            self.report(Progress::Note { text: &rest });
        }
        Ok(())
    }

    fn stop(&self, slot: &str) -> Result<()> {
        self.ensure_unrouted(slot)?;
        self.platform.stop(slot)
    }

    fn discard(&self, slot: &str) -> Result<()> {
        self.ensure_unrouted(slot)?;
        let (_, files) = self.new_slot(slot)?;
        self.platform.stop(slot)?;
        match files {
            Files::Unpack => self.platform.remove(slot),
            Files::Retained => Ok(()),
        }
    }

    /// What the edge says goes before what this process believes.
    fn ensure_unrouted(&self, slot: &str) -> Result<()> {
        match self.client.observe() {
            Ok(observed) if observed.table.slots.contains_key(slot) => {
                bail!("the edge still sends requests to {slot}")
            }
            Ok(_) | Err(ClientError::Unreachable { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// A check that one healthy answer passes.
fn once(health: release::HealthCheck) -> release::HealthCheck {
    let start_timeout_ms = health.timeout_ms.saturating_mul(2);
    release::HealthCheck { healthy_threshold: 1, start_timeout_ms, ..health }
}

/// Waits until nothing is in flight to `slot` and no stream is open; what was left after `timeout`, in words.
pub(crate) fn drain(client: &Client, slot: &str, timeout: Duration) -> Result<Option<String>> {
    let deadline = Instant::now() + timeout;
    loop {
        let time_left = deadline.saturating_duration_since(Instant::now());
        match client.drain(slot, time_left) {
            Ok(rest) if rest.in_flight == 0 && rest.streams == 0 => return Ok(None),
            // The edge waits for requests; streams are waited for here.
            Ok(rest) if rest.in_flight == 0 && !time_left.is_zero() => {
                std::thread::sleep(STREAM_POLL.min(time_left))
            }
            Ok(rest) => {
                let (requests, streams, waited) = (rest.in_flight, rest.streams, timeout.as_millis());
                let text = format!(
                    "{slot} still has {requests} requests in flight and {streams} streams after {waited} ms"
                );
                return Ok(Some(text));
            }
            // An edge that was started anew has never heard of a slot that its table does not have.
            Err(ClientError::Refused { reason: Refusal::SlotInUse, message }) => {
                let observed = client.observe()?;
                ensure!(!observed.table.slots.contains_key(slot), "{message}");
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}
