//! Slots as folders and supervised processes of this machine. It says what a slot's folder and its replicas offer in
//! the words of [`Platform`], and keeps no state but the ports that were given out.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;
use std::time::SystemTime;

use anyhow::{Context, Result, ensure};
use oci::Layout;

use super::{Description, Follow, Instance, NewSlot, Platform};
use crate::log;
use crate::operation::Site;
use crate::replica::Replica;
use crate::slot::{Ports, SlotFolder};
use crate::state::StateFolder;

/// An estimate that is seldom exceeded: compressed binaries unpack to less than this many times their size.
const UNPACK_FACTOR: u64 = 4;

/// Room that an unpacked release leaves for logs, journal and data.
const SPARE_BYTES: u64 = 32 * 1024 * 1024;

/// Runs slots as processes of this machine.
pub(crate) struct Process {
    state: StateFolder,
    ports: Ports,
}

impl Process {
    /// The slots in the environment's folder.
    pub(crate) fn new(state: StateFolder) -> Process {
        Process { state, ports: Ports::default() }
    }

    fn folder(&self, slot: &str) -> SlotFolder {
        SlotFolder::new(&self.state, slot)
    }
}

impl Platform for Process {
    fn slots(&self) -> Result<Vec<String>> {
        Ok(SlotFolder::all(&self.state)?.into_iter().map(|folder| folder.name).collect())
    }

    fn describe(&self, slot: &str) -> Result<Option<Description>> {
        Ok(self.folder(slot).record().map(|record| Description {
            variables: record.variables().cloned().collect(),
            service: record.service,
            run: record.run,
            image: record.image,
            has_port: record.has_port,
            replicas: record.replicas,
        }))
    }

    fn instances(&self, slot: &str) -> Result<Vec<Instance>> {
        Ok(self.folder(slot).replicas().iter().map(instance).collect())
    }

    fn is_running(&self, slot: &str) -> Result<bool> {
        Ok(self.folder(slot).is_running())
    }

    fn last_started(&self, slot: &str) -> Result<Option<SystemTime>> {
        Ok(self.folder(slot).last_started())
    }

    fn ready(&self) -> Result<()> {
        Ok(())
    }

    fn gateway(&self) -> Result<Option<Ipv4Addr>> {
        Ok(None)
    }

    fn check(&self, prepared: &[NewSlot<'_>], site: &Site<'_>) -> Result<Vec<String>> {
        let mut needed = 0_u64;
        for new in prepared {
            needed = needed.saturating_add(unpacked_size(new, site.layout)?);
        }
        let root = self.state.root().display();
        let stats = rustix::fs::statvfs(self.state.root())
            .with_context(|| format!("cannot look at the file system of {root}"))?;
        let free = stats.f_bavail.saturating_mul(stats.f_frsize);
        let wanted = needed.saturating_add(SPARE_BYTES);
        ensure!(
            needed == 0 || free >= wanted,
            "{root} has {} MiB free and the release may need {} MiB: make room",
            free >> 20,
            wanted >> 20
        );
        Ok(Vec::new())
    }

    fn prepare(&self, new: &NewSlot<'_>, site: &Site<'_>) -> Result<()> {
        self.folder(new.name).unpack(new.service, new.target, site.layout)
    }

    fn is_intact(&self, slot: &str) -> Result<bool> {
        Ok(self.folder(slot).is_intact())
    }

    fn start(&self, new: &NewSlot<'_>, site: &Site<'_>) -> Result<()> {
        self.folder(new.name).start(new.target, &self.state, &self.ports, &site.launcher)
    }

    /// A supervisor starts its process again from the beginning; the gate sees each end all the same.
    fn keep_running(&self, _slot: &str) -> Result<()> {
        Ok(())
    }

    fn stop(&self, slot: &str) -> Result<()> {
        self.folder(slot).stop()
    }

    fn remove(&self, slot: &str) -> Result<()> {
        self.folder(slot).remove()
    }

    /// All of a slot is in its folder.
    fn tidy(&self) -> Result<()> {
        Ok(())
    }

    fn log(&self, slot: &str, number: usize, lines: usize) -> Result<(Vec<String>, Box<dyn Follow>)> {
        let replicas = self.folder(slot).replicas();
        let replica = replicas.get(number).with_context(|| format!("{slot} has no process {number}"))?;
        let follow = log::Follow::new(&replica.log());
        Ok((log::tail(&replica.log(), lines)?, Box::new(follow)))
    }

    fn variables(&self, slot: &str) -> Result<BTreeMap<String, String>> {
        let replicas = self.folder(slot).replicas();
        replicas.first().map_or_else(|| Ok(BTreeMap::new()), |replica| Ok(replica.spec()?.env))
    }

    fn volumes(&self) -> Result<Vec<String>> {
        let folder = self.state.volumes();
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.with_context(|| format!("cannot list {}", folder.display()))?,
        };
        let mut names: Vec<_> =
            entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        Ok(names)
    }

    fn remove_volume(&self, name: &str) -> Result<()> {
        stdx::fs::remove_dir_all(&self.state.volumes().join(name))
    }
}

impl Follow for log::Follow {
    fn lines(&mut self) -> Result<Vec<String>> {
        log::Follow::lines(self)
    }
}

fn instance(replica: &Replica) -> Instance {
    let process = replica.process();
    Instance {
        address: SlotFolder::address(replica),
        is_running: process.is_some(),
        is_supervised: replica.is_supervised(),
        process,
        container: None,
        uptime_ms: process.and_then(|process| process.uptime_ms()),
        restarts: replica.record().map_or(0, |record| record.restarts),
        exits: replica.exits(),
    }
}

fn unpacked_size(new: &NewSlot<'_>, layout: &Path) -> Result<u64> {
    let layout = Layout::open(layout)?;
    let manifest = layout
        .manifest(&new.target.image)
        .with_context(|| format!("the image of {} is not there: build it", new.service))?;
    Ok(manifest.layers().iter().map(|layer| layer.size().saturating_mul(UNPACK_FACTOR)).sum())
}
