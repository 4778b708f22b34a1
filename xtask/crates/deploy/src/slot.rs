//! A slot's folder: the files of one image, and the processes that run from it. It knows how a slot is made, started,
//! looked at and stopped; which slot should serve is decided elsewhere. A slot without `slot.json` was never
//! finished.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use oci::{Layout, RunConfig};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::replica::{Launcher, ProcessSpec, Replica, Restart};
use crate::state::{StateFolder, create_private_dir};
use crate::target::TargetService;

/// The value of `schema` in a slot record that this version reads and writes.
const SCHEMA: &str = "slipway.slot/1";

/// Size at which a slot's log is rotated; two older files are kept beside it.
const LOG_LIMIT_BYTES: u64 = 10 * 1024 * 1024;

/// Ports for slots. They lie below the range from which the kernel gives ports to outgoing connections: otherwise
/// such a connection could take the port of a process between its end and its new start.
const PORTS: std::ops::Range<u16> = 10_000..30_000;

/// How long processes may take to disappear after SIGKILL.
const KILL_TIMEOUT: Duration = Duration::from_secs(5);

/// The folder of one slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SlotFolder {
    pub(crate) name: String,
    path: PathBuf,
}

/// What a finished slot says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SlotRecord {
    schema: String,
    pub(crate) service: String,
    /// What it was made for.
    pub(crate) run: Digest,
    pub(crate) image: Digest,
    /// Digest of its files, which tells later whether they are still what was unpacked.
    files: Digest,
    /// Whether its processes listen on a port.
    pub(crate) has_port: bool,
    pub(crate) replicas: u32,
    command: Vec<String>,
    env: BTreeMap<String, String>,
    working_dir: String,
}

/// Ports that were given out and may not be in use yet.
#[derive(Debug, Default)]
pub(crate) struct Ports(Mutex<BTreeSet<u16>>);

impl SlotFolder {
    pub(crate) fn new(state: &StateFolder, name: &str) -> SlotFolder {
        SlotFolder { name: name.to_owned(), path: state.slots().join(name) }
    }

