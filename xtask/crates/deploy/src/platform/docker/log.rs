//! What a container wrote: its last lines, and what it writes from then on.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::Result;
use docker::{Engine, Line, LogQuery};

use crate::platform::Follow;

/// How long reading what is there may take.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long one container is followed at most: longer than anybody looks.
const FOLLOW_TIMEOUT: Duration = Duration::from_secs(24 * 60 * 60);

/// Lines before the end that are read again when following begins: those that were shown are left out by their time.
const OVERLAP: u32 = 1_000;

/// The last `lines` lines, and what comes after them.
pub(super) fn open(engine: &Engine, container: &str, lines: usize) -> Result<(Vec<String>, Box<dyn Follow>)> {
    let tail = u32::try_from(lines).ok();
    let query = LogQuery { tail, timestamps: true, ..LogQuery::all() };
    let mut found: Vec<Line> = Vec::new();
    engine.logs(container, &query, READ_TIMEOUT, &mut |line| {
        found.push(line);
        ControlFlow::Continue(())
    })?;
    let last = found.iter().filter_map(|line| line.at.clone()).max();
    let follow =
        FollowContainer { engine: engine.clone(), container: container.to_owned(), last, lines: None };
    Ok((found.into_iter().map(|line| line.text).collect(), Box::new(follow)))
}

/// Follows a container once it is asked for the first time.
struct FollowContainer {
    engine: Engine,
    container: String,
    /// The time of the last line that was shown. The engine's times are of equal length, so texts compare like times.
    last: Option<String>,
    lines: Option<Reading>,
}

struct Reading {
    lines: Receiver<String>,
    stop: Arc<AtomicBool>,
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Follow for FollowContainer {
    fn lines(&mut self) -> Result<Vec<String>> {
        if self.lines.is_none() {
            self.lines = Some(self.read());
        }
        Ok(self.lines.iter().flat_map(|reading| reading.lines.try_iter()).collect())
    }
}

impl FollowContainer {
    fn read(&self) -> Reading {
        let (sender, lines) = channel();
        let stop = Arc::new(AtomicBool::new(false));
        let (engine, container, last) =
            (self.engine.heeding(Arc::clone(&stop)), self.container.clone(), self.last.clone());
        // It ends with the container, with an error, or with the flag; then there are no more lines.
        std::thread::spawn(move || {
            let query = LogQuery { tail: Some(OVERLAP), follow: true, timestamps: true };
            let _ = engine.logs(&container, &query, FOLLOW_TIMEOUT, &mut |line| {
                if line.at <= last {
                    return ControlFlow::Continue(());
                }
                match sender.send(line.text) {
                    Ok(()) => ControlFlow::Continue(()),
                    Err(_) => ControlFlow::Break(()),
                }
            });
        });
        Reading { lines, stop }
    }
}
