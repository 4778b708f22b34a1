//! `cargo xtask test` on small workspaces with real cargo and real test binaries.

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::support::{Fixture, Run, is_required, wait_for};

/// A library with a test that exists only with a feature that its neighbour switches on, and a program with integration tests.
fn workspace() -> Fixture {
    let mut fixture = Fixture::new();
    // These tests may themselves run inside GitHub Actions.
    fixture.env("GITHUB_ACTIONS", "false");
    fixture.env("GITHUB_STEP_SUMMARY", "");
    fixture.env("RUST_BACKTRACE", "0");
    fixture.library(
        "common",
        "[features]\nextra = []\n",
        "//! ```\n//! assert_eq!(common::two(), 2);\n//! ```\n\
         pub fn two() -> u32 { 2 }\n\
         #[cfg(test)] mod tests {\n\
           #[test] fn plain() {}\n\
           #[cfg(feature = \"extra\")] #[test] fn only_with_a_feature_of_the_neighbour() {}\n\
         }\n",
    );
    fixture.write(
        "crates/common/tests/it.rs",
        "#[test] fn slow() { std::thread::sleep(std::time::Duration::from_millis(400)); }\n\
         #[test] #[ignore] fn ignored() {}\n\
         #[test] fn plan() {}\n\
         #[cfg(feature = \"extra\")] #[test] fn integration_with_the_feature() { assert_eq!(common::two(), 2); }\n",
    );
    fixture.package(
        "app",
        "[dependencies]\ncommon = { path = \"../common\", features = [\"extra\"] }\n",
        "fn main() { println!(\"app {}\", common::two()); }\n#[test] fn in_a_program() {}\n",
    );
    fixture.write(
        "crates/app/build.rs",
        "fn main() { println!(\"cargo::rustc-env=FROM_BUILD_SCRIPT=yes\"); }\n",
    );
    fixture.write("crates/app/examples/demo.rs", "fn main() {}\n");
    fixture.write("crates/app/tests/app.rs", APP_TESTS);
    fixture.lock();
    fixture
}

/// What cargo promises tests: folder, variables, programs and examples.
const APP_TESTS: &str = r#"
use std::process::Command;
#[test] fn the_program_runs() {
    let output = Command::new(env!("CARGO_BIN_EXE_app")).output().unwrap();
    assert_eq!(output.stdout, b"app 2\n");
    assert_eq!(std::env::var_os("CARGO_BIN_EXE_app").unwrap(), env!("CARGO_BIN_EXE_app"));
}
#[test] fn the_environment_is_that_of_cargo() {
    let folder = std::env::var("CARGO_MANIFEST_DIR").unwrap();
    assert_eq!(folder, env!("CARGO_MANIFEST_DIR"));
    assert_eq!(std::env::current_dir().unwrap(), std::path::Path::new(&folder));
    assert_eq!(std::env::var("CARGO_PKG_NAME").unwrap(), "app");
    assert_eq!(std::env::var("CARGO_PKG_VERSION_MAJOR").unwrap(), "1");
    assert_eq!(std::env::var("FROM_BUILD_SCRIPT").unwrap(), "yes");
    assert!(std::path::Path::new(&std::env::var("OUT_DIR").unwrap()).is_dir());
}
#[test] fn examples_are_built() {
    let this = std::env::current_exe().unwrap();
    assert!(this.parent().unwrap().parent().unwrap().join("examples/demo").exists());
}
"#;

const COUNTS: &str = "10 passed, 0 failed, 1 skipped";

fn last_line(run: &Run) -> &str {
    run.stdout.lines().last().unwrap_or_default()
}

fn test(fixture: &Fixture, args: &[&str]) -> Run {
    fixture.run(&[&["test", "--engine", "builtin"], args].concat())
}

#[track_caller]
fn passes(run: &Run, counts: &str) {
    assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    assert_eq!(last_line(run), counts, "{}", run.stderr);
}

