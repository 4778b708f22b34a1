//! A GitHub with one repository that keeps what it is told. Its things are made from the examples in GitHub's own description of the
//! API, and the judge in front of it checks its answers as well as the requests.

use std::collections::BTreeMap;
use std::sync::Mutex;

use serde_json::{Value, json};
use stdx::Digest;

use crate::server::{Got, Reply};

/// What the repository holds.
pub(crate) struct Fake {
    examples: Value,
    /// Where clients reach us, for links and uploads.
    url: String,
    things: Mutex<Things>,
}

#[derive(Default)]
struct Things {
    deployments: Vec<Value>,
    statuses: Vec<Value>,
    check_runs: Vec<Value>,
    comments: Vec<Value>,
    releases: Vec<Value>,
    assets: Vec<Value>,
    /// What was uploaded, by the number of the asset.
    contents: BTreeMap<String, Vec<u8>>,
}

const REPOSITORY: &str = "/repos/octocat/example";

impl Fake {
    /// `examples` are those of the description; `url` is that of the judge.
    pub(crate) fn new(examples: Value, url: &str) -> Fake {
        let fake = Fake { examples, url: url.to_owned(), things: Mutex::default() };
        // More comments than a page holds, so that ours is on the second one; one of them only pretends to be ours.
        for number in 0..130 {
            let text = if number == 7 { "<!-- slipway:comment:report -->\nnot ours" } else { "me too" };
            fake.comment(text, "User");
        }
        fake
    }

    fn example(&self, name: &str, members: &Value) -> Value {
        let mut thing = self.examples[name]["value"].clone();
        assert!(thing.is_object(), "the description has no example {name}");
        for (member, value) in members.as_object().unwrap() {
            thing[member] = value.clone();
        }
        thing
    }

    fn comment(&self, body: &str, kind: &str) -> Value {
        let comments = &mut self.things.lock().unwrap().comments;
        let mut comment =
            self.example("issue-comment", &json!({ "id": 1_000 + comments.len(), "body": body }));
        comment["user"]["type"] = json!(kind);
        comments.push(comment.clone());
        comment
    }

    /// The answer to a request that the judge let through.
    pub(crate) fn answer(&self, got: &Got) -> Reply {
        if got.path() == "/user" {
            return Reply::json(200, &self.example("private-user", &json!({})));
        }
        let Some(path) = got.path().strip_prefix(REPOSITORY) else { return not_found() };
        let parts: Vec<_> = path.trim_start_matches('/').split('/').collect();
        let body = got.json();
        match (got.method.as_str(), parts.as_slice()) {
            ("GET", ["deployments"]) => {
                self.page(got, &newest_first(&self.things.lock().unwrap().deployments))
            }
            ("POST", ["deployments"]) => self.create_deployment(&body),
            ("GET", ["deployments", id, "statuses"]) => {
                let things = self.things.lock().unwrap();
                let of_this = |status: &&Value| status["deployment"] == json!(id);
                let statuses: Vec<_> =
                    things.statuses.iter().filter(of_this).map(without_deployment).collect();
                self.page(got, &newest_first(&statuses))
            }
            ("POST", ["deployments", id, "statuses"]) => self.create_status(id, &body),
            ("GET", ["commits", _, "check-runs"]) => {
                let runs = self.things.lock().unwrap().check_runs.clone();
                Reply::json(200, &json!({ "total_count": runs.len(), "check_runs": runs }))
            }
            ("POST", ["check-runs"]) => self.create_check_run(&body),
            ("PATCH", ["check-runs", id]) => self.update_check_run(id, &body),
            ("GET", ["issues", "4", "comments"]) => self.page(got, &self.things.lock().unwrap().comments),
            ("POST", ["issues", "4", "comments"]) => {
                Reply::json(201, &self.comment(body["body"].as_str().unwrap(), "Bot"))
            }
            ("PATCH", ["issues", "comments", id]) => self.change(|t| &mut t.comments, id, &body),
            ("GET", ["releases"]) => self.page(got, &self.things.lock().unwrap().releases),
            ("POST", ["releases"]) => self.create_release(&body),
            ("GET", ["releases", "tags", tag]) => {
                let things = self.things.lock().unwrap();
                let is_it = |release: &&Value| release["tag_name"] == *tag && release["draft"] == false;
                things.releases.iter().find(is_it).map_or_else(not_found, |release| Reply::json(200, release))
            }
            ("GET", ["releases", "assets", id])
                if got.header("accept") == Some("application/octet-stream") =>
            {
                let body = self.things.lock().unwrap().contents[*id].clone();
                let headers = vec![("content-type".to_owned(), "application/octet-stream".to_owned())];
                Reply::Answer { status: 200, headers, body }
            }
            ("PATCH", ["releases", id]) => self.change(|t| &mut t.releases, id, &body),
            ("GET", ["releases", _, "assets"]) => self.page(got, &self.things.lock().unwrap().assets),
            ("POST", ["releases", _, "assets"]) => self.create_asset(got),
            ("DELETE", ["releases", "assets", id]) => {
                self.things.lock().unwrap().assets.retain(|asset| !has_id(asset, id));
                Reply::Answer { status: 204, headers: Vec::new(), body: Vec::new() }
            }
            _ => not_found(),
        }
    }

