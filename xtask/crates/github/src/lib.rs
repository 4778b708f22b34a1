//! GitHub for Slipway: deployments, check runs, pull-request comments and releases, each idempotent. One request document
//! comes in, one response document goes out; this library does not know the command line or the environment beyond the token
//! that it is given. Invariant: writes are values that follow from what was observed, so that a dry run shows the very
//! requests that would be sent, and after a failure whose outcome is unknown observing again decides what is left to do.

mod annotation;
mod base;
mod call;
mod check;
mod client;
mod comment;
mod deployment;
mod difference;
mod download;
mod failure;
mod files;
mod markdown;
mod release;
mod request;
mod response;
mod retry;
mod run;
mod sarif;
mod save;
mod upload;

pub use failure::Failure;
pub use octocrab::secrecy::SecretString;
pub use request::{Action, REQUEST_SCHEMA, Request};
pub use response::{Done, Outcome, RESPONSE_SCHEMA, Response};
pub use run::{Token, serve};
