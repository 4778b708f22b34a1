//! What starts a workflow, how its runs get in each other's way, and what it is called.

use super::{Report, Workflow};
use crate::yaml::Node;

pub(super) fn audit(workflow: &Workflow<'_>, report: &mut Report<'_>) {
    dangerous(workflow, report);
    concurrency(workflow, report);
    insecure_commands(workflow.root, "top", report);
    if workflow.root.get("name").is_none() {
        report.add("workflow/anonymous-definition", workflow.root, "", "the workflow has no name");
    }
}

fn dangerous(workflow: &Workflow<'_>, report: &mut Report<'_>) {
    if let Some((key, _)) = workflow.trigger("pull_request_target").filter(|_| !is_labeler(workflow)) {
        let message =
            "`pull_request_target` runs with the repository's secrets for pull requests of strangers";
        report.add("workflow/dangerous-triggers", key, "pull_request_target", message);
    }
    for (name, after) in [("workflow_run", "a run"), ("issue_comment", "a comment")] {
        if let Some((key, _)) = workflow.trigger(name) {
            let message =
                format!("`{name}` runs with the repository's secrets after {after} that may be a stranger's");
            report.add("workflow/dangerous-triggers", key, name, message);
        }
    }
}

/// The one use that GitHub itself recommends: a single job with the single step `actions/labeler`.
fn is_labeler(workflow: &Workflow<'_>) -> bool {
    let [job] = workflow.jobs.as_slice() else { return false };
    let steps = job.steps();
    matches!(steps.as_slice(), [step] if step.uses().is_some_and(|(action, _)| action.eq_ignore_ascii_case("actions/labeler")))
}

fn concurrency(workflow: &Workflow<'_>, report: &mut Report<'_>) {
    if workflow.is_reusable_only() {
        return;
    }
    let is_whole = |node: &Node| node.is_map();
    match workflow.root.get("concurrency") {
        Some(node) if is_whole(node) => {}
        Some(node) => {
            let message = "`concurrency` does not say whether a newer run cancels an older one";
            report.add("workflow/concurrency-limits", node, "top", message);
        }
        None => {
            let lacking: Vec<&str> = workflow
                .jobs
                .iter()
                .filter(|job| !job.is_reusable_call() && !job.node.get("concurrency").is_some_and(is_whole))
                .map(|job| job.id)
                .collect();
            if let Some(place) = workflow.root.entry("on").map(|(key, _)| key).filter(|_| !lacking.is_empty())
            {
                let message = format!("no concurrency limit for the jobs {}", lacking.join(", "));
                report.add("workflow/concurrency-limits", place, "top", message);
            }
        }
    }
}

/// For the workflow, a job or a step.
pub(super) fn insecure_commands(node: &Node, scope: &str, report: &mut Report<'_>) {
    let Some(env) = node.get("env") else { return };
    if env.text().is_some_and(|text| text.contains("${{")) {
        let message = "the whole environment is an expression, which may switch insecure commands on";
        report.add("workflow/insecure-commands", env, scope, message);
        report.with(finding::Severity::Note);
    }
    let Some((key, value)) = env.entry("ACTIONS_ALLOW_UNSECURE_COMMANDS") else { return };
    if value.text().is_some_and(|text| text.eq_ignore_ascii_case("true") || text == "1") {
        let message = "ACTIONS_ALLOW_UNSECURE_COMMANDS lets every printed line set variables of later steps";
        report.add("workflow/insecure-commands", key, scope, message);
    }
}
