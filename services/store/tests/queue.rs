//! The queue on a real file, with the clock in the hand of the test.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use store::backoff::Backoff;
use store::{
    BatchId, Claim, ClaimRequest, Heartbeat, Idempotency, Job, JobResult, JobState, Lease, NewJob, Recorded,
    Stale, Store, Timestamp,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;

const LEASE: Duration = Duration::from_secs(30);
const START: Timestamp = Timestamp(1_700_000_000_000);

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn fit(number: usize, max_attempts: u32) -> NewJob {
    NewJob { kind: "fit", params: json!({ "number": number }), max_attempts }
}

fn result() -> JobResult {
    JobResult { document: json!({"ok": true}), data: Some(vec![0.1, -1e-300, 3.0]) }
}

async fn open() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path()).await.unwrap();
    (folder, store)
}

async fn submit(store: &Store, count: usize, max_attempts: u32) -> BatchId {
    let jobs: Vec<_> = (0..count).map(|number| fit(number, max_attempts)).collect();
    match store.submit(&jobs, None, START).await.unwrap() {
        Recorded::New(batch) => batch,
        other => panic!("not new: {other:?}"),
    }
}

async fn only_job(store: &Store, batch: BatchId) -> Job {
    store.batch(batch).await.unwrap().unwrap().jobs.remove(0).0
}

async fn claim_some(store: &Store, worker: &str, count: u32, now: Timestamp) -> Vec<Claim> {
    let request = ClaimRequest { worker, kinds: &["fit"], count, lease: LEASE };
    store.claim(&request, now).await.unwrap()
}

async fn claim(store: &Store, worker: &str, now: Timestamp) -> Option<Lease> {
    claim_some(store, worker, 1, now).await.first().map(|claim| claim.lease)
}

#[tokio::test]
async fn a_job_is_claimed_once_and_keeps_its_result_bit_for_bit() {
    let (_folder, store) = open().await;
    let batch = submit(&store, 1, 3).await;
    let lease = claim(&store, "a", at(1)).await.unwrap();
    assert_eq!(claim(&store, "b", at(1)).await, None);
    assert_eq!(store.result(lease.job).await.unwrap(), None);
    assert_eq!(store.complete(lease, &result(), at(2)).await.unwrap(), Ok(()));
    let job = only_job(&store, batch).await;
    assert_eq!((job.state, job.attempt, job.finished_at), (JobState::Succeeded, 1, Some(at(2))));
    assert_eq!(store.result(lease.job).await.unwrap(), Some(result()));
    assert_eq!(store.complete(lease, &result(), at(3)).await.unwrap(), Err(Stale));
}

#[tokio::test]
async fn eight_claimers_share_five_hundred_jobs_without_overlap() {
    let (folder, store) = open().await;
    let batch = submit(&store, 500, 3).await;
    let mut claimers = Vec::new();
    for number in 0..8 {
        // Every claimer has connections of its own, as processes have.
        let store = Store::open(folder.path()).await.unwrap();
        claimers.push(tokio::spawn(async move {
            let worker = format!("worker-{number}");
            let mut done = 0;
            loop {
                let claims = claim_some(&store, &worker, 4, Timestamp::now()).await;
                if claims.is_empty() {
                    return done;
                }
                for claim in claims {
                    let outcome = JobResult { document: claim.params, data: None };
                    store.complete(claim.lease, &outcome, Timestamp::now()).await.unwrap().unwrap();
                    done += 1;
                }
            }
        }));
    }
    let mut done = 0;
    for claimer in claimers {
        done += claimer.await.unwrap();
    }
    assert_eq!(done, 500);
    let jobs = store.batch(batch).await.unwrap().unwrap().jobs;
    assert!(jobs.iter().all(|(job, _)| job.state == JobState::Succeeded && job.attempt == 1));
    let numbers: BTreeMap<_, _> =
        jobs.iter().map(|(job, document)| (job.params["number"].as_u64(), document.clone())).collect();
    assert_eq!(numbers.len(), 500);
    assert!(jobs.iter().all(|(job, document)| document.as_ref() == Some(&job.params)));
}

#[tokio::test]
async fn an_expired_lease_is_taken_back_and_its_holder_is_refused() {
    let (_folder, store) = open().await;
    let batch = submit(&store, 1, 3).await;
    let first = claim(&store, "a", at(0)).await.unwrap();
    assert_eq!(claim(&store, "b", at(29)).await, None);
    let second = claim(&store, "b", at(30)).await.unwrap();
    assert_eq!((second.job, second.attempt), (first.job, 2));

    assert_eq!(store.complete(first, &result(), at(31)).await.unwrap(), Err(Stale));
    assert_eq!(store.fail(first, "late", None, at(31)).await.unwrap(), Err(Stale));
    assert_eq!(store.release(first, at(31)).await.unwrap(), Err(Stale));
    assert_eq!(store.heartbeat(first, at(90), at(31)).await.unwrap(), Heartbeat::Lost);

    assert_eq!(store.complete(second, &result(), at(32)).await.unwrap(), Ok(()));
    let job = only_job(&store, batch).await;
    assert_eq!((job.state, job.attempt), (JobState::Succeeded, 2));
    assert!(job.last_error.unwrap().contains("lease expired"));
}

