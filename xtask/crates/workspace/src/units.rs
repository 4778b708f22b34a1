//! Cargo's unit graph: every compilation that a build of the services would be, with the features that it would have, without
//! compiling anything. The flag is unstable, so the one read-only call is unlocked by `RUSTC_BOOTSTRAP` and writes only into
//! a folder of its own: nothing of it reaches the builds of images. It does not know what the packages are good or bad for.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use cargo_metadata::{DependencyKind, NodeDep, Package, PackageId};
use stdx::Cmd;

use crate::cargo::CargoConfig;
use crate::graph::UnitGraph;
use crate::load::{Network, Service, Workspace, cargo};

/// The packages behind one binary, with the features that each is compiled with.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Closure {
    /// Linked into the binary; the service's own package is one of them.
    pub linked: BTreeMap<String, BTreeSet<String>>,
    /// Compiled and run to build it, and not in it: build scripts, procedural macros, and what these need.
    pub build_only: BTreeMap<String, BTreeSet<String>>,
    /// By package: the packages that a compilation of it needs, whatever for.
    pub edges: BTreeMap<String, BTreeSet<String>>,
}

/// What each service is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closures {
    /// By service; package ids are those of `cargo metadata`.
    pub services: BTreeMap<String, Closure>,
    /// Why this is more than what is really compiled, where Cargo would not tell exactly.
    pub warning: Option<String>,
}

/// The graph of one workspace.
struct Graph(UnitGraph);

impl Closures {
    /// Asks Cargo. Where it refuses, everything that was resolved counts as linked, with a warning: never less than the truth.
    /// Where there is no service, each package of the workspace stands for one.
    ///
    /// `scratch` is a folder that Cargo may keep what it learns of the compiler in.
    pub fn load(workspace: &Workspace, cargo: &CargoConfig, network: Network, scratch: &Path) -> Closures {
        if workspace.services.is_empty() {
            return Closures::of_libraries(workspace);
        }
        let exact = builds(workspace, cargo, scratch)
            .args(network.cargo_flag())
            .read()
            .and_then(|text| Graph::parse(&text, workspace)?.closures(workspace))
            .context("cannot read Cargo's unit graph");
        match exact {
            Ok(services) => Closures { services, warning: None },
            Err(error) => {
                let warning = format!(
                    "{error:#}; every package that was resolved for a service counts as linked into it"
                );
                let services = workspace.services.iter();
                let resolved = |service: &Service| resolved(workspace, &service.package, |_| true);
                let services = services.map(|(name, service)| (name.clone(), resolved(service)));
                Closures { services: services.collect(), warning: Some(warning) }
            }
        }
    }

    /// What the tests of each service's package are made of, by service. Asks Cargo, compiles nothing.
    ///
    /// # Errors
    /// When Cargo refuses, or its answer is not of the known format.
    pub fn of_tests(
        workspace: &Workspace,
        cargo: &CargoConfig,
        network: Network,
        scratch: &Path,
    ) -> Result<BTreeMap<String, Closure>> {
        let text = tests(workspace, cargo, scratch).args(network.cargo_flag()).read();
        let read = text.and_then(|text| Ok(Graph::parse(&text, workspace)?.test_closures(workspace)));
        read.context("cannot read Cargo's unit graph of the tests")
    }

    /// Whoever depends on a library links what the library needs, but for its tests.
    fn of_libraries(workspace: &Workspace) -> Closures {
        let is_shipped = |dependency: &NodeDep| {
            dependency.dep_kinds.iter().any(|kind| kind.kind != DependencyKind::Development)
        };
        let members = workspace.metadata.workspace_packages().into_iter();
        let of = |member: &Package| (member.name.to_string(), resolved(workspace, &member.id, is_shipped));
        let warning = "no package of this workspace has a binary; every package that was resolved for its libraries, but for their \
                       tests, counts as linked";
        Closures { services: members.map(of).collect(), warning: Some(warning.to_owned()) }
    }
}

/// The command of a build of all services (see the decision on closed sets of services), asked for its plan.
fn builds(workspace: &Workspace, cargo_config: &CargoConfig, scratch: &Path) -> Cmd {
    let services = workspace.services.values();
    command("build", workspace, cargo_config, scratch)
        .args(services.map(|service| format!("--bin={}", service.binary)))
}

/// The same of their tests.
fn tests(workspace: &Workspace, cargo_config: &CargoConfig, scratch: &Path) -> Cmd {
    command("test", workspace, cargo_config, scratch)
}

