//! Secrets: there for the program, and nowhere else.

use std::process::Command;

use docker::{Phase, Restart, Secret, SecretValue};

use crate::rig::{Lab, until};

const VALUE: &str = "correct-horse-battery-staple";

fn secret(name: &str) -> Secret {
    Secret { name: name.into(), value: SecretValue::new(VALUE) }
}

/// What the engine tells everybody who may ask about the container, and about all others with the label.
fn inspected(lab: &Lab) -> String {
    let ids: Vec<String> = {
        let filter = format!("label={}={}", crate::rig::LABEL, lab.name);
        let listed = Command::new("docker").args(["ps", "-aq", "--filter", &filter]).output().unwrap();
        String::from_utf8(listed.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    };
    if ids.is_empty() {
        return "[]".to_owned();
    }
    let inspected = Command::new("docker").arg("inspect").args(ids).output().unwrap();
    String::from_utf8(inspected.stdout).unwrap()
}

#[test]
fn a_secret_is_a_file_in_memory_for_the_program_alone() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let steps = [
        "read=/run/secrets/db",
        "stat=/run/secrets/db",
        "mount=/run/secrets",
        "write=/run/secrets/x",
        "environment",
    ];
    let mut spec = lab.spec("keeper", &image, &steps);
    spec.secrets = vec![secret("db"), secret("key.pem")];
    let (status, output) = lab.run(&spec);
    assert_eq!(status, 0);
    assert!(output.contains(&format!("read /run/secrets/db ok {VALUE}")), "{output}");
    assert!(output.contains("stat /run/secrets/db ok 400 10001 10001"), "{output}");
    assert!(output.contains("mount /run/secrets tmpfs ro"), "{output}");
    assert!(output.contains("write /run/secrets/x failed"), "{output}");
    assert_eq!(output.matches(VALUE).count(), 1, "once from the file, never from the environment: {output}");
    if lab.engine.facts().machine.is_empty() {
        return;
    }
    let seen = inspected(&lab);
    assert!(seen.contains(&spec.name) && !seen.contains(VALUE), "{seen}");
    let listed = lab.engine.containers(&lab.labels()).unwrap();
    assert_eq!(listed.len(), 1, "what holds the secrets is no container of the caller's: {listed:?}");
}

#[test]
fn a_secret_is_there_again_when_the_program_starts_again() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let mut spec = lab.spec("again", &image, &["read=/run/secrets/db", "exit=1"]);
    spec.secrets = vec![secret("db")];
    spec.restart = Restart::OnFailure(1);
    lab.engine.create(&spec).unwrap();
    lab.engine.start(&spec.name).unwrap();
    until("it ran twice", || {
        let found = lab.engine.container(&spec.name).unwrap().unwrap();
        found.restarts == 1 && found.phase == Phase::Exited
    });
    assert_eq!(lab.output(&spec.name).matches(VALUE).count(), 2);
}

#[test]
fn a_secret_goes_with_its_container() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let mut spec = lab.spec("gone", &image, &["who"]);
    spec.secrets = vec![secret("db")];
    lab.engine.create(&spec).unwrap();
    let seen: serde_json::Value = serde_json::from_str(&inspected(&lab)).unwrap();
    let mounts: Vec<&serde_json::Value> =
        seen.as_array().unwrap().iter().flat_map(|found| found["Mounts"].as_array().unwrap()).collect();
    let folder = mounts.iter().find(|mount| mount["Destination"] == "/run/secrets").unwrap()["Source"]
        .as_str()
        .unwrap();
    let folder = std::path::PathBuf::from(folder);
    lab.engine.rename(&spec.name, &lab.named("renamed")).unwrap();
    assert!(lab.engine.remove(&lab.named("renamed")).unwrap());
    assert_eq!(inspected(&lab).trim(), "[]", "the holder is gone, too");
    // Only on this machine, and as somebody who may look, can the folder itself be looked at.
    if let Ok(found) = std::fs::symlink_metadata(&folder) {
        assert!(found.is_file() && found.len() == 0, "{found:?}");
    }
}

#[test]
fn what_failed_leaves_no_secret() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let mut spec = lab.spec("taken", &image, &["who"]);
    lab.engine.create(&spec).unwrap();
    spec.secrets = vec![secret("db")];
    assert!(matches!(lab.engine.create(&spec), Err(docker::Error::NameTaken { .. })));
    let seen: serde_json::Value = serde_json::from_str(&inspected(&lab)).unwrap();
    assert_eq!(seen.as_array().unwrap().len(), 1, "no holder is left: {seen}");
    spec.secrets.push(Secret { name: "../x".into(), value: SecretValue::new("") });
    assert!(lab.engine.create(&spec).unwrap_err().to_string().contains("../x"));
}
