//! How long to leave jobs alone while the inference service is away. It knows one fact, since when; the pause is as long
//! as the absence so far, so each wait doubles it, whatever the number of jobs that find out. Pure: clock and random
//! number are passed in.

use std::time::{Duration, Instant};

const SHORTEST_PAUSE: Duration = Duration::from_millis(500);
/// A service that is back is noticed within this.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Since when the service is away.
#[derive(Debug, Default)]
pub(crate) struct Absence(Option<Instant>);

impl Absence {
    /// The service was away at `now`; the pause until the next try. `random` is uniform in [0, 1) and takes up to half
    /// of the pause away, so that jobs do not come back all at once.
    pub(crate) fn noticed(&mut self, now: Instant, random: f64) -> Duration {
        let since = *self.0.get_or_insert(now);
        let pause = now.saturating_duration_since(since).clamp(SHORTEST_PAUSE, LONGEST_PAUSE);
        pause.mul_f64(1.0 - random / 2.0)
    }

    /// The service has answered.
    pub(crate) fn ended(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_anew() {
        let (mut absence, mut now, mut pauses) = (Absence::default(), Instant::now(), Vec::new());
        for _ in 0..8 {
            let pause = absence.noticed(now, 0.0);
            pauses.push(pause.as_millis());
            now += pause;
        }
        assert_eq!(pauses, [500, 500, 1000, 2000, 4000, 8000, 15_000, 15_000]);
        assert_eq!(absence.noticed(now, 1.0), LONGEST_PAUSE / 2);
        absence.ended();
        assert_eq!(absence.noticed(now, 0.0), SHORTEST_PAUSE);
    }
}
