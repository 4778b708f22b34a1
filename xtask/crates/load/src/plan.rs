//! What is to be sent, and the bounds that no plan may exceed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper::Method;
use hyper::header::{HeaderName, HeaderValue};

/// A load test is bounded whatever its plan says: this crate must not become a way to flood a machine by a typing error.
const MAX_REQUESTS: u64 = 10_000_000;
const MAX_DURATION: Duration = Duration::from_secs(6 * 60 * 60);
const MAX_RATE: u32 = 20_000;
const MAX_TIMEOUT: Duration = Duration::from_secs(600);
const MAX_IN_FLIGHT: usize = 65_536;
const MAX_SHARES: u32 = 1_000;

/// What to send, where, how fast and for how long. It ends with the first of `max_requests`, `max_duration` and `stop`.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Where connections are opened.
    pub target: SocketAddr,
    /// Value of the `Host` header.
    pub host: String,
    /// What is sent; profiles take turns by their shares.
    pub profiles: Vec<Profile>,
    /// Requests begun a second over all profiles, whether or not earlier ones were answered.
    pub rate_per_second: u32,
    /// Requests in all.
    pub max_requests: u64,
    /// Time in all, without the wait for the last answers.
    pub max_duration: Duration,
    /// Ends the run early.
    pub stop: Stop,
    /// From the moment a request is due to the last byte of its answer.
    pub request_timeout: Duration,
    /// Response header that says which release answered.
    pub served_by_header: Option<String>,
    /// Requests in flight at once. More would say that the generator is overrun: such requests are not sent, counted as
    /// skipped, and leave the run without a verdict.
    pub max_in_flight: usize,
    /// How many lost requests the report describes one by one; all are counted.
    pub max_losses_listed: usize,
    /// Whether the target may be another machine.
    pub is_remote_allowed: bool,
}

/// One kind of client.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Its name in the report.
    pub name: String,
    /// How it uses connections.
    pub connection: ConnectionUse,
    /// Method of its requests.
    pub method: Method,
    /// Request targets in turn; `{id}` becomes an id that is unique in all runs.
    pub paths: Vec<String>,
    /// Further request headers; `{id}` in a value becomes the id.
    pub headers: Vec<(String, String)>,
    /// Request body; `{id}` becomes the id. The ids of requests with an id that were answered with success are acknowledged.
    pub body: Option<String>,
    /// How many turns it gets for one turn of a profile with share 1.
    pub share: u32,
    /// Connections that a keep-alive profile holds open; requests go round them, so few requests over many connections
    /// means that each is idle for long.
    pub connections: usize,
}

/// How a client uses connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionUse {
    /// One connection a request.
    New,
    /// Kept open; one that the server closed is noticed before a request is written to it, as good clients do.
    KeepAlive,
    /// Kept open and used without a look: a request on a connection that the server closed is lost.
    KeepAliveNaive,
}

/// Ends a run early, from any thread.
#[derive(Debug, Clone, Default)]
pub struct Stop(Arc<AtomicBool>);

