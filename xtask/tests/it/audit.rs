//! The rules for images on images that were really built: ours has no finding, and one that another tool made has those that
//! it deserves.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use audit::ImagePolicy;
use oci::Layout;

use crate::support::{Fixture, is_required};

/// The rules that the only image of the layout trips.
fn rules(layout: &Path) -> BTreeSet<String> {
    let layout = Layout::open(layout).unwrap();
    let tags = layout.tags().unwrap();
    assert_eq!(tags.len(), 1);
    let policy = ImagePolicy { now: Some(SystemTime::now()), ..ImagePolicy::default() };
    let findings = audit::image(&layout, &tags[0].digest, &tags[0].name, &policy).unwrap();
    findings.into_iter().map(|finding| finding.rule.id).collect()
}

fn run(folder: &Path, program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).current_dir(folder).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn an_image_that_we_build_has_no_finding() {
    let mut fixture = Fixture::new();
    fixture.package("probe", "repository = \"https://git.example/probe\"\n", "fn main() {}\n");
    fixture.write(
        "crates/probe/service.yaml",
        "http: { port: 9000 }\nhealth: { path: /health, command: [check] }\nvolumes:\n  - { name: data, path: /data }\n",
    );
    fixture.write(".gitignore", "/target\n");
    fixture.lock();
    fixture.env("GIT_CONFIG_GLOBAL", "/dev/null");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        run(&fixture.path(""), "git", &[&identity, args].concat());
    };
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "x"]);
    fixture.digests(&[]);
    assert_eq!(rules(&fixture.path("target/slipway/images")), BTreeSet::new());
}

#[test]
fn an_image_of_another_tool_is_judged_by_the_same_rules() {
    if !Command::new("umoci").arg("--version").output().is_ok_and(|output| output.status.success()) {
        assert!(!is_required("umoci"), "umoci is required and does not work");
        eprintln!("skipped: umoci does not work on this machine");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let umoci = |args: &[&str]| run(folder.path(), "umoci", args);
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::fs::write(folder.path().join("bin/bash"), "#!").unwrap();
    run(folder.path(), "chmod", &["4777", "bin/bash"]);
    umoci(&["init", "--layout", "layout"]);
    umoci(&["new", "--image", "layout:app"]);
    umoci(&["insert", "--rootless", "--image", "layout:app", "bin", "/bin"]);
    umoci(&[
        "config",
        "--image",
        "layout:app",
        "--config.env",
        "DB_PASSWORD=hunter2",
        "--config.exposedports",
        "80/tcp",
    ]);
    umoci(&["gc", "--layout", "layout"]);
    let expected = [
        "missing-label",
        "no-entrypoint",
        "no-health-check",
        "no-stop-signal",
        "privileged-port",
        "root-user",
        "secret-in-environment",
        "setuid-file",
        "shell",
        "world-writable",
    ];
    assert_eq!(rules(&folder.path().join("layout")), expected.map(|rule| format!("image/{rule}")).into());
}

/// One workflow with a defect for each of many audits that zizmor has, too.
const PLANTED: &str = "\
on:
  pull_request_target:
permissions: write-all
env:
  ACTIONS_ALLOW_UNSECURE_COMMANDS: true
jobs:
  build:
    runs-on: [self-hosted]
    container:
      image: debian:13
      credentials: { username: a, password: hunter2 }
    permissions:
      packages: write
    if: ${{ github.actor != 'x' }} && true
    steps:
      - uses: actions/checkout@v4
      - run: |
          echo '${{ github.event.pull_request.title }}'
          echo \"x=$(cat title)\" >> $GITHUB_ENV
        env:
          ALL: ${{ toJSON(secrets) }}
      - uses: actions/cache@v4
      - uses: softprops/action-gh-release@v2
  call:
    uses: ./.github/workflows/other.yml
    secrets: inherit
";

#[test]
fn zizmor_names_the_same_audits_for_a_planted_workflow() {
    if !Command::new("zizmor").arg("--version").output().is_ok_and(|output| output.status.success()) {
        assert!(!is_required("zizmor"), "zizmor is required and does not work");
        eprintln!("skipped: zizmor does not work on this machine");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(".github/workflows/planted.yml");
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(&file, PLANTED).unwrap();
    let findings = audit::workflows(folder.path()).unwrap();
    let ours: BTreeSet<String> = findings.into_iter().map(|finding| finding.rule.id).collect();
    let args = ["--offline", "--no-config", "--no-progress", "--persona", "auditor", "--format", "json"];
    let output = Command::new("zizmor").args(args).arg(&file).output().unwrap();
    let listed: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let name = |finding: &serde_json::Value| format!("workflow/{}", finding["ident"].as_str().unwrap());
    let theirs: BTreeSet<String> = listed.as_array().unwrap().iter().map(name).collect();
    let shared = |rule: &&String| audit::definitions().any(|definition| definition.id == **rule);
    let theirs: BTreeSet<String> = theirs.iter().filter(shared).cloned().collect();
    assert!(theirs.len() >= 14, "{theirs:?}");
    // zizmor has no audit for a missing time limit.
    assert_eq!(ours, &theirs | &BTreeSet::from(["workflow/timeout-missing".to_owned()]));
}
