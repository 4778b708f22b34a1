//! A judge that cannot see loss is worthless: each way to lose a request is provoked on a real socket and must be seen.

#![allow(clippy::unwrap_used)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use load::{ConnectionUse, Plan, Profile, Report};

/// Bodies of the requests to `/ledger`.
type Ledger = Arc<Mutex<Vec<String>>>;

/// A server whose behaviour is the request's path. Its threads end with their connections.
fn server() -> (SocketAddr, Ledger) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let ledger = Ledger::default();
    let entries = Arc::clone(&ledger);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let entries = Arc::clone(&entries);
            std::thread::spawn(move || serve(stream, &entries));
        }
    });
    (address, ledger)
}

fn serve(mut stream: TcpStream, ledger: &Ledger) {
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut start = [0; 16];
    loop {
        // The rest stays unread: closing a socket with unread bytes resets the connection.
        let Ok(()) = stream.read_exact(&mut start) else { return };
        if start.starts_with(b"GET /reset") {
            return;
        }
        let Some((path, body)) = read_request(&mut stream, &start) else { return };
        let answer: &[u8] = match path.as_str() {
            "/ok" | "/ledger" => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-release: one\r\n\r\nhi",
            "/500" => b"HTTP/1.1 500 Oops\r\ncontent-length: 6\r\n\r\nbroken",
            "/404" => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "/eof" => return,
            "/half-head" => b"HTTP/1.1 200 OK\r\ncontent-le",
            "/truncated" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
            "/truncated-chunks" => b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
            "/malformed" => b"SSH-2.0-OpenSSH\r\n\r\n",
            "/hang" => {
                let _ = stream.read(&mut [0]);
                return;
            }
            "/half-hang" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this").unwrap();
                let _ = stream.read(&mut [0]);
                return;
            }
            "/close-after" | "/say-close" => b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nx-a: b\r\n\r\nhi",
            other => panic!("unexpected path {other}"),
        };
        if path == "/ledger" {
            ledger.lock().unwrap().push(body);
        }
        if path == "/say-close" {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nhi").unwrap();
            return;
        }
        stream.write_all(answer).unwrap();
        if !["/ok", "/ledger", "/500", "/404"].contains(&path.as_str()) {
            return;
        }
    }
}

fn read_request(stream: &mut TcpStream, start: &[u8]) -> Option<(String, String)> {
    let mut bytes = start.to_vec();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).ok()?;
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    Some((head.split(' ').nth(1)?.to_owned(), String::from_utf8(body).unwrap()))
}

fn plan(target: SocketAddr, profile: Profile, requests: u64) -> Plan {
    Plan {
        max_requests: requests,
        rate_per_second: 200,
        request_timeout: Duration::from_secs(10),
        served_by_header: Some("x-release".into()),
        ..Plan::new(target, vec![profile])
    }
}

fn get(target: SocketAddr, connection: ConnectionUse, path: &str, requests: u64) -> Report {
    load::run(&plan(target, Profile::get("p", connection, [path]), requests)).unwrap()
}

#[track_caller]
fn assert_all(report: &Report, label: &str, requests: u64) {
    assert_eq!(report.profiles["p"].outcomes, [(label.to_owned(), requests)].into(), "{report:#?}");
    assert_eq!(report.sent, requests);
}

#[test]
fn each_way_to_lose_a_request_is_seen() {
    let (target, _) = server();
    for connection in [ConnectionUse::New, ConnectionUse::KeepAlive, ConnectionUse::KeepAliveNaive] {
        for (path, label) in [
            ("/reset", "reset"),
            ("/500", "http_error_500"),
            ("/404", "http_error_404"),
            ("/eof", "early_eof"),
            ("/half-head", "early_eof"),
            ("/truncated", "truncated"),
            ("/truncated-chunks", "truncated"),
            ("/malformed", "malformed"),
        ] {
            let report = get(target, connection, path, 5);
            assert_all(&report, label, 5);
            assert!(!report.is_lossless());
            assert_eq!((report.ok, report.lost, report.losses.len()), (0, 5, 5), "{path} {connection:?}");
            assert_eq!(report.losses[0].request, format!("GET {path}"));
            assert!(report.profiles["p"].latency.max_us == 0, "a lost request has no latency");
        }
    }
    let report = get(target, ConnectionUse::New, "/500", 1);
    assert_eq!(report.losses[0].detail, "broken");
}

#[test]
fn a_request_without_a_complete_answer_in_time_is_lost() {
    let (target, _) = server();
    for path in ["/hang", "/half-hang"] {
        let profile = Profile::get("p", ConnectionUse::KeepAlive, [path]);
        let plan = Plan { request_timeout: Duration::from_millis(150), ..plan(target, profile, 3) };
        assert_all(&load::run(&plan).unwrap(), "timeout", 3);
    }
}

