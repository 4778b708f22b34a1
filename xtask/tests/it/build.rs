//! `cargo xtask build` on real workspaces.

use std::fs::{self, FileTimes};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::support::{Fixture, copy, digests, is_required, wait_for};

#[test]
fn a_second_run_does_nothing_and_an_edit_is_named() {
    let fixture = Fixture::hello();
    let first = fixture.json(&["build"]);
    assert_eq!(first["reason"], "no earlier build to compare with");
    assert_eq!(first["services"][0]["layers"][0]["reused"], false);

    let second = fixture.json(&["build"]);
    assert_eq!((&second["reason"], &second["compiled"]), (&Value::Null, &0.into()));
    assert_eq!(second["services"][0]["image"], first["services"][0]["image"]);
    assert!(fixture.run(&["build"]).stdout.contains("nothing changed"));

    fixture.write("crates/hello/src/main.rs", "fn main() { println!(\"other\"); }\n");
    let third = fixture.json(&["build"]);
    assert_eq!(third["reason"], "crates/hello/src/main.rs changed");
    assert_ne!(third["services"][0]["image"], first["services"][0]["image"]);
    let reused: Vec<_> =
        third["services"][0]["layers"].as_array().unwrap().iter().map(|l| &l["reused"]).collect();
    assert_eq!(reused, [true, false]);
}

#[test]
fn a_missing_or_damaged_layout_is_made_again() {
    let fixture = Fixture::hello();
    let report = fixture.json(&["build"]);
    let built = digests(&report);
    let layout = fixture.path("target/slipway/images");
    let blob = |digest: &str| layout.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
    fs::remove_file(blob(&built["hello"])).unwrap();
    assert_eq!(fixture.digests(&[]), built);
    assert!(blob(&built["hello"]).exists());
    let layer = blob(report["services"][0]["layers"][1]["digest"].as_str().unwrap());
    let good = fs::read(&layer).unwrap();
    let mut bad = good.clone();
    bad[100] ^= 1;
    fs::write(&layer, bad).unwrap();
    assert_eq!(fixture.digests(&[]), built);
    assert!(fs::read(&layer).unwrap() == good);
    fs::write(report["services"][0]["sbom_path"].as_str().unwrap(), "{}").unwrap();
    assert!(fixture.json(&["build"])["reason"].as_str().unwrap().ends_with("hello.cdx.json changed"));
    fs::write(layout.join("index.json"), "{").unwrap();
    fixture.run(&["build"]).fails(10, &["index.json is damaged", "build again"]);
    fs::remove_dir_all(&layout).unwrap();
    assert_eq!(fixture.digests(&[]), built);
}

/// Two services, a library with a build script, and a package of the registry whose panic messages carry its path.
fn realistic() -> Fixture {
    let fixture = Fixture::new();
    fixture.package(
        "one",
        "[dependencies]\nshared = { path = \"../shared\" }\nserde_json = \"1\"\n",
        "fn main() { let value: serde_json::Value = serde_json::from_str(\"{}\").unwrap(); println!(\"{} {value}\", shared::name()); }\n",
    );
    fixture.package(
        "two",
        "[dependencies]\nshared = { path = \"../shared\", features = [\"loud\"] }\n",
        "fn main() { println!(\"{}\", shared::name()); }\n",
    );
    fixture.library(
        "shared",
        "[features]\nloud = []\n",
        "include!(concat!(env!(\"OUT_DIR\"), \"/generated.rs\"));\n\
         pub fn name() -> &'static str { if cfg!(feature = \"loud\") { LOUD } else { panic!(\"quiet {}\", std::env::args().count()) } }\n",
    );
    fixture.write(
        "crates/shared/build.rs",
        "fn main() { let out = std::env::var(\"OUT_DIR\").unwrap();\n\
         let epoch = std::env::var(\"SOURCE_DATE_EPOCH\").unwrap();\n\
         std::fs::write(format!(\"{out}/generated.rs\"), format!(\"pub const LOUD: &str = \\\"loud {epoch}\\\";\")).unwrap(); }\n",
    );
    fixture.write("crates/one/service.yaml", "image:\n  assets:\n    - { from: assets, to: /app/assets }\nvolumes:\n  - { name: data, path: /data }\n");
    fixture.write("crates/one/assets/b.txt", "b");
    fixture.write("crates/one/assets/a/c.txt", "c");
    fixture.write("crates/two/service.yaml", "");
    fixture.lock();
    fixture
}

