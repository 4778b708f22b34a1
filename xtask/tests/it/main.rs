//! Drives the real `xtask` binary on real workspaces, one module per command.

#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod attest;
mod audit;
mod base;
mod build;
mod cache;
mod ci;
mod data;
mod deploy;
mod deps;
mod docs;
mod github;
mod init;
mod interop;
mod newcomer;
mod nix;
mod packing;
mod platform;
mod registry;
mod release;
mod reproduce;
mod scan;
mod stack;
mod structure;
mod support;
mod test;