#[tokio::test]
async fn heartbeats_keep_a_lease() {
    let (_folder, store) = open().await;
    submit(&store, 1, 3).await;
    let lease = claim(&store, "a", at(0)).await.unwrap();
    for second in [10, 20, 30, 40, 50] {
        let until = at(second).plus(LEASE);
        assert_eq!(store.heartbeat(lease, until, at(second)).await.unwrap(), Heartbeat::Held);
        assert_eq!(claim(&store, "b", at(second)).await, None);
    }
    assert!(claim(&store, "b", at(80)).await.is_some());
}

#[tokio::test]
async fn retries_follow_the_schedule_until_the_job_is_dead() {
    let (_folder, store) = open().await;
    let batch = submit(&store, 1, 3).await;
    let backoff = Backoff { base: Duration::from_secs(10), cap: Duration::from_secs(300) };
    let mut now = START;
    for attempt in 1..=3 {
        let lease = claim(&store, "a", now).await.unwrap();
        assert_eq!(lease.attempt, attempt);
        let retry_at = now.plus(backoff.pause(attempt, 0.5));
        store.fail(lease, &format!("error {attempt}"), Some(retry_at), now).await.unwrap().unwrap();
        assert_eq!(claim(&store, "a", Timestamp(retry_at.0 - 1)).await, None);
        now = retry_at;
    }
    assert_eq!(now, at(5 + 10 + 20));
    assert_eq!(claim(&store, "a", at(100_000)).await, None);
    let job = only_job(&store, batch).await;
    assert_eq!((job.state, job.attempt), (JobState::Dead, 3));
    assert_eq!(job.last_error.as_deref(), Some("error 3"));
    let history: Vec<&Value> = job.error_history.as_array().unwrap().iter().map(|e| &e["error"]).collect();
    assert_eq!(history, ["error 1", "error 2", "error 3"]);
}

#[tokio::test]
async fn an_error_that_no_retry_can_mend_is_dead_at_once() {
    let (_folder, store) = open().await;
    let batch = submit(&store, 1, 3).await;
    let lease = claim(&store, "a", at(0)).await.unwrap();
    store.fail(lease, "bad input", None, at(1)).await.unwrap().unwrap();
    assert_eq!(only_job(&store, batch).await.state, JobState::Dead);
}

#[tokio::test]
async fn a_job_that_kills_its_workers_dies_of_expired_leases() {
    let (_folder, store) = open().await;
    let batch = submit(&store, 1, 3).await;
    for attempt in 0..3 {
        assert!(claim(&store, "a", at(attempt * 40)).await.is_some());
    }
    assert_eq!(claim(&store, "a", at(200)).await, None);
    let job = only_job(&store, batch).await;
    assert_eq!((job.state, job.attempt), (JobState::Dead, 3));
    assert_eq!(job.error_history.as_array().unwrap().len(), 3);
}

#[tokio::test]
async fn a_returned_job_runs_at_once_and_keeps_its_attempts() {
    let (_folder, store) = open().await;
    let batch = submit(&store, 1, 2).await;
    let first = claim(&store, "a", at(0)).await.unwrap();
    store.release(first, at(1)).await.unwrap().unwrap();
    let second = claim(&store, "b", at(1)).await.unwrap();
    assert_eq!(store.complete(first, &result(), at(2)).await.unwrap(), Err(Stale));
    for (lease, state) in [(Some(second), JobState::Queued), (None, JobState::Dead)] {
        let lease = match lease {
            Some(lease) => lease,
            None => claim(&store, "b", at(3)).await.unwrap(),
        };
        store.fail(lease, "real", Some(at(3)), at(2)).await.unwrap().unwrap();
        assert_eq!(only_job(&store, batch).await.state, state);
    }
}

#[tokio::test]
async fn cancelling_stops_a_waiting_job_at_once_and_a_running_one_at_its_heartbeat() {
    let (_folder, store) = open().await;
    let waiting = submit(&store, 1, 3).await;
    let waiting_job = only_job(&store, waiting).await.id;
    assert!(store.cancel(waiting_job, at(1)).await.unwrap());
    assert_eq!(only_job(&store, waiting).await.state, JobState::Cancelled);
    assert!(!store.cancel(waiting_job, at(2)).await.unwrap());

    let running = submit(&store, 1, 3).await;
    let lease = claim(&store, "a", at(2)).await.unwrap();
    assert!(store.cancel(lease.job, at(3)).await.unwrap());
    let heartbeat = store.heartbeat(lease, at(40), at(4)).await.unwrap();
    assert_eq!(heartbeat, Heartbeat::CancelRequested);
    store.fail(lease, "cancelled", Some(at(9)), at(5)).await.unwrap().unwrap();
    assert_eq!(only_job(&store, running).await.state, JobState::Cancelled);
    assert_eq!(claim(&store, "a", at(1000)).await, None);
}

