//! How what shall run differs from what really runs, for people: images, replicas and names of variables. It knows no
//! reasons and decides nothing. Invariant: no value of a variable is in it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;
use stdx::Digest;

use crate::plan::{Condition, Observed};
use crate::platform::{Description, Platform};
use crate::target::{Target, TargetService};

/// How one service would differ from what runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The slot that serves; `None` for a service that does not run yet.
    pub slot: Option<String>,
    /// What the slot is doing.
    pub condition: Option<Condition>,
    /// The image, before and after, where it changes; absent for what does not run or shall not.
    pub image: Option<(Option<Digest>, Option<Digest>)>,
    /// The number of instances, before and after, where it changes.
    pub replicas: Option<(u32, u32)>,
    /// Variables that would be set and are not.
    pub variables_added: BTreeSet<String>,
    /// Variables that are set and would not be.
    pub variables_removed: BTreeSet<String>,
    /// Variables whose value would change.
    pub variables_changed: BTreeSet<String>,
    /// Whether something else would change that decides how it runs: the value of a secret, bounds, volumes, how it is
    /// stopped.
    pub otherwise_changed: bool,
}

/// The differences by service; services without any are left out.
pub(crate) fn differences(
    target: &Target,
    observed: &Observed,
    platform: &dyn Platform,
) -> Result<BTreeMap<String, Difference>> {
    let names: BTreeSet<_> = target.services.keys().chain(observed.active.keys()).collect();
    let mut differences = BTreeMap::new();
    for name in names {
        let slot = observed.active.get(name);
        let running = match slot {
            Some(slot) => platform.describe(slot)?.map(|found| (found, platform.variables(slot))),
            None => None,
        };
        let running = match running {
            Some((found, variables)) => Some((found, variables?)),
            None => None,
        };
        let condition = slot.and_then(|slot| Some(observed.slots.get(slot)?.condition));
        let mut difference = difference(target.services.get(name), running.as_ref());
        if difference != Difference::default() || condition.is_some_and(|it| it != Condition::Serving) {
            (difference.slot, difference.condition) = (slot.cloned(), condition);
            differences.insert(name.clone(), difference);
        }
    }
    Ok(differences)
}

fn difference(
    target: Option<&TargetService>,
    running: Option<&(Description, BTreeMap<String, String>)>,
) -> Difference {
    let (target, (found, variables)) = match (target, running) {
        (Some(target), Some(running)) => (target, running),
        (target, running) => {
            let image = (running.map(|(found, _)| found.image), target.map(|target| target.image));
            return Difference { image: Some(image), ..Difference::default() };
        }
    };
    // What the image and the platform set is theirs.
    let own: BTreeSet<_> = found
        .variables
        .iter()
        .chain(&target.port_env)
        .chain(target.volumes.iter().filter_map(|volume| volume.path_env.as_ref()))
        .collect();
    let is_other = |name: &&String| !own.contains(*name) && !target.env.contains_key(*name);
    let set = |name: &String| variables.get(name);
    let mut difference = Difference {
        image: (found.image != target.image).then_some((Some(found.image), Some(target.image))),
        replicas: (found.replicas != target.replicas).then_some((found.replicas, target.replicas)),
        variables_added: target.env.keys().filter(|name| set(name).is_none()).cloned().collect(),
        variables_removed: variables.keys().filter(is_other).cloned().collect(),
        variables_changed: target
            .env
            .iter()
            .filter(|(name, value)| set(name).is_some_and(|running| running != *value))
            .map(|(name, _)| name.clone())
            .collect(),
        ..Difference::default()
    };
    difference.otherwise_changed = found.run != target.run && difference == Difference::default();
    difference
}
