//! What `cargo xtask build` packs: compressions, platforms, what is written and what is removed.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Fixture, digests, is_required};

const ARM: &str = "aarch64-unknown-linux-gnu";

/// Whether the program can be run here; says so where not, and fails where it is required.
fn have(program: &str, probe: &[&str]) -> bool {
    let works = Command::new(program).args(probe).output().is_ok_and(|output| output.status.success());
    assert!(works || !is_required(program), "{program} is required and does not work");
    if !works {
        eprintln!("skipped: {program} does not work on this machine");
    }
    works
}

fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A service with a C function of its own, compiled through the `cc` crate.
fn with_c() -> Fixture {
    let fixture = Fixture::new();
    fixture.package(
        "native",
        "[build-dependencies]\ncc = \"1\"\n",
        "fn main() { println!(\"{} {}\", std::env::consts::ARCH, native::answer()); }\n",
    );
    fixture.write(
        "crates/native/src/lib.rs",
        "unsafe extern \"C\" { safe fn answer_of_c() -> i32; }\npub fn answer() -> i32 { answer_of_c() }\n",
    );
    fixture.write("crates/native/src/answer.c", "int answer_of_c(void) { return 42; }\n");
    fixture.write(
        "crates/native/build.rs",
        "fn main() { cc::Build::new().file(\"src/answer.c\").compile(\"answer\"); }\n",
    );
    fixture.lock();
    fixture
}

fn blob(fixture: &Fixture, digest: &Value) -> PathBuf {
    let hex = digest.as_str().unwrap().trim_start_matches("sha256:");
    fixture.path("target/slipway/images/blobs/sha256").join(hex)
}

fn document(fixture: &Fixture, digest: &Value) -> Value {
    serde_json::from_slice(&fs::read(blob(fixture, digest)).unwrap()).unwrap()
}

/// A cross compiler and the standard library for it are no part of Rust's own installation.
fn can_cross() -> bool {
    let sysroot = output("rustc", &["--print", "sysroot"]);
    let std = Path::new(sysroot.trim()).join("lib/rustlib").join(ARM);
    let has_std = std.is_dir();
    assert!(has_std || !is_required(ARM), "the standard library of {ARM} is required and is missing");
    if !has_std {
        eprintln!("skipped: the standard library of {ARM} is not installed");
    }
    has_std && have("aarch64-linux-gnu-gcc", &["--version"])
}

#[test]
fn two_platforms_become_one_index_and_each_image_is_that_of_a_build_alone() {
    if !cfg!(target_arch = "x86_64") || !can_cross() {
        return;
    }
    let fixture = with_c();
    let alone = fixture.digests(&[])["native"].clone();
    let args = ["build", "--platform", "linux/arm64,linux/amd64"];
    let both = fixture.json(&args);
    let image = |platform: &str| digests(&both["platforms"][platform])["native"].clone();
    assert_eq!(image("linux/amd64"), alone);

    let index = document(&fixture, &both["indexes"][0]["index"]);
    let listed: Vec<_> = index["manifests"].as_array().unwrap().iter().collect();
    let architectures: Vec<_> = listed.iter().map(|entry| &entry["platform"]["architecture"]).collect();
    assert_eq!(architectures, ["amd64", "arm64"]);
    let images: Vec<_> = listed.iter().map(|entry| entry["digest"].as_str().unwrap()).collect();
    assert_eq!(images, [image("linux/amd64"), image("linux/arm64")]);

    let again = fixture.json(&args);
    for platform in ["linux/amd64", "linux/arm64"] {
        assert_eq!(again["platforms"][platform]["reason"], Value::Null, "{platform}");
    }
    assert_eq!(again["indexes"], both["indexes"]);
    // A build of one platform with the same bits leaves the index its name.
    assert_eq!(fixture.digests(&[])["native"], alone);
    let names = fs::read_to_string(fixture.path("target/slipway/images/index.json")).unwrap();
    assert!(names.contains(both["indexes"][0]["index"].as_str().unwrap()), "{names}");
    run_for_arm(&fixture);
    copied_by_skopeo(&fixture);
}

fn run_for_arm(fixture: &Fixture) {
    if have("qemu-aarch64-static", &["--version"]) {
        let binary = fixture.path("target/slipway/cargo").join(ARM).join("release/native");
        assert_eq!(output("qemu-aarch64-static", &[binary.to_str().unwrap()]), "aarch64 42\n");
    }
}

fn copied_by_skopeo(fixture: &Fixture) {
    if !have("skopeo", &["--version"]) {
        return;
    }
    let layout = format!("oci:{}:native", fixture.path("target/slipway/images").display());
    let copy = format!("oci:{}:copy", fixture.path("copied").display());
    output("skopeo", &["copy", "--quiet", "--all", &layout, &copy]);
    for architecture in ["amd64", "arm64"] {
        let args = ["inspect", "--override-arch", architecture, &copy];
        let inspected: Value = serde_json::from_str(&output("skopeo", &args)).unwrap();
        assert_eq!(inspected["Architecture"], architecture);
    }
}
