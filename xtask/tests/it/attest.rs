//! `cargo xtask verify` and `key`, and what is said of images: before our own judge and before those of others.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oci::Layout;
use serde_json::{Value, json};
use stdx::Digest;

use crate::support::{Fixture, digests, wait_for, works};

const SETTINGS: &str =
    "image: { vendor: Example Ltd }\nsigning: { key: { file: slipway.key }, public_key: slipway.pub }\n";

/// A workspace with the service `hello`, which links one crate and is built with others, under git, with a key.
fn signed() -> Fixture {
    let fixture = workspace();
    let run = fixture.run(&["key", "generate"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    commit(&fixture);
    fixture
}

fn workspace() -> Fixture {
    let fixture = Fixture::new();
    fixture.package(
        "hello",
        "authors = [\"A. Author <a@example.com>\"]\nrepository = \"https://git.example/team/hello\"\n\
         [dependencies]\nitoa = \"1\"\n[build-dependencies]\nhelper = { path = \"../../helper\" }\n",
        "fn main() { println!(\"{}\", itoa::Buffer::new().format(1)); }\n",
    );
    fixture.write("crates/hello/build.rs", "fn main() { helper::help() }\n");
    fixture.write(
        "helper/Cargo.toml",
        "[package]\nname = \"helper\"\nversion = \"0.1.0\"\nedition = \"2024\"\nlicense = \"Ask us\"\n",
    );
    fixture.write("helper/src/lib.rs", "pub fn help() {}\n");
    fixture.write("slipway.yaml", SETTINGS);
    fixture.write(".gitignore", "target\n*.key\n");
    fixture.lock();
    fixture
}

pub(crate) fn commit(fixture: &Fixture) {
    let git = |args: &[&str]| {
        let identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"];
        let status = Command::new("git")
            .args(identity)
            .args(args)
            .current_dir(fixture.path(""))
            .env("GIT_COMMITTER_DATE", "1700000000 +0000")
            .env("GIT_AUTHOR_DATE", "1700000000 +0000")
            .stdout(Stdio::null())
            .status();
        assert!(status.unwrap().success());
    };
    git(&["init", "--quiet"]);
    git(&["add", "--all"]);
    git(&["commit", "--quiet", "-m", "x"]);
}

fn layout(fixture: &Fixture) -> Layout {
    Layout::open(&fixture.path("target/slipway/images")).unwrap()
}

fn image(fixture: &Fixture) -> Digest {
    layout(fixture).tags().unwrap().remove(0).digest
}

/// The output folder without what compiles: everything that is said of images.
fn said(fixture: &Fixture) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    for folder in ["sbom", "provenance", "signatures"] {
        for entry in fs::read_dir(fixture.path("target/slipway").join(folder)).unwrap() {
            let path = entry.unwrap().path();
            found.push((PathBuf::from(folder).join(path.file_name().unwrap()), fs::read(&path).unwrap()));
        }
    }
    found.sort();
    found
}

pub(crate) fn outcomes(document: &Value) -> Vec<(&str, &str)> {
    let checks = document["checks"].as_array().unwrap().iter();
    checks.map(|one| (one["name"].as_str().unwrap(), one["outcome"].as_str().unwrap())).collect()
}

#[test]
fn what_was_signed_here_is_verified_here_and_says_the_same_everywhere() {
    let fixture = signed();
    let built = fixture.json(&["build"]);
    let verified = fixture.json(&["verify", "hello"]);
    let all_good = [("signature", "ok"), ("provenance", "ok"), ("sbom cyclonedx", "ok"), ("sbom spdx", "ok")];
    assert_eq!(outcomes(&verified), all_good);
    assert_eq!(verified["image"], built["services"][0]["image"]);
    assert!(verified["checks"][0]["detail"].as_str().unwrap().contains(built["signed_by"].as_str().unwrap()));
    // Another folder, and the very same image and words; the key changes no digest.
    let other = workspace();
    fs::copy(fixture.path("slipway.pub"), other.path("slipway.pub")).unwrap();
    fs::copy(fixture.path("slipway.key"), other.path("slipway.key")).unwrap();
    commit(&other);
    let unsigned = other.json(&["build", "--unsigned"]);
    assert_eq!(
        (&unsigned["services"][0]["image"], &unsigned["signed_by"]),
        (&verified["image"], &Value::Null)
    );
    other.run(&["verify", "hello"]).fails(13, &["hello is not to be trusted"]);
    assert_eq!(other.json(&["build"])["signed_by"], built["signed_by"]);
    assert!(said(&fixture) == said(&other), "another folder, another text");
    let text =
        said(&fixture).into_iter().map(|(_, bytes)| String::from_utf8(bytes).unwrap()).collect::<String>();
    assert!(!text.contains(fixture.path("").to_str().unwrap()), "a path of this machine");
    // What is signed already is left alone.
    let index = fs::read(fixture.path("target/slipway/images/index.json")).unwrap();
    fixture.json(&["build"]);
    assert_eq!(fs::read(fixture.path("target/slipway/images/index.json")).unwrap(), index);
}

#[test]
fn a_key_is_made_once_and_read_by_its_owner_only() {
    let fixture = workspace();
    let run = fixture.run(&["key", "generate", "--output", "keys"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let private = fixture.path("keys/slipway.key");
    let pem = fs::read_to_string(&private).unwrap();
    let secret = pem.lines().nth(1).unwrap();
    assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----") && !run.stdout.contains(secret));
    assert_eq!(fs::metadata(&private).unwrap().permissions().mode() & 0o777, 0o600);
    fixture.run(&["key", "generate", "--output", "keys"]).fails(3, &["is there already"]);
    let signing = |text: &str| fixture.write("slipway.yaml", &format!("signing: {{ {text} }}\n"));
    let refused = |texts: &[&str]| {
        let run = fixture.run(&["build"]);
        run.fails(3, texts);
        assert!(!run.stderr.contains(secret), "{}", run.stderr);
    };
    signing("key: { file: keys/slipway.key }");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o640)).unwrap();
    refused(&["can be read by others (mode 640)", "chmod 600"]);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(fixture.run(&["key", "generate", "--output", "other"]).code, 0);
    signing("key: { file: keys/slipway.key }, public_key: other/slipway.pub");
    refused(&["not the public half"]);
    signing("key: { command: [head, -c, \"60\", keys/slipway.key] }");
    refused(&["what `head` printed cannot sign"]);
    signing("key: { command: [cat, keys/slipway.key] }, public_key: keys/slipway.pub");
    assert!(fixture.json(&["build"])["signed_by"].is_string());
    signing("key: { env: SIGNING_KEY }, public_key: keys/slipway.pub");
    let run = fixture.run(&["build"]);
    assert!(
        run.code == 0 && run.stdout.contains("unsigned: there is no key"),
        "{}{}",
        run.stdout,
        run.stderr
    );
    let mut command = fixture.command(&["build", "--json"]);
    let output = command.env("SIGNING_KEY", &pem).output().unwrap();
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["signed_by"].is_string());
    assert!(said(&fixture).iter().all(|(_, bytes)| !String::from_utf8_lossy(bytes).contains(secret)));
}

