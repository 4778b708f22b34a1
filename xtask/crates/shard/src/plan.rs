//! Which shard runs which test. A plan is a total function: it also has an answer for a test that nobody had seen when it was
//! made, so shards that share a plan never lose or repeat one. Pure, and the same for the same inventory and timings.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::json;
use stdx::Digest;

use crate::assign::{Item, Problem};
use crate::estimate::{self, Quality};
use crate::timings::Timings;
use crate::{Inventory, Selector, Test};

/// With fewer of the tests measured, durations are guesses and every n-th test is as good.
const MIN_COVERAGE: f64 = 0.5;

/// More shards than any runner has; a guard against a slip of the finger.
const MAX_SHARDS: u32 = 1_000;

/// What a plan is made of.
#[derive(Debug)]
pub struct Planning<'a> {
    /// The tests.
    pub inventory: &'a Inventory,
    /// What they took before.
    pub timings: &'a Timings,
    /// How many shards.
    pub shards: u32,
    /// Class of the machines that will run them.
    pub runner: &'a str,
    /// Seconds since 1970, for the age of the data.
    pub now: u64,
    /// Whether each shard builds what it runs, or all is built before.
    pub builds: Builds,
}

/// Who builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Builds {
    /// Each shard builds the binaries that it runs tests of: their cost is part of the plan.
    PerShard,
    /// Everything is built whatever the plan says.
    Everything,
}

/// How tests were distributed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// By expected duration.
    Balanced,
    /// Every n-th test, for want of data.
    Slice,
}

/// The assignment, and what is expected of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// Digest of the assignment: shards with the same digest belong together.
    pub digest: Digest,
    /// How tests were distributed.
    pub method: Method,
    /// Who builds.
    pub builds: Builds,
    /// Whether the tests were asked from the binaries just now, or are those of the last time.
    pub is_exact: bool,
    /// What is expected of each shard, the first first.
    pub shards: Vec<Forecast>,
    /// No plan is expected to end sooner than this many seconds.
    pub bound_seconds: f64,
    /// What taking every n-th test is expected to take.
    pub slice_seconds: f64,
    /// How much the data is worth.
    pub quality: Quality,
    /// The assignment: by binary.
    pub binaries: BTreeMap<String, Assignment>,
}

/// What is expected of a shard.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Forecast {
    /// Tests that will run, ignored ones not counted. Documentation tests count as one.
    pub tests: usize,
    /// Seconds of all tests, one after the other.
    pub test_seconds: f64,
    /// Processor seconds to build the binaries.
    pub build_seconds: f64,
}

/// Where the tests of a binary run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Assignment {
    /// What builds it.
    pub selector: Selector,
    /// The shards that run some of its tests, sorted, counted from 1; never empty.
    pub shards: Vec<u32>,
    /// The shard of each test that was known and will run.
    pub tests: BTreeMap<String, u32>,
}

impl Forecast {
    /// Seconds of all that the shard does.
    pub fn seconds(&self) -> f64 {
        self.test_seconds + self.build_seconds
    }
}

impl Plan {
    /// Makes a plan.
    ///
    /// # Errors
    /// When the number of shards is not between 1 and 1000.
    pub fn new(planning: &Planning<'_>) -> Result<Plan> {
        if planning.shards == 0 || planning.shards > MAX_SHARDS {
            bail!("{} shards: there must be 1 to {MAX_SHARDS}", planning.shards);
        }
        Draft::new(planning).finish(planning)
    }

    /// The shard, counted from 1, that runs the test of this name: one of those that run tests of the binary. `None` for a
    /// binary that was not there when the plan was made.
    pub fn shard_of(&self, binary: &str, name: &str) -> Option<u32> {
        let assignment = self.binaries.get(binary)?;
        let known = assignment.tests.get(name).copied();
        known.or_else(|| {
            let digest = Digest::of(name.as_bytes()).to_string();
            let place = digest.bytes().fold(0, |sum: usize, byte| (sum * 31 + usize::from(byte)) % 1_000_003);
            assignment.shards.get(place % assignment.shards.len().max(1)).copied()
        })
    }

    /// Everything that must be built for `shard`.
    pub fn selectors(&self, shard: u32) -> BTreeSet<Selector> {
        let runs = |assignment: &&Assignment| assignment.shards.contains(&shard);
        self.binaries.values().filter(runs).map(|assignment| assignment.selector.clone()).collect()
    }

    /// Expected seconds of the slowest shard.
    pub fn makespan(&self) -> f64 {
        self.shards.iter().map(Forecast::seconds).fold(0.0, f64::max)
    }

    /// How much longer the slowest shard takes than any plan must; 1 is perfect.
    pub fn over_bound(&self) -> f64 {
        if self.bound_seconds > 0.0 { self.makespan() / self.bound_seconds } else { 1.0 }
    }

