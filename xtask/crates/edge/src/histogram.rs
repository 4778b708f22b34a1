//! How long things take, in buckets whose bounds are fixed: four to each doubling, so a bucket is at most a quarter wide. Recording
//! is two atomic additions. It knows numbers only; two pictures of one histogram can be subtracted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::control::Latency;

/// Buckets to each doubling, as a power of two.
const FINENESS: u32 = 2;

/// Bounds up to 2^27 microseconds: what takes longer than two minutes is in the last bucket.
const LARGEST_POWER: u32 = 27;

const BUCKETS: usize = index_of(1 << LARGEST_POWER) + 1;

/// Doublings that metrics show, as powers of two of a microsecond: a quarter of a millisecond to over a minute.
const SHOWN_POWERS: std::ops::RangeInclusive<u32> = 8..=26;

/// Microseconds, counted by bucket.
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    sum_us: AtomicU64,
}

/// A histogram at one moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Picture {
    buckets: Vec<u64>,
    sum_us: u64,
}

/// The bucket of a number of microseconds; monotonic.
const fn index_of(us: u64) -> usize {
    let us = if us > 1 << LARGEST_POWER { 1 << LARGEST_POWER } else { us };
    if us < 1 << FINENESS {
        return us as usize;
    }
    let power = us.ilog2();
    let quarter = (us >> (power - FINENESS)) as usize & ((1 << FINENESS) - 1);
    ((power - FINENESS + 1) as usize) * (1 << FINENESS) + quarter
}

/// The least number that is beyond bucket `index`.
const fn end_of(index: usize) -> u64 {
    if index < 1 << FINENESS {
        return index as u64 + 1;
    }
    let (power, quarter) = (index / (1 << FINENESS), index % (1 << FINENESS));
    ((1 << FINENESS) + quarter as u64 + 1) << (power - 1)
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: [const { AtomicU64::new(0) }; BUCKETS], sum_us: AtomicU64::new(0) }
    }
}

impl Histogram {
    pub(crate) fn record(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        self.buckets[index_of(us)].fetch_add(1, Ordering::Relaxed);
        self.sum_us.fetch_add(us, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        self.buckets.iter().chain([&self.sum_us]).for_each(|number| number.store(0, Ordering::Relaxed));
    }

    pub(crate) fn picture(&self) -> Picture {
        Picture {
            buckets: self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed)).collect(),
            sum_us: self.sum_us.load(Ordering::Relaxed),
        }
    }
}

impl Default for Picture {
    fn default() -> Picture {
        Picture { buckets: vec![0; BUCKETS], sum_us: 0 }
    }
}

impl Picture {
    /// What came since `earlier`, a former picture of the same histogram.
    pub(crate) fn since(&self, earlier: &Picture) -> Picture {
        let before = earlier.buckets.iter().chain(std::iter::repeat(&0));
        let buckets = self.buckets.iter().zip(before).map(|(now, before)| now.saturating_sub(*before));
        Picture { buckets: buckets.collect(), sum_us: self.sum_us.saturating_sub(earlier.sum_us) }
    }

    pub(crate) fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    pub(crate) fn sum_us(&self) -> u64 {
        self.sum_us
    }

    /// A bound that `per_mille` of a thousand measurements do not pass, and 0 without any.
    pub(crate) fn quantile_us(&self, per_mille: u64) -> u64 {
        let wanted = (u128::from(self.count()) * u128::from(per_mille)).div_ceil(1000);
        let mut seen = 0_u128;
        for (index, count) in self.buckets.iter().enumerate() {
            seen += u128::from(*count);
            if seen >= wanted && *count > 0 {
                return end_of(index) - 1;
            }
        }
        0
    }

    /// How many took certainly longer than `us`: those of the bucket it falls in are given the benefit of the doubt.
    pub(crate) fn count_above(&self, us: u64) -> u64 {
        self.buckets.iter().skip(index_of(us) + 1).sum()
    }

    /// Bounds in microseconds, each with how many took less.
    pub(crate) fn cumulative(&self) -> impl Iterator<Item = (u64, u64)> {
        SHOWN_POWERS.map(|power| {
            let bound = 1_u64 << power;
            (bound, self.buckets.iter().take(index_of(bound)).sum())
        })
    }

    pub(crate) fn latency(&self) -> Latency {
        Latency {
            count: self.count(),
            p50_us: self.quantile_us(500),
            p90_us: self.quantile_us(900),
            p99_us: self.quantile_us(990),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_in_order_without_a_gap_and_at_most_a_quarter_wide() {
        let mut next = 0;
        for index in 0..BUCKETS {
            assert_eq!(index_of(next), index, "{next}");
            let end = end_of(index);
            assert_eq!(index_of(end - 1), index);
            assert!(end - next <= 1.max(next / 4), "{next}..{end}");
            next = end;
        }
        assert_eq!(index_of(u64::MAX), BUCKETS - 1);
    }

    #[test]
    fn quantiles_bound_what_was_recorded() {
        let histogram = Histogram::default();
        assert_eq!(histogram.picture().latency(), Latency::default());
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let picture = histogram.picture();
        for (per_mille, exact) in [(500, 500_000), (900, 900_000), (990, 990_000), (1000, 1_000_000)] {
            let found = picture.quantile_us(per_mille);
            assert!((exact..exact * 5 / 4).contains(&found), "{per_mille}: {found}");
        }
        assert_eq!((picture.count(), picture.sum_us()), (1000, 500_500_000));
        assert!((380..=500).contains(&picture.count_above(500_000)));
        let shown: Vec<_> = picture.cumulative().collect();
        assert!(shown.is_sorted() && shown.last() == Some(&(1 << 26, 1000)));
        assert!(shown.contains(&(1 << 19, 524)), "{shown:?}");
    }

    #[test]
    fn a_picture_since_another_has_what_came_in_between() {
        let histogram = Histogram::default();
        histogram.record(Duration::from_millis(1));
        let before = histogram.picture();
        histogram.record(Duration::from_secs(1));
        let between = histogram.picture().since(&before);
        assert_eq!((between.count(), between.sum_us()), (1, 1_000_000));
        assert_eq!(histogram.picture().since(&Picture { buckets: Vec::new(), sum_us: 0 }).count(), 2);
    }
}
