//! What survives the death of the edge.

use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use edge::client::Client;
use edge::control::Observed;

use load::{ConnectionUse, Plan, Profile};

use crate::service::{Ledger, Service};
use crate::support::{Raw, await_edge, eventually, options, socket, table};

const STATE_DIR: &str = "EDGE_TEST_STATE_DIR";
const LISTEN: &str = "EDGE_TEST_LISTEN";
const INSTANCE: &str = "EDGE_TEST_INSTANCE";

/// The edge as a process of its own: this test program runs itself again with only this test.
#[test]
#[ignore = "does nothing unless another test starts it"]
fn edge_process() {
    let Ok(state_dir) = std::env::var(STATE_DIR) else { return };
    let mut options = options(Path::new(&state_dir));
    options.access_log = true;
    if let Ok(listen) = std::env::var(LISTEN) {
        options.listen[0].address = listen.parse().unwrap();
    }
    if let Ok(instance) = std::env::var(INSTANCE) {
        options.instance = instance.parse().unwrap();
        options.access_log = false;
    }
    if let Err(error) = edge::serve(options) {
        eprintln!("{error:#}");
        std::process::exit(3);
    }
    std::process::exit(0);
}

/// A child that does not outlive the test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    pub(crate) fn start(folder: &Path, listen: &str) -> Process {
        Process::start_with(folder, listen, &[])
    }

    /// One that takes the place of those with lower numbers.
    pub(crate) fn start_instance(folder: &Path, listen: &str, instance: u64) -> Process {
        Process::start_with(folder, listen, &[(INSTANCE, instance.to_string())])
    }

    fn start_with(folder: &Path, listen: &str, more: &[(&str, String)]) -> Process {
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durability::edge_process", "--ignored", "--nocapture"])
            .env(STATE_DIR, folder)
            .env(LISTEN, listen)
            .envs(more.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Process(child)
    }

    /// Its exit status and what it said.
    pub(crate) fn outcome(mut self) -> (Option<i32>, String) {
        let status = eventually("the process has ended", || self.0.try_wait().unwrap());
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }

    pub(crate) fn kill(mut self) -> String {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        said
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(folder: &Path) -> (Process, Client, Observed) {
    let process = Process::start(folder, "127.0.0.1:0");
    let client = Client::new(socket(folder));
    let observed = await_edge(&client);
    (process, client, observed)
}

#[test]
fn a_killed_edge_comes_back_with_its_table_on_its_address() {
    let (folder, service) = (tempfile::tempdir().unwrap(), Service::start("blue"));
    let (process, client, observed) = start(folder.path());
    assert_eq!((observed.table.generation, observed.pid), (0, process.0.id()));
    assert_eq!(observed.version, env!("CARGO_PKG_VERSION"));
    for generation in 1..=3 {
        client.apply(&table(generation, "blue", &[service.address])).unwrap();
    }
    let mut connection = Raw::connect(observed.listen);
    assert_eq!(connection.get("/").body, "blue");
    process.kill();
    assert!(socket(folder.path()).exists(), "a dead edge leaves its socket");
    // At once, with a client connection of the old one still half open.
    let process = Process::start(folder.path(), &observed.listen.to_string());
    let again = await_edge(&client);
    assert_eq!(again.table, table(3, "blue", &[service.address]));
    assert_eq!((again.listen, again.pid), (observed.listen, process.0.id()));
    assert_eq!(Raw::connect(again.listen).get("/").body, "blue");
    client.apply(&table(4, "blue", &[service.address])).unwrap();
}

/// Only the connections of the moment break. Whoever was told "done" was told the truth, nothing is done twice by a client
/// that does not repeat itself, and the next edge answers as if nothing had been.
#[test]
fn clients_of_an_edge_that_is_killed_under_load_see_broken_connections_and_nothing_else() {
    let (folder, ledger) = (tempfile::tempdir().unwrap(), Ledger::default());
    let service = Service::start_on("127.0.0.1:0".parse().unwrap(), "blue", &ledger);
    let (process, client, observed) = start(folder.path());
    client.apply(&table(1, "blue", &[service.address])).unwrap();
    let profiles = vec![
        Profile::get("new", ConnectionUse::New, ["/"]),
        Profile::get("slow", ConnectionUse::KeepAlive, ["/slow?40"]),
        Profile::post("ledger", ConnectionUse::KeepAlive, "/ledger", "{id}"),
    ];
    let (rate_per_second, max_requests) = (200, 20_000);
    let plan = Plan {
        rate_per_second,
        max_requests,
        max_losses_listed: 20_000,
        ..Plan::new(observed.listen, profiles)
    };
    let stop = plan.stop.clone();
    let running = std::thread::spawn(move || load::run(&plan).unwrap());
    let served = |client: &Client| client.observe().unwrap().slots["blue"].requests;
    eventually("it serves under load", || (served(&client) > 100).then_some(()));
    process.kill();
    let (_process, again) =
        (Process::start(folder.path(), &observed.listen.to_string()), await_edge(&client));
    assert_eq!((again.table.generation, again.listen), (1, observed.listen));
    let began_again = ledger.lock().unwrap().len();
    eventually("it serves again", || (served(&client) > 100).then_some(()));
    stop.stop();
    let report = running.join().unwrap();

    let is_broken = |outcome| {
        use load::Outcome::{ConnectError, EarlyEof, Reset, Truncated};
        matches!(outcome, ConnectError | Reset | EarlyEof | Truncated)
    };
    let losses = report.losses.iter();
    assert!(report.lost > 0, "a kill under load is seen");
    let wrong: Vec<_> = losses.filter(|loss| !is_broken(loss.outcome)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let recorded = ledger.lock().unwrap();
    let verdict = report.check_ledger(recorded.iter());
    assert!(verdict.is_clean() && recorded.len() > began_again, "{verdict:#?}");
}

#[test]
fn either_file_alone_gives_the_table_in_force_loudly_and_two_corrupt_ones_refuse() {
    let (folder, service) = (tempfile::tempdir().unwrap(), Service::start("blue"));
    let path = folder.path().join("table.json");
    let copy = folder.path().join("table.json.copy");
    let (process, client, _) = start(folder.path());
    for generation in 1..=3 {
        client.apply(&table(generation, "blue", &[service.address])).unwrap();
    }
    process.kill();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, text.replace("demo", "evil")).unwrap();
    let (process, _, observed) = start(folder.path());
    assert_eq!(observed.table, table(3, "blue", &[service.address]));
    assert_eq!(Raw::connect(observed.listen).get("/").body, "blue");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), text, "repaired");
    process.signal("TERM");
    let (_, said) = process.outcome();
    assert!(said.contains("TABLE_UNUSABLE") && said.contains("digest"), "{said}");

    std::fs::write(&copy, "{").unwrap();
    let (process, client, observed) = start(folder.path());
    assert_eq!(observed.table, table(3, "blue", &[service.address]));
    client.apply(&table(4, "blue", &[service.address])).unwrap();
    process.kill();
    assert_eq!(std::fs::read(&path).unwrap(), std::fs::read(&copy).unwrap());

    std::fs::write(&path, "").unwrap();
    std::fs::write(&copy, "{").unwrap();
    let (code, said) = Process::start(folder.path(), "127.0.0.1:0").outcome();
    assert_eq!(code, Some(3));
    assert!(said.contains("table.json") && said.contains("start empty and deploy again"), "{said}");
    assert!(!socket(folder.path()).exists());
}

