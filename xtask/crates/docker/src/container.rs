//! The life of a container: created, started, looked at, stopped, removed; each with the difference told apart on which callers act.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary, HealthStatusEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, ListContainersOptionsBuilder,
    RemoveContainerOptionsBuilder, RenameContainerOptionsBuilder, StopContainerOptionsBuilder,
    WaitContainerOptionsBuilder,
};
use futures_util::StreamExt;

use crate::Labels;
use crate::engine::{Engine, QUICK, SLOW, check_name};
use crate::error::{Error, Result, found, id_in_use};
use crate::image::by_labels;
use crate::secrets::{self, Folder};
use crate::spec::{Attachment, ContainerSpec, seconds};

/// Exit status of a program that was killed.
const KILLED: i64 = 128 + 9;

/// A container that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Created {
    /// Its id, which nothing else ever has.
    pub id: String,
    /// Numbers of the user and group that its program runs as.
    pub user: (u32, u32),
    /// What the engine warned of, and honoured all the same.
    pub warnings: Vec<String>,
}

/// A container as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Id of its image.
    pub image: String,
    /// Its labels, those of its image among them.
    pub labels: Labels,
    /// How far its life is.
    pub phase: Phase,
    /// Exit status of its program, once that has ended.
    pub exit_code: Option<i64>,
    /// Whether it was ended because it used more memory than it may.
    pub was_out_of_memory: bool,
    /// Why the engine could not start it.
    pub start_error: Option<String>,
    /// How often the engine started it again by itself.
    pub restarts: u64,
    /// When it was started last, in RFC 3339 by the engine's clock.
    pub started_at: Option<String>,
    /// When it ended last.
    pub finished_at: Option<String>,
    /// Its address on each network, while it runs.
    pub addresses: std::collections::BTreeMap<String, IpAddr>,
    /// What the engine's health check says.
    pub health: Health,
}

/// How far the life of a container is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Never started.
    Created,
    /// Its program runs.
    Running,
    /// Its program stands still.
    Paused,
    /// Its program ended, and the engine is going to start it again.
    Restarting,
    /// Its program ended.
    Exited,
    /// It is going away, or could not go away whole.
    Removing,
}

/// What an engine's health check says of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// There is no check.
    Unchecked,
    /// It has not passed yet.
    Starting,
    /// It passes.
    Healthy,
    /// It failed too often.
    Unhealthy,
}

/// A container in a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Id of its image.
    pub image: String,
    /// Its labels.
    pub labels: Labels,
    /// How far its life is.
    pub phase: Phase,
}

/// How a container stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stopped {
    /// Exit status of its program.
    pub exit_code: i64,
    /// Whether it did not end by itself in the time that it had.
    pub was_killed: bool,
}

impl Engine {
    /// Makes the container; it does not run yet. Its secrets are in place.
    ///
    /// # Errors
    /// [`Error::NameTaken`] when there is one of this name, [`Error::NotFound`] when image, network or volume are missing,
    /// [`Error::Unsupported`] for what cannot be honoured. Nothing is left behind; but when the way to the engine broke
    /// ([`Error::is_passing`]), there may be a container, which then lacks its secrets and does not start.
    pub fn create(&self, spec: &ContainerSpec) -> Result<Created> {
        spec.check(self.facts())?;
        let what = format!("create the container {}", spec.name);
        let Some(image) = self.image(&spec.image)? else {
            return Err(Error::NotFound {
                what,
                message: format!("the engine has no image {}; send it first", spec.image),
            });
        };
        for Attachment { network, .. } in &spec.networks {
            // Engines take a missing one, and fail when the container is started.
            if self.network(network)?.is_none() {
                return Err(Error::NotFound { what, message: format!("there is no network {network}") });
            }
        }
        let user = spec.identity(&image.user)?;
        let folder = match spec.secrets.is_empty() {
            true => None,
            false => Some(self.deliver_secrets(spec, &image.id, user)?),
        };
        let created = self.create_with(&what, spec, user, folder.as_ref());
        if created.is_err()
            && let Some(folder) = &folder
        {
            self.undo(|engine| engine.discard_secrets(folder));
        }
        created
    }

