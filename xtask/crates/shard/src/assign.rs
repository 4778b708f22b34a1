//! Distributes tests over shards: numbers in, numbers out. It knows neither names nor where durations come from. Every function
//! is deterministic and gives each test to exactly one shard.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// A test as the distribution sees it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Item {
    /// Expected seconds.
    pub(crate) seconds: f64,
    /// What must be built to run it: an index into the costs.
    pub(crate) unit: usize,
}

/// Tests, what building their units costs, and over how many shards.
#[derive(Debug)]
pub(crate) struct Problem<'a> {
    pub(crate) items: &'a [Item],
    /// Seconds to build each unit; paid by every shard that runs a test of it.
    pub(crate) builds: &'a [f64],
    pub(crate) shards: usize,
}

impl Problem<'_> {
    /// Expected seconds of each shard: its tests and the units it must build.
    pub(crate) fn loads(&self, assignment: &[usize]) -> Vec<f64> {
        let mut loads = vec![0.0; self.shards];
        let mut built = BTreeSet::new();
        for (item, shard) in self.items.iter().zip(assignment) {
            loads[*shard] += item.seconds;
            if built.insert((*shard, item.unit)) {
                loads[*shard] += self.builds[item.unit];
            }
        }
        loads
    }

    /// Expected seconds of the slowest shard.
    pub(crate) fn makespan(&self, assignment: &[usize]) -> f64 {
        self.loads(assignment).into_iter().fold(0.0, f64::max)
    }

    /// No assignment ends sooner: neither than an even share of all work, nor than the longest test with what it needs.
    pub(crate) fn lower_bound(&self) -> f64 {
        let units: BTreeSet<usize> = self.items.iter().map(|item| item.unit).collect();
        let builds: f64 = units.iter().map(|unit| self.builds[*unit]).sum();
        let tests: f64 = self.items.iter().map(|item| item.seconds).sum();
        let longest = self.items.iter().map(|item| item.seconds + self.builds[item.unit]).fold(0.0, f64::max);
        longest.max((tests + builds) / self.shards as f64)
    }

    /// The best that is found: never worse than slicing.
    pub(crate) fn solve(&self) -> Vec<usize> {
        let mut best = self.longest_first();
        // Without builds that is as good as can be; what looks better by a hair is fitted to the noise of the durations.
        if self.has_builds() {
            best = self.better(best, self.split_units());
        }
        self.better(best, self.slice())
    }

    /// The assignment that is expected to end first; `a` where both do.
    fn better(&self, a: Vec<usize>, b: Vec<usize>) -> Vec<usize> {
        if self.makespan(&b) < self.makespan(&a) { b } else { a }
    }

    fn has_builds(&self) -> bool {
        self.builds.iter().any(|cost| *cost > 0.0)
    }

    /// Every n-th test.
    pub(crate) fn slice(&self) -> Vec<usize> {
        (0..self.items.len()).map(|index| index % self.shards).collect()
    }

    /// Longest processing time first: each test to the shard that is then done first, a unit not yet built there included
    /// (Graham, 1969, with set-up times).
    fn longest_first(&self) -> Vec<usize> {
        if !self.has_builds() {
            return self.longest_first_without_builds();
        }
        let mut assignment = vec![0; self.items.len()];
        let mut loads = vec![0.0; self.shards];
        let mut is_built = vec![vec![false; self.builds.len()]; self.shards];
        for index in self.by_duration() {
            let item = self.items[index];
            let after = |shard: usize| {
                let build = if is_built[shard][item.unit] { 0.0 } else { self.builds[item.unit] };
                loads[shard] + build + item.seconds
            };
            let shard = (0..self.shards).min_by(|a, b| after(*a).total_cmp(&after(*b))).unwrap_or(0);
            loads[shard] = after(shard);
            is_built[shard][item.unit] = true;
            assignment[index] = shard;
        }
        assignment
    }

    fn longest_first_without_builds(&self) -> Vec<usize> {
        let mut assignment = vec![0; self.items.len()];
        let mut shards: BinaryHeap<Free> = (0..self.shards).map(|shard| Free { at: 0.0, shard }).collect();
        for index in self.by_duration() {
            if let Some(Free { at, shard }) = shards.pop() {
                assignment[index] = shard;
                shards.push(Free { at: at + self.items[index].seconds, shard });
            }
        }
        assignment
    }

    /// Longest first; of equal ones the earlier in the list.
    fn by_duration(&self) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.items.len()).collect();
        order.sort_by(|a, b| self.items[*b].seconds.total_cmp(&self.items[*a].seconds));
        order
    }

    /// Keeps the tests of a unit together as far as a limit allows, for the smallest limit that works: few shards then build
    /// the same unit.
    fn split_units(&self) -> Vec<usize> {
        let mut best = self.slice();
        let (mut low, mut high) = (self.lower_bound(), self.makespan(&best));
        // Each step halves the gap; after these it is below a thousandth of what slicing takes.
        for _ in 0..12 {
            let limit = f64::midpoint(low, high);
            match self.pack(limit) {
                Some(found) => (best, high) = (found, limit),
                None => low = limit,
            }
        }
        best
    }

    /// An assignment where no shard exceeds `limit`, if this finds one.
    fn pack(&self, limit: f64) -> Option<Vec<usize>> {
        let mut units: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for index in self.by_duration() {
            units.entry(self.items[index].unit).or_default().push(index);
        }
        let total = |unit: usize, tests: &[usize]| -> f64 {
            self.builds[unit] + tests.iter().map(|index| self.items[*index].seconds).sum::<f64>()
        };
        let mut units: Vec<(f64, usize, Vec<usize>)> =
            units.into_iter().map(|(unit, tests)| (total(unit, &tests), unit, tests)).collect();
        units.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let mut free = vec![limit; self.shards];
        let mut assignment = vec![0; self.items.len()];
        for (_, unit, mut tests) in units {
            while !tests.is_empty() {
                let whole = total(unit, &tests);
                // The fullest shard that still takes all that is left, else as much as goes into the emptiest.
                let fullest = (0..self.shards)
                    .filter(|s| free[*s] >= whole)
                    .min_by(|a, b| free[*a].total_cmp(&free[*b]));
                let emptiest =
                    || (0..self.shards).max_by(|a, b| free[*a].total_cmp(&free[*b]).then(b.cmp(a)));
                let shard = fullest.or_else(emptiest)?;
                let before = tests.len();
                free[shard] -= self.builds[unit];
                tests.retain(|index| {
                    let fits = free[shard] >= self.items[*index].seconds;
                    if fits {
                        free[shard] -= self.items[*index].seconds;
                        assignment[*index] = shard;
                    }
                    !fits
                });
                // Rounding may leave a hair of a whole unit over; that is no progress either.
                if tests.len() == before {
                    return None;
                }
            }
        }
        Some(assignment)
    }
}

