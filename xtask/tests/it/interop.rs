//! Our images in front of programs that are not ours. Each test needs a program that a user of this tool does not: without it
//! the test says so and passes, unless SLIPWAY_TEST_REQUIRE names the program, as it does in CI.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::support::{Fixture, have, output};

/// A service that tells who it is, where time zones lie, and whether it can write to its root.
fn service() -> Fixture {
    let fixture = Fixture::new();
    fixture.package(
        "probe",
        "description = \"Tells where it runs\"\n",
        r#"use std::fs;
use std::net::ToSocketAddrs;
fn main() {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap().split_whitespace().nth(1).unwrap();
    let zone = fs::read("/usr/share/zoneinfo/Europe/Berlin").unwrap().starts_with(b"TZif");
    let authorities = fs::read_to_string(std::env::var("SSL_CERT_FILE").unwrap()).unwrap().contains("BEGIN CERTIFICATE");
    let resolved = ("localhost", 80).to_socket_addrs().is_ok();
    println!("uid {uid} zone {zone} authorities {authorities} resolved {resolved} root-writable {}", fs::write("/x", "").is_ok());
}
"#,
    );
    fixture.write(
        "crates/probe/service.yaml",
        "http: { port: 9000 }\nhealth: { path: /health, command: [check] }\nstop: { signal: SIGINT }\nvolumes:\n  - { name: data, path: /data }\n",
    );
    fixture.lock();
    fixture
}

#[test]
fn skopeo_reads_the_layout() {
    if !have("skopeo", &["--version"]) {
        return;
    }
    let fixture = service();
    let digest = fixture.digests(&[])["probe"].clone();
    let reference = format!("oci:{}:probe", fixture.path("target/slipway/images").display());
    let inspected: Value = serde_json::from_str(&output("skopeo", &["inspect", &reference])).unwrap();
    assert_eq!(inspected["Digest"], Value::String(digest));
    assert_eq!(inspected["Labels"]["org.opencontainers.image.description"], "Tells where it runs");
    let config: Value =
        serde_json::from_str(&output("skopeo", &["inspect", "--config", &reference])).unwrap();
    assert_eq!(config["config"]["User"], "10001:10001");
    assert_eq!(config["config"]["StopSignal"], "SIGINT");
    let copy = format!("oci:{}:copy", fixture.path("copied").display());
    output("skopeo", &["copy", "--quiet", &reference, &copy]);
}

#[test]
fn umoci_unpacks_the_image() {
    if !have("umoci", &["--version"]) {
        return;
    }
    let fixture = service();
    fixture.digests(&[]);
    let image = format!("{}:probe", fixture.path("target/slipway/images").display());
    let bundle = fixture.path("bundle");
    output("umoci", &["unpack", "--rootless", "--image", &image, bundle.to_str().unwrap()]);
    let mode =
        |path: &str| fs::metadata(bundle.join("rootfs").join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!(
        (mode("app/probe"), mode("tmp"), mode("data"), mode("etc/passwd")),
        (0o555, 0o1777, 0o750, 0o444)
    );
}

#[test]
fn a_docker_engine_loads_and_runs_the_image_without_any_right() {
    if !have("docker", &["info"]) {
        return;
    }
    let fixture = service();
    fixture.write("slipway.yaml", "image: { prefix: slipway-test/ }\n");
    let run = fixture.run(&["build", "--load"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let image = "slipway-test/probe:1.2.3";
    let hardened =
        ["run", "--rm", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", image];
    let said = output("docker", &hardened);
    assert_eq!(said.trim(), "uid 10001 zone true authorities true resolved true root-writable false");
    let inspected: Value = serde_json::from_str(&output("docker", &["inspect", image])).unwrap();
    assert_eq!(
        inspected[0]["Config"]["Healthcheck"]["Test"],
        serde_json::json!(["CMD", "/app/probe", "check"])
    );
    output("docker", &["rmi", image]);
}
