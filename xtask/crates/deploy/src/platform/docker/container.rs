//! What a container of a slot is made of, and what it says of itself afterwards. Pure: names, labels and limits from
//! what shall run. Invariant: no secret is in a label, a variable or a name.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use docker::{
    Access, Attachment, Container, ContainerSpec, HealthCheck, Labels, Limits, Mount, MountSource, Phase,
    Restart, Secret, SecretValue,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::platform::{Description, Instance, NewSlot, PlatformRecord};
use crate::replica::Exit;

/// The value of `schema` in a label that this version reads and writes.
const SCHEMA: &str = "slipway.docker-slot/1";

/// Labels by which things of ours are found again, and which people can filter by.
pub(super) const ENVIRONMENT: &str = "dev.slipway.environment";
pub(super) const STATE: &str = "dev.slipway.state";
pub(super) const SLOT: &str = "dev.slipway.slot";
/// Everything that is to be known of a slot's container.
const RECORD: &str = "dev.slipway.record";

/// Where a container finds its secrets; the docker crate puts them there.
const SECRETS: &str = "/run/secrets";

/// What a container of ours says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SlotLabel {
    schema: String,
    service: String,
    run: Digest,
    pub(super) image: Digest,
    port: Option<u16>,
    address: Ipv4Addr,
    pub(super) number: u32,
    replicas: u32,
    grace_ms: u64,
    pub(super) volumes: BTreeSet<String>,
    pub(super) has_secrets: bool,
    memory_bytes: Option<u64>,
    /// The names of the variables that the image sets.
    image_variables: BTreeSet<String>,
    /// The variables that we set: no secrets.
    pub(super) env: BTreeMap<String, String>,
}

/// The labels that everything of the environment carries.
pub(super) fn labels(record: &PlatformRecord) -> Labels {
    [(ENVIRONMENT, &record.environment), (STATE, &record.id)]
        .map(|(name, value)| (name.to_owned(), value.clone()))
        .into()
}

/// The name of a slot's container: numbers for people begin at 1.
pub(super) fn container_name(record: &PlatformRecord, slot: &str, number: u32) -> String {
    format!("{}-{slot}-{}", record.environment, number + 1)
}

/// The name of a volume on the engine, which is shared by all environments there.
pub(super) fn volume_name(record: &PlatformRecord, volume: &str) -> String {
    format!("{}-{volume}", record.environment)
}

/// The name under which the engine keeps the image of a slot.
pub(super) fn reference(record: &PlatformRecord, service: &str, image: &Digest) -> String {
    format!("slipway-{}:{}-{service}", record.environment, image.short())
}

/// Everything that decides about the container with this number.
pub(super) struct Plan<'a> {
    pub(super) record: &'a PlatformRecord,
    pub(super) new: &'a NewSlot<'a>,
    /// The engine's id of the image.
    pub(super) image: String,
    pub(super) image_variables: BTreeSet<String>,
    pub(super) network: String,
}

impl Plan<'_> {
    /// The container with this number, at this address. The engine does not start it again by itself until its slot
    /// passed the gate: the end of one that was started again leaves no trace.
    pub(super) fn spec(&self, number: u32, address: Ipv4Addr) -> Result<ContainerSpec> {
        let (new, target) = (self.new, self.new.target);
        let label = self.label(number, address);
        let mut labels = labels(self.record);
        labels.insert(SLOT.to_owned(), new.name.to_owned());
        labels.insert("dev.slipway.service".to_owned(), new.service.to_owned());
        labels.insert("dev.slipway.run".to_owned(), target.run.to_string());
        labels.insert("dev.slipway.release".to_owned(), new.release.to_string());
        labels.insert("dev.slipway.image".to_owned(), target.image.to_string());
        labels.insert("dev.slipway.number".to_owned(), (number + 1).to_string());
        labels.insert(RECORD.to_owned(), serde_json::to_string(&label)?);
        let mut spec = ContainerSpec::new(container_name(self.record, new.name, number), self.image.clone());
        spec.env = label.env;
        spec.labels = labels;
        spec.networks = vec![Attachment {
            network: self.network.clone(),
            aliases: Vec::new(),
            address: Some(IpAddr::V4(address)),
        }];
        spec.mounts.extend(target.volumes.iter().map(|volume| Mount {
            target: PathBuf::from(&volume.path),
            source: MountSource::Volume(volume_name(self.record, &volume.name)),
            access: Access::ReadWrite,
        }));
        let secret = |(name, value): (&String, &crate::target::Secret)| Secret {
            name: name.clone(),
            value: SecretValue::new(value.reveal().as_bytes()),
        };
        spec.secrets = target.secrets.iter().map(secret).collect();
        spec.limits = Limits {
            memory_bytes: target.resources.memory_bytes,
            open_files: target.resources.open_files.or(Limits::default().open_files),
            ..Limits::default()
        };
        spec.restart = Restart::Never;
        spec.stop_signal = Some(target.stop.signal.clone());
        spec.stop_grace = Duration::from_millis(target.stop.grace_ms);
        // The gate asks over the path that traffic takes; the engine's own question would be another one.
        spec.health_check = HealthCheck::Off;
        Ok(spec)
    }

    fn label(&self, number: u32, address: Ipv4Addr) -> SlotLabel {
        let target = self.new.target;
        SlotLabel {
            schema: SCHEMA.to_owned(),
            service: self.new.service.to_owned(),
            run: target.run,
            image: target.image,
            port: target.port,
            address,
            number,
            replicas: target.replicas,
            grace_ms: target.stop.grace_ms,
            volumes: target.volumes.iter().map(|volume| volume.name.clone()).collect(),
            has_secrets: !target.secrets.is_empty(),
            memory_bytes: target.resources.memory_bytes,
            image_variables: self.image_variables.clone(),
            env: self.env(),
        }
    }

    /// The values on top of the image's own, with what the platform tells: port, folders, and where secrets are.
    fn env(&self) -> BTreeMap<String, String> {
        let target = self.new.target;
        let mut env = target.env.clone();
        if let (Some(name), Some(port)) = (&target.port_env, target.port) {
            env.insert(name.clone(), port.to_string());
        }
        for volume in &target.volumes {
            if let Some(name) = &volume.path_env {
                env.insert(name.clone(), volume.path.clone());
            }
        }
        for name in target.secrets.keys() {
            env.insert(format!("{name}_FILE"), format!("{SECRETS}/{name}"));
        }
        env
    }
}