#[test]
fn one_edge_a_folder_and_one_an_address() {
    let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (_process, client, observed) = start(folder.path());
    let (code, said) = Process::start(folder.path(), "127.0.0.1:0").outcome();
    assert!(
        code == Some(3) && said.contains("another edge") && said.contains(&observed.pid.to_string()),
        "{said}"
    );
    assert_eq!(client.observe().unwrap().pid, observed.pid, "the first one goes on");
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (code, said) = Process::start(other.path(), &address).outcome();
    assert!(code == Some(3) && said.contains(&address) && said.contains("another program"), "{said}");
    assert_eq!(std::fs::read(other.path().join("edge.pid")).unwrap(), b"", "it names nobody");
}

#[test]
fn signals_stop_it_in_good_order_and_a_closed_terminal_does_not() {
    let service = Service::start("blue");
    for signal in ["TERM", "INT"] {
        let folder = tempfile::tempdir().unwrap();
        let (process, client, observed) = start(folder.path());
        client.apply(&table(1, "blue", &[service.address])).unwrap();
        process.signal("HUP");
        let mut connection = Raw::connect(observed.listen);
        connection.send("GET /slow?300 HTTP/1.1\r\nHost: test\r\n\r\n");
        eventually("it is in flight", || {
            (client.observe().unwrap().slots["blue"].in_flight == 1).then_some(())
        });
        process.signal(signal);
        assert_eq!(connection.answer().body, "blue");
        let (code, said) = process.outcome();
        assert_eq!(code, Some(0), "{said}");
        assert!(said.contains("stopping") && said.contains(r#""complete":true"#), "{said}");
    }
}

#[test]
fn a_table_that_cannot_be_kept_is_not_put_in_force() {
    let (folder, service) = (tempfile::tempdir().unwrap(), Service::start("blue"));
    let (process, client, _) = start(folder.path());
    client.apply(&table(1, "blue", &[service.address])).unwrap();
    let path = folder.path().join("table.json");
    std::fs::remove_file(&path).unwrap();
    // A folder of that name: no file can be moved there.
    std::fs::create_dir(&path).unwrap();
    let refused = client.apply(&table(2, "green", &[service.address])).unwrap_err();
    let refused = format!("{refused}");
    assert!(refused.contains("table.json"), "{refused}");
    assert_eq!(client.observe().unwrap().table.generation, 1);
    std::fs::remove_dir(&path).unwrap();
    process.kill();
    let (_process, client, observed) = start(folder.path());
    assert_eq!(observed.table, table(1, "blue", &[service.address]), "from the copy");
    assert!(client.stop(Duration::ZERO).is_ok());
}

#[test]
fn a_log_that_nobody_reads_holds_nothing_up() {
    let (folder, service) = (tempfile::tempdir().unwrap(), Service::start("blue"));
    let (_process, client, observed) = start(folder.path());
    client.apply(&table(1, "blue", &[service.address])).unwrap();
    let mut connection = Raw::connect(observed.listen);
    let long = "x".repeat(1000);
    // The access log of these is several times what the pipe of its standard error holds.
    for _ in 0..300 {
        assert_eq!(connection.get(&format!("/{long}")).body, "blue");
    }
    client.stop(Duration::ZERO).unwrap();
}
