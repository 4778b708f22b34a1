//! `cargo xtask deploy` and its neighbours on a workspace with one small service, with real processes and real requests.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use load::{ConnectionUse, Plan, Profile};
use serde_json::Value;

use crate::support::{Fixture, Run, works};

/// A workspace with the service `web`, an environment on free ports, and whatever runs there stopped at the end.
struct Site {
    fixture: Fixture,
    /// Name of the environment: on an engine it is shared by all who use it.
    name: String,
    platform: &'static str,
    listen: SocketAddr,
}

impl Site {
    fn new() -> Site {
        Site::on("process", "local".to_owned())
    }

    /// On the Docker engine of this machine; `None` where there is none.
    fn docker() -> Option<Site> {
        let is_there = works("docker", "docker", &["version", "--format", "{{.Server.Version}}"]);
        is_there.then(|| Site::on("docker", format!("it{}", std::process::id())))
    }

    fn on(platform: &'static str, name: String) -> Site {
        let fixture = Fixture::new();
        fixture.package("web", "", "");
        fixture.write(
            "crates/web/service.yaml",
            "http: { port: 9000, routes: [{ path_prefix: / }] }\n\
             health: { path: /health, interval_ms: 50, healthy_threshold: 3, start_timeout_ms: 5000 }\n\
             stop: { grace_ms: 2000 }\n\
             volumes: [{ name: web-data, path: /data, path_env: DATA_DIR }]\n\
             env: { HOST: { default: 127.0.0.1, description: where it listens } }\n",
        );
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let site = Site { fixture, name, platform, listen };
        site.environment("settle_ms: 0\n");
        site.version("1", "200 OK");
        site.fixture.lock();
        site
    }

    fn environment(&self, more: &str) {
        let text = match self.platform {
            "docker" => format!(
                "platform: docker\nscan: {{ required: false }}\nservices: {{ web: {{ env: {{ HOST: 0.0.0.0 }} }} }}\n\
                 edge: {{ listen: \"{}\" }}\n{more}",
                self.listen
            ),
            _ => format!("edge: {{ listen: \"{}\" }}\n{more}", self.listen),
        };
        self.fixture.write(&format!("deploy/environments/{}.yaml", self.name), &text);
    }

    /// Changes the service's source: which version it says it is, and what it answers to its health check.
    fn version(&self, version: &str, health: &str) {
        let source = include_str!("../fixtures/web.rs")
            .replace("VERSION-0", version)
            .replace("\"200 OK\";", &format!("\"{health}\";"));
        self.fixture.write("crates/web/src/main.rs", &source);
    }

    fn deploy(&self) -> Run {
        self.fixture.run(&["deploy", &self.name])
    }

    fn deployed(&self) {
        let run = self.deploy();
        assert_eq!(run.code, 0, "{}\n{}", run.stdout, run.stderr);
    }

    fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(self.listen).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    }

    #[track_caller]
    fn serves(&self, version: &str) {
        assert_eq!(self.get("/").as_deref(), Some(version));
    }

    fn ledger(&self) -> Vec<String> {
        let path: PathBuf = match self.platform {
            "docker" => {
                let volume = format!("{}-web-data", self.name);
                let found = docker(&["volume", "inspect", "--format", "{{.Mountpoint}}", &volume]);
                PathBuf::from(found).join("ledger")
            }
            _ => self.fixture.path(".slipway/local/data/web-data/ledger"),
        };
        fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.fixture.run(&["down", &self.name, "--delete-data"]);
        if self.platform == "docker" {
            let filter = format!("label=dev.slipway.environment={}", self.name);
            let remove = |list: &[&str], remove: &[&str]| {
                for id in docker(&[list, &["--filter", &filter]].concat()).lines() {
                    docker(&[remove, &[id]].concat());
                }
            };
            remove(&["ps", "-aq"], &["rm", "-fv"]);
            remove(&["network", "ls", "-q"], &["network", "rm"]);
            for image in docker(&["images", "-q", &format!("slipway-{}", self.name)]).lines() {
                docker(&["rmi", "-f", image]);
            }
        }
    }
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

