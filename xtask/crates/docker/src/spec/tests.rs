use super::*;
use crate::facts::CanLimit;

fn facts() -> Facts {
    let can_limit = CanLimit { memory: true, cpus: true, pids: true };
    Facts { cpus: 2, can_limit, ..Facts::new(<_>::default(), <_>::default(), (1, 41)) }
}

fn spec() -> ContainerSpec {
    ContainerSpec::new("api-1", "sha256:ab")
}

/// What the engine is told, as it is sent.
fn lowered(spec: &ContainerSpec) -> serde_json::Value {
    serde_json::to_value(spec.lower((1, 2), None)).unwrap()
}

fn problem(change: impl FnOnce(&mut ContainerSpec)) -> String {
    let mut spec = spec();
    change(&mut spec);
    spec.check(&facts()).unwrap_err().to_string()
}

#[test]
fn a_container_is_hardened_unless_it_says_otherwise() {
    let body = lowered(&spec());
    let host = &body["HostConfig"];
    assert_eq!(host["ReadonlyRootfs"], true);
    assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]));
    assert_eq!(host["CapAdd"], serde_json::json!([]));
    assert_eq!(host["SecurityOpt"], serde_json::json!(["no-new-privileges:true"]));
    assert_eq!(host["Privileged"], false);
    assert_eq!(host["PidsLimit"], 512);
    assert_eq!(host["NetworkMode"], "none");
    assert_eq!(host["Tmpfs"]["/tmp"], "rw,noexec,nosuid,nodev,mode=1777,size=67108864");
    assert_eq!(host["LogConfig"]["Type"], "json-file");
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "10485760");
    assert_eq!(host["RestartPolicy"]["Name"], "no");
    assert_eq!(body["User"], "1:2");
    assert_eq!(body["Entrypoint"], serde_json::Value::Null);
}

#[test]
fn what_is_asked_for_is_what_the_engine_is_told() {
    let mut spec = spec();
    spec.command = Command::Whole(vec!["/bin/app".into(), "migrate".into()]);
    spec.env.insert("A".into(), "b=c".into());
    spec.networks = vec![
        Attachment {
            aliases: vec!["db".into()],
            address: Some("10.0.0.7".parse().unwrap()),
            ..Attachment::to("env")
        },
        Attachment::to("second"),
    ];
    spec.limits =
        Limits { memory_bytes: Some(64 << 20), cpu_milli: Some(1500), pids: 10, open_files: Some(100) };
    spec.restart = Restart::OnFailure(3);
    spec.stop_grace = Duration::from_millis(1500);
    spec.health_check = HealthCheck::Off;
    let volume =
        Mount { target: "/data".into(), source: MountSource::Volume("v".into()), access: Access::ReadWrite };
    let host = Mount {
        target: "/etc/x".into(),
        source: MountSource::Host("/etc/y".into()),
        access: Access::ReadOnly,
    };
    spec.mounts.extend([volume, host]);
    spec.check(&facts()).unwrap();
    let body = serde_json::to_value(spec.lower((5, 6), Some(Path::new("/run/s")))).unwrap();
    assert_eq!(body["Entrypoint"], serde_json::json!(["/bin/app", "migrate"]));
    assert_eq!(body["Env"], serde_json::json!(["A=b=c"]));
    assert_eq!(body["StopTimeout"], 2);
    assert_eq!(body["Healthcheck"]["Test"], serde_json::json!(["NONE"]));
    let networks = body["NetworkingConfig"]["EndpointsConfig"].as_object().unwrap();
    assert_eq!(networks.len(), 1, "engines before 25 take one network");
    assert_eq!(networks["env"]["Aliases"], serde_json::json!(["db"]));
    assert_eq!(networks["env"]["IPAMConfig"]["IPv4Address"], "10.0.0.7");
    let host = &body["HostConfig"];
    assert_eq!(
        (&host["Memory"], &host["MemorySwap"]),
        (&serde_json::json!(64 << 20), &serde_json::json!(64 << 20))
    );
    assert_eq!(host["NanoCpus"], 1_500_000_000);
    assert_eq!(host["Ulimits"], serde_json::json!([{ "Name": "nofile", "Soft": 100, "Hard": 100 }]));
    assert_eq!(host["RestartPolicy"], serde_json::json!({ "Name": "on-failure", "MaximumRetryCount": 3 }));
    let mounts: Vec<_> = host["Mounts"]
        .as_array()
        .unwrap()
        .iter()
        .map(|mount| {
            format!("{} {} {} {}", mount["Type"], mount["Source"], mount["Target"], mount["ReadOnly"])
                .replace('"', "")
        })
        .collect();
    assert_eq!(mounts, ["volume v /data false", "bind /etc/y /etc/x true", "bind /run/s /run/secrets true"]);
}

#[test]
fn nobody_is_root_by_accident() {
    let of = |user: &str| spec().identity(user).map_err(|error| error.to_string());
    assert_eq!(of(""), Ok((DEFAULT_UID, DEFAULT_UID)));
    assert_eq!(of("65532:65533"), Ok((65532, 65533)));
    assert_eq!(of("65532"), Ok((65532, 65532)));
    for root in ["0", "0:5", "root", "root:root", "00"] {
        assert!(of(root).unwrap_err().contains("runs as root"), "{root}");
    }
    for name in ["app", "app:app", "5:app", "-1", "5:", ":", "4294967296"] {
        assert!(of(name).unwrap_err().contains("name the numbers"), "{name}");
    }
    let as_user = |user| ContainerSpec { user, ..spec() }.identity("app");
    assert_eq!(as_user(User::Id { uid: 7, gid: 8 }).unwrap(), (7, 8));
    assert!(as_user(User::Id { uid: 0, gid: 8 }).is_err());
    assert_eq!(as_user(User::Root).unwrap(), (0, 0));
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    assert!(problem(|spec| spec.name = "a/b".into()).contains("a/b"));
    assert!(problem(|spec| _ = spec.env.insert("A=B".into(), String::new())).contains("A=B"));
    assert!(problem(|spec| _ = spec.env.insert("A".into(), "\0".into())).contains("zero byte"));
    assert!(problem(|spec| spec.command = Command::Whole(Vec::new())).contains("empty"));
    assert!(problem(|spec| spec.networks.push(Attachment::to("../x"))).contains("../x"));
    assert!(problem(|spec| spec.mounts.push(Mount::memory("tmp"))).contains("tmp"));
    assert!(problem(|spec| spec.mounts.push(Mount::memory("/tmp"))).contains("twice"));
    assert!(problem(|spec| spec.limits.memory_bytes = Some(1)).contains("6 MiB"));
    assert!(problem(|spec| spec.limits.cpu_milli = Some(2001)).contains("2 processors"));
    assert!(problem(|spec| spec.limits.pids = 0).contains("limit of 0"));
    let cannot = CanLimit { memory: false, cpus: true, pids: true };
    let limited =
        ContainerSpec { limits: Limits { memory_bytes: Some(64 << 20), ..Limits::default() }, ..spec() };
    let error = limited.check(&Facts { can_limit: cannot, ..facts() }).unwrap_err().to_string();
    assert!(error.contains("cannot limit memory"), "{error}");
    spec().check(&Facts { can_limit: cannot, ..facts() }).unwrap();
}
