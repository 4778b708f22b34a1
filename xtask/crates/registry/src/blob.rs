//! Blobs: seen, mounted, sent in one piece or in chunks that can be resumed, and read with resume. Invariant: a blob that was
//! read counts only if its size and digest are right; one that was sent only if the registry says that it has that digest.
//!
//! Source: distribution-spec 1.1, "Pulling blobs" and "Pushing a blob".

use std::io::{self, Read, Write};

use anyhow::{Context, Result, bail, ensure};
use stdx::{Digest, DigestWriter};
use ureq::http::Method;

use crate::client::{Answer, Source, is_broken_way, status_error};
use crate::document::MAX_SIZE;
use crate::link;
use crate::repository::{Access, Repository};
use crate::retry;
use crate::upload::{Upload, may_succeed_anew};

/// How a blob came to be in a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transfer {
    /// It was there.
    Present,
    /// It was taken over from another repository of the registry; no byte was sent.
    Mounted,
    /// It was sent.
    Sent,
}

impl Repository {
    /// The size of the blob, where the repository has it.
    pub fn has_blob(&self, digest: &Digest) -> Result<Option<u64>> {
        let scopes = self.scopes(Access::Pull);
        self.size_of(digest, &scopes)
    }

    fn size_of(&self, digest: &Digest, scopes: &Vec<String>) -> Result<Option<u64>> {
        let call = self.call(Method::HEAD, self.blob_path(digest), scopes);
        let answer = self.client().send(&call)?;
        if answer.status == 404 {
            return Ok(None);
        }
        let answer = answer.expect(&call, &[200])?;
        let size = answer.header("content-length").and_then(|text| text.parse().ok());
        self.note(digest);
        Ok(Some(size.unwrap_or(0)))
    }

    /// Reads a blob of a known size into `out`. Where it breaks off, it goes on from there.
    ///
    /// # Errors
    /// Also when the bytes are not those of `digest`: `out` has got them then, and they count for nothing.
    pub fn read_blob(&self, digest: &Digest, size: u64, out: &mut dyn Write) -> Result<()> {
        ensure!(size <= MAX_SIZE, "{} cannot be {size} bytes long", self.shown(digest));
        let mut out = DigestWriter::new(out);
        let mut done = 0;
        let mut fruitless = 0;
        while done < size || (size == 0 && done == 0) {
            let before = done;
            match self.read_part(digest, size, &mut done, &mut out) {
                Ok(()) => break,
                Err(error) if is_broken_way(&error) => {
                    fruitless = if done > before { 0 } else { fruitless + 1 };
                    if fruitless >= self.client().options.attempts {
                        return Err(error);
                    }
                    self.wait(fruitless.max(1));
                }
                Err(error) => return Err(error),
            }
        }
        let (_, found, read) = out.finish();
        ensure!(read == size, "{} ends after {read} of {size} bytes", self.shown(digest));
        ensure!(
            found == *digest,
            "{} has the digest {found}: the registry's copy is damaged",
            self.shown(digest)
        );
        Ok(())
    }