    /// A page of a list, with a link to the next one.
    fn page(&self, got: &Got, items: &[Value]) -> Reply {
        let query = got.target.split('?').nth(1).unwrap_or_default();
        let number = |name: &str, otherwise: usize| {
            let pair = query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
            pair.map_or(otherwise, |text| text.parse().unwrap())
        };
        let (page, size) = (number("page", 1), number("per_page", 30));
        let shown: Vec<_> = items.iter().skip((page - 1) * size).take(size).collect();
        let reply = Reply::json(200, &json!(shown));
        if items.len() <= page * size {
            return reply;
        }
        let next = format!("{}{}?per_page={size}&page={}", self.url, got.path(), page + 1);
        reply.with("link", format!("<{next}>; rel=\"next\""))
    }

    fn create_deployment(&self, body: &Value) -> Reply {
        let deployments = &mut self.things.lock().unwrap().deployments;
        let deployment = self.example(
            "deployment-simple-example",
            &json!({ "id": 41 + deployments.len(), "payload": body["payload"], "environment": body["environment"],
                "ref": body["ref"] }),
        );
        deployments.push(deployment.clone());
        Reply::json(201, &deployment)
    }

    fn create_status(&self, deployment: &str, body: &Value) -> Reply {
        let mut members = body.clone();
        members.as_object_mut().unwrap().remove("auto_inactive");
        let mut status = self.example(
            "deployment-status",
            &json!({ "description": "", "environment_url": "", "log_url": "" }),
        );
        for (member, value) in members.as_object().unwrap() {
            status[member] = value.clone();
        }
        let statuses = &mut self.things.lock().unwrap().statuses;
        status["id"] = json!(71 + statuses.len());
        let reply = Reply::json(201, &status);
        status["deployment"] = json!(deployment);
        statuses.push(status);
        reply
    }

    fn create_check_run(&self, body: &Value) -> Reply {
        let runs = &mut self.things.lock().unwrap().check_runs;
        let mut run = self.example(
            "check-run",
            &json!({ "id": 51 + runs.len(), "name": body["name"], "head_sha": body["head_sha"],
                "external_id": body["external_id"] }),
        );
        run["output"]["annotations_count"] = json!(0);
        complete(&mut run, body);
        runs.push(run.clone());
        Reply::json(201, &run)
    }

    fn update_check_run(&self, id: &str, body: &Value) -> Reply {
        let mut things = self.things.lock().unwrap();
        let Some(run) = things.check_runs.iter_mut().find(|run| has_id(run, id)) else { return not_found() };
        complete(run, body);
        Reply::json(200, run)
    }

    fn create_release(&self, body: &Value) -> Reply {
        let releases = &mut self.things.lock().unwrap().releases;
        let id = 61 + releases.len();
        let mut release = self.example("release", body);
        release["id"] = json!(id);
        release["upload_url"] =
            json!(format!("{}{REPOSITORY}/releases/{id}/assets{{?name,label}}", self.url));
        releases.push(release.clone());
        Reply::json(201, &release)
    }

    fn create_asset(&self, got: &Got) -> Reply {
        let name = got.target.split("name=").nth(1).unwrap().split('&').next().unwrap();
        let things = &mut *self.things.lock().unwrap();
        let assets = &mut things.assets;
        let asset = self.example(
            "release-asset",
            &json!({ "id": 81 + things.contents.len(), "name": name, "size": got.body.len(),
                "digest": Digest::of(&got.body).to_string(), "content_type": got.header("content-type") }),
        );
        assets.push(asset.clone());
        things.contents.insert(asset["id"].to_string(), got.body.clone());
        Reply::json(201, &asset)
    }

    fn change(&self, list: impl Fn(&mut Things) -> &mut Vec<Value>, id: &str, body: &Value) -> Reply {
        let mut things = self.things.lock().unwrap();
        let Some(thing) = list(&mut things).iter_mut().find(|thing| has_id(thing, id)) else {
            return not_found();
        };
        for (member, value) in body.as_object().unwrap() {
            thing[member] = value.clone();
        }
        Reply::json(200, thing)
    }
}

/// GitHub adds annotations to those it has.
fn complete(run: &mut Value, body: &Value) {
    let more = body["output"]["annotations"].as_array().map_or(0, Vec::len) as u64;
    let count = run["output"]["annotations_count"].as_u64().unwrap() + more;
    run["output"]["annotations_count"] = json!(count);
    run["status"] = body["status"].clone();
    run["conclusion"] = body["conclusion"].clone();
}

fn has_id(thing: &Value, id: &str) -> bool {
    thing["id"].as_u64() == id.parse().ok()
}

fn newest_first(items: &[Value]) -> Vec<Value> {
    items.iter().rev().cloned().collect()
}

fn without_deployment(status: &Value) -> Value {
    let mut status = status.clone();
    status.as_object_mut().unwrap().remove("deployment");
    status
}

fn not_found() -> Reply {
    Reply::json(404, &json!({ "message": "Not Found", "documentation_url": "https://docs.github.com/rest" }))
}
