//! `cargo xtask release`, and what a deployment asks of a release.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use crate::support::Fixture;

/// The service `hello`, and an environment `staging` on a free port that asks for a scan.
fn staging(more: &str) -> Fixture {
    let fixture = Fixture::hello();
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    fixture.write(
        "deploy/environments/staging.yaml",
        &format!("edge: {{ listen: \"{listen}\" }}\nsettle_ms: 0\n{more}"),
    );
    fixture
}

#[test]
fn a_release_is_a_file_that_says_what_it_holds() {
    let fixture = staging("");
    let created = fixture.json(&["release", "create", "--output", "v1.json"]);
    let bytes = std::fs::read(fixture.path("v1.json")).unwrap();
    assert_eq!(stdx::Digest::of(&bytes).to_string(), created["id"].as_str().unwrap());
    let release: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(release, created["release"]);
    // Its SBOMs are found by digest, whatever is built next.
    let sbom = release["services"]["hello"]["sbom"].as_str().unwrap().trim_start_matches("sha256:");
    assert!(fixture.path("target/slipway/images/blobs/sha256").join(sbom).is_file());
    let shown = fixture.run(&["release", "show", "v1.json"]);
    assert!(shown.code == 0 && shown.stdout.contains("hello"), "{}", shown.stdout);
    std::fs::write(fixture.path("v1.json"), &bytes[1..]).unwrap();
    fixture.run(&["release", "show", "v1.json"]).fails(3, &["v1.json", "not a release manifest"]);
    fixture.run(&["release", "show"]).fails(3, &["release.json"]);
}

#[test]
fn an_environment_that_asks_for_a_scan_refuses_what_nobody_scanned() {
    let fixture = staging("");
    fixture.run(&["deploy", "staging"]).fails(
        13,
        &["staging does not admit the release", "nobody scanned it", "cargo xtask scan --release"],
    );
    assert!(!fixture.path(".slipway/staging").exists());
}

/// A workspace with the service `web`, which links `itoa`; advisories of its own; and the environment `staging`, which asks for
/// a scan and has whatever runs there stopped at the end.
struct Gate {
    fixture: Fixture,
    listen: SocketAddr,
}

const WAIVERS: &str = "ci/waivers.yaml";
/// An advisory about what is linked, which came out after the scan.
const ADVISORY: &str = "db/crates/itoa/RUSTSEC-2026-0001.md";
const ADVISORY_TEXT: &str = "```toml\n[advisory]\nid = \"RUSTSEC-2026-0001\"\npackage = \"itoa\"\ndate = \"2026-01-02\"\n\
    [versions]\npatched = []\n```\n\n# itoa can be made to fail\n\nA made up defect.\n";
/// The age of a made up database is no matter here.
const SETTINGS: &str = "scan:\n  advisories: { database: db, warn_age_days: 100000, max_age_days: 100000 }\n";

impl Gate {
    fn new() -> Gate {
        let fixture = Fixture::new();
        fixture.package("web", "[dependencies]\nitoa = \"1\"\n", "");
        fixture.write(
            "crates/web/service.yaml",
            "http: { port: 9000, routes: [{ path_prefix: / }] }\n\
             health: { path: /health, interval_ms: 50, start_timeout_ms: 5000 }\n\
             env: { GREETING: { default: hello, description: What it says. } }\n\
             stop: { grace_ms: 2000 }\n",
        );
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let environment = format!("edge: {{ listen: \"{listen}\" }}\nsettle_ms: 0\n");
        fixture.write("deploy/environments/staging.yaml", &environment);
        fixture.write("slipway.yaml", SETTINGS);
        let other = ADVISORY_TEXT.replace("itoa", "other");
        fixture.write("db/crates/other/RUSTSEC-2026-0001.md", &other);
        let gate = Gate { fixture, listen };
        gate.version("1");
        gate.fixture.lock();
        gate
    }

    /// One that made the release `v1.json`, scanned it, and serves it.
    fn open() -> Gate {
        let gate = Gate::new();
        gate.create("v1.json");
        gate.scanned(0);
        gate.admits(&[]);
        gate
    }

    fn version(&self, version: &str) {
        let source = include_str!("../fixtures/web.rs").replace("VERSION-0", version);
        let main = source
            .replace("fn main() {", "fn main() {\n    println!(\"{}\", itoa::Buffer::new().format(7));");
        self.fixture.write("crates/web/src/main.rs", &main);
    }

    fn create(&self, file: &str) {
        self.fixture.json(&["release", "create", "--output", file]);
    }

    /// Scans `v1.json`, which ends with this code.
    #[track_caller]
    fn scanned(&self, code: i32) {
        let run = self.fixture.run(&["scan", "--release", "v1.json"]);
        assert_eq!(run.code, code, "{}{}", run.stdout, run.stderr);
    }

