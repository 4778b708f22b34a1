//! Requests to one registry: with authorization, followed redirects, retries, and limits of size and time. It knows HTTP and
//! nothing of blobs. Invariant: `Authorization` is sent to the registry itself and nowhere else.

use std::io::{self, Read};
use std::net::IpAddr;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Error, Result, bail};
use ureq::http::{HeaderMap, Method, Request, StatusCode, Uri};
use ureq::{Agent, AsSendBody, Body, Proxy, SendBody};

use crate::auth::{Auth, Purpose};
use crate::challenge::Challenge;
use crate::credentials::Credentials;
use crate::error::{Error as RegistryError, detail};
use crate::options::Options;
use crate::{auth, challenge, credentials, link, retry, tls};

/// Registries lead to a store of blobs, at times over a balancer; more is a circle.
const MAX_REDIRECTS: usize = 5;
/// Of an error's body; a longer one is cut.
const MAX_ERROR_BODY: u64 = 64 * 1024;
/// No answer of a registry needs more.
const MAX_HEADER: usize = 64 * 1024;

/// A body that can be had from its beginning again, where a request is repeated.
#[derive(Clone, Copy)]
pub(crate) struct Source<'a> {
    pub(crate) open: &'a dyn Fn() -> Result<Box<dyn Read>>,
    /// Is told how many bytes more were taken to be sent.
    pub(crate) moved: &'a (dyn Fn(u64) + Sync),
}

/// The body of a request.
#[derive(Clone, Copy)]
pub(crate) enum Payload<'a> {
    Nothing,
    Bytes(&'a [u8]),
    Stream { source: Source<'a>, size: u64 },
}

/// A request.
pub(crate) struct Call<'a> {
    pub(crate) method: Method,
    pub(crate) url: String,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) payload: Payload<'a>,
    pub(crate) purpose: Purpose<'a>,
    /// Most bytes of an answer.
    pub(crate) limit: u64,
    /// Whether it may be sent again where nobody knows if it arrived.
    pub(crate) is_repeatable: bool,
}

/// An answer whose body was read.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    /// Where it came from, after redirects.
    pub(crate) url: String,
}

/// An answer whose body was not read yet.
pub(crate) struct Streamed {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: Body,
    pub(crate) url: String,
}

/// One registry.
pub(crate) struct Client {
    host: String,
    base: OnceLock<String>,
    own: Agent,
    other: Agent,
    auth: Auth,
    requests: AtomicU64,
    pub(crate) options: Options,
}

impl Client {
    pub(crate) fn new(host: &str, options: Options) -> Result<Client> {
        let (own, other) = tls::Own::load(&options.certificate_folders, host)?.configs();
        let agent = |tls| {
            let proxy = (options.use_proxy && !is_loopback(host)).then(Proxy::try_from_env).flatten();
            Agent::new_with_config(
                Agent::config_builder()
                    .tls_config(tls)
                    .proxy(proxy)
                    .http_status_as_error(false)
                    .max_redirects(0)
                    .max_response_header_size(MAX_HEADER)
                    .user_agent(concat!("slipway/", env!("CARGO_PKG_VERSION")))
                    .max_idle_connections_per_host(options.threads.max(1))
                    .timeout_connect(Some(options.connect_timeout))
                    .timeout_recv_response(Some(options.answer_timeout))
                    .timeout_per_read(Some(options.stall_timeout))
                    .timeout_per_write(Some(options.stall_timeout))
                    .build(),
            )
        };
        Ok(Client {
            host: host.to_owned(),
            base: OnceLock::new(),
            own: agent(own),
            other: agent(other),
            auth: Auth::new(host),
            requests: AtomicU64::new(0),
            options,
        })
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// How many requests were answered so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Scheme and host of the registry's addresses. Within this machine the server is asked whether it speaks TLS.
    pub(crate) fn base(&self) -> Result<String> {
        if let Some(base) = self.base.get() {
            return Ok(base.clone());
        }
        // Docker's own registry answers under another name than its images have.
        let host = if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host };
        let plain = format!("http://{host}");
        let is_plain = if is_loopback(host) {
            self.speaks_plain(&plain)?
        } else {
            self.options.plain_http.contains(host)
        };
        let base = if is_plain { plain } else { format!("https://{host}") };
        Ok(self.base.get_or_init(|| base).clone())
    }

