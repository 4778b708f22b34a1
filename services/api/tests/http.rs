//! The public interface on real sockets and a real store.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::path::Path;
use std::time::{Duration, Instant};

use api::Config;
use runtime::config::variables;
use serde_json::{Value, json};
use tempfile::TempDir;
use testkit::{Answer, Service, get, post, post_with, send};

const BINARY: &str = env!("CARGO_BIN_EXE_api");

struct Api {
    service: Service,
    folder: TempDir,
}

fn start() -> Api {
    let folder = tempfile::tempdir().unwrap();
    let service = start_in(folder.path(), "r1");
    Api { service, folder }
}

fn start_in(folder: &Path, release: &str) -> Service {
    Service::start(BINARY, &[("LENS_DATA__DIR", folder.to_str().unwrap()), ("LENS_RELEASE", release)])
}

fn lens() -> Value {
    json!({ "profile_type": "Elliptical NFW", "mass": 2e12, "scale_radius": 200, "ellipticity": 0.3,
            "position_angle": 30, "grid_size": 32 })
}

impl Api {
    fn synthetic(&self, body: &Value) -> Answer {
        post(self.service.address, "/api/v1/synthetic", body)
    }

    fn check_problem(&self, answer: &Answer, status: u16, slug: &str) {
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.header("x-release"), Some("r1"));
        let problem = answer.json();
        assert_eq!(problem["type"], format!("/problems/{slug}"));
        assert_eq!(problem["status"], status);
        assert_eq!(problem["request_id"].as_str(), answer.header("x-request-id"));
        assert!(problem["timestamp"].is_string() && problem["instance"].is_string());
    }

    fn check_refused(&self, change: &Value, pointer: &str, code: &str) {
        let mut body = lens();
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        let answer = self.synthetic(&body);
        self.check_problem(&answer, 422, "validation-error");
        let error = &answer.json()["errors"][0];
        assert_eq!(
            (error["pointer"].as_str(), error["code"].as_str()),
            (Some(pointer), Some(code)),
            "{change}"
        );
    }
}

#[test]
fn a_synthetic_lens_has_its_map_and_what_was_derived() {
    let api = start();
    let answer = api.synthetic(&lens());
    assert_eq!(answer.status, 200, "{answer:?}");
    let lens = answer.json();
    let map = lens["convergence_map"].as_array().unwrap();
    assert_eq!((map.len(), map[0].as_array().unwrap().len()), (32, 32));
    let metadata = &lens["metadata"];
    let close = |value: &Value, expected: f64| {
        assert!((value.as_f64().unwrap() / expected - 1.0).abs() < 1e-9, "{value} instead of {expected}");
    };
    close(&metadata["kappa_s"], 6.821_390_263_025e-3);
    close(&metadata["concentration"], 1.230_295_279_652);
    close(&metadata["virial_radius_kpc"], 246.059_055_930_4);
    close(&metadata["axis_ratio"], 0.7);
    close(&lens["coordinates"]["X"][0], -484.375);
    close(&lens["coordinates"]["Y"][31], 484.375);
    assert_eq!((&lens["coordinates_unit"], &lens["warnings"]), (&json!("kpc"), &json!([])));
    assert!(lens["pixel_arcsec"].as_f64().unwrap() > 5.0);

    let path = format!("/api/v1/jobs/{}", lens["job_id"].as_str().unwrap());
    let job = get(api.service.address, &path).json();
    assert_eq!((job["status"].as_str(), job["kind"].as_str()), (Some("succeeded"), Some("synthetic")));
    assert_eq!(get(api.service.address, &format!("{path}/result")).body, answer.body);
}

#[test]
fn a_corner_of_the_range_is_accepted_with_a_warning() {
    let api = start();
    let corner = json!({ "profile_type": "NFW", "mass": 1e11, "scale_radius": 500 });
    let answer = api.synthetic(&corner).json();
    assert_eq!(answer["warnings"], json!(["concentration below 1"]));
    assert_eq!(answer["convergence_map"].as_array().unwrap().len(), 64);
}

#[test]
fn values_out_of_bounds_are_refused_at_their_place() {
    let api = start();
    api.check_refused(&json!({"mass": 9e10}), "/mass", "out_of_range");
    api.check_refused(&json!({"mass": "2e12"}), "/mass", "invalid_value");
    api.check_refused(&json!({"scale_radius": 501}), "/scale_radius", "out_of_range");
    api.check_refused(&json!({"ellipticity": 0.51}), "/ellipticity", "out_of_range");
    api.check_refused(&json!({"profile_type": "NFW"}), "/ellipticity", "not_allowed");
    api.check_refused(&json!({"profile_type": "SIS"}), "/profile_type", "invalid_value");
    api.check_refused(&json!({"grid_size": 48}), "/grid_size", "not_allowed");
    api.check_refused(&json!({"grid_size": 64.0}), "/grid_size", "invalid_value");
    api.check_refused(&json!({"position_angle": 181}), "/position_angle", "out_of_range");
    api.check_refused(&json!({"half_width_kpc": 2001}), "/half_width_kpc", "out_of_range");
    api.check_refused(&json!({"z_lens": 0.5, "z_source": 0.505}), "/z_source", "source_not_behind_lens");
    api.check_refused(&json!({"colour": "red"}), "/colour", "unknown_field");
    let answer =
        api.synthetic(&json!({ "profile_type": "NFW", "mass": 0, "scale_radius": 0, "grid_size": 1 }));
    assert_eq!(answer.json()["errors"].as_array().unwrap().len(), 3);
}

