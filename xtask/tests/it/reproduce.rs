//! `cargo xtask build --verify` on workspaces with every known way to give other bits elsewhere: either the flags and variables of
//! an image build make it harmless, or it is caught and its package named.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;

use ::build::{Event, ImageAt, Reporter, Request, What, rebuild};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::Value;

use crate::support::{Fixture, is_required, wait_for};

/// A build script that makes the constant `X` of the expression `value`.
fn script(value: &str) -> String {
    format!(
        "use std::{{env, fs, process::Command, time::{{SystemTime, UNIX_EPOCH}}}};\n\
         fn run(program: &str, args: &[&str]) -> String {{ String::from_utf8(Command::new(program).args(args).output().unwrap().stdout).unwrap().trim().to_owned() }}\n\
         fn main() {{\n\
         let since = |time: SystemTime| time.duration_since(UNIX_EPOCH).unwrap();\n\
         let _ = (run as fn(&str, &[&str]) -> String, since(SystemTime::now()));\n\
         let value: String = {value};\n\
         fs::write(format!(\"{{}}/x.rs\", env::var(\"OUT_DIR\").unwrap()), format!(\"pub const X: &str = {{value:?}};\")).unwrap();\n}}\n"
    )
}

const LIBRARY: &str = "include!(concat!(env!(\"OUT_DIR\"), \"/x.rs\"));\n";

/// The service `name` with the library `of-<name>`, which has `build` for a build script and `lib` for its source.
fn service(fixture: &Fixture, name: &str, manifest: &str, build: Option<&str>, lib: &str) {
    let library = format!("of-{name}");
    fixture.library(&library, manifest, lib);
    if let Some(build) = build {
        fixture.write(&format!("crates/{library}/build.rs"), build);
    }
    let dependency =
        format!("[dependencies]\nlibrary = {{ package = \"{library}\", path = \"../{library}\" }}\n");
    fixture.package(name, &dependency, "fn main() { println!(\"{}\", library::X); }\n");
}

