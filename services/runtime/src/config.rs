//! Reads settings: a YAML file, over it the environment (`LENS_<SECTION>__<KEY>`), under both the defaults of the
//! code. Every problem is found before any is reported, each with its file and line or its variable; a key or
//! `LENS_` variable that nothing reads is a problem. Which settings exist is known to a service's read function only.

mod file;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use file::Leaf;

const PREFIX: &str = "LENS_";
/// Names the file; it is not a setting.
const FILE_VARIABLE: &str = "LENS_CONFIG";

/// Where settings come from.
#[derive(Debug, Clone, Default)]
pub struct Source {
    /// Path and text of the file.
    pub file: Option<(PathBuf, String)>,
    /// The environment.
    pub environment: BTreeMap<String, String>,
}

impl Source {
    /// The environment of this process, and the file that is named on the command line or in `LENS_CONFIG`.
    pub fn load(path: Option<PathBuf>) -> Result<Self, Problems> {
        let environment: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(|(name, value)| {
                Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
            })
            .collect();
        let path = path.or_else(|| environment.get(FILE_VARIABLE).map(PathBuf::from));
        let file = match path {
            None => None,
            Some(path) => match fs::read_to_string(&path) {
                Ok(text) => Some((path, text)),
                Err(error) => {
                    let message = format!("failed to read: {error}");
                    return Err(Problems(vec![Problem { place: path.display().to_string(), message }]));
                }
            },
        };
        Ok(Self { file, environment })
    }
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<Problem>);

#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    place: String,
    message: String,
}

