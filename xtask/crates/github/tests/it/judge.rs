//! Every kind of request in front of a judge: Prism compares it, and the answer, with GitHub's published OpenAPI description, and
//! passes on what agrees. Needs node and the packages of `ci/judges/github`; says `skipped` without them, unless
//! SLIPWAY_TEST_REQUIRE names `prism`, as it does in CI.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::fake::Fake;
use crate::server::{Got, Server};
use crate::support::{COMMIT, TOKEN, deployment_finish, deployment_start, request, run, run_with};

/// The judge, with the fake behind it.
struct Judge {
    url: String,
    upstream: Server,
    prism: Child,
}

impl Drop for Judge {
    fn drop(&mut self) {
        // It may have ended by itself; then there is nothing to end.
        let _ = self.prism.kill();
        let _ = self.prism.wait();
    }
}

fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../ci/judges/github/node_modules")
}

impl Judge {
    /// `None` where the packages are not installed.
    fn start() -> Option<Judge> {
        let prism = packages().join("@stoplight/prism-cli/dist/index.js");
        let description = packages().join("@octokit/openapi/generated/api.github.com.json");
        let is_there = prism.is_file() && description.is_file();
        let required = std::env::var("SLIPWAY_TEST_REQUIRE")
            .is_ok_and(|list| list.split(',').any(|name| name == "prism"));
        assert!(is_there || !required, "prism is required: npm ci --ignore-scripts in ci/judges/github");
        if !is_there {
            eprintln!("skipped: prism is not installed (npm ci --ignore-scripts in ci/judges/github)");
            return None;
        }
        let mut document: Value = serde_json::from_slice(&fs::read(&description).unwrap()).unwrap();
        allow_media_types(&mut document);
        let description = Path::new(env!("CARGO_TARGET_TMPDIR")).join("api.github.com.json");
        fs::write(&description, document.to_string()).unwrap();
        // A port that was free a moment ago may be somebody else's when prism asks for it.
        let judge = (0..5).find_map(|_| Judge::try_start(&prism, &description, &document));
        Some(judge.expect("prism started on none of five ports; see prism.log"))
    }

