//! Which packages are in a binary, and which only helped to build it. The truth is what Cargo really compiled, with the
//! features it really used; the graph of `cargo metadata` only says who asked for whom, and names more than is compiled.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, Metadata, Node, NodeDep, PackageId, TargetKind};

/// One compilation that Cargo reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The package.
    pub package: PackageId,
    /// Whether the result runs on the building machine (build scripts, procedural macros and what they need) instead of being
    /// linked for the target.
    pub host: bool,
    /// The features it was compiled with.
    pub features: BTreeSet<String>,
}

/// The packages behind one binary; the service's own package is among those linked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// Linked into the binary.
    pub linked: BTreeSet<PackageId>,
    /// Compiled to build it, and not in it: build scripts, procedural macros, and what these need.
    pub build_only: BTreeSet<PackageId>,
    /// By package: the packages that its code calls on, that its build script calls on, and its procedural macros.
    pub edges: BTreeMap<PackageId, BTreeSet<PackageId>>,
}

/// Splits what was compiled for the binary of the package `root`.
pub fn split(metadata: &Metadata, units: &[Unit], root: &PackageId) -> Split {
    let mut walk = Walk { metadata, units: BTreeMap::new(), seen: BTreeSet::new(), split: Split::default() };
    for unit in units {
        let features: &mut BTreeSet<_> = walk.units.entry((&unit.package, unit.host)).or_default();
        features.extend(unit.features.iter().map(String::as_str));
    }
    walk.visit(root, false);
    let Split { linked, mut build_only, edges } = walk.split;
    // A package can be both: linked, and used by a build script. What is in the binary counts.
    build_only.retain(|package| !linked.contains(package));
    Split { linked, build_only, edges }
}

struct Walk<'a> {
    metadata: &'a Metadata,
    units: BTreeMap<(&'a PackageId, bool), BTreeSet<&'a str>>,
    seen: BTreeSet<(&'a PackageId, bool)>,
    split: Split,
}

impl<'a> Walk<'a> {
    fn visit(&mut self, package: &'a PackageId, host: bool) {
        if !self.seen.insert((package, host)) {
            return;
        }
        let set = if host { &mut self.split.build_only } else { &mut self.split.linked };
        set.insert(package.clone());
        let metadata = self.metadata;
        let Some(node) = node(metadata, package) else { return };
        for dep in &node.deps {
            for kind in [DependencyKind::Normal, DependencyKind::Build] {
                self.follow(package, host, dep, kind);
            }
        }
    }

    fn follow(&mut self, package: &'a PackageId, host: bool, dep: &'a NodeDep, kind: DependencyKind) {
        let declared = dep.dep_kinds.iter().any(|info| info.kind == kind);
        if !declared || !self.is_active(package, host, dep, kind) {
            return;
        }
        let dep_host = host || kind == DependencyKind::Build || is_proc_macro(self.metadata, &dep.pkg);
        // A build script's dependency is only real where the script itself was compiled; what was not compiled is not there.
        if !self.units.contains_key(&(&dep.pkg, dep_host)) {
            return;
        }
        self.split.edges.entry(package.clone()).or_default().insert(dep.pkg.clone());
        self.visit(&dep.pkg, dep_host);
    }

    /// Whether `package`, with the features it was compiled with, asks for `dep` at all.
    fn is_active(&self, package: &PackageId, host: bool, dep: &NodeDep, kind: DependencyKind) -> bool {
        let Some(features) = self.units.get(&(package, host)) else { return false };
        let dep_package = &self.metadata[&dep.pkg];
        let package = &self.metadata[package];
        let requests = package.dependencies.iter().filter(|request| {
            let is_for_target =
                dep.dep_kinds.iter().any(|info| info.kind == kind && info.target == request.target);
            is_for_target
                && request.kind == kind
                && request.name == dep_package.name.as_str()
                && request.req.matches(&dep_package.version)
        });
        let mut requests = requests.peekable();
        if requests.peek().is_none() {
            // A patched or path dependency whose version the request does not match: Cargo resolved it, so it is asked for.
            return true;
        }
        requests.any(|request| {
            let name = request.rename.as_deref().unwrap_or(&request.name);
            !request.optional
                || features.iter().any(|feature| activates(package.features.get(*feature), name))
        })
    }
}

/// Whether a feature with this definition switches the optional dependency `name` on.
fn activates(definition: Option<&Vec<String>>, name: &str) -> bool {
    let switches_on = |item: &String| {
        let item = item.strip_prefix("dep:").unwrap_or(item);
        item.split_once('/').map_or(item, |(dependency, _)| dependency) == name
    };
    definition.is_some_and(|items| items.iter().any(switches_on))
}

fn node<'a>(metadata: &'a Metadata, package: &PackageId) -> Option<&'a Node> {
    metadata.resolve.as_ref()?.nodes.iter().find(|node| node.id == *package)
}

fn is_proc_macro(metadata: &Metadata, package: &PackageId) -> bool {
    metadata[package].targets.iter().any(|target| target.kind.contains(&TargetKind::ProcMacro))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_switches_an_optional_dependency_on() {
        let on =
            |items: &[&str]| activates(Some(&items.iter().map(|item| (*item).to_owned()).collect()), "dep-x");
        assert!(on(&["dep:dep-x"]) && on(&["dep-x"]) && on(&["dep-x/std"]) && on(&["other", "dep:dep-x"]));
        assert!(!on(&["dep-x?/std"]) && !on(&["dep:dep"]) && !on(&["dep-xy/std"]) && !on(&[]));
        assert!(!activates(None, "dep-x"));
    }
}