#[test]
fn every_error_is_a_problem_document() {
    let api = start();
    let address = api.service.address;
    let raw = |method: &str, path: &str, kind: &str, body: &str| {
        send(address, method, path, &[("content-type", kind)], body).unwrap()
    };
    let (json_type, path) = ("application/json", "/api/v1/synthetic");
    api.check_problem(&get(address, "/no/such"), 404, "not-found");
    api.check_problem(&get(address, "/api/v1/jobs/not-an-id"), 404, "not-found");
    api.check_problem(&get(address, "/api/v1/batch/not-an-id/status"), 404, "not-found");
    let unknown = "/api/v1/jobs/018f0000-0000-7000-8000-000000000000";
    api.check_problem(&get(address, unknown), 404, "not-found");
    api.check_problem(&get(address, "/api/v1/jobs/%ff"), 400, "malformed-request");
    let refused = raw("DELETE", path, json_type, "");
    api.check_problem(&refused, 405, "method-not-allowed");
    assert_eq!(refused.header("allow"), Some("POST"));
    api.check_problem(&raw("POST", path, json_type, "{\"mass\":"), 400, "malformed-json");
    api.check_problem(&raw("POST", path, "text/plain", "{}"), 415, "unsupported-media-type");
    api.check_problem(&raw("POST", path, json_type, &" ".repeat((4 << 20) + 1)), 413, "payload-too-large");
    api.check_problem(&get(address, "/api/v1/jobs?limit=101"), 422, "validation-error");
    api.check_problem(&get(address, "/api/v1/jobs?limit=x"), 422, "validation-error");
    api.check_problem(&get(address, "/api/v1/jobs?page=1"), 422, "validation-error");
    api.check_problem(&get(address, "/api/v1/jobs?cursor=x"), 422, "validation-error");
}

#[test]
fn a_repeated_key_gives_the_first_answer_also_from_the_next_release() {
    let api = start();
    let next = start_in(api.folder.path(), "r2");
    let key = [("idempotency-key", "k-1")];
    let first = post_with(api.service.address, "/api/v1/synthetic", &key, &lens());
    let again = post_with(next.address, "/api/v1/synthetic", &key, &lens());
    assert_eq!((first.status, again.status), (200, 200));
    assert_eq!((first.header("x-release"), again.header("x-release")), (Some("r1"), Some("r2")));
    assert_eq!(
        (first.header("idempotency-replayed"), again.header("idempotency-replayed")),
        (None, Some("true"))
    );
    assert_eq!(first.body, again.body);
    let mut other = lens();
    other["mass"] = json!(3e12);
    let conflict = post_with(api.service.address, "/api/v1/synthetic", &key, &other);
    api.check_problem(&conflict, 409, "conflict");
    let listed = get(next.address, "/api/v1/jobs").json();
    assert_eq!(listed["jobs"].as_array().unwrap().len(), 1);
    let empty = post_with(api.service.address, "/api/v1/synthetic", &[("idempotency-key", "")], &lens());
    api.check_problem(&empty, 400, "malformed-request");
}

