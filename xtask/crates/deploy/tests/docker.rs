//! Whole deployments with containers of a real engine, under load. Without an engine they are skipped, unless
//! SLIPWAY_TEST_REQUIRE names `docker`.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod rig;

use std::process::Command;

use deploy::fail_point::{MOMENTS, STEPS};
use deploy::{Condition, Error, Held, LogMode, LogQuery, Outcome, Role, Volumes};
use rig::{Load, Rig, Tweak, wait_until};

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(output.status.success(), "docker {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// The containers of the slot that serves.
fn containers(rig: &Rig, service: &str) -> Vec<String> {
    let slot = rig.active_slot(service);
    let status = rig.status();
    let slot = status.services[service].iter().find(|other| other.slot == slot).unwrap();
    slot.processes.iter().map(|process| process.container.clone().unwrap()).collect()
}

#[test]
fn deployments_lose_no_request_and_a_rollback_starts_what_was_kept() {
    let Some(rig) = Rig::docker() else { return };
    let two = Tweak { replicas: 2, ..Tweak::default() };
    assert!(matches!(rig.try_deploy("1", &two).unwrap(), Outcome::Deployed { .. }));
    assert_eq!(rig.get("/"), (200, "1".to_owned()));
    let load = Load::start(&rig);
    for version in ["2", "3", "4"] {
        let Outcome::Deployed { unfinished, .. } = rig.try_deploy(version, &two).unwrap() else {
            panic!("not deployed")
        };
        assert!(unfinished.is_empty(), "{unfinished:?}");
        assert_eq!(rig.get("/"), (200, version.to_owned()));
    }
    let third =
        rig.status().services["web"].iter().find(|slot| slot.role == Role::Retained).unwrap().slot.clone();
    let id = docker(&["inspect", "--format", "{{.Id}}", &format!("{}-{third}-1", rig.name)]);
    assert!(matches!(rig.on(deploy::rollback).unwrap(), Outcome::Deployed { .. }));
    let seen = load.stop();
    assert!(seen.contains("1") && seen.contains("4"), "{seen:?}");
    assert_eq!((rig.get("/").1.as_str(), rig.active_slot("web")), ("3", third.clone()));
    let names = containers(&rig, "web");
    assert_eq!(names, [format!("{}-{third}-1", rig.name), format!("{}-{third}-2", rig.name)]);
    assert_eq!(
        docker(&["inspect", "--format", "{{.Id}}", &names[0]]),
        id,
        "the kept container is started again"
    );
    assert_eq!(rig.running_slots(), 2);
    assert!(matches!(rig.try_deploy("3", &two).unwrap(), Outcome::NothingToDo { .. }));
    let policy = docker(&["inspect", "--format", "{{.HostConfig.RestartPolicy.Name}}", &names[0]]);
    assert_eq!(policy, "unless-stopped", "what serves comes back");
    let filter = format!("label=dev.slipway.environment={}", rig.name);
    let count = docker(&["ps", "-aq", "--filter", &filter]).lines().count();
    assert_eq!(count, 2 * (2 + 1), "two slots of each service: three containers each");
}

#[test]
fn a_green_that_is_not_fit_never_serves_and_its_evidence_is_shown() {
    let Some(rig) = Rig::docker() else { return };
    rig.deploy("1");
    let before = containers(&rig, "web");
    let load = Load::start(&rig);
    let check = |mode: &'static str, expected: &[&str]| {
        let web_more = if mode == "hungry" { "resources: {memory_bytes: 33554432}" } else { "" };
        let outcome = rig.try_deploy("2", &Tweak { mode, web_more, ..Tweak::default() }).unwrap();
        let Outcome::RolledBack { evidence, left_behind, .. } = outcome else {
            panic!("{mode}: {outcome:?}")
        };
        let text = evidence.to_string();
        for expected in [expected, &["log: version 2 begins", "gate web-"]].concat() {
            assert!(text.contains(expected), "{mode}: {expected:?} is not in {text:?}");
        }
        assert!(left_behind.is_empty(), "{mode}: {left_behind:?}");
        assert_eq!((rig.running_slots(), rig.status().services["web"].len()), (2, 1), "{mode}");
    };
    check("crash", &["process: ended with status 3"]);
    check("sick", &["health: 503 the database is away"]);
    check("hungry", &["killed because it used more memory than it may", "signal 9", "32 MiB"]);
    assert_eq!(containers(&rig, "web"), before, "blue was not touched");
    assert_eq!(load.stop().into_iter().collect::<Vec<_>>(), ["1"]);
}