    /// Refuses a plan that was read from a file and does not hold together.
    ///
    /// # Errors
    /// When the digest is not that of the assignment, or a test is given to a shard that there is not.
    pub fn verify(&self) -> Result<()> {
        let count = self.shards.len() as u32;
        let exists = |shard: &u32| (1..=count).contains(shard);
        for (id, binary) in &self.binaries {
            let is_sound = !binary.shards.is_empty() && binary.shards.iter().all(exists);
            if !is_sound || binary.tests.values().any(|shard| !binary.shards.contains(shard)) {
                bail!("the plan gives tests of {id} to shards that it does not have");
            }
        }
        let real = digest(count, &self.binaries)?;
        if real != self.digest {
            bail!("the plan was changed after it was made: it says {}, and is {real}", self.digest);
        }
        Ok(())
    }
}

fn digest(shards: u32, binaries: &BTreeMap<String, Assignment>) -> Result<Digest> {
    Ok(Digest::of(&stdx::json::canonical(&json!({ "shards": shards, "binaries": binaries }))?))
}

/// A plan in numbers, as the distribution needs it.
struct Draft {
    /// All tests that will run, in the order of their names.
    tests: Vec<Test>,
    items: Vec<Item>,
    /// What must be built, and what that costs.
    units: Vec<Selector>,
    builds: Vec<f64>,
    quality: Quality,
}

impl Draft {
    fn new(planning: &Planning<'_>) -> Draft {
        let inventory = planning.inventory;
        let estimates = estimate::estimate(inventory, planning.timings, planning.runner, planning.now);
        let selectors: BTreeSet<&Selector> = inventory.binaries.values().map(|b| &b.selector).collect();
        let units: Vec<Selector> = selectors.into_iter().cloned().collect();
        let place: BTreeMap<&Selector, usize> =
            units.iter().enumerate().map(|(at, unit)| (unit, at)).collect();
        let unit_of = |binary: &str| place[&inventory.binaries[binary].selector];
        let mut builds = vec![0.0; units.len()];
        if planning.builds == Builds::PerShard {
            for (binary, seconds) in &estimates.builds {
                builds[unit_of(binary)] += seconds;
            }
        }
        let (tests, seconds): (Vec<Test>, Vec<f64>) = estimates.tests.into_iter().unzip();
        let items = tests
            .iter()
            .zip(seconds)
            .map(|(test, seconds)| Item { seconds, unit: unit_of(&test.binary) })
            .collect();
        Draft { tests, items, units, builds, quality: estimates.quality }
    }

    fn finish(self, planning: &Planning<'_>) -> Result<Plan> {
        let problem = Problem { items: &self.items, builds: &self.builds, shards: planning.shards as usize };
        let method = if self.quality.coverage() < MIN_COVERAGE { Method::Slice } else { Method::Balanced };
        let slice = problem.slice();
        let slice_seconds = problem.makespan(&slice);
        let assignment = match method {
            Method::Balanced => problem.solve(),
            Method::Slice => slice,
        };
        let shards = self.forecasts(planning.shards, &assignment);
        let lightest = (1..).zip(&shards).min_by(|a, b| a.1.seconds().total_cmp(&b.1.seconds()));
        let binaries = self.binaries(planning, &assignment, lightest.map_or(1, |(index, _)| index));
        Ok(Plan {
            digest: digest(planning.shards, &binaries)?,
            method,
            builds: planning.builds,
            is_exact: false,
            shards,
            bound_seconds: problem.lower_bound(),
            slice_seconds,
            quality: self.quality,
            binaries,
        })
    }

    fn binaries(
        &self,
        planning: &Planning<'_>,
        assignment: &[usize],
        lightest: u32,
    ) -> BTreeMap<String, Assignment> {
        let mut tests: BTreeMap<&str, BTreeMap<String, u32>> = BTreeMap::new();
        for (test, shard) in self.tests.iter().zip(assignment) {
            tests.entry(&test.binary).or_default().insert(test.name.clone(), *shard as u32 + 1);
        }
        // A binary without a test that runs is built all the same: it may have got one since. It goes where its unit is built
        // anyway, else to the shard with the least to do.
        let mut built: BTreeMap<&Selector, u32> = BTreeMap::new();
        for (item, shard) in self.items.iter().zip(assignment) {
            built.entry(&self.units[item.unit]).or_insert(*shard as u32 + 1);
        }
        let plan = |(id, binary): (&String, &crate::Binary)| {
            let tests = tests.remove(id.as_str()).unwrap_or_default();
            let mut shards: BTreeSet<u32> = tests.values().copied().collect();
            if shards.is_empty() {
                shards.insert(built.get(&binary.selector).copied().unwrap_or(lightest));
            }
            let shards = shards.into_iter().collect();
            (id.clone(), Assignment { selector: binary.selector.clone(), shards, tests })
        };
        planning.inventory.binaries.iter().map(plan).collect()
    }

    fn forecasts(&self, shards: u32, assignment: &[usize]) -> Vec<Forecast> {
        let mut forecasts = vec![Forecast::default(); shards as usize];
        let mut built = BTreeSet::new();
        for (item, shard) in self.items.iter().zip(assignment) {
            let forecast = &mut forecasts[*shard];
            forecast.tests += 1;
            forecast.test_seconds += item.seconds;
            if built.insert((*shard, item.unit)) {
                forecast.build_seconds += self.builds[item.unit];
            }
        }
        forecasts
    }
}