    /// A server that speaks TLS answers a plain request with 400 or by closing the connection.
    fn speaks_plain(&self, plain: &str) -> Result<bool> {
        let request = Request::get(format!("{plain}/v2/")).body(())?;
        match self.other.run(request) {
            Ok(answer) => {
                self.requests.fetch_add(1, Ordering::Relaxed);
                Ok(answer.status() != StatusCode::BAD_REQUEST)
            }
            Err(ureq::Error::Io(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
                Err(error).with_context(|| format!("no registry listens on {}", self.host))
            }
            Err(_) => Ok(false),
        }
    }

    /// Sends a request and reads the answer; tries again where that may help.
    pub(crate) fn send(&self, call: &Call<'_>) -> Result<Answer> {
        self.retrying(call.is_repeatable, || {
            let streamed = self.followed(call)?;
            let limit = if streamed.status.is_success() { call.limit } else { MAX_ERROR_BODY };
            let (status, headers, url) = (streamed.status, streamed.headers.clone(), streamed.url.clone());
            let mut body = Vec::new();
            let mut reader = streamed.reader(&self.options, 0).take(limit + 1);
            let read = reader.read_to_end(&mut body).map_err(ureq::Error::from);
            read.with_context(|| format!("the answer to {} {} broke off", call.method, shown(&url)))?;
            if body.len() as u64 > limit && status.is_success() {
                bail!("{} sends more than {limit} bytes for {}", self.host, shown(&url));
            }
            Ok((Answer { status, headers: headers.clone(), body, url }, status, headers))
        })
    }

    /// Sends a request and leaves the answer's body to the caller.
    pub(crate) fn stream(&self, call: &Call<'_>) -> Result<Streamed> {
        self.retrying(call.is_repeatable, || {
            let streamed = self.followed(call)?;
            let (status, headers) = (streamed.status, streamed.headers.clone());
            Ok((streamed, status, headers))
        })
    }

    fn retrying<T>(
        &self,
        is_repeatable: bool,
        mut once: impl FnMut() -> Result<(T, StatusCode, HeaderMap)>,
    ) -> Result<T> {
        let attempts = if is_repeatable { self.options.attempts } else { 1 };
        let mut attempt = 1;
        loop {
            let outcome = once();
            let asked = match &outcome {
                Ok((_, status, headers)) if retry::is_passing(*status) => retry::asked(headers),
                Err(error) if is_broken_way(error) => None,
                _ => return outcome.map(|(answer, _, _)| answer),
            };
            let pause = retry::pause(attempt, self.options.first_pause, asked, retry::chance());
            let Some(pause) = pause.filter(|_| attempt < attempts) else {
                return outcome.map(|(answer, _, _)| answer);
            };
            std::thread::sleep(pause);
            attempt += 1;
        }
    }

    fn followed(&self, call: &Call<'_>) -> Result<Streamed> {
        let mut url = link::resolve(&self.base()?, &call.url);
        for _ in 0..=MAX_REDIRECTS {
            let answer = self.authorized(call, &url)?;
            let is_safe_method = matches!(call.method, Method::GET | Method::HEAD);
            let is_redirect = matches!(answer.status.as_u16(), 301 | 302 | 303 | 307 | 308);
            let location = answer.headers.get("location").and_then(|value| value.to_str().ok());
            let Some(location) = location.filter(|_| is_redirect && is_safe_method) else {
                return Ok(answer);
            };
            let target = link::resolve(&url, location);
            self.is_reachable(&target)?;
            url = target;
        }
        bail!("{} leads from one address to the next, more than {MAX_REDIRECTS} times", self.host)
    }

    /// A registry behind TLS leads to no place without it.
    pub(crate) fn is_reachable(&self, url: &str) -> Result<()> {
        let is_plain_registry = self.base()?.starts_with("http://");
        if url.starts_with("https://") || (is_plain_registry && url.starts_with("http://")) {
            return Ok(());
        }
        bail!("{} leads to {}, which is not protected by TLS", self.host, shown(url))
    }

    fn authorized(&self, call: &Call<'_>, url: &str) -> Result<Streamed> {
        let is_own = origin(url).is_some() && origin(url) == origin(&self.base()?);
        if !is_own {
            return self.once(&self.other, call, url, None);
        }
        let header = self.auth.header(call.purpose, self)?;
        let answer = self.once(&self.own, call, url, header.as_deref())?;
        let answer = match answer.status {
            StatusCode::UNAUTHORIZED => self.reauthorized(call, url, header.as_deref(), answer)?,
            _ => answer,
        };
        if answer.status == StatusCode::FORBIDDEN {
            return Err(self.denied(call, answer));
        }
        Ok(answer)
    }

    fn reauthorized(
        &self,
        call: &Call<'_>,
        url: &str,
        header: Option<&str>,
        answer: Streamed,
    ) -> Result<Streamed> {
        let headers: Vec<String> = answer
            .headers
            .get_all("www-authenticate")
            .iter()
            .filter_map(|value| value.to_str().ok().map(str::to_owned))
            .collect();
        let Some(challenge) = challenge::parse(headers.iter().map(String::as_str)) else {
            return Err(self.denied(call, answer));
        };
        if challenge == Challenge::Basic && header.is_some() {
            return Err(self.denied(call, answer));
        }
        answer.discard();
        self.auth.challenged(challenge, header, call.purpose);
        let header = self.auth.header(call.purpose, self)?;
        let answer = self.once(&self.own, call, url, header.as_deref())?;
        if answer.status == StatusCode::UNAUTHORIZED {
            return Err(self.denied(call, answer));
        }
        Ok(answer)
    }

    fn denied(&self, call: &Call<'_>, answer: Streamed) -> Error {
        let (host, status) = (self.host.clone(), answer.status);
        let detail = detail(status, &answer.error_body(&self.options));
        if !self.auth.has_credentials(call.purpose.repository) {
            return RegistryError::NotLoggedIn { host }.into();
        }
        if status == StatusCode::UNAUTHORIZED && self.auth.is_basic() {
            return RegistryError::Refused { host, detail }.into();
        }
        let writes = !matches!(call.method, Method::GET | Method::HEAD);
        let action = if writes { "write" } else { "read" };
        let repository = call.purpose.repository.to_owned();
        RegistryError::Denied { host, repository, action, detail }.into()
    }

    fn once(
        &self,
        agent: &Agent,
        call: &Call<'_>,
        url: &str,
        authorization: Option<&str>,
    ) -> Result<Streamed> {
        match call.payload {
            Payload::Nothing if matches!(call.method, Method::GET | Method::HEAD | Method::DELETE) => {
                self.run(agent, call, url, authorization, ())
            }
            Payload::Nothing => self.run(agent, call, url, authorization, &[][..]),
            Payload::Bytes(bytes) => self.run(agent, call, url, authorization, bytes),
            Payload::Stream { source, size } => {
                let counted = Counted { inner: (source.open)()?.take(size), moved: source.moved };
                let mut reader = Paced { inner: counted, until: self.options.until(size) };
                self.run(agent, call, url, authorization, SendBody::from_reader(&mut reader))
            }
        }
    }

    fn run(
        &self,
        agent: &Agent,
        call: &Call<'_>,
        url: &str,
        authorization: Option<&str>,
        body: impl AsSendBody,
    ) -> Result<Streamed> {
        let mut request = Request::builder().method(call.method.clone()).uri(url);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        if let Payload::Stream { size, .. } = call.payload {
            request = request.header("content-length", size);
        }
        if let Some(value) = authorization {
            request = request.header("authorization", value);
        }
        let request =
            request.body(body).with_context(|| format!("{} gave an address that is none", self.host))?;
        let answer = agent.run(request).map_err(|error| self.explained(error, call, url))?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let (head, body) = answer.into_parts();
        Ok(Streamed { status: head.status, headers: head.headers, body, url: url.to_owned() })
    }

    fn explained(&self, error: ureq::Error, call: &Call<'_>, url: &str) -> Error {
        let host = origin(url).map_or_else(|| self.host.clone(), |(_, host)| host);
        let said = error.to_string();
        if matches!(error, ureq::Error::HostNotFound) {
            return RegistryError::NoSuchHost { host }.into();
        }
        if said.contains("corrupt message") {
            return Error::new(error).context(format!(
                "{host} does not speak TLS; where it is meant to be so, name it in SLIPWAY_PLAIN_HTTP"
            ));
        }
        if said.contains("certificate") || said.contains("UnknownIssuer") {
            let detail = said.trim_start_matches("io: ").trim_start_matches("rustls: ").to_owned();
            return RegistryError::Untrusted { host, detail }.into();
        }
        Error::new(error).context(format!("{} {} did not succeed", call.method, shown(url)))
    }

    /// Whether secrets may be sent to `url`.
    pub(crate) fn is_safe(&self, url: &str) -> Result<(), RegistryError> {
        auth::is_safe(url, is_loopback(&self.host))
    }

    /// The credentials of this registry for `repository`.
    pub(crate) fn credentials(&self, repository: &str) -> Result<Option<Credentials>> {
        credentials::find(&self.options, &self.host, repository)
    }

    /// Asks a token server: with a form where one is given, else with the address alone.
    pub(crate) fn token(
        &self,
        url: &str,
        authorization: Option<&str>,
        form: Option<&str>,
    ) -> Result<(StatusCode, Vec<u8>)> {
        let scopes = Vec::new();
        let is_form = form.is_some();
        let call = Call {
            method: if is_form { Method::POST } else { Method::GET },
            url: url.to_owned(),
            headers: is_form
                .then(|| ("content-type", "application/x-www-form-urlencoded".to_owned()))
                .into_iter()
                .collect(),
            payload: form.map_or(Payload::Nothing, |form| Payload::Bytes(form.as_bytes())),
            purpose: Purpose { repository: "", scopes: &scopes },
            limit: MAX_ERROR_BODY,
            is_repeatable: true,
        };
        self.retrying(true, || {
            let streamed = self.once(&self.other, &call, url, authorization)?;
            let (status, headers) = (streamed.status, streamed.headers.clone());
            Ok(((status, streamed.error_body(&self.options)), status, headers))
        })
    }
}

impl Streamed {
    /// The body; `expected` is how many bytes it may take its time for.
    pub(crate) fn reader(self, options: &Options, expected: u64) -> impl Read + use<> {
        let body = self.body.into_with_config().limit(u64::MAX).reader();
        Paced { inner: body, until: options.until(expected) }
    }