impl SlotLabel {
    /// What the container says of itself; `None` for one that is not of a slot, or of another version.
    pub(super) fn of(labels: &Labels) -> Option<SlotLabel> {
        let label: SlotLabel = serde_json::from_str(labels.get(RECORD)?).ok()?;
        (label.schema == SCHEMA).then_some(label)
    }

    pub(super) fn description(&self) -> Description {
        Description {
            service: self.service.clone(),
            run: self.run,
            image: self.image,
            has_port: self.port.is_some(),
            replicas: self.replicas,
            variables: self.image_variables.clone(),
        }
    }

    pub(super) fn address(&self) -> Ipv4Addr {
        self.address
    }

    pub(super) fn grace(&self) -> Duration {
        Duration::from_millis(self.grace_ms)
    }

    pub(super) fn reference(&self, record: &PlatformRecord) -> String {
        reference(record, &self.service, &self.image)
    }

    /// The container as it is.
    pub(super) fn instance(&self, found: &Container, now: Timestamp) -> Instance {
        let is_running = matches!(found.phase, Phase::Running | Phase::Paused);
        let since = |at: &Option<String>| Some(now.duration_since(at.as_ref()?.parse().ok()?).as_millis());
        let uptime = since(&found.started_at).filter(|_| is_running);
        Instance {
            address: self.port.map(|port| SocketAddr::from((self.address, port))),
            is_running,
            // What serves passed its gate, and what passed it is started again by the engine.
            is_supervised: is_running,
            process: None,
            container: Some(found.name.clone()),
            uptime_ms: uptime.and_then(|ms| u64::try_from(ms).ok()),
            restarts: u32::try_from(found.restarts).unwrap_or(u32::MAX),
            exits: self.exit(found).into_iter().collect(),
        }
    }

    /// How it ended last, as far as the engine still knows.
    fn exit(&self, found: &Container) -> Option<Exit> {
        let time = |at: &Option<String>| at.as_ref()?.parse::<Timestamp>().ok();
        let (started, finished) = (time(&found.started_at), time(&found.finished_at));
        let uptime = started.zip(finished).map(|(started, finished)| finished.duration_since(started));
        let exit = Exit {
            unix_ms: finished.and_then(|at| u64::try_from(at.as_millisecond()).ok()).unwrap_or_default(),
            uptime_ms: uptime.and_then(|time| u64::try_from(time.as_millis()).ok()).unwrap_or_default(),
            ..Exit::default()
        };
        if let Some(error) = &found.start_error {
            return Some(Exit { error: Some(error.clone()), ..exit });
        }
        match (found.phase, found.exit_code) {
            // It ended at least once; of how, the engine keeps nothing.
            (Phase::Running | Phase::Paused, _) if found.restarts > 0 => Some(Exit { uptime_ms: 0, ..exit }),
            (Phase::Exited | Phase::Restarting, Some(code)) => {
                let signal = i32::try_from(code - 128).ok().filter(|signal| (1..=64).contains(signal));
                Some(Exit {
                    status: i32::try_from(code).ok().filter(|_| signal.is_none()),
                    signal,
                    out_of_memory: found.was_out_of_memory.then_some(self.memory_bytes.unwrap_or_default()),
                    ..exit
                })
            }
            _ => None,
        }
    }
}

/// The number of the container, from its label, for those that say nothing else.
pub(super) fn slot_of(labels: &Labels) -> Result<&str> {
    labels.get(SLOT).map(String::as_str).context("a container of the environment that names no slot")
}
