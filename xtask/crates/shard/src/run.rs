//! Runs tests, each in a process of its own, longest first, on as many slots as asked. It does not know which tests to run or
//! how results look. Whatever happens, every job has exactly one outcome, and no process that was started is left when the run is
//! interrupted.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};
use serde::{Deserialize, Serialize};
use stdx::{Cmd, Tied};

use crate::Test;

/// How much of a test's output is kept: its end, where the failure is.
const MAX_OUTPUT: u64 = 1 << 20;

/// How often running tests are looked at.
const TICK: Duration = Duration::from_millis(50);

/// What a test that is told to end may still do before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// A test that is to run.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which.
    pub test: Test,
    /// What runs it.
    pub command: Cmd,
    /// Expected seconds: longer ones start first.
    pub expected: f64,
    /// Tests with the same group share its slots.
    pub group: Option<String>,
    /// Whether the output must say that one test ran: that of Rust's own harness does.
    pub must_report: bool,
}

/// How tests run.
#[derive(Debug)]
pub struct Options<'a> {
    /// Tests at the same time.
    pub slots: usize,
    /// Tests of a group at the same time.
    pub groups: BTreeMap<String, usize>,
    /// When a running test is first called slow.
    pub slow_after: Duration,
    /// When a test is ended, if ever.
    pub timeout: Option<Duration>,
    /// Whether tests write where this program does, instead of being shown when they fail.
    pub is_output_shown: bool,
    /// Raised by the user: all tests end, and none starts.
    pub interrupt: &'a AtomicBool,
}

/// What happens during a run.
#[derive(Debug)]
pub enum Event<'a> {
    /// A test runs for longer than most.
    Slow(&'a Test, Duration),
    /// A test is done.
    Finished(&'a Outcome),
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Which.
    #[serde(flatten)]
    pub test: Test,
    /// How.
    pub verdict: Verdict,
    /// How long it ran.
    pub seconds: f64,
    /// Why it failed, in words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// The end of what it wrote; kept for tests that failed.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub output: String,
}

/// How a test ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It passed.
    Passed,
    /// It failed, or was ended after its time.
    Failed,
    /// It is ignored, and was not asked for.
    Skipped,
    /// The run was interrupted before it was done.
    Interrupted,
}

/// Runs all jobs. The outcomes come in the order in which they ended; a test that cannot be started has one as well.
pub fn run(jobs: Vec<Job>, options: &Options<'_>, report: &(dyn Fn(Event<'_>) + Sync)) -> Vec<Outcome> {
    let mut queue = jobs;
    queue.sort_by(|a, b| b.expected.total_cmp(&a.expected).then_with(|| a.test.cmp(&b.test)));
    let slots = options.slots.clamp(1, queue.len().max(1));
    let pool = Pool { options, state: Mutex::default(), changed: Condvar::new(), report };
    pool.lock().queue = queue.into();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| pool.watch(&is_over));
        let workers: Vec<_> = (0..slots).map(|_| scope.spawn(|| pool.work())).collect();
        // A panic is passed on when the watch has ended: it would wait for ever for a flag that nobody raises.
        let ended: Vec<_> = workers.into_iter().map(ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        ended.into_iter().chain([watch.join()]).for_each(pass_on);
    });
    pool.state.into_inner().unwrap_or_else(PoisonError::into_inner).done
}

fn pass_on(ended: std::thread::Result<()>) {
    ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

struct Pool<'a> {
    options: &'a Options<'a>,
    state: Mutex<State>,
    changed: Condvar,
    report: &'a (dyn Fn(Event<'_>) + Sync),
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    /// By process id, which is the process group's as well.
    running: BTreeMap<i32, Running>,
    in_group: BTreeMap<String, usize>,
    done: Vec<Outcome>,
}

struct Running {
    test: Test,
    since: Instant,
    next_warning: Duration,
    told_to_end: Option<Instant>,
    timed_out: bool,
}

