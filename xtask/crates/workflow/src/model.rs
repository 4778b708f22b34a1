//! Workflows as values: what the definitions build, the renderer writes, and the runner runs. Only what our pipelines use has a
//! case here; steps are what they do, not which action does it.

use crate::expr::{Condition, Value};

/// A file below `.github/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Workflow {
    /// File name without folder and ending.
    pub file: &'static str,
    /// Name that GitHub shows.
    pub name: &'static str,
    /// What it is for, in a sentence; the file's header.
    pub about: &'static str,
    /// What starts it.
    pub triggers: Vec<Trigger>,
    /// Which runs exclude each other.
    pub concurrency: Option<Concurrency>,
    /// In the order of the file; each comes after those that it needs.
    pub jobs: Vec<Job>,
}

/// What starts a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trigger {
    /// A pull request.
    PullRequest,
    /// The merge queue.
    MergeGroup,
    /// A push to the branch, or of a tag that matches.
    Push {
        /// Branches.
        branches: Vec<String>,
        /// Patterns of tags.
        tags: Vec<String>,
    },
    /// A time, as cron says it.
    Schedule(String),
    /// A person, who fills in the inputs.
    Dispatch(Vec<Input>),
    /// Another workflow.
    Call(Vec<Input>),
}

/// A typed input of a workflow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Input {
    /// Its name.
    pub name: &'static str,
    /// What it is for.
    pub description: String,
    /// What it is where nothing is given; required where `None`.
    pub default: Option<String>,
    /// What may be chosen; any text where empty.
    pub options: Vec<String>,
}

/// Which runs exclude each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Concurrency {
    /// Runs of one group exclude each other.
    pub group: String,
    /// Which of two runs gives way.
    pub yielding: Yielding,
}

/// Which of two runs of a group gives way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Yielding {
    /// The older one, if it is for a pull request.
    OldPullRequest,
    /// The newer one, which waits.
    New,
}

/// A scope of the token, and why the job needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permission {
    /// For instance `contents`.
    pub scope: &'static str,
    /// `read` or `write`.
    pub level: &'static str,
    /// The reason, as a comment.
    pub reason: &'static str,
}

/// A job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its name, in expressions and for people.
    pub id: String,
    /// What it shows, in a phrase.
    pub about: &'static str,
    /// Jobs that come before.
    pub needs: Vec<String>,
    /// When it runs; after success of all that it needs where `None`.
    pub when: Option<Condition>,
    /// What its token may do.
    pub permissions: Vec<Permission>,
    /// What it does.
    pub body: Body,
}

/// What a job does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Steps on a machine.
    Steps(Steps),
    /// Another workflow of this repository.
    Call {
        /// Its file name without folder and ending.
        workflow: &'static str,
        /// Its inputs.
        with: Vec<(&'static str, Value)>,
    },
}

/// Steps on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// The runner's image.
    pub runner: String,
    /// When GitHub gives up.
    pub timeout_minutes: u32,
    /// The job and its output that holds the matrix.
    pub matrix: Option<(&'static str, &'static str)>,
    /// GitHub environment: its secrets and its approval.
    pub environment: Option<String>,
    /// Which jobs exclude each other.
    pub concurrency: Option<Concurrency>,
    /// Outputs, each of the run step that writes it.
    pub outputs: Vec<&'static str>,
    /// In order.
    pub steps: Vec<Step>,
}

/// A step, with the condition under which it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What it does, for people.
    pub name: String,
    /// When it runs; after success of all before it where `None`.
    pub when: Option<Condition>,
    /// What it does.
    pub action: Action,
}

