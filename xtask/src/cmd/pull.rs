//! `cargo xtask pull`: an image from a registry into a layout.

use anyhow::{Context, Result};
use oci::Layout;
use registry::Reference;

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, TransferProgress};

pub(crate) fn run(flags: &flags::Pull) -> Result<()> {
    let from: Reference =
        flags.reference.parse().map_err(anyhow::Error::from).or_exit(Code::Configuration)?;
    let folder = match &flags.layout {
        Some(folder) => folder.clone(),
        None => {
            let root = super::workspace_root().context("outside a workspace, name a folder with --layout");
            build::output_folder(&root.or_exit(Code::Configuration)?)?.join("pulled")
        }
    };
    let layout = Layout::create(&folder).or_exit(Code::Configuration)?;
    let progress = TransferProgress::new();
    progress.begin(&from.to_string());
    let digest = registry::pull(&from, &layout, &progress);
    progress.finish();
    let digest = digest.with_context(|| format!("cannot pull {from}"))?;
    let image = Reference { tag: None, digest: Some(digest), ..from };
    render::pulled(&image, &folder, flags.json)
}
