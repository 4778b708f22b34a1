//! What an engine says of itself, and images that it fetches from a real registry.

use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};

use docker::{Error, Store};

use crate::rig::{Lab, skip, until};

struct Registry {
    child: Child,
    address: String,
    _folder: tempfile::TempDir,
}

impl Registry {
    fn start() -> Option<Registry> {
        if Command::new("docker-registry").arg("--version").output().is_err() {
            skip("docker-registry", "the program `docker-registry` is missing");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let data = folder.path().join("data");
        let config = format!(
            "version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {address}\n",
            data.display()
        );
        std::fs::write(folder.path().join("config.yml"), config).unwrap();
        let mut command = Command::new("docker-registry");
        command
            .arg("serve")
            .arg(folder.path().join("config.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let registry = Registry { child: command.spawn().unwrap(), address, _folder: folder };
        until("the registry listens", || TcpStream::connect(&registry.address).is_ok());
        Some(registry)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn an_image_is_fetched_by_digest_and_compared() {
    let Some(lab) = Lab::open() else { return };
    let Some(registry) = Registry::start() else { return };
    let id = lab.probe("");
    let name = format!("{}/{}", registry.address, lab.name);
    lab.engine.tag_image(&id, &format!("{name}:1")).unwrap();
    let pushed = Command::new("docker").args(["push", "--quiet", &format!("{name}:1")]).output().unwrap();
    assert!(pushed.status.success(), "{}", String::from_utf8_lossy(&pushed.stderr));
    let image = lab.engine.image(&id).unwrap().unwrap();
    let by_digest = image.digests.iter().find(|digest| digest.starts_with(&name)).unwrap().clone();
    let Store::GraphDriver(_) = lab.engine.facts().store else { return };
    let config = id.parse().unwrap();
    assert!(lab.engine.remove_image(&id).unwrap());
    assert_eq!(lab.engine.image(&id).unwrap(), None);
    assert_eq!(lab.engine.pull(&by_digest, &config, None).unwrap(), id);
    let other = stdx::Digest::of("another");
    assert!(matches!(lab.engine.pull(&by_digest, &other, None), Err(Error::WrongImage { .. })));
    let missing = format!("{name}@{other}");
    assert!(lab.engine.pull(&missing, &config, None).unwrap_err().to_string().contains(&missing));
    let error = lab.engine.pull(&format!("{name}:1"), &config, None).unwrap_err().to_string();
    assert!(error.contains("name@sha256:"), "{error}");
}

#[test]
fn an_engine_says_what_it_is() {
    let Some(engine) = crate::rig::engine() else { return };
    let format = "{{.ServerVersion}}|{{.Driver}}|{{.LiveRestoreEnabled}}|{{.NCPU}}|{{.MemTotal}}|{{.CgroupVersion}}|{{.DockerRootDir}}";
    let told = Command::new("docker").args(["info", "--format", format]).output().unwrap();
    let facts = engine.facts();
    let (Store::GraphDriver(driver) | Store::Containerd(driver)) = &facts.store;
    let ours = format!(
        "{}|{driver}|{}|{}|{}|{}|{}",
        facts.version,
        facts.has_live_restore,
        facts.cpus,
        facts.memory_bytes,
        facts.cgroup_version.unwrap_or_default(),
        facts.data_root.display()
    );
    assert_eq!(ours, String::from_utf8(told.stdout).unwrap().trim());
    assert!(facts.platform().starts_with("linux/") && facts.can_limit.memory && facts.can_limit.pids);
    println!("{facts:#?}");
}
