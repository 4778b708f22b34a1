//! A settings file as keys with their values and lines. It does not know which keys exist.

use std::collections::BTreeMap;

use serde_yaml::{Mapping, Value};

/// One value of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Leaf {
    pub(super) value: String,
    pub(super) line: usize,
}

/// All values by key, such as `http.port`. The error is a line and a message.
pub(super) fn leaves(text: &str) -> Result<BTreeMap<String, Leaf>, (usize, String)> {
    let root: Value = serde_yaml::from_str(text).map_err(|error| {
        let line = error.location().map_or(1, |location| location.line());
        (line, error.to_string())
    })?;
    match root {
        Value::Null => Ok(BTreeMap::new()),
        Value::Mapping(sections) => {
            let mut leaves = BTreeMap::new();
            collect(text, "", &sections, &mut leaves)?;
            Ok(leaves)
        }
        _ => Err((1, "must be sections of keys".to_owned())),
    }
}

fn collect(
    text: &str,
    section: &str,
    mapping: &Mapping,
    leaves: &mut BTreeMap<String, Leaf>,
) -> Result<(), (usize, String)> {
    for (name, value) in mapping {
        let name = name.as_str().ok_or_else(|| (1, "every key must be a word".to_owned()))?;
        let key = if section.is_empty() { name.to_owned() } else { format!("{section}.{name}") };
        let line = line_of(text, &key);
        let value = match value {
            Value::Null => continue,
            Value::Mapping(inner) => {
                collect(text, &key, inner, leaves)?;
                continue;
            }
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            Value::Bool(value) => value.to_string(),
            Value::Sequence(_) | Value::Tagged(_) => return Err((line, format!("{key} must be one value"))),
        };
        leaves.insert(key, Leaf { value, line });
    }
    Ok(())
}

/// The line on which a key stands. The parser does not tell: the line is that of the section when the file writes
/// the section in one line.
fn line_of(text: &str, key: &str) -> usize {
    let (mut found, mut least_indent) = (1, 0);
    let mut lines = text.lines().enumerate();
    for part in key.split('.') {
        let position = lines.find_map(|(index, line)| {
            let trimmed = line.trim_start();
            let indent = line.len() - trimmed.len();
            let named = trimmed.strip_prefix(part).is_some_and(|rest| rest.trim_start().starts_with(':'));
            (named && indent >= least_indent).then_some((index + 1, indent + 1))
        });
        let Some((line, inner_indent)) = position else { break };
        (found, least_indent) = (line, inner_indent);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_keys() {
        let text = "port: 1\na:\n  x: 1\n\n# port: 3\nhttp:\n  # note\n  port : 2\n  host: h\nb: {c: 1}\n";
        for (key, line) in [("port", 1), ("a.x", 3), ("http.port", 8), ("http.host", 9), ("b.c", 10)] {
            assert_eq!(line_of(text, key), line, "{key}");
            assert!(leaves(text).unwrap().contains_key(key), "{key}");
        }
    }
}
