//! Whole deployments with real processes, a real edge and real images, on loopback.

mod rig;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use deploy::{Action, Condition, Error, LogMode, LogQuery, Outcome, Role, Volumes};
use rig::{Load, Rig, Tweak, wait_until};
use rustix::process::Signal;

#[test]
fn the_first_deployment_serves_and_the_next_ones_switch_without_losing_a_request() {
    let rig = Rig::new();
    assert!(matches!(rig.deploy("1"), Outcome::Deployed { .. }));
    assert_eq!(rig.get("/"), (200, "1".to_owned()));
    let load = Load::start(&rig);
    for version in ["2", "3", "4"] {
        let Outcome::Deployed { unfinished, .. } = rig.deploy(version) else { panic!("not deployed") };
        assert!(unfinished.is_empty(), "{unfinished:?}");
        assert_eq!(rig.get("/"), (200, version.to_owned()));
    }
    let seen = load.stop();
    assert!(seen.contains("1") && seen.contains("4"), "{seen:?}");
    assert_eq!(rig.running_slots(), 2);
    let web = &rig.status().services["web"];
    let roles: Vec<_> = web.iter().map(|slot| slot.role).collect();
    assert_eq!(
        roles.iter().filter(|role| **role == Role::Retained).count(),
        1,
        "one stopped slot is kept: {roles:?}"
    );
}

#[test]
fn what_did_not_change_is_not_touched() {
    let rig = Rig::new();
    rig.deploy("1");
    let (web, queue) = (rig.active_pid("web"), rig.active_pid("queue"));
    assert!(matches!(rig.deploy("1"), Outcome::NothingToDo { .. }));
    assert_eq!((rig.active_pid("web"), rig.active_pid("queue")), (web, queue));
    let tweak = Tweak { web_env: "SHOW: HOST", ..Tweak::default() };
    let plan =
        rig.on(|site| deploy::dry_run(site, &rig.release("1", &tweak), &rig.environment(&tweak))).unwrap();
    let Outcome::Deployed { plan: done, .. } = rig.try_deploy("1", &tweak).unwrap() else {
        panic!("not deployed")
    };
    assert_eq!(plan.plan, done, "a dry run tells what is done");
    let difference = &plan.differences["web"];
    assert_eq!((plan.differences.len(), difference.image), (1, None), "{difference:?}");
    assert_eq!(difference.variables_changed, ["SHOW".to_owned()].into(), "{difference:?}");
    assert!(matches!(done.services["queue"].action, Action::Keep { .. }));
    assert_ne!(rig.active_pid("web"), web, "another value is another process");
    assert_eq!(rig.active_pid("queue"), queue);
    let gone = Tweak { without_queue: true, ..tweak };
    rig.try_deploy("1", &gone).unwrap();
    assert_eq!(rig.running_slots(), 1, "a service that left the release is stopped");
}

#[test]
fn a_green_that_is_not_fit_never_serves_and_its_evidence_is_shown() {
    let rig = Rig::new();
    rig.deploy("1");
    let (web, queue) = (rig.active_pid("web"), rig.active_pid("queue"));
    let load = Load::start(&rig);
    let check = |mode: &'static str, expected: &str| {
        let outcome = rig.try_deploy("2", &Tweak { mode, ..Tweak::default() }).unwrap();
        let Outcome::RolledBack { evidence, left_behind, .. } = outcome else {
            panic!("{mode}: {outcome:?}")
        };
        let text = evidence.to_string();
        assert!(
            text.contains(expected) && text.contains("gate web-"),
            "{mode}: {expected:?} is not in {text:?}"
        );
        assert!(text.contains("log: version 2 begins"), "{mode}: {text:?}");
        assert!(left_behind.is_empty(), "{mode}: {left_behind:?}");
        assert_eq!(
            (rig.active_pid("web"), rig.active_pid("queue")),
            (web, queue),
            "{mode}: blue was touched"
        );
        assert_eq!(rig.running_slots(), 2, "{mode}");
        assert_eq!(rig.status().services["web"].len(), 1, "{mode}: green's folder is still there");
    };
    check("crash", "process: ended with status 3");
    check("abort", "process: was ended by signal 6");
    check("silent", "health: no answer");
    check("sick", "health: 503 the database is away");
    check("flap", "not 2 healthy answers in a row");
    assert_eq!(load.stop().into_iter().collect::<Vec<_>>(), ["1"]);
}

