//! Whether new slots do worse than those before. Pure: it is handed counts and how much time has passed. The invariants: a
//! release is not taken back for what the one before does as badly, nor for chance more often than the rules allow; and
//! nothing is said about a slot that had too few requests.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};

use crate::control::{Bake, BakeReport, Cause, Figures, Rules, Table};
use crate::counters::Tally;
use crate::statistics::{at_least_among, at_least_of};

/// From one look at the counts to the next.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);

/// Looks that are compared on their own besides the whole time, so that what was good for long does not hide what has just
/// become bad.
const WINDOW_LOOKS: usize = 10;

/// A longer watch keeps slots of two releases running for no use.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// Slower answers than 99 of 100 before are one of a hundred.
const SLOW_SHARE: f64 = 0.01;

/// A bake as it is kept on disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Kept {
    pub(crate) bake: Bake,
    /// What is put in force again when the new slots do worse.
    pub(crate) former: Table,
    /// What the slots before did in the minutes before the switch, by name.
    pub(crate) records: BTreeMap<String, Tally>,
    pub(crate) report: BakeReport,
}

/// The watch over one new slot.
pub(crate) struct Watch {
    slot: String,
    before: Option<String>,
    record: Option<Tally>,
    start: Tally,
    /// The first look after which slow answers count.
    warm: Option<Tally>,
    looks: VecDeque<Tally>,
}

/// What speaks against a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Objection {
    pub(crate) cause: Cause,
    /// With its figures, for people.
    pub(crate) reason: String,
}

/// Whether `bake` fits a change from `former` to `table`.
pub(crate) fn check(bake: &Bake, former: &Table, table: &Table) -> Result<()> {
    let duration = Duration::from_millis(bake.for_ms);
    ensure!(
        !duration.is_zero() && duration <= LONGEST,
        "a bake lasts up to {} hours",
        LONGEST.as_secs() / 3600
    );
    ensure!(!bake.to.is_empty(), "a bake watches at least one slot");
    for slot in &bake.to {
        ensure!(table.slots.contains_key(slot), "the bake watches `{slot}`, which is not in the new table");
        ensure!(!bake.from.contains(slot), "the bake compares slot `{slot}` with itself");
    }
    for slot in &bake.from {
        ensure!(
            former.slots.contains_key(slot),
            "the bake goes back to `{slot}`, which is not in the table in force"
        );
    }
    let is_share = |per_mille: u32| per_mille <= 1000;
    let rules = &bake.rules;
    ensure!(is_share(rules.max_errors_per_mille), "`max_errors_per_mille` is more than all");
    ensure!(
        (1..1000).contains(&rules.false_rollbacks_per_mille),
        "`false_rollbacks_per_mille` is from 1 to 999"
    );
    ensure!(
        rules.max_slowdown_percent.is_none_or(|percent| percent >= 100),
        "`max_slowdown_percent` is from 100 on"
    );
    Ok(())
}

impl Kept {
    /// The watches over the new slots, each from what it has counted by now.
    pub(crate) fn watches(&self, counted: impl Fn(&str) -> Tally) -> Vec<Watch> {
        let to: BTreeSet<_> = self.bake.to.iter().collect();
        let watch = |slot: &String| {
            let before = self.before(slot);
            let record = before.as_ref().and_then(|before| self.records.get(before)).cloned();
            Watch::new(slot.clone(), before, record, counted(slot))
        };
        to.into_iter().map(watch).collect()
    }

    fn before(&self, slot: &str) -> Option<String> {
        let service = &self.report.figures.iter().find(|figures| figures.slot == slot)?.before;
        service.clone()
    }
}

/// The slot of `from` that each slot of `to` takes over from: that of the same service.
pub(crate) fn pairs(bake: &Bake, former: &Table, table: &Table) -> Vec<(String, Option<String>)> {
    let service = |table: &Table, slot: &String| table.slots.get(slot).map(|slot| slot.service.clone());
    let before = |slot: &String| {
        let wanted = service(table, slot);
        bake.from.iter().find(|before| service(former, before) == wanted).cloned()
    };
    bake.to.iter().map(|slot| (slot.clone(), before(slot))).collect()
}

