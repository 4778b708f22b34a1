//! What a deployment will do, decided before it does anything: from what shall run and what runs to a list of actions
//! that leaves no choice but the ports. Pure. Invariant: a slot is kept only if it serves now and would be started
//! again with the same content and the same values.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use edge::control::Route;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::target::{Target, TargetService};

/// The value of `schema` that this version reads and writes.
const SCHEMA: &str = "slipway.deploy-plan/1";

/// What a deployment will do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// Name of the environment.
    pub environment: String,
    /// Identity of the release.
    pub release: Digest,
    /// Identity of the release together with the environment's values.
    pub deployment: String,
    /// The routing table that the plan was made from; with any other in force the plan is stale.
    pub edge_generation: u64,
    /// What happens to each service, by name.
    pub services: BTreeMap<String, ServicePlan>,
    /// The routes in force.
    pub routes_before: Vec<Route>,
    /// The routes after the switch.
    pub routes_after: Vec<Route>,
    /// Stopped slots that are removed at the end.
    pub retire: Vec<String>,
}

/// What happens to one service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServicePlan {
    /// How its next slot comes to be.
    pub action: Action,
    /// The slot that is drained and stopped after the switch.
    pub stop: Option<String>,
}

/// How a service's next slot comes to be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "snake_case", deny_unknown_fields)]
pub enum Action {
    /// The slot serves already, with the same content and values.
    Keep {
        /// Its name.
        slot: String,
    },
    /// A slot is made and started.
    Start {
        /// Its name.
        slot: String,
        /// Where its files come from.
        files: Files,
    },
    /// The release has no such service any more.
    Remove,
}

/// Where a slot's files come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Files {
    /// The image is unpacked.
    Unpack,
    /// The slot was kept when it stopped serving.
    Retained,
}

/// What is there before a deployment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Generation of the routing table in force.
    pub generation: u64,
    /// Routes in force.
    pub routes: Vec<Route>,
    /// The slot that serves each service.
    pub active: BTreeMap<String, String>,
    /// All slots of the environment, by name.
    pub slots: BTreeMap<String, ObservedSlot>,
}

/// A slot that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedSlot {
    /// The service whose slot it is.
    pub service: String,
    /// What it was made for.
    pub run: Digest,
    /// What it is doing.
    pub condition: Condition,
    /// Rises with each deployment: the last one in which the slot served; `None` if it never did.
    pub last_active: Option<usize>,
}

/// What a slot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// All its processes run and answer as they should.
    Serving,
    /// Some process does not run or does not answer as it should.
    Broken,
    /// No process runs; its files are complete.
    Stopped,
}

impl Plan {
    /// Whether what runs is what shall run.
    pub fn is_empty(&self) -> bool {
        self.routes_before == self.routes_after
            && self.services.values().all(|service| matches!(service.action, Action::Keep { .. }))
    }

    /// The slots that serve after the switch, by service.
    pub fn active_after(&self) -> BTreeMap<String, String> {
        let slot = |(name, service): (&String, &ServicePlan)| match &service.action {
            Action::Keep { slot } | Action::Start { slot, .. } => Some((name.clone(), slot.clone())),
            Action::Remove => None,
        };
        self.services.iter().filter_map(slot).collect()
    }

    /// The slots that the plan starts, with where their files come from.
    pub fn started(&self) -> impl Iterator<Item = (&String, &str, Files)> {
        self.services.iter().filter_map(|(name, service)| match &service.action {
            Action::Start { slot, files } => Some((name, slot.as_str(), *files)),
            Action::Keep { .. } | Action::Remove => None,
        })
    }

    /// The slots that the plan stops.
    pub fn stopped(&self) -> impl Iterator<Item = &str> {
        self.services.values().filter_map(|service| service.stop.as_deref())
    }
}

