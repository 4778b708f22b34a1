//! The inference service on real sockets.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use inference::{Config, Pool, app};
use runtime::config::{Source, read, variables};
use runtime::{Health, Shutdown, server};
use serde_json::{Value, json};
use testkit::{Service, get, post};

const BINARY: &str = env!("CARGO_BIN_EXE_inference");

fn lens_map(side: usize) -> Value {
    let geometry = lensing::LensGeometry::new(&lensing::Cosmology::default(), 0.5, 1.5);
    let lens = lensing::EllipticalNfw::new(lensing::Nfw::new(2e12, 200.0, &geometry), 0.2, 0.5);
    let map = lensing::convergence_map(&lens, &lensing::Grid { side, half_width: 500.0 });
    let rows: Vec<_> = map.rows().map(<[f64]>::to_vec).collect();
    json!({ "convergence_map": rows, "half_width_kpc": 500, "z_lens": 0.5, "z_source": 1.5 })
}

#[test]
fn a_map_is_answered_with_the_lens_that_made_it() {
    let service = Service::start(BINARY, &[("LENS_RELEASE", "r1")]);
    let answer = post(service.address, "/v1/predict", &lens_map(32));
    assert_eq!((answer.status, answer.header("x-release")), (200, Some("r1")), "{answer:?}");
    let found = answer.json();
    let close = |name: &str, expected: f64| {
        let value = found["parameters"][name].as_f64().unwrap();
        assert!((value / expected - 1.0).abs() < 1e-6, "{name}: {value} instead of {expected}");
    };
    close("mass", 2e12);
    close("log10_mass", 2e12_f64.log10());
    close("scale_radius", 200.0);
    close("ellipticity", 0.2);
    close("position_angle", 0.5_f64.to_degrees());
    assert_eq!(found["engine"], "nfw-least-squares");
    assert!(found["consistency_residual"].as_f64().unwrap() < 1e-9);
    assert_eq!(get(service.address, "/v1/models").json()["models"][0]["name"], "nfw-least-squares");
    assert_eq!(get(service.address, "/health/ready").status, 200);
}

#[test]
fn a_map_that_is_no_map_is_refused_with_its_place() {
    let service = Service::start(BINARY, &[]);
    let check = |body: &Value, pointer: &str| {
        let answer = post(service.address, "/v1/predict", body);
        assert_eq!(answer.status, 422, "{answer:?}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"));
        assert_eq!(answer.json()["errors"][0]["pointer"], pointer, "{answer:?}");
    };
    let mut wild = lens_map(16);
    wild["convergence_map"][2][3] = json!(101);
    check(&wild, "/convergence_map/2/3");
    let mut more = lens_map(16);
    more["mc_samples"] = json!(3);
    check(&more, "/mc_samples");
    check(&json!({ "convergence_map": [[1]], "z_lens": 0.5, "z_source": 1.5 }), "/convergence_map");
}

async fn serve(pool: Pool) -> (SocketAddr, Shutdown) {
    let config = read(&Source::default(), Config::read).unwrap();
    let shutdown = Shutdown::default();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let app = app(&config.common, pool, Health::new("r", shutdown.clone()));
    let (http, stop) = (config.common.http, shutdown.clone());
    tokio::spawn(async move { server::serve(listener, app, &http, stop).await });
    (address, shutdown)
}

#[tokio::test]
async fn without_a_free_place_the_client_is_told_to_come_back() {
    let (address, _shutdown) = serve(Pool::new(0, Duration::from_millis(20))).await;
    let answer = tokio::task::spawn_blocking(move || post(address, "/v1/predict", &lens_map(16)));
    let answer = answer.await.unwrap();
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")));
    assert_eq!(answer.json()["type"], "/problems/engine-unavailable");
}

#[test]
fn service_yaml_declares_every_variable() {
    testkit::check_service_yaml(Path::new(env!("CARGO_MANIFEST_DIR")), &variables(Config::read));
}
