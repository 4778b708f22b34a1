//! The outputs of the job `plan`, from the plan of the tests and from what the run is for. Both documents come from another
//! command: sizes are bounded, and what is missing is an error, never an empty plan.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail};
use serde_json::{Value, json};

use crate::commands::PLANNED_TESTS;

/// GitHub's limit for the jobs of a matrix.
const MAX_SHARDS: usize = 256;

/// What is to be tested, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tests {
    /// How many there are.
    pub count: u64,
    /// Each job's share, as `cargo xtask test --shard` takes it.
    pub shards: Vec<String>,
}

impl Tests {
    /// From the documents of `test plan --json` and `test plan --matrix`.
    ///
    /// # Errors
    /// When one of them lacks what is needed, or has more shards than GitHub allows.
    pub fn parse(plan: &[u8], matrix: &[u8]) -> Result<Tests> {
        let plan: Value = serde_json::from_slice(plan).context("the plan of the tests is not JSON")?;
        let count = plan.pointer(PLANNED_TESTS).and_then(Value::as_u64);
        let count =
            count.with_context(|| format!("the plan of the tests has no number at {PLANNED_TESTS}"))?;
        let shards = shards(matrix).context("the matrix of the tests cannot be used")?;
        Ok(Tests { count, shards })
    }
}

/// The shards of a matrix in one of the two forms that GitHub knows.
///
/// # Errors
/// When it is neither form, or has more shards than GitHub allows.
pub fn shards(matrix: &[u8]) -> Result<Vec<String>> {
    let matrix: Value = serde_json::from_slice(matrix).context("it is not JSON")?;
    let text = |value: &Value| value.as_str().map(str::to_owned).context("a shard is not a text");
    let shards: Vec<String> = match (&matrix["include"], &matrix["shard"]) {
        (Value::Array(entries), _) => {
            entries.iter().map(|entry| text(&entry["shard"])).collect::<Result<_>>()?
        }
        (_, Value::Array(shards)) => shards.iter().map(text).collect::<Result<_>>()?,
        _ => bail!("it has neither a list `include` nor a list `shard`"),
    };
    if shards.len() > MAX_SHARDS {
        bail!("{} shards are more than the {MAX_SHARDS} jobs that GitHub allows", shards.len());
    }
    Ok(shards)
}

/// The outputs. A matrix without entries is an error for GitHub: `test` says that there is none, and the gate knows that, too.
pub fn outputs(tests: &Tests, base: &str, shows_findings: bool) -> BTreeMap<&'static str, String> {
    let include: Vec<Value> = tests.shards.iter().map(|shard| json!({"shard": shard})).collect();
    BTreeMap::from([
        ("base", base.to_owned()),
        ("matrix", json!({"include": include}).to_string()),
        ("report", shows_findings.to_string()),
        ("test", (!tests.shards.is_empty()).to_string()),
        ("tests", tests.count.to_string()),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_a_matrix_give_the_same_shards() {
        let plan = br#"{"tests": 7}"#;
        for matrix in [
            r#"{"include": [{"shard": "1/2", "tests": 3}, {"shard": "2/2"}]}"#,
            r#"{"shard": ["1/2", "2/2"]}"#,
        ] {
            let tests = Tests::parse(plan, matrix.as_bytes()).unwrap();
            assert_eq!(tests, Tests { count: 7, shards: vec!["1/2".to_owned(), "2/2".to_owned()] });
            let outputs = outputs(&tests, "abc", false);
            assert_eq!(outputs["matrix"], r#"{"include":[{"shard":"1/2"},{"shard":"2/2"}]}"#);
            assert_eq!((outputs["test"].as_str(), outputs["tests"].as_str()), ("true", "7"));
        }
        let none = Tests::parse(br#"{"tests": 0}"#, br#"{"include": []}"#).unwrap();
        assert_eq!(outputs(&none, "", true)["test"], "false");
    }

    #[test]
    fn a_plan_that_says_nothing_is_refused() {
        let good = br#"{"shard": ["1/1"]}"#;
        for plan in ["", "{}", "{\"tests\": \"7\"}", "{\"tests\": -1}", "[]"] {
            assert!(Tests::parse(plan.as_bytes(), good).is_err(), "{plan}");
        }
        let many = json!({"shard": vec!["1/1"; 257]}).to_string();
        for matrix in ["", "{}", "{\"shard\": [1]}", "{\"include\": [{}]}", "[]", &many] {
            assert!(Tests::parse(br#"{"tests": 7}"#, matrix.as_bytes()).is_err(), "{matrix}");
        }
    }
}