#[test]
fn deploy_status_logs_rollback_down() {
    let site = Site::new();
    site.deployed();
    site.serves("1");
    let again = site.deploy();
    assert!(again.code == 0 && again.stdout.contains("nothing to do"), "{}", again.stdout);
    site.version("2", "200 OK");
    let dry = site.fixture.run(&["deploy", "--dry-run"]);
    assert!(dry.stdout.contains("start") && dry.stdout.contains("+ "), "{}", dry.stdout);
    site.serves("1");
    let run = site.deploy();
    assert!(run.stdout.contains(&format!("http://127.0.0.1:{}/", site.listen.port())), "{}", run.stdout);
    site.serves("2");
    let status = site.fixture.json(&["status"]);
    let slots = status["services"]["web"].as_array().unwrap();
    let roles: Vec<_> = slots
        .iter()
        .map(|slot| (slot["role"].as_str().unwrap(), slot["condition"].as_str().unwrap()))
        .collect();
    assert!(roles.contains(&("active", "serving")) && roles.contains(&("retained", "stopped")), "{roles:?}");
    assert!(site.fixture.run(&["logs", "web"]).stdout.contains("2 listens on"));
    site.fixture
        .run_after("exec > /dev/full", &["logs", "web"])
        .fails(1, &["cannot write to standard output"]);
    site.fixture.run(&["logs", "wbe"]).fails(3, &["no service `wbe`", "there is web"]);
    site.fixture
        .run(&["logs", "local"])
        .fails(3, &["`local` is the name of an environment", "--environment local"]);
    assert_eq!(site.fixture.run(&["rollback"]).code, 0);
    site.serves("1");
    let down = site.fixture.run(&["down"]);
    assert!(down.code == 0 && down.stdout.contains("stopped the edge"), "{}", down.stdout);
    assert_eq!(site.get("/"), None);
    assert_eq!(site.fixture.json(&["status"])["edge"], Value::Null);
}

#[test]
fn a_release_that_is_not_healthy_never_serves() {
    let site = Site::new();
    site.deployed();
    site.version("sick", "500 Internal Server Error");
    site.deploy().fails(20, &["what served before serves on", "500", "sick is 500", "sick listens on"]);
    site.serves("1");
    let source = "fn main() { eprintln!(\"no configuration\"); std::process::exit(7); }\n";
    site.fixture.write("crates/web/src/main.rs", source);
    site.deploy().fails(20, &["no configuration", "7"]);
    site.serves("1");
    site.version("3", "200 OK");
    site.deployed();
    site.serves("3");
}

#[test]
fn what_is_wrong_with_environment_or_machine_is_said_before_anything_changes() {
    let site = Site::new();
    site.environment("drain_timeout: 5\n");
    site.deploy().fails(3, &["local.yaml:2", "drain_timeout"]);
    site.environment("services: { nobody: {} }\n");
    site.deploy().fails(3, &["nobody"]);
    site.fixture.run(&["deploy", "moon"]).fails(3, &["moon"]);
    site.environment("routes: [{ service: web, host: 'web.example:80', path_prefix: / }]\n");
    site.deploy().fails(3, &["local.yaml:2", "has a port"]);
    site.environment("");
    let _busy = TcpListener::bind(site.listen).unwrap();
    site.deploy().fails(3, &[&site.listen.to_string(), "in use"]);
}

#[test]
fn an_interrupted_deployment_is_resumed_or_aborted_and_all_of_it_is_on_record() {
    let site = Site::new();
    site.deployed();
    site.fixture.run(&["deploy", "resume"]).fails(3, &["no deployment was interrupted"]);
    for (version, word) in [("2", "abort"), ("3", "resume")] {
        site.version(version, "200 OK");
        let killed = site.fixture.run_after("export SLIPWAY_FAIL_POINT=gate:after-effect", &["deploy"]);
        assert_ne!(killed.code, 0);
        site.serves("1");
        let run = site.fixture.run(&["deploy", word]);
        assert_eq!(run.code, 0, "{}{}", run.stdout, run.stderr);
        site.serves(if word == "abort" { "1" } else { "3" });
    }
    let plan = site.fixture.run(&["rollback", "--dry-run"]).stdout;
    assert!(plan.contains("web: image ") && plan.contains("start again"), "{plan}");
    let plan = site.fixture.run(&["down", "--dry-run", "--delete-data"]).stdout;
    assert!(plan.contains("would stop web-") && plan.contains("would delete the data of web-data"), "{plan}");
    site.serves("3");
    let timeline = site.fixture.json(&["status", "--timeline"]);
    let records = timeline["records"].as_array().unwrap();
    let told: Vec<_> = records
        .iter()
        .map(|record| {
            format!("{} {}", record["operation"].as_str().unwrap(), record["outcome"].as_str().unwrap())
        })
        .collect();
    let expected = ["deploy begun", "deploy deployed", "deploy begun", "abort undone"];
    assert_eq!(told[..4], expected, "{told:?}");
    let audit = site.fixture.path(".slipway/local/audit.jsonl");
    fs::write(&audit, fs::read_to_string(&audit).unwrap().replacen("undone", "finished", 1)).unwrap();
    site.fixture.run(&["status", "--timeline"]).fails(13, &["audit.jsonl:4", "record 4 was changed"]);
}

