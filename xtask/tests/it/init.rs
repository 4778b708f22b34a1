//! `cargo xtask init` and the first build in workspaces of strangers, one fixture for each kind.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Fixture, is_required};

fn names(list: &Value, key: &str) -> Vec<String> {
    list.as_array().unwrap().iter().map(|entry| entry[key].as_str().unwrap().to_owned()).collect()
}

/// Builds all images and gives what each service's binary prints.
fn outputs(fixture: &Fixture) -> Vec<String> {
    let plan = fixture.json(&["build", "--dry-run"]);
    fixture.json(&["build"]);
    let services = plan["services"].as_array().unwrap();
    let run = |service: &Value| {
        let output = Command::new(service["binary_path"].as_str().unwrap()).env_clear().output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    services.iter().map(run).collect()
}

/// A workspace with services and every kind of helper.
fn helpers() -> Fixture {
    let fixture = Fixture::new();
    fixture.package("api", "", "fn main() {}\n");
    fixture.package("cargo-migrate", "", "fn main() {}\n");
    let dump = "[features]\ndump = []\n[[bin]]\nname = \"dump\"\nrequired-features = [\"dump\"]\n";
    fixture.library("jobs", dump, "");
    for name in ["dump", "mail", "report"] {
        fixture.write(&format!("crates/jobs/src/bin/{name}.rs"), "fn main() {}\n");
    }
    fixture.write("crates/jobs/examples/demo.rs", "fn main() {}\n");
    let member = |folder: &str, name: &str, more: &str| {
        fixture.write(
            &format!("{folder}/Cargo.toml"),
            &format!("[package]\nname = \"{name}\"\nedition = \"2024\"\n{more}"),
        );
        fixture.write(&format!("{folder}/src/main.rs"), "fn main() {}\n");
    };
    member("examples/client", "client", "");
    member("xtask", "xtask", "");
    member("tools/targets", "targets", "[package.metadata]\ncargo-fuzz = true\n");
    member("legacy", "legacy", "[workspace]\n");
    fixture.write(
        "Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\", \"examples/*\", \"xtask\", \"tools/*\"]\nexclude = [\"legacy\"]\n",
    );
    fixture.lock();
    fixture
}

#[test]
fn services_are_told_from_helpers_and_nothing_else_is_written() {
    let fixture = helpers();
    let before = fs::read_dir(fixture.path("")).unwrap().count();
    let shown = fixture.run(&["init", "--dry-run"]);
    assert_eq!(shown.code, 0, "{}", shown.stderr);
    assert!(shown.stderr.contains("legacy/Cargo.toml is no member of this workspace"), "{}", shown.stderr);
    assert_eq!(fs::read_dir(fixture.path("")).unwrap().count(), before);
    let report = fixture.json(&["init"]);
    assert_eq!(fs::read_dir(fixture.path("")).unwrap().count(), before + 1);
    assert_eq!(fs::read_to_string(fixture.path("slipway.yaml")).unwrap(), shown.stdout);
    assert_eq!(names(&report["services"], "service"), ["api", "mail", "report"]);
    assert_eq!(names(&report["left_out"], "binary"), ["cargo-migrate", "client", "dump", "targets", "xtask"]);
    assert_eq!(report["next"], serde_json::json!(["cargo xtask build"]));
    let plan = fixture.json(&["build", "--dry-run"]);
    assert_eq!(names(&plan["services"], "binary"), ["api", "mail", "report"]);
    // What was left out is there as a comment that becomes a service as it stands.
    fixture.write("slipway.yaml", &shown.stdout.replace("  # client: {}", "  client: {}"));
    let plan = fixture.json(&["build", "--dry-run"]);
    assert_eq!(names(&plan["services"], "name"), ["api", "client", "mail", "report"]);
}

#[test]
fn a_file_that_is_there_is_left_alone_unless_it_may_go() {
    let fixture = Fixture::hello();
    fixture.write("slipway.yaml", "image: { vendor: Me }\n");
    fixture.run(&["init"]).fails(3, &["slipway.yaml is there already", "--force"]);
    assert_eq!(fs::read_to_string(fixture.path("slipway.yaml")).unwrap(), "image: { vendor: Me }\n");
    let forced = fixture.run(&["init", "--force"]);
    assert!(forced.code == 0 && forced.stdout.ends_with("next: cargo xtask build\n"), "{}", forced.stdout);
    assert!(fs::read_to_string(fixture.path("slipway.yaml")).unwrap().contains("services:\n  hello: {}"));
}

#[test]
fn a_workspace_of_libraries_is_told_so() {
    let fixture = Fixture::new();
    fixture.library("common", "", "");
    fixture.lock();
    fixture
        .run(&["init"])
        .fails(3, &["no package of this workspace has a binary", "`test`, `scan` and `ci`"]);
    fixture.package("xtask", "", "fn main() {}\n");
    fixture.run(&["init"]).fails(3, &["looks like a helper", "xtask: it is a tool of the workspace"]);
    assert!(!fixture.path("slipway.yaml").exists());
}

#[test]
fn packages_with_a_service_yaml_speak_for_themselves() {
    let fixture = Fixture::hello();
    fixture.package("other", "", "fn main() {}\n");
    fixture.write("crates/hello/service.yaml", "http: { port: 8000 }\n");
    fixture.lock();
    let report = fixture.json(&["init"]);
    assert_eq!(report["declared"], serde_json::json!(["hello"]));
    assert_eq!(names(&fixture.json(&["build", "--dry-run"])["services"], "name"), ["hello"]);
}

#[test]
fn one_package_can_be_several_services_and_one_binary_too() {
    let fixture = Fixture::new();
    fixture.library("jobs", "", "");
    fixture.write("crates/jobs/src/bin/mail.rs", "fn main() { println!(\"mail\"); }\n");
    fixture.write("crates/jobs/src/bin/report.rs", "fn main() { println!(\"report\"); }\n");
    fixture.lock();
    fixture.run(&["build"]).fails(3, &["mail, report", "next: `cargo xtask init`"]);
    assert_eq!(fixture.run(&["init"]).code, 0);
    assert_eq!(outputs(&fixture), ["mail", "report"]);
    fixture.write(
        "slipway.yaml",
        "services:\n  nightly: { package: jobs, image: { binary: report, args: [--all] }, http: { port: 9000 } }\n  report:\n",
    );
    let report = fixture.json(&["build"]);
    assert_eq!(names(&report["services"], "name"), ["nightly", "report"]);
    assert_ne!(report["services"][0]["image"], report["services"][1]["image"]);
    let layer = |at: usize| report["services"][at]["layers"][1]["digest"].clone();
    assert_eq!(layer(0), layer(1), "the same binary is the same layer");
}

#[test]
fn mistakes_in_services_are_named_together() {
    let fixture = Fixture::hello();
    fixture.write(
        "slipway.yaml",
        "services:\n  gone:\n  Upper:\n  hello:\n    http:\n      port: 80\n  other:\n    package: nobody\nbuild: { features: [plain] }\n",
    );
    fixture.run(&["build"]).fails(3, &["slipway.yaml:9: build.features"]);
    let text = fs::read_to_string(fixture.path("slipway.yaml")).unwrap();
    fixture.write("slipway.yaml", &text.replace("build: { features: [plain] }\n", ""));
    let expected = [
        "4 problems",
        "slipway.yaml:2: services.gone: this workspace has no binary `gone`; it has: hello",
        "slipway.yaml:3: services.Upper: `Upper` is no name of an image",
        "slipway.yaml:6: services.hello.http.port: 80 needs root",
        "slipway.yaml:7: services.other: this workspace has no package `nobody`",
    ];
    fixture.run(&["build"]).fails(3, &expected);
    fixture.write("slipway.yaml", "services:\n  hello: { http: { port: 8000 } }\n");
    fixture.write("crates/hello/service.yaml", "");
    fixture.run(&["build"]).fails(3, &["slipway.yaml:2: services.hello", "keep them in one place"]);
}

fn git(folder: &Path, args: &[&str]) {
    let identity = ["-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false"];
    let status = Command::new("git").args(identity).args(args).current_dir(folder).status();
    assert!(status.unwrap().success(), "git {args:?}");
}

/// One package at the root, without `[workspace]`: C by its build script, a feature that its binary needs, a git dependency, and
/// a path dependency outside the workspace.
#[test]
fn a_single_package_with_c_features_git_and_a_path_outside_builds() {
    let place = tempfile::tempdir().unwrap();
    let library = |name: &str, text: &str| {
        let folder = place.path().join(name);
        fs::create_dir_all(folder.join("src")).unwrap();
        let manifest = format!("[package]\nname = \"{name}\"\nversion = \"0.3.0\"\nedition = \"2024\"\n");
        fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        fs::write(folder.join("src/lib.rs"), text).unwrap();
        folder
    };
    library("outside", "#[track_caller] pub fn f(n: i32) -> i32 { assert!(n > 0); n + 1 }\n");
    let remote = library("remote", "pub fn g(n: i32) -> i32 { assert!(n > 0); n * 10 }\n");
    git(&remote, &["init", "--quiet"]);
    git(&remote, &["add", "."]);
    git(&remote, &["commit", "--quiet", "-m", "one"]);
    let mut fixture = Fixture::at(place.path().join("app"));
    fixture.env("CARGO_NET_GIT_FETCH_WITH_CLI", "true");
    let manifest = format!(
        "[package]\nname = \"app\"\nversion = \"1.2.3\"\nedition = \"2024\"\n[features]\nserve = []\n\
         [[bin]]\nname = \"app\"\npath = \"src/main.rs\"\nrequired-features = [\"serve\"]\n\
         [dependencies]\noutside = {{ path = \"../outside\" }}\nremote = {{ git = \"file://{}\" }}\n",
        remote.display()
    );
    fixture.write("Cargo.toml", &manifest);
    fixture.write(
        "build.rs",
        "use std::process::Command;\nfn main() { let out = std::env::var(\"OUT_DIR\").unwrap();\n\
         let run = |p: &str, a: &[&str]| assert!(Command::new(p).args(a).status().unwrap().success());\n\
         let flags = std::env::var(format!(\"CFLAGS_{}\", std::env::var(\"TARGET\").unwrap().replace('-', \"_\"))).unwrap();\n\
         let object = format!(\"{out}/c.o\"); let mut args: Vec<&str> = flags.split(' ').collect();\n\
         args.extend([\"-g\", \"-O1\", \"-c\", concat!(env!(\"CARGO_MANIFEST_DIR\"), \"/c.c\"), \"-o\", &object]); run(\"cc\", &args);\n\
         run(\"ar\", &[\"rcsD\", &format!(\"{out}/libc_part.a\"), &object]);\n\
         println!(\"cargo::rerun-if-changed=c.c\\ncargo::rustc-link-search=native={out}\\ncargo::rustc-link-lib=static=c_part\"); }\n",
    );
    fixture.write("c.c", "int triple(int n) { return n * 3; }\n");
    fixture.write(
        "src/main.rs",
        "unsafe extern \"C\" { fn triple(n: i32) -> i32; }\nfn main() { println!(\"{} {}\", unsafe { triple(outside::f(1)) }, remote::g(4)); }\n",
    );
    let generated = Command::new(env!("CARGO"))
        .args(["generate-lockfile", "--quiet"])
        .env("CARGO_NET_GIT_FETCH_WITH_CLI", "true")
        .current_dir(fixture.path(""))
        .status();
    assert!(generated.unwrap().success());
    let run = fixture.run(&["init"]);
    assert!(run.stderr.contains("outside lies outside the workspace"), "{}", run.stderr);
    assert!(fs::read_to_string(fixture.path("slipway.yaml")).unwrap().contains("features: [app/serve]"));
    assert_eq!(outputs(&fixture), ["6 40"]);
}

#[test]
fn a_nested_workspace_is_one_of_its_own() {
    let fixture = Fixture::hello();
    fixture.write("inner/Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"one\"]\n");
    fixture.write(
        "inner/one/Cargo.toml",
        "[package]\nname = \"one\"\nversion = \"0.1.0\"\nedition = \"2024\"\n",
    );
    fixture.write("inner/one/src/main.rs", "fn main() { println!(\"one\"); }\n");
    fixture.write(
        "Cargo.toml",
        "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\nexclude = [\"inner\"]\n",
    );
    let inner = Fixture::at(fixture.path("inner"));
    inner.lock();
    assert_eq!(inner.run(&["init"]).code, 0);
    assert_eq!(outputs(&inner), ["one"]);
    assert_eq!(names(&fixture.json(&["build", "--dry-run"])["services"], "name"), ["hello"]);
    // From a folder inside a package the workspace is found as Cargo finds it.
    assert_eq!(Fixture::at(fixture.path("inner/one/src")).run(&["build"]).code, 0);
}

#[test]
fn cargos_configuration_holds_wherever_it_stands() {
    let fixture = Fixture::new();
    fixture.package(
        "app",
        "",
        "fn main() { println!(\"{} {} {} {} {}\", cfg!(included), env!(\"FORCED\"), env!(\"TZ\"), cfg!(debug_assertions), env!(\"C\")); }\n",
    );
    let c_flags = format!("CFLAGS_{}_unknown_linux_gnu", std::env::consts::ARCH);
    let script = format!(
        "fn main() {{ let flags = std::env::var(\"{c_flags}\").unwrap();\n\
         println!(\"cargo::rustc-env=C={{}}\", flags.starts_with(\"-O1 \") && flags.contains(\"-ffile-prefix-map=\")); }}\n"
    );
    fixture.write("crates/app/build.rs", &script);
    fixture.lock();
    fixture.write(
        ".cargo/config.toml",
        "include = [\"flags.toml\"]\n[alias]\nxtask = \"run --bin nothing --\"\n[build]\ntarget-dir = \"out\"\nbuild-dir = \"intermediate\"\n\
         [profile.checked]\ninherits = \"release\"\ndebug-assertions = true\n",
    );
    let flags = format!(
        "[build]\nrustflags = [\"--cfg\", \"included\"]\n[env]\nFORCED = {{ value = \"yes\", force = true }}\n\
         TZ = {{ value = \"Asia/Tokyo\", force = true }}\n{c_flags} = {{ value = \"-O1\", force = true }}\n"
    );
    fixture.write(".cargo/flags.toml", &flags);
    fixture.write("slipway.yaml", "build: { profile: checked }\n");
    assert_eq!(outputs(&fixture), ["true yes Asia/Tokyo true true"]);
    assert!(fixture.path("out/slipway/images/index.json").is_file());
    assert!(!fixture.path("intermediate").exists() && !fixture.path("target").exists());
    assert!(fixture.run(&["build"]).stdout.contains("nothing changed"));
    fixture.write(".cargo/flags.toml", &flags.replace("\"yes\"", "\"no\""));
    assert_eq!(fixture.json(&["build"])["reason"], ".cargo/flags.toml changed");
    // The alias hides an installed `cargo-xtask`, so the next step is named by the other name.
    let mut installed = fixture.command_of(env!("CARGO_BIN_EXE_cargo-xtask"), &["xtask", "init", "--force"]);
    let output = installed.output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().ends_with("next: cargo slipway build\n"));
    assert!(String::from_utf8(output.stderr).unwrap().contains("has an alias `xtask` of its own"));
    let mut slipway =
        fixture.command_of(env!("CARGO_BIN_EXE_cargo-slipway"), &["slipway", "build", "--dry-run"]);
    assert!(slipway.output().unwrap().status.success());
}

