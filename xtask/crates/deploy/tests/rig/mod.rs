//! An environment for tests: a state folder, an image layout, releases of the tiny service, and requests to its edge.

#![allow(dead_code, reason = "each test target uses its part")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use deploy::{EnvironmentFile, Error, Launcher, Outcome, Progress, Role, Site, Status, Volumes};
use oci::{Compression, ImageSpec, Layer, Layout, Source, Tree};
use release::{EnvKind, EnvVar, HealthCheck, Http, Release, Resources, Route, Service, Stop, Volume};
use stdx::Digest;

static NEXT_PORT: AtomicU16 = AtomicU16::new(0);
static NEXT_NAME: AtomicU16 = AtomicU16::new(0);

/// A temporary environment; everything in it is stopped when it is dropped.
pub(crate) struct Rig {
    folder: tempfile::TempDir,
    /// Name of the environment.
    pub(crate) name: String,
    is_docker: bool,
    pub(crate) listen: SocketAddr,
    layer: Layer,
    pub(crate) interrupt: AtomicBool,
    /// Further keys of `edge:` in the environment, as YAML.
    pub(crate) edge_more: Mutex<String>,
    pub(crate) notes: Mutex<Vec<String>>,
}

/// What is special about a release.
#[derive(Clone, Default)]
pub(crate) struct Tweak {
    /// How the service `web` misbehaves.
    pub(crate) mode: &'static str,
    /// Further values of the environment for `web`, as YAML lines without indentation.
    pub(crate) web_env: &'static str,
    /// Further keys of `web` in the environment, as YAML lines without indentation.
    pub(crate) web_more: &'static str,
    /// Whether the service `queue`, which has no port, is in the release.
    pub(crate) without_queue: bool,
    /// How long `web` may take to start; 0 for the usual.
    pub(crate) start_timeout_ms: u64,
    /// Processes of `web`; 0 for one.
    pub(crate) replicas: u32,
    /// Whether there is a second service with a port, `twin`, which is the same in every version.
    pub(crate) with_twin: bool,
}