    fn get(&self) -> Option<String> {
        let mut stream = TcpStream::connect(self.listen).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(b"GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    /// What is served, and what was ever done in the environment.
    fn state(&self) -> (Option<String>, Option<String>) {
        (self.get(), fs::read_to_string(self.fixture.path(".slipway/staging/journal.jsonl")).ok())
    }

    /// `v1.json` is deployed and serves.
    #[track_caller]
    fn admits(&self, args: &[&str]) {
        let run = self.fixture.run(&[&["deploy", "staging", "--release", "v1.json"], args].concat());
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        assert_eq!(self.get().as_deref(), Some("1"));
    }

    /// A release is refused with this code and these words, and nothing at all is done.
    #[track_caller]
    fn refuses_file(&self, release: &str, args: &[&str], code: i32, texts: &[&str]) {
        let before = self.state();
        let run = self.fixture.run(&[&["deploy", "staging", "--release", release], args].concat());
        run.fails(code, texts);
        assert_eq!(run.stdout, "");
        assert_eq!(self.state(), before);
    }

    #[track_caller]
    fn refuses(&self, texts: &[&str]) {
        self.refuses_file("v1.json", &[], 13, &[&["staging does not admit the release"], texts].concat());
    }

    /// The record of the only scan.
    fn record(&self) -> PathBuf {
        let mut records = fs::read_dir(self.fixture.path("target/slipway/scans")).unwrap();
        let path = records.next().unwrap().unwrap().path();
        assert!(records.next().is_none());
        path
    }

    fn publish_advisory(&self) {
        self.fixture.write(ADVISORY, ADVISORY_TEXT);
    }

    fn waive(&self, days: i64) {
        let expires = jiff::Zoned::now().date().saturating_add(jiff::Span::new().days(days));
        let text = format!(
            "waivers:\n  - {{ rule: RUSTSEC-2026-0001, reason: not called, owner: team-a, expires: {expires} }}\n"
        );
        self.fixture.write(WAIVERS, &text);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.fixture.run(&["down", "staging"]);
    }
}

/// Changes a file of JSON.
fn edit(path: &Path, change: impl Fn(&mut Value)) {
    let mut value: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    change(&mut value);
    fs::write(path, value.to_string()).unwrap();
}

fn hours_from_now(hours: i64) -> Value {
    json!(Timestamp::now() + SignedDuration::from_hours(hours))
}

#[test]
fn what_was_scanned_is_admitted_and_a_scan_ages() {
    let gate = Gate::new();
    gate.create("v1.json");
    gate.refuses(&["nobody scanned it", "cargo xtask scan --release"]);
    assert!(!gate.fixture.path(".slipway").exists());
    gate.scanned(0);
    let record = gate.record();
    let good = fs::read(&record).unwrap();
    for (hours, reason) in
        [(-25, "its scan is 25 hours old, and may be 24 hours"), (1, "its scan is from the future")]
    {
        edit(&record, |record| record["scanned_at"] = hours_from_now(hours));
        gate.refuses(&[reason]);
    }
    assert!(!gate.fixture.path(".slipway").exists());
    edit(&record, |record| record["scanned_at"] = hours_from_now(-23));
    gate.admits(&[]);
    for damaged in [&good[..good.len() / 2], b"", b"{}"] {
        fs::write(&record, damaged).unwrap();
        gate.refuses_file(
            "v1.json",
            &[],
            3,
            &[record.to_str().unwrap(), "scan record", "cargo xtask scan --release"],
        );
    }
    fs::remove_file(&record).unwrap();
    gate.refuses(&["nobody scanned it"]);
    let run = gate.fixture.run(&["deploy", "staging", "--release", "v1.json", "--scan", "gone.json"]);
    run.fails(3, &["gone.json"]);
}

#[test]
fn what_became_known_since_the_scan_refuses_until_somebody_decides() {
    let gate = Gate::open();
    gate.publish_advisory();
    gate.refuses(&[
        "new since the scan: high RUSTSEC-2026-0001 in the image of web",
        "itoa can be made to fail",
    ]);
    gate.scanned(13);
    gate.refuses(&["the scan found high RUSTSEC-2026-0001"]);
    // What stands in a record is text of others.
    edit(&gate.record(), |record| {
        record["findings"][0]["finding"]["message"] = json!("\u{1b}[2J\nno findings")
    });
    gate.refuses(&["in the image of web:  [2J no findings\n"]);
    // The decision is part of a scan, not of a deployment.
    gate.waive(10);
    gate.refuses(&["the scan found high RUSTSEC-2026-0001"]);
    gate.scanned(0);
    gate.admits(&[]);
    let (record, waivers) = (gate.record(), fs::read(gate.fixture.path(WAIVERS)).unwrap());
    // Somebody takes the decision back; or the day has come, for the file and for what the record kept of it.
    fs::remove_file(gate.fixture.path(WAIVERS)).unwrap();
    gate.refuses(&["the waiver of team-a was withdrawn since the scan (high RUSTSEC-2026-0001"]);
    gate.waive(-2);
    gate.refuses(&["the waiver of team-a ran out on", "RUSTSEC-2026-0001"]);
    edit(&record, |record| record["findings"][0]["waived"]["expires"] = json!("2026-01-01"));
    gate.refuses(&["the waiver of team-a ran out on 2026-01-01 (high RUSTSEC-2026-0001"]);
    gate.scanned(13);
    gate.refuses(&["the scan found high waivers/expired", "the scan found high RUSTSEC-2026-0001"]);
    fs::write(gate.fixture.path(WAIVERS), waivers).unwrap();
    gate.scanned(0);
    gate.admits(&[]);
}

#[test]
fn a_release_that_was_changed_after_its_scan_is_another_release() {
    let gate = Gate::open();
    let record = gate.record();
    let record = record.to_str().unwrap();
    let digest = format!("sha256:{}", "0".repeat(64));
    let changes = [
        ("image", json!(digest)),
        ("sbom", json!(digest)),
        ("env/GREETING/default", json!("other")),
        ("http/routes/0/path_prefix", json!("/x")),
    ];
    for (field, value) in changes {
        let file = "changed.json";
        fs::copy(gate.fixture.path("v1.json"), gate.fixture.path(file)).unwrap();
        edit(&gate.fixture.path(file), |release| {
            *release.pointer_mut(&format!("/services/web/{field}")).unwrap() = value.clone();
        });
        gate.refuses_file(file, &[], 13, &["nobody scanned it", "changed after its scan"]);
        gate.refuses_file(file, &["--scan", record], 13, &["its scan is of another release"]);
    }
    gate.version("2");
    gate.create("v2.json");
    let run = gate.fixture.run(&["scan", "--release", "v2.json", "--record", "v2.scan"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    gate.refuses_file("v1.json", &["--scan", "v2.scan"], 13, &["its scan is of another release"]);
    gate.admits(&["--scan", record]);
}

#[test]
fn a_scan_that_failed_or_did_not_look_admits_nothing() {
    let gate = Gate::open();
    let run = gate.fixture.run(&["scan", "advisories", "--release", "v1.json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    gate.refuses(&["its scan left out secrets, licences, images"]);
    // A check that could not run was left out, whatever the others found.
    gate.fixture.write("slipway.yaml", &format!("{SETTINGS}  licences: {{ allow: [Mitt] }}\n"));
    gate.scanned(3);
    gate.refuses(&["its scan left out licences"]);
    gate.fixture.write("slipway.yaml", SETTINGS);
    let secret = ["AKIA", "QYLPMN5HFIQR7XYZ"].concat();
    gate.fixture.write("crates/web/src/key.rs", &format!("const KEY: &str = \"{secret}\";\n"));
    // What one run lets pass, the environment does not.
    let run = gate.fixture.run(&["scan", "--release", "v1.json", "--fail-on", "critical"]);
    assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
    gate.refuses(&["the scan found high secret/", "crates/web/src/key.rs"]);
    let run = gate.fixture.run(&["deploy", "staging", "--release", "v1.json"]);
    assert!(!run.stderr.contains(&secret), "{}", run.stderr);
    fs::remove_file(gate.fixture.path("crates/web/src/key.rs")).unwrap();
    gate.scanned(0);
    gate.admits(&[]);
    let release: Value = serde_json::from_slice(&fs::read(gate.fixture.path("v1.json")).unwrap()).unwrap();
    let sbom = release["services"]["web"]["sbom"].as_str().unwrap().trim_start_matches("sha256:").to_owned();
    let blob = gate.fixture.path("target/slipway/images/blobs/sha256").join(sbom);
    let good = fs::read(&blob).unwrap();
    fs::write(&blob, &good[1..]).unwrap();
    gate.refuses_file("v1.json", &[], 3, &["the SBOM of web", "is damaged"]);
    fs::remove_file(&blob).unwrap();
    gate.refuses_file("v1.json", &[], 3, &["the SBOM of web is not here"]);
    gate.scanned(3);
    fs::write(&blob, good).unwrap();
    gate.refuses(&["its scan left out advisories"]);
}

#[test]
fn a_release_answers_for_its_own_licences_whatever_the_workspace_holds_now() {
    let gate = Gate::open();
    let settings = format!("{SETTINGS}  licences: {{ allow: [ISC] }}\n");
    gate.fixture.write("slipway.yaml", &settings);
    // `itoa` is in the image of the release, and gone from the workspace.
    gate.fixture.package("web", "", "fn main() {}\n");
    gate.fixture.lock();
    assert_eq!(gate.fixture.run(&["scan", "licences"]).code, 0);
    gate.scanned(13);
    gate.refuses(&["the scan found high licences/not-allowed in the image of web: itoa@1"]);
}

#[test]
fn a_waiver_for_the_workspace_does_not_refuse_its_release() {
    let gate = Gate::new();
    gate.create("v1.json");
    let expires = jiff::Zoned::now().date().tomorrow().unwrap();
    // About what only a scan of the workspace sees: withdrawn versions, and places in its lock file.
    let waiver = |scope: &str| format!("  - {{ {scope}, reason: r, owner: team-a, expires: {expires} }}\n");
    let waivers = [
        waiver("rule: advisories/yanked, package: itoa"),
        waiver("rule: licences/missing, place: Cargo.lock"),
    ];
    gate.fixture.write(WAIVERS, &format!("waivers:\n{}", waivers.concat()));
    gate.scanned(0);
    gate.admits(&[]);
}
