//! YAML files whose errors name file, line and key. It parses into any type; what the keys mean is the caller's. Only block
//! style is searched for lines: inside a flow mapping (`{a: 1}`) the line of the mapping is given.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A YAML document: its text is kept so that problems found after parsing can still name a line.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// Where it lies; `None` for a document that is built in.
    pub path: Option<PathBuf>,
    /// Its text.
    pub text: String,
}

/// One finding about a configuration or the surroundings. Findings are collected and shown together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file that would have to change, if it is a file.
    pub file: Option<PathBuf>,
    /// Line in it, from 1.
    pub line: Option<usize>,
    /// Key or thing that it is about.
    pub key: String,
    /// What is wrong, and what to do.
    pub message: String,
}

/// Names of our types say nothing to whoever wrote the file.
fn plain(message: &str) -> String {
    match message.split_once("expected struct ") {
        Some((found, _)) => format!("{found}expected keys with values (`key: value`)"),
        None => message.to_owned(),
    }
}

impl File {
    /// Reads the file at `path`; `None` where there is none.
    pub fn read_if_exists(path: &Path) -> Result<Option<File>> {
        let Some(bytes) = crate::fs::read_if_exists(path)? else { return Ok(None) };
        let text = String::from_utf8(bytes).map_err(|_| anyhow!("{} is not UTF-8 text", path.display()))?;
        Ok(Some(File { path: Some(path.to_owned()), text }))
    }

    /// Parses the document. An empty one is an empty mapping.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        let text = if self.is_empty() { "{}" } else { &self.text };
        let deserializer = serde_yaml::Deserializer::from_str(text);
        serde_path_to_error::deserialize(deserializer).map_err(|error| {
            let key = error.path().to_string();
            let inner = error.into_inner();
            let line = inner.location().map(|location| location.line());
            let message = inner.to_string();
            // The library ends its text with the place, and begins it with the path: both have their own fields here.
            let message = message.split(" at line ").next().unwrap_or_default();
            let message = message
                .split_once(": ")
                .filter(|(path, _)| key.starts_with(path))
                .map_or(message, |(_, rest)| rest);
            Problem { file: self.path.clone(), line, key, message: plain(message) }
        })
    }

    /// A finding about the value at `keys`.
    pub fn problem(&self, keys: &[&str], message: impl Into<String>) -> Problem {
        let line = if self.path.is_some() { line_of(&self.text, keys) } else { None };
        Problem { file: self.path.clone(), line, key: keys.join("."), message: message.into() }
    }

    fn is_empty(&self) -> bool {
        self.text
            .lines()
            .all(|line| line.trim().is_empty() || line.trim_start().starts_with('#') || line == "---")
    }
}

impl Problem {
    /// A finding that no file is to blame for.
    pub fn new(key: impl Into<String>, message: impl Into<String>) -> Problem {
        Problem { file: None, line: None, key: key.into(), message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            write!(f, " ")?;
        }
        write!(f, "{}: {}", self.key, self.message)
    }
}

impl std::error::Error for Problem {}

/// An error that lists all `problems`, or nothing where there are none.
pub fn refuse_if_any(problems: &[Problem]) -> Result<()> {
    match problems {
        [] => Ok(()),
        [one] => Err(anyhow!("{one}")),
        many => {
            let lines: String = many.iter().map(|problem| format!("\n  {problem}")).collect();
            Err(anyhow!("{} problems:{lines}", many.len()))
        }
    }
}

/// The line, from 1, of the longest part of the path `keys` that is there.
fn line_of(text: &str, keys: &[&str]) -> Option<usize> {
    let mut path: Vec<(usize, &str)> = Vec::new();
    let mut found = (0, None);
    for (index, line) in text.lines().enumerate() {
        // A list item's first key stands behind its dash, on the level of the item's other keys.
        let content = line.trim_start_matches([' ', '-']);
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let indent = line.len() - content.len();
        while path.last().is_some_and(|(above, _)| *above >= indent) {
            path.pop();
        }
        path.push((indent, content.split(':').next().unwrap_or_default().trim().trim_matches(['"', '\''])));
        let is_on_the_way =
            path.len() <= keys.len() && path.iter().zip(keys).all(|((_, key), wanted)| key == wanted);
        if is_on_the_way && path.len() > found.0 {
            found = (path.len(), Some(index + 1));
        }
    }
    found.1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    const TEXT: &str = "# comment
services:
  a:
    env:
      X: 1
  b:
    env:
      # why
      X: 2
other:
  b: 3
list:
  - name: x
    path: y
";

    fn file(text: &str) -> File {
        File { path: Some("a.yaml".into()), text: text.into() }
    }

    #[test]
    fn a_key_is_found_on_its_line_and_a_missing_one_on_its_parent() {
        let check = |keys: &[&str], line| assert_eq!(line_of(TEXT, keys), line, "{keys:?}");
        check(&["services"], Some(2));
        check(&["services", "a", "env", "X"], Some(5));
        check(&["services", "b", "env", "X"], Some(9));
        check(&["services", "b", "env", "Y"], Some(7));
        check(&["other", "b"], Some(11));
        check(&["services", "env"], Some(2));
        check(&["list", "name"], Some(13));
        check(&["list", "path"], Some(14));
        check(&["nowhere"], None);
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let error = |text: &str| {
            file(text).parse::<BTreeMap<String, BTreeMap<String, u16>>>().unwrap_err().to_string()
        };
        assert_eq!(
            error("http:\n  port: many\n"),
            "a.yaml:2: http.port: invalid type: string \"many\", expected u16"
        );
        assert!(error("http: {").starts_with("a.yaml:"), "{}", error("http: {"));
    }

    #[test]
    fn errors_name_no_type_of_ours() {
        #[derive(Debug, serde::Deserialize)]
        struct Wire {
            #[serde(rename = "port")]
            _port: u16,
        }
        assert_eq!(
            file("http: many\n").parse::<BTreeMap<String, Wire>>().unwrap_err().to_string(),
            "a.yaml:1: http: invalid type: string \"many\", expected keys with values (`key: value`)"
        );
    }

    #[test]
    fn an_empty_document_is_an_empty_mapping() {
        for text in ["", "\n", "# only a comment\n", "---\n"] {
            assert!(file(text).parse::<BTreeMap<String, u16>>().unwrap().is_empty());
        }
    }

    #[test]
    fn problems_are_shown_together() {
        let file = file("a: 1\nb: 2\n");
        let problems = [file.problem(&["a"], "bad"), file.problem(&["b"], "worse")];
        let error = refuse_if_any(&problems).unwrap_err().to_string();
        assert_eq!(error, "2 problems:\n  a.yaml:1: a: bad\n  a.yaml:2: b: worse");
        refuse_if_any(&[]).unwrap();
    }
}