#[tokio::test]
async fn a_worker_claims_only_the_kinds_it_knows() {
    let (_folder, store) = open().await;
    let later = NewJob { kind: "of-a-later-release", params: json!({}), max_attempts: 1 };
    store.submit(&[later], None, START).await.unwrap();
    assert_eq!(claim(&store, "a", at(1)).await, None);
    let kinds = ["fit", "of-a-later-release"];
    let request = ClaimRequest { worker: "b", kinds: &kinds, count: 5, lease: LEASE };
    assert_eq!(store.claim(&request, at(1)).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_postponed_job_waits_for_its_time_and_keeps_its_attempts() {
    let (_folder, store) = open().await;
    let batch = submit(&store, 1, 1).await;
    for round in 0..5 {
        let lease = claim(&store, "a", at(round * 10)).await.unwrap();
        let postponed = store.postpone(lease, "away", at(round * 10 + 5), at(round * 10)).await.unwrap();
        assert_eq!(postponed, Ok(()));
        assert_eq!(claim(&store, "a", at(round * 10 + 4)).await, None);
        assert_eq!(store.postpone(lease, "away", at(0), at(0)).await.unwrap(), Err(Stale));
    }
    let job = only_job(&store, batch).await;
    assert_eq!((job.state, job.max_attempts - job.attempt), (JobState::Queued, 1));
    assert_eq!((job.last_error.as_deref(), &job.error_history), (Some("away"), &json!([])));
    let lease = claim(&store, "a", at(60)).await.unwrap();
    store.fail(lease, "broken", Some(at(61)), at(60)).await.unwrap().unwrap();
    assert_eq!(only_job(&store, batch).await.state, JobState::Dead, "its one attempt");
}

#[tokio::test]
async fn a_repeated_key_gives_the_first_job_also_when_repeated_at_once() {
    let (folder, store) = open().await;
    let other_process = Store::open(folder.path()).await.unwrap();
    let job = NewJob { kind: "synthetic", params: json!({"filled": "in"}), max_attempts: 1 };
    let asked = |mass: f64| Idempotency { key: "k".to_owned(), request: json!({ "mass": mass }) };
    let (same, result) = (asked(1e12), result());
    let (one, two) = tokio::join!(
        store.record(&job, &result, Some(&same), START),
        other_process.record(&job, &result, Some(&same), START)
    );
    let (one, two) = (one.unwrap(), two.unwrap());
    let new = [one, two].into_iter().filter(|recorded| matches!(recorded, Recorded::New(_))).count();
    assert_eq!(new, 1, "{one:?} {two:?}");
    let id = |recorded| match recorded {
        Recorded::New(id) | Recorded::Before(id) => id,
        Recorded::Conflict => panic!("conflict"),
    };
    assert_eq!(id(one), id(two));
    let other = store.record(&job, &result, Some(&asked(2e12)), START).await.unwrap();
    assert_eq!(other, Recorded::Conflict);
    assert_eq!(store.jobs(10, None).await.unwrap().len(), 1);

    let jobs = [fit(0, 1), fit(1, 1)];
    let first = store.submit(&jobs, Some(&same), START).await.unwrap();
    let again = store.submit(&jobs, Some(&same), START).await.unwrap();
    assert!(matches!((first, again), (Recorded::New(a), Recorded::Before(b)) if a == b));
    assert_eq!(store.jobs(10, None).await.unwrap().len(), 3);
}

#[tokio::test]
async fn pages_of_jobs_are_newest_first_and_complete() {
    let (_folder, store) = open().await;
    submit(&store, 25, 1).await;
    let (mut seen, mut before) = (Vec::new(), None);
    loop {
        let page = store.jobs(10, before).await.unwrap();
        let Some(last) = page.last() else { break };
        before = Some(last.id);
        seen.extend(page.iter().map(|job| job.id));
    }
    assert_eq!(seen.len(), 25);
    assert!(seen.is_sorted_by(|a, b| a > b));
}

#[test]
fn processes_that_start_at_once_take_turns_with_the_schema() {
    for _ in 0..5 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new/data");
        let start = Barrier::new(8);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let runtime = Runtime::new().unwrap();
                    start.wait();
                    runtime.block_on(async { Store::open(&path).await.unwrap().ping().await.unwrap() });
                });
            }
        });
    }
}

#[tokio::test]
async fn a_schema_of_a_later_release_is_accepted_and_a_changed_one_refused() {
    let (folder, store) = open().await;
    let insert = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                  VALUES (9999, 'later', TRUE, x'00', 1)";
    execute(folder.path(), insert).await;
    store.close().await;
    Store::open(folder.path()).await.unwrap().close().await;

    execute(folder.path(), "UPDATE _sqlx_migrations SET checksum = x'00' WHERE version = 1").await;
    let error = Store::open(folder.path()).await.unwrap_err().to_string();
    assert!(error.starts_with("failed to migrate"), "{error}");
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_is_named_with_the_setting() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), "").unwrap();
    let error = Store::open(&folder.path().join("file/data")).await.unwrap_err().to_string();
    assert!(error.contains("file/data") && error.contains("LENS_DATA__DIR"), "{error}");
}

async fn execute(folder: &Path, sql: &'static str) {
    use sqlx::{ConnectOptions, Connection};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.join("lensing.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::query(sql).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
