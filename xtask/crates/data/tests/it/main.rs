//! Backups and restores of real databases.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod postgres;
mod rig;
mod sqlite;
