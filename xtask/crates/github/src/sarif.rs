//! Annotations from SARIF 2.1.0, as far as GitHub reads it: results with their rule, level, message and first place.

use std::collections::BTreeMap;

use anyhow::Result;
use serde_json::Value;

use crate::annotation::Annotation;
use crate::request::Level;

/// The annotations of all runs. Results that a tool itself suppressed are left out.
pub(crate) fn annotations(document: &Value) -> Result<Vec<Annotation>> {
    Ok(items(&document["runs"]).iter().flat_map(run).collect())
}

fn run(run: &Value) -> Vec<Annotation> {
    let driver = &run["tool"]["driver"];
    let rules: BTreeMap<&str, &Value> =
        items(&driver["rules"]).iter().filter_map(|rule| Some((rule["id"].as_str()?, rule))).collect();
    let is_open = |result: &&Value| items(&result["suppressions"]).is_empty();
    items(&run["results"]).iter().filter(is_open).map(|result| annotation(result, driver, &rules)).collect()
}

fn annotation(result: &Value, driver: &Value, rules: &BTreeMap<&str, &Value>) -> Annotation {
    let by_index = result["ruleIndex"].as_u64().and_then(|at| driver["rules"].get(usize::try_from(at).ok()?));
    let id = result["ruleId"].as_str().or(by_index.and_then(|rule| rule["id"].as_str())).unwrap_or("finding");
    let rule = rules.get(id).copied().or(by_index).unwrap_or(&Value::Null);
    let level = result["level"].as_str().or(rule["defaultConfiguration"]["level"].as_str());
    let physical = &result["locations"][0]["physicalLocation"];
    let line = physical["region"]["startLine"].as_u64().and_then(|line| u32::try_from(line).ok());
    let about = rule["shortDescription"]["text"].as_str().unwrap_or_default();
    Annotation {
        path: path(physical["artifactLocation"]["uri"].as_str().unwrap_or_default()),
        line: line.unwrap_or(1),
        level: match level {
            Some("error") => Level::Failure,
            Some("note" | "none") => Level::Notice,
            // The default of SARIF, section 3.27.10.
            _ => Level::Warning,
        },
        title: if about.is_empty() { id.to_owned() } else { format!("{id}: {about}") },
        message: message(&result["message"], rule),
    }
}

/// The text, or that of the rule which the message names, with its arguments in place.
fn message(message: &Value, rule: &Value) -> String {
    let named = || rule["messageStrings"][message["id"].as_str()?]["text"].as_str();
    let mut text = message["text"].as_str().or_else(named).unwrap_or_default().to_owned();
    for (at, argument) in items(&message["arguments"]).iter().enumerate().take(10) {
        text = text.replace(&format!("{{{at}}}"), argument.as_str().unwrap_or_default());
    }
    text
}

/// A path within the repository: annotations cannot point elsewhere.
fn path(uri: &str) -> String {
    let path = uri.strip_prefix("file://").unwrap_or(uri).trim_start_matches("./").trim_start_matches('/');
    if path.is_empty() { "unknown".to_owned() } else { path.to_owned() }
}

fn items(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn levels_rules_and_messages_follow_the_standard() {
        let document = json!({ "version": "2.1.0", "runs": [{
            "tool": { "driver": { "name": "t", "rules": [
                { "id": "R1", "shortDescription": { "text": "about" }, "defaultConfiguration": { "level": "error" },
                  "messageStrings": { "default": { "text": "found {0}" } } }, { "id": "R2" }] } },
            "results": [
                { "ruleId": "R1", "message": { "id": "default", "arguments": ["it"] },
                  "locations": [{ "physicalLocation": { "artifactLocation": { "uri": "./src/a.rs" }, "region": { "startLine": 4 } } }] },
                { "ruleIndex": 1, "message": { "text": "two" } },
                { "ruleId": "R1", "message": { "text": "no" }, "suppressions": [{ "kind": "inSource" }] }] }] });
        let found = annotations(&document).unwrap();
        let shown: Vec<_> = found
            .iter()
            .map(|a| (a.path.as_str(), a.line, a.level, a.title.as_str(), a.message.as_str()))
            .collect();
        assert_eq!(
            shown,
            [
                ("src/a.rs", 4, Level::Failure, "R1: about", "found it"),
                ("unknown", 1, Level::Warning, "R2", "two")
            ]
        );
    }
}
