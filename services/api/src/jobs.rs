//! `GET /api/v1/jobs…`: jobs, their results, and calling them off.

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use engine::job::SYNTHETIC;
use runtime::extract::QueryString;
use runtime::problem::Kind;
use runtime::{Problem, Violations};
use serde::Deserialize;
use serde_json::{Value, json};
use store::{Job, JobId, JobState, Timestamp};

use crate::{AppState, store_problem, synthetic};

const DEFAULT_LIMIT: u32 = 20;
const MAX_LIMIT: u32 = 100;

/// A page of the list.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Page {
    limit: Option<u32>,
    cursor: Option<String>,
}

pub(crate) async fn list(
    State(state): State<AppState>,
    QueryString(page): QueryString<Page>,
) -> Result<Json<Value>, Problem> {
    let mut violations = Violations::default();
    let limit = page.limit.unwrap_or(DEFAULT_LIMIT);
    if !(1..=MAX_LIMIT).contains(&limit) {
        violations.add("/limit", "out_of_range", format!("must be between 1 and {MAX_LIMIT}"));
    }
    let before = page.cursor.map(|cursor| cursor.parse::<JobId>());
    if let Some(Err(_)) = before {
        violations.add("/cursor", "invalid_value", "must be the value of next of an earlier page");
    }
    violations.into_result()?;
    let before = before.and_then(Result::ok);
    let jobs = state.store.jobs(limit, before).await.map_err(store_problem::problem)?;
    let next = jobs.last().filter(|_| jobs.len() == limit as usize).map(|job| job.id.to_string());
    let jobs: Vec<_> = jobs.iter().map(summary).collect();
    Ok(Json(json!({ "jobs": jobs, "next": next })))
}

pub(crate) async fn show(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Json<Value>, Problem> {
    let job = find(&state, &id).await?;
    let mut document = summary(&job);
    document["params"] = job.params.clone();
    document["last_error"] = json!(job.last_error);
    document["error_history"] = history(&job.error_history);
    Ok(Json(document))
}

pub(crate) async fn result(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<Response, Problem> {
    let job = find(&state, &id).await?;
    let result = state.store.result(job.id).await.map_err(store_problem::problem)?;
    let Some(result) = result else {
        let detail = format!("the job is {} and has no result", job.state.as_str());
        return Err(Problem::new(Kind::Conflict, detail));
    };
    if job.kind == SYNTHETIC {
        return Ok(synthetic::answer(job.id, &result));
    }
    let mut document = result.document;
    document["job_id"] = json!(job.id.to_string());
    Ok(Json(document).into_response())
}

/// Asks for a job not to be done. Repeating it changes nothing and is answered as the first time.
pub(crate) async fn cancel(
    State(state): State<AppState>,
    Path(id): Path<String>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let job = find(&state, &id).await?;
    let asked = state.store.cancel(job.id, Timestamp::now()).await.map_err(store_problem::problem)?;
    let job = find(&state, &id).await?;
    if asked || job.state == JobState::Cancelled {
        return Ok((StatusCode::ACCEPTED, Json(summary(&job))));
    }
    Err(Problem::new(Kind::Conflict, format!("the job is {} already", job.state.as_str())))
}

async fn find(state: &AppState, id: &str) -> Result<Job, Problem> {
    let missing = || Problem::new(Kind::NotFound, format!("there is no job {id}"));
    let id: JobId = id.parse().map_err(|_| missing())?;
    state.store.job(id).await.map_err(store_problem::problem)?.ok_or_else(missing)
}

fn summary(job: &Job) -> Value {
    json!({
        "job_id": job.id.to_string(),
        "kind": job.kind,
        "status": job.state.as_str(),
        "attempt": job.attempt,
        "max_attempts": job.max_attempts,
        "created_at": job.created_at.to_string(),
        "finished_at": job.finished_at.map(|at| at.to_string()),
    })
}

/// The failures of a job with their times as text, as everywhere on the wire.
fn history(stored: &Value) -> Value {
    let failures = stored.as_array().into_iter().flatten().map(|failure| {
        let at = failure["at"].as_i64().map(|at| Timestamp(at).to_string());
        json!({ "attempt": failure["attempt"], "at": at, "error": failure["error"] })
    });
    Value::Array(failures.collect())
}
