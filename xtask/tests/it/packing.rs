//! What `cargo xtask build` packs: compressions, platforms, what is written and what is removed.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::support::{Fixture, digests, have, is_required, output};

const ARM: &str = "aarch64-unknown-linux-gnu";

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
    // The name stands for what was built last: one image, and the index again.
    let layout = oci::Layout::open(&fixture.path("target/slipway/images")).unwrap();
    let named = || layout.tags().unwrap().remove(0).digest.to_string();
    assert_eq!(fixture.digests(&[])["native"], alone);
    assert_eq!(named(), alone);
    assert_eq!(fixture.json(&args)["indexes"], both["indexes"]);
    assert_eq!(named(), both["indexes"][0]["index"].as_str().unwrap());
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

#[test]
fn a_platform_whose_tools_are_missing_is_refused_before_anything_compiles() {
    let fixture = Fixture::hello();
    let run = fixture.run(&["build", "--platform", "linux/amd64,linux/s390x,linux/riscv64"]);
    run.fails(3, &["rustup target add s390x-unknown-linux-gnu", "apt install gcc-riscv64-linux-gnu"]);
    assert!(!fixture.path("target/slipway/cargo").exists());
    fixture.run(&["build", "--platform", "windows/amd64"]).fails(2, &["linux/arm64"]);
}

#[test]
fn musl_is_a_target_like_any_other() {
    let sysroot = output("rustc", &["--print", "sysroot"]);
    let std = Path::new(sysroot.trim()).join("lib/rustlib/x86_64-unknown-linux-musl");
    if !std.is_dir() {
        eprintln!("skipped: the standard library of x86_64-unknown-linux-musl is not installed");
        return;
    }
    let fixture = Fixture::hello();
    fixture.write("slipway.yaml", "build: { target: x86_64-unknown-linux-musl, platforms: [linux/amd64] }\n");
    let report = fixture.json(&["build"]);
    assert_eq!(report["target"], "x86_64-unknown-linux-musl");
    let binary = fixture.path("target/slipway/cargo/x86_64-unknown-linux-musl/release/hello");
    assert_eq!(output(binary.to_str().unwrap(), &[]), "hello\n");
}

#[test]
fn zstd_layers_have_the_same_content_in_fewer_bytes_and_everything_of_ours_reads_them() {
    let fixture = Fixture::hello();
    let gzip = fixture.json(&["build"]);
    fixture.write("slipway.yaml", "image: { compression: zstd }\n");
    let zstd = fixture.json(&["build"]);
    let config = |report: &Value| {
        let manifest = document(&fixture, &report["services"][0]["image"]);
        let types: Vec<_> =
            manifest["layers"].as_array().unwrap().iter().map(|l| l["mediaType"].clone()).collect();
        let config = document(&fixture, &manifest["config"]["digest"]);
        (types, config["rootfs"]["diff_ids"].clone())
    };
    let ((_, old), (types, new)) = (config(&gzip), config(&zstd));
    assert!(types.iter().all(|name| name == "application/vnd.oci.image.layer.v1.tar+zstd"), "{types:?}");
    assert_eq!(new, old);
    let size = |report: &Value| report["services"][0]["size"].as_u64().unwrap();
    assert!(size(&zstd) < size(&gzip), "{} {}", size(&zstd), size(&gzip));
    let scan = fixture.run(&["scan", "images"]);
    assert!(scan.code != 3 && !scan.stdout.contains("unknown-media-type"), "{} {}", scan.stdout, scan.stderr);
    assert!(!scan.stdout.contains("not-readable"), "{}", scan.stdout);
}

/// Inode and time of each blob.
fn blobs(fixture: &Fixture) -> BTreeMap<String, (u64, i64)> {
    let entries = fs::read_dir(fixture.path("target/slipway/images/blobs/sha256")).unwrap();
    let stamp = |entry: std::io::Result<fs::DirEntry>| {
        let entry = entry.unwrap();
        let meta = entry.metadata().unwrap();
        (entry.file_name().into_string().unwrap(), (meta.ino(), meta.ctime_nsec()))
    };
    entries.map(stamp).collect()
}

#[test]
fn only_what_changed_is_written_and_what_services_share_is_packed_once() {
    let fixture = Fixture::new();
    for name in ["one", "two", "three"] {
        fixture.package(name, "", &format!("fn main() {{ println!(\"{name}\"); }}\n"));
    }
    fixture.lock();
    let first = fixture.json(&["build"]);
    let layers = |report: &Value, at: usize| -> Vec<Value> {
        report["services"].as_array().unwrap().iter().map(|service| service["layers"][at].clone()).collect()
    };
    let bases = layers(&first, 0);
    assert!(bases.iter().all(|base| base["digest"] == bases[0]["digest"]));
    assert_eq!(bases.iter().filter(|base| base["reused"] == false).count(), 1);

    let before = blobs(&fixture);
    // All that is remembered is lost, and nothing changed: every layer is packed again, and no blob is written.
    fs::remove_file(fixture.path("target/slipway/state.json")).unwrap();
    assert_eq!(
        layers(&fixture.json(&["build"]), 1).iter().filter(|layer| layer["reused"] == false).count(),
        3
    );
    assert_eq!(blobs(&fixture), before);
    // One service changes: its layer, configuration and manifest are new, and so are the three documents about it with the
    // manifests that attach them. Nothing else is touched.
    fixture.write("crates/one/src/main.rs", "fn main() { println!(\"changed\"); }\n");
    fixture.json(&["build"]);
    let after = blobs(&fixture);
    assert_eq!(after.len() - before.len(), 3 + 2 * 3);
    assert!(before.iter().all(|(name, stamp)| after[name] == *stamp));
}

#[test]
fn old_blobs_go_a_day_later_and_those_of_a_release_stay() {
    let fixture = Fixture::hello();
    let edit = |text: &str| {
        fixture.write("crates/hello/src/main.rs", &format!("fn main() {{ println!(\"{text}\"); }}\n"));
        fixture.digests(&[])["hello"].clone()
    };
    let released = edit("released");
    assert_eq!(fixture.run(&["release", "create"]).code, 0);
    let old = edit("old");
    edit("new");
    let there = |digest: &str| blob(&fixture, &Value::from(digest)).exists();
    assert!(there(&released) && there(&old));
    let notes = fixture.path("target/slipway/images/unreferenced.json");
    let text = fs::read_to_string(&notes).unwrap();
    let hex = old.trim_start_matches("sha256:");
    assert!(text.contains(hex) && !text.contains(released.trim_start_matches("sha256:")), "{text}");
    // As if they had been found so two days ago.
    let mut value: Value = serde_json::from_str(&text).unwrap();
    for since in value["since"].as_object_mut().unwrap().values_mut() {
        *since = (since.as_u64().unwrap() - 2 * 86_400).into();
    }
    fs::write(&notes, value.to_string()).unwrap();
    let newest = edit("newest");
    assert!(there(&released) && there(&newest) && !there(&old));
}

#[test]
fn an_engine_loads_and_runs_an_image_of_zstd_layers() {
    if !have("docker", &["info"]) {
        return;
    }
    let fixture = Fixture::hello();
    fixture.write("slipway.yaml", "image: { prefix: slipway-test/zstd-, compression: zstd }\n");
    let run = fixture.run(&["build", "--load"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let image = "slipway-test/zstd-hello:1.2.3";
    assert_eq!(output("docker", &["run", "--rm", image]), "hello\n");
    output("docker", &["rmi", image]);
}