    /// The first bytes of an error's text; what breaks off is shown as far as it came.
    pub(crate) fn error_body(self, options: &Options) -> Vec<u8> {
        let mut body = Vec::new();
        let _ = self.reader(options, 0).take(MAX_ERROR_BODY).read_to_end(&mut body);
        body
    }

    /// Reads a short rest so that the connection can be used again.
    fn discard(self) {
        let body = self.body.into_with_config().limit(MAX_ERROR_BODY).reader();
        let _ = io::copy(&mut body.take(MAX_ERROR_BODY), &mut io::sink());
    }
}

/// Tells how much of a body was taken.
struct Counted<'a, R> {
    inner: R,
    moved: &'a (dyn Fn(u64) + Sync),
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        (self.moved)(read as u64);
        Ok(read)
    }
}

/// Ends a body that takes too long although it never stands still.
struct Paced<R> {
    inner: R,
    until: Instant,
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if Instant::now() > self.until {
            return Err(io::Error::other(TooSlow));
        }
        self.inner.read(buffer)
    }
}

/// A body that goes slower than [`Options::MIN_BYTES_PER_SECOND`].
#[derive(Debug, thiserror::Error)]
#[error("it goes on too slowly")]
struct TooSlow;

/// Whether a fault of the way is among the causes: one that another attempt may not meet.
pub(crate) fn is_broken_way(error: &Error) -> bool {
    error.chain().any(|cause| {
        cause.downcast_ref::<ureq::Error>().is_some_and(retry::is_broken_way)
            && !cause.to_string().contains(&TooSlow.to_string())
    })
}

