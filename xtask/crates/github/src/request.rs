//! The request document: what `cargo xtask github` asks for. Wire types only; unknown members and other schemas are refused,
//! because a member that is silently ignored is a wish that is silently not granted.

use std::path::PathBuf;

use serde::Deserialize;

use crate::failure::Failure;

/// The value of `schema` that this version reads.
pub const REQUEST_SCHEMA: &str = "slipway.github-request/1";

/// One thing to be done.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// Always [`REQUEST_SCHEMA`].
    pub schema: String,
    /// Base URL of the API: `https://api.github.com`, or `https://<host>/api/v3` of a server of one's own.
    pub api: String,
    /// `owner/name`.
    pub repository: String,
    /// Read, plan, and send no request that changes anything.
    pub dry_run: bool,
    /// Upper bound on the time spent waiting for rate limits and between attempts.
    pub max_wait_ms: u64,
    /// Upper bound on one request, uploads of files excepted.
    pub timeout_ms: u64,
    /// What is to be done.
    pub action: Action,
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// A deployment exists and is in progress.
    DeploymentStart(DeploymentStart),
    /// A deployment has ended.
    DeploymentFinish(DeploymentFinish),
    /// A check run with annotations is complete.
    Check(Check),
    /// A pull request has one comment of this name, with this text.
    Comment(Comment),
    /// A release exists with these files.
    Release(Release),
    /// A folder holds the files of a release.
    ReleaseDownload(ReleaseDownload),
}

/// A deployment that begins.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentStart {
    /// Name of the environment on GitHub.
    pub environment: String,
    /// Commit that is deployed.
    pub commit: String,
    /// What makes it the same deployment when asked again.
    pub key: String,
    /// One sentence.
    pub description: Option<String>,
    /// Where the environment is reached.
    pub environment_url: Option<String>,
    /// Where the log is.
    pub log_url: Option<String>,
    /// Whether end users use the environment; GitHub decides by its name where `None`.
    pub production: Option<bool>,
}

/// A deployment that ends.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeploymentFinish {
    /// Name of the environment on GitHub.
    pub environment: String,
    /// The key it was started with.
    pub key: String,
    /// How it ended.
    pub state: EndState,
    /// One sentence.
    pub description: Option<String>,
    /// Where the environment is reached.
    pub environment_url: Option<String>,
    /// Where the log is.
    pub log_url: Option<String>,
    /// Whether success makes earlier deployments to the environment inactive.
    pub auto_inactive: bool,
}

/// How a deployment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EndState {
    /// The new release serves.
    Success,
    /// The new release does not serve.
    Failure,
    /// It is not known what serves.
    Error,
    /// What was deployed is gone.
    Inactive,
}

impl EndState {
    /// GitHub's word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            EndState::Success => "success",
            EndState::Failure => "failure",
            EndState::Error => "error",
            EndState::Inactive => "inactive",
        }
    }
}

/// A check run.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// Shown beside the commit.
    pub name: String,
    /// Full commit id.
    pub commit: String,
    /// Findings: SARIF 2.1.0, `slipway.scan/1` or `slipway.annotations/1`.
    pub files: Vec<PathBuf>,
    /// A Markdown file shown above the annotations.
    pub summary: Option<PathBuf>,
    /// From which level on an annotation fails the check.
    pub fail_on: Level,
    /// Where details are shown.
    pub details_url: Option<String>,
}

/// Levels of annotations. Ordered: `Notice` is least.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// Good to know.
    Notice,
    /// Should be mended.
    Warning,
    /// Must be mended.
    Failure,
}

impl Level {
    /// GitHub's word.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Level::Notice => "notice",
            Level::Warning => "warning",
            Level::Failure => "failure",
        }
    }
}

/// A pull-request comment.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Comment {
    /// Number of the pull request.
    pub pull: u64,
    /// Tells our comments on one pull request apart.
    pub name: String,
    /// Heading of the comment.
    pub title: Option<String>,
    /// A Markdown file of the caller's own, taken as it is.
    pub body: Option<PathBuf>,
    /// Build reports or release manifests.
    pub builds: Compared,
    /// SBOM documents, or folders of them.
    pub sboms: Compared,
    /// Scan reports.
    pub scans: Compared,
}

/// The same kind of document before and after a change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Compared {
    /// Before the change; nothing to compare with where `None`.
    pub base: Option<PathBuf>,
    /// After the change; the part is left out where `None`.
    pub head: Option<PathBuf>,
}

/// A release with files.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Release {
    /// Name of the tag.
    pub tag: String,
    /// Commit that the tag is made from, where the tag does not exist yet.
    pub commit: Option<String>,
    /// Title; the tag where `None`.
    pub title: Option<String>,
    /// A Markdown file with the notes.
    pub notes: Option<PathBuf>,
    /// Files to attach, under their own names.
    pub assets: Vec<PathBuf>,
    /// Whether it stays a draft.
    pub draft: bool,
    /// Whether it is marked as not ready for production.
    pub prerelease: bool,
    /// Whether files of a published release may be replaced by others of the same name.
    pub replace: bool,
}

/// The files of a published release, in a folder here.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReleaseDownload {
    /// Name of the tag.
    pub tag: String,
    /// The folder: missing, empty, or with these very files already.
    pub into: PathBuf,
}

impl Request {
    /// Parses a request, refusing another schema before anything else is looked at.
    pub fn parse(bytes: &[u8]) -> Result<Request, Failure> {
        #[derive(Deserialize)]
        struct Versioned {
            schema: String,
        }
        let refuse = |error: serde_json::Error| Failure::Input(format!("not a request: {error}"));
        let Versioned { schema } = serde_json::from_slice(bytes).map_err(refuse)?;
        if schema != REQUEST_SCHEMA {
            return Err(Failure::Input(format!(
                "the request has the schema `{schema}`, this version of slipway-github reads `{REQUEST_SCHEMA}`: \
                 install xtask and slipway-github of one version"
            )));
        }
        let request: Request = serde_json::from_slice(bytes).map_err(refuse)?;
        request.check()?;
        Ok(request)
    }

    /// What a type cannot say: names that go into paths of URLs.
    fn check(&self) -> Result<(), Failure> {
        let part = |text: &str| {
            !text.is_empty()
                && text.len() <= 100
                && text != "."
                && text != ".."
                && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        };
        let is_repository =
            self.repository.split_once('/').is_some_and(|(owner, name)| part(owner) && part(name));
        if !is_repository {
            return Err(Failure::Input(format!("`{}` is not a repository: OWNER/NAME", self.repository)));
        }
        let commit = match &self.action {
            Action::DeploymentStart(start) => Some(&start.commit),
            Action::Check(check) => Some(&check.commit),
            Action::Release(release) => release.commit.as_ref(),
            Action::DeploymentFinish(_) | Action::Comment(_) | Action::ReleaseDownload(_) => None,
        };
        match commit {
            Some(commit) if !is_commit(commit) => {
                Err(Failure::Input(format!("`{commit}` is not a full commit id")))
            }
            _ => Ok(()),
        }
    }
}

fn is_commit(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}
