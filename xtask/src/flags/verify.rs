//! Flags of the commands for signatures and keys.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// Check that an image is what somebody with the key built: signature, provenance and SBOMs, each held against the image's digest.
///
/// With --rebuild the commit that the provenance names is built again in a folder of its own, and must give the same digest.
/// What does not hold ends with exit code 13, another digest with 14.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask verify api                          the image that was built here
  cargo xtask verify api --key release.pub        by this key instead of `signing.public_key` in slipway.yaml
  cargo xtask verify api --newer-than v1.2.0      and its commit must come after this one
  cargo xtask verify api --release v1.json        and it must be the one that the release names
  cargo xtask verify registry.example.com/team/api:1.2.3 --service api
  cargo xtask verify dist/images:api              an OCI image layout, and a name in it
  cargo xtask verify api --rebuild                build it again and compare")]
pub(crate) struct Verify {
    /// A service, an image of `images:` in slipway.yaml, a folder with an OCI image layout (`FOLDER` or `FOLDER:NAME`), or an image
    /// in a registry.
    pub(crate) image: String,
    /// The public key [default: `signing.public_key` in slipway.yaml]
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// The service that it must be, or the image of `images:` [default: IMAGE where that is such a name, or any]
    #[arg(long, value_name = "NAME")]
    pub(crate) service: Option<String>,
    /// The builder that provenance must name [default: `signing.builder` in slipway.yaml, or any]
    #[arg(long, value_name = "URI")]
    pub(crate) builder: Option<String>,
    /// The commit that it must come from, without further changes: a full id, or what git here knows it by.
    #[arg(long, visible_alias = "commit", value_name = "COMMIT")]
    pub(crate) revision: Option<String>,
    /// The commit that must be among the ancestors of its own, so that an older image does not pass for it.
    #[arg(long, value_name = "COMMIT")]
    pub(crate) newer_than: Option<String>,
    /// The release that must name this image, its provenance and its SBOMs.
    #[arg(long, value_name = "FILE")]
    pub(crate) release: Option<PathBuf>,
    /// Build the commit again elsewhere and compare the digest.
    #[arg(long)]
    pub(crate) rebuild: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Keys that sign images.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask key generate                        slipway.key and slipway.pub in this folder
  cargo xtask key generate --output ~/keys")]
pub(crate) struct Key {
    #[command(subcommand)]
    pub(crate) command: KeyCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    Generate(KeyGenerate),
}

/// Make a key pair: ECDSA on the curve P-256, the private key as PKCS#8 that only its owner can read.
#[derive(Debug, Args)]
pub(crate) struct KeyGenerate {
    /// Where to put slipway.key and slipway.pub [default: this folder]
    #[arg(long, short, value_name = "FOLDER")]
    pub(crate) output: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}
