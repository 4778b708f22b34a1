//! A container as a value, hardened unless it says otherwise, and what the engine is told so that it is so. It asks nobody: what an
//! image says and what an engine can do is passed in.
//!
//! Invariant: what this engine cannot honour is refused, never left out.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bollard::models::{
    ContainerCreateBody, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig, HostConfigLogConfig,
    Mount as LowMount, MountType, NetworkingConfig, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};

use crate::Labels;
use crate::engine::{check_name, check_path};
use crate::error::{Error, Result};
use crate::facts::Facts;
use crate::secrets::Secret;

/// As whom a program runs whose image does not say it: nobody's number on usual hosts.
pub const DEFAULT_UID: u32 = 10_001;
/// The least memory that the engine accepts as a limit.
const LEAST_MEMORY: u64 = 6 << 20;
/// Processes and threads; a leak ends here, not at the machine's end.
const DEFAULT_PIDS: u32 = 512;
/// Of a folder in memory; it counts as the container's memory.
const DEFAULT_TMPFS: u64 = 64 << 20;

/// Everything that a container is made of. [`ContainerSpec::new`] gives the hardened form: no right to anything but its own memory,
/// its networks and what is listed here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSpec {
    /// Its name on the engine; nobody else can have it at the same time.
    pub name: String,
    /// Id of its image, as a transfer or pull gave it.
    pub image: String,
    /// What runs.
    pub command: Command,
    /// On top of the image's environment. Secrets have no place here: everybody who may ask the engine can read it.
    pub env: BTreeMap<String, String>,
    /// By which it is found again.
    pub labels: Labels,
    /// Networks, the first one before it is started; without any it has no network at all.
    pub networks: Vec<Attachment>,
    /// What is mounted into it.
    pub mounts: Vec<Mount>,
    /// Files in `/run/secrets`, in memory, for its user alone.
    pub secrets: Vec<Secret>,
    /// As whom it runs.
    pub user: User,
    /// What it may use.
    pub limits: Limits,
    /// What is kept of its output.
    pub log: LogRotation,
    /// Whether the engine starts it again by itself.
    pub restart: Restart,
    /// Signal that asks it to stop; the image's where `None`.
    pub stop_signal: Option<String>,
    /// How long it may take to stop before it is killed, also when the engine is shut down.
    pub stop_grace: Duration,
    /// Whether the program may write beside its mounts.
    pub root_filesystem: RootFilesystem,
    /// Capabilities that it has all the same: `NET_BIND_SERVICE`.
    pub capabilities: Vec<String>,
    /// Whether the engine runs the image's health check.
    pub health_check: HealthCheck,
}

/// What runs in a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Command {
    /// What the image says.
    #[default]
    OfImage,
    /// The image's program with these arguments.
    Arguments(Vec<String>),
    /// This program with its arguments.
    Whole(Vec<String>),
}

/// A network that a container is in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Name of the network.
    pub network: String,
    /// Names by which others in the network find it, beside its own.
    pub aliases: Vec<String>,
    /// A fixed address; the network must have been made with a subnet.
    pub address: Option<IpAddr>,
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// Where it is in the container.
    pub target: PathBuf,
    /// What it is.
    pub source: MountSource,
    /// Whether the program may write there.
    pub access: Access,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// The volume of this name.
    Volume(String),
    /// A folder or file of the engine's machine, which must be there.
    Host(PathBuf),
    /// Memory, empty at each start: so many bytes at most.
    Memory(u64),
}

/// What a program may do with a mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Read.
    ReadOnly,
    /// Read and write.
    ReadWrite,
}

/// As whom a container runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum User {
    /// As the image says, if that is a number other than 0; as [`DEFAULT_UID`] where it says nothing.
    #[default]
    OfImage,
    /// As this user and group.
    Id {
        /// Number of the user.
        uid: u32,
        /// Number of the group.
        gid: u32,
    },
    /// As root of its own container, without capabilities.
    Root,
}

/// What a container may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Memory, without swap; unlimited where `None`.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor; unlimited where `None`.
    pub cpu_milli: Option<u32>,
    /// Processes and threads.
    pub pids: u32,
    /// Open files of each process; what the engine gives where `None`. It cannot give more than it may have itself.
    pub open_files: Option<u64>,
}