fn report(fixture: &Fixture, name: &str) -> Value {
    let path = fixture.path("target/slipway/test").join(name);
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

/// Names of the tests in a report that were run.
fn names(report: &Value) -> BTreeSet<String> {
    let tests = report["tests"].as_array().unwrap();
    tests
        .iter()
        .map(|t| format!("{} {}", t["binary"].as_str().unwrap(), t["test"].as_str().unwrap()))
        .collect()
}

#[test]
fn shards_build_only_what_they_run_and_together_run_each_test_once() {
    let mut fixture = workspace();
    // Nothing is known yet: everything is built and sliced, and that is said.
    let first = test(&fixture, &["--shard", "1/3"]);
    assert_eq!(first.code, 0, "{}", first.stderr);
    assert!(
        first.stderr.contains("everything is built") && first.stderr.contains("NOTHING measured"),
        "{}",
        first.stderr
    );
    passes(&test(&fixture, &[]), COUNTS);
    let all = names(&report(&fixture, "report.json"));
    assert!(all.contains("common::it integration_with_the_feature"), "{all:?}");
    assert!(all.contains("common tests::only_with_a_feature_of_the_neighbour"), "{all:?}");
    // With `-p` the same tests are not there: this is why it is never used.
    let alone = Command::new(env!("CARGO"))
        .args(["test", "-p", "common", "--offline", "--", "--list"])
        .env("CARGO_TARGET_DIR", fixture.path("alone"))
        .current_dir(fixture.path(""))
        .output()
        .unwrap();
    assert!(!String::from_utf8(alone.stdout).unwrap().contains("feature"));

    let timings = fixture.path("target/slipway/test/timings.jsonl");
    let timings = timings.to_str().unwrap().to_owned();
    assert!(fs::read_to_string(&timings).unwrap().contains("common::it"));
    let plan = fixture.path("plan.json").to_str().unwrap().to_owned();
    let matrix = fixture.run(&["test", "plan", "--shards", "3", "--matrix", "--out", &plan]);
    let matrix: Value = serde_json::from_str(&matrix.stdout).unwrap();
    let planned: u64 =
        matrix["include"].as_array().unwrap().iter().map(|s| s["tests"].as_u64().unwrap()).sum();
    assert_eq!((matrix["include"][2]["shard"].as_str(), planned), (Some("3/3"), 10));

    // Each shard on a machine of its own.
    let mut reports = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let path = fixture.path(&format!("report-{}.json", &shard[..1])).to_str().unwrap().to_owned();
        let target = fixture.path(&format!("target-{}", &shard[..1])).to_str().unwrap().to_owned();
        fixture.env("CARGO_TARGET_DIR", &target);
        let run =
            test(&fixture, &["--shard", shard, "--timings", &timings, "--report", &path, "--plan", &plan]);
        assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
        reports.push(path);
    }
    let built: Vec<usize> = reports
        .iter()
        .map(|path| {
            serde_json::from_slice::<Value>(&fs::read(path).unwrap()).unwrap()["builds"]
                .as_object()
                .unwrap()
                .len()
        })
        .collect();
    assert!(built.iter().all(|count| *count < 5), "each shard built everything: {built:?}");

    let paths: Vec<&str> = reports.iter().map(String::as_str).collect();
    let merge = |paths: &[&str]| {
        fixture.run(&[&["test", "merge", "--timings", &timings, "--plan", &plan], paths].concat())
    };
    let merged = merge(&paths);
    passes(&merged, COUNTS);
    let path = fixture.path("target-3/slipway/test/merged.json");
    assert_eq!(names(&serde_json::from_slice(&fs::read(path).unwrap()).unwrap()), all);
    merge(&paths[..2]).fails(13, &["there is no report of shard 3/3"]);
    let text = fs::read_to_string(&reports[0]).unwrap();
    let mut damaged: Value = serde_json::from_str(&text).unwrap();
    let stolen = damaged["tests"].as_array_mut().unwrap().pop().unwrap();
    fs::write(&reports[0], damaged.to_string()).unwrap();
    merge(&paths).fails(13, &[stolen["test"].as_str().unwrap(), "ran in no shard"]);
}

#[test]
fn names_choose_tests_and_arguments_go_to_them() {
    let fixture = workspace();
    passes(&test(&fixture, &["integration_with"]), "1 passed, 0 failed, 0 skipped");
    passes(&test(&fixture, &["--filter", "plan"]), "1 passed, 0 failed, 0 skipped");
    passes(&test(&fixture, &["--", "--ignored"]), "1 passed, 0 failed, 0 skipped");
    passes(
        &test(&fixture, &["slow", "plain", "--", "--skip", "slow", "--test-threads=1"]),
        "1 passed, 0 failed, 0 skipped",
    );
    let run = test(&fixture, &["the_program", "--", "--nocapture"]);
    assert!(run.stdout.contains("test the_program_runs ... ok"), "{}", run.stdout);
    let run = test(&fixture, &["common::", "--", "--list"]);
    assert_eq!((run.code, run.stdout.as_str()), (0, "(doctests) (all)\n"));
    test(&fixture, &["no_such_test"]).fails(12, &["no test has a name as asked for"]);
    test(&fixture, &["--shard", "3/2"]).fails(2, &["1/4"]);
    let run = test(&fixture, &["--dry-run"]);
    assert!(
        run.stdout.starts_with("cargo test --workspace --locked --no-run")
            || run.stdout.contains("/cargo test --workspace"),
        "{}",
        run.stdout
    );
}

