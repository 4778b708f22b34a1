//! Switches under load lose nothing.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use edge::client::{Drained, Error};
use edge::control::{Refusal, Table};
use load::{ConnectionUse, Plan, Profile, Report};

use crate::service::{Ledger, Service};
use crate::support::{Edge, PATIENCE, eventually, place, route, table};

/// Every kind of client at once, until it is stopped.
fn plan(target: SocketAddr) -> Plan {
    Plan {
        rate_per_second: 300,
        max_requests: 20_000,
        request_timeout: PATIENCE,
        served_by_header: Some("x-release".into()),
        ..Plan::new(
            target,
            vec![
                Profile::get("new", ConnectionUse::New, ["/"]),
                Profile::get("keep-alive", ConnectionUse::KeepAlive, ["/"]).connections(20),
                Profile::get("naive", ConnectionUse::KeepAliveNaive, ["/", "/download?1"]).connections(50),
                Profile::post("ledger", ConnectionUse::KeepAlive, "/ledger", "{id}"),
                Profile::post("ledger-naive", ConnectionUse::KeepAliveNaive, "/ledger", "{id}"),
                Profile::get("slow", ConnectionUse::New, ["/slow?60"]),
            ],
        )
    }
}

/// Runs `act` under load.
fn under_load(edge: &Edge, act: impl FnOnce()) -> Report {
    let plan = plan(edge.address);
    let stop = plan.stop.clone();
    let running = std::thread::spawn(move || load::run(&plan).unwrap());
    act();
    stop.stop();
    running.join().unwrap()
}

#[track_caller]
fn assert_lossless(report: &Report, ledger: &Ledger) {
    assert!(report.is_lossless(), "{} of {} lost: {:#?}", report.lost, report.sent, report.losses);
    let verdict = report.check_ledger(ledger.lock().unwrap().iter());
    assert!(verdict.is_clean() && !report.acknowledged.is_empty(), "{verdict:#?}");
}

#[test]
fn switches_with_drain_and_kill_of_the_old_service_lose_nothing() {
    let (edge, ledger) = (Edge::start(), Ledger::default());
    let any = "127.0.0.1:0".parse().unwrap();
    let mut old = Service::start_on(any, "0", &ledger);
    edge.route_to("0", &[old.address]);
    let report = under_load(&edge, || {
        for number in 1..=25 {
            let new = Service::start_on(any, &number.to_string(), &ledger);
            edge.route_to(&number.to_string(), &[new.address]);
            let drained = edge.client.drain(&(number - 1).to_string(), PATIENCE).unwrap();
            assert_eq!(drained, Drained { in_flight: 0, streams: 0 });
            std::mem::replace(&mut old, new).kill();
        }
    });
    assert_lossless(&report, &ledger);
    assert!(report.served_by.len() > 20, "most releases served: {:?}", report.served_by);
    let observed = edge.client.observe().unwrap();
    assert_eq!(observed.slots.keys().collect::<Vec<_>>(), ["25"], "drained slots are gone");
}

#[test]
fn switches_back_and_forth_between_living_services_lose_nothing() {
    let (edge, ledger) = (Edge::start(), Ledger::default());
    let any = "127.0.0.1:0".parse().unwrap();
    let services = ["blue", "green"].map(|name| Service::start_on(any, name, &ledger));
    edge.route_to("blue", &[services[0].address]);
    let report = under_load(&edge, || {
        for number in 1..=60 {
            let slot = ["blue", "green"][number % 2];
            edge.route_to(slot, &[services[number % 2].address]);
            std::thread::sleep(Duration::from_millis(20));
        }
    });
    assert_lossless(&report, &ledger);
    assert_eq!(report.served_by.len(), 2);
}

#[test]
fn a_service_that_listens_only_after_the_switch_loses_nothing() {
    let (edge, ledger) = (Edge::start(), Ledger::default());
    let any = "127.0.0.1:0".parse().unwrap();
    let blue = Service::start_on(any, "blue", &ledger);
    edge.route_to("blue", &[blue.address]);
    let report = under_load(&edge, || {
        // The address is free again when the listener is dropped; nobody else is given it at once.
        let address = TcpListener::bind(any).unwrap().local_addr().unwrap();
        edge.route_to("green", &[address]);
        edge.client.drain("blue", PATIENCE).unwrap();
        blue.kill();
        std::thread::sleep(Duration::from_millis(300));
        let green = Service::start_on(address, "green", &ledger);
        eventually("green has served", || {
            (edge.client.observe().unwrap().slots["green"].requests > 100).then_some(())
        });
        std::mem::forget(green);
    });
    assert_lossless(&report, &ledger);
}

#[test]
fn a_request_that_waits_for_a_dead_service_follows_the_switch_back() {
    let edge = Edge::start_with(|options| options.send_timeout = PATIENCE);
    let blue = Service::start("blue");
    let dead = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    edge.route_to("green", &[dead]);
    let mut connection = edge.connect();
    let asking = std::thread::spawn(move || connection.post("/", "x"));
    std::thread::sleep(Duration::from_millis(100));
    edge.route_to("blue", &[blue.address]);
    assert_eq!(asking.join().unwrap().body, "blue");
    assert_eq!(edge.client.observe().unwrap().slots["blue"].requests, 1);
}

