//! Which headers pass the edge, and which it sets. Pure. The invariant: what a service reads about its client was written
//! by the edge, unless the operator trusts what stands in front of the edge.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::http::uri::Authority;
use hyper::{Method, Uri, Version};

/// Marks an answer of the edge itself; its value says what went wrong.
pub(crate) const EDGE_ERROR: HeaderName = HeaderName::from_static("x-slipway-edge-error");
/// Names one request in the logs of edge and service.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// The prefix that the edge removed, so that a service can make links.
pub(crate) const FORWARDED_PREFIX: HeaderName = HeaderName::from_static("x-forwarded-prefix");

/// What services take a client's address, name, scheme or the target of its request from, besides everything that begins
/// with [`FORWARDED_FAMILY`]. Some read `_` as `-`, so both spellings count.
const ABOUT_CLIENT: [&str; 6] =
    ["forwarded", "true-client-ip", "x-client-ip", "x-original-url", "x-real-ip", "x-rewrite-url"];

/// `X-Forwarded-For`, `-Proto`, `-Host`, `-Prefix`, and whatever else the proxies of this world have added.
const FORWARDED_FAMILY: &str = "x-forwarded-";

/// Headers of one hop (RFC 9110, section 7.6.1, and those that RFC 2616 named). `Trailer` describes the body and stays.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// How a client speaks to the edge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    fn name(self) -> &'static str {
        match self {
            Scheme::Http => "http",
            Scheme::Https => "https",
        }
    }
}

/// What the edge says about the client.
pub(crate) struct Client<'a> {
    pub(crate) address: IpAddr,
    pub(crate) scheme: Scheme,
    pub(crate) host: Option<&'a HeaderValue>,
    /// Whether the request's own words about the client are kept and added to.
    pub(crate) is_proxy_trusted: bool,
}

/// The host that a request asks for, as a header value, or `None` where HTTP/1.0 leaves it out.
///
/// # Errors
/// When it has none, two, or one that is no host (RFC 9112, section 3.2).
pub(crate) fn host(
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<Option<HeaderValue>, &'static str> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (first, second) = (hosts.next(), hosts.next());
    if second.is_some() {
        return Err("more than one Host header");
    }
    if first.is_none() && version >= Version::HTTP_11 {
        return Err("no Host header");
    }
    // The target in absolute form wins over the header.
    if let Some(authority) = uri.authority() {
        let name = authority.as_str().rsplit('@').next().unwrap_or_default();
        return HeaderValue::from_str(name).map(Some).map_err(|_| "a target with an unusable host");
    }
    match first {
        Some(value) if value.is_empty() => Ok(Some(value.clone())),
        Some(value) => {
            let authority = Authority::try_from(value.as_bytes());
            let is_host = authority.is_ok_and(|authority| !authority.as_str().contains('@'));
            if is_host { Ok(Some(value.clone())) } else { Err("an unusable Host header") }
        }
        None => Ok(None),
    }
}

/// The protocol that a request wants to change to. Upgrades to HTTP/2 are not passed on: what follows would go past the
/// routes.
pub(crate) fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let wanted = tokens(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade"));
    let mut protocols = headers.get_all(header::UPGRADE).iter();
    let (protocol, another) = (protocols.next()?, protocols.next());
    let text = protocol.to_str().ok()?.to_ascii_lowercase();
    (wanted && another.is_none() && !text.contains("h2c")).then(|| protocol.clone())
}

/// The address that a request is counted for: that of the peer, or what a trusted peer says last.
pub(crate) fn client_address(headers: &HeaderMap, client: &Client<'_>) -> IpAddr {
    let said = client.is_proxy_trusted.then(|| headers.get_all(FORWARDED_FOR).iter().next_back()).flatten();
    let last = said.and_then(|said| said.to_str().ok()?.rsplit(',').next()?.trim().parse().ok());
    last.unwrap_or(client.address)
}

/// Whether the headers for the service say that the client's connection was encrypted.
pub(crate) fn is_secure(headers: &HeaderMap) -> bool {
    headers.get(FORWARDED_PROTO).is_some_and(|proto| proto.as_bytes().eq_ignore_ascii_case(b"https"))
}

