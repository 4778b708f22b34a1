//! TLS from files and HTTP/2, with openssl, curl, and a client of hyper's as judges.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edge::client::{Client, Error};
use edge::control::Refusal;
use edge::{CertificateFiles, Listener, Protocol};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::net::TcpStream;

use crate::service::{Ledger, Service};
use crate::support::{Edge, PATIENCE, eventually, options};

/// Whether the judges are there; where CI names them, they must be.
fn can_judge() -> bool {
    ["openssl", "curl"].into_iter().all(|program| {
        let works =
            Command::new(program).arg(if program == "curl" { "--version" } else { "version" }).output();
        let works = works.is_ok_and(|output| output.status.success());
        let required = std::env::var("SLIPWAY_TEST_REQUIRE").unwrap_or_default();
        assert!(works || !required.split(',').any(|name| name == program), "{program} is required");
        if !works {
            eprintln!("skipped: {program} does not work on this machine");
        }
        works
    })
}

/// A new certificate for `names` with its key, as `<file>.pem` and `<file>.key`.
fn certify(folder: &Path, file: &str, names: &str) -> CertificateFiles {
    let files = CertificateFiles {
        cert: folder.join(format!("{file}.pem")),
        key: folder.join(format!("{file}.key")),
    };
    let output = Command::new("openssl")
        .args(
            "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj /CN=test"
                .split(' '),
        )
        .args([
            "-addext",
            "basicConstraints=critical,CA:FALSE",
            "-addext",
            &format!("subjectAltName={names}"),
        ])
        .arg("-keyout")
        .arg(&files.key)
        .arg("-out")
        .arg(&files.cert)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    files
}

/// An edge that speaks TLS, with a service behind it.
struct Site {
    edge: Edge,
    _service: Service,
    certificates: tempfile::TempDir,
    files: Vec<CertificateFiles>,
}

impl Site {
    fn start(change: impl FnOnce(&mut edge::Options)) -> Site {
        let certificates = tempfile::tempdir().unwrap();
        let files = vec![
            certify(certificates.path(), "a", "DNS:a.test,DNS:www.a.test"),
            certify(certificates.path(), "b", "DNS:*.b.test"),
        ];
        let edge = Edge::start_with(|options| {
            options.listen[0].protocol = Protocol::Https;
            options.certificates = files.clone();
            change(options);
        });
        let service = Service::start("blue");
        edge.route_to("blue", &[service.address]);
        Site { edge, _service: service, certificates, files }
    }

    /// What curl says when it trusts one certificate only.
    fn curl(&self, trusted: &CertificateFiles, host: &str, more: &[&str]) -> Output {
        let port = self.edge.address.port();
        Command::new("curl")
            .args(["--silent", "--show-error", "--max-time", "20", "--cacert"])
            .arg(&trusted.cert)
            .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
            .args(more)
            .arg(format!("https://{host}:{port}/request"))
            .output()
            .unwrap()
    }