#[test]
fn what_ends_is_started_again_at_the_same_address_and_what_it_wrote_is_shown() {
    let Some(rig) = Rig::docker() else { return };
    rig.try_deploy("1", &Tweak { web_env: "SHOW: VERSION", ..Tweak::default() }).unwrap();
    let address = rig.status().services["web"][0].processes[0].address;
    assert!(address.is_some_and(|address| address.port() == 8000), "its own port: {address:?}");
    let _ = rig::get(rig.listen, "/exit");
    wait_until("it runs again", || {
        let process = &rig.status().services["web"][0].processes[0];
        process.restarts > 0 && process.health.is_healthy()
    });
    assert_eq!(rig.status().services["web"][0].processes[0].address, address);
    assert_eq!(rig.get("/").1, "1");
    let mut lines = Vec::new();
    let query = LogQuery { service: Some("web".to_owned()), lines: 1, mode: LogMode::Once };
    deploy::logs(&rig.state(), &query, &rig.interrupt, &mut |line| lines.push(line.text)).unwrap();
    assert_eq!(lines, ["VERSION=1"]);
}

#[test]
fn a_container_in_the_way_is_named_and_left_alone() {
    let Some(rig) = Rig::docker() else { return };
    rig.deploy("1");
    let plan = rig.on(|site| {
        let tweak = Tweak::default();
        deploy::dry_run(site, &rig.release("2", &tweak), &rig.environment(&tweak)).unwrap().plan
    });
    let name = format!("{}-{}-1", rig.name, plan.active_after()["web"]);
    let image = docker(&["inspect", "--format", "{{.Image}}", &containers(&rig, "web")[0]]);
    docker(&["create", "--name", &name, "--label", "slipway.test=in-the-way", &image]);
    let Err(Error::Preflight(problems)) = rig.try_deploy("2", &Tweak::default()) else {
        panic!("not refused")
    };
    let text = problems[0].to_string();
    assert!(text.contains(&name) && text.contains(&format!("docker rm -f {name}")), "{text}");
    assert_eq!(rig.get("/").1, "1");
    docker(&["rm", &name]);
    rig.deploy("2");
    assert_eq!(rig.get("/").1, "2");
}

#[test]
fn secrets_are_files_and_nowhere_else_and_values_come_from_the_environment() {
    let Some(rig) = Rig::docker() else { return };
    std::fs::write(rig.state().with_extension("secret"), "s3cret-value\n").unwrap();
    let tweak = Tweak { web_env: "TOKEN: {from_file: ../state.secret}", ..Tweak::default() };
    rig.try_deploy("1", &tweak).unwrap();
    assert_eq!(rig.get("/env/TOKEN_FILE").1, "/run/secrets/TOKEN");
    assert_eq!(rig.get("/file/run/secrets/TOKEN").1, "s3cret-value");
    assert_eq!((rig.get("/env/PORT").1.as_str(), rig.get("/env/DATA").1.as_str()), ("8000", "/data"));
    let inspected = docker(&["inspect", &containers(&rig, "web")[0]]);
    assert!(!inspected.contains("s3cret") && inspected.contains("TOKEN_FILE"), "{inspected}");
    assert!(rig::files_with(&rig.state(), "s3cret-value").is_empty());
    let other = Tweak { web_env: "TOKEN: {from_file: ../state.secret}\nSHOW: HOST", ..Tweak::default() };
    rig.try_deploy("1", &other).unwrap();
    rig.on(deploy::rollback).unwrap();
    assert_eq!(rig.get("/file/run/secrets/TOKEN").1, "s3cret-value", "also in a slot that was kept");
}

#[test]
fn a_service_reaches_others_through_the_edge() {
    let Some(rig) = Rig::docker() else { return };
    let port = rig::free_port();
    *rig.edge_more.lock().unwrap() = format!(", listen_also: ['0.0.0.0:{port}']");
    rig.try_deploy("1", &Tweak { web_env: "SHOW: '${edge.url}'", ..Tweak::default() }).unwrap();
    let url = rig.get("/env/SHOW").1;
    assert!(url.ends_with(&format!(".1:{port}")), "{url}");
    assert_eq!(rig.get("/call").1, "/etc/marker", "without egress, and through the edge");
}

