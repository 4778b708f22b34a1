//! Deployments and their statuses. A deployment is found again by the key in its payload, so that a repeated job, or one whose
//! answer was lost, goes on with the deployment that is there.

use serde_json::{Value, json};

use crate::call::{Call, compact};
use crate::client::Client;
use crate::failure::Failure;
use crate::request::{DeploymentFinish, DeploymentStart};
use crate::response::Outcome;
use crate::run::Plan;

const NEEDS: &str = "the permission `deployments: write`";
const THING: &str = "deployment";

/// GitHub's bound on descriptions of statuses.
const MAX_DESCRIPTION: usize = 140;

/// GitHub lists the newest first: a deployment that ends now is not older than a thousand others.
const MAX_PAGES: usize = 10;

/// A deployment that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Observed {
    id: u64,
    /// The latest status, `null` where there is none.
    status: Value,
}

pub(crate) async fn start(client: &Client, wanted: &DeploymentStart) -> Result<Plan, Failure> {
    let call = list(client, &wanted.environment).query("ref", wanted.commit.as_str());
    let observed = observe(client, &call, &wanted.key).await?;
    Ok(lower_start(&client.repository(), wanted, observed.as_ref()))
}

pub(crate) async fn finish(client: &Client, wanted: &DeploymentFinish) -> Result<Plan, Failure> {
    match observe(client, &list(client, &wanted.environment), &wanted.key).await? {
        Some(observed) => Ok(lower_finish(&client.repository(), wanted, Some(&observed))),
        None => Err(Failure::Refused(format!(
            "there is no deployment to `{}` with the key `{}`: begin it with `deployment start`, or name its key with --key",
            wanted.environment, wanted.key
        ))),
    }
}

fn list(client: &Client, environment: &str) -> Call {
    Call::get(format!("{}/deployments", client.repository()), "list the deployments", NEEDS)
        .query("environment", environment)
}

/// The newest of the deployments with the key, and its latest status.
async fn observe(client: &Client, list: &Call, key: &str) -> Result<Option<Observed>, Failure> {
    let Some(found) = client.find(list, MAX_PAGES, |deployment| is_ours(deployment, key)).await? else {
        return Ok(None);
    };
    let id = found["id"].as_u64().ok_or_else(|| Failure::unexpected(list, "a deployment has no id"))?;
    let path = format!("{}/deployments/{id}/statuses", client.repository());
    let statuses = client.list(&Call::get(path, "list the statuses of the deployment", NEEDS), None).await?;
    let latest = statuses.into_iter().max_by_key(|status| status["id"].as_u64());
    Ok(Some(Observed { id, status: latest.unwrap_or(Value::Null) }))
}

/// GitHub gives the payload as it was sent, or as a text of JSON.
fn is_ours(deployment: &Value, key: &str) -> bool {
    let is_key = |payload: &Value| payload["slipway"]["key"] == key;
    match &deployment["payload"] {
        Value::String(text) => serde_json::from_str(text).is_ok_and(|payload| is_key(&payload)),
        payload => is_key(payload),
    }
}

pub(crate) fn lower_start(repository: &str, wanted: &DeploymentStart, observed: Option<&Observed>) -> Plan {
    let status = compact(json!({
        "state": "in_progress",
        "description": wanted.description.as_deref().map(cut),
        "environment_url": wanted.environment_url,
        "log_url": wanted.log_url,
        "auto_inactive": false,
    }));
    let create = compact(json!({
        "ref": wanted.commit,
        "environment": wanted.environment,
        "description": wanted.description.as_deref().map(cut),
        "payload": { "slipway": { "key": wanted.key } },
        // What must be green before a deployment is decided by the pipeline that calls us; GitHub would refuse a commit whose
        // very run is this one.
        "required_contexts": [],
        "auto_merge": false,
        "production_environment": wanted.production,
    }));
    let mut plan = with_status(repository, observed, status);
    if observed.is_none() {
        let create = Call::post(format!("{repository}/deployments"), create, "create the deployment", NEEDS)
            .keeps(&[("id", "deployment")]);
        plan.calls.insert(0, create);
        plan.outcome = Outcome::Created;
    }
    plan
}

pub(crate) fn lower_finish(repository: &str, wanted: &DeploymentFinish, observed: Option<&Observed>) -> Plan {
    let status = compact(json!({
        "state": wanted.state.name(),
        "description": wanted.description.as_deref().map(cut),
        "environment_url": wanted.environment_url,
        "log_url": wanted.log_url,
        "auto_inactive": wanted.auto_inactive,
    }));
    with_status(repository, observed, status)
}

/// Sets the status, unless the latest one says the same already.
fn with_status(repository: &str, observed: Option<&Observed>, status: Value) -> Plan {
    let is_set = observed.is_some_and(|observed| {
        // `auto_inactive` is an order, not a fact: GitHub does not give it back. What was left out comes back empty.
        let facts = ["state", "description", "environment_url", "log_url"];
        facts.iter().all(|name| text(&observed.status[name]) == text(&status[name]))
    });
    let mut plan = Plan {
        thing: THING,
        outcome: if is_set { Outcome::Unchanged } else { Outcome::Updated },
        calls: Vec::new(),
        id: observed.map(|observed| observed.id),
        url: None,
        notes: Vec::new(),
    };
    if !is_set {
        let id = observed.map_or("{deployment}".to_owned(), |observed| observed.id.to_string());
        let path = format!("{repository}/deployments/{id}/statuses");
        plan.calls.push(Call::post(path, status, "set the status of the deployment", NEEDS));
    }
    plan
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn cut(description: &str) -> String {
    description.chars().take(MAX_DESCRIPTION).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::EndState;

    fn finish() -> DeploymentFinish {
        DeploymentFinish {
            environment: "production".into(),
            key: "k".into(),
            state: EndState::Success,
            description: None,
            environment_url: Some("https://example.org".into()),
            log_url: None,
            auto_inactive: true,
        }
    }

    #[test]
    fn a_status_that_is_set_already_is_not_set_again() {
        let status = json!({ "state": "success", "environment_url": "https://example.org", "log_url": "" });
        let observed = Observed { id: 7, status };
        let plan = lower_finish("/repos/o/r", &finish(), Some(&observed));
        assert_eq!((plan.outcome, plan.calls.len(), plan.id), (Outcome::Unchanged, 0, Some(7)));
        let other = Observed { id: 7, status: json!({ "state": "in_progress" }) };
        let plan = lower_finish("/repos/o/r", &finish(), Some(&other));
        assert_eq!(plan.calls[0].path, "/repos/o/r/deployments/7/statuses");
    }

    #[test]
    fn a_deployment_is_ours_by_its_key_in_either_form() {
        let object = json!({ "payload": { "slipway": { "key": "k" } } });
        let text = json!({ "payload": "{\"slipway\":{\"key\":\"k\"}}" });
        assert!(is_ours(&object, "k") && is_ours(&text, "k") && !is_ours(&object, "l"));
        for odd in [json!({}), json!({ "payload": 3 }), json!({ "payload": "{" }), json!([])] {
            assert!(!is_ours(&odd, "k"), "{odd}");
        }
    }
}
