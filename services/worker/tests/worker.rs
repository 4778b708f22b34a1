//! The worker as real processes on a real store, and against a real inference service.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::thread;

use engine::job::{FIT, SYNTHETIC};
use runtime::Shutdown;
use runtime::config::{Source, read, variables};
use serde_json::{Value, json};
use store::{BatchId, ClaimRequest, Job, JobId, JobResult, JobState, NewJob, Recorded, Store, Timestamp};
use tempfile::TempDir;
use testkit::{Service, eventually, get};
use tokio::runtime::Runtime;
use worker::Config;

const BINARY: &str = env!("CARGO_BIN_EXE_worker");
const MASS: f64 = 3e12;

/// A store with its own runtime, so that tests read as steps.
struct Bench {
    runtime: Runtime,
    store: Store,
    folder: TempDir,
}

impl Bench {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = runtime.block_on(Store::open(folder.path())).unwrap();
        Self { runtime, store, folder }
    }

    fn start(&self, environment: &[(&str, &str)]) -> Service {
        let own = [
            ("LENS_DATA__DIR", self.folder.path().to_str().unwrap()),
            ("LENS_WORKER__POLL_MS", "20"),
            ("LENS_WORKER__LEASE_MS", "1500"),
            ("LENS_WORKER__RETRY_BASE_MS", "1"),
            ("LENS_WORKER__RETRY_CAP_MS", "5"),
        ];
        Service::start(BINARY, &[&own, environment].concat())
    }

    /// Starts a worker whose inference service takes requests and never answers.
    fn start_stuck(&self, environment: &[(&str, &str)]) -> Service {
        let url = format!("http://{}", start_silent_server());
        let remote = [("LENS_INFERENCE__MODE", "remote"), ("LENS_INFERENCE__URL", url.as_str())];
        self.start(&[&remote, environment].concat())
    }

    /// Keeps the map of a lens as the interface does.
    fn add_map(&self) -> JobId {
        let geometry = lensing::LensGeometry::new(&lensing::Cosmology::default(), 0.5, 1.5);
        let lens = lensing::EllipticalNfw::new(lensing::Nfw::new(MASS, 180.0, &geometry), 0.25, 1.0);
        let map = lensing::convergence_map(&lens, &lensing::Grid { side: 32, half_width: 500.0 });
        let metadata = json!({ "grid_size": 32, "half_width_kpc": 500.0, "z_lens": 0.5, "z_source": 1.5 });
        let document = json!({ "metadata": metadata });
        self.record(&JobResult { document, data: Some(map.values().to_vec()) })
    }

    fn record(&self, result: &JobResult) -> JobId {
        let job = NewJob { kind: SYNTHETIC, params: json!({}), max_attempts: 1 };
        let recorded = self.runtime.block_on(self.store.record(&job, result, None, Timestamp::now()));
        let Recorded::New(id) = recorded.unwrap() else { panic!("not new") };
        id
    }

    fn submit(&self, source: JobId, count: usize, max_attempts: u32) -> BatchId {
        let params = json!({ "source_job_id": source.to_string() });
        let jobs = vec![NewJob { kind: FIT, params, max_attempts }; count];
        let submitted = self.runtime.block_on(self.store.submit(&jobs, None, Timestamp::now()));
        let Recorded::New(batch) = submitted.unwrap() else { panic!("not new") };
        batch
    }

    /// The inference service, in this process.
    fn serve_inference(&self, listener: TcpListener) -> Shutdown {
        let config = read(&Source::default(), inference::Config::read).unwrap();
        let shutdown = Shutdown::default();
        let stop = shutdown.clone();
        let pool = inference::Pool::new(2, config.wait);
        let app = inference::app(&config.common, pool, runtime::Health::new("r", shutdown.clone()));
        listener.set_nonblocking(true).unwrap();
        self.runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            runtime::server::serve(listener, app, &config.common.http, shutdown).await
        });
        stop
    }

    fn jobs(&self, batch: BatchId) -> Vec<(Job, Option<Value>)> {
        self.runtime.block_on(self.store.batch(batch)).unwrap().unwrap().jobs
    }

    fn wait_for(&self, batch: BatchId, state: JobState) -> Vec<(Job, Option<Value>)> {
        eventually(&format!("all jobs are {}", state.as_str()), || {
            let jobs = self.jobs(batch);
            jobs.iter().all(|(job, _)| job.state == state).then_some(jobs)
        })
    }
}

fn assert_recovers_mass(document: Option<&Value>) {
    let mass = document.unwrap()["parameters"]["mass"].as_f64().unwrap();
    assert!((mass / MASS - 1.0).abs() < 1e-6, "{mass}");
}

