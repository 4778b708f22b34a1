//! Sends calls through octocrab and reads answers in bounds. It knows which answers may be asked for again and waits; it does
//! not know what calls are for. Invariant: the token goes to the API's own host and its host for uploads, and nowhere else:
//! files are fetched from wherever the API sends us, by a second client that has no token.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use octocrab::{OctoBody, Octocrab};
use serde_json::Value;

use crate::base::Base;
use crate::call::{Asset, Body, Call, Method, Save};
use crate::failure::{self, Failure};
use crate::retry::{self, Limit};
use crate::run::Token;
use crate::save::Sink;
use crate::upload::FileBody;

/// A page of a hundred comments of GitHub's greatest length has 26 MB.
const MAX_ANSWER: usize = 32 << 20;

/// Ten thousand things are more than any list of a pull request or release has.
const MAX_PAGES: usize = 100;

/// And all pages of a list together are kept in memory.
const MAX_LIST: usize = 256 << 20;

/// Files have a bound that grows with their size: slower lines than this are taken to be dead.
const MIN_BYTES_PER_SECOND: u64 = 50_000;

/// What GitHub is asked for where the bytes of a file are wanted, not its description.
const FILE: &str = "application/octet-stream";

/// GitHub sends us on once.
const MAX_REDIRECTS: u32 = 3;

/// What begins an answer, with its body still to come.
type Response = http::Response<http_body_util::combinators::BoxBody<Bytes, octocrab::Error>>;

/// A connection to one GitHub.
pub(crate) struct Client {
    octocrab: Octocrab,
    /// Without a token, for where files are stored.
    stranger: Octocrab,
    base: Base,
    token: Token,
    repository: String,
    timeout: Duration,
    max_wait: Duration,
    waited: std::cell::Cell<Duration>,
}

/// An answer with a status of 200 to 299.
pub(crate) struct Answer {
    pub(crate) body: Value,
    next: Option<String>,
    bytes: usize,
}

/// The pages of a list that were not read yet.
struct Pages<'a> {
    call: &'a Call,
    next: Option<Call>,
    read: usize,
    bytes: usize,
}

/// How one attempt ended that did not succeed.
enum Trouble {
    /// Nothing was done, and the server says when to come back.
    Limited(Limit),
    /// The server or the way to it is not well.
    Broken { message: String },
    /// Sending it again would give the same.
    Final(Failure),
}

impl Client {
    pub(crate) fn new(
        api: &str,
        repository: &str,
        token: Token,
        timeout: Duration,
        max_wait: Duration,
    ) -> Result<Client, Failure> {
        let base = Base::parse(api)?;
        token.check()?;
        let build = |token| {
            build(&base, token, timeout)
                .map_err(|error| Failure::Input(format!("cannot set up the connection to {api}: {error}")))
        };
        let (octocrab, stranger) = (build(Some(&token))?, build(None)?);
        let repository = repository.to_owned();
        let waited = std::cell::Cell::default();
        Ok(Client { octocrab, stranger, base, token, repository, timeout, max_wait, waited })
    }

    /// Path of the repository in the API.
    pub(crate) fn repository(&self) -> String {
        format!("/repos/{}", self.repository)
    }

    /// Whether the token is one of an app, such as GitHub Actions gives to jobs.
    pub(crate) fn is_app(&self) -> bool {
        self.token.text().starts_with("ghs_")
    }

    /// All items of a list, from all its pages; `member` names the list where a page is an object.
    pub(crate) async fn list(&self, call: &Call, member: Option<&str>) -> Result<Vec<Value>, Failure> {
        let mut all = Vec::new();
        let mut pages = Pages::new(call);
        while let Some(items) = pages.next(self, member).await? {
            if pages.read > MAX_PAGES || pages.bytes > MAX_LIST {
                let message = format!("the list has more than {MAX_PAGES} pages or {MAX_LIST} bytes");
                return Err(Failure::unexpected(call, message));
            }
            all.extend(items);
        }
        Ok(all)
    }

