//! Whether a slot is fit to serve: health checks over HTTP, counted until enough healthy answers came in a row and
//! nothing went wrong for the settle time. It knows instances of slots, not releases. The first end of a process
//! fails the gate.

use std::collections::VecDeque;
use std::fmt;
use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use release::HealthCheck;
use serde::Serialize;

use crate::outcome::Evidence;
use crate::platform::Platform;

/// Until the first healthy answer it is asked at least this often: a start is short, the interval is made for long
/// runs.
const STARTING_INTERVAL: Duration = Duration::from_millis(200);

/// Answers kept as evidence.
const KEPT_ANSWERS: usize = 5;

/// Log lines kept as evidence.
const KEPT_LINES: usize = 20;

/// Bytes of a body kept as evidence.
const KEPT_BODY: u64 = 200;

/// How long a slot without a health check may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer to a health check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// An HTTP answer.
    Http {
        /// Its status.
        status: u16,
        /// The beginning of its body.
        body: String,
    },
    /// There is no health check; the port accepts connections, or the process runs without one.
    Alive,
    /// There was no answer.
    None {
        /// Why.
        reason: String,
    },
}

/// When a slot counts as fit.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    pub(crate) health: Option<HealthCheck>,
    pub(crate) settle: Duration,
}

/// Counts healthy answers in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Streak {
    threshold: u32,
    settle: Duration,
    healthy: u32,
    /// When the threshold was reached, as time since the start.
    reached: Option<Duration>,
}

impl Answer {
    /// Whether the process is fit to serve.
    pub fn is_healthy(&self) -> bool {
        match self {
            Answer::Http { status, .. } => (200..300).contains(status),
            Answer::Alive => true,
            Answer::None { .. } => false,
        }
    }
}

impl Streak {
    /// Takes in an answer that came `at` this time; whether that is enough.
    fn on(&mut self, is_healthy: bool, at: Duration) -> bool {
        if !is_healthy {
            self.healthy = 0;
            self.reached = None;
            return false;
        }
        self.healthy += 1;
        if self.healthy >= self.threshold {
            let reached = *self.reached.get_or_insert(at);
            return at >= reached + self.settle;
        }
        false
    }
}

/// Waits until all instances of `slot` are fit to serve. A platform that cannot be asked for a moment is no failure of
/// the slot: it has the time that a start may take to answer again.
///
/// # Errors
/// What is known, when one of them ended, when they are not fit in time, or when `is_given_up` says so.
pub(crate) fn gate(
    step: &str,
    platform: &dyn Platform,
    slot: &str,
    rules: &Rules,
    is_given_up: &dyn Fn() -> bool,
) -> Result<(), Evidence> {
    let (interval, threshold, timeout) = match &rules.health {
        Some(health) => (
            Duration::from_millis(health.interval_ms),
            health.healthy_threshold,
            Duration::from_millis(health.start_timeout_ms),
        ),
        None => (STARTING_INTERVAL, 1, START_TIMEOUT),
    };
    let start = Instant::now();
    let mut streak = Streak { threshold, settle: rules.settle, healthy: 0, reached: None };
    let mut answers = VecDeque::new();
    let fail =
        |message: String, answers: VecDeque<Answer>| Err(evidence(step, message, answers, platform, slot));
    loop {
        let (round, ended) = ask_all(platform, slot, rules.health.as_ref());
        let is_healthy = round.iter().all(Answer::is_healthy);
        answers.extend(round);
        answers.drain(..answers.len().saturating_sub(KEPT_ANSWERS));
        if let Some(ended) = ended {
            return fail(ended.to_owned(), answers);
        }
        if streak.on(is_healthy, start.elapsed()) {
            return Ok(());
        }
        if start.elapsed() > timeout + rules.settle {
            return fail(
                format!("not {threshold} healthy answers in a row within {} ms", timeout.as_millis()),
                answers,
            );
        }
        let pause = if streak.healthy == 0 { interval.min(STARTING_INTERVAL) } else { interval };
        if sleep_unless(pause, is_given_up) {
            return fail("given up".to_owned(), answers);
        }
    }
}

