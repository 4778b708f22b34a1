//! Events, one-shot programs and retention.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use docker::{Ending, Happening, Kept, Labels, OutputBound, Secret, SecretValue, Stream, Watch, Watched};

use crate::rig::{Lab, PATIENCE};

/// The next so many.
pub(crate) fn collect(watch: &Watch, count: usize) -> Vec<Watched> {
    (0..count).map(|at| watch.next(PATIENCE).unwrap_or_else(|| panic!("no event {at}"))).collect()
}

#[test]
fn a_crash_is_noticed_at_once() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let watch = lab.engine.watch(&lab.labels());
    assert_eq!(collect(&watch, 1), [Watched::Gap]);
    let mut spec = lab.spec("crashing", &image, &["sleep=60000"]);
    spec.labels.insert("slot".into(), "7".into());
    let id = lab.engine.create(&spec).unwrap().id;
    lab.engine.start(&id).unwrap();
    let started = collect(&watch, 1);
    let since = Instant::now();
    lab.engine.signal(&id, "KILL").unwrap();
    let died = collect(&watch, 1);
    let took = since.elapsed();
    let [Watched::Event(started), Watched::Event(died)] = [&started[0], &died[0]] else {
        panic!("{started:?} {died:?}")
    };
    assert_eq!((started.happening, died.happening), (Happening::Started, Happening::Died { exit_code: 137 }));
    assert_eq!((&died.id, &died.name, died.labels.get("slot")), (&id, &spec.name, Some(&"7".to_owned())));
    assert!(took < Duration::from_secs(5), "{took:?}");
    println!("told {took:?} after the signal");
    // Somebody else's container is not told of.
    let mut foreign = lab.spec("foreign", &image, &["exit=1"]);
    foreign.labels = Labels::from([(crate::rig::LABEL.to_owned(), lab.named("other"))]);
    lab.run(&foreign);
    lab.engine.remove(&foreign.name).unwrap();
    lab.engine.remove(&id).unwrap();
    match collect(&watch, 1).remove(0) {
        Watched::Event(event) => assert_eq!((event.id, event.happening), (id, Happening::Removed)),
        Watched::Gap => panic!("nothing broke"),
    }
}

#[test]
fn want_of_memory_is_told_as_such() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let watch = lab.engine.watch(&lab.labels());
    assert_eq!(collect(&watch, 1), [Watched::Gap]);
    let mut spec = lab.spec("hungry", &image, &["eat=200"]);
    spec.limits.memory_bytes = Some(32 << 20);
    lab.run(&spec);
    let mut seen = BTreeSet::new();
    while !seen.contains("died") {
        if let Watched::Event(event) = collect(&watch, 1).remove(0) {
            seen.insert(match event.happening {
                Happening::OutOfMemory => "oom",
                Happening::Died { exit_code: 137 } => "died",
                _ => "other",
            });
        }
    }
    // The engine hears of it from the kernel on a way of its own: it may come after the end.
    if !seen.contains("oom") {
        assert!(
            matches!(&collect(&watch, 1)[0], Watched::Event(event) if event.happening == Happening::OutOfMemory)
        );
    }
}

#[test]
fn a_program_that_runs_once_gives_its_output_and_its_end() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let mut spec =
        lab.spec("once", &image, &["read=/run/secrets/db", "complain=careful", "count=3", "exit=4"]);
    spec.secrets = vec![Secret { name: "db".into(), value: SecretValue::new("s3cret") }];
    let mut lines = Vec::new();
    let ended = lab
        .engine
        .run_to_end(&spec, PATIENCE, OutputBound::default(), &mut |line| lines.push((line.stream, line.text)))
        .unwrap();
    assert_eq!((ended.ending, ended.dropped_bytes), (Ending::Exited(4), 0));
    let out: Vec<&str> =
        lines.iter().filter(|(stream, _)| *stream == Stream::Out).map(|(_, text)| text.as_str()).collect();
    assert_eq!(out, ["read /run/secrets/db ok s3cret", "line 0", "line 1", "line 2"]);
    assert!(lines.contains(&(Stream::Error, "careful".into())));
    assert_eq!(lab.engine.container(&spec.name).unwrap(), None, "nothing is left of it");
    let long = lab.spec("long", &image, &["count=20000"]);
    let mut lines = Vec::new();
    let bound = OutputBound { bytes: 1000 };
    let ended = lab.engine.run_to_end(&long, PATIENCE, bound, &mut |line| lines.push(line.text)).unwrap();
    assert_eq!(ended.ending, Ending::Exited(0));
    assert!(ended.dropped_bytes > 100_000 && lines.len() < 3000, "{} {}", ended.dropped_bytes, lines.len());
    assert_eq!((lines[0].as_str(), lines.last().unwrap().as_str()), ("line 0", "line 19999"));
}