impl Answer {
    /// This answer, if its status is one of these.
    ///
    /// # Errors
    /// What the registry said, where it is not.
    pub(crate) fn expect(self, call: &Call<'_>, statuses: &[u16]) -> Result<Answer> {
        if statuses.contains(&self.status.as_u16()) {
            return Ok(self);
        }
        Err(status_error(call, self.status, &self.headers, &self.body, &self.url))
    }

    /// A header as text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// What the registry said, as an error.
pub(crate) fn status_error(
    call: &Call<'_>,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    url: &str,
) -> Error {
    let mut said = format!(": {}", detail(status, body));
    if let Some(wish) = retry::asked(headers) {
        said.push_str(&format!(" (it asks to wait {} s)", wish.as_secs()));
    }
    RegistryError::Status {
        method: call.method.to_string(),
        url: shown(url).to_owned(),
        status: status.as_u16(),
        detail: said,
    }
    .into()
}

/// An address without its query, which may hold a signature.
fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or(url)
}

/// Scheme and authority. An address with a user has none: whom such a thing means is for no program to guess.
fn origin(url: &str) -> Option<(String, String)> {
    let uri: Uri = url.parse().ok()?;
    let authority = uri.authority()?.as_str();
    (!authority.contains('@'))
        .then(|| (uri.scheme_str().unwrap_or_default().to_owned(), authority.to_owned()))
}

/// Host and port of an address.
pub(crate) fn host_of(url: &str) -> Option<String> {
    origin(url).map(|(_, host)| host)
}

/// Whether a host (with or without a port) is this machine whatever a name server says.
pub(crate) fn is_loopback(host: impl AsRef<str>) -> bool {
    let host = host.as_ref();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1", "127.1.2.3:80", "[::1]", "[::1]:5000"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["r.example", "localhost.example", "127.0.0.1.example", "10.0.0.1:80", "[::2]", "", "["] {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn another_port_or_scheme_is_another_origin() {
        assert_eq!(origin("https://r.example/v2/"), origin("https://r.example/other?x"));
        assert_ne!(origin("https://r.example/"), origin("https://r.example:8443/"));
        assert_ne!(origin("https://r.example/"), origin("http://r.example/"));
        for none in ["https://u@r.example/", "/v2/", "", "https://"] {
            assert_eq!(origin(none), None, "{none}");
        }
    }
}