    fn create_with(
        &self,
        what: &str,
        spec: &ContainerSpec,
        user: (u32, u32),
        folder: Option<&Folder>,
    ) -> Result<Created> {
        let mut body = spec.lower(user, folder.map(|folder| folder.path.as_path()));
        if let Some(folder) = folder {
            body.labels.get_or_insert_default().insert(secrets::OWNER.to_owned(), folder.name.clone());
        }
        let options = CreateContainerOptionsBuilder::default().name(&spec.name).build();
        let created = self.call(what, SLOW, self.docker().create_container(Some(options), body));
        let created = created.map_err(|error| match error {
            Error::Conflict { message, .. } => {
                Error::NameTaken { name: spec.name.clone(), by: id_in_use(&message) }
            }
            other => other,
        })?;
        let finished = self.honoured(what, created.warnings).and_then(|warnings| {
            for attachment in spec.networks.iter().skip(1) {
                self.attach(&created.id, attachment)?;
            }
            Ok(warnings)
        });
        match finished {
            Ok(warnings) => Ok(Created { id: created.id, user, warnings }),
            Err(error) => {
                self.undo(|engine| engine.remove_bare(&created.id));
                Err(error)
            }
        }
    }

    /// The warnings, unless one of them says that the engine left something out.
    fn honoured(&self, what: &str, warnings: Vec<String>) -> Result<Vec<String>> {
        let is_left_out = |warning: &&String| warning.to_lowercase().contains("discarded");
        match warnings.iter().find(is_left_out) {
            Some(warning) => {
                Err(Error::unsupported(what, format!("the engine left something out: {warning}")))
            }
            None => Ok(warnings),
        }
    }

    /// Does what has to be done also after an interruption; that it fails changes nothing about the error that led to it.
    pub(crate) fn undo<T>(&self, work: impl FnOnce(&Engine) -> Result<T>) {
        work(&self.unheeding()).ok();
    }

    /// Starts it. One that runs already goes on.
    ///
    /// # Errors
    /// When the engine cannot: the program is missing, a mount's source is gone.
    pub fn start(&self, container: &str) -> Result<()> {
        let what = format!("start the container {container}");
        check_name(&what, container)?;
        self.call(&what, SLOW, self.docker().start_container(container, None))
    }