impl Watch {
    pub(crate) fn new(slot: String, before: Option<String>, record: Option<Tally>, start: Tally) -> Watch {
        Watch { slot, before, record, start, warm: None, looks: VecDeque::new() }
    }

    pub(crate) fn slot(&self) -> &str {
        &self.slot
    }

    /// Looks at what is counted `elapsed` after the switch of a bake that takes `whole`.
    pub(crate) fn look(
        &mut self,
        rules: &Rules,
        now: &Tally,
        elapsed: Duration,
        whole: Duration,
    ) -> Option<Objection> {
        let chance = chance_of_one_look(rules, whole);
        let window = self.looks.front().unwrap_or(&self.start);
        let objection = [&self.start, window]
            .into_iter()
            .find_map(|since| self.errors(rules, &now.since(since), chance))
            .or_else(|| {
                let windows = [self.warm.as_ref()?, window];
                windows.into_iter().find_map(|since| self.slowness(rules, &now.since(since), chance))
            });
        if self.warm.is_none() && elapsed >= Duration::from_millis(rules.warm_up_ms) {
            self.warm = Some(now.clone());
        }
        self.looks.push_back(now.clone());
        if self.looks.len() > WINDOW_LOOKS {
            self.looks.pop_front();
        }
        objection
    }

    /// What is known `now`.
    pub(crate) fn figures(&self, rules: &Rules, now: &Tally) -> Figures {
        let since = now.since(&self.start);
        let nothing = Tally::default();
        let record = self.record.as_ref().unwrap_or(&nothing);
        Figures {
            slot: self.slot.clone(),
            before: self.before.clone(),
            requests: since.attempts(),
            errors: since.failures(),
            p99_us: since.first_byte.quantile_us(990),
            before_requests: record.attempts(),
            before_errors: record.failures(),
            before_p99_us: record.first_byte.quantile_us(990),
            is_judged: since.attempts() >= rules.min_requests,
        }
    }

    fn errors(&self, rules: &Rules, now: &Tally, chance: f64) -> Option<Objection> {
        let (requests, errors) = (now.attempts(), now.failures());
        if requests < rules.min_requests {
            return None;
        }
        let limit = f64::from(rules.max_errors_per_mille) / 1000.0;
        let is_beyond = errors as f64 > requests as f64 * limit;
        let record = self.record.as_ref().map(|record| (record.attempts(), record.failures()));
        let record = record.filter(|(requests, _)| *requests >= rules.min_requests);
        let is_worse = match record {
            Some((before, before_errors)) => {
                at_least_among(errors, requests, before, errors + before_errors) < chance
            }
            None => at_least_of(errors, requests, limit) < chance,
        };
        (is_beyond && is_worse).then(|| {
            let than = match record {
                Some((before, before_errors)) => format!("{before_errors} of {before} before"),
                None => format!(
                    "{} of 1000 are allowed without a record to compare with",
                    rules.max_errors_per_mille
                ),
            };
            let reason = format!("slot {}: {errors} of {requests} requests failed; {than}", self.slot);
            Objection { cause: Cause::Errors, reason }
        })
    }

    fn slowness(&self, rules: &Rules, now: &Tally, chance: f64) -> Option<Objection> {
        let percent = rules.max_slowdown_percent?;
        let record = self.record.as_ref().filter(|record| record.first_byte.count() >= rules.min_requests)?;
        let before = record.first_byte.quantile_us(990);
        let slowed = u128::from(before) * u128::from(percent) / 100;
        let limit = u64::try_from(slowed).unwrap_or(u64::MAX).max(rules.fast_enough_ms.saturating_mul(1000));
        let (answers, slow) = (now.first_byte.count(), now.first_byte.count_above(limit));
        let is_worse = answers >= rules.min_requests && at_least_of(slow, answers, SLOW_SHARE) < chance;
        is_worse.then(|| {
            let reason = format!(
                "slot {}: {slow} of {answers} answers took more than {} ms to begin; 99 of 100 took up to {} ms before",
                self.slot,
                limit / 1000,
                before.div_ceil(1000)
            );
            Objection { cause: Cause::Latency, reason }
        })
    }
}

