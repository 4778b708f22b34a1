//! Plans and proofs over many random workspaces.

use std::collections::{BTreeMap, BTreeSet};

use fastrand::Rng;
use stdx::Digest;

use crate::*;

pub(crate) fn report(names: &[&str]) -> Report {
    let test = |name: &&str| Test { binary: "a::it".to_owned(), name: (*name).to_owned() };
    let listed = names.iter().map(|name| (*name).to_owned()).collect();
    Report {
        schema: Report::SCHEMA.to_owned(),
        runner: "here".to_owned(),
        engine: Engine::Builtin,
        selection: ALL.to_owned(),
        shard: None,
        elapsed_ms: 0,
        passed: names.len(),
        failed: 0,
        skipped: 0,
        listed: [("a::it".to_owned(), listed)].into(),
        tests: names.iter().map(|name| Outcome::new(&test(name), Verdict::Passed, 0.1, "")).collect(),
        doctests: Vec::new(),
        builds: BTreeMap::new(),
    }
}

const ODD: [&str; 12] =
    ["a", "a::b", "with space", "ü", "日本", "(all)", "(x)", "a, b", "\"q\"", "\\", "case_1: test", ""];

fn any_inventory(random: &mut Rng) -> Inventory {
    let mut inventory = Inventory::default();
    for index in 0..random.usize(0..5) {
        let selector = match random.u8(..4) {
            0 => Selector::Lib,
            1 => Selector::Bin("b".to_owned()),
            2 => Selector::Doc,
            _ => Selector::Test(format!("t{}", random.u8(..2))),
        };
        let mut binary = Binary::new(selector);
        binary.is_listed = random.u8(..4) > 0;
        for _ in 0..random.usize(0..12) {
            let name = format!("{}{}", ODD[random.usize(..ODD.len())], random.u8(..20));
            binary.tests.insert(name, random.u8(..5) == 0);
        }
        // Equal names in two binaries are two tests.
        binary.tests.insert("same".to_owned(), false);
        inventory.binaries.insert(format!("p{index}"), binary);
    }
    inventory
}

fn any_timings(random: &mut Rng, inventory: &Inventory) -> Timings {
    let mut timings = Timings::default();
    let share = random.f64();
    for test in inventory.runnable() {
        if random.f64() < share {
            timings.record(&test, "here", random.f64() * 3.0, 1);
        }
    }
    for id in inventory.binaries.keys() {
        timings.record_build(id, "here", random.f64() * 9.0, 1);
    }
    timings
}

fn plan(inventory: &Inventory, timings: &Timings, shards: u32, builds: Builds) -> Plan {
    Plan::new(&Planning { inventory, timings, shards, runner: "here", now: 2, builds }).unwrap()
}

/// What each shard would report if it did what the plan says; `real` is what the binaries really hold.
fn play(plan: &Plan, real: &Inventory) -> Vec<Report> {
    let of = plan.shards.len() as u32;
    let binaries: BTreeMap<String, Vec<u32>> =
        plan.binaries.iter().map(|(id, assignment)| (id.clone(), assignment.shards.clone())).collect();
    let shard = |index: u32| {
        let mut report = report(&[]);
        let part = Part { index, of, plan: plan.digest, binaries: binaries.clone() };
        (report.shard, report.listed) = (Some(part), BTreeMap::new());
        for (id, binary) in &real.binaries {
            if !binaries[id].contains(&index) {
                continue;
            }
            report.listed.insert(id.clone(), binary.tests.keys().cloned().collect());
            for (name, is_ignored) in
                binary.tests.iter().filter(|(name, _)| plan.shard_of(id, name) == Some(index))
            {
                let test = Test { binary: id.clone(), name: name.clone() };
                let verdict = if *is_ignored { Verdict::Skipped } else { Verdict::Passed };
                report.tests.push(Outcome::new(&test, verdict, 0.1, ""));
            }
        }
        report
    };
    (1..=of).map(shard).collect()
}

#[test]
fn every_test_runs_exactly_once_also_one_that_the_plan_never_saw() {
    let mut random = Rng::with_seed(11);
    for round in 0..3_000 {
        let inventory = any_inventory(&mut random);
        let timings = any_timings(&mut random, &inventory);
        let builds = if random.bool() { Builds::PerShard } else { Builds::Everything };
        let plan = plan(&inventory, &timings, random.u32(1..9), builds);
        plan.verify().unwrap();
        let mut real = inventory.clone();
        for binary in real.binaries.values_mut() {
            binary.tests.retain(|_, _| random.u8(..8) > 0);
            (0..random.usize(..4)).for_each(|index| {
                binary.tests.insert(format!("new {index}"), false);
            });
        }
        let merged = merge(&play(&plan, &real), Some(&plan)).unwrap_or_else(|p| panic!("{round}: {p:?}"));
        assert_eq!(merged.tests.len(), real.tests().filter(|(test, _)| !real.is_unlisted(test)).count());
    }
}

#[test]
fn a_plan_of_these_very_tests_holds_the_shards_to_each_name() {
    let mut random = Rng::with_seed(23);
    for _ in 0..300 {
        let mut inventory = any_inventory(&mut random);
        inventory.binaries.values_mut().for_each(|binary| binary.is_listed = true);
        let timings = any_timings(&mut random, &inventory);
        let made = plan(&inventory, &timings, random.u32(1..9), Builds::PerShard);
        let made = Plan { is_exact: true, ..made };
        merge(&play(&made, &inventory), Some(&made)).unwrap();
        let Some(binary) = inventory.binaries.values_mut().next() else { continue };
        binary.tests.remove("same");
        binary.tests.insert("one more".to_owned(), false);
        let problems = merge(&play(&made, &inventory), Some(&made)).unwrap_err();
        let names = |text: &str| problems.iter().any(|problem| problem.contains(text));
        assert!(
            names("same is planned, but is gone") && names("one more is not in the plan"),
            "{problems:?}"
        );
    }
}

