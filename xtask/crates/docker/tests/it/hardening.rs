//! What a container may not do, seen from inside it.

use docker::{Access, Attachment, Limits, Mount, MountSource, NetworkSpec, User, VolumeSpec};

use crate::rig::Lab;

#[test]
fn a_container_has_no_right_that_it_was_not_given() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let steps = [
        "who",
        "write=/x",
        "write=/tmp/x",
        "mount=/",
        "mount=/tmp",
        "env=OF_IMAGE",
        "connect=127.0.0.1:1",
        "connect=1.1.1.1:53",
    ];
    let mut spec = lab.spec("bare", &image, &steps);
    spec.limits.open_files = Some(1000);
    let (status, output) = lab.run(&spec);
    assert_eq!(status, 0, "{output}");
    let has = |line: &str| assert!(output.lines().any(|found| found == line), "no `{line}` in\n{output}");
    has("uid 10001 gid 10001");
    for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
        has(&format!("{set}: 0000000000000000"));
    }
    has("NoNewPrivs: 1");
    has("Seccomp: 2");
    has("Max open files 1000 1000 files");
    has("write /x failed: Read-only file system (os error 30)");
    has("write /tmp/x ok");
    has("mount / overlay ro");
    has("mount /tmp tmpfs rw");
    has("env OF_IMAGE yes");
    has("connect 1.1.1.1:53 failed: Network unreachable (os error 101)");
}

#[test]
fn limits_hold() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let mut spec = lab.spec("limited", &image, &["fork=100"]);
    spec.limits = Limits { pids: 20, ..Limits::default() };
    let (status, output) = lab.run(&spec);
    assert_eq!(status, 0, "{output}");
    let threads: u32 = output.trim().strip_prefix("threads ").unwrap().parse().unwrap();
    assert!((10..20).contains(&threads), "{output}");
}

#[test]
fn a_program_that_eats_too_much_is_ended_and_that_is_told() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let mut spec = lab.spec("hungry", &image, &["eat=200"]);
    spec.limits.memory_bytes = Some(32 << 20);
    let (status, _) = lab.run(&spec);
    assert_eq!(status, 137);
    let found = lab.engine.container(&spec.name).unwrap().unwrap();
    assert!(found.was_out_of_memory, "{found:?}");
    assert_eq!(found.exit_code, Some(137));
}

#[test]
fn nobody_runs_as_root_unless_the_spec_says_so() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("0");
    let spec = lab.spec("root", &image, &["who"]);
    let error = lab.engine.create(&spec).unwrap_err().to_string();
    assert!(error.contains("runs as root"), "{error}");
    let as_user = |user| docker::ContainerSpec { user, ..spec.clone() };
    let (_, output) = lab.run(&as_user(User::Id { uid: 7, gid: 8 }));
    assert!(output.contains("uid 7 gid 8"), "{output}");
    lab.engine.remove(&spec.name).unwrap();
    let (_, output) = lab.run(&as_user(User::Root));
    assert!(output.contains("uid 0 gid 0") && output.contains("CapEff: 0000000000000000"), "{output}");
}

#[test]
fn what_is_mounted_may_be_written_only_where_that_was_said() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let volume =
        lab.engine.ensure_volume(&VolumeSpec { name: lab.named("data"), labels: lab.labels() }).unwrap();
    let mount = |target: &str, access| Mount {
        target: target.into(),
        source: MountSource::Volume(volume.name.clone()),
        access,
    };
    let mut writer = lab.spec("writer", &image, &["write=/data/x"]);
    // A new volume belongs to root.
    writer.user = User::Root;
    writer.mounts.push(mount("/data", Access::ReadWrite));
    assert_eq!(lab.run(&writer).1.trim(), "write /data/x ok");
    let mut reader = lab.spec("reader", &image, &["read=/data/x", "write=/data/y"]);
    reader.mounts.push(mount("/data", Access::ReadOnly));
    let output = lab.run(&reader).1;
    assert!(
        output.contains("read /data/x ok x") && output.contains("write /data/y failed: Read-only"),
        "{output}"
    );
    let mut missing = lab.spec("missing", &image, &["who"]);
    let source = MountSource::Host("/no/such/folder".into());
    missing.mounts.push(Mount { target: "/data".into(), source, access: Access::ReadOnly });
    let error = lab.engine.create(&missing).unwrap_err().to_string();
    assert!(error.contains("/no/such/folder"), "{error}");
}

#[test]
fn a_network_without_egress_leads_nowhere_but_to_its_own_containers() {
    let Some(lab) = Lab::open() else { return };
    let image = lab.probe("");
    let network = NetworkSpec { labels: lab.labels(), ..NetworkSpec::new(lab.named("inner")) };
    lab.engine.ensure_network(&network).unwrap();
    let mut server = lab.spec("server", &image, &["serve=0.0.0.0:8080"]);
    server.networks = vec![Attachment { aliases: vec!["friend".into()], ..Attachment::to(&network.name) }];
    lab.engine.create(&server).unwrap();
    lab.engine.start(&server.name).unwrap();
    let address = lab.engine.container(&server.name).unwrap().unwrap().addresses[&network.name];
    // The edge dials containers so.
    crate::rig::until("the server answers", || std::net::TcpStream::connect((address, 8080)).is_ok());
    let steps = ["connect=friend:8080", "connect=1.1.1.1:53", "connect=9.9.9.9:443"];
    let mut client = lab.spec("client", &image, &steps);
    client.networks = vec![Attachment::to(&network.name)];
    let (_, output) = lab.run(&client);
    assert!(output.contains("connect friend:8080 ok"), "{output}");
    assert!(
        output.contains("connect 1.1.1.1:53 failed") && output.contains("connect 9.9.9.9:443 failed"),
        "{output}"
    );
}
