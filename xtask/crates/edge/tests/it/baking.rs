//! A bake over real services under load: what is worse than before is taken back in time, and nothing else.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use edge::client::{Error, Pause};
use edge::control::{Bake, BakeReport, BakeState, Cause, Refusal, Route, Rules, Slot, Table};
use load::{ConnectionUse, Plan, Profile, Report};

use crate::handover::upgrade;
use crate::service::{Ledger, Service};
use crate::support::{Edge, PATIENCE, eventually, place, route, table};

const EXIT_AFTER: &str = "EDGE_TEST_EXIT_AFTER";
const ADDRESS_FILE: &str = "EDGE_TEST_ADDRESS_FILE";

/// A service as a process of its own that exits after some requests.
#[test]
#[ignore = "does nothing unless another test starts it"]
fn service_process() {
    let Ok(path) = std::env::var(ADDRESS_FILE) else { return };
    let exit_after: u64 = std::env::var(EXIT_AFTER).unwrap().parse().unwrap();
    let service = Service::start("green");
    stdx::fs::write_atomic(Path::new(&path), service.address.to_string().as_bytes(), 0o600).unwrap();
    while service.seen.requests.load(Ordering::Acquire) < exit_after {
        std::thread::sleep(Duration::from_millis(1));
    }
    std::process::exit(137);
}

struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn exiting_service(folder: &Path, exit_after: u64) -> (Process, SocketAddr) {
    let path = folder.join("address");
    let child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "baking::service_process", "--ignored", "--nocapture"])
        .env(ADDRESS_FILE, &path)
        .env(EXIT_AFTER, exit_after.to_string())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Process(child);
    let address = eventually("the service runs", || std::fs::read_to_string(&path).ok()?.parse().ok());
    (process, address)
}

fn bake(seconds: u64) -> Bake {
    Bake {
        from: vec!["blue".into()],
        to: vec!["green".into()],
        for_ms: seconds * 1000,
        rules: Rules::default(),
    }
}

/// Switches to green with a bake, and returns when.
fn switch(edge: &Edge, green: SocketAddr, bake: &Bake) -> Instant {
    let generation = edge.client.observe().unwrap().table.generation + 1;
    edge.client.apply_with_bake(&table(generation, "green", &[green]), bake).unwrap();
    Instant::now()
}

/// How the bake ended, and when.
fn ended(edge: &Edge) -> (BakeReport, Instant) {
    eventually("the bake is over", || {
        let report = edge.client.observe().ok()?.bake?;
        (!matches!(report.state, BakeState::Baking { .. })).then(|| (report, Instant::now()))
    })
}

fn plan(target: SocketAddr, rate_per_second: u32) -> Plan {
    let profiles = vec![
        Profile::get("keep-alive", ConnectionUse::KeepAlive, ["/"]).connections(8),
        Profile::get("new", ConnectionUse::New, ["/"]),
        Profile::post("ledger", ConnectionUse::KeepAlive, "/ledger", "{id}"),
    ];
    Plan {
        rate_per_second,
        max_requests: 50_000,
        request_timeout: PATIENCE,
        served_by_header: Some("x-release".into()),
        max_losses_listed: 50_000,
        ..Plan::new(target, profiles)
    }
}

/// Runs `act` under load once blue has a record of a hundred requests.
fn under_load<T>(edge: &Edge, rate: u32, act: impl FnOnce() -> T) -> (Report, T) {
    let plan = plan(edge.address, rate);
    let stop = plan.stop.clone();
    let running = std::thread::spawn(move || load::run(&plan).unwrap());
    eventually("blue has a record", || {
        (edge.client.observe().unwrap().slots["blue"].requests >= 100).then_some(())
    });
    let done = act();
    stop.stop();
    (running.join().unwrap(), done)
}