    fn read_part(&self, digest: &Digest, size: u64, done: &mut u64, out: &mut dyn Write) -> Result<()> {
        let scopes = self.scopes(Access::Pull);
        let mut call = self.call(Method::GET, self.blob_path(digest), &scopes);
        if *done > 0 {
            call.headers.push(("range", format!("bytes={done}-")));
        }
        let streamed = self.client().stream(&call)?;
        let status = streamed.status;
        let range = streamed.headers.get("content-range").and_then(|value| value.to_str().ok());
        let skip = match status.as_u16() {
            // Not every store of blobs knows ranges: what was read before is read again and thrown away.
            200 => *done,
            206 if *done > 0 => {
                let start =
                    range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
                ensure!(start == Some(*done), "{} goes on at another place than asked", self.shown(digest));
                0
            }
            404 => bail!("{} is not there", self.shown(digest)),
            _ => {
                let (headers, url) = (streamed.headers.clone(), streamed.url.clone());
                let body = streamed.error_body(&self.client().options);
                return Err(status_error(&call, status, &headers, &body, &url));
            }
        };
        let mut reader = streamed.reader(&self.client().options, size);
        discard(&mut reader, skip)?;
        let mut reader = reader.take((size - *done).saturating_add(1));
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = reader.read(&mut buffer).map_err(ureq::Error::from).context("a blob broke off")?;
            if read == 0 && *done < size {
                return Err(cut()).context("a blob broke off");
            }
            if read == 0 {
                return Ok(());
            }
            *done += read as u64;
            ensure!(
                *done <= size,
                "{} is longer than the {size} bytes that it should have",
                self.shown(digest)
            );
            out.write_all(&buffer[..read]).context("cannot write what a registry sends")?;
        }
    }

    /// Sees to it that the repository has the blob: it is looked for, then mounted from `mount_from` (or from where this
    /// connection has seen it), and only then sent. `open` gives its bytes from the beginning, and may be called again.
    pub fn push_blob(
        &self,
        digest: &Digest,
        size: u64,
        open: &dyn Fn() -> Result<Box<dyn Read>>,
        mount_from: Option<&str>,
    ) -> Result<Transfer> {
        self.bring(digest, size, Source { open, moved: &|_| () }, mount_from)
    }

    /// The same, told how it goes on.
    pub(crate) fn bring(
        &self,
        digest: &Digest,
        size: u64,
        source: Source<'_>,
        mount_from: Option<&str>,
    ) -> Result<Transfer> {
        let scopes = self.scopes(Access::Push);
        if self.is_noted(digest) || self.size_of(digest, &scopes)?.is_some() {
            return Ok(Transfer::Present);
        }
        let place = mount_from.map(str::to_owned).or_else(|| self.place_of(digest));
        let transfer = self.place_blob(digest, size, source, place.as_deref());
        let transfer = transfer.with_context(|| format!("cannot send {}", self.shown(digest)))?;
        self.note(digest);
        Ok(transfer)
    }

    fn place_blob(
        &self,
        digest: &Digest,
        size: u64,
        source: Source<'_>,
        mount_from: Option<&str>,
    ) -> Result<Transfer> {
        let scopes = self.scopes(Access::Push);
        let mut session = None;
        if let Some(place) = mount_from.filter(|place| *place != self.name) {
            let wider = [&scopes[..], &[format!("repository:{place}:pull")]].concat();
            match self.mount(digest, place, &wider) {
                Ok(None) => return Ok(Transfer::Mounted),
                Ok(location) => session = location,
                // An account that may not read there may still write here.
                Err(error) if error.is::<crate::Error>() => {}
                Err(error) => return Err(error),
            }
        }
        let upload = Upload { repository: self, digest, size, source, scopes: &scopes };
        let mut fruitless = 0;
        loop {
            let location = match session.take() {
                Some(location) => location,
                None => upload.begin()?,
            };
            match upload.run(location) {
                Ok(()) => return Ok(Transfer::Sent),
                Err(error) if may_succeed_anew(&error) && fruitless + 1 < self.client().options.attempts => {
                    fruitless += 1
                }
                Err(error) => return Err(error),
            }
            self.wait(fruitless);
            // What broke may have been the answer alone.
            if self.size_of(digest, &self.scopes(Access::Push))?.is_some() {
                return Ok(Transfer::Sent);
            }
        }
    }

    /// Takes the blob over from another repository; otherwise the registry has begun an upload at the address that is given.
    fn mount(&self, digest: &Digest, place: &str, scopes: &Vec<String>) -> Result<Option<String>> {
        let query = crate::auth::encode(&[("mount", &digest.to_string()), ("from", place)]);
        let call = self.call(Method::POST, format!("/v2/{}/blobs/uploads/?{query}", self.name), scopes);
        let answer = self.client().send(&call)?.expect(&call, &[201, 202])?;
        if answer.status == 201 {
            return Ok(None);
        }
        self.location(&answer).map(Some)
    }

    pub(crate) fn location(&self, answer: &Answer) -> Result<String> {
        let location =
            answer.header("location").context("the registry does not say where to send the blob")?;
        let url = link::resolve(&answer.url, location);
        self.client().is_reachable(&url)?;
        Ok(url)
    }

    pub(crate) fn wait(&self, attempt: u32) {
        let pause = retry::pause(attempt, self.client().options.first_pause, None, retry::chance());
        std::thread::sleep(pause.unwrap_or_default());
    }

    fn blob_path(&self, digest: &Digest) -> String {
        format!("/v2/{}/blobs/{digest}", self.name)
    }

    fn shown(&self, digest: &Digest) -> String {
        format!("the blob {digest} of {}/{}", self.client().host(), self.name)
    }
}

/// What breaks a body off without an error of its own.
fn cut() -> ureq::Error {
    ureq::Error::Io(io::ErrorKind::UnexpectedEof.into())
}

/// Reads so many bytes and throws them away.
fn discard(reader: &mut impl Read, bytes: u64) -> Result<()> {
    let read = io::copy(&mut reader.take(bytes), &mut io::sink()).map_err(ureq::Error::from)?;
    if read < bytes { Err(cut().into()) } else { Ok(()) }
}
