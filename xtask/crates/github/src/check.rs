//! Check runs with annotations. GitHub takes fifty annotations a request and adds them to those it has; how many it has tells
//! where to go on. Invariant: a run is only `completed` by the request that carries the last annotations.

use anyhow::Result;
use serde_json::{Value, json};
use stdx::Digest;

use crate::annotation::{self, Annotation, MAX_ANNOTATIONS};
use crate::call::{Call, compact};
use crate::client::Client;
use crate::failure::Failure;
use crate::request::{Check, Level};
use crate::response::Outcome;
use crate::run::Plan;
use crate::{files, markdown};

const NEEDS: &str = "the permission `checks: write` (a token of an app, such as GITHUB_TOKEN in a workflow)";

/// GitHub's bound for one request.
const BATCH: usize = 50;

/// A check run as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    name: String,
    commit: String,
    details_url: Option<String>,
    summary: String,
    annotations: Vec<Annotation>,
    conclusion: &'static str,
    notes: Vec<String>,
}

/// A run of ours that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    id: u64,
    annotations: usize,
    is_completed: bool,
    url: Option<String>,
}

pub(crate) async fn plan(client: &Client, check: &Check) -> Result<Plan, Failure> {
    let wanted = load(check)?;
    let call = Call::get(
        format!("{}/commits/{}/check-runs", client.repository(), check.commit),
        "list the check runs of the commit",
        NEEDS,
    )
    .query("check_name", check.name.as_str())
    .query("filter", "all");
    let runs = client.list(&call, Some("check_runs")).await?;
    let id = wanted.external_id();
    let ours = |run: &&Value| run["external_id"] == id.as_str();
    let observed = runs.iter().filter(ours).find_map(|run| {
        Some(Observed {
            id: run["id"].as_u64()?,
            annotations: usize::try_from(run["output"]["annotations_count"].as_u64()?).ok()?,
            is_completed: run["status"] == "completed",
            url: run["html_url"].as_str().map(str::to_owned),
        })
    });
    lower(&client.repository(), &wanted, observed.as_ref())
}

/// Reads the files that a check is made of.
pub(crate) fn load(check: &Check) -> Result<Wanted, Failure> {
    let read = || -> Result<(Vec<Annotation>, Option<String>)> {
        let mut annotations = Vec::new();
        for file in &check.files {
            annotations.extend(annotation::load(file)?);
        }
        let summary = check.summary.as_deref().map(files::text).transpose()?;
        Ok((annotations, summary))
    };
    let (annotations, summary) = read().map_err(|error| Failure::input(&error))?;
    Ok(Wanted::new(check, annotations, summary))
}

impl Wanted {
    fn new(check: &Check, mut annotations: Vec<Annotation>, summary: Option<String>) -> Wanted {
        annotations.sort_by(|a, b| b.level.cmp(&a.level).then_with(|| a.cmp(b)));
        annotations.dedup();
        let worst = annotations.first().map(|annotation| annotation.level);
        let conclusion = match worst {
            Some(worst) if worst >= check.fail_on => "failure",
            _ => "success",
        };
        let counts = counts(&annotations);
        let mut notes = Vec::new();
        if annotations.len() > MAX_ANNOTATIONS {
            notes.push(format!("{} annotations; the worst {MAX_ANNOTATIONS} are shown", annotations.len()));
            annotations.truncate(MAX_ANNOTATIONS);
        }
        let text = [Some(counts), notes.first().cloned(), summary].into_iter().flatten().collect::<Vec<_>>();
        Wanted {
            name: check.name.clone(),
            commit: check.commit.clone(),
            details_url: check.details_url.clone(),
            summary: markdown::bounded(&text.join("\n\n"), markdown::MAX_BODY),
            annotations,
            conclusion,
            notes,
        }
    }

    /// Equal content, equal id: how a run is found again.
    fn external_id(&self) -> String {
        let annotations: Vec<_> = self.annotations.iter().map(Annotation::to_json).collect();
        let content = json!([self.name, self.summary, self.conclusion, annotations, self.details_url]);
        format!("slipway:{}", Digest::of(content.to_string()).short())
    }

    fn output(&self, batch: &[Annotation]) -> Value {
        let annotations: Vec<_> = batch.iter().map(Annotation::to_json).collect();
        json!({ "title": counts(&self.annotations), "summary": self.summary, "annotations": annotations })
    }
}

