//! Answers on an address without encryption that lead to the same place with it.

use bytes::Bytes;
use hyper::body::Incoming;
use hyper::header::{self, HeaderValue};
use hyper::{Request, Response, StatusCode};

use crate::body::{ResponseBody, Source};
use crate::error::EdgeError;
use crate::headers;
use crate::proxy::Proxy;
use crate::server::Phase;

/// What HTTPS is without a port in the address.
const DEFAULT_PORT: u16 = 443;

/// The answer to `request`. A method stays what it was (308, RFC 9110, section 15.4.9).
pub(crate) fn answer(proxy: &Proxy, request: &Request<Incoming>) -> Response<ResponseBody> {
    let held = proxy.busy.hold();
    let host = headers::host(request.version(), request.uri(), request.headers());
    let location = host.ok().flatten().and_then(|host| {
        let target = request.uri().path_and_query().map_or("/", |target| target.as_str());
        location(host.to_str().ok()?, proxy.https_port?, target)
    });
    let (mut head, body) = match location {
        Some(location) => {
            let mut answer = Response::new(Bytes::new());
            *answer.status_mut() = StatusCode::PERMANENT_REDIRECT;
            answer.headers_mut().insert(header::LOCATION, location);
            answer.into_parts()
        }
        None => {
            let id = headers::request_id(request.headers(), &proxy.ids);
            EdgeError::BadRequest("a redirect needs the host").answer(&id).into_parts()
        }
    };
    if *proxy.phase.borrow() != Phase::Serving {
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Response::from_parts(head, ResponseBody::new(Source::Edge(Some(body)), held))
}

fn location(host: &str, port: u16, target: &str) -> Option<HeaderValue> {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let target = if target.starts_with('/') { target } else { "/" };
    let port = if port == DEFAULT_PORT { String::new() } else { format!(":{port}") };
    (!name.is_empty()).then(|| HeaderValue::from_str(&format!("https://{name}{port}{target}")).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_place_at_the_other_port() {
        let check = |host: &str, port: u16, target: &str, expected: Option<&str>| {
            let found = location(host, port, target);
            assert_eq!(
                found.as_ref().map(|value| value.to_str().unwrap()),
                expected,
                "{host} {port} {target}"
            );
        };
        check("a.example", 443, "/x?y=1", Some("https://a.example/x?y=1"));
        check("a.example:80", 443, "/", Some("https://a.example/"));
        check("a.example:8080", 8443, "/", Some("https://a.example:8443/"));
        check("[::1]:80", 443, "/", Some("https://[::1]/"));
        check("[::1]", 8443, "*", Some("https://[::1]:8443/"));
        check("", 443, "/", None);
    }
}