/// The share of the allowed mistakes that one comparison may make: each look compares the whole time and a window.
fn chance_of_one_look(rules: &Rules, whole: Duration) -> f64 {
    let looks = whole.as_secs_f64() / INTERVAL.as_secs_f64();
    f64::from(rules.false_rollbacks_per_mille) / 1000.0 / (2.0 * looks.max(1.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::histogram::Histogram;

    const WHOLE: Duration = Duration::from_secs(60);

    /// `requests` answers of which `errors` are errors, all after `ms`.
    fn tally(requests: u64, errors: u64, ms: u64) -> Tally {
        let first_byte = Histogram::default();
        (0..requests).for_each(|_| first_byte.record(Duration::from_millis(ms)));
        let first_byte = first_byte.picture();
        Tally { statuses: [0, requests - errors, 0, 0, errors], first_byte, ..Tally::default() }
    }

    fn watch(record: Option<Tally>) -> Watch {
        Watch::new("green".into(), record.is_some().then(|| "blue".into()), record, Tally::default())
    }

    /// The cause that one look finds, long after the switch.
    fn cause(record: Option<Tally>, green: &Tally) -> Option<Cause> {
        let (mut watch, rules) = (watch(record), Rules::default());
        assert_eq!(watch.look(&rules, &Tally::default(), Duration::from_secs(10), WHOLE), None);
        watch.look(&rules, green, Duration::from_secs(11), WHOLE).map(|objection| objection.cause)
    }

    #[test]
    fn more_errors_than_before_and_than_allowed_are_an_objection() {
        let errors = Some(Cause::Errors);
        for (record, green, wanted) in [
            ((3000, 0), (100, 0), None),
            ((3000, 0), (100, 10), errors),
            ((3000, 0), (20, 20), errors),
            ((3000, 0), (20, 1), None),
            // Worse beyond doubt, and still too little to be a reason.
            ((100_000, 0), (10_000, 150), None),
            // A service that is broken does not keep its mended successor out, nor one that is no worse.
            ((3000, 3000), (100, 0), None),
            ((3000, 3000), (100, 100), None),
            ((3000, 1500), (100, 50), None),
            ((3000, 300), (100, 90), errors),
            // Too few requests now, or before: then what is allowed is the measure.
            ((3000, 0), (19, 19), None),
            ((5, 0), (100, 90), errors),
            ((5, 5), (100, 3), None),
        ] {
            let (requests, failed) = green;
            let found = cause(Some(tally(record.0, record.1, 1)), &tally(requests, failed, 1));
            assert_eq!(found, wanted, "{record:?} {green:?}");
        }
        assert_eq!(cause(None, &tally(100, 90, 1)), errors, "a new service has its limit");
        assert_eq!(cause(None, &tally(100, 2, 1)), None);
    }

    #[test]
    fn what_could_not_be_sent_or_was_cut_off_counts_as_an_error() {
        let record = Some(tally(3000, 0, 1));
        for broken in [
            Tally { rescued: 20, ..tally(20, 0, 1) },
            Tally { connect_errors: 20, ..tally(20, 0, 1) },
            Tally { unanswered: 20, ..tally(20, 0, 1) },
            Tally { cut: 20, ..tally(20, 0, 1) },
        ] {
            assert_eq!(cause(record.clone(), &broken), Some(Cause::Errors), "{broken:?}");
        }
    }

    #[test]
    fn slower_than_before_and_than_is_fast_enough_is_an_objection() {
        let latency = Some(Cause::Latency);
        for (before, now, wanted) in
            [(1, 99, None), (1, 200, latency), (100, 200, None), (100, 500, latency), (500, 500, None)]
        {
            assert_eq!(cause(Some(tally(3000, 0, before)), &tally(100, 0, now)), wanted, "{before} {now}");
        }
        assert_eq!(cause(None, &tally(100, 0, 60_000)), None, "nothing to compare with");
        let mut fresh = watch(Some(tally(3000, 0, 1)));
        let early = fresh.look(&Rules::default(), &tally(100, 0, 900), Duration::from_secs(1), WHOLE);
        assert_eq!(early, None, "it may warm up");
    }

    #[test]
    fn what_was_good_for_long_does_not_hide_what_is_bad_now() {
        let (mut watch, rules, whole) =
            (watch(Some(tally(3000, 0, 1))), Rules::default(), Duration::from_secs(3600));
        let mut total = 0;
        for second in 1..=3000 {
            total += 30;
            assert_eq!(watch.look(&rules, &tally(total, 0, 1), Duration::from_secs(second), whole), None);
        }
        let bad = tally(total + 30, 15, 1);
        let found = watch.look(&rules, &bad, Duration::from_secs(3001), whole);
        assert_eq!(found.map(|objection| objection.cause), Some(Cause::Errors));
    }

    fn random(state: &mut u64) -> f64 {
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        (*state >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// Property: releases that are as good, or as bad, as the one before are taken back no more often than the rules say.
    #[test]
    fn chance_takes_back_no_more_than_is_allowed() {
        let (rules, mut seed, mut reverted) = (Rules::default(), 0x5eed_u64, 0);
        let (bakes, per_look) = (200, 40);
        for bake in 0..bakes {
            let rate = [0.0, 0.01, 0.1, 0.5][bake % 4];
            let mut errors = |count: u64| (0..count).filter(|_| random(&mut seed) < rate).count() as u64;
            let mut watch = watch(Some(tally(1000, errors(1000), 1)));
            let (mut total, mut failed) = (0, 0);
            let is_reverted = (1..=60).any(|second| {
                (total, failed) = (total + per_look, failed + errors(per_look));
                let now = Tally { statuses: [0, total - failed, 0, 0, failed], ..Tally::default() };
                watch.look(&rules, &now, Duration::from_secs(second), WHOLE).is_some()
            });
            reverted += usize::from(is_reverted);
        }
        let allowed = bakes * rules.false_rollbacks_per_mille as usize / 1000;
        assert!(reverted <= allowed, "{reverted} of {bakes}");
    }

    /// Property: whatever the counts, a look ends, and says nothing about a slot without enough requests.
    #[test]
    fn any_counts_are_looked_at() {
        let mut seed = 0xfeed_u64;
        for _ in 0..300 {
            let mut number = |most: f64| (random(&mut seed) * most) as u64;
            let mut arbitrary = || {
                let requests = number(300.0);
                let errors = number(requests as f64 + 1.0);
                Tally { cut: number(9.0), rescued: number(9.0), ..tally(requests, errors, number(2000.0)) }
            };
            let (record, green) = (arbitrary(), arbitrary());
            let found = cause(Some(record), &green);
            assert!(found.is_none() || green.attempts() >= Rules::default().min_requests);
        }
    }

    #[test]
    fn a_bake_names_slots_that_are_there() {
        let slot = |service: &str| crate::control::Slot {
            service: service.into(),
            upstreams: vec!["127.0.0.1:1".parse().unwrap()],
        };
        let table = |names: &[&str]| Table {
            slots: names.iter().map(|name| ((*name).to_owned(), slot(&name[..1]))).collect(),
            ..Table::default()
        };
        let (former, new) = (table(&["a1", "b1"]), table(&["a2", "b1", "c1"]));
        let bake = |from: &[&str], to: &[&str]| Bake {
            from: from.iter().map(|&name| name.to_owned()).collect(),
            to: to.iter().map(|&name| name.to_owned()).collect(),
            for_ms: 1000,
            rules: Rules::default(),
        };
        let good = bake(&["a1"], &["a2", "c1"]);
        check(&good, &former, &new).unwrap();
        let found = pairs(&good, &former, &new);
        assert_eq!(found, [("a2".to_owned(), Some("a1".to_owned())), ("c1".to_owned(), None)]);
        for bad in [
            bake(&["a2"], &["a2"]),
            bake(&["x"], &["a2"]),
            bake(&["a1"], &["x"]),
            bake(&["a1"], &[]),
            Bake { for_ms: 0, ..good.clone() },
            Bake { for_ms: u64::MAX, ..good.clone() },
            Bake { rules: Rules { false_rollbacks_per_mille: 0, ..Rules::default() }, ..good.clone() },
            Bake { rules: Rules { max_errors_per_mille: 1001, ..Rules::default() }, ..good.clone() },
            Bake { rules: Rules { max_slowdown_percent: Some(50), ..Rules::default() }, ..good },
        ] {
            assert!(check(&bad, &former, &new).is_err(), "{bad:?}");
        }
    }
}