fn counts(annotations: &[Annotation]) -> String {
    let of = |level: Level| annotations.iter().filter(|annotation| annotation.level == level).count();
    match (of(Level::Failure), of(Level::Warning), of(Level::Notice)) {
        (0, 0, 0) => "nothing found".to_owned(),
        (failures, warnings, notices) => {
            let some = |count: usize, word: &str| match count {
                1 => format!("1 {word}"),
                _ => format!("{count} {word}s"),
            };
            [some(failures, "failure"), some(warnings, "warning"), some(notices, "notice")].join(", ")
        }
    }
}

pub(crate) fn lower(repository: &str, wanted: &Wanted, observed: Option<&Observed>) -> Result<Plan, Failure> {
    let done = observed.map_or(0, |observed| observed.annotations.min(wanted.annotations.len()));
    let mut plan = Plan {
        thing: "check run",
        outcome: if observed.is_some() { Outcome::Updated } else { Outcome::Created },
        calls: Vec::new(),
        id: observed.map(|observed| observed.id),
        url: observed.and_then(|observed| observed.url.clone()),
        notes: wanted.notes.clone(),
    };
    if observed.is_some_and(|observed| observed.is_completed) {
        plan.outcome = Outcome::Unchanged;
        return Ok(plan);
    }
    let rest = &wanted.annotations[done..];
    let batches: Vec<&[Annotation]> = if rest.is_empty() { vec![&[]] } else { rest.chunks(BATCH).collect() };
    for (at, batch) in batches.iter().enumerate() {
        let state = match at + 1 == batches.len() {
            true => json!({ "status": "completed", "conclusion": wanted.conclusion }),
            false => json!({ "status": "in_progress" }),
        };
        plan.calls.push(call(repository, wanted, observed, at, batch, state));
    }
    Ok(plan)
}

fn call(
    repository: &str,
    wanted: &Wanted,
    observed: Option<&Observed>,
    at: usize,
    batch: &[Annotation],
    mut body: Value,
) -> Call {
    body["output"] = wanted.output(batch);
    if observed.is_none() && at == 0 {
        body["name"] = json!(wanted.name);
        body["head_sha"] = json!(wanted.commit);
        body["external_id"] = json!(wanted.external_id());
        body["details_url"] = json!(wanted.details_url);
        return Call::post(format!("{repository}/check-runs"), compact(body), "create the check run", NEEDS)
            .keeps(&[("id", "check_run")]);
    }
    let id = observed.map_or("{check_run}".to_owned(), |observed| observed.id.to_string());
    // Annotations are added each time.
    Call::patch(format!("{repository}/check-runs/{id}"), body, "add to the check run", NEEDS).once()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(count: u32) -> Wanted {
        let check = Check {
            name: "scan".into(),
            commit: "a".repeat(40),
            files: Vec::new(),
            summary: None,
            fail_on: Level::Failure,
            details_url: None,
        };
        let annotation = |line| Annotation {
            path: "a".into(),
            line,
            level: Level::Warning,
            title: String::new(),
            message: "m".into(),
        };
        Wanted::new(&check, (1..=count).map(annotation).collect(), None)
    }

    fn sizes(plan: &Plan) -> Vec<(usize, String)> {
        let one = |call: &Call| {
            let crate::call::Body::Json(body) = &call.body else { panic!("{call:?}") };
            (
                body["output"]["annotations"].as_array().unwrap().len(),
                body["status"].as_str().unwrap().to_owned(),
            )
        };
        plan.calls.iter().map(one).collect()
    }

    #[test]
    fn annotations_go_in_fifties_and_the_last_ones_complete_the_run() {
        let (running, completed) = ("in_progress".to_owned(), "completed".to_owned());
        let fresh = |count| sizes(&lower("/repos/o/r", &wanted(count), None).unwrap());
        assert_eq!(fresh(0), [(0, completed.clone())]);
        assert_eq!(fresh(50), [(50, completed.clone())]);
        assert_eq!(fresh(101), [(50, running.clone()), (50, running), (1, completed.clone())]);
        let begun = Observed { id: 3, annotations: 50, is_completed: false, url: None };
        assert_eq!(sizes(&lower("/repos/o/r", &wanted(60), Some(&begun)).unwrap()), [(10, completed)]);
        let over = Observed { is_completed: true, ..begun };
        assert!(lower("/repos/o/r", &wanted(60), Some(&over)).unwrap().calls.is_empty());
    }

    #[test]
    fn too_many_annotations_are_cut_and_said() {
        let wanted = wanted(1_200);
        assert_eq!(wanted.annotations.len(), MAX_ANNOTATIONS);
        assert!(wanted.summary.contains("1200 annotations; the worst 1000"), "{}", wanted.summary);
    }
}
