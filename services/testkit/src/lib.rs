//! What the tests of the services share: a plain HTTP client, service processes, waiting with a deadline. Only tests
//! depend on it, so it panics with a message where a test could only do the same.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "only tests use this")]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// Everything in a test that waits gives up after this.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// An HTTP answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Headers with names in lower case.
    pub headers: Vec<(String, String)>,
    /// Body as it came.
    pub body: String,
}

impl Answer {
    /// The first header of a name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("not JSON ({error}): {self:?}"))
    }
}

/// Sends a request on a connection of its own.
pub fn send(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    for (name, value) in headers {
        write!(head, "{name}: {value}\r\n").unwrap();
    }
    write!(head, "content-length: {}\r\n\r\n", body.len()).unwrap();
    let mut stream = TcpStream::connect_timeout(&address, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.write_all(head.as_bytes())?;
    // A service may answer and close before it has read a body that it refuses.
    let _ = stream.write_all(body.as_bytes());
    read_answer(&mut stream)
}

/// Reads an answer up to the end of the connection.
pub fn read_answer(stream: &mut TcpStream) -> io::Result<Answer> {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes);
    if bytes.is_empty() {
        ended?;
    }
    let text = String::from_utf8_lossy(&bytes);
    let incomplete = || io::Error::new(io::ErrorKind::UnexpectedEof, format!("not an answer: {text:?}"));
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(incomplete)?;
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).ok_or_else(incomplete)?;
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    Ok(Answer { status, headers, body: body.to_owned() })
}

/// GET.
pub fn get(address: SocketAddr, path: &str) -> Answer {
    send(address, "GET", path, &[], "").unwrap_or_else(|error| panic!("GET {path}: {error}"))
}

/// POST of JSON.
pub fn post(address: SocketAddr, path: &str, body: &Value) -> Answer {
    post_with(address, path, &[], body)
}

/// POST of JSON with more headers.
pub fn post_with(address: SocketAddr, path: &str, headers: &[(&str, &str)], body: &Value) -> Answer {
    let headers = [&[("content-type", "application/json")], headers].concat();
    send(address, "POST", path, &headers, &body.to_string())
        .unwrap_or_else(|error| panic!("POST {path}: {error}"))
}

/// Asks again until there is something.
pub fn eventually<T>(what: &str, mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A service as a child process that listens on a free port; killed when dropped.
pub struct Service {
    child: Child,
    logs: Arc<Mutex<Vec<String>>>,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Service {
    /// Starts a program with nothing but the given environment, and waits until it listens.
    pub fn start(program: &str, environment: &[(&str, &str)]) -> Self {
        let mut child = Command::new(program)
            .env_clear()
            .env("LENS_HTTP__PORT", "0")
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let logs = Arc::new(Mutex::new(Vec::new()));
        let (stdout, sink) = (child.stdout.take().unwrap(), Arc::clone(&logs));
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                sink.lock().unwrap().push(line);
            }
        });
        let address = eventually("the service listens", || {
            let line = logs.lock().unwrap().iter().find(|line| line.contains("\"listening\"")).cloned()?;
            let log: Value = serde_json::from_str(&line).unwrap();
            log["address"].as_str().unwrap().parse().ok()
        });
        Self { child, logs, address }
    }

    /// The lines that it logged so far.
    pub fn logs(&self) -> Vec<String> {
        self.logs.lock().unwrap().clone()
    }

    /// Sends a signal such as `TERM` or `KILL`.
    pub fn signal(&self, name: &str) {
        let command = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("/bin/sh").args(["-c", &command]).status().unwrap().success(), "{command}");
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        eventually("the service ends", || child.try_wait().unwrap())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Checks that the `service.yaml` in a package folder declares exactly the variables that its program reads: as `env`,
/// as the variable of its port, or as the variable of a volume.
pub fn check_service_yaml(folder: &Path, variables: &BTreeSet<String>) {
    let text = std::fs::read_to_string(folder.join("service.yaml")).unwrap();
    let yaml: Value = serde_yaml::from_str(&text).unwrap();
    let keys = |value: &Value| -> BTreeSet<String> {
        value.as_object().map(|map| map.keys().cloned().collect()).unwrap_or_default()
    };
    let mut declared = keys(&yaml["env"]);
    declared.extend(yaml["http"]["port_env"].as_str().map(str::to_owned));
    let volumes = yaml["volumes"].as_array().cloned().unwrap_or_default();
    declared.extend(volumes.iter().filter_map(|volume| volume["path_env"].as_str()).map(str::to_owned));
    assert_eq!(&declared, variables);
    assert!(keys(&yaml["image"]["env"]).is_subset(variables));
}
