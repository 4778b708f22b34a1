//! A Docker engine that answers: the way to it, the version that both speak, and the one place through which every call goes, with a
//! deadline and an ear for interruption. What the calls mean is in the other modules.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bollard::{API_DEFAULT_VERSION, Docker};
use futures_util::future::{Either, select};
use tokio::runtime::Runtime;

use crate::endpoint::{Endpoint, Environment};
use crate::error::{Error, Result, told};
use crate::facts::{self, Facts, MemoryFolder};
use crate::ssh::{self, Tunnel};

/// The oldest API with what is needed here: that of Docker 20.10.
const OLDEST: (u32, u32) = (1, 41);
/// The version with which Docker's engine (23.0) learned to read zstd.
const READS_ZSTD: (u32, u32) = (1, 42);
/// What an answer may take that the engine has at once. It has many things to do when it has just started, and a disk.
pub(crate) const QUICK: Duration = Duration::from_secs(30);
/// What may take the time of the engine's disk: creating, starting and removing.
pub(crate) const SLOW: Duration = Duration::from_secs(120);
/// The library's own deadline, which is not to strike before ours; in seconds.
const NEVER: u64 = 24 * 60 * 60;
/// How soon an interruption is noticed.
const EAR: Duration = Duration::from_millis(50);

/// How an engine is reached.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connect {
    /// Where it listens.
    pub endpoint: Endpoint,
    /// A file that `ssh` reads instead of the user's own configuration.
    pub ssh_config: Option<PathBuf>,
}

/// A Docker engine that answered. Clones share the connection; it may be used from several threads at once.
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    interrupted: Option<Arc<AtomicBool>>,
}

struct Inner {
    docker: Docker,
    /// Always there until the value is dropped.
    runtime: Option<Runtime>,
    endpoint: Endpoint,
    tunnel: Option<Tunnel>,
    facts: Facts,
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Engine({})", self.inner.endpoint)
    }
}

impl Engine {
    /// The engine at `endpoint`.
    ///
    /// # Errors
    /// When it cannot be reached, or is too old. The text says what to do.
    pub fn connect(endpoint: &Endpoint) -> Result<Engine> {
        Engine::connect_with(&Connect { endpoint: endpoint.clone(), ssh_config: None })
    }

    /// The engine that the docker client would use here.
    ///
    /// # Errors
    /// As [`Engine::connect`]; and when it is named in a way that cannot be followed.
    pub fn connect_default() -> Result<Engine> {
        let endpoint = Endpoint::of(&Environment::current());
        Engine::connect(&endpoint.map_err(|error| Error::local("find the Docker engine", error))?)
    }

    /// The engine that is reached in this way.
    ///
    /// # Errors
    /// As [`Engine::connect`].
    pub fn connect_with(connect: &Connect) -> Result<Engine> {
        let endpoint = connect.endpoint.clone();
        let tunnel = match &endpoint {
            Endpoint::Ssh { .. } => Some(Tunnel::open(&endpoint, connect.ssh_config.as_deref())?),
            Endpoint::Unix(_) | Endpoint::Tcp(_) => None,
        };
        // One thread keeps connections alive while callers are elsewhere.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.map_err(|error| Error::local("start a thread", error))?;
        let docker = match (&endpoint, &tunnel) {
            (Endpoint::Tcp(address), _) => Docker::connect_with_http(address, NEVER, API_DEFAULT_VERSION),
            (Endpoint::Unix(path), _) => {
                Docker::connect_with_unix(&path.display().to_string(), NEVER, API_DEFAULT_VERSION)
            }
            (Endpoint::Ssh { .. }, tunnel) => {
                let socket = tunnel.as_ref().map(Tunnel::socket).unwrap_or_default();
                Docker::connect_with_unix(&socket.display().to_string(), NEVER, API_DEFAULT_VERSION)
            }
        };
        let docker = docker.map_err(|error| told("connect", &endpoint.to_string(), &error))?;
        let facts = Facts::new(<_>::default(), <_>::default(), OLDEST);
        let inner = Inner { docker, runtime: Some(runtime), endpoint, tunnel, facts };
        Engine { inner: Arc::new(inner), interrupted: None }.introduced()
    }

