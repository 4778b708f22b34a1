//! What a workspace that has never heard of this tool holds: which binaries look like services, which are helpers, and why;
//! and the `slipway.yaml` that says so. It decides from what Cargo says and from nothing else: what cannot be known, such as
//! ports, is left to a comment.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use cargo_metadata::{Metadata, Package, Target, TargetKind};
use serde::Serialize;

use crate::services::{folder, is_tool, preferred};

/// A binary that becomes a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Binary {
    /// Name of the service.
    pub service: String,
    /// Package that it is in.
    pub package: String,
    /// Binary target.
    pub binary: String,
    /// Features that it needs and that are not on by default, as `package/feature`.
    pub features: Vec<String>,
    /// Why it was chosen.
    pub reason: String,
}

/// A binary that does not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LeftOut {
    /// Package that it is in.
    pub package: String,
    /// Binary target.
    pub binary: String,
    /// Why it was left out.
    pub reason: String,
}

/// What was found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Discovery {
    /// By name.
    pub services: Vec<Binary>,
    /// By package and name.
    pub left_out: Vec<LeftOut>,
    /// Packages that have a `service.yaml`: these say what is a service, and nothing needs to be chosen.
    pub declared: Vec<String>,
}

/// Folders of helpers, by what Cargo's own projects and their users call them.
const HELPER_FOLDERS: [&str; 9] =
    ["examples", "example", "tests", "benches", "benchmarks", "fuzz", "fuzzers", "xtask", "scripts"];

/// How folders of helpers end, such as `integration-tests`.
const HELPER_ENDINGS: [&str; 4] = ["-test", "-tests", "_tests", "-examples"];

impl Discovery {
    /// Looks at the packages that `cargo metadata --no-deps` tells of. `declared` are those that have a `service.yaml`.
    pub fn of(metadata: &Metadata, declared: &BTreeSet<PathBuf>) -> Discovery {
        let packages = metadata.workspace_packages();
        let has_file = |package: &&&Package| declared.contains(folder(package));
        let mut discovery = Discovery {
            declared: packages.iter().filter(has_file).map(|package| package.name.to_string()).collect(),
            ..Discovery::default()
        };
        let defaults = defaults(metadata);
        let mut candidates = Vec::new();
        for package in packages {
            let reason = helper(package, metadata.workspace_root.as_std_path());
            let reason = reason.or_else(|| {
                let is_default = defaults.as_ref().is_none_or(|set| set.contains(&package.name.as_str()));
                (!is_default).then(|| "its package is no default member of the workspace".to_owned())
            });
            for target in binary_targets(package) {
                match reason.clone().or_else(|| not_default(package, target)) {
                    Some(reason) => discovery.left_out.push(LeftOut::new(package, target, reason)),
                    None => candidates.push((package, target)),
                }
            }
        }
        // A workspace may consist of what others have beside their services.
        if candidates.iter().any(|(package, target)| other_purpose(package, target).is_none()) {
            candidates.retain(|(package, target)| {
                let reason = other_purpose(package, target);
                let left_out = reason.map(|reason| LeftOut::new(package, target, reason));
                let is_kept = left_out.is_none();
                discovery.left_out.extend(left_out);
                is_kept
            });
        }
        let binaries = choose(candidates, &mut discovery.left_out);
        discovery.services = named(binaries);
        discovery.left_out.sort_by(|a, b| (&a.package, &a.binary).cmp(&(&b.package, &b.binary)));
        discovery
    }

    /// Whether the workspace has any binary at all.
    pub fn has_binary(&self) -> bool {
        !self.services.is_empty() || !self.left_out.is_empty()
    }

    /// The text of a `slipway.yaml` that says what was found.
    pub fn settings(&self) -> String {
        let mut text = HEAD.to_owned();
        self.write_build(&mut text);
        if self.declared.is_empty() {
            self.write_services(&mut text);
        } else {
            let packages = self.declared.join(", ");
            text += &format!("\n# Services are the packages that have a service.yaml: {packages}.\n");
        }
        text + TAIL
    }

    fn write_build(&self, text: &mut String) {
        *text += BUILD;
        let features: BTreeSet<&str> =
            self.services.iter().flat_map(|service| service.features.iter().map(String::as_str)).collect();
        if features.is_empty() {
            *text += "  # features: [package/feature]   # beyond the default ones\n";
        } else {
            let features: Vec<&str> = features.into_iter().collect();
            *text += &format!(
                "  # Binaries say that they need these, and they are not on by default.\n  features: [{}]\n",
                features.join(", ")
            );
        }
    }

