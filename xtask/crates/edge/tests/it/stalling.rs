//! A client that lets a transfer stand is let go; one that merely has nothing to say is not.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::service::Service;
use crate::support::{Edge, eventually};

const LIMIT: Duration = Duration::from_millis(600);

/// Longer than the limit by far.
const SILENCE: Duration = Duration::from_millis(1500);

/// More than the socket buffers on the way hold together, in megabytes.
const BIG: usize = 96;

fn start() -> (Edge, Service) {
    let edge = Edge::start_with(|options| options.stall_timeout = LIMIT);
    let service = Service::start("blue");
    edge.route_to("blue", &[service.address]);
    (edge, service)
}

fn nothing_is_in_flight(edge: &Edge) {
    eventually("nothing is in flight", || {
        (edge.client.observe().unwrap().slots["blue"].in_flight == 0).then_some(())
    });
}

#[test]
fn a_client_that_does_not_read_is_let_go_and_the_service_hears_of_it() {
    let (edge, service) = start();
    let mut connection = edge.connect();
    connection.send(format!("GET /download?{BIG} HTTP/1.1\r\nHost: test\r\n\r\n"));
    assert_eq!(connection.head().status, 200);
    nothing_is_in_flight(&edge);
    let produced = service.seen.produced.load(Ordering::Acquire);
    assert!(produced < (BIG as u64) << 20, "the service was not stopped: it made {produced} bytes");
}

#[test]
fn a_client_that_does_not_read_its_upgraded_connection_is_let_go() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    connection.send("GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!((connection.head().status, connection.line()), (101, "welcome".into()));
    // All of it is sent back, and nobody reads that.
    let sent = connection.send_until_full(&vec![0; 1 << 16], BIG << 20, LIMIT / 2);
    assert!(sent < BIG << 20, "{sent} bytes went nowhere");
    eventually("the stream is over", || {
        (edge.client.observe().unwrap().slots["blue"].streams == 0).then_some(())
    });
}

#[test]
fn a_client_that_reads_slowly_gets_all_of_it() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    connection.send("GET /download?40 HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(connection.head().status, 200);
    let mut received = 0;
    loop {
        match connection.chunk().len() {
            0 => break,
            n => received += n,
        }
        std::thread::sleep(LIMIT / 30);
    }
    assert_eq!(received, 40 << 20);
}

#[test]
fn an_upload_that_stands_before_the_answer_is_answered_408() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    connection.send("POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\nhello");
    let answer = connection.answer();
    assert_eq!((answer.status, answer.header("x-slipway-edge-error")), (408, Some("upload-stalled")));
    eventually("the connection is closed", || connection.is_closed().then_some(()));
    nothing_is_in_flight(&edge);
    assert_eq!(edge.client.observe().unwrap().slots["blue"].server_errors, 0);
}

#[test]
fn an_upload_that_stands_after_the_answer_began_is_cut_off() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    connection.send("POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert_eq!((connection.head().status, connection.chunk()), (200, b"hello".to_vec()));
    connection.send("1\r\n!\r\n");
    assert_eq!(connection.chunk(), b"!");
    eventually("the connection is closed", || connection.is_closed().then_some(()));
    nothing_is_in_flight(&edge);
}

#[test]
fn an_upload_may_rest_while_its_answer_moves() {
    let (edge, _service) = start();
    let mut connection = edge.connect();
    // Ten events within 1.5 seconds: longer than the limit, and never as long as the limit without one.
    connection
        .send("POST /tick?150 HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n");
    assert_eq!(connection.head().status, 200);
    for _ in 0..10 {
        assert_eq!(connection.chunk(), b"tick");
    }
    assert!(connection.chunk().is_empty());
}

#[test]
fn silent_streams_stay() {
    let (edge, service) = start();
    let (mut events, mut upgraded) = (edge.connect(), edge.connect());
    events.send("GET /word HTTP/1.1\r\nHost: test\r\nAccept: text/event-stream\r\n\r\n");
    assert_eq!((events.head().status, events.chunk()), (200, b"data: one\n\n".to_vec()));
    upgraded.send("GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!((upgraded.head().status, upgraded.line()), (101, "welcome".into()));
    std::thread::sleep(SILENCE);
    service.seen.word.send_modify(|word| *word += 1);
    assert_eq!(events.chunk(), b"data: two\n\n");
    assert!(events.chunk().is_empty());
    upgraded.send("still here\n");
    assert_eq!(upgraded.line(), "still here");
}

#[test]
fn a_service_that_is_slow_to_answer_a_whole_upload_is_waited_for() {
    let (edge, _service) = start();
    let wait = SILENCE.as_millis();
    assert_eq!(edge.connect().post(&format!("/slow?{wait}"), "whole").body, "blue");
}

#[test]
fn a_head_has_a_limit() {
    let (edge, _service) = start();
    let request =
        |length: usize| format!("GET / HTTP/1.1\r\nHost: test\r\nX-Long: {}\r\n\r\n", "x".repeat(length));
    let mut connection = edge.connect();
    connection.send(request(40 << 10));
    assert_eq!(connection.answer().body, "blue");
    connection.send(request(80 << 10));
    assert_eq!(connection.head().status, 431);
}
