//! Documentation tests: compiled and run by rustdoc in one go, so one test for a plan, and as many as it says in a report.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stdx::Cmd;

use crate::run::{self, Event, Job, Options, Outcome, Verdict};
use crate::targets::cargo;
use crate::{DOCTESTS, Targets, Test};

/// What the documentation tests gave.
#[derive(Debug, Clone)]
pub struct Doctests {
    /// All of them as one.
    pub whole: Outcome,
    /// Each of them.
    pub each: Vec<Outcome>,
}

/// The command that runs the documentation tests of all libraries. The first of the filters goes to cargo as it is; like cargo,
/// rustdoc takes more of them behind the dashes.
pub fn command(targets: &Targets, filters: &[String], args: &[String]) -> Cmd {
    let cmd = cargo().args(["test", "--doc", "--workspace", "--locked", "--no-fail-fast"]).cwd(&targets.root);
    cmd.arg("--").args(filters).args(args)
}

/// Runs them. `interrupt` ends them.
pub fn run(cmd: Cmd, is_output_shown: bool, slow_after: Duration, interrupt: &AtomicBool) -> Doctests {
    let test = Test::doctests();
    let job = Job { test: test.clone(), command: cmd, expected: 0.0, group: None, must_report: false };
    let options = Options {
        slots: 1,
        groups: Default::default(),
        slow_after,
        timeout: None,
        // Counting needs the output; it is shown afterwards.
        is_output_shown: false,
        interrupt,
    };
    let whole = run::run(vec![job], &options, &|_: Event<'_>| ())
        .pop()
        .unwrap_or_else(|| Outcome::new(&test, Verdict::Interrupted, 0.0, "not started"));
    if is_output_shown && !interrupt.load(Ordering::Relaxed) {
        eprint!("{}", whole.output);
    }
    let each = parse(&whole.output);
    Doctests { whole, each }
}

/// The tests that rustdoc names: `test src/lib.rs - name (line 7) ... ok`, below a heading for each library.
fn parse(output: &str) -> Vec<Outcome> {
    let mut library = "";
    let mut outcomes = Vec::new();
    for line in output.lines() {
        if let Some(name) = line.trim_start().strip_prefix("Doc-tests ") {
            library = name;
        }
        let Some((name, verdict)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... "))
        else {
            continue;
        };
        let verdict = match verdict.split([' ', ',']).next() {
            Some("ok") => Verdict::Passed,
            Some("FAILED") => Verdict::Failed,
            Some("ignored") => Verdict::Skipped,
            _ => continue,
        };
        let test = Test { binary: DOCTESTS.to_owned(), name: format!("{library}: {name}") };
        outcomes.push(Outcome::new(&test, verdict, 0.0, ""));
    }
    outcomes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_one_that_rustdoc_names_is_counted() {
        let output = "   Doc-tests alpha\n\nrunning 2 tests\ntest src/lib.rs - f (line 3) ... ok\n\
            test src/lib.rs - g (line 9) - compile ... FAILED\ntest src/lib.rs - h (line 12) ... ignored\n\
            test result: FAILED. 1 passed; 1 failed\n   Doc-tests beta\nrunning 0 tests\n";
        let found: Vec<_> = parse(output).into_iter().map(|o| (o.test.name, o.verdict)).collect();
        assert_eq!(found[0], ("alpha: src/lib.rs - f (line 3)".to_owned(), Verdict::Passed));
        assert_eq!((found[1].1, found[2].1, found.len()), (Verdict::Failed, Verdict::Skipped, 3));
    }
}
