//! When to try again: exponential back-off with full jitter, which spreads retries evenly over the whole pause.
//! Pure: the random number is passed in.

use std::time::Duration;

/// How pauses grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Longest pause after the first failed attempt.
    pub base: Duration,
    /// Longest pause ever.
    pub cap: Duration,
}

impl Backoff {
    /// The pause after a failed attempt, counted from 1. `random` is uniform in [0, 1).
    pub fn pause(&self, attempt: u32, random: f64) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.base.saturating_mul(1 << doublings).min(self.cap).mul_f64(random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(60) };

    #[test]
    fn pauses_double_up_to_the_cap() {
        let longest: Vec<_> = (0..=9).map(|attempt| BACKOFF.pause(attempt, 1.0).as_secs()).collect();
        assert_eq!(longest, [1, 1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(BACKOFF.pause(u32::MAX, 1.0), BACKOFF.cap);
    }

    #[test]
    fn jitter_takes_any_share_of_the_pause() {
        assert_eq!(BACKOFF.pause(4, 0.0), Duration::ZERO);
        assert_eq!(BACKOFF.pause(4, 0.25), Duration::from_secs(2));
    }
}
