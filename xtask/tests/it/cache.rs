//! Results that were made before, here or on another machine: `cargo xtask build` with stores, and `cargo xtask cache`.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use crate::support::{Fixture, digests, is_required, wait_for};

/// A service with a package of the registry, a library of ours with a build script, and an asset.
fn workspace() -> Fixture {
    let fixture = Fixture::new();
    fill(&fixture);
    fixture
}

fn fill(fixture: &Fixture) {
    fixture.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n");
    fixture.package(
        "app",
        "[dependencies]\nours = { path = \"../ours\" }\nitoa = \"1\"\n",
        "fn main() { println!(\"{} {}\", ours::name(), itoa::Buffer::new().format(7)); }\n",
    );
    fixture.library(
        "ours",
        "[features]\nloud = []\n",
        "include!(concat!(env!(\"OUT_DIR\"), \"/generated.rs\"));\npub fn name() -> &'static str { NAME }\n",
    );
    fixture.write(
        "crates/ours/build.rs",
        "fn main() { println!(\"cargo::rerun-if-changed=../../data/name.txt\");\n\
         println!(\"cargo::rerun-if-changed=../../data/more\");\n\
         println!(\"cargo::rerun-if-env-changed=NAME_SUFFIX\");\n\
         let name = std::fs::read_to_string(\"../../data/name.txt\").unwrap();\n\
         let suffix = std::env::var(\"NAME_SUFFIX\").unwrap_or_default();\n\
         let out = std::env::var(\"OUT_DIR\").unwrap();\n\
         std::fs::write(format!(\"{out}/generated.rs\"), format!(\"const NAME: &str = {:?};\", name + &suffix)).unwrap(); }\n",
    );
    // Nobody needs it; Cargo has a folder of that name.
    fixture.library("deps", "", "");
    fixture.write("data/name.txt", "name");
    fixture.write("data/more/a.txt", "a");
    fixture.write("crates/app/service.yaml", "image:\n  assets:\n    - { from: assets, to: /app/assets }\n");
    fixture.write("crates/app/assets/a.txt", "a");
    fixture.lock();
}

/// The workspace with a store of its own on this machine.
fn cached(store: &Path) -> Fixture {
    let mut fixture = workspace();
    fixture.env("SLIPWAY_CACHE", "local");
    fixture.write("slipway.yaml", &format!("cache: {{ local: {{ path: {} }} }}\n", store.display()));
    fixture
}

/// What each action of a build did: its outcome, and the store or the reason.
fn actions(report: &Value) -> BTreeMap<String, (String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let one = |action: &Value| {
        let why = [&action["from"], &action["reason"]].into_iter().find(|value| value.is_string());
        (text(&action["action"]), (text(&action["outcome"]), why.map(text).unwrap_or_default()))
    };
    report["actions"].as_array().unwrap().iter().map(one).collect()
}

fn action(report: &Value, name: &str) -> (String, String) {
    actions(report).remove(name).unwrap_or_else(|| panic!("no action `{name}` in {report}"))
}

fn hit(from: &str) -> (String, String) {
    ("hit".to_owned(), from.to_owned())
}

#[test]
fn another_checkout_compiles_nothing() {
    let store = tempfile::tempdir().unwrap();
    let first = cached(store.path());
    let built = first.json(&["build"]);
    assert_eq!(action(&built, "compile app").0, "miss");
    let second = cached(store.path());
    let found = second.json(&["build"]);
    assert_eq!(action(&found, "compile app"), hit("local"));
    assert_eq!((&found["compiled"], digests(&found)), (&0.into(), digests(&built)));
    assert!(!second.path("target/slipway/cargo/release").exists());
    assert_eq!(
        fs::read(found["services"][0]["sbom_path"].as_str().unwrap()).unwrap(),
        fs::read(built["services"][0]["sbom_path"].as_str().unwrap()).unwrap()
    );
    let again = second.run(&["build", "--explain"]);
    assert!(again.stdout.starts_with("all actions: hit"), "{}", again.stdout);
}

#[test]
fn a_store_that_is_not_there_is_no_store_to_take_from_and_limits_have_units() {
    let store = tempfile::tempdir().unwrap();
    let fixture = cached(store.path());
    for command in ["pull", "push"] {
        fixture.run(&["cache", command]).fails(3, &["slipway.yaml names no cache.remote"]);
    }
    fixture.json(&["build"]);
    assert_eq!(fixture.json(&["cache", "gc", "--limit", "10GiB"])["entries"], Value::Array(vec![]));
    fixture.run(&["cache", "gc", "--limit", "10 apples"]).fails(2, &["10GiB or 500MB"]);
}

/// Adds the service `other`, which is linked in the other way and shares the package `itoa` and our library.
fn mixed(fixture: Fixture) -> Fixture {
    fixture.package(
        "other",
        "[dependencies]\nours = { path = \"../ours\" }\nitoa = \"1\"\n",
        "fn main() { println!(\"other {} {}\", ours::name(), itoa::Buffer::new().format(7)); }\n",
    );
    fixture.write("crates/other/service.yaml", "image: { base: closure }\n");
    fixture.lock();
    fixture
}

