//! A deployer that is killed at every fail point, while requests go on: the next one finishes or undoes what it
//! began, and nothing is lost.

mod rig;

use std::os::unix::process::ExitStatusExt;

use deploy::fail_point::{MOMENTS, STEPS};
use rig::{Load, Rig, Tweak};

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
        assert_eq!(rig.status().trouble, None, "after {point}");
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
    check(&points(&["lock", "recover", "preflight", "unpack"]), &Tweak::default());
}

#[test]
fn up_to_the_switch() {
    check(&points(&["start", "gate"]), &Tweak::default());
}

#[test]
fn from_the_switch_on() {
    check(&points(&["switch", "drain", "stop", "retire"]), &Tweak::default());
}

#[test]
fn while_a_failed_deployment_is_cleared_away() {
    check(&points(&["discard"]), &Tweak { mode: "crash", ..Tweak::default() });
}

#[test]
fn the_points_above_are_all_there_are() {
    let checked = [
        "lock",
        "recover",
        "preflight",
        "unpack",
        "start",
        "gate",
        "switch",
        "drain",
        "stop",
        "retire",
        "discard",
    ];
    assert_eq!(STEPS, checked);
}