/// Changes the content of everything that is attached and has this media type; the index goes on to name what was there.
fn damage(fixture: &Fixture, media_type: &str) {
    let layout = layout(fixture);
    for one in layout.referrers(&image(fixture)).unwrap() {
        if one.artifact_type == media_type {
            fs::write(layout.blob_path(&one.content), "{}").unwrap();
        }
    }
}

/// Build scripts are code of others.
#[test]
fn what_is_compiled_does_not_see_the_key_that_signs_it() {
    let mut fixture = workspace();
    assert_eq!(fixture.run(&["key", "generate"]).code, 0);
    fixture.write("slipway.yaml", "signing: { key: { env: RUST_RELEASE_KEY }, public_key: slipway.pub }\n");
    fixture.write(
        "crates/hello/build.rs",
        "fn main() { helper::help(); for (name, value) in std::env::vars() {\n\
         assert!(!value.contains(\"PRIVATE KEY\") && !name.starts_with(\"ACTIONS_\"), \"{name} is seen\"); } }\n",
    );
    let key = fs::read_to_string(fixture.path("slipway.key")).unwrap();
    fixture.env("RUST_RELEASE_KEY", &key);
    fixture.env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", "secret");
    commit(&fixture);
    let built = fixture.json(&["build"]);
    assert!(built["signed_by"].is_string(), "{built}");
    let rebuilt = fixture.run(&["verify", "hello", "--rebuild"]);
    assert_eq!(rebuilt.code, 0, "{}", rebuilt.stderr);
}

#[test]
fn what_somebody_changed_in_the_layout_is_refused() {
    let fixture = signed();
    fixture.json(&["release", "create", "--output", "v1.json"]);
    fixture.run(&["verify", "hello", "--key", "gone.pub"]).fails(3, &["gone.pub"]);
    fixture.run(&["verify", "hello", "--key", "slipway.key"]).fails(3, &["it is a private key"]);
    fixture.run(&["verify", "hallo"]).fails(3, &["has no image `hallo`", "hello"]);
    let folder = format!("{}:hello", fixture.path("target/slipway/images").display());
    for args in [&["verify", "hello"][..], &["verify", &folder], &["verify", "hello", "--release", "v1.json"]]
    {
        assert_eq!(fixture.json(args)["verified"], true);
    }
    let revision = stdx::Cmd::new("git").args(["rev-parse", "HEAD"]).cwd(fixture.path("")).read().unwrap();
    assert_eq!(fixture.run(&["verify", "hello", "--revision", &revision]).code, 0);
    assert_eq!(fixture.run(&["key", "generate", "--output", "other"]).code, 0);
    for (args, said) in [
        (["--key", "other/slipway.pub"], "not signed with this key"),
        (["--builder", "https://ci.example/1"], "it was built by `urn:slipway:builder:local`"),
        (["--revision", &"ab".repeat(20)], "not abab"),
    ] {
        let run = fixture.run(&[&["verify", "hello"][..], &args].concat());
        run.fails(13, &["not every check holds"]);
        assert!(run.stdout.contains("FAILED") && run.stdout.contains(said), "{}", run.stdout);
    }
    // A release of other documents, and one of another image.
    for (field, name) in [
        ("provenance", "provenance"),
        ("sbom", "sbom cyclonedx"),
        ("spdx", "sbom spdx"),
        ("image", "release"),
    ] {
        let mut release: Value = serde_json::from_slice(&fs::read(fixture.path("v1.json")).unwrap()).unwrap();
        release["services"]["hello"][field] = json!(Digest::of("other"));
        fixture.write("v2.json", &release.to_string());
        let run = fixture.run(&["verify", "hello", "--release", "v2.json", "--json"]);
        let document: Value = serde_json::from_str(&run.stdout).unwrap();
        assert!(run.code == 13 && outcomes(&document).contains(&(name, "failed")), "{field}: {}", run.stdout);
    }
    // The tag leads to another image, which nobody signed.
    let layout = layout(&fixture);
    let (good, bytes) = (image(&fixture), layout.document(&image(&fixture)).unwrap());
    let moved = layout.put(&[&bytes[..], b"\n"].concat()).unwrap();
    layout.tag("hello", &moved, bytes.len() as u64 + 1).unwrap();
    let run = fixture.run(&["verify", "hello"]);
    assert!(run.code == 13 && run.stdout.matches("MISSING").count() == 4, "{}", run.stdout);
    layout.tag("hello", &good, bytes.len() as u64).unwrap();
    damage(&fixture, supply::BUNDLE);
    let run = fixture.run(&["verify", "hello"]);
    assert!(
        run.code == 13 && run.stdout.matches("it is damaged: its content is").count() >= 4,
        "{}",
        run.stdout
    );
    fixture.write("slipway.yaml", "");
    fixture.run(&["verify", "hello"]).fails(3, &["--key", "signing.public_key"]);
}

