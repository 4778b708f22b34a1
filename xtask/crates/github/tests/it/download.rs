//! `release download` against servers that are ill or mean.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use stdx::Digest;

use crate::server::{Got, Reply, Server};
use crate::support::{Run, TOKEN, request, run, run_with};

const SECRET: &str = "signature=PlantedSignature";

fn asset(id: u32, name: &str, content: &str) -> Value {
    json!({ "id": id, "name": name, "state": "uploaded", "size": content.len(), "digest": Digest::of(content).to_string() })
}

fn bytes(body: &str) -> Reply {
    Reply::Answer { status: 200, headers: Vec::new(), body: body.as_bytes().to_vec() }
}

fn to(location: &str) -> Reply {
    Reply::Answer {
        status: 302,
        headers: vec![("location".to_owned(), location.to_owned())],
        body: Vec::new(),
    }
}

/// A GitHub with one release of these files; `file` answers for the bytes of one.
fn github(assets: Vec<Value>, file: impl Fn(&Got, usize) -> Reply + Send + Sync + 'static) -> Server {
    Server::start(move |got, before| {
        let path = got.path();
        if path.ends_with("/releases/tags/v1%2Fa") {
            return Reply::json(200, &json!({ "id": 5, "tag_name": "v1/a", "html_url": "u" }));
        }
        if path.ends_with("/releases/5/assets") {
            let host = got.header("host").unwrap();
            let next = format!("<http://{host}{path}?page=2>; rel=\"next\"");
            return match got.target.contains("page=2") {
                true => Reply::json(200, &json!(assets[1..])),
                false => Reply::json(200, &json!(assets[..1])).with("link", next),
            };
        }
        file(got, before)
    })
}

/// A storage on another port, which is another host to a client.
fn storage(content: &'static str) -> Server {
    Server::start(move |_, _| bytes(content))
}

struct Folder {
    scratch: tempfile::TempDir,
    into: PathBuf,
}

impl Folder {
    fn new() -> Folder {
        let scratch = tempfile::tempdir().unwrap();
        let into = scratch.path().join("a/release");
        Folder { scratch, into }
    }

    fn asked(&self, server: &Server) -> Value {
        request(&server.url, json!({ "release-download": { "tag": "v1/a", "into": self.into } }))
    }

    fn run(&self, server: &Server) -> Run {
        run(&self.asked(server))
    }

    /// Asserts that nothing was left behind, not even what was begun.
    #[track_caller]
    fn is_untouched(&self) {
        let parent = self.scratch.path().join("a");
        let left: Vec<_> = fs::read_dir(&parent).map(|list| list.flatten().collect()).unwrap_or_default();
        assert!(left.is_empty(), "{left:?}");
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.into.join(name)).unwrap()
    }
}

#[test]
fn all_files_come_from_all_pages_and_the_token_goes_to_the_api_alone() {
    let storage = Arc::new(storage("content"));
    let url = format!("{}/x?{SECRET}", storage.url);
    let assets =
        vec![asset(1, "a.json", "content"), asset(2, "b.json", "content"), asset(3, "c.json", "direct")];
    let server = github(assets, move |got, _| match got.path().ends_with("/3") {
        true => bytes("direct"),
        false => to(&url),
    });
    let folder = Folder::new();
    let mut dry = folder.asked(&server);
    dry["dry_run"] = json!(true);
    let planned = run(&dry);
    let shown = &planned.done()["requests"];
    assert_eq!(shown[0]["target"], "/repos/octocat/example/releases/assets/1");
    assert_eq!(shown[2]["file"]["digest"], Digest::of("direct").to_string());
    folder.is_untouched();
    let run = folder.run(&server);
    assert_eq!((run.outcome(), run.done()["id"].as_u64()), ("fetched", Some(5)));
    assert!(!run.response.to_string().contains(SECRET) && !run.stderr.contains(SECRET));
    assert_eq!((folder.read("a.json"), folder.read("c.json")), ("content".to_owned(), "direct".to_owned()));
    assert_eq!(fs::read_dir(folder.scratch.path().join("a")).unwrap().count(), 1);
    for got in server.got() {
        assert_eq!(got.header("authorization"), Some(format!("Bearer {TOKEN}").as_str()));
    }
    assert_eq!(storage.got().len(), 2);
    assert!(storage.got().iter().all(|got| got.header("authorization").is_none()), "{:?}", storage.got());
    let before = server.got().len();
    assert_eq!(folder.run(&server).outcome(), "unchanged");
    assert!(server.got()[before..].iter().all(|got| !got.path().contains("/releases/assets/")));
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let server = github(vec![asset(1, "a", "content")], |_, _| bytes("content"));
    let folder = Folder::new();
    fs::create_dir_all(&folder.into).unwrap();
    fs::write(folder.into.join("mine"), "precious").unwrap();
    folder.run(&server).fails("refused", &["not empty", "\"mine\"", "--into"]);
    assert_eq!(folder.read("mine"), "precious");
    fs::remove_file(folder.into.join("mine")).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", folder.into.join("a")).unwrap();
    folder.run(&server).fails("refused", &["\"a\""]);
    fs::remove_file(folder.into.join("a")).unwrap();
    assert_eq!(folder.run(&server).outcome(), "fetched");
}

#[test]
fn other_bytes_than_announced_are_no_release() {
    for (sent, how) in [("other!!", "digest"), ("content and more", "longer"), ("cont", "shorter")] {
        let server = github(vec![asset(1, "good", "content"), asset(2, "bad", "content")], move |got, _| {
            bytes(if got.path().ends_with("/1") { "content" } else { sent })
        });
        let folder = Folder::new();
        folder.run(&server).fails("unexpected", &["download bad", how]);
        folder.is_untouched();
    }
}

