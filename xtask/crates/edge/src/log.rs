//! One JSON object a line on standard error. The edge outlives whoever started it, and with it perhaps the reader of its
//! standard error: lines are written by a thread of their own and dropped when it cannot keep up, so that a pipe that nobody
//! reads never holds a request up.

use std::io::Write;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};

/// Lines that wait to be written; more are dropped and counted.
const MAX_WAITING: usize = 4096;

/// How long the last lines may take to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

static WRITER: OnceLock<SyncSender<Message>> = OnceLock::new();
static DROPPED: AtomicU64 = AtomicU64::new(0);

enum Message {
    Line(String),
    /// Answered when all lines before it are written.
    Flush(SyncSender<()>),
}

/// Writes one line: `event` with the members of `fields`, which is an object.
pub(crate) fn event(event: &str, fields: Value) {
    if writer().try_send(Message::Line(line(event, fields))).is_err() {
        DROPPED.fetch_add(1, Ordering::Relaxed);
    }
}

/// Waits a moment for the lines so far to be written.
pub(crate) fn flush() {
    let (done, is_done) = sync_channel(1);
    if writer().try_send(Message::Flush(done)).is_ok() {
        let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
    }
}

fn writer() -> &'static SyncSender<Message> {
    WRITER.get_or_init(|| {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        // Without the thread the receiver is gone and every line counts as dropped: no reason to stop serving.
        let _ = std::thread::Builder::new().name("log".into()).spawn(move || write(&receiver));
        sender
    })
}

fn write(messages: &Receiver<Message>) {
    for message in messages {
        let lost = DROPPED.swap(0, Ordering::Relaxed);
        let mut stderr = std::io::stderr().lock();
        if lost > 0 {
            let _ = stderr.write_all(line("log_lines_dropped", json!({ "count": lost })).as_bytes());
        }
        match message {
            Message::Line(line) => drop(stderr.write_all(line.as_bytes())),
            Message::Flush(done) => drop(done.send(())),
        }
    }
}

fn line(event: &str, fields: Value) -> String {
    let mut line = Map::new();
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    line.insert("at_ms".into(), Value::from(u64::try_from(at.as_millis()).unwrap_or(u64::MAX)));
    line.insert("event".into(), Value::from(event));
    if let Value::Object(fields) = fields {
        line.extend(fields);
    }
    format!("{}\n", Value::Object(line))
}
