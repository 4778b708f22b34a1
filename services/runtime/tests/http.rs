//! The server and its middleware on real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use axum::Router;
use axum::routing::get as on_get;
use runtime::config::{Source, read};
use runtime::{BuildInfo, Common, Health, Shutdown, healthcheck, middleware, server};
use testkit::{Answer, eventually, get, read_answer, send};
use tokio::runtime::Runtime;
use tokio::sync::Notify;

struct Server {
    runtime: Runtime,
    address: SocketAddr,
    shutdown: Shutdown,
    /// Requests to `/slow` that have begun.
    begun: Arc<AtomicUsize>,
    /// Lets the requests to `/slow` finish.
    finish: Arc<Notify>,
    ended: tokio::task::JoinHandle<Result<(), String>>,
}

fn start(environment: &[(&str, &str)]) -> Server {
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let source = Source { file: None, environment };
    let build = BuildInfo::new("sample", "1.2.3");
    let common = read(&source, |reader| Common::read(reader, &build, 0)).unwrap();
    let (shutdown, finish) = (Shutdown::default(), Arc::new(Notify::new()));
    let begun = Arc::new(AtomicUsize::new(0));
    let slow = (Arc::clone(&begun), Arc::clone(&finish));
    let routes = Router::new()
        .route("/fast", on_get(|| async { "fast" }))
        .route("/panic", on_get(|| async { panic_as_a_bug_would() }))
        .route("/slow", on_get(move || wait(slow)))
        .merge(Health::new("r", shutdown.clone()).routes());
    let app = middleware::wrap(routes, &common, 64);
    let runtime = Runtime::new().unwrap();
    let listener = runtime.block_on(server::listen(&common.http)).unwrap();
    let address = listener.local_addr().unwrap();
    let stop = shutdown.clone();
    let ended = runtime.spawn(async move {
        server::serve(listener, app, &common.http, stop).await.map_err(|error| error.to_string())
    });
    Server { runtime, address, shutdown, begun, finish, ended }
}

async fn wait((begun, finish): (Arc<AtomicUsize>, Arc<Notify>)) {
    begun.fetch_add(1, Ordering::SeqCst);
    finish.notified().await;
}

fn panic_as_a_bug_would() -> &'static str {
    panic!("a bug")
}

impl Server {
    /// Sends a request to `/slow`, and gives the connection once the handler runs.
    fn begin_slow(&self) -> TcpStream {
        let before = self.begun.load(Ordering::SeqCst);
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        stream.set_read_timeout(Some(testkit::DEADLINE)).unwrap();
        eventually("the request begins", || (self.begun.load(Ordering::SeqCst) > before).then_some(()));
        stream
    }

    fn end(self) -> Result<(), String> {
        self.runtime.block_on(self.ended).unwrap()
    }
}

fn check_problem(answer: &Answer, status: u16, slug: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["type"], format!("/problems/{slug}"));
    assert_eq!(answer.header("x-release"), Some("1.2.3"));
}

#[test]
fn a_panic_is_a_problem_that_tells_nothing() {
    let server = start(&[]);
    let answer = get(server.address, "/panic");
    check_problem(&answer, 500, "internal");
    assert!(!answer.body.contains("a bug"), "{}", answer.body);
    assert_eq!(get(server.address, "/fast").status, 200);
}

#[test]
fn a_request_that_takes_too_long_is_given_up() {
    let server = start(&[("LENS_HTTP__REQUEST_TIMEOUT_MS", "100")]);
    check_problem(&get(server.address, "/slow"), 504, "timeout");
}

#[test]
fn unknown_routes_and_methods_are_problems() {
    let server = start(&[]);
    check_problem(&get(server.address, "/no"), 404, "not-found");
    check_problem(&send(server.address, "POST", "/fast", &[], "").unwrap(), 405, "method-not-allowed");
    assert_eq!(send(server.address, "HEAD", "/fast", &[], "").unwrap().status, 200);
}

#[test]
fn requests_in_flight_finish_after_shutdown_and_new_ones_are_not_accepted() {
    let server = start(&[]);
    let mut in_flight = server.begin_slow();
    let mut idle = TcpStream::connect(server.address).unwrap();
    idle.write_all(b"GET /fast HTTP/1.1\r\nhost: x\r\n\r\n").unwrap();
    idle.set_read_timeout(Some(testkit::DEADLINE)).unwrap();
    assert!(idle.read(&mut [0; 1024]).unwrap() > 0);

    server.shutdown.trigger();
    eventually("the listener closes", || TcpStream::connect(server.address).err());
    // The idle connection is closed by the server, the busy one is answered.
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest).unwrap();
    server.finish.notify_one();
    assert_eq!(read_answer(&mut in_flight).unwrap().status, 200);
    assert_eq!(server.end(), Ok(()));
}

#[test]
fn the_grace_period_ends_the_wait_for_a_request_that_never_finishes() {
    let server = start(&[("LENS_HTTP__SHUTDOWN_GRACE_MS", "100")]);
    let _in_flight = server.begin_slow();
    server.shutdown.trigger();
    let error = server.end().unwrap_err();
    assert!(error.contains("still busy after 100ms"), "{error}");
}

#[test]
fn a_stopping_process_is_not_ready_while_it_still_accepts() {
    let server = start(&[("LENS_HTTP__DRAIN_DELAY_MS", "60000")]);
    let health = |address: SocketAddr| healthcheck::run(address.ip(), address.port());
    assert_eq!(get(server.address, "/health/ready").status, 200);
    health(server.address).unwrap();
    server.shutdown.trigger();
    let answer = get(server.address, "/health/ready");
    assert_eq!((answer.status, get(server.address, "/health/live").status), (503, 200));
    assert_eq!(get(server.address, "/fast").status, 200);
    let error = health(server.address).unwrap_err().to_string();
    assert!(error.contains("answered 503"), "{error}");
}

#[test]
fn a_full_house_makes_connections_wait() {
    let server = start(&[("LENS_HTTP__MAX_CONNECTIONS", "1")]);
    let mut first = server.begin_slow();
    let address = server.address;
    let second = thread::spawn(move || get(address, "/fast").status);
    thread::sleep(Duration::from_millis(100));
    assert!(!second.is_finished());
    server.finish.notify_one();
    assert_eq!(read_answer(&mut first).unwrap().status, 200);
    assert_eq!(second.join().unwrap(), 200);
}

#[test]
fn a_port_in_use_is_named_with_the_setting() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let environment = [("LENS_HTTP__PORT".to_owned(), port.clone())].into();
    let build = BuildInfo::new("sample", "1.2.3");
    let source = Source { file: None, environment };
    let common = read(&source, |reader| Common::read(reader, &build, 0)).unwrap();
    let error = Runtime::new().unwrap().block_on(server::listen(&common.http)).unwrap_err().to_string();
    assert!(error.contains(&port) && error.contains("LENS_HTTP__PORT"), "{error}");
}
