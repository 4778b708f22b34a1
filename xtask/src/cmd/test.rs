//! `cargo xtask test`: the tests of the whole workspace.

use std::io::{BufRead, BufReader, IsTerminal, stdout};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, anyhow};
use stdx::Cmd;

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::print;

pub(crate) fn run(flags: &flags::Test) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // Never `--package`: that would resolve other features and silently leave tests out.
    let cmd = Cmd::new(cargo).args(["test", "--workspace", "--locked"]).args(&flags.arguments).cwd(root);
    if flags.dry_run {
        return print(&format!("{cmd}\n"));
    }
    let status = follow(&mut cmd.to_std()?).with_context(|| format!("cannot run {cmd}"))?;
    if !status.success() {
        return Err(anyhow!("tests failed: `{cmd}` ended with {status}")).or_exit(Code::TestsFailed);
    }
    Ok(())
}

/// Runs the command. On a terminal it writes there by itself; elsewhere what it writes is passed on and counted, so that a log
/// ends with one line for all test binaries.
fn follow(command: &mut Command) -> Result<ExitStatus> {
    if stdout().is_terminal() {
        return Ok(command.status()?);
    }
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut tally = Tally::default();
    for line in BufReader::new(child.stdout.take().context("no standard output")?).lines() {
        let line = line?;
        tally.add(&line);
        print(&format!("{line}\n"))?;
    }
    let status = child.wait()?;
    let Tally { passed, failed, ignored } = tally;
    print(&format!("{passed} passed, {failed} failed, {ignored} skipped\n"))?;
    Ok(status)
}

/// Tests over all binaries, by outcome.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Tally {
    /// Counts a line such as `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.1s`.
    fn add(&mut self, line: &str) {
        let Some((_, counts)) = line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        else {
            return;
        };
        for count in counts.split("; ") {
            let (number, what) = count.split_once(' ').unwrap_or_default();
            let number = number.parse().unwrap_or(0);
            match what {
                "passed" => self.passed += number,
                "failed" => self.failed += number,
                "ignored" => self.ignored += number,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_all_binaries_add_up() {
        let mut tally = Tally::default();
        tally.add(
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.10s",
        );
        tally.add("test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.10s");
        tally.add("test some::name ... ok");
        assert_eq!(tally, Tally { passed: 4, failed: 2, ignored: 1 });
    }
}
