//! Each way in which a server or the line to it can fail, and what the program makes of it.

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use crate::server::{Reply, Server};
use crate::support::{TOKEN, deployment_finish, deployment_start, request, run, run_with};

/// A server that has nothing and takes everything.
fn empty(method: &str, path: &str) -> Reply {
    match (method, path) {
        ("GET", path) if path.contains("/deployments") => Reply::json(200, &json!([])),
        ("POST", path) if path.ends_with("/deployments") => Reply::json(201, &json!({ "id": 41 })),
        ("POST", _) => Reply::json(201, &json!({ "id": 42, "state": "in_progress" })),
        _ => Reply::json(404, &json!({ "message": "Not Found" })),
    }
}

/// Runs the deployment against a server that answers the first requests in the given way, and then well.
fn after(first: Vec<fn() -> Reply>) -> (Server, crate::support::Run) {
    let server = Server::start(move |got, before| match first.get(before) {
        Some(reply) => reply(),
        None => empty(&got.method, got.path()),
    });
    let run = run(&request(&server.url, deployment_start()));
    (server, run)
}

fn message(status: u16, text: &str) -> Reply {
    Reply::json(status, &json!({ "message": text, "documentation_url": "https://docs.github.com/rest" }))
}

#[test]
fn a_refused_token_names_its_variable_and_is_not_shown_even_if_the_server_sends_it_back() {
    let (server, run) = after(vec![|| message(401, &format!("Bad credentials: Bearer {TOKEN}"))]);
    run.fails("token", &["GITHUB_TOKEN", "Bad credentials", "***"]);
    assert_eq!(server.got()[0].header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    assert_eq!(server.got().len(), 1);
}

#[test]
fn tokens_that_are_none_are_refused_before_anything_is_sent() {
    let server = Server::start(|_, _| Reply::Cut);
    let request = request(&server.url, deployment_start());
    run_with(&request, &[]).fails("no-token", &["GH_TOKEN or GITHUB_TOKEN"]);
    run_with(&request, &[("GITHUB_TOKEN", " ")]).fails("no-token", &["GH_TOKEN or GITHUB_TOKEN"]);
    run_with(&request, &[("GH_TOKEN", "two\nlines")]).fails("no-token", &["GH_TOKEN"]);
    assert!(server.got().is_empty());
}

#[test]
fn a_token_does_not_travel_in_the_clear() {
    run(&request("http://github.example.org", deployment_start())).fails("input", &["https"]);
}

#[test]
fn a_missing_permission_names_the_one_that_is_needed_and_is_not_asked_again() {
    let (server, run) = after(vec![|| {
        message(403, "Resource not accessible by integration").with("x-ratelimit-remaining", "4999")
    }]);
    run.fails("permission", &["Resource not accessible", "`deployments: write`", "list the deployments"]);
    assert_eq!(server.got().len(), 1);
}

#[test]
fn what_is_not_there_is_told() {
    let (_, run) = after(vec![|| message(404, "Not Found")]);
    run.fails("not-found", &["octocat/example", "token in use cannot see it"]);
}

#[test]
fn an_invalid_request_shows_the_fields() {
    let invalid = || {
        let errors = json!([{ "resource": "Deployment", "field": "ref", "code": "invalid" }, "no such ref"]);
        Reply::json(422, &json!({ "message": "Validation Failed", "errors": errors }))
    };
    let (_, run) = after(vec![|| Reply::json(200, &json!([])), invalid]);
    run.fails("invalid", &["create the deployment", "Deployment.ref: invalid", "no such ref"]);
}

#[test]
fn a_redirect_is_not_followed() {
    let server = Server::start(|_, _| message(301, "Moved").with("location", "http://127.0.0.1:9/elsewhere"));
    run(&request(&server.url, deployment_start()))
        .fails("unexpected", &["redirects are not followed", "renamed"]);
    assert_eq!(server.got().len(), 1);
}

#[test]
fn a_secondary_limit_is_waited_for() {
    let limited = || message(403, "You have exceeded a secondary rate limit").with("retry-after", "1");
    let begin = Instant::now();
    let (server, run) = after(vec![|| Reply::json(200, &json!([])), limited]);
    assert_eq!(run.outcome(), "created");
    assert!(begin.elapsed() >= Duration::from_secs(1));
    let creations = server
        .lines()
        .iter()
        .filter(|line| line.ends_with("POST /repos/octocat/example/deployments"))
        .count();
    assert_eq!(creations, 2, "{:?}", server.lines());
    assert!(run.stderr.contains("secondary rate limit; waiting 1 s"), "{}", run.stderr);
}

#[test]
fn a_primary_limit_is_waited_for_until_it_ends() {
    let limited = || {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        message(429, "API rate limit exceeded")
            .with("x-ratelimit-remaining", "0")
            .with("x-ratelimit-reset", (now + 1).to_string())
    };
    let (_, run) = after(vec![limited]);
    assert_eq!(run.outcome(), "created");
    assert!(run.stderr.contains("primary rate limit; waiting"), "{}", run.stderr);
}

#[test]
fn a_limit_that_is_too_long_is_an_error_at_once() {
    let begin = Instant::now();
    let (server, run) = after(vec![|| message(429, "slow down").with("retry-after", "3600")]);
    run.fails("rate-limited", &["secondary", "3600 s", "--max-wait"]);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(server.got().len(), 1);
}

#[test]
fn errors_of_the_server_are_tried_again() {
    let (server, run) = after(vec![|| message(502, TOKEN), || Reply::Cut, || Reply::Torn]);
    assert_eq!(run.outcome(), "created");
    assert!(run.stderr.contains("502 Bad Gateway: ***; trying again in"), "{}", run.stderr);
    let methods: Vec<_> = server.got().iter().map(|got| got.method.clone()).collect();
    assert_eq!(methods, ["GET", "GET", "GET", "GET", "POST", "POST"]);
}

#[test]
fn a_server_that_stays_away_is_given_up() {
    let server = Server::start(|_, _| message(503, "<html>down\u{1b}[31m</html>"));
    let mut asked = request(&server.url, deployment_start());
    asked["max_wait_ms"] = json!(2_000);
    let run = run(&asked);
    run.fails("unavailable", &["503", "down [31m", "attempts"]);
    assert!(server.got().len() >= 3, "{:?}", server.lines());
    // Nobody listens at port 9 of this machine.
    let mut nobody = request("http://127.0.0.1:9", deployment_start());
    nobody["max_wait_ms"] = json!(300);
    crate::support::run(&nobody).fails("unavailable", &["list the deployments"]);
}

#[test]
fn a_write_whose_answer_was_lost_is_looked_for_and_not_repeated() {
    let made = std::sync::atomic::AtomicBool::new(false);
    let server = Server::start(move |got, _| {
        let path = got.path();
        match got.method.as_str() {
            "POST" if path.ends_with("/deployments") => {
                made.store(true, std::sync::atomic::Ordering::SeqCst);
                Reply::Cut
            }
            "GET" if path.ends_with("/deployments") && made.load(std::sync::atomic::Ordering::SeqCst) => {
                Reply::json(200, &json!([{ "id": 41, "payload": { "slipway": { "key": "run-1" } } }]))
            }
            method => empty(method, path),
        }
    });
    let run = run(&request(&server.url, deployment_start()));
    assert_eq!((run.outcome(), run.done()["id"].as_u64()), ("created", Some(41)), "{}", run.stderr);
    let creations =
        server.got().into_iter().filter(|got| got.method == "POST" && got.path().ends_with("/deployments"));
    assert_eq!(creations.count(), 1, "{:?}", server.lines());
}

#[test]
fn a_silent_server_is_not_waited_for_for_ever() {
    let server = Server::start(|_, _| Reply::Silence(Duration::from_secs(30)));
    let mut request = request(&server.url, deployment_start());
    (request["timeout_ms"], request["max_wait_ms"]) = (json!(300), json!(400));
    let begin = Instant::now();
    run(&request).fails("unavailable", &["no answer within 0.3 s"]);
    assert!(begin.elapsed() < Duration::from_secs(10));
}

#[test]
fn an_answer_without_end_is_cut_off() {
    let (_, run) = after(vec![|| Reply::Flood(64 << 20)]);
    run.fails("unexpected", &["longer than"]);
}

#[test]
fn answers_that_are_not_githubs_are_refused() {
    let html = || Reply::Answer {
        status: 200,
        headers: vec![("content-type".into(), "text/html".into())],
        body: b"<html>".to_vec(),
    };
    after(vec![html]).1.fails("unexpected", &["text/html", "not JSON"]);
    after(vec![|| Reply::json(200, &json!({ "a": 1 }))]).1.fails("unexpected", &["no list"]);
    let broken = || Reply::Answer {
        status: 200,
        headers: vec![("content-type".into(), "application/json".into())],
        body: b"[{".to_vec(),
    };
    after(vec![broken]).1.fails("unexpected", &["damaged"]);
}

#[test]
fn all_pages_are_read_but_not_those_of_another_server() {
    let other = Server::start(|_, _| Reply::json(200, &json!([])));
    let elsewhere = other.url.clone();
    let server = Server::start(move |got, _| {
        let host = got.header("host").unwrap();
        let next = |page: u32| format!("<http://{host}{}?page={page}>; rel=\"next\"", got.path());
        let deployment =
            |id: u32| json!([{ "id": id, "payload": { "slipway": { "key": format!("run-{id}") } } }]);
        match (got.method.as_str(), got.target.contains("page=3"), got.target.contains("page=2")) {
            ("GET", _, _) if got.path().ends_with("/statuses") => Reply::json(200, &json!([])),
            ("GET", true, _) => Reply::json(200, &deployment(1)),
            ("GET", _, true) => Reply::json(200, &deployment(2)).with("link", next(3)),
            ("GET", ..) => Reply::json(200, &deployment(3)).with("link", next(2)),
            (method, ..) => empty(method, got.path()),
        }
    });
    assert_eq!(run(&request(&server.url, deployment_start())).done()["id"], 1);
    let leading_away = Server::start(move |_, _| {
        Reply::json(200, &json!([])).with("link", format!("<{elsewhere}/x?page=2>; rel=\"next\""))
    });
    run(&request(&leading_away.url, deployment_start())).fails("unexpected", &["another server"]);
    assert!(other.got().is_empty());
}

#[test]
fn lists_without_end_are_given_up_and_a_deployment_is_looked_for_among_the_newest() {
    let server = Server::start(|got, before| {
        let host = got.header("host").unwrap();
        Reply::json(200, &json!([])).with("link", format!("<http://{host}/x?page={before}>; rel=\"next\""))
    });
    let release = json!({ "release": { "tag": "v1", "commit": null, "title": null, "notes": null, "assets": [],
        "draft": true, "prerelease": false, "replace": false } });
    run(&request(&server.url, release)).fails("unexpected", &["more than 100 pages"]);
    let before = server.got().len();
    run(&request(&server.url, deployment_finish("success"))).fails("refused", &["no deployment"]);
    assert_eq!(server.got().len() - before, 10);
}

#[test]
fn files_are_only_uploaded_where_the_api_may_send_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.txt");
    std::fs::write(&path, "content").unwrap();
    let other = Server::start(|_, _| Reply::json(201, &json!({})));
    let elsewhere = format!("{}/upload{{?name,label}}", other.url);
    let server = Server::start(move |got, _| match got.method.as_str() {
        "GET" => Reply::json(200, &json!([])),
        _ => Reply::json(201, &json!({ "id": 1, "upload_url": elsewhere })),
    });
    let action = json!({ "release": { "tag": "v1", "commit": null, "title": null, "notes": null,
        "assets": [path], "draft": false, "prerelease": false, "replace": false } });
    run(&request(&server.url, action)).fails("unexpected", &["uploads that is not on"]);
    assert!(other.got().is_empty());
}

