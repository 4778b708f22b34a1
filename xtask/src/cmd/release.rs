//! `cargo xtask release`: the release manifest as a file that is scanned, kept, promoted and deployed again.

use std::path::{Path, PathBuf};

use anyhow::Result;
use release::Release;

use crate::exit::{Code, ResultExt};
use crate::{flags, manifest, render};

pub(crate) fn run(flags: &flags::Release) -> Result<()> {
    match &flags.command {
        flags::ReleaseCommand::Create(flags) => create(flags),
        flags::ReleaseCommand::Show(flags) => show(flags),
    }
}

fn create(flags: &flags::ReleaseCreate) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let mut session = super::build::own_session(&root).or_exit(Code::Configuration)?;
    let report = super::build::images(&mut session, &[], &*super::interruption()?)?.report;
    let release = manifest::release(&report);
    let path = flags.output.clone().map_or_else(|| default_path(&root), Ok)?;
    release.write(&path).or_exit(Code::Configuration)?;
    render::release(&release, Some(&path), flags.json)
}

fn show(flags: &flags::ReleaseShow) -> Result<()> {
    let path = match &flags.file {
        Some(path) => path.clone(),
        None => last_created().or_exit(Code::Configuration)?,
    };
    render::release(&Release::load(&path).or_exit(Code::Configuration)?, None, flags.json)
}

fn last_created() -> Result<PathBuf> {
    let path = default_path(&super::workspace_root()?)?;
    let next = "`cargo xtask release create` makes one";
    anyhow::ensure!(
        path.exists(),
        "no release was created here: {} does not exist; next: {next}",
        path.display()
    );
    Ok(path)
}

/// Where the manifest of the last release lies.
pub(crate) fn default_path(root: &Path) -> Result<PathBuf> {
    Ok(::build::output_folder(root).or_exit(Code::Configuration)?.join("release.json"))
}
