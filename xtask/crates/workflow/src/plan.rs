//! The outputs of the job `plan`, from the plan of the tests and from what the run is for. Both documents come from another
//! command: sizes are bounded, and what is missing is an error, never an empty plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde::Deserialize;
use serde_json::{Value, json};

/// Stands for the number of tests where only the merged reports tell it.
pub(crate) const PROVEN: &str = "proven";
/// GitHub's limit for the jobs of a matrix.
const MAX_SHARDS: usize = 256;

/// What is to be tested, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tests {
    /// How many there are; `None` where the plan goes by earlier runs.
    pub count: Option<u64>,
    /// Each job's share, as `cargo xtask test --shard` takes it.
    pub shards: Vec<String>,
}

impl Tests {
    /// From the document of `test plan --matrix`.
    ///
    /// # Errors
    /// When it is none, or has more shards than GitHub allows.
    pub fn parse(matrix: &[u8]) -> Result<Tests> {
        let matrix: Matrix =
            serde_json::from_slice(matrix).context("the matrix of the tests cannot be used")?;
        if matrix.include.len() > MAX_SHARDS {
            bail!("{} shards are more than the {MAX_SHARDS} jobs that GitHub allows", matrix.include.len());
        }
        let is_exact = matrix.include.iter().all(|entry| entry.exact);
        let count = matrix.include.iter().map(|entry| entry.tests).sum();
        let shards = matrix.include.into_iter().map(|entry| entry.shard).collect();
        Ok(Tests { count: is_exact.then_some(count), shards })
    }
}

/// What is read of a matrix.
#[derive(Deserialize)]
struct Matrix {
    include: Vec<Entry>,
}

#[derive(Deserialize)]
struct Entry {
    shard: String,
    tests: u64,
    exact: bool,
}

/// The outputs. A matrix without entries is an error for GitHub: `test` says that there is none, and the gate knows that, too.
pub fn outputs(tests: &Tests, base: &str, shows_findings: bool) -> BTreeMap<&'static str, String> {
    let include: Vec<Value> = tests.shards.iter().map(|shard| json!({"shard": shard})).collect();
    BTreeMap::from([
        ("base", base.to_owned()),
        ("matrix", json!({"include": include}).to_string()),
        ("report", shows_findings.to_string()),
        ("test", (!tests.shards.is_empty()).to_string()),
        ("tests", tests.count.map_or_else(|| PROVEN.to_owned(), |count| count.to_string())),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(entries: &[(&str, u64, bool)]) -> String {
        let entry = |(shard, tests, exact): &(&str, u64, bool)| json!({"shard": shard, "tests": tests, "exact": exact});
        json!({"include": entries.iter().map(entry).collect::<Vec<_>>()}).to_string()
    }

    #[test]
    fn a_matrix_says_how_many_tests_there_are_where_it_counted_them() {
        let tests = Tests::parse(matrix(&[("1/2", 3, true), ("2/2", 4, true)]).as_bytes()).unwrap();
        assert_eq!(tests, Tests { count: Some(7), shards: vec!["1/2".to_owned(), "2/2".to_owned()] });
        let given = outputs(&tests, "abc", false);
        assert_eq!(given["matrix"], r#"{"include":[{"shard":"1/2"},{"shard":"2/2"}]}"#);
        assert_eq!((given["test"].as_str(), given["tests"].as_str()), ("true", "7"));
        let guessed = Tests::parse(matrix(&[("1/2", 3, true), ("2/2", 4, false)]).as_bytes()).unwrap();
        assert_eq!(outputs(&guessed, "abc", false)["tests"], PROVEN);
        let none = Tests::parse(br#"{"include": []}"#).unwrap();
        assert_eq!(outputs(&none, "", true)["test"], "false");
    }

    #[test]
    fn a_matrix_that_says_nothing_is_refused() {
        let many = matrix(&[("1/1", 1, true); 257]);
        for text in ["", "{}", "{\"include\": [1]}", "{\"include\": [{\"shard\": \"1/1\"}]}", "[]", &many] {
            assert!(Tests::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}
