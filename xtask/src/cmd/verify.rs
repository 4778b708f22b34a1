//! `cargo xtask verify`: find the image, fetch what is attached to it, judge, build again where asked, report.

mod rebuild;
mod source;

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use deploy::EnvironmentFile;
use release::Release;
use stdx::Digest;
use supply::{Expected, Named, Outcome, PublicKey};
use workspace::Settings;

use crate::exit::{Code, ResultExt};
use crate::{flags, render};

pub(crate) use rebuild::Rebuilt;
use source::Source;

pub(crate) fn run(flags: &flags::Verify) -> Result<()> {
    let root = super::workspace_root().or_exit(Code::Configuration)?;
    let settings = Settings::load(&root).or_exit(Code::Configuration)?;
    let key = key(&root, &settings, flags.key.as_deref()).or_exit(Code::Configuration)?;
    let source = Source::find(&root, &flags.image).or_exit(Code::Configuration)?;
    let image = source.image();
    let expected = Expected {
        builder: flags.builder.clone().or(settings.signing.builder),
        revision: flags.revision.clone(),
        release: flags.release.as_deref().map(|path| named(path, &flags.image, &image)).transpose()?,
    };
    let attached = source.attached().or_exit(Code::Configuration)?;
    let verdict = supply::judge(&image, &attached, &key, &expected);
    let rebuilt = match &verdict.provenance {
        Some(provenance) if flags.rebuild && verdict.is_good() => {
            Some(rebuild::rebuild(&root, &source, provenance, &*super::interruption()?)?)
        }
        _ => None,
    };
    render::verified(&image, &verdict, rebuilt.as_ref(), flags.json)?;
    if !verdict.is_good() {
        let error = anyhow!("{} is not to be trusted: not every check holds", flags.image);
        return Err(error).or_exit(Code::PolicyViolated);
    }
    match rebuilt {
        Some(rebuilt) if !rebuilt.is_same() => {
            Err(anyhow!("{} was not reproduced", flags.image)).or_exit(Code::NotReproducible)
        }
        _ => Ok(()),
    }
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
    let mut refusals = Vec::new();
    for (name, service) in &release.services {
        let source = Source::built(root, service.image).or_exit(Code::Configuration)?;
        let expected = Expected { builder: builder.clone(), revision: None, release: Some(of(service)) };
        let attached = source.attached().or_exit(Code::Configuration)?;
        let verdict = supply::judge(&service.image, &attached, &key, &expected);
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
