//! What Cargo is about to compile for each service, as Cargo itself says before it does: its unit graph. The flag is unstable, so
//! the one read-only call is unlocked by `RUSTC_BOOTSTRAP` and has a folder of its own; where Cargo refuses, nothing is cached.
//!
//! Source: Cargo's `--unit-graph`, format version 1 (rust-lang/cargo#8002).

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use cargo_metadata::PackageId;
use serde::Deserialize;
use serde_json::Value;

use crate::plan::{Plan, ServicePlan};

/// A graph beyond this is no workspace that anybody has.
const MOST_UNITS: usize = 200_000;

/// Every compilation of a build of the planned services.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Graph {
    version: u32,
    pub(crate) units: Vec<Unit>,
    roots: Vec<usize>,
}

/// One compilation, or the run of one build script.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Unit {
    #[serde(rename = "pkg_id")]
    pub(crate) package: PackageId,
    pub(crate) target: Target,
    /// All settings of the profile.
    pub(crate) profile: Value,
    /// The target triple; `None` for what runs on this machine.
    pub(crate) platform: Option<String>,
    /// `build`, or `run-custom-build` for a run of a build script.
    pub(crate) mode: String,
    pub(crate) features: BTreeSet<String>,
    dependencies: Vec<Dependency>,
}

#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Target {
    pub(crate) kind: Vec<String>,
    pub(crate) crate_types: Vec<String>,
    pub(crate) name: String,
    pub(crate) edition: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Dependency {
    index: usize,
    #[serde(default)]
    extern_crate_name: String,
}

impl Graph {
    /// Asks Cargo. `scratch` is a folder for what it notes about the compiler meanwhile.
    pub(crate) fn load(plan: &Plan, scratch: &Path) -> Result<Graph> {
        // Cargo keeps what it learns of the compiler in this folder, where there is one.
        stdx::fs::create_dir_all(scratch)?;
        let mut command = plan.command().args(["--unit-graph", "-Zunstable-options"]);
        let target_dir = format!("--target-dir={}", plan.build_dir.display());
        for arg in command.args.iter_mut().filter(|arg| **arg == *target_dir) {
            *arg = format!("--target-dir={}", scratch.display()).into();
        }
        let command = command.env("RUSTC_BOOTSTRAP", "1").env("CARGO_BUILD_BUILD_DIR", scratch);
        Graph::parse(&command.read()?).context("cannot read Cargo's unit graph")
    }

    pub(crate) fn parse(text: &str) -> Result<Graph> {
        let graph: Graph = serde_json::from_str(text)?;
        ensure!(
            graph.version == 1,
            "its format has version {}, and this program knows version 1",
            graph.version
        );
        ensure!(graph.units.len() <= MOST_UNITS, "it has {} units", graph.units.len());
        let dependencies =
            graph.units.iter().flat_map(|unit| &unit.dependencies).map(|dependency| dependency.index);
        let mut indices = dependencies.chain(graph.roots.iter().copied());
        ensure!(indices.all(|index| index < graph.units.len()), "it points to a unit that it does not have");
        Ok(graph)
    }

    /// The units behind the service's binary.
    pub(crate) fn closure(&self, service: &ServicePlan) -> Result<BTreeSet<usize>> {
        let is_root = |index: &&usize| {
            let unit = &self.units[**index];
            unit.package == service.package
                && unit.target.name == service.binary
                && unit.target.kind.iter().any(|kind| kind == "bin")
        };
        let root = self.roots.iter().find(is_root);
        let root = root.with_context(|| format!("Cargo's unit graph has no binary `{}`", service.binary))?;
        let mut todo = vec![*root];
        let mut seen = BTreeSet::new();
        while let Some(index) = todo.pop() {
            if seen.insert(index) {
                todo.extend(self.units[index].dependencies.iter().map(|dependency| dependency.index));
            }
        }
        Ok(seen)
    }

    /// Everything about how the unit is compiled but for its features, its sources and what its dependencies are made of.
    pub(crate) fn settings(&self, unit: &Unit) -> Value {
        let dependency = |dependency: &Dependency| {
            let of = &self.units[dependency.index];
            let name = of.package.repr.rsplit('#').next().unwrap_or_default();
            serde_json::json!([dependency.extern_crate_name, name, of.target.name, of.mode, of.platform])
        };
        let mut dependencies: Vec<Value> = unit.dependencies.iter().map(dependency).collect();
        dependencies.sort_by_key(Value::to_string);
        serde_json::json!({
            "target": [unit.target.kind, unit.target.crate_types, unit.target.name, unit.target.edition],
            "profile": unit.profile,
            "platform": unit.platform,
            "mode": unit.mode,
            "dependencies": dependencies,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_graph_that_is_not_one_is_refused() {
        for text in [
            "",
            "{}",
            "{\"version\":2,\"units\":[],\"roots\":[]}",
            "{\"version\":1,\"units\":[],\"roots\":[0]}",
        ] {
            assert!(Graph::parse(text).is_err(), "{text}");
        }
        assert!(Graph::parse("{\"version\":1,\"units\":[],\"roots\":[]}").is_ok());
    }
}
