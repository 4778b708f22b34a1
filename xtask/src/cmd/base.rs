//! `cargo xtask base`: lock Debian packages, show what is locked, build the images of other people's programs.

use ::base::debian::Lock;
use ::build::{Session, Update};
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
        BaseCommand::Build(flags) => build(&session, flags),
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
    let progress = Progress::new();
    let images = session.build_images(&flags.images, &progress, &*super::interruption()?);
    progress.finish();
    let images = images?;
    render::images(&images, &session.layout(), flags.json)?;
    if flags.load {
        let layout = Layout::open(&session.layout())?;
        let engine = crate::docker::Engine::connect().or_exit(Code::Configuration)?;
        for image in &images {
            let name = session.image_reference(image);
            let id = engine.load(&layout, image.image, &name).or_exit(Code::Configuration)?;
            eprintln!("loaded {name} as {id}");
        }
    }
    Ok(())
}
