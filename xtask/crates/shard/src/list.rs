//! Asks test binaries which tests they have.

use std::collections::BTreeMap;
use std::io::{Read, Seek};
use std::process::{ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use stdx::Cmd;

use crate::WHOLE;
use crate::compile::BuiltBinary;

/// A program that does not say its tests in this time has a `main` that does something else.
const LIMIT: Duration = Duration::from_secs(60);

/// More is no list of tests.
const MAX_LIST: u64 = 64 << 20;

/// The tests of each binary by id: names, and whether each is ignored. A binary with a `main` of its own that does not list its
/// tests has one, [`WHOLE`].
///
/// # Errors
/// When a binary does not list its tests.
pub fn list(binaries: &[BuiltBinary], slots: usize) -> Result<BTreeMap<String, BTreeMap<String, bool>>> {
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some(binary) = binaries.get(next.fetch_add(1, Ordering::Relaxed)) {
            let tests = tests_of(binary);
            found.lock().unwrap_or_else(|error| error.into_inner()).push((binary.id.clone(), tests));
        }
    };
    std::thread::scope(|scope| {
        (0..slots.max(1)).for_each(|_| {
            scope.spawn(work);
        });
    });
    let found = found.into_inner().unwrap_or_else(|error| error.into_inner());
    found.into_iter().map(|(id, tests)| Ok((id, tests?))).collect()
}

fn tests_of(binary: &BuiltBinary) -> Result<BTreeMap<String, bool>> {
    let all = names(binary, &[]);
    if !binary.has_harness && !all.as_ref().is_ok_and(|names| !names.is_empty()) {
        return Ok([(WHOLE.to_owned(), false)].into());
    }
    let mut tests: BTreeMap<String, bool> = all?.into_iter().map(|name| (name, false)).collect();
    for name in names(binary, &["--ignored"])? {
        tests.insert(name, true);
    }
    Ok(tests)
}

fn names(binary: &BuiltBinary, more: &[&str]) -> Result<Vec<String>> {
    let cmd = binary.command.clone().args(["--list", "--format", "terse"]).args(more);
    let (status, stdout, stderr) = output(&cmd, LIMIT)?;
    if !status.success() {
        let stderr = String::from_utf8_lossy(&stderr);
        bail!("{} does not list its tests: `{cmd}` ended with {status}\n{}", binary.id, stderr.trim_end());
    }
    parse(&stdout).with_context(|| format!("{} does not list its tests as libtest does", binary.id))
}

/// What the command writes, in files: what a `main` of another kind leaves running in the background must not keep us waiting.
fn output(cmd: &Cmd, limit: Duration) -> Result<(ExitStatus, Vec<u8>, Vec<u8>)> {
    let file = || tempfile::tempfile().context("cannot make a temporary file");
    let (mut stdout, mut stderr) = (file()?, file()?);
    let mut command = cmd.to_std()?;
    command.stdin(Stdio::null()).stdout(stdout.try_clone()?).stderr(stderr.try_clone()?);
    let mut child = command.spawn().with_context(|| format!("cannot run {cmd}"))?;
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if started.elapsed() >= limit {
            child.kill()?;
            child.wait()?;
            bail!("`{cmd}` did not end within {} s", limit.as_secs());
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(20));
    };
    let read = |file: &mut std::fs::File| -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        file.rewind()?;
        file.take(MAX_LIST).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    Ok((status, read(&mut stdout)?, read(&mut stderr)?))
}

/// Names in a listing: `module::name: test`, a line each. Benchmarks are no tests.
fn parse(listing: &[u8]) -> Result<Vec<String>> {
    let text = std::str::from_utf8(listing).context("the list is not UTF-8")?;
    let mut names = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        match line.rsplit_once(": ") {
            Some((name, "test")) => names.push(name.to_owned()),
            Some((_, "benchmark")) => {}
            _ => bail!("`{line}` is no line of a list of tests"),
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_what_goes_on_in_the_background_nor_what_never_ends_keeps_us_waiting() {
        let sh = |script: &str| Cmd::new("sh").args(["-c", script]);
        let started = Instant::now();
        let (status, stdout, _) = output(&sh("sleep 30 & echo a: test"), LIMIT).unwrap();
        assert!(status.success() && stdout == b"a: test\n");
        let error = output(&sh("exec sleep 30"), Duration::from_millis(50)).unwrap_err();
        assert!(error.to_string().contains("did not end"), "{error}");
        assert!(started.elapsed() < Duration::from_secs(20));
    }

    #[test]
    fn names_may_hold_anything() {
        let found = parse(b"a::b: test\ncase (x: test): test\n\xc3\xbc: test\nfast: benchmark\n").unwrap();
        assert_eq!(found, ["a::b", "case (x: test)", "ü"]);
        assert!(parse(b"running things\n").is_err() && parse(b"\xff: test\n").is_err());
        assert!(parse(b"").unwrap().is_empty());
    }
}
