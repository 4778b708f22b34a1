//! Connections that go on after their slot has retired. They end when either side wants, or, where the route says so, a while
//! after no route leads to their slot any more: politely, and not all at once. A WebSocket gets a close frame at the end of a
//! frame; of another protocol nothing is known, so its connection is closed.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::watch;

use crate::control::StreamPolicy;
use crate::websocket::{Frames, RESTART};

/// How long a client's half of an upgraded connection stays open after the service has ended its own, and how long a client
/// may take to answer a close frame.
const LEAVE_TIME: Duration = Duration::from_secs(5);

/// How long the end of a frame, or of an event, is waited for.
pub(crate) const BOUNDARY_TIME: Duration = Duration::from_secs(5);

/// Read at once.
const BUFFER_BYTES: usize = 16 * 1024;

/// When a stream is to end.
pub(crate) struct Ending {
    retired: watch::Receiver<Option<Instant>>,
    policy: Option<StreamPolicy>,
    /// Where in the spread this stream's turn is, from 0 to 1.
    turn: f64,
}

impl Ending {
    pub(crate) fn new(retired: watch::Receiver<Option<Instant>>, policy: Option<StreamPolicy>) -> Ending {
        Ending { retired, policy, turn: next_turn() }
    }

    /// Returns when it is time; never while a route leads to the slot.
    pub(crate) async fn wait(mut self) {
        let Some(policy) = self.policy else { return std::future::pending().await };
        let spread = Duration::from_millis(policy.spread_ms).mul_f64(self.turn);
        let age = Duration::from_millis(policy.max_age_ms) + spread;
        loop {
            let since = *self.retired.borrow_and_update();
            let is_changed = match since {
                None => self.retired.changed().await,
                Some(since) => tokio::select! {
                    () = tokio::time::sleep_until((since + age).into()) => return,
                    is_changed = self.retired.changed() => is_changed,
                },
            };
            if is_changed.is_err() {
                return std::future::pending().await;
            }
        }
    }
}

/// Turns that divide the time evenly however many there are: multiples of the golden ratio, without their whole part.
pub(crate) fn next_turn() -> f64 {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let turn = COUNT.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (turn >> 11) as f64 / (1_u64 << 53) as f64
}

/// Passes the bytes of an upgraded connection both ways until both sides have ended, or until its time has come. A client
/// may end its half and listen on; when the service has ended, nobody is left for the client to talk to.
pub(crate) async fn tunnel(
    client: TokioIo<Upgraded>,
    service: TokioIo<Upgraded>,
    ending: Ending,
    is_websocket: bool,
) {
    let (from_client, to_client) = tokio::io::split(client);
    let (from_service, to_service) = tokio::io::split(service);
    let mut up = std::pin::pin!(pass(from_client, to_service));
    let mut down = std::pin::pin!(pass_down(from_service, to_client, ending, is_websocket));
    // Either side ends it by closing, or by breaking: there is nobody to tell.
    let _ = tokio::select! {
        ended = &mut up => match ended {
            Ok(()) => down.await,
            broken => broken,
        },
        ended = &mut down => match ended {
            Ok(()) => tokio::time::timeout(LEAVE_TIME, up).await.unwrap_or(Ok(())),
            broken => broken,
        },
    };
}

async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> io::Result<()> {
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// From the service to the client, with an end of our own.
async fn pass_down(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    ending: Ending,
    is_websocket: bool,
) -> io::Result<()> {
    let mut frames = Frames::default();
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut end = std::pin::pin!(ending.wait());
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read?,
            () = &mut end => break,
        };
        if read == 0 {
            return to.shutdown().await;
        }
        if is_websocket {
            frames.see(&buffer[..read]);
        }
        to.write_all(&buffer[..read]).await?;
    }
    if is_websocket {
        let finishing = finish_frame(&mut from, &mut to, &mut frames, &mut buffer);
        let is_whole = matches!(tokio::time::timeout(BOUNDARY_TIME, finishing).await, Ok(Ok(true)));
        if is_whole && !frames.is_closed() {
            to.write_all(&RESTART).await?;
            to.flush().await?;
            // The client's answer goes through to the service, which so learns of the end as if the client had wanted it,
            // and answers. What it sends may not follow a close frame.
            let mut nowhere = tokio::io::sink();
            let _ = tokio::time::timeout(LEAVE_TIME, tokio::io::copy(&mut from, &mut nowhere)).await;
        }
    }
    to.shutdown().await
}

/// Passes the rest of a frame that was begun; false when the service ended within it.
async fn finish_frame(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    frames: &mut Frames,
    buffer: &mut [u8],
) -> io::Result<bool> {
    while !frames.is_at_boundary() {
        let read = from.read(buffer).await?;
        if read == 0 {
            return Ok(false);
        }
        let whole = frames.see_to_boundary(&buffer[..read]).unwrap_or(read);
        to.write_all(&buffer[..whole]).await?;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_evenly() {
        let mut tenths = [0; 10];
        (0..1000).for_each(|_| tenths[(next_turn() * 10.0) as usize] += 1);
        assert!(tenths.iter().all(|count| (90..=110).contains(count)), "{tenths:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_time_runs_from_the_retirement_and_stops_when_the_slot_comes_back() {
        let (retired, seen) = watch::channel(None);
        let policy = StreamPolicy { max_age_ms: 10_000, spread_ms: 0 };
        let ending = tokio::spawn(Ending::new(seen.clone(), Some(policy)).wait());
        tokio::time::sleep(Duration::from_secs(100)).await;
        retired.send_replace(Some(tokio::time::Instant::now().into_std()));
        tokio::time::sleep(Duration::from_secs(9)).await;
        retired.send_replace(None);
        tokio::time::sleep(Duration::from_secs(100)).await;
        assert!(!ending.is_finished());
        let before = tokio::time::Instant::now();
        retired.send_replace(Some(before.into_std()));
        ending.await.unwrap();
        assert_eq!(before.elapsed().as_secs(), 10);
        let never = Ending::new(seen, None).wait();
        assert!(tokio::time::timeout(Duration::from_secs(3600), never).await.is_err());
    }
}
