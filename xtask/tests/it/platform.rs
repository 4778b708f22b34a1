//! The services of this repository, from source to serving: a copy of the tree is built and deployed, used, edited and deployed
//! again under load. The copy stands in for a fresh clone; its build output is kept between runs.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use load::{ConnectionUse, Plan, Profile};
use serde_json::{Value, json};

use crate::support::{Fixture, wait_for};

const SKIPPED: [&str; 4] = ["target", ".git", ".slipway", "node_modules"];

/// Makes `to` hold what `from` holds; files that are the same already keep their times, so that Cargo keeps its objects.
fn mirror(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    let names = |folder: &Path| {
        fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    let wanted: Vec<_> =
        names(from).into_iter().filter(|name| !SKIPPED.iter().any(|skipped| name == *skipped)).collect();
    for name in names(to)
        .into_iter()
        .filter(|name| !wanted.contains(name) && !SKIPPED.iter().any(|skipped| name == *skipped))
    {
        let path = to.join(name);
        if path.is_dir() { fs::remove_dir_all(path).unwrap() } else { fs::remove_file(path).unwrap() }
    }
    for name in wanted {
        let (source, target) = (from.join(&name), to.join(&name));
        if source.is_dir() {
            mirror(&source, &target);
        } else if fs::read(&target).ok() != fs::read(&source).ok() {
            fs::copy(&source, &target).unwrap();
        }
    }
}

struct Platform {
    fixture: Fixture,
    state: tempfile::TempDir,
    listen: SocketAddr,
}

impl Platform {
    fn new() -> Platform {
        let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("platform");
        mirror(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."), &root);
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let platform = Platform { fixture: Fixture::at(root), state: tempfile::tempdir().unwrap(), listen };
        let environment = platform.fixture.path("deploy/environments/local.yaml");
        let text = fs::read_to_string(&environment).unwrap();
        let changed = text.replace("127.0.0.1:8080", &listen.to_string());
        assert_ne!(changed, text);
        fs::write(environment, changed).unwrap();
        platform
    }

    fn run(&self, command: &str) -> Value {
        self.fixture.json(&[command, "--state", self.state.path().to_str().unwrap()])
    }

    /// Sends one request; gives the head and the body of the answer, which must be a success.
    fn exchange(&self, request: &str, headers: &str, body: &str) -> (String, Value) {
        let mut stream = TcpStream::connect(self.listen).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let headers = format!("host: localhost\r\ncontent-type: application/json\r\n{headers}");
        let length = body.len();
        write!(stream, "{request} HTTP/1.0\r\n{headers}content-length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        assert!(head.split(' ').nth(1).unwrap().starts_with('2'), "{head}\n{body}");
        (head.to_lowercase(), serde_json::from_str(body).unwrap())
    }

    fn request(&self, request: &str, body: &str) -> Value {
        self.exchange(request, "", body).1
    }
}

impl Drop for Platform {
    fn drop(&mut self) {
        self.fixture.run(&["down", "--state", self.state.path().to_str().unwrap()]);
    }
}

#[test]
fn the_platform_serves_recovers_masses_and_is_replaced_under_load() {
    let platform = Platform::new();
    assert_eq!(platform.run("deploy")["outcome"], "deployed");
    assert_eq!(platform.request("GET /", "")["message"], "gravitational lens analysis");
    a_fit_recovers_the_mass(&platform);
    an_edited_service_is_replaced_without_a_lost_request(&platform);
    assert_eq!(platform.run("deploy")["outcome"], "nothing_to_do");
}

/// The api makes a map, the worker takes it from the queue, the inference service fits it, and the mass comes back.
fn a_fit_recovers_the_mass(platform: &Platform) {
    let mass = 8e12;
    let lens = json!({ "profile_type": "Elliptical NFW", "mass": mass, "scale_radius": 180, "ellipticity": 0.3, "grid_size": 64 });
    let made = platform.request("POST /api/v1/synthetic", &lens.to_string());
    let batch = platform.request("POST /api/v1/batch", &json!({ "job_ids": [made["job_id"]] }).to_string());
    let url = batch["status_url"].as_str().unwrap();
    let result = wait_for("the fit", || {
        let status = platform.request(&format!("GET {url}"), "");
        (status["status"] == "completed").then(|| status["results"][0]["result"].clone())
    });
    let found = result["parameters"]["mass"].as_f64().unwrap();
    assert!((found / mass - 1.0).abs() < 1e-6, "{result}");
}

fn an_edited_service_is_replaced_without_a_lost_request(platform: &Platform) {
    let source: PathBuf = platform.fixture.path("services/api/src/lib.rs");
    let text = fs::read_to_string(&source).unwrap();
    let lens = r#"{"profile_type":"NFW","mass":2e12,"scale_radius":200,"ellipticity":0,"grid_size":32}"#;
    let profiles = vec![
        Profile::get("new connections", ConnectionUse::New, ["/", "/api/v1/models"]),
        Profile::get("naive keep-alive", ConnectionUse::KeepAliveNaive, ["/", "/inference/v1/models"]),
        Profile::post("synthetic", ConnectionUse::KeepAliveNaive, "/api/v1/synthetic", lens)
            .header("content-type", "application/json")
            .header("idempotency-key", "{id}"),
    ];
    let plan = Plan {
        rate_per_second: 60,
        max_requests: 20_000,
        max_duration: Duration::from_secs(300),
        request_timeout: Duration::from_secs(30),
        ..Plan::new(platform.listen, profiles)
    };
    let (report, outcome) = std::thread::scope(|scope| {
        let generator = scope.spawn(|| load::run(&plan).unwrap());
        fs::write(
            &source,
            text.replace("gravitational lens analysis", "gravitational lens analysis, edited"),
        )
        .unwrap();
        let outcome = platform.run("deploy");
        plan.stop.stop();
        (generator.join().unwrap(), outcome)
    });
    assert_eq!(outcome["plan"]["services"]["worker"]["action"]["action"], "keep");
    assert_eq!(platform.request("GET /", "")["message"], "gravitational lens analysis, edited");
    assert_eq!((report.lost, report.skipped), (0, 0), "{:#?}", report.losses);
    assert!(report.sent > 100 && !report.acknowledged.is_empty(), "{} requests", report.sent);
    // What was acknowledged was kept: the same key again is answered from the store.
    for key in report.acknowledged.iter().rev().step_by(report.acknowledged.len() / 50 + 1) {
        let (head, _) =
            platform.exchange("POST /api/v1/synthetic", &format!("idempotency-key: {key}\r\n"), lens);
        assert!(head.contains("idempotency-replayed: true"), "{key} is not in the store: {head}");
    }
}
