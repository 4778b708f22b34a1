//! Findings as SARIF 2.1.0, in the form that GitHub's code scanning takes. The document is a value of its input alone: no
//! clock, no path of the machine. Invariant: every result has a file and a line, because readers of SARIF show nothing else.
//!
//! Source: OASIS SARIF 2.1.0 and GitHub's "SARIF support for code scanning"; the judge is the reference validator with the
//! rule kinds `Sarif` and `Gh`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{Finding, Place, Rule, Severity, Waived};

/// GitHub refuses a file with more results.
const MOST_RESULTS: usize = 25_000;
/// Paths are relative to this, whatever folder a reader has the repository in.
const ROOT: &str = "%SRCROOT%";

/// A name, not a page: validators ask for one, and a page on somebody else's host would be worse than none.
const INFORMATION_URI: &str = "urn:slipway:scan";

/// What a SARIF document is made of.
#[derive(Debug, Clone, Copy)]
pub struct Sarif<'a> {
    /// Version of this tool, by semantic versioning.
    pub version: &'a str,
    /// What counts.
    pub open: &'a [Finding],
    /// What waivers cover: shown as suppressed.
    pub waived: &'a [Waived],
    /// The workspace file that stands for the image of a service, by the service's name: an image has no file of its own
    /// that a reader could open.
    pub service_files: &'a BTreeMap<String, String>,
}

/// The document. Results stand most severe first; beyond the 25,000 that GitHub takes the least severe are left out.
pub fn sarif(input: &Sarif<'_>) -> Value {
    let mut results: Vec<(&Finding, Option<&Waived>)> = input
        .open
        .iter()
        .map(|finding| (finding, None))
        .chain(input.waived.iter().map(|waived| (&waived.finding, Some(waived))))
        .collect();
    results.sort_by(|(a, _), (b, _)| b.severity.cmp(&a.severity).then_with(|| a.cmp(b)));
    results.truncate(MOST_RESULTS);
    let rules = rules(results.iter().map(|(finding, _)| *finding));
    let index: BTreeMap<&str, usize> = rules.keys().enumerate().map(|(index, id)| (*id, index)).collect();
    let result = |(finding, waived): &(&Finding, Option<&Waived>)| {
        result(input, finding, *waived, index[finding.rule.id.as_str()])
    };
    json!({
        "$schema": "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json",
        "version": "2.1.0",
        "runs": [{
            "tool": { "driver": {
                "name": "Slipway",
                "fullName": "Slipway scan",
                "version": input.version,
                "semanticVersion": input.version,
                "informationUri": INFORMATION_URI,
                "rules": rules.values().map(|(rule, severity)| reporting_descriptor(rule, *severity)).collect::<Vec<_>>(),
            } },
            "automationDetails": { "id": "slipway/scan/" },
            "columnKind": "unicodeCodePoints",
            "originalUriBaseIds": { ROOT: { "description": { "text": "The root of the workspace." } } },
            "results": results.iter().map(result).collect::<Vec<_>>(),
        }],
    })
}

/// Each rule once, with the highest severity that it was found with.
fn rules<'a>(findings: impl Iterator<Item = &'a Finding>) -> BTreeMap<&'a str, (&'a Rule, Severity)> {
    let mut rules: BTreeMap<&str, (&Rule, Severity)> = BTreeMap::new();
    for finding in findings {
        let known = rules.entry(&finding.rule.id).or_insert((&finding.rule, finding.severity));
        known.1 = known.1.max(finding.severity);
    }
    rules
}

fn reporting_descriptor(rule: &Rule, severity: Severity) -> Value {
    let mut value = json!({
        "id": rule.id,
        "name": pascal_case(&rule.id),
        "shortDescription": { "text": sentence(&rule.title) },
        "fullDescription": { "text": sentence(&rule.why) },
        "help": {
            "text": format!("{} {}", sentence(&rule.why), sentence(&rule.fix)),
            "markdown": format!("{}\n\n**Fix:** {}", sentence(&rule.why), sentence(&rule.fix)),
        },
        "defaultConfiguration": { "level": level(severity) },
        "properties": {
            "precision": "high",
            "problem.severity": problem_severity(severity),
            "tags": ["security", rule.check.name()],
        },
    });
    if severity > Severity::Note {
        value["properties"]["security-severity"] = json!(security_severity(severity));
    }
    if let Some(url) = rule.url.as_deref().filter(|url| url.starts_with("https://")) {
        value["helpUri"] = json!(url);
    }
    value
}

fn result(input: &Sarif<'_>, finding: &Finding, waived: Option<&Waived>, rule_index: usize) -> Value {
    let mut value = json!({
        "ruleId": finding.rule.id,
        "ruleIndex": rule_index,
        "level": level(finding.severity),
        "message": { "text": sentence(&message(finding)) },
        "locations": [{ "physicalLocation": physical_location(&finding.place, input.service_files) }],
        "partialFingerprints": { "slipwayFinding/v1": finding.fingerprint().hex() },
    });
    if let Some(Waived { waiver, .. }) = waived {
        let justification =
            format!("{} ({}, until {})", waiver.reason.trim(), waiver.owner.trim(), waiver.expires);
        value["suppressions"] =
            json!([{ "kind": "external", "status": "accepted", "justification": justification }]);
    }
    value
}

