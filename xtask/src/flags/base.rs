//! Flags of the commands for roots of Debian packages.

use clap::{Args, Subcommand};

/// Roots of Debian packages: lock them, show them, build images of other people's programs from them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask base lock                 lock what services and images ask for and is not locked yet
  cargo xtask base lock --update        take the latest of everything
  cargo xtask base show libssl3         which roots have it, and why
  cargo xtask base build postgres --load")]
pub(crate) struct Base {
    #[command(subcommand)]
    pub(crate) command: BaseCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum BaseCommand {
    /// Choose packages and write slipway.debian.lock.
    Lock(BaseLock),
    /// Show the packages that are locked, and why each is there.
    Show(BaseShow),
    /// Build the images of `images:` in slipway.yaml, without a container engine.
    Build(BaseBuild),
}

#[derive(Debug, Args)]
pub(crate) struct BaseLock {
    /// Take the latest version of every package, instead of keeping those that are locked.
    #[arg(long)]
    pub(crate) update: bool,
    /// Say what would change and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BaseShow {
    /// Show this package alone.
    pub(crate) package: Option<String>,
    /// Print one JSON document instead of tables.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct BaseBuild {
    /// Images to build; all where none is named.
    pub(crate) images: Vec<String>,
    /// Platform to build for, which must be locked [default: the configured target]
    #[arg(long, value_name = "OS/ARCH")]
    pub(crate) platform: Option<workspace::Platform>,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not sign, even where a key is configured.
    #[arg(long)]
    pub(crate) unsigned: bool,
    /// Load the images into the Docker engine that DOCKER_HOST names, or the local one.
    #[arg(long)]
    pub(crate) load: bool,
}