    fn write_services(&self, text: &mut String) {
        *text += SERVICES;
        for service in &self.services {
            text.push_str(&entry(service, ""));
        }
        if !self.left_out.is_empty() {
            *text += "  # Left out; take the `#` away to make one an image:\n";
        }
        for left_out in &self.left_out {
            let service = Binary {
                service: image_name(&left_out.binary),
                package: left_out.package.clone(),
                binary: left_out.binary.clone(),
                features: vec![],
                reason: left_out.reason.clone(),
            };
            text.push_str(&entry(&service, "# "));
        }
    }
}

/// The lines of one service.
fn entry(service: &Binary, mark: &str) -> String {
    let mut keys = Vec::new();
    if service.service != service.binary {
        keys.push(format!("image: {{ binary: {} }}", word(&service.binary)));
    }
    if service.service != service.binary || service.package != service.binary {
        keys.insert(0, format!("package: {}", word(&service.package)));
    }
    let mut text = String::new();
    let comment = format!("# {}", service.reason);
    // Writing to a text does not fail.
    if keys.is_empty() {
        writeln!(text, "  {mark}{}: {{}}   {comment}", word(&service.service)).ok();
    } else {
        writeln!(text, "  {mark}{}:   {comment}", word(&service.service)).ok();
        keys.iter().for_each(|key| _ = writeln!(text, "  {mark}  {key}"));
    }
    text
}

/// A text as YAML takes it for one: `1` and `no` would be something else.
fn word(text: &str) -> String {
    let is_other =
        ["true", "false", "yes", "no", "on", "off", "null", "y", "n"].contains(&text.to_lowercase().as_str());
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic()) && !is_other;
    if is_plain { text.to_owned() } else { format!("\"{text}\"") }
}

impl LeftOut {
    fn new(package: &Package, target: &Target, reason: String) -> LeftOut {
        LeftOut { package: package.name.to_string(), binary: target.name.clone(), reason }
    }
}

fn binary_targets(package: &Package) -> impl Iterator<Item = &Target> {
    package.targets.iter().filter(|target| target.kind.contains(&TargetKind::Bin))
}

/// The default members, where one of them has a binary that could be meant: a workspace whose default members are libraries does
/// not say by them what runs.
fn defaults(metadata: &Metadata) -> Option<BTreeSet<&str>> {
    let root = metadata.workspace_root.as_std_path();
    if !metadata.workspace_default_members.is_available() {
        return None;
    }
    let packages = metadata.workspace_default_packages();
    let is_meant =
        |package: &&Package| binary_targets(package).next().is_some() && helper(package, root).is_none();
    packages.iter().any(is_meant).then(|| packages.iter().map(|package| package.name.as_str()).collect())
}

/// Why the package is a helper of those who work on the workspace.
fn helper(package: &Package, root: &Path) -> Option<String> {
    if is_tool(package) {
        return Some("it is a tool of the workspace".to_owned());
    }
    let is_fuzzer = package.metadata.get("cargo-fuzz").and_then(|value| value.as_bool()).unwrap_or(false);
    if is_fuzzer {
        return Some("it is a fuzz target".to_owned());
    }
    let below = folder(package).strip_prefix(root).ok()?;
    let is_helper = |part: &&std::ffi::OsStr| {
        let part = part.to_string_lossy();
        HELPER_FOLDERS.contains(&&*part) || HELPER_ENDINGS.iter().any(|ending| part.ends_with(ending))
    };
    let helper = below.iter().find(is_helper)?;
    Some(format!("its package lies in `{}`", helper.display()))
}

/// Why `cargo run` would not run this binary.
fn not_default(package: &Package, target: &Target) -> Option<String> {
    let default = package.default_run.as_ref().filter(|name| **name != target.name)?;
    Some(format!("the package's `default-run` is {default}"))
}

/// Why a single binary is less likely to be served than others.
fn other_purpose(package: &Package, target: &Target) -> Option<String> {
    if target.name.starts_with("cargo-") {
        return Some("it is a subcommand of Cargo".to_owned());
    }
    let feature = target.required_features.iter().find(|feature| !is_default(package, feature))?;
    Some(format!("it needs the feature {feature}, which is not on by default"))
}

/// Of a package with several binaries, the one that `cargo run` or the package's name points to, else all.
fn choose<'a>(
    candidates: Vec<(&'a Package, &'a Target)>,
    left_out: &mut Vec<LeftOut>,
) -> Vec<(&'a Package, &'a Target, String)> {
    let mut of_package: BTreeMap<&str, usize> = BTreeMap::new();
    for (package, _) in &candidates {
        *of_package.entry(package.name.as_str()).or_default() += 1;
    }
    let mut chosen = Vec::new();
    for (package, target) in candidates {
        let count = of_package[package.name.as_str()];
        let preferred = preferred(package).ok();
        match preferred {
            Some(preferred) if count > 1 && preferred != target.name => {
                left_out.push(LeftOut::new(package, target, format!("{preferred} has the package's name")));
            }
            Some(_) if count > 1 => chosen.push((package, target, "it has the package's name".to_owned())),
            _ if count > 1 => {
                chosen.push((package, target, format!("one of {count} binaries of {}", package.name)));
            }
            _ if package.default_run.as_deref() == Some(target.name.as_str()) => {
                chosen.push((package, target, "the package's `default-run`".to_owned()));
            }
            _ => chosen.push((package, target, format!("the binary of {}", package.name))),
        }
    }
    chosen
}

