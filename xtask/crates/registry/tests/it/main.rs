//! The client in front of a real registry (Debian's docker-registry), and of servers that do what a real one does only on a bad
//! day. All traffic stays on this machine.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod auth;
mod blobs;
mod hostile;
mod images;
mod referrers;
mod rig;