    /// Asks who is there, and settles the version.
    fn introduced(mut self) -> Result<Engine> {
        let version = self.call("ask for its version", QUICK, self.docker().version())?;
        let found = version.api_version.clone().unwrap_or_default();
        let newest = parse_version(&found).unwrap_or_default();
        if newest < OLDEST {
            return Err(Error::TooOld { endpoint: self.inner.endpoint.to_string(), found });
        }
        let ours = (API_DEFAULT_VERSION.major_version as u32, API_DEFAULT_VERSION.minor_version as u32);
        let api = newest.min(ours);
        let info = self.call("ask what it is", QUICK, self.docker().info())?;
        let mut facts = Facts::new(version, info, api);
        facts.free_bytes = self.free_at(&facts);
        facts.memory_folder = self.memory_folder(&facts);
        let inner = Arc::get_mut(&mut self.inner).expect("nobody else has seen it yet");
        inner.facts = facts;
        inner.docker = inner.docker.clone().with_request_modifier(move |mut request| {
            if let Ok(uri) = versioned(&request.uri().to_string(), api).parse() {
                *request.uri_mut() = uri;
            }
            request
        });
        Ok(self)
    }

    /// The same engine, whose calls end with [`Error::Interrupted`] soon after the flag was set. What has to be put in order after
    /// that is done with the value that this was made from.
    pub fn heeding(&self, interrupted: Arc<AtomicBool>) -> Engine {
        Engine { inner: Arc::clone(&self.inner), interrupted: Some(interrupted) }
    }

    /// The same engine, whose calls no interruption ends.
    pub(crate) fn unheeding(&self) -> Engine {
        Engine { inner: Arc::clone(&self.inner), interrupted: None }
    }

    /// What the engine said of itself when it was connected to.
    pub fn facts(&self) -> &Facts {
        &self.inner.facts
    }

    /// Where it is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// Whether it answers now.
    ///
    /// # Errors
    /// When it does not.
    pub fn ping(&self) -> Result<()> {
        self.call("ask for an answer", QUICK, self.docker().ping()).map(drop)
    }

    /// Free space in the engine's folder now; `None` where there is no way to look.
    pub fn free_bytes(&self) -> Option<u64> {
        self.free_at(&self.inner.facts)
    }

    fn free_at(&self, facts: &Facts) -> Option<u64> {
        match &self.inner.tunnel {
            Some(tunnel) => facts::free_of_df(&tunnel.ask(&facts::df_script(&facts.data_root))?),
            None if facts.is_here() => facts::free_here(&facts.data_root),
            None => None,
        }
    }

    fn memory_folder(&self, facts: &Facts) -> MemoryFolder {
        let seen = |folder: Option<PathBuf>| folder.map_or(MemoryFolder::Missing, MemoryFolder::Seen);
        match &self.inner.tunnel {
            Some(tunnel) => {
                seen(tunnel.ask(&facts::memory_script()).and_then(|lines| facts::memory_folder_of(&lines)))
            }
            None if facts.is_here() => seen(facts::memory_folder_here()),
            None => facts.memory_folder.clone(),
        }
    }

    pub(crate) fn docker(&self) -> &Docker {
        &self.inner.docker
    }

    pub(crate) fn runtime(&self) -> &Runtime {
        self.inner.runtime.as_ref().expect("it is there until the value is dropped")
    }

    /// Whether the engine reads layers that are compressed with zstd.
    pub(crate) fn reads_zstd(&self) -> bool {
        self.inner.facts.api >= READS_ZSTD
    }

    pub(crate) fn is_interrupted(&self) -> bool {
        self.interrupted.as_ref().is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    /// Asks the engine for one thing.
    pub(crate) fn call<T>(
        &self,
        what: &str,
        deadline: Duration,
        asked: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
    ) -> Result<T> {
        self.wait(what, Some(deadline), async { asked.await.map_err(|error| self.told(what, &error)) })
    }

    /// Waits for what is under way, no longer than `deadline` and until an interruption.
    pub(crate) fn wait<T>(
        &self,
        what: &str,
        deadline: Option<Duration>,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.ensure_way()?;
        self.runtime().block_on(async {
            let bounded = async {
                match deadline {
                    None => work.await,
                    Some(after) => tokio::time::timeout(after, work)
                        .await
                        .unwrap_or_else(|_| Err(Error::Deadline { what: what.to_owned(), after })),
                }
            };
            match select(pin!(bounded), pin!(self.interruption())).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(Error::Interrupted { what: what.to_owned() }),
            }
        })
    }

    /// Makes the way to the engine anew where it broke. It blocks.
    pub(crate) fn ensure_way(&self) -> Result<()> {
        self.inner.tunnel.as_ref().map_or(Ok(()), Tunnel::ensure)
    }

