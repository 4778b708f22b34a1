//! The order of a deployment, as a value: events in, steps out. It knows slot names and nothing of processes, sockets
//! or files. Invariants, tested over all sequences of events: the switch is ordered only when every new slot passed
//! its gate, no old slot is touched before the switch was carried out, and no new one is discarded after.

use std::collections::BTreeSet;
use std::fmt;

use crate::plan::{Files, Plan};

/// One thing to carry out. Steps that are returned together may run side by side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Check that the plan still holds and that there is room.
    Preflight,
    /// Unpack the image of a new slot.
    Unpack(String),
    /// Start the processes of a new slot.
    Start(String),
    /// Wait until a new slot is fit to serve.
    Gate(String),
    /// Put the new routing table in force.
    Switch,
    /// Wait until nothing is in flight to an old slot.
    Drain(String),
    /// Stop the processes of an old slot.
    Stop(String),
    /// Remove the files of a slot that is not kept any longer.
    Retire(String),
    /// Stop and remove a new slot that will not serve.
    Discard(String),
}

/// What became of a step, or a wish of the operator.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Event {
    /// Begin.
    Begin,
    /// The step was carried out.
    Done(Step),
    /// The step was not carried out, or its effect was undone.
    Failed(Step),
    /// Nobody can say whether the step was carried out.
    Unknown(Step),
    /// The operator wants to stop.
    Interrupted,
}

/// How a deployment ended.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum End {
    /// The new slots serve; `unfinished` steps after the switch failed.
    Deployed {
        /// What failed after the switch.
        unfinished: Vec<Step>,
    },
    /// `cause` failed before the switch; `left_behind` could not be discarded.
    RolledBack {
        /// The first failure.
        cause: Step,
        /// Discards that failed.
        left_behind: Vec<Step>,
    },
    /// As `RolledBack`, by the operator's wish.
    Interrupted {
        /// Discards that failed.
        left_behind: Vec<Step>,
    },
    /// Nobody can say whether the switch happened; both sets of slots run.
    Unknown,
}

/// The state of one deployment.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Machine {
    phase: Phase,
    pending: BTreeSet<Step>,
    failed: Vec<Step>,
    interrupted: bool,
    switches: bool,
    new: BTreeSet<(String, bool)>,
    /// Old slots, and whether requests may be in flight to them.
    old: BTreeSet<(String, bool)>,
    retire: BTreeSet<String>,
    /// New slots that something was done to.
    touched: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    Ready,
    Preflight,
    Unpack,
    Start,
    Gate,
    Switch,
    Drain,
    Stop,
    Retire,
    Discard,
    Ended(End),
}

impl Machine {
    /// A machine for one run of `plan`.
    pub fn new(plan: &Plan) -> Machine {
        let routed: BTreeSet<_> = plan.routes_before.iter().map(|route| route.slot.as_str()).collect();
        Machine {
            phase: Phase::Ready,
            pending: BTreeSet::new(),
            failed: Vec::new(),
            interrupted: false,
            switches: !plan.is_empty(),
            new: plan.started().map(|(_, slot, files)| (slot.to_owned(), files == Files::Unpack)).collect(),
            old: plan.stopped().map(|slot| (slot.to_owned(), routed.contains(slot))).collect(),
            retire: plan.retire.iter().cloned().collect(),
            touched: BTreeSet::new(),
        }
    }

    /// Takes in what happened and says what to do now. No steps: wait for the pending ones, or see [`Machine::end`].
    pub fn on(&mut self, event: Event) -> Vec<Step> {
        match event {
            Event::Begin => return if self.phase == Phase::Ready { self.advance() } else { Vec::new() },
            Event::Interrupted => {
                // After a failure it is that failure that ended the deployment.
                self.interrupted |= self.is_before_switch() && self.failed.is_empty();
                return Vec::new();
            }
            Event::Done(step) => {
                self.pending.remove(&step);
            }
            Event::Failed(step) => {
                self.pending.remove(&step);
                self.failed.push(step);
            }
            Event::Unknown(step) => {
                self.pending.remove(&step);
                if step == Step::Switch {
                    self.phase = Phase::Ended(End::Unknown);
                    return Vec::new();
                }
                self.failed.push(step);
            }
        }
        if self.pending.is_empty() { self.advance() } else { Vec::new() }
    }

    /// How it ended, once it has.
    pub fn end(&self) -> Option<&End> {
        match &self.phase {
            Phase::Ended(end) => Some(end),
            _ => None,
        }
    }

    /// Whether the steps under way need not go on: another one failed before the switch, or the operator wants to
    /// stop.
    pub fn is_giving_up(&self) -> bool {
        self.is_before_switch() && (self.interrupted || !self.failed.is_empty())
    }

    fn is_before_switch(&self) -> bool {
        matches!(self.phase, Phase::Ready | Phase::Preflight | Phase::Unpack | Phase::Start | Phase::Gate)
    }

