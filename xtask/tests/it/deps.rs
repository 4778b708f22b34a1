//! `cargo xtask deps` on a workspace that has every way of depending on something.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::support::{Fixture, is_required};

/// A service with features, optional, renamed, platform-specific, build, test and procedural dependencies, and one crate in two
/// versions; a second service that switches a feature of a shared library on; and a package that nobody uses.
fn workspace() -> Fixture {
    let fixture = Fixture::new();
    let head = "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\nexclude = [\"vendor\"]\n";
    fixture.write("Cargo.toml", head);
    for (folder, name, version, body) in [
        (
            "one",
            "twice",
            "1.0.0",
            "#[inline(never)] pub fn one(n: u64) -> u64 { n.rotate_left(3) ^ 0x1111 }\n",
        ),
        (
            "two",
            "twice",
            "2.0.0",
            "#[inline(never)] pub fn two(n: u64) -> u64 { n.rotate_left(5) ^ 0x2222 }\n",
        ),
        ("both", "both", "1.0.0", "pub fn id(n: u64) -> u64 { n }\n"),
        // Not of the workspace: Cargo only tells of it where its platform is asked for.
        ("arch", "arch-part", "1.2.3", ""),
    ] {
        let manifest = format!(
            "[package]\nname = \"{name}\"\nversion = \"{version}\"\nedition = \"2024\"\nlicense = \"MIT\"\n"
        );
        fixture.write(&format!("vendor/{folder}/Cargo.toml"), &manifest);
        fixture.write(&format!("vendor/{folder}/src/lib.rs"), body);
    }
    let plain = "#[inline(never)] pub fn id(n: u64) -> u64 { std::hint::black_box(n) }\n";
    for name in [
        "chosen",
        "unchosen",
        "weak",
        "here",
        "elsewhere",
        "tool",
        "tester",
        "macro-part",
        "build-part",
        "unused",
    ] {
        fixture.library(name, "", plain);
    }
    // A constant without a name, which is only known by who reads it.
    let table = "const fn table() -> [u64; 5000] { let mut t = [7; 5000]; let mut i = 0; while i < 5000 { t[i] = i as u64 * 2654435761; i += 1; } t }\n\
                 #[inline(never)] pub fn id(n: u64) -> u64 { const T: &[u64; 5000] = &table(); n ^ T[n as usize % 5000] }\n";
    fixture.write("crates/chosen/src/lib.rs", table);
    fixture.library(
        "derive",
        "[lib]\nproc-macro = true\n[dependencies]\nmacro-part = { path = \"../macro-part\" }\nboth = { path = \"../../vendor/both\" }\n",
        "#[proc_macro]\npub fn seven(_: proc_macro::TokenStream) -> proc_macro::TokenStream { macro_part::id(7).to_string().parse().unwrap() }\n",
    );
    let shared = "[features]\ndefault = [\"dep:chosen\"]\nmore = [\"dep:unchosen\"]\nloud = [\"weak?/std\"]\n\
         [dependencies]\nchosen = { path = \"../chosen\", optional = true }\nunchosen = { path = \"../unchosen\", optional = true }\n\
         weak = { path = \"../weak\", optional = true }\nboth = { path = \"../../vendor/both\" }\n\
         [target.'cfg(target_os = \"linux\")'.dependencies]\nhere = { path = \"../here\" }\n\
         [target.'cfg(windows)'.dependencies]\nelsewhere = { path = \"../elsewhere\" }\n\
         [build-dependencies]\ntool = { path = \"../tool\" }\n\
         [target.'cfg(target_arch = \"ARCH\")'.build-dependencies]\narch-part = { path = \"../../vendor/arch\" }\n[dev-dependencies]\ntester = { path = \"../tester\" }\n";
    fixture.library(
        "shared",
        &shared.replace("ARCH", std::env::consts::ARCH),
        "pub fn sum(n: u64) -> u64 { both::id(chosen::id(n) + here::id(n)) }\n#[inline(never)] pub fn generic<T: std::fmt::Debug>(t: T) -> String { format!(\"{t:?}!\") }\n",
    );
    fixture.write(
        "crates/weak/Cargo.toml",
        "[package]\nname = \"weak\"\nversion = \"1.2.3\"\nedition = \"2024\"\n[features]\nstd = []\n",
    );
    fixture.write("crates/shared/build.rs", "fn main() { assert_eq!(tool::id(1), 1); }\n");
    fixture.library(
        "tool",
        "[dependencies]\nbuild-part = { path = \"../build-part\" }\n",
        "pub fn id(n: u64) -> u64 { build_part::id(n) }\n",
    );
    fixture.package(
        "api",
        "[dependencies]\nshared = { path = \"../shared\" }\nderive = { path = \"../derive\" }\n\
         first = { package = \"twice\", path = \"../../vendor/one\" }\nsecond = { package = \"twice\", path = \"../../vendor/two\" }\n\
         [dev-dependencies]\ntester = { path = \"../tester\" }\n",
        "fn main() { let n = std::env::args().count() as u64;\n\
         println!(\"{} {} {}\", shared::sum(n) + derive::seven!(), first::one(n) ^ second::two(n), shared::generic((n, \"x\"))); }\n",
    );
    fixture.write("crates/api/service.yaml", "");
    fixture.package(
        "worker",
        "[dependencies]\nshared = { path = \"../shared\", features = [\"loud\"] }\n",
        "fn main() { println!(\"{}\", shared::sum(1)); }\n",
    );
    fixture.write("crates/worker/service.yaml", "");
    fixture.lock();
    fixture
}

