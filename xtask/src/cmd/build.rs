//! `cargo xtask build`: load, plan, show, run, report.

use std::path::Path;
use std::sync::atomic::AtomicBool;

use ::build::{
    BuildError, BuiltService, Described, Platforms, PlatformsReport, Report, Request, Session, Verification,
    What,
};
use anyhow::{Context, Result, anyhow, bail};
use cache::Mode;
use oci::Layout;
use supply::SigningKey;
use workspace::{KeySource, Platform, Settings};

use crate::exit::{Code, ResultExt};
use crate::flags;
use crate::render::{self, Progress, Signed};

pub(crate) fn run(flags: &flags::Build) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let platforms = platforms(&root, &flags.platform).or_exit(Code::Configuration)?;
    match platforms.as_slice() {
        [] => single(Session::open(&root).or_exit(Code::Configuration)?, &root, flags),
        [_, _, ..] if flags.explain => {
            // What is done for one platform at a time must not look done for several.
            Err(anyhow!(
                "--explain looks at one platform at a time; name it, such as `--platform linux/amd64`"
            ))
            .or_exit(Code::Usage)
        }
        [one] => single(Session::open_platform(&root, *one).or_exit(Code::Configuration)?, &root, flags),
        several => multiple(&root, several, flags),
    }
}

/// Those of the command line, or those of the configuration; none for the configured target alone.
pub(crate) fn platforms(root: &Path, asked: &[Platform]) -> Result<Vec<Platform>> {
    let mut platforms = asked.to_vec();
    if platforms.is_empty() {
        platforms = Settings::load(root)?.build.platforms;
    }
    platforms.sort();
    platforms.dedup();
    Ok(platforms)
}

/// How results of other builds are used: not at all where the images are going to be signed. A signature says that the binary was
/// compiled from the sources that its provenance names.
fn mode(settings: &Settings, flags: &flags::Build) -> Result<Mode> {
    let mode = super::cache::mode(&flags.cache)?;
    if mode == Mode::Off || flags.unsigned || !super::key::is_there(&settings.signing) {
        return Ok(mode);
    }
    if flags.explain || super::cache::is_asked_for(&flags.cache) {
        eprintln!("the cache is not used: what is signed is compiled from the sources; `--unsigned` uses it");
    }
    Ok(Mode::Off)
}

fn single(session: Session, root: &Path, flags: &flags::Build) -> Result<()> {
    let mode = mode(session.settings(), flags).or_exit(Code::Configuration)?;
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
    let signed = signed(root, signed_by, flags.unsigned)?;
    render::report(&report, &signed, flags.explain, flags.json)?;
    if report.reason.is_some() {
        prune(&session, root, &interrupted);
    }
    if flags.load {
        load(&crate::loading::engine()?, &session, &report)?;
    }
    Ok(())
}

fn multiple(root: &Path, platforms: &[Platform], flags: &flags::Build) -> Result<()> {
    let mode =
        mode(&Settings::load(root).or_exit(Code::Configuration)?, flags).or_exit(Code::Configuration)?;
    let mut all = Platforms::open(root, platforms).or_exit(Code::Configuration)?.with_cache(mode);
    if flags.dry_run {
        let plans = all.plan(&flags.services).or_exit(Code::Configuration)?;
        return render::plans(&plans, flags.json);
    }
    if flags.verify {
        return verify_all(root, &mut all, flags);
    }
    let interrupted = super::interruption()?;
    let report = build_all(&mut all, &flags.services, &interrupted)?;
    let signed_by = if flags.unsigned { None } else { sign_all(root, &report)? };
    render::platforms(&report, &signed(root, signed_by, flags.unsigned)?, flags.json)?;
    if report.platforms.values().any(|report| report.reason.is_some()) {
        prune(&Session::open(root)?, root, &interrupted);
    }
    if flags.load {
        let engine = crate::loading::engine()?;
        let platform = engine.facts().platform();
        let own = report.platforms.get(&platform);
        let own = own.with_context(|| format!("the engine runs {platform}, and nothing was built for it"));
        load(&engine, &Session::open(root)?, own.or_exit(Code::Configuration)?)?;
    }
    Ok(())
}

/// The images of `services` for several platforms, and the indexes that list them; signed where there is a key.
pub(crate) fn indexes(
    root: &Path,
    platforms: &[Platform],
    services: &[String],
    interrupted: &AtomicBool,
) -> Result<PlatformsReport> {
    let mut all = Platforms::open(root, platforms).or_exit(Code::Configuration)?;
    let report = build_all(&mut all, services, interrupted)?;
    sign_all(root, &report)?;
    Ok(report)
}

fn build_all(all: &mut Platforms, services: &[String], interrupted: &AtomicBool) -> Result<PlatformsReport> {
    let progress = Progress::new();
    let report = all.build(services, &progress, interrupted);
    progress.finish();
    report
}

/// What bundles call the key that signed everything, where one is configured.
fn sign_all(root: &Path, report: &PlatformsReport) -> Result<Option<String>> {
    let session = Session::open(root).or_exit(Code::Configuration)?;
    let Some(key) = key(&session)? else { return Ok(None) };
    ::build::sign_platforms(report, session.folder(), &key).context("cannot sign the images")?;
    Ok(Some(key.public().hint()?))
}

