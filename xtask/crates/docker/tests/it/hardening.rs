//! What a container may not do, seen from inside it.

use docker::{Access, Attachment, Egress, Limits, Mount, MountSource, NetworkSpec, User, VolumeSpec};

use crate::rig::{Lab, program, skip, until};

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

/// Another machine as far as containers can tell: a network namespace that this machine forwards to.
struct Elsewhere {
    name: String,
    server: std::process::Child,
}

const ELSEWHERE: [&str; 2] = ["10.214.199.1", "10.214.199.2"];

impl Elsewhere {
    fn open() -> Option<Elsewhere> {
        let name = format!("slipway-{}", std::process::id());
        let ip = |args: &str| {
            let output = std::process::Command::new("ip").args(args.split(' ')).output();
            output.is_ok_and(|output| output.status.success())
        };
        if !ip(&format!("netns add {name}")) {
            skip("ip", "a network namespace needs root and the program `ip`");
            return None;
        }
        let [here, there] = ELSEWHERE;
        for step in [
            format!("link add {name} type veth peer name outside netns {name}"),
            format!("addr add {here}/30 dev {name}"),
            format!("link set {name} up"),
            format!("-n {name} addr add {there}/30 dev outside"),
            format!("-n {name} link set outside up"),
        ] {
            assert!(ip(&step), "ip {step}");
        }
        let mut server = std::process::Command::new("ip");
        server.args(["netns", "exec", &name]).arg(program()).arg("serve=0.0.0.0:8080");
        let elsewhere =
            Elsewhere { server: server.stdout(std::process::Stdio::null()).spawn().unwrap(), name };
        until("it serves", || std::net::TcpStream::connect((there, 8080)).is_ok());
        Some(elsewhere)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.server.kill().ok();
        self.server.wait().ok();
        std::process::Command::new("ip").args(["link", "del", &self.name]).status().ok();
        std::process::Command::new("ip").args(["netns", "del", &self.name]).status().ok();
    }
}

#[test]
fn a_network_without_egress_leads_to_its_own_containers_and_to_no_other_machine() {
    let Some(lab) = Lab::open() else { return };
    let Some(_elsewhere) = Elsewhere::open() else { return };
    let image = lab.probe("");
    let network = |name: &str, egress| {
        let spec = NetworkSpec { labels: lab.labels(), egress, ..NetworkSpec::new(lab.named(name)) };
        lab.engine.ensure_network(&spec).unwrap().name
    };
    let (inner, open) = (network("inner", Egress::None), network("open", Egress::Open));
    let mut server = lab.spec("server", &image, &["serve=0.0.0.0:8080"]);
    server.networks = [&inner, &open]
        .map(|network| Attachment { aliases: vec!["friend".into()], ..Attachment::to(network) })
        .to_vec();
    lab.engine.create(&server).unwrap();
    lab.engine.start(&server.name).unwrap();
    let addresses = lab.engine.container(&server.name).unwrap().unwrap().addresses;
    // The edge dials containers so.
    for network in [&inner, &open] {
        until("the server answers", || std::net::TcpStream::connect((addresses[network], 8080)).is_ok());
    }
    let away = format!("connect={}:8080", ELSEWHERE[1]);
    let other = |network: &str| format!("connect={}:8080", addresses[network]);
    // The guide says that the machine's own addresses are open.
    let here = std::net::TcpListener::bind(format!("{}:0", ELSEWHERE[0])).unwrap();
    let machine = format!("connect={}", here.local_addr().unwrap());
    let from = |name: &str, network: &str, other: &str| {
        let mut client = lab.spec(name, &image, &["connect=friend:8080", &away, other, &machine]);
        client.networks = vec![Attachment::to(network)];
        let results = lab.run(&client).1;
        println!("{network}\n{results}");
        results.lines().map(|line| line.split(' ').nth(2) == Some("ok")).collect::<Vec<_>>()
    };
    assert_eq!(from("inner-client", &inner, &other(&open)), [true, false, false, true]);
    assert_eq!(from("open-client", &open, &other(&inner)), [true, true, false, true]);
}
