//! The crate on a real Docker engine, with images made on the spot.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod broken;
mod containers;
mod far;
mod hardening;
mod networks;
mod registry;
mod relay;
mod rig;
mod secrets;
mod transfer;
mod watching;