impl Pool<'_> {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_interrupted(&self) -> bool {
        self.options.interrupt.load(Ordering::Relaxed)
    }

    fn work(&self) {
        while let Some(job) = self.next() {
            let outcome = if self.is_interrupted() {
                Outcome::new(&job.test, Verdict::Interrupted, 0.0, "not started")
            } else {
                self.run(&job).unwrap_or_else(|error| {
                    Outcome::new(&job.test, Verdict::Failed, 0.0, &format!("cannot be run: {error:#}"))
                })
            };
            (self.report)(Event::Finished(&outcome));
            let mut state = self.lock();
            if let Some(count) = job.group.as_ref().and_then(|group| state.in_group.get_mut(group)) {
                *count -= 1;
            }
            state.done.push(outcome);
            self.changed.notify_all();
        }
    }

    /// The first job whose group has a slot free; waits for one as long as there are jobs.
    fn next(&self) -> Option<Job> {
        let mut state = self.lock();
        loop {
            let is_free = |job: &Job| {
                let Some(group) = &job.group else { return true };
                let limit = self.options.groups.get(group).copied().unwrap_or(usize::MAX).max(1);
                state.in_group.get(group).copied().unwrap_or(0) < limit
            };
            if let Some(at) = state.queue.iter().position(is_free) {
                let job = state.queue.remove(at)?;
                if let Some(group) = &job.group {
                    *state.in_group.entry(group.clone()).or_default() += 1;
                }
                return Some(job);
            }
            if state.queue.is_empty() {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn run(&self, job: &Job) -> Result<Outcome> {
        let mut output = tempfile::tempfile().context("cannot make a temporary file")?;
        let started = Instant::now();
        let mut child = self.spawn(job, &output)?;
        let tied = Tied::new(&child);
        let pid = child.id() as i32;
        let running = Running {
            test: job.test.clone(),
            since: started,
            next_warning: self.options.slow_after,
            told_to_end: None,
            timed_out: false,
        };
        self.lock().running.insert(pid, running);
        wait_without_reaping(&child);
        drop(tied);
        // Only after this may the process id be given to another process, and nobody signals it any more.
        let running = self.lock().running.remove(&pid);
        let status = child.wait().with_context(|| format!("cannot wait for {}", job.test))?;
        let seconds = started.elapsed().as_secs_f64();
        let told_to_end = running.as_ref().and_then(|running| running.told_to_end);
        let was_stopped = told_to_end.is_some();
        told_to_end.into_iter().for_each(|when| end_the_rest(pid, when));
        let timed_out = running.is_some_and(|running| running.timed_out);
        let text = tail(&mut output)?;
        let reason = self.reason(job, status, timed_out, &text);
        let verdict = match &reason {
            None => Verdict::Passed,
            Some(_) if was_stopped && !timed_out => Verdict::Interrupted,
            Some(_) => Verdict::Failed,
        };
        let mut outcome = Outcome::new(&job.test, verdict, seconds, &reason.unwrap_or_default());
        outcome.output = text;
        Ok(outcome)
    }

    fn spawn(&self, job: &Job, output: &File) -> Result<Child> {
        let mut command = job.command.to_std()?;
        // A group of its own: what the test started can be ended with it, and a Ctrl-C of the terminal comes here alone.
        command.stdin(Stdio::null()).process_group(0);
        if !self.options.is_output_shown {
            // A file, not a pipe: processes that outlive the test do not keep us waiting, and nothing is lost on a crash.
            command.stdout(output.try_clone()?).stderr(output.try_clone()?);
        }
        command.spawn().with_context(|| format!("cannot run {}", job.command))
    }

    /// Why the test failed, if it did.
    fn reason(&self, job: &Job, status: ExitStatus, timed_out: bool, output: &str) -> Option<String> {
        if timed_out {
            return Some(format!("ended after its {} s", self.options.timeout.unwrap_or_default().as_secs()));
        }
        if let Some(signal) = status.signal() {
            return Some(format!("killed by signal {signal}"));
        }
        if !status.success() {
            return Some(format!("ended with {status}"));
        }
        let is_silent = job.must_report && !self.options.is_output_shown;
        (is_silent && !output.contains("test result: ok. 1 passed"))
            .then(|| "ended with success, but without saying that the test ran".to_owned())
    }

    /// Warns of slow tests, ends those that are over their time, and all when interrupted.
    fn watch(&self, is_over: &AtomicBool) {
        while !is_over.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            let is_interrupted = self.is_interrupted();
            let mut slow = Vec::new();
            for (pid, running) in &mut self.lock().running {
                let elapsed = running.since.elapsed();
                if elapsed >= running.next_warning {
                    running.next_warning += self.options.slow_after.max(TICK);
                    slow.push((running.test.clone(), elapsed));
                }
                let is_late = self.options.timeout.is_some_and(|timeout| elapsed >= timeout);
                if is_late || is_interrupted {
                    running.timed_out |= is_late && running.told_to_end.is_none();
                    end(*pid, &mut running.told_to_end);
                }
            }
            for (test, elapsed) in slow {
                (self.report)(Event::Slow(&test, elapsed));
            }
        }
    }
}

/// Asks the process group to end; after a while, kills it.
fn end(pid: i32, told: &mut Option<Instant>) {
    let Some(group) = Pid::from_raw(pid) else { return };
    // A group that is gone already is what was wanted.
    match told {
        None => {
            *told = Some(Instant::now());
            let _ = kill_process_group(group, Signal::TERM);
        }
        Some(when) if when.elapsed() >= GRACE => {
            let _ = kill_process_group(group, Signal::KILL);
        }
        Some(_) => {}
    }
}

/// What the test started was told to end with it; what is left after a while is killed. The number of a group is given to no other
/// as long as one process of it lives.
fn end_the_rest(pid: i32, told: Instant) {
    let Some(group) = Pid::from_raw(pid) else { return };
    while test_kill_process_group(group).is_ok() {
        if told.elapsed() >= GRACE {
            let _ = kill_process_group(group, Signal::KILL);
            return;
        }
        std::thread::sleep(TICK);
    }
}

/// Waits until the process has ended and leaves it, so that its id stays its own.
fn wait_without_reaping(child: &Child) {
    let Some(pid) = Pid::from_raw(child.id() as i32) else { return };
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), options) {}
}

