//! The life of containers.

use std::time::{Duration, Instant};

use docker::{Container, ContainerSpec, Error, LogQuery, Phase, Restart, Stream};

use crate::rig::{Lab, until};

#[test]
fn a_name_can_be_had_once() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let spec = lab.spec("one", &image, &["who"]);
    let first = lab.engine.create(&spec).unwrap();
    match lab.engine.create(&spec).unwrap_err() {
        Error::NameTaken { name, by } => assert_eq!((name, by), (spec.name.clone(), Some(first.id.clone()))),
        other => panic!("{other}"),
    }
    lab.engine.rename(&spec.name, &lab.named("two")).unwrap();
    let second = lab.engine.create(&spec).unwrap();
    assert!(matches!(lab.engine.rename(&second.id, &lab.named("two")), Err(Error::NameTaken { .. })));
    assert!(lab.engine.remove(&second.id).unwrap() && !lab.engine.remove(&second.id).unwrap());
    let listed: Vec<_> = lab.engine.containers(&lab.labels()).unwrap();
    assert_eq!(
        listed.iter().map(|found| (found.id.as_str(), found.phase)).collect::<Vec<_>>(),
        [(first.id.as_str(), Phase::Created)]
    );
}

#[test]
fn of_many_who_take_a_name_at_once_one_gets_it() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let spec = lab.spec("contested", &image, &["who"]);
    let winners = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..5).map(|_| scope.spawn(|| lab.engine.create(&spec))).collect();
        tries
            .into_iter()
            .filter(|_| true)
            .map(|tried| tried.join().unwrap())
            .filter(|tried| match tried {
                Ok(_) => true,
                Err(Error::NameTaken { .. }) => false,
                Err(other) => panic!("{other}"),
            })
            .count()
    });
    assert_eq!(winners, 1);
}

fn started(lab: &Lab, spec: &ContainerSpec) -> Container {
    lab.engine.create(spec).unwrap();
    lab.engine.start(&spec.name).unwrap();
    lab.engine.container(&spec.name).unwrap().unwrap()
}

#[test]
fn how_a_program_ended_is_told() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let failing = lab.spec("failing", &image, &["print=out", "complain=err", "exit=3"]);
    let (status, _) = lab.run(&failing);
    assert_eq!(status, 3);
    let found = lab.engine.container(&failing.name).unwrap().unwrap();
    assert_eq!(
        (found.phase, found.exit_code, found.was_out_of_memory, found.restarts),
        (Phase::Exited, Some(3), false, 0)
    );
    assert!(found.started_at.is_some() && found.finished_at.is_some());
    let mut lines = Vec::new();
    let query = LogQuery { timestamps: true, ..LogQuery::tail(1) };
    for query in [LogQuery::all(), query] {
        lab.engine
            .logs(&failing.name, &query, crate::rig::PATIENCE, &mut |line| {
                lines.push((line.stream, line.text, line.at.is_some()));
                std::ops::ControlFlow::Continue(())
            })
            .unwrap();
    }
    lines[..2].sort_by_key(|(stream, ..)| *stream == Stream::Error);
    assert_eq!(lines[..2], [(Stream::Out, "out".into(), false), (Stream::Error, "err".into(), false)]);
    assert!(lines.len() == 3 && lines[2].2, "{lines:?}");
}

#[test]
fn a_program_that_cannot_start_says_why() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let mut spec = lab.spec("missing", &image, &[]);
    spec.command = docker::Command::Whole(vec!["/no/such/program".into()]);
    lab.engine.create(&spec).unwrap();
    let error = lab.engine.start(&spec.name).unwrap_err().to_string();
    assert!(error.contains("/no/such/program") && error.contains(&spec.name), "{error}");
    assert!(lab.engine.container(&spec.name).unwrap().unwrap().start_error.is_some());
    assert!(matches!(lab.engine.start(&lab.named("nobody")), Err(Error::NotFound { .. })));
    assert_eq!(lab.engine.container(&lab.named("nobody")).unwrap(), None);
}

#[test]
fn a_program_stops_when_asked_and_is_killed_when_it_does_not() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    // The first process of a container gets no signal that it did not ask for; SIGKILL it gets.
    let deaf = lab.spec("deaf", &image, &["ignore=15", "print=deaf", "sleep=60000"]);
    assert_eq!(started(&lab, &deaf).phase, Phase::Running);
    let since = Instant::now();
    let stopped = lab.engine.stop(&deaf.name, Duration::from_secs(1)).unwrap();
    assert!(stopped.was_killed && stopped.exit_code == 137, "{stopped:?}");
    assert!(since.elapsed() >= Duration::from_secs(1));
    let again = lab.engine.stop(&deaf.name, Duration::from_secs(1)).unwrap();
    assert!(!again.was_killed, "it did not run: {again:?}");
    assert!(matches!(lab.engine.wait_for_end(&deaf.name, Duration::from_secs(5)), Ok(137)));
}

#[test]
fn waiting_has_an_end_and_can_be_interrupted() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let long = lab.spec("long", &image, &["sleep=60000"]);
    started(&lab, &long);
    let error = lab.engine.wait_for_end(&long.name, Duration::from_millis(300)).unwrap_err();
    assert!(matches!(error, Error::Deadline { .. }), "{error}");
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let heeding = lab.engine.heeding(flag.clone());
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| heeding.wait_for_end(&long.name, crate::rig::PATIENCE));
        std::thread::sleep(Duration::from_millis(200));
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
        let since = Instant::now();
        assert!(matches!(waiting.join().unwrap(), Err(Error::Interrupted { .. })));
        assert!(since.elapsed() < Duration::from_secs(5));
    });
    assert!(lab.engine.container(&long.name).unwrap().is_some(), "the engine itself still answers");
}

#[test]
fn the_engine_starts_a_program_again_where_it_was_told_to() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let mut spec = lab.spec("again", &image, &["exit=5"]);
    spec.restart = Restart::OnFailure(2);
    lab.engine.create(&spec).unwrap();
    lab.engine.start(&spec.name).unwrap();
    until("it was started twice more", || {
        let found = lab.engine.container(&spec.name).unwrap().unwrap();
        found.restarts == 2 && found.phase == Phase::Exited && found.exit_code == Some(5)
    });
}
