//! Flags of the commands that make images.

use clap::Args;

use super::CacheMode;

/// Look at a workspace that has never heard of this tool, and write a commented `slipway.yaml`.
///
/// It names the binaries that become images and says why, and those that were left out. Nothing else is written, and no file is
/// ever replaced without --force.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask init                      write slipway.yaml
  cargo xtask init --dry-run            print what would be written
  cargo xtask build                     then: images of all services")]
pub(crate) struct Init {
    /// Print the file and write nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
    /// Replace a slipway.yaml that is there.
    #[arg(long)]
    pub(crate) force: bool,
}

/// Build reproducible OCI images of services, without a container engine.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask build                     all services
  cargo xtask build api                 one service: the same bits as when all are built
  cargo xtask build --dry-run           what would be done
  cargo xtask build --load              load the images into the Docker engine as well
  cargo xtask build --platform linux/amd64,linux/arm64
                                        one index a service, with an image for each processor
  cargo xtask build --explain           what was done before, what was not, and why
  cargo xtask build --cache off         from the sources alone
  cargo xtask build --verify            build twice, in different settings, and compare
  skopeo inspect oci:target/slipway/images:api")]
pub(crate) struct Build {
    /// Services to build; all where none is named.
    pub(crate) services: Vec<String>,
    /// Print the plan and do nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Do not sign, even where a key is configured.
    #[arg(long)]
    pub(crate) unsigned: bool,
    /// Load the images into the Docker engine that DOCKER_HOST names, or the local one.
    #[arg(long)]
    pub(crate) load: bool,
    /// Build again in another setting (folder, user, host name, umask, time zone, locale, processors, clock), compare, and say why
    /// images differ.
    #[arg(long, conflicts_with_all = ["dry_run", "load"])]
    pub(crate) verify: bool,
    /// Keep what the second build left.
    #[arg(long, requires = "verify")]
    pub(crate) keep: bool,
    /// Platforms to build for, and with several of them an index under each service's name [default: build.platforms of slipway.yaml, or
    /// the configured target]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub(crate) platform: Vec<workspace::Platform>,
    /// Say of each action whether its result was there already, and which input changed where it was not.
    #[arg(long)]
    pub(crate) explain: bool,
    #[command(flatten)]
    pub(crate) cache: CacheMode,
}