    /// The first item of a list that is wanted, among its first `bound` pages.
    pub(crate) async fn find(
        &self,
        call: &Call,
        bound: usize,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Result<Option<Value>, Failure> {
        let mut pages = Pages::new(call);
        while let Some(items) = pages.next(self, None).await? {
            if let Some(item) = items.into_iter().find(|item| is_wanted(item)) {
                return Ok(Some(item));
            }
            if pages.read == bound {
                break;
            }
        }
        Ok(None)
    }

    /// Sends a call, again where that is safe.
    pub(crate) async fn send(&self, call: &Call) -> Result<Answer, Failure> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.attempt(call, attempt).await {
                Ok(answer) => return Ok(answer),
                Err(Trouble::Final(failure)) => return Err(failure),
                Err(Trouble::Limited(limit)) => self.wait_for(limit, attempt, call).await?,
                Err(Trouble::Broken { message }) if !call.repeatable => {
                    return Err(Failure::Unknown { what: call.what.clone(), message });
                }
                Err(Trouble::Broken { message }) => {
                    let what = call.what.clone();
                    if !self.back_off(attempt, &message, call).await {
                        return Err(Failure::Unavailable { what, message, attempts: attempt });
                    }
                }
            }
        }
    }

    /// Waits before another attempt; false where there should be none.
    pub(crate) async fn back_off(&self, attempt: u32, message: &str, call: &Call) -> bool {
        let Some(wait) = retry::backoff(attempt, fastrand::f64()) else { return false };
        if self.waited.get() + wait > self.max_wait {
            return false;
        }
        // A server that is not well may send back what it was sent.
        let message = message.replace(self.token.text(), "***");
        eprintln!("github: cannot {}: {message}; trying again in {:.1} s", call.what, wait.as_secs_f64());
        self.sleep(wait).await;
        true
    }

    async fn wait_for(&self, limit: Limit, attempt: u32, call: &Call) -> Result<(), Failure> {
        let Limit { name, wait } = limit;
        let over = self.waited.get().saturating_add(wait) > self.max_wait;
        if over || attempt >= retry::ATTEMPTS {
            return Err(Failure::RateLimited { limit: name, wait, allowed: self.max_wait });
        }
        eprintln!("github: {name} rate limit; waiting {} s before going on to {}", wait.as_secs(), call.what);
        self.sleep(wait).await;
        Ok(())
    }

    async fn sleep(&self, wait: Duration) {
        self.waited.set(self.waited.get() + wait);
        tokio::time::sleep(wait).await;
    }

    async fn attempt(&self, call: &Call, attempt: u32) -> Result<Answer, Trouble> {
        let request = self.request(call).map_err(Trouble::Final)?;
        let bound = self.bound(call);
        let exchange = async {
            let response = self.open(request).await.map_err(|broken| broken.into_trouble(call))?;
            if let Some(save) = call.save.as_ref().filter(|_| is_file(&response)) {
                return self.save(call, save, response).await;
            }
            let (status, headers, body) = read(response).await.map_err(|broken| broken.into_trouble(call))?;
            if status.is_success() {
                return self.answer(call, &headers, &body).map_err(Trouble::Final);
            }
            self.refusal(call, attempt, status, &headers, &body)
        };
        tokio::time::timeout(bound, exchange).await.unwrap_or_else(|_| {
            let message = format!("no answer within {:.1} s", bound.as_secs_f64());
            Err(Trouble::Broken { message })
        })
    }

    /// What an answer means that is no success.
    fn refusal(
        &self,
        call: &Call,
        attempt: u32,
        status: StatusCode,
        headers: &HeaderMap,
        body: &[u8],
    ) -> Result<Answer, Trouble> {
        let body: Value = serde_json::from_slice(body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(body).into_owned()));
        let message = failure::message(status, &body);
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return Err(Trouble::Broken { message: format!("{status}: {message}") });
        }
        if let Some(limit) = retry::limit(status, headers, &message, attempt, now()) {
            return Err(Trouble::Limited(limit));
        }
        // Deleted by an attempt whose answer was lost.
        if call.method == Method::Delete && status == StatusCode::NOT_FOUND {
            return Ok(Answer { body: Value::Null, next: None, bytes: 0 });
        }
        Err(Trouble::Final(failure::of_status(call, status, &body, &self.repository, &self.token.variable)))
    }

    fn bound(&self, call: &Call) -> Duration {
        match (&call.body, &call.save) {
            (Body::File(Asset { size, .. }), _) | (_, Some(Save { size, .. })) => {
                self.timeout + Duration::from_secs(size / MIN_BYTES_PER_SECOND)
            }
            (Body::Empty | Body::Json(_), None) => self.timeout,
        }
    }

    async fn open(&self, request: http::Request<OctoBody>) -> Result<Response, Broken> {
        self.octocrab.execute(request).await.map_err(|error| Broken::Way(innermost(&error)))
    }

    /// Follows the answer to where the file is, without the token, and writes it down as it comes. Addresses are never shown:
    /// they are signed, and so secrets themselves.
    async fn save(&self, call: &Call, save: &Save, mut response: Response) -> Result<Answer, Trouble> {
        let broken = |message: String| Trouble::Broken { message };
        let mut hops = 0;
        while response.status().is_redirection() {
            hops += 1;
            if hops > MAX_REDIRECTS {
                return Err(Trouble::Final(Failure::unexpected(
                    call,
                    "the server sends us round in circles",
                )));
            }
            let location = response.headers().get(header::LOCATION).and_then(|value| value.to_str().ok());
            let uri = self.base.storage(location, call).map_err(Trouble::Final)?;
            let host = uri.host().unwrap_or_default().to_owned();
            let request = http::Request::get(uri)
                .body(OctoBody::empty())
                .map_err(|error| Trouble::Final(Failure::unexpected(call, format!("no request: {error}"))))?;
            response = self
                .stranger
                .execute(request)
                .await
                .map_err(|error| broken(format!("{host}: {}", innermost(&error))))?;
            let status = response.status();
            if !status.is_success() && !status.is_redirection() {
                return Err(broken(format!("{host} answers {status}")));
            }
        }
        let mut sink = Sink::create(save).map_err(Trouble::Final)?;
        let mut body = response.into_body();
        loop {
            let frame = tokio::time::timeout(self.timeout, body.frame()).await;
            let frame = frame.map_err(|_| broken("the file stopped coming".to_owned()))?;
            match frame {
                None => break,
                Some(Err(error)) => return Err(broken(innermost(&error))),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        sink.write(&bytes, call).map_err(Trouble::Final)?;
                    }
                }
            }
        }
        sink.finish(call).map_err(Trouble::Final)?;
        Ok(Answer { body: Value::Null, next: None, bytes: 0 })
    }

    fn answer(&self, call: &Call, headers: &HeaderMap, body: &[u8]) -> Result<Answer, Failure> {
        if body.is_empty() {
            return Ok(Answer { body: Value::Null, next: None, bytes: 0 });
        }
        let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("none");
        if !kind.starts_with("application/json") {
            let message = format!(
                "the answer has the content type {}, not JSON; is {} the API of a GitHub?",
                failure::clean(kind),
                self.base.origin
            );
            return Err(Failure::unexpected(call, message));
        }
        let bytes = body.len();
        let body = serde_json::from_slice(body)
            .map_err(|error| Failure::unexpected(call, format!("the answer is damaged: {error}")))?;
        Ok(Answer { body, next: next_page(headers), bytes })
    }

    fn request(&self, call: &Call) -> Result<http::Request<OctoBody>, Failure> {
        let odd = |error: http::Error| Failure::unexpected(call, format!("no request: {error}"));
        let url = match call.path.strip_prefix('/') {
            Some(_) => format!("{}{}{}", self.base.origin, self.base.prefix, call.target()),
            None => self.base.upload_url(call)?,
        };
        let builder = http::Request::builder()
            .method(call.method.name())
            .uri(url)
            .header(header::ACCEPT, if call.save.is_some() { FILE } else { "application/vnd.github+json" })
            .header("x-github-api-version", "2022-11-28");
        match &call.body {
            Body::Empty => builder.body(OctoBody::empty()).map_err(odd),
            Body::Json(body) => builder
                .header(header::CONTENT_TYPE, "application/json")
                .body(OctoBody::from(body.to_string()))
                .map_err(odd),
            Body::File(asset) => builder
                .header(header::CONTENT_TYPE, asset.content_type)
                .header(header::CONTENT_LENGTH, asset.size)
                .body(OctoBody::new(FileBody::open(asset)?))
                .map_err(odd),
        }
    }
}