#[test]
fn a_taken_port_names_its_owner_and_the_key_to_change() {
    let rig = Rig::new();
    let listener = std::net::TcpListener::bind(rig.listen).unwrap();
    let Err(Error::Preflight(problems)) = rig.try_deploy("1", &Tweak::default()) else {
        panic!("it was accepted")
    };
    let text = problems[0].to_string();
    assert!(
        text.contains("edge.listen") && text.contains(&format!("process {}", std::process::id())),
        "{text}"
    );
    drop(listener);
    assert!(matches!(rig.deploy("1"), Outcome::Deployed { .. }));
}

#[test]
fn of_two_deployers_one_is_told_who_the_other_is_and_its_death_frees_the_lock() {
    let rig = Rig::new();
    rig.deploy("1");
    let slow = Tweak { mode: "silent", start_timeout_ms: 60_000, ..Tweak::default() };
    let mut first = rig.deploy_command("2", &slow, None).spawn().unwrap();
    wait_until("the first holds the lock", || rig.status().locked_by.is_some());
    let Err(Error::LockHeld(holder)) = rig.try_deploy("3", &Tweak::default()) else { panic!("not refused") };
    assert_eq!((holder.pid, holder.command.as_str()), (first.id(), "deploy test"));
    wait_until("green was started", || rig.running_slots() == 4);
    first.kill().unwrap();
    first.wait().unwrap();
    assert!(rig.status().trouble[0].contains("interrupted at"));
    assert!(matches!(rig.deploy("3"), Outcome::Deployed { .. }));
    assert_eq!(rig.get("/").1, "3");
    assert_eq!((rig.running_slots(), rig.status().trouble), (2, vec![]));
}

#[test]
fn rollback_restores_images_and_values_and_goes_back_again() {
    let rig = Rig::new();
    let old = Tweak { web_env: "SHOW: OLD", ..Tweak::default() };
    rig.try_deploy("1", &old).unwrap();
    let first = rig.active_slot("web");
    assert!(matches!(rig.on(deploy::rollback), Err(Error::Preflight(_))), "there is nothing to go back to");
    rig.deploy("2");
    assert!(matches!(rig.deploy("2"), Outcome::NothingToDo { .. }));
    let load = Load::start(&rig);
    assert!(matches!(rig.on(deploy::rollback), Ok(Outcome::Deployed { .. })));
    assert_eq!((rig.get("/").1, rig.get("/env/SHOW").1), ("1".to_owned(), "OLD".to_owned()));
    assert_eq!(rig.active_slot("web"), first, "the retained slot is started again");
    rig.on(deploy::rollback).unwrap();
    assert_eq!(rig.get("/").1, "2");
    load.stop();
}

#[test]
fn a_retained_slot_whose_files_changed_is_unpacked_again() {
    let rig = Rig::new();
    rig.deploy("1");
    let marker = rig.state().join("slots").join(rig.active_slot("web")).join("rootfs/etc/marker");
    rig.deploy("2");
    std::fs::remove_file(&marker).unwrap();
    rig.on(deploy::rollback).unwrap();
    assert_eq!(std::fs::read_to_string(marker).unwrap(), "inside");
    assert!(rig.notes.lock().unwrap().iter().any(|note| note.contains("changed")));
}

#[test]
fn down_stops_everything_and_the_next_deployment_begins_anew() {
    let rig = Rig::new();
    rig.deploy("1");
    std::fs::write(rig.state().join("data/web-data/kept"), "x").unwrap();
    let down = rig.on(|site| deploy::down(site, Volumes::Keep)).unwrap();
    assert!(down.edge_stopped && down.stopped.len() == 2 && down.volumes_removed.is_empty(), "{down:?}");
    assert_eq!((rig.running_slots(), rig.status().edge), (0, None));
    assert!(rig::get(rig.listen, "/").is_err());
    rig.deploy("1");
    assert_eq!(rig.get("/").1, "1");
    assert!(rig.state().join("data/web-data/kept").exists());
    let down = rig.on(|site| deploy::down(site, Volumes::Remove)).unwrap();
    assert_eq!(down.volumes_removed, ["web-data"]);
    assert!(!rig.on(|site| deploy::down(site, Volumes::Keep)).unwrap().edge_stopped, "twice is once");
}

