//! Asks test binaries which tests they have.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context, Result, bail};

use crate::WHOLE;
use crate::compile::BuiltBinary;

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
    let output = cmd.to_std()?.stdin(Stdio::null()).output().with_context(|| format!("cannot run {cmd}"))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} does not list its tests: `{cmd}` ended with {}\n{}",
            binary.id,
            output.status,
            stderr.trim_end()
        );
    }
    parse(&output.stdout).with_context(|| format!("{} does not list its tests as libtest does", binary.id))
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
    fn names_may_hold_anything() {
        let found = parse(b"a::b: test\ncase (x: test): test\n\xc3\xbc: test\nfast: benchmark\n").unwrap();
        assert_eq!(found, ["a::b", "case (x: test)", "ü"]);
        assert!(parse(b"running things\n").is_err() && parse(b"\xff: test\n").is_err());
        assert!(parse(b"").unwrap().is_empty());
    }
}
