//! What becomes of deployments that were interrupted: resumed, aborted, overtaken; and what the audit says of it all.

mod rig;

use deploy::{Audit, Error, Held, Outcome, Volumes, Which};
use rig::{Load, Rig, Tweak, wait_until};
use rustix::process::Signal;

fn interrupted(rig: &Rig, version: &str, point: &str) {
    let output = rig.deploy_process(version, &Tweak::default(), Some(point));
    assert!(!output.status.success(), "{point} was not reached");
}

#[test]
fn resume_goes_on_with_what_was_interrupted() {
    let rig = Rig::new();
    rig.deploy("1");
    assert!(matches!(rig.on(|site| deploy::resume(site, Held::Refuse)), Err(Error::Preflight(_))));
    let load = Load::start(&rig);
    for (version, point) in
        [("2", "gate:after-effect"), ("3", "switch:after-done"), ("4", "preflight:before-intent")]
    {
        interrupted(&rig, version, point);
        let kept = deploy::kept(&rig.state(), Which::Interrupted).unwrap();
        assert_eq!(kept.release, rig.release(version, &Tweak::default()));
        let outcome = rig.on(|site| deploy::resume(site, Held::Refuse)).unwrap();
        let is_finished = matches!(outcome, Outcome::NothingToDo { .. });
        assert_eq!(is_finished, point == "switch:after-done", "{point}: {outcome:?}");
        assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), (version, 2), "{point}");
    }
    load.stop();
    assert!(matches!(rig.on(|site| deploy::resume(site, Held::Refuse)), Err(Error::Preflight(_))));
}

#[test]
fn abort_clears_away_what_was_interrupted() {
    let rig = Rig::new();
    rig.deploy("1");
    let load = Load::start(&rig);
    interrupted(&rig, "2", "gate:after-effect");
    let aborted = rig.on(|site| deploy::abort(site, Held::Refuse)).unwrap();
    assert!(!aborted.switched && aborted.interrupted_at.starts_with("gate"), "{aborted:?}");
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("1", 2));
    interrupted(&rig, "3", "switch:after-done");
    assert!(rig.on(|site| deploy::abort(site, Held::Refuse)).unwrap().switched);
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("3", 2));
    assert!(matches!(rig.on(|site| deploy::abort(site, Held::Refuse)), Err(Error::Preflight(_))));
    rig.on(deploy::rollback).unwrap();
    assert_eq!(rig.get("/").1, "1");
    load.stop();
}

#[test]
fn a_deployer_that_hangs_is_overtaken_and_changes_nothing_when_it_goes_on() {
    let rig = Rig::new();
    rig.deploy("1");
    let slow = Tweak { mode: "silent", start_timeout_ms: 5_000, ..Tweak::default() };
    let mut command = rig.deploy_command("2", &slow, None);
    let mut first = command.stderr(std::process::Stdio::piped()).spawn().unwrap();
    wait_until("green was started", || rig.running_slots() == 4);
    rig.signal(first.id(), Signal::STOP);
    assert!(matches!(rig.on(|site| deploy::abort(site, Held::Refuse)), Err(Error::LockHeld(_))));
    let load = Load::start(&rig);
    rig.on(|site| deploy::abort(site, Held::TakeOver)).unwrap();
    assert!(matches!(rig.deploy("3"), Outcome::Deployed { .. }));
    rig.signal(first.id(), Signal::CONT);
    let mut said = String::new();
    std::io::Read::read_to_string(&mut first.stderr.take().unwrap(), &mut said).unwrap();
    assert!(!first.wait().unwrap().success());
    assert!(said.contains("took the environment over"), "{said}");
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("3", 2));
    assert_eq!(load.stop().into_iter().collect::<Vec<_>>(), ["1", "3"]);
    assert!(matches!(rig.deploy("3"), Outcome::NothingToDo { .. }));
    assert_eq!(rig.status().trouble, Vec::<String>::new(), "the journal is whole");
}

#[test]
fn looking_ahead_changes_nothing() {
    let rig = Rig::new();
    rig.deploy("1");
    rig.deploy("2");
    let before = rig::listing(&rig.state());
    let preview = rig.on(deploy::rollback_dry_run).unwrap();
    assert_eq!(preview.plan.release, rig.release("1", &Tweak::default()).id().unwrap());
    assert!(preview.differences["web"].image.is_some(), "{preview:?}");
    let down = deploy::down_dry_run(&rig.state(), Volumes::Remove).unwrap();
    assert_eq!((down.edge_stopped, down.stopped.len()), (true, 2));
    assert_eq!(down.volumes_removed, ["web-data"]);
    assert_eq!(rig::listing(&rig.state()), before);
    let Outcome::Deployed { plan, .. } = rig.on(deploy::rollback).unwrap() else { panic!("not deployed") };
    assert_eq!(plan, preview.plan, "a dry run tells what is done");
}

#[test]
fn every_operation_is_on_record_and_a_record_that_is_gone_is_missed() {
    let rig = Rig::new();
    rig.deploy("1");
    rig.deploy("1");
    rig.try_deploy("2", &Tweak { mode: "crash", ..Tweak::default() }).unwrap();
    interrupted(&rig, "3", "gate:after-effect");
    rig.on(|site| deploy::abort(site, Held::Refuse)).unwrap();
    assert!(rig.try_deploy("4", &Tweak { web_env: "TOKEN: literal", ..Tweak::default() }).is_err());
    rig.on(|site| deploy::down(site, Volumes::Keep)).unwrap();
    let audit = Audit::load(&rig.state()).unwrap();
    let told: Vec<_> = audit
        .records
        .iter()
        .map(|record| format!("{} {}", record.event.operation, record.event.outcome))
        .collect();
    let expected = [
        "deploy begun",
        "deploy deployed",
        "deploy nothing to do",
        "deploy begun",
        "deploy rolled back",
        "deploy begun",
        "abort undone",
        "deploy refused",
        "down stopped",
    ];
    assert_eq!((told.as_slice(), audit.damage), (expected.map(String::from).as_slice(), None));
    let first = &audit.records[0].event;
    assert_eq!(first.release, Some(rig.release("1", &Tweak::default()).id().unwrap()));
    assert_eq!((first.who.as_str(), first.command.as_str()), ("somebody", "test"));
    let failed = audit.records[4].event.detail.clone().unwrap();
    assert!(failed.contains("gate web-") && failed.contains("a process ended"), "{failed}");
    let tokens: Vec<_> = audit.records.iter().map(|record| record.event.token).collect();
    assert!(tokens.is_sorted() && tokens[0] > 0, "{tokens:?}");
    let path = rig.state().join("audit.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let without: String =
        text.lines().filter(|line| !line.contains("rolled back")).map(|line| format!("{line}\n")).collect();
    std::fs::write(&path, without).unwrap();
    let damage = Audit::load(&rig.state()).unwrap().damage.unwrap();
    assert!(damage.contains("audit.jsonl:5: records 5 to 5 were removed"), "{damage}");
}
