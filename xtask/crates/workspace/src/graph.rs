//! Cargo's unit graph as it is: every compilation that a build would be, and what each needs. It runs nothing and does not know what
//! the packages are good for. Invariant: every index in it leads to a unit.
//!
//! Source: Cargo's `--unit-graph`, format version 1 (rust-lang/cargo#8002).

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use cargo_metadata::PackageId;
use serde::Deserialize;
use serde_json::Value;

/// A graph beyond this is no workspace that anybody has.
const MOST_UNITS: usize = 200_000;

/// Every compilation of a build.
#[derive(Debug, Clone, Deserialize)]
pub struct UnitGraph {
    version: u32,
    /// In Cargo's order; others point to them by their place in it.
    pub units: Vec<GraphUnit>,
    roots: Vec<usize>,
}

/// One compilation, or the run of one build script.
#[derive(Debug, Clone, Deserialize)]
pub struct GraphUnit {
    /// The package that is compiled.
    #[serde(rename = "pkg_id")]
    pub package: PackageId,
    /// What of it.
    pub target: UnitTarget,
    /// All settings of the profile.
    #[serde(default)]
    pub profile: Value,
    /// The target triple; `None` for what runs on this machine.
    pub platform: Option<String>,
    /// `build`, `test`, or `run-custom-build` for a run of a build script.
    pub mode: String,
    /// The features that it is compiled with.
    pub features: BTreeSet<String>,
    dependencies: Vec<Dependency>,
}

/// A library, binary, test or build script of a package.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct UnitTarget {
    /// `lib`, `bin`, `custom-build` and others.
    pub kind: Vec<String>,
    /// What the compiler is asked for.
    #[serde(default)]
    pub crate_types: Vec<String>,
    /// Its name.
    pub name: String,
    /// Its edition.
    #[serde(default)]
    pub edition: String,
}

#[derive(Debug, Clone, Deserialize)]
struct Dependency {
    index: usize,
    #[serde(default)]
    extern_crate_name: String,
}

impl UnitGraph {
    /// Reads what Cargo prints.
    ///
    /// # Errors
    /// Text of another format, or that points to units that it does not have.
    pub fn parse(text: &str) -> Result<UnitGraph> {
        let graph: UnitGraph = serde_json::from_str(text)?;
        let version = graph.version;
        ensure!(version == 1, "its format has version {version}, and this program knows version 1");
        ensure!(graph.units.len() <= MOST_UNITS, "it has {} units", graph.units.len());
        let needed =
            graph.units.iter().flat_map(|unit| &unit.dependencies).map(|dependency| dependency.index);
        let mut indices = needed.chain(graph.roots.iter().copied());
        ensure!(indices.all(|index| index < graph.units.len()), "it points to a unit that it does not have");
        Ok(graph)
    }

    /// What was asked for, as far as it is `wanted`.
    pub fn roots_that(&self, wanted: impl Fn(&GraphUnit) -> bool) -> impl Iterator<Item = usize> {
        self.roots.iter().copied().filter(move |index| wanted(&self.units[*index]))
    }

    /// The unit that links the binary `name` of the package.
    ///
    /// # Errors
    /// When that is not what was asked for.
    pub fn binary(&self, package: &PackageId, name: &str) -> Result<usize> {
        let is_it = |unit: &GraphUnit| {
            unit.package == *package
                && unit.target.name == name
                && unit.target.kind.iter().any(|kind| kind == "bin")
        };
        let found = self.roots_that(is_it).next();
        found.with_context(|| format!("Cargo's unit graph has no binary `{name}` of {package}"))
    }

    /// The units, and all that they need.
    pub fn behind(&self, units: impl IntoIterator<Item = usize>) -> BTreeSet<usize> {
        let mut todo: Vec<usize> = units.into_iter().collect();
        let mut seen = BTreeSet::new();
        while let Some(index) = todo.pop() {
            if seen.insert(index) {
                todo.extend(self.needs(&self.units[index]));
            }
        }
        seen
    }

    /// The units that the unit needs itself.
    pub fn needs(&self, unit: &GraphUnit) -> impl Iterator<Item = usize> {
        unit.dependencies.iter().map(|dependency| dependency.index)
    }

    /// Everything about how the unit is compiled but for its features, its sources and what its dependencies are made of.
    pub fn settings(&self, unit: &GraphUnit) -> Value {
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
pub(crate) mod tests {
    use super::*;

    /// A unit by the name of its package.
    pub(crate) fn unit(id: &str, platform: Option<&str>, mode: &str, needs: &[usize]) -> GraphUnit {
        GraphUnit {
            package: PackageId { repr: id.into() },
            target: UnitTarget { kind: vec!["lib".into()], name: id.into(), ..UnitTarget::default() },
            profile: Value::Null,
            platform: platform.map(str::to_owned),
            mode: mode.into(),
            features: BTreeSet::new(),
            dependencies: needs
                .iter()
                .map(|index| Dependency { index: *index, extern_crate_name: String::new() })
                .collect(),
        }
    }

    pub(crate) fn graph(units: Vec<GraphUnit>, roots: &[usize]) -> UnitGraph {
        UnitGraph { version: 1, units, roots: roots.to_vec() }
    }

    #[test]
    fn a_graph_that_is_not_one_is_refused() {
        let unit = "{\"pkg_id\":\"a\",\"target\":{\"kind\":[],\"name\":\"a\"},\"platform\":null,\"mode\":\"build\",\"features\":[],\
                    \"dependencies\":[{\"index\":1}]}";
        let pointing = format!("{{\"version\":1,\"units\":[{unit}],\"roots\":[0]}}");
        for text in [
            "",
            "{}",
            "{\"version\":2,\"units\":[],\"roots\":[]}",
            "{\"version\":1,\"units\":[],\"roots\":[0]}",
            &pointing,
        ] {
            assert!(UnitGraph::parse(text).is_err(), "{text}");
        }
        assert!(UnitGraph::parse("{\"version\":1,\"units\":[],\"roots\":[]}").is_ok());
    }

    #[test]
    fn a_binary_has_all_that_it_needs_behind_it() {
        let mut app = unit("app", Some("t"), "build", &[1]);
        app.target.kind = vec!["bin".into()];
        let graph = graph(
            vec![
                app,
                unit("a", Some("t"), "build", &[2]),
                unit("b", None, "build", &[]),
                unit("c", None, "build", &[]),
            ],
            &[0],
        );
        let id = PackageId { repr: "app".into() };
        assert_eq!(graph.behind([graph.binary(&id, "app").unwrap()]), BTreeSet::from([0, 1, 2]));
        assert!(graph.binary(&id, "other").is_err());
    }
}
