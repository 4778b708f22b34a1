//! Bodies pass both ways as they come, and nothing is gathered on the way.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::service::Service;
use crate::support::{Edge, eventually};

fn start() -> (Edge, Service) {
    let (edge, service) = (Edge::start(), Service::start("blue"));
    edge.route_to("blue", &[service.address]);
    (edge, service)
}

/// Waits until the number has not changed for a while, and returns it.
fn settled(number: &AtomicU64) -> u64 {
    let (mut last, mut since) = (number.load(Ordering::Acquire), std::time::Instant::now());
    eventually("the number settles", || {
        let now = number.load(Ordering::Acquire);
        if now != last {
            (last, since) = (now, std::time::Instant::now());
        }
        (since.elapsed() > Duration::from_millis(400)).then_some(now)
    })
}

/// More than the socket buffers on the way hold together.
const BIG: usize = 96 << 20;

#[test]
fn an_upload_reaches_the_service_while_it_is_sent() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    connection.send("POST /count HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    eventually("the first chunk is there", || {
        (service.seen.received.load(Ordering::Acquire) == 5).then_some(())
    });
    connection.send("6\r\n world\r\n0\r\n\r\n");
    assert_eq!(connection.answer().body, "11");
    assert_eq!(connection.get("/").body, "blue");
}

#[test]
fn a_big_upload_arrives_whole() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    connection.send(format!("POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: {BIG}\r\n\r\n"));
    let block = vec![0; 1 << 20];
    (0..BIG >> 20).for_each(|_| connection.send(&block));
    assert_eq!(connection.answer().body, BIG.to_string());
}

#[test]
fn a_download_reaches_the_client_while_it_is_made_and_a_slow_reader_slows_the_service() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    connection.send(format!("GET /download?{} HTTP/1.1\r\nHost: test\r\n\r\n", BIG >> 20));
    assert_eq!(connection.head().status, 200);
    // Nobody reads on: the service may fill the buffers of the system and must then wait.
    let produced = settled(&service.seen.produced);
    assert!(produced < BIG as u64 / 2, "{produced} bytes were taken from the service");
    let mut received = 0;
    loop {
        match connection.chunk().len() {
            0 => break,
            n => received += n,
        }
    }
    assert_eq!(received, BIG);
}

#[test]
fn a_service_that_does_not_read_slows_the_client() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    connection.send(format!("POST /hang HTTP/1.1\r\nHost: test\r\nContent-Length: {BIG}\r\n\r\n"));
    let sent = connection.send_until_full(&vec![0; 1 << 16], BIG, Duration::from_millis(500));
    assert!(sent < BIG / 2, "{sent} bytes went nowhere");
    assert_eq!(service.seen.hanging.load(Ordering::Acquire), 1);
}

#[test]
fn server_sent_events_arrive_one_by_one() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    connection.send("GET /word HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    let head = connection.head();
    assert_eq!(head.header("content-type"), Some("text/event-stream"));
    assert_eq!(connection.chunk(), b"data: one\n\n");
    service.seen.word.send_modify(|word| *word += 1);
    assert_eq!(connection.chunk(), b"data: two\n\n");
    assert!(connection.chunk().is_empty());
}

#[test]
fn an_upgraded_connection_carries_bytes_both_ways() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    let head = "GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    // The first bytes of the new protocol come along with the head.
    connection.send(format!("{head}early\n"));
    let answer = connection.head();
    assert_eq!((answer.status, answer.header("upgrade")), (101, Some("websocket")));
    assert_eq!(answer.header("connection"), Some("upgrade"));
    assert_eq!((connection.line(), connection.line()), ("welcome".into(), "early".into()));
    let noise: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for part in noise.chunks(1000) {
        connection.send(part);
        assert_eq!(connection.bytes(part.len()), part);
    }
    let counters = edge.client.observe().unwrap().slots["blue"];
    assert_eq!((counters.in_flight, counters.streams), (0, 1));
    service.kill();
    eventually("the client hears of it", || connection.is_closed().then_some(()));
    eventually("the stream is over", || {
        (edge.client.observe().unwrap().slots["blue"].streams == 0).then_some(())
    });
}

#[test]
fn an_upgrade_that_the_service_declines_is_a_usual_answer() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    connection
        .send("GET /request HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    assert!(connection.answer().body.contains("upgrade: websocket"));
    // What follows an upgrade to HTTP/2 would pass the routes by.
    connection.send(
        "GET /request HTTP/1.1\r\nHost: test\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n\r\n",
    );
    let seen = connection.answer().body;
    assert!(!seen.contains("h2c") && !seen.contains("http2-settings"), "{seen}");
}

#[test]
fn trailers_pass() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    connection.send("GET /trailers HTTP/1.1\r\nHost: test\r\nTE: trailers\r\nConnection: TE\r\n\r\n");
    assert_eq!(connection.head().header("trailer"), Some("x-sum"));
    assert_eq!(connection.chunk(), b"body");
    assert!(connection.chunk().is_empty());
    assert_eq!((connection.line(), connection.line()), ("x-sum: 42".into(), String::new()));
}

#[test]
fn a_client_that_waits_for_permission_hears_the_service_first() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    let head = |path: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    };
    connection.send(head("/count"));
    assert_eq!(connection.head().status, 100);
    connection.send("hello");
    assert_eq!(connection.answer().body, "5");
    // No permission: the refusal comes without the body, and the connection ends as the body may or may not follow.
    connection.send(head("/early"));
    let refusal = connection.answer();
    assert_eq!((refusal.status, refusal.header("connection")), (413, Some("close")));
    eventually("the connection is closed", || connection.is_closed().then_some(()));
    assert_eq!(service.seen.received.load(Ordering::Acquire), 5);
    eventually("nothing is in flight", || {
        (edge.client.observe().unwrap().slots["blue"].in_flight == 0).then_some(())
    });
}

#[test]
fn answers_without_a_body_stay_without() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    for status in [204, 304] {
        assert_eq!(connection.get(&format!("/status?{status}")).status, status);
    }
    connection.send("HEAD / HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(connection.head().header("content-length"), Some("4"));
    assert_eq!(connection.get("/").body, "blue", "the connection is still in step");
}

#[test]
fn a_client_that_leaves_cancels_the_request() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    connection.send("GET /hang HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("the request is there", || (service.seen.hanging.load(Ordering::Acquire) == 1).then_some(()));
    drop(connection);
    eventually("the service hears of it", || {
        (service.seen.cancelled.load(Ordering::Acquire) == 1).then_some(())
    });
    eventually("nothing is in flight", || {
        (edge.client.observe().unwrap().slots["blue"].in_flight == 0).then_some(())
    });
    let mut connection = edge.connect();
    connection.send(format!("GET /download?{} HTTP/1.1\r\nHost: test\r\n\r\n", BIG >> 20));
    assert_eq!(connection.head().status, 200);
    drop(connection);
    eventually("nothing is in flight", || {
        (edge.client.observe().unwrap().slots["blue"].in_flight == 0).then_some(())
    });
}

#[test]
fn an_answer_that_is_cut_off_is_cut_off_for_the_client_too() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    connection.send("GET /cut HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(connection.head().header("content-length"), Some("100"));
    assert_eq!(connection.bytes(3), b"one");
    service.seen.word.send_modify(|word| *word += 1);
    eventually("the connection is closed", || connection.is_closed().then_some(()));
    let counters = edge.client.observe().unwrap().slots["blue"];
    assert_eq!((counters.requests, counters.server_errors, counters.in_flight), (1, 1, 0));
}