/// What a step does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetches the sources. Here: the work tree.
    Checkout {
        /// All commits, for comparisons and scans of history.
        has_history: bool,
        /// The tag or commit; that of the run where `None`.
        of: Option<Value>,
    },
    /// Makes the toolchain, `cargo xtask` and caches ready. Here: the tool that runs, and what is in `target`.
    Setup(Setup, Option<Cache>),
    /// Runs `cargo xtask`.
    Run(Run),
    /// Keeps a cache. Here: nothing.
    Save(Cache),
    /// Keeps a file or folder for other jobs and people. Here: below `target/slipway/ci/artifacts`.
    Upload {
        /// Name of the artifact.
        name: Value,
        /// File or folder.
        path: String,
        /// Days that it is kept.
        retention_days: u32,
    },
    /// Fetches what other jobs kept.
    Download {
        /// Name of the artifact, or what the names of several begin with.
        name: Artifact,
        /// Folder that it is put into.
        path: String,
    },
    /// Shows findings on GitHub. Here: says where they are.
    UploadSarif {
        /// The file.
        path: String,
    },
    /// Signs who built what by OIDC. Here: nothing, there is no identity to sign with.
    Attest {
        /// Name of the image.
        name: Value,
        /// Its digest.
        digest: Value,
        /// Its SBOM, to sign that instead.
        sbom: Option<Value>,
    },
}

/// One artifact, or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Artifact {
    /// The one of this name.
    Named(&'static str),
    /// All that begin so, put into one folder.
    BeginningWith(&'static str),
}

/// Where `cargo xtask` comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// From where the settings say.
    Fresh,
    /// From the artifact that the job `plan` made.
    Passed,
    /// From the repository and of the version that the caller of the workflow names.
    Version,
}

/// What is cached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cache {
    /// Cargo's downloads and compiled dependencies.
    Dependencies,
    /// What images were built from.
    Store,
    /// What tests took before.
    Timings,
}

/// `cargo xtask` with arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// Arguments after `cargo xtask`.
    pub args: Vec<Arg>,
    /// Variables; the only way for a value of GitHub into a command.
    pub env: Vec<(String, Value)>,
    /// File that standard output goes to.
    pub stdout: Option<String>,
    /// Whether it writes the outputs of its job.
    pub gives_outputs: bool,
}

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arg {
    /// This text.
    Text(String),
    /// The value of the variable.
    Var(&'static str),
    /// A text, the value of the variable, and a text.
    Around(&'static str, &'static str, &'static str),
    /// All files of a folder with this ending.
    Files(&'static str, &'static str),
}

impl Workflow {
    /// The job of this name.
    pub fn job(&self, id: &str) -> Option<&Job> {
        self.jobs.iter().find(|job| job.id == id)
    }
}

impl Run {
    /// `cargo xtask <words>`.
    pub(crate) fn new(words: &str) -> Run {
        Run { args: Vec::new(), env: Vec::new(), stdout: None, gives_outputs: false }.words(words)
    }

    pub(crate) fn words(mut self, words: &str) -> Run {
        self.args.extend(words.split_whitespace().map(|word| Arg::Text(word.to_owned())));
        self
    }

    pub(crate) fn giving_outputs(mut self) -> Run {
        self.gives_outputs = true;
        self
    }

    pub(crate) fn arg(mut self, arg: Arg) -> Run {
        self.args.push(arg);
        self
    }

    pub(crate) fn env(mut self, name: impl Into<String>, value: Value) -> Run {
        self.env.push((name.into(), value));
        self
    }

    pub(crate) fn stdout(mut self, path: &str) -> Run {
        self.stdout = Some(path.to_owned());
        self
    }

    /// As a line for the shell of the runner: values only by variables, in quotes.
    pub fn line(&self) -> String {
        let mut line = "cargo xtask".to_owned();
        for arg in &self.args {
            line.push(' ');
            line.push_str(&match arg {
                Arg::Text(text) => text.clone(),
                Arg::Var(name) => format!("\"${name}\""),
                Arg::Around(before, name, after) => format!("\"{before}${{{name}}}{after}\""),
                Arg::Files(folder, ending) => format!("{folder}/*{ending}"),
            });
        }
        if let Some(path) = &self.stdout {
            line.push_str(&format!(" > {path}"));
        }
        line
    }
}
