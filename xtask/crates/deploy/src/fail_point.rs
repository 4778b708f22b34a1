//! Places where a test may kill the deployer. Named in `SLIPWAY_FAIL_POINT=<step>:<moment>`; without the variable
//! they do nothing. The death is a SIGKILL, so nothing is flushed, unlocked or cleared away.

use rustix::process::{Signal, getpid, kill_process};

/// The variable that names the place.
pub const VARIABLE: &str = "SLIPWAY_FAIL_POINT";

/// The steps that have fail points.
pub const STEPS: [&str; 11] = [
    "lock",
    "recover",
    "preflight",
    "unpack",
    "start",
    "gate",
    "switch",
    "drain",
    "stop",
    "retire",
    "discard",
];

/// The moments of a step.
pub const MOMENTS: [&str; 4] = ["before-intent", "after-intent", "after-effect", "after-done"];

/// The place to die at, if there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FailPoint(Option<String>);

impl FailPoint {
    /// Reads the variable.
    pub(crate) fn from_env() -> FailPoint {
        FailPoint(std::env::var(VARIABLE).ok())
    }

    /// Dies if this is the place.
    pub(crate) fn pass(&self, step: &str, moment: &str) {
        let is_here = self.0.as_deref().and_then(|place| place.split_once(':')) == Some((step, moment));
        if is_here && kill_process(getpid(), Signal::KILL).is_ok() {
            loop {
                std::thread::park();
            }
        }
    }
}
