//! Servers that mean harm, or are broken: each gives a clear error, within bounded time and memory.

use std::io::Write;
use std::time::{Duration, Instant};

use registry::{Options, Registry};
use stdx::Digest;

use crate::rig::{Manner, Reply, Server, options};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

fn impatient() -> Options {
    let short = Duration::from_millis(300);
    Options { answer_timeout: short, stall_timeout: short, body_grace: short, attempts: 2, ..options() }
}

/// What reading a manifest and a blob of three bytes from such a server ends with.
#[track_caller]
fn check(answer: impl Fn() -> Reply + Send + Sync + 'static, manifest: &str, blob: &str) {
    let server = Server::start(move |_| answer());
    let registry = Registry::connect_with(&server.host, impatient()).unwrap();
    let repository = registry.repository("a");
    let started = Instant::now();
    let error = format!("{:#}", repository.manifest("v1").unwrap_err());
    assert!(error.contains(manifest), "{error}");
    let mut out = Vec::new();
    let error = format!("{:#}", repository.read_blob(&Digest::of("abc"), 3, &mut out).unwrap_err());
    assert!(error.contains(blob), "{error}");
    assert!(out.len() <= 3, "{} bytes were taken", out.len());
    assert!(started.elapsed() < Duration::from_secs(20), "{:?}", started.elapsed());
}

fn manifest() -> String {
    let config = serde_json::json!({ "mediaType": "x", "digest": Digest::of("c"), "size": 1 });
    serde_json::json!({ "schemaVersion": 2, "config": config, "layers": [] }).to_string()
}

#[test]
fn another_content_than_promised() {
    let typed = |body: String| Reply::new(200, body).with("content-type", MANIFEST);
    check(
        move || typed(manifest()).with("docker-content-digest", Digest::of("x").to_string()),
        "and sends a manifest with the digest",
        "is longer than the 3 bytes",
    );
    check(move || typed("abd".into()), "not a manifest", "the registry's copy is damaged");
    check(|| Reply::new(200, manifest()).with("content-type", "text/html"), "calls it `text/html`", "longer");
    check(|| Reply::new(200, "<html>login</html>"), "not a manifest", "longer");
    check(|| Reply::new(200, r#"{"schemaVersion":1,"fsLayers":[]}"#), "schema 1", "longer");
    let server = Server::start(move |_| typed(manifest()));
    let wanted = Digest::of("another").to_string();
    let error = server.connect().repository("a").manifest(&wanted).unwrap_err();
    assert!(format!("{error:#}").contains("sends a manifest with the digest"), "{error:#}");
}

#[test]
fn bodies_without_an_end_and_without_a_pace() {
    check(|| Reply::new(200, "").in_manner(Manner::Endless), "more than 4194304 bytes", "longer");
    check(|| Reply::new(200, "ab".repeat(200)).in_manner(Manner::Drip), "too slowly", "longer");
    check(|| Reply::new(200, "").in_manner(Manner::Silent), "timeout", "timeout");
    check(|| Reply::new(200, "ab").in_manner(Manner::CutAfter(1)), "broke off", "broke off");
    check(|| Reply::new(200, "ab").with("content-length", "2"), "not a manifest", "broke off");
}

#[test]
fn ways_that_lead_nowhere() {
    check(|| Reply::new(302, "").with("location", "/v2/a/again"), "more than 5 times", "more than 5 times");
    check(
        || Reply::new(302, "").with("location", "file:///etc/passwd"),
        "not protected by TLS",
        "not protected",
    );
    check(
        || Reply::new(302, "").with("location", "http://[::"),
        "address that is none",
        "address that is none",
    );
    check(|| Reply::new(302, ""), "302", "302");
    check(|| Reply::new(500, "\u{1b}[31m".repeat(10_000)), "answered 500", "answered 500");
    check(|| Reply::new(200, "").with("x", "y".repeat(200_000)), "did not succeed", "did not succeed");
    check(|| Reply::new(401, "").with("www-authenticate", "Negotiate"), "docker login", "docker login");
    check(
        || Reply::new(401, "").with("www-authenticate", "Bearer realm=\"nonsense\""),
        "not sent to nonsense",
        "not sent",
    );
}

#[test]
fn lists_that_are_none() {
    let digest = Digest::of("subject");
    for body in ["", "{", "[]", r#"{"tags":{}}"#, r#"{"manifests":[{}]}"#, r#"{"manifests":1}"#] {
        let server = Server::start(move |_| Reply::new(200, body));
        let repository = server.connect().repository("a");
        assert!(repository.referrers(&digest).is_err(), "{body}");
        assert!(repository.tags().is_err() || body.contains("manifests"), "{body}");
    }
}

#[test]
fn a_registry_that_claims_what_it_has_not() {
    // A session at an address of another scheme, and one that is further than the blob is long.
    for (location, range, said) in [
        ("ftp://127.0.0.1/x", "0-0", "not protected by TLS"),
        ("/v2/a/blobs/uploads/1", "0-999", "more of the blob than there is"),
        ("/v2/a/blobs/uploads/1", "x", "not a range"),
    ] {
        let server = Server::start(move |asked| match asked.method.as_str() {
            "HEAD" => Reply::new(404, ""),
            _ => Reply::new(202, "").with("location", location).with("range", range),
        });
        let options = Options { single_request_limit: 0, ..impatient() };
        let registry = Registry::connect_with(&server.host, options).unwrap();
        let push =
            registry.repository("a").push_blob(&Digest::of("abc"), 3, &|| Ok(Box::new(&b"abc"[..])), None);
        let error = format!("{:#}", push.unwrap_err());
        assert!(error.contains(said), "{error}");
    }
}

#[test]
fn something_that_speaks_no_http() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let _ = stream.write_all(b"SSH-2.0-none\r\n");
        }
    });
    let registry = Registry::connect_with(&host, impatient()).unwrap();
    let error = format!("{:#}", registry.repository("a").tags().unwrap_err());
    assert!(error.contains("does not speak TLS") || error.contains("did not succeed"), "{error}");
    let closed = Registry::connect_with("127.0.0.1:1", impatient()).unwrap();
    let error = format!("{:#}", closed.repository("a").tags().unwrap_err());
    assert!(error.contains("no registry listens on 127.0.0.1:1"), "{error}");
}
