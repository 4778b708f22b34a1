//! What a table says about requests besides where they go.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use edge::client::{Drained, Error, Pause};
use edge::control::{AccessLog, Policy, Preview, RateLimit, Refusal, Route, Table};
use stdx::Digest;

use crate::service::Service;
use crate::support::{Answer, Edge, PATIENCE, Raw, eventually, place, route, table};

fn with_policy(policy: Policy) -> (Edge, Service) {
    let (edge, service) = (Edge::start(), Service::start("blue"));
    let table =
        Table { routes: vec![Route { policy, ..route("blue") }], ..table(1, "blue", &[service.address]) };
    edge.client.apply(&table).unwrap();
    (edge, service)
}

fn error(answer: &Answer) -> Option<&str> {
    answer.header("x-slipway-edge-error")
}

#[test]
fn counters_histograms_and_the_last_minute_are_told_and_exported() {
    let (edge, service) = (Edge::start(), Service::start("blue"));
    edge.route_to("blue", &[service.address]);
    let mut connection = edge.connect();
    (0..20).for_each(|_| assert_eq!(connection.get("/").status, 200));
    assert_eq!(connection.get("/status?404").status, 404);
    assert_eq!(connection.get("/status?503").status, 503);
    assert_eq!(connection.get("/slow?120").status, 200);
    let mut cut = edge.connect();
    cut.send("GET /cut HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(cut.head().status, 200);
    cut.bytes(3);
    service.seen.word.send_modify(|word| *word += 1);
    let observed = eventually("the cut was counted", || {
        let observed = edge.client.observe().unwrap();
        (observed.slots["blue"].early_ends == 1).then_some(observed)
    });
    let counters = observed.slots["blue"];
    assert_eq!(counters.statuses, [0, 22, 0, 1, 1]);
    assert_eq!((counters.requests, counters.server_errors), (24, 2));
    assert_eq!((counters.first_byte.count, counters.total.count), (24, 23));
    assert!(counters.first_byte.p50_us < 120_000 && counters.first_byte.p99_us >= 120_000, "{counters:?}");
    assert_eq!(observed.recent["blue"], counters);

    let text = edge.client.metrics().unwrap();
    let labels = r#"service="demo",slot="blue""#;
    for line in [
        format!("slipway_edge_answers_total{{{labels},status=\"2xx\"}} 22"),
        format!("slipway_edge_answers_cut_total{{{labels}}} 1"),
        format!("slipway_edge_first_byte_seconds_count{{{labels}}} 24"),
        format!("slipway_edge_request_seconds_bucket{{{labels},le=\"+Inf\"}} 23"),
        "slipway_edge_table_generation 1".to_owned(),
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let named: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let is_described =
        |line: &str| named.iter().any(|name| line.starts_with(name.split(' ').next().unwrap()));
    assert!(text.lines().all(|line| line.starts_with('#') || is_described(line)), "{text}");
    assert!(connection.get("/metrics").body == "blue", "the public port knows no metrics");
}

#[test]
fn an_admin_listener_answers_metrics_and_nothing_else() {
    // The address is free again when the listener is dropped; nobody else is given it at once.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let admin = taken.local_addr().unwrap();
    let (edge, service) = (Edge::start_with(|options| options.admin = Some(admin)), Service::start("blue"));
    edge.route_to("blue", &[service.address]);
    assert_eq!(edge.connect().get("/").body, "blue", "an address that is taken holds nothing up");
    drop(taken);
    let mut connection = eventually("it listens", || std::net::TcpStream::connect(admin).ok().map(Raw::of));
    let metrics = connection.get("/metrics");
    assert!(metrics.status == 200 && metrics.body.contains("slipway_edge_answers_total"), "{metrics:?}");
    for (request, status) in [("GET /", 404), ("GET /metricsx", 404), ("POST /metrics", 404)] {
        let mut connection = Raw::connect(admin);
        connection.send(format!("{request} HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!(connection.answer().status, status, "{request}");
    }
}

#[test]
fn a_rate_limit_answers_429_and_says_when_to_come_back() {
    let limit = RateLimit { requests: 60, per_ms: 60_000, burst: 3, header: Some("x-key".into()) };
    let (edge, service) = with_policy(Policy { rate_limit: Some(limit), ..Policy::default() });
    let mut connection = edge.connect();
    let mut get = |key: &str| {
        connection.send(format!("GET / HTTP/1.1\r\nHost: test\r\n{key}\r\n"));
        connection.answer()
    };
    assert!((0..3).all(|_| get("X-Key: a\r\n").status == 200));
    let refused = get("X-Key: a\r\n");
    assert_eq!((refused.status, error(&refused)), (429, Some("rate-limited")));
    assert_eq!(refused.header("retry-after"), Some("1"));
    assert_eq!(get("X-Key: b\r\n").status, 200);
    assert_eq!(get("").status, 200, "by address");
    assert_eq!(edge.client.observe().unwrap().slots["blue"].requests, 5, "what is refused reaches nobody");
    drop(service);
}

#[test]
fn a_body_that_is_too_long_is_answered_413_told_or_not() {
    let (edge, service) = with_policy(Policy { max_body_bytes: Some(1000), ..Policy::default() });
    assert_eq!(edge.connect().post("/count", &"x".repeat(1000)).body, "1000");
    let told = edge.connect().post("/count", &"x".repeat(1001));
    assert_eq!(
        (told.status, error(&told), told.header("connection")),
        (413, Some("body-too-long"), Some("close"))
    );
    let mut connection = edge.connect();
    connection.send("POST /count HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n3e8\r\n");
    connection.send("x".repeat(1000));
    connection.send("\r\n1\r\nx\r\n");
    let found_out = connection.answer();
    assert_eq!((found_out.status, error(&found_out)), (413, Some("body-too-long")));
    let counters = edge.client.observe().unwrap().slots["blue"];
    assert_eq!(counters.server_errors, 0, "the client's doing");
    drop(service);
}

#[test]
fn times_are_those_of_the_route() {
    let times = Policy {
        request_timeout_ms: Some(300),
        answer_timeout_ms: Some(200),
        silence_timeout_ms: Some(300),
        ..Policy::default()
    };
    let (edge, service) = with_policy(times);
    let late = edge.connect().get("/slow?5000");
    assert_eq!((late.status, error(&late)), (504, Some("answer-timeout")));
    let mut dripping = edge.connect();
    dripping.send("POST /count HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\n");
    let began = Instant::now();
    while !dripping.is_readable() && began.elapsed() < Duration::from_secs(5) {
        dripping.send("x");
        std::thread::sleep(Duration::from_millis(50));
    }
    let slow = dripping.answer();
    assert_eq!((slow.status, error(&slow)), (408, Some("upload-too-slow")));
    let mut silent = edge.connect();
    silent.send("GET /cut HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(silent.head().status, 200);
    assert_eq!(silent.rest(), b"one", "cut off when nothing more came");
    assert_eq!(edge.connect().get("/tick?100").body, "tick".repeat(10), "slow, and never silent for long");
    let mut events = edge.connect();
    events.send("GET /word HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(events.head().status, 200);
    std::thread::sleep(Duration::from_millis(500));
    service.seen.word.send_modify(|word| *word += 1);
    while events.line() != "data: two" {}
}

#[test]
fn headers_are_added_where_the_service_has_none() {
    let headers = [("x-frame-options", "DENY"), ("x-content-type-options", "nosniff")];
    let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let (edge, _service) =
        with_policy(Policy { headers, hsts: Some("max-age=60".into()), ..Policy::default() });
    let answer = edge.connect().get("/");
    assert_eq!(answer.header("x-frame-options"), Some("DENY"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("strict-transport-security"), None, "this connection is not encrypted");
    let own = edge.connect().get("/own-headers");
    let own: Vec<_> = own.headers.iter().filter(|(name, _)| name == "x-frame-options").collect();
    assert_eq!(own, [&("x-frame-options".to_owned(), "SAMEORIGIN".to_owned())]);
}

#[test]
fn hsts_is_set_where_a_trusted_proxy_says_that_the_client_came_over_tls() {
    let edge = Edge::start_with(|options| options.trust_forwarded = true);
    let service = Service::start("blue");
    let policy = Policy { hsts: Some("max-age=60".into()), ..Policy::default() };
    let table =
        Table { routes: vec![Route { policy, ..route("blue") }], ..table(1, "blue", &[service.address]) };
    edge.client.apply(&table).unwrap();
    let mut connection = edge.connect();
    connection.send("GET / HTTP/1.1\r\nHost: test\r\nX-Forwarded-Proto: https\r\n\r\n");
    assert_eq!(connection.answer().header("strict-transport-security"), Some("max-age=60"));
}

fn pause() -> Pause {
    Pause { hold: PATIENCE, max_held: 20, drain_timeout: PATIENCE, end_after: Duration::from_secs(60) }
}

fn services() -> [String; 1] {
    ["demo".to_owned()]
}

#[test]
fn a_pause_waits_for_what_is_in_flight_holds_what_comes_and_lets_it_go() {
    let (edge, service) = (Edge::start(), Service::start("blue"));
    edge.route_to("blue", &[service.address]);
    let mut slow = edge.connect();
    slow.send("GET /slow?300 HTTP/1.1\r\nHost: test\r\n\r\n");
    eventually("it is in flight", || (service.seen.requests.load(Ordering::Acquire) == 1).then_some(()));
    let began = Instant::now();
    let drained = edge.client.pause(&services(), &pause()).unwrap();
    assert_eq!(drained, Drained { in_flight: 0, streams: 0 });
    assert!(began.elapsed() >= Duration::from_millis(200) && slow.answer().status == 200);
    let mut held: Vec<_> = (0..20).map(|_| edge.connect()).collect();
    for (number, connection) in held.iter_mut().enumerate() {
        connection
            .send(format!("POST /ledger HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\n{number:02}"));
        let wanted = number as u64 + 1;
        let is_held = || (edge.client.observe().unwrap().paused["demo"] == wanted).then_some(());
        eventually("it is held", is_held);
    }
    let refused = edge.connect().get("/");
    assert_eq!((refused.status, error(&refused)), (503, Some("paused")), "no place");
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    assert_eq!(service.seen.requests.load(Ordering::Acquire), 1, "nothing reached the service");
    // A switch meanwhile: who waited follows it.
    let green = Service::start("green");
    edge.route_to("green", &[green.address]);
    assert_eq!(edge.client.resume(&services()).unwrap(), 20);
    assert!(held.iter_mut().all(|connection| connection.answer().body == "recorded"));
    assert_eq!(green.seen.requests.load(Ordering::Acquire), 20);
    assert_eq!(edge.client.observe().unwrap().paused.len(), 0);
}

#[test]
fn a_pause_is_bounded_survives_the_edge_and_ends_by_itself() {
    let folder = tempfile::tempdir().unwrap();
    let (edge, service) = (Edge::start_in(folder.path()), Service::start("blue"));
    edge.route_to("blue", &[service.address]);
    let short = Pause { hold: Duration::from_millis(200), end_after: Duration::from_secs(3), ..pause() };
    edge.client.pause(&services(), &short).unwrap();
    let began = Instant::now();
    let refused = edge.connect().get("/");
    assert_eq!((refused.status, error(&refused)), (503, Some("paused")));
    assert!(began.elapsed() >= Duration::from_millis(200));
    drop(edge);
    let edge = Edge::start_in(folder.path());
    assert_eq!(edge.connect().get("/").status, 503);
    eventually("it is over", || (edge.connect().get("/").status == 200).then_some(()));
    let unknown = edge.client.pause(&["nobody".to_owned()], &short).unwrap_err();
    assert!(matches!(unknown, Error::Refused { reason: Refusal::InvalidPause, .. }), "{unknown}");
}

#[test]
fn green_can_be_looked_at_before_the_switch_by_who_knows_the_word() {
    let (edge, blue, green) = (Edge::start(), Service::start("blue"), Service::start("green"));
    let slots = [("blue", &blue), ("green", &green)];
    let preview = Preview {
        header: "x-preview".into(),
        value: Digest::of("open sesame"),
        routes: vec![route("green")],
    };
    let table = Table {
        generation: 1,
        routes: vec![route("blue")],
        slots: slots.map(|(name, service)| (name.to_owned(), place(&[service.address]))).into(),
        preview: Some(preview),
        ..Table::default()
    };
    edge.client.apply(&table).unwrap();
    let mut connection = edge.connect();
    let mut get = |path: &str, header: &str| {
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{header}\r\n"));
        connection.answer().body
    };
    assert_eq!(get("/", ""), "blue");
    assert_eq!(get("/", "X-Preview: open sesame\r\n"), "green");
    assert_eq!(get("/", "X-Preview: open sesam\r\n"), "blue");
    for value in ["open sesame", "wrong"] {
        let seen = get("/request", &format!("X-Preview: {value}\r\n"));
        assert!(!seen.contains("preview") && seen.contains("host: test"), "{seen}");
    }
    let kept = std::fs::read_to_string(edge.folder.path().join("table.json")).unwrap();
    assert!(!kept.contains("sesame"));
}

#[test]
fn each_request_is_a_line_of_the_access_log() {
    let (edge, service) = (Edge::start(), Service::start("blue"));
    let access_log = Some(AccessLog { max_bytes: 1 << 20, keep: 1, query: false });
    edge.client.apply(&Table { access_log, ..table(1, "blue", &[service.address]) }).unwrap();
    let mut connection = edge.connect();
    connection.send("GET /slow?20 HTTP/1.1\r\nHost: test\r\nX-Request-Id: one\r\n\r\n");
    connection.answer();
    connection.post("/status?503", "x");
    let path = edge.folder.path().join("access.log");
    let lines = eventually("both are written", || {
        let text = std::fs::read_to_string(&path).ok()?;
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        (lines.len() == 2).then_some(lines)
    });
    let first = &lines[0];
    assert_eq!((first["request_id"].as_str(), first["method"].as_str()), (Some("one"), Some("GET")));
    assert_eq!((first["path"].as_str(), first.get("query")), (Some("/slow"), None));
    assert_eq!((first["status"].as_u64(), first["bytes"].as_u64()), (Some(200), Some(4)));
    assert_eq!((first["slot"].as_str(), first["retries"].as_u64()), (Some("blue"), Some(0)));
    assert_eq!(first["upstream"].as_str(), Some(service.address.to_string().as_str()));
    assert_eq!((first["client"].as_str(), first["host"].as_str()), (Some("127.0.0.1"), Some("test")));
    assert!(first["ms"].as_f64().unwrap() >= 20.0 && first["complete"].as_bool() == Some(true), "{first}");
    assert_eq!(lines[1]["status"].as_u64(), Some(503));
    edge.client.apply(&table(2, "blue", &[service.address])).unwrap();
    connection.get("/");
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(std::fs::read_to_string(&path).unwrap().lines().count(), 2, "nobody asks for it any more");
}
