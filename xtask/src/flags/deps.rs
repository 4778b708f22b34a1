//! Flags of the command that tells what a binary is made of.

use std::path::PathBuf;

use clap::Args;

/// Show what each service is made of: which packages are linked into it, built it or only test it, and their bytes.
///
/// Packages come from Cargo's own plan of the build, so nothing is compiled. Bytes come from the binaries of the last
/// `cargo xtask build`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask deps                      all services, by size
  cargo xtask deps api --svg api.svg    a picture of one
  cargo xtask deps --why openssl-sys    who asks for it
  cargo xtask deps --diff main          what came, went and changed since
  cargo xtask deps --record             write the sizes down in deps.lock, as what growth is measured from
  cargo xtask deps --check              exit 13 when a budget of slipway.yaml is exceeded")]
pub(crate) struct Deps {
    /// Services; all where none is named.
    pub(crate) services: Vec<String>,
    /// Show the shortest chains that lead to a package: `name` or `name@version`.
    #[arg(long, value_name = "PACKAGE")]
    pub(crate) why: Option<String>,
    /// Compare with another git revision.
    #[arg(long, value_name = "REV", conflicts_with_all = ["why", "check", "record"])]
    pub(crate) diff: Option<String>,
    /// Fail when a budget of `deps:` in slipway.yaml is exceeded.
    #[arg(long, conflicts_with_all = ["why", "record"])]
    pub(crate) check: bool,
    /// Write packages and sizes to deps.lock.
    #[arg(long, conflicts_with = "why")]
    pub(crate) record: bool,
    /// Write a treemap of the binary as SVG; needs one service, or gives each its own file beside this name.
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,
    /// Show packages that built it, test it or are absent as well, not only those that are linked.
    #[arg(long)]
    pub(crate) all: bool,
    /// Do not let Cargo download anything.
    #[arg(long)]
    pub(crate) offline: bool,
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
}