#[test]
fn the_commit_is_built_again_elsewhere_and_gives_the_same_digest() {
    let fixture = signed();
    fixture.json(&["build"]);
    let verified = fixture.json(&["verify", "hello", "--rebuild"]);
    assert_eq!(verified["rebuilt"]["same"], true, "{verified}");
    assert_eq!(verified["rebuilt"]["image"], verified["image"]);
    // Somebody built from what no commit holds.
    fixture.write(
        "crates/hello/src/main.rs",
        "fn main() { println!(\"other {}\", itoa::Buffer::new().format(2)); }\n",
    );
    fixture.json(&["build"]);
    fixture.run(&["verify", "hello", "--rebuild"]).fails(3, &["changes that the commit does not hold"]);
    // A build script that looks at the clock.
    fixture.write(
        "crates/hello/build.rs",
        "fn main() {\n    helper::help();\n    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);\n    \
         println!(\"cargo::rustc-env=NOW={}\", now.unwrap().as_nanos());\n}\n",
    );
    fixture.write(
        "crates/hello/src/main.rs",
        "fn main() { println!(\"{} {}\", env!(\"NOW\"), itoa::Buffer::new().format(1)); }\n",
    );
    commit(&fixture);
    fixture.json(&["build"]);
    let run = fixture.run(&["verify", "hello", "--rebuild"]);
    run.fails(14, &["hello was not reproduced"]);
    assert!(
        ["DIFFERS", "hello differs in", "first differing package: hello@", "section: ", "kind: time"]
            .iter()
            .all(|text| run.stdout.contains(text)),
        "{}",
        run.stdout
    );
}

/// What provenance says of the source: whether it counts as what the commit holds, and if not, why.
fn source(fixture: &Fixture) -> (bool, String) {
    let bytes = fs::read(fixture.path("target/slipway/provenance/hello.json")).unwrap();
    let document: Value = serde_json::from_slice(&bytes).unwrap();
    let resources = document["predicate"]["buildDefinition"]["resolvedDependencies"].as_array().unwrap();
    let source = resources.iter().find(|one| one["name"] == "source").unwrap();
    let doubts = source["annotations"]["doubts"].as_array().cloned().unwrap_or_default();
    let doubts: Vec<&str> = doubts.iter().map(|one| one.as_str().unwrap()).collect();
    (source["annotations"]["dirty"].as_bool().unwrap(), doubts.join("; "))
}

#[test]
fn a_source_that_was_another_while_it_was_built_is_named() {
    let fixture = signed();
    // Around the compiler: the source is another one while it is read, and comes back with its old times.
    let around = "case \"$*\" in *crates/hello/src/main.rs*) if [ -e evil.rs ]; then\n\
                  mv crates/hello/src/main.rs kept.rs; mv evil.rs crates/hello/src/main.rs; \"$@\"; code=$?\n\
                  mv kept.rs crates/hello/src/main.rs; exit $code; fi;; esac\nexec \"$@\"";
    fixture.program("around", around);
    fixture.write(".cargo/config.toml", "[build]\nrustc-wrapper = \"programs-around/around\"\n");
    fixture.write(".gitignore", "target\n*.key\n/*.rs\n");
    commit(&fixture);
    fixture.write("evil.rs", "fn main() { println!(\"evil {}\", itoa::Buffer::new().format(1)); }\n");
    let run = fixture.run(&["build", "--json"]);
    assert!(run.code == 0 && !fixture.path("evil.rs").exists(), "{}", run.stderr);
    let named = "crates/hello/src/main.rs was changed while the build ran";
    assert!(
        run.stderr.contains(named) && run.stderr.contains("do not count as made from the commit"),
        "{}",
        run.stderr
    );
    assert_eq!(source(&fixture), (true, named.to_owned()));
    let evil: Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(evil["git"]["doubts"], json!([named]));
    let revision = stdx::Cmd::new("git").args(["rev-parse", "HEAD"]).cwd(fixture.path("")).read().unwrap();
    let run = fixture.run(&["verify", "hello", "--revision", &revision]);
    assert!(run.code == 13 && run.stdout.contains("main.rs was changed"), "{}", run.stdout);
    // Nor is what was compiled from it taken for the program of the commit.
    let built = fixture.json(&["build"]);
    assert_eq!(source(&fixture), (false, String::new()));
    fs::remove_dir_all(fixture.path("target")).unwrap();
    assert_eq!(digests(&fixture.json(&["build"])), digests(&built));
    assert_ne!(digests(&evil), digests(&built));
}