#[test]
fn down_stops_all_and_deletes_data_only_when_told() {
    let Some(rig) = Rig::docker() else { return };
    rig.deploy("1");
    let down = rig.on(|site| deploy::down(site, Volumes::Keep)).unwrap();
    assert!(down.edge_stopped && down.stopped.len() == 2 && down.volumes_removed.is_empty(), "{down:?}");
    assert_eq!(rig.running_slots(), 0);
    rig.deploy("1");
    assert_eq!(rig.get("/").1, "1");
    let down = rig.on(|site| deploy::down(site, Volumes::Remove)).unwrap();
    assert_eq!(down.volumes_removed, ["web-data"]);
    let filter = format!("label=dev.slipway.environment={}", rig.name);
    assert_eq!(docker(&["volume", "ls", "-q", "--filter", &filter]), "");
}

#[test]
fn another_platform_is_taken_only_where_nothing_runs() {
    let Some(rig) = Rig::docker() else { return };
    rig.deploy("1");
    let text = std::fs::read_to_string(rig.environment(&Tweak::default()).origin.path.unwrap()).unwrap();
    let folder = rig.state().with_file_name("others");
    let text =
        text.replace("platform: docker", "platform: process").replace("env:", "env:\n      HOST: 127.0.0.1");
    stdx::fs::write_atomic(&folder.join(format!("{}.yaml", rig.name)), text.as_bytes(), 0o644).unwrap();
    let file = deploy::EnvironmentFile::load(&folder, &rig.name).unwrap();
    let release = rig.release("1", &Tweak::default());
    let Err(Error::Preflight(problems)) = rig.on(|site| deploy::deploy(site, &release, &file)) else {
        panic!("not refused")
    };
    assert!(problems[0].to_string().contains("call `down` first"), "{}", problems[0]);
    rig.on(|site| deploy::down(site, Volumes::Keep)).unwrap();
    assert!(matches!(rig.on(|site| deploy::deploy(site, &release, &file)), Ok(Outcome::Deployed { .. })));
    assert_eq!(rig.get("/").1, "1");
    let web = &rig.status().services["web"];
    assert!(web.len() == 1 && web[0].processes[0].container.is_none(), "{web:?}");
    let filter = format!("label=dev.slipway.environment={}", rig.name);
    assert_eq!(docker(&["ps", "-aq", "--filter", &filter]), "", "what nobody could start again is gone");
}

/// The steps that a successful deployment takes, and those of a failed one, killed after their effect; with
/// SLIPWAY_PROOF=long at each moment.
#[test]
fn a_deployer_that_is_killed_at_every_step_leaves_one_of_two_clean_states() {
    let Some(rig) = Rig::docker() else { return };
    let is_long = std::env::var("SLIPWAY_PROOF").is_ok_and(|proof| proof == "long");
    let moments: &[&str] = if is_long { &MOMENTS } else { &["after-effect"] };
    rig.deploy("0");
    rig.deploy("1");
    let load = Load::start(&rig);
    let points = STEPS.iter().flat_map(|step| moments.iter().map(move |moment| format!("{step}:{moment}")));
    for (index, point) in points.enumerate() {
        let mode = if point.starts_with("discard") { "crash" } else { "" };
        let version = format!("v{index}");
        let output = rig.deploy_process(&version, &Tweak { mode, ..Tweak::default() }, Some(&point));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&output.status), Some(9), "{point}: {said}");
        if point.starts_with("gate") {
            rig.on(|site| deploy::resume(site, Held::Refuse)).unwrap();
        }
        let outcome = rig.deploy(&version);
        assert!(
            matches!(outcome, Outcome::Deployed { .. } | Outcome::NothingToDo { .. }),
            "{point}: {outcome:?}"
        );
        assert_eq!(rig.get("/"), (200, version), "after {point}");
        let status = rig.status();
        let slots: Vec<_> = status.services.values().flatten().collect();
        let running = slots.iter().filter(|slot| slot.condition != Condition::Stopped).count();
        assert_eq!((running, status.trouble.len()), (2, 0), "after {point}: {status:#?}");
        assert!(slots.len() <= 4, "after {point}: {slots:#?}");
    }
    load.stop();
}
