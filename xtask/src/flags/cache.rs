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
    /// The limit: bytes, or with a unit, such as 10GiB or 500MB [default: cache.local.limit_gib of slipway.yaml]
    #[arg(long, value_name = "SIZE")]
    pub(crate) limit: Option<Size>,
    /// Say what would be removed and remove nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}

/// A number of bytes, written with a unit or without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Size, String> {
        let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = text.split_at(end);
        let factor = match unit.trim().to_ascii_lowercase().as_str() {
            "" | "b" => Some(1),
            "kb" => Some(1_000),
            "mb" => Some(1_000_000),
            "gb" => Some(1_000_000_000),
            "tb" => Some(1_000_000_000_000),
            "kib" => Some(1 << 10),
            "mib" => Some(1 << 20),
            "gib" => Some(1 << 30),
            "tib" => Some(1 << 40),
            _ => None,
        };
        let bytes =
            number.parse::<u64>().ok().zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
        bytes.map(Size).ok_or_else(|| {
            "give whole bytes, or a whole number and a unit, such as 10GiB or 500MB".to_owned()
        })
    }
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
