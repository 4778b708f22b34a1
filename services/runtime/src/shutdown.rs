//! One switch that tells all parts of a process to stop. It only ever goes from running to stopping.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// A handle on the switch; clones share it.
#[derive(Debug, Clone)]
pub struct Shutdown {
    stopping: watch::Sender<bool>,
}

impl Default for Shutdown {
    fn default() -> Self {
        Self { stopping: watch::Sender::new(false) }
    }
}

impl Shutdown {
    /// A switch that SIGTERM and SIGINT turn. Needs a tokio runtime.
    pub fn on_signals() -> io::Result<Self> {
        let shutdown = Self::default();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let switch = shutdown.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "stopping");
            switch.trigger();
        });
        Ok(shutdown)
    }

    /// Turns the switch.
    pub fn trigger(&self) {
        self.stopping.send_replace(true);
    }

    /// Whether the process is stopping.
    pub fn is_triggered(&self) -> bool {
        *self.stopping.borrow()
    }

    /// Returns once the process is to stop.
    pub async fn wait(&self) {
        let mut stopping = self.stopping.subscribe();
        // The sender is held by self, so waiting cannot fail before the switch is turned.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}
