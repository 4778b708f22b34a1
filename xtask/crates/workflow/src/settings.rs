//! The block `ci:` of `slipway.yaml`: what of the pipelines differs from one workspace to another. Every key is optional. It knows
//! nothing of the workspace's services.

use std::path::Path;

use anyhow::Result;
use serde::Deserialize;
use stdx::yaml::{self, File, Problem};

/// Settings of the generated workflows.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// The branch that caches are kept for and images are signed from.
    pub default_branch: String,
    /// Image of GitHub's or own runners.
    pub runner: String,
    /// Into how many jobs the tests are split.
    pub shards: u32,
    /// Whether the job `plan` builds all tests to count those of this very commit, which the gate then demands. Where it does not, a
    /// plan goes by earlier runs and costs no build; the gate then goes by the proof of the merged reports alone.
    pub exact_test_plan: bool,
    /// Minutes after which GitHub gives up a job.
    pub timeout_minutes: u32,
    /// Days that artifacts of a pull request are kept.
    pub retention_days: u32,
    /// When the whole pipeline runs without a change, as cron says it, in UTC: new advisories are found so. Never where empty.
    pub schedule: String,
    /// Pattern of the tags that make a release.
    pub release_tags: String,
    /// Whether findings are shown in GitHub's code scanning; private repositories need a licence for it.
    pub code_scanning: bool,
    /// Whether images are signed with the identity of the workflow; in private repositories GitHub does that for enterprises only.
    pub sign: bool,
    /// Whether other repositories may call the pipeline: writes `pipeline.yml`.
    pub reusable: bool,
    /// Where `cargo xtask` comes from; from this workspace itself where `None`.
    pub tool: Option<Tool>,
    /// Environments in the order in which a release passes through them.
    pub environments: Vec<Environment>,
}

/// Where `cargo xtask` comes from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tool {
    /// URL of the git repository.
    pub repository: String,
    /// Commit or tag.
    pub version: String,
}

/// Where a release is deployed to.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Name of the GitHub environment and of the file in `deploy/environments`.
    pub name: String,
    /// Runner that reaches it; that of all jobs where `None`.
    #[serde(default)]
    pub runner: Option<String>,
    /// Whether a person must agree first. GitHub asks for it in the settings of the environment, not in a workflow.
    #[serde(default)]
    pub approval: bool,
    /// Secrets of the GitHub environment that `cargo xtask deploy` gets as variables.
    #[serde(default)]
    pub secrets: Vec<String>,
}

impl Default for Settings {
    fn default() -> Settings {
        let environment = |name: &str, approval| Environment {
            name: name.to_owned(),
            runner: None,
            approval,
            secrets: Vec::new(),
        };
        Settings {
            default_branch: "main".to_owned(),
            runner: "ubuntu-24.04".to_owned(),
            shards: 4,
            exact_test_plan: true,
            timeout_minutes: 30,
            retention_days: 7,
            schedule: "17 4 * * 1".to_owned(),
            release_tags: "v*".to_owned(),
            code_scanning: true,
            sign: true,
            reusable: true,
            tool: None,
            environments: vec![environment("staging", false), environment("production", true)],
        }
    }
}

/// The part of the file that is read here; the rest has other readers.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Document {
    ci: Settings,
}

impl Settings {
    /// Name of the file, at the workspace root.
    pub const FILE: &'static str = "slipway.yaml";

    /// Reads the block `ci:` of the workspace at `root`; defaults where it is missing.
    ///
    /// # Errors
    /// When the file cannot be read, or lists all that is wrong with it.
    pub fn load(root: &Path) -> Result<Settings> {
        let Some(mut file) = File::read_if_exists(&root.join(Settings::FILE))? else {
            return Ok(Settings::default());
        };
        file.path = Some(Settings::FILE.into());
        let settings = file.parse::<Document>()?.ci;
        yaml::refuse_if_any(&settings.problems(&file))?;
        Ok(settings)
    }

    /// Names of the environments, in order.
    pub(crate) fn environment_names(&self) -> Vec<String> {
        self.environments.iter().map(|environment| environment.name.clone()).collect()
    }