#[test]
fn a_process_gets_its_declared_environment_and_nothing_else() {
    let rig = Rig::new();
    let secret = rig.state().with_extension("secret");
    std::fs::write(&secret, "s3cret-value\n").unwrap();
    let tweak = Tweak { web_env: "TOKEN: {from_file: ../state.secret}", ..Tweak::default() };
    rig.try_deploy("1", &tweak).unwrap();
    let root = rig.state().join("slots").join(rig.active_slot("web")).join("rootfs");
    assert_eq!(rig.get("/env/TOKEN").1, "s3cret-value");
    assert_eq!(
        rig.get("/env/MARKER").1,
        root.join("etc/marker").to_string_lossy(),
        "image paths lead into the slot"
    );
    assert_eq!(rig.get("/env/HOST").1, "127.0.0.1", "the environment goes before the image");
    assert_eq!(rig.get("/env/DATA").1, rig.state().join("data/web-data").to_string_lossy());
    let environ = std::fs::read(format!("/proc/{}/environ", rig.active_pid("web"))).unwrap();
    let names: Vec<_> = environ.split(|byte| *byte == 0).filter(|text| !text.is_empty()).collect();
    assert_eq!(names.len(), 8, "{:?}", String::from_utf8_lossy(&environ));
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", rig.active_pid("web"))).unwrap();
    assert!(
        limits.lines().any(|line| line.starts_with("Max open files") && line.contains("256")),
        "{limits}"
    );
    let found = rig::files_with(&rig.state(), "s3cret-value");
    assert!(found.is_empty(), "the secret is in {found:?}");
    let open = rig::files_open_to_others(&rig.state());
    assert!(open.is_empty(), "{open:?}");
}

#[test]
fn a_service_that_ends_is_started_again_and_one_without_supervisor_is_found() {
    let rig = Rig::new();
    rig.try_deploy("1", &Tweak { mode: "ignore-term", ..Tweak::default() }).unwrap();
    let first = rig.active_pid("web");
    let _ = rig::get(rig.listen, "/exit");
    wait_until("it runs again", || {
        let process = &rig.status().services["web"][0].processes[0];
        process.process.is_some_and(|process| process.pid != first) && process.health.is_healthy()
    });
    let process = rig.status().services["web"][0].processes[0].clone();
    assert_eq!(process.last_exit.unwrap().status, Some(4));
    assert!(process.restarts >= 1, "the edge may have asked twice");
    assert_eq!(rig.get("/").1, "1", "on the same port");

    let pid = rig.active_pid("web");
    rig.kill_supervisor_of(pid);
    assert_eq!(rig.get("/").1, "1", "the service goes on without its supervisor");
    assert_eq!(rig.status().services["web"][0].condition, Condition::Broken);
    let load = Load::start(&rig);
    rig.try_deploy("1", &Tweak { mode: "ignore-term", ..Tweak::default() }).unwrap();
    load.stop();
    assert_ne!(rig.active_pid("web"), pid);
    assert!(
        !std::path::Path::new(&format!("/proc/{pid}/exe")).exists(),
        "SIGTERM was ignored, SIGKILL was not"
    );
}

#[test]
fn an_interrupt_before_the_switch_clears_away_what_was_started() {
    let rig = Rig::new();
    rig.deploy("1");
    let slow = Tweak { mode: "silent", start_timeout_ms: 60_000, ..Tweak::default() };
    let outcome = std::thread::scope(|scope| {
        let deployment = scope.spawn(|| rig.try_deploy("2", &slow));
        wait_until("green was started", || rig.running_slots() == 4);
        rig.interrupt.store(true, Ordering::Relaxed);
        deployment.join().unwrap().unwrap()
    });
    assert!(
        matches!(&outcome, Outcome::Interrupted { left_behind, .. } if left_behind.is_empty()),
        "{outcome:?}"
    );
    assert_eq!((rig.running_slots(), rig.get("/").1), (2, "1".to_owned()));
    assert!(matches!(rig.try_deploy("2", &Tweak::default()), Err(Error::Interrupted)));
}

#[test]
fn a_killed_edge_comes_back_and_one_that_lost_its_table_gets_it_again() {
    let rig = Rig::new();
    rig.deploy("1");
    let edge = rig.status().edge.unwrap().pid;
    rig.kill(edge);
    wait_until("the edge is back", || rig::get(rig.listen, "/").is_ok_and(|answer| answer.1 == "1"));
    let edge = rig.status().edge.unwrap().pid;
    rig.kill_supervisor_of(edge);
    rig.kill(edge);
    wait_until("the edge is gone", || rig.status().edge.is_none());
    std::fs::remove_dir_all(rig.state().join("edge")).unwrap();
    let pid = rig.active_pid_or_running("web");
    assert!(matches!(rig.deploy("1"), Outcome::NothingToDo { .. }));
    assert_eq!((rig.get("/").1, rig.active_pid("web")), ("1".to_owned(), pid));
}

