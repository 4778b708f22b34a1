//! How long tests and builds took before: one line of JSON for each, a few samples each, kept between runs. It knows nothing of
//! shards. A damaged line costs that line only: timings make a plan good, never right.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::Test;

/// Later samples push out earlier ones: what a test took months ago says little of what it takes now.
const KEPT_SAMPLES: usize = 8;

/// Beyond this a file is no store of timings (about a million tests).
const MAX_BYTES: usize = 256 << 20;

/// Longer lines, or longer durations in seconds, are damage.
const MAX_LINE: usize = 64 << 10;
const MAX_SECONDS: f64 = 7.0 * 86_400.0;

/// What was measured earlier.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Timings {
    tests: BTreeMap<Test, BTreeMap<String, Samples>>,
    builds: BTreeMap<String, BTreeMap<String, Samples>>,
    /// How many tests each binary had when it was last listed.
    listed: BTreeMap<String, usize>,
    /// Lines of the file that could not be read.
    pub damaged_lines: usize,
}

/// Durations of one thing, oldest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples {
    /// In seconds; never empty.
    pub seconds: Vec<f64>,
    /// When the last one was taken, in seconds since 1970; 0 where nobody wrote it down.
    pub recorded: u64,
}

/// A line of the file.
#[derive(Serialize, Deserialize)]
struct Line {
    binary: String,
    /// Where there is none, this is the cost of building the binary, or how many tests it has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    test: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tests: Option<usize>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    seconds: Vec<f64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    runner: String,
    #[serde(default, skip_serializing_if = "is_zero")]
    recorded: u64,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Timings {
    /// Reads the file at `path`; nothing is known where there is none.
    ///
    /// # Errors
    /// When the file cannot be read. What is in it is never an error.
    pub fn load(path: &Path) -> Result<Timings> {
        Ok(stdx::fs::read_if_exists(path)?.map(|bytes| Timings::parse(&bytes)).unwrap_or_default())
    }

    /// Reads the text of a file; lines that make no sense are counted and left out.
    pub fn parse(bytes: &[u8]) -> Timings {
        let mut timings = Timings::default();
        let bytes = &bytes[..bytes.len().min(MAX_BYTES)];
        for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()) {
            match parse_line(line) {
                Some(line) => timings.insert(line),
                None => timings.damaged_lines += 1,
            }
        }
        timings
    }

    fn insert(&mut self, line: Line) {
        if let Some(tests) = line.tests {
            self.listed.insert(line.binary, tests);
            return;
        }
        let start = line.seconds.len().saturating_sub(KEPT_SAMPLES);
        let samples = Samples { seconds: line.seconds[start..].to_vec(), recorded: line.recorded };
        let by_runner = match line.test {
            Some(name) => self.tests.entry(Test { binary: line.binary, name }).or_default(),
            None => self.builds.entry(line.binary).or_default(),
        };
        by_runner.insert(line.runner, samples);
    }

    /// Writes the file at `path`, sorted.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut text = Vec::new();
        for line in self.lines() {
            serde_json::to_writer(&mut text, &line)?;
            text.push(b'\n');
        }
        stdx::fs::write_atomic(path, &text, 0o644)
    }

    fn lines(&self) -> impl Iterator<Item = Line> {
        let listed = self.listed.iter().map(|(binary, tests)| Line {
            binary: binary.clone(),
            test: None,
            tests: Some(*tests),
            seconds: Vec::new(),
            runner: String::new(),
            recorded: 0,
        });
        let tests = self.tests.iter().map(|(test, samples)| (&test.binary, Some(&test.name), samples));
        let builds = self.builds.iter().map(|(binary, samples)| (binary, None, samples));
        let measured = builds.chain(tests).flat_map(|(binary, test, by_runner)| {
            by_runner.iter().map(move |(runner, samples)| Line {
                binary: binary.clone(),
                test: test.cloned(),
                tests: None,
                seconds: samples.seconds.clone(),
                runner: runner.clone(),
                recorded: samples.recorded,
            })
        });
        listed.chain(measured)
    }

    /// Adds what a test took on a machine of the class `runner`.
    pub fn record(&mut self, test: &Test, runner: &str, seconds: f64, now: u64) {
        self.tests.entry(test.clone()).or_default().entry(runner.to_owned()).or_default().push(seconds, now);
    }

    /// Adds what compiling and linking a test binary took, in seconds of processor time.
    pub fn record_build(&mut self, binary: &str, runner: &str, seconds: f64, now: u64) {
        let by_runner = self.builds.entry(binary.to_owned()).or_default();
        by_runner.entry(runner.to_owned()).or_default().push(seconds, now);
    }

    /// Forgets tests of `binary` that are not in `listed`, which must be all its tests.
    pub fn retain(&mut self, binary: &str, listed: &BTreeSet<&str>) {
        self.tests.retain(|test, _| test.binary != binary || listed.contains(test.name.as_str()));
    }

    /// Forgets binaries that are not in `binaries`, which must be all there are.
    pub fn retain_binaries(&mut self, binaries: &BTreeSet<&str>) {
        self.tests.retain(|test, _| binaries.contains(test.binary.as_str()));
        self.builds.retain(|binary, _| binaries.contains(binary.as_str()));
        self.listed.retain(|binary, _| binaries.contains(binary.as_str()));
    }

    /// What is known of a test: from machines of the class `runner`, else from any.
    pub fn test(&self, test: &Test, runner: &str) -> Option<&Samples> {
        preferred(self.tests.get(test)?, runner)
    }

    /// What is known of a test, from whatever machine.
    pub(crate) fn samples(&self, test: &Test) -> Option<&Samples> {
        self.tests.get(test)?.values().next()
    }

    /// Whether the test was measured on a machine of the class `runner`.
    pub(crate) fn is_of(&self, test: &Test, runner: &str) -> bool {
        self.tests.get(test).is_some_and(|by_runner| by_runner.contains_key(runner))
    }

    /// What is known of building a binary: from machines of the class `runner`, else from any.
    pub fn build(&self, binary: &str, runner: &str) -> Option<&Samples> {
        preferred(self.builds.get(binary)?, runner)
    }

    /// Every test that was ever measured.
    pub fn tests(&self) -> impl Iterator<Item = &Test> {
        self.tests.keys()
    }

    /// Notes that `binary` was listed: it has this many tests, possibly none.
    pub fn record_listing(&mut self, binary: &str, tests: usize) {
        self.listed.insert(binary.to_owned(), tests);
    }

    /// Whether `binary` was ever listed.
    pub fn is_listed(&self, binary: &str) -> bool {
        self.listed.contains_key(binary)
    }
}

