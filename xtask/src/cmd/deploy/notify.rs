//! Telling the webhooks of an environment how an operation ended.

use std::path::PathBuf;
use std::time::Instant;

use deploy::{Action, Audit, EnvironmentFile, Error, Message, Outcome, Plan, Site, Webhook};
use release::Release;

/// What is known before the operation.
pub(crate) struct Notifier {
    webhooks: Vec<Webhook>,
    state: PathBuf,
    start: Instant,
    message: Message,
}

impl Notifier {
    /// Before an operation begins.
    pub(crate) fn begin(
        site: &Site<'_>,
        operation: &str,
        file: &EnvironmentFile,
        release: Option<&Release>,
    ) -> Notifier {
        let commit = release.and_then(|release| release.git.as_ref()).map(|git| git.revision.clone());
        let message = Message {
            environment: file.name.clone(),
            operation: operation.to_owned(),
            is_success: false,
            outcome: String::new(),
            detail: None,
            who: site.who.clone(),
            release: release.and_then(|release| release.id().ok()),
            commit,
            changed: Vec::new(),
            took_ms: 0,
            audit_head: None,
        };
        let webhooks = file.environment.notify.clone();
        Notifier { webhooks, state: site.state.to_owned(), start: Instant::now(), message }
    }

    /// Tells how it ended, unless nothing happened. What goes wrong here is said and changes nothing.
    pub(crate) fn tell(mut self, outcome: &Result<Outcome, Error>) {
        if self.webhooks.is_empty() || matches!(outcome, Ok(Outcome::NothingToDo { .. })) {
            return;
        }
        self.message.took_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.message.audit_head = Audit::load(&self.state).ok().and_then(|audit| audit.head);
        self.describe(outcome);
        for trouble in deploy::notify(&self.webhooks, &self.message) {
            eprintln!("warning: {trouble}");
        }
    }

    fn describe(&mut self, outcome: &Result<Outcome, Error>) {
        let first_line = |text: &str| text.lines().next().map(str::to_owned);
        let (name, plan, detail) = match outcome {
            Ok(Outcome::NothingToDo { plan }) => ("nothing to do", Some(plan), None),
            Ok(Outcome::Deployed { plan, .. }) => ("deployed", Some(plan), None),
            Ok(Outcome::RolledBack { plan, evidence, .. }) => (
                "failed, what served before serves on",
                Some(plan),
                Some(format!("{}: {}", evidence.step, evidence.message)),
            ),
            Ok(Outcome::Interrupted { plan, .. }) => ("interrupted", Some(plan), None),
            Ok(Outcome::NeedsHuman { plan, evidence }) => {
                ("needs a human", Some(plan), Some(format!("{}: {}", evidence.step, evidence.message)))
            }
            Err(Error::Preflight(_)) => ("refused", None, outcome.as_ref().err().map(ToString::to_string)),
            Err(error) => ("failed", None, Some(error.to_string())),
        };
        self.message.is_success =
            matches!(outcome, Ok(Outcome::Deployed { .. } | Outcome::NothingToDo { .. }));
        self.message.outcome = name.to_owned();
        self.message.detail = detail.as_deref().and_then(first_line);
        self.message.changed = plan.map(changed).unwrap_or_default();
        self.message.release = plan.map(|plan| plan.release).or(self.message.release);
    }
}

fn changed(plan: &Plan) -> Vec<String> {
    let is_changed = |action: &Action| !matches!(action, Action::Keep { .. });
    plan.services
        .iter()
        .filter(|(_, service)| is_changed(&service.action))
        .map(|(name, _)| name.clone())
        .collect()
}
