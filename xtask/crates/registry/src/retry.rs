//! When to try again, and after what pause. Pure: the clock and the random part are given.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode};

/// No pause is longer. A registry that asks for more is told to the user instead.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// A registry may ask for this much before the user is told.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(120);

/// Whether the same request may be answered otherwise a moment later.
pub(crate) fn is_passing(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 429 | 500 | 502 | 503 | 504)
}

/// Whether what broke a request is a fault of the way: a reset, a silence, a body that was cut.
pub(crate) fn is_broken_way(error: &ureq::Error) -> bool {
    use ureq::Error as E;
    match error {
        E::Io(error) => !is_tls(error),
        E::Timeout(_) | E::ConnectionFailed | E::BodyStalled | E::Protocol(_) => true,
        _ => false,
    }
}

/// Errors of TLS arrive in the clothes of broken pipes; no further attempt mends them.
fn is_tls(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::InvalidData
}

/// The pause before attempt `next` (the second is 1). Half of it is by chance, in 0..=255, so that many clients do not come back
/// at once. `None` where the registry asks for more patience than there is.
pub(crate) fn pause(next: u32, first: Duration, asked: Option<Duration>, chance: u8) -> Option<Duration> {
    let full = first.saturating_mul(1 << next.saturating_sub(1).min(16)).min(MAX_PAUSE);
    let jittered = full / 2 + full.mul_f64(f64::from(chance) / 510.0);
    match asked {
        Some(asked) if asked > MAX_RETRY_AFTER => None,
        Some(asked) => Some(asked.max(jittered)),
        None => Some(jittered),
    }
}

/// What `Retry-After` asks for, where it is a number of seconds. A date is taken as no wish: clocks differ.
pub(crate) fn asked(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("retry-after")?.to_str().ok()?;
    text.trim().parse().ok().map(Duration::from_secs)
}

/// A number by chance. It only spreads retries: nothing depends on its being hard to guess.
pub(crate) fn chance() -> u8 {
    RandomState::new().build_hasher().finish().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_a_limit_and_half_of_each_is_by_chance() {
        let ms = Duration::from_millis;
        let pause = |next, chance| pause(next, ms(400), None, chance).unwrap().as_millis();
        assert_eq!([pause(1, 0), pause(1, 255), pause(2, 0), pause(3, 255)], [200, 400, 400, 1600]);
        assert_eq!([pause(40, 0), pause(40, 255)], [15_000, 30_000]);
    }

    #[test]
    fn the_registrys_wish_counts_within_reason() {
        let pause = |seconds| pause(1, Duration::from_millis(400), Some(Duration::from_secs(seconds)), 0);
        assert_eq!(pause(7), Some(Duration::from_secs(7)));
        assert_eq!(pause(0), Some(Duration::from_millis(200)));
        assert_eq!(pause(3600), None);
        let header = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("retry-after", text.parse().unwrap());
            asked(&headers)
        };
        assert_eq!(header(" 3"), Some(Duration::from_secs(3)));
        assert_eq!(header("Fri, 31 Dec 1999 23:59:59 GMT"), None);
        assert_eq!(header("-1"), None);
    }
}
