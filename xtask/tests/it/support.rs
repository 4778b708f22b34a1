//! Workspaces made on the spot, and the real binary run in them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A Cargo workspace in a temporary folder.
pub(crate) struct Fixture {
    folder: PathBuf,
    /// Removed at the end, where the workspace is a temporary one.
    _temporary: Option<tempfile::TempDir>,
    env: BTreeMap<String, String>,
}

/// How a run of the binary ended.
pub(crate) struct Run {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Fixture {
    /// An empty workspace with the toolchain of this repository.
    pub(crate) fn new() -> Fixture {
        let temporary = tempfile::tempdir().unwrap();
        let folder = temporary.path().to_owned();
        let fixture = Fixture { _temporary: Some(temporary), ..Fixture::at(folder) };
        fixture.write("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"crates/*\"]\n");
        let toolchain = Path::new(env!("CARGO_MANIFEST_DIR")).join("../rust-toolchain.toml");
        fixture.write("rust-toolchain.toml", &fs::read_to_string(toolchain).unwrap());
        fixture
    }

    /// The workspace that is in `folder`.
    pub(crate) fn at(folder: PathBuf) -> Fixture {
        Fixture { folder, _temporary: None, env: BTreeMap::new() }
    }

    /// A workspace with one service `hello` without dependencies.
    pub(crate) fn hello() -> Fixture {
        let fixture = Fixture::new();
        fixture.package("hello", "", "fn main() { println!(\"hello\"); }\n");
        fixture.lock();
        fixture
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Adds the binary package `crates/<name>`; `manifest` follows its `[package]` table.
    /// Writes a program for the shell into a folder of its own, and gives its path.
    pub(crate) fn program(&self, name: &str, script: &str) -> PathBuf {
        let path = format!("programs-{name}/{name}");
        self.write(&path, &format!("#!/bin/sh\n{script}\n"));
        let path = self.path(&path);
        fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        path
    }

    pub(crate) fn package(&self, name: &str, manifest: &str, main: &str) {
        self.manifest(name, manifest);
        self.write(&format!("crates/{name}/src/main.rs"), main);
    }

    /// Adds the library package `crates/<name>`.
    pub(crate) fn library(&self, name: &str, manifest: &str, lib: &str) {
        self.manifest(name, manifest);
        self.write(&format!("crates/{name}/src/lib.rs"), lib);
    }

    fn manifest(&self, name: &str, manifest: &str) {
        let head = format!(
            "[package]\nname = \"{name}\"\nversion = \"1.2.3\"\nedition = \"2024\"\nlicense = \"MIT\"\n"
        );
        self.write(&format!("crates/{name}/Cargo.toml"), &format!("{head}{manifest}\n"));
    }

    /// Writes Cargo.lock from what is on this machine.
    pub(crate) fn lock(&self) {
        let args = ["generate-lockfile", "--offline", "--quiet"];
        assert!(
            Command::new(env!("CARGO")).args(args).current_dir(self.path("")).status().unwrap().success()
        );
    }

    /// Empties the workspace.
    pub(crate) fn remove(&self) {
        for entry in fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
        }
    }

    /// Fills the workspace with all that is in `other`, times and build output included.
    pub(crate) fn copy_of(&self, other: &Fixture) {
        let status = Command::new("cp").arg("-a").arg(other.path(".")).arg(&self.folder).status();
        assert!(status.unwrap().success());
    }

    /// Sets a variable for every later run.
    pub(crate) fn env(&mut self, name: &str, value: &str) {
        self.env.insert(name.to_owned(), value.to_owned());
    }

    /// The command, for callers that start it by themselves.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        self.command_of(env!("CARGO_BIN_EXE_xtask"), args)
    }

    /// The same for another program.
    pub(crate) fn command_of(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        self.prepare(command.args(args));
        command
    }

    /// Runs the binary from a shell that did `before` first.
    pub(crate) fn run_after(&self, before: &str, args: &[&str]) -> Run {
        let mut shell = Command::new("sh");
        shell
            .args(["-c", &format!("{before} && exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_xtask")])
            .args(args);
        self.prepare(&mut shell);
        Run::new(shell.output().unwrap())
    }

    fn prepare(&self, command: &mut Command) {
        // What `cargo test` sets for this program is not what a user has.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("CARGO_") && name != "CARGO_HOME")
        {
            command.env_remove(name);
        }
        // What another test built must not stand in for what this one is about.
        command
            .env("SLIPWAY_CACHE", "off")
            .env_remove("GITHUB_ACTIONS")
            .current_dir(self.path(""))
            .envs(&self.env);
    }

    pub(crate) fn run(&self, args: &[&str]) -> Run {
        Run::new(self.command(args).output().unwrap())
    }

    /// Runs with `--json`, which must succeed, and gives the document.
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let run = self.run(&[args, &["--json"]].concat());
        assert_eq!(run.code, 0, "{}", run.stderr);
        serde_json::from_str(&run.stdout).unwrap()
    }

    /// Builds and gives the digest of each image, by service.
    pub(crate) fn digests(&self, args: &[&str]) -> BTreeMap<String, String> {
        digests(&self.json(&[&["build"], args].concat()))
    }
}

/// The digest of each image of a build's report, by service.
pub(crate) fn digests(report: &Value) -> BTreeMap<String, String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    report["services"].as_array().unwrap().iter().map(|s| (text(&s["name"]), text(&s["image"]))).collect()
}

impl Run {
    fn new(output: Output) -> Run {
        Run {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts the exit code and what standard error says.
    #[track_caller]
    pub(crate) fn fails(&self, code: i32, texts: &[&str]) {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        for text in texts {
            assert!(self.stderr.contains(text), "`{text}` is not in: {}", self.stderr);
        }
    }
}

/// Copies a folder with all that is in it.
pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// Whether a test that cannot run `program` must fail instead of being skipped.
pub(crate) fn is_required(program: &str) -> bool {
    std::env::var("SLIPWAY_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == program))
}

/// Whether the program can be run here; says so where not, and fails where it is required.
pub(crate) fn have(program: &str, probe: &[&str]) -> bool {
    works(program, program, probe)
}

/// The same for what SLIPWAY_TEST_REQUIRE calls `name`.
pub(crate) fn works(name: &str, program: &str, probe: &[&str]) -> bool {
    let works = Command::new(program).args(probe).output().is_ok_and(|output| output.status.success());
    assert!(works || !is_required(name), "{name} is required and does not work");
    if !works {
        eprintln!("skipped: {name} does not work on this machine");
    }
    works
}

/// What the program prints; panics where it fails.
pub(crate) fn output(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Polls until `probe` gives a value; panics after a minute.
pub(crate) fn wait_for<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(value) = probe() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
