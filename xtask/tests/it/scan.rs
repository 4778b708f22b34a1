//! `cargo xtask scan` on real workspaces, with advisories made up for small packages that this workspace has downloaded anyway.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use finding::{Check, Finding, Place, Rule, Sarif, Severity};
use serde_json::{Value, json};

use crate::support::{Fixture, Run, is_required};

/// A network attacker reads and changes everything.
const CRITICAL: &str = "cvss = \"CVSS:3.1/AV:N/AC:L/PR:N/UI:N/S:U/C:H/I:H/A:H\"";
const FILE: &str = "ci/waivers.yaml";

/// An advisory in the RustSec project's format.
fn advisory(id: &str, package: &str, fields: &str) -> String {
    format!(
        "```toml\n[advisory]\nid = \"{id}\"\npackage = \"{package}\"\ndate = \"2026-01-02\"\nurl = \"https://example.org/{id}\"\n{fields}\n\n\
         [versions]\npatched = [\">= 99.0.0\"]\n```\n\n# {package} can be made to fail\n\nA made up defect of {package}.\n\nMore text.\n"
    )
}

/// One service that links `itoa`, is built with `cfg-if`, tested with `fastrand`, and could link `memchr`.
fn service() -> Fixture {
    let fixture = Fixture::new();
    fixture.package(
        "app",
        "[dependencies]\nitoa = \"1\"\nmemchr = { version = \"2\", optional = true }\n\
         [dev-dependencies]\nfastrand = \"2\"\n[build-dependencies]\ncfg-if = \"1\"\n",
        "fn main() { println!(\"{}\", itoa::Buffer::new().format(7)); }\n",
    );
    fixture.write("crates/app/build.rs", "fn main() { cfg_if::cfg_if! { if #[cfg(unix)] {} } }\n");
    fixture.write("slipway.yaml", SETTINGS);
    for (id, package) in [
        ("RUSTSEC-2026-0001", "itoa"),
        ("RUSTSEC-2026-0002", "cfg-if"),
        ("RUSTSEC-2026-0003", "fastrand"),
        ("RUSTSEC-2026-0004", "memchr"),
    ] {
        fixture.write(&format!("db/crates/{package}/{id}.md"), &advisory(id, package, CRITICAL));
    }
    fixture.lock();
    fixture
}

/// The age of a made up database is no matter but in the tests that are about it.
const SETTINGS: &str = "scan:\n  advisories: { database: db, warn_age_days: 100000, max_age_days: 100000 }\n";

/// The document of a scan that may fail.
fn scan(fixture: &Fixture, args: &[&str]) -> (i32, Value) {
    let run = fixture.run(&[&["scan"], args, &["--json"]].concat());
    let document = serde_json::from_str(&run.stdout);
    (run.code, document.unwrap_or_else(|error| panic!("{error}: {}{}", run.stdout, run.stderr)))
}

/// Rule, severity and whether it fails, of each finding.
fn brief(document: &Value) -> Vec<(String, String, bool)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let brief = |finding: &Value| {
        (text(&finding["rule"]["id"]), text(&finding["severity"]), finding["fails"].as_bool().unwrap())
    };
    document["findings"].as_array().unwrap().iter().map(brief).collect()
}

fn found(rule: &str, severity: &str, fails: bool) -> (String, String, bool) {
    (rule.to_owned(), severity.to_owned(), fails)
}

#[test]
fn advisories_are_told_apart_by_what_is_linked() {
    let fixture = service();
    let (code, document) = scan(&fixture, &[]);
    assert_eq!((code, &document["schema"]), (13, &json!("slipway.scan/1")));
    let expected = [
        found("RUSTSEC-2026-0001", "critical", true),
        found("RUSTSEC-2026-0002", "high", true),
        found("RUSTSEC-2026-0003", "note", false),
        found("RUSTSEC-2026-0004", "note", false),
    ];
    assert_eq!(brief(&document), expected);
    let place = &document["findings"][0]["place"]["file"];
    let lock = fs::read_to_string(fixture.path("Cargo.lock")).unwrap();
    let line = place["line"].as_u64().unwrap() as usize;
    assert_eq!(lock.lines().nth(line - 1), Some("name = \"itoa\""));
    let run = fixture.run(&["scan"]);
    run.fails(13, &["2 findings violate the policy"]);
    for text in [
        "is linked into app (vulnerability): itoa can be made to fail",
        "only builds app",
        "is in no service",
        "why: A made up defect of itoa.",
        "fix: Update to >=99.0.0",
        "1 critical, 1 high, 2 note; 2 against the policy",
    ] {
        assert!(run.stdout.contains(text), "`{text}` is not in: {}", run.stdout);
    }
}