#[test]
fn two_ways_of_linking_at_once_are_cached_as_each_alone_is() {
    let folder = tempfile::tempdir().unwrap();
    let (local, remote) = (folder.path().join("local"), folder.path().join("remote"));
    let first = mixed(shared(&local, &remote, "read-write"));
    let built = first.json(&["build"]);
    for name in ["compile app", "compile other", "dependencies", "dependencies (shared)"] {
        assert_eq!(action(&built, name).0, "miss", "{name}");
    }
    // In another checkout nothing is compiled, together and alone.
    for services in [&["build"][..], &["build", "app"], &["build", "other"]] {
        let elsewhere = mixed(shared(&local, &remote, "read"));
        let found = elsewhere.json(services);
        assert_eq!(found["compiled"], 0, "{found}");
        for (name, digest) in digests(&found) {
            assert_eq!(digest, digests(&built)[&name]);
        }
    }
    // One service changed: the other comes from the store, and so do the dependencies of the changed one alone.
    let plan = first.json(&["build", "--dry-run", "--explain"]);
    assert_eq!((action(&plan, "compile app"), action(&plan, "compile other")), (hit("local"), hit("local")));
    let empty = || {
        for gone in [&first.path("target"), &local] {
            fs::remove_dir_all(gone).unwrap();
        }
    };
    empty();
    let folder_name = format!("folder {}", remote.display());
    edit(&first, "crates/other/src/main.rs", "\"other {}", "\"another {}");
    let run = first.run(&["build", "--explain"]);
    assert_eq!(compiled(&run.stderr), ["ours", "ours", "other"], "{}", run.stderr);
    for line in [
        format!("compile app: hit ({folder_name})"),
        "compile other: miss, crates/other/src/main.rs changed".to_owned(),
        format!("dependencies (shared): hit ({folder_name})"),
    ] {
        assert!(run.stdout.contains(&line), "`{line}` is not in: {}", run.stdout);
    }
    // The static one now: what the other invocation has within its folder stays, and both give what a clean build gives.
    let shared_folder = first.path("target/slipway/cargo/shared");
    assert!(shared_folder.is_dir() && !first.path("target/slipway/cargo/release").exists());
    edit(&first, "crates/app/src/main.rs", "\"{} {}\"", "\"{}, {}\"");
    let run = first.run(&["build", "--explain"]);
    assert!(run.stdout.contains(&format!("dependencies: hit ({folder_name})")), "{}", run.stdout);
    assert_eq!(compiled(&run.stderr), ["ours", "ours", "app"], "{}", run.stderr);
    assert!(shared_folder.is_dir());
    let reused = first.digests(&[]);
    let moved = first.json(&["cache", "push", "--dry-run"])["entries"].to_string();
    assert!(moved.contains("dependencies (shared)") && moved.contains("compile app"), "{moved}");
    let clean = first.run(&["build", "--cache", "off"]);
    assert_eq!(compiled(&clean.stderr).iter().filter(|name| **name == "itoa").count(), 2, "{}", clean.stderr);
    assert_eq!(first.digests(&["--cache", "off"]), reused);
}

/// What Cargo has in either folder would be the old program: the source's time says that it is older than that.
#[test]
fn a_source_with_an_old_time_is_new_to_both_ways_of_linking() {
    let store = tempfile::tempdir().unwrap();
    let mut fixture = mixed(cached(store.path()));
    fixture.env("SLIPWAY_CACHE", "off");
    let before = fixture.digests(&[]);
    let source = fixture.path("crates/ours/src/lib.rs");
    edit(&fixture, "crates/ours/src/lib.rs", "{ NAME }", "{ \"old\" }");
    let old = SystemTime::now() - Duration::from_secs(3600);
    fs::File::options().write(true).open(&source).unwrap().set_modified(old).unwrap();
    // Only one of the two invocations runs, and then the other.
    let app = fixture.digests(&["app"])["app"].clone();
    let other = fixture.digests(&["other"])["other"].clone();
    assert!(app != before["app"] && other != before["other"]);
    fs::remove_dir_all(fixture.path("target")).unwrap();
    let clean = fixture.digests(&[]);
    assert_eq!((&clean["app"], &clean["other"]), (&app, &other));
}

/// The workspace with a store on this machine and one that others share.
fn shared(local: &Path, remote: &Path, mode: &str) -> Fixture {
    let mut fixture = workspace();
    use_stores(&mut fixture, local, remote, mode);
    fixture
}

fn use_stores(fixture: &mut Fixture, local: &Path, remote: &Path, mode: &str) {
    let (local, remote) = (local.display(), remote.display());
    let settings =
        format!("cache:\n  local: {{ path: {local} }}\n  remote: {{ folder: {remote}, write: true }}\n");
    fixture.write("slipway.yaml", &settings);
    fixture.env("SLIPWAY_CACHE", mode);
}

/// Names of the packages that were compiled.
fn compiled(stderr: &str) -> Vec<&str> {
    stderr.lines().filter_map(|line| line.strip_prefix("compiled ")).collect()
}