/// A shell in a mount namespace of its own, where the state folder is a small file system.
pub(crate) struct SmallDisk {
    shell: std::process::Child,
    said: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Rig {
    /// An environment of processes.
    pub(crate) fn new() -> Rig {
        Rig::with("test".to_owned(), &[], false)
    }

    /// An environment of containers; `None` where no engine answers, unless SLIPWAY_TEST_REQUIRE names `docker`.
    pub(crate) fn docker() -> Option<Rig> {
        let works = Command::new("docker").args(["version", "--format", "{{.Server.Version}}"]).output();
        if !works.is_ok_and(|output| output.status.success()) {
            let required = std::env::var("SLIPWAY_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("docker"), "no Docker engine answers");
            eprintln!("SKIPPED: no Docker engine answers");
            return None;
        }
        // Names are shared by all who use the engine.
        let name = format!("t{}-{}", std::process::id(), NEXT_NAME.fetch_add(1, Ordering::Relaxed));
        Some(Rig::with(name, &shared_libraries(&example("tiny-service")), true))
    }

    fn with(name: String, libraries: &[PathBuf], is_docker: bool) -> Rig {
        let folder = tempfile::Builder::new().prefix("sw").tempdir().unwrap();
        let layout = Layout::create(&folder.path().join("layout")).unwrap();
        let mut tree = Tree::new();
        tree.file("app/tiny", 0o555, Source::Path(example("tiny-service"))).unwrap();
        tree.file("etc/marker", 0o444, Source::Bytes(b"inside".to_vec())).unwrap();
        for library in libraries {
            let place = library.to_str().unwrap().trim_start_matches('/');
            tree.file(place, 0o555, Source::Path(library.canonicalize().unwrap())).unwrap();
        }
        if is_docker {
            tree.dir("data", 0o750, 10_001).unwrap();
        }
        let layer = Layer::pack(&tree, Compression::None, "tiny", &layout).unwrap();
        let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let (interrupt, notes, edge_more) = (AtomicBool::new(false), Mutex::default(), Mutex::default());
        Rig { folder, name, is_docker, listen, layer, interrupt, edge_more, notes }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    pub(crate) fn layout(&self) -> PathBuf {
        self.folder.path().join("layout")
    }

    pub(crate) fn launcher() -> Launcher {
        let program = example("tiny-xtask");
        Launcher { program, supervise_args: vec!["supervise".into()], edge_args: vec!["edge".into()] }
    }

    /// Runs `operation` on the environment.
    pub(crate) fn on<T>(&self, operation: impl FnOnce(&Site<'_>) -> T) -> T {
        let report = |progress: Progress<'_>| {
            if let Progress::Note { text } = progress {
                self.notes.lock().unwrap().push(text.to_owned());
            }
        };
        let (state, layout) = (self.state(), self.layout());
        operation(&Site {
            state: &state,
            layout: &layout,
            launcher: Rig::launcher(),
            command: "test".to_owned(),
            who: "somebody".to_owned(),
            interrupt: &self.interrupt,
            report: &report,
        })
    }

    pub(crate) fn deploy(&self, version: &str) -> Outcome {
        self.try_deploy(version, &Tweak::default()).unwrap()
    }

    pub(crate) fn try_deploy(&self, version: &str, tweak: &Tweak) -> Result<Outcome, Error> {
        let (release, file) = (self.release(version, tweak), self.environment(tweak));
        self.on(|site| deploy::deploy(site, &release, &file))
    }

    pub(crate) fn environment(&self, tweak: &Tweak) -> EnvironmentFile {
        let folder = self.folder.path().join("environments");
        let queue = if tweak.without_queue { "" } else { "  queue: {}\n" };
        let extra: String = tweak.web_env.lines().map(|line| format!("      {line}\n")).collect();
        let more: String = tweak.web_more.lines().map(|line| format!("    {line}\n")).collect();
        let replicas = tweak.replicas.max(1);
        let (platform, host) =
            if self.is_docker { ("docker", "LISTEN: 0.0.0.0") } else { ("process", "HOST: 127.0.0.1") };
        let lines = [
            format!("platform: {platform}"),
            format!("edge: {{listen: {}{}}}", self.listen, self.edge_more.lock().unwrap()),
            "settle_ms: 30".to_owned(),
            "drain_timeout_ms: 5000".to_owned(),
            "retain: 1".to_owned(),
            format!("services:\n{queue}  web:\n    replicas: {replicas}"),
            format!("{more}    env:\n      {host}\n{extra}"),
        ];
        let text = lines.join("\n");
        stdx::fs::write_atomic(&folder.join(format!("{}.yaml", self.name)), text.as_bytes(), 0o644).unwrap();
        EnvironmentFile::load(&folder, &self.name).unwrap()
    }

    /// A release of `web`, which answers all requests, and `queue`, which has no port.
    pub(crate) fn release(&self, version: &str, tweak: &Tweak) -> Release {
        let mut services = BTreeMap::from([("web".to_owned(), self.routed("web", version, tweak))]);
        if !tweak.without_queue {
            services.insert("queue".to_owned(), self.service("queue", version, ""));
        }
        if tweak.with_twin {
            services.insert("twin".to_owned(), self.routed("twin", "twin", &Tweak::default()));
        }
        Release { schema: release::SCHEMA.to_owned(), git: None, services, migrations: BTreeMap::new() }
    }

    fn routed(&self, name: &str, version: &str, tweak: &Tweak) -> Service {
        let mode = tweak.mode;
        let mut service = self.service(name, version, mode);
        let host = (name != "web").then(|| format!("{name}.test"));
        service.http = Some(Http {
            port: 8000,
            port_env: "PORT".to_owned(),
            routes: vec![Route { host, path_prefix: "/".to_owned(), strip_prefix: false }],
        });
        service.health = Some(HealthCheck {
            path: "/health".to_owned(),
            interval_ms: 20,
            timeout_ms: 2000,
            healthy_threshold: 2,
            start_timeout_ms: match tweak.start_timeout_ms {
                0 if matches!(mode, "" | "ignore-term" | "family" | "hungry") => 20_000,
                0 => 700,
                given => given,
            },
        });
        service.volumes = vec![Volume {
            name: format!("{name}-data"),
            path: "/data".to_owned(),
            path_env: Some("DATA".to_owned()),
        }];
        service
    }

    fn service(&self, name: &str, version: &str, mode: &str) -> Service {
        let env = [
            ("VERSION", version),
            ("MODE", mode),
            ("HOST", "0.0.0.0"),
            ("MARKER", "/etc/marker"),
            ("SHOW", "VERSION"),
        ];
        let spec = ImageSpec {
            architecture: "amd64".to_owned(),
            created: "2026-01-02T03:04:05Z".to_owned(),
            layers: vec![self.layer.clone()],
            entrypoint: vec!["/app/tiny".to_owned()],
            cmd: vec![],
            env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            user: "10001:10001".to_owned(),
            working_dir: "/".to_owned(),
            exposed_ports: vec![],
            volumes: vec![],
            stop_signal: "SIGTERM".to_owned(),
            health_check: None,
            labels: BTreeMap::from([("name".to_owned(), name.to_owned())]),
        };
        let image = spec.to_image().unwrap();
        image.write(&format!("{name}-{version}"), &Layout::open(&self.layout()).unwrap()).unwrap();
        let secret = EnvVar {
            kind: EnvKind::String,
            required: false,
            secret: true,
            default: None,
            description: "a secret".to_owned(),
        };
        let text = EnvVar { secret: false, ..secret.clone() };
        Service {
            version: "0.1.0".to_owned(),
            image: image.digest(),
            content: image.content,
            sbom: Digest::of("sbom"),
            spdx: None,
            provenance: None,
            http: None,
            health: None,
            stop: Stop { signal: "SIGTERM".to_owned(), grace_ms: 500 },
            env: BTreeMap::from([
                ("LISTEN".to_owned(), text.clone()),
                ("SHOW".to_owned(), text),
                ("TOKEN".to_owned(), secret),
            ]),
            volumes: vec![],
            resources: Resources { memory_bytes: Some(1 << 30), open_files: Some(256) },
        }
    }

    /// A deployment in a process of its own, which dies at `fail_point`.
    pub(crate) fn deploy_process(&self, version: &str, tweak: &Tweak, fail_point: Option<&str>) -> Output {
        self.deploy_command(version, tweak, fail_point).output().unwrap()
    }

    pub(crate) fn deploy_command(&self, version: &str, tweak: &Tweak, fail_point: Option<&str>) -> Command {
        let release = self.folder.path().join("release.json");
        self.release(version, tweak).write(&release).unwrap();
        self.environment(tweak);
        let mut command = Command::new(example("tiny-xtask"));
        command.arg("deploy").arg(self.state()).arg(self.layout()).arg(release);
        command.arg(self.folder.path().join("environments")).arg(&self.name);
        command.env_remove(deploy::fail_point::VARIABLE);
        if let Some(point) = fail_point {
            command.env(deploy::fail_point::VARIABLE, point);
        }
        command
    }

    /// The program with `args` and the state folder.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(example("tiny-xtask"));
        command.args(args).arg(self.state());
        command
    }

    pub(crate) fn status(&self) -> Status {
        deploy::status(&self.state()).unwrap()
    }

    /// How many slots run.
    pub(crate) fn running_slots(&self) -> usize {
        let status = self.status();
        status.services.values().flatten().filter(|slot| slot.condition != deploy::Condition::Stopped).count()
    }

    /// The slot that serves.
    pub(crate) fn active_slot(&self, service: &str) -> String {
        let status = self.status();
        let mut active = status.services[service].iter().filter(|slot| slot.role == Role::Active);
        let slot = active.next().expect("a slot serves").slot.clone();
        assert!(active.next().is_none(), "one slot serves");
        slot
    }

    /// The process of the slot that serves.
    pub(crate) fn active_pid(&self, service: &str) -> u32 {
        let slot = self.active_slot(service);
        let status = self.status();
        let slot = status.services[service].iter().find(|other| other.slot == slot).expect("it is there");
        slot.processes[0].process.expect("it runs").pid
    }

    /// The process of the only slot, whether or not the edge leads there.
    pub(crate) fn active_pid_or_running(&self, service: &str) -> u32 {
        let status = self.status();
        status.services[service][0].processes[0].process.expect("it runs").pid
    }

    /// SIGKILL to one process of this environment.
    pub(crate) fn kill(&self, pid: u32) {
        self.signal(pid, rustix::process::Signal::KILL);
    }

    pub(crate) fn signal(&self, pid: u32, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(pid as i32).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    pub(crate) fn kill_supervisor_of(&self, pid: u32) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        let parent: u32 =
            stat.rsplit_once(')').unwrap().1.split_whitespace().nth(1).unwrap().parse().unwrap();
        let names = std::fs::read_to_string(format!("/proc/{parent}/cmdline")).unwrap();
        assert!(names.contains("supervise") && names.contains(&*self.state().to_string_lossy()), "{names}");
        self.kill(parent);
        wait_until("the supervisor is gone", || {
            let stat = std::fs::read_to_string(format!("/proc/{parent}/stat")).unwrap_or_default();
            stat.is_empty() || stat.contains(") Z ")
        });
    }

    /// A deployment that cannot write files longer than `blocks` of 512 bytes: what a full disk looks like, for any
    /// user.
    pub(crate) fn deploy_with_file_limit(&self, version: &str, blocks: u32) -> Output {
        with_file_limit(&self.deploy_command(version, &Tweak::default(), None), blocks)
    }

    /// The processes whose program lies in the state folder.
    pub(crate) fn programs(&self) -> usize {
        let exe = |entry: &std::fs::DirEntry| std::fs::read_link(entry.path().join("exe"));
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        entries.filter(|entry| exe(entry).is_ok_and(|exe| exe.starts_with(self.state()))).count()
    }

    /// Changes one bit of the layer that all images share.
    pub(crate) fn damage_layer(&self) {
        let digest = self.layer.diff_id.to_string();
        let blob = self.layout().join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
        let mut bytes = std::fs::read(&blob).unwrap();
        bytes[1000] ^= 1;
        std::fs::write(&blob, bytes).unwrap();
    }

    /// A shell that has the state folder on a file system of `mebibytes`; `None` where that cannot be had, unless
    /// SLIPWAY_TEST_REQUIRE names `mount`.
    pub(crate) fn small_disk(&self, mebibytes: u32) -> Option<SmallDisk> {
        std::fs::create_dir_all(self.state()).unwrap();
        let mount = format!("mount -t tmpfs -o size={mebibytes}m none \"$0\" && echo mounted && exec sh");
        let mut unshare = Command::new("unshare");
        unshare.args(["--map-root-user", "--mount", "sh", "-c", &mount]).arg(self.state());
        unshare.stdin(Stdio::piped()).stdout(Stdio::piped()).env_remove(deploy::fail_point::VARIABLE);
        let mounted = unshare.spawn().ok().and_then(|mut shell| {
            let mut said = BufReader::new(shell.stdout.take().unwrap()).lines();
            let is_mounted = said.next().is_some_and(|line| line.unwrap() == "mounted");
            is_mounted.then_some(SmallDisk { shell, said })
        });
        if mounted.is_none() {
            let required = std::env::var("SLIPWAY_TEST_REQUIRE").unwrap_or_default();
            assert!(!required.contains("mount"), "this user may not mount a file system of its own");
            eprintln!("SKIPPED: this user may not mount a file system of its own");
        }
        mounted
    }

    /// What the edge keeps on disk of its tables.
    pub(crate) fn edge_tables(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let folder = self.state().join("edge");
        let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        let tables = paths.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("table"));
        tables.map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
    }

    /// Ends the edge and leaves it `tables` to find when it is started again.
    pub(crate) fn lose_edge(&self, tables: &[(PathBuf, Vec<u8>)]) {
        let edge = self.status().edge.unwrap().pid;
        self.kill_supervisor_of(edge);
        self.kill(edge);
        wait_until("the edge is gone", || self.status().edge.is_none());
        std::fs::remove_dir_all(self.state().join("edge")).unwrap();
        for (path, bytes) in tables {
            stdx::fs::write_atomic(path, bytes, 0o600).unwrap();
        }
    }

    pub(crate) fn get(&self, path: &str) -> (u16, String) {
        get(self.listen, path).unwrap()
    }
}

impl SmallDisk {
    /// Runs `command`, and gives its exit code and what it said.
    pub(crate) fn run(&mut self, command: &Command) -> (i32, String) {
        let quoted = |word: &std::ffi::OsStr| format!("'{}'", word.to_str().unwrap());
        let words: Vec<_> =
            std::iter::once(command.get_program()).chain(command.get_args()).map(quoted).collect();
        self.sh(&words.join(" "))
    }

