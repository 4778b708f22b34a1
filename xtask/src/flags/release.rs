//! Flags of the commands for releases.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// The release manifest: images and configuration of all services as one file that is scanned, kept and deployed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask release create                       build, and write target/slipway/release.json
  cargo xtask release create --output v1.json      to another file
  cargo xtask release show v1.json                 what it holds
  cargo xtask scan --release v1.json               scan it
  cargo xtask deploy staging --release v1.json     deploy it; later the same file to production")]
pub(crate) struct Release {
    #[command(subcommand)]
    pub(crate) command: ReleaseCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ReleaseCommand {
    Create(ReleaseCreate),
    Show(ReleaseShow),
}

/// Build the images of all services and write the release manifest.
#[derive(Debug, Args)]
pub(crate) struct ReleaseCreate {
    /// Where to write it [default: release.json in the build's output folder, target/slipway]
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Show what a release manifest holds.
#[derive(Debug, Args)]
pub(crate) struct ReleaseShow {
    /// The manifest [default: the one that was created last]
    pub(crate) file: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}