/// What the engine keeps of a container's output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogRotation {
    /// A file is at most so long.
    pub max_bytes: u64,
    /// So many files are kept.
    pub files: u32,
}

/// Whether the engine starts a container again by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Restart {
    /// Never.
    #[default]
    Never,
    /// When it failed, so many times at most.
    OnFailure(u32),
    /// Whenever it ended, and when the machine starts, until it is stopped by somebody.
    UnlessStopped,
}

/// Whether a container's program may write beside its mounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RootFilesystem {
    /// It may not.
    #[default]
    ReadOnly,
    /// It may; what it writes goes with the container.
    Writable,
}

/// Whether the engine checks a container's health.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HealthCheck {
    /// As the image says.
    #[default]
    OfImage,
    /// Not at all.
    Off,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { memory_bytes: None, cpu_milli: None, pids: DEFAULT_PIDS, open_files: None }
    }
}

impl Default for LogRotation {
    fn default() -> LogRotation {
        LogRotation { max_bytes: 10 << 20, files: 3 }
    }
}

impl Mount {
    /// A folder in memory, of the usual size.
    pub fn memory(target: impl Into<PathBuf>) -> Mount {
        Mount { target: target.into(), source: MountSource::Memory(DEFAULT_TMPFS), access: Access::ReadWrite }
    }
}

impl Attachment {
    /// The network of this name, with an address that the engine chooses.
    pub fn to(network: impl Into<String>) -> Attachment {
        Attachment { network: network.into(), aliases: Vec::new(), address: None }
    }
}

impl ContainerSpec {
    /// The image's program, hardened: root file system read-only with `/tmp` in memory, no capability, no way to get one, not root,
    /// bounded processes and logs, no network, never started again by itself.
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> ContainerSpec {
        ContainerSpec {
            name: name.into(),
            image: image.into(),
            command: Command::OfImage,
            env: BTreeMap::new(),
            labels: Labels::new(),
            networks: Vec::new(),
            mounts: vec![Mount::memory("/tmp")],
            secrets: Vec::new(),
            user: User::OfImage,
            limits: Limits::default(),
            log: LogRotation::default(),
            restart: Restart::Never,
            stop_signal: None,
            stop_grace: Duration::from_secs(10),
            root_filesystem: RootFilesystem::ReadOnly,
            capabilities: Vec::new(),
            health_check: HealthCheck::OfImage,
        }
    }

    /// Refuses what no engine or not this one can honour.
    pub(crate) fn check(&self, facts: &Facts) -> Result<()> {
        let what = self.what();
        let refuse = |problem: String| Err(Error::unsupported(what.clone(), problem));
        check_name(&what, &self.name)?;
        for name in self.env.keys() {
            if name.is_empty() || name.contains(['=', '\0']) {
                return refuse(format!("`{name}` is no name of a variable"));
            }
        }
        if let Some((name, _)) = self.env.iter().find(|(_, value)| value.contains('\0')) {
            return refuse(format!("the variable {name} has a zero byte"));
        }
        if let Command::Whole(command) = &self.command
            && command.is_empty()
        {
            return refuse("the command is empty".to_owned());
        }
        for attachment in &self.networks {
            check_name(&what, &attachment.network)?;
        }
        for mount in &self.mounts {
            mount.check(&what)?;
        }
        self.check_targets()?;
        self.check_limits(facts)
    }