/// One answer of each instance, and in words that one of them ended since its start.
fn ask_all(
    platform: &dyn Platform,
    slot: &str,
    health: Option<&HealthCheck>,
) -> (Vec<Answer>, Option<&'static str>) {
    match platform.instances(slot) {
        Ok(instances) if instances.is_empty() => {
            (vec![Answer::None { reason: "nothing was started".to_owned() }], None)
        }
        Ok(instances) => {
            // Before the question: an end that comes between the two is seen in the next round.
            let ends: Vec<_> = instances.iter().flat_map(|instance| &instance.exits).collect();
            let ended = match ends.iter().any(|end| end.out_of_memory.is_some()) {
                true => Some("a process was killed because it used more memory than it may"),
                false => (!ends.is_empty()).then_some("a process ended"),
            };
            (instances.iter().map(|instance| instance.ask(health)).collect(), ended)
        }
        Err(error) => (vec![Answer::None { reason: format!("{error:#}") }], None),
    }
}

/// What is known of the slot whose step failed.
pub(crate) fn evidence(
    step: &str,
    message: String,
    answers: VecDeque<Answer>,
    platform: &dyn Platform,
    slot: &str,
) -> Evidence {
    let instances = platform.instances(slot).unwrap_or_default();
    let tail = |number| platform.log(slot, number, KEPT_LINES).map(|log| log.0).unwrap_or_default();
    Evidence {
        step: step.to_owned(),
        message,
        answers: answers.into(),
        log_tail: (0..instances.len()).flat_map(tail).collect(),
        exits: instances.into_iter().flat_map(|instance| instance.exits).collect(),
    }
}

/// Whether `is_given_up` became true within `pause`.
fn sleep_unless(pause: Duration, is_given_up: &dyn Fn() -> bool) -> bool {
    crate::replica::wait_until(pause, is_given_up)
}

/// One GET, of which the status and the beginning of the body are kept.
pub(crate) fn get(address: SocketAddr, path: &str, timeout: Duration) -> Answer {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_global(Some(timeout))
        .http_status_as_error(false)
        .max_redirects(0)
        .proxy(None)
        .build()
        .into();
    let mut answer = match agent.get(format!("http://{address}{path}")).header("connection", "close").call() {
        Ok(answer) => answer,
        Err(error) => return Answer::None { reason: error.to_string() },
    };
    let mut body = Vec::new();
    match answer.body_mut().as_reader().take(KEPT_BODY).read_to_end(&mut body) {
        Ok(_) => Answer::Http {
            status: answer.status().as_u16(),
            body: String::from_utf8_lossy(&body).trim_end().to_owned(),
        },
        Err(error) => Answer::None { reason: format!("status {}, then {error}", answer.status().as_u16()) },
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Http { status, body } => write!(f, "{status} {}", body.escape_debug()),
            Answer::Alive => f.write_str("alive"),
            Answer::None { reason } => write!(f, "no answer: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_streak_needs_the_threshold_and_the_settle_time_without_a_break() {
        let check = |answers: &[(bool, u64)], expected: Option<usize>| {
            let settle = Duration::from_millis(500);
            let mut streak = Streak { threshold: 3, settle, healthy: 0, reached: None };
            let passed =
                answers.iter().position(|(healthy, at)| streak.on(*healthy, Duration::from_millis(*at)));
            assert_eq!(passed, expected, "{answers:?}");
        };
        check(&[(true, 0), (true, 200), (true, 400), (true, 600), (true, 800), (true, 1000)], Some(5));
        check(&[(true, 0), (true, 1), (true, 2), (true, 502)], Some(3));
        check(&[(true, 0), (true, 1), (true, 2), (false, 400), (true, 600), (true, 700), (true, 800)], None);
        check(&[(true, 0), (false, 1), (true, 2), (false, 3), (true, 1000), (false, 1001)], None);
    }
}
