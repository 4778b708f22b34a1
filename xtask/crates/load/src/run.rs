//! Begins each request when it is due and gathers what becomes of it. Open loop: a slow server does not slow the requests
//! down, and the wait for a late start is part of the latency.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use hyper::header::{self, HeaderName};
use tokio::sync::Semaphore;

use crate::client::{Answer, Connections};
use crate::plan::{Plan, Profile};
use crate::report::{Latency, Loss, Outcome, ProfileReport, Report, SCHEMA, ServedBy};

/// How often an idle generator looks whether it should stop.
const STOP_CHECK: Duration = Duration::from_millis(20);

/// Runs the plan to its end and waits for the last answers, each at most the plan's `request_timeout`. Blocks the calling
/// thread; [`crate::Stop`] ends it from another one.
///
/// # Errors
/// When the plan is refused, before anything is sent.
pub fn run(plan: &Plan) -> Result<Report> {
    plan.check()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = Arc::new(Run {
        began: Instant::now(),
        id: format!("{:016x}", RandomState::new().hash_one(std::process::id())),
        host: plan.host.clone(),
        served_by: plan.served_by()?,
        request_timeout: plan.request_timeout,
        max_losses_listed: plan.max_losses_listed,
        tally: Mutex::new(Tally::new(plan)),
    });
    runtime.block_on(generate(plan, &run));
    Ok(run.report())
}

/// What all requests of a run share.
struct Run {
    began: Instant,
    /// Random, so that a server that remembers ids over several runs sees none twice.
    id: String,
    host: String,
    served_by: Option<HeaderName>,
    request_timeout: Duration,
    max_losses_listed: usize,
    tally: Mutex<Tally>,
}

struct Tally {
    report: Report,
    latencies: Vec<Vec<u64>>,
    names: Vec<String>,
}

/// A request that is due.
struct Due {
    profile: usize,
    at: Instant,
    id: Option<String>,
    request: Request<Full<Bytes>>,
}

/// A request that is over.
struct Ended {
    request: String,
    id: Option<String>,
    outcome: Outcome,
    detail: String,
    served_by: Option<String>,
    due: Duration,
    over: Duration,
}

async fn generate(plan: &Plan, run: &Arc<Run>) {
    let connections =
        |profile: &Profile| Arc::new(Connections::new(plan.target, profile.connection, profile.connections));
    let connections: Vec<_> = plan.profiles.iter().map(connections).collect();
    let places = Arc::new(Semaphore::new(plan.max_in_flight));
    let turns = plan.turns();
    let mut counts = vec![0_usize; plan.profiles.len()];
    for number in 0..plan.max_requests {
        let due_after = Duration::from_secs_f64(number as f64 / f64::from(plan.rate_per_second));
        if due_after >= plan.max_duration || !wait_until(run.began + due_after, plan).await {
            break;
        }
        let profile = turns[(number % turns.len() as u64) as usize];
        let count = counts[profile];
        counts[profile] += 1;
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            run.tally().report.skipped += 1;
            continue;
        };
        let due = run.due(profile, &plan.profiles[profile], number, count, run.began + due_after);
        let (run, connections) = (Arc::clone(run), Arc::clone(&connections[profile]));
        tokio::spawn(async move {
            run.exchange(due, &connections).await;
            drop(place);
        });
    }
    // All places are free when the last request is over; each of them has a time limit.
    let _ = places.acquire_many(u32::try_from(plan.max_in_flight).unwrap_or(u32::MAX)).await;
}

/// False when the run was stopped.
async fn wait_until(due: Instant, plan: &Plan) -> bool {
    loop {
        if plan.stop.is_stopped() {
            return false;
        }
        let now = Instant::now();
        if now >= due {
            // One pass of the event loop, or a generator that is behind would never look at its answers.
            tokio::task::yield_now().await;
            return true;
        }
        tokio::time::sleep((due - now).min(STOP_CHECK)).await;
    }
}