/// What runs on this machine: a workspace that is built for several platforms has one image of each service for it.
///
/// # Errors
/// When the workspace is built for other platforms alone.
pub(crate) fn own_session(root: &Path) -> Result<Session> {
    let platforms = platforms(root, &[])?;
    let own = Platform::of_this_machine();
    match (platforms.as_slice(), own) {
        ([], _) => Session::open(root),
        ([one], Some(own)) if *one == own => Session::open_platform(root, own),
        (several, Some(own)) if several.contains(&own) => Session::open_listed(root, own),
        _ => {
            let own = own.map_or_else(|| std::env::consts::ARCH.to_owned(), |own| own.to_string());
            bail!(
                "a release is for the machine that it is made on ({own}), and `build.platforms` in {} does not name that; next: add it \
                 there, or `cargo xtask push`, which sends all platforms to a registry",
                Settings::FILE
            )
        }
    }
}

/// What was built.
pub(crate) struct Images {
    pub(crate) report: Report,
    /// What bundles call the key that signed all of them; `None` where no key is configured.
    pub(crate) signed_by: Option<String>,
}

/// The images of `services`, shown while they are made, and signed where there is a key.
pub(crate) fn images(session: &mut Session, services: &[String], interrupted: &AtomicBool) -> Result<Images> {
    // A key that cannot be had is said before anything compiles.
    let key = key(session)?;
    let report = build(session, services, interrupted)?;
    let signed_by = match key {
        Some(key) => {
            let images = report.services.iter().map(BuiltService::described);
            sign(session, images, &key)?;
            Some(key.public().hint()?)
        }
        None => None,
    };
    Ok(Images { report, signed_by })
}

/// Signs images of the session's layout.
pub(super) fn sign(
    session: &Session,
    images: impl IntoIterator<Item = Described>,
    key: &SigningKey,
) -> Result<()> {
    ::build::sign(&session.layout(), images, session.folder(), key).context("cannot sign the images")
}

/// What is said of signatures.
pub(super) fn signed(root: &Path, signed_by: Option<String>, is_unwanted: bool) -> Result<Signed> {
    Ok(match signed_by {
        Some(key) => Signed::By(key),
        None if Settings::load(root)?.signing.key.is_none() => Signed::NotConfigured,
        None if is_unwanted => Signed::AsAsked,
        None => Signed::NoKey,
    })
}

/// The key that signs, where one is configured.
pub(super) fn key(session: &Session) -> Result<Option<SigningKey>> {
    super::key::load(session.root(), &session.settings().signing).or_exit(Code::Configuration)
}

fn build(session: &mut Session, services: &[String], interrupted: &AtomicBool) -> Result<Report> {
    let progress = Progress::new();
    let report = session.build(services, &progress, interrupted);
    progress.finish();
    report
}

/// The images are there, whether old ones can be removed or not.
pub(super) fn prune(session: &Session, root: &Path, interrupted: &AtomicBool) {
    let pruned = super::keep::named(root).and_then(|keep| session.prune(keep, &Progress::new(), interrupted));
    if let Err(error) = pruned {
        eprintln!("warning: cannot remove old blobs: {error:#}");
    }
}

/// Builds twice and compares; images that differ end the program with 14.
fn verify(root: &Path, session: &mut Session, flags: &flags::Build) -> Result<()> {
    let verification = verified(root, flags, |request| Ok(session.verify(request, flags.keep)?.1))?;
    render::verification(&verification, flags.json)?;
    require_same(&verification.differing().map(str::to_owned).collect::<Vec<_>>())
}

/// The same for each of several platforms.
fn verify_all(root: &Path, all: &mut Platforms, flags: &flags::Build) -> Result<()> {
    let verifications = verified(root, flags, |request| all.verify(request, flags.keep))?;
    render::verifications(&verifications, flags.json)?;
    let of = |(platform, verification): (&String, &Verification)| {
        verification.differing().map(|name| format!("{name} ({platform})")).collect::<Vec<_>>()
    };
    require_same(&verifications.iter().flat_map(of).collect::<Vec<_>>())
}

fn verified<T>(
    root: &Path,
    flags: &flags::Build,
    verify: impl FnOnce(&Request<'_>) -> Result<T>,
) -> Result<T> {
    let program = std::env::current_exe().context("cannot find this program itself")?;
    let settings = Settings::load(root).or_exit(Code::Configuration)?;
    let interrupted = super::interruption()?;
    let progress = Progress::new();
    let verified = verify(&Request {
        what: What::Services,
        program: &program,
        root,
        commit: None,
        epoch: None,
        platform: None,
        services: &flags.services,
        secret: settings.signing.key.as_ref().and_then(KeySource::variable),
        reporter: &progress,
        interrupted: &interrupted,
    });
    progress.finish();
    verified
}

fn require_same(differing: &[String]) -> Result<()> {
    if differing.is_empty() {
        return Ok(());
    }
    Err(BuildError::NotReproducible(format!("two builds of {} differ", differing.join(", "))).into())
}

fn load(engine: &docker::Engine, session: &Session, report: &Report) -> Result<()> {
    let layout = Layout::open(&report.layout)?;
    for service in &report.services {
        let name = session.reference(&service.name, &service.version);
        crate::loading::image(engine, &layout, service.image, &name)?;
    }
    Ok(())
}
