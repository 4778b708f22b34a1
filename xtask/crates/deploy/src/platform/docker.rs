//! Slots as containers of a Docker engine: `replicas` of them for each slot, on the environment's own network, hardened
//! as the docker crate makes them. What is known of a slot is read from the labels of its containers and from the
//! engine, so a deployer on another machine sees the same.
//!
//! Invariant: nothing is stopped, removed or adopted but what carries the labels of this very environment.

mod address;
mod container;
mod log;
mod network;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use anyhow::{Context, Result, bail, ensure};
use docker::{Endpoint, Engine, Kept, Labels, Listed, Phase, Restart, VolumeSpec};
use jiff::Timestamp;
use oci::Layout;

use self::address::Subnet;
use self::container::{Plan, SlotLabel};
use super::{Description, Follow, Instance, NewSlot, Platform, PlatformRecord};
use crate::environment::{DockerSettings, PlatformSettings};
use crate::operation::Site;
use crate::outcome::Error;
use stdx::yaml::Problem;

/// An estimate that is seldom exceeded: compressed layers unpack to less than this many times their size.
const UNPACK_FACTOR: u64 = 4;

/// Room that the engine keeps for logs and for what services write.
const SPARE_BYTES: u64 = 256 * 1024 * 1024;

/// Runs slots as containers.
pub(super) struct Docker {
    engine: Engine,
    record: PlatformRecord,
    settings: DockerSettings,
    /// Addresses that were given out and may be on no container yet.
    given: Mutex<BTreeSet<Ipv4Addr>>,
}

/// The settings with the engine named that they mean.
///
/// # Errors
/// When the engine is named in a way that cannot be followed.
pub(super) fn resolved(settings: &DockerSettings) -> Result<DockerSettings, Error> {
    let problem = |error: anyhow::Error| Problem::new("platform.docker.host", format!("{error:#}"));
    let endpoint = match &settings.host {
        Some(host) => host.parse::<Endpoint>(),
        None => Endpoint::of(&docker::Environment::current()),
    };
    let endpoint = endpoint.map_err(problem)?;
    Ok(DockerSettings { host: Some(endpoint.to_string()), ..settings.clone() })
}

impl Docker {
    /// The environment's containers on the engine that its record names.
    ///
    /// # Errors
    /// When the engine cannot be reached.
    pub(super) fn connect(record: PlatformRecord) -> Result<Docker, Error> {
        let PlatformSettings::Docker(settings) = record.settings.clone() else {
            return Err(anyhow::anyhow!("the record of the platform names no engine").into());
        };
        let endpoint = settings.host.as_deref().unwrap_or_default().parse::<Endpoint>();
        let endpoint = endpoint.context("the record of the platform names no engine")?;
        let engine =
            Engine::connect(&endpoint).map_err(|error| Problem::new("platform.docker", error.to_string()))?;
        Ok(Docker { engine, record, settings, given: Mutex::default() })
    }

    fn labels(&self, slot: &str) -> Labels {
        let mut labels = container::labels(&self.record);
        labels.insert(container::SLOT.to_owned(), slot.to_owned());
        labels
    }

    /// The containers of a slot with what they say of themselves, in the order of their numbers.
    fn containers(&self, slot: &str) -> Result<Vec<(SlotLabel, Listed)>> {
        let listed = self.engine.containers(&self.labels(slot))?.into_iter();
        let mut found: Vec<_> =
            listed.filter_map(|listed| Some((SlotLabel::of(&listed.labels)?, listed))).collect();
        found.sort_by_key(|(label, _)| label.number);
        Ok(found)
    }

    /// Every container of the environment.
    fn all(&self) -> Result<Vec<Listed>> {
        Ok(self.engine.containers(&container::labels(&self.record))?)
    }