#[test]
fn a_plan_is_the_same_for_the_same_facts_and_never_expected_to_be_worse_than_slicing() {
    let mut random = Rng::with_seed(13);
    for _ in 0..300 {
        let inventory = any_inventory(&mut random);
        let timings = any_timings(&mut random, &inventory);
        let shards = random.u32(1..9);
        let made = plan(&inventory, &timings, shards, Builds::PerShard);
        assert_eq!(made, plan(&inventory.clone(), &timings.clone(), shards, Builds::PerShard));
        assert!(made.makespan() <= made.slice_seconds + 1e-9);
        let again: Plan = serde_json::from_slice(&serde_json::to_vec(&made).unwrap()).unwrap();
        again.verify().unwrap();
        assert_eq!((again.digest, again.binaries), (made.digest, made.binaries));
    }
}

#[test]
fn without_data_every_nth_test_is_taken_and_the_plan_says_so() {
    let mut inventory = Inventory::default();
    let mut binary = Binary::new(Selector::Test("it".to_owned()));
    binary.is_listed = true;
    binary.tests = (0..10).map(|index| (format!("t{index}"), false)).collect();
    inventory.binaries.insert("a::it".to_owned(), binary);
    let made = plan(&inventory, &Timings::default(), 2, Builds::Everything);
    assert_eq!((made.method, made.quality.measured), (Method::Slice, 0));
    assert_eq!((made.shard_of("a::it", "t0"), made.shard_of("a::it", "t3")), (Some(1), Some(2)));
    assert_eq!(made.shards.iter().map(|shard| shard.tests).collect::<Vec<_>>(), [5, 5]);
}

#[test]
fn a_changed_plan_is_refused() {
    let mut random = Rng::with_seed(17);
    let inventory = std::iter::repeat_with(|| any_inventory(&mut random))
        .find(|inventory| !inventory.binaries.is_empty())
        .unwrap();
    let made = plan(&inventory, &Timings::default(), 3, Builds::Everything);
    let mut changed = made.clone();
    changed.binaries.pop_first();
    assert!(changed.verify().unwrap_err().to_string().contains("changed"));
    let mut changed = made;
    changed.binaries.values_mut().next().unwrap().shards = vec![4];
    assert!(changed.verify().unwrap_err().to_string().contains("does not have"));
}

/// Two shards with one test each; `damage` is done to their reports.
#[track_caller]
fn refused(expected: &str, damage: impl FnOnce(&mut Vec<Report>)) {
    let part = |index| Part {
        index,
        of: 2,
        plan: Digest::of(b"plan"),
        binaries: [("a::it".to_owned(), vec![1, 2])].into(),
    };
    let mut reports: Vec<Report> = ["a", "b"]
        .iter()
        .zip(1..)
        .map(|(name, index)| {
            let mut report = report(&[name]);
            report.listed.insert("a::it".to_owned(), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
            Report { shard: Some(part(index)), ..report }
        })
        .collect();
    merge(&reports, None).unwrap();
    damage(&mut reports);
    let problems = merge(&reports, None).unwrap_err();
    assert!(problems.iter().any(|problem| problem.contains(expected)), "{problems:?}");
}

#[test]
fn whatever_is_lost_doubled_or_mixed_is_named() {
    refused("a::it a ran in no shard", |reports| reports[0].tests.clear());
    refused("a::it b ran 2 times", |reports| {
        let twice = reports[1].tests[0].clone();
        reports[0].tests.push(twice);
    });
    refused("there is no report of shard 2/2", |reports| drop(reports.pop()));
    refused("two reports of shard 1/2", |reports| reports.push(reports[0].clone()));
    refused("found different tests in a::it: [\"c\"]", |reports| {
        reports[1].listed.get_mut("a::it").unwrap().insert("c".to_owned());
    });
    refused("did not look into a::it", |reports| reports[0].listed.clear());
    refused("but is in no list", |reports| reports[0].tests[0].test.name = "z".to_owned());
    refused("belongs to the plan", |reports| {
        reports[1].shard.as_mut().unwrap().plan = Digest::of(b"other");
    });
    refused("without shards", |reports| reports[1].shard = None);
    refused("another `x`", |reports| reports[1].selection = "x".to_owned());
    refused("was interrupted in a::it a", |reports| reports[0].tests[0].verdict = Verdict::Interrupted);
    refused("which has no part of a::it", |reports| {
        for report in reports {
            report.shard.as_mut().unwrap().binaries.insert("a::it".to_owned(), vec![2]);
        }
    });
}

#[test]
fn a_report_is_refused_when_it_is_of_another_kind_and_no_bytes_make_it_panic() {
    let good = serde_json::to_vec(&report(&["a", "b"])).unwrap();
    assert_eq!(Report::parse(&good).unwrap(), report(&["a", "b"]));
    let other = Report { schema: "slipway.build/1".to_owned(), ..report(&[]) };
    assert!(Report::parse(&serde_json::to_vec(&other).unwrap()).is_err());
    let mut random = Rng::with_seed(19);
    for _ in 0..3_000 {
        let mut bytes = good.clone();
        for _ in 0..random.usize(1..5) {
            let at = random.usize(..bytes.len());
            bytes[at] = random.u8(..);
        }
        if let Ok(report) = Report::parse(&bytes) {
            let _ = merge(&[report], None);
        }
    }
}