#[test]
fn a_name_that_leads_out_of_the_folder_fetches_nothing() {
    for name in ["../../evil", "/tmp/evil", "..", "a/b", ".profile", "a\u{202e}b", "x\ny"] {
        let server =
            github(vec![asset(1, "good", "content"), asset(2, name, "content")], |_, _| bytes("content"));
        let folder = Folder::new();
        folder.run(&server).fails("unexpected", &["plain file name"]);
        assert!(server.lines().iter().all(|line| !line.contains("/releases/assets/")));
        folder.is_untouched();
    }
}

#[test]
fn a_file_without_an_announced_digest_is_told() {
    let mut unknown = asset(1, "a", "content");
    unknown["digest"] = Value::Null;
    let server = github(vec![unknown], |_, _| bytes("content"));
    let folder = Folder::new();
    let run = folder.run(&server);
    assert_eq!(run.outcome(), "fetched");
    assert!(
        run.done()["notes"][0].as_str().unwrap().contains("no digest of 1 of 1 files"),
        "{}",
        run.response
    );
    folder.run(&server).fails("refused", &["cannot be compared"]);
}

#[test]
fn a_storage_that_is_ill_is_asked_again_by_way_of_the_api_and_given_up_in_the_end() {
    let ill = Server::start(|_, before| match before {
        0 => Reply::json(503, &json!({ "message": SECRET })),
        1 => Reply::Torn,
        2 => Reply::Cut,
        _ => bytes("content"),
    });
    let url = format!("{}/x?{SECRET}", ill.url);
    let server = github(vec![asset(1, "a", "content")], move |_, _| to(&url));
    let folder = Folder::new();
    let run = folder.run(&server);
    assert_eq!(run.outcome(), "fetched", "{}", run.stderr);
    assert!(run.stderr.contains("trying again") && !run.stderr.contains(SECRET), "{}", run.stderr);
    assert_eq!(folder.read("a"), "content");

    let gone = Server::start(|_, _| Reply::json(404, &json!({ "message": SECRET })));
    let url = format!("{}/x?{SECRET}", gone.url);
    let server = github(vec![asset(1, "a", "content")], move |_, _| to(&url));
    let folder = Folder::new();
    let mut asked = folder.asked(&server);
    asked["max_wait_ms"] = json!(1_000);
    let run = crate::support::run(&asked);
    run.fails("unavailable", &["127.0.0.1 answers 404"]);
    assert!(!run.response.to_string().contains(SECRET) && !run.stderr.contains(SECRET), "{}", run.stderr);
    assert!(gone.got().len() <= 5);
    folder.is_untouched();
}

#[test]
fn redirects_end() {
    let server = github(vec![asset(1, "a", "content")], |got, _| {
        to(&format!("http://{}/round", got.header("host").unwrap()))
    });
    let folder = Folder::new();
    folder.run(&server).fails("unexpected", &["round in circles"]);
    assert!(
        server
            .got()
            .iter()
            .filter(|got| got.path() == "/round")
            .all(|got| got.header("authorization").is_none())
    );
    let server = github(vec![asset(1, "a", "content")], |_, _| to("ftp://127.0.0.1/a"));
    folder.run(&server).fails("unexpected", &["not https"]);
    folder.is_untouched();
}

#[test]
fn what_is_refused_is_told_as_elsewhere() {
    let folder = Folder::new();
    let server = Server::start(|_, _| Reply::json(404, &json!({ "message": "Not Found" })));
    folder.run(&server).fails("not-found", &["find the published release `v1/a`", "`contents: read`"]);
    let server = github(vec![asset(1, "a", "content")], |_, _| Reply::json(403, &json!({ "message": "no" })));
    folder.run(&server).fails("permission", &["download a", "`contents: read`"]);
    let server = github(vec![Value::Null], |_, _| bytes(""));
    folder.run(&server).fails("unexpected", &["no name"]);
    let server = Server::start(|_, _| Reply::json(200, &json!({ "id": 5, "tag_name": "v9" })));
    folder.run(&server).fails("unexpected", &["not the release of this tag"]);
    run_with(&folder.asked(&server), &[]).fails("no-token", &[]);
    for tag in ["", "..", "a/../b", "-x", "a b", ".a", "a//b"] {
        let action = json!({ "release-download": { "tag": tag, "into": folder.into } });
        run(&request(&server.url, action)).fails("input", &["cannot be a tag"]);
    }
    folder.is_untouched();
}

#[test]
fn an_interrupted_download_leaves_nothing() {
    let server = github(vec![asset(1, "a", "content")], |_, _| Reply::Silence(Duration::from_secs(30)));
    let folder = Folder::new();
    let asked = folder.scratch.path().join("request");
    fs::write(&asked, folder.asked(&server).to_string()).unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_slipway-github"))
        .env("GITHUB_TOKEN", TOKEN)
        .stdin(fs::File::open(&asked).unwrap())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for(|| server.lines().iter().any(|line| line.contains("/releases/assets/1")));
    assert!(is_begun(&folder.scratch.path().join("a")));
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = child.wait_with_output().unwrap();
    let response: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(response["error"]["kind"], "interrupted", "{response}");
    folder.is_untouched();
}

fn is_begun(parent: &Path) -> bool {
    fs::read_dir(parent).unwrap().count() == 1
}

fn wait_for(is_so: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
}