    /// Runs a line of shell.
    pub(crate) fn sh(&mut self, line: &str) -> (i32, String) {
        writeln!(
            self.shell.stdin.as_mut().unwrap(),
            "{line} 2>&1 </dev/null; code=$?; echo; echo \"=$code\""
        )
        .unwrap();
        let mut text = String::new();
        for line in self.said.by_ref().map(Result::unwrap) {
            match line.strip_prefix('=') {
                Some(code) => return (code.parse().unwrap(), text),
                None => text = text + &line + "\n",
            }
        }
        panic!("the shell ended: {text}")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = self.shell.kill();
        let _ = self.shell.wait();
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        let _ = self.on(deploy::repair);
        let volumes = if self.is_docker { Volumes::Remove } else { Volumes::Keep };
        let _ = self.on(|site| deploy::down(site, volumes));
        if self.is_docker {
            self.remove_all_of_the_engine();
        }
        // A test that failed half-way may leave what `down` does not see; everything of ours names the folder.
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<i32>() else { continue };
            let names = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let exe = std::fs::read_link(entry.path().join("exe")).unwrap_or_default();
            let folder = self.folder.path();
            let is_ours = exe.starts_with(folder)
                || String::from_utf8_lossy(&names).contains(&*folder.to_string_lossy());
            if let Some(pid) = rustix::process::Pid::from_raw(pid).filter(|_| is_ours) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

impl Rig {
    /// What the environment has on the engine, whatever a failed test left there.
    fn remove_all_of_the_engine(&self) {
        let docker = |args: &[&str]| {
            let output = Command::new("docker").args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()
        };
        let filter = format!("label=dev.slipway.environment={}", self.name);
        for container in docker(&["ps", "-aq", "--filter", &filter]) {
            docker(&["rm", "-fv", &container]);
        }
        for volume in docker(&["volume", "ls", "-q", "--filter", &filter]) {
            docker(&["volume", "rm", &volume]);
        }
        for network in docker(&["network", "ls", "-q", "--filter", &filter]) {
            docker(&["network", "rm", &network]);
        }
        for image in docker(&["images", "-q", &format!("slipway-{}", self.name)]) {
            docker(&["rmi", "-f", &image]);
        }
    }
}

/// What the loader needs for `program`: its interpreter and libraries, by the paths under which it looks for them.
fn shared_libraries(program: &Path) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from).collect()
}

/// One GET over a new connection; an error is a lost request.
pub(crate) fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    request(address, "GET", path)
}

