//! What an environment file says about the requests of a route, and the policy of the edge that it amounts to. Pure; whether
//! the edge can follow the policy is for the edge to say.

use std::collections::BTreeMap;

use edge::control::{self, RateLimit, StreamPolicy};
use serde::{Deserialize, Serialize};

/// Rules for requests. What is absent in a route is as `edge.policy` says, and what is absent there changes nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct RoutePolicy {
    /// How many requests one client may make; more are answered 429.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<RateLimitSettings>,
    /// A longer request body is answered 413.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_body_bytes: Option<u64>,
    /// How long a client may take to send the whole body of a request, before it is answered 408.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_timeout_ms: Option<u64>,
    /// How long the service may take to begin its answer, before it is answered 504; as `edge.answer_timeout_ms` where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer_timeout_ms: Option<u64>,
    /// How long the service may be silent in the midst of an answer, before that is cut off. Event streams are exempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub silence_timeout_ms: Option<u64>,
    /// Headers that make browsers careful, set where the service does not set them itself. `{}` sets the usual ones.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub security_headers: Option<SecurityHeaders>,
    /// Other headers of answers by name, set where the service does not set them itself.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, String>,
    /// When WebSockets and event streams of a release that was replaced are closed; when its processes stop, where absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub streams: Option<StreamSettings>,
}

/// A token bucket for each client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct RateLimitSettings {
    /// Requests allowed in each period, evenly.
    pub requests: u32,
    /// The period; a second where absent.
    #[serde(default = "second")]
    pub per_ms: u64,
    /// Requests at once that a client which was quiet may make; as many as `requests` where absent.
    #[serde(default)]
    pub burst: Option<u32>,
    /// The header whose value tells clients apart; their address (of IPv6 the first 64 bits) where absent.
    #[serde(default)]
    pub header: Option<String>,
}

/// Headers that make browsers careful. Each can be turned off.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct SecurityHeaders {
    /// `Strict-Transport-Security` for so many seconds, over TLS alone; 0 for none.
    pub hsts_max_age_s: u64,
    /// Whether that is for all subdomains, too.
    pub hsts_include_subdomains: bool,
    /// Whether answers have `X-Content-Type-Options: nosniff`.
    pub nosniff: bool,
    /// `Referrer-Policy`; empty for none.
    pub referrer_policy: String,
    /// `X-Frame-Options`; empty for none.
    pub frame_options: String,
    /// `Content-Security-Policy`; empty for none.
    pub content_security_policy: String,
}

/// When streams of a release that was replaced are closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub struct StreamSettings {
    /// How long they may go on after the switch.
    pub max_age_ms: u64,
    /// Over which time after that they are closed, evenly; 30 s where absent.
    #[serde(default = "half_a_minute")]
    pub spread_ms: u64,
}

/// A file with a line for each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields, default)]
pub struct AccessLogFile {
    /// A longer file is kept under another name and a new one begun.
    pub max_bytes: u64,
    /// Former files that are kept.
    pub keep: u32,
    /// Whether the query is written, which may hold what is nobody's business.
    pub query: bool,
}

fn second() -> u64 {
    1000
}

fn half_a_minute() -> u64 {
    30_000
}

impl Default for SecurityHeaders {
    fn default() -> SecurityHeaders {
        SecurityHeaders {
            hsts_max_age_s: 365 * 24 * 60 * 60,
            hsts_include_subdomains: false,
            nosniff: true,
            referrer_policy: "strict-origin-when-cross-origin".to_owned(),
            frame_options: "SAMEORIGIN".to_owned(),
            content_security_policy: String::new(),
        }
    }
}

impl Default for AccessLogFile {
    fn default() -> AccessLogFile {
        AccessLogFile { max_bytes: 64 * 1024 * 1024, keep: 4, query: false }
    }
}

impl AccessLogFile {
    /// The same for the edge.
    pub(crate) fn control(self) -> control::AccessLog {
        control::AccessLog { max_bytes: self.max_bytes, keep: self.keep, query: self.query }
    }
}