impl<'a> Pages<'a> {
    fn new(call: &'a Call) -> Pages<'a> {
        Pages { call, next: Some(call.clone().query("per_page", "100")), read: 0, bytes: 0 }
    }

    /// The items of the next page, `None` after the last one.
    async fn next(&mut self, client: &Client, member: Option<&str>) -> Result<Option<Vec<Value>>, Failure> {
        let Some(page) = self.next.take() else { return Ok(None) };
        let mut answer = client.send(&page).await?;
        (self.read, self.bytes) = (self.read + 1, self.bytes + answer.bytes);
        if let Some(next) = answer.next {
            let path = client.base.own_path(&next, self.call)?;
            self.next = Some(Call { path, query: Vec::new(), ..self.call.clone() });
        }
        let list = match member {
            Some(member) => answer.body.get_mut(member),
            None => Some(&mut answer.body),
        };
        match list.map(Value::take) {
            Some(Value::Array(items)) => Ok(Some(items)),
            _ => Err(Failure::unexpected(self.call, "the answer is no list")),
        }
    }
}

/// Why no answer could be read.
enum Broken {
    Way(String),
    TooLong,
}

impl Broken {
    fn into_trouble(self, call: &Call) -> Trouble {
        match self {
            Broken::Way(message) => Trouble::Broken { message },
            Broken::TooLong => Trouble::Final(Failure::unexpected(
                call,
                format!("the answer is longer than {MAX_ANSWER} bytes"),
            )),
        }
    }
}

/// Whether the answer is a file, or says where it is.
fn is_file(response: &Response) -> bool {
    let status = response.status();
    status.is_success() || status.is_redirection()
}

async fn read(response: Response) -> Result<(StatusCode, HeaderMap, Bytes), Broken> {
    let (parts, body) = response.into_parts();
    let body = Limited::new(body, MAX_ANSWER).collect().await.map_err(|error| {
        if error.is::<http_body_util::LengthLimitError>() {
            return Broken::TooLong;
        }
        Broken::Way(innermost(&*error))
    })?;
    Ok((parts.status, parts.headers, body.to_bytes()))
}

/// octocrab's errors carry backtraces and repeat themselves; the last cause is what happened.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    failure::clean(&last.to_string())
}