    async fn interruption(&self) {
        if self.interrupted.is_none() {
            return std::future::pending().await;
        }
        while !self.is_interrupted() {
            tokio::time::sleep(EAR).await;
        }
    }

    /// What the library below said, in our words.
    pub(crate) fn told(&self, what: &str, error: &bollard::errors::Error) -> Error {
        let endpoint = self.inner.endpoint.to_string();
        let mine = told(what, &endpoint, error);
        let (Some(tunnel), Error::Broken { cause, .. }) = (&self.inner.tunnel, &mine) else { return mine };
        // ssh accepts a connection before it knows whether there is somebody at the other end, and says so a moment later.
        std::thread::sleep(EAR);
        match ssh::next_step_there(&tunnel.said()) {
            Some(next) => Error::Unreachable { endpoint, cause: cause.clone(), next: next.to_owned() },
            None => mine,
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        // Without waiting: the last clone may go away in a thread that must not wait.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// The address of a request with the version in front of its path. The library leaves it out, and then an engine answers as its
/// newest version does.
fn versioned(uri: &str, (major, minor): (u32, u32)) -> String {
    let authority = uri.find("://").map_or(0, |at| at + 3);
    let path = uri[authority..].find('/').map_or(uri.len(), |at| authority + at);
    format!("{}/v{major}.{minor}{}", &uri[..path], &uri[path..])
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// Refuses names that would be read as something else in the address of a request.
pub(crate) fn check_name(what: &str, name: &str) -> Result<()> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
    let starts_well = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && name.len() <= 255 && name.chars().all(is_fine) {
        return Ok(());
    }
    Err(Error::unsupported(
        what,
        format!("`{name}` is no name: letters, digits, `_`, `.` and `-`, at most 255"),
    ))
}

/// The same for ids and references of images.
pub(crate) fn check_reference(what: &str, reference: &str) -> Result<()> {
    let is_fine = |c: char| c.is_ascii_alphanumeric() || "_.-/:@".contains(c);
    let parts =
        |reference: &str| reference.split('/').all(|part| !part.is_empty() && part.chars().any(|c| c != '.'));
    if reference.len() <= 512 && reference.chars().all(is_fine) && parts(reference) {
        return Ok(());
    }
    Err(Error::unsupported(what, format!("`{reference}` is no id or name of an image")))
}

/// Whether the path is absolute and says nothing that a mount could not mean.
pub(crate) fn check_path(what: &str, path: &Path) -> Result<()> {
    use std::path::Component;
    let is_plain = path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    let text = path.to_str().unwrap_or("\0");
    if path.is_absolute() && is_plain && text != "/" && !text.contains([',', ':', '\0', '\n']) {
        return Ok(());
    }
    Err(Error::unsupported(
        what,
        format!("`{}` is no path for a mount: absolute, without `..`, `,` and `:`", path.display()),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_carry_the_version_that_both_speak() {
        assert_eq!(
            versioned("unix://2f72/containers/json?all=true", (1, 41)),
            "unix://2f72/v1.41/containers/json?all=true"
        );
        assert_eq!(versioned("http://127.0.0.1:1/info", (1, 44)), "http://127.0.0.1:1/v1.44/info");
        assert_eq!(parse_version("1.41"), Some((1, 41)));
        assert!(
            parse_version("1.9") < Some(OLDEST)
                && parse_version("x") < Some(OLDEST)
                && parse_version("2.0") > Some(OLDEST)
        );
    }

    #[test]
    fn names_cannot_lead_a_request_elsewhere() {
        for good in ["a", "api-0.1_x", "0123456789ab"] {
            assert!(check_name("x", good).is_ok(), "{good}");
        }
        for bad in ["", "..", ".a", "a/b", "a?b", "a#b", "a b", "é", "a\0", &"a".repeat(256)] {
            assert!(check_name("x", bad).is_err(), "{bad}");
        }
        let id = format!("sha256:{}", "a".repeat(64));
        for good in ["api:1.0", "127.0.0.1:5000/team/api:1", "team/api@sha256:ab", id.as_str()] {
            assert!(check_reference("x", good).is_ok(), "{good}");
        }
        for bad in ["", "a//b", "/a", "../a", "a/../b", "a?b", "a b", "a%2fb"] {
            assert!(check_reference("x", bad).is_err(), "{bad}");
        }
        for bad in ["a", "/", "/a/../b", "/a,b", "/a:b", "/a\nb", ""] {
            assert!(check_path("x", Path::new(bad)).is_err(), "{bad}");
        }
        assert!(check_path("x", Path::new("/var/lib/data")).is_ok());
    }
}
