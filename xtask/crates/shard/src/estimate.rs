//! What each test is expected to take, and how much the data behind that is worth. Pure: the clock and the class of the machine
//! are passed in.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::timings::{Samples, Timings};
use crate::{Inventory, Test};

/// A test whose longest run took this many times its shortest is planned at a high quantile: the slowest shard decides, so a
/// long test that comes late costs more than one that comes early saves.
const HIGH_SPREAD: f64 = 3.0;

/// Below this many seconds spread is noise of the machine.
const LONG: f64 = 0.5;

/// Of all measured tests, what an unmeasured one is taken for: its worst case is the best of mean, median and this.
const UNKNOWN_QUANTILE: f64 = 0.75;

/// Where nothing at all was measured, every test is taken for the same.
const NOTHING_KNOWN_SECONDS: f64 = 1.0;

/// Linking alone takes about this much where no build was ever measured.
const NOMINAL_BUILD_SECONDS: f64 = 1.0;

/// Expected seconds.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Estimates {
    /// Of each test of the inventory that will run.
    pub(crate) tests: BTreeMap<Test, f64>,
    /// Of building each binary, in processor time.
    pub(crate) builds: BTreeMap<String, f64>,
    pub(crate) quality: Quality,
}

/// How much the timing data says of these tests.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Quality {
    /// Tests that were planned; of a binary that nobody has listed yet, one for all of them.
    pub tests: usize,
    /// Of them, measured before.
    pub measured: usize,
    /// Of them, taken for a measured test of another name that is gone.
    pub renamed: usize,
    /// Measured, but only on machines of another class.
    pub other_runner: usize,
    /// Binaries whose build was measured before, of how many.
    pub builds_measured: usize,
    /// Binaries that have something to build.
    pub binaries: usize,
    /// Age in days of the data of a typical (median) test; unknown where nobody wrote the day down.
    pub age_days: Option<u64>,
    /// Longest over shortest run of a typical (median) test that takes long enough to matter; unknown with single samples.
    pub spread: Option<f64>,
}

impl Quality {
    /// Share of the tests whose duration is known, 0 to 1.
    pub fn coverage(&self) -> f64 {
        if self.tests == 0 { 1.0 } else { (self.measured + self.renamed) as f64 / self.tests as f64 }
    }
}

/// What one test with these samples is planned with.
fn planned(samples: &Samples) -> f64 {
    let median = samples.quantile(0.5);
    if median >= LONG && samples.spread() >= HIGH_SPREAD { samples.quantile(0.75) } else { median }
}

/// Estimates for all tests of `inventory` that will run.
pub(crate) fn estimate(inventory: &Inventory, timings: &Timings, runner: &str, now: u64) -> Estimates {
    let renamed = renamed(inventory, timings);
    let mut quality = Quality::default();
    let (mut known, mut unknown) = (BTreeMap::new(), Vec::new());
    let (mut ages, mut spreads) = (Vec::new(), Vec::new());
    for test in inventory.runnable() {
        quality.tests += 1;
        let own = timings.test(&test, runner);
        let Some(samples) = own.or_else(|| timings.test(renamed.get(&test)?, runner)) else {
            unknown.push(test);
            continue;
        };
        if own.is_some() {
            quality.measured += 1
        } else {
            quality.renamed += 1
        }
        let source = renamed.get(&test).unwrap_or(&test);
        quality.other_runner += usize::from(!timings.is_of(source, runner));
        if samples.recorded > 0 {
            ages.push(now.saturating_sub(samples.recorded) / 86_400);
        }
        if samples.seconds.len() > 1 && samples.quantile(0.5) >= LONG {
            spreads.push(samples.spread());
        }
        known.insert(test, planned(samples));
    }
    let measured = Samples { seconds: known.values().copied().collect(), recorded: 0 };
    let assumed = if known.is_empty() { NOTHING_KNOWN_SECONDS } else { measured.quantile(UNKNOWN_QUANTILE) };
    let whole = whole_binary(&known).unwrap_or(assumed);
    for test in unknown {
        let seconds = if inventory.is_unlisted(&test) { whole } else { assumed };
        known.insert(test, seconds);
    }
    quality.age_days = median(ages, u64::cmp);
    quality.spread = median(spreads, f64::total_cmp);
    let builds = builds(inventory, timings, runner, &mut quality);
    Estimates { tests: known, builds, quality }
}

/// Expected seconds of each test that will run; what was never measured is assumed.
pub fn expected(inventory: &Inventory, timings: &Timings, runner: &str) -> BTreeMap<Test, f64> {
    estimate(inventory, timings, runner, 0).tests
}

fn median<T: Copy>(mut values: Vec<T>, order: impl FnMut(&T, &T) -> std::cmp::Ordering) -> Option<T> {
    values.sort_by(order);
    values.get(values.len() / 2).copied()
}

/// What all tests of a binary that nobody has listed may take: that of the other binaries, by the same quantile.
fn whole_binary(known: &BTreeMap<Test, f64>) -> Option<f64> {
    let mut sums: BTreeMap<&str, f64> = BTreeMap::new();
    for (test, seconds) in known {
        *sums.entry(&test.binary).or_default() += seconds;
    }
    let sums = Samples { seconds: sums.into_values().collect(), recorded: 0 };
    (!sums.seconds.is_empty()).then(|| sums.quantile(UNKNOWN_QUANTILE))
}