const BUILD_ONLY: [&str; 5] = ["derive", "macro-part", "tool", "build-part", "arch-part"];

fn service<'a>(document: &'a Value, name: &str) -> &'a Value {
    document["services"].as_array().unwrap().iter().find(|service| service["name"] == name).unwrap()
}

/// `name@version` of the packages for which `wanted` holds.
fn specs(packages: &Value, wanted: impl Fn(&Value) -> bool) -> BTreeSet<String> {
    let spec =
        |one: &Value| format!("{}@{}", one["name"].as_str().unwrap(), one["version"].as_str().unwrap());
    packages.as_array().unwrap().iter().filter(|one| wanted(one)).map(spec).collect()
}

fn of_class(service: &Value, class: &str) -> BTreeSet<String> {
    specs(&service["packages"], |one| one["class"] == class)
}

fn set(names: &[&str]) -> BTreeSet<String> {
    let version = |name: &&str| if name.contains('@') { (*name).to_owned() } else { format!("{name}@1.2.3") };
    names.iter().map(version).collect()
}

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

#[test]
fn packages_are_what_the_compilers_are_told() {
    let fixture = workspace();
    let document = fixture.json(&["deps"]);
    let api = service(&document, "api");
    let linked = ["api", "shared", "chosen", "here", "both@1.0.0", "twice@1.0.0", "twice@2.0.0"];
    assert_eq!(of_class(api, "linked"), set(&linked));
    assert_eq!(of_class(api, "build-only"), set(&BUILD_ONLY));
    assert_eq!(of_class(api, "test-only"), set(&["tester"]));
    let absent = set(&["unchosen", "weak", "elsewhere", "unused", "worker"]);
    assert_eq!(specs(&api["absent"], |_| true), absent);
    let shared = api["packages"].as_array().unwrap().iter().find(|one| one["name"] == "shared").unwrap();
    assert_eq!(shared["features"], serde_json::json!(["default", "loud"]), "the set of services is closed");

    let bench = repository("ci/bench/deps");
    let judge =
        Command::new("python3").arg(bench).arg(env!("CARGO_BIN_EXE_xtask")).arg(fixture.path("")).output();
    match judge {
        Ok(judge) => {
            let table = String::from_utf8_lossy(&judge.stdout).into_owned();
            assert!(judge.status.success(), "{table}{}", String::from_utf8_lossy(&judge.stderr));
            assert!(table.contains("| api | 18 | 7 | 0/0 | 5 | 0/0 | 5 | 0/0 |"), "{table}");
        }
        Err(_) if !is_required("python3") => eprintln!("skipped: no python3"),
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn what_builds_for_another_processor_runs_on_this_one() {
    let fixture = workspace();
    let other = if cfg!(target_arch = "x86_64") { "aarch64" } else { "x86_64" };
    fixture.write("slipway.yaml", &format!("build: {{ target: {other}-unknown-linux-gnu }}\n"));
    let document = fixture.json(&["deps"]);
    assert_eq!(document["warnings"], serde_json::json!([]));
    assert_eq!(of_class(service(&document, "api"), "build-only"), set(&BUILD_ONLY));
}

#[test]
fn chains_lead_to_a_package() {
    let fixture = workspace();
    let run = fixture.run(&["deps", "api", "--why", "build-part"]);
    let expected = "api@1.2.3 -> shared@1.2.3 -> tool@1.2.3 -> build-part@1.2.3  (build-only)\n";
    assert_eq!(run.stdout, expected, "{}", run.stderr);
    let both = fixture.json(&["deps", "api", "--why", "both"]);
    assert_eq!(both["chains"].as_array().unwrap().len(), 2, "{both}");
    fixture.run(&["deps", "--why", "unused"]).fails(12, &["no service uses a package `unused`"]);
    fixture.run(&["deps", "nobody"]).fails(3, &["there is no service `nobody`"]);
}

/// Bytes of all parts that a service's document names.
fn total(service: &Value) -> u64 {
    let size = &service["size"];
    let bytes =
        |one: &Value| ["text", "data", "unwind"].iter().map(|part| one[part].as_u64().unwrap()).sum::<u64>();
    let packages = service["packages"].as_array().unwrap();
    let packages = packages.iter().filter(|one| one["bytes"].is_object()).map(|one| bytes(&one["bytes"]));
    let others = ["std", "native", "unattributed"].iter().map(|part| bytes(&size[part]));
    packages.chain(others).sum::<u64>() + size["overhead"].as_u64().unwrap()
}

#[test]
fn a_binary_is_finished_weighed_drawn_recorded_and_judged() {
    let fixture = workspace();
    fixture.json(&["build"]);
    let finished = fixture.path("target/slipway/finished/api");
    let run = Command::new(&finished).output().unwrap();
    assert!(run.status.success() && String::from_utf8_lossy(&run.stdout).contains("(1, \"x\")!"));
    let document = fixture.json(&["deps"]);
    is_weighed(&document, &finished);
    carries_its_packages(&fixture, &document, &finished);
    is_drawn(&fixture);
    is_judged(&fixture);

    let inode = finished.metadata().unwrap().ino();
    fixture.write("crates/worker/src/main.rs", "fn main() { println!(\"{}\", shared::sum(2)); }\n");
    fixture.json(&["build"]);
    assert_eq!(finished.metadata().unwrap().ino(), inode, "what did not change is not written again");
}

fn is_weighed(document: &Value, finished: &Path) {
    for service in document["services"].as_array().unwrap() {
        assert_eq!(total(service), service["size"]["file"].as_u64().unwrap());
    }
    let api = service(document, "api");
    assert_eq!(api["size"]["file"].as_u64().unwrap(), finished.metadata().unwrap().len());
    let bytes = |spec: &str, part: &str| {
        let is_it = |one: &&Value| specs(&Value::Array(vec![(*one).clone()]), |_| true).contains(spec);
        let one = api["packages"].as_array().unwrap().iter().find(is_it).unwrap();
        one["bytes"][part].as_u64().unwrap()
    };
    // Two versions are told apart, and what is generic counts where it was needed.
    assert!(bytes("twice@1.0.0", "text") > 0 && bytes("twice@2.0.0", "text") > 0);
    assert!(bytes("api@1.2.3", "text") > 0);
    assert!(bytes("shared@1.2.3", "defined") > bytes("shared@1.2.3", "text"), "{api}");
    if cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        assert!(
            (40_000..41_000).contains(&bytes("chosen@1.2.3", "data")),
            "{}",
            bytes("chosen@1.2.3", "data")
        );
    }
    let unattributed = api["size"]["unattributed"]["text"].as_u64().unwrap();
    let text: u64 =
        api["packages"].as_array().unwrap().iter().filter_map(|one| one["bytes"]["text"].as_u64()).sum();
    let text =
        text + ["std", "native"].iter().map(|part| api["size"][part]["text"].as_u64().unwrap()).sum::<u64>();
    assert!(unattributed * 10 <= text + unattributed, "{unattributed} of {text}");
}

/// The list inside the binary, as the field's reader sees it, is the SBOM's and ours.
fn carries_its_packages(fixture: &Fixture, document: &Value, finished: &Path) {
    let sbom: Value =
        serde_json::from_slice(&fs::read(fixture.path("target/slipway/sbom/api.cdx.json")).unwrap()).unwrap();
    let cargo = |one: &Value| !["rust-std", "glibc"].contains(&one["name"].as_str().unwrap());
    let of_sbom = |scope: &str| specs(&sbom["components"], |one| one["scope"] == scope && cargo(one));
    let api = service(document, "api");
    let linked = of_class(api, "linked");
    assert!(
        of_sbom("required").is_superset(&linked.iter().filter(|one| *one != "api@1.2.3").cloned().collect())
    );
    assert_eq!(of_sbom("excluded"), of_class(api, "build-only"));
    let reader = std::env::var("RUST_AUDIT_INFO").unwrap_or_else(|_| "rust-audit-info".to_owned());
    let read = match Command::new(&reader).arg(finished).output() {
        Ok(read) => read,
        Err(_) if !is_required("rust-audit-info") => {
            eprintln!(
                "skipped: no rust-audit-info to read .dep-v0; cargo install rust-audit-info --version =0.5.4"
            );
            return;
        }
        Err(error) => panic!("{reader}: {error}"),
    };
    assert!(read.status.success(), "{}", String::from_utf8_lossy(&read.stderr));
    let read: Value = serde_json::from_slice(&read.stdout).unwrap();
    let kind = |one: &Value| one["kind"].as_str().unwrap_or("runtime").to_owned();
    assert_eq!(specs(&read["packages"], |one| kind(one) == "runtime"), linked);
    assert_eq!(specs(&read["packages"], |one| kind(one) == "build"), of_class(api, "build-only"));
    assert_eq!(specs(&read["packages"], |one| one["root"] == true), set(&["api"]));
}

fn is_drawn(fixture: &Fixture) {
    let draw = |name: &str| {
        let path = fixture.path(name);
        let run = fixture.run(&["deps", "api", "--svg", path.to_str().unwrap()]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        fs::read_to_string(path).unwrap()
    };
    let picture = draw("a.svg");
    assert_eq!(picture, draw("b.svg"));
    assert!(picture.contains("<title>api@1.2.3: ") && picture.contains("prefers-color-scheme:dark"));
    assert!(!picture.contains("<script") && !picture.contains("href"));
}

fn is_judged(fixture: &Fixture) {
    let settings = "deps:\n  all: { forbid: [here], dev_only: [tool], max_packages: 5, max_duplicates: 0, max_bytes: 1000 }\n  services:\n    worker: { max_growth_bytes: 0 }\n";
    fixture.write("slipway.yaml", settings);
    let run = fixture.run(&["deps", "--check"]);
    run.fails(13, &["against the budget"]);
    for text in [
        "api: forbid: here@1.2.3 is in the binary",
        "asked for by api -> shared -> here",
        "api: dev_only: tool@1.2.3 is build-only",
        "api: max_packages: 7 packages",
        "twice 1.0.0 and 2.0.0",
        "api: max_bytes: the binary has",
        "worker: max_growth: its growth has a limit and no size is recorded",
    ] {
        assert!(run.stdout.contains(text), "`{text}` is not in: {}", run.stdout);
    }
    assert_eq!(fixture.run(&["deps", "--record"]).code, 0);
    let lock = fixture.path("deps.lock");
    let recorded: Value = serde_json::from_slice(&fs::read(&lock).unwrap()).unwrap();
    let parts = |service: &str| recorded["services"][service]["parts"].as_object().unwrap().clone();
    let sum: u64 = parts("api").values().map(|bytes| bytes.as_u64().unwrap()).sum();
    assert_eq!(recorded["services"]["api"]["file"], sum);
    fixture.write(
        "slipway.yaml",
        "deps: { all: { max_growth_percent: 1, allow_duplicates: [twice], max_duplicates: 0 } }\n",
    );
    assert_eq!(fixture.run(&["deps", "--check"]).code, 0);
    let mut smaller = recorded.clone();
    smaller["services"]["api"]["file"] = (sum - sum / 20).into();
    smaller["services"]["api"]["parts"]["chosen@1.2.3"] = 0.into();
    fs::write(&lock, smaller.to_string()).unwrap();
    let run = fixture.run(&["deps", "--check"]);
    run.fails(13, &["1 thing is against the budget"]);
    assert!(
        run.stdout.contains("the binary grew by") && run.stdout.contains("chosen@1.2.3 by "),
        "{}",
        run.stdout
    );
    fs::write(&lock, "{}").unwrap();
    fixture.run(&["deps", "--check"]).fails(3, &["deps.lock", "cargo xtask deps --record"]);
    fs::remove_file(&lock).unwrap();
    fixture.write("slipway.yaml", "");
}

#[test]
fn revisions_are_compared_without_touching_the_work_tree() {
    let fixture = workspace();
    fixture.write(".gitignore", "target\n");
    let git = |args: &[&str]| {
        let run = Command::new("git")
            .args(["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"])
            .args(args)
            .current_dir(fixture.path(""))
            .output()
            .unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        String::from_utf8(run.stdout).unwrap()
    };
    git(&["init", "--quiet"]);
    git(&["add", "."]);
    git(&["commit", "--quiet", "--message", "one"]);
    assert!(fixture.run(&["deps", "--diff", "HEAD"]).stdout.starts_with("nothing changed since "));
    let manifest = fs::read_to_string(fixture.path("crates/api/Cargo.toml")).unwrap();
    let manifest = manifest.replace("../shared\" }", "../shared\", features = [\"more\"] }");
    fixture.write(
        "crates/api/Cargo.toml",
        &manifest.replace("second = {", "[target.'cfg(windows)'.dependencies]\nsecond = {"),
    );
    fixture.lock();
    let before = git(&["status", "--porcelain"]);
    let document = fixture.json(&["deps", "api", "--diff", "HEAD"]);
    let changes: BTreeSet<String> = document["services"]["api"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| format!("{} {} {}", one["name"], one["version"], one["change"]["kind"]).replace('"', ""))
        .collect();
    let expected = ["shared 1.2.3 features", "twice 2.0.0 went", "unchosen 1.2.3 came"];
    assert_eq!(changes.iter().map(String::as_str).collect::<Vec<_>>(), expected);
    assert_eq!(git(&["status", "--porcelain"]), before);
    assert!(fixture.run(&["deps", "--diff", "HEAD"]).stdout.contains("+more"));
    fixture.run(&["deps", "--diff", "nowhere"]).fails(3, &["git knows no revision `nowhere`"]);
}
