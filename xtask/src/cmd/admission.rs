//! Whether a release may be deployed to an environment: what its scan found and what is known today, held against what the
//! environment asks for.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow};
use deploy::{EnvironmentFile, ScanPolicy};
use finding::{Candidate, Moment, Record, Refusal, Requirement};
use release::Release;
use stdx::Digest;

use crate::exit::{Code, ResultExt};

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
    let Some(policy) = environment.scan() else { return Ok(()) };
    let id = release.id()?;
    let record = load(root, &id, record).or_exit(Code::Configuration)?;
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .context("the clock is before 1970")?
        .as_secs();
    let candidate = Candidate { release: id, record: record.as_ref(), today: &[] };
    let moment = Moment { now, date: &stdx::time::date(i64::try_from(now)?) };
    let refusals = finding::admit(&candidate, &requirement(policy), &moment);
    if refusals.is_empty() {
        return Ok(());
    }
    Err(anyhow!(text(&environment.name, &id, &refusals))).or_exit(Code::PolicyViolated)
}

/// Where the record of a release's scan lies.
pub(crate) fn record_path(root: &Path, release: &Digest) -> Result<PathBuf> {
    Ok(::build::output_folder(root)?.join("scans").join(format!("{}.json", release.hex())))
}

fn load(root: &Path, release: &Digest, path: Option<&Path>) -> Result<Option<Record>> {
    match path {
        Some(path) => Ok(Some(Record::load(path)?)),
        None => {
            let path = record_path(root, release)?;
            path.exists().then(|| Record::load(&path)).transpose()
        }
    }
}

fn requirement(policy: ScanPolicy) -> Requirement {
    Requirement { max_age_s: policy.max_age_hours.saturating_mul(3_600), fail_on: policy.fail_on }
}

fn text(environment: &str, release: &Digest, refusals: &[Refusal]) -> String {
    let mut text = format!("the environment {environment} does not admit the release {}:", release.short());
    for refusal in refusals {
        let _ = write!(text, "\n  {refusal}");
    }
    text.push_str(
        "\n  next: `cargo xtask scan --release` scans the release anew and shows what to mend or waive",
    );
    text
}
