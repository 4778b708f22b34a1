//! `cargo xtask verify`: find the image, fetch what is attached to it, judge, build again where asked, report.

mod lineage;
mod rebuild;
mod source;

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use deploy::EnvironmentFile;
use release::Release;
use stdx::Digest;
use supply::{Check, Expected, Named, Outcome, PublicKey, Verdict};
use workspace::{KeySource, Settings};

use crate::exit::{Code, ResultExt};
use crate::{flags, render};

pub(crate) use rebuild::Rebuilt;
use source::Source;

/// What was found out about one image.
pub(crate) struct Judged {
    /// The platform, where an index lists it.
    pub(crate) platform: Option<String>,
    pub(crate) image: Digest,
    pub(crate) verdict: Verdict,
    pub(crate) rebuilt: Option<Rebuilt>,
}

pub(crate) fn run(flags: &flags::Verify) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let settings = Settings::load(&root).or_exit(Code::Configuration)?;
    let key = key(&root, &settings, flags.key.as_deref()).or_exit(Code::Configuration)?;
    let source = Source::find(&root, &flags.image).or_exit(Code::Configuration)?;
    let expected = Expected {
        service: flags.service.clone().or_else(|| source.service(&flags.image)),
        builder: flags.builder.clone().or(settings.signing.builder.clone()),
        revision: commit(&root, flags.revision.as_deref())?,
        release: flags
            .release
            .as_deref()
            .map(|path| named(path, &flags.image, &source.image()))
            .transpose()?,
    };
    let newer_than = commit(&root, flags.newer_than.as_deref())?;
    let listed = source.listed().or_exit(Code::Configuration)?;
    let mut checks = Vec::new();
    let mut judged = Vec::new();
    if listed.is_empty() {
        judged.push(judge(None, &source, &key, &expected)?);
    } else {
        let attached = source.attached(&key).or_exit(Code::Configuration)?;
        checks.push(supply::judge_index(&source.image(), &attached, &key));
        for (platform, source) in &listed {
            judged.push(judge(Some(platform.clone()), source, &key, &of_listed(&expected, source))?);
        }
        checks.extend(expected.release.as_ref().map(|named| among(named, &judged)));
    }
    if let Some(than) = &newer_than {
        for one in &mut judged {
            one.verdict.checks.push(lineage::newer(&root, one.verdict.provenance.as_ref(), than));
        }
    }
    let is_good = checks.iter().all(|check| check.outcome == Outcome::Ok)
        && judged.iter().all(|one| one.verdict.is_good());
    if flags.rebuild && is_good {
        let interrupted = super::interruption()?;
        let secret = settings.signing.key.as_ref().and_then(KeySource::variable);
        let sources = listed.iter().map(|(_, source)| source).chain(listed.is_empty().then_some(&source));
        for (one, source) in judged.iter_mut().zip(sources) {
            let provenance = one.verdict.provenance.as_ref();
            one.rebuilt = provenance
                .map(|provenance| rebuild::rebuild(&root, source, provenance, secret, &interrupted))
                .transpose()?;
        }
    }
    render::verified(&source.image(), is_good, &checks, &judged, flags.json)?;
    if !is_good {
        let error = anyhow!("{} is not to be trusted: not every check holds", flags.image);
        return Err(error).or_exit(Code::PolicyViolated);
    }
    match judged.iter().filter_map(|one| one.rebuilt.as_ref()).all(Rebuilt::is_same) {
        true => Ok(()),
        false => Err(anyhow!("{} was not reproduced", flags.image)).or_exit(Code::NotReproducible),
    }
}

/// The full id of what the user names.
fn commit(root: &Path, name: Option<&str>) -> Result<Option<String>> {
    name.map(|name| lineage::commit(root, name)).transpose().or_exit(Code::Configuration)
}