    /// Starts prism on a free port; `None` where it ended instead of listening.
    fn try_start(prism: &Path, description: &Path, document: &Value) -> Option<Judge> {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let url = format!("http://127.0.0.1:{port}");
        let fake = Arc::new(Fake::new(document["components"]["examples"].clone(), &url));
        let upstream = Server::start(move |got, _| fake.answer(got));
        let log_path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("prism.log");
        let log = fs::File::create(&log_path).unwrap();
        let prism = Command::new("node")
            .arg(prism)
            .args(["proxy", "--errors", "--host", "127.0.0.1", "--port", &port.to_string()])
            .arg(description)
            .arg(&upstream.url)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut judge = Judge { url, upstream, prism };
        let deadline = Instant::now() + Duration::from_secs(90);
        // That somebody answers at the port says nothing: it must be prism that says so.
        while !fs::read_to_string(&log_path).unwrap_or_default().contains("Prism is listening") {
            if judge.prism.try_wait().unwrap().is_some() {
                return None;
            }
            assert!(Instant::now() < deadline, "prism did not start; see {}", log_path.display());
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(judge)
    }

    fn run(&self, action: Value) -> crate::support::Run {
        run(&request(&self.url, action))
    }

    /// Asserts how an action ends the first time and again.
    #[track_caller]
    fn settles(&self, action: &Value, first: &str) {
        assert_eq!(self.run(action.clone()).outcome(), first, "{action}");
        assert_eq!(self.run(action.clone()).outcome(), "unchanged", "{action}");
    }

    fn writes(&self) -> Vec<Got> {
        self.upstream.got().into_iter().filter(|got| got.method != "GET").collect()
    }
}

/// The description names `application/octet-stream` for uploads and nothing else, while its text asks for the file's own media
/// type; and JSON for an asset, while its text says that the bytes come where they are asked for. These are the two places where
/// the judge is told otherwise than by the description.
fn allow_media_types(document: &mut Value) {
    let upload = &mut document["paths"]["/repos/{owner}/{repo}/releases/{release_id}/assets"]["post"];
    for media_type in ["application/json", "application/vnd.cyclonedx+json"] {
        upload["requestBody"]["content"][media_type] = json!({ "schema": {} });
    }
    let asset = &mut document["paths"]["/repos/{owner}/{repo}/releases/assets/{asset_id}"]["get"];
    asset["responses"]["200"]["content"]["application/octet-stream"] = json!({ "schema": {} });
}

#[test]
fn github_would_accept_every_request() {
    let Some(judge) = Judge::start() else { return };
    let folder = tempfile::tempdir().unwrap();
    refuses_what_github_would(&judge);
    deployments(&judge);
    check_runs(&judge, folder.path());
    comments(&judge, folder.path());
    releases(&judge, folder.path());
    downloads(&judge, folder.path());
    write_log(&judge);
}

/// A judge that lets everything through would be none.
fn refuses_what_github_would(judge: &Judge) {
    let before = judge.upstream.got().len();
    let status = |method: &str, path: &str, body: &str| {
        let host = judge.url.strip_prefix("http://").unwrap();
        let mut stream = TcpStream::connect(host).unwrap();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\nconnection: close\r\n"
        );
        write!(stream, "{head}content-length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.split(' ').nth(1).unwrap().to_owned()
    };
    let deployments = "/repos/octocat/example/deployments";
    assert_eq!(status("POST", deployments, "{\"ref\":1}"), "422");
    assert_eq!(status("POST", &format!("{deployments}/1/statuses"), "{\"state\":\"done\"}"), "422");
    assert_eq!(status("POST", "/repos/octocat/example/deploymentz", "{}"), "404");
    assert_eq!(judge.upstream.got().len(), before, "the judge let a wrong request through");
}

fn deployments(judge: &Judge) {
    judge.settles(&deployment_start(), "created");
    judge.settles(&deployment_finish("success"), "updated");
    judge.settles(&deployment_finish("inactive"), "updated");
    let mut other = deployment_finish("failure");
    other["deployment-finish"]["key"] = json!("run-2");
    judge.run(other).fails("refused", &["no deployment", "run-2"]);
    let statuses: Vec<_> = judge.writes().iter().map(|got| got.json()["state"].clone()).collect();
    assert_eq!(statuses, [Value::Null, json!("in_progress"), json!("success"), json!("inactive")]);
}

fn check_runs(judge: &Judge, folder: &Path) {
    let before = judge.writes().len();
    let annotations: Vec<_> = (1..=120)
        .map(|line| json!({ "path": "src/lib.rs", "line": line, "level": "warning", "title": "t", "message": format!("m {line}") }))
        .collect();
    let file = folder.join("annotations.json");
    let document = json!({ "schema": "slipway.annotations/1", "annotations": annotations });
    fs::write(&file, document.to_string()).unwrap();
    let check = |fail_on: &str, files: Value| {
        json!({ "check": { "name": "scan", "commit": COMMIT, "files": files, "summary": null, "fail_on": fail_on,
            "details_url": "https://ci.example.org/1" } })
    };
    judge.settles(&check("warning", json!([file])), "created");
    judge.settles(&check("failure", json!([])), "created");
    let sent: Vec<_> = judge.writes()[before..]
        .iter()
        .map(|got| {
            let body = got.json();
            (
                body["output"]["annotations"].as_array().unwrap().len(),
                body["conclusion"].as_str().map(str::to_owned),
            )
        })
        .collect();
    let failed = Some("failure".to_owned());
    assert_eq!(sent, [(50, None), (50, None), (20, failed), (0, Some("success".to_owned()))]);
}

fn comments(judge: &Judge, folder: &Path) {
    let write = |name: &str, document: Value| {
        let path = folder.join(name);
        fs::write(&path, document.to_string()).unwrap();
        path
    };
    let build = |size: u64| json!({ "schema": "slipway.build/1", "services": [{ "name": "api", "image": size.to_string(), "size": size }] });
    let sbom =
        |name: &str| json!({ "bomFormat": "CycloneDX", "components": [{ "name": name, "version": "1" }] });
    let comment = |size: u64| {
        let compared = |base: PathBuf, head: PathBuf| json!({ "base": base, "head": head });
        json!({ "comment": { "pull": 4, "name": "report", "title": "Report", "body": null,
            "builds": compared(write("b0.json", build(100)), write("b1.json", build(size))),
            "sboms": compared(write("s0.json", sbom("a")), write("s1.json", sbom("@octocat <b>"))),
            "scans": { "base": null, "head": null } } })
    };
    judge.settles(&comment(200), "created");
    judge.settles(&comment(300), "updated");
    let last = judge.writes().pop().unwrap();
    let text = last.json()["body"].as_str().unwrap().to_owned();
    assert_eq!(last.line(), "PATCH /repos/octocat/example/issues/comments/1130");
    assert!(text.contains("| `api` | 300 B | – | +200 B (+200.0 %) |"), "{text}");
    assert!(text.contains("`@octocat <b>`"), "{text}");
    // The octocat's own token: the comment of the app is not the octocat's, and neither is the one that only looks like it.
    let mut dry = request(&judge.url, comment(300));
    dry["dry_run"] = json!(true);
    let planned = run_with(&dry, &[("GH_TOKEN", "ghp_AnotherTokenOfAUser")]);
    assert_eq!((planned.outcome(), planned.done()["observed"].as_bool()), ("updated", Some(true)));
}

fn releases(judge: &Judge, folder: &Path) {
    let before = judge.writes().len();
    let file = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        path
    };
    let notes = file("notes.md", "First release.\n");
    let release = |sbom: &str, replace: bool| {
        let assets = [file("api.cdx.json", sbom), file("release.json", "{}")];
        json!({ "release": { "tag": "v1.0.0", "commit": COMMIT, "title": null, "notes": notes, "assets": assets,
            "draft": false, "prerelease": false, "replace": replace } })
    };
    judge.settles(&release("{\"a\":1}", false), "created");
    judge.run(release("{\"a\":2}", false)).fails("refused", &["api.cdx.json", "--replace"]);
    judge.settles(&release("{\"a\":2}", true), "updated");
    let lines: Vec<_> = judge.writes()[before..].iter().map(Got::line).collect();
    let releases = "/repos/octocat/example/releases";
    assert_eq!(
        lines,
        [
            format!("POST {releases}"),
            format!("POST {releases}/61/assets?name=api.cdx.json"),
            format!("POST {releases}/61/assets?name=release.json"),
            format!("PATCH {releases}/61"),
            format!("DELETE {releases}/assets/81"),
            format!("POST {releases}/61/assets?name=api.cdx.json"),
        ]
    );
}

