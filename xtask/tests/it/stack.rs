//! What is said of images of other people's programs, and of services on Debian packages: before our own judge and those of others.

#![cfg(target_arch = "x86_64")]

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use serde_json::{Value, json};
use stdx::Digest;

use crate::attest::{RegistryServer, commit, outcomes, validators_accept};
use crate::base::{Archive, archived, debian_tools};
use crate::support::{Fixture, works};

/// The image `theirs`, whose program stands on `middle`, and that on the C library.
fn theirs() -> (Archive, Fixture) {
    let (archive, fixture) = archived();
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("x.c"), "int main(void) { return 0; }\n").unwrap();
    let status = Command::new("cc").args(["-o", "x", "x.c"]).current_dir(folder.path()).status();
    assert!(status.unwrap().success());
    let program = fs::read(folder.path().join("x")).unwrap();
    archive.package("theirs", "1:3.0-1", "Depends: virtual-middle\n", &[("usr/bin/theirs", program)]);
    let middle = "Depends: libc6 (>= 2.30), left-out\nProvides: virtual-middle\n";
    archive.package("middle", "2.0", middle, &[("usr/share/middle/x", b"x".to_vec())]);
    archive.publish();
    fixture.write(
        "slipway.yaml",
        "image: { vendor: Example Ltd }\nsigning: { key: { file: slipway.key }, public_key: slipway.pub }\n\
         images:\n  theirs:\n    base: { debian: [theirs], without: [left-out] }\n    user: { name: them, id: 10002 }\n    \
         entrypoint: [/usr/bin/theirs]\n    cmd: [--all]\n    files: { /etc/theirs.conf: \"a = 1\" }\n",
    );
    fixture.write(".gitignore", "target\n*.key\nhome\n");
    assert_eq!(fixture.run(&["key", "generate"]).code, 0);
    let locked = fixture.run(&["base", "lock"]);
    assert_eq!(locked.code, 0, "{}", locked.stderr);
    commit(&fixture);
    (archive, fixture)
}

fn read(path: &Value) -> Value {
    serde_json::from_slice(&fs::read(path.as_str().unwrap()).unwrap()).unwrap()
}

fn texts(values: &Value) -> BTreeSet<&str> {
    values.as_array().unwrap().iter().filter_map(Value::as_str).collect()
}

