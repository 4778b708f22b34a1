//! How an edge ends.

use std::time::{Duration, Instant};

use edge::client::Error;

use crate::service::Service;
use crate::support::{Edge, PATIENCE, eventually};

fn start() -> (Edge, Service) {
    let (edge, service) = (Edge::start(), Service::start("blue"));
    edge.route_to("blue", &[service.address]);
    (edge, service)
}

#[test]
fn what_is_in_flight_ends_in_good_order_and_kept_connections_get_a_last_answer() {
    let (edge, service) = start();
    let (mut slow, mut kept) = (edge.connect(), edge.connect());
    assert_eq!(kept.get("/").header("connection"), None);
    slow.send("GET /word HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(slow.head().status, 200);
    let client = edge.client.clone();
    let stopping = std::thread::spawn(move || client.stop(PATIENCE));
    // Each answer until the edge has heard of it is a usual one.
    let last = eventually("an answer says that it is the last", || {
        let answer = kept.get("/");
        assert_eq!(answer.body, "blue");
        answer.header("connection").map(str::to_owned)
    });
    assert_eq!(last, "close");
    eventually("the kept connection is closed", || kept.is_closed().then_some(()));
    // Longer than idle connections are left open.
    std::thread::sleep(Duration::from_millis(800));
    assert!(!stopping.is_finished());
    service.seen.word.send_modify(|word| *word += 1);
    assert_eq!((slow.chunk(), slow.chunk()), (b"data: one\n\n".to_vec(), b"data: two\n\n".to_vec()));
    assert!(slow.chunk().is_empty());
    stopping.join().unwrap().unwrap();
    assert!(!edge.folder.path().join("control.sock").exists());
    assert_eq!(std::fs::read(edge.folder.path().join("edge.pid")).unwrap(), b"");
    assert!(matches!(edge.client.observe(), Err(Error::Unreachable { .. })));
    assert!(std::net::TcpStream::connect(edge.address).is_err());
    edge.join().unwrap();
}

#[test]
fn the_time_limit_holds() {
    let (edge, _service) = start();
    let mut slow = edge.connect();
    slow.send("GET /word HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((slow.head().status, slow.chunk()), (200, b"data: one\n\n".to_vec()));
    let began = Instant::now();
    edge.client.stop(Duration::from_millis(200)).unwrap();
    assert!((Duration::from_millis(200)..PATIENCE).contains(&began.elapsed()));
    eventually("the request is cut off", || slow.is_closed().then_some(()));
    edge.join().unwrap();
}

#[test]
fn idle_connections_do_not_hold_a_stop_up() {
    let (edge, _service) = start();
    let mut idle: Vec<_> = (0..20).map(|_| edge.connect()).collect();
    idle.iter_mut().for_each(|connection| assert_eq!(connection.get("/").status, 200));
    let began = Instant::now();
    edge.client.stop(PATIENCE).unwrap();
    assert!(began.elapsed() < Duration::from_secs(5));
    edge.join().unwrap();
}

#[test]
fn a_client_that_never_finishes_its_first_head_is_let_go() {
    let edge = Edge::start_with(|options| options.head_timeout = Duration::from_millis(200));
    let service = Service::start("blue");
    edge.route_to("blue", &[service.address]);
    let (mut silent, mut partial, mut kept) = (edge.connect(), edge.connect(), edge.connect());
    partial.send("GET / HTTP/1.1\r\nHo");
    assert_eq!(kept.get("/").status, 200);
    eventually("both are closed", || (silent.is_closed() && partial.is_closed()).then_some(()));
    assert_eq!(kept.get("/").status, 200, "one that has spoken may be silent for longer");
}

#[test]
fn more_connections_than_allowed_wait_their_turn() {
    let edge = Edge::start_with(|options| options.max_connections = 2);
    let service = Service::start("blue");
    edge.route_to("blue", &[service.address]);
    let (mut first, mut second, mut third) = (edge.connect(), edge.connect(), edge.connect());
    assert_eq!(first.get("/").status, 200);
    // An upgraded connection is still a connection.
    second.send("GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!((second.head().status, second.line()), (101, "welcome".into()));
    third.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(edge.client.observe().unwrap().slots["blue"].requests, 2, "the third waits");
    drop(first);
    assert_eq!(third.answer().body, "blue");
}