#[test]
fn a_reader_that_has_seen_enough_changes_nothing_about_the_exit_code() {
    let fixture = service();
    for format in ["", "--json"] {
        let script = format!("\"$0\" scan advisories {format}; echo $? >code");
        let mut command =
            fixture.command_of("sh", &["-c", &format!("({script}) | true"), env!("CARGO_BIN_EXE_xtask")]);
        assert!(command.status().unwrap().success());
        assert_eq!(fs::read_to_string(fixture.path("code")).unwrap(), "13\n");
    }
}

#[test]
fn kinds_of_advisories_have_their_severities() {
    let fixture = service();
    fs::remove_dir_all(fixture.path("db/crates")).unwrap();
    let fields = [
        ("RUSTSEC-2026-0001", ""),
        ("RUSTSEC-2026-0002", "informational = \"unsound\""),
        ("RUSTSEC-2026-0003", "informational = \"unmaintained\""),
        ("RUSTSEC-2026-0004", "informational = \"notice\""),
        ("RUSTSEC-2026-0005", "withdrawn = \"2026-02-01\""),
        ("RUSTSEC-2026-0006", "[affected]\nos = [\"windows\"]"),
    ];
    for (id, fields) in fields {
        fixture.write(&format!("db/crates/itoa/{id}.md"), &advisory(id, "itoa", fields));
    }
    fixture.write("db/crates/itoa/RUSTSEC-2026-0007.md", "```toml\nformat = \"of the future\"\n```\n");
    fixture.write("db/rust/std/CVE-2026-0001.md", &advisory("CVE-2026-0001", "std", CRITICAL));
    fixture.write("db/rust/cargo/CVE-2026-0002.md", &advisory("CVE-2026-0002", "cargo", CRITICAL));
    let expected = [
        found("CVE-2026-0001", "critical", true),
        found("CVE-2026-0002", "high", true),
        found("RUSTSEC-2026-0001", "high", true),
        found("advisories/unreadable", "high", true),
        found("RUSTSEC-2026-0002", "medium", true),
        found("RUSTSEC-2026-0003", "low", false),
        found("RUSTSEC-2026-0004", "note", false),
        found("RUSTSEC-2026-0006", "note", false),
    ];
    let (_, document) = scan(&fixture, &["advisories"]);
    assert_eq!(brief(&document), expected);
    assert_eq!(document["findings"][0]["place"]["file"]["path"], "rust-toolchain.toml");
}

#[test]
fn thresholds_are_the_policys_the_environments_or_the_flags() {
    let fixture = service();
    let code = |args: &[&str]| fixture.run(&[&["scan", "advisories"], args].concat()).code;
    fixture.write("slipway.yaml", &format!("{SETTINGS}  fail_on: {{ advisories: critical }}\n"));
    fixture.write("deploy/environments/open.yaml", "scan: { fail_on: { advisories: medium } }\n");
    fs::remove_file(fixture.path("db/crates/itoa/RUSTSEC-2026-0001.md")).unwrap();
    assert_eq!(code(&[]), 0);
    assert_eq!(code(&["--environment", "open"]), 13);
    assert_eq!((code(&["--environment", "local"]), code(&["--environment", "other"])), (0, 3));
    fixture.write("deploy/environments/other.yaml", "");
    assert_eq!(code(&["--environment", "other"]), 0);
    assert_eq!(code(&["--fail-on", "high"]), 13);
    let both = ["scan", "advisories", "--fail-on", "critical", "--environment", "open"];
    fixture.run(&both).fails(2, &["--fail-on", "cannot be used with", "--environment"]);
    fixture.run(&["scan", "advisory"]).fails(2, &["there are: advisories, secrets"]);
    fixture.write("slipway.yaml", "scan:\n  fail_on:\n    advisories: bad\n");
    fixture.run(&["scan"]).fails(3, &["slipway.yaml:3: scan.fail_on", "unknown variant `bad`"]);
}

