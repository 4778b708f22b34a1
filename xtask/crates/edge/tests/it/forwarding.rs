//! Where a request goes, what is tried when a service is in trouble, and what is never tried.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use edge::control::{Route, Slot, Table};

use crate::service::Service;
use crate::support::{Answer, Edge, PATIENCE};

/// A service that does `each` with its connections, one after the other; the number counts them.
fn scripted(each: impl Fn(u64, TcpStream) + Send + 'static) -> (SocketAddr, Arc<AtomicU64>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            each(counted.fetch_add(1, Ordering::AcqRel) + 1, stream);
        }
    });
    (address, count)
}

/// Reads the head of one request, where there is one.
fn read_head(stream: &mut TcpStream) -> Option<String> {
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    Some(String::from_utf8(head).unwrap())
}

/// Reads one request with its body; false at the end of the connection.
fn read_request(stream: &mut TcpStream) -> bool {
    let Some(head) = read_head(stream) else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    stream.read_exact(&mut vec![0; length.unwrap_or(0)]).is_ok()
}

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";

/// An address at which nobody listens.
fn dead() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[track_caller]
fn assert_edge_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!((answer.status, answer.header("x-slipway-edge-error")), (status, Some(code)), "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((&problem["status"], &problem["code"]), (&status.into(), &code.into()));
    assert_eq!(problem["request_id"], answer.header("x-request-id").unwrap());
}

#[test]
fn requests_follow_host_and_path() {
    let edge = Edge::start();
    let services = ["root", "api", "site"].map(Service::start);
    let route = |host: Option<&str>, prefix: &str, strip_prefix, slot: &str| Route {
        host: host.map(str::to_owned),
        path_prefix: prefix.into(),
        strip_prefix,
        ..crate::support::route(slot)
    };
    let slot = |service: &Service| Slot { service: "s".into(), upstreams: vec![service.address] };
    let slots: BTreeMap<_, _> = ["root", "api", "site"]
        .iter()
        .zip(&services)
        .map(|(&name, service)| (name.to_owned(), slot(service)))
        .collect();
    let routes = vec![
        route(None, "/r", false, "root"),
        route(None, "/r/api", true, "api"),
        route(Some("Site.example"), "/", false, "site"),
    ];
    edge.client.apply(&Table { generation: 1, routes, slots, ..Table::default() }).unwrap();
    let mut connection = edge.connect();
    let mut get = |host: &str, path: &str| {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        connection.answer()
    };
    assert_eq!(get("any", "/r").body, "root");
    assert_eq!(get("any", "/r/api").body, "api");
    assert_eq!(get("SITE.example:8080", "/whatever").body, "site");
    let seen = get("any", "/r/api/request?q=%2F/r/api").body;
    assert!(seen.starts_with("GET /request?q=%2F/r/api HTTP/1.1\n"), "{seen}");
    assert!(seen.contains("x-forwarded-prefix: /r/api"), "{seen}");
    assert!(get("site.example", "/request").body.contains("GET /request "));
    assert_edge_error(&get("any", "/rx"), 404, "no-route");
    assert_edge_error(&get("any", "/"), 404, "no-route");
    // The target in absolute form is what counts, whatever the header says.
    assert_eq!(get("any", "http://site.example/x").body, "site");
}

#[test]
fn a_new_edge_answers_that_nothing_is_routed() {
    assert_edge_error(&Edge::start().connect().get("/"), 404, "no-route");
}

#[test]
fn upstreams_take_turns_and_a_dead_one_is_passed_over() {
    let edge = Edge::start();
    let services = ["a", "b"].map(Service::start);
    edge.route_to("s", &[services[0].address, dead(), services[1].address]);
    let mut connection = edge.connect();
    let mut bodies: Vec<_> = (0..60).map(|_| connection.post("/", "x").body).collect();
    bodies.sort();
    assert!(bodies.iter().all(|body| body == "a" || body == "b"));
    assert!(bodies[15] == "a" && bodies[44] == "b", "each has its share: {bodies:?}");
    assert_eq!(edge.client.observe().unwrap().slots["s"].connect_errors, 0);
}

#[test]
fn what_cannot_be_sent_in_time_is_502_and_counted() {
    let edge = Edge::start_with(|options| options.send_timeout = Duration::from_millis(150));
    edge.route_to("s", &[dead()]);
    assert_edge_error(&edge.connect().post("/", "x"), 502, "not-sent");
    let counters = edge.client.observe().unwrap().slots["s"];
    assert_eq!((counters.connect_errors, counters.requests, counters.in_flight), (1, 0, 0));
}

#[test]
fn a_post_that_may_have_been_seen_is_never_sent_twice() {
    let (address, count) = scripted(|_, mut stream| {
        read_request(&mut stream);
    });
    let edge = Edge::start();
    edge.route_to("s", &[address]);
    assert_edge_error(&edge.connect().post("/", "x"), 502, "no-answer");
    assert_eq!(count.load(Ordering::Acquire), 1);
    let counters = edge.client.observe().unwrap().slots["s"];
    assert_eq!((counters.requests, counters.server_errors, counters.connect_errors), (1, 1, 0));
}

