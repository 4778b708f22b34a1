//! Annotations of a check run from files of findings. Which form a file has is seen in the file; whatever a file says, the
//! result is within GitHub's bounds.

use std::path::Path;

use anyhow::{Context, Result, bail};
use finding::{Place, Severity};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::request::Level;
use crate::{files, sarif};

/// The schema of our own generic form: `{"schema": …, "annotations": [{"path", "line", "level", "title", "message"}]}`.
const GENERIC: &str = "slipway.annotations/1";

/// The schema of scan reports.
pub(crate) const SCAN: &str = "slipway.scan/1";

/// A check run with more is of no use to a reader; each fifty cost a request.
pub(crate) const MAX_ANNOTATIONS: usize = 1_000;

/// GitHub's bounds: 64 KB for a message, 255 characters for a title.
const MAX_MESSAGE: usize = 16_000;
const MAX_TITLE: usize = 255;

/// A remark on a line of a file.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Annotation {
    /// Relative to the repository's root.
    pub(crate) path: String,
    /// From 1.
    #[serde(default = "one")]
    pub(crate) line: u32,
    pub(crate) level: Level,
    #[serde(default)]
    pub(crate) title: String,
    pub(crate) message: String,
}

/// A finding of a scan report, without what this crate does not use.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Scanned {
    pub(crate) severity: Severity,
    pub(crate) rule: finding::Rule,
    pub(crate) place: Place,
    pub(crate) message: String,
    pub(crate) key: String,
    /// Whether it is against the policy of the scan; not every report says.
    #[serde(default)]
    pub(crate) fails: Option<bool>,
}

fn one() -> u32 {
    1
}

/// The annotations of a file, sorted, the worst first.
pub(crate) fn load(path: &Path) -> Result<Vec<Annotation>> {
    let document = files::json(path)?;
    let found = from_document(&document).with_context(|| format!("cannot use {}", path.display()))?;
    Ok(found)
}

fn from_document(document: &Value) -> Result<Vec<Annotation>> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Generic {
        #[serde(rename = "schema")]
        _schema: String,
        annotations: Vec<Annotation>,
    }
    match document["schema"].as_str() {
        Some(GENERIC) => Ok(Generic::deserialize(document)?.annotations),
        Some(SCAN) => Ok(scanned(document)?.iter().map(of_finding).collect()),
        Some(other) => bail!("the schema `{other}` is not known: {GENERIC}, {SCAN} or SARIF 2.1.0"),
        None if document["version"] == "2.1.0" && document["runs"].is_array() => sarif::annotations(document),
        None => bail!("it is neither {GENERIC} nor {SCAN} nor SARIF 2.1.0"),
    }
}

/// The findings of a scan report.
pub(crate) fn scanned(document: &Value) -> Result<Vec<Scanned>> {
    let findings = document["findings"].as_array().context("it has no list `findings`")?;
    findings
        .iter()
        .enumerate()
        .map(|(at, finding)| Scanned::deserialize(finding).with_context(|| format!("findings[{at}]")))
        .collect()
}

fn of_finding(finding: &Scanned) -> Annotation {
    let (path, line) = match &finding.place {
        Place::File { path, line, .. } => (path.clone(), line.unwrap_or(1)),
        // GitHub shows annotations on files only: the place is part of the message below.
        Place::Commit { path, .. } => (path.clone(), 1),
        Place::Image { service, .. } => (service.clone(), 1),
    };
    let level = match (finding.fails, finding.severity) {
        (Some(true), _) => Level::Failure,
        (_, Severity::Note) => Level::Notice,
        (Some(false), _) => Level::Warning,
        (None, Severity::Low) => Level::Notice,
        (None, Severity::Medium) => Level::Warning,
        (None, Severity::High | Severity::Critical) => Level::Failure,
    };
    let message = format!("{} ({})\n\n{}", finding.message, finding.place, finding.rule.fix);
    Annotation { path, line, level, title: format!("{}: {}", finding.rule.id, finding.rule.title), message }
}

impl Annotation {
    /// GitHub's form. Messages are shown as they are, not as Markdown.
    pub(crate) fn to_json(&self) -> Value {
        let line = self.line.clamp(1, 1_000_000_000);
        let mut shown = json!({
            "path": if self.path.is_empty() { "unknown" } else { &self.path },
            "start_line": line,
            "end_line": line,
            "annotation_level": self.level.name(),
            "message": if self.message.trim().is_empty() { "no message".to_owned() } else { cut(&self.message, MAX_MESSAGE) },
        });
        if !self.title.is_empty() {
            shown["title"] = json!(cut(&self.title, MAX_TITLE));
        }
        shown
    }
}

fn cut(text: &str, bound: usize) -> String {
    match text.char_indices().nth(bound - 1) {
        Some((end, _)) if text.chars().count() > bound => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_told_apart_and_others_refused() {
        let generic = json!({ "schema": GENERIC, "annotations": [
            { "path": "a.rs", "line": 3, "level": "warning", "message": "m" }] });
        assert_eq!(from_document(&generic).unwrap()[0].line, 3);
        let scan = json!({ "schema": SCAN, "more": 1, "findings": [{
            "severity": "high", "key": "k", "message": "m", "fingerprint": "x",
            "place": { "image": { "service": "api", "path": "bin/sh" } },
            "rule": { "id": "images/shell", "check": "images", "title": "t", "why": "w", "fix": "f", "url": null } }] });
        let found = &from_document(&scan).unwrap()[0];
        assert_eq!((found.level, found.title.as_str()), (Level::Failure, "images/shell: t"));
        assert_eq!(found.message, "m (/bin/sh in the image of api)\n\nf");
        let mut allowed = scan;
        allowed["findings"][0]["fails"] = json!(false);
        assert_eq!(from_document(&allowed).unwrap()[0].level, Level::Warning);
        for bad in [
            json!({}),
            json!([]),
            json!({ "schema": "other/1" }),
            json!({ "schema": SCAN }),
            json!({ "schema": SCAN, "findings": [{}] }),
            json!({ "version": "2.1.0" }),
        ] {
            assert!(from_document(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
    }
}
