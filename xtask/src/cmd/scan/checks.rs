//! The checks of a scan: what each one looks at. They run at the same time, and one that fails does not keep the others from
//! being reported.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow};
use audit::ImagePolicy;
use finding::{Check, Finding};
use oci::Layout;
use release::Release;
use scan::Context;
use stdx::Digest;

use crate::cmd::admission;
use crate::render::ScannedCheck;

/// What is scanned: the workspace, and the images of a release or those that were built last.
pub(crate) struct Subject<'a> {
    pub(crate) context: &'a Context,
    pub(crate) release: Option<&'a Release>,
    pub(crate) images: Option<Images>,
    pub(crate) stop: &'a AtomicBool,
}

/// Images by service, and the layout that they are in.
pub(crate) struct Images {
    layout: Layout,
    digests: BTreeMap<String, Digest>,
}

/// A check looks at the subject and says what it found.
type Run = fn(&Subject<'_>) -> Result<Vec<Finding>>;

const NO_IMAGE: &str = "no image was looked at: none is built (`cargo xtask build`)";

const CHECKS: &[(Check, Run)] = &[
    (Check::Advisories, advisories),
    (Check::Secrets, secrets),
    (Check::Licences, licences),
    (Check::Images, images),
    (Check::Configuration, |subject| audit::configuration(&subject.context.root)),
    (Check::Workflows, |subject| audit::workflows(&subject.context.root)),
];

impl Images {
    /// The images of `release`, or those that were built last in the workspace at `root`; `None` where nothing was built.
    pub(crate) fn find(root: &Path, release: Option<&Release>) -> Result<Option<Images>> {
        let folder = ::build::layout(root)?;
        if release.is_none() && !folder.exists() {
            return Ok(None);
        }
        let layout = Layout::open(&folder);
        let layout = match release {
            Some(_) => layout.context(
                "the images of the release are not here: scan it where `cargo xtask release create` made it",
            )?,
            None => layout?,
        };
        let digests = match release {
            Some(release) => {
                release.services.iter().map(|(name, service)| (name.clone(), service.image)).collect()
            }
            None => built(&layout)?,
        };
        Ok(Some(Images { layout, digests }))
    }
}

/// All images that have a name, alone or in an index; those of an index are called by service and platform.
fn built(layout: &Layout) -> Result<BTreeMap<String, Digest>> {
    let mut digests = BTreeMap::new();
    for tagged in layout.tags()? {
        let images = layout.images(&tagged.digest)?;
        let is_alone = images.iter().all(|one| one.image == tagged.digest);
        digests.extend(images.into_iter().map(|one| match is_alone {
            true => (tagged.name.clone(), one.image),
            false => (format!("{} ({})", tagged.name, one.platform), one.image),
        }));
    }
    Ok(digests)
}

/// Of a release what its SBOMs say; of the workspace what would be compiled now.
fn advisories(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    match subject.release {
        Some(release) => admission::advisories(subject.context, release),
        None => scan::advisories(subject.context),
    }
}

/// Of a release what its SBOMs say as well: the workspace may have moved on since.
fn licences(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let mut findings = scan::licences(subject.context)?;
    if let Some(release) = subject.release {
        let known = findings.clone();
        let is_new =
            |new: &Finding| !known.iter().any(|known| known.key == new.key && known.severity >= new.severity);
        findings.extend(admission::licences(subject.context, release)?.into_iter().filter(is_new));
    }
    Ok(findings)
}

fn secrets(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let root = &subject.context.root;
    let options = secrets::Options::new(subject.stop);
    let mut findings = secrets::tree(root, &options)?;
    if subject.context.options.history {
        findings.extend(secrets::history(root, &options)?);
    }
    let Some(images) = &subject.images else {
        subject.context.incomplete(Check::Secrets, NO_IMAGE);
        return Ok(findings);
    };
    for (service, image) in &images.digests {
        findings.extend(secrets::image(&images.layout, *image, service, &options)?);
    }
    Ok(findings)
}

fn images(subject: &Subject<'_>) -> Result<Vec<Finding>> {
    let context = subject.context;
    let Some(images) = &subject.images else {
        context.incomplete(Check::Images, NO_IMAGE);
        return Ok(vec![]);
    };
    let max_bytes = context.settings.scan.images.max_mib.map(|mib| mib.saturating_mul(1 << 20));
    let policy = ImagePolicy { max_bytes, now: Some(context.options.now.into()), ..ImagePolicy::default() };
    let mut findings = Vec::new();
    for (service, image) in &images.digests {
        findings.extend(audit::image(&images.layout, image, service, &policy)?);
    }
    Ok(findings)
}

/// Runs the checks in `selected`, or all where it is empty.
pub(crate) fn run_all(subject: &Subject<'_>, selected: &[Check]) -> (Vec<Finding>, Vec<ScannedCheck>) {
    let is_selected = |check: &Check| selected.is_empty() || selected.contains(check);
    let timed = |run: Run| {
        let started = Instant::now();
        (run(subject), started.elapsed())
    };
    let results = thread::scope(|scope| {
        let spawned: Vec<_> = CHECKS
            .iter()
            .filter(|(check, _)| is_selected(check))
            .map(|(check, run)| (*check, scope.spawn(move || timed(*run))))
            .collect();
        let join = |(check, thread): (Check, thread::ScopedJoinHandle<'_, _>)| (check, thread.join());
        spawned.into_iter().map(join).collect::<Vec<_>>()
    });
    let mut findings = Vec::new();
    let mut checks = Vec::new();
    for (check, result) in results {
        let (result, elapsed) =
            result.unwrap_or_else(|_| (Err(anyhow!("the check panicked")), Default::default()));
        let (found, error) = match result {
            Ok(found) => (found, None),
            Err(error) => (vec![], Some(format!("{error:#}"))),
        };
        findings.extend(found);
        checks.push(ScannedCheck { check, error, elapsed });
    }
    (findings, checks)
}