    fn check_targets(&self) -> Result<()> {
        let mut targets: Vec<&Path> = self.mounts.iter().map(|mount| mount.target.as_path()).collect();
        if !self.secrets.is_empty() {
            targets.push(Path::new(crate::secrets::TARGET));
        }
        targets.sort();
        match targets.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => {
                Err(Error::unsupported(self.what(), format!("{} is mounted twice", pair[0].display())))
            }
            None => Ok(()),
        }
    }

    fn check_limits(&self, facts: &Facts) -> Result<()> {
        let refuse = |problem: String| Err(Error::unsupported(self.what(), problem));
        let Limits { memory_bytes, cpu_milli, pids, open_files } = self.limits;
        if memory_bytes.is_some_and(|bytes| bytes < LEAST_MEMORY) {
            return refuse(
                "the limit of memory is less than 6 MiB, which is the least that an engine takes".to_owned(),
            );
        }
        if let Some(milli) = cpu_milli
            && (milli == 0 || u64::from(milli) > u64::from(facts.cpus) * 1000)
        {
            return refuse(format!(
                "{milli} thousandths of a processor, and the machine has {} processors",
                facts.cpus
            ));
        }
        if pids == 0 || open_files == Some(0) || self.log.files == 0 || self.log.max_bytes == 0 {
            return refuse("a limit of 0".to_owned());
        }
        let missing = [
            ("memory", memory_bytes.is_some() && !facts.can_limit.memory),
            ("processors", cpu_milli.is_some() && !facts.can_limit.cpus),
            ("processes", !facts.can_limit.pids),
        ];
        match missing.iter().find(|(_, is_missing)| *is_missing) {
            Some((limit, _)) => {
                refuse(format!("the engine's machine cannot limit {limit}: its kernel has no such cgroup"))
            }
            None => Ok(()),
        }
    }

    /// Numbers of user and group, by what the image says.
    pub(crate) fn identity(&self, of_image: &str) -> Result<(u32, u32)> {
        match self.user {
            User::Root => Ok((0, 0)),
            User::Id { uid: 0, .. } => {
                Err(Error::unsupported(self.what(), "user 0 is root; say so with `User::Root`"))
            }
            User::Id { uid, gid } => Ok((uid, gid)),
            User::OfImage => {
                identity_of_image(of_image).map_err(|problem| Error::unsupported(self.what(), problem))
            }
        }
    }

    /// What the engine is told. `secrets` is the folder of the engine's machine that has them.
    pub(crate) fn lower(&self, (uid, gid): (u32, u32), secrets: Option<&Path>) -> ContainerCreateBody {
        let (entrypoint, cmd) = match &self.command {
            Command::OfImage => (None, None),
            Command::Arguments(arguments) => (None, Some(arguments.clone())),
            // With an entry point of ours the engine leaves the image's arguments away.
            Command::Whole(command) => (Some(command.clone()), None),
        };
        let health = (self.health_check == HealthCheck::Off)
            .then(|| HealthConfig { test: Some(vec!["NONE".to_owned()]), ..HealthConfig::default() });
        ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint,
            cmd,
            user: Some(format!("{uid}:{gid}")),
            env: Some(self.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
            labels: Some(self.labels.clone().into_iter().collect()),
            stop_signal: self.stop_signal.clone(),
            stop_timeout: Some(seconds(self.stop_grace)),
            healthcheck: health,
            host_config: Some(self.host_config(secrets)),
            networking_config: self.networks.first().map(|first| NetworkingConfig {
                endpoints_config: Some(HashMap::from([(first.network.clone(), first.lower())])),
            }),
            ..ContainerCreateBody::default()
        }
    }

    fn host_config(&self, secrets: Option<&Path>) -> HostConfig {
        let memory = self.limits.memory_bytes.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX));
        let files = self.limits.open_files.map(|files| i64::try_from(files).unwrap_or(i64::MAX));
        let mut mounts: Vec<LowMount> = self.mounts.iter().filter_map(Mount::lower).collect();
        mounts
            .extend(secrets.map(|folder| bind(folder, Path::new(crate::secrets::TARGET), Access::ReadOnly)));
        HostConfig {
            readonly_rootfs: Some(self.root_filesystem == RootFilesystem::ReadOnly),
            cap_drop: Some(vec!["ALL".to_owned()]),
            cap_add: Some(self.capabilities.clone()),
            security_opt: Some(vec!["no-new-privileges:true".to_owned()]),
            privileged: Some(false),
            init: Some(false),
            network_mode: Some(
                self.networks.first().map_or_else(|| "none".to_owned(), |first| first.network.clone()),
            ),
            publish_all_ports: Some(false),
            memory,
            // Memory and swap together: none is left for swap.
            memory_swap: memory,
            nano_cpus: self.limits.cpu_milli.map(|milli| i64::from(milli) * 1_000_000),
            pids_limit: Some(i64::from(self.limits.pids)),
            ulimits: files.map(|files| {
                vec![ResourcesUlimits {
                    name: Some("nofile".to_owned()),
                    soft: Some(files),
                    hard: Some(files),
                }]
            }),
            log_config: Some(self.log.lower()),
            restart_policy: Some(self.restart.lower()),
            auto_remove: Some(false),
            mounts: Some(mounts),
            tmpfs: Some(self.mounts.iter().filter_map(Mount::tmpfs).collect()),
            ..HostConfig::default()
        }
    }

    fn what(&self) -> String {
        format!("create the container {}", self.name)
    }
}