/// A shard and when it is free again; the heap gives the earliest, of equal ones the first.
#[derive(PartialEq)]
struct Free {
    at: f64,
    shard: usize,
}

impl Eq for Free {}

impl Ord for Free {
    fn cmp(&self, other: &Free) -> Ordering {
        other.at.total_cmp(&self.at).then(other.shard.cmp(&self.shard))
    }
}

impl PartialOrd for Free {
    fn partial_cmp(&self, other: &Free) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(seconds: &[f64]) -> Vec<Item> {
        seconds.iter().map(|seconds| Item { seconds: *seconds, unit: 0 }).collect()
    }

    #[test]
    fn long_tests_go_first_and_short_ones_fill() {
        let items = items(&[1.0, 5.0, 1.0, 4.0, 1.0]);
        let problem = Problem { items: &items, builds: &[0.0], shards: 2 };
        assert_eq!(problem.makespan(&problem.solve()), 6.0);
        assert_eq!(problem.lower_bound(), 6.0);
    }

    #[test]
    fn a_unit_that_is_expensive_to_build_is_built_once() {
        let unit = |unit| Item { seconds: 1.0, unit };
        let items: Vec<Item> = (0..16).map(|index| unit(index % 4)).collect();
        let problem = Problem { items: &items, builds: &[20.0; 4], shards: 4 };
        let solved = problem.solve();
        assert_eq!(problem.makespan(&solved), 24.0);
        assert!(problem.makespan(&problem.slice()) >= 24.0);
    }

    #[test]
    fn a_unit_that_is_cheap_to_build_is_split() {
        let items = items(&[1.0; 40]);
        let problem = Problem { items: &items, builds: &[1.0], shards: 4 };
        assert_eq!(problem.makespan(&problem.solve()), 11.0);
    }

    /// Log-normal, one giant, all equal, all zero: with true durations the slowest shard is close to the bound.
    #[test]
    fn true_durations_give_nearly_the_lower_bound() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut normal = || (0..12).map(|_| random.f64()).sum::<f64>() - 6.0;
        let log_normal: Vec<f64> = (0..2_000).map(|_| (normal() * 1.2 - 4.0).exp()).collect();
        let one_giant: Vec<f64> = log_normal.iter().copied().chain([30.0]).collect();
        for seconds in [log_normal, one_giant, vec![0.5; 1_920], vec![0.0; 100]] {
            let items = items(&seconds);
            for shards in [1, 2, 3, 4, 8, 16, 32] {
                let problem = Problem { items: &items, builds: &[0.0], shards };
                let makespan = problem.makespan(&problem.solve());
                assert!(makespan <= problem.lower_bound() * 1.01 + 1e-9, "{shards}: {makespan}");
            }
        }
    }

    #[test]
    fn never_worse_than_slicing_with_any_costs() {
        let mut random = fastrand::Rng::with_seed(3);
        for _ in 0..500 {
            let units = random.usize(1..6);
            let builds: Vec<f64> = (0..units).map(|_| random.f64() * 10.0).collect();
            let items: Vec<Item> = (0..random.usize(0..60))
                .map(|_| Item { seconds: random.f64() * 5.0, unit: random.usize(..units) })
                .collect();
            let problem = Problem { items: &items, builds: &builds, shards: random.usize(1..10) };
            let (ours, bound) = (problem.makespan(&problem.solve()), problem.lower_bound());
            assert!(ours <= problem.makespan(&problem.slice()), "{problem:?}");
            assert!(ours >= bound - 1e-9, "{problem:?}");
        }
    }
}