fn command(verb: &str, workspace: &Workspace, cargo_config: &CargoConfig, scratch: &Path) -> Cmd {
    let services = workspace.services.values();
    cargo()
        .args([verb, "--locked", "--quiet", "--unit-graph", "-Zunstable-options"])
        .arg(format!("--profile={}", workspace.settings.build.profile))
        .arg(format!("--target={}", cargo_config.target))
        .arg(format!("--target-dir={}", scratch.display()))
        .args(workspace.settings.build.feature_args())
        .args(services.map(|service| format!("--package={}", service.package)))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_BUILD_BUILD_DIR", scratch)
        // Dependencies can hang on what is configured: `[target.'cfg(tokio_unstable)'.dependencies]`.
        .env("CARGO_ENCODED_RUSTFLAGS", cargo_config.image_rustflags().join("\x1f"))
        .env_remove("RUSTFLAGS")
        .cwd(&workspace.root)
}

impl Graph {
    fn parse(text: &str, workspace: &Workspace) -> Result<Graph> {
        let graph = UnitGraph::parse(text)?;
        let known: BTreeSet<&PackageId> =
            workspace.metadata.packages.iter().map(|package| &package.id).collect();
        if let Some(unit) = graph.units.iter().find(|unit| !known.contains(&unit.package)) {
            bail!("it names the package {}, which the dependency graph does not have", unit.package);
        }
        Ok(Graph(graph))
    }

    fn closures(&self, workspace: &Workspace) -> Result<BTreeMap<String, Closure>> {
        let closure = |service: &Service| -> Result<Closure> {
            Ok(self.closure([self.0.binary(&service.package, &service.binary)?]))
        };
        workspace.services.iter().map(|(name, service)| Ok((name.clone(), closure(service)?))).collect()
    }

    fn test_closures(&self, workspace: &Workspace) -> BTreeMap<String, Closure> {
        let closure =
            |service: &Service| self.closure(self.0.roots_that(|unit| unit.package == service.package));
        workspace.services.iter().map(|(name, service)| (name.clone(), closure(service))).collect()
    }

    /// What is compiled for the target and is no build script is linked; what else is compiled only builds.
    fn closure(&self, roots: impl IntoIterator<Item = usize>) -> Closure {
        let mut closure = Closure::default();
        for unit in self.0.behind(roots).into_iter().map(|index| &self.0.units[index]) {
            let id = &unit.package.repr;
            for needed in self.0.needs(unit).map(|index| &self.0.units[index].package.repr) {
                if needed != id {
                    closure.edges.entry(id.clone()).or_default().insert(needed.clone());
                }
            }
            // Running a build script is a unit of its own, of the target, that compiles nothing.
            let set = match (unit.mode.as_str(), &unit.platform) {
                ("build" | "test", Some(_)) => &mut closure.linked,
                ("build", None) => &mut closure.build_only,
                _ => continue,
            };
            set.entry(id.clone()).or_default().extend(unit.features.iter().cloned());
        }
        closure.build_only.retain(|package, _| !closure.linked.contains_key(package));
        closure
    }
}

/// Everything that Cargo resolved for the package over dependencies that `follow` wants, as linked.
fn resolved(workspace: &Workspace, package: &PackageId, follow: impl Fn(&NodeDep) -> bool) -> Closure {
    let nodes = workspace.nodes();
    let mut linked = BTreeMap::new();
    let mut todo = vec![package];
    while let Some(id) = todo.pop() {
        let Some(node) = nodes.get(id).filter(|_| !linked.contains_key(&id.repr)) else { continue };
        linked.insert(id.repr.clone(), node.features.iter().map(ToString::to_string).collect());
        todo.extend(
            node.deps.iter().filter(|dependency| follow(dependency)).map(|dependency| &dependency.pkg),
        );
    }
    let edge = |id: &String| {
        let node = nodes.iter().find(|(known, _)| known.repr == *id)?.1;
        let needed = node.deps.iter().filter(|dependency| follow(dependency));
        Some((id.clone(), needed.map(|dependency| dependency.pkg.repr.clone()).collect()))
    };
    let edges = linked.keys().filter_map(edge).collect();
    Closure { linked, build_only: BTreeMap::new(), edges }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::tests::{graph, unit};

    #[test]
    fn what_builds_and_what_is_linked_are_told_apart() {
        let target = Some("x86_64-unknown-linux-gnu");
        let units = vec![
            unit("app", target, "build", &[1, 2, 5]),
            unit("library", target, "build", &[3, 6]),
            unit("macro", None, "build", &[6]),
            // Running the script of `library`, then the script itself.
            unit("library", target, "run-custom-build", &[4]),
            unit("library", None, "build", &[7]),
            unit("shared", target, "build", &[]),
            unit("shared", None, "build", &[]),
            unit("cc", None, "build", &[]),
            unit("unrelated", target, "build", &[]),
        ];
        let closure = Graph(graph(units, &[0])).closure([0]);
        assert_eq!(closure.linked.keys().collect::<Vec<_>>(), ["app", "library", "shared"]);
        assert_eq!(closure.build_only.keys().collect::<Vec<_>>(), ["cc", "macro"]);
    }
}