/// An inference service that takes requests and never answers.
fn start_silent_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut held: Vec<TcpStream> = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            held.push(stream);
        }
    });
    address
}

/// An inference service that reads requests and has one answer to all of them.
fn start_refusing_server(status: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            read_request(&mut stream);
            let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    address
}

fn read_request(stream: &mut TcpStream) {
    let mut reader = BufReader::new(stream);
    let mut length = 0;
    loop {
        let mut line = String::new();
        let Ok(1..) = reader.read_line(&mut line) else { return };
        let line = line.trim_end().to_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().unwrap();
        }
        if line.is_empty() {
            let _ = reader.read_exact(&mut vec![0; length]);
            return;
        }
    }
}

#[test]
fn a_worker_fits_what_is_queued() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 20, 1);
    let worker = bench.start(&[]);
    for (job, document) in bench.wait_for(batch, JobState::Succeeded) {
        assert_eq!(job.attempt, 1);
        assert_recovers_mass(document.as_ref());
    }
    let health = get(worker.address, "/health/ready");
    assert_eq!((health.status, health.json()["checks"]["queue"].as_str()), (200, Some("ok")));
    assert_eq!(get(worker.address, "/").status, 404);
}

#[test]
fn a_job_of_a_killed_worker_is_finished_by_another() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 1, 3);
    let mut first = bench.start_stuck(&[]);
    bench.wait_for(batch, JobState::Running);
    first.signal("KILL");
    first.wait();
    assert_eq!(bench.jobs(batch)[0].0.state, JobState::Running);

    let _second = bench.start(&[]);
    let (job, document) = bench.wait_for(batch, JobState::Succeeded).remove(0);
    assert_eq!(job.attempt, 2);
    assert!(job.last_error.unwrap().contains("lease expired"));
    assert_recovers_mass(document.as_ref());
}

#[test]
fn heartbeats_keep_a_job_that_takes_longer_than_its_lease() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 1, 3);
    let _slow = bench.start_stuck(&[("LENS_INFERENCE__TIMEOUT_MS", "60000")]);
    bench.wait_for(batch, JobState::Running);
    let _other = bench.start(&[]);
    // More than two leases.
    thread::sleep(std::time::Duration::from_millis(3500));
    let job = &bench.jobs(batch)[0].0;
    assert_eq!((job.state, job.attempt), (JobState::Running, 1));
}

#[test]
fn sigterm_returns_an_unfinished_job_within_the_grace_period() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 1, 1);
    let mut first =
        bench.start_stuck(&[("LENS_WORKER__SHUTDOWN_GRACE_MS", "200"), ("LENS_WORKER__LEASE_MS", "600000")]);
    bench.wait_for(batch, JobState::Running);
    first.signal("TERM");
    assert!(first.wait().success(), "{:?}", first.logs());
    assert_eq!(bench.jobs(batch)[0].0.state, JobState::Queued);

    let mut second = bench.start(&[]);
    let (job, document) = bench.wait_for(batch, JobState::Succeeded).remove(0);
    assert_eq!((job.attempt, job.last_error), (2, None));
    assert_recovers_mass(document.as_ref());
    second.signal("TERM");
    assert!(second.wait().success());
}

#[test]
fn a_running_job_that_is_called_off_ends_at_the_next_heartbeat() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 1, 3);
    let _worker = bench.start_stuck(&[("LENS_INFERENCE__TIMEOUT_MS", "60000")]);
    let job = bench.wait_for(batch, JobState::Running).remove(0).0;
    assert!(bench.runtime.block_on(bench.store.cancel(job.id, Timestamp::now())).unwrap());
    bench.wait_for(batch, JobState::Cancelled);
}

#[test]
fn the_inference_service_can_do_the_computing() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 5, 1);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let stop = bench.serve_inference(listener);
    let _worker = bench.start(&[("LENS_INFERENCE__MODE", "remote"), ("LENS_INFERENCE__URL", &url)]);
    for (_, document) in bench.wait_for(batch, JobState::Succeeded) {
        assert_recovers_mass(document.as_ref());
    }
    stop.trigger();
}

#[test]
fn a_service_that_stays_away_costs_no_attempt_and_the_job_succeeds_when_it_is_back() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 1, 2);
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("http://{address}");
    let _worker = bench.start(&[("LENS_INFERENCE__MODE", "remote"), ("LENS_INFERENCE__URL", &url)]);
    // More tries than there are attempts.
    let job = eventually("the job is tried a third time", || {
        let job = bench.jobs(batch).remove(0).0;
        assert!(!job.state.is_final(), "{job:?}");
        (job.attempt > 2 && job.state == JobState::Queued).then_some(job)
    });
    assert!(job.last_error.unwrap().contains("inference service at 127.0.0.1"));
    assert_eq!(job.error_history, json!([]));
    assert_eq!(job.max_attempts - job.attempt, 2);

    let stop = bench.serve_inference(TcpListener::bind(address).unwrap());
    let (_, document) = bench.wait_for(batch, JobState::Succeeded).remove(0);
    assert_recovers_mass(document.as_ref());
    stop.trigger();
}