fn start() -> (Edge, Service, Ledger) {
    let (edge, ledger) = (Edge::start(), Ledger::default());
    let blue = Service::start_on("127.0.0.1:0".parse().unwrap(), "blue", &ledger);
    edge.route_to("blue", &[blue.address]);
    (edge, blue, ledger)
}

#[track_caller]
fn assert_back_on_blue(edge: &Edge, report: &BakeReport, wanted: Cause, blue: &Service) {
    assert!(
        matches!(report.state, BakeState::Reverted { generation: 3, cause } if cause == wanted),
        "{report:#?}"
    );
    let observed = edge.client.observe().unwrap();
    assert_eq!(observed.table, table(3, "blue", &[blue.address]));
    let kept = std::fs::read(edge.folder.path().join("table.json")).unwrap();
    assert!(String::from_utf8(kept).unwrap().contains("\"generation\": 3"));
    assert_eq!(edge.connect().get("/").body, "blue");
}

#[test]
fn a_green_that_exits_is_noticed_at_once_and_what_was_not_sent_goes_to_blue() {
    let (edge, blue, ledger) = start();
    let folder = tempfile::tempdir().unwrap();
    let (mut process, green) = exiting_service(folder.path(), 60);
    let (load, (report, took)) = under_load(&edge, 200, || {
        switch(&edge, green, &bake(60));
        eventually("green has gone", || process.0.try_wait().unwrap());
        let gone = Instant::now();
        let (report, ended) = ended(&edge);
        std::thread::sleep(Duration::from_millis(300));
        (report, ended.saturating_duration_since(gone))
    });
    assert_back_on_blue(&edge, &report, Cause::Unreachable, &blue);
    eprintln!("crash noticed and blue in force again after {took:?}, {} lost of {}", load.lost, load.sent);
    assert!(took < Duration::from_millis(if cfg!(debug_assertions) { 600 } else { 250 }), "{took:?}");
    // Only what green had taken may fail, and those are few: none was refused for want of a place to send it to.
    let unsent: Vec<_> = load.losses.iter().filter(|loss| loss.detail.contains("not-sent")).collect();
    assert!(unsent.is_empty() && load.lost <= 12, "{:#?}", load.losses);
    // What was recorded in the process that has gone is gone with it.
    let lost_with_green = load.check_ledger(ledger.lock().unwrap().iter());
    assert!(lost_with_green.duplicated.is_empty());
    assert!(load.served_by.contains_key("green"));
}

#[test]
fn a_green_that_was_never_there_loses_nothing() {
    let (edge, blue, ledger) = start();
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (load, report) = under_load(&edge, 300, || {
        switch(&edge, nowhere, &bake(60));
        let report = ended(&edge).0;
        std::thread::sleep(Duration::from_millis(100));
        report
    });
    assert_back_on_blue(&edge, &report, Cause::Unreachable, &blue);
    assert!(load.is_lossless(), "{:#?}", load.losses);
    assert!(load.check_ledger(ledger.lock().unwrap().iter()).is_clean());
    assert!(report.figures[0].errors > 0, "what could not be sent counts: {report:#?}");
}

#[test]
fn errors_on_a_share_of_requests_bring_blue_back_within_the_interval_and_a_second() {
    let (edge, blue, _) = start();
    let green = Service::start("green");
    green.seen.failing_percent.store(30, Ordering::Release);
    let (_, (report, took)) = under_load(&edge, 200, || {
        let switched = switch(&edge, green.address, &bake(60));
        let (report, ended) = ended(&edge);
        (report, ended - switched)
    });
    assert_back_on_blue(&edge, &report, Cause::Errors, &blue);
    eprintln!("30 % errors: blue in force again after {took:?}: {}", report.reason);
    assert!(took <= Duration::from_secs(2), "{took:?}");
    let figures = &report.figures[0];
    assert!(figures.before_requests >= 100 && figures.before_errors == 0, "{figures:?}");
    assert!(report.reason.contains("green") && report.reason.contains("before"), "{}", report.reason);
}