#[test]
fn a_get_without_an_answer_is_sent_once_more() {
    let (address, count) = scripted(|number, mut stream| {
        if read_request(&mut stream) && number % 2 == 0 {
            stream.write_all(OK).unwrap();
        }
    });
    let edge = Edge::start();
    edge.route_to("s", &[address]);
    let mut connection = edge.connect();
    assert_eq!(connection.get("/").body, "hi");
    assert_eq!(count.load(Ordering::Acquire), 2);
    // Once the head of an answer has come there is no second try.
    let (address, count) = scripted(|_, mut stream| {
        read_request(&mut stream);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhi").unwrap();
    });
    edge.route_to("t", &[address]);
    connection.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(connection.head().status, 200);
    assert_eq!(count.load(Ordering::Acquire), 1);
    // And never a third one.
    let (address, count) = scripted(|_, mut stream| {
        read_request(&mut stream);
    });
    edge.route_to("u", &[address]);
    assert_edge_error(&edge.connect().get("/"), 502, "no-answer");
    assert_eq!(count.load(Ordering::Acquire), 2);
}

#[test]
fn a_service_that_closes_kept_connections_without_a_word_costs_no_post() {
    let (address, count) = scripted(|_, mut stream| {
        read_request(&mut stream);
        stream.write_all(OK).unwrap();
    });
    let edge = Edge::start();
    edge.route_to("s", &[address]);
    let mut connection = edge.connect();
    for _ in 0..50 {
        assert_eq!(connection.post("/", "x").body, "hi");
        // The close is on its way; a client could not be faster over a network.
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(count.load(Ordering::Acquire), 50);
}

#[test]
fn a_kept_connection_is_used_again() {
    let edge = Edge::start();
    let service = Service::start("s");
    edge.route_to("s", &[service.address]);
    let mut connection = edge.connect();
    for _ in 0..50 {
        assert_eq!(connection.post("/count", "abc").body, "3");
    }
    let accepted = service.seen.accepted.load(Ordering::Acquire);
    assert!(accepted < 5, "{accepted} connections for 50 requests in turn");
}

#[test]
fn silence_is_504_and_only_the_wait_for_the_answer_counts() {
    let edge = Edge::start_with(|options| options.answer_timeout = Duration::from_millis(400));
    let service = Service::start("s");
    edge.route_to("s", &[service.address]);
    let mut connection = edge.connect();
    assert_edge_error(&connection.get("/hang"), 504, "answer-timeout");
    assert_eq!(service.seen.hanging.load(Ordering::Acquire), 1, "not sent again");
    // A slow upload takes longer in all, and moves.
    connection.send("POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\n");
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(100));
        connection.send("x");
    }
    assert_eq!(connection.answer().body, "8");
    // An upload that stops is the client's fault.
    connection.send("POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 8\r\n\r\nx");
    assert_edge_error(&connection.answer(), 408, "upload-stalled");
    assert_eq!(edge.client.observe().unwrap().slots["s"].server_errors, 1);
}

#[test]
fn answers_that_are_no_http_or_an_upgrade_nobody_asked_for_are_502() {
    for answer in [
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
    ] {
        let (address, _) = scripted(move |_, mut stream| {
            read_request(&mut stream);
            stream.write_all(answer.as_bytes()).unwrap();
        });
        let edge = Edge::start();
        edge.route_to("s", &[address]);
        assert_edge_error(&edge.connect().post("/", "x"), 502, "no-answer");
    }
}

#[test]
fn the_body_waits_for_permission_and_for_nothing_else() {
    let (address, _) = scripted(|_, mut stream| {
        assert!(read_head(&mut stream).unwrap().contains("expect: 100-continue"));
        stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let is_early = stream.read(&mut [0]).is_ok();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
        if !is_early && stream.read_exact(&mut [0; 5]).is_ok() {
            stream.write_all(OK).unwrap();
        }
    });
    let edge = Edge::start();
    edge.route_to("s", &[address]);
    let mut connection = edge.connect();
    connection
        .send("POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello");
    assert_eq!(connection.head().status, 100);
    assert_eq!(connection.answer().body, "hi");
}

#[test]
fn errors_of_the_service_pass_and_are_counted() {
    let edge = Edge::start();
    let service = Service::start("s");
    edge.route_to("s", &[service.address]);
    let mut connection = edge.connect();
    for status in [200, 404, 500, 503, 599] {
        let answer = connection.get(&format!("/status?{status}"));
        assert_eq!((answer.status, answer.header("x-slipway-edge-error")), (status, None));
    }
    let counters = edge.client.observe().unwrap().slots["s"];
    assert_eq!((counters.requests, counters.server_errors), (5, 3));
}

#[test]
fn an_http_1_0_client_is_served() {
    let edge = Edge::start();
    let service = Service::start("s");
    edge.route_to("s", &[service.address]);
    let mut connection = edge.connect();
    connection.send("GET /word HTTP/1.0\r\n\r\n");
    let head = connection.head();
    assert_eq!((head.status, head.header("transfer-encoding")), (200, None));
    service.seen.word.send_modify(|word| *word += 1);
    assert_eq!(connection.bytes(22), b"data: one\n\ndata: two\n\n");
    assert_eq!(connection.line(), "");
}
