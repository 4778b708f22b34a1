//! Every command line that the pipelines call, in one place: a change of a command's flags is a change here and nowhere else.

use crate::expr::Value;
use crate::model::{Arg, Run};

/// Everything that jobs make lies here, apart from what builds and tests keep.
pub(crate) const FOLDER: &str = "target/slipway/ci";
/// The tool, as one job passes it on to others.
pub(crate) const TOOL: &str = "target/slipway/ci/tool";
/// The plan of the tests, which goes with the tool: all shards and the gate go by the same.
pub(crate) const TEST_PLAN: &str = "target/slipway/ci/tool/test-plan.json";
/// What tests took before.
pub(crate) const TIMINGS: &str = "target/slipway/test/timings.jsonl";
/// The matrix of shards.
pub(crate) const TEST_MATRIX: &str = "target/slipway/ci/test-matrix.json";
/// Reports of the shards.
pub(crate) const REPORTS: &str = "target/slipway/ci/reports";
/// What all shards ran together. The folder is that of the shards' reports no more: a report is merged once.
pub(crate) const MERGED: &str = "target/slipway/ci/tests.json";
/// Findings.
pub(crate) const SARIF: &str = "target/slipway/ci/scan.sarif";
/// What `build` says that it made.
pub(crate) const BUILT: &str = "target/slipway/ci/build.json";
/// Images as a layout.
pub(crate) const IMAGES: &str = "target/slipway/images";
/// SBOM documents.
pub(crate) const SBOM: &str = "target/slipway/sbom";
/// The release manifest.
pub(crate) const MANIFEST: &str = "target/slipway/ci/release.json";
/// Where a release that is to be deployed is put.
pub(crate) const RELEASE: &str = "target/slipway/ci/release";

/// Into how many jobs the tests are split.
pub(crate) enum Shards {
    /// As the settings say.
    Fixed(u32),
    /// As the caller of the workflow says.
    Input,
}

impl Shards {
    fn passed_to(&self, run: Run, then: &str) -> Run {
        match self {
            Shards::Fixed(count) => run.words(&count.to_string()).words(then),
            Shards::Input => run.arg(Arg::Var("SHARDS")).words(then).env("SHARDS", Value::Input("shards")),
        }
    }
}

pub(crate) fn test_plan(shards: &Shards, is_exact: bool) -> Run {
    let exact = if is_exact { "--exact " } else { "" };
    let run = Run::new(&format!("test plan {exact}--out {TEST_PLAN} --matrix --shards"));
    shards.passed_to(run, "").stdout(TEST_MATRIX)
}

pub(crate) fn test_shard() -> Run {
    Run::new("test --shard")
        .arg(Arg::Var("SHARD"))
        .words(&format!("--plan {TEST_PLAN} --report"))
        .arg(Arg::Around("target/slipway/ci/reports/shard-", "INDEX", ".json"))
        .env("SHARD", Value::Matrix("shard"))
        .env("INDEX", Value::JobIndex)
}

pub(crate) fn test_merge() -> Run {
    Run::new(&format!("test merge --plan {TEST_PLAN} --report {MERGED}")).arg(Arg::Files(REPORTS, ".json"))
}

pub(crate) fn scan() -> Run {
    Run::new(&format!("scan --history --sarif {SARIF}"))
}

/// Images of a change: what was built before is used, and only what the default branch built is kept for others.
pub(crate) fn build() -> Run {
    Run::new("build --json").stdout(BUILT).env("SLIPWAY_CACHE", Value::CacheMode)
}

/// Images that are signed, released or deployed: from the sources alone.
pub(crate) fn build_from_sources() -> Run {
    Run::new("build --cache off --json").stdout(BUILT)
}

pub(crate) fn release_create() -> Run {
    Run::new(&format!("release create --output {MANIFEST}"))
}

pub(crate) fn release_publish() -> Run {
    Run::new("github release")
        .arg(Arg::Var("TAG"))
        .words(MANIFEST)
        .arg(Arg::Files(SBOM, ".cdx.json"))
        .env("TAG", Value::RefName)
        .env("GITHUB_TOKEN", Value::Token)
}

pub(crate) fn release_fetch() -> Run {
    Run::new("github release download")
        .arg(Arg::Var("TAG"))
        .words(&format!("--into {RELEASE}"))
        .env("TAG", Value::Input("release"))
        .env("GITHUB_TOKEN", Value::Token)
}

/// A release that waited for days is held against the advisories of the day on which it is deployed.
pub(crate) fn release_scan() -> Run {
    Run::new(&format!("scan --release {RELEASE}/release.json"))
}

pub(crate) fn deploy(environment: &str) -> Run {
    Run::new(&format!("deploy {environment} --release {RELEASE}/release.json"))
}

pub(crate) fn ci_plan() -> Run {
    Run::new(&format!("ci plan --matrix {TEST_MATRIX} --tool {TOOL}")).giving_outputs()
}

pub(crate) fn ci_lint() -> Run {
    Run::new("ci lint")
}

pub(crate) fn ci_check() -> Run {
    Run::new("ci check")
}

pub(crate) fn ci_prune() -> Run {
    Run::new("ci prune")
}

pub(crate) fn ci_subjects() -> Run {
    Run::new(&format!("ci subjects {BUILT}")).giving_outputs()
}

pub(crate) fn ci_gate() -> Run {
    Run::new(&format!("ci gate --tests {MERGED}")).env("NEEDS", Value::Needs)
}