fn git(fixture: &Fixture, args: &[&str]) {
    let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
    let output =
        Command::new("git").args(identity).args(args).current_dir(fixture.path("")).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn verify(fixture: &Fixture, expected: i32) -> Value {
    let run = fixture.run(&["build", "--verify", "--json"]);
    assert_eq!(run.code, expected, "stdout: {}\nstderr: {}", run.stdout, run.stderr);
    assert!(run.stderr.contains("verify: the second build needs about"), "{}", run.stderr);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(document["schema"], "slipway.build-verify/1");
    assert!(!fixture.path("target/slipway/verify").exists(), "the second build was left behind");
    document
}

/// Whether the second build could have this for certain: in a container without namespaces some of the setting stays.
fn changed(document: &Value, name: &str) -> bool {
    let all = document["circumstances"].as_array().unwrap();
    let found = all.iter().find(|circumstance| circumstance["name"] == name).unwrap();
    let changed = found["first"] != found["second"];
    assert!(changed || !is_required("unshare"), "{name} must change here: {found}");
    changed
}

#[test]
fn what_must_not_count_does_not() {
    let mut fixture = Fixture::new();
    let manifest = fs::read_to_string(fixture.path("Cargo.toml")).unwrap();
    fixture.write("Cargo.toml", &format!("{manifest}[profile.release]\ndebug = 1\n"));
    fixture.write(".cargo/config.toml", "[build]\nrustflags = [\"--cfg\", \"from_config\"]\n");
    // Both the cargo home and the target folder inside the workspace: the rules of where what lies overlap.
    fixture.env("CARGO_HOME", fixture.path("home").to_str().unwrap());
    let variables = r#"["SOURCE_DATE_EPOCH", "CONST_RANDOM_SEED", "TZ", "LC_ALL", "LANG", "USER", "LOGNAME", "HOSTNAME"].map(|name| format!("{name}={}", env::var(name).unwrap_or_default())).join(" ")"#;
    service(&fixture, "variables", "", Some(&script(variables)), LIBRARY);
    service(
        &fixture,
        "panics",
        "",
        Some(&script("\"x\".to_owned()")),
        "include!(concat!(env!(\"OUT_DIR\"), \"/x.rs\"));\n\
         pub fn fail() -> ! { panic!(\"in {} {}\", file!(), std::any::type_name::<fn()>()) }\n#[cfg(not(from_config))] compile_error!(\"a flag was lost\");\n",
    );
    fixture.package(
        "user",
        "[dependencies]\nof-panics = { path = \"../of-panics\" }\n",
        "fn main() { if std::env::args().count() > 9 { of_panics::fail() } }\n",
    );
    let c = "pub const X: &str = \"c\";\nunsafe extern \"C\" { safe fn stamp() -> *const std::ffi::c_char; }\npub fn stamp_of() -> usize { stamp() as usize }\n";
    // The compiler is called as the `cc` crate does it: with the flags for the target, and an absolute path.
    let build = script(
        "{ let out = env::var(\"OUT_DIR\").unwrap(); let target = env::var(\"TARGET\").unwrap(); let source = format!(\"{}/stamp.c\", env::var(\"CARGO_MANIFEST_DIR\").unwrap());\n\
         let flags = env::var(format!(\"CFLAGS_{target}\")).unwrap();\n\
         assert!(Command::new(\"cc\").args(flags.split(' ')).args([\"-g\", \"-fPIC\", \"-c\", &source, \"-o\", &format!(\"{out}/stamp.o\")]).status().unwrap().success());\n\
         assert!(Command::new(\"ar\").args([\"crs\", &format!(\"{out}/libstamp.a\"), &format!(\"{out}/stamp.o\")]).status().unwrap().success());\n\
         println!(\"cargo::rustc-link-search=native={out}\"); println!(\"cargo::rustc-link-lib=static=stamp\"); String::new() }",
    );
    service(&fixture, "compiled", "", Some(&build), c);
    fixture.write(
        "crates/compiled/src/main.rs",
        "fn main() { println!(\"{} {}\", library::X, library::stamp_of()); }\n",
    );
    fixture.write(
        "crates/of-compiled/stamp.c",
        "const char *stamp(void) { return __DATE__ \" \" __TIME__ \" \" __FILE__; }\n",
    );
    for name in ["variables", "panics", "user", "compiled"] {
        fixture.write(
            &format!("crates/{name}/service.yaml"),
            "image: { assets: [{ from: data, to: /app/data }] }\n",
        );
        fixture.write(&format!("crates/{name}/data/{name}.txt"), name);
    }
    fixture.lock();
    let document = verify(&fixture, 0);
    assert_eq!(document["is_reproducible"], true);
    assert_eq!(document["services"].as_array().unwrap().len(), 4);
    for name in ["folder", "target folder", "cargo home", "home folder", "time zone", "locale", "umask"] {
        assert!(changed(&document, name), "{name}");
    }
    let toolchain = document["toolchain"].as_object().unwrap();
    for name in ["rustc.driver", "std", "linker.digest", "cc.digest", "libc.libc.a"] {
        assert!(toolchain[name].as_str().unwrap().starts_with("sha256:"), "{name}: {toolchain:?}");
    }
}

#[test]
fn each_planted_difference_is_caught_and_named() {
    let fixture = Fixture::new();
    let scripts = [
        ("clock", "format!(\"made at {} or so\", since(SystemTime::now()).as_nanos())"),
        ("date", "run(\"date\", &[\"--iso-8601=ns\"])"),
        (
            "file-time",
            "format!(\"written {}\", since(fs::metadata(\"build.rs\").unwrap().modified().unwrap()).as_secs())",
        ),
        (
            "random",
            "{ let mut bytes = [0; 12]; std::io::Read::read_exact(&mut fs::File::open(\"/dev/urandom\").unwrap(), &mut bytes).unwrap(); bytes.map(|byte| format!(\"{byte:02x}\")).concat() }",
        ),
        (
            "order",
            "(1000..1020).collect::<std::collections::HashSet<u32>>().into_iter().map(|n| n.to_string()).collect::<Vec<_>>().join(\" \")",
        ),
        ("who", "format!(\"made by number {}\", run(\"id\", &[\"-u\"]))"),
        ("described", "run(\"git\", &[\"describe\", \"--tags\", \"--always\"])"),
        ("branch", "format!(\"of {}\", run(\"git\", &[\"symbolic-ref\", \"-q\", \"HEAD\"]))"),
    ];
    for (name, value) in scripts {
        service(&fixture, name, "", Some(&script(value)), LIBRARY);
    }
    fixture.library(
        "clock-macro",
        "[lib]\nproc-macro = true\n",
        "#[proc_macro] pub fn now(_: proc_macro::TokenStream) -> proc_macro::TokenStream {\n\
         format!(\"{:?}\", format!(\"expanded {}\", std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos())).parse().unwrap() }\n",
    );
    service(
        &fixture,
        "expanded",
        "[dependencies]\nclock-macro = { path = \"../clock-macro\" }\n",
        None,
        "pub const X: &str = clock_macro::now!();\n",
    );
    service(&fixture, "clean", "", None, "pub const X: &str = \"clean\";\n");
    fixture.write(".gitignore", "/target\n");
    fixture.lock();
    git(&fixture, &["init", "--quiet"]);
    git(&fixture, &["add", "."]);
    git(&fixture, &["commit", "--quiet", "-m", "x"]);
    git(&fixture, &["tag", "v1.0"]);

    let document = verify(&fixture, 14);
    let services = document["services"].as_array().unwrap();
    let difference =
        |name: &str| &services.iter().find(|service| service["name"] == name).unwrap()["difference"];
    let check = |name: &str, kind: &str, cure: &str| {
        let found = difference(name);
        assert_eq!(found["package"], format!("of-{name}@1.2.3"), "{found:#}");
        assert_eq!(
            (found["kind"].as_str(), found["place"].as_str()),
            (Some(kind), Some(format!("app/{name}").as_str())),
            "{found:#}"
        );
        assert!(found["cure"].as_str().unwrap().contains(cure), "{found:#}");
        assert!(found["section"].as_str().unwrap().starts_with('.'), "{found:#}");
    };
    check("clock", "time", "SOURCE_DATE_EPOCH");
    check("date", "time", "SOURCE_DATE_EPOCH");
    check("file-time", "time", "SOURCE_DATE_EPOCH");
    check("expanded", "time", "SOURCE_DATE_EPOCH");
    check("random", "random", "digest");
    check("order", "order", "BTreeMap");
    check("described", "git", "variable");
    check("branch", "git", "variable");
    if changed(&document, "user") {
        check("who", "user", "who builds");
    }
    assert_eq!(difference("clean"), &Value::Null);
    let words = difference("expanded")["evidence"].as_str().unwrap();
    assert!(words.contains("made with clock-macro@1.2.3"), "{words}");
    let clock = difference("clock");
    assert!(clock["evidence"].as_str().unwrap().contains("its build script wrote another x.rs"), "{clock:#}");
    assert!(clock["first"].as_str().unwrap().contains("made at 1"), "{clock:#}");

    let run = fixture.run(&["build", "--verify", "clock"]);
    run.fails(14, &["error: not reproducible: two builds of clock differ"]);
    for text in ["CIRCUMSTANCE", "first differing package: of-clock@1.2.3", "cure: ", "NOT reproducible"] {
        assert!(run.stdout.contains(text), "`{text}` is not in: {}", run.stdout);
    }
}

#[test]
fn the_name_of_the_machine_is_caught_one_way_or_the_other() {
    let fixture = Fixture::new();
    let host =
        "format!(\"made on {} today\", fs::read_to_string(\"/proc/sys/kernel/hostname\").unwrap().trim())";
    service(&fixture, "app", "", Some(&script(host)), LIBRARY);
    fixture.lock();
    let run = fixture.run(&["build", "--verify", "--json"]);
    // A name that cannot be in a program by chance is found by the leak gate already.
    if run.stderr.contains("the name of this machine") {
        return run.fails(14, &["the binary of app carries"]);
    }
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    if changed(&document, "host name") {
        let difference = &document["services"][0]["difference"];
        assert_eq!((run.code, difference["kind"].as_str()), (14, Some("host")), "{difference:#}");
        assert_eq!(difference["package"], "of-app@1.2.3");
    }
}

#[test]
fn a_path_in_a_program_is_refused_before_the_second_build() {
    let fixture = Fixture::new();
    let build = "fn main() { let folder = std::env::var(\"CARGO_MANIFEST_DIR\").unwrap();\n\
        std::fs::write(format!(\"{}/x.rs\", std::env::var(\"OUT_DIR\").unwrap()), format!(\"pub const X: &str = {:?};\", folder + \"/data\")).unwrap(); }\n";
    service(&fixture, "app", "", Some(build), LIBRARY);
    fixture.lock();
    let run = fixture.run(&["build", "--verify"]);
    run.fails(14, &["the binary of app carries paths", "from the package of-app", "next:"]);
    assert!(!run.stderr.contains("building again"));
}

#[test]
fn sources_that_git_ignores_are_missed_by_the_second_build() {
    let fixture = Fixture::new();
    fixture.package("app", "", "fn main() { println!(\"{}\", include_str!(\"secret.txt\")); }\n");
    fixture.write("crates/app/src/secret.txt", "s");
    fixture.write(".gitignore", "/target\nsecret.txt\n");
    fixture.lock();
    git(&fixture, &["init", "--quiet"]);
    git(&fixture, &["add", "."]);
    git(&fixture, &["commit", "--quiet", "-m", "x"]);
    fixture.run(&["build", "--verify"]).fails(10, &["secret.txt", "whether it needs one that git ignores"]);
    // What is not committed yet is part of it.
    fixture.write(".gitignore", "/target\n");
    assert_eq!(verify(&fixture, 0)["is_reproducible"], true);
}

#[test]
fn a_package_outside_the_workspace_is_warned_of_and_goes_along() {
    let fixture = Fixture::new();
    let outside = tempfile::tempdir_in(fixture.path("..")).unwrap();
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    fs::create_dir(outside.path().join("src")).unwrap();
    let manifest = "[package]\nname = \"outside\"\nversion = \"1.2.3\"\nedition = \"2024\"\n[workspace]\n";
    fs::write(outside.path().join("Cargo.toml"), manifest).unwrap();
    fs::write(outside.path().join("src/lib.rs"), "pub fn f(n: usize) -> usize { [1, 2, 3][n] }\n").unwrap();
    let dependency = format!("[dependencies]\noutside = {{ path = \"../../../{name}\" }}\n");
    fixture.package(
        "app",
        &dependency,
        "fn main() { println!(\"{}\", outside::f(std::env::args().count())); }\n",
    );
    fixture.lock();
    let run = fixture.run(&["build", "--verify", "--json"]);
    assert!(run.stderr.contains("warning: the package outside lies outside the workspace"), "{}", run.stderr);
    assert!([0, 14].contains(&run.code), "{}", run.stderr);
    let document: Value = serde_json::from_str(&run.stdout).unwrap();
    let difference = &document["services"][0]["difference"];
    // Whether the other name reaches the bits is up to the linker; where it does, it is named.
    assert_eq!(difference.is_null(), run.code == 0);
    if run.code == 14 {
        assert_eq!(
            (&difference["kind"], &difference["package"]),
            (&"name".into(), &"outside@1.2.3".into()),
            "{difference:#}"
        );
    }
}

struct Silent;

impl Reporter for Silent {
    fn event(&self, _: Event) {}
}

#[test]
fn a_commit_is_built_again_whatever_the_work_tree_has_become() {
    let fixture = Fixture::hello();
    fixture.write(".gitignore", "/target\n");
    git(&fixture, &["init", "--quiet"]);
    git(&fixture, &["add", "."]);
    git(&fixture, &["commit", "--quiet", "-m", "x"]);
    let report = fixture.json(&["build"]);
    let layout = fixture.path("kept");
    fs::rename(fixture.path("target/slipway/images"), &layout).unwrap();
    fixture.write("crates/hello/src/main.rs", "fn main() { println!(\"edited since\"); }\n");
    fixture.write("crates/hello/Cargo.toml", "damaged");
    let rebuilt = rebuild(&Request {
        what: What::Services,
        program: Path::new(env!("CARGO_BIN_EXE_xtask")),
        root: &fixture.path(""),
        commit: report["git"]["revision"].as_str(),
        epoch: None,
        platform: None,
        services: &[],
        secret: None,
        reporter: &Silent,
        interrupted: &AtomicBool::new(false),
    })
    .unwrap();
    let image = report["services"][0]["image"].as_str().unwrap().parse().unwrap();
    let first = BTreeMap::from([("hello", ImageAt { layout: &layout, image })]);
    let compared = rebuilt.compare(&first, None).unwrap();
    assert_eq!((compared[0].second, &compared[0].difference), (image, &None));
    let places: Vec<String> =
        rebuilt.circumstances.iter().map(|circumstance| circumstance.second.clone()).collect();
    drop(rebuilt);
    let left: Vec<&String> = places
        .iter()
        .filter(|place| place.contains("slipway-verify-") && Path::new(place).exists())
        .collect();
    assert_eq!(left, [""; 0]);
}

#[test]
fn an_interruption_ends_the_second_build_and_leaves_nothing() {
    let mut fixture = Fixture::new();
    let temporary = tempfile::tempdir().unwrap();
    fixture.env("TMPDIR", temporary.path().to_str().unwrap());
    let started = temporary.path().join("started");
    let build = format!(
        "fn main() {{ if std::env::var(\"HOME\").unwrap().contains(\"slipway/verify\") {{\n\
         std::fs::write({started:?}, std::process::id().to_string()).unwrap(); std::thread::sleep(std::time::Duration::from_secs(300)); }} }}\n"
    );
    fixture.package("app", "", "fn main() {}\n");
    fixture.write("crates/app/build.rs", &build);
    fixture.lock();
    let mut child =
        fixture.command(&["build", "--verify"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let script = wait_for("the second build", || fs::read_to_string(&started).ok()?.parse::<i32>().ok());
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130));
    let gone = || test_kill_process(Pid::from_raw(script).unwrap()).is_err().then_some(());
    wait_for("the build script to end", gone);
    assert!(!fixture.path("target/slipway/verify").exists());
    let left = fs::read_dir(temporary.path()).unwrap().map(|entry| entry.unwrap().file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["started"]);
}

#[test]
fn another_linker_is_a_reason_to_build_and_warned_of() {
    let fixture = Fixture::hello();
    let linker = fixture.path("linker");
    let write = |text: &str| {
        fs::write(&linker, format!("#!/bin/sh\n{text}exec cc \"$@\"\n")).unwrap();
        fs::set_permissions(&linker, fs::Permissions::from_mode(0o755)).unwrap();
    };
    write("");
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    fixture.write(".cargo/config.toml", &format!("[target.{target}]\nlinker = {linker:?}\n"));
    let run = fixture.run(&["build"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    assert!(
        run.stderr.contains("name the linker") && run.stderr.contains("other machines have other versions"),
        "{}",
        run.stderr
    );
    assert!(fixture.run(&["build"]).stdout.contains("nothing changed"));
    write("# another one\n");
    let report = fixture.json(&["build"]);
    assert!(
        report["reason"].as_str().unwrap().starts_with("the linker's driver changed ("),
        "{}",
        report["reason"]
    );
    assert_eq!(report["compiled"], 1);
}
