//! Flags of the commands that tell GitHub.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

/// Tell GitHub: deployments, check runs, pull-request comments, releases.
///
/// Each of them looks first at what is there, so that the same call again changes nothing. The token comes from GH_TOKEN or
/// GITHUB_TOKEN, never from a flag; in GitHub Actions, everything else is known already.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask github deployment start --environment production
  cargo xtask github deployment finish --environment production --state success --url https://example.org
  cargo xtask github check --name scan target/scan.sarif
  cargo xtask github comment --build head.json --base-build base.json
  cargo xtask github release v1.2.0 release.json api.cdx.json --notes notes.md
  cargo xtask github release download v1.2.0 --into target/slipway/release")]
pub(crate) struct Github {
    #[command(subcommand)]
    pub(crate) command: GithubCommand,
    #[command(flatten)]
    pub(crate) common: GithubCommon,
}

/// What all of `cargo xtask github` take.
#[derive(Debug, Args)]
pub(crate) struct GithubCommon {
    /// OWNER/NAME [default: GITHUB_REPOSITORY, or the git remote `origin`]
    #[arg(long, global = true)]
    pub(crate) repository: Option<String>,
    /// Do nothing, with a notice, where there is no token, repository or pull request, or where the token may not do it.
    #[arg(long, global = true)]
    pub(crate) optional: bool,
    /// Print the requests that would change something or fetch files, and send none of them.
    #[arg(long, global = true)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// How long to wait in all for rate limits and an ailing server.
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 300)]
    pub(crate) max_wait: u32,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GithubCommand {
    /// Deployments and their statuses.
    #[command(subcommand)]
    Deployment(GithubDeployment),
    Check(GithubCheck),
    Comment(GithubComment),
    Release(GithubRelease),
}

#[derive(Debug, Subcommand)]
pub(crate) enum GithubDeployment {
    /// A deployment exists and is in progress.
    Start(GithubStart),
    /// The deployment has ended, well or not.
    Finish(GithubFinish),
}

/// Which deployment, and what is said about it.
#[derive(Debug, Args)]
pub(crate) struct GithubStatus {
    /// Name of the environment on GitHub.
    #[arg(long)]
    pub(crate) environment: String,
    /// What makes it the same deployment when asked again [default: the run of the workflow, or else the commit]
    #[arg(long)]
    pub(crate) key: Option<String>,
    /// One sentence.
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// Where the environment is reached.
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// Where the log is [default: the run of the workflow]
    #[arg(long)]
    pub(crate) log_url: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct GithubStart {
    #[command(flatten)]
    pub(crate) status: GithubStatus,
    /// Full commit id [default: GITHUB_SHA, or the commit that is checked out]
    #[arg(long)]
    pub(crate) commit: Option<String>,
    /// End users use this environment [default: GitHub decides by its name]
    #[arg(long)]
    pub(crate) production: Option<bool>,
}

#[derive(Debug, Args)]
pub(crate) struct GithubFinish {
    #[command(flatten)]
    pub(crate) status: GithubStatus,
    /// How it ended.
    #[arg(long)]
    pub(crate) state: GithubState,
    /// Leave earlier deployments to the environment active.
    #[arg(long)]
    pub(crate) keep_earlier: bool,
}

/// How a deployment ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GithubState {
    /// The new release serves.
    Success,
    /// The new release does not serve.
    Failure,
    /// It is not known what serves.
    Error,
    /// What was deployed is gone.
    Inactive,
}

/// Show findings beside the commit and on its lines.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask github check --name scan scan.json               findings of `cargo xtask scan --json`
  cargo xtask github check --name clippy clippy.sarif          SARIF of any tool
  cargo xtask github check --name scan scan.json --fail-on warning")]
pub(crate) struct GithubCheck {
    /// Files of findings: SARIF 2.1.0, slipway.scan/1 or slipway.annotations/1. None means that nothing was found.
    pub(crate) files: Vec<PathBuf>,
    /// Name shown beside the commit.
    #[arg(long)]
    pub(crate) name: String,
    /// Full commit id [default: the head of the pull request, GITHUB_SHA, or the commit that is checked out]
    #[arg(long)]
    pub(crate) commit: Option<String>,
    /// From which level on a finding fails the check.
    #[arg(long, default_value = "failure")]
    pub(crate) fail_on: GithubLevel,
    /// A Markdown file shown above the findings.
    #[arg(long, value_name = "FILE")]
    pub(crate) summary: Option<PathBuf>,
    /// Where details are shown [default: the run of the workflow]
    #[arg(long, value_name = "URL")]
    pub(crate) details_url: Option<String>,
}

