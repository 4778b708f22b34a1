//! Plans on the earlier of recorded runs and judges on the later ones, beside cargo-nextest's ways to partition. Usage:
//! `shards NAME=FILE…`; see `ci/bench/shards`.

use std::collections::BTreeMap;
use std::process::ExitCode;
use std::time::Instant;

use shard::{Binary, Builds, Inventory, Plan, Planning, Samples, Selector, Test, Timings};

const SHARDS: [u32; 3] = [2, 4, 8];

/// Tests in the order of cargo-nextest's list, with their durations over the runs.
type Runs = BTreeMap<Test, Vec<f64>>;

fn main() -> ExitCode {
    println!(
        "slowest shard over max(sum / n, longest test), one test at a time; judged on the median of the later runs\n"
    );
    println!(
        "{:<12} {:>6} {:>2} {:>7} {:>7} {:>7} {:>7} {:>7}",
        "tests of", "tests", "n", "hash", "count", "slice", "ours", "oracle"
    );
    let mut is_complete = true;
    for argument in std::env::args().skip(1) {
        let (name, path) = argument.split_once('=').unwrap_or(("tests", &argument));
        match std::fs::read(path) {
            Ok(bytes) => compare(name, &runs(&bytes)),
            Err(error) => {
                eprintln!("cannot read {path}: {error}");
                is_complete = false;
            }
        }
    }
    planning_time();
    if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn runs(bytes: &[u8]) -> Runs {
    let timings = Timings::parse(bytes);
    let several = |test: &Test| {
        let samples = timings.test(test, "")?;
        (samples.seconds.len() > 1).then(|| (test.clone(), samples.seconds.clone()))
    };
    timings.tests().filter_map(several).collect()
}

fn compare(name: &str, runs: &Runs) {
    let mut timings = Timings::default();
    let mut truth = BTreeMap::new();
    for (test, seconds) in runs {
        let (earlier, later) = seconds.split_at((seconds.len() * 3 / 5).max(1));
        earlier.iter().for_each(|seconds| timings.record(test, "", *seconds, 1));
        truth.insert(test, Samples { seconds: later.to_vec(), recorded: 0 }.quantile(0.5));
    }
    let mut oracle = Timings::default();
    truth.iter().for_each(|(test, seconds)| oracle.record(test, "", *seconds, 1));
    let inventory = inventory(runs.keys());
    for n in SHARDS {
        let ratio = |shard_of: &dyn Fn(usize, &Test) -> usize| over_bound(&truth, n as usize, shard_of);
        let planned = |timings: &Timings| {
            let plan = plan(&inventory, timings, n);
            ratio(&|_, test| plan.shard_of(&test.binary, &test.name).map_or(0, |shard| shard as usize - 1))
        };
        let first: BTreeMap<&str, usize> =
            truth.keys().enumerate().rev().map(|(at, test)| (test.binary.as_str(), at)).collect();
        println!(
            "{name:<12} {:>6} {n:>2} {:>7.3} {:>7.3} {:>7.3} {:>7.3} {:>7.3}",
            runs.len(),
            ratio(&|_, test| (xxhash_rust::xxh64::xxh64(test.name.as_bytes(), 0) % u64::from(n)) as usize),
            ratio(&|at, test| (at - first[test.binary.as_str()]) % n as usize),
            ratio(&|at, _| at % n as usize),
            planned(&timings),
            planned(&oracle),
        );
    }
}

fn over_bound(truth: &BTreeMap<&Test, f64>, n: usize, shard_of: &dyn Fn(usize, &Test) -> usize) -> f64 {
    let mut loads = vec![0.0; n];
    truth.iter().enumerate().for_each(|(at, (test, seconds))| loads[shard_of(at, test)] += seconds);
    let longest = truth.values().copied().fold(0.0, f64::max);
    let bound = longest.max(truth.values().sum::<f64>() / n as f64);
    loads.into_iter().fold(0.0, f64::max) / bound
}

fn inventory<'a>(tests: impl Iterator<Item = &'a Test>) -> Inventory {
    let mut inventory = Inventory::default();
    for test in tests {
        let new = || Binary { is_listed: true, ..Binary::new(Selector::Test(test.binary.clone())) };
        inventory
            .binaries
            .entry(test.binary.clone())
            .or_insert_with(new)
            .tests
            .insert(test.name.clone(), false);
    }
    inventory
}

fn plan(inventory: &Inventory, timings: &Timings, shards: u32) -> Plan {
    let planning = Planning { inventory, timings, shards, runner: "", now: 1, builds: Builds::Everything };
    Plan::new(&planning).expect("the number of shards is a small one")
}

fn planning_time() {
    let mut random = fastrand::Rng::with_seed(1);
    let name = |index: usize| Test {
        binary: format!("package{}::it", index % 100),
        name: format!("module::test_{index}"),
    };
    let tests: Vec<Test> = (0..10_000).map(name).collect();
    let mut timings = Timings::default();
    for test in &tests {
        timings.record(test, "", (random.f64() * 4.0).exp() / 10.0, 1);
        timings.record_build(&test.binary, "", 2.0, 1);
    }
    let inventory = inventory(tests.iter());
    println!();
    for builds in [Builds::Everything, Builds::PerShard] {
        let started = Instant::now();
        let planning =
            Planning { inventory: &inventory, timings: &timings, shards: 8, runner: "", now: 1, builds };
        let plan = Plan::new(&planning).expect("the number of shards is a small one");
        let took = started.elapsed().as_secs_f64() * 1e3;
        println!(
            "planning 10,000 tests of 100 binaries into 8 shards, {builds:?}: {took:.0} ms ({:.3} times the bound)",
            plan.over_bound()
        );
    }
}