    /// Goes on to the next phase that has anything to do.
    fn advance(&mut self) -> Vec<Step> {
        loop {
            self.phase = self.next();
            let steps = self.steps();
            if !steps.is_empty() || matches!(self.phase, Phase::Ended(_)) {
                self.touched.extend(steps.iter().filter_map(|step| match step {
                    Step::Unpack(slot) | Step::Start(slot) => Some(slot.clone()),
                    _ => None,
                }));
                self.pending = steps.iter().cloned().collect();
                return steps;
            }
        }
    }

    fn next(&self) -> Phase {
        if self.is_giving_up() || (self.phase == Phase::Switch && !self.failed.is_empty()) {
            return Phase::Discard;
        }
        match &self.phase {
            Phase::Ready => Phase::Preflight,
            Phase::Preflight => Phase::Unpack,
            Phase::Unpack => Phase::Start,
            Phase::Start => Phase::Gate,
            Phase::Gate => Phase::Switch,
            Phase::Switch => Phase::Drain,
            Phase::Drain => Phase::Stop,
            Phase::Stop => Phase::Retire,
            Phase::Retire => Phase::Ended(End::Deployed { unfinished: self.failed.clone() }),
            Phase::Discard => Phase::Ended(self.gave_up()),
            Phase::Ended(end) => Phase::Ended(end.clone()),
        }
    }

    fn gave_up(&self) -> End {
        let (left_behind, causes): (Vec<_>, Vec<_>) =
            self.failed.iter().cloned().partition(|step| matches!(step, Step::Discard(_)));
        match causes.into_iter().next() {
            Some(cause) if !self.interrupted => End::RolledBack { cause, left_behind },
            _ => End::Interrupted { left_behind },
        }
    }

    fn steps(&self) -> Vec<Step> {
        let new = || self.new.iter().map(|(slot, _)| slot.clone());
        match &self.phase {
            Phase::Ready | Phase::Ended(_) => Vec::new(),
            Phase::Preflight => vec![Step::Preflight],
            Phase::Unpack => self
                .new
                .iter()
                .filter(|(_, unpack)| *unpack)
                .map(|(slot, _)| Step::Unpack(slot.clone()))
                .collect(),
            Phase::Start => new().map(Step::Start).collect(),
            Phase::Gate => new().map(Step::Gate).collect(),
            Phase::Switch if self.switches => vec![Step::Switch],
            Phase::Switch => Vec::new(),
            Phase::Drain => self
                .old
                .iter()
                .filter(|(_, routed)| *routed)
                .map(|(slot, _)| Step::Drain(slot.clone()))
                .collect(),
            Phase::Stop => self.old.iter().map(|(slot, _)| Step::Stop(slot.clone())).collect(),
            Phase::Retire => self.retire.iter().cloned().map(Step::Retire).collect(),
            Phase::Discard => self.touched.iter().cloned().map(Step::Discard).collect(),
        }
    }
}

