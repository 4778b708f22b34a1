//! The access log: a JSON object a line for each request, on standard output or in a file that is rotated. A thread of its own
//! makes and writes the lines; a request hands over what it has at hand and never waits. Lines that the thread cannot keep up
//! with are dropped and counted.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::header::HeaderValue;
use hyper::{Method, Uri};
use serde_json::{Value, json};

use crate::control;
use crate::live::LiveSlot;
use crate::log;

/// Entries that wait to be written.
const MAX_WAITING: usize = 8192;

/// How long the last lines may take to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

const FILE: &str = "access.log";

/// Clients' addresses and paths are nobody else's business.
const MODE: u32 = 0o600;

/// Where entries go.
pub(crate) struct AccessLog {
    sender: SyncSender<Message>,
    is_on: AtomicBool,
    is_stdout: bool,
    dropped: Arc<AtomicU64>,
}

enum Message {
    Entry(Box<Entry>),
    /// Write to the file from now on, or no longer.
    File(Option<control::AccessLog>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

/// One request; it is written when this is dropped.
pub(crate) struct Pending {
    entry: Option<Box<Entry>>,
    log: Arc<AccessLog>,
}

/// What is known of a request.
pub(crate) struct Entry {
    pub(crate) at: SystemTime,
    pub(crate) began: Instant,
    pub(crate) client: SocketAddr,
    pub(crate) method: Method,
    pub(crate) host: Option<HeaderValue>,
    pub(crate) uri: Uri,
    pub(crate) request_id: HeaderValue,
    /// 0 where the client left before there was an answer.
    pub(crate) status: u16,
    /// From the head of the request to that of the answer.
    pub(crate) first_byte: Duration,
    pub(crate) total: Duration,
    /// Where the answer came from; `None` where the edge answered itself.
    pub(crate) source: Option<(Arc<LiveSlot>, SocketAddr)>,
    /// How often it was sent or tried to be sent after the first time.
    pub(crate) retries: u32,
    pub(crate) bytes: u64,
    /// False when the answer was cut off, by either side.
    pub(crate) is_complete: bool,
}

impl AccessLog {
    /// A log that writes to standard output where `is_stdout`, and to a file in `folder` once it is told to.
    pub(crate) fn new(folder: &Path, is_stdout: bool) -> Arc<AccessLog> {
        let (sender, receiver) = sync_channel(MAX_WAITING);
        let dropped = Arc::new(AtomicU64::new(0));
        let mut writer =
            Writer { path: folder.join(FILE), is_stdout, file: None, dropped: Arc::clone(&dropped) };
        // Without the thread the receiver is gone and every line counts as dropped: no reason to stop serving.
        let thread = std::thread::Builder::new().name("access-log".into());
        let _ = thread.spawn(move || writer.run(&receiver));
        Arc::new(AccessLog { sender, is_on: AtomicBool::new(is_stdout), is_stdout, dropped })
    }

    /// Begins, changes or ends the file.
    pub(crate) fn set_file(&self, file: Option<control::AccessLog>) {
        self.is_on.store(self.is_stdout || file.is_some(), Ordering::Relaxed);
        let _ = self.sender.send(Message::File(file));
    }

    /// The entry of a request, where there is a log.
    pub(crate) fn begin(self: &Arc<AccessLog>, entry: impl FnOnce() -> Entry) -> Option<Pending> {
        let is_on = self.is_on.load(Ordering::Relaxed);
        is_on.then(|| Pending { entry: Some(Box::new(entry())), log: Arc::clone(self) })
    }

    /// Lines that were lost because the thread could not keep up, or could not write.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Waits a moment for the lines so far to be written.
    pub(crate) fn flush(&self) {
        let (done, is_done) = sync_channel(1);
        if self.sender.try_send(Message::Flush(done)).is_ok() {
            let _ = is_done.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

impl Pending {
    /// Changes what is known.
    pub(crate) fn note(&mut self, change: impl FnOnce(&mut Entry)) {
        if let Some(entry) = &mut self.entry {
            change(entry);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        let Some(mut entry) = self.entry.take() else { return };
        entry.total = entry.began.elapsed();
        if self.log.sender.try_send(Message::Entry(entry)).is_err() {
            self.log.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The thread's side.
struct Writer {
    path: PathBuf,
    is_stdout: bool,
    file: Option<Rotated>,
    dropped: Arc<AtomicU64>,
}

struct Rotated {
    rules: control::AccessLog,
    file: File,
    size: u64,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        let mut lines = Vec::new();
        while let Ok(message) = messages.recv() {
            let mut next = Some(message);
            let mut done = None;
            // What is there already is written at once.
            while let Some(message) = next.take() {
                match message {
                    Message::Entry(entry) => self.line(&entry, &mut lines),
                    Message::File(rules) => {
                        self.write(&mut lines);
                        self.open(rules);
                    }
                    Message::Flush(answer) => done = Some(answer),
                }
                if done.is_none() && lines.len() < 64 * 1024 {
                    next = messages.try_recv().ok();
                }
            }
            self.write(&mut lines);
            if let Some(done) = done {
                let _ = done.send(());
            }
        }
    }

    fn line(&self, entry: &Entry, lines: &mut Vec<u8>) {
        let is_query_wanted = self.file.as_ref().is_some_and(|file| file.rules.query);
        // Writing to memory cannot fail, and these are all plain values.
        let _ = serde_json::to_writer(&mut *lines, &describe(entry, is_query_wanted));
        lines.push(b'\n');
    }

    fn write(&mut self, lines: &mut Vec<u8>) {
        if lines.is_empty() {
            return;
        }
        if self.is_stdout {
            let _ = io::stdout().lock().write_all(lines);
        }
        let outcome = self.file.as_mut().map_or(Ok(()), |file| file.write(&self.path, lines));
        if let Err(error) = outcome {
            let lost = lines.iter().filter(|byte| **byte == b'\n').count() as u64;
            self.dropped.fetch_add(lost, Ordering::Relaxed);
            self.report(&error);
        }
        lines.clear();
    }

    fn open(&mut self, rules: Option<control::AccessLog>) {
        self.file = rules.and_then(|rules| match Rotated::open(&self.path, rules) {
            Ok(file) => Some(file),
            Err(error) => {
                self.report(&error);
                None
            }
        });
    }

    fn report(&self, error: &io::Error) {
        log::event("access_log_failed", json!({ "path": self.path, "error": error.to_string() }));
    }
}

impl Rotated {
    fn open(path: &Path, rules: control::AccessLog) -> io::Result<Rotated> {
        let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        let size = file.metadata()?.len();
        Ok(Rotated { rules, file, size })
    }

    fn write(&mut self, path: &Path, lines: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + lines.len() as u64 > self.rules.max_bytes {
            self.rotate(path)?;
        }
        self.file.write_all(lines)?;
        self.size += lines.len() as u64;
        Ok(())
    }

    /// `access.log` becomes `access.log.1`, that becomes `.2`, and so on up to as many as are kept.
    fn rotate(&mut self, path: &Path) -> io::Result<()> {
        let name = |number: u32| match number {
            0 => path.to_owned(),
            number => PathBuf::from(format!("{}.{number}", path.display())),
        };
        if self.rules.keep == 0 {
            std::fs::remove_file(path)?;
        }
        for number in (0..self.rules.keep).rev() {
            match std::fs::rename(name(number), name(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        *self = Rotated::open(path, self.rules)?;
        Ok(())
    }
}

fn describe(entry: &Entry, is_query_wanted: bool) -> Value {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let at = entry.at.duration_since(UNIX_EPOCH).unwrap_or_default();
    let ms = |time: Duration| time.as_micros() as f64 / 1000.0;
    let mut line = json!({
        "at_ms": u64::try_from(at.as_millis()).unwrap_or(u64::MAX),
        "event": "request",
        "request_id": text(&entry.request_id),
        "client": entry.client.ip().to_canonical(),
        "host": entry.host.as_ref().map(text),
        "method": entry.method.as_str(),
        "path": entry.uri.path(),
        "status": entry.status,
        "bytes": entry.bytes,
        "first_byte_ms": ms(entry.first_byte),
        "ms": ms(entry.total),
        "slot": entry.source.as_ref().map(|(slot, _)| &slot.name),
        "upstream": entry.source.as_ref().map(|(_, upstream)| upstream),
        "retries": entry.retries,
        "complete": entry.is_complete,
    });
    if let (true, Some(query)) = (is_query_wanted, entry.uri.query()) {
        line["query"] = query.into();
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str) -> Entry {
        Entry {
            at: SystemTime::now(),
            began: Instant::now(),
            client: "127.0.0.1:4000".parse().unwrap(),
            method: Method::GET,
            host: Some(HeaderValue::from_static("h")),
            uri: path.parse().unwrap(),
            request_id: HeaderValue::from_static("id"),
            status: 200,
            first_byte: Duration::from_micros(1500),
            total: Duration::ZERO,
            source: None,
            retries: 0,
            bytes: 5,
            is_complete: true,
        }
    }

    #[test]
    fn files_are_rotated_and_no_line_is_lost_or_torn() {
        let folder = tempfile::tempdir().unwrap();
        let log = AccessLog::new(folder.path(), false);
        assert!(log.begin(|| entry("/")).is_none(), "nobody asked for it");
        log.set_file(Some(control::AccessLog { max_bytes: 2000, keep: 50, query: false }));
        for number in 0..100 {
            drop(log.begin(|| entry(&format!("/{number}?secret=1"))));
            if number % 3 == 0 {
                log.flush();
            }
        }
        log.flush();
        let mut paths = Vec::new();
        for file in std::fs::read_dir(folder.path()).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            assert!(text.len() <= 2000 && !text.contains("secret"));
            let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
            paths.extend(lines.map(|line| line["path"].as_str().unwrap()[1..].parse::<u32>().unwrap()));
        }
        paths.sort_unstable();
        assert_eq!(paths, (0..100).collect::<Vec<_>>());
        assert_eq!(log.dropped(), 0);
        assert!(std::fs::read_dir(folder.path()).unwrap().count() > 5);
    }

    #[test]
    fn only_so_many_files_are_kept_and_the_query_is_written_where_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let log = AccessLog::new(folder.path(), false);
        log.set_file(Some(control::AccessLog { max_bytes: 1, keep: 2, query: true }));
        for number in 0..9 {
            drop(log.begin(|| entry(&format!("/{number}?q={number}"))));
            log.flush();
        }
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3);
        assert!(read("access.log").contains("q=8") && read("access.log.2").contains("q=6"));
        log.set_file(Some(control::AccessLog { max_bytes: 1, keep: 0, query: true }));
        drop(log.begin(|| entry("/last")));
        log.flush();
        assert_eq!(read("access.log").lines().count(), 1);
        log.set_file(None);
        assert!(log.begin(|| entry("/")).is_none());
    }

    #[test]
    fn a_file_that_cannot_be_written_costs_lines_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let log = AccessLog::new(folder.path(), false);
        log.set_file(Some(control::AccessLog { max_bytes: 1, keep: 1, query: false }));
        drop(log.begin(|| entry("/")));
        log.flush();
        std::fs::create_dir_all(folder.path().join("access.log.1/x")).unwrap();
        drop(log.begin(|| entry("/")));
        log.flush();
        assert_eq!(log.dropped(), 1);
    }
}
