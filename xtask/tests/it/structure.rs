//! The edges between the crates are those of `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{Dependency, DependencyKind, MetadataCommand, Package};

/// Which of our crates may depend on which, tests apart. Change it together with `docs/architecture.md`.
const EDGES: &[(&str, &[&str])] = &[
    ("stdx", &[]),
    ("finding", &["stdx"]),
    ("workspace", &["finding", "stdx"]),
    ("oci", &["stdx"]),
    ("release", &["stdx"]),
    ("shard", &["stdx", "workspace"]),
    ("edge", &["stdx"]),
    ("load", &[]),
    ("data", &["finding", "release", "stdx"]),
    ("github", &["finding", "stdx"]),
    ("audit", &["finding", "oci", "stdx"]),
    ("supply", &["stdx"]),
    ("elf", &["stdx"]),
    ("base", &["elf", "oci", "stdx", "supply"]),
    ("registry", &["oci", "stdx"]),
    ("cache", &["registry", "stdx"]),
    ("deps", &["elf", "stdx", "workspace"]),
    ("scan", &["finding", "stdx", "workspace"]),
    ("secrets", &["finding", "oci", "stdx"]),
    ("workflow", &["stdx"]),
    ("build", &["base", "cache", "elf", "oci", "registry", "stdx", "supply", "workspace"]),
    ("docker", &["oci", "stdx"]),
    ("deploy", &["docker", "edge", "finding", "oci", "release", "stdx"]),
    (
        "xtask",
        &[
            "audit",
            "base",
            "build",
            "cache",
            "data",
            "deploy",
            "deps",
            "docker",
            "edge",
            "finding",
            "oci",
            "registry",
            "release",
            "scan",
            "secrets",
            "shard",
            "stdx",
            "supply",
            "workflow",
            "workspace",
        ],
    ),
];

/// Packages below `folder` of this workspace.
fn packages(folder: &str) -> Vec<Package> {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let folder = metadata.workspace_root.join(folder);
    let is_below = |package: &&Package| package.manifest_path.starts_with(&folder);
    metadata.workspace_packages().into_iter().filter(is_below).cloned().collect()
}

#[test]
fn crates_depend_on_what_the_architecture_says_and_on_nothing_else() {
    let ours = |name: &str| name.strip_prefix("slipway-").unwrap_or(name).to_owned();
    let is_used = |dep: &&Dependency| dep.path.is_some() && dep.kind != DependencyKind::Development;
    let edges = |package: &Package| -> BTreeSet<String> {
        package.dependencies.iter().filter(is_used).map(|dep| ours(&dep.name)).collect()
    };
    let real: BTreeMap<String, _> =
        packages("xtask").iter().map(|package| (ours(&package.name), edges(package))).collect();
    let drawn = EDGES
        .iter()
        .map(|(from, to)| ((*from).to_owned(), to.iter().map(|name| (*name).to_owned()).collect()));
    assert_eq!(real, drawn.collect());
}

#[test]
fn nothing_of_the_tool_knows_a_service_by_name() {
    let services: BTreeSet<String> =
        packages("services").iter().map(|package| package.name.to_string()).collect();
    assert!(services.contains("lensing"), "{services:?}");
    for package in packages("xtask") {
        for dependency in &package.dependencies {
            let name = &dependency.name;
            assert!(!services.contains(name), "{} depends on the service crate {name}", package.name);
        }
    }
}
