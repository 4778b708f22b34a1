//! `push` and `pull` in front of Debian's docker-registry with TLS and a password, and of programs that are not ours.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::support::{Fixture, have, is_required, output};

/// A registry with TLS and the account `me`, and a home of a user who is logged in there.
struct Rig {
    child: Child,
    host: String,
    folder: tempfile::TempDir,
}

impl Rig {
    /// `None` where something that it needs is missing.
    fn start() -> Option<Rig> {
        // htpasswd says who it is only with an error.
        let has_password_file = Command::new("htpasswd").arg("-nbB").args(["a", "b"]).output().is_ok();
        assert!(has_password_file || !is_required("htpasswd"), "htpasswd is required and does not work");
        if !has_password_file || !have("docker-registry", &["--version"]) || !have("openssl", &["version"]) {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        certificates(root);
        fs::write(root.join("htpasswd"), output("htpasswd", &["-Bbn", "me", "secret"])).unwrap();
        let http = format!("tls: {{ certificate: {0}/own.crt, key: {0}/own.key }}", root.display());
        let auth = format!("auth: {{ htpasswd: {{ realm: r, path: {}/htpasswd }} }}", root.display());
        let rig = Rig::at(folder, &http, &auth);
        rig.log_in("bWU6c2VjcmV0");
        let certificates = rig.path("home/.config/docker/certs.d").join(&rig.host);
        fs::create_dir_all(&certificates).unwrap();
        fs::copy(rig.path("ca.crt"), certificates.join("ca.crt")).unwrap();
        Some(rig)
    }

    /// `http` and `rest` are members of `http:`, and blocks beside it.
    fn at(folder: tempfile::TempDir, http: &str, rest: &str) -> Rig {
        let config = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: {}/store }} }}\n\
             http: {{ addr: \"127.0.0.1:0\", secret: s, {http} }}\n{rest}\n",
            folder.path().display()
        );
        let path = folder.path().join("config.yml");
        fs::write(&path, config).unwrap();
        let mut command = Command::new("docker-registry");
        command.arg("serve").arg(path).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let host = lines.find_map(|line| {
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.split(['"', ',']).next()?.to_owned())
        });
        // A full pipe would stop the registry.
        std::thread::spawn(move || lines.for_each(drop));
        Rig { child, host: host.expect("the registry listens"), folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// With what stands for user and password in Docker's file.
    fn log_in(&self, auth: &str) {
        fs::create_dir_all(self.path("docker")).unwrap();
        let config = serde_json::json!({ "auths": { &self.host: { "auth": auth } } });
        fs::write(self.path("docker/config.json"), config.to_string()).unwrap();
    }

    /// A workspace of two services whose images go to this registry.
    fn workspace(&self) -> Fixture {
        let mut fixture = Fixture::new();
        for name in ["api", "worker"] {
            fixture.package(name, "", "fn main() { println!(\"hello\"); }\n");
        }
        fixture.lock();
        fixture.write("slipway.yaml", &format!("image: {{ prefix: {}/team/ }}\n", self.host));
        let home = self.path("home").display().to_string();
        fixture.env("XDG_CONFIG_HOME", &format!("{home}/.config"));
        fixture.env("DOCKER_CONFIG", &self.path("docker").display().to_string());
        fixture
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An authority, and a certificate of it for 127.0.0.1.
fn certificates(folder: &Path) {
    let path = |name: &str| folder.join(name).display().to_string();
    let (ca, ca_key, certificate, key) = (path("ca.crt"), path("ca.key"), path("own.crt"), path("own.key"));
    let (request, names) = (path("own.csr"), path("own.ext"));
    let new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    let authority =
        ["-x509", "-days", "2", "-subj", "/CN=Authority of a test", "-keyout", &ca_key, "-out", &ca];
    output("openssl", &[&new[..], &authority].concat());
    output("openssl", &[&new[..], &["-subj", "/CN=127.0.0.1", "-keyout", &key, "-out", &request]].concat());
    fs::write(&names, "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
    let sign =
        ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
    output("openssl", &[&sign[..], &["-extfile", &names, "-out", &certificate]].concat());
}

#[test]
fn an_index_goes_with_its_images_and_what_is_attached_to_each() {
    let Some(rig) = Rig::start() else { return };
    let targets =
        stdx::Cmd::new("rustc").args(["--print", "target-libdir", "--target", "aarch64-unknown-linux-gnu"]);
    let has_std = targets.read().is_ok_and(|folder| Path::new(&folder).is_dir());
    if !has_std || stdx::Cmd::new("aarch64-linux-gnu-gcc").arg("--version").read().is_err() {
        assert!(!is_required("aarch64-linux-gnu-gcc"), "building for arm64 is required");
        eprintln!("skipped: this machine cannot build for arm64");
        return;
    }
    let fixture = rig.workspace();
    fixture.json(&["key", "generate"]);
    let settings = fs::read_to_string(fixture.path("slipway.yaml")).unwrap();
    fixture.write("slipway.yaml", &format!("{settings}signing: {{ key: {{ file: slipway.key }} }}\n"));
    let pushed = fixture.json(&["push", "api", "--tag", "both", "--platform", "linux/amd64,linux/arm64"]);
    let layout = fixture.path("pulled");
    let reference = format!("{}/team/api:both", rig.host);
    let pulled = fixture.json(&["pull", &reference, "--layout", layout.to_str().unwrap()]);
    assert!(
        pushed["images"][0]["reference"]
            .as_str()
            .unwrap()
            .ends_with(pulled["digest"].as_str().unwrap_or("?")),
        "{pushed} {pulled}"
    );
    let layout = oci::Layout::open(&layout).unwrap();
    let index = layout.tags().unwrap().remove(0).digest;
    let images = layout.images(&index).unwrap();
    let names: Vec<&str> = images.iter().map(|one| one.platform.as_str()).collect();
    assert_eq!(names, ["linux/amd64", "linux/arm64"]);
    assert_eq!(layout.referrers(&index).unwrap().len(), 1);
    for one in images {
        // Two SBOMs, a provenance, and four bundles.
        assert_eq!(layout.referrers(&one.image).unwrap().len(), 7);
    }
    let again = fixture.json(&["push", "api", "--tag", "both", "--platform", "linux/amd64,linux/arm64"]);
    assert_eq!(again["images"][0]["sent_bytes"], 0, "{again}");
}

#[test]
fn a_base_comes_from_a_registry_once() {
    let Some(mut rig) = Rig::start() else { return };
    let mut fixture = rig.workspace();
    fixture.env("CARGO_HOME", rig.path("cargo").to_str().unwrap());
    fixture.write("crates/worker/service.yaml", "image: { base: closure }\n");
    let pushed = fixture.json(&["push", "worker"]);
    let below = pushed["images"][0]["reference"].as_str().unwrap().to_owned();
    let base = |reference: &str| {
        fixture
            .write("crates/api/service.yaml", &format!("image: {{ base: {{ image: \"{reference}\" }} }}\n"));
    };
    base(&below);
    let upon = fixture.json(&["build", "api"]);
    let layers = upon["services"][0]["layers"].as_array().unwrap().len();
    // The registry is not asked again.
    rig.child.kill().unwrap();
    fs::remove_dir_all(fixture.path("target/slipway/images")).unwrap();
    let again = fixture.json(&["build", "api"]);
    assert_eq!(again["services"][0]["image"], upon["services"][0]["image"]);
    assert!(layers > 2, "{upon}");
    let digest = below.split_once("sha256:").unwrap().1;
    base(&below.replace(digest, &"0".repeat(64)));
    fixture.run(&["build", "api"]).fails(10, &["cannot fetch the base"]);
}

#[test]
fn images_go_to_a_registry_once_and_come_back() {
    let Some(rig) = Rig::start() else { return };
    let fixture = rig.workspace();
    let plan = fixture.json(&["push", "--dry-run"]);
    assert_eq!(plan["schema"], "slipway.push-plan/1");
    assert!(
        plan["images"][0]["blobs"].as_array().unwrap().iter().all(|blob| blob["action"] == "send"),
        "{plan}"
    );

    let pushed = fixture.json(&["push"]);
    assert_eq!(pushed["schema"], "slipway.push/1");
    let [api, worker] = pushed["images"].as_array().unwrap().as_slice() else { panic!("{pushed}") };
    assert_eq!((&api["service"], &api["tags"]), (&"api".into(), &serde_json::json!(["1.2.3"])));
    assert!(api["sent_bytes"].as_u64().unwrap() > 100_000, "{api}");
    // What both have is taken over from the first.
    assert!(worker["mounted"].as_u64().unwrap() >= 1, "{worker}");
    let reference = format!("{}/team/api@{}", rig.host, api["digest"].as_str().unwrap());
    assert_eq!(api["reference"], reference);

    let again = fixture.run(&["push", "api"]);
    assert_eq!((again.code, again.stdout.as_str()), (0, &*format!("{reference}\n")), "{}", again.stderr);
    assert!(again.stderr.contains("api: nothing sent"), "{}", again.stderr);
    let tagged = fixture.json(&[
        "push",
        "api",
        "--tag",
        "latest",
        "--tag",
        "v1",
        "--to",
        &format!("{}/other", rig.host),
    ]);
    assert_eq!(tagged["images"][0]["reference"], reference.replace("/team/", "/other/"));
    assert_eq!(tagged["images"][0]["tags"], serde_json::json!(["latest", "v1"]));

    let layout = fixture.path("pulled");
    let pulled =
        fixture.json(&["pull", &format!("{}/other/api:v1", rig.host), "--layout", layout.to_str().unwrap()]);
    assert_eq!((&pulled["schema"], &pulled["digest"]), (&"slipway.pull/1".into(), &api["digest"]));
    assert!(fixture.run(&["pull", &reference]).stdout.contains(&reference));
    let none = fixture.run(&["pull", &format!("{}/team/none:v1", rig.host)]);
    none.fails(1, &["cannot pull", "there is no image"]);
}

#[test]
fn what_the_user_must_mend_is_said() {
    let Some(rig) = Rig::start() else { return };
    let fixture = rig.workspace();
    let push = |args: &[&str]| fixture.run(&[&["push", "api"], args].concat());
    rig.log_in("bWU6b3RoZXI=");
    push(&[])
        .fails(3, &["does not accept the credentials", &format!("run `docker login {}` again", rig.host)]);
    fs::write(rig.path("docker/config.json"), "{}").unwrap();
    push(&[]).fails(3, &[&format!("run `docker login {}`", rig.host)]);
    fs::remove_dir_all(rig.path("home/.config/docker")).unwrap();
    push(&[])
        .fails(3, &["cannot trust the certificate", &format!("/etc/docker/certs.d/{}/ca.crt", rig.host)]);
    push(&["--to", "team/"]).fails(3, &["`team/` names no registry", "docker.io/ for Docker Hub"]);
    push(&["--to", "127.0.0.1:1/Team/"]).fails(3, &["is not the name of an image", "lower-case"]);
    push(&["--tag", "a b"]).fails(3, &["`a b` is not the name of an image", "a tag has"]);
    push(&["--to", "127.0.0.1:1"]).fails(1, &["cannot push", "no registry listens on 127.0.0.1:1"]);
    fixture.run(&["pull", "a b"]).fails(3, &["`a b` is not the name of an image"]);
}

#[test]
fn other_programs_read_what_was_pushed() {
    let Some(rig) = Rig::start() else { return };
    let fixture = rig.workspace();
    let pushed = fixture.json(&["push", "api"]);
    let digest = pushed["images"][0]["digest"].as_str().unwrap();
    let name = format!("{}/team/api", rig.host);
    let (authority, login) = (rig.path("ca.crt"), rig.path("docker"));
    let of_user = |program: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(args).env("SSL_CERT_FILE", &authority).env("DOCKER_CONFIG", &login);
        let output = command.env("REGISTRY_AUTH_FILE", login.join("config.json")).output().unwrap();
        assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    if have("skopeo", &["--version"]) {
        let inspected: Value =
            serde_json::from_str(&of_user("skopeo", &["inspect", &format!("docker://{name}:1.2.3")]))
                .unwrap();
        assert_eq!(inspected["Digest"], digest);
        let theirs = format!("docker://{name}:theirs");
        of_user("skopeo", &["copy", "--quiet", &format!("docker://{name}:1.2.3"), &theirs]);
        let pulled = fixture.json(&["pull", &format!("{name}:theirs")]);
        assert_eq!(pulled["digest"], digest);
    }
    if have("crane", &["version"]) {
        assert_eq!(of_user("crane", &["digest", &format!("{name}:1.2.3")]).trim(), digest);
        of_user("crane", &["validate", "--remote", &format!("{name}:1.2.3")]);
    }
}

#[test]
fn a_docker_engine_pulls_and_runs_what_was_pushed() {
    if !have("docker", &["info"]) || !have("docker-registry", &["--version"]) {
        return;
    }
    // An engine takes a registry of its own machine without TLS and password.
    let rig = Rig::at(tempfile::tempdir().unwrap(), "", "");
    let fixture = rig.workspace();
    let run = fixture.run(&["push", "api"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    let reference = run.stdout.trim();
    assert_eq!(output("docker", &["run", "--rm", "--pull", "always", "--quiet", reference]).trim(), "hello");
    output("docker", &["rmi", reference]);
}
