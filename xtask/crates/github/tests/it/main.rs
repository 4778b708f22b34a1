//! The real program against servers on this machine: one that fails in every way, and one that keeps what it is told behind a
//! judge which compares each request and answer with GitHub's own description of its API.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod download;
mod errors;
mod fake;
mod judge;
mod server;
mod support;
