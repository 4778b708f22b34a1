//! Ways that break and engines that die.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use docker::{Endpoint, Engine, Error, TransferKind, Watched};
use oci::Compression;

use crate::relay::Relay;
use crate::rig::{Lab, skip, until};

/// The socket of this machine's engine, where it has one.
fn socket(engine: &Engine) -> Option<PathBuf> {
    match engine.endpoint() {
        Endpoint::Unix(path) => Some(path.clone()),
        other => {
            skip("docker", &format!("the engine is at {other}, and not at a socket of this machine"));
            None
        }
    }
}

fn at(socket: &Path) -> Engine {
    Engine::connect(&Endpoint::Unix(socket.to_owned())).unwrap()
}

#[test]
fn an_engine_that_is_not_there_comes_with_the_next_step() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.sock");
    let error = Engine::connect(&Endpoint::Unix(missing.clone())).unwrap_err().to_string();
    assert!(error.contains("missing.sock") && error.contains("systemctl start docker"), "{error}");
    drop(std::os::unix::net::UnixListener::bind(&missing).unwrap());
    let error = Engine::connect(&Endpoint::Unix(missing)).unwrap_err().to_string();
    assert!(error.contains("refused") && error.contains("systemctl start docker"), "{error}");
}

#[test]
fn every_request_names_the_version_that_both_speak() {
    let Some(direct) = crate::rig::engine() else { return };
    let Some(socket) = socket(&direct) else { return };
    let relay = Relay::to(&socket);
    let engine = at(&relay.socket());
    engine.containers(&docker::Labels::new()).unwrap();
    let (major, minor) = engine.facts().api;
    let last = relay.asked().pop().unwrap();
    assert!(last.starts_with(&format!("GET /v{major}.{minor}/containers/json?")), "{last}");
    assert!((major, minor) >= (1, 41));
}

#[test]
fn a_transfer_that_is_cut_off_leaves_nothing_and_goes_through_the_next_time() {
    let Some(lab) = Lab::open() else { return };
    let Some(socket) = socket(&lab.engine) else { return };
    let relay = Relay::to(&socket);
    let engine = at(&relay.socket());
    let image = lab.image(vec![lab.noise("long", 2 << 20, Compression::Gzip)], "");
    let id = lab.layout.config(&image).unwrap().to_string();
    for cut in [300, 100_000, 2_000_000] {
        relay.cut_after(cut);
        let error = engine.transfer(&lab.layout, image, &lab.reference("cut")).unwrap_err();
        assert!(error.is_passing() && error.to_string().contains(&lab.reference("cut")), "{error}");
        assert_eq!(lab.engine.image(&id).unwrap(), None, "after {cut} bytes");
    }
    relay.cut_after(u64::MAX);
    let sent = engine.transfer(&lab.layout, image, &lab.reference("cut")).unwrap();
    assert_eq!((sent.id, sent.kind), (id, TransferKind::Full));
}

#[test]
fn a_transfer_to_an_engine_that_takes_no_more_can_be_interrupted() {
    let Some(lab) = Lab::open() else { return };
    let Some(socket) = socket(&lab.engine) else { return };
    let relay = Relay::to(&socket);
    let flag = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let engine = at(&relay.socket()).heeding(flag.clone());
    let image = lab.image(vec![lab.noise("long", 8 << 20, Compression::Gzip)], "");
    let (go_on, held) = std::sync::mpsc::channel::<()>();
    relay.at_cut(move || {
        flag.store(true, std::sync::atomic::Ordering::Relaxed);
        held.recv().ok();
    });
    relay.cut_after(1 << 20);
    let since = std::time::Instant::now();
    let error = engine.transfer(&lab.layout, image, &lab.reference("held")).unwrap_err();
    assert!(matches!(error, Error::Interrupted { .. }), "{error}");
    assert!(since.elapsed() < std::time::Duration::from_secs(20), "{:?}", since.elapsed());
    drop(go_on);
    assert_eq!(lab.engine.image(&lab.reference("held")).unwrap(), None);
}

#[test]
fn a_watch_tells_afterwards_what_happened_while_the_way_was_broken() {
    let Some(lab) = Lab::open() else { return };
    let Some(socket) = socket(&lab.engine) else { return };
    let image = lab.probe("");
    let relay = Relay::to(&socket);
    let watch = at(&relay.socket()).watch(&lab.labels());
    assert_eq!(watch.next(crate::rig::PATIENCE), Some(Watched::Gap));
    let told = |name: &str| {
        let events = crate::watching::collect(&watch, 2);
        let of_it = |watched: &Watched| matches!(watched, Watched::Event(event) if event.name == name);
        assert!(events.iter().all(of_it), "{events:?}");
    };
    let (before, between) =
        (lab.spec("before", &image, &["exit=1"]), lab.spec("between", &image, &["exit=2"]));
    lab.run(&before);
    told(&before.name);
    relay.shut();
    lab.run(&between);
    assert_eq!(watch.next(std::time::Duration::from_millis(300)), None);
    relay.cut_after(u64::MAX);
    assert_eq!(watch.next(crate::rig::PATIENCE), Some(Watched::Gap));
    told(&between.name);
}