#[test]
fn a_failure_is_shown_with_its_output_and_where_github_looks() {
    let mut fixture = workspace();
    fixture.write(
        "crates/common/tests/it.rs",
        "#[test] fn bad() { println!(\"said before\"); assert_eq!(1, 2, \"no\"); }\n\
         #[test] fn leaves_early() { std::process::exit(0); }\n#[test] fn good() { println!(\"unseen\"); }\n",
    );
    fixture.env("GITHUB_ACTIONS", "true");
    let summary = fixture.path("summary.md");
    fixture.env("GITHUB_STEP_SUMMARY", summary.to_str().unwrap());
    let run = test(&fixture, &["--timings", "t.jsonl"]);
    run.fails(11, &["::error file=crates/common/tests/it.rs,line=1,title=common%3A%3Ait bad::assertion"]);
    assert_eq!(last_line(&run), "8 passed, 2 failed, 0 skipped");
    assert!(run.stdout.contains("said before") && !run.stdout.contains("unseen"), "{}", run.stdout);
    assert!(run.stdout.contains("without saying that the test ran"), "{}", run.stdout);
    assert!(
        fs::read_to_string(summary).unwrap().contains("| `common::it bad` | ended with exit status: 101 |")
    );
    let junit = fs::read_to_string(fixture.path("target/slipway/test/report.xml")).unwrap();
    assert!(junit.contains("failures=\"2\"") && junit.contains("said before"), "{junit}");
    // What failed may have stopped early: it teaches nothing about how long it takes.
    let timings = fs::read_to_string(fixture.path("t.jsonl")).unwrap();
    assert!(timings.contains("\"test\":\"good\"") && !timings.contains("\"test\":\"bad\""), "{timings}");
    fixture.write("crates/common/tests/it.rs", "nonsense\n");
    test(&fixture, &[]).fails(10, &["the tests cannot be built"]);
}

#[test]
fn a_main_of_its_own_and_tests_that_exclude_each_other() {
    let fixture = workspace();
    fixture.write("crates/app/tests/own.rs", "fn main() { std::fs::write(\"ran\", \"\").unwrap(); }\n");
    let manifest = fixture.path("crates/app/Cargo.toml");
    let text = fs::read_to_string(&manifest).unwrap() + "[[test]]\nname = \"own\"\nharness = false\n";
    fs::write(manifest, text).unwrap();
    fixture.write(
        "crates/common/tests/it.rs",
        "fn alone() { std::fs::create_dir(\"busy\").unwrap(); std::thread::sleep(std::time::Duration::from_millis(300));\n\
           std::fs::remove_dir(\"busy\").unwrap(); }\n\
         #[test] fn shared_a() { alone() }\n#[test] fn shared_b() { alone() }\n\
         #[test] fn hangs() { std::thread::sleep(std::time::Duration::from_secs(100)); }\n",
    );
    fixture.write(
        "slipway.yaml",
        "test:\n  timeout_s: 2\n  groups:\n    - { name: folder, max_threads: 1, tests: [\"common::it shared\"] }\n",
    );
    let run = test(&fixture, &["--", "--test-threads=4"]);
    assert_eq!(last_line(&run), "10 passed, 1 failed, 0 skipped", "{}\n{}", run.stdout, run.stderr);
    run.fails(11, &[]);
    assert!(run.stdout.contains("common::it hangs (ended after its 2 s)"), "{}", run.stdout);
    assert!(fixture.path("crates/app/ran").exists());
}

