//! How an edge runs, and the file that says so to an edge that is a process of its own.

use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use stdx::Digest;

/// The value of `schema` in a file of options that this version reads and writes.
pub const SCHEMA: &str = "slipway.edge-options/1";

/// How an edge runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where requests are accepted; port 0 takes a free one, which `observe` tells for the first of them.
    pub listen: Vec<Listener>,
    /// What connections of [`Protocol::Https`] are encrypted with.
    pub certificates: Vec<CertificateFiles>,
    /// The folder of `table.json`, `control.sock` and `edge.pid`: one edge's own, created where it is missing.
    pub state_dir: PathBuf,
    /// Above 0, this edge takes the place of one with a lower number that has the state folder, and nothing is lost by that;
    /// one with a higher number makes it end at once. At 0 another edge in the folder is an error.
    pub instance: u64,
    /// Who keeps the listening sockets open while this process is started again: what its supervisor gave it.
    pub keeper: Option<Arc<UnixStream>>,
    /// Digest of the file that these options came from.
    pub digest: Option<String>,
    /// Whether each request becomes a line on standard output; a table can ask for a file besides.
    pub access_log: bool,
    /// Where `GET /metrics` is answered, in the format of Prometheus; nowhere where absent.
    pub admin: Option<SocketAddr>,
    /// Whether `Forwarded` and `X-Forwarded-*` of requests are kept and added to. Only right behind a proxy that sets
    /// them: anybody can send them.
    pub trust_forwarded: bool,
    /// Client connections at once; others wait in the backlog. Less where the system allows fewer open files.
    pub max_connections: usize,
    /// How long a new connection may take to send its first request head, the handshake of TLS included.
    pub head_timeout: Duration,
    /// How long a client's connection may be idle between requests. Longer than the pools of usual clients keep theirs, so
    /// that the client is the side that closes.
    pub idle_timeout: Duration,
    /// How long a request may look for an upstream that it can be sent to, before it is answered 502.
    pub send_timeout: Duration,
    /// How long a service may take to begin its answer once it has the request, before that is answered 504.
    pub answer_timeout: Duration,
    /// How long a client may leave a transfer standing, before its connection is closed: not read what is ready for it, or
    /// not go on with a body that it began. A service may be silent for as long as it likes between parts of its answer.
    pub stall_timeout: Duration,
    /// How long in-flight requests get when the edge is stopped by a signal.
    pub stop_timeout: Duration,
    /// How long requests and streams may go on in an edge that handed over to another one.
    pub retire_timeout: Duration,
}

/// One address where requests are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Address and port.
    pub address: SocketAddr,
    /// What is spoken there.
    pub protocol: Protocol,
}

/// What is spoken on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 without encryption.
    Http,
    /// HTTP/2 or HTTP/1.1 over TLS 1.3 or 1.2, as the client chooses.
    Https,
    /// HTTP/1.1; each answer leads to the same place on the first address with [`Protocol::Https`].
    RedirectToHttps,
}

/// The files of one certificate. The hosts that it is for stand in it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateFiles {
    /// The chain in PEM, the server's own certificate first.
    pub cert: PathBuf,
    /// The private key in PEM, readable by its owner alone.
    pub key: PathBuf,
}

/// The form of a file of options. Times are in milliseconds; what is absent has its usual value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OptionsFile {
    /// Always [`SCHEMA`].
    pub schema: String,
    /// See [`Options::listen`].
    pub listen: Vec<Listener>,
    /// See [`Options::certificates`].
    #[serde(default)]
    pub certificates: Vec<CertificateFiles>,
    /// See [`Options::access_log`].
    #[serde(default)]
    pub access_log: bool,
    /// See [`Options::admin`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<SocketAddr>,
    /// See [`Options::trust_forwarded`].
    #[serde(default)]
    pub trust_forwarded: bool,
    /// See [`Options::max_connections`].
    #[serde(default)]
    pub max_connections: Option<usize>,
    /// See [`Options::head_timeout`].
    #[serde(default)]
    pub head_timeout_ms: Option<u64>,
    /// See [`Options::idle_timeout`].
    #[serde(default)]
    pub idle_timeout_ms: Option<u64>,
    /// See [`Options::send_timeout`].
    #[serde(default)]
    pub send_timeout_ms: Option<u64>,
    /// See [`Options::answer_timeout`].
    #[serde(default)]
    pub answer_timeout_ms: Option<u64>,
    /// See [`Options::stall_timeout`].
    #[serde(default)]
    pub stall_timeout_ms: Option<u64>,
    /// See [`Options::retire_timeout`].
    #[serde(default)]
    pub retire_timeout_ms: Option<u64>,
}

