//! What comparing two builds gave.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use ::build::{Difference, Verification};
use anyhow::Result;
use serde_json::json;

use super::table::Table;
use super::{document, print, seconds};

/// Prints what comparing two builds gave.
pub(crate) fn verification(verification: &Verification, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.build-verify/1", serde_json::to_value(verification)?);
    }
    print(&text(verification)?)
}

/// Prints the same for each platform.
pub(crate) fn verifications(verifications: &BTreeMap<String, Verification>, as_json: bool) -> Result<()> {
    if as_json {
        return document("slipway.build-verify-platforms/1", json!({ "platforms": verifications }));
    }
    let of = |(platform, verification)| Ok(format!("{platform}\n{}", text(verification)?));
    print(&verifications.iter().map(of).collect::<Result<Vec<_>>>()?.join("\n"))
}

fn text(verification: &Verification) -> Result<String> {
    let mut settings = Table::new(["circumstance", "first build", "second build", ""]);
    for circumstance in &verification.circumstances {
        let note = circumstance.note.clone().unwrap_or_default();
        let first = if circumstance.first.is_empty() { "(not set)" } else { &circumstance.first };
        settings.row([circumstance.name.clone(), first.to_owned(), circumstance.second.clone(), note]);
    }
    let mut images = Table::new(["image", "digest", "second build"]);
    for service in &verification.services {
        let second =
            if service.difference.is_none() { "the same".to_owned() } else { service.second.to_string() };
        images.row([service.name.clone(), service.first.to_string(), second]);
    }
    let mut text = format!("{settings}\n{images}");
    for service in &verification.services {
        if let Some(difference) = &service.difference {
            write!(text, "\n{}", explained(&service.name, difference))?;
        }
    }
    let outcome = if verification.is_reproducible { "reproducible" } else { "NOT reproducible" };
    writeln!(text, "{outcome}: built twice, the second time in {} s", seconds(verification.elapsed_ms))?;
    Ok(text)
}

/// A difference in words, several lines.
pub(super) fn explained(service: &str, difference: &Difference) -> String {
    let package = difference.package.as_deref().unwrap_or("no package that could be told");
    let evidence = difference.evidence.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
    let kind = serde_json::to_value(difference.kind).unwrap_or_default();
    let mut lines = vec![
        format!("{service} differs in {}", difference.place),
        format!("  first differing package: {package}{evidence}"),
    ];
    if let Some(section) = &difference.section {
        let others = difference.sections.len().saturating_sub(1);
        lines.push(format!("  section: {section}, and {others} others"));
    }
    lines.push(format!("  first build:  {}", difference.first));
    lines.push(format!("  second build: {}", difference.second));
    lines.push(format!("  kind: {}", kind.as_str().unwrap_or_default()));
    lines.push(format!("  cure: {}", difference.cure));
    lines.join("\n") + "\n"
}
