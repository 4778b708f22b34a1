//! `cargo xtask github` up to the program that it starts: what it asks for, how it finds the program, and what becomes of the
//! token. What the program does with a request is tested beside it; both sides are held to `requests.json`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Fixture, Run};

const TOKEN: &str = "ghp_PlantedTokenThatMustNeverBeSeen0123";
const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// A workspace as GitHub Actions would have checked it out, without anything of the machine that runs the tests.
fn fixture() -> Fixture {
    let mut fixture = Fixture::new();
    for (name, value) in [
        ("GITHUB_REPOSITORY", "octocat/example"),
        ("GITHUB_SHA", COMMIT),
        ("GITHUB_REF", "refs/pull/9/merge"),
        ("GITHUB_RUN_ID", "77"),
        ("GITHUB_TOKEN", TOKEN),
        ("GITHUB_API_URL", "https://api.github.com"),
        ("GITHUB_SERVER_URL", "https://github.com"),
        ("GITHUB_EVENT_PATH", ""),
        ("GH_TOKEN", ""),
        ("SLIPWAY_GITHUB", ""),
    ] {
        fixture.env(name, value);
    }
    fixture
}

/// Makes `to` a program with the content of `from`. Another process does it: a program that this one has open for writing cannot be
/// started, and children of other tests may hold it open a little longer.
fn install(from: &Path, to: &Path) {
    let status = Command::new("install").args(["-D", "-m", "755"]).arg(from).arg(to).status();
    assert!(status.unwrap().success());
}

/// A program that keeps what it is asked and how it was started, and answers `response`.
fn recorder(fixture: &mut Fixture, response: &Value) -> PathBuf {
    let path = fixture.path("recorder");
    let answer = response.to_string();
    let script = format!(
        "#!/bin/sh\ncat >\"$0.request\"\nenv >\"$0.env\"\necho \"$@\" >\"$0.args\"\ncat <<'END'\n{answer}\nEND\n"
    );
    fixture.write("recorder.sh", &script);
    install(&fixture.path("recorder.sh"), &path);
    fixture.env("SLIPWAY_GITHUB", path.to_str().unwrap());
    path
}

fn done() -> Value {
    json!({ "schema": "slipway.github/1", "done": {
        "outcome": "created", "thing": "deployment", "id": 41, "url": "https://github.com/x", "notes": ["a note"],
        "requests": [{ "method": "POST", "target": "/repos/octocat/example/deployments", "what": "w", "body": { "a": 1 } }],
        "observed": false } })
}

fn failed(kind: &str) -> Value {
    json!({ "schema": "slipway.github/1", "error": { "kind": kind, "message": "what GitHub said" } })
}

fn start(fixture: &Fixture, more: &[&str]) -> Run {
    fixture.run(&[&["github", "deployment", "start", "--environment", "production"], more].concat())
}

fn requests() -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("crates/github/tests/requests.json");
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

#[test]
fn flags_and_surroundings_become_the_requests_that_the_program_is_tested_with() {
    let mut fixture = fixture();
    let program = recorder(&mut fixture, &done());
    for case in requests() {
        let args: Vec<_> = case["args"].as_array().unwrap().iter().map(|arg| arg.as_str().unwrap()).collect();
        let run = fixture.run(&[&["github"], args.as_slice()].concat());
        assert_eq!(run.code, 0, "{args:?}: {}", run.stderr);
        let asked: Value =
            serde_json::from_slice(&fs::read(program.with_extension("request")).unwrap()).unwrap();
        let expected = json!({
            "schema": "slipway.github-request/1", "api": "https://api.github.com", "repository": "octocat/example",
            "dry_run": false, "max_wait_ms": 300_000, "timeout_ms": 30_000, "action": case["action"],
        });
        assert_eq!(asked, expected, "{args:?}");
    }
}

#[test]
fn the_token_is_in_the_environment_and_nowhere_else() {
    let mut fixture = fixture();
    let program = recorder(&mut fixture, &done());
    let run = start(&fixture, &["--json"]);
    assert!(!run.stdout.contains(TOKEN) && !run.stderr.contains(TOKEN), "{}{}", run.stdout, run.stderr);
    let kept = |extension: &str| fs::read_to_string(program.with_extension(extension)).unwrap();
    assert!(!kept("request").contains(TOKEN) && !kept("args").contains(TOKEN));
    assert!(kept("env").contains(&format!("GITHUB_TOKEN={TOKEN}")));
}

#[test]
fn results_are_a_line_or_a_document() {
    let mut fixture = fixture();
    recorder(&mut fixture, &done());
    let run = start(&fixture, &[]);
    assert_eq!(run.stdout, "deployment 41 created (1 request) https://github.com/x\n");
    assert!(run.stderr.contains("note: a note"), "{}", run.stderr);
    let document: Value = serde_json::from_str(&start(&fixture, &["--json"]).stdout).unwrap();
    assert_eq!((&document["schema"], &document["done"]["id"]), (&json!("slipway.github/1"), &json!(41)));
    let dry = start(&fixture, &["--dry-run"]).stdout;
    assert!(dry.contains("POST /repos/octocat/example/deployments\n{\n  \"a\": 1\n}\n"), "{dry}");
    assert!(dry.contains("without a token"), "{dry}");
}

