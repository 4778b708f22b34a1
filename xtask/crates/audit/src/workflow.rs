//! GitHub Actions workflows and actions: finds the files and asks every audit about each. It knows where things stand in a
//! workflow; what is wrong with them is decided in the modules below.

mod expression;
mod injection;
mod permissions;
mod steps;
mod triggers;

use std::cell::OnceCell;
use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use finding::{Finding, Place, Severity};

use crate::rules;
use crate::yaml::{Document, Node, Value};

/// Workflows and actions of the workspace at `root`: `.github/workflows/*.yml`, and the `action.yml` of the root and of all
/// folders below `.github`. Findings are sorted by place.
///
/// # Errors
/// When a folder cannot be listed. A file that cannot be parsed is a finding.
pub fn workflows(root: &Path) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for path in files(root)? {
        match Document::read(root, &path) {
            Ok(document) => findings.extend(audit(&document)),
            Err(error) => {
                findings.push(rules::finding(
                    "workflow/not-readable",
                    Place::file(&path),
                    "",
                    format!("{error:#}"),
                ));
            }
        }
    }
    findings.sort_by(|a, b| (&a.place, &a.rule.id, &a.key).cmp(&(&b.place, &b.rule.id, &b.key)));
    Ok(findings)
}

/// Folders below this depth hold no action that GitHub would find by a short name.
const MAX_FOLDERS: usize = 6;

fn files(root: &Path) -> Result<BTreeSet<String>> {
    let mut files = BTreeSet::new();
    let is_yaml = |name: &str| name.ends_with(".yml") || name.ends_with(".yaml");
    for (name, is_dir) in list(&root.join(".github/workflows"))? {
        if !is_dir && is_yaml(&name) {
            files.insert(format!(".github/workflows/{name}"));
        }
    }
    for name in ["action.yml", "action.yaml"].iter().filter(|name| root.join(name).is_file()) {
        files.insert((*name).to_owned());
    }
    let mut folders = vec![(".github".to_owned(), 0)];
    while let Some((folder, depth)) = folders.pop() {
        for (name, is_dir) in list(&root.join(&folder))? {
            let path = format!("{folder}/{name}");
            if is_dir && depth < MAX_FOLDERS {
                folders.push((path, depth + 1));
            } else if !is_dir && (name == "action.yml" || name == "action.yaml") {
                files.insert(path);
            }
        }
    }
    Ok(files)
}

/// Names in a folder and whether each is a folder; nothing where it is missing. Links are passed over.
fn list(folder: &Path) -> Result<Vec<(String, bool)>> {
    if !folder.is_dir() {
        return Ok(vec![]);
    }
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("cannot list {}", folder.display()))? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_file() || kind.is_dir() {
            names.push((entry.file_name().to_string_lossy().into_owned(), kind.is_dir()));
        }
    }
    names.sort();
    Ok(names)
}

/// What is wrong with one file.
pub(crate) fn audit(document: &Document) -> Vec<Finding> {
    let mut report = Report { document, findings: Vec::new() };
    for root in &document.roots {
        if let Some(runs) = root.get("runs") {
            audit_action(root, runs, &mut report);
        } else if let Some(jobs) = root.get("jobs") {
            audit_workflow(&Workflow::new(root, jobs), &mut report);
        }
    }
    report.findings
}

fn audit_action(root: &Node, runs: &Node, report: &mut Report<'_>) {
    let action =
        Workflow { root, triggers: vec![], jobs: vec![], inputs: root.get("inputs").into_iter().collect() };
    let job = Job { id: "runs", key: runs, node: runs, publishes: OnceCell::new() };
    for step in job.steps() {
        steps::audit(&action, &job, &step, report);
        injection::audit(&action, &job, &step, report);
    }
    if let Some(image) =
        runs.get("image").filter(|image| image.text().is_some_and(|text| text.starts_with("docker://")))
    {
        steps::image(image, "runs", report);
    }
}

fn audit_workflow(workflow: &Workflow<'_>, report: &mut Report<'_>) {
    triggers::audit(workflow, report);
    permissions::audit(workflow, report);
    for job in &workflow.jobs {
        steps::audit_job(workflow, job, report);
        for step in job.steps() {
            steps::audit(workflow, job, &step, report);
            injection::audit(workflow, job, &step, report);
        }
    }
}