fn downloads(judge: &Judge, folder: &Path) {
    let into = folder.join("made/release");
    let action = |tag: &str| json!({ "release-download": { "tag": tag, "into": into } });
    judge.settles(&action("v1.0.0"), "fetched");
    let read = |name: &str| fs::read_to_string(into.join(name)).unwrap();
    assert_eq!((read("api.cdx.json").as_str(), read("release.json").as_str()), ("{\"a\":2}", "{}"));
    judge.run(action("v2.0.0/x")).fails("not-found", &["find the published release `v2.0.0/x`"]);
}

/// Keeps the requests that the judge let through, and prints how many of each kind there were.
fn write_log(judge: &Judge) {
    let got = judge.upstream.got();
    let shown: Vec<_> = got
        .iter()
        .map(|got| json!({ "method": got.method, "target": got.target, "body": String::from_utf8_lossy(&got.body) }))
        .collect();
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("github-requests.json");
    let text = serde_json::to_string_pretty(&shown).unwrap();
    assert!(!text.contains(TOKEN));
    fs::write(&path, text).unwrap();
    let mut counts = BTreeMap::<String, u32>::new();
    for got in &got {
        let path: Vec<_> = got
            .path()
            .split('/')
            .map(|part| {
                if part.len() > 1 && part.bytes().all(|b| b.is_ascii_hexdigit() && !b.is_ascii_alphabetic())
                    || part == COMMIT
                {
                    "{}"
                } else {
                    part
                }
            })
            .collect();
        *counts.entry(format!("{} {}", got.method, path.join("/"))).or_default() += 1;
    }
    println!("{} requests accepted, kept in {}", got.len(), path.display());
    for (line, count) in counts {
        println!("{count:4} {line}");
    }
}