#[test]
fn a_large_binary_file_arrives_as_it_is_and_one_that_does_not_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("layer.tar.gz");
    let content: Vec<u8> =
        (0..20_000_000_u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&path, &content).unwrap();
    let upload = |is_damaged: bool| {
        Server::start(move |got, _| match (got.method.as_str(), got.path().ends_with("/assets")) {
            ("GET", _) => Reply::json(200, &json!([])),
            ("POST", true) => {
                // Longer than other calls may take.
                std::thread::sleep(Duration::from_millis(2_500));
                let digest = stdx::Digest::of(if is_damaged { &got.body[1..] } else { &got.body });
                Reply::json(201, &json!({ "id": 2, "size": got.body.len(), "digest": digest }))
            }
            _ => {
                let uploads = format!("http://{}/assets{{?name,label}}", got.header("host").unwrap());
                Reply::json(201, &json!({ "id": 1, "upload_url": uploads, "html_url": "u" }))
            }
        })
    };
    let action = json!({ "release": { "tag": "v1", "commit": null, "title": null, "notes": null, "assets": [path],
        "draft": false, "prerelease": false, "replace": false } });
    let server = upload(false);
    let mut asked = request(&server.url, action.clone());
    asked["timeout_ms"] = json!(2_000);
    assert_eq!(run(&asked).outcome(), "created");
    let sent = &server.got()[2];
    assert_eq!(sent.header("content-length"), Some("20000000"));
    assert_eq!(sent.header("content-type"), Some("application/gzip"));
    assert!(sent.body == content);
    let server = upload(true);
    run(&request(&server.url, action)).fails("unexpected", &["other bytes than"]);
    assert!(
        !server.lines().iter().any(|line| line.starts_with("PATCH")),
        "it was published: {:?}",
        server.lines()
    );
}