fn request(address: SocketAddr, method: &str, path: &str) -> std::io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned());
    status.zip(body).ok_or_else(|| std::io::Error::other(format!("no answer: {text:?}")))
}

/// Requests without a pause until it is stopped. Half of them are slow POSTs: such a request is lost when its service
/// is stopped too early, because nobody may send it again.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<(BTreeSet<String>, Vec<String>)>>,
}

impl Load {
    pub(crate) fn start(rig: &Rig) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let (address, requests) = (rig.listen, [("GET", "/"), ("POST", "/slow")]);
        let work = |(method, path): (&'static str, &'static str)| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || {
                let (mut seen, mut lost) = (BTreeSet::new(), Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    match request(address, method, path) {
                        Ok((200, body)) => {
                            seen.insert(body);
                        }
                        Ok(other) => lost.push(format!("{other:?}")),
                        Err(error) => lost.push(error.to_string()),
                    }
                    std::thread::sleep(Duration::from_millis(2));
                }
                (seen, lost)
            })
        };
        let threads = requests.map(work).into();
        Load { stop, threads }
    }

    /// The versions that answered. Fails when a request was lost.
    pub(crate) fn stop(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = BTreeSet::new();
        for thread in self.threads {
            let (seen, lost) = thread.join().unwrap();
            assert!(lost.is_empty(), "{} requests were lost: {:?}", lost.len(), &lost[..lost.len().min(5)]);
            all.extend(seen);
        }
        all
    }
}

