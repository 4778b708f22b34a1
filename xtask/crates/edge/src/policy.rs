//! The policy of a route in the form in which requests meet it. It decides by heads and counts; bodies, time and streams are
//! others' work, who read their limits here.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::control::{Policy, RateLimit, StreamPolicy};
use crate::error::EdgeError;
use crate::headers;
use crate::limit::{Key, Limiter};

/// Headers that say what a message is, or belong to the edge: no policy sets them.
const RESERVED: [HeaderName; 7] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::TRAILER,
    headers::EDGE_ERROR,
    headers::REQUEST_ID,
];

/// A longer time is a mistake.
const LONGEST_MS: u64 = 7 * 24 * 60 * 60 * 1000;

/// What is done with the requests of a route.
#[derive(Debug, Default)]
pub(crate) struct RoutePolicy {
    limiter: Option<Limit>,
    headers: Vec<(HeaderName, HeaderValue)>,
    hsts: Option<HeaderValue>,
    pub(crate) max_body_bytes: Option<u64>,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) answer_timeout: Option<Duration>,
    pub(crate) silence_timeout: Option<Duration>,
    pub(crate) streams: Option<StreamPolicy>,
}

#[derive(Debug)]
struct Limit {
    limiter: Arc<Limiter>,
    header: Option<HeaderName>,
}

impl RoutePolicy {
    /// The form of a policy that passed [`check`]. Buckets of `before`, the same route in the table before, are kept where
    /// the limit is the same: a deployment gives nobody new tokens.
    pub(crate) fn new(policy: &Policy, before: Option<&RoutePolicy>) -> RoutePolicy {
        let time = |ms: Option<u64>| ms.map(Duration::from_millis);
        let name = |name: &String| HeaderName::from_bytes(name.as_bytes()).ok();
        let value = |value: &String| HeaderValue::from_str(value).ok();
        let pair = |(key, text): (&String, &String)| Some((name(key)?, value(text)?));
        let limiter = policy.rate_limit.as_ref().map(|rule| Limit {
            limiter: kept(rule, before).unwrap_or_else(|| Arc::new(Limiter::new(rule, Instant::now()))),
            header: rule.header.as_ref().and_then(name),
        });
        RoutePolicy {
            limiter,
            headers: policy.headers.iter().filter_map(pair).collect(),
            hsts: policy.hsts.as_ref().and_then(value),
            max_body_bytes: policy.max_body_bytes,
            request_timeout: time(policy.request_timeout_ms),
            answer_timeout: time(policy.answer_timeout_ms),
            silence_timeout: time(policy.silence_timeout_ms),
            streams: policy.streams,
        }
    }

    /// Whether a request with these headers may pass.
    pub(crate) fn admit(&self, client: IpAddr, headers: &HeaderMap, now: Instant) -> Result<(), EdgeError> {
        if let Some(limit) = &self.limiter {
            let named = limit.header.as_ref().and_then(|name| headers.get(name));
            let key = named.map_or_else(|| Key::address(client), |value| Key::Header(value.as_bytes()));
            limit.limiter.take(&key, now).map_err(EdgeError::RateLimited)?;
        }
        let length = self.max_body_bytes.and(headers.get(header::CONTENT_LENGTH));
        let length = length.and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
        match (length, self.max_body_bytes) {
            (Some(length), Some(most)) if length > most => Err(EdgeError::BodyTooLong(most)),
            _ => Ok(()),
        }
    }

    /// Adds what the service left open to its answer.
    pub(crate) fn finish(&self, headers: &mut HeaderMap, is_secure: bool) {
        let set = |headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue| {
            if !headers.contains_key(name) {
                headers.insert(name.clone(), value.clone());
            }
        };
        self.headers.iter().for_each(|(name, value)| set(headers, name, value));
        if let (true, Some(value)) = (is_secure, &self.hsts) {
            set(headers, &header::STRICT_TRANSPORT_SECURITY, value);
        }
    }
}

fn kept(rule: &RateLimit, before: Option<&RoutePolicy>) -> Option<Arc<Limiter>> {
    let limit = before?.limiter.as_ref()?;
    (limit.limiter.rule() == rule).then(|| Arc::clone(&limit.limiter))
}