#[test]
fn requests_of_another_version_or_shape_are_refused() {
    let mut other = request("https://api.github.com", deployment_start());
    other["schema"] = json!("slipway.github-request/2");
    run(&other).fails("input", &["slipway.github-request/2", "one version"]);
    let mut unknown = request("https://api.github.com", deployment_start());
    unknown["typo"] = json!(1);
    run(&unknown).fails("input", &["typo"]);
    for repository in ["o", "o/..", "o/r/x", "/r", "o/r?x", ""] {
        let mut bad = request("https://api.github.com", deployment_start());
        bad["repository"] = json!(repository);
        run(&bad).fails("input", &["OWNER/NAME"]);
    }
    run(&Value::Null).fails("input", &["not a request"]);
}

#[test]
fn the_requests_that_xtask_makes_are_understood_and_planned_without_a_token() {
    let folder = tempfile::tempdir().unwrap();
    let write =
        |name: &str, document: Value| std::fs::write(folder.path().join(name), document.to_string()).unwrap();
    write("scan.sarif", json!({ "version": "2.1.0", "runs": [] }));
    write("scan.json", json!({ "schema": "slipway.scan/1", "findings": [] }));
    write("sbom.json", json!({ "bomFormat": "CycloneDX", "components": [] }));
    write("build.json", json!({ "schema": "slipway.build/1", "services": [] }));
    std::fs::write(folder.path().join("text.md"), "text").unwrap();
    let cases: Vec<Value> = serde_json::from_str(include_str!("../requests.json")).unwrap();
    let here = |name: &str| folder.path().join(name).display().to_string();
    for case in cases {
        let mut text = case["action"].to_string();
        for name in ["scan.sarif", "scan.json", "sbom.json", "build.json", "text.md"] {
            text = text.replace(&format!("\"{name}\""), &json!(here(name)).to_string());
        }
        let mut request = request("https://api.github.com", serde_json::from_str(&text).unwrap());
        request["dry_run"] = json!(true);
        let run = run_with(&request, &[]);
        assert_eq!(run.done()["observed"], false, "{}", run.response);
        assert!(!run.done()["requests"].as_array().unwrap().is_empty(), "{}", run.response);
    }
}