    /// The container of this name or id as it is now, or `None`.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub fn container(&self, container: &str) -> Result<Option<Container>> {
        let what = format!("look at the container {container}");
        check_name(&what, container)?;
        Ok(found(self.call(&what, QUICK, self.docker().inspect_container(container, None)))?.map(read))
    }

    /// All containers with these labels, running or not, in order of names.
    ///
    /// # Errors
    /// When the engine does not tell.
    pub fn containers(&self, labels: &Labels) -> Result<Vec<Listed>> {
        let mut listed = self.list_all(labels)?;
        listed.retain(|found| !found.labels.contains_key(secrets::HOLDER));
        Ok(listed)
    }

    /// The same, with the holders of secrets.
    pub(crate) fn list_all(&self, labels: &Labels) -> Result<Vec<Listed>> {
        let options = ListContainersOptionsBuilder::default().all(true).filters(&by_labels(labels)).build();
        let found = self.call("list containers", QUICK, self.docker().list_containers(Some(options)))?;
        let mut listed: Vec<Listed> = found.into_iter().map(listed).collect();
        listed.sort_by(|a, b| (&a.name, &a.id).cmp(&(&b.name, &b.id)));
        Ok(listed)
    }

    /// Asks it to stop with its signal, and kills it when `grace` is over. One that does not run stays as it is, and is not started
    /// again by the engine.
    ///
    /// # Errors
    /// When there is no such container, or it cannot be stopped.
    pub fn stop(&self, container: &str, grace: Duration) -> Result<Stopped> {
        let what = format!("stop the container {container}");
        check_name(&what, container)?;
        let options = StopContainerOptionsBuilder::default()
            .t(i32::try_from(seconds(grace)).unwrap_or(i32::MAX))
            .build();
        let since = Instant::now();
        self.call(&what, grace + SLOW, self.docker().stop_container(container, Some(options)))?;
        let is_late = since.elapsed() >= grace;
        let Some(stopped) = self.container(container)? else {
            return Err(Error::NotFound { what, message: format!("{container} is gone") });
        };
        let exit_code = stopped.exit_code.unwrap_or_default();
        Ok(Stopped { exit_code, was_killed: is_late && exit_code == KILLED })
    }

    /// Sends its program a signal: `KILL`, `HUP`.
    ///
    /// # Errors
    /// When it does not run ([`Error::Conflict`]), or there is no such signal.
    pub fn signal(&self, container: &str, signal: &str) -> Result<()> {
        let what = format!("send {signal} to the container {container}");
        check_name(&what, container)?;
        check_name(&what, signal)?;
        let options = KillContainerOptionsBuilder::default().signal(signal).build();
        self.call(&what, QUICK, self.docker().kill_container(container, Some(options)))
    }

    /// Waits until its program has ended, and gives its exit status.
    ///
    /// # Errors
    /// [`Error::Deadline`] when it has not in this time.
    pub fn wait_for_end(&self, container: &str, deadline: Duration) -> Result<i64> {
        let what = format!("wait for the end of the container {container}");
        check_name(&what, container)?;
        let options = WaitContainerOptionsBuilder::default().condition("not-running").build();
        let mut answers = self.docker().wait_container(container, Some(options));
        self.wait(&what, Some(deadline), async {
            match answers.next().await {
                Some(Ok(answer)) => Ok(answer.status_code),
                // The library takes every status but 0 for a failure of waiting.
                Some(Err(bollard::errors::Error::DockerContainerWaitError { error, code }))
                    if error.is_empty() =>
                {
                    Ok(code)
                }
                Some(Err(bollard::errors::Error::DockerContainerWaitError { error, .. })) => {
                    Err(Error::Refused { what: what.clone(), message: error })
                }
                Some(Err(error)) => Err(self.told(&what, &error)),
                None => {
                    Err(Error::Broken { what: what.clone(), cause: "it ended without an answer".to_owned() })
                }
            }
        })
    }

    /// Gives it another name.
    ///
    /// # Errors
    /// [`Error::NameTaken`] when another one has it.
    pub fn rename(&self, container: &str, name: &str) -> Result<()> {
        let what = format!("rename the container {container} to {name}");
        check_name(&what, container)?;
        check_name(&what, name)?;
        let options = RenameContainerOptionsBuilder::default().name(name).build();
        self.call(&what, QUICK, self.docker().rename_container(container, options)).map_err(|error| {
            match error {
                Error::Conflict { message, .. } => {
                    Error::NameTaken { name: name.to_owned(), by: id_in_use(&message) }
                }
                other => other,
            }
        })
    }

    /// Removes it with its secrets, killing its program where that runs. Volumes with names stay. Says whether there was one.
    ///
    /// # Errors
    /// When the engine cannot.
    pub fn remove(&self, container: &str) -> Result<bool> {
        let Some(there) = self.container(container)? else { return Ok(false) };
        let is_removed = self.remove_bare(&there.id)?;
        if let Some(folder) = there.labels.get(secrets::OWNER) {
            self.discard_secrets_named(folder)?;
        }
        Ok(is_removed)
    }

    /// Removes the container alone.
    pub(crate) fn remove_bare(&self, container: &str) -> Result<bool> {
        let what = format!("remove the container {container}");
        check_name(&what, container)?;
        let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
        match found(self.call(&what, SLOW, self.docker().remove_container(container, Some(options)))) {
            Ok(removed) => Ok(removed.is_some()),
            // Somebody else is removing it: it is gone when the engine says so.
            Err(Error::Conflict { message, .. }) if message.contains("already in progress") => {
                self.wait_until_gone(&what, container)?;
                Ok(true)
            }
            Err(error) => Err(error),
        }
    }

    fn wait_until_gone(&self, what: &str, container: &str) -> Result<()> {
        let since = Instant::now();
        while self.container(container)?.is_some() {
            if since.elapsed() > SLOW {
                return Err(Error::Deadline { what: what.to_owned(), after: SLOW });
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }
}

fn read(found: ContainerInspectResponse) -> Container {
    let state = found.state.unwrap_or_default();
    let phase = phase_of(&state);
    let networks = found.network_settings.and_then(|settings| settings.networks).unwrap_or_default();
    let address = |settings: &bollard::models::EndpointSettings| {
        let addresses = [&settings.ip_address, &settings.global_ipv6_address];
        addresses.into_iter().flatten().find_map(|text| text.parse::<IpAddr>().ok())
    };
    Container {
        id: found.id.unwrap_or_default(),
        name: found.name.unwrap_or_default().trim_start_matches('/').to_owned(),
        image: found.image.unwrap_or_default(),
        labels: found.config.and_then(|config| config.labels).unwrap_or_default().into_iter().collect(),
        phase,
        exit_code: state.exit_code.filter(|_| matches!(phase, Phase::Exited | Phase::Restarting)),
        was_out_of_memory: state.oom_killed.unwrap_or_default(),
        start_error: state.error.filter(|error| !error.is_empty()),
        restarts: found.restart_count.and_then(|count| u64::try_from(count).ok()).unwrap_or_default(),
        started_at: state.started_at.filter(|text| is_a_time(text)),
        finished_at: state.finished_at.filter(|text| is_a_time(text)),
        addresses: networks
            .iter()
            .filter_map(|(name, settings)| Some((name.clone(), address(settings)?)))
            .collect(),
        health: match state.health.and_then(|health| health.status) {
            Some(HealthStatusEnum::STARTING) => Health::Starting,
            Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
            Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
            Some(HealthStatusEnum::EMPTY | HealthStatusEnum::NONE) | None => Health::Unchecked,
        },
    }
}

/// The engine writes the year 1 for "never".
fn is_a_time(text: &str) -> bool {
    !text.is_empty() && !text.starts_with("0001-")
}

fn phase_of(state: &ContainerState) -> Phase {
    use ContainerStateStatusEnum as Status;
    match state.status {
        Some(Status::CREATED) => Phase::Created,
        Some(Status::RUNNING | Status::STOPPING) => Phase::Running,
        Some(Status::PAUSED) => Phase::Paused,
        Some(Status::RESTARTING) => Phase::Restarting,
        Some(Status::EXITED) => Phase::Exited,
        Some(Status::REMOVING | Status::DEAD) => Phase::Removing,
        Some(Status::EMPTY) | None if state.running == Some(true) => Phase::Running,
        Some(Status::EMPTY) | None => Phase::Exited,
    }
}

fn listed(found: ContainerSummary) -> Listed {
    use bollard::models::ContainerSummaryStateEnum as State;
    let labels: HashMap<String, String> = found.labels.unwrap_or_default();
    Listed {
        id: found.id.unwrap_or_default(),
        name: found
            .names
            .unwrap_or_default()
            .first()
            .map(|name| name.trim_start_matches('/').to_owned())
            .unwrap_or_default(),
        image: found.image_id.unwrap_or_default(),
        labels: labels.into_iter().collect(),
        phase: match found.state {
            Some(State::CREATED) => Phase::Created,
            Some(State::RUNNING | State::STOPPING) => Phase::Running,
            Some(State::PAUSED) => Phase::Paused,
            Some(State::RESTARTING) => Phase::Restarting,
            Some(State::REMOVING | State::DEAD) => Phase::Removing,
            Some(State::EXITED | State::EMPTY) | None => Phase::Exited,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inspected(json: &serde_json::Value) -> Container {
        read(serde_json::from_value(json.clone()).unwrap())
    }

    #[test]
    fn what_the_engine_says_of_a_container_is_read() {
        let found = inspected(&serde_json::json!({
            "Id": "ab", "Name": "/api-1", "Image": "sha256:cd", "RestartCount": 2,
            "State": {
                "Status": "exited", "OOMKilled": true, "ExitCode": 137, "Error": "",
                "StartedAt": "2026-01-02T03:04:05.6Z", "FinishedAt": "0001-01-01T00:00:00Z"
            },
            "Config": { "Labels": { "a": "b" } },
            "NetworkSettings": { "Networks": { "env": { "IPAddress": "172.18.0.2" }, "none": { "IPAddress": "" } } },
        }));
        assert_eq!((found.name.as_str(), found.phase, found.exit_code), ("api-1", Phase::Exited, Some(137)));
        assert!(found.was_out_of_memory && found.start_error.is_none() && found.finished_at.is_none());
        assert_eq!(found.restarts, 2);
        assert_eq!(
            found.addresses.into_iter().collect::<Vec<_>>(),
            [("env".to_owned(), "172.18.0.2".parse().unwrap())]
        );
        assert_eq!(found.health, Health::Unchecked);
    }

    #[test]
    fn an_exit_status_is_only_that_of_a_program_that_ended() {
        let state =
            |status: &str| inspected(&serde_json::json!({ "State": { "Status": status, "ExitCode": 0 } }));
        assert_eq!(state("running").exit_code, None);
        assert_eq!(state("created").exit_code, None);
        assert_eq!(state("restarting").exit_code, Some(0));
        assert_eq!(inspected(&serde_json::json!({})).phase, Phase::Exited);
    }
}
