//! A bounded number of computations beside the threads that serve connections. It does not know what is computed.

use std::sync::Arc;
use std::time::Duration;

use runtime::Problem;
use runtime::problem::Kind;
use tokio::sync::Semaphore;

const RETRY_AFTER_S: u32 = 1;

/// Places for computations.
#[derive(Debug)]
pub struct Pool {
    places: Arc<Semaphore>,
    wait: Duration,
}

impl Pool {
    /// A pool of places for which a request waits at most `wait`.
    pub fn new(places: usize, wait: Duration) -> Self {
        Self { places: Arc::new(Semaphore::new(places)), wait }
    }

    /// Runs a computation when there is a place. The place is held until the computation ends, also when its client
    /// has gone: the processor is busy with it either way.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let turn = tokio::time::timeout(self.wait, Arc::clone(&self.places).acquire_owned()).await;
        let Ok(Ok(place)) = turn else {
            let problem = Problem::new(Kind::EngineUnavailable, "all places of the engine are taken");
            return Err(problem.retry_after(RETRY_AFTER_S));
        };
        let computing = tokio::task::spawn_blocking(move || {
            let _place = place;
            work()
        });
        computing.await.map_err(|error| Problem::internal(&error))
    }
}