#[test]
fn nobody_listening_is_a_connect_error() {
    let target = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    assert_all(&get(target, ConnectionUse::New, "/ok", 3), "connect_error", 3);
}

#[test]
fn success_is_counted_by_release_and_nothing_else_is() {
    let (target, _) = server();
    for connection in [ConnectionUse::New, ConnectionUse::KeepAlive, ConnectionUse::KeepAliveNaive] {
        let report = get(target, connection, "/ok", 50);
        assert_all(&report, "ok_200", 50);
        assert!(report.is_lossless() && report.losses.is_empty());
        assert_eq!(report.served_by["one"].count, 50);
        assert!(report.profiles["p"].latency.p50_us > 0);
        let read: Report = serde_json::from_str(&serde_json::to_string(&report).unwrap()).unwrap();
        assert_eq!(read, report);
    }
    assert!(get(target, ConnectionUse::New, "/500", 1).served_by.is_empty());
}

#[test]
fn only_the_naive_client_loses_requests_to_connections_closed_while_idle() {
    let (target, _) = server();
    let run = |connection, path| {
        let profile = Profile::get("p", connection, [path]).connections(2);
        // Slow enough for the close to arrive before the connection has its next turn.
        load::run(&Plan { rate_per_second: 20, ..plan(target, profile, 12) }).unwrap()
    };
    assert_all(&run(ConnectionUse::KeepAlive, "/close-after"), "ok_200", 12);
    let naive = run(ConnectionUse::KeepAliveNaive, "/close-after");
    // The first two open a connection; from then on each second request finds one closed and each other opens one.
    assert_eq!((naive.profiles["p"].outcomes["reset"], naive.ok), (5, 7), "{naive:#?}");
    // A server that says so loses nothing, even with the naive client.
    assert_all(&run(ConnectionUse::KeepAliveNaive, "/say-close"), "ok_200", 12);
}

#[test]
fn acknowledged_ids_are_compared_with_the_ledger() {
    let (target, ledger) = server();
    let profile = Profile::post("p", ConnectionUse::KeepAlive, "/ledger", "{id}");
    let report = load::run(&plan(target, profile.clone(), 40)).unwrap();
    assert_all(&report, "ok_200", 40);
    let mut recorded = ledger.lock().unwrap().clone();
    assert_eq!(recorded.len(), 40);
    assert!(report.check_ledger(&recorded).is_clean());
    let dropped = recorded.pop().unwrap();
    recorded.push(recorded[0].clone());
    let verdict = report.check_ledger(&recorded);
    assert_eq!((verdict.missing, verdict.duplicated), (vec![dropped], vec![recorded[0].clone()]));
    let again = load::run(&plan(target, profile, 1)).unwrap();
    assert!(!report.acknowledged.contains(&again.acknowledged[0]), "ids differ between runs");
    let refused = Profile::post("p", ConnectionUse::New, "/500", "{id}");
    let refused = load::run(&plan(target, refused, 3)).unwrap();
    assert!(refused.acknowledged.is_empty() && refused.losses[0].id.is_some());
}

#[test]
fn a_slow_server_does_not_slow_the_requests_down() {
    let (target, _) = server();
    let profiles = vec![
        Profile::get("hang", ConnectionUse::New, ["/hang"]),
        Profile::get("ok", ConnectionUse::New, ["/ok"]),
    ];
    let timeout = Duration::from_millis(1500);
    let all = Plan { request_timeout: timeout, max_requests: 60, ..Plan::new(target, profiles) };
    let began = Instant::now();
    let report = load::run(&all).unwrap();
    assert_eq!((report.ok, report.lost), (30, 30));
    assert!(began.elapsed() < Duration::from_secs(10), "30 time limits one after the other take 45 s");
    // A generator that may not have that many in flight says so instead of waiting.
    let overrun = load::run(&Plan { max_in_flight: 1, ..all }).unwrap();
    assert!(overrun.skipped > 0 && !overrun.is_lossless(), "{overrun:#?}");
}

#[test]
fn a_run_ends_by_time_or_when_stopped_and_lists_a_bounded_number_of_losses() {
    let (target, _) = server();
    let profile = Profile::get("p", ConnectionUse::New, ["/500"]);
    let timed = Plan { max_duration: Duration::from_millis(200), ..plan(target, profile, 100_000) };
    let report = load::run(&Plan { max_losses_listed: 3, ..timed.clone() }).unwrap();
    assert_eq!((report.sent, report.lost, report.losses.len()), (40, 40, 3));
    let stopped = Plan { max_duration: Duration::from_secs(60), ..timed };
    let stop = stopped.stop.clone();
    let running = std::thread::spawn(move || load::run(&stopped).unwrap());
    stop.stop();
    assert!(running.join().unwrap().sent < 1000);
}
