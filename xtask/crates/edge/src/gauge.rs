//! A count of things that are held, and a wait for fewer. Each request is counted, so counting is one atomic step while
//! nobody waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts what is held.
#[derive(Clone, Default)]
pub(crate) struct Gauge(Arc<Count>);

#[derive(Default)]
struct Count {
    held: AtomicUsize,
    waiting: AtomicUsize,
    fewer: Notify,
}

/// Counted until it is dropped.
pub(crate) struct Held(Gauge);

/// One who waits, counted until it is dropped: a wait may be given up.
struct Waiting<'a>(&'a Count);

impl Gauge {
    pub(crate) fn new() -> Gauge {
        Gauge::default()
    }

    pub(crate) fn hold(&self) -> Held {
        self.0.held.fetch_add(1, Ordering::SeqCst);
        Held(self.clone())
    }

    pub(crate) fn count(&self) -> usize {
        self.0.held.load(Ordering::SeqCst)
    }

    /// Returns when nothing is held.
    pub(crate) async fn wait_idle(&self) {
        self.wait_below(1).await;
    }

    /// Returns when fewer than `bound` are held.
    pub(crate) async fn wait_below(&self, bound: usize) {
        if self.count() < bound {
            return;
        }
        self.0.waiting.fetch_add(1, Ordering::SeqCst);
        let waiting = Waiting(&self.0);
        loop {
            let mut fewer = std::pin::pin!(waiting.0.fewer.notified());
            // Registered before the count is read: what is dropped from now on is heard of.
            fewer.as_mut().enable();
            if self.count() < bound {
                return;
            }
            fewer.await;
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let count = &self.0.0;
        count.held.fetch_sub(1, Ordering::SeqCst);
        // Whoever waits said so before it read the count, and either reads this one or is seen here.
        if count.waiting.load(Ordering::SeqCst) > 0 {
            count.fewer.notify_waiters();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_wait_ends_when_there_are_few_enough() {
        let gauge = Gauge::new();
        for _ in 0..2000 {
            let held: Vec<_> = (0..4).map(|_| gauge.hold()).collect();
            let waiting = gauge.clone();
            let waiter = tokio::spawn(async move { waiting.wait_idle().await });
            for held in held {
                tokio::spawn(async move { drop(held) });
            }
            tokio::time::timeout(Duration::from_secs(20), waiter).await.unwrap().unwrap();
        }
        assert_eq!((gauge.count(), gauge.0.waiting.load(Ordering::SeqCst)), (0, 0));
    }

    #[tokio::test]
    async fn a_wait_that_is_given_up_is_forgotten() {
        let gauge = Gauge::new();
        let held = gauge.hold();
        assert!(tokio::time::timeout(Duration::from_millis(5), gauge.wait_below(1)).await.is_err());
        assert_eq!(gauge.0.waiting.load(Ordering::SeqCst), 0);
        gauge.wait_below(2).await;
        drop(held);
        gauge.wait_idle().await;
    }
}
