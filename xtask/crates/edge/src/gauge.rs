//! A count of things that are held, and a wait for none.

use std::sync::Arc;

use tokio::sync::watch;

/// Counts what is held.
#[derive(Clone)]
pub(crate) struct Gauge(Arc<watch::Sender<usize>>);

/// Counted until it is dropped.
pub(crate) struct Held(Gauge);

impl Gauge {
    pub(crate) fn new() -> Gauge {
        Gauge(Arc::new(watch::Sender::new(0)))
    }

    pub(crate) fn hold(&self) -> Held {
        self.0.send_modify(|count| *count += 1);
        Held(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        *self.0.borrow()
    }

    /// Returns when nothing is held.
    pub(crate) async fn wait_idle(&self) {
        self.wait_below(1).await;
    }

    /// Returns when fewer than `bound` are held.
    pub(crate) async fn wait_below(&self, bound: usize) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|count| *count < bound).await;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.0.send_modify(|count| *count -= 1);
    }
}
