//! What runs slots, as the rest of this crate needs it: one trait with a driver for each platform. It says what can be
//! done with a slot and what can be seen of it; which slot should serve, and in which order things happen, is decided
//! elsewhere. Invariant: everything is looked at anew with each call, and what cannot be looked at is an error, never
//! an empty answer: recovery stops and removes what it believes to be left over.

mod docker;
mod process;
mod record;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use anyhow::Result;
use release::HealthCheck;
use stdx::Digest;

use self::docker::Docker;
use self::process::Process;
pub(crate) use self::record::PlatformRecord;

use crate::environment::PlatformSettings;
use crate::gate::{self, Answer};
use crate::operation::Site;
use crate::outcome::Error;
use crate::process::ProcessId;
use crate::replica::Exit;
use crate::state::StateFolder;
use crate::target::TargetService;
use stdx::yaml::Problem;

/// How long a port may take to accept a connection where there is no health check.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Runs slots. Every method may be called from several threads, for different slots at the same time.
pub(crate) trait Platform: Sync {
    /// The names of all slots that are there, finished or not, sorted.
    fn slots(&self) -> Result<Vec<String>>;

    /// What the slot is; `None` for one that is not there or was never finished.
    fn describe(&self, slot: &str) -> Result<Option<Description>>;

    /// What runs, or ran, as this slot, in the order of their numbers.
    fn instances(&self, slot: &str) -> Result<Vec<Instance>>;

    /// Whether anything runs that belongs to the slot.
    fn is_running(&self, slot: &str) -> Result<bool>;

    /// When the slot was last started, if ever; for ordering only.
    fn last_started(&self, slot: &str) -> Result<Option<SystemTime>>;

    /// Makes what all slots share.
    fn ready(&self) -> Result<()>;

    /// The address under which slots reach this machine where it is not the loopback address; `None` as long as
    /// [`Platform::ready`] was never called.
    fn gateway(&self) -> Result<Option<Ipv4Addr>>;

    /// Looks whether there is room for the slots that are to be prepared, before anything is changed, and returns what
    /// the operator should know.
    fn check(&self, prepared: &[NewSlot<'_>], site: &Site<'_>) -> Result<Vec<String>>;

    /// Makes everything that the slot is started from. What was there before under this name is removed.
    fn prepare(&self, new: &NewSlot<'_>, site: &Site<'_>) -> Result<()>;

    /// Whether a slot that was kept is still what was prepared.
    fn is_intact(&self, slot: &str) -> Result<bool>;

    /// Starts all instances of a prepared slot. Whoever ends before [`Platform::keep_running`] may stay ended.
    fn start(&self, new: &NewSlot<'_>, site: &Site<'_>) -> Result<()>;

    /// From now on each instance is started again whenever it ends, until the slot is stopped.
    fn keep_running(&self, slot: &str) -> Result<()>;

    /// Stops everything that belongs to the slot, by the service's own signal and grace. Nothing happens where nothing
    /// runs.
    fn stop(&self, slot: &str) -> Result<()>;

    /// Removes all of a slot, unless something of it runs. Nothing happens where there is nothing.
    fn remove(&self, slot: &str) -> Result<()>;

    /// Removes what belongs to no slot any more: traces of a deployer that was killed.
    fn tidy(&self) -> Result<()>;

    /// The last `lines` lines that an instance wrote, oldest first, and what it writes from then on.
    fn log(&self, slot: &str, number: usize, lines: usize) -> Result<(Vec<String>, Box<dyn Follow>)>;

    /// The variables, without secrets, that the slot's instances were started with; for comparison, never to be shown.
    fn variables(&self, slot: &str) -> Result<BTreeMap<String, String>>;

    /// The names of the volumes that hold data of services, sorted.
    fn volumes(&self) -> Result<Vec<String>>;

    /// Deletes a volume with its data.
    fn remove_volume(&self, name: &str) -> Result<()>;
}

/// What is added to a log.
pub(crate) trait Follow {
    /// The whole lines that were added since the last call.
    fn lines(&mut self) -> Result<Vec<String>>;
}

/// A slot that is to be prepared or started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NewSlot<'a> {
    /// Its name.
    pub(crate) name: &'a str,
    /// The service.
    pub(crate) service: &'a str,
    /// How it shall run.
    pub(crate) target: &'a TargetService,
    /// Identity of the release that it belongs to.
    pub(crate) release: Digest,
}

/// What a finished slot is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// The service whose slot it is.
    pub(crate) service: String,
    /// What it was made for.
    pub(crate) run: Digest,
    /// Its image.
    pub(crate) image: Digest,
    /// Whether it listens on a port.
    pub(crate) has_port: bool,
    /// How many instances it has when it runs.
    pub(crate) replicas: u32,
    /// The names of the variables that the image sets.
    pub(crate) variables: BTreeSet<String>,
}