#[test]
fn a_one_line_change_on_an_empty_machine_compiles_our_own_packages_only() {
    let folder = tempfile::tempdir().unwrap();
    let (remote, local) = (folder.path().join("remote"), folder.path().join("local"));
    let fixture = shared(&local, &remote, "read-write");
    fixture.json(&["build"]);
    // Packing is told by what is in a layer.
    fixture.write("crates/app/assets/a.txt", "b");
    let packed = action(&fixture.json(&["build"]), "pack app: assets and data folders");
    assert_eq!(packed, ("miss".to_owned(), "/app/assets/a.txt changed".to_owned()));
    // An empty machine with the same folders, as runners of CI are.
    for gone in [fixture.path("target"), local] {
        fs::remove_dir_all(gone).unwrap();
    }
    fixture
        .write("crates/app/src/main.rs", "fn main() { println!(\"{}\", itoa::Buffer::new().format(8)); }\n");
    let run = fixture.run(&["build", "--explain"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert_eq!(compiled(&run.stderr), ["ours", "ours", "app"], "{}", run.stderr);
    let remote = format!("(folder {})", remote.display());
    for line in [
        format!("dependencies: hit {remote}"),
        "compile app: miss, crates/app/src/main.rs changed".to_owned(),
        "pack app: binary: miss".to_owned(),
    ] {
        assert!(run.stdout.contains(&line), "`{line}` is not in: {}", run.stdout);
    }
    assert!(!fixture.path("target/slipway/dependencies").exists());
    let from_sources = fixture.run(&["build", "--cache", "off"]);
    assert!(compiled(&from_sources.stderr).contains(&"itoa"), "{}", from_sources.stderr);
}

fn edit(fixture: &Fixture, name: &str, from: &str, to: &str) {
    let text = fs::read_to_string(fixture.path(name)).unwrap();
    assert!(text.contains(from), "`{from}` is not in {name}");
    fixture.write(name, &text.replace(from, to));
}

#[test]
fn each_changed_input_is_a_miss_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (local, remote) = (folder.path().join("local"), folder.path().join("remote"));
    shared(&local, &remote, "read-write").json(&["build"]);
    let explain = |change: &dyn Fn(&mut Fixture), name: &str| {
        let mut fixture = shared(&local, &remote, "read");
        change(&mut fixture);
        action(&fixture.json(&["build", "--dry-run", "--explain"]), name)
    };
    let app = |change: &dyn Fn(&mut Fixture), expected: &str| {
        let (outcome, why) = explain(change, "compile app");
        assert!(outcome == "miss" && why.contains(expected), "`{expected}` is not in: {outcome} {why}");
    };
    let dependencies = |change: &dyn Fn(&mut Fixture), expected: &str| {
        let (outcome, why) = explain(change, "dependencies");
        assert!(outcome == "miss" && why.contains(expected), "`{expected}` is not in: {outcome} {why}");
    };
    assert_eq!(explain(&|_| (), "compile app"), hit("local"));
    app(
        &|f| edit(f, "crates/ours/src/lib.rs", "{ NAME }", "{ let _ = 1; NAME }"),
        "crates/ours/src/lib.rs changed",
    );
    app(&|f| f.write("crates/ours/src/new.rs", ""), "crates/ours/src/new.rs is new");
    app(&|f| f.write("data/name.txt", "other"), "data/name.txt changed");
    app(&|f| f.write("data/more/b.txt", ""), "data/more/b.txt is new");
    app(&|f| f.env("NAME_SUFFIX", "!"), "the variable NAME_SUFFIX changed");
    app(&|f| f.write("crates/app/assets/a.txt", "b"), "crates/app/assets/a.txt changed");
    let loud =
        |f: &mut Fixture| edit(f, "crates/app/Cargo.toml", "../ours\"", "../ours\", features = [\"loud\"]");
    app(&loud, "the features of ours 1.2.3 changed: +loud");
    app(
        &|f| edit(f, "Cargo.toml", "[workspace]", "[profile.release]\nopt-level = 1\n[workspace]"),
        "the profile's opt_level changed from \"3\" to \"1\"",
    );
    app(&|f| f.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"), "the profile's codegen_units changed");
    app(&|f| f.env("CC", "gcc"), "the variable CC is new");
    let flags = |f: &mut Fixture| f.write(".cargo/config.toml", "[build]\nrustflags = [\"--cfg\", \"x\"]\n");
    for check in [&app as &dyn Fn(&dyn Fn(&mut Fixture), &str), &dependencies] {
        check(&flags, "the flags of rustc changed: +--cfg +x");
        check(&another_toolchain, "the toolchain's rustc changed");
        check(&another_linker, "the toolchain's linker.driver.digest changed");
        check(&another_version_of_a_dependency, "the lock file has itoa 1.0.9 instead of itoa 1.0.");
    }
    dependencies(
        &|f| edit(f, "crates/ours/src/lib.rs", "{ NAME }", "{ let _ = 1; NAME }"),
        "the folder of the workspace is another",
    );
}

/// What Cargo itself would not look at again, and what it would but is easily left out of a key.
#[test]
fn inputs_that_hide_are_a_miss() {
    let folder = tempfile::tempdir().unwrap();
    let (local, remote) = (folder.path().join("local"), folder.path().join("remote"));
    let workspace = || {
        let mut fixture = shared(&local, &remote, "read-write");
        // Names that begin like those of tools and of Cargo's own settings.
        let vendored = "[package]\nname = \"itoa\"\nversion = \"1.0.99\"\nedition = \"2021\"\n";
        fixture.write("vendor/itoa/Cargo.toml", vendored);
        fixture.write("vendor/itoa/src/lib.rs", "pub fn seven() -> u8 { 7 }\n");
        fixture.write("vendor/itoa/.cargo-checksum.json", "{\"files\":{},\"package\":null}");
        let text = "use std::io::Write;\nfn main() { let _ = writeln!(std::io::stdout(), \"{:?} {:?} {} {}\", option_env!(\"ARCHIVE_URL\"), \
                    option_env!(\"RUST_LOG\"), ours::name(), itoa::seven()); }\n";
        fixture.write("crates/app/src/main.rs", text);
        let config = "[source.crates-io]\nreplace-with = \"vendored\"\n[source.vendored]\ndirectory = \"vendor\"\n\
                      [build]\nrustc-wrapper = \"tools/wrapper\"\n";
        fixture.write(".cargo/config.toml", config);
        executable(&fixture, "tools/wrapper", "#!/bin/sh\nexec \"$@\"\n");
        fixture.lock();
        fixture.env("ARCHIVE_URL", "one");
        fixture.env("RUST_LOG", "one");
        fixture
    };
    let first = workspace();
    first.json(&["build"]);
    let explain = |change: &dyn Fn(&mut Fixture)| {
        let mut fixture = workspace();
        change(&mut fixture);
        let (outcome, why) = action(&fixture.json(&["build", "--dry-run", "--explain"]), "compile app");
        format!("{outcome}: {why}")
    };
    assert_eq!(explain(&|_| ()), "hit: local");
    let vendored = |f: &mut Fixture| f.write("vendor/itoa/src/lib.rs", "pub fn seven() -> u8 { 8 }\n");
    let found = [
        explain(&|f| f.env("ARCHIVE_URL", "two")),
        explain(&|f| f.env("RUST_LOG", "two")),
        explain(&vendored),
        explain(&|f| executable(f, "tools/wrapper", "#!/bin/sh\nexec \"$@\" # another\n")),
        explain(&|f| another_compiler(f)),
    ];
    let expected = [
        "miss: the variable ARCHIVE_URL changed",
        "miss: the variable RUST_LOG changed",
        "miss: vendor/itoa/src/lib.rs changed",
        "miss: tools/wrapper changed",
        "miss: the toolchain's cc",
    ];
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}, and not {expected}");
    }
    // Nor is what lies in this very folder taken for fresh.
    let mut first = first;
    for change in [&vendored as &dyn Fn(&mut Fixture), &|f| f.env("RUST_LOG", "two")] {
        let before = digests(&first.json(&["build", "--cache", "off"]));
        change(&mut first);
        assert_ne!(digests(&first.json(&["build", "--cache", "off"])), before);
    }
}