#[test]
fn shards_leave_out_what_cargo_leaves_out_and_nothing_else() {
    let fixture = Fixture::new();
    let target = |table: &str| format!("[features]\nx = []\n{table}\n");
    let it = "[lib]\ntest = false\n[[test]]\nname = \"it\"\nrequired-features = [\"x\"]";
    fixture.library("a", &target(it), "#[test] fn off() { panic!() }\n");
    fixture.write("crates/a/tests/it.rs", "#[test] fn off() { panic!() }\n");
    fixture.library("b", "", "#[test] fn unit() {}\n");
    fixture.write("crates/b/tests/it.rs", "#[test] fn it() {}\n");
    // A library with a `main` of its own, beside a benchmark with one and a test of that name with Rust's.
    let own = "[lib]\nharness = false\n[[bench]]\nname = \"same\"\nharness = false";
    let main = "#[cfg(test)] fn main() { assert!(std::path::Path::new(\"good\").exists()); }\n";
    fixture.library("c", &target(own), main);
    fixture.write("crates/c/benches/same.rs", "fn main() {}\n");
    fixture.write("crates/c/tests/same.rs", "");
    fixture.lock();
    let run = test(&fixture, &[]);
    assert_eq!(last_line(&run), "2 passed, 1 failed, 0 skipped", "{}{}", run.stdout, run.stderr);
    fixture.write("crates/c/good", "");
    passes(&test(&fixture, &[]), "3 passed, 0 failed, 0 skipped");
    let mut reports = Vec::new();
    for shard in ["1/3", "2/3", "3/3"] {
        let run = test(&fixture, &["--shard", shard]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        reports.push(fixture.path(&format!("target/slipway/test/report-{}-of-3.json", &shard[..1])));
    }
    let paths: Vec<&str> = reports.iter().map(|path| path.to_str().unwrap()).collect();
    passes(&fixture.run(&[&["test", "merge"], paths.as_slice()].concat()), "3 passed, 0 failed, 0 skipped");
}

#[test]
fn who_stops_reading_neither_hides_a_failure_nor_stops_the_tests() {
    let fixture = workspace();
    fixture.write("crates/common/tests/it.rs", "#[test] fn bad() { panic!() }\n#[test] fn good() {}\n");
    for ends in ["2>/dev/null", "2>&1"] {
        let script =
            format!("\"$0\" test --engine builtin --report r.json {ends} | true; exit ${{PIPESTATUS[0]}}");
        let mut shell = fixture.command_of("bash", &["-c", &script, env!("CARGO_BIN_EXE_xtask")]);
        let status = shell.stderr(Stdio::null()).status().unwrap();
        assert!(status.code() != Some(0), "{ends}");
        assert!(fixture.path("r.json").exists(), "{ends}: the run did not come to its end");
    }
}

#[test]
fn what_is_not_there_or_of_an_earlier_run_is_no_success() {
    let fixture = workspace();
    let report = fixture.path("target/slipway/test/report-1-of-1.json");
    let path = report.to_str().unwrap();
    assert_eq!(test(&fixture, &["--shard", "1/1", "no_such_test"]).code, 0);
    fixture.run(&["test", "merge", path]).fails(12, &["no test has a name as asked for"]);
    fixture.write("crates/common/tests/it.rs", "nonsense\n");
    test(&fixture, &["--shard", "1/1", "no_such_test"]).fails(10, &[]);
    fixture.run(&["test", "merge", path]).fails(3, &["cannot use"]);
    test(&fixture, &["--json", "--", "--nocapture"]).fails(2, &["standard output"]);
    let fixture = Fixture::hello();
    test(&fixture, &[]).fails(12, &["this workspace has no tests"]);
}

#[test]
fn an_interrupt_ends_the_tests_and_what_they_started() {
    let fixture = workspace();
    fixture.write(
        "crates/common/tests/it.rs",
        "#[test] fn waits() { let child = std::process::Command::new(\"sleep\").arg(\"300\").spawn().unwrap();\n\
           std::fs::write(\"pid\", child.id().to_string()).unwrap(); child.wait_with_output().unwrap(); }\n",
    );
    let mut command = fixture.command(&["test", "--engine", "builtin", "waits"]);
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = fixture.path("crates/common/pid");
    let sleeper: i32 = wait_for("the test", || fs::read_to_string(&pid).ok()?.parse().ok());
    kill_process(Pid::from_raw(child.id() as i32).unwrap(), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let stat = || fs::read_to_string(format!("/proc/{sleeper}/stat")).unwrap_or_default();
    wait_for("the end of what the test started", || {
        (stat().is_empty() || stat().contains(") Z ")).then_some(())
    });
}

#[test]
fn cargo_nextest_runs_exactly_the_same_tests() {
    let fixture = workspace();
    let version = fixture.command_of(env!("CARGO"), &["nextest", "--version"]).output().unwrap();
    if !version.status.success() {
        assert!(!is_required("nextest"), "cargo-nextest is required and not there");
        eprintln!("skipped: cargo-nextest is not installed");
        return;
    }
    passes(&test(&fixture, &[]), COUNTS);
    let builtin = names(&report(&fixture, "report.json"));
    let run = fixture.run(&["test"]);
    passes(&run, COUNTS);
    let nextest = report(&fixture, "report.json");
    assert_eq!((nextest["engine"].as_str(), names(&nextest)), (Some("nextest"), builtin));
    for shard in ["1/2", "2/2"] {
        let run = fixture.run(&["test", "--engine", "nextest", "--shard", shard]);
        assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    }
    let paths = ["1", "2"].map(|k| fixture.path(&format!("target/slipway/test/report-{k}-of-2.json")));
    passes(&fixture.run(&["test", "merge", paths[0].to_str().unwrap(), paths[1].to_str().unwrap()]), COUNTS);
}
