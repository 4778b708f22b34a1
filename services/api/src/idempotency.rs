//! The header `Idempotency-Key`, with which a client may repeat a request whose answer it did not get.

use axum::http::{HeaderMap, HeaderName, HeaderValue};
use runtime::Problem;
use runtime::problem::Kind;
use store::Idempotency;

const HEADER: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that is that of an earlier request.
pub(crate) const REPLAYED: (HeaderName, HeaderValue) =
    (HeaderName::from_static("idempotency-replayed"), HeaderValue::from_static("true"));
const MAX_LENGTH: usize = 200;

/// The key of a request and its body, if it carries one.
pub(crate) fn read(headers: &HeaderMap, body: &[u8]) -> Result<Option<Idempotency>, Problem> {
    let Some(value) = headers.get(HEADER) else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    if !(1..=MAX_LENGTH).contains(&key.len()) {
        let detail = format!("Idempotency-Key must be 1 to {MAX_LENGTH} visible ASCII characters");
        return Err(Problem::new(Kind::MalformedRequest, detail));
    }
    let request = serde_json::from_slice(body).map_err(|error| Problem::internal(&error))?;
    Ok(Some(Idempotency { key: key.to_owned(), request }))
}

/// The answer to a key that was used for another request.
pub(crate) fn conflict() -> Problem {
    Problem::new(Kind::Conflict, "the Idempotency-Key was used before for another request: choose a new one")
}