/// An archive of C code in a folder outside of any workspace.
fn archive(folder: &Path, name: &str, code: &str) {
    fs::create_dir_all(folder).unwrap();
    let (source, object) = (folder.join("code.c"), folder.join("code.o"));
    fs::write(&source, code).unwrap();
    let run = |command: &mut Command| assert!(command.status().unwrap().success());
    run(Command::new("cc").args(["-O2", "-c"]).arg(&source).arg("-o").arg(&object));
    let archive = folder.join(format!("lib{name}.a"));
    fs::remove_file(&archive).ok();
    run(Command::new("ar").args(["rcD"]).arg(&archive).arg(&object));
}

/// Cargo knows nothing of these, so that a new one would come into no image.
#[test]
fn libraries_of_the_system_that_build_scripts_link_are_inputs_by_content() {
    let folder = tempfile::tempdir().unwrap();
    let (system, earlier, store) =
        (folder.path().join("system"), folder.path().join("earlier"), folder.path().join("store"));
    fs::create_dir(&earlier).unwrap();
    archive(&system, "number", "int number(void) { return 1; }");
    archive(&system, "other", "int other(void) { return 1; }");
    fs::write(system.join("libscript.so"), "/* GNU ld script */ GROUP ( libother.a )\n").unwrap();
    let workspace = || {
        let mut fixture = cached(&store);
        let main = "unsafe extern \"C\" { safe fn number() -> i32; safe fn other() -> i32; }\n\
                    fn main() { println!(\"{} {} {} {}\", number(), other(), ours::name(), itoa::Buffer::new().format(7)); }\n";
        fixture.write("crates/app/src/main.rs", main);
        fixture.write("crates/app/service.yaml", "image: { base: closure }\n");
        let script = format!(
            "fn main() {{ println!(\"cargo::rerun-if-changed=build.rs\");\n\
             println!(\"cargo::rustc-link-search=native={}\"); println!(\"cargo::rustc-link-search=native={}\");\n\
             println!(\"cargo::rustc-link-lib=number\"); println!(\"cargo::rustc-link-lib=dylib=script\"); }}\n",
            earlier.display(),
            system.display()
        );
        fixture.write("crates/app/build.rs", &script);
        fixture.env("SLIPWAY_CACHE", "local");
        fixture
    };
    let first = workspace();
    let before = first.json(&["build"]);
    let explain = || {
        let (outcome, why) = action(&workspace().json(&["build", "--dry-run", "--explain"]), "compile app");
        format!("{outcome}: {why}")
    };
    assert_eq!(explain(), "hit: local");
    let provenance = fs::read_to_string(first.path("target/slipway/provenance/app.json")).unwrap();
    for name in ["libnumber.a", "libscript.so", "libother.a"] {
        assert!(provenance.contains(&format!("urn:slipway:library:{name}")), "{name} is not in {provenance}");
    }
    assert!(first.json(&["build"])["reason"].is_null());
    // Behind a linker script; then one in a folder that is looked into earlier.
    let changes: [(&dyn Fn(), String); 2] = [
        (
            &|| archive(&system, "other", "int other(void) { return 2; }"),
            format!("miss: {} changed", system.join("libother.a").display()),
        ),
        (
            &|| archive(&earlier, "number", "int number(void) { return 3; }"),
            format!("miss: {} changed", earlier.join("libnumber.a").display()),
        ),
    ];
    let mut seen = vec![digests(&before)];
    for (change, expected) in changes {
        change();
        assert_eq!(explain(), expected);
        // Where Cargo has compiled everything already, it is linked again all the same.
        let built = digests(&first.json(&["build", "--cache", "off"]));
        assert!(!seen.contains(&built), "the old library is still in the image");
        assert_eq!(digests(&workspace().json(&["build"])), built);
        seen.push(built);
    }
    // What cannot be found where linkers look is linked, and not kept for others.
    let lost = workspace();
    edit(&lost, "crates/app/build.rs", &format!("native={}\"", system.display()), "native=/nowhere\"");
    lost.write(".cargo/config.toml", &format!("[build]\nrustflags = [\"-Lnative={}\"]\n", system.display()));
    let run = lost.run(&["build"]);
    assert!(run.code == 0 && run.stderr.contains("`script` (for app)"), "{}", run.stderr);
    fs::remove_dir_all(lost.path("target")).unwrap();
    assert_eq!(action(&lost.json(&["build", "--dry-run", "--explain"]), "compile app").0, "miss");
}