impl Step {
    /// The step's kind, as fail points and the journal name it.
    pub fn name(&self) -> &'static str {
        match self {
            Step::Preflight => "preflight",
            Step::Unpack(_) => "unpack",
            Step::Start(_) => "start",
            Step::Gate(_) => "gate",
            Step::Switch => "switch",
            Step::Drain(_) => "drain",
            Step::Stop(_) => "stop",
            Step::Retire(_) => "retire",
            Step::Discard(_) => "discard",
        }
    }

    /// The slot that the step is about.
    pub fn slot(&self) -> Option<&str> {
        match self {
            Step::Preflight | Step::Switch => None,
            Step::Unpack(slot)
            | Step::Start(slot)
            | Step::Gate(slot)
            | Step::Drain(slot)
            | Step::Stop(slot)
            | Step::Retire(slot)
            | Step::Discard(slot) => Some(slot),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())?;
        self.slot().map_or(Ok(()), |slot| write!(f, " {slot}"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use edge::control::Route;
    use stdx::Digest;

    use super::*;
    use crate::plan::{Action, ServicePlan};

    /// Two services with routes, one without, one that goes away; a slot to retire.
    fn plan() -> Plan {
        let start = |slot: &str, files, stop: Option<&str>| ServicePlan {
            action: Action::Start { slot: slot.into(), files },
            stop: stop.map(Into::into),
        };
        let route = |slot: &str| Route {
            host: None,
            path_prefix: "/".into(),
            strip_prefix: false,
            slot: slot.into(),
            policy: Default::default(),
        };
        Plan {
            schema: String::new(),
            environment: "test".into(),
            release: Digest::of("release"),
            deployment: "d".into(),
            edge_generation: 1,
            services: BTreeMap::from([
                ("a".into(), start("new-a", Files::Unpack, Some("old-a"))),
                ("b".into(), start("new-b", Files::Retained, None)),
                ("gone".into(), ServicePlan { action: Action::Remove, stop: Some("old-gone".into()) }),
            ]),
            routes_before: vec![route("old-a")],
            routes_after: vec![route("new-a"), route("new-b")],
            retire: vec!["very-old".into()],
        }
    }

    /// What the world looks like to an observer who carries out the machine's steps.
    #[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
    struct World {
        gated: BTreeSet<String>,
        switched: bool,
        /// Steps handed out and not answered.
        pending: BTreeSet<Step>,
        started: BTreeSet<String>,
        cleared: BTreeSet<String>,
        unclear: bool,
    }

    impl World {
        fn order(&mut self, steps: Vec<Step>) {
            for step in steps {
                match &step {
                    Step::Switch => {
                        assert_eq!(
                            self.gated,
                            ["new-a", "new-b"].map(String::from).into(),
                            "switch before the gates"
                        );
                    }
                    Step::Drain(slot) | Step::Stop(slot) | Step::Retire(slot) => {
                        assert!(self.switched, "{step} before the switch");
                        assert!(!slot.starts_with("new"), "{step} hits a new slot");
                    }
                    Step::Discard(slot) => {
                        assert!(!self.switched && !self.unclear, "{step} after the switch");
                        assert!(slot.starts_with("new"), "{step} hits an old slot");
                    }
                    Step::Unpack(slot) | Step::Start(slot) => {
                        assert!(!self.switched);
                        self.started.insert(slot.clone());
                    }
                    Step::Preflight | Step::Gate(_) => assert!(!self.switched),
                }
                assert!(self.pending.insert(step), "a step was ordered twice");
            }
        }

        fn answer(&mut self, event: &Event) {
            match event {
                Event::Done(step) => {
                    self.pending.remove(step);
                    match step {
                        Step::Gate(slot) => drop(self.gated.insert(slot.clone())),
                        Step::Switch => self.switched = true,
                        Step::Discard(slot) => drop(self.cleared.insert(slot.clone())),
                        _ => {}
                    }
                }
                Event::Failed(step) => drop(self.pending.remove(step)),
                Event::Unknown(step) => {
                    self.pending.remove(step);
                    self.unclear |= *step == Step::Switch;
                }
                Event::Begin | Event::Interrupted => {}
            }
        }

        fn check_end(&self, end: &End) {
            assert!(self.pending.is_empty(), "it ended with steps under way");
            match end {
                End::Deployed { .. } => assert!(self.switched),
                End::Unknown => assert!(self.unclear),
                End::RolledBack { left_behind, .. } | End::Interrupted { left_behind } => {
                    assert!(!self.switched);
                    for slot in &self.started {
                        let left = left_behind.contains(&Step::Discard(slot.clone()));
                        assert!(
                            self.cleared.contains(slot) != left,
                            "{slot} is neither cleared away nor reported"
                        );
                    }
                }
            }
        }
    }

    /// Every sequence of answers and interruptions, in every order: not up to a depth, but until no new state
    /// appears.
    #[test]
    fn no_sequence_of_events_breaks_the_order() {
        let mut machine = Machine::new(&plan());
        let mut world = World::default();
        world.order(machine.on(Event::Begin));
        let (mut seen, mut open) = (BTreeSet::new(), vec![(machine, world)]);
        let mut ends = BTreeSet::new();
        while let Some((machine, world)) = open.pop() {
            if !seen.insert((machine.clone(), world.clone())) {
                continue;
            }
            if let Some(end) = machine.end() {
                world.check_end(end);
                ends.insert(name(end));
                continue;
            }
            assert!(!world.pending.is_empty(), "it waits for nothing");
            let answers = world.pending.iter().flat_map(|step| {
                [Event::Done(step.clone()), Event::Failed(step.clone()), Event::Unknown(step.clone())]
            });
            for event in answers.chain([Event::Interrupted]) {
                let (mut machine, mut world) = (machine.clone(), world.clone());
                world.answer(&event);
                world.order(machine.on(event));
                open.push((machine, world));
            }
        }
        assert_eq!(ends, ["deployed", "interrupted", "rolled back", "unknown"].into());
        assert!(seen.len() > 200, "only {} states", seen.len());
    }

    fn name(end: &End) -> &'static str {
        match end {
            End::Deployed { .. } => "deployed",
            End::RolledBack { .. } => "rolled back",
            End::Interrupted { .. } => "interrupted",
            End::Unknown => "unknown",
        }
    }

    #[test]
    fn steps_come_in_phases_and_only_where_there_is_something_to_do() {
        let mut machine = Machine::new(&plan());
        let mut phases = Vec::new();
        let mut steps = machine.on(Event::Begin);
        while !steps.is_empty() {
            phases.push(steps.iter().map(Step::to_string).collect::<Vec<_>>().join(", "));
            steps = steps.into_iter().flat_map(|step| machine.on(Event::Done(step))).collect();
        }
        assert_eq!(
            phases,
            [
                "preflight",
                "unpack new-a",
                "start new-a, start new-b",
                "gate new-a, gate new-b",
                "switch",
                "drain old-a",
                "stop old-a, stop old-gone",
                "retire very-old",
            ]
        );
        assert_eq!(machine.end(), Some(&End::Deployed { unfinished: vec![] }));
    }
}
