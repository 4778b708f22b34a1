//! Service files, workspace settings, environments and manifests below `deploy/`, judged by their text: whatever a key will
//! mean to the deployment, what stands there can be dangerous. It does not check that keys exist; loading does that.

mod keys;
mod service;
mod values;

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result};
use finding::{Finding, Place};

use crate::rules;
use crate::yaml::{Document, Node};

/// Folders that hold no configuration of ours.
const PASSED_OVER: [&str; 4] = ["target", "node_modules", ".git", ".slipway"];
/// Deeper folders are not looked into.
const MAX_DEPTH: usize = 8;
/// Environments that serve nobody but who works on the code.
const OWN_ENVIRONMENTS: [&str; 7] = ["local", "dev", "development", "test", "testing", "ci", "debug"];

/// What is wrong with `slipway.yaml`, every `service.yaml` and every YAML file below `deploy/` of the workspace at `root`.
/// Findings are sorted by place.
///
/// # Errors
/// When a folder cannot be listed. A file that cannot be parsed is a finding.
pub fn configuration(root: &Path) -> Result<Vec<Finding>> {
    let mut files = BTreeSet::new();
    list(root, "", 0, &mut files)?;
    let mut findings = Vec::new();
    for path in files {
        match Document::read(root, &path) {
            Ok(document) => findings.extend(audit(&document)),
            Err(error) => findings.push(rules::finding(
                "config/not-readable",
                Place::file(&path),
                "",
                format!("{error:#}"),
            )),
        }
    }
    findings.sort_by(|a, b| (&a.place, &a.rule.id, &a.key).cmp(&(&b.place, &b.rule.id, &b.key)));
    Ok(findings)
}

fn list(root: &Path, folder: &str, depth: usize, files: &mut BTreeSet<String>) -> Result<()> {
    let path = root.join(folder);
    for entry in std::fs::read_dir(&path).with_context(|| format!("cannot list {}", path.display()))? {
        let entry = entry?;
        let (name, kind) = (entry.file_name().to_string_lossy().into_owned(), entry.file_type()?);
        let path = if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") };
        let is_yaml = name.ends_with(".yaml") || name.ends_with(".yml");
        let is_ours = name == "service.yaml" || path == "slipway.yaml" || path.starts_with("deploy/");
        if kind.is_dir()
            && depth < MAX_DEPTH
            && !PASSED_OVER.contains(&name.as_str())
            && !is_other_target(root, &path)
            && !is_chart_templates(root, folder, &name)
        {
            list(root, &path, depth + 1, files)?;
        } else if kind.is_file() && is_yaml && is_ours {
            files.insert(path);
        }
    }
    Ok(())
}

/// Cargo marks its output folders, whatever they are called.
fn is_other_target(root: &Path, path: &str) -> bool {
    root.join(path).join("CACHEDIR.TAG").is_file()
}

/// Templates of a Helm chart are programs that write YAML, and none themselves.
fn is_chart_templates(root: &Path, folder: &str, name: &str) -> bool {
    name == "templates" && root.join(folder).join("Chart.yaml").is_file()
}

/// What is wrong with one file.
pub(crate) fn audit(document: &Document) -> Vec<Finding> {
    let name = document.path.rsplit('/').next().unwrap_or_default();
    let stem = name.split('.').next().unwrap_or_default();
    let is_environment = document.path.starts_with("deploy/environments/");
    let mut report = Report { document, findings: Vec::new() };
    for root in &document.roots {
        if name == "service.yaml" && !document.path.starts_with("deploy/") {
            service::audit(root, &mut report);
        }
        let serves_others = is_environment && !OWN_ENVIRONMENTS.contains(&stem);
        let kind = Kind { serves_others, is_service: name == "service.yaml" };
        walk(root, &mut Vec::new(), &kind, &mut report);
    }
    report.findings
}

/// What the file is.
struct Kind {
    /// An environment whose users are not its developers.
    serves_others: bool,
    is_service: bool,
}

/// Every key with the path to it.
fn walk<'n>(node: &'n Node, path: &mut Vec<&'n str>, kind: &Kind, report: &mut Report<'_>) {
    for item in node.items() {
        values::listed(item, kind, report);
        walk(item, path, kind, report);
    }
    for (name, key, value) in node.entries() {
        keys::audit((name, key, value), path, kind, report);
        values::audit((name, key, value), path, kind, report);
        path.push(name);
        walk(value, path, kind, report);
        path.pop();
    }
}

struct Report<'a> {
    document: &'a Document,
    findings: Vec<Finding>,
}

impl Report<'_> {
    fn add(&mut self, id: &'static str, node: &Node, key: &str, message: impl Into<String>) {
        let place = Place::file_line(&self.document.path, node.line, node.column);
        self.findings.push(rules::finding(id, place, key, message));
    }
}

#[cfg(test)]
mod tests;