#[test]
fn failures_have_their_exit_codes() {
    let mut fixture = fixture();
    for (kind, code) in
        [("token", 3), ("permission", 3), ("not-found", 3), ("unavailable", 1), ("invalid", 1)]
    {
        recorder(&mut fixture, &failed(kind));
        start(&fixture, &[]).fails(code, &["what GitHub said"]);
    }
    recorder(&mut fixture, &json!({ "schema": "slipway.github/2" }));
    start(&fixture, &[]).fails(1, &["another version"]);
}

#[test]
fn where_there_is_no_github_that_is_an_error_or_with_optional_a_notice() {
    let mut fixture = fixture();
    recorder(&mut fixture, &failed("permission"));
    let run = start(&fixture, &["--optional"]);
    assert_eq!((run.code, run.stdout.as_str()), (0, ""), "{}", run.stderr);
    assert!(run.stderr.contains("notice: nothing told to GitHub: what GitHub said"), "{}", run.stderr);
    recorder(&mut fixture, &failed("token"));
    start(&fixture, &["--optional"]).fails(3, &["what GitHub said"]);
    fixture.env("GITHUB_TOKEN", "");
    start(&fixture, &[]).fails(3, &["there is no token: set GH_TOKEN or GITHUB_TOKEN"]);
    let run = start(&fixture, &["--optional", "--json"]);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(document["skipped"].as_str().unwrap().contains("no token"), "{document}");
    fixture.env("GITHUB_REPOSITORY", "");
    start(&fixture, &["--dry-run"]).fails(3, &["--repository OWNER/NAME"]);
    fixture.env("GITHUB_REF", "refs/heads/main");
    fixture.env("GITHUB_REPOSITORY", "octocat/example");
    fixture.run(&["github", "comment", "--body", "x", "--dry-run"]).fails(3, &["--pull"]);
}

#[test]
fn in_a_workspace_with_the_package_it_is_built_without_the_token_and_run() {
    let fixture = fixture();
    let answer = done().to_string();
    let main = format!(
        "fn main() {{ assert!(std::env::var(\"GITHUB_TOKEN\").is_ok()); println!(\"{{}}\", {answer:?}); }}\n"
    );
    fixture.package("slipway-github", "", &main);
    let script = "fn main() { assert!(std::env::var_os(\"GITHUB_TOKEN\").is_none() && std::env::var_os(\"GH_TOKEN\").is_none()); }\n";
    fixture.write("crates/slipway-github/build.rs", script);
    fixture.lock();
    let run = start(&fixture, &[]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stdout.starts_with("deployment 41 created"), "{}", run.stdout);
    assert!(run.stderr.contains("the first time this takes"), "{}", run.stderr);
    let again = start(&fixture, &[]);
    assert!(!again.stderr.contains("the first time this takes"), "{}", again.stderr);
}

#[test]
fn a_program_that_is_named_and_missing_is_a_fault_of_the_configuration() {
    let mut fixture = fixture();
    fixture.env("SLIPWAY_GITHUB", "/no/such/program");
    start(&fixture, &[]).fails(3, &["SLIPWAY_GITHUB names /no/such/program"]);
}

#[test]
fn the_files_of_a_folder_are_attached_and_what_cannot_be_is_told() {
    let mut fixture = fixture();
    let program = recorder(&mut fixture, &done());
    for name in ["out/b.json", "out/a.json", "one.txt"] {
        fixture.write(name, "x");
    }
    let run = fixture.run(&["github", "release", "v1", "one.txt", "out"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let asked: Value = serde_json::from_slice(&fs::read(program.with_extension("request")).unwrap()).unwrap();
    assert_eq!(asked["action"]["release"]["assets"], json!(["one.txt", "out/a.json", "out/b.json"]));
    fixture.write("out/below/c.json", "x");
    fixture.run(&["github", "release", "v1", "out"]).fails(3, &["out/below", "folder in a folder"]);
    fs::create_dir(fixture.path("empty")).unwrap();
    fixture.run(&["github", "release", "v1", "empty"]).fails(3, &["no files to attach"]);
}

#[test]
fn a_download_has_its_own_command_line() {
    let mut fixture = fixture();
    recorder(&mut fixture, &failed("interrupted"));
    fixture.run(&["github", "release", "download", "v1", "--into", "x"]).fails(130, &["what GitHub said"]);
    fixture.run(&["github", "release", "download", "v1"]).fails(2, &["--into"]);
    fixture.run(&["github", "release", "download", "--into", "x", "--draft", "v1"]).fails(2, &["--draft"]);
    fixture.run(&["github", "release"]).fails(2, &["TAG"]);
}

#[test]
fn elsewhere_the_program_is_looked_for_on_path_and_else_it_is_said_how_to_get_it() {
    let mut fixture = fixture();
    let program = recorder(&mut fixture, &done());
    fixture.env("SLIPWAY_GITHUB", "");
    fixture.package("other", "", "fn main() {}\n");
    fixture.lock();
    // A copy, so that nothing lies beside it.
    let copy = fixture.path("bin/cargo-xtask");
    install(Path::new(env!("CARGO_BIN_EXE_cargo-xtask")), &copy);
    let args = ["xtask", "github", "deployment", "start", "--environment", "production"];
    let output = fixture.command_of(copy.to_str().unwrap(), &args).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{stderr}");
    assert!(stderr.contains("cargo install --locked --path xtask/crates/github"), "{stderr}");
    let installed = fixture.path("installed");
    install(&program, &installed.join("slipway-github"));
    let path = format!("{}:{}", installed.display(), std::env::var("PATH").unwrap());
    let output = fixture.command_of(copy.to_str().unwrap(), &args).env("PATH", path).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