fn executable(fixture: &Fixture, name: &str, text: &str) {
    fixture.write(name, text);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(fixture.path(name), mode).unwrap();
}

/// A program around the C compiler that calls another linker.
fn another_compiler(fixture: &mut Fixture) {
    executable(fixture, "other/ld", "#!/bin/sh\nexec /usr/bin/ld \"$@\"\n");
    let text = "#!/bin/sh\ncase \"$1\" in -print-prog-name=ld) echo \"$(dirname \"$0\")/ld\";; *) exec /usr/bin/gcc \"$@\";; esac\n";
    executable(fixture, "other/cc", text);
    let path = format!("{}:{}", fixture.path("other").display(), std::env::var("PATH").unwrap());
    fixture.env("PATH", &path);
}

/// A compiler that says of itself that it was made from another commit.
fn another_toolchain(fixture: &mut Fixture) {
    let text = "if [ \"$1\" = -vV ]; then rustc \"$@\" | sed 's/^commit-hash: ..../commit-hash: 0000/'; else exec rustc \"$@\"; fi\n";
    let path = fixture.program("rustc", text);
    fixture.env("RUSTC", path.to_str().unwrap());
}

/// A C compiler with other bytes, which rustc links with.
fn another_linker(fixture: &mut Fixture) {
    let program = fixture.program("cc", "exec /usr/bin/cc \"$@\"");
    let path = std::env::var("PATH").unwrap();
    fixture.env("PATH", &format!("{}:{path}", program.parent().unwrap().display()));
    // What build scripts compile C with stays the same.
    fixture.env("CC", "/usr/bin/cc");
}

fn another_version_of_a_dependency(fixture: &mut Fixture) {
    edit(fixture, "crates/app/Cargo.toml", "itoa = \"1\"", "itoa = \"=1.0.9\"");
    fixture.lock();
}

#[test]
fn sources_with_old_times_never_give_the_old_program() {
    let folder = tempfile::tempdir().unwrap();
    let fixture = cached(&folder.path().join("local"));
    let main = "crates/app/src/main.rs";
    let write = |text: &str| {
        fixture.write(main, &format!("fn main() {{ println!(\"{text}\"); }}\n"));
        let file = fs::File::options().append(true).open(fixture.path(main)).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(600_000_000)).unwrap();
    };
    let mut by_text = BTreeMap::new();
    // Compiled, compiled, taken from the store, compiled; and then without what the store had, behind Cargo's back.
    for (text, forget) in
        [("one", false), ("two", false), ("one", false), ("three", false), ("two", true), ("one", true)]
    {
        write(text);
        if forget {
            fs::remove_dir_all(folder.path().join("local")).unwrap();
        }
        let built = fixture.digests(&[]);
        assert_eq!(by_text.entry(text).or_insert_with(|| built.clone()), &built, "{text}");
    }
    assert_eq!(by_text.values().collect::<std::collections::BTreeSet<_>>().len(), 3);
}

/// Files of the entries of a store.
fn entries(store: &Path, kind: &str) -> Vec<PathBuf> {
    let folder = store.join("v1").join(kind);
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn damaged_entries_are_named_and_built_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("local");
    let fixture = cached(&store);
    let expected = fixture.digests(&[]);
    fixture.write("crates/app/src/main.rs", "fn main() {}\n");
    fixture.digests(&[]);
    let services = entries(&store, "service");
    let [one, other] = services.as_slice() else { panic!("{services:?}") };
    let whole = fs::read(one).unwrap();
    let record = entries(&store, "record").remove(0);
    let damages: [&dyn Fn(); 4] = [
        &|| {
            [one, other]
                .into_iter()
                .for_each(|path| fs::write(path, &fs::read(path).unwrap()[..200]).unwrap())
        },
        &|| {
            let (a, b) = (fs::read(one).unwrap(), fs::read(other).unwrap());
            fs::write(one, b).unwrap();
            fs::write(other, a).unwrap();
        },
        &|| {
            [one, other].into_iter().for_each(|path| {
                let mut bytes = fs::read(path).unwrap();
                let at = bytes.len() - 9;
                bytes[at] ^= 1;
                fs::write(path, bytes).unwrap();
            })
        },
        &|| fs::write(&record, "{}").unwrap(),
    ];
    for damage in damages {
        let fixture = cached(&store);
        damage();
        fs::write(store.join("v1/tmp/.tmpHALF"), "{\"schema\":").unwrap();
        let run = fixture.run(&["build", "--json"]);
        assert!(run.code == 0 && run.stderr.contains("has a damaged entry"), "{}", run.stderr);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!((action(&report, "compile app").0.as_str(), digests(&report)), ("miss", expected.clone()));
        // Whole again for the next one.
        let again = cached(&store);
        assert_eq!(action(&again.json(&["build", "--dry-run", "--explain"]), "compile app"), hit("local"));
        fs::write(one, &whole).ok();
    }
}