#[test]
fn a_damaged_journal_stops_deployments_until_it_is_repaired() {
    let rig = Rig::new();
    rig.deploy("1");
    let path = rig.state().join("journal.jsonl");
    let whole = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{whole}{{\"sequence\":")).unwrap();
    rig.deploy("2");
    let pids = (rig.active_pid("web"), rig.active_pid("queue"));
    std::fs::write(
        &path,
        std::fs::read_to_string(&path).unwrap().replacen("\"sequence\":3", "\"sequence\":4", 1),
    )
    .unwrap();
    let error = rig.try_deploy("3", &Tweak::default()).unwrap_err().to_string();
    assert!(
        error.contains("journal.jsonl:3: the journal is damaged") && error.contains("--repair"),
        "{error}"
    );
    let status = rig.status();
    assert!(status.trouble[0].contains("journal.jsonl:3") && status.needs_repair, "{:?}", status.trouble);
    assert_eq!(rig.get("/").1, "2");
    assert!(rig.on(deploy::repair).unwrap());
    assert!(!rig.on(deploy::repair).unwrap(), "twice is once");
    assert!(matches!(rig.deploy("2"), Outcome::NothingToDo { .. }));
    assert_eq!((rig.active_pid("web"), rig.active_pid("queue")), pids, "what served goes on serving");
    rig.deploy("3");
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("3", 2));
}

#[test]
fn a_full_disk_while_unpacking_is_a_failure_like_any_other() {
    let rig = Rig::new();
    rig.deploy("1");
    let outcome = rig.deploy_with_file_limit("2", 64);
    let text = String::from_utf8_lossy(&outcome.stdout);
    assert_eq!(outcome.status.code(), Some(20), "{text} {}", String::from_utf8_lossy(&outcome.stderr));
    assert!(text.contains("cannot unpack") && text.contains("too large"), "{text}");
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("1", 2));
    rig.deploy("2");
    assert_eq!(rig.get("/").1, "2");
}

#[test]
fn an_image_that_was_damaged_is_not_deployed() {
    let rig = Rig::new();
    rig.deploy("1");
    rig.damage_layer();
    let Outcome::RolledBack { evidence, .. } = rig.deploy("2") else { panic!("it was deployed") };
    assert!(evidence.to_string().contains("damaged"), "{evidence}");
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("1", 2));
}

#[test]
fn after_a_reboot_the_next_deployment_starts_what_was_there() {
    let rig = Rig::new();
    rig.deploy("1");
    let (edge, pids) = (rig.status().edge.unwrap().pid, [rig.active_pid("web"), rig.active_pid("queue")]);
    for pid in pids.into_iter().chain([edge]) {
        rig.kill_supervisor_of(pid);
        rig.kill(pid);
    }
    wait_until("everything is gone", || rig.status().edge.is_none() && rig.running_slots() == 0);
    assert!(matches!(rig.deploy("1"), Outcome::Deployed { .. }));
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("1", 2));
}

#[test]
fn replicas_run_side_by_side_and_take_turns() {
    let rig = Rig::new();
    let tweak = Tweak { replicas: 2, ..Tweak::default() };
    rig.try_deploy("1", &tweak).unwrap();
    let ports: std::collections::BTreeSet<_> = (0..4).map(|_| rig.get("/env/PORT").1).collect();
    assert_eq!(ports.len(), 2);
    let load = Load::start(&rig);
    rig.try_deploy("2", &tweak).unwrap();
    assert_eq!(
        rig.status().services["web"].iter().filter(|slot| slot.condition == Condition::Serving).count(),
        1
    );
    load.stop();
}

#[test]
fn a_disk_without_room_is_refused_before_anything_is_unpacked() {
    let rig = Rig::new();
    let Some(mut disk) = rig.small_disk(24) else { return };
    let (code, said) = disk.run(&rig.deploy_command("1", &Tweak::default(), None));
    assert!(code == 3 && said.contains("MiB free") && said.contains("make room"), "{code} {said}");
    disk.run(&rig.command(&["down"]));
}

