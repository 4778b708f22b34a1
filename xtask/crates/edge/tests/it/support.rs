//! An edge to test, tables for it, and a client that says exactly what it is told.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edge::Options;
use edge::client::Client;
use edge::control::{Observed, Policy, Route, Slot, Table};

/// Nothing that works takes as long, also on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `found` gives something.
#[track_caller]
pub(crate) fn eventually<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A state folder, which goes with its owner.
pub(crate) struct Folder {
    path: PathBuf,
    _owned: Option<tempfile::TempDir>,
}

impl Folder {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// An edge in a thread of the test. Dropping it stops it.
pub(crate) struct Edge {
    pub(crate) client: Client,
    pub(crate) address: SocketAddr,
    pub(crate) folder: Folder,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

impl Edge {
    pub(crate) fn start() -> Edge {
        Edge::start_with(|_| {})
    }

    pub(crate) fn start_with(change: impl FnOnce(&mut Options)) -> Edge {
        let folder = tempfile::tempdir().unwrap();
        let folder = Folder { path: folder.path().to_owned(), _owned: Some(folder) };
        Edge::start_at(folder, change)
    }

    /// In a folder that outlives it.
    pub(crate) fn start_in(path: &Path) -> Edge {
        Edge::start_at(Folder { path: path.to_owned(), _owned: None }, |_| {})
    }

    fn start_at(folder: Folder, change: impl FnOnce(&mut Options)) -> Edge {
        let mut options = options(folder.path());
        change(&mut options);
        let thread = std::thread::spawn(move || edge::serve(options));
        let client = Client::new(socket(folder.path()));
        let address = await_edge(&client).listen;
        Edge { client, address, folder, thread: Some(thread) }
    }

    /// Routes everything to one slot of `upstreams`, as the next generation.
    pub(crate) fn route_to(&self, slot: &str, upstreams: &[SocketAddr]) {
        let generation = self.client.observe().unwrap().table.generation + 1;
        self.client.apply(&table(generation, slot, upstreams)).unwrap();
    }

    /// The outcome of `serve`, once it returns.
    pub(crate) fn join(mut self) -> anyhow::Result<()> {
        self.thread.take().unwrap().join().unwrap()
    }

    pub(crate) fn connect(&self) -> Raw {
        Raw::connect(self.address)
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            let _ = self.client.stop(Duration::ZERO);
            let _ = thread.join();
        }
    }
}

pub(crate) fn options(state_dir: &Path) -> Options {
    Options::new("127.0.0.1:0".parse().unwrap(), state_dir)
}

pub(crate) fn socket(state_dir: &Path) -> PathBuf {
    state_dir.join(edge::CONTROL_SOCKET)
}

/// Waits until the edge answers.
pub(crate) fn await_edge(client: &Client) -> Observed {
    eventually("the edge answers", || client.observe().ok())
}

/// A table that routes everything to one slot.
pub(crate) fn table(generation: u64, slot: &str, upstreams: &[SocketAddr]) -> Table {
    let slots = [(slot.to_owned(), place(upstreams))].into();
    Table { generation, routes: vec![route(slot)], slots, ..Table::default() }
}

/// A route of everything to one slot.
pub(crate) fn route(slot: &str) -> Route {
    Route {
        host: None,
        path_prefix: "/".into(),
        strip_prefix: false,
        slot: slot.into(),
        policy: Policy::default(),
    }
}

pub(crate) fn place(upstreams: &[SocketAddr]) -> Slot {
    Slot { service: "demo".into(), upstreams: upstreams.to_vec() }
}

/// A client connection on which each byte is the test's.
pub(crate) struct Raw(BufReader<TcpStream>);

/// An answer with its body.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Raw {
        Raw::of(TcpStream::connect(address).unwrap())
    }

    pub(crate) fn of(stream: TcpStream) -> Raw {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Raw(BufReader::new(stream))
    }

    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.get_mut().write_all(bytes.as_ref()).unwrap();
    }

    /// Sends as much as fits without waiting for the reader; returns how much that was.
    pub(crate) fn send_until_full(&mut self, chunk: &[u8], most: usize, wait: Duration) -> usize {
        self.0.get_ref().set_write_timeout(Some(wait)).unwrap();
        let mut sent = 0;
        while sent < most {
            match self.0.get_mut().write(chunk) {
                Ok(n) => sent += n,
                Err(_) => break,
            }
        }
        self.0.get_ref().set_write_timeout(Some(PATIENCE)).unwrap();
        sent
    }

    pub(crate) fn get(&mut self, path: &str) -> Answer {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n"));
        self.answer()
    }

    pub(crate) fn post(&mut self, path: &str, body: &str) -> Answer {
        let length = body.len();
        self.send(format!("POST {path} HTTP/1.1\r\nHost: test\r\nContent-Length: {length}\r\n\r\n{body}"));
        self.answer()
    }

    /// One line without its end; empty at the end of the connection.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Vec<u8> {
        let mut bytes = vec![0; count];
        self.0.read_exact(&mut bytes).unwrap();
        bytes
    }

    /// The head of an answer, without a body.
    pub(crate) fn head(&mut self) -> Answer {
        let line = self.line();
        let status =
            line.split(' ').nth(1).unwrap_or_else(|| panic!("no status in `{line}`")).parse().unwrap();
        let mut headers = Vec::new();
        loop {
            let line = self.line();
            if line.is_empty() {
                return Answer { status, headers, body: String::new() };
            }
            let (name, value) = line.split_once(':').unwrap();
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }

    /// The next chunk with its size line; empty for the last, whose trailers are left to be read.
    pub(crate) fn chunk(&mut self) -> Vec<u8> {
        let size = self.line();
        let size = usize::from_str_radix(&size, 16).unwrap_or_else(|_| panic!("`{size}` is no chunk size"));
        let chunk = self.bytes(size);
        if size > 0 {
            assert_eq!(self.line(), "");
        }
        chunk
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut answer = self.head();
        let mut body = Vec::new();
        if let Some(length) = answer.header("content-length") {
            body = self.bytes(length.parse().unwrap());
        } else if answer.header("transfer-encoding").is_some() {
            loop {
                let chunk = self.chunk();
                if chunk.is_empty() {
                    break;
                }
                body.extend(chunk);
            }
            while !self.line().is_empty() {}
        }
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// All bytes up to the end of the connection.
    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).unwrap();
        rest
    }

    /// Reads what is there already.
    pub(crate) fn take_ready(&mut self) {
        while self.is_readable() {
            let ready = self.0.fill_buf().unwrap().len();
            if ready == 0 {
                return;
            }
            self.0.consume(ready);
        }
    }

    /// Whether there is something to read, be it the end.
    pub(crate) fn is_readable(&mut self) -> bool {
        self.0.get_ref().set_nonblocking(true).unwrap();
        let peeked = self.0.get_ref().peek(&mut [0]);
        self.0.get_ref().set_nonblocking(false).unwrap();
        peeked.is_ok() || !self.0.buffer().is_empty()
    }

    /// Whether the edge has closed the connection, in good order or not.
    pub(crate) fn is_closed(&mut self) -> bool {
        let stream = self.0.get_ref();
        stream.set_nonblocking(true).unwrap();
        let read = self.0.get_ref().peek(&mut [0]);
        self.0.get_ref().set_nonblocking(false).unwrap();
        match read {
            Ok(n) => n == 0,
            Err(error) => error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
}