/// A day this many days from today.
fn day(offset: i64) -> String {
    let day = Command::new("date").args(["-u", "-d", &format!("{offset} days"), "+%F"]).output().unwrap();
    String::from_utf8(day.stdout).unwrap().trim().to_owned()
}

fn waive(fixture: &Fixture, rule: &str, expires: &str) -> Run {
    let waiver = |rule: &str, expires: &str| {
        format!(
            "  - rule: {rule}\n    package: itoa\n    reason: not reachable\n    owner: team-a\n    expires: {expires}\n"
        )
    };
    fixture.write(FILE, &format!("waivers:\n{}", waiver(rule, expires)));
    fixture.run(&["scan", "advisories"])
}

#[test]
fn a_waiver_holds_until_its_day_and_must_be_of_use() {
    let fixture = service();
    fs::remove_dir_all(fixture.path("db/crates/cfg-if")).unwrap();
    let valid = waive(&fixture, "RUSTSEC-2026-0001", &day(10));
    assert_eq!(valid.code, 0, "{}{}", valid.stdout, valid.stderr);
    assert!(
        valid.stdout.contains("waived  RUSTSEC-2026-0001") && valid.stdout.contains("not reachable, until")
    );
    let expired = waive(&fixture, "RUSTSEC-2026-0001", &day(-2));
    expired.fails(13, &["2 findings"]);
    assert!(expired.stdout.contains("waivers/expired  ci/waivers.yaml:2"), "{}", expired.stdout);
    let unused = waive(&fixture, "RUSTSEC-2026-0099", &day(10));
    unused.fails(13, &["2 findings"]);
    assert!(unused.stdout.contains("waivers/unused"), "{}", unused.stdout);
    // A scan that did not look cannot know.
    assert_eq!(fixture.run(&["scan", "licences"]).code, 0);
    waive(&fixture, "RUSTSEC-2026-0001", &day(400)).fails(3, &["waivers.yaml:2: waivers[0].expires"]);
    waive(&fixture, "RUSTSEC-2026-0001", "2026-13-01").fails(3, &["waivers.yaml:6: waivers[0].expires"]);
    fixture.write(FILE, "waivers:\n  - rule: a\n    because: b\n");
    fixture.run(&["scan"]).fails(3, &["waivers.yaml:3: waivers[0].because: unknown field `because`"]);
}

