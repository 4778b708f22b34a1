//! Images for several platforms: one build for each, then an index under each service's name. It knows nothing of how one platform's
//! images are made. Invariant: an index is named only when all images that it lists are in the layout.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use anyhow::{Result, anyhow};
use oci::Layout;
use serde::Serialize;
use stdx::Digest;
use workspace::Platform;

use crate::event::Reporter;
use crate::report::{BuildError, Report};
use crate::reproduce::{Request, Verification};
use crate::session::{Loaded, Naming, Session, elapsed_ms};

/// A workspace whose images can be built for several platforms.
#[derive(Debug)]
pub struct Platforms {
    /// In order of the platforms' names, which is that of the indexes.
    sessions: BTreeMap<String, Session>,
    started: Instant,
}

/// What builds for several platforms gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlatformsReport {
    /// By name of the service.
    pub indexes: Vec<BuiltIndex>,
    /// By platform.
    pub platforms: BTreeMap<String, Report>,
    /// Wall time of all builds together.
    pub elapsed_ms: u64,
}

/// An index that is in the layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BuiltIndex {
    /// Name of the service, and of the index in the layout.
    pub name: String,
    /// Digest of the index.
    pub index: Digest,
}

impl Platforms {
    /// Opens the workspace at `root` for `platforms`.
    pub fn open(root: &Path, platforms: &[Platform]) -> Result<Platforms> {
        let started = Instant::now();
        let open = |platform: &Platform| {
            Ok((platform.to_string(), Session::open_as(root, Some(*platform), Naming::InIndex)?))
        };
        Ok(Platforms { sessions: platforms.iter().map(open).collect::<Result<_>>()?, started })
    }

    /// As [`Session::with_cache`], for each platform.
    pub fn with_cache(self, mode: cache::Mode) -> Platforms {
        let sessions = self.sessions.into_iter().map(|(name, session)| (name, session.with_cache(mode)));
        Platforms { sessions: sessions.collect(), ..self }
    }

    /// Plans the images of `names` for each platform.
    ///
    /// # Errors
    /// With all that stands in the way of any platform.
    pub fn plan(&self, names: &[String]) -> Result<BTreeMap<String, Loaded>> {
        let (mut plans, mut problems) = (BTreeMap::new(), Vec::new());
        for (platform, session) in &self.sessions {
            match session.plan(names) {
                Ok(loaded) => _ = plans.insert(platform.clone(), loaded),
                Err(error) => problems.push(error),
            }
        }
        // What holds for all platforms is said once.
        problems.dedup_by_key(|error| format!("{error:#}"));
        match problems.len() {
            0 => Ok(plans),
            1 => Err(problems.remove(0)),
            _ => Err(anyhow!(problems.iter().map(|e| format!("{e:#}")).collect::<Vec<_>>().join("\n"))),
        }
    }

    /// Builds the images of `names` (all services where empty), one platform after the other, and indexes of them.
    ///
    /// # Errors
    /// A [`BuildError`]; what one platform lacks is said before another is compiled for.
    pub fn build(
        &mut self,
        names: &[String],
        reporter: &dyn Reporter,
        interrupted: &AtomicBool,
    ) -> Result<PlatformsReport> {
        if !self.sessions.values().all(|session| session.has_nothing_to_do(names)) {
            self.plan(names).map_err(BuildError::Refused)?;
        }
        let mut platforms = BTreeMap::new();
        for (platform, session) in &mut self.sessions {
            platforms.insert(platform.clone(), session.build(names, reporter, interrupted)?);
        }
        let indexes = indexes(&platforms).map_err(BuildError::Failed)?;
        Ok(PlatformsReport { indexes, platforms, elapsed_ms: elapsed_ms(self.started) })
    }
}

impl Platforms {
    /// As [`Session::verify`], for each platform; then indexes of what the first builds gave.
    ///
    /// # Errors
    /// A [`BuildError`].
    pub fn verify(&mut self, request: &Request<'_>, keep: bool) -> Result<BTreeMap<String, Verification>> {
        self.plan(request.services).map_err(BuildError::Refused)?;
        let (mut reports, mut verifications) = (BTreeMap::new(), BTreeMap::new());
        for (platform, session) in &mut self.sessions {
            let (report, verification) = session.verify(request, keep)?;
            reports.insert(platform.clone(), report);
            verifications.insert(platform.clone(), verification);
        }
        indexes(&reports).map_err(BuildError::Failed)?;
        Ok(verifications)
    }
}

fn indexes(platforms: &BTreeMap<String, Report>) -> Result<Vec<BuiltIndex>> {
    let mut images: BTreeMap<&str, Vec<Digest>> = BTreeMap::new();
    for service in platforms.values().flat_map(|report| &report.services) {
        images.entry(&service.name).or_default().push(service.image);
    }
    let Some(report) = platforms.values().next() else { return Ok(Vec::new()) };
    let layout = Layout::open(&report.layout)?;
    let index = |(name, images): (&str, Vec<Digest>)| {
        // An index says what its images say of themselves, as far as they agree.
        let annotations = layout.common_annotations(&images)?;
        Ok(BuiltIndex { name: name.to_owned(), index: layout.put_index(name, &images, &annotations)? })
    };
    images.into_iter().map(index).collect()
}