/// Turns the client's headers into those for the service.
pub(crate) fn to_service(headers: &mut HeaderMap, client: &Client<'_>, upgrade: Option<HeaderValue>) {
    let accepts_trailers = tokens(headers, &header::TE).any(|token| token.eq_ignore_ascii_case("trailers"));
    remove_hop_by_hop(headers);
    match client.host {
        Some(host) => drop(headers.insert(header::HOST, host.clone())),
        None => drop(headers.insert(header::HOST, HeaderValue::from_static(""))),
    }
    if accepts_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
    say_about_client(headers, client);
}

/// Compares without a copy: this is done for each header of each request.
fn is_about_client(name: &HeaderName) -> bool {
    let spelled = |name: &[u8], wanted: &str| {
        let wanted = wanted.bytes();
        name.len() == wanted.len()
            && name.iter().zip(wanted).all(|(&byte, b)| byte == b || (byte == b'_' && b == b'-'))
    };
    let name = name.as_str().as_bytes();
    let family = name.get(..FORWARDED_FAMILY.len());
    family.is_some_and(|family| spelled(family, FORWARDED_FAMILY))
        || ABOUT_CLIENT.iter().any(|wanted| spelled(name, wanted))
}

fn say_about_client(headers: &mut HeaderMap, client: &Client<'_>) {
    if !client.is_proxy_trusted {
        let names: Vec<_> = headers.keys().filter(|name| is_about_client(name)).cloned().collect();
        for name in names {
            headers.remove(name);
        }
    }
    let said = headers.get_all(FORWARDED_FOR).iter().filter_map(|value| value.to_str().ok());
    let chain: Vec<_> = said.map(str::to_owned).chain([client.address.to_canonical().to_string()]).collect();
    if let Ok(chain) = HeaderValue::from_str(&chain.join(", ")) {
        headers.insert(FORWARDED_FOR, chain);
    }
    if !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(client.scheme.name()));
    }
    if let (false, Some(host)) = (headers.contains_key(FORWARDED_HOST), client.host) {
        headers.insert(FORWARDED_HOST, host.clone());
    }
}

/// Turns the service's headers into those for the client; those of a 101 keep what the upgrade needs.
pub(crate) fn to_client(headers: &mut HeaderMap, is_upgrade: bool) {
    let protocol = headers.get(header::UPGRADE).cloned();
    remove_hop_by_hop(headers);
    headers.remove(EDGE_ERROR);
    if let (true, Some(protocol)) = (is_upgrade, protocol) {
        headers.insert(header::UPGRADE, protocol);
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    }
}

fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> =
        tokens(headers, &header::CONNECTION).filter_map(|token| token.parse().ok()).collect();
    for name in named {
        // These say what the message is: no peer may have them removed.
        if name != header::CONTENT_LENGTH && name != header::HOST {
            headers.remove(name);
        }
    }
    for name in HOP_BY_HOP {
        headers.remove(name);
    }
}

fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim).filter(|token| !token.is_empty())
}

/// The client's request id where it is a harmless one, else a new one.
pub(crate) fn request_id(headers: &HeaderMap, ids: &RequestIds) -> HeaderValue {
    let mut sent = headers.get_all(REQUEST_ID).iter();
    match (sent.next(), sent.next()) {
        (Some(id), None) if is_harmless(id.as_bytes()) => id.clone(),
        _ => ids.next(),
    }
}

fn is_harmless(id: &[u8]) -> bool {
    (1..=64).contains(&id.len()) && id.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Makes request ids: a random word of the process, then a count.
pub(crate) struct RequestIds {
    process: u64,
    count: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new() -> RequestIds {
        // The standard library seeds its hash maps from the system's randomness.
        RequestIds { process: RandomState::new().hash_one(std::process::id()), count: AtomicU64::new(0) }
    }

    fn next(&self) -> HeaderValue {
        let id = format!("{:016x}-{:x}", self.process, self.count.fetch_add(1, Ordering::Relaxed));
        HeaderValue::from_str(&id).unwrap_or_else(|_| HeaderValue::from_static("none"))
    }
}

/// Whether the method may be repeated when its answer was lost and it has no body.
pub(crate) fn is_repeatable(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

/// Whether the client waits for permission to send its body.
pub(crate) fn expects_continue(headers: &HeaderMap) -> bool {
    tokens(headers, &header::EXPECT).any(|token| token.eq_ignore_ascii_case("100-continue"))
}