#[test]
fn what_git_is_told_to_overlook_is_no_part_of_the_commit_all_the_same() {
    let fixture = signed();
    fixture.write(".gitignore", "target\n*.key\nlocal*\n");
    fixture.write("crates/hello/data.txt", "a");
    fixture.write("crates/hello/assets/a.txt", "a");
    let declared = "println!(\"cargo::rerun-if-changed=build.rs\");";
    fixture.write("crates/hello/build.rs", &format!("fn main() {{ {declared} helper::help() }}\n"));
    fixture.write("crates/hello/service.yaml", "image: { assets: [{ from: assets, to: /app/assets }] }\n");
    let main = "const DATA: &str = include_str!(\"../data.txt\");\n";
    let program = "fn main() { println!(\"{DATA} {}\", itoa::Buffer::new().format(1)); }\n";
    fixture.write("crates/hello/src/main.rs", &format!("{main}{program}"));
    commit(&fixture);
    let git = |args: &[&str]| stdx::Cmd::new("git").args(args).cwd(fixture.path("")).read().unwrap();
    let check = |change: &dyn Fn(), expected: &str| {
        change();
        assert_eq!(git(&["status", "--porcelain"]), "");
        let built = fixture.json(&["build"]);
        assert_eq!(source(&fixture), (!expected.is_empty(), expected.to_owned()));
        let again = fixture.json(&["build"]);
        assert_eq!(
            (&again["git"], digests(&again), &again["reason"]),
            (&built["git"], digests(&built), &Value::Null)
        );
    };
    check(&|| fixture.write("crates/hello/local.txt", "nobody reads it"), "");
    let overlooked = |flag: &str, name: &str, text: &str| {
        git(&["update-index", flag, name]);
        fixture.write(name, text);
    };
    check(
        &|| overlooked("--assume-unchanged", "crates/hello/data.txt", "b"),
        "crates/hello/data.txt differs from the commit",
    );
    check(&|| fixture.write("crates/hello/data.txt", "a"), "");
    check(
        &|| overlooked("--skip-worktree", "helper/src/lib.rs", "pub fn help() { }\n"),
        "helper/src/lib.rs differs from the commit",
    );
    check(&|| fixture.write("helper/src/lib.rs", "pub fn help() {}\n"), "");
    check(
        &|| fixture.write("crates/hello/assets/local.txt", ""),
        "crates/hello/assets/local.txt was read, and is in no commit",
    );
    check(&|| fs::remove_file(fixture.path("crates/hello/assets/local.txt")).unwrap(), "");
    fixture.write(
        "crates/hello/build.rs",
        "fn main() { println!(\"cargo::rerun-if-changed=local.txt\"); helper::help() }\n",
    );
    commit(&fixture);
    check(&|| (), "crates/hello/local.txt was read, and is in no commit");
    fixture.write("crates/hello/build.rs", "fn main() { helper::help() }\n");
    commit(&fixture);
    // Cargo, too, takes everything beside such a script for its input.
    check(&|| (), "crates/hello/local.txt was read, and is in no commit");
    fixture.write("crates/hello/build.rs", &format!("fn main() {{ {declared} helper::help() }}\n"));
    fixture.write(
        "crates/hello/src/main.rs",
        &format!("{main}const LOCAL: &str = include_str!(\"../local.txt\");\n{program}")
            .replace("{DATA}", "{DATA} {LOCAL}"),
    );
    commit(&fixture);
    check(&|| (), "crates/hello/local.txt was read, and is in no commit");
}

/// What the provenance of the image names as parts of the toolchain, by digest or version.
fn toolchain(fixture: &Fixture) -> std::collections::BTreeMap<String, String> {
    let folder = fixture.path("target/slipway/provenance");
    let path = fs::read_dir(folder).unwrap().next().unwrap().unwrap().path();
    let document: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let resources = document["predicate"]["buildDefinition"]["resolvedDependencies"].as_array().unwrap();
    let part = |resource: &Value| {
        let name = resource["uri"].as_str()?.strip_prefix("urn:slipway:toolchain:")?.to_owned();
        let (digest, version) = (&resource["digest"]["sha256"], &resource["annotations"]["version"]);
        Some((name, digest.as_str().or(version.as_str()).unwrap().to_owned()))
    };
    resources.iter().filter_map(part).collect()
}

