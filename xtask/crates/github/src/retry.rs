//! When to send a request again, and after which time. Pure: the time, the randomness and what was waited so far are passed
//! in. It decides for calls that can be repeated, and for rate limits, whose answer says that nothing was done.
//!
//! Source: GitHub REST API, "Rate limits" and "Best practices": obey `retry-after`; else wait until `x-ratelimit-reset` where
//! `x-ratelimit-remaining` is 0; else at least a minute, longer each time.

use std::time::Duration;

use http::{HeaderMap, StatusCode};

/// Attempts of one call. With the waits below, a server may be away for about 15 s.
pub(crate) const ATTEMPTS: u32 = 5;

/// The wait before the second attempt; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(500);

/// GitHub asks for at least this where a secondary limit says nothing else.
const SECONDARY_WAIT: Duration = Duration::from_secs(60);

/// Clocks differ: a primary limit is taken to end a little later than it says.
const CLOCK_SLACK: Duration = Duration::from_secs(1);

/// A rate limit that an answer stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit {
    /// `primary` or `secondary`.
    pub(crate) name: &'static str,
    pub(crate) wait: Duration,
}

/// The rate limit that an answer stands for, if it does. `attempt` counts from 1, `now` is in seconds since 1970.
pub(crate) fn limit(
    status: StatusCode,
    headers: &HeaderMap,
    message: &str,
    attempt: u32,
    now: u64,
) -> Option<Limit> {
    if status != StatusCode::FORBIDDEN && status != StatusCode::TOO_MANY_REQUESTS {
        return None;
    }
    let number = |name: &str| headers.get(name)?.to_str().ok()?.trim().parse::<u64>().ok();
    if let Some(seconds) = number("retry-after") {
        return Some(Limit { name: "secondary", wait: Duration::from_secs(seconds) });
    }
    if number("x-ratelimit-remaining") == Some(0) {
        let reset = number("x-ratelimit-reset").unwrap_or(now);
        let wait = Duration::from_secs(reset.saturating_sub(now)).saturating_add(CLOCK_SLACK);
        return Some(Limit { name: "primary", wait });
    }
    let message = message.to_ascii_lowercase();
    let is_limit = status == StatusCode::TOO_MANY_REQUESTS
        || message.contains("secondary rate limit")
        || message.contains("abuse detection");
    is_limit.then(|| Limit { name: "secondary", wait: SECONDARY_WAIT * attempt.clamp(1, 16) })
}

/// The wait after attempt number `attempt`, `None` after the last. `random` is from 0 to 1: half of the wait is left to it, so that
/// jobs that failed together do not come back together.
pub(crate) fn backoff(attempt: u32, random: f64) -> Option<Duration> {
    if attempt >= ATTEMPTS {
        return None;
    }
    let whole = FIRST_WAIT * 2_u32.pow(attempt.saturating_sub(1));
    Some(whole.mul_f64(0.5 + random.clamp(0.0, 1.0) / 2.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
    }

    fn wait(status: u16, pairs: &[(&'static str, &str)], message: &str) -> Option<(&'static str, u64)> {
        let status = StatusCode::from_u16(status).unwrap();
        limit(status, &headers(pairs), message, 2, 1_000).map(|limit| (limit.name, limit.wait.as_secs()))
    }

    #[test]
    fn limits_are_told_from_missing_permissions() {
        let spent = |reset| [("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", reset)];
        assert_eq!(wait(403, &[("retry-after", "7")], ""), Some(("secondary", 7)));
        assert_eq!(wait(429, &[], ""), Some(("secondary", 120)));
        assert_eq!(wait(403, &spent("1060"), "API rate limit exceeded"), Some(("primary", 61)));
        assert_eq!(wait(403, &spent("10"), ""), Some(("primary", 1)));
        assert_eq!(wait(403, &[], "You have exceeded a secondary rate limit."), Some(("secondary", 120)));
        assert_eq!(wait(403, &[("x-ratelimit-remaining", "12")], "Resource not accessible"), None);
        assert_eq!(wait(500, &[("retry-after", "7")], ""), None);
        assert_eq!(wait(403, &[("retry-after", "soon")], ""), None);
        assert!(wait(403, &spent(&u64::MAX.to_string()), "").is_some());
    }

    #[test]
    fn waits_grow_differ_and_end() {
        let waits: Vec<_> = (1..=5).map(|attempt| backoff(attempt, 1.0).map(|w| w.as_millis())).collect();
        assert_eq!(waits, [Some(500), Some(1_000), Some(2_000), Some(4_000), None]);
        assert_eq!(backoff(1, 0.0), Some(Duration::from_millis(250)));
    }
}
