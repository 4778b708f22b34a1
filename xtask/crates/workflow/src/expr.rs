//! Values and conditions that GitHub computes when a job runs: as its expressions, and as what they mean here. Each is a case
//! of an enum, so that whatever can be written into a workflow can be computed locally, too. None is ever part of a command.

use std::collections::BTreeMap;

use serde_json::json;

/// A value that a step gets by a variable or as an input of an action.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// This text.
    Text(String),
    /// A text with values in it, for file and artifact names.
    Joined(Vec<Value>),
    /// A key of the job's matrix.
    Matrix(&'static str),
    /// The number of the job in its matrix, from 0.
    JobIndex,
    /// An output of another job.
    Output(&'static str, &'static str),
    /// An input of the workflow.
    Input(&'static str),
    /// Results and outputs of all jobs that this one needs, as JSON.
    Needs,
    /// The token of this run.
    Token,
    /// A secret of the job's environment.
    Secret(String),
    /// The tag or branch that the run is for.
    RefName,
    /// How stores of earlier results are used: written to by the default branch alone.
    CacheMode,
}

/// When a job or step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Condition {
    /// Whatever happened before.
    Always,
    /// Whatever happened before, and the job `plan` gave this output as `true`; only a cancelled run stops it.
    PlannedAnyway(&'static str),
    /// The job `plan` gave this output as `true`.
    Planned(&'static str),
    /// The run is for a push to the default branch: nobody but maintainers can bring it about.
    Trusted,
    /// The run is for a tag.
    Tag,
    /// The input `environment` names this one or all, and the environment before it did not fail.
    Deploy {
        /// The environment, by its place in the settings.
        index: usize,
    },
}

/// What values and conditions are computed from when a job runs here.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// Result and outputs of each job that ended.
    pub jobs: BTreeMap<String, Ended>,
    /// Inputs of the workflow.
    pub inputs: BTreeMap<String, String>,
    /// The matrix entry of the job.
    pub matrix: BTreeMap<String, String>,
    /// Its number.
    pub job_index: usize,
}

/// How a job ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ended {
    /// `success`, `failure`, `cancelled` or `skipped`.
    pub result: String,
    /// Its outputs.
    pub outputs: BTreeMap<String, String>,
}

impl Value {
    /// As GitHub's expression inside a text.
    pub(crate) fn text(&self) -> String {
        match self {
            Value::Text(text) => text.clone(),
            Value::Joined(parts) => parts.iter().map(Value::text).collect(),
            Value::Matrix(key) => format!("${{{{ matrix.{key} }}}}"),
            Value::JobIndex => "${{ strategy.job-index }}".to_owned(),
            Value::Output(job, name) => format!("${{{{ needs.{job}.outputs.{name} }}}}"),
            Value::Input(name) => format!("${{{{ inputs.{name} }}}}"),
            Value::Needs => "${{ toJSON(needs) }}".to_owned(),
            Value::Token => "${{ github.token }}".to_owned(),
            Value::Secret(name) => format!("${{{{ secrets.{name} }}}}"),
            Value::RefName => "${{ github.ref_name }}".to_owned(),
            Value::CacheMode => "${{ github.event_name == 'push' && github.ref_name == \
                                 github.event.repository.default_branch && 'read-write' || 'read' }}"
                .to_owned(),
        }
    }

    /// What it is here. Tokens and secrets are `None`: a variable of the caller with that name is used where there is one.
    pub fn resolve(&self, context: &Context) -> Option<String> {
        match self {
            Value::Text(text) => Some(text.clone()),
            Value::Joined(parts) => parts.iter().map(|part| part.resolve(context)).collect(),
            Value::Matrix(key) => context.matrix.get(*key).cloned(),
            Value::JobIndex => Some(context.job_index.to_string()),
            Value::Output(job, name) => Some(
                context.jobs.get(*job).and_then(|job| job.outputs.get(*name)).cloned().unwrap_or_default(),
            ),
            Value::Input(name) => Some(context.inputs.get(*name).cloned().unwrap_or_default()),
            Value::Needs => {
                let needs: BTreeMap<_, _> = context
                    .jobs
                    .iter()
                    .map(|(name, job)| (name, json!({"result": job.result, "outputs": job.outputs})))
                    .collect();
                Some(json!(needs).to_string())
            }
            Value::RefName => Some("local".to_owned()),
            Value::CacheMode => Some("local".to_owned()),
            Value::Token | Value::Secret(_) => None,
        }
    }
}

impl Condition {
    /// As GitHub's expression. `branch` is the default branch, `environments` those of the settings in their order.
    pub(crate) fn text(self, branch: &str, environments: &[String]) -> String {
        match self {
            Condition::Always => "always()".to_owned(),
            Condition::PlannedAnyway(name) => {
                format!("${{{{ !cancelled() && needs.plan.outputs.{name} == 'true' }}}}")
            }
            Condition::Planned(name) => format!("needs.plan.outputs.{name} == 'true'"),
            Condition::Trusted => {
                format!("github.event_name == 'push' && github.ref == 'refs/heads/{branch}'")
            }
            Condition::Tag => "startsWith(github.ref, 'refs/tags/')".to_owned(),
            Condition::Deploy { index } => deploy_text(index, environments),
        }
    }

    /// Whether it holds here, where nothing is a tag or a push to the default branch. `has_failed` says whether something
    /// before it went wrong: without a word to the contrary that skips what follows.
    pub(crate) fn holds(self, context: &Context, environments: &[String], has_failed: bool) -> bool {
        let planned = |name: &str| {
            context
                .jobs
                .get("plan")
                .and_then(|plan| plan.outputs.get(name))
                .is_some_and(|value| value == "true")
        };
        match self {
            Condition::Always => true,
            Condition::PlannedAnyway(name) => planned(name),
            Condition::Planned(name) => !has_failed && planned(name),
            Condition::Trusted | Condition::Tag => false,
            Condition::Deploy { index } => {
                let wanted = context.inputs.get("environment").map(String::as_str).unwrap_or_default();
                let result = |name: &str| context.jobs.get(name).map(|job| job.result.as_str());
                let before = index.checked_sub(1).and_then(|index| environments.get(index));
                wanted == environments[index]
                    || wanted == ALL && before.is_none_or(|name| result(name) == Some("success"))
            }
        }
    }
}

/// The choice of the input `environment` that stands for one after the other.
pub(crate) const ALL: &str = "all";

/// Alone, an environment does not wait for the one before it; among all, only a good one before it lets it begin.
fn deploy_text(index: usize, environments: &[String]) -> String {
    let own = format!("inputs.environment == '{}'", environments[index]);
    match index.checked_sub(1) {
        None => format!("{own} || inputs.environment == '{ALL}'"),
        Some(before) => format!(
            "${{{{ !cancelled() && ({own} || inputs.environment == '{ALL}' && needs.{}.result == 'success') }}}}",
            environments[before]
        ),
    }
}
