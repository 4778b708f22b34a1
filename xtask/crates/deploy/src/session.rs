//! One operation on a locked environment, from its first look to its last record. The public operations of `operation`
//! are calls of these; what they have in common is that they clear up first after whoever came before.

use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::Result;
use edge::control::Table;
use release::{GitState, Release};

use crate::audit::{self, AuditEvent};
use crate::driver::{Driven, Driver};
use crate::edge_process;
use crate::environment::EnvironmentFile;
use crate::facts::facts;
use crate::journal::{Activation, Entry, History, Journal};
use crate::lock::{Fence, Held, Lock};
use crate::machine::{End, Step};
use crate::observe;
use crate::operation::{Aborted, Progress, Site, lock, note};
use crate::outcome::{Error, Evidence, Outcome};
use crate::plan::{Plan, plan};
use crate::platform::{self, Platform};
use crate::recover;
use crate::state::{Deployment, StateFolder};
use crate::target::{Target, resolve};
use stdx::yaml::Problem;

/// A locked environment with its journal open.
pub(crate) struct Session<'a> {
    site: &'a Site<'a>,
    state: StateFolder,
    platform: Box<dyn Platform>,
    journal: Journal,
    history: History,
    /// What the audit is told of this operation, as far as it is known.
    event: AuditEvent,
    fence: Fence,
    _lock: Lock,
}

/// How an operation ended, in the words of the audit.
pub(crate) trait Ended {
    /// In one word or a few, and what else there is to say.
    fn describe(&self) -> (&'static str, Option<String>);
}

impl<'a> Session<'a> {
    pub(crate) fn open(
        site: &'a Site<'a>,
        state: StateFolder,
        operation: &str,
        held: Held,
    ) -> Result<Session<'a>, Error> {
        let mut lock = lock(site, &state, held)?;
        let (mut journal, history) = Journal::open(&state.journal())?;
        let fence = lock.grant(history.token)?;
        journal.guard(fence.clone());
        let platform = platform::open(&state)?;
        let event = event(site, operation, fence.token());
        Ok(Session { site, state, platform, journal, history, event, fence, _lock: lock })
    }

    /// The deployment that was begun or serves last.
    fn newest_deployment(&self) -> Option<String> {
        let open = self.history.open.as_ref().map(|open| open.plan.deployment.clone());
        let past = self.history.activations.iter().rev().map(|past| past.deployment.clone());
        open.into_iter().chain(past).find(|id| !id.is_empty())
    }

    pub(crate) fn roll_back(&mut self) -> Result<Outcome, Error> {
        let id = self.newest_deployment().ok_or_else(nothing_to_go_back_to)?;
        self.clear_up(&id)?;
        let previous = previous(&self.history).ok_or_else(nothing_to_go_back_to)?;
        self.deploy_kept(&previous)
    }

    pub(crate) fn resume(&mut self) -> Result<Outcome, Error> {
        let open = self.history.open.as_ref().ok_or_else(not_interrupted)?;
        let id = open.plan.deployment.clone();
        self.deploy_kept(&id)
    }

    pub(crate) fn abort(&mut self) -> Result<Aborted, Error> {
        let open = self.history.open.as_ref().ok_or_else(not_interrupted)?;
        let (id, interrupted_at) = (open.plan.deployment.clone(), open.last.clone());
        let before = self.history.activations.len();
        self.clear_up(&id)?;
        Ok(Aborted { interrupted_at, switched: self.history.activations.len() > before })
    }

    /// Clears up after an operation that did not end; `id` says where the edge listens.
    fn clear_up(&mut self, id: &str) -> Result<Table, Error> {
        let present = self.state.read_deployment(id)?;
        let say = |text: &str| note(self.site, text);
        edge_process::ensure(&self.state, &present.environment.edge, &self.site.launcher, &say)?;
        Ok(self.recover(Duration::from_millis(present.environment.drain_timeout_ms))?)
    }

    fn deploy_kept(&mut self, id: &str) -> Result<Outcome, Error> {
        let Deployment { name, environment, release, .. } = self.state.read_deployment(id)?;
        self.deploy(&release, &EnvironmentFile::built_in(&name, environment))
    }

    pub(crate) fn deploy(&mut self, release: &Release, file: &EnvironmentFile) -> Result<Outcome, Error> {
        let choice = platform::choose(&self.state, &file.name, &file.environment.platform)?;
        choice.platform.ready()?;
        let key = self.state.secret_key()?;
        let target = resolve(release, file, &facts(self.site, &*choice.platform, key, release, file)?)?;
        self.event.release = Some(target.release);
        self.event.deployment = Some(target.deployment.clone());
        self.event.commit = release.git.as_ref().map(commit);
        if self.site.interrupt.load(Ordering::Relaxed) {
            return Err(Error::Interrupted);
        }
        self.platform = choice.keep(&self.state)?;
        let say = |text: &str| note(self.site, text);
        edge_process::ensure(&self.state, &target.edge, &self.site.launcher, &say)?;
        let table = self.recover(target.drain_timeout)?;
        let checks = observe::health_checks(&target);
        let observed = observe::observe(&table, &self.history, &*self.platform, &checks)?;
        let plan = plan(&target, &observed);
        (self.site.report)(Progress::Planned { plan: &plan });
        if plan.is_empty() {
            self.retire(&plan);
            return Ok(Outcome::NothingToDo { plan });
        }
        self.state.write_deployment(&target.deployment, &file.name, &file.environment, release)?;
        self.carry_out(&target, plan)
    }

