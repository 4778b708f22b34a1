//! `cargo xtask release`, and what a deployment asks of a release.

use std::net::TcpListener;

use serde_json::Value;

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