impl Stop {
    /// No further request is begun; the report follows when those in flight are over.
    pub fn stop(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`Stop::stop`] was called.
    pub fn is_stopped(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl Plan {
    /// 100 requests a second to `target` for at most a minute, with a time limit of 10 s each.
    pub fn new(target: SocketAddr, profiles: Vec<Profile>) -> Plan {
        Plan {
            target,
            host: target.to_string(),
            profiles,
            rate_per_second: 100,
            max_requests: 6_000,
            max_duration: Duration::from_secs(60),
            stop: Stop::default(),
            request_timeout: Duration::from_secs(10),
            served_by_header: None,
            max_in_flight: 4_096,
            max_losses_listed: 100,
            is_remote_allowed: false,
        }
    }

    /// Refuses a plan that is empty, unbounded or aimed at another machine without leave.
    pub(crate) fn check(&self) -> Result<()> {
        let is_local = self.target.ip().to_canonical().is_loopback();
        ensure!(
            is_local || self.is_remote_allowed,
            "{} is not a loopback address: load is sent to this machine only, unless the plan allows others",
            self.target
        );
        ensure!(
            (1..=MAX_RATE).contains(&self.rate_per_second),
            "a rate is 1 to {MAX_RATE} requests a second"
        );
        ensure!((1..=MAX_REQUESTS).contains(&self.max_requests), "a run has 1 to {MAX_REQUESTS} requests");
        ensure!(self.max_duration <= MAX_DURATION, "a run takes at most {} s", MAX_DURATION.as_secs());
        ensure!(self.request_timeout <= MAX_TIMEOUT, "a request takes at most {} s", MAX_TIMEOUT.as_secs());
        let in_flight = 1..=MAX_IN_FLIGHT;
        ensure!(in_flight.contains(&self.max_in_flight), "1 to {MAX_IN_FLIGHT} requests may be in flight");
        ensure!(!self.profiles.is_empty(), "a plan needs a profile");
        let shares: u32 = self.profiles.iter().map(|profile| profile.share.min(MAX_SHARES + 1)).sum();
        ensure!((1..=MAX_SHARES).contains(&shares), "the shares of all profiles add up to 1 to {MAX_SHARES}");
        for profile in &self.profiles {
            profile.check().with_context(|| format!("profile `{}`", profile.name))?;
        }
        self.served_by()?;
        Ok(())
    }

    /// The parsed name of the header that says which release answered.
    pub(crate) fn served_by(&self) -> Result<Option<HeaderName>> {
        let name = self.served_by_header.as_deref();
        name.map(|name| name.parse().with_context(|| format!("`{name}` is not a header name"))).transpose()
    }

    /// Which profile's turn it is, for as many turns as there are shares; turns of one profile are spread evenly.
    pub(crate) fn turns(&self) -> Vec<usize> {
        let total: i64 = self.profiles.iter().map(|profile| i64::from(profile.share)).sum();
        let mut credit = vec![0_i64; self.profiles.len()];
        (0..total)
            .map(|_| {
                for (credit, profile) in credit.iter_mut().zip(&self.profiles) {
                    *credit += i64::from(profile.share);
                }
                let richest = (0..credit.len()).rev().max_by_key(|&index| credit[index]).unwrap_or_default();
                credit[richest] -= total;
                richest
            })
            .collect()
    }
}

impl Profile {
    /// GET of `paths` in turn.
    pub fn get<P: Into<String>>(
        name: &str,
        connection: ConnectionUse,
        paths: impl IntoIterator<Item = P>,
    ) -> Profile {
        Profile {
            name: name.to_owned(),
            connection,
            method: Method::GET,
            paths: paths.into_iter().map(Into::into).collect(),
            headers: Vec::new(),
            body: None,
            share: 1,
            connections: 8,
        }
    }

    /// POST of `body` to `path`; `{id}` in either becomes the request's id.
    pub fn post(name: &str, connection: ConnectionUse, path: &str, body: &str) -> Profile {
        let profile = Profile::get(name, connection, [path]);
        Profile { method: Method::POST, body: Some(body.to_owned()), ..profile }
    }

    /// With one more header; `{id}` in its value becomes the request's id.
    pub fn header(mut self, name: &str, value: &str) -> Profile {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With another share.
    pub fn share(self, share: u32) -> Profile {
        Profile { share, ..self }
    }

    /// With another number of connections.
    pub fn connections(self, connections: usize) -> Profile {
        Profile { connections, ..self }
    }

    /// Whether its requests carry an id.
    pub(crate) fn has_id(&self) -> bool {
        let values = self.headers.iter().map(|(_, value)| value);
        self.paths.iter().chain(&self.body).chain(values).any(|text| text.contains("{id}"))
    }

    fn check(&self) -> Result<()> {
        ensure!(!self.paths.is_empty(), "there is no path");
        for path in &self.paths {
            let uri = path.replace("{id}", "id").parse::<hyper::Uri>();
            ensure!(path.starts_with('/') && uri.is_ok(), "`{path}` is not a path");
        }
        for (name, value) in &self.headers {
            let is_header = name.parse::<HeaderName>().is_ok() && value.parse::<HeaderValue>().is_ok();
            ensure!(is_header, "`{name}: {value}` is not a header");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(shares: &[u32]) -> Plan {
        let profile = |&share| Profile::get("p", ConnectionUse::New, ["/"]).share(share);
        Plan::new("127.0.0.1:1".parse().unwrap(), shares.iter().map(profile).collect())
    }

    #[test]
    fn turns_follow_the_shares_and_are_spread() {
        assert_eq!(plan(&[1, 1]).turns(), [0, 1]);
        assert_eq!(plan(&[2, 1, 1]).turns(), [0, 1, 2, 0]);
        assert_eq!(plan(&[4, 0, 2]).turns(), [0, 2, 0, 0, 2, 0]);
    }

    #[test]
    fn only_bounded_plans_for_this_machine_are_accepted() {
        let good = plan(&[1]);
        good.check().unwrap();
        let remote = Plan { target: "192.0.2.1:80".parse().unwrap(), ..good.clone() };
        let error = remote.check().unwrap_err().to_string();
        assert!(error.contains("192.0.2.1:80") && error.contains("this machine only"), "{error}");
        Plan { is_remote_allowed: true, ..remote }.check().unwrap();
        Plan { target: "[::ffff:127.0.0.1]:80".parse().unwrap(), ..good.clone() }.check().unwrap();
        let bad_path = Profile::get("p", ConnectionUse::New, ["no-slash"]);
        for bad in [
            Plan { rate_per_second: 0, ..good.clone() },
            Plan { rate_per_second: MAX_RATE + 1, ..good.clone() },
            Plan { max_requests: 0, ..good.clone() },
            Plan { max_requests: MAX_REQUESTS + 1, ..good.clone() },
            Plan { max_duration: MAX_DURATION * 2, ..good.clone() },
            Plan { request_timeout: MAX_TIMEOUT * 2, ..good.clone() },
            Plan { served_by_header: Some("a b".into()), ..good.clone() },
            Plan { max_in_flight: 0, ..good.clone() },
            Plan { profiles: vec![bad_path], ..good },
            plan(&[]),
            plan(&[0]),
            plan(&[MAX_SHARES, 1]),
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
