//! Flags of the commands for results of earlier builds, and of those that use them.

use clap::{Args, Subcommand};

/// Results of earlier builds: what is kept, and moving it between this machine and others.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask cache stats               what this machine's store holds
  cargo xtask cache gc                  bring it within its limit
  cargo xtask cache pull                fetch what a build of the workspace as it is would use
  cargo xtask cache push --dry-run      what the store that others share lacks")]
pub(crate) struct Cache {
    #[command(subcommand)]
    pub(crate) command: CacheCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum CacheCommand {
    /// Show what this machine's store holds.
    Stats(CacheStats),
    /// Remove what was not used for longest, until the store is within its limit; never the newest.
    Gc(CacheGc),
    /// Give the shared store what it lacks of the results of the workspace as it is.
    Push(CacheMove),
    /// Take results of the workspace as it is from the shared store.
    Pull(CacheMove),
}

#[derive(Debug, Args)]
pub(crate) struct CacheStats {
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheGc {
    /// The limit, in bytes [default: cache.local.limit_gib of slipway.yaml]
    #[arg(long, value_name = "BYTES")]
    pub(crate) limit: Option<u64>,
    /// Say what would be removed and remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CacheMove {
    /// Services whose results are meant; all where none is named.
    pub(crate) services: Vec<String>,
    /// Say what would be moved and move nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// How results that were made before are used.
#[derive(Debug, Args)]
pub(crate) struct CacheMode {
    /// How results that were made before are used: `off`, `read`, `local` (write to this machine's store only), `read-write`
    /// [default: $SLIPWAY_CACHE, or local]
    #[arg(long = "cache", value_name = "MODE")]
    pub(crate) mode: Option<cache::Mode>,
}