/// The files below `folder` that hold `text`.
pub(crate) fn files_with(folder: &Path, text: &str) -> Vec<PathBuf> {
    let holds = |path: &PathBuf| {
        let bytes = std::fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|window| window == text.as_bytes())
    };
    files(folder).into_iter().filter(holds).collect()
}

/// The entries right below `folder` that others than the owner may read.
pub(crate) fn files_open_to_others(folder: &Path) -> Vec<PathBuf> {
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode();
    let mut open: Vec<_> = files(folder)
        .into_iter()
        .filter(|path| !path.components().any(|part| part.as_os_str() == "rootfs"))
        .collect();
    open.retain(|path| path.file_name().is_some_and(|name| name != "edge.pid") && mode(path) & 0o077 != 0);
    if mode(folder) & 0o077 != 0 {
        open.push(folder.to_owned());
    }
    open
}

/// Runs `command`, which cannot write files longer than `blocks` of 512 bytes.
pub(crate) fn with_file_limit(command: &Command, blocks: u32) -> Output {
    let mut shell = Command::new("sh");
    shell.arg("-c").arg(format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$@\"")).arg("sh");
    shell.arg(command.get_program()).args(command.get_args());
    shell.output().unwrap()
}

/// Everything in `folder` with what a change would leave traces in: mode, size, and the time of the last change.
pub(crate) fn listing(folder: &Path) -> Vec<String> {
    let meta = std::fs::symlink_metadata(folder).unwrap();
    let (mode, changed) = (meta.mode(), (meta.ctime(), meta.ctime_nsec()));
    let mut lines = vec![format!("{} {mode:o} {} {changed:?}", folder.display(), meta.len())];
    if meta.is_dir() {
        let mut paths: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.sort();
        lines.extend(paths.iter().flat_map(|path| listing(path)));
    }
    lines
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Fails when `holds` does not become true soon.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}: not within 10 s");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A port from a range that neither slots nor outgoing connections use.
pub(crate) fn free_port() -> u16 {
    // Test processes of one run have neighbouring ids: each gets a few ports that none of its neighbours begins with.
    let offset = (std::process::id() % 385) as u16 * 7;
    loop {
        let port = 30_000 + (offset + NEXT_PORT.fetch_add(1, Ordering::Relaxed)) % 2_700;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// An example that cargo built together with the tests. When targets are chosen (`--test`), cargo leaves the examples
/// as they were.
fn example(name: &str) -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let path = test.parent().and_then(Path::parent).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing: run `cargo test -p slipway-deploy`", path.display());
    path
}
