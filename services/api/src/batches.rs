//! `POST /api/v1/batch` and its status: fits of maps that were made before.

use std::collections::BTreeSet;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use engine::job::{FIT, FitParams, SYNTHETIC};
use runtime::extract::JsonBody;
use runtime::problem::Kind;
use runtime::{Problem, Violations};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Batch, BatchId, Job, JobId, JobState, NewJob, Recorded, Timestamp};

use crate::{AppState, idempotency, store_problem};

const MAX_JOBS: usize = 100;
/// What an answer repeats of ids that it does not know: enough to find the mistake, however long the request was.
const MAX_UNKNOWN_SHOWN: usize = 10;
/// An id has 36.
const MAX_ID_SHOWN: usize = 64;

/// What is asked for: the maps of these jobs are to be analysed.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct BatchRequest {
    job_ids: Vec<String>,
}

pub(crate) async fn submit(
    State(state): State<AppState>,
    headers: HeaderMap,
    body: JsonBody<BatchRequest>,
) -> Result<Response, Problem> {
    let request = body.value;
    check(&request)?;
    let idempotency = idempotency::read(&headers, &body.bytes)?;
    let sources = sources(&state, &request).await?;
    let jobs = sources
        .iter()
        .map(|source| fit_job(*source, state.max_attempts))
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| Problem::internal(&error))?;
    let submitted = state.store.submit(&jobs, idempotency.as_ref(), Timestamp::now()).await;
    match submitted.map_err(store_problem::problem)? {
        Recorded::New(batch) => Ok(accepted(batch, jobs.len()).into_response()),
        Recorded::Before(batch) => Ok(([idempotency::REPLAYED], accepted(batch, jobs.len())).into_response()),
        Recorded::Conflict => Err(idempotency::conflict()),
    }
}

pub(crate) async fn status(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let missing = || Problem::new(Kind::NotFound, format!("there is no batch {id}"));
    let batch_id: BatchId = id.parse().map_err(|_| missing())?;
    let batch = state.store.batch(batch_id).await.map_err(store_problem::problem)?.ok_or_else(missing)?;
    Ok(Json(report(&batch)))
}

fn check(request: &BatchRequest) -> Result<(), Problem> {
    let mut violations = Violations::default();
    let count = request.job_ids.len();
    if !(1..=MAX_JOBS).contains(&count) {
        violations.add("/job_ids", "out_of_range", format!("must be 1 to {MAX_JOBS} ids, not {count}"));
    }
    let mut seen = BTreeSet::new();
    for (index, id) in request.job_ids.iter().enumerate() {
        // One job has more than one spelling. What is no id at all is refused later, as unknown.
        if id.parse::<JobId>().is_ok_and(|id| !seen.insert(id)) {
            violations.add(&format!("/job_ids/{index}"), "duplicate", "is listed before");
        }
    }
    violations.into_result()
}

/// The jobs whose maps are to be analysed. Ids that are no jobs are refused, all of them in one answer, and so are jobs
/// that have no map.
async fn sources(state: &AppState, request: &BatchRequest) -> Result<Vec<JobId>, Problem> {
    let (mut sources, mut unknown, mut violations) = (Vec::new(), Vec::new(), Violations::default());
    for (index, id) in request.job_ids.iter().enumerate() {
        let job = match id.parse() {
            Ok(id) => state.store.job(id).await.map_err(store_problem::problem)?,
            Err(_) => None,
        };
        match job {
            None => unknown.push(id.as_str()),
            Some(job) if job.kind != SYNTHETIC => {
                let message = format!("is a job of kind {}, which has no map", job.kind);
                violations.add(&format!("/job_ids/{index}"), "not_a_map", message);
            }
            Some(job) => sources.push(job.id),
        }
    }
    if !unknown.is_empty() {
        return Err(Problem::new(Kind::NotFound, format!("there are no jobs {}", list(&unknown))));
    }
    violations.into_result()?;
    Ok(sources)
}

fn list(ids: &[&str]) -> String {
    let cut = |id: &&str| match id.char_indices().nth(MAX_ID_SHOWN) {
        Some((end, _)) => format!("{}…", &id[..end]),
        None => (*id).to_owned(),
    };
    let shown: Vec<_> = ids.iter().take(MAX_UNKNOWN_SHOWN).map(cut).collect();
    match ids.len() - shown.len() {
        0 => shown.join(", "),
        more => format!("{} and {more} more", shown.join(", ")),
    }
}

fn fit_job(source: JobId, max_attempts: u32) -> Result<NewJob, serde_json::Error> {
    let params = serde_json::to_value(FitParams { source_job_id: source.to_string() })?;
    Ok(NewJob { kind: FIT, params, max_attempts })
}

fn accepted(batch: BatchId, total: usize) -> impl IntoResponse {
    let status = format!("/api/v1/batch/{batch}/status");
    let document = json!({ "batch_id": batch.to_string(), "total": total, "status_url": status });
    (StatusCode::ACCEPTED, [(LOCATION, status)], Json(document))
}

fn report(batch: &Batch) -> Value {
    let count = |wanted: JobState| batch.jobs.iter().filter(|(job, _)| job.state == wanted).count();
    let (completed, failed, cancelled) =
        (count(JobState::Succeeded), count(JobState::Dead), count(JobState::Cancelled));
    let total = batch.jobs.len();
    let ended = completed + failed + cancelled;
    let status = if ended == total {
        "completed"
    } else if count(JobState::Queued) == total {
        "queued"
    } else {
        "running"
    };
    let results: Vec<_> = batch.jobs.iter().map(|(job, document)| item(job, document.as_ref())).collect();
    json!({
        "batch_id": batch.id.to_string(),
        "status": status,
        "progress": ended as f64 / total.max(1) as f64,
        "total": total,
        "completed": completed,
        "failed": failed,
        "cancelled": cancelled,
        "created_at": batch.created_at.to_string(),
        "results": results,
    })
}

fn item(job: &Job, result: Option<&Value>) -> Value {
    json!({
        "job_id": job.id.to_string(),
        "source_job_id": job.params["source_job_id"],
        "status": job.state.as_str(),
        "result": result,
        "error": job.last_error,
    })
}