fn tail(file: &mut File) -> Result<String> {
    let length = file.seek(SeekFrom::End(0))?;
    file.seek(SeekFrom::Start(length.saturating_sub(MAX_OUTPUT)))?;
    let mut bytes = Vec::new();
    file.take(MAX_OUTPUT).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    Ok(match length.saturating_sub(MAX_OUTPUT) {
        0 => text.into_owned(),
        lost => format!("[the first {lost} bytes are left out]\n{text}"),
    })
}

impl Outcome {
    /// An outcome without output.
    pub fn new(test: &Test, verdict: Verdict, seconds: f64, reason: &str) -> Outcome {
        // Milliseconds are enough, and read well in a report.
        let seconds = (seconds * 1e3).round() / 1e3;
        Outcome { test: test.clone(), verdict, seconds, reason: reason.to_owned(), output: String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(name: &str, script: &str) -> Job {
        Job {
            test: Test { binary: "b".to_owned(), name: name.to_owned() },
            command: Cmd::new("sh").args(["-c", script]),
            expected: 0.0,
            group: None,
            must_report: false,
        }
    }

    fn options(interrupt: &AtomicBool) -> Options<'_> {
        Options {
            slots: 2,
            groups: BTreeMap::new(),
            slow_after: Duration::from_secs(60),
            timeout: None,
            is_output_shown: false,
            interrupt,
        }
    }

    fn outcome(job: Job, options: &Options<'_>) -> Outcome {
        run(vec![job], options, &|_| ()).remove(0)
    }

    #[test]
    fn success_failure_and_what_was_written() {
        let interrupt = AtomicBool::new(false);
        let options = options(&interrupt);
        assert_eq!(outcome(job("a", "true"), &options).verdict, Verdict::Passed);
        let failed = outcome(job("a", "echo out; echo err >&2; exit 3"), &options);
        assert_eq!((failed.verdict, failed.output.as_str()), (Verdict::Failed, "out\nerr\n"));
        assert!(failed.reason.contains('3'), "{}", failed.reason);
        let killed = outcome(job("a", "kill -9 $$"), &options);
        assert!(killed.verdict == Verdict::Failed && killed.reason.contains("signal 9"), "{}", killed.reason);
        let absent = Job { command: Cmd::new("no-such-program"), ..job("a", "") };
        assert!(outcome(absent, &options).reason.contains("no-such-program"));
    }

    #[test]
    fn success_without_a_word_of_the_harness_is_a_failure() {
        let interrupt = AtomicBool::new(false);
        let silent = Job { must_report: true, ..job("a", "exit 0") };
        assert_eq!(outcome(silent, &options(&interrupt)).verdict, Verdict::Failed);
        let honest = Job { must_report: true, ..job("a", "echo 'test result: ok. 1 passed; 0 failed'") };
        assert_eq!(outcome(honest, &options(&interrupt)).verdict, Verdict::Passed);
    }

    #[test]
    fn what_outlives_a_test_does_not_keep_us_waiting() {
        let interrupt = AtomicBool::new(false);
        let started = Instant::now();
        assert_eq!(outcome(job("a", "sleep 20 & true"), &options(&interrupt)).verdict, Verdict::Passed);
        assert!(started.elapsed() < Duration::from_secs(10));
    }

    #[test]
    fn a_test_over_its_time_is_ended_with_all_it_started() {
        let interrupt = AtomicBool::new(false);
        let options = Options { timeout: Some(Duration::from_millis(100)), ..options(&interrupt) };
        let found = outcome(job("a", "trap '' TERM; sleep 30 & wait; sleep 30"), &options);
        assert_eq!(found.verdict, Verdict::Failed);
        assert!(found.reason.contains("ended after"), "{}", found.reason);
    }

    #[test]
    fn what_does_not_end_with_its_test_is_killed_after_it() {
        let interrupt = AtomicBool::new(false);
        let options = Options { timeout: Some(Duration::from_millis(100)), ..options(&interrupt) };
        let folder = tempfile::tempdir().unwrap();
        let pid = folder.path().join("pid");
        let script =
            format!("trap '' TERM; sleep 60 & trap - TERM; echo $! > {}; exec sleep 60", pid.display());
        assert_eq!(outcome(job("a", &script), &options).verdict, Verdict::Failed);
        let pid = std::fs::read_to_string(&pid).unwrap();
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
        assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    }

    #[test]
    fn a_panic_is_passed_on_instead_of_waiting_for_ever() {
        let interrupt = AtomicBool::new(false);
        let report = |_: Event<'_>| panic!("no more words");
        let run = || run(vec![job("a", "true")], &options(&interrupt), &report);
        assert!(std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err());
    }

    #[test]
    fn the_end_of_a_long_output_is_kept_and_the_rest_is_told() {
        let interrupt = AtomicBool::new(false);
        let long = outcome(
            job("a", "head -c 2000000 /dev/zero | tr '\\0' x; echo end; false"),
            &options(&interrupt),
        );
        assert!(long.output.starts_with("[the first 951428 bytes are left out]\n"), "{}", &long.output[..60]);
        assert!(long.output.ends_with("xend\n"));
    }

    #[test]
    fn slow_tests_are_called_slow_while_they_run() {
        let interrupt = AtomicBool::new(false);
        let options = Options { slow_after: Duration::from_millis(100), ..options(&interrupt) };
        let warnings = Mutex::new(0);
        let report =
            |event: Event<'_>| *warnings.lock().unwrap() += usize::from(matches!(event, Event::Slow(..)));
        run(vec![job("a", "sleep 0.5")], &options, &report);
        assert!(*warnings.lock().unwrap() >= 2);
    }

    #[test]
    fn an_interrupt_ends_what_runs_and_starts_nothing() {
        let interrupt = AtomicBool::new(false);
        let jobs = (0..6).map(|index| job(&index.to_string(), "sleep 30")).collect();
        let started = Instant::now();
        let outcomes = std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(300));
                interrupt.store(true, Ordering::Relaxed);
            });
            run(jobs, &options(&interrupt), &|_| ())
        });
        assert!(started.elapsed() < Duration::from_secs(20));
        assert_eq!(outcomes.len(), 6);
        assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Interrupted));
    }

    #[test]
    fn longest_first_and_groups_keep_their_limit() {
        let interrupt = AtomicBool::new(false);
        let folder = tempfile::tempdir().unwrap();
        // Two of the group at the same time would find the folder of the other.
        let script = format!("mkdir {0}/busy && sleep 0.1 && rmdir {0}/busy", folder.path().display());
        let jobs = (0..6)
            .map(|index| Job {
                group: Some("one".to_owned()),
                expected: f64::from(index),
                ..job(&index.to_string(), &script)
            })
            .collect();
        let options = Options { slots: 4, groups: [("one".to_owned(), 1)].into(), ..options(&interrupt) };
        let outcomes = run(jobs, &options, &|_| ());
        assert!(outcomes.iter().all(|outcome| outcome.verdict == Verdict::Passed), "{outcomes:?}");
        let order: Vec<&str> = outcomes.iter().map(|outcome| outcome.test.name.as_str()).collect();
        assert_eq!(order, ["5", "4", "3", "2", "1", "0"]);
    }
}
