//! What a service reads about its client was written by the edge, and one message is one message on both sides.

use crate::service::Service;
use crate::support::{Answer, Edge, Raw};

fn start() -> (Edge, Service) {
    let (edge, service) = (Edge::start(), Service::start("blue"));
    edge.route_to("blue", &[service.address]);
    (edge, service)
}

/// The header lines that the service sees of a request with these.
fn seen(connection: &mut Raw, headers: &str) -> Vec<String> {
    connection.send(format!("GET /request HTTP/1.1\r\nHost: shop.example:81\r\n{headers}\r\n"));
    connection.answer().body.lines().skip(1).map(str::to_owned).collect()
}

fn values<'a>(lines: &'a [String], name: &str) -> Vec<&'a str> {
    lines.iter().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect()
}

#[test]
fn what_clients_say_about_themselves_is_replaced() {
    let (edge, _service) = start();
    let lines = seen(
        &mut edge.connect(),
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX_Forwarded_For: 8.8.8.8\r\nX-Real-IP: 6.6.6.6\r\n\
         Forwarded: for=6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Port: 1\r\n\
         X-Forwarded-Prefix: /evil\r\nX-Forwarded-Ssl: on\r\nX_Forwarded_Scheme: https\r\nX-Original-URL: /evil\r\n\
         X-Rewrite-URL: /evil\r\nTrue-Client-IP: 6.6.6.6\r\nX-Client-IP: 6.6.6.6\r\nX-Custom: kept\r\n",
    );
    assert_eq!(values(&lines, "x-forwarded-for"), ["127.0.0.1"]);
    assert_eq!(values(&lines, "x-forwarded-proto"), ["http"]);
    assert_eq!(values(&lines, "x-forwarded-host"), ["shop.example:81"]);
    assert_eq!(values(&lines, "host"), ["shop.example:81"]);
    assert_eq!(values(&lines, "x-custom"), ["kept"]);
    for line in &lines {
        assert!(!line.contains("6.6.6.6") && !line.contains("8.8.8.8") && !line.contains("evil"), "{line}");
        for gone in
            ["x-forwarded-port", "x-forwarded-ssl", "x_forwarded", "x-original", "x-rewrite", "true-client"]
        {
            assert!(!line.starts_with(gone), "{line}");
        }
    }
}

#[test]
fn what_a_trusted_proxy_says_is_kept_and_added_to() {
    let edge = Edge::start_with(|options| options.trust_forwarded = true);
    let service = Service::start("blue");
    edge.route_to("blue", &[service.address]);
    let lines = seen(
        &mut edge.connect(),
        "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 7.7.7.7\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Prefix: /p\r\n",
    );
    assert_eq!(values(&lines, "x-forwarded-for"), ["6.6.6.6, 7.7.7.7, 127.0.0.1"]);
    assert_eq!(values(&lines, "x-forwarded-proto"), ["https"]);
    assert_eq!(values(&lines, "x-forwarded-prefix"), ["/p"]);
}

#[test]
fn headers_of_one_hop_stay_on_it() {
    let (edge, _service) = start();
    let lines = seen(
        &mut edge.connect(),
        "Connection: keep-alive, X-Hop, Host, X-Forwarded-For\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\n\
         Proxy-Connection: keep-alive\r\nProxy-Authorization: secret\r\nUpgrade: websocket\r\n",
    );
    assert_eq!(values(&lines, "host"), ["shop.example:81"]);
    assert_eq!(values(&lines, "x-forwarded-for"), ["127.0.0.1"]);
    for name in
        ["connection", "x-hop", "keep-alive", "te", "proxy-connection", "proxy-authorization", "upgrade"]
    {
        assert!(values(&lines, name).is_empty(), "{name}: {lines:?}");
    }
    let answer = edge.connect().get("/mark");
    for name in ["x-hop", "connection", "keep-alive", "x-slipway-edge-error"] {
        assert_eq!(answer.header(name), None, "{name}");
    }
}

#[test]
fn request_ids_are_taken_if_harmless_and_else_made() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    let mut ids = |sent: &str| {
        connection.send(format!("GET /request HTTP/1.1\r\nHost: test\r\n{sent}\r\n"));
        let Answer { headers, body, .. } = connection.answer();
        let echoed: Vec<_> =
            headers.iter().filter(|(name, _)| name == "x-request-id").map(|(_, id)| id).collect();
        let lines: Vec<_> = body.lines().map(str::to_owned).collect();
        assert_eq!(values(&lines, "x-request-id"), echoed, "the service and the client see the same id");
        assert_eq!(echoed.len(), 1);
        echoed[0].clone()
    };
    assert_eq!(ids("X-Request-Id: Abc-123\r\n"), "Abc-123");
    let longest = "a".repeat(64);
    assert_eq!(ids(&format!("X-Request-Id: {longest}\r\n")), longest);
    let mut made = vec![ids("")];
    for bad in ["a b", "<script>", "", &"a".repeat(65)] {
        let id = ids(&format!("X-Request-Id: {bad}\r\n"));
        assert!(id != bad && !made.contains(&id), "{id}");
        made.push(id);
    }
    made.push(ids("X-Request-Id: one\r\nX-Request-Id: two\r\n"));
    assert!(
        made.iter().all(|id| id.len() <= 64 && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-'))
    );
    assert_ne!(
        edge.connect().get("/mark").header("x-request-id"),
        Some("other"),
        "the id is the edge's to say"
    );
}

#[test]
fn ambiguous_messages_are_refused_or_made_plain() {
    let (edge, _service) = start();
    let status = |request: &str| {
        let mut connection = edge.connect();
        connection.send(request);
        connection.head().status
    };
    for refused in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: user@a\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +3\r\n\r\nabc",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
    ] {
        assert_eq!(status(refused), 400, "{refused:?}");
    }
    assert_eq!(status("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n"), 501);
    // With both, the chunks count, and the service must not be told the length. What follows is another request.
    let mut connection = edge.connect();
    connection.send(
        "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    );
    assert_eq!(connection.answer().body, "3");
    let mut connection = edge.connect();
    connection.send(
        "POST /request HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    );
    assert!(!connection.answer().body.contains("content-length: 100"));
}

#[test]
fn requests_sent_ahead_are_answered_in_order() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    let one = "POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
    connection.send(format!("{one}GET /slow?30 HTTP/1.1\r\nHost: a\r\n\r\n{one}"));
    let bodies = [connection.answer().body, connection.answer().body, connection.answer().body];
    assert_eq!(bodies, ["2", "blue", "2"]);
}