/// Levels of findings on GitHub.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum GithubLevel {
    /// Severity note or low.
    Notice,
    /// Severity medium.
    Warning,
    /// Severity high or critical.
    Failure,
}

/// Write a comment on a pull request, or bring the one that is there up to date.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask github comment --build head/build.json --base-build base/build.json \\
      --sbom head/sbom --base-sbom base/sbom --scan head/scan.json --base-scan base/scan.json
  cargo xtask github comment --name coverage --body coverage.md")]
pub(crate) struct GithubComment {
    /// Number of the pull request [default: that of the workflow's event]
    #[arg(long)]
    pub(crate) pull: Option<u64>,
    /// Tells several comments on one pull request apart.
    #[arg(long, default_value = "report")]
    pub(crate) name: String,
    /// Heading.
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// A Markdown file of your own, taken as it is: nothing in it is escaped.
    #[arg(long, value_name = "FILE")]
    pub(crate) body: Option<PathBuf>,
    /// Images: what `cargo xtask build --json` printed, or a release manifest.
    #[arg(long, value_name = "FILE")]
    pub(crate) build: Option<PathBuf>,
    /// The same from before the change.
    #[arg(long, value_name = "FILE", requires = "build")]
    pub(crate) base_build: Option<PathBuf>,
    /// Dependencies: a CycloneDX document, or a folder of them such as target/slipway/sbom.
    #[arg(long, value_name = "PATH", requires = "base_sbom")]
    pub(crate) sbom: Option<PathBuf>,
    /// The same from before the change.
    #[arg(long, value_name = "PATH", requires = "sbom")]
    pub(crate) base_sbom: Option<PathBuf>,
    /// Findings: what `cargo xtask scan --json` printed.
    #[arg(long, value_name = "FILE")]
    pub(crate) scan: Option<PathBuf>,
    /// The same from before the change.
    #[arg(long, value_name = "FILE", requires = "scan")]
    pub(crate) base_scan: Option<PathBuf>,
}

/// Create the release of a tag with its files, or complete it: a draft first, then the files, then it is published.
#[derive(Debug, Args)]
#[command(
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    after_help = "\
Examples:
  cargo xtask github release v1.2.0 release.json target/slipway/sbom
  cargo xtask github release v1.2.0 --draft                    leave it for a person to publish
  cargo xtask github release download v1.2.0 --into target/slipway/release"
)]
pub(crate) struct GithubRelease {
    #[command(subcommand)]
    pub(crate) command: Option<GithubReleaseCommand>,
    /// Name of the tag.
    #[arg(required = true)]
    pub(crate) tag: Option<String>,
    /// Files to attach, under their own names; of a folder, the files in it.
    #[arg(value_name = "FILE")]
    pub(crate) assets: Vec<PathBuf>,
    /// Commit to make the tag from, where it does not exist yet.
    #[arg(long)]
    pub(crate) commit: Option<String>,
    /// Title [default: the tag]
    #[arg(long)]
    pub(crate) title: Option<String>,
    /// A Markdown file with the notes.
    #[arg(long, value_name = "FILE")]
    pub(crate) notes: Option<PathBuf>,
    /// Do not publish it.
    #[arg(long)]
    pub(crate) draft: bool,
    /// Mark it as not ready for production.
    #[arg(long)]
    pub(crate) prerelease: bool,
    /// Replace files of a published release that differ from the ones given.
    #[arg(long)]
    pub(crate) replace: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum GithubReleaseCommand {
    Download(GithubReleaseDownload),
}

/// Fetch all files of a published release into a folder.
///
/// The folder appears with all of them or not at all. Sizes, and the digests that GitHub names, are checked; where the folder
/// holds these files already, nothing is fetched.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask github release download v1.2.0 --into target/slipway/release
  cargo xtask github release download v1.2.0 --into r --dry-run    which files there are")]
pub(crate) struct GithubReleaseDownload {
    /// Name of the tag.
    pub(crate) tag: String,
    /// Folder to make; it may be there if it is empty.
    #[arg(long, value_name = "FOLDER")]
    pub(crate) into: PathBuf,
}
