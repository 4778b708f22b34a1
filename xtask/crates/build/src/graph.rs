//! What Cargo is about to compile for each service, as Cargo itself says before it does. The flag is unstable, so the one read-only
//! call is unlocked by `RUSTC_BOOTSTRAP` and has a folder of its own; where Cargo refuses, nothing is cached.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use workspace::UnitGraph;

use crate::plan::{Plan, ServicePlan};

/// Asks Cargo for the plan of the planned services. `scratch` is a folder for what it notes about the compiler meanwhile.
pub(crate) fn load(plan: &Plan, scratch: &Path) -> Result<UnitGraph> {
    // Cargo keeps what it learns of the compiler in this folder, where there is one.
    stdx::fs::create_dir_all(scratch)?;
    let mut command = plan.command().args(["--unit-graph", "-Zunstable-options"]);
    let target_dir = format!("--target-dir={}", plan.build_dir.display());
    for arg in command.args.iter_mut().filter(|arg| **arg == *target_dir) {
        *arg = format!("--target-dir={}", scratch.display()).into();
    }
    let command = command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_BUILD_BUILD_DIR", scratch);
    UnitGraph::parse(&command.read()?).context("cannot read Cargo's unit graph")
}

/// The units behind the service's binary.
pub(crate) fn closure(graph: &UnitGraph, service: &ServicePlan) -> Result<BTreeSet<usize>> {
    Ok(graph.behind([graph.binary(&service.package, &service.binary)?]))
}