impl fmt::Display for Problems {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let end = if index + 1 == self.0.len() { "" } else { "\n" };
            write!(out, "  {}: {}{end}", problem.place, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// Reads settings with a service's read function.
pub fn read<T>(source: &Source, read: impl FnOnce(&mut Reader<'_>) -> T) -> Result<T, Problems> {
    let mut reader = Reader::new(source);
    let settings = read(&mut reader);
    reader.refuse_unknown();
    if reader.problems.is_empty() { Ok(settings) } else { Err(Problems(reader.problems)) }
}

/// The variables that a read function asks for, in order of name.
pub fn variables<T>(read: impl FnOnce(&mut Reader<'_>) -> T) -> BTreeSet<String> {
    let source = Source::default();
    let mut reader = Reader::new(&source);
    read(&mut reader);
    reader.known.iter().map(|key| variable(key)).collect()
}

/// Hands out settings by key, such as `http.port`, and collects what is wrong with them.
pub struct Reader<'a> {
    source: &'a Source,
    leaves: BTreeMap<String, Leaf>,
    known: BTreeSet<String>,
    problems: Vec<Problem>,
}

impl<'a> Reader<'a> {
    fn new(source: &'a Source) -> Self {
        let mut reader =
            Self { source, leaves: BTreeMap::new(), known: BTreeSet::new(), problems: Vec::new() };
        if let Some((path, text)) = &source.file {
            match file::leaves(text) {
                Ok(leaves) => reader.leaves = leaves,
                Err((line, message)) => {
                    reader.problems.push(Problem { place: format!("{}:{line}", path.display()), message });
                }
            }
        }
        reader
    }

    /// A text.
    pub fn text(&mut self, key: &str, default: &str) -> String {
        self.parsed(key, default.to_owned(), "a text")
    }

    /// A text that may be absent.
    pub fn optional_text(&mut self, key: &str) -> Option<String> {
        self.value(key)
    }

    /// Anything that is written as its type is parsed; `what` names it in the error.
    pub fn parsed<T: FromStr>(&mut self, key: &str, default: T, what: &str) -> T {
        match self.value(key).map(|text| text.parse()) {
            None => default,
            Some(Ok(value)) => value,
            Some(Err(_)) => {
                self.refuse(key, &format!("must be {what}"));
                default
            }
        }
    }

    /// A whole number within a range.
    pub fn integer(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> u64 {
        let what = format!("a whole number from {} to {}", range.start(), range.end());
        let value = self.parsed(key, default, &what);
        if !range.contains(&value) {
            self.refuse(key, &format!("must be {what}"));
        }
        value
    }

    /// A time in milliseconds within a range.
    pub fn milliseconds(&mut self, key: &str, default: u64, range: RangeInclusive<u64>) -> Duration {
        Duration::from_millis(self.integer(key, default, range))
    }

    /// One of several names; `default` is one of them.
    pub fn choice<T: Copy>(&mut self, key: &str, default: &str, choices: &[(&str, T)]) -> T {
        let name = self.text(key, default);
        let chosen = choices.iter().find(|(choice, _)| *choice == name);
        if chosen.is_none() {
            let names: Vec<_> = choices.iter().map(|(choice, _)| *choice).collect();
            self.refuse(key, &format!("must be one of {}", names.join(", ")));
        }
        chosen.unwrap_or(&choices[0]).1
    }

    /// Notes that the value of a key is not acceptable, at the place that set it.
    pub fn refuse(&mut self, key: &str, message: &str) {
        self.problems.push(Problem { place: self.place(key), message: format!("{key} {message}") });
    }

    fn value(&mut self, key: &str) -> Option<String> {
        self.known.insert(key.to_owned());
        let from_environment = self.source.environment.get(&variable(key));
        from_environment.or_else(|| self.leaves.get(key).map(|leaf| &leaf.value)).cloned()
    }

    fn place(&self, key: &str) -> String {
        if self.source.environment.contains_key(&variable(key)) {
            return variable(key);
        }
        match (self.leaves.get(key), &self.source.file) {
            (Some(leaf), Some((path, _))) => format!("{}:{}", path.display(), leaf.line),
            _ => "default".to_owned(),
        }
    }

    fn refuse_unknown(&mut self) {
        let keys: Vec<_> = self.leaves.keys().filter(|key| !self.known.contains(*key)).cloned().collect();
        for key in keys {
            let place = match (&self.source.file, &self.leaves[&key]) {
                (Some((path, _)), leaf) => format!("{}:{}", path.display(), leaf.line),
                (None, _) => continue,
            };
            let message = format!("unknown key {key}{}", self.nearest(&key, |known| known.to_owned()));
            self.problems.push(Problem { place, message });
        }
        let known: BTreeSet<_> = self.known.iter().map(|key| variable(key)).collect();
        for name in self.source.environment.keys() {
            if name.starts_with(PREFIX) && name != FILE_VARIABLE && !known.contains(name) {
                let message = format!("unknown variable{}", self.nearest(name, variable));
                self.problems.push(Problem { place: name.clone(), message });
            }
        }
    }

    /// A hint at the known name that shares the most characters with a wrong one.
    fn nearest(&self, wrong: &str, name: impl Fn(&str) -> String) -> String {
        let shared = |known: &String| {
            let front = known.chars().zip(wrong.chars()).take_while(|(a, b)| a == b).count();
            let back = known.chars().rev().zip(wrong.chars().rev()).take_while(|(a, b)| a == b).count();
            front + back
        };
        let best = self.known.iter().map(|key| name(key)).max_by_key(shared);
        best.map(|best| format!(", did you mean {best}?")).unwrap_or_default()
    }
}

fn variable(key: &str) -> String {
    format!("{PREFIX}{}", key.replace('.', "__").to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Sample {
        port: u16,
        wait: Duration,
        mode: u8,
        folder: String,
    }

    fn sample(reader: &mut Reader<'_>) -> Sample {
        Sample {
            port: reader.parsed("http.port", 8000, "a port number"),
            wait: reader.milliseconds("http.wait_ms", 10, 1..=1000),
            mode: reader.choice("engine.mode", "a", &[("a", 1), ("b", 2)]),
            folder: reader.text("folder", "data"),
        }
    }

    fn source(file: &str, environment: &[(&str, &str)]) -> Source {
        Source {
            file: (!file.is_empty()).then(|| (PathBuf::from("lens.yaml"), file.to_owned())),
            environment: environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        }
    }

    fn check_refused(file: &str, environment: &[(&str, &str)], expected: &[&str]) {
        let problems = read(&source(file, environment), sample).unwrap_err().to_string();
        let lines: Vec<_> = problems.lines().map(str::trim).collect();
        assert_eq!(lines, expected);
    }

    #[test]
    fn environment_wins_over_file_and_file_over_default() {
        let file = "# comment\nhttp:\n  port: 9000 # why\n  wait_ms: 20\nfolder: \"x\"\n";
        let environment = [("LENS_HTTP__PORT", "9001"), ("LENS_CONFIG", "lens.yaml"), ("PATH", "/bin")];
        let found = read(&source(file, &environment), sample).unwrap();
        let expected =
            Sample { port: 9001, wait: Duration::from_millis(20), mode: 1, folder: "x".to_owned() };
        assert_eq!(found, expected);
    }

    #[test]
    fn every_problem_is_reported_at_once_with_its_place() {
        let file = "http:\n  port: many\n  pory: 1\nengine:\n  mode: c\nextra:\n  deep: 1\n";
        let environment = [("LENS_HTTP__WAIT_MS", "0"), ("LENS_HTTP__PROT", "1"), ("LENS_FOLDRE", "x")];
        check_refused(
            file,
            &environment,
            &[
                "lens.yaml:2: http.port must be a port number",
                "LENS_HTTP__WAIT_MS: http.wait_ms must be a whole number from 1 to 1000",
                "lens.yaml:5: engine.mode must be one of a, b",
                "lens.yaml:7: unknown key extra.deep, did you mean engine.mode?",
                "lens.yaml:3: unknown key http.pory, did you mean http.port?",
                "LENS_FOLDRE: unknown variable, did you mean LENS_FOLDER?",
                "LENS_HTTP__PROT: unknown variable, did you mean LENS_HTTP__PORT?",
            ],
        );
    }

    #[test]
    fn a_file_that_is_not_settings_is_refused() {
        check_refused("- a\n- b\n", &[], &["lens.yaml:1: must be sections of keys"]);
        let broken = read(&source("http: [1\n", &[]), sample).unwrap_err().to_string();
        assert!(broken.contains("lens.yaml:2"), "{broken}");
        let twice = read(&source("folder: a\nfolder: b\n", &[]), sample).unwrap_err().to_string();
        assert!(twice.contains("duplicate"), "{twice}");
    }

    #[test]
    fn an_empty_file_and_an_empty_section_are_no_settings() {
        for file in ["", "\n", "# nothing\n", "http:\n"] {
            assert_eq!(read(&source(file, &[]), sample).unwrap().port, 8000, "{file:?}");
        }
    }

    #[test]
    fn variables_are_those_that_are_read() {
        let names: Vec<_> = variables(sample).into_iter().collect();
        assert_eq!(names, ["LENS_ENGINE__MODE", "LENS_FOLDER", "LENS_HTTP__PORT", "LENS_HTTP__WAIT_MS"]);
    }
}
