//! Event streams (server-sent events), which are answers without an end. One ends when the service ends it, or, where the
//! route says so, a while after no route leads to its slot any more: between two events, so that its client, which comes back by
//! itself, has missed none. Other long answers are not ended: half a download would look like a whole one.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::header::{self, HeaderMap};
use tokio::time::Sleep;

use crate::live::Flight;
use crate::stream::{BOUNDARY_TIME, Ending, next_turn};

/// Clients of event streams are told to come back after a time between this one and twice as long.
const RETRY_MS: u64 = 1000;

/// An event stream that is to end one day.
pub(crate) struct EventStream {
    state: State,
    seen: Events,
    /// Whether it can be added to: nothing has compressed it.
    is_plain: bool,
}

enum State {
    /// Goes on until this is ready.
    Open(Pin<Box<dyn Future<Output = ()> + Send>>),
    /// Ends with the event, or when this is ready.
    Ending(Pin<Box<Sleep>>),
    Over,
}

/// Whether an answer with these headers is a stream of events.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(|kind| kind.as_bytes());
    kind.is_some_and(|kind| {
        let name = kind.split(|byte| *byte == b';').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
    })
}

impl EventStream {
    /// What an answer needs to be ended; `None` where it is none of these, or where nobody wants it to be.
    pub(crate) fn of(headers: &HeaderMap, has_length: bool, flight: &Flight) -> Option<EventStream> {
        let policy = flight.entry.policy.streams.filter(|_| !has_length && is_event_stream(headers))?;
        let ending = Ending::new(flight.slot.counters.retirement(), Some(policy));
        let is_plain = !headers.contains_key(header::CONTENT_ENCODING);
        Some(EventStream { state: State::Open(Box::pin(ending.wait())), seen: Events::default(), is_plain })
    }

    /// These bytes went to the client.
    pub(crate) fn see(&mut self, bytes: &[u8]) {
        self.seen.see(bytes);
    }

    pub(crate) fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Ready when it is to end: with the last words, then without.
    pub(crate) fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let State::Open(end) = &mut self.state {
            std::task::ready!(end.as_mut().poll(cx));
            self.state = State::Ending(Box::pin(tokio::time::sleep(BOUNDARY_TIME)));
        }
        let State::Ending(patience) = &mut self.state else { return Poll::Ready(None) };
        let is_at_boundary = self.seen.is_at_boundary();
        if !is_at_boundary && self.is_plain {
            std::task::ready!(patience.as_mut().poll(cx));
        }
        self.state = State::Over;
        Poll::Ready((is_at_boundary && self.is_plain).then(farewell))
    }
}

/// What an event stream is told last.
fn farewell() -> Bytes {
    let retry = RETRY_MS + (next_turn() * RETRY_MS as f64) as u64;
    Bytes::from(format!("retry: {retry}\n\n"))
}

/// Whether what was sent ends where an event does.
#[derive(Debug, Default)]
struct Events {
    /// The last bytes.
    tail: [u8; 4],
}

impl Events {
    fn see(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(4)..] {
            self.tail.rotate_left(1);
            self.tail[3] = *byte;
        }
    }

    /// The ends of lines are those of the HTML standard, section 9.2.5.
    fn is_at_boundary(&self) -> bool {
        self.tail == [0; 4]
            || self.tail.ends_with(b"\n\n")
            || self.tail.ends_with(b"\r\r")
            || &self.tail == b"\r\n\r\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_end_with_an_empty_line() {
        for (text, wanted) in [
            ("", true),
            ("data: a\n\n", true),
            ("data: a\r\n\r\n", true),
            ("data: a\r\r", true),
            ("data: a\n", false),
            ("data: a\r\n", false),
            ("d", false),
        ] {
            for piece in [1, 2, 3, 100] {
                let mut events = Events::default();
                text.as_bytes().chunks(piece).for_each(|chunk| events.see(chunk));
                assert_eq!(events.is_at_boundary(), wanted, "{text:?} {piece}");
            }
        }
    }

    #[test]
    fn only_streams_of_events_are_ended() {
        for (kind, wanted) in [
            ("text/event-stream", true),
            ("Text/Event-Stream ; charset=utf-8", true),
            ("text/event-streams", false),
            ("text/plain", false),
        ] {
            let kind = hyper::header::HeaderValue::from_static(kind);
            let headers = HeaderMap::from_iter([(header::CONTENT_TYPE, kind.clone())]);
            assert_eq!(is_event_stream(&headers), wanted, "{kind:?}");
        }
        assert!(!is_event_stream(&HeaderMap::new()));
    }
}
