//! The control socket under friend and foe.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;

use edge::control::{Refusal, Response};

use crate::support::{Edge, PATIENCE, socket};

fn open(edge: &Edge) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(socket(edge.folder.path())).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    BufReader::new(stream)
}

fn answer(connection: &mut BufReader<UnixStream>) -> Option<Response> {
    let mut line = String::new();
    connection.read_line(&mut line).ok()?;
    serde_json::from_str(&line).ok()
}

#[test]
fn only_the_owner_may_open_it() {
    let edge = Edge::start();
    let mode = std::fs::metadata(socket(edge.folder.path())).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn garbage_is_refused_on_a_connection_that_stays_open() {
    let edge = Edge::start();
    let mut connection = open(&edge);
    let garbage: [&[u8]; 7] = [
        b"\n",
        b"{}\n",
        b"\xff\xfe\x00\n",
        b"GET / HTTP/1.1\n",
        b"{\"request\":\"unknown\"}\n",
        b"{\"request\":\"drain\",\"slot\":\"a\"}\n",
        b"{\"request\":\"drain\",\"slot\":\"a\",\"timeout_ms\":1,\"more\":2}\n",
    ];
    for line in garbage {
        connection.get_mut().write_all(line).unwrap();
        let answer = answer(&mut connection);
        assert!(
            matches!(answer, Some(Response::Refused { reason: Refusal::Malformed, .. })),
            "{line:?} {answer:?}"
        );
    }
    // Two requests in one packet, one in two.
    connection.get_mut().write_all(b"{\"request\":\"observe\"}\n{\"request\":\"obs").unwrap();
    assert!(matches!(answer(&mut connection), Some(Response::Observed(_))));
    connection.get_mut().write_all(b"erve\"}\n").unwrap();
    assert!(matches!(answer(&mut connection), Some(Response::Observed(_))));
}

#[test]
fn huge_half_and_abandoned_lines_do_no_harm() {
    let edge = Edge::start();
    // One byte too many and no more, so that all is read and the answer is not lost to a reset.
    let mut long = open(&edge);
    long.get_mut().write_all(&vec![b'x'; 1024 * 1024 + 1]).unwrap();
    let refused = answer(&mut long);
    assert!(matches!(refused, Some(Response::Refused { reason: Refusal::Malformed, .. })), "{refused:?}");
    let mut huge = open(&edge);
    let block = vec![b'x'; 64 * 1024];
    // The edge stops reading, answers and closes; the rest may no longer be taken.
    for _ in 0..64 {
        if huge.get_mut().write_all(&block).is_err() {
            break;
        }
    }
    let mut half = open(&edge);
    half.get_mut().write_all(b"{\"request\":\"stop\",\"timeout_ms\":0}").unwrap();
    drop(half);
    let mut unread = open(&edge);
    unread.get_mut().write_all(&b"{\"request\":\"observe\"}\n".repeat(100)).unwrap();
    drop(unread);
    let idle: Vec<_> = (0..20).map(|_| open(&edge)).collect();
    assert_eq!(edge.client.observe().unwrap().listen, edge.address);
    drop(idle);
}
