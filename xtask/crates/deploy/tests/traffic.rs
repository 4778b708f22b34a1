//! What the environment file says about requests, in a real edge.
#![allow(clippy::unwrap_used)]

mod rig;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use deploy::Outcome;
use rig::Rig;

/// The whole answer, head and body.
fn ask(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.to_ascii_lowercase()
}

#[test]
fn rules_come_into_force_with_the_next_deployment_and_without_a_restart() {
    let rig = Rig::new();
    // The address is free again when the listener is dropped; nobody else is given it at once.
    let admin = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let rules = |policy: &str| {
        *rig.edge_more.lock().unwrap() =
            format!(", admin_listen: '{admin}', access_log_file: {{}}, policy: {policy}");
        rig.deploy("1")
    };
    rules("{ security_headers: {} }");
    let answer = ask(rig.listen, "/");
    for header in ["x-content-type-options: nosniff", "x-frame-options: sameorigin", "referrer-policy:"] {
        assert!(answer.starts_with("http/1.1 200") && answer.contains(header), "{answer}");
    }
    assert!(!answer.contains("strict-transport-security"), "{answer}");
    let served_by = rig.active_pid("web");

    let changed = rules("{ rate_limit: { requests: 3, per_ms: 60000 } }");
    assert!(!matches!(changed, Outcome::NothingToDo { .. }), "{changed:?}");
    let answers: Vec<_> = (0..4).map(|_| ask(rig.listen, "/")).collect();
    assert!(answers[..3].iter().all(|answer| answer.starts_with("http/1.1 200")), "{answers:#?}");
    let refused = &answers[3];
    assert!(refused.starts_with("http/1.1 429") && refused.contains("retry-after: 20"), "{refused}");
    assert!(!answers[0].contains("nosniff"), "{answers:#?}");
    assert_eq!(rig.active_pid("web"), served_by, "the process is the same");

    let metrics = ask(admin, "/metrics");
    assert!(metrics.contains("slipway_edge_answers_total{service=\"web\""), "{metrics}");
    let log = std::fs::read_to_string(rig.state().join("edge/access.log")).unwrap();
    assert!(log.lines().any(|line| line.contains("\"status\":429")), "{log}");
}