impl Run {
    fn due(&self, index: usize, profile: &Profile, number: u64, count: usize, at: Instant) -> Due {
        let id = profile.has_id().then(|| format!("{}-{number}", self.id));
        let fill = |text: &str| id.as_deref().map_or_else(|| text.to_owned(), |id| text.replace("{id}", id));
        let path = fill(&profile.paths[count % profile.paths.len()]);
        let body = profile.body.as_deref().map(fill).unwrap_or_default();
        let mut request = Request::new(Full::new(Bytes::from(body)));
        *request.method_mut() = profile.method.clone();
        // Both were parsed when the plan was checked.
        *request.uri_mut() = path.parse().unwrap_or_default();
        if let Ok(host) = self.host.parse() {
            request.headers_mut().insert(header::HOST, host);
        }
        for (name, value) in &profile.headers {
            if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), fill(value).parse()) {
                request.headers_mut().append(name, value);
            }
        }
        Due { profile: index, at, id, request }
    }

    async fn exchange(&self, due: Due, connections: &Connections) {
        let Due { profile, at, id, request } = due;
        let text = format!("{} {}", request.method(), request.uri());
        self.tally().begin(at.elapsed());
        let exchange = connections.exchange(request, self.served_by.as_ref());
        let answer = match tokio::time::timeout_at((at + self.request_timeout).into(), exchange).await {
            Ok(answer) => answer,
            Err(_) => {
                Answer::lost(Outcome::Timeout, format!("no complete answer in {:?}", self.request_timeout))
            }
        };
        let now = Instant::now();
        let ended = Ended {
            request: text,
            id,
            outcome: answer.outcome,
            detail: answer.detail,
            served_by: answer.served_by,
            due: at - self.began,
            over: now - self.began,
        };
        self.tally().record(profile, ended, self.max_losses_listed);
    }

    fn report(&self) -> Report {
        let mut tally = self.tally();
        let Tally { report, latencies, names } = &mut *tally;
        for (name, latencies) in names.iter().zip(latencies) {
            report.profiles.entry(name.clone()).or_default().latency = Latency::of(latencies);
        }
        report.duration_ms = millis(self.began.elapsed());
        report.clone()
    }

    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Tally {
    fn new(plan: &Plan) -> Tally {
        let names: Vec<_> = plan.profiles.iter().map(|profile| profile.name.clone()).collect();
        let report = Report {
            schema: SCHEMA.to_owned(),
            target: plan.target.to_string(),
            duration_ms: 0,
            sent: 0,
            ok: 0,
            lost: 0,
            skipped: 0,
            max_lag_us: 0,
            profiles: names.iter().map(|name| (name.clone(), ProfileReport::default())).collect(),
            losses: Vec::new(),
            served_by: BTreeMap::new(),
            acknowledged: Vec::new(),
        };
        Tally { report, latencies: vec![Vec::new(); names.len()], names }
    }

    fn begin(&mut self, lag: Duration) {
        self.report.sent += 1;
        self.report.max_lag_us = self.report.max_lag_us.max(micros(lag));
    }

    fn record(&mut self, profile: usize, ended: Ended, max_losses_listed: usize) {
        let (name, report) = (&self.names[profile], &mut self.report);
        let of_profile = report.profiles.entry(name.clone()).or_default();
        of_profile.sent += 1;
        *of_profile.outcomes.entry(ended.outcome.label()).or_default() += 1;
        let over_ms = millis(ended.over);
        if let Some(value) = ended.served_by {
            let new = ServedBy { count: 0, first_ms: over_ms, last_ms: over_ms };
            let served = report.served_by.entry(value).or_insert(new);
            served.count += 1;
            served.last_ms = over_ms;
        }
        if ended.outcome.is_ok() {
            report.ok += 1;
            self.latencies[profile].push(micros(ended.over - ended.due));
            report.acknowledged.extend(ended.id);
            return;
        }
        report.lost += 1;
        if report.losses.len() < max_losses_listed {
            report.losses.push(Loss {
                profile: name.clone(),
                due_ms: millis(ended.due),
                lost_ms: over_ms,
                request: ended.request,
                id: ended.id,
                outcome: ended.outcome,
                detail: ended.detail,
            });
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