/// What to do so that what runs becomes what shall run.
pub fn plan(target: &Target, observed: &Observed) -> Plan {
    let mut services: BTreeMap<_, _> = target
        .services
        .iter()
        .map(|(name, service)| (name.clone(), service_plan(name, service, observed)))
        .collect();
    for (name, slot) in &observed.active {
        services
            .entry(name.clone())
            .or_insert_with(|| ServicePlan { action: Action::Remove, stop: Some(slot.clone()) });
    }
    let mut plan = Plan {
        schema: SCHEMA.to_owned(),
        environment: target.environment.clone(),
        release: target.release,
        deployment: target.deployment.clone(),
        edge_generation: observed.generation,
        services,
        routes_before: observed.routes.clone(),
        routes_after: Vec::new(),
        retire: Vec::new(),
    };
    plan.routes_after = routes(target, &plan.active_after());
    plan.retire = retire(&plan, target.retain, observed);
    plan
}

fn service_plan(name: &str, service: &TargetService, observed: &Observed) -> ServicePlan {
    let active = observed.active.get(name);
    if let Some(slot) = active {
        let fits = |slot: &ObservedSlot| slot.run == service.run && slot.condition == Condition::Serving;
        if observed.slots.get(slot).is_some_and(fits) {
            return ServicePlan { action: Action::Keep { slot: slot.clone() }, stop: None };
        }
    }
    let prefix = format!("{name}-{}-", service.run.short());
    let same = observed.slots.iter().filter(|(_, slot)| slot.service == name && slot.run == service.run);
    let retained = same
        .filter(|(slot, _)| active != Some(*slot))
        .filter(|(_, slot)| slot.condition == Condition::Stopped && slot.last_active.is_some())
        .max_by_key(|(_, slot)| slot.last_active);
    let action = match retained {
        Some((slot, _)) => Action::Start { slot: slot.clone(), files: Files::Retained },
        None => Action::Start { slot: free_name(&prefix, observed), files: Files::Unpack },
    };
    ServicePlan { action, stop: active.cloned() }
}

/// Names count up, so that a slot's log and journal records are never mistaken for those of its namesake.
fn free_name(prefix: &str, observed: &Observed) -> String {
    let known = observed.slots.keys().chain(observed.active.values());
    let last = known.filter_map(|name| name.strip_prefix(prefix)?.parse::<u32>().ok()).max();
    format!("{prefix}{}", last.unwrap_or(0) + 1)
}

fn routes(target: &Target, active: &BTreeMap<String, String>) -> Vec<Route> {
    let route = |route: &crate::target::TargetRoute| {
        Some(Route {
            host: route.host.clone(),
            path_prefix: route.path_prefix.clone(),
            strip_prefix: route.strip_prefix,
            slot: active.get(&route.service)?.clone(),
            policy: route.policy.clone(),
        })
    };
    target.routes.iter().filter_map(route).collect()
}

