//! `cargo xtask base`: lock Debian packages, show what is locked, build the images of other people's programs.

use std::sync::atomic::AtomicBool;

use ::base::debian::Lock;
use ::build::{BuiltImage, Session, Update};
use anyhow::{Context, Result};
use oci::Layout;

use crate::exit::{Code, ResultExt};
use crate::flags::{Base, BaseBuild, BaseCommand, BaseLock, BaseShow};
use crate::render::{self, Progress};

pub(crate) fn run(flags: &Base) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let session = Session::open(&root).or_exit(Code::Configuration)?;
    match &flags.command {
        BaseCommand::Lock(flags) => lock(&session, flags),
        BaseCommand::Show(flags) => {
            let lock = Lock::load(&root).and_then(|lock| {
                lock.with_context(|| format!("there is no {}; run `cargo xtask base lock`", Lock::FILE))
            });
            show(&lock.or_exit(Code::Configuration)?, flags)
        }
        BaseCommand::Build(flags) => {
            let own = |platform| Session::open_platform(&root, platform);
            build(&flags.platform.map_or(Ok(session), own).or_exit(Code::Configuration)?, flags)
        }
    }
}

fn lock(session: &Session, flags: &BaseLock) -> Result<()> {
    let update = if flags.update { Update::Everything } else { Update::WhatIsAsked };
    let (lock, changes) = session.lock_packages(update).or_exit(Code::Configuration)?;
    if !flags.dry_run {
        session.write_lock(&lock).or_exit(Code::Configuration)?;
    }
    render::lock_changes(&lock, &changes, flags.dry_run, flags.json)
}

fn show(lock: &Lock, flags: &BaseShow) -> Result<()> {
    render::locked(lock, flags.package.as_deref(), flags.json)
}

fn build(session: &Session, flags: &BaseBuild) -> Result<()> {
    let interrupted = super::interruption()?;
    let Made { images, signed_by } = make(session, &flags.images, flags.unsigned, &interrupted)?;
    let signed = super::build::signed(session.root(), signed_by, flags.unsigned)?;
    render::images(&images, &session.layout(), &signed, flags.json)?;
    super::build::prune(session, session.root(), &interrupted);
    if flags.load {
        let layout = Layout::open(&session.layout())?;
        let engine = crate::loading::engine()?;
        for image in &images {
            let name = session.reference(&image.name, &image.version);
            crate::loading::image(&engine, &layout, image.image, &name)?;
        }
    }
    Ok(())
}

/// Images of packages.
pub(super) struct Made {
    pub(super) images: Vec<BuiltImage>,
    /// What bundles call the key that signed all of them; `None` where none did.
    signed_by: Option<String>,
}

/// The images of `names`, signed where there is a key.
pub(super) fn make(
    session: &Session,
    names: &[String],
    is_unsigned: bool,
    interrupted: &AtomicBool,
) -> Result<Made> {
    // A key that cannot be had is said before anything is fetched.
    let key = if is_unsigned { None } else { super::build::key(session)? };
    let progress = Progress::new();
    let images = session.build_images(names, &progress, interrupted);
    progress.finish();
    let images = images?;
    if let Some(key) = &key {
        super::build::sign(session, images.iter().map(BuiltImage::described), key)?;
    }
    Ok(Made { images, signed_by: key.map(|key| key.public().hint()).transpose()? })
}