impl Options {
    /// The usual limits, without TLS.
    pub fn new(listen: SocketAddr, state_dir: impl Into<PathBuf>) -> Options {
        Options {
            listen: vec![Listener { address: listen, protocol: Protocol::Http }],
            certificates: Vec::new(),
            state_dir: state_dir.into(),
            instance: 0,
            keeper: None,
            digest: None,
            access_log: false,
            admin: None,
            trust_forwarded: false,
            max_connections: 10_000,
            head_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(120),
            send_timeout: Duration::from_secs(2),
            answer_timeout: Duration::from_secs(60),
            stall_timeout: Duration::from_secs(120),
            stop_timeout: Duration::from_secs(30),
            retire_timeout: Duration::from_secs(60 * 60),
        }
    }

    /// The options of the file at `path`, for an edge whose supervisor is behind its standard input.
    ///
    /// # Errors
    /// When the file cannot be read, or is of another version.
    pub fn load(path: &Path, state_dir: &Path, instance: u64) -> Result<Options> {
        let file: OptionsFile = serde_json::from_slice(&stdx::fs::read(path)?)
            .with_context(|| format!("{} holds no options of an edge", path.display()))?;
        ensure!(
            file.schema == SCHEMA,
            "{} has the schema `{}`, this version reads `{SCHEMA}`",
            path.display(),
            file.schema
        );
        let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("cannot use standard input")?;
        let is_socket = rustix::net::sockopt::socket_type(&stdin).is_ok();
        let keeper = is_socket.then(|| Arc::new(UnixStream::from(stdin)));
        let digest = Some(file.digest()?);
        Ok(Options { instance, keeper, digest, ..file.options(state_dir) })
    }
}

impl OptionsFile {
    /// Requests without TLS on `listen`, and nothing unusual.
    pub fn new(listen: SocketAddr) -> OptionsFile {
        OptionsFile {
            schema: SCHEMA.to_owned(),
            listen: vec![Listener { address: listen, protocol: Protocol::Http }],
            certificates: Vec::new(),
            access_log: false,
            admin: None,
            trust_forwarded: false,
            max_connections: None,
            head_timeout_ms: None,
            idle_timeout_ms: None,
            send_timeout_ms: None,
            answer_timeout_ms: None,
            stall_timeout_ms: None,
            retire_timeout_ms: None,
        }
    }

    /// Tells these options from others.
    ///
    /// # Errors
    /// When a path in it is not UTF-8.
    pub fn digest(&self) -> Result<String> {
        Ok(Digest::of(stdx::json::canonical(&serde_json::to_value(self)?)?).to_string())
    }

    fn options(self, state_dir: &Path) -> Options {
        let usual = Options::new(SocketAddr::from(([127, 0, 0, 1], 0)), state_dir);
        let time = |given: Option<u64>, usual: Duration| given.map_or(usual, Duration::from_millis);
        Options {
            listen: self.listen,
            certificates: self.certificates,
            access_log: self.access_log,
            admin: self.admin,
            trust_forwarded: self.trust_forwarded,
            max_connections: self.max_connections.unwrap_or(usual.max_connections),
            head_timeout: time(self.head_timeout_ms, usual.head_timeout),
            idle_timeout: time(self.idle_timeout_ms, usual.idle_timeout),
            send_timeout: time(self.send_timeout_ms, usual.send_timeout),
            answer_timeout: time(self.answer_timeout_ms, usual.answer_timeout),
            stall_timeout: time(self.stall_timeout_ms, usual.stall_timeout),
            retire_timeout: time(self.retire_timeout_ms, usual.retire_timeout),
            ..usual
        }
    }
}
