//! The edge over real sockets, before real services, as a real process.
#![allow(clippy::unwrap_used)]

mod control;
mod durability;
mod forwarding;
mod hygiene;
mod service;
mod stalling;
mod stopping;
mod streaming;
mod support;
mod switching;
