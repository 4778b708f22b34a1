//! `cargo xtask test plan`: which shard would run what, and how long that would take.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, anyhow};
use shard::{Builds, Inventory, Plan, Planning, Selector};

use super::Site;
use crate::exit::{Code, ResultExt};
use crate::{flags, render};

/// With less of the test binaries known, a plan of what was there the last time says nothing.
const MIN_KNOWN: f64 = 0.5;

pub(super) fn run(flags: &flags::TestPlan) -> Result<()> {
    let site = Site::open(flags.timings.as_deref())?;
    let plan = match recorded(&site, flags.shards)? {
        Some(plan) if !flags.exact => plan,
        recorded => {
            let binaries = site.build(None)?;
            let inventory = super::inventory(&site, &binaries)?;
            // What each shard would build is known whether it was asked from the binaries or from the past.
            let builds = if recorded.is_some() { Builds::PerShard } else { Builds::Everything };
            Plan { is_exact: true, ..planned(&site, &inventory, flags.shards, builds)? }
        }
    };
    if let Some(path) = &flags.out {
        let path = std::path::absolute(path).context("the current folder is gone")?;
        stdx::fs::write_atomic(&path, &render::test_plan_document(&plan)?, 0o644)?;
    }
    match flags {
        flags::TestPlan { matrix: true, .. } => render::test_matrix(&plan),
        flags => render::test_plan(&plan, flags.json),
    }
}

/// The plan that `--shard` asks for, as far as it can be made before building, and which shard of it.
pub(super) fn for_shard(site: &Site, flags: &flags::TestRun) -> Result<Option<(Plan, u32)>> {
    let Some(shard) = flags.shard else { return Ok(None) };
    let plan = match &flags.plan {
        Some(path) => Some(read(site, path, shard.of).or_exit(Code::Configuration)?),
        None => recorded(site, shard.of)?,
    };
    if let Some(plan) = &plan {
        render::test_plan_summary(plan);
    } else {
        eprintln!(
            "too few test binaries have timings in {}: everything is built",
            site.timings_file.display()
        );
    }
    Ok(plan.map(|plan| (plan, shard.index)))
}

/// A plan of the tests that were there the last time: it needs no build, and places new tests as well. `None` where too little is
/// known.
fn recorded(site: &Site, shards: u32) -> Result<Option<Plan>> {
    let inventory = site.targets.inventory.clone().recall(&site.timings);
    if inventory.listed_share() < MIN_KNOWN {
        return Ok(None);
    }
    planned(site, &inventory, shards, Builds::PerShard).map(Some)
}

/// A plan of tests that were asked from the binaries just now.
pub(super) fn exact(site: &Site, inventory: &Inventory, shards: u32) -> Result<Plan> {
    Ok(Plan { is_exact: true, ..planned(site, inventory, shards, Builds::Everything)? })
}

fn planned(site: &Site, inventory: &Inventory, shards: u32, builds: Builds) -> Result<Plan> {
    let Site { timings, runner, now, .. } = site;
    Plan::new(&Planning { inventory, timings, shards, runner, now: *now, builds }).or_exit(Code::Usage)
}

/// What must be built for a shard; `None` for everything.
pub(super) fn selectors(plan: &Plan, shard: u32) -> Option<BTreeSet<Selector>> {
    match plan.builds {
        Builds::PerShard => Some(plan.selectors(shard)),
        Builds::Everything => None,
    }
}

/// Reads a plan that was written by `test plan --out` for this very workspace.
fn read(site: &Site, path: &Path, shards: u32) -> Result<Plan> {
    let plan = load(path)?;
    if plan.shards.len() != shards as usize {
        return Err(anyhow!("{} is a plan of {} shards", path.display(), plan.shards.len()));
    }
    let planned: BTreeSet<&String> = plan.binaries.keys().collect();
    let here: BTreeSet<&String> = site.targets.inventory.binaries.keys().collect();
    if let Some(other) = planned.symmetric_difference(&here).next() {
        return Err(anyhow!(
            "{} is of another state of the workspace: it differs in {other}; make it again with `cargo xtask test plan`",
            path.display()
        ));
    }
    Ok(plan)
}

/// Reads a plan from a file.
pub(super) fn load(path: &Path) -> Result<Plan> {
    let value: serde_json::Value = serde_json::from_slice(&stdx::fs::read(path)?)
        .with_context(|| format!("{} is no plan", path.display()))?;
    if value["schema"] != render::TEST_PLAN {
        return Err(anyhow!("{} is no `{}`", path.display(), render::TEST_PLAN));
    }
    let plan: Plan =
        serde_json::from_value(value).with_context(|| format!("{} is damaged", path.display()))?;
    plan.verify().with_context(|| format!("cannot use {}", path.display()))?;
    Ok(plan)
}
