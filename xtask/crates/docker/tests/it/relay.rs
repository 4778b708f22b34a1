//! A socket in front of an engine's, that sees what is asked and can break off.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

pub(crate) struct Relay {
    folder: tempfile::TempDir,
    state: Arc<State>,
}

struct State {
    target: PathBuf,
    /// So many bytes go to the engine on one connection, and then it is cut.
    cut_after: AtomicU64,
    at_cut: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    asked: Mutex<Vec<String>>,
    /// Both ends of the connections that there were.
    carried: Mutex<Vec<UnixStream>>,
}

impl Relay {
    pub(crate) fn to(target: &Path) -> Relay {
        let folder = tempfile::Builder::new().prefix("relay-").tempdir_in("/tmp").unwrap();
        let listener = UnixListener::bind(folder.path().join("s")).unwrap();
        let state = Arc::new(State {
            target: target.to_owned(),
            cut_after: AtomicU64::new(u64::MAX),
            at_cut: Mutex::new(None),
            asked: Mutex::new(Vec::new()),
            carried: Mutex::new(Vec::new()),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let (client, state) = (client.unwrap(), Arc::clone(&shared));
                std::thread::spawn(move || state.carry(&client));
            }
        });
        Relay { folder, state }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }

    /// Cuts every connection after so many bytes; `u64::MAX` lets all pass.
    pub(crate) fn cut_after(&self, bytes: u64) {
        self.state.cut_after.store(bytes, Ordering::Relaxed);
    }

    /// Ends all connections, and every new one at its first byte, until [`Relay::cut_after`] says otherwise.
    pub(crate) fn shut(&self) {
        self.cut_after(0);
        for end in self.state.carried.lock().unwrap().drain(..) {
            end.shutdown(std::net::Shutdown::Both).ok();
        }
    }

    pub(crate) fn at_cut(&self, act: impl FnOnce() + Send + 'static) {
        *self.state.at_cut.lock().unwrap() = Some(Box::new(act));
    }

    /// The first lines of all requests.
    pub(crate) fn asked(&self) -> Vec<String> {
        self.state.asked.lock().unwrap().clone()
    }
}

impl State {
    fn carry(&self, client: &UnixStream) {
        let Ok(engine) = UnixStream::connect(&self.target) else { return };
        let ends = [client.try_clone().unwrap(), engine.try_clone().unwrap()];
        self.carried.lock().unwrap().extend(ends);
        let (mut from, mut to) = (engine.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            std::io::copy(&mut from, &mut to).ok();
            to.shutdown(std::net::Shutdown::Both).ok();
        });
        self.upload(client, &engine);
        engine.shutdown(std::net::Shutdown::Write).ok();
    }

    fn upload(&self, mut client: &UnixStream, mut engine: &UnixStream) {
        let mut buffer = [0; 16 * 1024];
        let mut passed = 0;
        while let Ok(n @ 1..) = client.read(&mut buffer) {
            if passed == 0 {
                let line = buffer[..n].split(|byte| *byte == b'\r').next().unwrap_or_default();
                self.asked.lock().unwrap().push(String::from_utf8_lossy(line).into_owned());
            }
            passed += n as u64;
            if passed > self.cut_after.load(Ordering::Relaxed) {
                if let Some(act) = self.at_cut.lock().unwrap().take() {
                    act();
                }
                engine.shutdown(std::net::Shutdown::Both).ok();
                client.shutdown(std::net::Shutdown::Both).ok();
                return;
            }
            if engine.write_all(&buffer[..n]).is_err() {
                return;
            }
        }
    }
}