/// Collects the findings of one file.
struct Report<'a> {
    document: &'a Document,
    findings: Vec<Finding>,
}

impl Report<'_> {
    /// A finding at a node, with its rule's severity.
    fn add(&mut self, id: &'static str, node: &Node, key: &str, message: impl Into<String>) {
        self.add_at(id, (node.line, node.column), key, message);
    }

    fn add_at(
        &mut self,
        id: &'static str,
        (line, column): (u32, u32),
        key: &str,
        message: impl Into<String>,
    ) {
        let place = Place::file_line(&self.document.path, line, column);
        self.findings.push(rules::finding(id, place, key, message));
    }

    /// Changes the severity of the finding that was added last.
    fn with(&mut self, severity: Severity) {
        if let Some(last) = self.findings.last_mut() {
            last.severity = severity;
        }
    }
}

/// A workflow, or an action seen as one of a single job.
struct Workflow<'a> {
    root: &'a Node,
    /// Name, place and settings of each trigger.
    triggers: Vec<(&'a str, &'a Node, Option<&'a Node>)>,
    jobs: Vec<Job<'a>>,
    /// Declarations of inputs.
    inputs: Vec<&'a Node>,
}

struct Job<'a> {
    id: &'a str,
    key: &'a Node,
    node: &'a Node,
    /// Whether what it makes reaches users; found out when it is first asked for.
    publishes: OnceCell<bool>,
}

struct Step<'a> {
    node: &'a Node,
    /// `<job>/<id, name or number>`.
    scope: String,
}

impl<'a> Workflow<'a> {
    fn new(root: &'a Node, jobs: &'a Node) -> Workflow<'a> {
        let mut triggers = Vec::new();
        if let Some(on) = root.get("on") {
            match &on.value {
                Value::Scalar(name) => triggers.push((name.as_str(), on, None)),
                Value::List(names) => {
                    triggers.extend(names.iter().filter_map(|name| Some((name.text()?, name.as_ref(), None))))
                }
                Value::Map(_) => {
                    triggers.extend(on.entries().map(|(name, key, value)| (name, key, Some(value))))
                }
            }
        }
        let inputs = triggers.iter().filter_map(|(_, _, value)| value.as_ref()?.get("inputs")).collect();
        let jobs =
            jobs.entries().map(|(id, key, node)| Job { id, key, node, publishes: OnceCell::new() }).collect();
        Workflow { root, triggers, jobs, inputs }
    }

    fn trigger(&self, name: &str) -> Option<(&'a Node, Option<&'a Node>)> {
        self.triggers.iter().find(|(known, ..)| *known == name).map(|(_, key, value)| (*key, *value))
    }

    /// Whether other workflows call it and nothing else starts it.
    fn is_reusable_only(&self) -> bool {
        matches!(self.triggers.as_slice(), [("workflow_call", ..)])
    }
}

impl<'a> Job<'a> {
    fn steps(&self) -> Vec<Step<'a>> {
        let steps = self.node.get("steps").map(Node::items).unwrap_or_default();
        let scope = |index: usize, node: &Node| {
            let name = node.text_of("id").or_else(|| node.text_of("name")).map(str::to_owned);
            format!("{}/{}", self.id, name.unwrap_or_else(|| index.to_string()))
        };
        steps.iter().enumerate().map(|(index, node)| Step { node, scope: scope(index, node) }).collect()
    }

    fn is_reusable_call(&self) -> bool {
        self.node.get("uses").is_some()
    }
}

impl<'a> Step<'a> {
    /// Owner, name and path of the action, and its reference, where it is one of a repository.
    fn uses(&self) -> Option<(&'a str, &'a str)> {
        let uses = self.node.text_of("uses")?.trim();
        if uses.starts_with("docker://") || uses.starts_with("./") || uses.starts_with("$/") {
            return None;
        }
        uses.split_once('@')
    }

    fn with(&self, name: &str) -> Option<&'a Node> {
        self.node.get("with")?.get(name)
    }
}

#[cfg(test)]
mod tests;
