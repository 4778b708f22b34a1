//! The edge over real sockets, before real services, as a real process.
#![allow(clippy::unwrap_used)]

mod baking;
mod control;
mod durability;
mod forwarding;
mod handover;
mod hygiene;
mod service;
mod stalling;
mod stopping;
mod streaming;
mod streams;
mod support;
mod switching;
mod tls;
mod traffic;