fn builds(
    inventory: &Inventory,
    timings: &Timings,
    runner: &str,
    quality: &mut Quality,
) -> BTreeMap<String, f64> {
    // The longest: on a developer's machine most builds are incremental, in a shard none is.
    let to_build = || inventory.binaries.iter().filter(|(_, binary)| binary.selector.is_built());
    let measured: BTreeMap<&String, f64> =
        to_build().filter_map(|(id, _)| Some((id, timings.build(id, runner)?.quantile(1.0)))).collect();
    quality.binaries = to_build().count();
    quality.builds_measured = measured.len();
    let all = Samples { seconds: measured.values().copied().collect(), recorded: 0 };
    let assumed = if measured.is_empty() { NOMINAL_BUILD_SECONDS } else { all.quantile(UNKNOWN_QUANTILE) };
    to_build().map(|(id, _)| (id.clone(), measured.get(id).copied().unwrap_or(assumed))).collect()
}

/// Tests without timings that seem to be tests of another name: the last part of the name is that of exactly one test of the
/// same binary that is gone. So a module can be renamed without losing its timings.
fn renamed(inventory: &Inventory, timings: &Timings) -> BTreeMap<Test, Test> {
    let last = |name: &str| name.rsplit("::").next().unwrap_or_default().to_owned();
    let present: BTreeSet<Test> = inventory.runnable().collect();
    let mut gone: BTreeMap<(String, String), Vec<&Test>> = BTreeMap::new();
    for test in timings.tests().filter(|test| !present.contains(test)) {
        gone.entry((test.binary.clone(), last(&test.name))).or_default().push(test);
    }
    let mut new: BTreeMap<(String, String), Vec<Test>> = BTreeMap::new();
    for test in present.into_iter().filter(|test| timings.samples(test).is_none()) {
        new.entry((test.binary.clone(), last(&test.name))).or_default().push(test);
    }
    new.into_iter()
        .filter_map(|(key, new)| match (new.as_slice(), gone.get(&key)?.as_slice()) {
            ([new], [gone]) => Some((new.clone(), (*gone).clone())),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Binary, Selector};

    fn inventory(tests: &[(&str, &str)]) -> Inventory {
        let mut inventory = Inventory::default();
        for (binary, name) in tests {
            let binary = inventory
                .binaries
                .entry((*binary).to_owned())
                .or_insert_with(|| Binary::new(Selector::Test("it".to_owned())));
            binary.tests.insert((*name).to_owned(), false);
            binary.is_listed = true;
        }
        inventory
    }

    fn test(binary: &str, name: &str) -> Test {
        Test { binary: binary.to_owned(), name: name.to_owned() }
    }

    fn record(timings: &mut Timings, name: &str, runner: &str, samples: &[f64]) {
        samples.iter().for_each(|seconds| timings.record(&test("a::it", name), runner, *seconds, 86_400));
    }

    #[test]
    fn measured_ones_by_the_median_and_unknown_ones_by_the_upper_quartile() {
        let mut timings = Timings::default();
        for (name, seconds) in [("a", 1.0), ("b", 2.0), ("c", 3.0), ("d", 4.0), ("e", 5.0)] {
            record(&mut timings, name, "here", &[seconds, seconds, seconds * 2.0]);
        }
        let names = ["a", "b", "c", "d", "e", "new"].map(|name| ("a::it", name));
        let found = estimate(&inventory(&names), &timings, "here", 5 * 86_400);
        assert_eq!(found.tests[&test("a::it", "a")], 1.0);
        assert_eq!(found.tests[&test("a::it", "new")], 4.0);
        assert_eq!((found.quality.tests, found.quality.measured), (6, 5));
        assert_eq!((found.quality.age_days, found.quality.spread), (Some(4), Some(2.0)));
    }

    #[test]
    fn a_long_test_of_high_variance_is_planned_high() {
        let mut timings = Timings::default();
        record(&mut timings, "wild", "here", &[1.0, 1.0, 5.0]);
        record(&mut timings, "short", "here", &[0.01, 0.01, 0.05]);
        let found = estimate(&inventory(&[("a::it", "wild"), ("a::it", "short")]), &timings, "here", 0);
        assert_eq!(found.tests[&test("a::it", "wild")], 3.0);
        assert_eq!(found.tests[&test("a::it", "short")], 0.01);
    }

    #[test]
    fn a_renamed_module_keeps_its_timings_and_an_ambiguous_name_does_not() {
        let mut timings = Timings::default();
        record(&mut timings, "old::moved", "there", &[9.0]);
        record(&mut timings, "x::same", "there", &[7.0]);
        record(&mut timings, "y::same", "there", &[8.0]);
        let found =
            estimate(&inventory(&[("a::it", "new::moved"), ("a::it", "z::same")]), &timings, "here", 0);
        assert_eq!(found.tests[&test("a::it", "new::moved")], 9.0);
        assert_eq!((found.quality.renamed, found.quality.other_runner, found.quality.measured), (1, 1, 0));
    }

    #[test]
    fn builds_are_measured_or_assumed() {
        let mut timings = Timings::default();
        timings.record_build("a::it", "here", 4.0, 1);
        let found = estimate(&inventory(&[("a::it", "x"), ("b::it", "x")]), &timings, "here", 0);
        assert_eq!((found.builds["a::it"], found.builds["b::it"]), (4.0, 4.0));
        assert_eq!((found.quality.builds_measured, found.quality.binaries), (1, 2));
    }
}
