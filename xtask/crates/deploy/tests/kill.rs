//! A deployer that is killed at every fail point, while requests go on: the next one finishes or undoes what it
//! began, and nothing is lost.

mod rig;

use std::os::unix::process::ExitStatusExt;

use deploy::Outcome;
use deploy::fail_point::{MOMENTS, STEPS};
use rig::{Load, Rig, Tweak};

const BEFORE_START: &[&str] = &["lock", "recover", "preflight", "unpack"];
const UP_TO_SWITCH: &[&str] = &["start", "gate"];
const FROM_SWITCH_ON: &[&str] = &["switch", "drain", "stop", "retire"];
const AFTER_FAILURE: &[&str] = &["discard"];

/// Kills a deployment of a new version at each of `points`; then deploys it again and looks for what is left over.
fn check(points: &[String], killed: &Tweak) {
    let rig = Rig::new();
    rig.deploy("0");
    rig.deploy("1");
    let load = Load::start(&rig);
    for (index, point) in points.iter().enumerate() {
        let version = format!("v{index}");
        let output = rig.deploy_process(&version, killed, Some(point));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.signal(), Some(9), "{point} was not reached: {said}");
        let output = rig.deploy_process(&version, &Tweak::default(), None);
        assert!(output.status.success(), "after {point}: {}", String::from_utf8_lossy(&output.stderr));
        let is_finished = String::from_utf8_lossy(&output.stdout).contains(r#""outcome":"nothing_to_do""#);
        assert_eq!(
            is_finished,
            is_switched(point),
            "after {point}: the switch decides between finishing and undoing"
        );
        assert_eq!(rig.get("/"), (200, version), "after {point}");
        assert_eq!(rig.running_slots(), 2, "after {point}: {:#?}", rig.status().services);
        assert_eq!(rig.status().trouble, Vec::<String>::new(), "after {point}");
        let slots: usize = rig.status().services.values().map(Vec::len).sum();
        assert!(
            slots <= 4,
            "after {point}: {slots} slots, of which two serve and one for each service is kept"
        );
    }
    load.stop();
}

/// Whether the new version serves when the deployer dies at `point`.
fn is_switched(point: &str) -> bool {
    let after_the_switch = ["drain:", "stop:", "retire:", "switch:after-effect", "switch:after-done"];
    after_the_switch.iter().any(|start| point.starts_with(start))
}

fn points(steps: &[&str]) -> Vec<String> {
    steps.iter().flat_map(|step| MOMENTS.iter().map(move |moment| format!("{step}:{moment}"))).collect()
}

#[test]
fn before_the_processes_start() {
    check(&points(BEFORE_START), &Tweak::default());
}

#[test]
fn up_to_the_switch() {
    check(&points(UP_TO_SWITCH), &Tweak::default());
}

#[test]
fn from_the_switch_on() {
    check(&points(FROM_SWITCH_ON), &Tweak::default());
}

#[test]
fn while_a_failed_deployment_is_cleared_away() {
    check(&points(AFTER_FAILURE), &Tweak { mode: "crash", ..Tweak::default() });
}

#[test]
fn the_points_above_are_all_there_are() {
    assert_eq!(STEPS.as_slice(), [BEFORE_START, UP_TO_SWITCH, FROM_SWITCH_ON, AFTER_FAILURE].concat());
}

/// A deployment is killed at `point`, and then each attempt to clear up after it.
fn check_recovery(point: &str) {
    let rig = Rig::new();
    rig.deploy("0");
    rig.deploy("1");
    let load = Load::start(&rig);
    let kill = |point: &str| {
        let output = rig.deploy_process("2", &Tweak::default(), Some(point));
        assert_eq!(output.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&output.stderr));
    };
    kill(point);
    for moment in ["before-intent", "after-intent", "after-effect"] {
        assert!(rig.status().trouble[0].contains("interrupted at"), "{moment}: the deployment is open");
        kill(&format!("recover:{moment}"));
        let served = if is_switched(point) { "2" } else { "1" };
        assert_eq!(rig.get("/"), (200, served.to_owned()), "{moment}");
    }
    kill("recover:after-done");
    assert_eq!((rig.running_slots(), rig.status().trouble), (2, vec![]), "after {point}");
    let outcome = rig.deploy("2");
    assert_eq!(matches!(outcome, Outcome::NothingToDo { .. }), is_switched(point), "{outcome:?}");
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("2", 2));
    load.stop();
}

#[test]
fn while_it_clears_up_after_one_that_had_not_switched() {
    check_recovery("gate:after-effect");
}

#[test]
fn while_it_clears_up_after_one_that_had_switched() {
    check_recovery("switch:after-done");
}
