//! Flags of the commands that move images to and from registries.

use std::path::PathBuf;

use clap::Args;

/// Build images and send them to a registry: only what it does not have yet.
///
/// Prints each image by its digest. Credentials are those of `docker login` and `podman login`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask push                                   all services, to image.prefix of slipway.yaml
  cargo xtask push api --to registry.example/team    one service, as registry.example/team/api
  cargo xtask push --tag latest --tag v1             under these tags instead of the version
  cargo xtask push postgres                          an image of `images:` in slipway.yaml
  cargo xtask push --platform linux/amd64,linux/arm64
                                                     an index of both under each tag
  cargo xtask push --dry-run                         what would be sent, after asking the registry
  docker run $(cargo xtask push api)                 the very image that was sent")]
pub(crate) struct Push {
    /// Services to send, and images of `images:` in slipway.yaml; all services, and none of those, where nothing is named.
    #[arg(value_name = "NAME")]
    pub(crate) services: Vec<String>,
    /// Registry and what comes before a service's name [default: image.prefix of slipway.yaml]
    #[arg(long, value_name = "PREFIX")]
    pub(crate) to: Option<String>,
    /// Tag to set in place of the version; may be given several times.
    #[arg(long = "tag", value_name = "TAG")]
    pub(crate) tags: Vec<String>,
    /// Platforms to build for; with several of them an index goes under each tag [default: build.platforms of slipway.yaml, or the
    /// configured target]
    #[arg(long, value_name = "OS/ARCH", value_delimiter = ',')]
    pub(crate) platform: Vec<workspace::Platform>,
    /// Build, ask the registry what it has, and send nothing.
    #[arg(long)]
    pub(crate) dry_run: bool,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}

/// Take an image from a registry into an OCI image layout, with all that is attached to it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  cargo xtask pull registry.example/team/api:1.2.3
  cargo xtask pull registry.example/team/api@sha256:... --layout images
  skopeo inspect oci:images:1.2.3")]
pub(crate) struct Pull {
    /// Name of the image, with a tag or a digest.
    pub(crate) reference: String,
    /// Folder of the layout [default: slipway/pulled in the target folder]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) layout: Option<PathBuf>,
    /// Print one JSON document instead of text.
    #[arg(long)]
    pub(crate) json: bool,
}
