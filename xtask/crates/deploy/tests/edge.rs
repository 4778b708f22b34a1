//! The edge as a process of the environment: replaced, killed, hung.
#![allow(clippy::unwrap_used)]

mod rig;

use std::time::{Duration, Instant};

use deploy::{Error, Outcome, Site};
use load::{ConnectionUse, Plan, Profile, Report};
use rig::{Rig, Tweak, wait_until};

/// How often an edge is replaced; few enough for every run where nobody asks for more.
fn rounds() -> u64 {
    if std::env::var("SLIPWAY_PROOF").is_ok_and(|proof| proof == "long") { 100 } else { 4 }
}

/// Runs `act` under the load of every kind of client.
fn under_load(rig: &Rig, act: impl FnOnce()) -> Report {
    let profiles = vec![
        Profile::get("new", ConnectionUse::New, ["/"]).share(4),
        Profile::get("careful", ConnectionUse::KeepAlive, ["/"]),
        Profile::get("naive", ConnectionUse::KeepAliveNaive, ["/"]).connections(30),
        Profile::post("slow", ConnectionUse::New, "/slow", "{id}"),
    ];
    let plan = Plan {
        rate_per_second: 200,
        max_requests: 10_000_000,
        max_duration: Duration::from_secs(3600),
        request_timeout: Duration::from_secs(20),
        max_losses_listed: 10_000,
        ..Plan::new(rig.listen, profiles)
    };
    let stop = plan.stop.clone();
    let running = std::thread::spawn(move || load::run(&plan).unwrap());
    std::thread::sleep(Duration::from_millis(200));
    act();
    std::thread::sleep(Duration::from_millis(200));
    stop.stop();
    running.join().unwrap()
}

fn edge_pid(rig: &Rig) -> u32 {
    rig.status().edge.unwrap().pid
}

#[test]
fn an_edge_with_other_options_is_replaced_under_load_and_nothing_is_lost() {
    let rig = Rig::new();
    rig.deploy("1");
    let report = under_load(&rig, || {
        for round in 1..=rounds() {
            let before = edge_pid(&rig);
            *rig.edge_more.lock().unwrap() = format!(", head_timeout_ms: {}", 10_000 + round);
            assert!(matches!(rig.deploy("1"), Outcome::NothingToDo { .. }));
            assert_ne!(edge_pid(&rig), before);
            assert!(rig.notes.lock().unwrap().pop().unwrap().contains("its options changed"));
        }
    });
    println!("{} edges replaced, {} requests, {} lost", rounds(), report.sent, report.lost);
    assert!(report.is_lossless(), "{} of {} lost: {:#?}", report.lost, report.sent, report.losses);
    let pid = edge_pid(&rig);
    rig.deploy("1");
    assert_eq!(edge_pid(&rig), pid, "one that is what it should be stays");
    // A deployment right after it finds the requests that the old edge still has.
    rig.deploy("2");
    assert_eq!(rig.get("/").1, "2");
}

#[test]
fn an_edge_of_another_program_is_replaced_and_one_without_its_supervisor_too() {
    let rig = Rig::new();
    rig.deploy("1");
    let before = edge_pid(&rig);
    let other = rig.state().join("other-program");
    std::fs::copy(&Rig::launcher().program, &other).unwrap();
    let (release, file) = (rig.release("1", &Tweak::default()), rig.environment(&Tweak::default()));
    let deploy = || {
        rig.on(|site| {
            let launcher = deploy::Launcher { program: other.clone(), ..Rig::launcher() };
            let site = Site { launcher, command: String::new(), who: String::new(), ..*site };
            deploy::deploy(&site, &release, &file).unwrap()
        })
    };
    assert!(matches!(deploy(), Outcome::NothingToDo { .. }));
    let edge = edge_pid(&rig);
    assert_ne!(edge, before);
    assert_eq!(std::fs::read_link(format!("/proc/{edge}/exe")).unwrap(), other);
    rig.kill_supervisor_of(edge);
    assert!(rig.status().trouble.iter().any(|text| text.contains("without its supervisor")));
    deploy();
    assert_ne!(edge_pid(&rig), edge);
    assert_eq!((rig.status().trouble, rig.get("/").1), (Vec::<String>::new(), "1".to_owned()));
}

#[test]
fn a_killed_edge_is_back_soon_and_nobody_is_refused_meanwhile() {
    let rig = Rig::new();
    rig.deploy("1");
    let mut back = Vec::new();
    let report = under_load(&rig, || {
        for _ in 0..3 {
            let killed = Instant::now();
            rig.kill(edge_pid(&rig));
            assert_eq!(rig::get(rig.listen, "/").unwrap().1, "1", "it waits, and is answered");
            back.push(killed.elapsed());
            std::thread::sleep(Duration::from_millis(300));
        }
    });
    let refused = report.losses.iter().filter(|loss| loss.outcome == load::Outcome::ConnectError).count();
    println!(
        "killed 3 times, back after {back:?}; {} requests, {} were inside, {refused} refused",
        report.sent, report.lost
    );
    assert_eq!(refused, 0, "{:#?}", report.losses);
    assert!(back[0] < Duration::from_secs(1), "{back:?}");
}

#[test]
fn a_new_edge_that_does_not_come_up_leaves_the_old_one() {
    let rig = Rig::new();
    rig.deploy("1");
    let pid = edge_pid(&rig);
    let missing = rig.state().join("missing.pem");
    *rig.edge_more.lock().unwrap() =
        format!(", tls: {{certificates: [{{cert: {0}, key: {0}}}]}}", missing.display());
    let error = rig.try_deploy("2", &Tweak::default()).unwrap_err();
    let text = error.to_string();
    assert!(matches!(error, Error::Preflight(_)), "{text}");
    assert!(text.contains("missing.pem") && text.contains("serves on"), "{text}");
    assert_eq!((edge_pid(&rig), rig.get("/").1), (pid, "1".to_owned()));
    let folders = std::fs::read_dir(rig.state().join("edge-process")).unwrap().count();
    assert_eq!(folders, 1, "nothing of it is left");
    rig.edge_more.lock().unwrap().clear();
    rig.deploy("2");
    assert_eq!((edge_pid(&rig), rig.get("/").1), (pid, "2".to_owned()));
}

#[test]
fn a_hung_edge_is_told_of_soon() {
    let rig = Rig::new();
    rig.deploy("1");
    let pid = edge_pid(&rig);
    let signal = |name: &str| {
        let killed = std::process::Command::new("kill").args(["-s", name, &pid.to_string()]).status();
        assert!(killed.unwrap().success());
    };
    signal("STOP");
    let began = Instant::now();
    let error = format!("{:#}", anyhow::Error::new(rig.try_deploy("2", &Tweak::default()).unwrap_err()));
    let elapsed = began.elapsed();
    assert!(error.contains("cannot be asked") && error.contains(&format!("kill -9 {pid}")), "{error}");
    assert!(elapsed < Duration::from_secs(9), "{elapsed:?}");
    // What it says to do.
    signal("KILL");
    wait_until("the edge is back", || rig.status().edge.is_some_and(|edge| edge.pid != pid));
    rig.deploy("2");
    assert_eq!(rig.get("/").1, "2");
}
