//! Requests that wait for the word to go on. It knows neither requests nor services. The invariant: who waits is let go in
//! the order of arrival, after a bounded time at the latest, and no more than a bounded number wait.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

/// Holds what comes.
#[derive(Debug)]
pub(crate) struct Gate {
    hold: Duration,
    max_held: usize,
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    is_open: bool,
    waiting: VecDeque<oneshot::Sender<()>>,
}

/// What became of one that came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Passage {
    Released,
    /// The word did not come in time.
    HeldTooLong,
    /// Too many wait already.
    Full,
}

impl Gate {
    pub(crate) fn new(hold: Duration, max_held: usize) -> Gate {
        Gate { hold, max_held, queue: Mutex::default() }
    }

    /// How long each is held at most.
    pub(crate) fn hold(&self) -> Duration {
        self.hold
    }

    /// Waits for the word. Whoever stops waiting gives up the place.
    pub(crate) async fn pass(&self) -> Passage {
        let word = {
            let mut queue = self.queue();
            if queue.is_open {
                return Passage::Released;
            }
            if queue.waiting.len() >= self.max_held {
                queue.waiting.retain(|waiting| !waiting.is_closed());
            }
            if queue.waiting.len() >= self.max_held {
                return Passage::Full;
            }
            let (sender, word) = oneshot::channel();
            queue.waiting.push_back(sender);
            word
        };
        match tokio::time::timeout(self.hold, word).await {
            Ok(Ok(())) => Passage::Released,
            // A gate that is dropped was not opened.
            Ok(Err(_)) | Err(_) => Passage::HeldTooLong,
        }
    }

    /// Lets all that wait go, and whoever comes late; returns how many waited.
    pub(crate) fn open(&self) -> u64 {
        let waiting = {
            let mut queue = self.queue();
            queue.is_open = true;
            std::mem::take(&mut queue.waiting)
        };
        waiting.into_iter().map(|waiting| u64::from(waiting.send(()).is_ok())).sum()
    }

    /// How many wait.
    pub(crate) fn held(&self) -> u64 {
        self.queue().waiting.iter().filter(|waiting| !waiting.is_closed()).count() as u64
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_let_go_in_order_and_late_ones_pass() {
        let (gate, order) =
            (Arc::new(Gate::new(Duration::from_secs(5), 100)), Arc::new(Mutex::new(Vec::new())));
        for number in 0..50 {
            let (gate, order) = (Arc::clone(&gate), Arc::clone(&order));
            tokio::spawn(async move {
                assert_eq!(gate.pass().await, Passage::Released);
                order.lock().unwrap().push(number);
            });
            tokio::task::yield_now().await;
        }
        assert_eq!(gate.held(), 50);
        assert_eq!(gate.open(), 50);
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(*order.lock().unwrap(), (0..50).collect::<Vec<_>>());
        assert_eq!((gate.pass().await, gate.open()), (Passage::Released, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn time_and_number_are_bounded_and_who_left_makes_room() {
        let gate = Arc::new(Gate::new(Duration::from_secs(5), 2));
        let wait = || {
            tokio::spawn({
                let gate = Arc::clone(&gate);
                async move { gate.pass().await }
            })
        };
        let (first, second) = (wait(), wait());
        tokio::task::yield_now().await;
        assert_eq!(gate.pass().await, Passage::Full);
        first.abort();
        assert!(first.await.is_err());
        let third = wait();
        tokio::task::yield_now().await;
        assert_eq!(gate.held(), 2);
        assert_eq!(
            (second.await.unwrap(), third.await.unwrap()),
            (Passage::HeldTooLong, Passage::HeldTooLong)
        );
    }
}