#[test]
fn errors_that_begin_late_are_noticed_as_fast() {
    let (edge, blue, _) = start();
    let green = Service::start("green");
    let (_, (report, took)) = under_load(&edge, 200, || {
        switch(&edge, green.address, &bake(60));
        std::thread::sleep(Duration::from_secs(3));
        green.seen.failing_percent.store(50, Ordering::Release);
        let breached = Instant::now();
        let (report, ended) = ended(&edge);
        (report, ended - breached)
    });
    assert_back_on_blue(&edge, &report, Cause::Errors, &blue);
    assert!(took <= Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_slow_green_brings_blue_back() {
    let (edge, blue, _) = start();
    let green = Service::start("green");
    green.seen.delay_ms.store(250, Ordering::Release);
    let rules = Rules { warm_up_ms: 500, ..Rules::default() };
    let (load, report) = under_load(&edge, 100, || {
        switch(&edge, green.address, &Bake { rules, ..bake(60) });
        ended(&edge).0
    });
    assert_back_on_blue(&edge, &report, Cause::Latency, &blue);
    assert!(load.is_lossless(), "{:#?}", load.losses);
    assert!(report.figures[0].p99_us >= 250_000 && report.figures[0].before_p99_us < 100_000, "{report:#?}");
}

#[test]
fn a_broken_blue_does_not_keep_its_mended_successor_out_nor_one_as_bad() {
    for percent in [0, 90] {
        let (edge, blue, _) = start();
        blue.seen.failing_percent.store(90, Ordering::Release);
        let green = Service::start("green");
        green.seen.failing_percent.store(percent, Ordering::Release);
        let (_, report) = under_load(&edge, 200, || {
            switch(&edge, green.address, &bake(3));
            ended(&edge).0
        });
        assert_eq!(report.state, BakeState::Passed, "{report:#?}");
        assert!(report.figures[0].is_judged);
        assert_eq!(edge.client.observe().unwrap().table.generation, 2);
    }
}

#[test]
fn a_quiet_service_passes_and_the_report_says_that_nobody_could_judge_it() {
    let (edge, blue, _) = start();
    let green = Service::start("green");
    green.seen.failing_percent.store(100, Ordering::Release);
    switch(&edge, green.address, &bake(1));
    (0..5).for_each(|_| assert_eq!(edge.connect().get("/").status, 500));
    let report = ended(&edge).0;
    assert_eq!(report.state, BakeState::Passed, "{report:#?}");
    assert!(!report.figures[0].is_judged && report.reason.contains("too few"), "{report:#?}");
    // After that blue is no place to go to any more.
    assert!(edge.client.drain("blue", PATIENCE).is_ok());
    drop(blue);
}

#[test]
fn a_new_service_is_held_to_what_is_allowed() {
    let (edge, blue, _) = start();
    let green = Service::start("green");
    green.seen.failing_percent.store(100, Ordering::Release);
    let both = |generation| Table {
        generation,
        routes: vec![route("blue"), Route { path_prefix: "/new".into(), ..route("green") }],
        slots: [
            ("blue".to_owned(), place(&[blue.address])),
            ("green".to_owned(), Slot { service: "other".into(), upstreams: vec![green.address] }),
        ]
        .into(),
        ..Table::default()
    };
    let bake = Bake { from: vec![], ..bake(60) };
    edge.client.apply_with_bake(&both(2), &bake).unwrap();
    let mut connection = edge.connect();
    (0..30).for_each(|_| assert_eq!(connection.get("/new").status, 500));
    let report = ended(&edge).0;
    assert_back_on_blue(&edge, &report, Cause::Errors, &blue);
    assert_eq!(connection.get("/new").body, "blue", "as before");
}

#[test]
fn without_routes_before_there_is_nothing_to_go_back_to() {
    let edge = Edge::start();
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    switch(&edge, nowhere, &Bake { from: vec![], ..bake(60) });
    let report = ended(&edge).0;
    assert_eq!(report.state, BakeState::Failed { cause: Cause::Unreachable }, "{report:#?}");
    assert_eq!(edge.client.observe().unwrap().table.generation, 1);
}

#[test]
fn a_bake_ends_by_order_or_by_another_table() {
    let (edge, blue, _) = start();
    let green = Service::start("green");
    let refused = edge.client.finish_bake().unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: Refusal::InvalidBake, .. }), "{refused}");
    switch(&edge, green.address, &bake(60));
    let refused = edge.client.drain("blue", Duration::ZERO).unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: Refusal::SlotInUse, .. }), "{refused}");
    let report = edge.client.revert_bake().unwrap();
    assert_back_on_blue(&edge, &report, Cause::Asked, &blue);
    switch(&edge, green.address, &bake(60));
    assert_eq!(edge.client.finish_bake().unwrap().state, BakeState::Finished);
    assert_eq!(edge.connect().get("/").body, "green");
    assert!(edge.client.drain("blue", PATIENCE).is_ok());
    let wrong = Bake { from: vec!["blue".into()], ..bake(60) };
    let refused = edge.client.apply_with_bake(&table(5, "green", &[green.address]), &wrong).unwrap_err();
    assert!(matches!(refused, Error::Refused { reason: Refusal::InvalidBake, .. }), "{refused}");
    assert_eq!(edge.client.observe().unwrap().table.generation, 4);
}