#[test]
fn a_full_disk_stops_deployments_and_neither_the_service_nor_down() {
    let rig = Rig::new();
    let Some(mut disk) = rig.small_disk(160) else { return };
    let (code, said) = disk.run(&rig.deploy_command("1", &Tweak::default(), None));
    assert_eq!(code, 0, "{said}");
    let load = Load::start(&rig);
    let filler = rig.state().join("filler");
    let (code, said) = disk.sh(&format!("dd if=/dev/zero of='{}' bs=4k", filler.display()));
    assert!(code != 0 && said.contains("No space left"), "{said}");
    let (code, said) = disk.run(&rig.deploy_command("2", &Tweak::default(), None));
    let names_the_place = said.contains(&*rig.state().to_string_lossy());
    assert!(code == 3 && said.contains("make room") && names_the_place, "{code} {said}");
    assert_eq!(rig.get("/").1, "1");
    load.stop();
    let (code, said) = disk.run(&rig.command(&["down"]));
    assert!(code == 0 && said.contains(r#""edge_stopped":true"#), "{code} {said}");
    assert!(rig::get(rig.listen, "/").is_err());
    let (code, said) = disk.run(&rig.command(&["status"]));
    assert!(code == 0 && !said.contains(r#""pid""#), "something still runs: {said}");
    // With room again, the records that could not be written are not missed.
    assert_eq!(disk.sh(&format!("rm '{}'", filler.display())).0, 0);
    let (code, said) = disk.run(&rig.deploy_command("1", &Tweak::default(), None));
    assert_eq!((code, rig.get("/").1.as_str()), (0, "1"), "{said}");
    let (code, said) = disk.run(&rig.command(&["down"]));
    assert_eq!(code, 0, "{said}");
}

/// What every operation but a deployment says to the state folder.
fn refusals(rig: &Rig) -> Vec<String> {
    let text = |what: &str, result: Result<(), Error>| match result {
        Err(Error::Preflight(problems)) => problems[0].to_string(),
        other => panic!("{what} was not refused: {other:?}"),
    };
    let query = LogQuery { service: None, lines: 1, mode: LogMode::Once };
    vec![
        text("down", rig.on(|site| deploy::down(site, Volumes::Remove)).map(drop)),
        text("rollback", rig.on(deploy::rollback).map(drop)),
        text("status", deploy::status(&rig.state()).map(drop)),
        text("logs", deploy::logs(&rig.state(), &query, &rig.interrupt, &mut |_| {})),
    ]
}

#[test]
fn down_needs_no_room_for_its_own_notes() {
    let rig = Rig::new();
    rig.deploy("1");
    let output = rig::with_file_limit(&rig.command(&["down"]), 0);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("journal.jsonl cannot be written"), "{said}");
    assert_eq!((rig.running_slots(), rig.status().edge), (0, None));
    rig.deploy("1");
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("1", 2));
}

#[test]
fn what_a_process_started_ends_with_it() {
    let rig = Rig::new();
    let tweak = Tweak { mode: "family", without_queue: true, ..Tweak::default() };
    rig.try_deploy("1", &tweak).unwrap();
    assert_eq!(rig.programs(), 2);
    let first = rig.active_pid("web");
    rig.kill(first);
    wait_until("it runs again", || {
        let process = &rig.status().services["web"][0].processes[0];
        process.process.is_some_and(|process| process.pid != first) && process.health.is_healthy()
    });
    assert_eq!(rig.programs(), 2, "the first one's child is gone");
    rig.on(|site| deploy::down(site, Volumes::Keep)).unwrap();
    assert_eq!(rig.programs(), 0);
}

#[test]
fn a_folder_that_is_no_environments_is_left_as_it_is() {
    let rig = Rig::new();
    let check = |why: &str| {
        for text in refusals(&rig) {
            assert!(text.contains(&format!("no deployment here: {}", rig.state().display())), "{text}");
            assert!(text.contains(why), "{text}");
        }
    };
    check("");
    assert!(!rig.state().exists());

    for name in ["edge/table.json", "slots/mine/file", "data/mine/file", "journal.jsonl"] {
        stdx::fs::write_atomic(&rig.state().join(name), b"mine", 0o644).unwrap();
    }
    let before = rig::listing(&rig.state());
    check("holds other things");
    assert!(matches!(rig.try_deploy("1", &Tweak::default()), Err(Error::Preflight(_))));
    let (release, file) = (rig.release("1", &Tweak::default()), rig.environment(&Tweak::default()));
    assert!(matches!(rig.on(|site| deploy::dry_run(site, &release, &file)), Err(Error::Preflight(_))));
    assert!(matches!(rig.on(deploy::repair), Err(Error::Preflight(_))));
    assert_eq!(rig::listing(&rig.state()), before);

    std::fs::remove_dir_all(rig.state()).unwrap();
    std::fs::create_dir(rig.state()).unwrap();
    check("");
    assert!(rig::listing(&rig.state()).len() == 1, "an empty folder stays empty");
    rig.deploy("1");
    let real = rig.state().with_extension("real");
    std::fs::rename(rig.state(), &real).unwrap();
    std::os::unix::fs::symlink(&real, rig.state()).unwrap();
    check("is not a folder");
    std::fs::remove_file(rig.state()).unwrap();
    std::fs::rename(&real, rig.state()).unwrap();
    assert!(rig.on(|site| deploy::down(site, Volumes::Keep)).unwrap().edge_stopped);
}

#[test]
fn looking_writes_nothing() {
    let rig = Rig::new();
    rig.deploy("1");
    rig.deploy("2");
    for slot in std::fs::read_dir(rig.state().join("slots")).unwrap().flatten() {
        let _ = std::fs::remove_file(slot.path().join("0/supervisor.lock"));
    }
    let before = rig::listing(&rig.state());
    rig.status();
    let query = LogQuery { service: None, lines: 9, mode: LogMode::Once };
    deploy::logs(&rig.state(), &query, &rig.interrupt, &mut |_| {}).unwrap();
    let (release, file) = (rig.release("3", &Tweak::default()), rig.environment(&Tweak::default()));
    rig.on(|site| deploy::dry_run(site, &release, &file)).unwrap();
    assert_eq!(rig::listing(&rig.state()), before);
}

#[test]
fn down_needs_no_journal() {
    let rig = Rig::new();
    rig.deploy("1");
    std::fs::write(rig.state().join("journal.jsonl"), "not a record\n").unwrap();
    let down = rig.on(|site| deploy::down(site, Volumes::Keep)).unwrap();
    assert!(down.edge_stopped && down.stopped.len() == 2, "{down:?}");
    assert_eq!(
        rig.status().services.values().map(Vec::len).sum::<usize>(),
        2,
        "without it nothing is removed"
    );
    assert!(rig.notes.lock().unwrap().iter().any(|note| note.contains("journal.jsonl:1")));
    assert!(rig.on(deploy::repair).unwrap());
    rig.deploy("1");
    assert_eq!((rig.get("/").1.as_str(), rig.running_slots()), ("1", 2));
}

#[test]
fn down_goes_on_after_a_failure_and_keeps_the_data() {
    let rig = Rig::new();
    rig.deploy("1");
    let in_the_way = rig.state().join("slots/aaa");
    std::fs::write(&in_the_way, "a file cannot be removed like a folder").unwrap();
    let error = rig.on(|site| deploy::down(site, Volumes::Remove)).unwrap_err().to_string();
    assert!(error.contains("aaa") && error.contains("call `down` again"), "{error}");
    assert_eq!((rig.running_slots(), rig.status().edge), (0, None), "all the others were stopped");
    assert!(rig.state().join("data/web-data").exists());
    std::fs::remove_file(in_the_way).unwrap();
    let down = rig.on(|site| deploy::down(site, Volumes::Remove)).unwrap();
    assert_eq!(down.volumes_removed, ["web-data"]);
}

#[test]
fn an_edge_that_is_silent_or_alone_is_named_and_the_processes_are_shown() {
    let rig = Rig::new();
    rig.deploy("1");
    let edge = rig.status().edge.unwrap().pid;
    rig.signal(edge, Signal::STOP);
    // The signal is on its way for a moment, in which an answer may still come.
    let is_stopped = || std::fs::read_to_string(format!("/proc/{edge}/stat")).unwrap().contains(") T ");
    wait_until("it stands still", is_stopped);
    let start = Instant::now();
    let status = rig.status();
    rig.signal(edge, Signal::CONT);
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    assert!(status.edge.is_none() && status.trouble[0].contains("has not answered"), "{:?}", status.trouble);
    let web = &status.services["web"][0];
    assert_eq!((web.role, web.condition), (Role::Active, Condition::Serving));
    assert_eq!(rig.status().trouble, Vec::<String>::new());

    rig.kill_supervisor_of(edge);
    assert!(rig.status().trouble[0].contains("without its supervisor"), "{:?}", rig.status().trouble);
    rig.deploy("1");
    assert!(rig.notes.lock().unwrap().iter().any(|note| note.contains("without its supervisor")));
}

#[test]
fn an_edge_that_fell_back_to_an_older_table_gets_the_last_one() {
    let rig = Rig::new();
    let tweak = Tweak { with_twin: true, ..Tweak::default() };
    rig.try_deploy("1", &tweak).unwrap();
    let old = rig.edge_tables();
    rig.try_deploy("2", &tweak).unwrap();
    let pids = (rig.active_pid("web"), rig.active_pid("twin"));
    rig.lose_edge(&old);
    assert!(matches!(rig.try_deploy("2", &tweak).unwrap(), Outcome::NothingToDo { .. }));
    assert!(rig.notes.lock().unwrap().iter().any(|note| note.contains("restored it")));
    assert_eq!(
        (rig.get("/").1, rig.active_pid("web"), rig.active_pid("twin")),
        ("2".to_owned(), pids.0, pids.1)
    );
}

#[test]
fn a_table_that_was_lost_after_the_switch_comes_back_as_the_new_one() {
    let rig = Rig::new();
    rig.deploy("1");
    let old = rig.edge_tables();
    for tables in [old.as_slice(), &[]] {
        let output = rig.deploy_process("2", &Tweak::default(), Some("switch:after-done"));
        assert!(!output.status.success());
        assert_eq!(rig.running_slots(), 4, "both sets run");
        let pid = rig.active_pid("web");
        rig.lose_edge(tables);
        assert!(matches!(rig.deploy("2"), Outcome::NothingToDo { .. }));
        assert_eq!((rig.get("/").1, rig.active_pid("web"), rig.running_slots()), ("2".to_owned(), pid, 2));
        rig.deploy("1");
    }
}

#[test]
fn what_the_journal_knows_is_not_stopped_when_only_a_part_of_a_lost_table_runs() {
    let rig = Rig::new();
    let tweak = Tweak { with_twin: true, ..Tweak::default() };
    rig.try_deploy("1", &tweak).unwrap();
    let (web, twin) = (rig.active_pid("web"), rig.active_pid("twin"));
    rig.lose_edge(&[]);
    rig.kill_supervisor_of(twin);
    rig.kill(twin);
    wait_until("the twin is gone", || rig.running_slots() == 2);
    assert!(matches!(rig.try_deploy("1", &tweak).unwrap(), Outcome::Deployed { .. }));
    assert_eq!((rig.active_pid("web"), rig.running_slots()), (web, 3));
    assert_ne!(rig.active_pid("twin"), twin);
    assert_eq!(rig.get("/").1, "1");
}

#[test]
fn logs_of_a_service_that_is_not_there_are_refused() {
    let rig = Rig::new();
    rig.deploy("1");
    let query = LogQuery { service: Some("wbe".to_owned()), lines: 1, mode: LogMode::Follow };
    let error = deploy::logs(&rig.state(), &query, &rig.interrupt, &mut |_| {}).unwrap_err();
    assert!(matches!(&error, Error::Preflight(_)));
    assert!(error.to_string().contains("there is queue, web"), "{error}");
}

#[test]
fn logs_come_from_the_slots_that_run() {
    let rig = Rig::new();
    rig.deploy("1");
    rig.deploy("2");
    let mut lines = Vec::new();
    let query = LogQuery { service: Some("web".to_owned()), lines: 1, mode: LogMode::Once };
    deploy::logs(&rig.state(), &query, &rig.interrupt, &mut |line| lines.push(line)).unwrap();
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert_eq!((lines[0].slot.clone(), lines[0].text.as_str()), (rig.active_slot("web"), "VERSION=2"));

    let query = LogQuery { mode: LogMode::Follow, ..query };
    let (stop, followed) = (AtomicBool::new(false), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            deploy::logs(&rig.state(), &query, &stop, &mut |line| followed.lock().unwrap().push(line.text))
        });
        wait_until("the old line is there", || followed.lock().unwrap().contains(&"VERSION=2".to_owned()));
        rig.deploy("3");
        wait_until("the new slot is followed", || followed.lock().unwrap().contains(&"VERSION=3".to_owned()));
        stop.store(true, Ordering::Relaxed);
    });
}
