//! Flags of the command that looks for what should not be shipped.

use std::path::PathBuf;

use clap::Args;
use finding::{Check, Severity};

/// Look for what must not be shipped: known vulnerabilities, secrets, licences outside the policy, unsafe images, configuration
/// and workflows.
///
/// Advisories are told apart by what is really linked into each service, what only builds it, and what is merely in the lock
/// file. Findings of the severity that the policy names end with exit code 13.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask scan                      every check
  cargo xtask scan advisories licences  some
  cargo xtask scan --offline            with what was fetched before
  cargo xtask scan --fail-on critical   another threshold for all checks
  cargo xtask scan secrets --history    secrets in every commit as well
  cargo xtask scan --release target/slipway/release.json    a release, with its images
  cargo xtask scan --sarif scan.sarif   for code scanning
  cargo xtask scan --notices NOTICES    the licence texts of everything that is linked")]
pub(crate) struct Scan {
    /// Checks to run; all where none is named.
    #[arg(value_name = "CHECK", value_parser = check)]
    pub(crate) checks: Vec<Check>,
    /// Ask nothing over the network.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Look for secrets in every commit as well.
    #[arg(long)]
    pub(crate) history: bool,
    /// Findings of this severity and above fail, whatever the policy says.
    #[arg(long, value_name = "SEVERITY", value_parser = severity, conflicts_with = "environment")]
    pub(crate) fail_on: Option<Severity>,
    /// Judge by the policy of this environment.
    #[arg(long, short, value_name = "NAME")]
    pub(crate) environment: Option<String>,
    /// Scan this release: its images, and its SBOMs against the advisories. Deployments of it go by the result.
    #[arg(long, value_name = "FILE")]
    pub(crate) release: Option<PathBuf>,
    /// Where the result of scanning a release is written [default: scans/<release>.json in target/slipway]
    #[arg(long, value_name = "FILE", requires = "release")]
    pub(crate) record: Option<PathBuf>,
    /// Write the findings as SARIF 2.1.0 as well.
    #[arg(long, value_name = "FILE")]
    pub(crate) sarif: Option<PathBuf>,
    /// Write the licence texts of everything that is linked.
    #[arg(long, value_name = "FILE")]
    pub(crate) notices: Option<PathBuf>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

fn check(name: &str) -> Result<Check, String> {
    // Which migrations are pending is not known to a scan of the workspace: they are judged by a command of their own.
    let is_scanned = |check: &Check| *check != Check::Migrations;
    let known = || Check::ALL.into_iter().filter(is_scanned).map(Check::name).collect::<Vec<_>>().join(", ");
    Check::parse(name).filter(is_scanned).ok_or_else(|| format!("there are: {}", known()))
}

fn severity(name: &str) -> Result<Severity, String> {
    let known = || Severity::ALL.map(Severity::name).join(", ");
    Severity::ALL.into_iter().find(|one| one.name() == name).ok_or_else(|| format!("there are: {}", known()))
}
