//! A real registry as a child process, servers made for one test, and a way between that can be cut.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use registry::{Options, Registry};

/// Options that know nothing of this machine and lose patience soon.
pub(crate) fn options() -> Options {
    let mut options = Options::of(&|_| None);
    options.certificate_folders.clear();
    options.use_proxy = false;
    options.connect_timeout = Duration::from_secs(10);
    options.answer_timeout = Duration::from_secs(10);
    options.stall_timeout = Duration::from_secs(10);
    options.first_pause = Duration::from_millis(4);
    options
}

pub(crate) fn connect(host: &str) -> Registry {
    Registry::connect_with(host, options()).unwrap()
}

/// Whether `program` is there; without it a test is skipped, unless SLIPWAY_TEST_REQUIRE names it.
pub(crate) fn have(program: &str) -> bool {
    let found =
        std::env::split_paths(&std::env::var_os("PATH").unwrap()).any(|dir| dir.join(program).is_file());
    let required =
        std::env::var("SLIPWAY_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == program));
    assert!(found || !required, "{program} is required and not there");
    if !found {
        eprintln!("skipped: {program} is not on this machine");
    }
    found
}

/// Runs a program to its end and gives what it printed.
pub(crate) fn run(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

/// Debian's registry with a store of its own; `None` where it is not installed.
pub(crate) struct RealRegistry {
    child: Child,
    pub(crate) host: String,
    /// Removed at the end.
    _folder: tempfile::TempDir,
}

impl RealRegistry {
    pub(crate) fn start() -> Option<RealRegistry> {
        RealRegistry::start_with(tempfile::tempdir().unwrap(), "", "")
    }

    /// `http` and `rest` are added to the configuration: members of `http:`, and blocks beside it.
    pub(crate) fn start_with(folder: tempfile::TempDir, http: &str, rest: &str) -> Option<RealRegistry> {
        if !have("docker-registry") {
            return None;
        }
        let config = format!(
            "version: 0.1\nlog: {{ level: info }}\nstorage: {{ filesystem: {{ rootdirectory: {}/store }}, delete: {{ enabled: true }} }}\n\
             http:\n  addr: 127.0.0.1:0\n  secret: s\n{http}\n{rest}\n",
            folder.path().display()
        );
        let path = folder.path().join("config.yml");
        std::fs::write(&path, config).unwrap();
        let mut child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = String::new();
        let host = lines.by_ref().map_while(Result::ok).find_map(|line| {
            log.push_str(&line);
            let (_, rest) = line.split_once("listening on ")?;
            Some(rest.split(['"', ',']).next()?.to_owned())
        });
        // A full pipe would stop the registry.
        std::thread::spawn(move || lines.for_each(drop));
        let host = host.unwrap_or_else(|| panic!("the registry does not listen: {log}"));
        Some(RealRegistry { child, host, _folder: folder })
    }

    pub(crate) fn connect(&self) -> Registry {
        connect(&self.host)
    }
}

impl Drop for RealRegistry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate authority, and a certificate of it for 127.0.0.1, made with openssl.
pub(crate) struct Authority {
    pub(crate) ca: PathBuf,
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
}

impl Authority {
    pub(crate) fn new(folder: &Path) -> Authority {
        let path = |name: &str| folder.join(name).display().to_string();
        let (ca, ca_key) = (path("ca.crt"), path("ca.key"));
        let (certificate, key, request, names) =
            (path("own.crt"), path("own.key"), path("own.csr"), path("own.ext"));
        let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
        let with = |rest: &[&str]| run("openssl", &[&["req"], &curve[..], rest].concat());
        with(&["-x509", "-days", "2", "-subj", "/CN=Authority of a test", "-keyout", &ca_key, "-out", &ca]);
        with(&["-subj", "/CN=127.0.0.1", "-keyout", &key, "-out", &request]);
        std::fs::write(&names, "subjectAltName=IP:127.0.0.1\nbasicConstraints=CA:FALSE\n").unwrap();
        let sign =
            ["x509", "-req", "-days", "2", "-in", &request, "-CA", &ca, "-CAkey", &ca_key, "-CAcreateserial"];
        run("openssl", &[&sign[..], &["-extfile", &names, "-out", &certificate]].concat());
        Authority { ca: ca.into(), certificate: certificate.into(), key: key.into() }
    }
}

/// What came to a server.
#[derive(Debug, Clone, Default)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query.
    pub(crate) target: String,
    /// By lower-case name.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn is(&self, method: &str, start: &str) -> bool {
        self.method == method && self.target.starts_with(start)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What a server does about it.
#[derive(Default)]
pub(crate) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    manner: Manner,
}

/// How an answer is sent.
#[derive(Default, PartialEq, Eq, Clone, Copy)]
pub(crate) enum Manner {
    #[default]
    Whole,
    /// The connection breaks after so many bytes of the body.
    CutAfter(usize),
    /// A body without an end.
    Endless,
    /// A byte now and then.
    Drip,
    /// Nothing at all, for as long as the asker has patience.
    Silent,
}

impl Reply {
    pub(crate) fn new(status: u16, body: impl Into<Vec<u8>>) -> Reply {
        Reply { status, body: body.into(), ..Reply::default() }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn in_manner(mut self, manner: Manner) -> Reply {
        self.manner = manner;
        self
    }

    /// `false` where the connection is not good for another answer.
    fn write(self, method: &str, out: &mut TcpStream) -> std::io::Result<bool> {
        if self.manner == Manner::Silent {
            std::thread::sleep(Duration::from_secs(60));
            return Ok(false);
        }
        let mut head = format!("HTTP/1.1 {} X\r\n", self.status);
        for (name, value) in &self.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.headers.iter().any(|(name, _)| name == "content-length") {
            let length = if self.manner == Manner::Endless { 1 << 40 } else { self.body.len() };
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        out.write_all(format!("{head}\r\n").as_bytes())?;
        if method == "HEAD" {
            return Ok(true);
        }
        match self.manner {
            Manner::Whole => out.write_all(&self.body).map(|()| true),
            Manner::CutAfter(bytes) => out.write_all(&self.body[..bytes]).map(|()| false),
            Manner::Endless => loop {
                out.write_all(&[b' '; 4096])?;
            },
            Manner::Drip => {
                for byte in self.body {
                    out.write_all(&[byte])?;
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(false)
            }
            Manner::Silent => Ok(false),
        }
    }
}

/// A server that answers as `answer` says, and remembers what it was asked.
pub(crate) struct Server {
    pub(crate) host: String,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

impl Server {
    pub(crate) fn start(answer: impl Fn(&Asked) -> Reply + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (answer, log) = (Arc::new(answer), Arc::clone(&asked));
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (answer, log) = (Arc::clone(&answer), Arc::clone(&log));
                std::thread::spawn(move || serve(stream, &*answer, &log));
            }
        });
        Server { host, asked }
    }

    pub(crate) fn connect(&self) -> Registry {
        connect(&self.host)
    }

    /// How many requests of this kind came.
    pub(crate) fn count(&self, method: &str, start: &str) -> usize {
        self.asked.lock().unwrap().iter().filter(|asked| asked.is(method, start)).count()
    }
}

fn serve(stream: TcpStream, answer: &(dyn Fn(&Asked) -> Reply + Send + Sync), log: &Mutex<Vec<Asked>>) {
    stream.set_nodelay(true).unwrap();
    let mut out = stream.try_clone().unwrap();
    let mut input = BufReader::new(stream);
    while let Some(asked) = read(&mut input) {
        // What a client looks for before all else is no part of a test.
        let reply = if asked.target == "/v2/" { Reply::new(200, "{}") } else { answer(&asked) };
        if asked.target != "/v2/" {
            log.lock().unwrap().push(asked.clone());
        }
        if !reply.write(&asked.method, &mut out).unwrap_or(false) {
            break;
        }
    }
    let _ = out.shutdown(Shutdown::Both);
}

fn read(input: &mut impl BufRead) -> Option<Asked> {
    let mut line = String::new();
    input.read_line(&mut line).ok().filter(|read| *read > 0)?;
    let mut words = line.split_whitespace();
    let mut asked =
        Asked { method: words.next()?.to_owned(), target: words.next()?.to_owned(), ..Asked::default() };
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok().filter(|read| *read > 0)?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        asked.headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = asked.header("content-length").parse().unwrap_or(0);
    input.take(length).read_to_end(&mut asked.body).ok()?;
    (asked.body.len() as u64 == length).then_some(asked)
}

/// Where a connection breaks: so many bytes after something that begins with the word.
type Cut = Mutex<Option<(&'static [u8], usize)>>;

/// A way to another server that counts bytes, and that can break.
pub(crate) struct Way {
    pub(crate) host: String,
    pub(crate) sent: Arc<AtomicU64>,
    cut: Arc<Cut>,
}

impl Way {
    pub(crate) fn to(target: &str) -> Way {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let way = Way { host, sent: Arc::default(), cut: Arc::default() };
        let (target, sent, cut) = (target.to_owned(), Arc::clone(&way.sent), Arc::clone(&way.cut));
        std::thread::spawn(move || {
            for near in listener.incoming().map_while(Result::ok) {
                let far = TcpStream::connect(&target).unwrap();
                let (mut back_from, mut back_to) = (far.try_clone().unwrap(), near.try_clone().unwrap());
                std::thread::spawn(move || {
                    let _ = std::io::copy(&mut back_from, &mut back_to);
                    let _ = back_to.shutdown(Shutdown::Both);
                });
                let (sent, cut) = (Arc::clone(&sent), Arc::clone(&cut));
                std::thread::spawn(move || forward(near, far, &sent, &cut));
            }
        });
        way
    }

    /// Once, when a connection sent `after` bytes since something that begins with `word`, it breaks.
    pub(crate) fn cut(&self, word: &'static [u8], after: usize) {
        *self.cut.lock().unwrap() = Some((word, after));
    }

    pub(crate) fn was_cut(&self) -> bool {
        self.cut.lock().unwrap().is_none()
    }
}

fn forward(mut near: TcpStream, mut far: TcpStream, sent: &AtomicU64, cut: &Cut) {
    let mut buffer = vec![0; 16 * 1024];
    let mut since: Option<usize> = None;
    while let Ok(read @ 1..) = near.read(&mut buffer) {
        let mut piece = &buffer[..read];
        sent.fetch_add(read as u64, Ordering::SeqCst);
        let mut breaks = false;
        if let Some((word, after)) = *cut.lock().unwrap() {
            if since.is_none() && piece.starts_with(word) {
                since = Some(0);
            }
            if let Some(count) = &mut since {
                if *count + read > after {
                    piece = &piece[..after - *count];
                    breaks = true;
                }
                *count += read;
            }
        }
        let _ = far.write_all(piece);
        if breaks {
            *cut.lock().unwrap() = None;
            break;
        }
    }
    let _ = far.shutdown(Shutdown::Both);
    let _ = near.shutdown(Shutdown::Both);
}

/// Bytes that no encoder makes shorter, the same at each call.
pub(crate) fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}
