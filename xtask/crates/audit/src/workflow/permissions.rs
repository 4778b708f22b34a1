//! What the token of a workflow and of its jobs may do.

use finding::Severity;

use super::{Report, Workflow};
use crate::yaml::Node;

/// Write access to one of these lets a thief change code, releases or what is deployed.
const HIGH: [&str; 9] = [
    "actions",
    "attestations",
    "contents",
    "deployments",
    "id-token",
    "issues",
    "packages",
    "pages",
    "pull-requests",
];

pub(super) fn audit(workflow: &Workflow<'_>, report: &mut Report<'_>) {
    let top = workflow.root.get("permissions");
    let jobs_say = workflow.jobs.iter().all(|job| job.node.get("permissions").is_some());
    match top {
        None if jobs_say && !workflow.jobs.is_empty() => {
            add_missing(
                workflow,
                "no `permissions` at the top; each job has its own",
                Severity::Note,
                report,
            );
        }
        None => add_missing(
            workflow,
            "no `permissions` at the top: the token gets the repository's default",
            Severity::Medium,
            report,
        ),
        Some(node) => at_top(node, report),
    }
    for job in &workflow.jobs {
        match job.node.get("permissions") {
            Some(node) => broad(node, job.id, report),
            None if top.is_none() => {
                let message = format!("the job `{}` runs with the repository's default permissions", job.id);
                report.add("workflow/excessive-permissions", job.key, job.id, message);
            }
            None => {}
        }
        job.node.get("permissions").into_iter().for_each(|node| undocumented(node, job.id, report));
    }
    top.into_iter().for_each(|node| undocumented(node, "", report));
}

fn add_missing(workflow: &Workflow<'_>, message: &str, severity: Severity, report: &mut Report<'_>) {
    let place = workflow.root.entry("on").map_or(workflow.root, |(key, _)| key);
    report.add("workflow/excessive-permissions", place, "top", message);
    report.with(severity);
}

fn at_top(node: &Node, report: &mut Report<'_>) {
    broad(node, "top", report);
    for (name, key, value) in node.entries().filter(|(.., value)| value.text() == Some("write")) {
        let message = format!("`{name}: {}` at the top holds for all jobs", value.text().unwrap_or_default());
        report.add("workflow/excessive-permissions", key, name, message);
        report.with(if HIGH.contains(&name) { Severity::High } else { Severity::Medium });
    }
}

fn broad(node: &Node, scope: &str, report: &mut Report<'_>) {
    let severity = match node.text() {
        Some("write-all") => Severity::High,
        Some("read-all") => Severity::Medium,
        _ => return,
    };
    let message =
        format!("`{}` gives the token every permission of that kind", node.text().unwrap_or_default());
    report.add("workflow/excessive-permissions", node, scope, message);
    report.with(severity);
}

/// `contents: read` is what nearly every job needs; all else wants a word of why.
fn undocumented(node: &Node, scope: &str, report: &mut Report<'_>) {
    for (name, key, value) in node.entries() {
        let access = value.text().unwrap_or_default();
        let is_plain = access == "none" || (name == "contents" && access == "read");
        if is_plain || report.document.line(value.line).contains(" #") {
            continue;
        }
        let message = format!("nothing says what `{name}: {access}` is for");
        report.add("workflow/undocumented-permissions", key, &format!("{scope}/{name}"), message);
    }
}