fn build(base: &Base, token: Option<&Token>, timeout: Duration) -> octocrab::Result<Octocrab> {
    // Without a path: octocrab would put the path in front of uploads too, which have another.
    let builder = Octocrab::builder()
        .base_uri(base.origin.as_str())?
        .upload_uri(base.uploads.as_str())?
        .add_header(header::USER_AGENT, concat!("slipway/", env!("CARGO_PKG_VERSION")).to_owned())
        .set_connect_timeout(Some(timeout))
        // Nothing is read while a file is sent: only calls as a whole have a bound, see `Client::bound`.
        .set_write_timeout(Some(timeout));
    match token {
        Some(token) => builder.personal_token(token.secret.clone()).build(),
        None => builder.build(),
    }
}

/// The URL of the relation `next` in the header `link`.
///
/// Source: RFC 8288, section 3, as far as GitHub uses it.
fn next_page(headers: &HeaderMap<HeaderValue>) -> Option<String> {
    let links = headers.get(header::LINK)?.to_str().ok()?;
    links.split(',').find_map(|link| {
        let (url, relation) = link.trim().strip_prefix('<')?.split_once('>')?;
        relation.contains("rel=\"next\"").then(|| url.to_owned())
    })
}

fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_the_links() {
        let headers = |text: &str| HeaderMap::from_iter([(header::LINK, text.parse().unwrap())]);
        let two = "<https://a/?page=1>; rel=\"prev\", <https://a/?page=3>; rel=\"next\"";
        assert_eq!(next_page(&headers(two)), Some("https://a/?page=3".to_owned()));
        assert_eq!(next_page(&headers("<https://a>; rel=\"last\"")), None);
        assert_eq!(next_page(&headers(",<;>")), None);
    }
}