#[test]
fn a_store_that_others_can_write_to_is_believed_only_where_settings_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let (local, remote) = (folder.path().join("local"), folder.path().join("remote"));
    let fixture = || {
        fs::remove_dir_all(&local).ok();
        shared(&local, &remote, "read-write")
    };
    let expected = digests(&fixture().json(&["build"]));
    fs::set_permissions(&remote, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let outcome = |fixture: &Fixture| {
        let run = fixture.run(&["build", "--json"]);
        let report: Value = serde_json::from_str(&run.stdout).unwrap();
        assert_eq!(digests(&report), expected);
        (action(&report, "compile app").0, run.stderr)
    };
    let (compiled, said) = outcome(&fixture());
    let named = format!("{} can be written to by others (mode 777)", remote.display());
    assert!(compiled == "miss" && said.contains(&named) && said.contains("is left out"), "{compiled} {said}");
    let believing = fixture();
    edit(&believing, "slipway.yaml", "write: true", "write: true, others_may_write: true");
    let (compiled, said) = outcome(&believing);
    assert!(
        compiled == "hit" && said.contains(&named) && said.contains("others_may_write"),
        "{compiled} {said}"
    );
}

#[test]
fn only_a_run_that_is_trusted_writes_to_a_store() {
    let folder = tempfile::tempdir().unwrap();
    let (local, remote) = (folder.path().join("local"), folder.path().join("remote"));
    let build = |env: &[(&str, &str)], args: &[&str]| {
        let mut fixture = shared(&local, &remote, "local");
        env.iter().for_each(|(name, value)| fixture.env(name, value));
        (fixture.json(&[&["build"], args].concat()), local.exists(), remote.exists())
    };
    let proposed =
        [("GITHUB_ACTIONS", "true"), ("GITHUB_EVENT_NAME", "pull_request"), ("SLIPWAY_CACHE", "read-write")];
    for (env, args) in
        [(&proposed[..], vec![]), (&[], vec!["--cache", "off"]), (&[], vec!["--cache", "read"])]
    {
        let (_, wrote_here, wrote_there) = build(env, &args);
        assert_eq!((wrote_here, wrote_there), (false, false), "{env:?} {args:?}");
    }
    let (_, wrote_here, wrote_there) = build(&[], &[]);
    assert_eq!((wrote_here, wrote_there), (true, false), "a person's build stays on this machine");
    let event = folder.path().join("event.json");
    fs::write(&event, r#"{"repository":{"default_branch":"main"}}"#).unwrap();
    let pushed = |git_ref| {
        [
            ("GITHUB_ACTIONS", "true"),
            ("GITHUB_EVENT_NAME", "push"),
            ("GITHUB_EVENT_PATH", event.to_str().unwrap()),
            ("GITHUB_REF", git_ref),
            ("SLIPWAY_CACHE", "read-write"),
        ]
    };
    fs::remove_dir_all(&local).unwrap();
    assert!(!build(&pushed("refs/heads/proposal"), &[]).2, "any branch can be pushed");
    assert!(build(&pushed("refs/heads/main"), &[]).2);
    // A run that may only look finds it, and one that must not look builds from the sources.
    fs::remove_dir_all(&local).unwrap();
    let remote_name = format!("folder {}", remote.display());
    assert_eq!(action(&build(&proposed, &[]).0, "compile app"), hit(&remote_name));
    assert!(!local.exists());
    assert_eq!(build(&[], &["--cache", "off"]).0["actions"], serde_json::json!([]));
    // Nor does what a store gave before count as built from the sources.
    let fixture = shared(&local, &remote, "local");
    assert_eq!(action(&fixture.json(&["build"]), "compile app").0, "hit");
    let from_sources = fixture.run(&["build", "--cache", "off"]);
    assert!(compiled(&from_sources.stderr).contains(&"itoa"), "{}", from_sources.stderr);
    let mut fixture = shared(&local, &remote, "local");
    proposed.iter().for_each(|(name, value)| fixture.env(name, value));
    fixture.run(&["cache", "push"]).fails(3, &["may not write to a store that others share"]);
}

#[test]
fn what_a_machine_built_is_pushed_pulled_and_collected() {
    let folder = tempfile::tempdir().unwrap();
    let (here, there, remote) =
        (folder.path().join("here"), folder.path().join("there"), folder.path().join("remote"));
    let fixture = shared(&here, &remote, "local");
    fixture.json(&["build"]);
    let sent = |args: &[&str]| {
        let entries = fixture.json(&[&["cache", "push"], args].concat())["entries"].take();
        entries.as_array().unwrap().iter().filter(|entry| entry["to"].is_string()).count()
    };
    assert_eq!((sent(&["--dry-run"]), remote.exists()), (2, false));
    assert_eq!((sent(&[]), sent(&[])), (2, 0));
    let other = shared(&there, &remote, "local");
    let found = other.json(&["cache", "pull"]);
    assert_eq!(found["entries"][0]["from"], format!("folder {}", remote.display()));
    fs::remove_dir_all(&remote).unwrap();
    assert_eq!(action(&other.json(&["build"]), "compile app"), hit("local"));
    let stats = other.json(&["cache", "stats"]);
    assert_eq!(stats["entries"].as_array().unwrap().len(), 2, "{stats}");
    other.write("crates/app/src/main.rs", "fn main() {}\n");
    other.json(&["build"]);
    let would = other.json(&["cache", "gc", "--limit", "0", "--dry-run"]);
    assert_eq!(would["entries"], other.json(&["cache", "gc", "--limit", "0"])["entries"]);
    assert_eq!(would["entries"].as_array().unwrap().len(), 1, "never the newest: {would}");
    assert!(other.run(&["cache", "stats"]).stdout.contains("service"));
}

/// A number from 0 to below `end`, as random as this needs.
fn pick(seed: &mut u64, end: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % end
}

/// Kills builds at any moment, `rounds` times, and builds to the end now and then: the digest must be that of the sources.
fn kill(rounds: u32) {
    let folder = tempfile::tempdir().unwrap();
    let (local, remote) = (folder.path().join("local"), folder.path().join("remote"));
    let texts = ["one", "two", "three"];
    let write = |fixture: &Fixture, text: &str| {
        fixture.write("crates/app/src/main.rs", &format!("fn main() {{ println!(\"{text}\"); }}\n"));
    };
    let clean: Vec<_> = texts
        .iter()
        .map(|text| {
            let fixture = workspace();
            write(&fixture, text);
            fixture.digests(&["--cache", "off"])
        })
        .collect();
    let mut fixture = shared(&local, &remote, "read-write");
    let mut seed = u64::from(std::process::id());
    println!("seed {seed}");
    let (mut killed, mut compared) = (0, 0);
    for round in 0..rounds {
        let which = usize::try_from(pick(&mut seed, 3)).unwrap();
        write(&fixture, texts[which]);
        let mut build = fixture
            .command(&["build"])
            .stderr(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(pick(&mut seed, 1500)));
        kill_process_group(Pid::from_child(&build), Signal::KILL).ok();
        killed += u32::from(build.wait().unwrap().code().is_none());
        match pick(&mut seed, 4) {
            0 => {
                assert_eq!(fixture.digests(&[]), clean[which], "round {round}");
                compared += 1;
            }
            1 => fs::remove_dir_all(fixture.path("target")).unwrap_or_default(),
            2 => {
                fixture = shared(&local, &remote, "read-write");
                write(&fixture, texts[which]);
            }
            _ => {}
        }
    }
    for (text, expected) in texts.iter().zip(&clean) {
        let last = shared(&local, &remote, "read-write");
        write(&last, text);
        assert_eq!(last.digests(&[]), *expected, "{text}");
    }
    println!(
        "{rounds} builds, {killed} of them killed before their end; {} digests compared",
        compared + clean.len()
    );
    assert!(killed > 0, "every build was faster than its killer");
}

#[test]
fn a_killed_build_leaves_nothing_that_the_next_one_trusts_wrongly() {
    kill(15);
}

/// By hand: `cargo test -p xtask --test it killed_a_hundred_times -- --ignored --nocapture`.
#[test]
#[ignore = "takes minutes"]
fn a_build_that_is_killed_a_hundred_times() {
    kill(100);
}

/// A small file system of its own, for as long as this lives.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(folder: &Path, size: &str) -> Option<SmallDisk> {
        fs::create_dir(folder).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={size}"), "tmpfs"])
            .arg(folder)
            .output();
        if mounted.is_ok_and(|output| output.status.success()) {
            return Some(SmallDisk(folder.to_owned()));
        }
        assert!(!is_required("mount"), "cannot mount a small file system");
        eprintln!("SKIPPED: no full disk was tried: this user cannot mount one");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg(&self.0).status().ok();
    }
}

