//! The flake builds what `cargo xtask build` builds. Its outputs are evaluated against stubs of its inputs (`ci/nix/outputs.nix`)
//! and compared with the plan of this very workspace, so that neither can change alone. Nothing is built here.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Fixture, is_required};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap()
}

/// Standard output of a program of Nix; `None` where Nix is not installed and need not be.
fn nix(program: &str, args: &[&str]) -> Option<String> {
    let output = match Command::new(program).args(args).current_dir(root()).output() {
        Ok(output) => output,
        Err(error) => {
            assert!(!is_required("nix"), "nix is required, and {program} cannot be run: {error}");
            eprintln!("skipped: {program} is not installed (Debian: apt-get install nix-bin)");
            return None;
        }
    };
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The flake's outputs as data.
fn outputs() -> Option<Value> {
    let args = ["--eval", "--strict", "--json", "--store", "dummy://", "ci/nix/outputs.nix"];
    Some(serde_json::from_str(&nix("nix-instantiate", &args)?).unwrap())
}

/// The plan of building `services` of this workspace, without what this process would add.
fn plan(services: &[&str]) -> Value {
    let mut command = Fixture::at(root()).command(&[&["build", "--dry-run", "--json"], services].concat());
    for name in std::env::vars().map(|(name, _)| name) {
        if name.contains("FLAGS") || name == "SOURCE_DATE_EPOCH" {
            command.env_remove(name);
        }
    }
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text"))
}

/// The system of Nix that makes the plan's target.
fn system(plan: &Value) -> String {
    format!("{}-linux", text(&plan["target"]).split('-').next().unwrap())
}

/// The invocation of a plan in the flake's words: without what differs by folder or says only how to report.
fn invocation_of_plan(plan: &Value) -> Vec<String> {
    let differs = ["build", "--quiet", "--message-format=", "--target-dir="];
    let args = plan["cargo_args"].as_array().unwrap().iter().map(text);
    let kept = args.filter(|arg| !differs.iter().any(|other| arg.starts_with(other)));
    let named = |arg: &str| match arg.strip_prefix("--package=") {
        Some(id) => {
            let (folder, fragment) = id.rsplit_once('#').unwrap();
            let name = fragment.split_once('@').map_or(folder.rsplit('/').next().unwrap(), |(name, _)| name);
            format!("--package={name}")
        }
        None => arg.to_owned(),
    };
    kept.map(named).collect()
}

/// The invocation of a derivation; its build tool adds the profile, which is `release` where none is set.
fn invocation_of_flake(arguments: &Value) -> Vec<String> {
    assert_eq!(arguments["CARGO_PROFILE"], Value::Null, "another profile than the one compared here");
    let mut args: Vec<String> = ["cargoExtraArgs", "cargoBuildExtraArgs"]
        .iter()
        .flat_map(|key| text(&arguments[key]).split(' ').map(str::to_owned))
        .collect();
    args.insert(1, "--profile=release".to_owned());
    args
}

#[test]
fn each_service_is_built_with_the_invocation_of_the_plan() {
    let Some(outputs) = outputs() else { return };
    let whole = plan(&[]);
    let packages = &outputs["packages"][system(&whole)];
    for service in whole["services"].as_array().unwrap() {
        let name = text(&service["name"]);
        let arguments = &packages[name]["arguments"];
        assert_eq!(invocation_of_flake(arguments), invocation_of_plan(&plan(&[name])), "{name}");
        let dependencies = &arguments["cargoArtifacts"]["arguments"];
        assert_eq!(invocation_of_flake(dependencies), invocation_of_plan(&whole), "{name}");
    }
}

/// A flag with its path of this machine left out, and that path.
fn split_remap(flag: &str) -> (String, Option<&str>) {
    for prefix in ["--remap-path-prefix=", "-ffile-prefix-map="] {
        if let Some((from, to)) = flag.strip_prefix(prefix).and_then(|pair| pair.rsplit_once('=')) {
            return (format!("{prefix}…={to}"), Some(from));
        }
    }
    (flag.to_owned(), None)
}

/// The flags of a variable without paths of this machine, which must go from general to specific: the last match wins.
fn flags(value: &str) -> BTreeSet<String> {
    let split: Vec<_> = value.split(['\x1f', ' ']).map(split_remap).collect();
    let froms: Vec<&Path> = split.iter().filter_map(|(_, from)| from.map(Path::new)).collect();
    for (at, general) in froms.iter().enumerate() {
        assert!(!froms[..at].iter().any(|before| before.starts_with(general)), "{general:?} in {froms:?}");
    }
    split.into_iter().map(|(flag, _)| flag).collect()
}

/// What a build sees: the derivation's variables, and what its shell code makes of them.
fn environment_of_flake(arguments: &Value) -> BTreeMap<String, String> {
    let mut shell = Command::new("bash");
    shell.args(["-euc", &format!("{}\nenv -0", text(&arguments["preBuild"]))]).current_dir(root());
    shell.env("CARGO_HOME", root().join(".cargo-home")).env_remove("CARGO_TARGET_DIR");
    let is_variable = |name: &String| name.starts_with(|c: char| c.is_ascii_uppercase());
    let variables = arguments.as_object().unwrap().iter().filter(|(name, _)| is_variable(name));
    let output = shell.envs(variables.map(|(name, value)| (name, text(value)))).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pairs = String::from_utf8(output.stdout).unwrap();
    let pairs = pairs.split('\0').filter_map(|pair| pair.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

#[test]
fn each_service_is_built_in_the_environment_of_the_plan() {
    let Some(outputs) = outputs() else { return };
    let plan = plan(&[]);
    // Cargo's own folders, and a name that no shell can export: the one with underscores says the same.
    let differs =
        |name: &str| name == "CARGO_BUILD_BUILD_DIR" || name.contains("FLAGS_") && name.contains('-');
    for service in plan["services"].as_array().unwrap() {
        let arguments = &outputs["packages"][system(&plan)][text(&service["name"])]["arguments"];
        assert_eq!(arguments["preBuild"], arguments["cargoArtifacts"]["arguments"]["preBuild"]);
        let real = environment_of_flake(arguments);
        for (name, planned) in plan["env"].as_object().unwrap().iter().filter(|(name, _)| !differs(name)) {
            let real = real.get(name).map(String::as_str);
            if name.contains("FLAGS") {
                assert_eq!(real.map(flags), planned.as_str().map(flags), "{name}");
            } else {
                assert_eq!(real, planned.as_str(), "{name}");
            }
        }
    }
}

#[test]
fn the_flake_offers_what_the_workspace_has() {
    let Some(outputs) = outputs() else { return };
    let plan = plan(&[]);
    let mut expected: BTreeSet<&str> =
        plan["services"].as_array().unwrap().iter().map(|service| text(&service["name"])).collect();
    expected.insert("xtask");
    let names = |value: &Value| -> BTreeSet<String> { value.as_object().unwrap().keys().cloned().collect() };
    let with = |more: &[&str]| -> BTreeSet<String> {
        expected.iter().chain(more).map(|name| (*name).to_owned()).collect()
    };
    for system in ["x86_64-linux", "aarch64-linux"] {
        assert_eq!(names(&outputs["packages"][system]), with(&["default"]));
        assert_eq!(names(&outputs["apps"][system]), with(&["default"]));
        assert_eq!(names(&outputs["checks"][system]), with(&["clippy", "fmt", "test", "workflows"]));
        // One compile of what is not ours serves the tool, the lints and the tests.
        let dependencies = |value: &Value| value["arguments"]["cargoArtifacts"].clone();
        let shared = dependencies(&outputs["packages"][system]["xtask"]);
        assert_eq!(shared["function"], "buildDepsOnly");
        for check in ["clippy", "test", "workflows"] {
            assert_eq!(dependencies(&outputs["checks"][system][check]), shared, "{check}");
        }
    }
    assert_eq!(
        names(&outputs["devShells"]),
        ["aarch64-darwin", "aarch64-linux", "x86_64-linux"].map(str::to_owned).into()
    );
}

#[test]
fn every_input_is_locked() {
    let flake = fs::read_to_string(root().join("flake.nix")).unwrap();
    let lock: Value = serde_json::from_slice(&fs::read(root().join("flake.lock")).unwrap()).unwrap();
    assert_eq!(lock["version"], 7);
    let urls: BTreeSet<String> =
        flake.split('"').filter(|text| text.starts_with("github:")).map(str::to_owned).collect();
    let mut locked = BTreeSet::new();
    for name in lock["nodes"]["root"]["inputs"].as_object().unwrap().values().map(text) {
        let node = &lock["nodes"][name];
        let original = ["owner", "repo", "ref"].map(|key| node["original"][key].as_str());
        locked.insert(format!("github:{}", original.into_iter().flatten().collect::<Vec<_>>().join("/")));
        let revision = text(&node["locked"]["rev"]);
        assert!(revision.len() == 40 && revision.bytes().all(|byte| byte.is_ascii_hexdigit()), "{revision}");
        assert!(text(&node["locked"]["narHash"]).starts_with("sha256-"), "{name}");
    }
    assert_eq!(locked, urls);
}

#[test]
fn nix_takes_the_lock_file_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["flake.nix", "flake.lock"] {
        fs::copy(root().join(name), folder.path().join(name)).unwrap();
    }
    let flake = format!("path:{}", folder.path().display());
    let store = folder.path().join("store").display().to_string();
    let args = ["--extra-experimental-features", "nix-command flakes", "flake", "metadata", "--offline"];
    // Without a mended lock file there is an error, and nothing is fetched.
    let rest = ["--no-update-lock-file", "--store", &store, "--json", &flake];
    let Some(metadata) = nix("nix", &[&args[..], &rest].concat()) else { return };
    let metadata: Value = serde_json::from_str(&metadata).unwrap();
    let lock: Value = serde_json::from_slice(&fs::read(root().join("flake.lock")).unwrap()).unwrap();
    assert_eq!(metadata["locks"], lock);
}