    fn take_address(&self, subnet: &Subnet) -> Result<Ipv4Addr> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        // Also those of stopped containers, which must be there for them when they are started again.
        let taken =
            self.all()?.into_iter().filter_map(|listed| Some(SlotLabel::of(&listed.labels)?.address()));
        given.extend(taken);
        let address = subnet.free(&given)?;
        given.insert(address);
        Ok(address)
    }

    /// What stands in the way of names that a slot needs, each with the next step.
    fn check_names(&self, new: &NewSlot<'_>) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for number in 0..new.target.replicas {
            let name = container::container_name(&self.record, new.name, number);
            let Some(found) = self.engine.container(&name)? else { continue };
            let is_ours = container::labels(&self.record)
                .iter()
                .all(|(label, value)| found.labels.get(label) == Some(value));
            if is_ours {
                continue;
            }
            let owner = match found.labels.get(container::STATE) {
                Some(_) => "which belongs to another state folder of an environment with the same name",
                None => "which this tool did not make",
            };
            problems.push(format!(
                "there is a container {name} already, {owner}: remove it (`docker rm -f {name}`), or give the environment \
                 another name"
            ));
        }
        Ok(problems)
    }

    fn check_room(&self, prepared: &[NewSlot<'_>], site: &Site<'_>) -> Result<Vec<String>> {
        let layout = Layout::open(site.layout)?;
        let (mut needed, mut memory) = (0_u64, 0_u64);
        for new in prepared {
            let manifest = layout
                .manifest(&new.target.image)
                .with_context(|| format!("the image of {} is not there: build it", new.service))?;
            let size: u64 = manifest.layers().iter().map(|layer| layer.size()).sum();
            if self.engine.image(&layout.config(&new.target.image)?.to_string())?.is_none() {
                needed = needed.saturating_add(size.saturating_mul(UNPACK_FACTOR));
            }
            let each = new.target.resources.memory_bytes.unwrap_or(0);
            memory = memory.saturating_add(each.saturating_mul(u64::from(new.target.replicas)));
        }
        let mut problems = Vec::new();
        let (wanted, free) = (needed.saturating_add(SPARE_BYTES), self.engine.free_bytes());
        if let Some(free) = free.filter(|free| needed > 0 && *free < wanted) {
            let root = self.engine.facts().data_root.display();
            problems.push(format!(
                "{root} of the engine has {} MiB free and the release may need {} MiB: make room",
                free >> 20,
                wanted >> 20
            ));
        }
        let there = self.engine.facts().memory_bytes;
        if there > 0 && memory > there {
            problems.push(format!(
                "the new slots may use {} MiB of memory and the engine's machine has {} MiB: lower `resources` or `replicas`",
                memory >> 20,
                there >> 20
            ));
        }
        Ok(problems)
    }

    /// What the operator should know, and what is not worth a refusal.
    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        let facts = self.engine.facts();
        if !facts.has_live_restore {
            warnings.push(
                "the engine runs without `live-restore`: its containers stop whenever it is restarted; set \
                 {\"live-restore\": true} in /etc/docker/daemon.json"
                    .to_owned(),
            );
        }
        if !facts.has_seccomp {
            warnings.push("the engine does not filter system calls (seccomp)".to_owned());
        }
        warnings
    }

    /// The containers of a slot whose image is there.
    fn make(&self, new: &NewSlot<'_>, layout: &Layout, image: String) -> Result<()> {
        for volume in &new.target.volumes {
            let name = container::volume_name(&self.record, &volume.name);
            self.engine.ensure_volume(&VolumeSpec { name, labels: container::labels(&self.record) })?;
        }
        let subnet = self.ensure_network()?;
        let plan = Plan {
            record: &self.record,
            new,
            image,
            image_variables: self.image_variables(layout, new)?,
            network: self.network_name(),
        };
        for number in 0..new.target.replicas {
            self.engine.create(&plan.spec(number, self.take_address(&subnet)?)?)?;
        }
        Ok(())
    }

    /// The variables that the image sets.
    fn image_variables(&self, layout: &Layout, new: &NewSlot<'_>) -> Result<BTreeSet<String>> {
        let config: serde_json::Value =
            serde_json::from_slice(&layout.document(&layout.config(&new.target.image)?)?)?;
        let variables = config["config"]["Env"].as_array().cloned().unwrap_or_default();
        let name = |variable: &serde_json::Value| Some(variable.as_str()?.split_once('=')?.0.to_owned());
        Ok(variables.iter().filter_map(name).collect())
    }

    /// Removes the image of removed containers, unless another slot of ours has it. That somebody else uses it is their
    /// good right.
    fn remove_images(&self, removed: &BTreeMap<stdx::Digest, String>) -> Result<()> {
        let labels = self.all()?.into_iter().filter_map(|listed| SlotLabel::of(&listed.labels));
        let used: BTreeSet<_> = labels.map(|label| label.image).collect();
        for (_, reference) in removed.iter().filter(|(image, _)| !used.contains(*image)) {
            match self.engine.remove_image(reference) {
                Ok(_) | Err(docker::Error::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

impl Platform for Docker {
    fn slots(&self) -> Result<Vec<String>> {
        let all = self.all()?;
        let slots: Result<BTreeSet<_>> =
            all.iter().map(|listed| container::slot_of(&listed.labels).map(str::to_owned)).collect();
        Ok(slots?.into_iter().collect())
    }

    fn describe(&self, slot: &str) -> Result<Option<Description>> {
        Ok(self.containers(slot)?.first().map(|(label, _)| label.description()))
    }

    fn instances(&self, slot: &str) -> Result<Vec<Instance>> {
        let mut instances = Vec::new();
        for (label, listed) in self.containers(slot)? {
            if let Some(found) = self.engine.container(&listed.id)? {
                instances.push(label.instance(&found, Timestamp::now()));
            }
        }
        Ok(instances)
    }

    fn is_running(&self, slot: &str) -> Result<bool> {
        let runs =
            |listed: &Listed| matches!(listed.phase, Phase::Running | Phase::Paused | Phase::Restarting);
        Ok(self.engine.containers(&self.labels(slot))?.iter().any(runs))
    }

    fn last_started(&self, slot: &str) -> Result<Option<SystemTime>> {
        let mut last = None;
        for (_, listed) in self.containers(slot)? {
            let started = self.engine.container(&listed.id)?.and_then(|found| found.started_at);
            last = last.max(started.and_then(|at| at.parse::<Timestamp>().ok()));
        }
        Ok(last.map(SystemTime::from))
    }

    fn ready(&self) -> Result<()> {
        self.ensure_network().map(drop)
    }

    fn gateway(&self) -> Result<Option<Ipv4Addr>> {
        Ok(self.find_network()?.map(|subnet| subnet.gateway()))
    }

    fn check(&self, prepared: &[NewSlot<'_>], site: &Site<'_>) -> Result<Vec<String>> {
        let mut problems = Vec::new();
        for new in prepared {
            problems.extend(self.check_names(new)?);
        }
        problems.extend(self.check_room(prepared, site)?);
        problems.extend(self.check_path()?);
        ensure!(problems.is_empty(), "{}", problems.join("\n"));
        Ok(self.warnings())
    }

    fn prepare(&self, new: &NewSlot<'_>, site: &Site<'_>) -> Result<()> {
        self.remove(new.name)?;
        let layout = Layout::open(site.layout)?;
        let reference = container::reference(&self.record, new.service, &new.target.image);
        let image = self.engine.transfer(&layout, new.target.image, &reference)?;
        let made = self.make(new, &layout, image.id);
        if made.is_err() {
            // Without a container nothing would lead to the image any more.
            let _ = self.remove(new.name);
            let _ = self.remove_images(&[(new.target.image, reference)].into());
        }
        made
    }

    /// A container's own files cannot change: it may not write them. Secrets are as they were when it was made, and gone
    /// after the machine was started again; so a slot with secrets is made anew.
    fn is_intact(&self, slot: &str) -> Result<bool> {
        let containers = self.containers(slot)?;
        let is_whole = containers.first().is_some_and(|(label, _)| {
            label.description().replicas as usize == containers.len() && !label.has_secrets
        });
        Ok(is_whole)
    }

    fn start(&self, new: &NewSlot<'_>, _site: &Site<'_>) -> Result<()> {
        let containers = self.containers(new.name)?;
        ensure!(
            containers.len() == new.target.replicas as usize,
            "{} has {} containers and should have {}",
            new.name,
            containers.len(),
            new.target.replicas
        );
        for (_, listed) in containers {
            self.engine.set_restart(&listed.id, Restart::Never)?;
            self.engine.start(&listed.id)?;
        }
        Ok(())
    }

    fn keep_running(&self, slot: &str) -> Result<()> {
        for (_, listed) in self.containers(slot)? {
            self.engine.set_restart(&listed.id, Restart::UnlessStopped)?;
        }
        Ok(())
    }

    fn stop(&self, slot: &str) -> Result<()> {
        let containers = self.containers(slot)?;
        std::thread::scope(|scope| {
            let stops: Vec<_> = containers
                .iter()
                .map(|(label, listed)| scope.spawn(|| self.engine.stop(&listed.id, label.grace())))
                .collect();
            for stop in stops {
                match stop.join() {
                    Ok(stopped) => drop(stopped?),
                    Err(_) => bail!("stopping panicked"),
                }
            }
            Ok(())
        })
    }

    fn remove(&self, slot: &str) -> Result<()> {
        ensure!(!self.is_running(slot)?, "the slot {slot} still runs");
        let mut removed = BTreeMap::new();
        for listed in self.engine.containers(&self.labels(slot))? {
            self.engine.remove(&listed.id)?;
            if let Some(label) = SlotLabel::of(&listed.labels) {
                removed.insert(label.image, label.reference(&self.record));
            }
        }
        self.remove_images(&removed)
    }

    /// Secrets of containers that were never made. Networks stay: stopped containers are started in them again.
    fn tidy(&self) -> Result<()> {
        let labels = container::labels(&self.record);
        let networks = self.engine.networks(&labels)?.into_iter().map(|network| network.name);
        let kept = Kept {
            containers: self.all()?.into_iter().map(|listed| listed.id).collect(),
            networks: networks.filter(|name| !name.ends_with(network::PROBE)).collect(),
            ..Kept::default()
        };
        self.engine.remove_all_but(&labels, &kept)?;
        Ok(())
    }

    fn log(&self, slot: &str, number: usize, lines: usize) -> Result<(Vec<String>, Box<dyn Follow>)> {
        let containers = self.containers(slot)?;
        let (_, listed) =
            containers.get(number).with_context(|| format!("{slot} has no container {number}"))?;
        log::open(&self.engine, &listed.id, lines)
    }

    fn variables(&self, slot: &str) -> Result<BTreeMap<String, String>> {
        let containers = self.containers(slot)?;
        Ok(containers.into_iter().next().map(|(label, _)| label.env).unwrap_or_default())
    }

    fn volumes(&self) -> Result<Vec<String>> {
        let prefix = container::volume_name(&self.record, "");
        let volumes = self.engine.volumes(&container::labels(&self.record))?.into_iter();
        Ok(volumes.filter_map(|volume| Some(volume.name.strip_prefix(&prefix)?.to_owned())).collect())
    }

    /// The engine keeps a volume as long as a container has it, stopped ones included.
    fn remove_volume(&self, name: &str) -> Result<()> {
        for listed in self.all()? {
            let has_it = SlotLabel::of(&listed.labels).is_some_and(|label| label.volumes.contains(name));
            if has_it {
                self.remove(container::slot_of(&listed.labels)?)?;
            }
        }
        self.engine.remove_volume(&container::volume_name(&self.record, name))?;
        Ok(())
    }
}