fn preferred<'a>(by_runner: &'a BTreeMap<String, Samples>, runner: &str) -> Option<&'a Samples> {
    by_runner.get(runner).or_else(|| by_runner.values().next())
}

fn parse_line(line: &[u8]) -> Option<Line> {
    if line.len() > MAX_LINE {
        return None;
    }
    let line: Line = serde_json::from_slice(line).ok()?;
    let is_sound = |seconds: &f64| (0.0..=MAX_SECONDS).contains(seconds);
    let says_something = line.tests.is_some() || !line.seconds.is_empty();
    (says_something && line.seconds.iter().all(is_sound)).then_some(line)
}

impl Samples {
    fn push(&mut self, seconds: f64, now: u64) {
        if self.seconds.len() >= KEPT_SAMPLES {
            self.seconds.drain(..=self.seconds.len() - KEPT_SAMPLES);
        }
        // Milliseconds are as fine as a machine repeats itself; more digits only make the file larger.
        self.seconds.push(((seconds * 1e3).round() / 1e3).clamp(0.0, MAX_SECONDS));
        self.recorded = now;
    }

    /// The duration that `share` (0 to 1) of the samples do not exceed, interpolated.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let place = share.clamp(0.0, 1.0) * sorted.len().saturating_sub(1) as f64;
        let (low, high) = (place.floor() as usize, place.ceil() as usize);
        match (sorted.get(low), sorted.get(high)) {
            (Some(low), Some(high)) => low + (high - low) * place.fract(),
            _ => 0.0,
        }
    }

    /// Longest over shortest: how far one run is from another. 1 for a single sample.
    pub fn spread(&self) -> f64 {
        let longest = self.seconds.iter().copied().fold(0.0, f64::max);
        let shortest = self.seconds.iter().copied().fold(f64::INFINITY, f64::min);
        if longest > 0.0 { longest / shortest.max(1e-3) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn test(binary: &str, name: &str) -> Test {
        Test { binary: binary.to_owned(), name: name.to_owned() }
    }

    #[test]
    fn what_is_saved_is_read_again_and_only_the_last_samples_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t/timings.jsonl");
        let mut timings = Timings::load(&path).unwrap();
        for second in 1..=20 {
            timings.record(&test("a::it", "x \"ü\"\n"), "linux-2", f64::from(second), 7);
        }
        timings.record_build("a::it", "linux-2", 2.5, 8);
        timings.record_listing("a", 0);
        timings.save(&path).unwrap();
        let again = Timings::load(&path).unwrap();
        assert_eq!(again, timings);
        let samples = again.test(&test("a::it", "x \"ü\"\n"), "elsewhere").unwrap();
        assert_eq!((samples.seconds.len(), samples.seconds[0], samples.recorded), (8, 13.0, 7));
        assert_eq!(again.build("a::it", "linux-2").unwrap().seconds, [2.5]);
        assert!(again.is_listed("a") && !again.is_listed("b"));
    }

    #[test]
    fn a_damaged_line_costs_that_line_only() {
        let text = b"{\"binary\":\"a\",\"test\":\"t\",\"seconds\":[1]}\n{\"binary\":\"a\n\n\xff\xfe\n\
            {\"binary\":\"a\",\"test\":\"u\",\"seconds\":[]}\n{\"binary\":\"a\",\"test\":\"v\",\"seconds\":[-1]}\n";
        let timings = Timings::parse(text);
        assert_eq!((timings.tests().count(), timings.damaged_lines), (1, 4));
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let mut random = fastrand::Rng::with_seed(1);
        let good = b"{\"binary\":\"a\",\"test\":\"t\",\"seconds\":[1,2.5],\"runner\":\"x\",\"recorded\":3}\n"
            .repeat(3);
        for _ in 0..5_000 {
            let mut bytes = good.clone();
            for _ in 0..random.usize(1..6) {
                let at = random.usize(..bytes.len());
                bytes[at] = random.u8(..);
            }
            let timings = Timings::parse(&bytes);
            assert!(timings.tests.values().flat_map(BTreeMap::values).all(|s| s.quantile(0.5).is_finite()));
        }
    }

    #[test]
    fn quantiles_are_interpolated_and_spread_is_the_ratio_of_extremes() {
        let samples = Samples { seconds: vec![4.0, 1.0, 2.0], recorded: 0 };
        assert_eq!((samples.quantile(0.0), samples.quantile(0.75), samples.quantile(1.0)), (1.0, 3.0, 4.0));
        assert_eq!(samples.spread(), 4.0);
    }
}