    fn get(&self, trusted: &CertificateFiles, host: &str, more: &[&str]) -> String {
        let output = self.curl(trusted, host, more);
        let (said, failed) =
            (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{host} {more:?}: {failed}");
        said
    }
}

#[test]
fn clients_choose_version_and_protocol() {
    if !can_judge() {
        return;
    }
    let site = Site::start(|_| {});
    for (more, protocol) in [
        (vec!["--tlsv1.3"], "2"),
        (vec!["--tls-max", "1.2"], "2"),
        (vec!["--http1.1"], "1.1"),
        (vec!["--no-alpn"], "1.1"),
        (vec!["--tls-max", "1.2", "--http1.1"], "1.1"),
    ] {
        let shown = [&more[..], &["--write-out", "\nprotocol %{http_version}"]].concat();
        let said = site.get(&site.files[0], "a.test", &shown);
        assert!(said.contains(&format!("protocol {protocol}")), "{more:?}: {said}");
        assert!(said.contains("x-forwarded-proto: https"), "{said}");
        assert!(said.contains(&format!("host: a.test:{}", site.edge.address.port())), "{said}");
    }
    let refused =
        site.curl(&site.files[0], "a.test", &["--tls-max", "1.1", "--ciphers", "DEFAULT@SECLEVEL=0"]);
    assert!(!refused.status.success(), "TLS 1.1 is not spoken");
    let plain = std::net::TcpStream::connect(site.edge.address).unwrap();
    use std::io::{Read, Write};
    (&plain).write_all(b"GET / HTTP/1.1\r\nHost: a.test\r\n\r\n").unwrap();
    let mut said = Vec::new();
    let _ = (&plain).read_to_end(&mut said);
    assert!(!String::from_utf8_lossy(&said).contains("HTTP/"), "nothing without encryption");
}

#[test]
fn each_host_has_its_certificate_and_strangers_get_the_first() {
    if !can_judge() {
        return;
    }
    let site = Site::start(|_| {});
    let [a, b] = &site.files[..] else { unreachable!() };
    site.get(a, "a.test", &[]);
    site.get(a, "WWW.A.test", &[]);
    site.get(b, "any.b.test", &[]);
    assert!(!site.curl(a, "any.b.test", &[]).status.success());
    let stranger = site.curl(a, "other.test", &[]);
    let said = String::from_utf8_lossy(&stranger.stderr);
    assert!(!stranger.status.success() && said.contains("no alternative certificate subject name"), "{said}");
}

#[test]
fn certificates_are_read_again_and_bad_ones_change_nothing() {
    if !can_judge() {
        return;
    }
    use std::os::unix::fs::PermissionsExt;
    let site = Site::start(|_| {});
    let folder = site.certificates.path();
    let [a, b] = &site.files[..] else { unreachable!() };
    let first = CertificateFiles { cert: folder.join("first.pem"), key: a.key.clone() };
    std::fs::copy(&a.cert, &first.cert).unwrap();
    let refused = |why: &str| {
        let error = site.edge.client.reload().unwrap_err();
        let Error::Refused { reason: Refusal::BadCertificate, message } = &error else { panic!("{error}") };
        assert!(message.contains(why) && message.contains("in force stay"), "{message}");
        site.get(&first, "a.test", &[]);
        site.get(b, "x.b.test", &[]);
    };
    let (cert, key) = (std::fs::read(&a.cert).unwrap(), std::fs::read(&a.key).unwrap());
    std::fs::write(&a.cert, &cert[..cert.len() / 2]).unwrap();
    refused("a.pem");
    std::fs::remove_file(&a.cert).unwrap();
    refused("a.pem");
    std::fs::write(&a.cert, &cert).unwrap();
    std::fs::write(&a.key, std::fs::read(&b.key).unwrap()).unwrap();
    refused("not the key of the certificate");
    std::fs::write(&a.key, b"-----BEGIN PRIVATE KEY-----\nc2VjcmV0\n-----END PRIVATE KEY-----\n").unwrap();
    refused("a.key");
    std::fs::write(&a.key, &key).unwrap();
    std::fs::set_permissions(&a.key, std::fs::Permissions::from_mode(0o640)).unwrap();
    refused("can be read by others");
    std::fs::set_permissions(&a.key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(site.edge.client.reload().unwrap(), 2);
    site.get(&first, "a.test", &[]);
    // Nobody tells it.
    certify(folder, "a", "DNS:a.test");
    eventually("the new certificate is shown", || site.curl(a, "a.test", &[]).status.success().then_some(()));
    assert!(!site.curl(&first, "a.test", &[]).status.success());
}

#[test]
fn an_edge_with_a_bad_certificate_does_not_start_and_one_without_tls_has_none() {
    let folder = tempfile::tempdir().unwrap();
    let mut bad = options(folder.path());
    bad.listen[0].protocol = Protocol::Https;
    let error = format!("{:#}", edge::serve(bad.clone()).unwrap_err());
    assert!(error.contains("TLS needs a certificate"), "{error}");
    let missing = folder.path().join("missing");
    bad.certificates = vec![CertificateFiles { cert: missing.clone(), key: missing }];
    let error = format!("{:#}", edge::serve(bad).unwrap_err());
    assert!(error.contains("missing"), "{error}");
    let plain = Edge::start();
    assert!(plain.client.reload().unwrap_err().to_string().contains("no certificates"));
}

#[test]
fn an_address_without_encryption_leads_to_the_one_with_it() {
    if !can_judge() {
        return;
    }
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let site = Site::start(|options| {
        options.listen.push(Listener { address: port, protocol: Protocol::RedirectToHttps });
    });
    let mut connection = crate::support::Raw::connect(port);
    connection.send("POST /x?y=1 HTTP/1.1\r\nHost: a.test:80\r\nContent-Length: 0\r\n\r\n");
    let answer = connection.answer();
    let location = format!("https://a.test:{}/x?y=1", site.edge.address.port());
    assert_eq!((answer.status, answer.header("location")), (308, Some(location.as_str())));
    connection.send("GET / HTTP/1.1\r\nHost:\r\n\r\n");
    assert_eq!(connection.answer().status, 400);
}

/// Runs a client in a runtime of its own, without which services and edges are started and stopped.
fn on<T>(client: impl Future<Output = T>) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(2).enable_all().build().unwrap().block_on(client)
}

/// A client of HTTP/2 that trusts one certificate.
async fn connect(site: &Site) -> SendRequest<Full<Bytes>> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(&site.files[0].cert).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(site.edge.address).await.unwrap();
    let name = ServerName::try_from("a.test").unwrap();
    let stream = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(method: &str, path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    Request::builder()
        .method(method)
        .uri(format!("https://a.test{path}"))
        .body(Full::new(body.into()))
        .unwrap()
}

async fn body(answer: Response<hyper::body::Incoming>) -> Bytes {
    answer.into_body().collect().await.unwrap().to_bytes()
}

#[test]
fn http_2_carries_bodies_trailers_and_cookies() {
    if !can_judge() {
        return;
    }
    let site = Site::start(|_| {});
    on(async {
        let mut client = connect(&site).await;
        let mut cookies = request("GET", "/request", "");
        for part in ["a=1", "b=2"] {
            cookies.headers_mut().append("cookie", part.parse().unwrap());
        }
        cookies.headers_mut().append("te", "trailers".parse().unwrap());
        let said =
            String::from_utf8(body(client.send_request(cookies).await.unwrap()).await.to_vec()).unwrap();
        assert!(said.contains("cookie: a=1; b=2") && said.contains("host: a.test"), "{said}");
        assert!(said.contains("te: trailers") && said.contains("x-forwarded-proto: https"), "{said}");
        let mut asked = request("GET", "/trailers", "");
        asked.headers_mut().insert("te", "trailers".parse().unwrap());
        let answer = client.send_request(asked).await.unwrap();
        let collected = answer.into_body().collect().await.unwrap();
        assert!(collected.trailers().is_some_and(|trailers| !trailers.is_empty()), "{collected:?}");
        let big = Bytes::from(vec![7; 5_000_000]);
        let answer = client.send_request(request("POST", "/echo", big.clone())).await.unwrap();
        assert_eq!(body(answer).await, big);
        // Many at once on one connection.
        let many = (0..100).map(|_| tokio::spawn(client.send_request(request("GET", "/slow?100", ""))));
        for answer in many.collect::<Vec<_>>() {
            assert_eq!(body(answer.await.unwrap().unwrap()).await, "blue");
        }
        let refused = client.send_request(request("CONNECT", "/", "")).await;
        assert!(refused.is_err() || refused.unwrap().status() == StatusCode::NOT_IMPLEMENTED);
        let mut huge = request("GET", "/", "");
        huge.headers_mut().insert("x-huge", "x".repeat(80_000).parse().unwrap());
        let refused = client.send_request(huge).await;
        assert!(refused.is_err() || refused.unwrap().status().is_client_error(), "a head has a limit");
        assert_eq!(
            body(connect(&site).await.send_request(request("GET", "/", "")).await.unwrap()).await,
            "blue"
        );
    });
}

/// CVE-2023-44487: requests that are begun and given up again and again.
#[test]
fn a_client_that_gives_up_streams_without_end_is_let_go() {
    if !can_judge() {
        return;
    }
    let site = Site::start(|_| {});
    on(async {
        let mut well = connect(&site).await;
        let mut attacker = connect(&site).await;
        let mut begun = 0;
        let ended = tokio::time::timeout(PATIENCE, async {
            while attacker.ready().await.is_ok() && begun < 20_000 {
                begun += 1;
                let asking = attacker.send_request(request("GET", "/hang", ""));
                // Sent, and given up before there is an answer.
                let _ = tokio::time::timeout(Duration::from_micros(200), asking).await;
            }
        });
        ended.await.unwrap();
        assert!(begun < 5_000, "{begun} streams were begun");
        assert_eq!(body(well.send_request(request("GET", "/", "")).await.unwrap()).await, "blue");
    });
    eventually("what it began is over", || {
        let counters = site.edge.client.observe().unwrap().slots["blue"];
        (counters.in_flight == 0).then_some(())
    });
}

#[test]
fn a_client_that_does_not_take_its_answer_or_says_nothing_is_let_go() {
    if !can_judge() {
        return;
    }
    let site = Site::start(|options| {
        options.stall_timeout = Duration::from_millis(400);
        options.idle_timeout = Duration::from_millis(800);
        options.head_timeout = Duration::from_millis(400);
    });
    on(async {
        let (mut client, mut silent) = (connect(&site).await, connect(&site).await);
        let answer = client.send_request(request("GET", "/download?50000000", "")).await.unwrap();
        assert_eq!(answer.status(), 200);
        let in_flight = || site.edge.client.observe().unwrap().slots["blue"].in_flight;
        let connections = || site.edge.client.observe().unwrap().connections;
        tokio::task::block_in_place(|| {
            eventually("the transfer is given up", || (in_flight() == 0).then_some(()));
            eventually("both connections are closed", || (connections() == 0).then_some(()));
        });
        drop(answer);
        assert!(silent.ready().await.is_err());
        // One that works and then is idle is asked to leave.
        let mut client = connect(&site).await;
        assert_eq!(body(client.send_request(request("GET", "/slow?600", "")).await.unwrap()).await, "blue");
        let since = Instant::now();
        tokio::task::block_in_place(|| eventually("it is closed", || (connections() == 0).then_some(())));
        assert!(since.elapsed() > Duration::from_millis(300), "{:?}", since.elapsed());
    });
}

/// Streams that were begun end, and those that come after are told so before anything of them is done.
#[test]
fn upgrades_lose_no_stream_of_http_2() {
    if !can_judge() {
        return;
    }
    let ledger = Ledger::default();
    let site = Site::start(|options| options.instance = 1);
    let recorded = Service::start_on("127.0.0.1:0".parse().unwrap(), "blue", &ledger);
    site.edge.route_to("green", &[recorded.address]);
    let site = Arc::new(site);
    let (acknowledged, answered, edges) = on(async {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let (site, stop, answered) = (Arc::clone(&site), Arc::clone(&stop), Arc::clone(&answered));
                tokio::spawn(async move {
                    let mut client = connect(&site).await;
                    let (mut acknowledged, mut count) = (Vec::new(), 0);
                    while !stop.load(Ordering::Relaxed) {
                        if client.is_closed() || client.ready().await.is_err() {
                            client = connect(&site).await;
                        }
                        count += 1;
                        let id = format!("{number}-{count}");
                        let mut asked = match number % 2 {
                            0 => request("POST", "/ledger", id.clone()),
                            _ => request("GET", "/slow?50", ""),
                        };
                        let answer = loop {
                            match client.try_send_request(asked).await {
                                Ok(answer) => break answer,
                                Err(mut error) => match error.take_message() {
                                    // Nothing was sent.
                                    Some(message) => {
                                        asked = message;
                                        client = connect(&site).await;
                                    }
                                    // The edge said that it did not look at it (RFC 9113, section 8.7).
                                    None if is_refused(error.error()) => {
                                        asked = match number % 2 {
                                            0 => request("POST", "/ledger", id.clone()),
                                            _ => request("GET", "/slow?50", ""),
                                        };
                                        client = connect(&site).await;
                                    }
                                    None => panic!("lost: {:?}", error.into_error()),
                                },
                            }
                        };
                        assert_eq!(answer.status(), 200);
                        body(answer).await;
                        answered.fetch_add(1, Ordering::Relaxed);
                        if number % 2 == 0 {
                            acknowledged.push(id);
                        }
                    }
                    acknowledged
                })
            })
            .collect();
        let address = site.edge.address;
        let mut edges = Vec::new();
        for instance in 2..=6 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let mut next = options(site.edge.folder.path());
            next.listen = vec![Listener { address, protocol: Protocol::Https }];
            next.certificates = site.files.clone();
            next.instance = instance;
            edges.push(std::thread::spawn(move || edge::serve(next)));
            let client: Client = site.edge.client.clone();
            tokio::task::block_in_place(|| {
                eventually("the next edge serves", || {
                    client.observe().is_ok_and(|observed| observed.instance == instance).then_some(())
                });
            });
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.store(true, Ordering::Relaxed);
        let mut acknowledged = Vec::new();
        for client in clients {
            acknowledged.extend(client.await.unwrap());
        }
        (acknowledged, answered, edges)
    });
    let mut acknowledged: Vec<String> = acknowledged;
    println!("5 upgrades, {} requests over HTTP/2, 0 lost", answered.load(Ordering::Relaxed));
    let mut recorded = ledger.lock().unwrap().clone();
    recorded.sort();
    acknowledged.sort();
    assert!(acknowledged.len() > 50, "{}", acknowledged.len());
    assert_eq!(recorded, acknowledged, "each once");
    site.edge.client.stop(PATIENCE).unwrap();
    edges.into_iter().for_each(|edge| edge.join().unwrap().unwrap());
}

fn is_refused(error: &hyper::Error) -> bool {
    format!("{error:?}").contains("REFUSED_STREAM") || format!("{error:?}").contains("GoAway")
}