/// One process or container of a slot, as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Instance {
    /// Where it listens; `None` for one without a port.
    pub(crate) address: Option<SocketAddr>,
    /// Whether it runs now.
    pub(crate) is_running: bool,
    /// Whether it is started again when it ends.
    pub(crate) is_supervised: bool,
    /// Its process, where that is known.
    pub(crate) process: Option<ProcessId>,
    /// The name of its container, if it is one.
    pub(crate) container: Option<String>,
    /// Time since its start.
    pub(crate) uptime_ms: Option<u64>,
    /// How often it was started again.
    pub(crate) restarts: u32,
    /// Its ends since it was started, oldest first, as far as they are known.
    pub(crate) exits: Vec<Exit>,
}

impl Instance {
    /// Asks once whether it is fit to serve.
    pub(crate) fn ask(&self, health: Option<&HealthCheck>) -> Answer {
        if !self.is_running {
            return Answer::None { reason: "the process does not run".to_owned() };
        }
        match (self.address, health) {
            (Some(address), Some(health)) => {
                gate::get(address, &health.path, Duration::from_millis(health.timeout_ms))
            }
            (Some(address), None) => match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                Ok(_) => Answer::Alive,
                Err(error) => Answer::None { reason: error.to_string() },
            },
            (None, _) => Answer::Alive,
        }
    }
}

/// The platform that runs the environment's slots, as the environment remembers it.
pub(crate) fn open(state: &StateFolder) -> Result<Box<dyn Platform>, Error> {
    match PlatformRecord::load(state)? {
        Some(record) => connect(state, record),
        None => Ok(Box::new(Process::new(state.clone()))),
    }
}

fn connect(state: &StateFolder, record: PlatformRecord) -> Result<Box<dyn Platform>, Error> {
    match &record.settings {
        PlatformSettings::Process => Ok(Box::new(Process::new(state.clone()))),
        PlatformSettings::Docker(_) => Ok(Box::new(Docker::connect(record)?)),
    }
}

/// The platform that an environment file asks for. Another one than that which runs the environment's slots is only
/// taken where nothing runs.
pub(crate) fn choose(state: &StateFolder, name: &str, settings: &PlatformSettings) -> Result<Choice, Error> {
    let settings = match settings {
        PlatformSettings::Process => PlatformSettings::Process,
        PlatformSettings::Docker(settings) => PlatformSettings::Docker(docker::resolved(settings)?),
    };
    let known = PlatformRecord::load(state)?;
    let present = known.as_ref().map_or(&PlatformSettings::Process, |record| &record.settings);
    if !is_same_place(present, &settings) {
        let old = open(state)?;
        if let Some(slot) = running(&*old)?.first() {
            let message = format!(
                "{slot} and maybe others still run on {}: call `down` first, then deploy to {}",
                place(present),
                place(&settings)
            );
            return Err(Problem::new("platform", message).into());
        }
        let record = PlatformRecord::new(name, settings)?;
        return Ok(Choice { platform: connect(state, record.clone())?, record, former: Some(old) });
    }
    let record = match known {
        Some(mut record) => {
            record.settings = settings;
            record
        }
        None => PlatformRecord::new(name, settings)?,
    };
    Ok(Choice { platform: connect(state, record.clone())?, record, former: None })
}

/// A platform that was chosen and may not be written down yet.
pub(crate) struct Choice {
    pub(crate) platform: Box<dyn Platform>,
    record: PlatformRecord,
    /// The one that ran slots before, of which nothing runs any more.
    former: Option<Box<dyn Platform>>,
}

impl Choice {
    /// Has the environment remember it. What the former one kept is removed: nobody could start it again.
    pub(crate) fn keep(self, state: &StateFolder) -> Result<Box<dyn Platform>, Error> {
        if let Some(former) = self.former {
            for slot in former.slots()? {
                former.remove(&slot)?;
            }
        }
        if PlatformRecord::load(state)?.as_ref() != Some(&self.record) {
            self.record.write(state)?;
        }
        Ok(self.platform)
    }
}

/// Whether slots on the one can be seen and stopped on the other.
fn is_same_place(one: &PlatformSettings, other: &PlatformSettings) -> bool {
    match (one, other) {
        (PlatformSettings::Process, PlatformSettings::Process) => true,
        (PlatformSettings::Docker(one), PlatformSettings::Docker(other)) => one.host == other.host,
        (PlatformSettings::Process | PlatformSettings::Docker(_), _) => false,
    }
}

fn place(settings: &PlatformSettings) -> String {
    match settings {
        PlatformSettings::Process => "this machine's processes".to_owned(),
        PlatformSettings::Docker(settings) => {
            format!("the Docker engine {}", settings.host.as_deref().unwrap_or("of this machine"))
        }
    }
}

/// Where the instances of the slot listen.
pub(crate) fn upstreams(platform: &dyn Platform, slot: &str) -> Result<Vec<SocketAddr>> {
    Ok(platform.instances(slot)?.into_iter().filter_map(|instance| instance.address).collect())
}

/// The slots of which anything runs.
pub(crate) fn running(platform: &dyn Platform) -> Result<BTreeSet<String>> {
    let mut running = BTreeSet::new();
    for slot in platform.slots()? {
        if platform.is_running(&slot)? {
            running.insert(slot);
        }
    }
    Ok(running)
}
