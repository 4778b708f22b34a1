//! What happens to containers, as it happens: a crash is noticed when it comes, not at the next look.
//!
//! Invariant: nothing is missed silently. After a broken connection the watch asks for all that happened since; when the engine
//! itself was away, what it remembers may be less, and the caller is told to look again.

use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use bollard::Docker;
use bollard::models::EventMessage;
use bollard::query_parameters::EventsOptionsBuilder;
use futures_util::StreamExt;

use crate::Labels;
use crate::engine::Engine;
use crate::image::by_labels;
use crate::secrets::{HOLDER, OWNER};

/// The most that waits for a caller who is busy; what comes after is lost, and told as a gap.
const WAITING: usize = 1024;
/// From one attempt to reach the engine to the next.
const AGAIN: Duration = Duration::from_millis(250);

/// Something that happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// Id of the container.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its labels.
    pub labels: Labels,
    /// What happened.
    pub happening: Happening,
    /// When, in nanoseconds of the engine's clock. It orders the events of one engine and says nothing about another clock.
    pub at: i64,
}

/// What can happen to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Its program was started.
    Started,
    /// Its program ended.
    Died {
        /// With this status.
        exit_code: i64,
    },
    /// A process of it was killed for want of memory. That its program died follows, if it was that one.
    OutOfMemory,
    /// It was removed.
    Removed,
}

/// What a watch gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Watched {
    /// Something happened.
    Event(Event),
    /// Things may have happened that nobody told: look at the containers again. The first one comes when the watch begins to see.
    Gap,
}

/// Events of containers, until this value goes away.
#[derive(Debug)]
pub struct Watch {
    events: Receiver<Watched>,
    task: tokio::task::JoinHandle<()>,
    /// The connection that the task uses.
    _engine: Engine,
}

impl Engine {
    /// Tells of containers with these labels from now on, also after the engine or the way to it was away.
    pub fn watch(&self, labels: &Labels) -> Watch {
        let (sender, events) = sync_channel(WAITING);
        let mut filters = by_labels(labels);
        filters.insert("type".to_owned(), vec!["container".to_owned()]);
        filters.insert("event".to_owned(), ["start", "die", "oom", "destroy"].map(str::to_owned).to_vec());
        let engine = self.unheeding();
        let task = Task {
            docker: self.docker().clone(),
            engine: engine.clone(),
            filters,
            sender,
            last: None,
            has_gap: true,
        };
        Watch { events, task: self.runtime().spawn(task.run()), _engine: engine }
    }
}