impl RoutePolicy {
    /// Whether nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == RoutePolicy::default()
    }

    /// The policy of a route that says this, in an edge that says `general`.
    pub(crate) fn control(&self, general: &RoutePolicy) -> control::Policy {
        let rate_limit = self.rate_limit.as_ref().or(general.rate_limit.as_ref());
        let streams = self.streams.or(general.streams);
        let security = self.security_headers.as_ref().or(general.security_headers.as_ref());
        let mut headers = security.map(SecurityHeaders::fixed).unwrap_or_default();
        headers.extend(general.headers.clone());
        headers.extend(self.headers.clone());
        control::Policy {
            rate_limit: rate_limit.map(RateLimitSettings::control),
            max_body_bytes: self.max_body_bytes.or(general.max_body_bytes),
            request_timeout_ms: self.request_timeout_ms.or(general.request_timeout_ms),
            answer_timeout_ms: self.answer_timeout_ms.or(general.answer_timeout_ms),
            silence_timeout_ms: self.silence_timeout_ms.or(general.silence_timeout_ms),
            headers: headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect(),
            hsts: security.and_then(SecurityHeaders::hsts),
            streams: streams
                .map(|streams| StreamPolicy { max_age_ms: streams.max_age_ms, spread_ms: streams.spread_ms }),
        }
    }
}

impl RateLimitSettings {
    fn control(&self) -> RateLimit {
        RateLimit {
            requests: self.requests,
            per_ms: self.per_ms,
            burst: self.burst.unwrap_or(self.requests),
            header: self.header.clone(),
        }
    }
}

impl SecurityHeaders {
    fn fixed(&self) -> BTreeMap<String, String> {
        let nosniff = if self.nosniff { "nosniff" } else { "" };
        let all = [
            ("x-content-type-options", nosniff),
            ("referrer-policy", &self.referrer_policy),
            ("x-frame-options", &self.frame_options),
            ("content-security-policy", &self.content_security_policy),
        ];
        let set = all.into_iter().filter(|(_, value)| !value.is_empty());
        set.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }

    fn hsts(&self) -> Option<String> {
        let subdomains = if self.hsts_include_subdomains { "; includeSubDomains" } else { "" };
        (self.hsts_max_age_s > 0).then(|| format!("max-age={}{subdomains}", self.hsts_max_age_s))
    }
}

#[cfg(test)]
mod tests {
    use stdx::yaml::File;

    use super::*;

    fn policy(yaml: &str) -> RoutePolicy {
        File { path: None, text: yaml.to_owned() }.parse().unwrap()
    }

    #[test]
    fn a_route_goes_before_the_edge_key_by_key() {
        let general = policy("{max_body_bytes: 10, security_headers: {}, headers: {X-A: edge, X-B: edge}}");
        let route = policy("{max_body_bytes: 20, headers: {x-b: route}, streams: {max_age_ms: 5}}");
        let both = route.control(&general);
        assert_eq!(both.max_body_bytes, Some(20));
        assert_eq!(both.streams, Some(StreamPolicy { max_age_ms: 5, spread_ms: 30_000 }));
        assert_eq!(both.hsts.as_deref(), Some("max-age=31536000"));
        let headers: Vec<_> = both.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
        assert_eq!(
            headers,
            [
                "referrer-policy: strict-origin-when-cross-origin",
                "x-a: edge",
                "x-b: route",
                "x-content-type-options: nosniff",
                "x-frame-options: SAMEORIGIN",
            ]
        );
        assert_eq!(RoutePolicy::default().control(&RoutePolicy::default()), control::Policy::default());
    }

    #[test]
    fn what_is_left_out_has_its_usual_value_and_each_header_can_be_turned_off() {
        let limit =
            policy("{rate_limit: {requests: 7}}").control(&RoutePolicy::default()).rate_limit.unwrap();
        assert_eq!((limit.per_ms, limit.burst), (1000, 7));
        let none =
            "{security_headers: {hsts_max_age_s: 0, nosniff: false, referrer_policy: '', frame_options: ''}}";
        assert_eq!(policy(none).control(&policy("{security_headers: {}}")), control::Policy::default());
        let unknown = File { path: None, text: "{rate: 1}".to_owned() };
        assert!(unknown.parse::<RoutePolicy>().is_err());
    }
}