    /// All slot folders of the environment, finished or not.
    pub(crate) fn all(state: &StateFolder) -> Result<Vec<SlotFolder>> {
        let folder = state.slots();
        let entries = match fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
        };
        let mut names = Vec::new();
        for entry in entries {
            names.push(entry.with_context(|| format!("cannot list {}", folder.display()))?.file_name());
        }
        names.sort();
        Ok(names.iter().map(|name| SlotFolder::new(state, &name.to_string_lossy())).collect())
    }

    fn rootfs(&self) -> PathBuf {
        self.path.join("rootfs")
    }

    fn record_path(&self) -> PathBuf {
        self.path.join("slot.json")
    }

    /// What the slot says of itself; `None` for one that was never finished.
    pub(crate) fn record(&self) -> Option<SlotRecord> {
        let bytes = stdx::fs::read_if_exists(&self.record_path()).ok()??;
        serde_json::from_slice(&bytes).ok().filter(|record: &SlotRecord| record.schema == SCHEMA)
    }

    /// Unpacks the image of `service`; what was there before under this name is removed.
    pub(crate) fn unpack(&self, service: &str, target: &TargetService, layout: &Path) -> Result<()> {
        self.remove()?;
        create_private_dir(&self.path)?;
        let layout = Layout::open(layout)?;
        let unpacked = oci::unpack(&layout, target.image, &self.rootfs())?;
        let record = record(service, target, unpacked.config, tree_digest(&self.rootfs())?)?;
        stdx::fs::write_atomic(&self.record_path(), &serde_json::to_vec(&record)?, 0o600)
    }

    /// Whether the files are still what was unpacked.
    pub(crate) fn is_intact(&self) -> bool {
        let files = tree_digest(&self.rootfs()).ok();
        self.record().is_some_and(|record| files == Some(record.files))
    }

    /// Starts the slot's processes on free ports.
    pub(crate) fn start(
        &self,
        target: &TargetService,
        state: &StateFolder,
        ports: &Ports,
        launcher: &Launcher,
    ) -> Result<()> {
        let record = self.record().with_context(|| format!("the slot {} was never finished", self.name))?;
        let secrets: BTreeMap<_, _> =
            target.secrets.iter().map(|(name, value)| (name.clone(), value.reveal())).collect();
        for volume in &target.volumes {
            create_private_dir(&state.volumes().join(&volume.name))?;
        }
        for index in 0..record.replicas {
            let port = if record.has_port { Some(ports.take(state, &self.name, index)?) } else { None };
            let spec = self.process(&record, target, state, port)?;
            self.replica(index).launch(&spec, &secrets, launcher)?;
        }
        Ok(())
    }

    fn process(
        &self,
        record: &SlotRecord,
        target: &TargetService,
        state: &StateFolder,
        port: Option<u16>,
    ) -> Result<ProcessSpec> {
        let (program, args) = record.command.split_first().context("the image names no program")?;
        let mut env = self.image_env(record);
        env.extend(target.env.clone());
        if let (Some(name), Some(port)) = (&target.port_env, port) {
            env.insert(name.clone(), port.to_string());
        }
        for volume in &target.volumes {
            if let Some(name) = &volume.path_env {
                env.insert(name.clone(), text(&state.volumes().join(&volume.name))?);
            }
        }
        Ok(ProcessSpec {
            schema: ProcessSpec::schema(),
            program: self.inside(program),
            args: args.to_vec(),
            env,
            cwd: self.inside(&record.working_dir),
            port,
            stop_signal: target.stop.signal.clone(),
            grace_ms: target.stop.grace_ms,
            memory_bytes: target.resources.memory_bytes,
            open_files: target.resources.open_files,
            restart: Restart::Always,
            log_limit_bytes: LOG_LIMIT_BYTES,
            keeps_descriptors: false,
        })
    }

    /// The image's own variables. A path inside the image is really below the slot's folder, so it is rewritten where
    /// it leads to something.
    fn image_env(&self, record: &SlotRecord) -> BTreeMap<String, String> {
        let real = |value: &String| {
            let path = self.inside(value);
            let is_inside = value.starts_with('/') && value.len() > 1 && path.exists();
            if is_inside { text(&path).unwrap_or_else(|_| value.clone()) } else { value.clone() }
        };
        record.env.iter().map(|(name, value)| (name.clone(), real(value))).collect()
    }

    fn inside(&self, path: &str) -> PathBuf {
        self.rootfs().join(path.trim_start_matches('/'))
    }

    fn replica(&self, index: u32) -> Replica {
        Replica::new(self.path.join(index.to_string()))
    }

    /// The folders of its processes, as many as were ever started.
    pub(crate) fn replicas(&self) -> Vec<Replica> {
        (0..).map(|index| self.replica(index)).take_while(|replica| replica.folder().exists()).collect()
    }

    /// Where one of its processes listens.
    pub(crate) fn address(replica: &Replica) -> Option<SocketAddr> {
        let port = replica.spec().ok()?.port?;
        Some(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
    }

    /// When its processes were last started, if ever; for ordering only.
    pub(crate) fn last_started(&self) -> Option<std::time::SystemTime> {
        let specs = self.replicas().into_iter().map(|replica| replica.spec_path());
        specs.filter_map(|path| fs::metadata(path).ok()?.modified().ok()).max()
    }

    /// Whether anything runs that belongs to the slot, with or without a supervisor.
    pub(crate) fn is_running(&self) -> bool {
        self.replicas().iter().any(Replica::is_running)
            || !crate::process::running_from(&self.rootfs()).is_empty()
    }

    /// Stops everything that belongs to the slot. Nothing happens where nothing runs.
    pub(crate) fn stop(&self) -> Result<()> {
        let stopped: Vec<Result<()>> = std::thread::scope(|scope| {
            let replicas = self.replicas();
            let stops: Vec<_> =
                replicas.into_iter().map(|replica| scope.spawn(move || replica.stop())).collect();
            stops.into_iter().map(|stop| stop.join().unwrap_or_else(|_| bail!("stopping panicked"))).collect()
        });
        // A process that its supervisor had no time to write down is still known by the program that it runs.
        let is_empty = crate::replica::wait_until(KILL_TIMEOUT, || {
            let rest = crate::process::running_from(&self.rootfs());
            rest.iter().for_each(|process| drop(process.signal(Signal::KILL)));
            rest.is_empty()
        });
        stopped.into_iter().collect::<Result<()>>()?;
        ensure!(is_empty, "processes of the slot {} do not end", self.name);
        Ok(())
    }

    /// Removes the folder, unless something runs from it.
    pub(crate) fn remove(&self) -> Result<()> {
        ensure!(!self.is_running(), "the slot {} still runs", self.name);
        stdx::fs::remove_dir_all(&self.path)
    }
}