#[test]
fn what_a_proxy_answers_for_a_service_that_is_away_costs_no_attempt() {
    for status in ["502 Bad Gateway", "503 Service Unavailable", "504 Gateway Timeout"] {
        let bench = Bench::new();
        let batch = bench.submit(bench.add_map(), 1, 1);
        let url = format!("http://{}", start_refusing_server(status));
        let _worker = bench.start(&[("LENS_INFERENCE__MODE", "remote"), ("LENS_INFERENCE__URL", &url)]);
        let job = eventually("the job is postponed", || {
            let job = bench.jobs(batch).remove(0).0;
            (job.attempt > 1 || job.last_error.is_some()).then_some(job)
        });
        assert!(!job.state.is_final(), "{job:?}");
        assert!(job.last_error.unwrap().contains(&status[..3]));
    }
}

#[test]
fn a_service_that_fails_makes_jobs_dead_after_all_attempts() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 1, 2);
    let url = format!("http://{}", start_refusing_server("500 Internal Server Error"));
    let _worker = bench.start(&[("LENS_INFERENCE__MODE", "remote"), ("LENS_INFERENCE__URL", &url)]);
    let (job, _) = bench.wait_for(batch, JobState::Dead).remove(0);
    assert_eq!((job.attempt, job.error_history.as_array().unwrap().len()), (2, 2));
    assert!(job.last_error.unwrap().contains("500"));
}

#[test]
fn a_map_without_a_lens_is_dead_at_the_first_attempt() {
    let bench = Bench::new();
    let metadata = json!({ "grid_size": 16, "half_width_kpc": 500.0, "z_lens": 0.5, "z_source": 1.5 });
    let document = json!({ "metadata": metadata });
    let empty = bench.record(&JobResult { document, data: Some(vec![0.0; 256]) });
    let batch = bench.submit(empty, 1, 5);
    let _worker = bench.start(&[]);
    let (job, _) = bench.wait_for(batch, JobState::Dead).remove(0);
    assert_eq!(job.attempt, 1);
    assert!(job.last_error.unwrap().contains("no convergence"));
}

#[test]
fn a_worker_that_lost_its_lease_discards_its_result() {
    let bench = Bench::new();
    let batch = bench.submit(bench.add_map(), 1, 3);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let worker = bench.start(&[("LENS_INFERENCE__MODE", "remote"), ("LENS_INFERENCE__URL", &url)]);
    let (mut stream, _) = listener.accept().unwrap();
    worker.signal("STOP");
    // Frozen, its lease expires; another worker claims and completes the job.
    let claim = eventually("the lease expires", || {
        let lease = std::time::Duration::from_secs(60);
        let request = ClaimRequest { worker: "other", kinds: &[FIT], count: 1, lease };
        bench.runtime.block_on(bench.store.claim(&request, Timestamp::now())).unwrap().pop()
    });
    assert_eq!(claim.lease.attempt, 2);
    let result = JobResult { document: json!({ "by": "other" }), data: None };
    let done = bench.runtime.block_on(bench.store.complete(claim.lease, &result, Timestamp::now()));
    assert_eq!(done.unwrap(), Ok(()));
    worker.signal("CONT");
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").unwrap();
    eventually("the worker notices", || {
        worker.logs().iter().find(|line| line.contains("lease was lost")).cloned()
    });
    let (job, document) = bench.jobs(batch).remove(0);
    assert_eq!((job.state, document), (JobState::Succeeded, Some(json!({ "by": "other" }))));
    let _ = stream.read(&mut [0; 16]);
}

#[test]
fn settings_that_contradict_are_refused_together() {
    let environment = [
        ("LENS_INFERENCE__MODE", "remote"),
        ("LENS_WORKER__RETRY_BASE_MS", "1000"),
        ("LENS_WORKER__RETRY_CAP_MS", "10"),
    ];
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let problems = read(&Source { file: None, environment }, Config::read).unwrap_err().to_string();
    assert!(problems.contains("retry_cap_ms must not be below"), "{problems}");
    assert!(problems.contains("inference.url is needed"), "{problems}");
}

#[test]
fn service_yaml_declares_every_variable() {
    testkit::check_service_yaml(Path::new(env!("CARGO_MANIFEST_DIR")), &variables(Config::read));
}