    fn recover(&mut self, drain_timeout: Duration) -> Result<Table> {
        let (journal, history) = (&mut self.journal, &mut self.history);
        recover::recover(self.site, &self.state, &*self.platform, journal, history, drain_timeout)
    }

    /// Recovery keeps every slot that ever served; what is too many is removed even where nothing else is to do.
    fn retire(&self, plan: &Plan) {
        for slot in &plan.retire {
            if let Err(error) = self.platform.remove(slot) {
                note(self.site, &format!("{error:#}"));
            }
        }
    }

    fn carry_out(&mut self, target: &Target, plan: Plan) -> Result<Outcome, Error> {
        audit::append(&self.state, AuditEvent { outcome: "begun".to_owned(), ..self.event.clone() })?;
        self.journal.append(Entry::Begin { plan: plan.clone() })?;
        let driver = Driver::new(self.site, &self.state, &*self.platform, target, &plan, &mut self.journal);
        let Driven { end, evidence } = driver.run();
        let known =
            |step: &Step| evidence.get(step).cloned().unwrap_or_else(|| Evidence::new(step, "failed"));
        let all = |steps: Vec<Step>| steps.iter().map(known).collect::<Vec<_>>();
        let mut finish = |outcome: &str, active: Option<Activation>| {
            // Without this record the next operation looks for itself, and finds the same.
            if let Err(error) = self.journal.append(Entry::End { outcome: outcome.to_owned(), active }) {
                (self.site.report)(Progress::Note { text: &format!("{error:#}") });
            }
        };
        match end {
            End::Deployed { unfinished } => {
                finish("deployed", Some(Activation::of(&plan)));
                Ok(Outcome::Deployed { unfinished: all(unfinished), plan })
            }
            End::RolledBack { cause: Step::Preflight, .. } => {
                finish("refused", None);
                Err(Problem::new("preflight", known(&Step::Preflight).message).into())
            }
            End::RolledBack { cause, left_behind } => {
                finish("rolled back", None);
                Ok(Outcome::RolledBack { evidence: known(&cause), left_behind: all(left_behind), plan })
            }
            End::Interrupted { left_behind } => {
                finish("interrupted", None);
                Ok(Outcome::Interrupted { left_behind: all(left_behind), plan })
            }
            // Left open in the journal: the next operation asks the edge again.
            End::Unknown => Ok(Outcome::NeedsHuman { evidence: known(&Step::Switch), plan }),
        }
    }

    /// Writes down how the operation ended, as far as that is possible: it has ended in any case.
    pub(crate) fn record_end(&self, result: Result<&dyn Ended, &Error>, took: Duration) {
        let (outcome, detail) = match result {
            Ok(ended) => ended.describe(),
            Err(Error::Overtaken(_)) => return,
            Err(Error::Interrupted) => ("interrupted", None),
            Err(Error::Preflight(_)) => ("refused", Some(first_line(&described(result)))),
            Err(_) => ("failed", Some(first_line(&described(result)))),
        };
        if self.fence.check().is_err() {
            return;
        }
        let event =
            AuditEvent { outcome: outcome.to_owned(), detail, took_ms: millis(took), ..self.event.clone() };
        if let Err(error) = audit::append(&self.state, event) {
            note(self.site, &format!("{error:#}"));
        }
    }
}

impl Ended for Outcome {
    fn describe(&self) -> (&'static str, Option<String>) {
        let line =
            |evidence: &Evidence| Some(format!("{}: {}", evidence.step, first_line(&evidence.message)));
        match self {
            Outcome::NothingToDo { .. } => ("nothing to do", None),
            Outcome::Deployed { unfinished, .. } => ("deployed", unfinished.first().and_then(line)),
            Outcome::RolledBack { evidence, .. } => ("rolled back", line(evidence)),
            Outcome::Interrupted { left_behind, .. } => ("interrupted", left_behind.first().and_then(line)),
            Outcome::NeedsHuman { evidence, .. } => ("unknown", line(evidence)),
        }
    }
}

impl Ended for Aborted {
    fn describe(&self) -> (&'static str, Option<String>) {
        let outcome = if self.switched { "finished" } else { "undone" };
        (outcome, Some(format!("it was interrupted at {}", self.interrupted_at)))
    }
}

/// What the audit is told of an operation that begins.
pub(crate) fn event(site: &Site<'_>, operation: &str, token: u64) -> AuditEvent {
    AuditEvent {
        who: site.who.clone(),
        command: site.command.clone(),
        operation: operation.to_owned(),
        token,
        ..AuditEvent::default()
    }
}

/// The deployment that a rollback goes back to.
pub(crate) fn previous(history: &History) -> Option<String> {
    history.previous().map(|past| past.deployment.clone())
}

pub(crate) fn nothing_to_go_back_to() -> Error {
    Problem::new("rollback", "no earlier deployment is known in this environment").into()
}

pub(crate) fn not_interrupted() -> Error {
    Problem::new("environment", "no deployment was interrupted here; `status` shows what runs").into()
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn commit(git: &GitState) -> String {
    let changes = if git.dirty { "+changes" } else { "" };
    format!("{}{changes}", git.revision)
}

fn described(result: Result<&dyn Ended, &Error>) -> String {
    result
        .err()
        .map(|error| match error {
            Error::Other(error) => format!("{error:#}"),
            other => other.to_string(),
        })
        .unwrap_or_default()
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

impl Activation {
    /// What serves after `plan`.
    pub(crate) fn of(plan: &Plan) -> Activation {
        Activation {
            deployment: plan.deployment.clone(),
            slots: plan.active_after(),
            routes: plan.routes_after.clone(),
        }
    }
}