    fn problems(&self, file: &File) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut refuse = |key: &str, message: String| problems.push(file.problem(&["ci", key], message));
        for (key, value, extra) in [
            ("default_branch", &self.default_branch, "-_./"),
            ("runner", &self.runner, "-_."),
            ("release_tags", &self.release_tags, "-_./*"),
        ] {
            if !is_word(value, extra) {
                refuse(key, format!("`{value}` is not a name: letters, digits and any of {extra}"));
            }
        }
        for (key, value, most) in [
            ("shards", self.shards, 256),
            ("timeout_minutes", self.timeout_minutes, 360),
            ("retention_days", self.retention_days, 90),
        ] {
            if value == 0 || value > most {
                refuse(key, format!("{value} is not between 1 and {most}"));
            }
        }
        if !self.schedule.is_empty() && !is_cron(&self.schedule) {
            refuse(
                "schedule",
                format!("`{}` is not five fields of cron, for instance `17 4 * * 1`", self.schedule),
            );
        }
        if let Some(tool) = &self.tool {
            let is_url = tool.repository.starts_with("https://") && is_word(&tool.repository, ":/-_.");
            if !is_url {
                refuse("tool", format!("`{}` is not an https:// URL of a git repository", tool.repository));
            }
            if !is_word(&tool.version, "-_./+") {
                refuse("tool", format!("`{}` is not a tag or commit", tool.version));
            }
        }
        for message in self.environments.iter().flat_map(Environment::problems) {
            refuse("environments", message);
        }
        let mut names = self.environment_names();
        names.sort();
        if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
            refuse("environments", format!("`{}` is there twice", twice[0]));
        }
        problems
    }
}

impl Environment {
    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let first = |text: &str| text.starts_with(|c: char| c.is_ascii_alphabetic());
        if !is_word(&self.name, "-_") || !first(&self.name) || self.name == crate::expr::ALL {
            problems.push(format!("`{}` is not a name for an environment", self.name));
        }
        if let Some(runner) = &self.runner
            && !is_word(runner, "-_.")
        {
            problems.push(format!("`{runner}` is not a name of a runner"));
        }
        for secret in &self.secrets {
            let is_upper = secret.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_');
            if !is_upper || !first(secret) || secret.starts_with("GITHUB_") || secret.len() > 100 {
                problems.push(format!(
                    "`{secret}` is not a name of a secret: capital letters, digits and _, not beginning with GITHUB_"
                ));
            }
        }
        problems
    }
}

/// Whether the text can stand in an expression, a path and a shell word without meaning anything else there.
fn is_word(text: &str, extra: &str) -> bool {
    (1..=200).contains(&text.len()) && text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

fn is_cron(text: &str) -> bool {
    text.split(' ').count() == 5
        && text
            .split(' ')
            .all(|field| !field.is_empty() && field.chars().all(|c| c.is_ascii_digit() || "*,-/".contains(c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Settings> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join(Settings::FILE), text)?;
        Settings::load(folder.path())
    }

    #[test]
    fn every_key_has_a_default_and_other_blocks_are_left_alone() {
        assert_eq!(load("").unwrap(), Settings::default());
        assert_eq!(load("build: { profile: ship }\nci: { shards: 2 }\n").unwrap().shards, 2);
        assert!(load("ci: { shard: 2 }\n").is_err());
    }

    #[test]
    fn whatever_could_leave_its_place_in_a_workflow_is_refused() {
        for bad in [
            "default_branch: \"main' || true\"",
            "default_branch: ''",
            "runner: \"x\\n    permissions: write-all\"",
            "runner: \"${{ x }}\"",
            "shards: 0",
            "shards: 1000",
            "schedule: daily",
            "schedule: '* * * *'",
            "release_tags: '$(id)'",
            "tool: { repository: 'git@x:y', version: v1 }",
            "tool: { repository: 'https://x/y', version: '$(id)' }",
            "environments: [{ name: all }]",
            "environments: [{ name: a }, { name: a }]",
            "environments: [{ name: 'a b' }]",
            "environments: [{ name: a, secrets: [x y] }]",
            "environments: [{ name: a, secrets: [GITHUB_TOKEN] }]",
        ] {
            let error = load(&format!("ci:\n  {bad}\n")).unwrap_err().to_string();
            assert!(error.starts_with("slipway.yaml:2:"), "{bad}: {error}");
        }
    }
}
