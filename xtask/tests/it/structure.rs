//! The edges between the crates are those of `docs/architecture.md`.

use std::collections::{BTreeMap, BTreeSet};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// Which of our crates may depend on which, tests apart. Change it together with `docs/architecture.md`.
const EDGES: [(&str, &[&str]); 11] = [
    ("stdx", &[]),
    ("workspace", &["stdx"]),
    ("oci", &["stdx"]),
    ("release", &["stdx"]),
    ("edge", &["stdx"]),
    ("load", &["stdx"]),
    ("base", &["oci", "stdx"]),
    ("supply", &["stdx"]),
    ("build", &["base", "oci", "stdx", "supply", "workspace"]),
    ("deploy", &["edge", "oci", "release", "stdx"]),
    ("xtask", &["build", "deploy", "edge", "load", "oci", "release", "stdx", "workspace"]),
];

#[test]
fn crates_depend_only_on_what_the_architecture_allows() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let ours = |name: &str| name.strip_prefix("slipway-").unwrap_or(name).to_owned();
    let allowed: BTreeMap<&str, BTreeSet<String>> =
        EDGES.iter().map(|(from, to)| (*from, to.iter().map(|name| (*name).to_owned()).collect())).collect();
    for package in metadata.workspace_packages() {
        if !package.manifest_path.as_str().contains("/xtask/") {
            continue;
        }
        let name = ours(&package.name);
        let allowed =
            allowed.get(name.as_str()).unwrap_or_else(|| panic!("{name} is not in the list of edges"));
        let used = package
            .dependencies
            .iter()
            .filter(|dep| dep.path.is_some() && dep.kind != DependencyKind::Development);
        for dependency in used {
            assert!(
                allowed.contains(&ours(&dependency.name)),
                "{name} must not depend on {}",
                dependency.name
            );
        }
    }
}

#[test]
fn nothing_of_the_tool_knows_a_service_by_name() {
    let metadata = MetadataCommand::new().no_deps().exec().unwrap();
    let is_service = |path: &str| path.contains("/services/") && path.ends_with("Cargo.toml");
    let services: BTreeSet<String> = metadata
        .workspace_packages()
        .iter()
        .filter(|package| is_service(package.manifest_path.as_str()))
        .map(|package| package.name.to_string())
        .collect();
    assert!(services.contains("lensing"), "{services:?}");
    for package in
        metadata.workspace_packages().iter().filter(|package| !services.contains(package.name.as_str()))
    {
        for dependency in &package.dependencies {
            assert!(
                !services.contains(&dependency.name),
                "{} depends on the service crate {}",
                package.name,
                dependency.name
            );
        }
    }
}