/// An engine of this test's own, that can be killed.
struct OwnEngine {
    folder: tempfile::TempDir,
    child: Child,
}

impl OwnEngine {
    fn start() -> Option<OwnEngine> {
        let is_root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
        let has_program =
            Command::new("dockerd").arg("--version").output().is_ok_and(|output| output.status.success());
        if !is_root || !has_program {
            skip("dockerd", "an engine of one's own needs root and the program `dockerd`");
            return None;
        }
        let folder = tempfile::Builder::new().prefix("own-").tempdir_in("/tmp").unwrap();
        let child = OwnEngine::spawn(folder.path());
        let own = OwnEngine { folder, child };
        own.wait();
        Some(own)
    }

    fn spawn(folder: &Path) -> Child {
        let log = std::fs::File::options().create(true).append(true).open(folder.join("log")).unwrap();
        let path = |name: &str| folder.join(name).display().to_string();
        // In a network of its own: an engine without a bridge would remove that of the engine beside it.
        Command::new("unshare")
            .args([
                "--net",
                "dockerd",
                "--host",
                &format!("unix://{}", path("s")),
                "--data-root",
                &path("data"),
                "--exec-root",
                &path("exec"),
            ])
            .args(["--pidfile", &path("pid"), "--bridge=none", "--iptables=false", "--live-restore"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    fn wait(&self) {
        let endpoint = Endpoint::Unix(self.socket());
        let log = self.folder.path().join("log");
        let since = std::time::Instant::now();
        while let Err(error) = Engine::connect(&endpoint) {
            let log = || std::fs::read_to_string(&log).unwrap_or_default();
            assert!(since.elapsed() < crate::rig::PATIENCE, "{error}\n{}", log());
            std::thread::sleep(std::time::Duration::from_millis(100));
        }
    }

    fn restart(&mut self) {
        self.child.wait().unwrap();
        // A killed engine's containerd goes with it, and may wait as a zombie for whoever reaps orphans here: to the next engine it
        // would look alive.
        std::fs::remove_file(self.folder.path().join("exec/containerd/containerd.pid")).ok();
        self.child = OwnEngine::spawn(self.folder.path());
        self.wait();
    }
}

impl Drop for OwnEngine {
    fn drop(&mut self) {
        // It ends what it started, containerd among it, when it is asked to.
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        self.child.wait().ok();
        let data = self.folder.path().join("data");
        Command::new("umount").arg(data).stderr(Stdio::null()).status().ok();
    }
}

#[test]
fn an_engine_killed_in_the_middle_of_a_transfer_has_nothing_of_it_and_all_secrets() {
    let Some(mut own) = OwnEngine::start() else { return };
    let relay = Relay::to(&own.socket());
    let lab = Lab::with(at(&relay.socket()));
    let image = lab.image(vec![lab.noise("long", 2 << 20, Compression::Gzip)], "");
    let id = lab.layout.config(&image).unwrap().to_string();
    let mut keeper = lab.spec("keeper", &lab.probe(""), &["read=/run/secrets/db"]);
    keeper.secrets = vec![docker::Secret { name: "db".into(), value: docker::SecretValue::new("s3cret") }];
    lab.engine.create(&keeper).unwrap();
    let pid = rustix::process::Pid::from_child(&own.child);
    relay.at_cut(move || rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap());
    relay.cut_after(1_500_000);
    let watch = lab.engine.watch(&lab.labels());
    assert_eq!(watch.next(crate::rig::PATIENCE), Some(Watched::Gap));
    let error = lab.engine.transfer(&lab.layout, image, &lab.reference("killed")).unwrap_err();
    assert!(error.is_passing(), "{error}");
    relay.cut_after(u64::MAX);
    assert!(matches!(lab.engine.ping(), Err(Error::Broken { .. } | Error::Unreachable { .. })));
    own.restart();
    until("the engine answers again", || lab.engine.ping().is_ok());
    assert_eq!(watch.next(crate::rig::PATIENCE), Some(Watched::Gap), "whoever watches is told to look again");
    assert_eq!(lab.engine.image(&id).unwrap(), None);
    assert_eq!(lab.engine.images(&docker::Labels::new()).unwrap().len(), 1, "that of the keeper");
    lab.engine.start(&keeper.name).unwrap();
    assert_eq!(lab.engine.wait_for_end(&keeper.name, crate::rig::PATIENCE).unwrap(), 0);
    assert_eq!(lab.output(&keeper.name), "read /run/secrets/db ok s3cret\n");
    let sent = lab.engine.transfer(&lab.layout, image, &lab.reference("killed")).unwrap();
    assert_eq!((sent.id, sent.kind), (id, TransferKind::Full));
}
