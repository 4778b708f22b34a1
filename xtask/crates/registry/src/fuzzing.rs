//! Doors for the fuzz targets of `ci/fuzz`, which only exist there: what they lead to is private.

use crate::document::Document;
use crate::{auth, challenge, credentials, error, link};

/// Reads the bytes as everything that a registry, its token server or a credential helper may say, and as a file of credentials.
pub fn answers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    challenge::parse(text.lines());
    if let Some(target) = link::next(&text) {
        link::resolve("https://r.example/v2/a/tags/list", target);
    }
    link::resolve(&text, "x");
    let said = error::detail(ureq::http::StatusCode::BAD_REQUEST, bytes);
    assert!(!said.chars().any(char::is_control), "{said:?}");
    if let Ok(token) = auth::parse(bytes) {
        assert!(token.value.bytes().all(|byte| byte.is_ascii_graphic()));
    }
    drop(auth::is_safe(&text, true));
    credentials::read_anything(bytes);
}

/// Reads a manifest or an index.
pub fn document(bytes: &[u8]) {
    let Ok(document) = Document::parse(bytes) else { return };
    assert!(document.blobs().is_empty() || document.children().is_empty());
    document.media_type();
    let descriptor = document.descriptor(stdx::Digest::of(bytes), bytes.len() as u64);
    let index = crate::document::index(&[descriptor]).expect("a descriptor is plain data");
    Document::parse(&index).expect("an index of our own can be read");
}
