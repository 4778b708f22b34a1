//! Whether a release may be deployed to an environment: what its scan found and what is known today, held against what the
//! environment asks for.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow};
use deploy::{EnvironmentFile, ScanPolicy};
use finding::{Candidate, Check, Finding, Policy, Record, Refusal, Requirement, Waivers};
use jiff::{SignedDuration, Timestamp};
use oci::Layout;
use release::Release;
use scan::{Context, Options};
use stdx::Digest;
use workspace::CargoConfig;

use crate::exit::{Code, ResultExt};
use crate::render::plain;

const NO_RECORD: &str =
    "cannot go by the record of the scan; `cargo xtask scan --release FILE` makes a new one";

/// Refuses a release that the environment does not admit.
///
/// # Errors
/// With exit code 13 and every reason, if it is refused.
pub(crate) fn require(
    root: &Path,
    release: &Release,
    environment: &EnvironmentFile,
    record: Option<&Path>,
) -> Result<()> {
    // A file that the user names is read even where none is asked for: a wrong name must not pass for a scan.
    let named = record.map(Record::load).transpose().context(NO_RECORD).or_exit(Code::Configuration)?;
    let Some(policy) = environment.scan() else { return Ok(()) };
    let id = release.id()?;
    let options = Options { offline: false, history: false, now: Timestamp::now() };
    let context = Context::open(root.to_owned(), options).or_exit(Code::Configuration)?;
    let record = named
        .map_or_else(|| kept(root, &id), |record| Ok(Some(record)))
        .context(NO_RECORD)
        .or_exit(Code::Configuration)?;
    let settings = &context.settings.scan;
    let day = options.today();
    let waivers = Waivers::load(&context.root, &settings.waivers, day, settings.max_waiver_days)
        .or_exit(Code::Configuration)?;
    // Without a scan of this very release there is nothing to compare with: the answer is known before any advisory is read.
    let today = match &record {
        Some(record) if record.release == id => {
            let found = advisories(&context, release)
                .context("cannot hold the release against the advisories of today")
                .or_exit(Code::Configuration)?;
            // What is wrong with the waivers themselves is the scan's matter.
            let open = waivers.apply(found, day, &BTreeSet::new()).open;
            open.into_iter().filter(|finding| finding.rule.check == Check::Advisories).collect()
        }
        _ => vec![],
    };
    let candidate = Candidate { release: id, record: record.as_ref(), today: &today, waivers: &waivers };
    let refusals = finding::admit(&candidate, &requirement(&context, policy), options.now);
    for warning in context.finish().0 {
        eprintln!("warning: {}", plain(&warning));
    }
    if refusals.is_empty() {
        return Ok(());
    }
    Err(anyhow!(text(&environment.name, &id, &refusals))).or_exit(Code::PolicyViolated)
}

/// Where the record of a release's scan lies.
pub(crate) fn record_path(root: &Path, release: &Digest) -> Result<PathBuf> {
    Ok(::build::output_folder(root)?.join("scans").join(format!("{}.json", release.hex())))
}

/// What the advisories of today say of the SBOMs that the release names.
pub(crate) fn advisories(context: &Context, release: &Release) -> Result<Vec<Finding>> {
    let cargo = CargoConfig::load(&context.root, context.settings.build.target.as_deref())?;
    let database = scan::database(context)?;
    let mut findings: Vec<Finding> = scan::database_age(context, &database).into_iter().collect();
    for (name, sbom) in sboms(context, release)? {
        findings.extend(scan::evaluate(&database, name, Some(&cargo.target), &sbom)?);
    }
    Ok(findings)
}

/// What the policy says of the licences in these SBOMs.
pub(crate) fn licences(context: &Context, release: &Release) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for (name, sbom) in sboms(context, release)? {
        findings.extend(scan::evaluate_licences(&context.settings.scan.licences, name, &sbom)?);
    }
    Ok(findings)
}

fn sboms<'a>(context: &Context, release: &'a Release) -> Result<Vec<(&'a str, Vec<u8>)>> {
    let layout = Layout::open(&::build::layout(&context.root)?)?;
    let read = |(name, service): (&'a String, &release::Service)| {
        let sbom = layout.document(&service.sbom);
        Ok((name.as_str(), sbom.with_context(|| format!("the SBOM of {name} is not here"))?))
    };
    release.services.iter().map(read).collect()
}

/// The record that `scan --release` wrote here, if it did.
fn kept(root: &Path, release: &Digest) -> Result<Option<Record>> {
    let path = record_path(root, release)?;
    path.exists().then(|| Record::load(&path)).transpose()
}

fn requirement(context: &Context, policy: &ScanPolicy) -> Requirement {
    let hours = i64::try_from(policy.max_age_hours).unwrap_or(i64::MAX / 3_600).min(i64::MAX / 3_600);
    let thresholds = Policy::default().with(&context.settings.scan.fail_on).with(&policy.fail_on);
    Requirement { max_age: SignedDuration::from_hours(hours), policy: thresholds }
}

fn text(environment: &str, release: &Digest, refusals: &[Refusal]) -> String {
    let mut text = format!("the environment {environment} does not admit the release {}:", release.short());
    for refusal in refusals {
        let _ = write!(text, "\n  {}", plain(&refusal.to_string()));
    }
    text.push_str(
        "\n  next: `cargo xtask release create`, then `cargo xtask scan --release FILE` with the file it wrote; that shows what to \
         mend or to waive",
    );
    text
}