/// Numbers that are the same in every run.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    *state >> 33
}

/// The JSON pointers of all parts of a value.
fn pointers(value: &Value, at: &str) -> Vec<String> {
    let mut all = vec![at.to_owned()];
    match value {
        Value::Array(items) => {
            all.extend(
                items.iter().enumerate().flat_map(|(index, item)| pointers(item, &format!("{at}/{index}"))),
            );
        }
        Value::Object(members) => {
            all.extend(members.iter().flat_map(|(name, member)| pointers(member, &format!("{at}/{name}"))));
        }
        _ => {}
    }
    all
}

/// The value with one of its parts replaced by something that does not belong there.
fn mutated(value: &Value, state: &mut u64) -> Value {
    let odd = [
        json!(null),
        json!(-1),
        json!(1e300),
        json!("x` | <b>\u{202e}@all\n"),
        json!([]),
        json!({ "a": [1] }),
        json!(true),
    ];
    let mut value = value.clone();
    let all = pointers(&value, "");
    let pointer = &all[random(state) as usize % all.len()];
    *value.pointer_mut(pointer).unwrap() = odd[random(state) as usize % odd.len()].clone();
    value
}

#[test]
fn no_answer_and_no_file_makes_the_program_panic() {
    let finding = json!({ "severity": "high", "key": "k", "message": "m",
        "place": { "file": { "path": "a.rs", "line": 1, "column": 1 } },
        "rule": { "id": "a/b", "check": "secrets", "title": "t", "why": "w", "fix": "f", "url": null } });
    let documents = [
        json!({ "schema": "slipway.scan/1", "findings": [finding] }),
        json!({ "version": "2.1.0", "runs": [{ "tool": { "driver": { "rules": [{ "id": "R" }] } }, "results": [
            { "ruleId": "R", "ruleIndex": 0, "level": "error", "message": { "text": "{0}", "arguments": ["a"] },
              "locations": [{ "physicalLocation": { "artifactLocation": { "uri": "a" }, "region": { "startLine": 1 } } }] }] }] }),
        json!({ "schema": "slipway.build/1", "services": [{ "name": "a", "image": "b", "size": 1, "unpacked_size": 2 }] }),
        json!({ "bomFormat": "CycloneDX", "components": [{ "name": "a", "version": "1", "scope": "excluded" }] }),
        json!({ "id": 1, "upload_url": "u{?x}", "payload": { "slipway": { "key": "run-1" } }, "check_runs": [
            { "id": 1, "external_id": "x", "output": { "annotations_count": 1 } }] }),
        json!([{ "id": 1, "payload": "{}", "tag_name": "v1", "draft": true, "body": "b", "user": { "type": "Bot" } }]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.json");
    let compared = json!({ "base": path, "head": path });
    let nothing = json!({ "base": null, "head": null });
    let comment = |builds: &Value, sboms: &Value, scans: &Value| json!({ "comment": { "pull": 4, "name": "r", "title": null, "body": null, "builds": builds, "sboms": sboms, "scans": scans } });
    let check = json!({ "check": { "name": "n", "commit": crate::support::COMMIT, "files": [path], "summary": null,
        "fail_on": "failure", "details_url": null } });
    let release = json!({ "release": { "tag": "v1", "commit": null, "title": null, "notes": null, "assets": [path],
        "draft": false, "prerelease": false, "replace": true } });
    let actions = [
        check,
        release,
        deployment_start(),
        comment(&compared, &nothing, &nothing),
        comment(&nothing, &compared, &nothing),
        comment(&nothing, &nothing, &compared),
    ];
    let answers = documents.clone();
    let server = Server::start(move |_, before| {
        let mut state = before as u64 * 77;
        Reply::json(200, &mutated(&answers[4 + before % 2], &mut state))
    });
    let mut state = 7;
    for round in 0..72 {
        let document = mutated(&documents[round % 4], &mut state);
        std::fs::write(&path, document.to_string()).unwrap();
        let asked = request(&server.url, actions[round / 4 % actions.len()].clone());
        let run = run(&asked);
        assert!(!run.stderr.contains("panicked"), "{}", run.stderr);
        assert_ne!(run.response["done"].is_object(), run.response["error"].is_object());
    }
}