#[test]
fn the_provenance_names_the_toolchain_by_digest() {
    let mut fixture = workspace();
    fixture.write("slipway.yaml", "");
    let (before, first) = (fixture.json(&["build"]), toolchain(&fixture));
    for name in ["std", "rustc.driver", "linker.digest", "linker.driver.digest", "cc.digest", "libc.libc.a"] {
        assert_eq!(first[name].len(), 64, "{name}: {first:?}");
    }
    let program = fixture.program("cc", "exec /usr/bin/cc \"$@\"");
    let path = std::env::var("PATH").unwrap();
    fixture.env("PATH", &format!("{}:{path}", program.parent().unwrap().display()));
    let (after, second) = (fixture.json(&["build"]), toolchain(&fixture));
    assert_ne!(first["linker.driver.digest"], second["linker.driver.digest"]);
    assert_eq!(first["linker.digest"], second["linker.digest"]);
    assert_eq!(digests(&before), digests(&after));
}

#[test]
fn an_index_is_signed_and_so_is_each_image_that_it_lists() {
    let mut fixture = signed();
    let targets = stdx::Cmd::new("rustc")
        .args(["--print", "target-libdir", "--target", "aarch64-unknown-linux-gnu"])
        .cwd(fixture.path(""));
    let has_std = targets.read().is_ok_and(|folder| Path::new(&folder).is_dir());
    if !works("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-gcc", &["--version"]) || !has_std {
        return;
    }
    fixture.write("slipway.yaml", &format!("{SETTINGS}build: {{ platforms: [linux/amd64, linux/arm64] }}\n"));
    commit(&fixture);
    // Nobody signed the index, and what was built last is one image.
    fixture.json(&["build", "--unsigned"]);
    let alone = fixture.json(&["build", "--platform", "linux/amd64"]);
    let verified = fixture.json(&["verify", "hello"]);
    assert_eq!((&verified["verified"], &verified["image"]), (&json!(true), &alone["services"][0]["image"]));
    assert!(fixture.run(&["build", "--platform", "linux/amd64"]).stdout.contains("nothing changed"));
    let built = fixture.json(&["build"]);
    assert!(built["signed_by"].is_string());
    let verified = fixture.json(&["verify", "hello", "--rebuild"]);
    assert_eq!((&verified["verified"], &verified["image"]), (&json!(true), &built["indexes"][0]["index"]));
    assert_eq!(outcomes(&verified), [("signature", "ok")]);
    let platforms = verified["platforms"].as_array().unwrap();
    let names: Vec<&str> = platforms.iter().map(|one| one["platform"].as_str().unwrap()).collect();
    assert_eq!(names, ["linux/amd64", "linux/arm64"]);
    for one in platforms {
        assert_eq!((outcomes(one).len(), &one["rebuilt"]["same"]), (4, &json!(true)), "{one}");
    }
    // A release is for this machine, and takes the name of the index for nothing else.
    let release = fixture.json(&["release", "create"]);
    let own = if cfg!(target_arch = "aarch64") { 1 } else { 0 };
    assert_eq!(release["release"]["services"]["hello"]["image"], platforms[own]["image"]);
    assert_eq!(image(&fixture).to_string(), verified["image"].as_str().unwrap());
    let scratch = tempfile::tempdir().unwrap();
    fixture.env("TMPDIR", scratch.path().to_str().unwrap());
    let both = fixture.json(&["build", "--verify", "--keep"]);
    let kept = fs::read_dir(fixture.path("target/slipway/verify")).unwrap();
    let kept: Vec<String> = kept.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let is_kept = |end: &str| kept.iter().any(|name| name.ends_with(end));
    assert!(is_kept("-linux-amd64") && is_kept("-linux-arm64"), "{kept:?}");
    assert_eq!(both["schema"], "slipway.build-verify-platforms/1");
    for (at, platform) in ["linux/amd64", "linux/arm64"].iter().enumerate() {
        let one = &both["platforms"][platform];
        assert_eq!(
            (&one["is_reproducible"], &one["services"][0]["second"]),
            (&json!(true), &platforms[at]["image"])
        );
    }
    fixture.write("slipway.yaml", "build: { platforms: [linux/s390x] }\n");
    fixture.run(&["release", "create"]).fails(3, &["`build.platforms`", "cargo xtask push"]);
}