impl SlotRecord {
    /// The names of the variables that the image sets.
    pub(crate) fn variables(&self) -> impl Iterator<Item = &String> {
        self.env.keys()
    }
}

fn record(service: &str, target: &TargetService, config: RunConfig, files: Digest) -> Result<SlotRecord> {
    let mut command = config.entrypoint;
    command.extend(config.cmd);
    ensure!(
        command.first().is_some_and(|program| program.starts_with('/')),
        "the image names no program by its absolute path"
    );
    Ok(SlotRecord {
        schema: SCHEMA.to_owned(),
        service: service.to_owned(),
        run: target.run,
        image: target.image,
        files,
        has_port: target.port_env.is_some(),
        replicas: target.replicas,
        command,
        env: config.env.into_iter().collect(),
        working_dir: config.working_dir,
    })
}

impl Ports {
    /// A port that nobody listens on and no slot of the environment has. The search begins at a place that depends on
    /// the slot, so that environments side by side seldom look at the same port at the same time.
    fn take(&self, state: &StateFolder, slot: &str, index: u32) -> Result<u16> {
        let mut given = self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        for folder in SlotFolder::all(state)? {
            if folder.name != slot {
                let addresses =
                    folder.replicas().into_iter().filter_map(|replica| SlotFolder::address(&replica));
                given.extend(addresses.map(|address| address.port()));
            }
        }
        let mut hasher = DefaultHasher::new();
        (state.root(), slot, index).hash(&mut hasher);
        let (first, count) = (PORTS.start, PORTS.end - PORTS.start);
        let start = u16::try_from(hasher.finish() % u64::from(count)).unwrap_or(0);
        let mut candidates = (0..count).map(|offset| first + (start + offset) % count);
        let is_free =
            |port: &u16| !given.contains(port) && TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
        let port = candidates.find(is_free);
        let port = port.with_context(|| format!("no port from {first} to {} is free", PORTS.end - 1))?;
        given.insert(port);
        Ok(port)
    }
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).with_context(|| format!("{} is not UTF-8", path.display()))
}

/// The digest of names, kinds, modes and contents of everything below `folder`.
fn tree_digest(folder: &Path) -> Result<Digest> {
    let mut lines = Vec::new();
    collect(folder, folder, &mut lines)?;
    lines.sort();
    Ok(Digest::of(lines.join("\n")))
}

fn collect(root: &Path, folder: &Path, lines: &mut Vec<String>) -> Result<()> {
    let context = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(context)? {
        let path = entry.with_context(context)?.path();
        let meta = fs::symlink_metadata(&path).with_context(context)?;
        let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().escape_debug().to_string();
        let mode = meta.permissions().mode();
        if meta.is_dir() {
            lines.push(format!("{name} {mode:o}"));
            collect(root, &path, lines)?;
        } else if meta.is_symlink() {
            lines.push(format!(
                "{name} -> {}",
                fs::read_link(&path).with_context(context)?.to_string_lossy().escape_debug()
            ));
        } else {
            let (digest, size) = Digest::of_reader(stdx::fs::open(&path)?).with_context(context)?;
            lines.push(format!("{name} {mode:o} {size} {digest} {}", meta.nlink()));
        }
    }
    Ok(())
}