#[test]
fn a_drain_waits_for_slow_answers_and_counts_streams() {
    let edge = Edge::start();
    let (blue, green) = (Service::start("blue"), Service::start("green"));
    edge.route_to("blue", &[blue.address]);
    let (mut slow, mut stream) = (edge.connect(), edge.connect());
    slow.send("GET /word HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(slow.head().status, 200);
    stream.send("GET /upgrade HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(stream.head().status, 101);
    assert_eq!(stream.line(), "welcome");

    assert_eq!(edge.connect().get("/").body, "blue");
    assert_eq!(
        blue.seen.open.load(Ordering::Acquire),
        2,
        "one in use and one idle; the stream is no HTTP any more"
    );
    let refused = edge.client.drain("blue", Duration::ZERO).unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: Refusal::SlotInUse, .. }), "{refused}");
    let refused = edge.client.drain("unknown", Duration::ZERO).unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: Refusal::SlotInUse, .. }), "{refused}");
    edge.route_to("green", &[green.address]);
    let is_idle_closed = || (blue.seen.open.load(Ordering::Acquire) == 1).then_some(());
    eventually("the idle connection is closed although the other is in use", is_idle_closed);
    // The head has come, the body has not: still in flight. The stream is no request any more.
    let open = edge.client.drain("blue", Duration::from_millis(50)).unwrap();
    assert_eq!(open, Drained { in_flight: 1, streams: 1 });
    let counters = edge.client.observe().unwrap().slots["blue"];
    assert_eq!((counters.in_flight, counters.streams), (1, 1), "a retired slot with something open is shown");

    let client = edge.client.clone();
    let draining = std::thread::spawn(move || client.drain("blue", PATIENCE).unwrap());
    std::thread::sleep(Duration::from_millis(50));
    assert!(!draining.is_finished());
    blue.seen.word.send_modify(|word| *word += 1);
    assert_eq!(draining.join().unwrap(), Drained { in_flight: 0, streams: 1 });
    stream.send("still here\n");
    assert_eq!(stream.line(), "still here");
    drop(stream);
    eventually("the stream is gone", || {
        (!edge.client.observe().unwrap().slots.contains_key("blue")).then_some(())
    });
    // The connection that saw the switch goes on with the new service.
    while slow.line() != "0" {}
    slow.line();
    assert_eq!(slow.get("/").body, "green");
}

#[test]
fn idle_connections_to_a_drained_slot_are_closed_also_while_it_stays_in_the_table() {
    let edge = Edge::start();
    let (blue, green) = (Service::start("blue"), Service::start("green"));
    let slots: BTreeMap<_, _> =
        [("blue".to_owned(), place(&[blue.address])), ("green".to_owned(), place(&[green.address]))].into();
    let table = |generation, slot| Table {
        generation,
        routes: vec![route(slot)],
        slots: slots.clone(),
        ..Table::default()
    };
    edge.client.apply(&table(1, "blue")).unwrap();
    assert_eq!(edge.connect().get("/").body, "blue");
    assert_eq!(blue.seen.open.load(Ordering::Acquire), 1, "kept for the next request");
    edge.client.apply(&table(2, "green")).unwrap();
    edge.client.drain("blue", PATIENCE).unwrap();
    let drained = Instant::now();
    eventually("blue has no connection", || (blue.seen.open.load(Ordering::Acquire) == 0).then_some(()));
    assert!(drained.elapsed() < Duration::from_secs(2), "closed by the drain, not by age");
    edge.client.apply(&table(3, "blue")).unwrap();
    assert_eq!(edge.connect().get("/").body, "blue", "warm, so going back is one apply");
}

#[test]
fn a_switch_closes_no_client_connection() {
    let edge = Edge::start();
    let services = ["blue", "green"].map(Service::start);
    edge.route_to("blue", &[services[0].address]);
    let mut connections: Vec<_> = (0..50).map(|_| edge.connect()).collect();
    for number in 0..6 {
        let service = &services[number % 2];
        edge.route_to(["blue", "green"][number % 2], &[service.address]);
        for connection in &mut connections {
            assert!(!connection.is_closed());
            assert_eq!(connection.get("/").body, ["blue", "green"][number % 2]);
        }
    }
}

#[test]
fn a_stale_or_invalid_table_changes_nothing() {
    let edge = Edge::start();
    let service = Service::start("blue");
    edge.route_to("blue", &[service.address]);
    for generation in [0, 1, 3, u64::MAX] {
        let refused = edge.client.apply(&table(generation, "green", &[service.address])).unwrap_err();
        assert!(matches!(refused, Error::Refused { reason: Refusal::StaleGeneration, .. }), "{refused}");
    }
    let invalid = table(2, "green", &[]);
    let refused = edge.client.apply(&invalid).unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: Refusal::InvalidTable, .. }), "{refused}");
    let found_before = invalid.check().unwrap_err();
    assert!(refused.to_string().contains(&found_before), "{found_before}");
    assert_eq!(table(2, "green", &[service.address]).check(), Ok(()));
    let observed = edge.client.observe().unwrap();
    assert_eq!(observed.table, table(1, "blue", &[service.address]));
    assert_eq!(observed.pid, std::process::id());
}
