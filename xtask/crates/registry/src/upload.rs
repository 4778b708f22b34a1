//! One upload session: a blob in one piece, or in chunks. After a break the registry is asked how far it got, and the rest follows;
//! a registry that forgot the session gets the blob in a new one.
//!
//! Source: distribution-spec 1.1, "Pushing a blob monolithically" and "in chunks".

use std::io::{self, Read};

use anyhow::{Context, Error, Result, ensure};
use stdx::Digest;
use ureq::http::Method;

use crate::auth::{Scopes, encode};
use crate::client::{Answer, Call, Payload, Source, is_broken_way};
use crate::error::Error as RegistryError;
use crate::repository::Repository;
use crate::retry;

/// A blob on its way to a registry.
pub(crate) struct Upload<'a> {
    pub(crate) repository: &'a Repository,
    pub(crate) digest: &'a Digest,
    pub(crate) size: u64,
    pub(crate) source: Source<'a>,
    pub(crate) scopes: &'a Scopes,
}

/// How far a session is, and where the next request goes.
struct Position {
    location: String,
    at: u64,
}

/// The registry does not know the session any more.
#[derive(Debug, thiserror::Error)]
#[error("the registry forgot the upload")]
struct Forgotten;

/// Whether the whole upload may succeed in a new session.
pub(crate) fn may_succeed_anew(error: &Error) -> bool {
    is_broken_way(error) || error.chain().any(|cause| cause.is::<Forgotten>() || is_passing(cause))
}

fn is_passing(cause: &(dyn std::error::Error + 'static)) -> bool {
    let Some(RegistryError::Status { status, .. }) = cause.downcast_ref() else { return false };
    ureq::http::StatusCode::from_u16(*status).is_ok_and(retry::is_passing)
}

impl Upload<'_> {
    /// Begins a session.
    pub(crate) fn begin(&self) -> Result<String> {
        let url = format!("/v2/{}/blobs/uploads/", self.repository.name);
        let call = self.repository.call(Method::POST, url, self.scopes);
        let answer = self.repository.client().send(&call)?.expect(&call, &[202])?;
        self.repository.location(&answer)
    }

    /// Sends the blob in the session that begins at `location`.
    pub(crate) fn run(&self, location: String) -> Result<()> {
        let options = &self.repository.client().options;
        if self.size <= options.single_request_limit {
            return self.finish(&location, Payload::Stream { source: self.source, size: self.size });
        }
        let mut position = Position { location, at: 0 };
        let mut fruitless = 0;
        while position.at < self.size {
            let end = self.size.min(position.at + options.chunk_size.max(1));
            match self.patch(&position, end) {
                Ok(next) => {
                    fruitless = 0;
                    position = next;
                }
                Err(error) if may_succeed_anew(&error) && fruitless + 1 < options.attempts => {
                    let before = position.at;
                    self.repository.wait(fruitless + 1);
                    position = self.ask(&position.location)?;
                    fruitless = if position.at > before { 0 } else { fruitless + 1 };
                }
                Err(error) => return Err(error),
            }
        }
        self.finish(&position.location, Payload::Nothing)
    }

    fn patch(&self, position: &Position, end: u64) -> Result<Position> {
        let at = position.at;
        let open = || -> Result<Box<dyn Read>> {
            let mut reader = (self.source.open)()?;
            let skipped = io::copy(&mut (&mut reader).take(at), &mut io::sink())?;
            ensure!(skipped == at, "the blob became shorter while it was sent");
            Ok(reader)
        };
        let mut call = self.call(Method::PATCH, &position.location);
        let source = Source { open: &open, moved: self.source.moved };
        call.payload = Payload::Stream { source, size: end - at };
        // The whole in one request is Docker's stream, which has no such header; some registries refuse one there.
        if at > 0 || end < self.size {
            call.headers.push(("content-range", format!("{at}-{}", end - 1)));
        }
        let answer = self.repository.client().send(&call)?;
        if answer.status == 416 {
            return self.ask(&position.location);
        }
        let answer = self.known(answer)?.expect(&call, &[201, 202, 204])?;
        let position = self.position(&answer, end)?;
        ensure!(position.at <= self.size, "the registry has more of the blob than there is");
        Ok(position)
    }

    /// Asks how far the session is.
    fn ask(&self, location: &str) -> Result<Position> {
        let call = self.repository.call(Method::GET, location.to_owned(), self.scopes);
        let answer = self.known(self.repository.client().send(&call)?)?.expect(&call, &[200, 202, 204])?;
        let position = self.position(&answer, 0)?;
        ensure!(position.at <= self.size, "the registry has more of the blob than there is");
        Ok(if answer.headers.contains_key("location") {
            position
        } else {
            Position { location: location.to_owned(), ..position }
        })
    }

    fn known(&self, answer: Answer) -> Result<Answer> {
        if matches!(answer.status.as_u16(), 404 | 410) {
            let said = crate::error::detail(answer.status, &answer.body);
            return Err(Error::new(Forgotten).context(format!("the registry answers {said}")));
        }
        Ok(answer)
    }

    /// What an answer says, where it says anything; otherwise all that was sent arrived.
    fn position(&self, answer: &Answer, sent: u64) -> Result<Position> {
        let at = match answer.header("range") {
            Some(range) => end_of(range).with_context(|| format!("`{range}` is not a range of bytes"))?,
            None => sent,
        };
        let location = match answer.headers.contains_key("location") {
            true => self.repository.location(answer)?,
            false => answer.url.clone(),
        };
        Ok(Position { location, at })
    }

    fn finish<'c>(&'c self, location: &str, payload: Payload<'c>) -> Result<()> {
        let mark = if location.contains('?') { '&' } else { '?' };
        let query = encode(&[("digest", &self.digest.to_string())]);
        let mut call = self.call(Method::PUT, &format!("{location}{mark}{query}"));
        call.payload = payload;
        let answer = self.known(self.repository.client().send(&call)?)?.expect(&call, &[201, 202, 204])?;
        if let Some(said) =
            answer.header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok())
        {
            ensure!(said == *self.digest, "the registry stored the blob as {said}");
        }
        Ok(())
    }

    fn call<'c>(&'c self, method: Method, url: &str) -> Call<'c> {
        let mut call = self.repository.call(method, url.to_owned(), self.scopes);
        call.headers.push(("content-type", "application/octet-stream".to_owned()));
        // Nobody knows how much of the body arrived: what comes next depends on the session.
        call.is_repeatable = false;
        call
    }
}

/// How many bytes the range `0-<last>` has. Registries write `0-0` before the first byte; a single byte is then sent again.
fn end_of(range: &str) -> Option<u64> {
    let range = range.trim();
    let (first, last) = range.strip_prefix("bytes=").unwrap_or(range).split_once('-')?;
    let last: u64 = last.parse().ok()?;
    (first == "0").then_some(if last == 0 { 0 } else { last.checked_add(1)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_range_is_what_arrived() {
        assert_eq!(end_of("0-1023"), Some(1024));
        assert_eq!(end_of("bytes=0-1023"), Some(1024));
        assert_eq!(end_of("0-0"), Some(0));
        for bad in ["", "0", "1-5", "0-x", "0--1", "0-18446744073709551615"] {
            assert_eq!(end_of(bad), None, "{bad}");
        }
    }
}