/// Refuses a policy that cannot be followed, with the first reason.
pub(crate) fn check(policy: &Policy) -> Result<()> {
    for (name, value) in &policy.headers {
        let name =
            HeaderName::from_bytes(name.as_bytes()).with_context(|| format!("`{name}` is no header name"))?;
        ensure!(!RESERVED.contains(&name), "the header `{name}` is not for a policy to set");
        ensure!(name != header::STRICT_TRANSPORT_SECURITY, "`{name}` is set by `hsts`, and over TLS alone");
        HeaderValue::from_str(value).with_context(|| format!("the value of `{name}` is none of a header"))?;
    }
    if let Some(value) = &policy.hsts {
        HeaderValue::from_str(value).context("the value of `hsts` is none of a header")?;
    }
    if let Some(rule) = &policy.rate_limit {
        let is_sound = rule.requests > 0 && rule.per_ms > 0 && rule.burst > 0 && rule.per_ms <= LONGEST_MS;
        ensure!(
            is_sound,
            "a rate limit has at least one request, a time of up to a week and a burst of at least 1"
        );
        ensure!(
            u64::from(rule.requests) <= rule.per_ms.saturating_mul(1000),
            "a rate limit of more than a million requests a second is none"
        );
        if let Some(name) = &rule.header {
            HeaderName::from_bytes(name.as_bytes()).with_context(|| format!("`{name}` is no header name"))?;
        }
    }
    let streams = policy.streams.map(|streams| [streams.max_age_ms, streams.spread_ms]);
    let times = [policy.request_timeout_ms, policy.answer_timeout_ms, policy.silence_timeout_ms];
    for ms in times.into_iter().flatten() {
        ensure!((1..=LONGEST_MS).contains(&ms), "a timeout of {ms} ms: at least 1 ms and at most a week");
    }
    ensure!(
        streams.is_none_or(|times| times.iter().all(|ms| *ms <= LONGEST_MS)),
        "streams live at most a week"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limited(requests: u32) -> Policy {
        let header = Some("x-key".to_owned());
        Policy {
            rate_limit: Some(RateLimit { requests, per_ms: 60_000, burst: 1, header }),
            ..Policy::default()
        }
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn a_limit_goes_by_its_header_else_by_address_and_outlives_its_table() {
        let (now, client) = (Instant::now(), IpAddr::from([192, 0, 2, 1]));
        let policy = RoutePolicy::new(&limited(1), None);
        let admit = |policy: &RoutePolicy, pairs| policy.admit(client, &headers(pairs), now);
        assert_eq!(admit(&policy, &[("x-key", "a")]), Ok(()));
        assert_eq!(admit(&policy, &[("x-key", "b")]), Ok(()));
        assert_eq!(admit(&policy, &[]), Ok(()));
        for pairs in [&[("x-key", "a")][..], &[]] {
            assert_eq!(admit(&policy, pairs), Err(EdgeError::RateLimited(Duration::from_secs(60))));
        }
        let same = RoutePolicy::new(&limited(1), Some(&policy));
        assert!(admit(&same, &[]).is_err());
        assert_eq!(admit(&RoutePolicy::new(&limited(2), Some(&policy)), &[]), Ok(()), "another limit");
    }

    #[test]
    fn the_services_own_headers_win_and_hsts_is_for_tls() {
        let set = [("x-frame-options", "DENY"), ("referrer-policy", "no-referrer")];
        let set = set.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        let policy = Policy { headers: set, hsts: Some("max-age=1".into()), ..Policy::default() };
        check(&policy).unwrap();
        let policy = RoutePolicy::new(&policy, None);
        let mut answer = headers(&[("x-frame-options", "SAMEORIGIN")]);
        policy.finish(&mut answer, false);
        assert_eq!(answer, headers(&[("x-frame-options", "SAMEORIGIN"), ("referrer-policy", "no-referrer")]));
        policy.finish(&mut answer, true);
        assert_eq!(answer["strict-transport-security"], "max-age=1");
    }

    #[test]
    fn policies_that_cannot_be_followed_are_refused() {
        let header = |name: &str, value: &str| Policy {
            headers: [(name.to_owned(), value.to_owned())].into(),
            ..Policy::default()
        };
        for bad in [
            header("a b", "x"),
            header("x", "a\nb"),
            header("Content-Length", "1"),
            header("X-Slipway-Edge-Error", "1"),
            header("Strict-Transport-Security", "max-age=1"),
            Policy { hsts: Some("\n".into()), ..Policy::default() },
            Policy { answer_timeout_ms: Some(0), ..Policy::default() },
            Policy { request_timeout_ms: Some(u64::MAX), ..Policy::default() },
            Policy {
                streams: Some(StreamPolicy { max_age_ms: u64::MAX, spread_ms: 0 }),
                ..Policy::default()
            },
            limited(0),
            limited(u32::MAX),
        ] {
            assert!(check(&bad).is_err(), "{bad:?}");
        }
    }
}