#[test]
fn the_list_of_jobs_holds_every_acknowledged_id() {
    let api = start();
    let made: BTreeSet<String> =
        (0..7).map(|_| api.synthetic(&lens()).json()["job_id"].as_str().unwrap().to_owned()).collect();
    let (mut listed, mut cursor) = (BTreeSet::new(), String::new());
    loop {
        let page = get(api.service.address, &format!("/api/v1/jobs?limit=3{cursor}")).json();
        let ids =
            page["jobs"].as_array().unwrap().iter().map(|job| job["job_id"].as_str().unwrap().to_owned());
        listed.extend(ids);
        let Some(next) = page["next"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(listed, made);
}

#[test]
fn a_batch_is_queued_and_reported() {
    let api = start();
    let address = api.service.address;
    let id = api.synthetic(&lens()).json()["job_id"].clone();
    let key = [("idempotency-key", "b-1")];
    let accepted = post_with(address, "/api/v1/batch", &key, &json!({ "job_ids": [id] }));
    assert_eq!(accepted.status, 202, "{accepted:?}");
    let location = accepted.header("location").unwrap().to_owned();
    let again = post_with(address, "/api/v1/batch", &key, &json!({ "job_ids": [id] }));
    assert_eq!((again.status, again.header("location")), (202, Some(location.as_str())));
    let status = get(address, &location).json();
    assert_eq!((&status["status"], &status["total"]), (&json!("queued"), &json!(1)));
    assert_eq!(status["results"][0]["source_job_id"], id);

    let fit = status["results"][0]["job_id"].as_str().unwrap();
    let early = get(address, &format!("/api/v1/jobs/{fit}/result"));
    api.check_problem(&early, 409, "conflict");
    let of_fit = post(address, "/api/v1/batch", &json!({ "job_ids": [fit] }));
    assert_eq!(of_fit.json()["errors"][0]["code"], "not_a_map");
    let unknown = post(address, "/api/v1/batch", &json!({ "job_ids": ["x", id, "y"] }));
    api.check_problem(&unknown, 404, "not-found");
    assert!(unknown.json()["detail"].as_str().unwrap().contains("x, y"));
    let none = post(address, "/api/v1/batch", &json!({ "job_ids": [] }));
    api.check_problem(&none, 422, "validation-error");
    let twice = post(address, "/api/v1/batch", &json!({ "job_ids": [id, id] }));
    assert_eq!(twice.json()["errors"][0]["pointer"], "/job_ids/1");
    let other_spelling = id.as_str().unwrap().to_uppercase();
    let twice = post(address, "/api/v1/batch", &json!({ "job_ids": [id, other_spelling] }));
    assert_eq!(twice.json()["errors"][0]["code"], "duplicate");
}

#[test]
fn unknown_ids_are_named_without_repeating_a_whole_request() {
    let api = start();
    let ids: Vec<_> = (0..100).map(|number| format!("{number}-{}", "ä".repeat(10_000))).collect();
    let answer = post(api.service.address, "/api/v1/batch", &json!({ "job_ids": ids }));
    api.check_problem(&answer, 404, "not-found");
    let detail = answer.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains(" 0-ä") && detail.ends_with("… and 90 more"), "{detail}");
    assert!(answer.body.len() < 2000, "{}", answer.body.len());
}

#[test]
fn a_job_is_called_off_until_it_has_ended() {
    let api = start();
    let address = api.service.address;
    let cancel =
        |id: &Value| post(address, &format!("/api/v1/jobs/{}/cancel", id.as_str().unwrap()), &json!({}));
    let map = api.synthetic(&lens()).json()["job_id"].clone();
    let location = post(address, "/api/v1/batch", &json!({ "job_ids": [map] })).json()["status_url"].clone();
    let location = location.as_str().unwrap();
    let fit = get(address, location).json()["results"][0]["job_id"].clone();
    for _ in 0..2 {
        let answer = cancel(&fit);
        assert_eq!((answer.status, answer.json()["status"].as_str()), (202, Some("cancelled")), "{answer:?}");
    }
    let status = get(address, location).json();
    assert_eq!((&status["status"], &status["cancelled"]), (&json!("completed"), &json!(1)));
    api.check_problem(&cancel(&map), 409, "conflict");
    api.check_problem(&cancel(&json!("not-an-id")), 404, "not-found");
    let read = get(address, &format!("/api/v1/jobs/{}/cancel", fit.as_str().unwrap()));
    api.check_problem(&read, 405, "method-not-allowed");
}

#[test]
fn request_ids_are_echoed_and_the_front_page_names_the_release() {
    let api = start();
    let answer = send(api.service.address, "GET", "/", &[("x-request-id", "abc-1")], "").unwrap();
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("abc-1")));
    assert_eq!(answer.json()["version"], "r1");
    let health = get(api.service.address, "/health").json();
    assert_eq!((&health["status"], &health["checks"]["db"]), (&json!("healthy"), &json!("ok")));
    assert_eq!(health["gpu_available"], false);
    assert_eq!(get(api.service.address, "/api/v1/models").json()["models"][0]["loaded"], true);
    let logged = testkit::eventually("the request is logged", || {
        api.service.logs().into_iter().find(|line| line.contains("abc-1"))
    });
    let logged: Value = serde_json::from_str(&logged).unwrap();
    assert_eq!(
        (&logged["span"]["request_id"], &logged["status"]),
        (&json!("abc-1"), &json!(200)),
        "{logged}"
    );
}

#[test]
fn sigterm_ends_the_process_well_and_at_once_when_idle() {
    let mut api = start();
    let asked = Instant::now();
    api.service.signal("TERM");
    assert!(api.service.wait().success());
    assert!(asked.elapsed() < Duration::from_secs(5));
}

#[test]
fn service_yaml_declares_every_variable() {
    testkit::check_service_yaml(Path::new(env!("CARGO_MANIFEST_DIR")), &variables(Config::read));
}