impl Watch {
    /// The next one, or `None` when none comes in this time.
    pub fn next(&self, timeout: Duration) -> Option<Watched> {
        match self.events.recv_timeout(timeout) {
            Ok(watched) => Some(watched),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => {
                std::thread::sleep(timeout);
                None
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Task {
    docker: Docker,
    engine: Engine,
    filters: std::collections::HashMap<String, Vec<String>>,
    sender: SyncSender<Watched>,
    /// When the last event was, by the engine's clock.
    last: Option<i64>,
    has_gap: bool,
}

/// What an engine may take to say what time it is.
const PATIENCE: Duration = Duration::from_secs(30);

impl Task {
    async fn run(mut self) {
        loop {
            if self.follow().await.is_err() {
                return;
            }
            self.has_gap = true;
            tokio::time::sleep(AGAIN).await;
            // Logging in again blocks; other connections live on this thread.
            let engine = self.engine.clone();
            tokio::task::spawn_blocking(move || engine.ensure_way().ok()).await.ok();
        }
    }

    /// Until the connection breaks. An error means that nobody listens any more.
    async fn follow(&mut self) -> Result<(), ()> {
        let Ok(Ok(info)) = tokio::time::timeout(PATIENCE, self.docker.info()).await else { return Ok(()) };
        // Asked for from a moment before the gap is told: whoever looks then misses nothing that happens between look and stream.
        let Some(now) = info.system_time.as_deref().and_then(nanoseconds) else { return Ok(()) };
        let since = timestamp(self.last.unwrap_or(now));
        let options = EventsOptionsBuilder::default().filters(&self.filters).since(&since).build();
        let mut events = self.docker.events(Some(options));
        self.gap()?;
        while let Some(Ok(message)) = events.next().await {
            let Some(event) = read(message) else { continue };
            // The first one of those asked for is the last one seen.
            if self.last.is_some_and(|last| event.at <= last) {
                continue;
            }
            self.last = Some(event.at);
            self.gap()?;
            self.send(Watched::Event(event))?;
        }
        Ok(())
    }

    /// Says that something may be missing, once.
    fn gap(&mut self) -> Result<(), ()> {
        if std::mem::take(&mut self.has_gap) { self.send(Watched::Gap) } else { Ok(()) }
    }

    fn send(&mut self, watched: Watched) -> Result<(), ()> {
        match self.sender.try_send(watched) {
            Ok(()) => Ok(()),
            Err(TrySendError::Full(_)) => {
                self.has_gap = true;
                Ok(())
            }
            Err(TrySendError::Disconnected(_)) => Err(()),
        }
    }
}

/// What the engine writes in RFC 3339.
fn nanoseconds(text: &str) -> Option<i64> {
    i64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_nanosecond()).ok()
}

/// Source: the engine's API, "Monitor events": seconds with a fraction.
fn timestamp(nanoseconds: i64) -> String {
    format!("{}.{:09}", nanoseconds / 1_000_000_000, nanoseconds % 1_000_000_000)
}

fn read(message: EventMessage) -> Option<Event> {
    let actor = message.actor.unwrap_or_default();
    let mut attributes = actor.attributes.unwrap_or_default();
    if attributes.contains_key(HOLDER) {
        return None;
    }
    let happening = match message.action.as_deref()? {
        "start" => Happening::Started,
        "die" => Happening::Died {
            exit_code: attributes.get("exitCode").and_then(|code| code.parse().ok()).unwrap_or(-1),
        },
        "oom" => Happening::OutOfMemory,
        "destroy" => Happening::Removed,
        _ => return None,
    };
    let name = attributes.remove("name").unwrap_or_default();
    // Beside the labels there are words of the engine's own.
    for word in ["exitCode", "image", "execDuration", OWNER] {
        attributes.remove(word);
    }
    Some(Event {
        id: actor.id.unwrap_or_default(),
        name,
        labels: attributes.into_iter().collect(),
        happening,
        at: message.time_nano.unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(json: serde_json::Value) -> Option<Event> {
        read(serde_json::from_value(json).unwrap())
    }

    #[test]
    fn events_are_read_and_others_left() {
        let died = serde_json::json!({
            "Type": "container", "Action": "die", "timeNano": 7,
            "Actor": { "ID": "ab", "Attributes": { "name": "api", "exitCode": "137", "image": "x", "env": "prod" } },
        });
        let found = event(died).unwrap();
        assert_eq!(
            (found.name.as_str(), found.happening, found.at),
            ("api", Happening::Died { exit_code: 137 }, 7)
        );
        assert_eq!(found.labels, Labels::from([("env".into(), "prod".into())]));
        assert_eq!(event(serde_json::json!({ "Action": "exec_start: x" })), None);
        assert_eq!(event(serde_json::json!({})), None);
        let holder =
            serde_json::json!({ "Action": "destroy", "Actor": { "Attributes": { HOLDER: "true" } } });
        assert_eq!(event(holder), None);
    }

    #[test]
    fn the_engine_counts_in_seconds_and_writes_dates() {
        assert_eq!(nanoseconds("2026-01-01T00:00:00.000000042Z"), Some(1_767_225_600_000_000_042));
        assert_eq!(nanoseconds("2026-01-01T01:00:00+01:00"), Some(1_767_225_600_000_000_000));
        assert_eq!(nanoseconds("yesterday"), None);
        assert_eq!(timestamp(1_767_225_600_000_000_042), "1767225600.000000042");
    }
}