/// The message, with what a file and a line cannot say of the place.
fn message(finding: &Finding) -> String {
    match &finding.place {
        Place::File { .. } => finding.message.clone(),
        Place::Commit { .. } | Place::Image { .. } => {
            format!("{} ({})", finding.message.trim_end_matches('.'), finding.place)
        }
    }
}

fn physical_location(place: &Place, service_files: &BTreeMap<String, String>) -> Value {
    let (path, line, column) = match place {
        Place::File { path, line, column } => (path.as_str(), *line, *column),
        Place::Commit { path, line, .. } => (path.as_str(), *line, None),
        Place::Image { service, .. } => {
            (service_files.get(service).map_or("Cargo.toml", String::as_str), None, None)
        }
    };
    let mut region = json!({ "startLine": line.unwrap_or(1).max(1) });
    if let Some(column) = column.filter(|_| line.is_some()) {
        region["startColumn"] = json!(column.max(1));
    }
    json!({ "artifactLocation": { "uri": uri(path), "uriBaseId": ROOT }, "region": region })
}

fn level(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "note",
        Severity::Low | Severity::Medium => "warning",
        Severity::High | Severity::Critical => "error",
    }
}

fn problem_severity(severity: Severity) -> &'static str {
    match level(severity) {
        "note" => "recommendation",
        level => level,
    }
}

/// The middle of the band that GitHub shows under this name.
fn security_severity(severity: Severity) -> &'static str {
    match severity {
        Severity::Note => "0.0",
        Severity::Low => "2.0",
        Severity::Medium => "5.5",
        Severity::High => "8.0",
        Severity::Critical => "9.5",
    }
}

/// `secret/private-key` as `SecretPrivateKey`: how SARIF wants names of rules.
fn pascal_case(id: &str) -> String {
    let words = id.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    let word = |word: &str| {
        let (first, rest) = word.split_at(1);
        let rest =
            if word.chars().all(|c| !c.is_ascii_lowercase()) { rest.to_lowercase() } else { rest.to_owned() };
        format!("{}{rest}", first.to_uppercase())
    };
    words.map(word).collect()
}

/// The text with a capital first letter and a full stop. Nothing in it is a placeholder: SARIF reads braces as such.
fn sentence(text: &str) -> String {
    let text = text.trim().replace('{', "{{").replace('}', "}}");
    let mut chars = text.chars();
    let text = match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect::<String>(),
        None => "?".to_owned(),
    };
    if text.ends_with(['.', '!', '?']) { text } else { format!("{text}.") }
}

/// A relative path as a URI reference (RFC 3986).
fn uri(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use jiff::civil::date;

    use super::*;
    use crate::Waiver;
    use crate::tests::finding;

    fn document(open: &[Finding], waived: &[Waived]) -> Value {
        let service_files = BTreeMap::from([("api".to_owned(), "services/api/service.yaml".to_owned())]);
        let input = Sarif { version: "1.2.3", open, waived, service_files: &service_files };
        sarif(&input)["runs"][0].clone()
    }

    #[test]
    fn a_rule_stands_once_with_its_highest_severity() {
        let mut low = finding(1, "a");
        low.severity = Severity::Low;
        let run = document(&[low, finding(2, "b")], &[]);
        let rules = run["tool"]["driver"]["rules"].as_array().unwrap();
        assert_eq!(rules.len(), 1);
        assert_eq!(rules[0]["properties"]["security-severity"], "8.0");
        assert_eq!(rules[0]["name"], "SecretPrivateKey");
        let levels: Vec<_> = run["results"].as_array().unwrap().iter().map(|r| &r["level"]).collect();
        assert_eq!(levels, ["error", "warning"]);
    }

    #[test]
    fn an_image_is_shown_at_its_services_file() {
        let mut found = finding(1, "a");
        found.place = Place::Image { service: "api".into(), path: Some("bin/sh".into()) };
        let run = document(&[found], &[]);
        let location = &run["results"][0]["locations"][0]["physicalLocation"];
        assert_eq!(location["artifactLocation"]["uri"], "services/api/service.yaml");
        assert_eq!(location["region"]["startLine"], 1);
        let text = run["results"][0]["message"]["text"].as_str().unwrap();
        assert!(text.ends_with("(/bin/sh in the image of api)."), "{text}");
    }

    #[test]
    fn what_is_waived_is_suppressed_with_its_reason() {
        let waiver = Waiver {
            rule: "secret/private-key".into(),
            place: None,
            package: None,
            fingerprint: None,
            reason: "a test key".into(),
            owner: "team-a".into(),
            expires: date(2030, 1, 1),
        };
        let run = document(&[], &[Waived { finding: finding(1, "a"), waiver }]);
        let suppression = &run["results"][0]["suppressions"][0];
        assert_eq!(suppression["justification"], "a test key (team-a, until 2030-01-01)");
    }

    #[test]
    fn texts_and_paths_are_made_fit() {
        assert_eq!(uri("a b/ü%.rs"), "a%20b/%C3%BC%25.rs");
        assert_eq!(sentence("uses ${{ x }}"), "Uses ${{{{ x }}}}.");
        assert_eq!(pascal_case("RUSTSEC-2021-0003"), "Rustsec20210003");
    }
}