/// Whole seconds, at least as long: the engine counts in seconds.
pub(crate) fn seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i64::MAX)
}

/// Source: the engine's reference, "USER": `user[:group]`, each a name or a number.
fn identity_of_image(user: &str) -> std::result::Result<(u32, u32), String> {
    if user.is_empty() {
        return Ok((DEFAULT_UID, DEFAULT_UID));
    }
    let (uid, gid) = user.split_once(':').map_or((user, None), |(uid, gid)| (uid, Some(gid)));
    let number = |text: &str| text.parse::<u32>().ok();
    match (number(uid), gid.map(number)) {
        (Some(0), _) => Err(format!("the image runs as root (`{user}`); name another user, or root")),
        // The engine would take group 0, root's.
        (Some(uid), None) => Ok((uid, uid)),
        (Some(uid), Some(Some(gid))) => Ok((uid, gid)),
        _ if uid == "root" => Err(format!("the image runs as root (`{user}`); name another user, or root")),
        _ => Err(format!(
            "the image runs as `{user}`, and which number that is cannot be known without starting it; name the numbers"
        )),
    }
}

impl Attachment {
    pub(crate) fn lower(&self) -> EndpointSettings {
        let (ipv4_address, ipv6_address) = match self.address {
            Some(IpAddr::V4(address)) => (Some(address.to_string()), None),
            Some(IpAddr::V6(address)) => (None, Some(address.to_string())),
            None => (None, None),
        };
        let fixed = self.address.is_some();
        EndpointSettings {
            aliases: Some(self.aliases.clone()),
            ipam_config: fixed.then(|| EndpointIpamConfig {
                ipv4_address,
                ipv6_address,
                ..EndpointIpamConfig::default()
            }),
            ..EndpointSettings::default()
        }
    }
}

impl Mount {
    fn check(&self, what: &str) -> Result<()> {
        check_path(what, &self.target)?;
        match &self.source {
            MountSource::Volume(name) => check_name(what, name),
            MountSource::Host(path) => check_path(what, path),
            MountSource::Memory(0) => {
                Err(Error::unsupported(what, format!("{} has no room", self.target.display())))
            }
            MountSource::Memory(_) => Ok(()),
        }
    }

    fn lower(&self) -> Option<LowMount> {
        match &self.source {
            MountSource::Volume(name) => Some(LowMount {
                typ: Some(MountType::VOLUME),
                source: Some(name.clone()),
                target: Some(self.target.display().to_string()),
                read_only: Some(self.access == Access::ReadOnly),
                ..LowMount::default()
            }),
            MountSource::Host(path) => Some(bind(path, &self.target, self.access)),
            MountSource::Memory(_) => None,
        }
    }

    fn tmpfs(&self) -> Option<(String, String)> {
        let MountSource::Memory(bytes) = self.source else { return None };
        let access = match self.access {
            Access::ReadOnly => "ro",
            Access::ReadWrite => "rw",
        };
        Some((
            self.target.display().to_string(),
            format!("{access},noexec,nosuid,nodev,mode=1777,size={bytes}"),
        ))
    }
}

/// A mount of a folder that must be there: the engine would make a missing one, which is nobody's wish, if it were told otherwise.
pub(crate) fn bind(source: &Path, target: &Path, access: Access) -> LowMount {
    LowMount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.display().to_string()),
        read_only: Some(access == Access::ReadOnly),
        ..LowMount::default()
    }
}

impl LogRotation {
    /// In the form that other programs read, too.
    fn lower(self) -> HostConfigLogConfig {
        let config = [("max-size", self.max_bytes.to_string()), ("max-file", self.files.to_string())];
        HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(config.map(|(name, value)| (name.to_owned(), value)).into()),
        }
    }
}

impl Restart {
    pub(crate) fn lower(self) -> RestartPolicy {
        let (name, retries) = match self {
            Restart::Never => (RestartPolicyNameEnum::NO, None),
            Restart::OnFailure(times) => (RestartPolicyNameEnum::ON_FAILURE, Some(i64::from(times))),
            Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        };
        RestartPolicy { name: Some(name), maximum_retry_count: retries }
    }
}

#[cfg(test)]
mod tests;