#[test]
fn an_environment_that_asks_for_signed_images_refuses_others() {
    let fixture = signed();
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let environment = |more: &str| {
        let text = format!(
            "edge: {{ listen: \"{listen}\" }}\nscan: {{ required: false }}\nsignature: {{ required: true{more} }}\n"
        );
        fixture.write("deploy/environments/staging.yaml", &text);
    };
    environment("");
    fixture.write("slipway.yaml", "signing: { public_key: slipway.pub }\n");
    fixture.json(&["release", "create", "--output", "v1.json"]);
    let deploy = || fixture.run(&["deploy", "staging", "--release", "v1.json", "--dry-run"]);
    deploy().fails(
        13,
        &["staging asks for signed images", "hello: signature: nothing of this kind", "hello: sbom spdx"],
    );
    fixture.write("slipway.yaml", SETTINGS);
    fixture.json(&["release", "create", "--output", "v1.json"]);
    let run = deploy();
    assert_eq!(run.code, 0, "{}", run.stderr);
    environment(", builder: \"https://ci.example/1\"");
    deploy().fails(13, &["not by `https://ci.example/1`"]);
    assert_eq!(fixture.run(&["key", "generate", "--output", "other"]).code, 0);
    environment(", public_key: other/slipway.pub");
    deploy().fails(13, &["hello: provenance: it is not signed with this key"]);
    environment("");
    // One signed image in the place of another.
    let release = fs::read_to_string(fixture.path("v1.json")).unwrap();
    fixture.write("swapped.json", &release.replacen("\"hello\":", "\"vault\":", 1));
    fixture
        .run(&["deploy", "staging", "--release", "swapped.json", "--dry-run"])
        .fails(13, &["vault: provenance: it is of `hello`, not of `vault`"]);
    fixture.run(&["verify", "hello", "--service", "vault"]).fails(13, &["not every check holds"]);
    fixture.write("slipway.yaml", "");
    deploy().fails(3, &["signing.public_key"]);
}

/// It was good once, and its signature is for ever.
#[test]
fn an_older_image_that_was_signed_does_not_pass_for_a_newer_one() {
    let fixture = signed();
    let git = |args: &[&str]| stdx::Cmd::new("git").args(args).cwd(fixture.path("")).read().unwrap();
    fixture.json(&["release", "create", "--output", "v1.json"]);
    git(&["tag", "v1"]);
    let (old, images) = (image(&fixture), fixture.path("target/slipway/images"));
    assert!(
        Command::new("cp").arg("-a").arg(&images).arg(fixture.path("target/old")).status().unwrap().success()
    );
    fixture.write(
        "crates/hello/src/main.rs",
        "fn main() { println!(\"mended {}\", itoa::Buffer::new().format(1)); }\n",
    );
    commit(&fixture);
    fixture.json(&["release", "create", "--output", "v2.json"]);
    let new = git(&["rev-parse", "HEAD"]);
    assert_ne!(image(&fixture), old);
    let replayed = format!("{}:hello", fixture.path("target/old").display());
    // Nothing that is attached to it says that it is old.
    assert_eq!(fixture.run(&["verify", &replayed, "--service", "hello"]).code, 0);
    let pins =
        [["--newer-than", "v1"], ["--commit", &new], ["--commit", &new[..9]], ["--release", "v2.json"]];
    for pin in &pins {
        let good = fixture.run(&["verify", "hello", pin[0], pin[1]]);
        assert_eq!(good.code, 0, "{pin:?}: {}{}", good.stdout, good.stderr);
        let run = fixture.run(&["verify", &replayed, "--service", "hello", pin[0], pin[1]]);
        assert!(run.code == 13, "{pin:?}: {}{}", run.stdout, run.stderr);
    }
    let run = fixture.run(&["verify", &replayed, "--newer-than", "v1"]);
    assert!(run.stdout.contains("itself, which is not newer"), "{}", run.stdout);
    let run = fixture.run(&["verify", &replayed, "--newer-than", &new]);
    assert!(run.stdout.contains("does not have"), "{}", run.stdout);
    fixture.run(&["verify", "hello", "--newer-than", "v9"]).fails(3, &["knows no commit `v9`"]);
    let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let text = format!(
        "edge: {{ listen: \"{listen}\" }}\nscan: {{ required: false }}\nsignature: {{ required: true, newer_than: v1 }}\n"
    );
    fixture.write("deploy/environments/staging.yaml", &text);
    let deploy = |release: &str| fixture.run(&["deploy", "staging", "--release", release, "--dry-run"]);
    deploy("v1.json").fails(13, &["hello: lineage: it was built from", "not newer"]);
    let run = deploy("v2.json");
    assert_eq!(run.code, 0, "{}", run.stderr);
}

/// Whoever can write to a store must not get a signature.
#[test]
fn what_is_signed_was_compiled_here() {
    let (store, mut fixtures) = (tempfile::tempdir().unwrap(), Vec::new());
    for _ in 0..2 {
        let mut fixture = signed();
        let settings = format!("{SETTINGS}cache: {{ local: {{ path: {} }} }}\n", store.path().display());
        fixture.write("slipway.yaml", &settings);
        fixture.env("SLIPWAY_CACHE", "local");
        commit(&fixture);
        fixtures.push(fixture);
    }
    fixtures[0].json(&["build", "--unsigned"]);
    let unsigned = fixtures[1].json(&["build", "--unsigned"]);
    assert_eq!((&unsigned["compiled"], &unsigned["signed_by"]), (&0.into(), &Value::Null));
    let run = fixtures[1].run(&["build", "--json"]);
    let signed: Value = serde_json::from_str(&run.stdout).unwrap();
    assert!(signed["compiled"].as_u64().unwrap() > 0 && signed["signed_by"].is_string(), "{signed}");
    assert!(run.stderr.contains("what is signed is compiled from the sources"), "{}", run.stderr);
    assert_eq!(digests(&signed), digests(&unsigned));
}

#[track_caller]
pub(crate) fn accepts(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {args:?}: {stdout}{stderr}");
    stdout.into_owned()
}