#[test]
fn on_a_full_disk_the_build_goes_on_without_the_cache_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(&folder.path().join("disk"), "128k") else { return };
    let fixture = cached(&disk.0.join("local"));
    let run = fixture.run(&["build", "--json"]);
    assert!(
        run.code == 0 && run.stderr.contains("warning: the cache local is left out from here on"),
        "{}",
        run.stderr
    );
    assert!(run.stderr.contains("No space left on device"), "{}", run.stderr);
    let expected = workspace().digests(&["--cache", "off"]);
    assert_eq!(digests(&serde_json::from_str(&run.stdout).unwrap()), expected);
    // Nothing that was written in part is taken for an entry.
    let again = cached(&disk.0.join("local"));
    assert_eq!(again.digests(&[]), expected);
}

/// Debian's registry on a port of its own, without TLS.
struct DockerRegistry {
    process: Child,
    host: String,
}

impl DockerRegistry {
    fn start(folder: &Path) -> Option<DockerRegistry> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let host = format!("127.0.0.1:{port}");
        let config = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage:\n  filesystem: {{ rootdirectory: {} }}\n  delete: {{ enabled: true }}\nhttp: {{ addr: \"{host}\" }}\n",
            folder.join("data").display()
        );
        fs::write(folder.join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(folder.join("config.yml")).stdout(Stdio::null()).stderr(Stdio::null());
        let Ok(process) = command.spawn() else {
            assert!(!is_required("docker-registry"), "docker-registry is not installed");
            eprintln!("SKIPPED: no registry was asked: docker-registry is not installed");
            return None;
        };
        wait_for("the registry", || TcpStream::connect(&host).ok());
        Some(DockerRegistry { process, host })
    }
}

impl Drop for DockerRegistry {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

#[test]
fn a_registry_is_filled_and_used_and_is_not_needed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(registry) = DockerRegistry::start(folder.path()) else { return };
    let machine = |name: &str| {
        let mut fixture = workspace();
        let local = folder.path().join(name).display().to_string();
        let settings = format!(
            "cache:\n  local: {{ path: {local} }}\n  remote: {{ registry: \"{}/team/cache\", write: true }}\n",
            registry.host
        );
        fixture.write("slipway.yaml", &settings);
        fixture.env("SLIPWAY_CACHE", "read-write");
        fixture.env("SLIPWAY_PLAIN_HTTP", &registry.host);
        fixture
    };
    let first = machine("a");
    let built = first.json(&["build"]);
    let second = machine("b");
    let found = second.json(&["build"]);
    assert_eq!(action(&found, "compile app"), hit(&format!("registry {}/team/cache", registry.host)));
    assert_eq!((digests(&found), &found["compiled"]), (digests(&built), &0.into()));
    // The same folder on an empty machine gets compiled dependencies as well.
    for gone in [first.path("target"), folder.path().join("a")] {
        fs::remove_dir_all(gone).unwrap();
    }
    first.write("crates/app/src/main.rs", "fn main() { println!(\"{}\", itoa::Buffer::new().format(8)); }\n");
    let run = first.run(&["build", "--explain"]);
    assert!(run.stdout.contains("dependencies: hit (registry"), "{}", run.stdout);
    assert!(!compiled(&run.stderr).contains(&"itoa"), "{}", run.stderr);
    let third = machine("c");
    drop(registry);
    let run = third.run(&["build"]);
    assert!(run.code == 0 && run.stderr.contains("is left out from here on"), "{}", run.stderr);
}

#[test]
fn a_change_of_one_service_compiles_that_one_and_the_other_comes_from_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("local");
    let two = |text: &str| {
        let fixture = cached(&store);
        fixture.package(
            "two",
            "[dependencies]\nours = { path = \"../ours\" }\n",
            &format!("fn main() {{ println!(\"{{}} {text}\", ours::name()); }}\n"),
        );
        fixture.write("crates/two/service.yaml", "");
        fixture.lock();
        fixture
    };
    two("first").json(&["build"]);
    let fixture = two("second");
    let report = fixture.json(&["build"]);
    assert_eq!(action(&report, "compile app"), hit("local"));
    assert_eq!(
        action(&report, "compile two"),
        ("miss".to_owned(), "crates/two/src/main.rs changed".to_owned())
    );
    let clean = two("second").digests(&["--cache", "off"]);
    assert_eq!(digests(&report), clean);
    // What Cargo was not given must not count as known to it: times go back, and the store is gone.
    let main = fixture.path("crates/app/src/main.rs");
    fs::write(&main, "fn main() { println!(\"third\"); }\n").unwrap();
    let built = fixture.digests(&["app"]);
    edit(&fixture, "crates/app/src/main.rs", "third", "other");
    let file = fs::File::options().append(true).open(&main).unwrap();
    file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(600_000_000)).unwrap();
    edit(&fixture, "crates/two/src/main.rs", "second", "first");
    let report = fixture.json(&["build"]);
    assert_eq!(action(&report, "compile two"), hit("local"));
    assert_ne!(digests(&report)["app"], built["app"]);
    edit(&fixture, "crates/two/src/main.rs", "first", "fourth");
    fs::remove_dir_all(&store).unwrap();
    let last = fixture.digests(&[]);
    let clean = two("fourth");
    fs::copy(&main, clean.path("crates/app/src/main.rs")).unwrap();
    assert_eq!(last, clean.digests(&["--cache", "off"]));
}

#[test]
fn on_an_empty_machine_one_service_comes_whole_and_the_other_gets_its_dependencies() {
    let folder = tempfile::tempdir().unwrap();
    let (local, remote) = (folder.path().join("local"), folder.path().join("remote"));
    let fixture = shared(&local, &remote, "read-write");
    fixture.package(
        "two",
        "[dependencies]\nitoa = \"1\"\n",
        "fn main() { println!(\"{}\", itoa::Buffer::new().format(1)); }\n",
    );
    fixture.write("crates/two/service.yaml", "");
    fixture.lock();
    fixture.json(&["build"]);
    for gone in [fixture.path("target"), local] {
        fs::remove_dir_all(gone).unwrap();
    }
    edit(&fixture, "crates/two/src/main.rs", "format(1)", "format(2)");
    let run = fixture.run(&["build", "--json"]);
    let report: Value = serde_json::from_str(&run.stdout).unwrap();
    let from = hit(&format!("folder {}", remote.display()));
    assert_eq!((action(&report, "compile app"), action(&report, "dependencies")), (from.clone(), from));
    assert_eq!(action(&report, "compile two").1, "crates/two/src/main.rs changed");
    assert_eq!(compiled(&run.stderr), ["two"], "{}", run.stderr);
}
