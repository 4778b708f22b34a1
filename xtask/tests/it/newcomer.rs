//! What somebody meets who knows nothing of us: each error names what is wrong and what to do next.

use crate::support::Fixture;

#[test]
fn before_anything_was_done_every_command_says_what_to_do_first() {
    let fixture = Fixture::hello();
    fixture
        .run(&["release", "show"])
        .fails(3, &["no release was created here", "cargo xtask release create"]);
    for command in ["status", "logs", "rollback", "down"] {
        fixture.run(&[command]).fails(3, &["no deployment here", "; deploy first"]);
    }
    fixture.write("deploy/environments/staging.yaml", "");
    fixture.run(&["deploy", "stagin"]).fails(3, &["no such environment", "there are: local, staging\n"]);
    let manifest = std::fs::read_to_string(fixture.path("crates/hello/Cargo.toml")).unwrap();
    fixture.write("crates/hello/Cargo.toml", &manifest.replace("1.2.3", "1.2.4"));
    for command in ["build", "test"] {
        fixture.run(&[command, "--dry-run"]).fails(3, &["mended by `cargo update --workspace`"]);
    }
    std::fs::remove_file(fixture.path("Cargo.lock")).unwrap();
    for command in ["build", "test"] {
        fixture.run(&[command, "--dry-run"]).fails(3, &["has no Cargo.lock; run `cargo generate-lockfile`"]);
    }
}

#[test]
fn what_was_never_asked_for_is_said_before_anything_compiles() {
    let fixture = Fixture::hello();
    fixture
        .run(&["push"])
        .fails(3, &["nothing says where images go", "`image: { prefix: … }` in slipway.yaml"]);
    fixture.run(&["base", "lock"]).fails(3, &["nothing to lock", "`images:` in slipway.yaml"]);
    assert!(!fixture.path("slipway.debian.lock").exists());
    fixture.run(&["base", "build", "redis"]).fails(3, &["has no image `redis`; it has no `images:` at all"]);
    let several = ["build", "--platform", "linux/amd64,linux/arm64", "--explain"];
    fixture.run(&several).fails(2, &["--explain looks at one platform at a time"]);
    let run = fixture.run(&["deps", "--check"]);
    assert!(run.code == 0 && run.stdout.starts_with("nothing to check"), "{}{}", run.stdout, run.stderr);
    fixture.write("slipway.yaml", "signing: { key: { file: no.key } }\n");
    let run = fixture.run(&["build"]);
    run.fails(3, &["cannot read", "no.key"]);
    assert!(!run.stderr.contains("compiling"), "{}", run.stderr);
    fixture.write("slipway.yaml", "build: []\n");
    fixture
        .run(&["build"])
        .fails(3, &["slipway.yaml:1: build: ", "expected keys with values (`key: value`)"]);
}

#[test]
fn a_package_with_two_programs_says_how_to_choose() {
    let fixture = Fixture::hello();
    fixture.write("crates/hello/src/bin/client.rs", "fn main() {}\n");
    std::fs::rename(fixture.path("crates/hello/src/main.rs"), fixture.path("crates/hello/src/bin/server.rs"))
        .unwrap();
    let run = fixture.run(&["build", "--dry-run"]);
    run.fails(3, &["crates/hello/service.yaml", "client, server", "`image: { binary: client }`"]);
    fixture.write("crates/hello/service.yaml", "image: { binary: client }\n");
    assert_eq!(fixture.run(&["build", "--dry-run"]).code, 0);
}

#[test]
fn files_that_are_named_lie_where_the_help_says() {
    let mut fixture = Fixture::new();
    fixture.env("GITHUB_ACTIONS", "false");
    fixture.library("common", "", "#[test] fn one() {}\n");
    fixture.lock();
    let run = fixture.run(&["test", "--engine", "builtin", "--report", "out/mine.json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(fixture.path("out/mine.json").is_file() && fixture.path("out/mine.xml").is_file());
    let run = fixture.run(&["test", "--engine", "builtin", "--report", "out/odd.xml"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let report = std::fs::read_to_string(fixture.path("out/odd.xml")).unwrap();
    assert!(report.starts_with('{') && fixture.path("out/odd.junit.xml").is_file(), "{report}");
}

#[test]
fn a_workspace_without_tests_is_told_from_a_name_that_fits_none() {
    let fixture = Fixture::new();
    fixture.library("common", "[lib]\ndoctest = false\n", "");
    fixture.lock();
    fixture.run(&["test", "--engine", "builtin"]).fails(12, &["this workspace has no tests"]);
    fixture.run(&["test", "--engine", "builtin", "nothing"]).fails(12, &["no test has a name as asked for"]);
}

#[test]
fn a_folder_that_cannot_be_written_to_is_no_failed_build() {
    let fixture = Fixture::hello();
    std::fs::create_dir_all(fixture.path("target/slipway")).unwrap();
    std::os::unix::fs::symlink("nowhere", fixture.path("target/slipway/test")).unwrap();
    for args in [&["test"][..], &["test", "plan", "--shards", "2"]] {
        fixture.run(args).fails(3, &["cannot create the folder", "target/slipway"]);
    }
}

#[test]
fn a_record_that_is_not_there_passes_for_no_scan() {
    let fixture = Fixture::hello();
    assert_eq!(fixture.run(&["release", "create"]).code, 0);
    let release = "target/slipway/release.json";
    let args = ["deploy", "local", "--release", release, "--scan", "nowhere.json", "--dry-run"];
    fixture.run(&args).fails(3, &["nowhere.json"]);
    fixture.write("ci/advisories/README.md", "nothing here is a database");
    fixture.write("slipway.yaml", "scan: { advisories: { database: ci/missing } }\n");
    let run = fixture.run(&["scan", "--release", release, "--offline"]);
    run.fails(3, &["cannot run every check"]);
    assert!(run.stdout.contains("which admits it nowhere"), "{}", run.stdout);
}