#[test]
fn licences_outside_the_policy_fail_where_they_are_linked() {
    let fixture = service();
    fs::remove_dir_all(fixture.path("db/crates")).unwrap();
    fs::create_dir(fixture.path("db/crates")).unwrap();
    // Beside the workspace: somebody else's package without a licence.
    fixture.write(
        "others/third/Cargo.toml",
        "[package]\nname = \"third\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    );
    fixture.write("others/third/src/lib.rs", "");
    fixture.package(
        "second",
        "[dependencies]\nthird = { path = \"../../others/third\" }\n",
        "fn main() {}\n",
    );
    fixture.write(
        "Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\nexclude = [\"others\"]\n",
    );
    fixture.lock();
    let licences = |policy: &str| {
        fixture.write("slipway.yaml", &format!("{SETTINGS}  licences:\n{policy}"));
        brief(&scan(&fixture, &["licences"]).1)
    };
    assert_eq!(licences("    exceptions: []\n"), [found("licences/missing", "high", true)]);
    let clarified =
        "    exceptions:\n      - { package: third@0.1.0, licence: MIT, reason: its author said so }\n";
    assert_eq!(licences(clarified), []);
    let strict = licences(&format!("    allow: [ISC]\n{clarified}"));
    let (linked, built) =
        (found("licences/not-allowed", "high", true), found("licences/not-allowed", "note", false));
    assert_eq!(strict, [linked.clone(), linked, built]);
    let unused = "    exceptions:\n      - { package: third, licence: MIT, reason: r }\n      - { package: gone, allow: [MPL-2.0], reason: r }\n";
    assert_eq!(licences(unused), [found("licences/unused-exception", "low", false)]);
    fixture.write("slipway.yaml", &format!("{SETTINGS}  licences: {{ allow: [Mitt] }}\n"));
    fixture.run(&["scan", "licences"]).fails(3, &["scan.licences: `Mitt` is no SPDX licence identifier"]);
}

#[test]
fn notices_hold_the_texts_of_what_is_linked() {
    let fixture = service();
    let path = fixture.path("out/NOTICES");
    let write = || {
        fixture.run(&["scan", "licences", "--notices", path.to_str().unwrap()]);
        fs::read_to_string(&path).unwrap()
    };
    let text = write();
    assert!(text.contains("  itoa@1") && text.contains("Apache License"), "{text}");
    assert!(!text.contains("cfg-if") && !text.contains("app@1.2.3"), "{text}");
    assert_eq!(write(), text);
}

/// `class` by package, from the SBOM of a build.
fn classes_of_sbom(document: &Value) -> BTreeMap<String, String> {
    let class = |component: &Value| {
        let name = format!("{}@{}", component["name"].as_str()?, component["version"].as_str()?);
        let class = if component["scope"] == "excluded" { "build-only" } else { "linked" };
        component["purl"].as_str()?.starts_with("pkg:cargo/").then(|| (name, class.to_owned()))
    };
    document["components"].as_array().unwrap().iter().filter_map(class).collect()
}

#[test]
fn the_unit_graph_says_what_a_real_build_says() {
    let fixture = service();
    // A package that is both linked and used by a build script, and one behind a procedural macro.
    fixture.package(
        "other",
        "[dependencies]\nmacros = { path = \"../macros\" }\nitoa = \"1\"\n[build-dependencies]\nitoa = \"1\"\nfastrand = \"2\"\n",
        "fn main() { macros::nothing!(); }\n",
    );
    fixture.write(
        "crates/other/build.rs",
        "fn main() { let _ = (itoa::Buffer::new(), fastrand::Rng::with_seed(1)); }\n",
    );
    fixture.library(
        "macros",
        "[lib]\nproc-macro = true\n[dependencies]\nmemchr = \"2\"\n",
        "#[proc_macro]\npub fn nothing(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n\
             assert_eq!(memchr::memchr(1, &[1]), Some(0));\n    proc_macro::TokenStream::new()\n}\n",
    );
    fixture.lock();
    let report = fixture.json(&["build"]);
    let (_, scanned) = scan(&fixture, &["advisories"]);
    for service in report["services"].as_array().unwrap() {
        let name = service["name"].as_str().unwrap();
        let text = fs::read_to_string(service["sbom_path"].as_str().unwrap()).unwrap();
        let built = classes_of_sbom(&serde_json::from_str(&text).unwrap());
        let is_in = |list: &Value| list.as_array().unwrap().iter().any(|one| one == name);
        let mut planned = BTreeMap::new();
        for package in scanned["packages"].as_array().unwrap() {
            let key =
                format!("{}@{}", package["name"].as_str().unwrap(), package["version"].as_str().unwrap());
            if is_in(&package["linked"]) {
                planned.insert(key, "linked".to_owned());
            } else if is_in(&package["build_only"]) {
                planned.insert(key, "build-only".to_owned());
            }
        }
        planned.retain(|key, _| !key.ends_with("@1.2.3"));
        assert_eq!(planned, built, "{name}");
        assert!(built.len() >= 2, "{built:?}");
        if name == "app" {
            judges_the_stored_sbom_alike(&fixture, &text);
        }
    }
}

/// Later, without the workspace, the SBOM of `app` gives what the scan gave for what is compiled.
fn judges_the_stored_sbom_alike(fixture: &Fixture, sbom: &str) {
    let database = ::scan::Database::open(&fixture.path("db")).unwrap();
    let target = Some("x86_64-unknown-linux-gnu");
    let findings = ::scan::evaluate(&database, "app", target, sbom.as_bytes()).unwrap();
    let brief: Vec<_> = findings.iter().map(|one| (one.rule.id.as_str(), one.severity)).collect();
    assert_eq!(brief, [("RUSTSEC-2026-0002", Severity::High), ("RUSTSEC-2026-0001", Severity::Critical)]);
}

/// Puts a cargo that does `before` first in the place of the real one.
fn cargo_after(fixture: &mut Fixture, before: &str) {
    let cargo = fixture.path("cargo");
    fs::write(&cargo, format!("#!/bin/sh\n{before}\nexec '{}' \"$@\"\n", env!("CARGO"))).unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    fixture.env("CARGO", cargo.to_str().unwrap());
}

#[test]
fn offline_holds_for_cargo_too() {
    let mut fixture = service();
    let log = fixture.path("calls");
    cargo_after(&mut fixture, &format!("echo \"$@\" >>{}", log.display()));
    let calls = |args: &[&str]| {
        fixture.run(&[&["scan", "advisories"], args].concat()).fails(13, &[]);
        let calls = fs::read_to_string(&log).unwrap();
        fs::remove_file(&log).unwrap();
        // One more only asks for a version.
        let asks = |line: &&str| line.starts_with("metadata ") || line.starts_with("build ");
        let lines: Vec<&str> = calls.lines().filter(asks).collect();
        (lines.len(), lines.iter().filter(|line| line.contains(" --offline")).count())
    };
    assert_eq!((calls(&[]), calls(&["--offline"])), ((2, 0), (2, 2)));
}

#[test]
fn checks_that_need_nothing_of_cargo_do_not_ask_it() {
    let mut fixture = service();
    cargo_after(&mut fixture, "case \"$*\" in *--unit-graph*) exit 1;; esac");
    for args in [&["secrets"][..], &["configuration", "workflows"]] {
        let (code, document) = scan(&fixture, args);
        assert_eq!((code, &document["packages"]), (0, &json!([])));
        assert!(!document["warnings"].to_string().contains("unit graph"), "{}", document["warnings"]);
    }
}

#[test]
fn where_cargo_refuses_the_unit_graph_everything_resolved_counts_as_linked() {
    let mut fixture = service();
    let refuse = "case \"$*\" in *--unit-graph*) echo 'error: no such flag' >&2; exit 1;; esac";
    cargo_after(&mut fixture, refuse);
    let (code, document) = scan(&fixture, &["advisories"]);
    // Even what is only there for tests; `memchr` was not resolved at all.
    let expected = [
        found("RUSTSEC-2026-0001", "critical", true),
        found("RUSTSEC-2026-0002", "critical", true),
        found("RUSTSEC-2026-0003", "critical", true),
        found("RUSTSEC-2026-0004", "note", false),
    ];
    assert_eq!((code, brief(&document)), (13, expected.into()));
    let warning = document["warnings"][0].as_str().unwrap();
    assert!(warning.contains("no such flag") && warning.contains("counts as linked"), "{warning}");
}

/// A database in a git repository whose commit has the given time.
fn repository(fixture: &Fixture, time: &str) {
    fixture.write("repo/rust/std/CVE-2026-0001.md", &advisory("CVE-2026-0001", "std", CRITICAL));
    fixture.write("repo/crates/README", "");
    commit(fixture, time);
}

fn commit(fixture: &Fixture, time: &str) {
    for args in [&["init", "-q"][..], &["add", "-A"], &["commit", "-q", "--allow-empty", "-m", "advisories"]]
    {
        let mut git = Command::new("git");
        git.args(["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "commit.gpgsign=false"]);
        git.args(args).current_dir(fixture.path("repo"));
        assert!(git.env("GIT_COMMITTER_DATE", time).status().unwrap().success());
    }
}

/// A workspace without dependencies whose database is a repository, with a Cargo home of its own.
fn fetching(settings: &str) -> Fixture {
    let mut fixture = Fixture::hello();
    repository(&fixture, "2026-01-02T00:00:00Z");
    let url = format!("file://{}", fixture.path("repo").display());
    fixture.write(
        "slipway.yaml",
        &format!("scan:\n  advisories:\n    database: {url}\n    warn_age_days: 100000\n    max_age_days: 100000\n{settings}"),
    );
    let home = fixture.path("home").display().to_string();
    fixture.env("CARGO_HOME", &home);
    fixture
}

/// Folders of fetched databases.
fn copies(fixture: &Fixture) -> usize {
    let folder = fixture.path("home/slipway/advisories");
    let cache = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    fs::read_dir(cache).unwrap().filter(|entry| entry.as_ref().unwrap().path().is_dir()).count()
}

#[test]
fn a_database_is_fetched_once_and_kept() {
    let fixture = fetching("");
    let run = fixture.run(&["scan", "--offline"]);
    run.fails(3, &["advisories: there is no copy of", "scan once without --offline"]);
    assert!(run.stdout.contains("advisories could not run, secrets, licences"), "{}", run.stdout);
    let rules = |args: &[&str]| -> Vec<String> {
        let (_, document) = scan(&fixture, &[&["advisories"], args].concat());
        brief(&document).into_iter().map(|(rule, _, _)| rule).collect()
    };
    assert_eq!(rules(&[]), ["CVE-2026-0001"]);
    fixture.write("repo/rust/std/CVE-2026-0002.md", &advisory("CVE-2026-0002", "std", CRITICAL));
    commit(&fixture, "2026-01-03T00:00:00Z");
    assert_eq!(rules(&[]), ["CVE-2026-0001"]);
    let text = fs::read_to_string(fixture.path("slipway.yaml")).unwrap();
    fixture.write("slipway.yaml", &format!("{text}    refresh_hours: 0\n"));
    assert_eq!(rules(&[]), ["CVE-2026-0001", "CVE-2026-0002"]);
    fs::rename(fixture.path("repo"), fixture.path("gone")).unwrap();
    assert_eq!(rules(&["--offline"]), ["CVE-2026-0001", "CVE-2026-0002"]);
    let run = fixture.run(&["scan", "advisories"]);
    run.fails(13, &["warning: cannot fetch newer advisories"]);
    assert!(copies(&fixture) <= 2);
}

#[test]
fn scans_that_fetch_at_the_same_time_share_one_copy() {
    let fixture = fetching("");
    let scans: Vec<_> = (0..4)
        .map(|_| {
            let mut command = fixture.command(&["scan", "advisories", "--json"]);
            command.stdout(std::process::Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for scan in scans {
        let output = scan.wait_with_output().unwrap();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(brief(&document), [found("CVE-2026-0001", "critical", true)]);
    }
    assert_eq!(copies(&fixture), 1);
}

#[test]
fn old_advisories_are_warned_about_and_then_fail() {
    let fixture = fetching("");
    let url = format!("file://{}", fixture.path("repo").display());
    fs::remove_file(fixture.path("repo/rust/std/CVE-2026-0001.md")).unwrap();
    let with = |limits: &str, days: i64| {
        commit(&fixture, &format!("{}T12:00:00Z", day(-days)));
        fixture.write(
            "slipway.yaml",
            &format!("scan:\n  advisories: {{ database: '{url}', refresh_hours: 0, {limits} }}\n"),
        );
        fixture.run(&["scan", "advisories"])
    };
    let run = with("warn_age_days: 20, max_age_days: 40", 10);
    assert_eq!((run.code, run.stderr.as_str()), (0, ""));
    let run = with("warn_age_days: 20, max_age_days: 40", 30);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(run.stderr.contains("warning: the advisories are 30 days old"), "{}", run.stderr);
    with("warn_age_days: 20, max_age_days: 40", 50).fails(13, &[]);
    fixture.write("slipway.yaml", "scan: { advisories: { database: crates } }\n");
    fixture.run(&["scan", "advisories"]).fails(3, &["is no advisory database: it has no folder `crates`"]);
}

#[test]
fn advisories_of_unknown_age_are_no_good_news() {
    let fixture = service();
    fs::remove_dir_all(fixture.path("db/crates")).unwrap();
    fs::create_dir(fixture.path("db/crates")).unwrap();
    let run = fixture.run(&["scan", "advisories"]);
    run.fails(13, &[]);
    assert!(run.stdout.contains("nobody can say how old the advisories are"), "{}", run.stdout);
}

#[test]
fn the_password_of_a_database_is_never_shown() {
    let fixture = service();
    let settings =
        "scan: { advisories: { database: 'https://user:pass-word@127.0.0.1:1/db.git?key=pass-word' } }\n";
    fixture.write("slipway.yaml", settings);
    for args in
        [&["scan", "advisories"][..], &["scan", "advisories", "--offline"], &["scan", "advisories", "--json"]]
    {
        let run = fixture.run(args);
        run.fails(3, &["https://127.0.0.1:1/db.git"]);
        assert!(
            !format!("{}{}", run.stdout, run.stderr).contains("pass-word"),
            "{}{}",
            run.stdout,
            run.stderr
        );
    }
}

#[test]
fn a_workspace_of_libraries_is_scanned_for_who_depends_on_them() {
    let fixture = service();
    fs::remove_dir_all(fixture.path("crates/app")).unwrap();
    fixture.library("one", "[dependencies]\nitoa = \"1\"\n[dev-dependencies]\nfastrand = \"2\"\n", "");
    fixture.lock();
    let (code, document) = scan(&fixture, &[]);
    let expected = [found("RUSTSEC-2026-0001", "critical", true), found("RUSTSEC-2026-0003", "note", false)];
    assert_eq!((code, brief(&document)), (13, expected.to_vec()));
    let warnings = document["warnings"].to_string();
    assert!(warnings.contains("no package of this workspace has a binary"), "{warnings}");
    fixture.run(&["build"]).fails(3, &["no package of this workspace has a binary to make an image of"]);
}

#[test]
fn what_was_found_is_shown_where_a_file_cannot_be_written() {
    let fixture = service();
    fixture.write("file", "");
    for flag in ["--sarif", "--notices"] {
        let run = fixture.run(&["scan", "advisories", flag, "file/x"]);
        run.fails(3, &["file/x"]);
        assert!(run.stdout.contains("RUSTSEC-2026-0001"), "{flag}: {}", run.stdout);
    }
}

#[test]
fn a_waiver_is_useless_only_where_everything_was_looked_at() {
    let fixture = service();
    fs::remove_dir_all(fixture.path("db/crates")).unwrap();
    fixture.write("db/crates/other/RUSTSEC-2026-0009.md", &advisory("RUSTSEC-2026-0009", "other", ""));
    let git = |args: &[&str]| {
        let status = Command::new("git").args(args).current_dir(fixture.path("")).status();
        assert!(status.unwrap().success());
    };
    git(&["init", "--quiet"]);
    let waiver = "waivers:\n  - { rule: secret/private-key, place: 'image:app:key.pem', reason: r, owner: o, expires: ";
    fixture.write(FILE, &format!("{waiver}{} }}\n", day(10)));
    // Nothing was built: what is in the image nobody knows.
    let run = fixture.run(&["scan", "secrets", "--history"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
}

#[test]
fn a_job_on_github_gets_annotations_and_a_summary() {
    let mut fixture = service();
    let summary = fixture.path("summary.md");
    fixture.env("GITHUB_ACTIONS", "true");
    fixture.env("GITHUB_STEP_SUMMARY", summary.to_str().unwrap());
    let run = fixture.run(&["scan", "advisories", "--fail-on", "critical"]);
    run.fails(
        13,
        &["::error file=Cargo.lock,line=", "title=RUSTSEC-2026-0001::itoa@1", "::warning file=Cargo.lock"],
    );
    let summary = fs::read_to_string(summary).unwrap();
    assert!(summary.contains("| fails | critical | RUSTSEC-2026-0001 | Cargo.lock:"), "{summary}");
    assert!(!summary.contains("RUSTSEC-2026-0003"), "{summary}");
}

/// SARIF with every kind of result: failing, noted, waived, without a line.
fn every_result(fixture: &Fixture) -> Value {
    fixture.write("slipway.yaml", "scan:\n  advisories: { database: db, warn_age_days: 0, max_age_days: 0 }\n  licences: { allow: [ISC] }\n");
    waive(fixture, "RUSTSEC-2026-0001", &day(10));
    let path = fixture.path("out.sarif");
    fixture.run(&["scan", "--sarif", path.to_str().unwrap()]).fails(13, &[]);
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

#[test]
fn fingerprints_stay_when_lines_move() {
    let fixture = service();
    let prints = |document: &Value| -> BTreeSet<String> {
        let results = document["runs"][0]["results"].as_array().unwrap();
        results.iter().map(|one| one["partialFingerprints"].to_string()).collect()
    };
    let first = every_result(&fixture);
    let results = first["runs"][0]["results"].as_array().unwrap();
    let suppressed = results.iter().filter(|one| one.get("suppressions").is_some()).count();
    assert_eq!((results.len(), prints(&first).len(), suppressed), (7, 7, 1));
    let root = fixture.path("").display().to_string();
    assert!(!first.to_string().contains(root.trim_end_matches('/')));
    let lock = fs::read_to_string(fixture.path("Cargo.lock")).unwrap();
    fixture.write("Cargo.lock", &format!("# moved\n{lock}"));
    assert_eq!(prints(&every_result(&fixture)), prints(&first));
}

/// What the reference validator has against the document at `path`, its notes apart; nothing where it is not installed.
fn objections(path: &Path) -> Vec<Value> {
    let have = Command::new("Sarif.Multitool").arg("version").output().is_ok();
    assert!(have || !is_required("Sarif.Multitool"), "Sarif.Multitool is required and does not work");
    if !have {
        eprintln!("skipped: Sarif.Multitool does not work on this machine");
        return vec![];
    }
    let results = path.with_extension("validated");
    let mut validate = Command::new("Sarif.Multitool");
    validate.arg("validate").arg(path).args([
        "--rule-kind",
        "Sarif;Gh",
        "--level",
        "Error;Warning;Note",
        "--output",
    ]);
    let validated = validate.arg(&results).output().unwrap();
    let said = String::from_utf8_lossy(&validated.stdout).into_owned();
    assert!(said.contains("1 files scanned"), "{said}{}", String::from_utf8_lossy(&validated.stderr));
    let document: Value = serde_json::from_slice(&fs::read(&results).unwrap()).unwrap();
    let found = document["runs"][0]["results"].as_array().unwrap();
    // What the validator does say shows that it looked.
    assert!(found.iter().any(|one| one["ruleId"].as_str().unwrap().starts_with("SARIF")), "{said}");
    // A result without a level is a warning.
    found.iter().filter(|one| one["level"] != "note").cloned().collect()
}

#[test]
fn the_reference_validator_accepts_the_sarif_document() {
    let fixture = service();
    every_result(&fixture);
    let objections = objections(&fixture.path("out.sarif"));
    assert!(objections.is_empty(), "{objections:#?}");
}

#[test]
fn the_reference_validator_accepts_every_place_and_text() {
    let rule = |id: &str, check, url: Option<&str>| Rule {
        id: id.into(),
        check,
        title: "uses ${{ github.event }} {0}".into(),
        why: "it's \"bad\" [see](https://example.org) ".into(),
        fix: "don\u{2019}t".into(),
        url: url.map(str::to_owned),
    };
    let mut open = Vec::new();
    let commit = "0".repeat(40);
    for (index, place) in [
        Place::file("a b/ü.yaml"),
        Place::file_line("Cargo.lock", 3, 7),
        Place::Commit { commit, path: "old.pem".into(), line: Some(2) },
        Place::Image { service: "api".into(), path: Some("bin/sh".into()) },
        Place::Image { service: "unknown".into(), path: None },
    ]
    .into_iter()
    .enumerate()
    {
        for severity in Severity::ALL {
            let url = (index == 0).then_some("https://example.org/x");
            let rule = rule(&format!("images/rule-{index}"), Check::ALL[index], url);
            let (message, key) = (format!("`x` [link](1) {{0}} {index}"), format!("{severity:?}"));
            open.push(Finding { severity, rule, place: place.clone(), message, key });
        }
    }
    let service_files = BTreeMap::from([("api".to_owned(), "services/api/service.yaml".to_owned())]);
    let input = Sarif { version: "0.1.0", open: &open, waived: &[], service_files: &service_files };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("all.sarif");
    fs::write(&path, finding::sarif(&input).to_string()).unwrap();
    let objections = objections(&path);
    assert!(objections.is_empty(), "{objections:#?}");
}