/// All stopped slots but those that served last, counted per service.
fn retire(plan: &Plan, retain: usize, observed: &Observed) -> Vec<String> {
    let after: BTreeSet<_> = plan.active_after().into_values().collect();
    let stopping: BTreeSet<_> = plan.stopped().collect();
    let mut by_service: BTreeMap<&str, Vec<_>> = BTreeMap::new();
    for (name, slot) in observed.slots.iter().filter(|(name, _)| !after.contains(*name)) {
        let is_stopping = stopping.contains(name.as_str());
        if is_stopping || slot.condition == Condition::Stopped {
            let age = if is_stopping { Some(usize::MAX) } else { slot.last_active };
            by_service.entry(&slot.service).or_default().push((Reverse(age), name));
        }
    }
    let mut retired = Vec::new();
    for slots in by_service.values_mut() {
        slots.sort_unstable();
        retired.extend(slots.iter().skip(retain).map(|(_, name)| (*name).to_owned()));
    }
    retired
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use release::{Resources, Stop};

    use super::*;
    use crate::target::TargetRoute;

    fn target(services: &[(&str, &str)]) -> Target {
        let service = |content: &str| TargetService {
            image: Digest::of(content),
            run: Digest::of(content),
            port: Some(1),
            port_env: Some("PORT".into()),
            health: None,
            stop: Stop { signal: "SIGTERM".into(), grace_ms: 0 },
            env: BTreeMap::new(),
            secrets: BTreeMap::new(),
            volumes: vec![],
            resources: Resources::default(),
            replicas: 1,
        };
        let route = |name: &str| TargetRoute {
            host: None,
            path_prefix: format!("/{name}"),
            strip_prefix: false,
            service: name.into(),
            policy: Default::default(),
        };
        Target {
            environment: "test".into(),
            release: Digest::of("release"),
            deployment: "d".into(),
            edge: crate::environment::Edge::on(([127, 0, 0, 1], 1).into()),
            routes: services.iter().map(|(name, _)| route(name)).collect(),
            services: services.iter().map(|(name, content)| ((*name).into(), service(content))).collect(),
            drain_timeout: Duration::ZERO,
            settle: Duration::ZERO,
            retain: 1,
        }
    }

    fn slot(
        service: &str,
        content: &str,
        condition: Condition,
        last_active: Option<usize>,
    ) -> (String, ObservedSlot) {
        let run = Digest::of(content);
        (name(service, content, 1), ObservedSlot { service: service.into(), run, condition, last_active })
    }

    fn name(service: &str, content: &str, number: u32) -> String {
        format!("{service}-{}-{number}", Digest::of(content).short())
    }

    fn observed(target: &Target, active: &[(&str, &str)], slots: Vec<(String, ObservedSlot)>) -> Observed {
        let active: BTreeMap<String, String> =
            active.iter().map(|(service, content)| ((*service).into(), name(service, content, 1))).collect();
        Observed {
            generation: 7,
            routes: routes(target, &active),
            active,
            slots: slots.into_iter().collect(),
        }
    }

    fn check(
        target: &Target,
        observed: &Observed,
        service: &str,
        action: Action,
        stop: Option<String>,
    ) -> Plan {
        let plan = plan(target, observed);
        assert_eq!(plan.services[service], ServicePlan { action, stop });
        plan
    }

    #[test]
    fn what_serves_unchanged_is_kept() {
        let target = target(&[("a", "x")]);
        let observed = observed(&target, &[("a", "x")], vec![slot("a", "x", Condition::Serving, Some(0))]);
        let plan = check(&target, &observed, "a", Action::Keep { slot: name("a", "x", 1) }, None);
        assert!(plan.is_empty());
    }

    #[test]
    fn what_is_broken_is_replaced_under_a_new_name() {
        let target = target(&[("a", "x")]);
        let observed = observed(&target, &[("a", "x")], vec![slot("a", "x", Condition::Broken, Some(0))]);
        let action = Action::Start { slot: name("a", "x", 2), files: Files::Unpack };
        let plan = check(&target, &observed, "a", action, Some(name("a", "x", 1)));
        assert!(!plan.is_empty());
    }

    #[test]
    fn what_served_before_is_started_again_and_the_rest_retired() {
        let target = target(&[("a", "x")]);
        let slots = vec![
            slot("a", "x", Condition::Stopped, Some(1)),
            slot("a", "y", Condition::Stopped, Some(0)),
            slot("a", "z", Condition::Serving, Some(2)),
        ];
        let observed = observed(&target, &[("a", "z")], slots);
        let action = Action::Start { slot: name("a", "x", 1), files: Files::Retained };
        let plan = check(&target, &observed, "a", action, Some(name("a", "z", 1)));
        assert_eq!(plan.retire, [name("a", "y", 1)], "z is the one slot that is kept");
        assert_eq!(plan.edge_generation, 7);
        assert_eq!(plan.routes_after[0].slot, name("a", "x", 1));
    }

    #[test]
    fn a_service_that_is_gone_is_stopped_and_loses_its_routes() {
        let (two, one) = (target(&[("a", "x"), ("b", "x")]), target(&[("a", "x")]));
        let slots =
            vec![slot("a", "x", Condition::Serving, Some(0)), slot("b", "x", Condition::Serving, Some(0))];
        let observed = observed(&two, &[("a", "x"), ("b", "x")], slots);
        let plan = check(&one, &observed, "b", Action::Remove, Some(name("b", "x", 1)));
        assert_eq!((plan.routes_before.len(), plan.routes_after.len()), (2, 1));
    }

    #[test]
    fn a_new_route_alone_is_something_to_do() {
        let target = target(&[("a", "x")]);
        let mut observed =
            observed(&target, &[("a", "x")], vec![slot("a", "x", Condition::Serving, Some(0))]);
        observed.routes.clear();
        let plan = check(&target, &observed, "a", Action::Keep { slot: name("a", "x", 1) }, None);
        assert!(!plan.is_empty());
    }
}