pub(crate) fn judge(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../ci/judges").join(name).to_str().unwrap().to_owned()
}

/// The Python that the judges are installed in.
pub(crate) fn python() -> String {
    std::env::var("SLIPWAY_JUDGES_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

/// Puts both documents before the validators of their standards.
pub(crate) fn validators_accept(fixture: &Fixture, cyclonedx: &str, spdx: &str) {
    if works("cyclonedx", &python(), &["-c", "import cyclonedx.validation.json"]) {
        accepts(&python(), &[&judge("sbom.py"), cyclonedx]);
        let broken = fs::read_to_string(cyclonedx).unwrap().replace("\"required\"", "\"needed\"");
        fixture.write("target/broken.json", &broken);
        let broken = fixture.path("target/broken.json");
        let mut validator = Command::new(python());
        let refused = validator.args([judge("sbom.py").as_ref(), broken.as_os_str()]).output().unwrap();
        assert!(!refused.status.success());
    }
    if works("spdx-tools", "pyspdxtools", &["--help"]) {
        accepts("pyspdxtools", &["-i", spdx]);
    }
    if works("ntia", "ntia-checker", &["--version"]) {
        let told = accepts("ntia-checker", &["-c", "ntia", spdx]);
        assert!(told.contains("Conformant: True"), "{told}");
    }
}

#[test]
fn the_standards_own_validators_accept_the_sboms() {
    let fixture = signed();
    fixture.json(&["build"]);
    let file = |name: &str| fixture.path("target/slipway/sbom").join(name).to_str().unwrap().to_owned();
    let (cyclonedx, spdx) = (file("hello.cdx.json"), file("hello.spdx.json"));
    validators_accept(&fixture, &cyclonedx, &spdx);
    let document: Value = serde_json::from_slice(&fs::read(&spdx).unwrap()).unwrap();
    let relations = document["relationships"].as_array().unwrap();
    let helper =
        relations.iter().find(|one| one["spdxElementId"].as_str().unwrap().contains("helper")).unwrap();
    assert_eq!(helper["relationshipType"], "BUILD_DEPENDENCY_OF");
    assert_eq!(document["hasExtractedLicensingInfos"][0]["licenseId"], "LicenseRef-Ask-us");
}

#[test]
fn libraries_of_others_verify_the_envelopes() {
    if !works(
        "in-toto",
        &python(),
        &["-c", "import securesystemslib.dsse, in_toto_attestation, cryptography"],
    ) {
        return;
    }
    let fixture = signed();
    fixture.json(&["build"]);
    let key = fixture.path("slipway.pub").to_str().unwrap().to_owned();
    for (name, kind) in [
        ("image", supply::predicate::SIGNATURE),
        ("provenance", supply::predicate::PROVENANCE),
        ("cyclonedx", supply::predicate::CYCLONEDX),
        ("spdx", supply::predicate::SPDX),
    ] {
        let bundle = fixture.path(&format!("target/slipway/signatures/hello.{name}.sigstore.json"));
        let told = accepts(&python(), &[&judge("envelope.py"), bundle.to_str().unwrap(), &key]);
        assert_eq!(told.trim(), kind);
    }
}

/// A registry without the referrers API, on a port of this machine.
pub(crate) struct RegistryServer {
    process: Child,
    pub(crate) port: u16,
    _folder: tempfile::TempDir,
}

impl RegistryServer {
    pub(crate) fn start() -> RegistryServer {
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let root = folder.path().join("data");
        let settings = format!(
            "version: 0.1\nlog: {{ level: error }}\nstorage: {{ filesystem: {{ rootdirectory: {} }} }}\nhttp: {{ addr: \"127.0.0.1:{port}\" }}\n",
            root.display()
        );
        let file = folder.path().join("settings.yml");
        fs::write(&file, settings).unwrap();
        let process = Command::new("docker-registry")
            .arg("serve")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        wait_for("the registry", || TcpStream::connect(("127.0.0.1", port)).ok());
        RegistryServer { process, port, _folder: folder }
    }
}

impl Drop for RegistryServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn cosign_verifies_what_was_signed_here_in_a_registry() {
    if !works("cosign", "cosign", &["version"])
        || !works("docker-registry", "docker-registry", &["--version"])
    {
        return;
    }
    let fixture = signed();
    fixture.json(&["build"]);
    let server = RegistryServer::start();
    let digest = image(&fixture);
    let tagged: registry::Reference = format!("localhost:{}/team/hello:1", server.port).parse().unwrap();
    registry::push(&layout(&fixture), &digest, &tagged, &registry::Silent).unwrap();
    let image = format!("localhost:{}/team/hello@{digest}", server.port);
    let key = fixture.path("slipway.pub").to_str().unwrap().to_owned();
    assert_eq!(fixture.run(&["key", "generate", "--output", "other"]).code, 0);
    let other = fixture.path("other/slipway.pub").to_str().unwrap().to_owned();
    let home = tempfile::tempdir().unwrap();
    let cosign = |args: &[&str], key: &str| {
        let args = [args, &["--key", key, "--insecure-ignore-tlog=true", &image]].concat();
        Command::new("cosign").args(args).env("HOME", home.path()).output().unwrap()
    };
    let checks = [
        (&["verify"][..], supply::predicate::SIGNATURE),
        (&["verify-attestation", "--type", "slsaprovenance1"], supply::predicate::PROVENANCE),
        (&["verify-attestation", "--type", "cyclonedx"], supply::predicate::CYCLONEDX),
        (&["verify-attestation", "--type", "spdxjson"], supply::predicate::SPDX),
    ];
    for (args, _) in checks {
        let output = cosign(args, &key);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        assert!(!cosign(args, &other).status.success(), "{args:?} with another key");
    }
    // And ours reads it back from there.
    let verified = fixture.json(&["verify", &tagged.to_string(), "--rebuild"]);
    assert_eq!((&verified["verified"], &verified["rebuilt"]["same"]), (&json!(true), &json!(true)));
    // What cosign signed with the same key is read by us.
    fixture.run(&["verify", &tagged.to_string(), "--key", &other]).fails(13, &["not to be trusted"]);
    fixture.run(&["verify", &format!("localhost:{}/team/hello:2", server.port)]).fails(3, &["has no"]);
}

/// How many provenances cosign accepts of the image.
fn provenances(fixture: &Fixture, image: &str) -> usize {
    let home = tempfile::tempdir().unwrap();
    let key = fixture.path("slipway.pub");
    let mut cosign = Command::new("cosign");
    cosign.args(["verify-attestation", "--type", "slsaprovenance1", "--insecure-ignore-tlog=true", image]);
    let output = cosign.arg("--key").arg(key).env("HOME", home.path()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().count()
}

/// One with a signature of chance, as cosign and OpenSSL make them: the same statement in other bytes.
#[test]
fn what_is_said_of_a_pushed_image_already_is_not_said_twice() {
    if !works("cosign", "cosign", &["version"])
        || !works("docker-registry", "docker-registry", &["--version"])
        || !works("openssl", "openssl", &["version"])
    {
        return;
    }
    // Outside git, where a changed setting gives no other label.
    let fixture = workspace();
    assert_eq!(fixture.run(&["key", "generate"]).code, 0);
    fixture.json(&["build"]);
    let server = RegistryServer::start();
    let prefix = format!("localhost:{}/team", server.port);
    let built = layout(&fixture);
    let digest = image(&fixture);
    let annotation = "dev.sigstore.bundle.predicateType";
    let ours = built.referrers(&digest).unwrap().into_iter();
    let ours = ours.filter(|one| {
        one.annotations.get(annotation).is_some_and(|kind| kind == supply::predicate::PROVENANCE)
    });
    let [ours] = &ours.collect::<Vec<_>>()[..] else { panic!("one provenance is signed") };
    let mut bundle: Value =
        serde_json::from_slice(&fs::read(built.blob_path(&ours.content)).unwrap()).unwrap();
    let payload = bundle["dsseEnvelope"]["payload"].as_str().unwrap().to_owned();
    bundle["dsseEnvelope"]["signatures"][0]["sig"] = json!(signed_by_openssl(&fixture, &payload));
    let other = Layout::create(&fixture.path("target/other")).unwrap();
    crate::support::copy(built.root(), other.root());
    other.detach(&digest).unwrap();
    let attached =
        other.attach(&digest, supply::BUNDLE, bundle.to_string().as_bytes(), ours.annotations.clone());
    assert_ne!(attached.unwrap().content, ours.content, "other bytes");
    let tagged: registry::Reference = format!("{prefix}/hello:1.2.3").parse().unwrap();
    registry::push(&other, &digest, &tagged, &registry::Silent).unwrap();
    let at = format!("{prefix}/hello@{digest}");
    assert_eq!(provenances(&fixture, &at), 1);

    let pushed = fixture.json(&["push", "--to", &prefix]);
    assert_eq!(pushed["images"][0]["referrers"], 6, "all but the provenance: {pushed}");
    assert_eq!(provenances(&fixture, &at), 1);
    let again = fixture.json(&["push", "--to", &prefix]);
    assert_eq!(again["images"][0]["sent_bytes"], 0, "{again}");
    assert_eq!(fixture.json(&["verify", &format!("{prefix}/hello:1.2.3")])["verified"], true);

    // Another statement about the very same image is another one, and both stay.
    fixture.write(
        "slipway.yaml",
        &SETTINGS.replace("signing: {", "signing: { builder: \"https://ci.example/1\","),
    );
    fixture.json(&["push", "--to", &prefix]);
    assert_eq!((image(&fixture) == digest, provenances(&fixture, &at)), (true, 2));
}

/// The signature of what is signed of a payload (DSSE 1.0, `PAE`), by another program with the same key.
fn signed_by_openssl(fixture: &Fixture, payload: &str) -> String {
    use base64::Engine;
    let engine = base64::engine::general_purpose::STANDARD;
    let payload = engine.decode(payload).unwrap();
    let kind = "application/vnd.in-toto+json";
    let mut text = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len()).into_bytes();
    text.extend(payload);
    let path = fixture.path("target/payload");
    fs::write(&path, text).unwrap();
    let mut openssl = Command::new("openssl");
    openssl.args(["dgst", "-sha256", "-sign"]).arg(fixture.path("slipway.key")).arg(path);
    engine.encode(openssl.output().unwrap().stdout)
}
