//! Expressions inside code: scripts of `run` and inputs that actions run as code. What is pasted there is judged by who can
//! choose its value.

use std::collections::BTreeMap;

use finding::Severity;

use super::expression::{contexts, fenced};
use super::{Job, Report, Step, Workflow};
use crate::yaml::{Node, Value};

/// Actions that run an input as code, and that input.
const SINKS: [(&str, &[&str]); 14] = [
    ("actions/github-script", &["script"]),
    ("addnab/docker-run-action", &["options", "run"]),
    ("amadevus/pwsh-script", &["script"]),
    ("appleboy/ssh-action", &["script"]),
    ("azure/cli", &["inlinescript"]),
    ("azure/powershell", &["inlinescript"]),
    ("cardinalby/js-eval-action", &["expression"]),
    ("devorbitus/yq-action-output", &["cmd"]),
    ("jannekem/run-python-script-action", &["script"]),
    ("mikefarah/yq", &["cmd"]),
    ("nick-fields/retry", &["command", "on_retry_command"]),
    ("reactivecircus/android-emulator-runner", &["script"]),
    ("satackey/action-js-inline", &["script"]),
    ("roots/issue-closer", &["issue-close-message", "pr-close-message"]),
];

/// Further expressions of one script are given the place of the script.
const MAX_PLACED: usize = 64;

/// Contexts whose value is chosen by GitHub and has no room for code.
const FIXED: [&str; 31] = [
    "github.action_path",
    "github.actor_id",
    "github.api_url",
    "github.event_name",
    "github.event_path",
    "github.graphql_url",
    "github.job",
    "github.ref_protected",
    "github.ref_type",
    "github.repository",
    "github.repository_id",
    "github.repository_owner",
    "github.repository_owner_id",
    "github.repositoryurl",
    "github.retention_days",
    "github.run_attempt",
    "github.run_id",
    "github.run_number",
    "github.secret_source",
    "github.server_url",
    "github.sha",
    "github.token",
    "github.triggering_actor",
    "github.workflow_sha",
    "github.workspace",
    "runner.arch",
    "runner.debug",
    "runner.environment",
    "runner.os",
    "runner.temp",
    "runner.tool_cache",
];

/// Last names of parts of an event that GitHub fills with numbers, times, hashes or one of a few words.
const FIXED_EVENT_PARTS: [&str; 16] = [
    "action",
    "additions",
    "after",
    "before",
    "changed_files",
    "commits_count",
    "deletions",
    "draft",
    "id",
    "merge_commit_sha",
    "merged",
    "number",
    "private",
    "run_attempt",
    "run_number",
    "sha",
];

pub(super) fn audit(workflow: &Workflow<'_>, job: &Job<'_>, step: &Step<'_>, report: &mut Report<'_>) {
    if let Some(run) = step.node.get("run") {
        code(run, workflow, job, step, report);
    }
    let Some((action, _)) = step.uses() else { return };
    let inputs =
        SINKS.iter().filter(|(sink, _)| action.eq_ignore_ascii_case(sink)).flat_map(|(_, inputs)| *inputs);
    for input in inputs.filter_map(|name| step.with(name)) {
        code(input, workflow, job, step, report);
    }
}

fn code(node: &Node, workflow: &Workflow<'_>, job: &Job<'_>, step: &Step<'_>, report: &mut Report<'_>) {
    let text = node.text().unwrap_or_default();
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    for (number, expression) in fenced(text).into_iter().enumerate() {
        let occurrence = seen.entry(expression.raw).or_default();
        let place = match number {
            ..MAX_PLACED => report.document.find(node, expression.raw, *occurrence),
            _ => (node.line, node.column),
        };
        *occurrence += 1;
        let (severity, whose) = judge(expression.inner, workflow, job, step);
        let message = format!("`{}` is pasted into code; {whose}", expression.raw.replace('\n', " "));
        let key = format!("{}:{}", step.scope, expression.inner);
        report.add_at("workflow/template-injection", place, &key, message);
        report.with(severity);
    }
}

/// The worst of the contexts that reach the result.
fn judge(inner: &str, workflow: &Workflow<'_>, job: &Job<'_>, step: &Step<'_>) -> (Severity, String) {
    let harmless =
        (Severity::Note, "its value leaves no room for code, but a variable is safer still".to_owned());
    let Some(contexts) = contexts(inner) else {
        return (Severity::Low, "it cannot be read as an expression".to_owned());
    };
    let judged = contexts.iter().map(|context| match one(context, workflow, job, step) {
        (Severity::Note, _) => harmless.clone(),
        (severity, whose) => (severity, format!("`{context}` {whose}")),
    });
    judged.max_by_key(|(severity, _)| *severity).unwrap_or(harmless)
}

fn one(context: &str, workflow: &Workflow<'_>, job: &Job<'_>, step: &Step<'_>) -> (Severity, &'static str) {
    let (head, rest) = context.split_once('.').unwrap_or((context, ""));
    match head {
        _ if FIXED.contains(&context) => (Severity::Note, ""),
        "github" if rest.starts_with("event.inputs.") => input(&rest["event.inputs.".len()..], workflow),
        "github" if is_fixed_event_part(rest) => (Severity::Note, ""),
        "github" => {
            (Severity::High, "can be chosen by whoever opens a pull request or issue or names a branch")
        }
        "inputs" => input(rest, workflow),
        "env" => match env_is_static(rest, workflow, job, step) {
            true => (Severity::Note, ""),
            false => (Severity::Low, "may hold anything that an earlier step wrote"),
        },
        "matrix" => match job.node.at(&["strategy", "matrix"]) {
            Some(matrix) if is_static(matrix) => (Severity::Note, ""),
            Some(_) => (Severity::Medium, "is computed, and may hold code"),
            None => (Severity::Note, ""),
        },
        "steps" | "needs" if ["result", "outcome", "conclusion"].iter().any(|part| rest.ends_with(part)) => {
            (Severity::Note, "")
        }
        "steps" | "needs" => (Severity::Low, "is the output of other code, and may hold code"),
        _ => (Severity::Note, ""),
    }
}

fn is_fixed_event_part(rest: &str) -> bool {
    let last = rest.rsplit('.').next().unwrap_or_default();
    rest.starts_with("event.") && FIXED_EVENT_PARTS.contains(&last)
}

fn input(name: &str, workflow: &Workflow<'_>) -> (Severity, &'static str) {
    let declared = workflow.inputs.iter().find_map(|inputs| inputs.get(name));
    match declared.and_then(|input| input.text_of("type")) {
        Some("boolean" | "number" | "choice") => (Severity::Note, ""),
        Some("string") | None if declared.is_some() => (Severity::High, "can be chosen by whoever starts it"),
        _ => (Severity::Low, "can be chosen by whoever starts it"),
    }
}

/// Whether the nearest declaration of the variable has no expression in it.
fn env_is_static(name: &str, workflow: &Workflow<'_>, job: &Job<'_>, step: &Step<'_>) -> bool {
    let levels = [step.node, job.node, workflow.root];
    let declared = levels.iter().find_map(|node| node.get("env")?.get(name));
    declared.is_some_and(|value| value.text().is_some_and(|text| !text.contains("${{")))
}

fn is_static(node: &Node) -> bool {
    match &node.value {
        Value::Scalar(text) => !text.contains("${{"),
        Value::List(items) => items.iter().all(|item| is_static(item)),
        Value::Map(entries) => entries.iter().all(|(_, value)| is_static(value)),
    }
}
