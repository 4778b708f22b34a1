//! Bases, and the proof that what is in an image can be started.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::support::{Fixture, have, is_required};

/// The files of an image's layer, by its comment.
fn layers(report: &Value, service: usize) -> Vec<(String, String)> {
    let layers = report["services"][service]["layers"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    layers.iter().map(|layer| (text(&layer["comment"]), text(&layer["digest"]))).collect()
}

/// Whether a Docker engine answers.
pub(crate) fn docker() -> bool {
    have("docker", &["version", "--format", "{{.Server.Version}}"])
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

/// Whether Debian's tools for archives are here.
pub(crate) fn debian_tools() -> bool {
    let has =
        |program: &str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    let missing: Vec<&str> =
        ["apt-get", "dpkg-deb", "dpkg-scanpackages", "gpg"].into_iter().filter(|p| !has(p)).collect();
    assert!(missing.is_empty() || !is_required("apt"), "apt is required and {missing:?} are missing");
    if !missing.is_empty() {
        eprintln!("SKIPPED: {missing:?} are missing");
    }
    missing.is_empty()
}

/// An archive of packages in a folder, signed with a key of its own.
pub(crate) struct Archive {
    folder: tempfile::TempDir,
}

impl Archive {
    pub(crate) fn new() -> Archive {
        let archive = Archive { folder: tempfile::tempdir().unwrap() };
        archive.shell("mkdir -p gpg pool/main dists/bookworm/main/binary-amd64 dists/bookworm-updates/main/binary-amd64 && chmod 700 gpg && \
             gpg --homedir gpg --batch --quiet --passphrase '' --quick-gen-key test@example.com rsa2048 sign never && \
             gpg --homedir gpg --batch --export > keyring.gpg");
        archive
    }

    pub(crate) fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn shell(&self, script: &str) {
        let output =
            Command::new("sh").args(["-euc", script]).current_dir(self.folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Adds a package of these files.
    pub(crate) fn package(&self, name: &str, version: &str, more: &str, files: &[(&str, Vec<u8>)]) {
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: Test <test@example.com>\nDescription: {name}\n{more}"
        );
        let folder = self.path("build");
        for (path, bytes) in [("DEBIAN/control", control.into_bytes())].iter().chain(files) {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, bytes).unwrap();
        }
        self.shell("chmod -R u=rwX,go=rX build && { find build/usr/bin build/lib64 -type f -exec chmod 755 {} + 2>/dev/null || :; } && dpkg-deb --root-owner-group -Zxz -b build pool/main >/dev/null && rm -r build");
    }

    /// Makes lists and signatures of what is there now.
    pub(crate) fn publish(&self) {
        self.shell(
            "dpkg-scanpackages -m pool > dists/bookworm/main/binary-amd64/Packages 2>/dev/null\n\
             : > dists/bookworm-updates/main/binary-amd64/Packages\n\
             for suite in bookworm bookworm-updates; do cd dists/$suite\n\
             file=main/binary-amd64/Packages\n\
             { echo \"Origin: Debian\nSuite: $suite\nCodename: $suite\nDate: $(LC_ALL=C date -Ru)\nArchitectures: amd64\nComponents: main\nSHA256:\"\n\
               echo \" $(sha256sum $file | cut -d' ' -f1) $(stat -c %s $file) $file\"; } > Release\n\
             rm -f InRelease; gpg --homedir ../../gpg --batch --quiet --passphrase '' --clearsign -o InRelease Release; cd ../..; done",
        );
    }

    /// A workspace whose machine is configured with this archive.
    pub(crate) fn configure(&self, fixture: &mut Fixture) {
        let home = fixture.path("home");
        std::fs::create_dir_all(&home).unwrap();
        fixture.env("SLIPWAY_DEBIAN_MIRROR", &format!("file:{}", self.folder.path().display()));
        fixture.env("SLIPWAY_DEBIAN_KEYRING", &self.path("keyring.gpg").display().to_string());
        fixture.env("CARGO_HOME", &home.display().to_string());
    }
}

/// The bytes of the file that the linker takes for a name.
pub(crate) fn library(name: &str) -> Vec<u8> {
    let output = Command::new("cc").arg(format!("-print-file-name={name}")).output().unwrap();
    std::fs::read(String::from_utf8(output.stdout).unwrap().trim()).unwrap()
}

/// An archive with what a Rust binary needs, a program of somebody else's, and a service on it.
pub(crate) fn archived() -> (Archive, Fixture) {
    let archive = Archive::new();
    let lib = "lib/x86_64-linux-gnu";
    let copyright = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: x\nLicense: LGPL-2.1+\n";
    archive.package(
        "libc6",
        "2.36-1",
        "Depends: libgcc-s1\n",
        &[
            ("lib64/ld-linux-x86-64.so.2", library("ld-linux-x86-64.so.2")),
            (&format!("{lib}/libc.so.6"), library("libc.so.6")),
            (&format!("{lib}/libm.so.6"), library("libm.so.6")),
            ("usr/share/doc/libc6/copyright", copyright.into()),
            ("usr/share/doc/libc6/README", b"long".to_vec()),
            ("usr/share/man/man1/x.1", b"long".to_vec()),
        ],
    );
    archive.package(
        "libgcc-s1",
        "12.2.0-1",
        "Depends: libc6 (>= 2.30)\n",
        &[(&format!("{lib}/libgcc_s.so.1"), library("libgcc_s.so.1"))],
    );
    archive.publish();
    let mut fixture = Fixture::hello();
    archive.configure(&mut fixture);
    fixture.write("crates/hello/service.yaml", "image:\n  base: { debian: [libc6] }\n");
    (archive, fixture)
}

#[cfg(target_arch = "x86_64")]
#[test]
fn debian_packages_are_locked_fetched_and_packed_without_root() {
    if !debian_tools() {
        return;
    }
    let (archive, mut fixture) = archived();
    fixture.run(&["build"]).fails(10, &["there is no slipway.debian.lock", "cargo xtask base lock"]);
    let dry = fixture.run(&["base", "lock", "--dry-run"]);
    assert!(dry.stdout.contains("add libgcc-s1 12.2.0-1 (amd64)"), "{}{}", dry.stdout, dry.stderr);
    assert!(!fixture.path("slipway.debian.lock").exists());
    assert_eq!(fixture.run(&["base", "lock"]).code, 0);
    let lock = std::fs::read_to_string(fixture.path("slipway.debian.lock")).unwrap();
    assert!(
        !lock.contains(&archive.folder.path().display().to_string()) && !lock.contains("file:"),
        "{lock}"
    );
    assert!(fixture.run(&["base", "show", "libgcc-s1"]).stdout.contains("needed by libc6"));

    let report = fixture.json(&["build"]);
    let files = files(&fixture, &layers(&report, 0)[0].1);
    for present in [
        "usr/lib64/ld-linux-x86-64.so.2",
        "lib64",
        "var/lib/dpkg/status.d/libc6",
        "usr/share/doc/libc6/copyright",
        "etc/passwd",
    ] {
        assert!(files.iter().any(|file| file == present), "{present} is not in {files:?}");
    }
    assert!(!files.iter().any(|file| file.ends_with("README") || file.contains("/man/")), "{files:?}");
    let sbom = std::fs::read_to_string(report["services"][0]["sbom_path"].as_str().unwrap()).unwrap();
    assert!(
        sbom.contains("pkg:deb/debian/libc6@2.36-1?arch=amd64&distro=bookworm")
            && sbom.contains("LGPL-2.1-or-later"),
        "{sbom}"
    );

    // A later version in the archive changes nothing until it is asked for; elsewhere and anew it is the same image.
    archive.package(
        "libgcc-s1",
        "12.2.0-2",
        "Depends: libc6 (>= 2.30)\n",
        &[("lib/x86_64-linux-gnu/libgcc_s.so.1", library("libgcc_s.so.1"))],
    );
    archive.publish();
    let locked = fixture.run(&["base", "lock"]);
    assert!(!locked.stdout.contains("update"), "{}", locked.stdout);
    let built = crate::support::digests(&report);
    let mut elsewhere = Fixture::new();
    elsewhere.remove();
    elsewhere.copy_of(&fixture);
    std::fs::remove_dir_all(elsewhere.path("home")).unwrap();
    std::fs::remove_dir_all(elsewhere.path("target")).unwrap();
    archive.configure(&mut elsewhere);
    assert_eq!(elsewhere.digests(&[]), built);
    let updated = fixture.run(&["base", "lock", "--update"]);
    assert!(updated.stdout.contains("update libgcc-s1 12.2.0-1 -> 12.2.0-2 (amd64)"), "{}", updated.stdout);
    assert_ne!(fixture.digests(&[]), built);

    // A file in the store that was damaged is made again.
    let store = fixture.path("home/slipway/debian/files");
    let damaged = std::fs::read_dir(&store).unwrap().next().unwrap().unwrap().path();
    std::fs::write(&damaged, "damaged").unwrap();
    std::fs::remove_dir_all(fixture.path("target")).unwrap();
    std::fs::write(fixture.path("slipway.debian.lock"), &lock).unwrap();
    assert_eq!(fixture.digests(&[]), built);

    // What is not signed, or not by the right key, is not taken.
    std::fs::write(archive.path("keyring.gpg"), std::fs::read(other_keyring()).unwrap_or_default()).unwrap();
    fixture.env("SLIPWAY_DEBIAN_KEYRING", &archive.path("keyring.gpg").display().to_string());
    fixture.run(&["base", "lock", "--update"]).fails(3, &["does not trust them"]);
}

/// Keys that signed nothing here.
fn other_keyring() -> &'static str {
    "/usr/share/keyrings/debian-archive-keyring.gpg"
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_program_of_somebody_else_becomes_an_image_that_must_start() {
    if !debian_tools() {
        return;
    }
    let (archive, fixture) = archived();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(
        folder.path().join("x.c"),
        "#include <stdio.h>\nint main(void) { puts(\"theirs\"); return 0; }\n",
    )
    .unwrap();
    assert!(
        Command::new("cc").args(["-o", "x", "x.c"]).current_dir(folder.path()).status().unwrap().success()
    );
    let program = std::fs::read(folder.path().join("x")).unwrap();
    archive.package(
        "theirs",
        "1:3.0-1",
        "Depends: libc6, debconf | debconf-2.0\n",
        &[("usr/bin/theirs", program)],
    );
    archive.publish();
    let settings = |without: &str| {
        format!(
            "images:\n  theirs:\n    base: {{ debian: [theirs], without: [{without}] }}\n    user: {{ name: them, id: 10002 }}\n    entrypoint: [/usr/bin/theirs]\n    volumes: [/data]\n    files: {{ /etc/theirs.conf: \"a = 1\" }}\n"
        )
    };
    fixture.write("slipway.yaml", &settings(""));
    fixture.run(&["base", "lock"]).fails(
        3,
        &["theirs needs what cannot be had", "the archive has no debconf or debconf-2.0 that fits"],
    );
    fixture.write("slipway.yaml", &settings("debconf, libc6"));
    assert_eq!(fixture.run(&["base", "lock"]).code, 0);
    fixture
        .run(&["base", "build"])
        .fails(10, &["/usr/bin/theirs is started by /lib64/ld-linux-x86-64.so.2, which is not in the image"]);
    fixture.write("slipway.yaml", &settings("debconf"));
    assert_eq!(fixture.run(&["base", "lock"]).code, 0);
    let built = fixture.json(&["base", "build", "theirs"]);
    assert_eq!(built["images"][0]["version"], "1:3.0-1");
    assert_eq!(built["images"][0]["image"], fixture.json(&["base", "build"])["images"][0]["image"]);
    fixture.run(&["base", "build", "other"]).fails(3, &["has no image `other`; it has theirs"]);
    if docker() {
        let run = fixture.run(&["base", "build", "--load"]);
        assert_eq!(run.code, 0, "{}", run.stderr);
        let args = ["run", "--rm", "--read-only", "--cap-drop", "ALL", "theirs:1_3.0-1"];
        let output = Command::new("docker").args(args).output().unwrap();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            "theirs\n",
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        Command::new("docker").args(["rmi", "theirs:1_3.0-1"]).output().unwrap();
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_binary_that_needs_a_newer_libc_than_its_base_is_refused_before_there_is_an_image() {
    if !debian_tools() {
        return;
    }
    let archive = Archive::new();
    // A C library of long ago: it has the right name and the first of all versions.
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("map"), "GLIBC_2.2.5 { global: *; };\n").unwrap();
    let flags = ["-shared", "-fPIC", "-nostdlib", "-Wl,-soname,libc.so.6", "-Wl,--version-script=map"];
    cc(folder.path(), "libc.so.6", &flags);
    let old = std::fs::read(folder.path().join("libc.so.6")).unwrap();
    let lib = "lib/x86_64-linux-gnu";
    let files = [
        ("lib64/ld-linux-x86-64.so.2".to_owned(), library("ld-linux-x86-64.so.2")),
        (format!("{lib}/libc.so.6"), old),
        (format!("{lib}/libgcc_s.so.1"), library("libgcc_s.so.1")),
    ];
    let files: Vec<_> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.clone())).collect();
    archive.package("libc6", "2.2-1", "", &files);
    archive.publish();
    let mut fixture = Fixture::hello();
    archive.configure(&mut fixture);
    fixture.write("crates/hello/service.yaml", "image:\n  base: { debian: [libc6] }\n");
    assert_eq!(fixture.run(&["base", "lock"]).code, 0);
    let run = fixture.run(&["build"]);
    run.fails(
        10,
        &[
            "/app/hello needs GLIBC_2.",
            "of libc.so.6, and the image's has GLIBC_2.2.5 at most",
            "build where the C library is not newer",
        ],
    );
    let index = std::fs::read_to_string(fixture.path("target/slipway/images/index.json")).unwrap();
    assert!(!index.contains("hello"), "{index}");
}

#[test]
fn an_existing_image_is_built_upon_by_digest() {
    let fixture = mixed();
    let report = fixture.json(&["build", "two"]);
    let images = fixture.path("base-layout");
    crate::support::copy(&fixture.path("target/slipway/images"), &images);
    let base = report["services"][0]["image"].as_str().unwrap();
    fixture
        .write("crates/one/service.yaml", &format!("image:\n  base: {{ image: \"base-layout@{base}\" }}\n"));
    let upon = fixture.json(&["build", "one"]);
    let (below, all) = (layers(&report, 0), layers(&upon, 0));
    assert_eq!(all.len(), below.len() + 1);
    assert!(all.iter().zip(&below).all(|(one, other)| one.1 == other.1), "{all:?} {below:?}");
    let sbom = std::fs::read_to_string(upon["services"][0]["sbom_path"].as_str().unwrap()).unwrap();
    assert!(sbom.contains(&base.replace(':', "%3A")), "{sbom}");

    assert!(!sbom.contains("mozilla-ca-certificates"), "the image below has its own data: {sbom}");

    // An image without libraries is no base for a binary that needs them.
    fixture.write("crates/two/service.yaml", "");
    let bare = fixture.json(&["build", "two"])["services"][0]["image"].as_str().unwrap().to_owned();
    std::fs::remove_dir_all(&images).unwrap();
    crate::support::copy(&fixture.path("target/slipway/images"), &images);
    fixture
        .write("crates/one/service.yaml", &format!("image:\n  base: {{ image: \"base-layout@{bare}\" }}\n"));
    fixture.run(&["build", "one"]).fails(10, &["/app/one is started by /lib", "which is not in the image"]);
    std::fs::remove_dir_all(&images).unwrap();
    fixture
        .run(&["build", "one"])
        .fails(10, &["base-layout is no folder with an OCI image layout", "cargo xtask pull"]);
}

/// The images of this repository's own stack, from Debian's archive itself.
#[cfg(target_arch = "x86_64")]
#[test]
fn postgres_and_redis_of_packages_answer_queries() {
    if !is_required("debian-archive") {
        eprintln!("SKIPPED: it fetches packages from Debian's archive; require `debian-archive` to run it");
        return;
    }
    assert!(docker() && debian_tools());
    let fixture = Fixture::hello();
    let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["slipway.yaml", "slipway.debian.lock"] {
        std::fs::copy(repository.join(name), fixture.path(name)).unwrap();
    }
    if fixture.run(&["base", "build"]).code != 0 {
        // A mirror keeps only the latest versions; what is locked may have gone.
        assert_eq!(fixture.run(&["base", "lock", "--update"]).code, 0);
    }
    let built = fixture.json(&["base", "build"]);
    std::fs::remove_dir_all(fixture.path("target")).unwrap();
    let run = fixture.run(&["base", "build", "--load", "--json"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let again: Value = serde_json::from_str(&run.stdout).unwrap();
    let tags: Vec<String> = run
        .stderr
        .lines()
        .filter_map(|line| Some(line.strip_prefix("loaded ")?.split(' ').next()?.to_owned()))
        .collect();
    for image in 0..2 {
        assert_eq!(built["images"][image]["image"], again["images"][image]["image"]);
    }
    let password = fixture.path("password");
    std::fs::write(&password, "secret").unwrap();
    let mount = format!("{}:/run/secrets/postgres-password:ro", password.display());
    let postgres = Container::start(&[
        "--tmpfs",
        "/tmp",
        "--tmpfs",
        "/var/lib/postgresql/data:uid=10001,mode=0700",
        "-v",
        &mount,
        &tags[0],
    ]);
    let answer = crate::support::wait_for("PostgreSQL", || {
        postgres.exec(&["psql", "-U", "postgres", "-tAc", "select 6 * 7, 'a' ~ 'A'"])
    });
    assert_eq!(answer.trim(), "42|f");
    let redis = Container::start(&["--tmpfs", "/data:uid=10001", &tags[1]]);
    crate::support::wait_for("Redis", || redis.exec(&["redis-cli", "set", "key", "value"]));
    assert_eq!(redis.exec(&["redis-cli", "get", "key"]).unwrap().trim(), "value");
    assert_eq!((postgres.stop(), redis.stop()), (0, 0));
}

/// A running container with a read-only root and no capabilities; removed at the end.
struct Container(String);

impl Container {
    fn start(args: &[&str]) -> Container {
        let hardened =
            ["run", "-d", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"];
        let output = Command::new("docker").args(hardened).args(args).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Container(String::from_utf8(output.stdout).unwrap().trim().to_owned())
    }

    fn exec(&self, args: &[&str]) -> Option<String> {
        let output = Command::new("docker").args(["exec", &self.0]).args(args).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    /// Asks it to stop, and gives its exit code.
    fn stop(&self) -> i32 {
        assert!(Command::new("docker").args(["stop", &self.0]).output().unwrap().status.success());
        let output =
            Command::new("docker").args(["inspect", "-f", "{{.State.ExitCode}}", &self.0]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        Command::new("docker").args(["rm", "-f", &self.0]).output().ok();
    }
}
