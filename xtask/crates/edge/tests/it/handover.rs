//! One edge in the place of another.

use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use edge::client::{Client, Drained};
use edge::control::Request;
use load::{ConnectionUse, Plan, Profile};

use crate::durability::Process;
use crate::service::{Ledger, Service};
use crate::support::{Edge, PATIENCE, Raw, await_edge, eventually, options, socket, table};

/// An edge of instance 1 in a thread, with a service behind it.
fn start() -> (Edge, Service) {
    let (edge, service) = (Edge::start_with(|options| options.instance = 1), Service::start("blue"));
    edge.route_to("blue", &[service.address]);
    (edge, service)
}

/// The next instance, as soon as it serves.
pub(crate) fn upgrade(edge: &Edge, instance: u64) -> Process {
    let listen = edge.address.to_string();
    let process = Process::start_instance(edge.folder.path(), &listen, instance);
    await_instance(&edge.client, instance);
    process
}

fn await_instance(client: &Client, instance: u64) {
    eventually("the next edge serves", || {
        client.observe().is_ok_and(|observed| observed.instance == instance).then_some(())
    });
}

/// How many times; few enough for every run where nobody asks for more.
fn rounds() -> u64 {
    if std::env::var("SLIPWAY_PROOF").is_ok_and(|proof| proof == "long") { 100 } else { 10 }
}