#[test]
fn an_image_of_packages_says_what_is_in_it_and_how_it_was_made() {
    if !debian_tools() {
        return;
    }
    let (archive, fixture) = theirs();
    let built = fixture.json(&["base", "build"]);
    assert!(built["signed_by"].is_string(), "{built}");
    let image = &built["images"][0];
    let cyclonedx = read(&image["sbom_path"]);
    let needs = |from: &str| {
        let all = cyclonedx["dependencies"].as_array().unwrap();
        let of = all.iter().find(|one| one["ref"].as_str().unwrap().contains(from)).unwrap();
        texts(&of["dependsOn"])
            .into_iter()
            .map(|purl| purl.split('?').next().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(needs("deb/debian/theirs"), ["pkg:deb/debian/middle@2.0"]);
    assert_eq!(needs("deb/debian/middle"), ["pkg:deb/debian/libc6@2.36-1"]);
    assert_eq!(needs("deb/debian/libc6"), ["pkg:deb/debian/libgcc-s1@12.2.0-1"]);
    let own = needs("generic/theirs");
    assert_eq!(own[0], "pkg:deb/debian/theirs@1%3A3.0-1");
    assert!(own[1..].iter().all(|purl| purl.starts_with("pkg:generic/")), "{own:?}");
    let config = fixture.path("target/slipway/images/blobs/sha256");
    let layout = oci::Layout::open(&fixture.path("target/slipway/images")).unwrap();
    let config =
        config.join(layout.config(&image["image"].as_str().unwrap().parse().unwrap()).unwrap().hex());
    let config: Value = serde_json::from_slice(&fs::read(config).unwrap()).unwrap();
    assert_eq!(
        (&config["config"]["Entrypoint"], &config["config"]["Cmd"]),
        (&json!(["/usr/bin/theirs"]), &json!(["--all"]))
    );
    let spdx = read(&image["spdx_path"]);
    let libc = spdx["packages"].as_array().unwrap().iter().find(|one| one["name"] == "libc6").unwrap();
    assert_eq!(
        (&libc["supplier"], &libc["licenseDeclared"]),
        (&json!("Organization: Debian"), &json!("LGPL-2.1-or-later"))
    );
    assert_eq!(
        libc["externalRefs"][0]["referenceLocator"],
        "pkg:deb/debian/libc6@2.36-1?arch=amd64&distro=bookworm"
    );
    let (sbom, spdx) = (image["sbom_path"].as_str().unwrap(), image["spdx_path"].as_str().unwrap());
    validators_accept(&fixture, sbom, spdx);

    let statement = fs::read_to_string(image["provenance_path"].as_str().unwrap()).unwrap();
    assert!(!statement.contains(archive.path("").to_str().unwrap()), "a mirror: {statement}");
    let definition = &read(&image["provenance_path"])["predicate"]["buildDefinition"];
    assert_eq!(definition["buildType"], "urn:slipway:packages:1");
    assert_eq!(definition["externalParameters"]["definition"]["files"]["/etc/theirs.conf"], "a = 1");
    let resources = definition["resolvedDependencies"].as_array().unwrap();
    let of = |name: &str| resources.iter().find(|one| one["name"] == name).unwrap();
    assert_eq!(of("source")["annotations"]["dirty"], false);
    let lock = fs::read(fixture.path("slipway.debian.lock")).unwrap();
    assert_eq!(of("slipway.debian.lock")["digest"]["sha256"], Digest::of(&lock).hex());
    let lock: Value = serde_json::from_slice(&lock).unwrap();
    for (name, package) in lock["packages"]["amd64"].as_object().unwrap() {
        let in_root = ["theirs", "middle", "libc6", "libgcc-s1"].contains(&name.as_str());
        assert!(!in_root || of(name)["digest"]["sha256"] == package["sha256"], "{name}");
    }
    // Another mirror of the same packages, and the very same words.
    let before = statement;
    fs::rename(archive.path("pool"), archive.path("elsewhere")).unwrap();
    fs::remove_dir_all(fixture.path("target")).unwrap();
    fixture.json(&["base", "build"]);
    assert_eq!(fs::read_to_string(image["provenance_path"].as_str().unwrap()).unwrap(), before);
    fixture.write("crates/hello/service.yaml", "");
    fixture.write(
        "slipway.yaml",
        &fs::read_to_string(fixture.path("slipway.yaml")).unwrap().replace("theirs:", "hello:"),
    );
    fixture.run(&["build"]).fails(3, &["`hello` is a service, and an image of `images:`"]);
}

#[test]
fn an_image_of_packages_is_pushed_pulled_and_verified_as_a_service_is() {
    if !debian_tools() || !works("docker-registry", "docker-registry", &["--version"]) {
        return;
    }
    let (_archive, fixture) = theirs();
    let server = RegistryServer::start();
    let prefix = format!("localhost:{}/team", server.port);
    fixture.run(&["push", "theirs"]).fails(3, &["nothing says where images go"]);
    let plan = fixture.json(&["push", "theirs", "--to", &prefix, "--dry-run"]);
    assert_eq!(plan["images"][0]["tags"], json!(["1_3.0-1"]));
    let pushed = fixture.json(&["push", "theirs", "--to", &prefix]);
    assert_eq!(pushed["images"].as_array().unwrap().len(), 1, "no service goes along: {pushed}");
    // Two SBOMs, a provenance, and four bundles.
    assert_eq!(pushed["images"][0]["referrers"], 7);
    let again = fixture.json(&["push", "theirs", "--to", &prefix]);
    assert_eq!(again["images"][0]["sent_bytes"], 0, "{again}");

    let all_good = [("signature", "ok"), ("provenance", "ok"), ("sbom cyclonedx", "ok"), ("sbom spdx", "ok")];
    let tagged = format!("{prefix}/theirs:1_3.0-1");
    let pulled = fixture.path("pulled");
    fixture.json(&["pull", &tagged, "--layout", pulled.to_str().unwrap()]);
    let in_layout = format!("{}:1_3.0-1", pulled.display());
    for image in ["theirs", &tagged, &in_layout] {
        let verified = fixture.json(&["verify", image, "--service", "theirs"]);
        assert_eq!(outcomes(&verified), all_good, "{image}: {verified}");
        assert_eq!(verified["image"], pushed["images"][0]["digest"]);
    }
    fixture.run(&["verify", &tagged, "--service", "hello"]).fails(13, &["not every check holds"]);
    let rebuilt = fixture.json(&["verify", "theirs", "--rebuild"]);
    assert_eq!(rebuilt["rebuilt"]["same"], true, "{rebuilt}");

    // Another commit gives the same image, of which the layout keeps only what is said now.
    fixture.write("README.md", "x");
    commit(&fixture);
    fixture.json(&["base", "build"]);
    let layout = oci::Layout::open(&fixture.path("target/slipway/images")).unwrap();
    let digest: Digest = pushed["images"][0]["digest"].as_str().unwrap().parse().unwrap();
    assert_eq!(layout.referrers(&digest).unwrap().len(), 7);
    assert_eq!(outcomes(&fixture.json(&["verify", "theirs"])), all_good);

    if works("cosign", "cosign", &["version"]) {
        let home = tempfile::tempdir().unwrap();
        let key = fixture.path("slipway.pub");
        let image = format!("{prefix}/theirs@{digest}");
        for args in [
            &["verify"][..],
            &["verify-attestation", "--type", "slsaprovenance1"],
            &["verify-attestation", "--type", "spdxjson"],
        ] {
            let mut cosign = Command::new("cosign");
            cosign
                .args(args)
                .arg("--key")
                .arg(&key)
                .args(["--insecure-ignore-tlog=true", &image])
                .env("HOME", home.path());
            let output = cosign.output().unwrap();
            assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        }
    }
}

/// The same for a service that stands on packages.
#[test]
fn the_standards_own_validators_accept_sboms_with_debian_packages() {
    if !debian_tools() {
        return;
    }
    let (_archive, fixture) = archived();
    fixture.write("slipway.yaml", "image: { vendor: Example Ltd }\n");
    assert_eq!(fixture.run(&["base", "lock"]).code, 0);
    let built = fixture.json(&["build"]);
    let service = &built["services"][0];
    let (cyclonedx, spdx) = (service["sbom_path"].as_str().unwrap(), service["spdx_path"].as_str().unwrap());
    validators_accept(&fixture, cyclonedx, spdx);
    let document = read(&service["spdx_path"]);
    let relation = |kind: &str, from: &str, to: &str| {
        document["relationships"].as_array().unwrap().iter().any(|one| {
            let has =
                |key: &str, name: &str| one[key].as_str().unwrap().starts_with(&format!("SPDXRef-{name}-"));
            one["relationshipType"] == kind && has("spdxElementId", from) && has("relatedSpdxElement", to)
        })
    };
    assert!(
        relation("CONTAINS", "hello", "libgcc-s1") && relation("DEPENDS_ON", "libc6", "libgcc-s1"),
        "{document}"
    );
    assert!(
        relation("DEPENDS_ON", "hello", "libc6") && !relation("DEPENDS_ON", "hello", "libgcc-s1"),
        "{document}"
    );
}
