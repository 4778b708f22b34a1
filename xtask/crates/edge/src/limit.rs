//! Who asked how often: a token bucket for each client, kept as the time at which it would be full again (GCRA). It knows
//! keys and time only. The invariant: memory is fixed when the limit is made, whoever asks; no lock and no allocation.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::control::RateLimit;

/// Clients that are told apart at once: half a megabyte a limit.
const SETS: usize = 1 << 14;

/// Places that one client's bucket may be in.
const WAYS: usize = 4;

/// A place holds a time in its low bits, in microseconds since the limit was made (nine years), and above it a tag that
/// tells clients of one set apart.
const TIME_BITS: u32 = 48;
const TIME: u64 = (1 << TIME_BITS) - 1;

/// The buckets of one limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    rule: RateLimit,
    /// Microseconds that one request takes from a bucket, and that a full one holds.
    period: u64,
    depth: u64,
    began: Instant,
    hasher: RandomState,
    places: Box<[[AtomicU64; WAYS]]>,
}

/// Who a request is counted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key<'a> {
    Address(IpAddr),
    Header(&'a [u8]),
}

impl Key<'_> {
    /// An address as it is counted: whoever has one IPv6 address has its whole network of 64 bits.
    pub(crate) fn address(address: IpAddr) -> Key<'static> {
        Key::Address(match address.to_canonical() {
            IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
            address => address,
        })
    }
}

impl Limiter {
    pub(crate) fn new(rule: &RateLimit, now: Instant) -> Limiter {
        let period =
            (rule.per_ms.saturating_mul(1000) / u64::from(rule.requests.max(1))).clamp(1, TIME >> 20);
        Limiter {
            rule: rule.clone(),
            period,
            depth: period.saturating_mul(u64::from(rule.burst.max(1))).min(TIME >> 1),
            began: now,
            hasher: RandomState::new(),
            places: (0..SETS).map(|_| [const { AtomicU64::new(0) }; WAYS]).collect(),
        }
    }

    pub(crate) fn rule(&self) -> &RateLimit {
        &self.rule
    }

    /// Takes a token of the bucket of `key`.
    ///
    /// # Errors
    /// How long until there is one.
    pub(crate) fn take(&self, key: &Key<'_>, now: Instant) -> Result<(), Duration> {
        let us = u64::try_from(now.saturating_duration_since(self.began).as_micros()).unwrap_or(TIME)
            & (TIME >> 1);
        let hash = self.hasher.hash_one(key);
        // A tag of 0 is that of an empty place.
        let tag = (hash >> TIME_BITS).max(1);
        let set = &self.places[hash as usize % SETS];
        loop {
            let (place, seen) = Self::find(set, tag, us);
            let full_at = (seen & TIME).max(us) + self.period;
            if full_at > us + self.depth {
                return Err(Duration::from_micros(full_at - us - self.depth));
            }
            // A place that is shared keeps the tag that it has.
            let kept = if seen & TIME > us { seen >> TIME_BITS } else { tag };
            let next = kept << TIME_BITS | full_at;
            if place.compare_exchange_weak(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
    }

    /// The place of the bucket with `tag`, else one whose bucket is full again, else the one that will be first: with more
    /// clients at once than there are places, some share.
    fn find(set: &[AtomicU64; WAYS], tag: u64, us: u64) -> (&AtomicU64, u64) {
        let mut first = (&set[0], u64::MAX);
        for place in set {
            let seen = place.load(Ordering::Relaxed);
            if seen >> TIME_BITS == tag && seen & TIME > us {
                return (place, seen);
            }
            if first.1 == u64::MAX || seen & TIME < first.1 & TIME {
                first = (place, seen);
            }
        }
        first
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(requests: u32, per_ms: u64, burst: u32, now: Instant) -> Limiter {
        Limiter::new(&RateLimit { requests, per_ms, burst, header: None }, now)
    }

    fn key(number: u32) -> Key<'static> {
        Key::address(IpAddr::from(number.to_be_bytes()))
    }

    #[test]
    fn a_burst_then_an_even_rate_and_the_wait_is_told() {
        let now = Instant::now();
        let limiter = limiter(10, 1000, 3, now);
        let at = |ms| now + Duration::from_millis(ms);
        assert_eq!((0..3).filter(|_| limiter.take(&key(1), now).is_ok()).count(), 3);
        assert_eq!(limiter.take(&key(1), now), Err(Duration::from_millis(100)));
        assert_eq!(limiter.take(&key(1), at(40)), Err(Duration::from_millis(60)));
        assert_eq!(limiter.take(&key(1), at(100)), Ok(()));
        assert_eq!(limiter.take(&key(1), at(100)), Err(Duration::from_millis(100)));
        assert_eq!(limiter.take(&key(2), now), Ok(()), "another client");
        let allowed = (100..10_100).filter(|ms| limiter.take(&key(1), at(*ms)).is_ok()).count();
        assert!((99..=103).contains(&allowed), "{allowed} in ten seconds");
    }

    #[test]
    fn one_ipv6_network_and_a_mapped_address_are_one_client() {
        let key = |text: &str| Key::address(text.parse().unwrap());
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        assert_ne!(key("192.0.2.1"), key("192.0.2.2"));
    }

    #[test]
    fn many_clients_are_told_apart_and_more_of_them_share_without_memory() {
        let now = Instant::now();
        let limiter = limiter(1, 60_000, 1, now);
        let refused = (0..5_000).filter(|number| limiter.take(&key(*number), now).is_err()).count();
        assert!(refused < 10, "{refused} of 5000 clients paid for others");
        let crowd = (0..200_000).filter(|number| limiter.take(&key(*number), now).is_ok()).count();
        assert!(crowd < 80_000, "{crowd}");
        let later = now + Duration::from_secs(61);
        assert_eq!(limiter.take(&key(7_000_000), later), Ok(()), "places are free again");
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let now = Instant::now();
        let limiter = limiter(1, 60_000, 500, now);
        let allowed = AtomicU64::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let taken = (0..1000).filter(|_| limiter.take(&key(1), now).is_ok()).count();
                    allowed.fetch_add(taken as u64, Ordering::Relaxed);
                });
            }
        });
        assert_eq!(allowed.load(Ordering::Relaxed), 500);
    }

    #[test]
    fn odd_rules_do_no_harm() {
        let now = Instant::now();
        for rule in [(0, 0, 0), (u32::MAX, 1, u32::MAX), (1, u64::MAX, u32::MAX)] {
            let limiter = limiter(rule.0, rule.1, rule.2, now);
            assert_eq!(limiter.take(&key(1), now), Ok(()));
        }
    }
}
