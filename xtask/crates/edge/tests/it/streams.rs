//! Streams stay where they are over a switch, and end politely when their time has come.

use std::time::{Duration, Instant};

use edge::client::Drained;
use edge::control::{Policy, Route, StreamPolicy, Table};

use crate::service::Service;
use crate::support::{Edge, PATIENCE, Raw, eventually, place, route};

/// Everything to one slot, with an end for its streams.
fn table(generation: u64, slot: &str, service: &Service, streams: StreamPolicy) -> Table {
    let policy = Policy { streams: Some(streams), ..Policy::default() };
    Table {
        generation,
        routes: vec![Route { policy, ..route(slot) }],
        slots: [(slot.to_owned(), place(&[service.address]))].into(),
        ..Table::default()
    }
}

fn start(streams: StreamPolicy) -> (Edge, Service, Service) {
    let (edge, blue, green) = (Edge::start(), Service::start("blue"), Service::start("green"));
    edge.client.apply(&table(1, "blue", &blue, streams)).unwrap();
    (edge, blue, green)
}

fn upgrade(edge: &Edge, path: &str, protocol: &str) -> Raw {
    let mut stream = edge.connect();
    stream.send(format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n"
    ));
    assert_eq!(stream.head().status, 101);
    stream
}

const SOON: StreamPolicy = StreamPolicy { max_age_ms: 400, spread_ms: 0 };

/// The length of one message of `/websocket`.
const MESSAGE: usize = 304;

#[test]
fn a_websocket_gets_a_close_frame_between_two_frames_and_its_service_hears_of_it() {
    let (edge, blue, green) = start(SOON);
    let mut stream = upgrade(&edge, "/websocket", "websocket");
    stream.bytes(MESSAGE);
    std::thread::sleep(Duration::from_millis(600));
    stream.bytes(MESSAGE);
    let switched = Instant::now();
    edge.client.apply(&table(2, "green", &green, SOON)).unwrap();
    let open = edge.client.drain("blue", PATIENCE).unwrap();
    assert_eq!(open, Drained { in_flight: 0, streams: 1 }, "requests are drained, the stream stays");
    let mut frames = 0;
    let head = loop {
        let head = stream.bytes(4);
        if head[0] == 0x88 {
            break head;
        }
        assert_eq!(head, [0x82, 126, 0x01, 0x2c], "only whole frames come");
        assert!(stream.bytes(MESSAGE - 4).iter().all(|byte| *byte == 0x88));
        frames += 1;
    };
    assert!(switched.elapsed() >= Duration::from_millis(400) && frames > 3, "{frames}");
    assert_eq!(u16::from_be_bytes([head[2], head[3]]), 1012);
    stream.send([0x88, 0x82, 1, 2, 3, 4, 0x03 ^ 1, 0xf4 ^ 2]);
    assert_eq!(stream.rest(), b"", "nothing follows a close frame");
    let drained = edge.client.drain_with_streams("blue", PATIENCE).unwrap();
    assert_eq!(drained, Drained { in_flight: 0, streams: 0 });
    drop(blue);
}

#[test]
fn an_event_stream_ends_between_two_events_and_says_when_to_come_back() {
    let (edge, _blue, green) = start(SOON);
    let mut stream = edge.connect();
    stream.send("GET /events?20 HTTP/1.1\r\nHost: test\r\n\r\n");
    assert_eq!(stream.head().status, 200);
    edge.client.apply(&table(2, "green", &green, SOON)).unwrap();
    let mut text = String::new();
    loop {
        let chunk = stream.chunk();
        if chunk.is_empty() {
            break;
        }
        text.push_str(std::str::from_utf8(&chunk).unwrap());
    }
    assert_eq!(stream.line(), "", "the answer is complete, not cut off");
    let events: Vec<_> = text.split_terminator("\n\n").collect();
    let (last, others) = events.split_last().unwrap();
    assert!(last.strip_prefix("retry: ").unwrap().parse::<u64>().unwrap() >= 1000, "{text:?}");
    let numbers = (0..others.len()).map(|number| format!("data: {number}"));
    assert!(others.len() > 5 && numbers.eq(others.iter().map(|event| (*event).to_owned())), "{text:?}");
    assert_eq!(stream.get("/").body, "green", "the connection goes on");
    let counters = eventually("blue is drained", || {
        let observed = edge.client.observe().unwrap();
        (!observed.slots.contains_key("blue")).then_some(observed.slots["green"])
    });
    assert_eq!(counters.early_ends, 0);
}

#[test]
fn other_protocols_are_closed_and_downloads_go_on_to_their_end() {
    let (edge, blue, green) = start(SOON);
    let mut stream = upgrade(&edge, "/upgrade", "echo");
    assert_eq!(stream.line(), "welcome");
    let mut download = edge.connect();
    download.send("GET /tick?100 HTTP/1.1\r\nHost: test\r\n\r\n");
    edge.client.apply(&table(2, "green", &green, SOON)).unwrap();
    assert_eq!(stream.rest(), b"");
    assert_eq!(download.answer().body, "tick".repeat(10));
    drop(blue);
}

#[test]
fn streams_of_a_slot_that_comes_back_live_on() {
    let (edge, blue, green) = start(SOON);
    let mut stream = upgrade(&edge, "/upgrade", "echo");
    assert_eq!(stream.line(), "welcome");
    edge.client.apply(&table(2, "green", &green, SOON)).unwrap();
    edge.client.apply(&table(3, "blue", &blue, SOON)).unwrap();
    std::thread::sleep(Duration::from_millis(900));
    stream.send("still here\n");
    assert_eq!(stream.line(), "still here");
}

#[test]
fn many_streams_do_not_end_at_once() {
    let spread = StreamPolicy { max_age_ms: 200, spread_ms: 2000 };
    let (edge, blue, green) = start(spread);
    let mut streams: Vec<_> = (0..200).map(|_| upgrade(&edge, "/upgrade", "echo")).collect();
    // Before the order: it is answered some time after the switch.
    let switched = Instant::now();
    edge.client.apply(&table(2, "green", &green, spread)).unwrap();
    let mut ended = Vec::new();
    eventually("all have ended", || {
        streams.retain_mut(|stream| {
            let is_closed = {
                stream.take_ready();
                stream.is_closed()
            };
            ended.extend(is_closed.then(|| switched.elapsed()));
            !is_closed
        });
        streams.is_empty().then_some(())
    });
    assert!(ended[0] >= Duration::from_millis(190), "{:?}", ended[0]);
    let busiest = (0..22).map(|tenth| {
        let within = |time: &&Duration| time.as_millis() / 100 == tenth;
        ended.iter().filter(within).count()
    });
    let busiest = busiest.max().unwrap();
    eprintln!("200 streams ended over {:?}, at most {busiest} in a tenth of a second", ended[199] - ended[0]);
    assert!(busiest <= 60, "{busiest} of 200 in a tenth of a second of two");
    drop(blue);
}
