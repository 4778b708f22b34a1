//! `cargo xtask build`: load, plan, show, run, report.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ::build::{BuildError, Platforms, Report, Request, Session};
use anyhow::{Context, Result};
use oci::Layout;
use supply::SigningKey;
use workspace::{Platform, Settings};

use crate::docker::Engine;
use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, Progress};

pub(crate) fn run(flags: &flags::Build) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let platforms = platforms(&root, flags).or_exit(Code::Configuration)?;
    match platforms.as_slice() {
        [] => single(Session::open(&root).or_exit(Code::Configuration)?, &root, flags),
        [one] => single(Session::open_platform(&root, *one).or_exit(Code::Configuration)?, &root, flags),
        several => multiple(&root, several, flags),
    }
}

/// Those of the command line, or those of the configuration; none for the configured target alone.
fn platforms(root: &Path, flags: &flags::Build) -> Result<Vec<Platform>> {
    let mut platforms = flags.platform.clone();
    if platforms.is_empty() {
        platforms = Settings::load(root)?.build.platforms;
    }
    platforms.sort();
    platforms.dedup();
    Ok(platforms)
}

fn single(session: Session, root: &Path, flags: &flags::Build) -> Result<()> {
    let mode = super::cache::mode(&flags.cache).or_exit(Code::Configuration)?;
    let mut session = session.with_cache(mode);
    if flags.dry_run {
        let loaded = session.plan(&flags.services).or_exit(Code::Configuration)?;
        let progress = Progress::new();
        let explained = flags.explain.then(|| session.explain(&flags.services, &progress)).transpose();
        progress.finish();
        return render::plan(&loaded, explained.or_exit(Code::Configuration)?.as_deref(), flags.json);
    }
    if flags.verify {
        return verify(root, &mut session, flags);
    }
    let interrupted = super::interruption()?;
    let Images { report, signed_by } = match flags.unsigned {
        true => Images { report: build(&mut session, &flags.services, &interrupted)?, signed_by: None },
        false => images(&mut session, &flags.services, &interrupted)?,
    };
    render::report(&report, signed_by.as_deref(), flags.explain, flags.json)?;
    if report.reason.is_some() {
        prune(&session, root, &interrupted);
    }
    if flags.load {
        load(&Engine::connect().or_exit(Code::Configuration)?, &session, &report)?;
    }
    Ok(())
}

fn multiple(root: &Path, platforms: &[Platform], flags: &flags::Build) -> Result<()> {
    let mode = super::cache::mode(&flags.cache).or_exit(Code::Configuration)?;
    let mut all = Platforms::open(root, platforms).or_exit(Code::Configuration)?.with_cache(mode);
    if flags.dry_run {
        let plans = all.plan(&flags.services).or_exit(Code::Configuration)?;
        return render::plans(&plans, flags.json);
    }
    let interrupted = super::interruption()?;
    let progress = Progress::new();
    let report = all.build(&flags.services, &progress, &interrupted);
    progress.finish();
    let report = report?;
    let session = Session::open(root).or_exit(Code::Configuration)?;
    let signed_by = match key(&session)?.filter(|_| !flags.unsigned) {
        Some(key) => {
            ::build::sign_platforms(&report, session.folder(), &key).context("cannot sign the images")?;
            Some(key.public().hint()?)
        }
        None => None,
    };
    render::platforms(&report, signed_by.as_deref(), flags.json)?;
    if report.platforms.values().any(|report| report.reason.is_some()) {
        prune(&Session::open(root)?, root, &interrupted);
    }
    if flags.load {
        let engine = Engine::connect().or_exit(Code::Configuration)?;
        let own = report.platforms.get(&engine.platform());
        let own = own
            .with_context(|| format!("the engine runs {}, and nothing was built for it", engine.platform()));
        load(&engine, &Session::open(root)?, own.or_exit(Code::Configuration)?)?;
    }
    Ok(())
}

/// What was built.
pub(crate) struct Images {
    pub(crate) report: Report,
    /// What bundles call the key that signed all of them; `None` where no key is configured.
    pub(crate) signed_by: Option<String>,
}

/// The images of `services`, shown while they are made, and signed where there is a key.
pub(crate) fn images(session: &mut Session, services: &[String], interrupted: &AtomicBool) -> Result<Images> {
    let report = build(session, services, interrupted)?;
    let signed_by = match key(session)? {
        Some(key) => {
            ::build::sign(&report, session.folder(), &key).context("cannot sign the images")?;
            Some(key.public().hint()?)
        }
        None => None,
    };
    Ok(Images { report, signed_by })
}

/// The key that signs, where one is configured.
fn key(session: &Session) -> Result<Option<SigningKey>> {
    super::key::load(session.root(), &session.settings().signing).or_exit(Code::Configuration)
}

fn build(session: &mut Session, services: &[String], interrupted: &AtomicBool) -> Result<Report> {
    let progress = Progress::new();
    let report = session.build(services, &progress, interrupted);
    progress.finish();
    report
}

/// The images are there, whether old ones can be removed or not.
fn prune(session: &Session, root: &Path, interrupted: &AtomicBool) {
    let pruned = super::keep::named(root).and_then(|keep| session.prune(keep, &Progress::new(), interrupted));
    if let Err(error) = pruned {
        eprintln!("warning: cannot remove old blobs: {error:#}");
    }
}

/// Builds twice and compares; images that differ end the program with 14.
fn verify(root: &Path, session: &mut Session, flags: &flags::Build) -> Result<()> {
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let interrupted = super::interruption()?;
    let progress = Progress::new();
    let request = Request {
        program: &program,
        root,
        commit: None,
        services: &flags.services,
        reporter: &progress,
        interrupted: &interrupted,
    };
    let verified = session.verify(&request, flags.keep);
    progress.finish();
    let (_, verification) = verified?;
    render::verification(&verification, flags.json)?;
    let differing: Vec<&str> = verification.differing().collect();
    if differing.is_empty() {
        return Ok(());
    }
    Err(BuildError::NotReproducible(format!("two builds of {} differ", differing.join(", "))).into())
}

fn load(engine: &Engine, session: &Session, report: &Report) -> Result<()> {
    let layout = Layout::open(&report.layout)?;
    for service in &report.services {
        let name = session.reference(service);
        let id = engine.load(&layout, service.image, &name).or_exit(Code::Configuration)?;
        eprintln!("loaded {name} as {id}");
    }
    Ok(())
}