#[test]
fn webhooks_are_told_how_it_ended_and_never_stand_in_the_way() {
    let site = Site::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/S3CRET", listener.local_addr().unwrap());
    let (sender, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut bytes = [0; 4096];
            let mut text = String::new();
            while !text.ends_with('}') {
                let length = stream.read(&mut bytes).unwrap();
                text.push_str(&String::from_utf8_lossy(&bytes[..length]));
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            sender.send(text).unwrap();
        }
    });
    site.fixture.write("hook", &url);
    site.environment("notify: [{ url: { from_file: ../../hook } }, { url: { from_env: NOT_SET_ANYWHERE }, form: slack }]\n");
    let run = site.deploy();
    assert!(run.code == 0 && run.stderr.contains("webhook 2 of `notify` was not told"), "{}", run.stderr);
    assert!(!run.stderr.contains("S3CRET"), "{}", run.stderr);
    let body = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(body.contains(r#""outcome":"deployed""#) && body.contains(r#""changed":["web"]"#), "{body}");
    assert!(body.contains("audit_head"), "{body}");
    site.version("sick", "500 Internal Server Error");
    assert_eq!(site.deploy().code, 20);
    let body = told.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(body.contains(r#""is_success":false"#) && body.contains("healthy answers in a row"), "{body}");
}

#[test]
fn what_is_no_deployment_of_ours_is_left_alone() {
    let site = Site::new();
    let foreign = site.fixture.path("foreign");
    for name in ["journal.jsonl", "edge/file", "slots/a/file", "data/a/file"] {
        site.fixture.write(&format!("foreign/{name}"), "mine");
    }
    let commands: [&[&str]; 5] =
        [&["status"], &["logs"], &["rollback"], &["rollback", "--repair"], &["down", "--delete-data"]];
    for command in commands {
        site.fixture.run(command).fails(3, &["no deployment here", ".slipway/local"]);
        site.fixture.run(&[command, &["--state", "foreign"]].concat()).fails(3, &["no deployment here"]);
    }
    for name in ["..", "../foreign", "A", "-e"] {
        let run = site.fixture.run(&["down", "--", name]);
        run.fails(3, &["an environment's name is made of"]);
    }
    assert!(!site.fixture.path(".slipway").exists(), "looking makes nothing");
    site.fixture.run(&["deploy", "--state", "foreign"]).fails(3, &["holds other things"]);
    for name in ["journal.jsonl", "edge/file", "slots/a/file", "data/a/file"] {
        assert_eq!(fs::read_to_string(foreign.join(name)).unwrap(), "mine");
    }
    assert_eq!(fs::read_dir(foreign).unwrap().count(), 4);
}

#[test]
fn a_damaged_journal_stops_the_deployment_and_not_the_service() {
    let site = Site::new();
    site.deployed();
    let journal = site.fixture.path(".slipway/local/journal.jsonl");
    let text = fs::read_to_string(&journal).unwrap();
    let line = text.lines().next().unwrap();
    fs::write(&journal, text.replacen(line, &line.replacen("begin", "bogin", 1), 1)).unwrap();
    site.version("2", "200 OK");
    site.deploy().fails(21, &["journal.jsonl:1", "`cargo xtask deploy local --repair`"]);
    site.fixture.run(&["rollback"]).fails(21, &["journal.jsonl:1", "`cargo xtask deploy local --repair`"]);
    site.serves("1");
    let status = site.fixture.run(&["status"]).stdout;
    assert!(status.contains("damaged") && status.contains("`cargo xtask deploy local --repair`"), "{status}");
    let run = site.fixture.run(&["deploy", "--repair"]);
    assert_eq!(run.code, 0, "{}", run.stderr);
    site.serves("2");
    fs::write(&journal, "damaged\n").unwrap();
    site.fixture.run(&["rollback", "--repair"]).fails(3, &["no earlier deployment is known"]);
    site.serves("2");
    fs::write(&journal, "damaged\n").unwrap();
    let down = site.fixture.run(&["down"]);
    assert!(down.code == 0 && down.stdout.contains("stopped the edge"), "{}{}", down.stdout, down.stderr);
    assert_eq!(site.get("/"), None);
}

#[test]
fn a_damaged_layout_is_packed_again_and_nothing_of_it_is_deployed() {
    let site = Site::new();
    site.deployed();
    site.version("2", "200 OK");
    let report = site.fixture.json(&["build"]);
    let layer = report["services"][0]["layers"].as_array().unwrap().last().unwrap();
    let blob = site
        .fixture
        .path("target/slipway/images/blobs/sha256")
        .join(layer["digest"].as_str().unwrap().trim_start_matches("sha256:"));
    let mut bytes = fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    fs::write(&blob, bytes).unwrap();
    site.serves("1");
    let run = site.deploy();
    assert!(run.code == 0 && run.stderr.contains("packed web"), "{}", run.stderr);
    site.serves("2");
}

/// How much the proof does: deployments, and requests while they run.
struct Proof {
    deployments: usize,
    rate_per_second: u32,
    requests: u64,
}

/// SLIPWAY_PROOF=long for the figures of the documentation; the short one takes half a minute. An engine takes longer for a deployment
/// than starting processes does, and the load must outlast all of them.
fn proof(platform: &str) -> Proof {
    let is_long = std::env::var("SLIPWAY_PROOF").is_ok_and(|proof| proof == "long");
    match (platform, is_long) {
        ("docker", true) => Proof { deployments: 20, rate_per_second: 400, requests: 120_000 },
        ("docker", false) => Proof { deployments: 3, rate_per_second: 200, requests: 10_000 },
        (_, true) => Proof { deployments: 20, rate_per_second: 1_000, requests: 120_000 },
        (_, false) => Proof { deployments: 5, rate_per_second: 500, requests: 12_000 },
    }
}

#[test]
fn deployments_under_load_lose_no_request() {
    prove(&Site::new());
}

#[test]
fn deployments_to_docker_under_load_lose_no_request() {
    let Some(site) = Site::docker() else { return };
    prove(&site);
    let status = site.fixture.json(&["status", &site.name]);
    let web = status["services"]["web"].as_array().unwrap();
    let container =
        web.iter().find(|slot| slot["role"] == "active").unwrap()["processes"][0]["container"].as_str();
    assert!(container.is_some_and(|name| name.starts_with(&format!("{}-web-", site.name))), "{web:?}");
    let timeline = site.fixture.run(&["status", &site.name, "--timeline"]);
    assert!(timeline.code == 0 && timeline.stdout.contains("deployed"), "{}", timeline.stdout);
}

fn prove(site: &Site) {
    site.deployed();
    let proof = proof(site.platform);
    let profiles = vec![
        Profile::get("new connections", ConnectionUse::New, ["/"]).share(3),
        Profile::get("keep-alive", ConnectionUse::KeepAlive, ["/"]).share(3),
        Profile::get("naive keep-alive", ConnectionUse::KeepAliveNaive, ["/"]).share(3),
        Profile::post("ledger", ConnectionUse::KeepAliveNaive, "/ledger/{id}", "{id}").share(3),
        Profile::get("slow", ConnectionUse::KeepAlive, ["/slow"]).share(1),
    ];
    let plan = Plan {
        rate_per_second: proof.rate_per_second,
        max_requests: proof.requests,
        max_duration: Duration::from_secs(600),
        served_by_header: Some("x-release".to_owned()),
        ..Plan::new(site.listen, profiles)
    };
    let (report, deployments) = std::thread::scope(|scope| {
        let generator = scope.spawn(|| load::run(&plan).unwrap());
        let mut deployments = 0;
        // On a busy machine the load may end first; a deployment after that proves nothing.
        while deployments < proof.deployments && !generator.is_finished() {
            site.version(&(deployments + 2).to_string(), "200 OK");
            site.deployed();
            deployments += usize::from(!generator.is_finished());
        }
        (generator.join().unwrap(), deployments)
    });
    assert!(deployments >= proof.deployments.min(2), "the load ended after {deployments} deployments");
    eprintln!("{}", serde_json::to_string_pretty(&serde_json::json!({
        "deployments": deployments, "sent": report.sent, "ok": report.ok, "lost": report.lost, "skipped": report.skipped,
        "acknowledged": report.acknowledged.len(), "served_by": report.served_by.len(), "profiles": report.profiles,
    })).unwrap());
    assert_eq!(report.lost, 0, "{:#?}", report.losses);
    assert_eq!(report.skipped, 0);
    assert_eq!(report.sent, proof.requests);
    assert!(report.served_by.len() > deployments, "{:?}", report.served_by);
    let verdict = report.check_ledger(site.ledger());
    assert!(verdict.is_clean(), "{verdict:?}");
}
