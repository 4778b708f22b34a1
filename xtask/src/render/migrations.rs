//! What became of migrations, and the rules they are judged by.

use std::fmt::Write as _;

use anyhow::Result;
use data::migration::Judgement;
use finding::{Rule, Severity};
use serde_json::json;

use super::{document, print};

/// Prints what was found in migrations.
pub(crate) fn migrations(judgement: &Judgement, as_json: bool) -> Result<()> {
    let refused = judgement.refused().count();
    if as_json {
        let value = json!({
            "files": judgement.files,
            "statements": judgement.statements,
            "refused": refused,
            "findings": judgement.findings,
            "allowed": judgement.allowed,
        });
        return document("slipway.migrations/1", value);
    }
    let mut text = String::new();
    for finding in &judgement.findings {
        let verdict = if finding.severity >= Severity::High { "refused" } else { finding.severity.name() };
        writeln!(text, "{}: {verdict}: {} [{}]", finding.place, finding.message, finding.rule.id)?;
        writeln!(text, "    why: {}\n    fix: {}", finding.rule.why, finding.rule.fix)?;
    }
    for allowed in &judgement.allowed {
        let finding = &allowed.finding;
        writeln!(
            text,
            "{}: allowed: {} [{}], because {}",
            finding.place, finding.message, finding.rule.id, allowed.because
        )?;
    }
    let (files, statements) = (judgement.files, judgement.statements);
    let (others, allowed) = (judgement.findings.len() - refused, judgement.allowed.len());
    writeln!(
        text,
        "{statements} statements in {files} files: {refused} refused, {others} warnings, {allowed} allowed"
    )?;
    print(&text)
}

/// Prints the rules.
pub(crate) fn migration_rules(rules: &[Rule], as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.migration-rules/1", json!({ "rules": rules }));
    }
    let mut text = String::new();
    for rule in rules {
        writeln!(text, "{}: {}\n    {}\n    {}", rule.id, rule.title, rule.why, rule.fix)?;
    }
    print(&text)
}