#[test]
fn another_target_is_taken_from_cargos_configuration() {
    let fixture = Fixture::hello();
    let target = format!("{}-unknown-linux-musl", std::env::consts::ARCH);
    let sysroot =
        Command::new("rustc").args(["--print", "sysroot"]).current_dir(fixture.path("")).output().unwrap();
    let sysroot = String::from_utf8(sysroot.stdout).unwrap();
    if !Path::new(sysroot.trim()).join("lib/rustlib").join(&target).is_dir() {
        assert!(!is_required("musl"), "the target {target} is required and not installed");
        eprintln!("skipped: the target {target} is not installed");
        return;
    }
    fixture.write(".cargo/config.toml", &format!("[build]\ntarget = \"{target}\"\n"));
    let report = fixture.json(&["build"]);
    assert_eq!(report["target"], Value::from(target));
    assert_eq!(outputs(&fixture), ["hello"]);
}

#[test]
fn warnings_name_their_package_and_errors_come_last() {
    let mut fixture = Fixture::new();
    fixture.env("CARGO_TERM_COLOR", "always");
    fixture.package("app", "", "fn main() { let unused = 1; }\n");
    fixture.write("crates/app/build.rs", "fn main() { println!(\"cargo::warning=the port is fixed\"); }\n");
    fixture.lock();
    let expected = ["warning: app@1.2.3: the port is fixed", "app: warning: unused variable: `unused`"];
    let first = fixture.run(&["build"]);
    assert!(expected.iter().all(|text| first.stderr.contains(text)), "{}", first.stderr);
    assert!(!first.stderr.contains("Compiling"), "{}", first.stderr);
    // Cargo finds everything fresh, and says it again.
    fs::remove_file(fixture.path("target/slipway/state.json")).unwrap();
    fixture.write("crates/app/service.yaml", "stop: { grace_ms: 1000 }\n");
    let again = fixture.run(&["build"]);
    assert!(expected.iter().all(|text| again.stderr.contains(text)), "{}", again.stderr);

    fixture.package("broken", "", "fn main() { nonsense }\n");
    fixture.write("crates/broken/service.yaml", "");
    fixture.lock();
    let failed = fixture.run(&["build"]);
    failed.fails(10, &["broken: error[E0425]: cannot find value `nonsense`"]);
    let tail = failed.stderr.split("broken: error[E0425]").nth(1).unwrap();
    assert!(!tail.contains("warning:") && tail.contains("error: the build failed"), "{tail}");
}