#[test]
fn a_program_that_runs_once_ends_in_time_and_when_it_is_told_to() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let spec = lab.spec("slow", &image, &["print=begun", "sleep=60000"]);
    let mut lines = Vec::new();
    let mut each = |line: docker::Line| lines.push(line.text);
    let ended =
        lab.engine.run_to_end(&spec, Duration::from_secs(2), OutputBound::default(), &mut each).unwrap();
    assert_eq!(ended.ending, Ending::TimedOut);
    assert_eq!(lines, ["begun"]);
    let flag = Arc::new(AtomicBool::new(false));
    let heeding = lab.engine.heeding(flag.clone());
    let mut each = |_| flag.store(true, Ordering::Relaxed);
    let ended = heeding.run_to_end(&spec, PATIENCE, OutputBound::default(), &mut each).unwrap();
    assert_eq!(ended.ending, Ending::Interrupted);
    assert_eq!(lab.engine.container(&spec.name).unwrap(), None);
    let mut hungry = lab.spec("hungry", &image, &["eat=200"]);
    hungry.limits.memory_bytes = Some(32 << 20);
    let ended = lab.engine.run_to_end(&hungry, PATIENCE, OutputBound::default(), &mut |_| ()).unwrap();
    assert_eq!(ended.ending, Ending::OutOfMemory);
}

#[test]
fn what_is_no_longer_wanted_goes_and_what_is_used_stays() {
    let Some(lab) = Lab::open() else { return };
    let live_image = lab.probe("");
    let old_image = lab.probe("7:7");
    let network = docker::NetworkSpec { labels: lab.labels(), ..docker::NetworkSpec::new(lab.named("net")) };
    lab.engine.ensure_network(&network).unwrap();
    lab.engine.ensure_volume(&docker::VolumeSpec { name: lab.named("data"), labels: lab.labels() }).unwrap();
    let live = lab.spec("live", &live_image, &["sleep=60000"]);
    lab.engine.create(&live).unwrap();
    lab.engine.start(&live.name).unwrap();
    let mut old = lab.spec("old", &old_image, &["who"]);
    old.secrets = vec![Secret { name: "db".into(), value: SecretValue::new("x") }];
    lab.run(&old);
    // As if a deployer had been killed in the middle of removing it: the holder of its secrets is left.
    let ids = std::process::Command::new("docker").args(["rm", "-f", &old.name]).output().unwrap();
    assert!(ids.status.success());
    let kept = Kept { containers: [live.name.clone()].into(), ..Kept::default() };
    let removed = lab.engine.remove_all_but(&lab.labels(), &kept).unwrap();
    assert_eq!((removed.secrets, removed.networks), (1, vec![network.name]));
    assert_eq!((removed.images, removed.images_in_use), (vec![old_image], vec![]));
    let left = lab.engine.inventory(&lab.labels()).unwrap();
    assert_eq!(
        (left.containers.len(), left.images.len(), left.networks.len(), left.volumes.len()),
        (1, 1, 0, 1)
    );
    let again = lab.engine.remove_all_but(&lab.labels(), &kept).unwrap();
    assert_eq!(again, docker::Removed::default());
    let none = lab
        .engine
        .remove_all_but(&lab.labels(), &Kept { images: [live_image].into(), ..Kept::default() })
        .unwrap();
    assert_eq!(none.containers, [live.name]);
    assert_eq!(lab.engine.inventory(&lab.labels()).unwrap().images.len(), 1);
}