#[test]
fn an_edge_that_dies_goes_on_with_its_bake_and_with_a_way_back_that_it_had_begun() {
    let folder = tempfile::tempdir().unwrap();
    let blue = Service::start("blue");
    let green = Service::start("green");
    let edge = Edge::start_in(folder.path());
    edge.route_to("blue", &[blue.address]);
    switch(&edge, green.address, &bake(60));
    drop(edge);
    let edge = Edge::start_in(folder.path());
    let report = edge.client.observe().unwrap().bake.unwrap();
    assert!(matches!(report.state, BakeState::Baking { .. }) && report.generation == 2, "{report:#?}");
    green.kill();
    let report = ended(&edge).0;
    assert!(
        matches!(report.state, BakeState::Reverted { generation: 3, cause: Cause::Unreachable }),
        "{report:#?}"
    );
    assert_eq!(edge.connect().get("/").body, "blue");
    drop(edge);
    let edge = Edge::start_in(folder.path());
    assert_eq!(edge.client.observe().unwrap().bake, Some(report), "how it ended is remembered");
    assert_eq!(edge.connect().get("/").body, "blue");
}

#[test]
fn an_edge_that_takes_over_goes_on_with_bake_and_pause_and_leads_the_retired_one() {
    let edge = Edge::start_with(|options| options.instance = 1);
    let (blue, green) = (Service::start("blue"), Service::start("green"));
    edge.route_to("blue", &[blue.address]);
    let mut kept = edge.connect();
    assert_eq!(kept.get("/").body, "blue");
    switch(&edge, green.address, &bake(60));
    let _next = upgrade(&edge, 2);
    let report = edge.client.observe().unwrap().bake.unwrap();
    assert!(matches!(report.state, BakeState::Baking { .. }) && report.generation == 2, "{report:#?}");

    let pause =
        Pause { hold: PATIENCE, max_held: 5, drain_timeout: PATIENCE, end_after: Duration::from_secs(60) };
    edge.client.pause(&["demo".to_owned()], &pause).unwrap();
    kept.send("GET / HTTP/1.1\r\nHost: test\r\n\r\n");
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(green.seen.requests.load(Ordering::Acquire), 0, "the retired edge holds its last request");
    assert_eq!(edge.client.resume(&["demo".to_owned()]).unwrap(), 1);
    assert_eq!(kept.answer().body, "green");

    green.kill();
    let report = ended(&edge).0;
    assert!(matches!(report.state, BakeState::Reverted { generation: 3, .. }), "{report:#?}");
    assert_eq!(edge.connect().get("/").body, "blue");
}