/// Gives each binary the name of its service: the binary's own, and in front of it the package's where two have the same.
fn named(binaries: Vec<(&Package, &Target, String)>) -> Vec<Binary> {
    let mut count: BTreeMap<String, usize> = BTreeMap::new();
    for (_, target, _) in &binaries {
        *count.entry(image_name(&target.name)).or_default() += 1;
    }
    let service = |(package, target, reason): (&Package, &Target, String)| {
        let plain = image_name(&target.name);
        let is_unique = count.get(&plain) == Some(&1);
        let service =
            if is_unique { plain } else { image_name(&format!("{}-{}", package.name, target.name)) };
        let needed = target.required_features.iter().filter(|feature| !is_default(package, feature));
        Binary {
            service,
            package: package.name.to_string(),
            binary: target.name.clone(),
            features: needed.map(|feature| format!("{}/{feature}", package.name)).collect(),
            reason,
        }
    };
    let mut services: Vec<Binary> = binaries.into_iter().map(service).collect();
    services.sort_by(|a, b| a.service.cmp(&b.service));
    services
}

/// Whether the package's default features switch this one on.
fn is_default(package: &Package, feature: &str) -> bool {
    let mut todo = vec!["default"];
    let mut seen = BTreeSet::new();
    while let Some(name) = todo.pop() {
        if name == feature {
            return true;
        }
        if seen.insert(name) {
            todo.extend(package.features.get(name).into_iter().flatten().map(String::as_str));
        }
    }
    false
}

/// A name that registries take.
fn image_name(name: &str) -> String {
    let plain = name.to_lowercase();
    let parts = plain.split(|c: char| !c.is_ascii_alphanumeric()).filter(|part| !part.is_empty());
    let mut text = String::new();
    for part in parts {
        if !text.is_empty() {
            // The separator that the name has there, where a registry takes it.
            text.push(if plain.contains('_') && !plain.contains('-') { '_' } else { '-' });
        }
        text.push_str(part);
    }
    text
}

const HEAD: &str = "\
# What `cargo xtask build` goes by (as `cargo slipway build` where this workspace has an `xtask` of its own). Every key is
# optional; unknown keys are refused with file and line.
";

const BUILD: &str = "
build:
  profile: release   # a Cargo profile: `release` or one that inherits from it
  # target: x86_64-unknown-linux-musl   # default: this machine's processor with glibc, linked statically
";

const SERVICES: &str = "
# Each of these becomes an image, and no other binary is built. Several can share a package, and even a binary with other
# arguments. A service can also say what is needed to run it:
#   http: { port: 8000 }            # where it listens: never guessed
#   health: { path: /health }       # what a deployment asks before it sends requests
#   env: { LOG_LEVEL: { default: info } }
#   image: { args: [serve], assets: [{ from: migrations, to: /app/migrations }] }   # paths in the package's folder
#   volumes: [{ name: data, path: /data }]
services:
";

const TAIL: &str = "
# image:
#   prefix: registry.example.com/team/   # in front of the service's name
#   vendor: Example Inc.
";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    #[test]
    fn whatever_the_names_the_file_reads_back_as_what_was_found() {
        let binary = |name: &str| Binary {
            service: image_name(name),
            package: format!("{name}-package"),
            binary: name.to_owned(),
            features: vec![format!("{name}/extra")],
            reason: "a reason: with `marks` # and more".to_owned(),
        };
        let names = ["api", "1", "no", "True", "A_b", "a--b", "x_1-y", "null", "1e3"];
        let left_out = LeftOut { package: "p".into(), binary: "left".into(), reason: "it: is".into() };
        let discovery = Discovery {
            services: names.iter().map(|name| binary(name)).collect(),
            left_out: vec![left_out],
            declared: vec![],
        };
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(Settings::FILE), discovery.settings()).unwrap();
        let settings = Settings::load(folder.path()).unwrap();
        let services = settings.services.unwrap();
        let expected: BTreeSet<String> = names.iter().map(|name| image_name(name)).collect();
        assert_eq!(services.keys().cloned().collect::<BTreeSet<_>>(), expected);
        for name in names {
            let entry = services[&image_name(name)].clone().unwrap();
            assert_eq!(entry.package, Some(format!("{name}-package")));
            let wanted = entry.image.binary.unwrap_or_else(|| image_name(name));
            assert_eq!(wanted, name);
        }
        assert_eq!(settings.build.features.len(), names.len());
    }
}