fn judge(platform: Option<String>, source: &Source, key: &PublicKey, expected: &Expected) -> Result<Judged> {
    let image = source.image();
    let attached = source.attached(key).or_exit(Code::Configuration)?;
    let verdict = supply::judge(&image, &attached, key, expected);
    Ok(Judged { platform, image, verdict, rebuilt: None })
}

/// A release names the image of one platform.
fn of_listed(expected: &Expected, source: &Source) -> Expected {
    let release = expected.release.clone().filter(|named| named.image == source.image());
    Expected { release, ..expected.clone() }
}

/// Whether the release names one of the images that an index lists.
fn among(named: &Named, judged: &[Judged]) -> Check {
    let is_listed = judged.iter().any(|one| one.image == named.image);
    let (outcome, detail) = match is_listed {
        true => (Outcome::Ok, "names one of these images".to_owned()),
        false => (Outcome::Failed, format!("names another image ({})", named.image.short())),
    };
    Check { name: "release", outcome, detail }
}

/// Refuses a release with an image that is not signed as the environment asks for.
///
/// # Errors
/// With exit code 13 and everything that does not hold, if it is refused.
pub(crate) fn require(root: &Path, release: &Release, environment: &EnvironmentFile) -> Result<()> {
    let Some(policy) = environment.signature() else { return Ok(()) };
    let settings = Settings::load(root).or_exit(Code::Configuration)?;
    let named = policy.public_key.as_ref().map(|path| root.join(path));
    let key = key(root, &settings, named.as_deref()).or_exit(Code::Configuration)?;
    let builder = policy.builder.clone().or(settings.signing.builder);
    let newer_than = commit(root, policy.newer_than.as_deref())?;
    let mut refusals = Vec::new();
    for (name, service) in &release.services {
        let source = Source::built(root, service.image).or_exit(Code::Configuration)?;
        let expected = Expected {
            service: Some(name.clone()),
            builder: builder.clone(),
            revision: None,
            release: Some(of(service)),
        };
        let attached = source.attached(&key).or_exit(Code::Configuration)?;
        let mut verdict = supply::judge(&service.image, &attached, &key, &expected);
        let lineage = newer_than.as_ref().map(|than| lineage::newer(root, verdict.provenance.as_ref(), than));
        verdict.checks.extend(lineage);
        let bad = verdict.checks.into_iter().filter(|check| check.outcome != Outcome::Ok);
        refusals
            .extend(bad.map(|check| format!("\n  {name}: {}: {}", check.name, render::plain(&check.detail))));
    }
    if refusals.is_empty() {
        return Ok(());
    }
    let text = format!(
        "the environment {} asks for signed images:{}\n  next: `cargo xtask release create` where the key is",
        environment.name,
        refusals.concat()
    );
    Err(anyhow!(text)).or_exit(Code::PolicyViolated)
}

fn key(root: &Path, settings: &Settings, named: Option<&Path>) -> Result<PublicKey> {
    let configured = || settings.signing.public_key.as_ref().map(|path| root.join(path));
    match named.map(Path::to_owned).or_else(configured) {
        Some(path) => super::key::public(&path),
        None => bail!(
            "no key to verify by: name the public key with --key, or as `signing.public_key` in {}",
            Settings::FILE
        ),
    }
}

/// What the release says of the image.
fn named(path: &Path, image: &str, digest: &Digest) -> Result<Named> {
    let release = Release::load(path).or_exit(Code::Configuration)?;
    let same = || release.services.values().find(|service| service.image == *digest);
    let service = release.services.get(image).or_else(same);
    let service = service
        .with_context(|| format!("the release in {} names neither {image} nor {digest}", path.display()))
        .or_exit(Code::PolicyViolated)?;
    Ok(of(service))
}

fn of(service: &release::Service) -> Named {
    let release::Service { image, sbom, spdx, provenance, .. } = service;
    Named { image: *image, sbom: *sbom, spdx: *spdx, provenance: *provenance }
}
