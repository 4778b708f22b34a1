//! Bases, and the proof that what is in an image can be started.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Fixture, is_required};

/// The files of an image's layer, by its comment.
fn layers(report: &Value, service: usize) -> Vec<(String, String)> {
    let layers = report["services"][service]["layers"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    layers.iter().map(|layer| (text(&layer["comment"]), text(&layer["digest"]))).collect()
}

/// Whether Docker answers; a test that needs it and must run fails where it does not.
fn docker() -> bool {
    let output = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
    let answers = output.is_ok_and(|output| output.status.success());
    assert!(answers || !is_required("docker"), "docker is required and does not answer");
    if !answers {
        eprintln!("SKIPPED: no Docker engine answers");
    }
    answers
}

/// Lists the regular files and links of the layer.
fn files(fixture: &Fixture, digest: &str) -> Vec<String> {
    let blob = fixture.path("target/slipway/images/blobs/sha256").join(digest.trim_start_matches("sha256:"));
    let output = Command::new("tar").arg("-tzf").arg(blob).output().unwrap();
    assert!(output.status.success());
    let list = String::from_utf8(output.stdout).unwrap();
    list.lines().filter(|line| !line.ends_with('/')).map(str::to_owned).collect()
}

/// Three services, of which `one` names no base.
fn mixed() -> Fixture {
    let fixture = Fixture::new();
    for (name, base) in
        [("one", ""), ("two", "image: { base: closure }\n"), ("three", "image: { base: closure }\n")]
    {
        fixture.package(name, "", &format!("fn main() {{ println!(\"{name}\"); }}\n"));
        fixture.write(&format!("crates/{name}/service.yaml"), base);
    }
    fixture.lock();
    fixture
}

#[test]
fn services_on_shared_libraries_share_their_layer_and_run() {
    let fixture = mixed();
    let report = fixture.json(&["build"]);
    let (one, three, two) = (layers(&report, 0), layers(&report, 1), layers(&report, 2));
    assert_eq!(one.len(), 2);
    assert_eq!(two[..2], three[..2], "users and libraries are two blobs for both");
    assert_eq!(two[0], one[0]);
    let libraries = files(&fixture, &two[1].1);
    assert!(libraries.iter().any(|path| path.ends_with("libc.so.6")), "{libraries:?}");
    assert!(
        libraries.iter().any(|path| path.contains("/ld-linux-") || path.starts_with("lib64/ld-linux")),
        "{libraries:?}"
    );
    assert!(libraries.len() <= 4, "{libraries:?}");

    let sbom = std::fs::read_to_string(report["services"][2]["sbom_path"].as_str().unwrap()).unwrap();
    assert!(sbom.contains("libc.so.6") && !sbom.contains("linked statically"), "{sbom}");
    assert!(fixture.run(&["build"]).stdout.contains("nothing changed"));

    // One alone has the bits of all, in either way of linking.
    let all = crate::support::digests(&report);
    std::fs::remove_dir_all(fixture.path("target")).unwrap();
    for name in ["one", "two"] {
        assert_eq!(fixture.digests(&[name])[name], all[name], "{name}");
    }
    if docker() {
        let run = fixture.run(&["build", "two", "--load"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let output =
            Command::new("docker").args(["run", "--rm", "--read-only", "two:1.2.3"]).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "two\n",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Command::new("docker").args(["rmi", "two:1.2.3"]).output().unwrap();
    }
}

#[test]
fn the_plan_says_what_linking_costs_and_auto_follows_it() {
    let fixture = mixed();
    fixture.write("slipway.yaml", "image: { base: auto }\n");
    let plan = fixture.json(&["build", "--dry-run"]);
    let even = &plan["break_even"];
    let number = |key: &str| even[key].as_u64().unwrap();
    assert_eq!(number("services"), 3);
    assert_eq!(number("shared_from"), number("shared") / number("static_extra") + 1);
    // `one` is the only service with the choice: libraries for it alone are no gain.
    let base = |plan: &Value, at: usize| plan["services"][at]["base"].clone();
    assert_eq!((base(&plan, 0), base(&plan, 2)), ("static".into(), "closure".into()));
    assert!(plan["also"]["cargo_args"].as_array().unwrap().contains(&"--bin=two".into()));
    let text = fixture.run(&["build", "--dry-run"]).stdout;
    assert!(
        text.contains("shared is smaller from") && text.contains("pack one on the base static"),
        "{text}"
    );
    for name in ["four", "five", "six", "seven"] {
        fixture.package(name, "", "fn main() {}\n");
        fixture.write(&format!("crates/{name}/service.yaml"), "");
    }
    fixture.lock();
    assert_eq!(base(&fixture.json(&["build", "--dry-run", "one"]), 0), "closure");
}

#[test]
fn what_could_not_start_is_not_published() {
    let fixture = mixed();
    // A script whose interpreter no base has, and a link to nothing.
    fixture.write("crates/one/service.yaml", "image:\n  assets:\n    - { from: assets, to: /app/assets }\n");
    fixture.write("crates/one/assets/a.txt", "a");
    std::os::unix::fs::symlink("nowhere.txt", fixture.path("crates/one/assets/link.txt")).unwrap();
    let run = fixture.run(&["build", "one"]);
    run.fails(
        10,
        &[
            "the image one could not be started",
            "/app/assets/link.txt is a link to nowhere.txt",
            "leave the link out",
        ],
    );
    let images = fixture.path("target/slipway/images/index.json");
    assert!(!std::fs::read_to_string(images).unwrap().contains("one"));
    std::fs::remove_file(fixture.path("crates/one/assets/link.txt")).unwrap();
    // A library among the assets that needs what is not there.
    cc(&fixture.path("crates/one/assets"), "liba.so", &["-shared", "-fPIC", "-Wl,-soname,liba.so"]);
    let flags = ["-shared", "-fPIC", "-L.", "-Wl,--no-as-needed", "-l:liba.so"];
    cc(&fixture.path("crates/one/assets"), "libb.so", &flags);
    fixture
        .run(&["build", "one"])
        .fails(10, &["/app/assets/libb.so needs liba.so", "or add the package that has it"]);
}

fn cc(folder: &Path, out: &str, args: &[&str]) {
    std::fs::write(folder.join("x.c"), "int x(void) { return 1; }\n").unwrap();
    let status = Command::new("cc").args(["-o", out, "x.c"]).args(args).current_dir(folder).status().unwrap();
    assert!(status.success());
    std::fs::remove_file(folder.join("x.c")).unwrap();
}

#[test]
fn a_base_that_cannot_be_is_refused_with_its_line() {
    let fixture = Fixture::hello();
    for (base, text) in [
        ("alpine", "service.yaml:2: image.base: unknown variant `alpine`"),
        ("debian", "name packages"),
        ("{ image: \"layout:tag\" }", "must end with `@sha256:`"),
    ] {
        fixture.write("crates/hello/service.yaml", &format!("image:\n  base: {base}\n"));
        fixture.run(&["build", "--dry-run"]).fails(3, &[text]);
    }
}