#[test]
fn upgrades_under_load_lose_nothing() {
    let (folder, ledger) = (tempfile::tempdir().unwrap(), Ledger::default());
    let service = Service::start_on("127.0.0.1:0".parse().unwrap(), "blue", &ledger);
    let client = Client::new(socket(folder.path()));
    let mut processes = vec![Process::start_instance(folder.path(), "127.0.0.1:0", 1)];
    let listen = await_edge(&client).listen;
    client.apply(&table(1, "blue", &[service.address])).unwrap();
    let profiles = vec![
        Profile::get("new", ConnectionUse::New, ["/"]).share(3),
        Profile::get("careful", ConnectionUse::KeepAlive, ["/"]).share(3),
        Profile::get("naive", ConnectionUse::KeepAliveNaive, ["/"]).share(3),
        Profile::get("mostly idle", ConnectionUse::KeepAliveNaive, ["/"]).connections(60),
        Profile::get("slow", ConnectionUse::KeepAlive, ["/slow?700"]),
        Profile::post("ledger", ConnectionUse::KeepAliveNaive, "/ledger", "{id}"),
        Profile::post("ledger, new", ConnectionUse::New, "/ledger", "{id}"),
    ];
    let plan = Plan {
        rate_per_second: 300,
        max_requests: 10_000_000,
        max_duration: Duration::from_secs(3600),
        request_timeout: Duration::from_secs(20),
        ..Plan::new(listen, profiles)
    };
    let stop = plan.stop.clone();
    let running = std::thread::spawn(move || load::run(&plan).unwrap());
    for instance in 2..=rounds() + 1 {
        std::thread::sleep(Duration::from_millis(150));
        processes.push(Process::start_instance(folder.path(), &listen.to_string(), instance));
        await_instance(&client, instance);
        // Each keeps what it was told.
        assert_eq!(client.observe().unwrap().table.generation, 1);
    }
    stop.stop();
    let report = running.join().unwrap();
    println!("{} upgrades, {} requests, {} lost", rounds(), report.sent, report.lost);
    assert!(report.is_lossless(), "{} of {} lost: {:#?}", report.lost, report.sent, report.losses);
    let verdict = report.check_ledger(ledger.lock().unwrap().iter());
    assert!(verdict.is_clean() && !report.acknowledged.is_empty(), "{verdict:#?}");
    let last = processes.pop().unwrap();
    for process in processes {
        let (code, said) = process.outcome();
        assert!(code == Some(0) && said.contains(r#""complete":true"#), "{code:?} {said}");
    }
    assert_eq!(client.observe().unwrap().retired, [], "nothing is left of them");
    client.stop(PATIENCE).unwrap();
    assert_eq!(last.outcome().0, Some(0));
}

#[test]
fn what_a_retired_edge_has_in_flight_counts_for_the_drain_and_follows_the_table() {
    let (edge, blue) = start();
    let green = Service::start("green");
    let (mut slow, mut stream, mut kept) = (edge.connect(), edge.connect(), edge.connect());
    slow.send("GET /word HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(slow.head().status, 200);
    stream.send("GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!((stream.head().status, stream.line()), (101, "welcome".to_owned()));
    assert_eq!(kept.get("/").body, "blue");
    let new = upgrade(&edge, 2);
    let observed = edge.client.observe().unwrap();
    assert_eq!((observed.pid, observed.retired.len()), (new.0.id(), 1));
    assert_eq!((observed.retired[0].pid, observed.retired[0].connections), (std::process::id(), Some(3)));
    assert_eq!((observed.slots["blue"].in_flight, observed.slots["blue"].streams), (1, 1));
    assert_eq!(edge.connect().get("/").body, "blue", "the new one has the table");
    edge.route_to("green", &[green.address]);
    let open = edge.client.drain("blue", Duration::from_millis(50)).unwrap();
    assert_eq!(open, Drained { in_flight: 1, streams: 1 }, "in the old edge");
    let last = kept.get("/");
    assert_eq!((last.body.as_str(), last.header("connection")), ("green", Some("close")));
    let client = edge.client.clone();
    let draining = std::thread::spawn(move || client.drain("blue", PATIENCE).unwrap());
    std::thread::sleep(Duration::from_millis(100));
    assert!(!draining.is_finished());
    blue.seen.word.send_modify(|word| *word += 1);
    assert_eq!(draining.join().unwrap(), Drained { in_flight: 0, streams: 1 });
    // The answer that was under way says nothing about its connection; the next one does.
    while slow.line() != "0" {}
    slow.line();
    assert_eq!(slow.get("/").header("connection"), Some("close"));
    stream.send("still here\n");
    assert_eq!(stream.line(), "still here");
    drop(stream);
    eventually("the old edge is gone", || edge.client.observe().unwrap().retired.is_empty().then_some(()));
    new.kill();
    edge.join().unwrap();
}

/// Closing an idle connection may meet a request that is on its way.
#[test]
fn a_retired_edge_leaves_idle_connections_to_their_usual_end() {
    let idle_timeout = Duration::from_secs(2);
    let edge = Edge::start_with(|options| {
        options.instance = 1;
        options.idle_timeout = idle_timeout;
    });
    let service = Service::start("blue");
    edge.route_to("blue", &[service.address]);
    let (mut idle, mut asking) = (edge.connect(), edge.connect());
    let began = Instant::now();
    assert_eq!((idle.get("/").status, asking.get("/").status), (200, 200));
    let new = upgrade(&edge, 2);
    std::thread::sleep(Duration::from_millis(1200));
    assert!(!idle.is_closed());
    assert_eq!(asking.get("/").header("connection"), Some("close"));
    eventually("it is closed when it always would have been", || idle.is_closed().then_some(()));
    assert!(began.elapsed() >= idle_timeout);
    new.kill();
    edge.join().unwrap();
}

#[test]
fn what_goes_on_for_longer_than_a_retired_edge_may_is_cut_off() {
    let edge = Edge::start_with(|options| {
        options.instance = 1;
        options.retire_timeout = Duration::from_millis(300);
    });
    let service = Service::start("blue");
    edge.route_to("blue", &[service.address]);
    let mut slow = edge.connect();
    slow.send("GET /word HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!((slow.head().status, slow.chunk()), (200, b"data: one\n\n".to_vec()));
    let new = upgrade(&edge, 2);
    eventually("it is cut off", || slow.is_closed().then_some(()));
    new.kill();
    edge.join().unwrap();
}

#[test]
fn an_edge_that_does_not_come_up_leaves_the_other_one_everything() {
    let (edge, service) = start();
    let serves = |why: &str| {
        assert_eq!(edge.connect().get("/").header("connection"), None, "{why}");
        let observed = edge.client.observe().unwrap();
        assert_eq!((observed.instance, observed.retired.len()), (1, 0), "{why}");
        edge.route_to("blue", &[service.address]);
    };
    // The new address is somebody else's.
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = Process::start_instance(edge.folder.path(), &address, 2).outcome();
    assert!(code == Some(3) && said.contains("another program"), "{code:?} {said}");
    serves("after one that could not listen");
    // It asks, and is killed before it serves.
    let mut asking = UnixStream::connect(socket(edge.folder.path())).unwrap();
    let line = serde_json::to_string(&Request::HandOver { instance: 2 }).unwrap() + "\n";
    asking.write_all(line.as_bytes()).unwrap();
    let (answer, given) = stdx::descriptors::receive(&asking, 1 << 20).unwrap();
    assert!(String::from_utf8(answer).unwrap().contains("handed_over"));
    assert_eq!(given.len(), 2, "the lock and one listener");
    drop((asking, given));
    serves("after one that was killed");
    // It says something else than what was agreed.
    let mut asking = UnixStream::connect(socket(edge.folder.path())).unwrap();
    asking.write_all(line.as_bytes()).unwrap();
    stdx::descriptors::receive(&asking, 1 << 20).unwrap();
    asking.write_all(b"{\"request\":\"observe\"}\n").unwrap();
    let (answer, _) = stdx::descriptors::receive(&asking, 1 << 20).unwrap();
    assert!(String::from_utf8(answer).unwrap().contains("serves on"));
    serves("after one that broke the protocol");
    let pid = std::fs::read_to_string(edge.folder.path().join("edge.pid")).unwrap();
    assert_eq!(pid.trim(), std::process::id().to_string());
    // One that is all right takes over all the same.
    let new = upgrade(&edge, 2);
    assert_eq!(edge.connect().get("/").body, "blue");
    new.kill();
    edge.join().unwrap();
}

#[test]
fn an_older_edge_ends_without_touching_anything() {
    let (edge, _service) = start();
    let same = Process::start_instance(edge.folder.path(), &edge.address.to_string(), 1);
    let (code, said) = same.outcome();
    assert!(code == Some(0) && said.contains("superseded"), "{code:?} {said}");
    let (code, said) = Process::start(edge.folder.path(), "127.0.0.1:0").outcome();
    assert!(code == Some(3) && said.contains("another edge"), "without a number it is a mistake: {said}");
    assert_eq!(edge.connect().get("/").body, "blue");
}

#[test]
fn a_new_edge_may_listen_elsewhere() {
    let (edge, _service) = start();
    let mut other = options(edge.folder.path());
    other.instance = 2;
    let thread = std::thread::spawn(move || edge::serve(other));
    await_instance(&edge.client, 2);
    let moved = edge.client.observe().unwrap().listen;
    assert_ne!(moved, edge.address);
    assert_eq!(Raw::connect(moved).get("/").body, "blue");
    eventually("nobody listens at the old place", || {
        std::net::TcpStream::connect(edge.address).is_err().then_some(())
    });
    edge.client.stop(PATIENCE).unwrap();
    thread.join().unwrap().unwrap();
    edge.join().unwrap();
}