#[test]
fn digests_depend_on_neither_folder_nor_cargo_home_nor_umask_nor_zone_nor_locale() {
    let fixture = realistic();
    let here = fixture.digests(&[]);
    let mut elsewhere = Fixture::new();
    fs::remove_dir_all(fixture.path("target")).unwrap();
    copy(&fixture.path(""), &elsewhere.path("nested/deeper"));
    let home = std::env::var_os("CARGO_HOME")
        .map_or_else(|| std::env::home_dir().unwrap().join(".cargo"), Into::into);
    fs::create_dir(elsewhere.path("home")).unwrap();
    symlink(home.join("registry"), elsewhere.path("home/registry")).unwrap();
    let cargo_home = elsewhere.path("home").display().to_string();
    for (name, value) in [
        ("CARGO_HOME", cargo_home.as_str()),
        ("TZ", "Asia/Kathmandu"),
        ("LC_ALL", "tr_TR.UTF-8"),
        ("USER", "mallory"),
        ("HOSTNAME", "elsewhere"),
    ] {
        elsewhere.env(name, value);
    }
    let run = elsewhere.run_after("umask 077 && cd nested/deeper", &["build", "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(digests(&serde_json::from_str(&run.stdout).unwrap()), here);
}

#[test]
fn building_one_service_gives_the_bits_of_building_all() {
    let fixture = realistic();
    let all = fixture.digests(&[]);
    fs::remove_dir_all(fixture.path("target")).unwrap();
    // Only `two` asks for the feature of the shared library; alone, `one` would be built without it.
    assert_eq!(fixture.digests(&["one"])["one"], all["one"]);
}

#[test]
fn the_sbom_tells_what_is_linked_from_what_only_built() {
    let fixture = Fixture::new();
    fixture.package(
        "app",
        "[dependencies]\nused = { path = \"../used\" }\n[build-dependencies]\nbuilder = { path = \"../builder\" }\n[dev-dependencies]\ntester = { path = \"../tester\" }\n",
        "fn main() { used::f(); }\n",
    );
    fixture.write("crates/app/build.rs", "fn main() { builder::f(); }\n");
    fixture.library("used", "[features]\nmore = [\"dep:optional\"]\n[dependencies]\noptional = { path = \"../optional\", optional = true }\n", "pub fn f() {}\n");
    for name in ["builder", "tester", "optional"] {
        fixture.library(name, "", "pub fn f() {}\n");
    }
    fixture.lock();
    let report = fixture.json(&["build"]);
    let path = report["services"][0]["sbom_path"].as_str().unwrap();
    let sbom: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let components = sbom["components"].as_array().unwrap();
    let named = |scope: &str| {
        let names = components.iter().filter(|c| c["scope"] == scope && c["version"] == "1.2.3");
        names.map(|c| c["name"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    assert_eq!((named("required"), named("excluded")), (vec!["used".to_owned()], vec!["builder".to_owned()]));
    assert!(
        components.iter().any(|c| c["name"] == "glibc") && components.iter().any(|c| c["name"] == "rust-std")
    );
}

#[test]
fn flags_of_cargos_configuration_are_kept_whichever_table_they_stand_in() {
    let main = "fn main() { assert!(cfg!(from_build) || cfg!(from_target)); println!(\"{} {}\", cfg!(from_build), cfg!(from_target)); }\n";
    let check = |config: &str, expected: &str| {
        let fixture = Fixture::new();
        fixture.package("hello", "", main);
        fixture.lock();
        fixture.write(".cargo/config.toml", config);
        let plan = fixture.json(&["build", "--dry-run"]);
        let program = plan["services"][0]["binary_path"].as_str().unwrap().to_owned();
        fixture.json(&["build"]);
        let output = Command::new(program).output().unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), expected, "{config}");
    };
    check("[build]\nrustflags = [\"--cfg\", \"from_build\"]\n", "true false");
    // Cargo's own rule: a target table's flags replace those of the build table.
    check(
        "[build]\nrustflags = [\"--cfg\", \"from_build\"]\n[target.'cfg(unix)']\nrustflags = [\"--cfg\", \"from_target\"]\n",
        "false true",
    );
}

#[test]
fn a_binary_with_a_local_path_is_refused_and_its_package_named() {
    let fixture = Fixture::new();
    fixture.package(
        "app",
        "[dependencies]\nleaky = { path = \"../leaky\" }\n",
        "fn main() { println!(\"{}\", leaky::PATH); }\n",
    );
    fixture.library(
        "leaky",
        "",
        "pub const PATH: &str = concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/data.txt\");\n",
    );
    fixture.lock();
    fixture.run(&["build"]).fails(
        14,
        &["the binary of app carries paths", "crates/leaky/data.txt", "from the package leaky", "next:"],
    );
    let index = fs::read_to_string(fixture.path("target/slipway/images/index.json")).unwrap();
    assert!(index.contains("\"manifests\":[]"), "{index}");
}

#[test]
fn a_compile_error_is_shown_and_keeps_the_last_image() {
    let fixture = Fixture::hello();
    let digests = fixture.digests(&[]);
    let main = fs::read_to_string(fixture.path("crates/hello/src/main.rs")).unwrap();
    fixture.write("crates/hello/src/main.rs", "fn main() { nonsense }\n");
    fixture.run(&["build"]).fails(10, &["cannot find value `nonsense`", "error: the build failed"]);
    fixture.write("crates/hello/src/main.rs", &main);
    assert_eq!(fixture.digests(&[]), digests);
}

#[test]
fn configuration_errors_name_file_line_and_key() {
    let fixture = Fixture::hello();
    fixture.write("crates/hello/service.yaml", "http:\n  port: 8000\n  prot_env: PORT\n");
    fixture.run(&["build"]).fails(3, &["crates/hello/service.yaml:3:", "unknown field `prot_env`"]);
    fixture.write("crates/hello/service.yaml", "http:\n  port: 80\nimage:\n  user: 0\n");
    fixture
        .run(&["build"])
        .fails(3, &["2 problems", "service.yaml:2: http.port", "service.yaml:4: image.user"]);
    fixture.write("crates/hello/service.yaml", "image:\n  binary: gone\n");
    fixture.run(&["build"]).fails(3, &["image.binary: the package has no binary `gone`; it has: hello"]);
    fixture.write("crates/hello/service.yaml", "");
    fixture.write("slipway.yaml", "bild: {}\n");
    fixture.run(&["build"]).fails(3, &["slipway.yaml:1: bild", "unknown field `bild`"]);
    fs::remove_file(fixture.path("slipway.yaml")).unwrap();
    fixture.run(&["build", "nobody"]).fails(3, &["no service `nobody`; there are: hello"]);
    fs::remove_file(fixture.path("Cargo.lock")).unwrap();
    fixture.run(&["build"]).fails(3, &["no Cargo.lock", "cargo generate-lockfile"]);
}

#[test]
fn a_dry_run_prints_the_plan_and_changes_nothing() {
    let fixture = Fixture::hello();
    let plan = fixture.json(&["build", "--dry-run"]);
    assert_eq!(plan["schema"], "slipway.build-plan/1");
    assert!(plan["cargo_args"].as_array().unwrap().contains(&"--bin=hello".into()));
    assert!(fixture.run(&["build", "--dry-run"]).stdout.contains("--remap-path-prefix"));
    assert!(!fixture.path("target").exists());
}

#[test]
fn a_workspace_that_never_heard_of_us_builds() {
    let fixture = Fixture::new();
    fixture.package("tool", "", "fn main() {}\n");
    fixture.write("crates/tool/src/bin/extra.rs", "fn main() {}\n");
    fixture.library("lib", "", "");
    fixture.lock();
    assert_eq!(fixture.digests(&[]).into_keys().collect::<Vec<_>>(), ["tool"]);
}

#[test]
fn an_interruption_ends_the_compilers_too() {
    let fixture = Fixture::new();
    fixture.package("slow", "", "fn main() {}\n");
    let started = fixture.path("started");
    let script = format!(
        "fn main() {{ std::fs::write({started:?}, std::process::id().to_string()).unwrap(); std::thread::sleep(std::time::Duration::from_secs(300)); }}\n"
    );
    fixture.write("crates/slow/build.rs", &script);
    fixture.lock();
    let mut child = fixture.command(&["build"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let script_pid =
        wait_for("the build script to start", || fs::read_to_string(&started).ok()?.parse::<i32>().ok());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let gone = || test_kill_process(Pid::from_raw(script_pid).unwrap()).is_err().then_some(());
    wait_for("the build script to end", gone);
}

#[test]
fn a_second_signal_takes_what_runs_along() {
    let mut fixture = Fixture::hello();
    let started = fixture.path("started");
    // A cargo that nothing but SIGKILL ends, with a process in another group.
    let script = format!(
        "case \"$*\" in *message-format*) ;; *) exec {} \"$@\" ;; esac\n\
         trap '' INT TERM\nsetsid sleep 300 &\necho $! > {}\nwhile :; do sleep 1; done",
        std::env::var("CARGO").unwrap(),
        started.display()
    );
    let cargo = fixture.program("cargo", &script);
    fixture.env("CARGO", cargo.to_str().unwrap());
    let mut child = fixture.command(&["build"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let sleep = wait_for("cargo", || fs::read_to_string(&started).ok()?.trim().parse::<i32>().ok());
    let tool = Pid::from_child(&child);
    kill_process(tool, Signal::INT).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(child.try_wait().unwrap(), None, "the first signal lets cargo end by itself");
    assert!(test_kill_process(Pid::from_raw(sleep).unwrap()).is_ok());
    kill_process(tool, Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let gone = || test_kill_process(Pid::from_raw(sleep).unwrap()).is_err().then_some(());
    wait_for("what cargo started to end", gone);
}

/// A file system of 200 kB, where this user may mount one.
#[test]
fn a_full_disk_is_an_error_that_names_the_file_and_is_mended_by_room() {
    let fixture = Fixture::hello();
    let digests = fixture.digests(&[]);
    fs::remove_dir_all(fixture.path("target/slipway/images")).unwrap();
    let images = fixture.path("target/slipway/images");
    fs::create_dir_all(&images).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=200k", "tmpfs"]).arg(&images).status();
    if !mounted.is_ok_and(|status| status.success()) {
        assert!(!is_required("mount"), "mounting is required and does not work");
        eprintln!("skipped: this user may not mount a file system");
        return;
    }
    let run = fixture.run(&["build"]);
    assert!(Command::new("umount").arg(&images).status().unwrap().success());
    run.fails(10, &["cannot pack the image of hello", "No space left on device"]);
    assert_eq!(fixture.digests(&[]), digests);
}

/// What the last image's binary prints: the binary that Cargo left is the one that was packed.
fn output(fixture: &Fixture) -> String {
    let plan = fixture.json(&["build", "--dry-run"]);
    let program = plan["services"][0]["binary_path"].as_str().unwrap().to_owned();
    String::from_utf8(Command::new(program).output().unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn other_content_with_an_old_time_is_compiled() {
    let fixture = Fixture::hello();
    fixture.json(&["build"]);
    assert_eq!(output(&fixture), "hello");
    let main = fixture.path("crates/hello/src/main.rs");
    fs::write(&main, "fn main() { println!(\"restored\"); }\n").unwrap();
    let long_ago = FileTimes::new().set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000));
    fs::File::options().write(true).open(&main).unwrap().set_times(long_ago).unwrap();
    assert_eq!(fixture.json(&["build"])["compiled"], 1);
    assert_eq!(output(&fixture), "restored");
}

#[test]
fn a_copied_workspace_does_not_believe_what_the_original_remembers() {
    let fixture = Fixture::hello();
    fixture.json(&["build"]);
    let copied = Fixture::new();
    copied.remove();
    copied.copy_of(&fixture);
    let report = copied.json(&["build"]);
    assert_eq!(report["reason"], "no earlier build to compare with");
    assert!(report["layout"].as_str().unwrap().starts_with(copied.path("").to_str().unwrap()));
}

#[test]
fn workspaces_that_share_a_target_folder_do_not_share_results() {
    let shared = tempfile::tempdir().unwrap();
    let build = |text: &str| {
        let mut fixture = Fixture::hello();
        fixture.write("crates/hello/src/main.rs", &format!("fn main() {{ println!(\"{text}\"); }}\n"));
        fixture.env("CARGO_TARGET_DIR", shared.path().to_str().unwrap());
        fixture.json(&["build"]);
        output(&fixture)
    };
    assert_eq!((build("one"), build("two")), ("one".to_owned(), "two".to_owned()));
}

#[test]
fn a_variable_that_appears_later_counts() {
    let mut fixture = Fixture::hello();
    fixture.json(&["build"]);
    fixture.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    assert_eq!(fixture.json(&["build"])["reason"], "the variable CARGO_PROFILE_RELEASE_OPT_LEVEL is new");
}

#[test]
fn an_edit_during_the_build_is_built_by_the_next_one() {
    let fixture = Fixture::hello();
    let (main, good) = (fixture.path("crates/hello/src/main.rs"), "fn main() { println!(\"hello\"); }\n");
    // The build script edits the source; what the compiler then sees is not what the user has when the build is over.
    let script = format!(
        "fn main() {{ println!(\"cargo::rerun-if-changed=build.rs\"); std::fs::write({main:?}, \"fn main() {{ println!(\\\"meanwhile\\\"); }}\").unwrap(); }}\n"
    );
    fixture.write("crates/hello/build.rs", &script);
    fixture.json(&["build"]);
    assert_eq!(output(&fixture), "meanwhile");
    fs::write(&main, good).unwrap();
    assert_ne!(fixture.json(&["build"])["reason"], Value::Null);
    assert_eq!(output(&fixture), "hello");
}

#[test]
fn the_same_name_twice_is_refused_or_told_apart() {
    let fixture = Fixture::new();
    fixture.package("a", "[[bin]]\nname = \"server\"\npath = \"src/main.rs\"\n", "fn main() {}\n");
    fixture.package("b", "", "fn main() {}\n");
    fixture.write("crates/b/src/bin/server.rs", "fn main() {}\n");
    fixture.lock();
    fixture.run(&["build"]).fails(3, &["both have a binary `server`"]);
    // A service with the name of a package of the registry that it depends on.
    let fixture = Fixture::new();
    fixture.package(
        "itoa",
        "[dependencies]\nserde_json = \"1\"\n",
        "fn main() { println!(\"{}\", serde_json::json!(1)); }\n",
    );
    fixture.lock();
    fixture.json(&["build"]);
}

#[test]
fn a_repository_that_git_refuses_stops_the_build() {
    let mut fixture = Fixture::hello();
    assert_eq!(fixture.json(&["build"])["git"], Value::Null);
    fs::create_dir(fixture.path(".git")).unwrap();
    fixture.run(&["build"]).fails(3, &["cannot ask git where the source stands"]);
    fs::remove_dir(fixture.path(".git")).unwrap();
    fixture.env("GIT_CONFIG_GLOBAL", "/dev/null");
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let output =
            Command::new("git").args(identity).args(args).current_dir(fixture.path("")).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    fixture.write(".gitignore", "/target\n");
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "-m", "x"]);
    let clean = fixture.json(&["build"]);
    assert_eq!(clean["git"]["dirty"], false);
    git(&["commit", "--quiet", "--allow-empty", "-m", "y"]);
    let later = fixture.json(&["build"]);
    assert_ne!(later["services"][0]["image"], clean["services"][0]["image"]);
    assert_eq!(later["services"][0]["content"], clean["services"][0]["content"]);
}

#[test]
fn configuration_that_would_lose_flags_is_refused() {
    let check = |config: &str, text: &str| {
        let fixture = Fixture::hello();
        fixture.write(".cargo/config.toml", config);
        fixture.run(&["build"]).fails(3, &[text]);
    };
    check("include = [\"other.toml\"]\n", "cannot read");
    check("[env]\nSOURCE_DATE_EPOCH = { value = \"x\", force = true }\n", "SOURCE_DATE_EPOCH is `x`");
    check("[build]\nrustflags = [\"-C\", \"target-cpu=native\"]\n", "target-cpu=native");
}

#[test]
fn a_single_package_without_a_workspace_builds_and_then_does_nothing() {
    let fixture = Fixture::new();
    fixture.write("Cargo.toml", "[package]\nname = \"alone\"\nversion = \"1.2.3\"\nedition = \"2024\"\n");
    fixture.write("src/main.rs", "fn main() {}\n");
    fixture.write(".cargo/config.toml", "[build]\ntarget-dir = \"out\"\n");
    fixture.lock();
    assert_eq!(fixture.digests(&[]).into_keys().collect::<Vec<_>>(), ["alone"]);
    assert_eq!(fixture.json(&["build"])["reason"], Value::Null);
}

#[test]
fn as_an_installed_cargo_subcommand_it_works_in_any_workspace() {
    let fixture = Fixture::hello();
    let mut command = Command::new(env!("CARGO_BIN_EXE_cargo-xtask"));
    let output =
        command.args(["xtask", "build"]).current_dir(fixture.path("crates/hello/src")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8(output.stdout).unwrap().contains("hello"));
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let fixture = Fixture::hello();
    fixture.json(&["build"]);
    let run = fixture.run_after("exec > /dev/full", &["build"]);
    run.fails(1, &["cannot write to standard output"]);
}
