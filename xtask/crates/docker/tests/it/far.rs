//! Engines of other machines, by ssh: a real sshd on this one, with keys made on the spot.

use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use docker::{Connect, Endpoint, Engine, Error};
use oci::Compression;

use crate::rig::{Lab, PATIENCE, skip, until};

struct Sshd {
    folder: tempfile::TempDir,
    child: Child,
    port: u16,
    user: String,
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Sshd {
    fn start() -> Option<Sshd> {
        let sshd = Path::new("/usr/sbin/sshd");
        let Endpoint::Unix(_) = crate::rig::engine()?.endpoint().clone() else { return None };
        if !sshd.exists() {
            skip("sshd", "there is no /usr/sbin/sshd (Debian: openssh-server)");
            return None;
        }
        // sshd wants it, also where it does not use it. Only root can make it, and usually it is there.
        std::fs::create_dir_all("/run/sshd").ok();
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for key in ["host", "user", "other"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key)));
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let user = String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned();
        let text = |name: &str| std::fs::read_to_string(path(name)).unwrap();
        std::fs::write(path("known"), format!("[127.0.0.1]:{port} {}", text("host.pub"))).unwrap();
        std::fs::write(path("wrong"), format!("[127.0.0.1]:{port} {}", text("other.pub"))).unwrap();
        let config = format!(
            "ListenAddress 127.0.0.1\nPort {port}\nHostKey {}\nAuthorizedKeysFile {}\nStrictModes no\nUsePAM no\nPidFile none\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n",
            path("host").display(),
            path("user.pub").display()
        );
        std::fs::write(path("sshd_config"), config).unwrap();
        let log = std::fs::File::create(path("log")).unwrap();
        let child = Command::new(sshd)
            .args(["-D", "-e", "-f"])
            .arg(path("sshd_config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn();
        let sshd = Sshd { folder, child: child.unwrap(), port, user };
        until("sshd listens", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        Some(sshd)
    }

    /// A configuration of ssh with this key and these known hosts.
    fn config(&self, key: &str, known: &str) -> PathBuf {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let text = format!(
            "Host *\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  \
             StrictHostKeyChecking yes\n",
            path(key),
            path(known)
        );
        let config = self.folder.path().join(format!("config-{key}-{known}"));
        std::fs::write(&config, text).unwrap();
        config
    }

    fn connect(&self, key: &str, known: &str, socket: &str) -> docker::Result<Engine> {
        let endpoint = format!("ssh://{}@127.0.0.1:{}{socket}", self.user, self.port).parse().unwrap();
        Engine::connect_with(&Connect { endpoint, ssh_config: Some(self.config(key, known)) })
    }

    /// Processes that the listener started.
    fn sessions(&self) -> Vec<i32> {
        let of_listener = |process: &i32| {
            let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let parent = stat
                .rsplit_once(')')
                .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse::<u32>().ok());
            parent == Some(self.child.id())
        };
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(of_listener).collect()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[test]
fn an_engine_far_away_is_one_like_any_other() {
    let Some(sshd) = Sshd::start() else { return };
    let lab = Lab::with(sshd.connect("user", "known", "/var/run/docker.sock").unwrap());
    let facts = lab.engine.facts();
    assert!(facts.free_bytes.is_some_and(|bytes| bytes > 0), "{facts:?}");
    assert!(matches!(facts.memory_folder, docker::MemoryFolder::Seen(_)), "{facts:?}");
    let image =
        lab.image(vec![lab.noise("big", 1 << 20, Compression::Gzip), lab.program(Compression::Gzip)], "");
    let sent = lab.engine.transfer(&lab.layout, image, &lab.reference("far")).unwrap();
    let mut spec = lab.spec("far", &sent.id, &["read=/run/secrets/db", "env=OF_IMAGE"]);
    spec.secrets = vec![docker::Secret { name: "db".into(), value: docker::SecretValue::new("s3cret") }];
    let (status, output) = lab.run(&spec);
    assert_eq!((status, output.as_str()), (0, "read /run/secrets/db ok s3cret\nenv OF_IMAGE yes\n"));
    // The connection breaks; the next call makes another one.
    for session in sshd.sessions() {
        let pid = rustix::process::Pid::from_raw(session).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
    }
    until("the engine is reached again", || lab.engine.ping().is_ok());
    assert!(lab.engine.container(&spec.name).unwrap().is_some());
    let sessions = sshd.sessions();
    assert_eq!(sessions.len(), 1, "one login for all: {sessions:?}");
}

#[test]
fn ssh_ends_with_the_engine_that_it_leads_to() {
    let Some(sshd) = Sshd::start() else { return };
    let engine = sshd.connect("user", "known", "").unwrap();
    until("there is a session", || sshd.sessions().len() == 1);
    drop(engine);
    until("it is over", || sshd.sessions().is_empty());
}

#[test]
fn what_keeps_ssh_out_comes_with_the_next_step() {
    let Some(sshd) = Sshd::start() else { return };
    let refused = |key, known, socket| match sshd.connect(key, known, socket) {
        Err(error @ Error::Unreachable { .. }) => error.to_string(),
        other => panic!("{other:?}"),
    };
    let since = std::time::Instant::now();
    let text = refused("user", "wrong", "");
    assert!(text.contains("known_hosts"), "{text}");
    let text = refused("other", "known", "");
    assert!(text.contains("Permission denied") && text.contains("authorized_keys"), "{text}");
    let text = refused("user", "known", "/no/such.sock");
    assert!(text.contains("start the engine there"), "{text}");
    assert!(since.elapsed() < PATIENCE);
    let endpoint = "ssh://nobody@127.0.0.1:1".parse().unwrap();
    let text = Engine::connect(&endpoint).unwrap_err().to_string();
    assert!(text.contains("Connection refused") && text.contains("ssh nobody@127.0.0.1 true"), "{text}");
}
