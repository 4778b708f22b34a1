//! What is said about an image beside it: two SBOMs and how it was built. They are attached to the image by its digest, so
//! they never change it. Everything in them is a function of source, settings and toolchain: no path of this machine, no clock.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use oci::Layout;
use serde_json::{Value, json};
use stdx::Digest;
use supply::{
    BUILD_TYPE, Builder, Commit, Definition, LOCAL_BUILDER, Provenance, Resource, Run, Sbom, Statement,
    Subject, predicate,
};

use crate::git::GitState;
use crate::pack::Packed;
use crate::plan::{Plan, ServicePlan};
use crate::report::BuiltService;
use crate::session::Loaded;

/// Media type of CycloneDX documents.
pub const CYCLONEDX: &str = "application/vnd.cyclonedx+json";
/// Media type of SPDX documents.
pub const SPDX: &str = "application/spdx+json";
/// Media type of statements.
pub const STATEMENT: &str = "application/vnd.in-toto+json";
/// What a registry shows of a statement.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

/// How libraries of the system begin that build scripts ask for.
const LIBRARY: &str = "urn:slipway:library:";

/// What the documents go by beyond the plan.
pub(crate) struct From<'a> {
    /// Where the source stood, and what speaks against that.
    pub(crate) source: Option<&'a GitState>,
    /// Libraries of the system, by name and digest.
    pub(crate) libraries: Option<&'a BTreeSet<(String, Digest)>>,
    pub(crate) packed: &'a Packed,
    pub(crate) sbom: &'a Sbom,
}

/// The documents about one image.
pub(crate) struct Documents {
    pub(crate) cyclonedx: Vec<u8>,
    pub(crate) spdx: Vec<u8>,
    pub(crate) provenance: Vec<u8>,
}

impl Documents {
    pub(crate) fn of(loaded: &Loaded, service: &ServicePlan, from: &From<'_>) -> Result<Documents> {
        let From { packed, sbom, .. } = *from;
        let (cyclonedx, spdx) = (supply::cyclonedx(sbom)?, supply::spdx(sbom)?);
        let byproduct = |name: &str, media_type: &str, document: &[u8]| Resource {
            media_type: Some(media_type.to_owned()),
            ..Resource::of_digest(name, &Digest::of(document))
        };
        let provenance = Provenance {
            build_definition: Definition {
                build_type: BUILD_TYPE.to_owned(),
                external_parameters: external(loaded, service),
                internal_parameters: internal(&loaded.plan, service),
                resolved_dependencies: dependencies(loaded, from),
            },
            run_details: Run {
                builder: Builder {
                    id: loaded
                        .workspace
                        .settings
                        .signing
                        .builder
                        .clone()
                        .unwrap_or_else(|| LOCAL_BUILDER.to_owned()),
                    version: BTreeMap::from([("slipway".to_owned(), sbom.tool_version.clone())]),
                },
                byproducts: vec![
                    byproduct("sbom.cdx.json", CYCLONEDX, &cyclonedx),
                    byproduct("sbom.spdx.json", SPDX, &spdx),
                ],
            },
        };
        let statement = Statement {
            subjects: vec![Subject { name: service.name.clone(), digest: packed.image.digest() }],
            predicate_type: predicate::PROVENANCE.to_owned(),
            predicate: provenance.to_predicate()?,
        };
        Ok(Documents { cyclonedx, spdx, provenance: statement.to_bytes()? })
    }

    /// Puts the documents beside the image, and into the layout: a release names them by digest, so there they stay, whatever
    /// is built next.
    pub(crate) fn publish(&self, built: &BuiltService, layout: &Layout) -> Result<()> {
        let none = BTreeMap::new;
        let said = BTreeMap::from([(PREDICATE_TYPE.to_owned(), predicate::PROVENANCE.to_owned())]);
        for (path, bytes, media_type, annotations) in [
            (&built.sbom_path, &self.cyclonedx, CYCLONEDX, none()),
            (&built.spdx_path, &self.spdx, SPDX, none()),
            (&built.provenance_path, &self.provenance, STATEMENT, said),
        ] {
            stdx::fs::write_atomic(path, bytes, 0o644)?;
            layout.attach(&built.image, media_type, bytes, annotations)?;
        }
        Ok(())
    }
}

/// What somebody who asks for the build chooses.
fn external(loaded: &Loaded, service: &ServicePlan) -> BTreeMap<String, Value> {
    let services: Vec<&String> = loaded.workspace.services.keys().collect();
    BTreeMap::from([
        ("service".to_owned(), json!(service.name)),
        ("binary".to_owned(), json!(service.binary)),
        ("profile".to_owned(), json!(loaded.plan.profile)),
        ("target".to_owned(), json!(loaded.plan.target)),
        // Features are resolved for all of them.
        ("services".to_owned(), json!(services)),
    ])
}

/// What this program sets: flags and variables of the cargo invocation that gave the service's binary, with paths of this machine by
/// their fixed names. Which other services were asked for at the same time changes nothing, and is not said.
fn internal(plan: &Plan, service: &ServicePlan) -> BTreeMap<String, Value> {
    let own = format!("--bin={}", service.binary);
    let plan = plan.invocations().find(|plan| plan.cargo_args.contains(&own)).unwrap_or(plan);
    let args = plan.cargo_args.iter().filter(|arg| !arg.starts_with("--bin=") || **arg == own);
    let fixed = |text: &str| {
        // The longest path first: the root is the start of the others.
        plan.remaps
            .iter()
            .rev()
            .fold(text.to_owned(), |text, remap| text.replace(&remap.from.display().to_string(), &remap.to))
    };
    let set = plan.env.iter().filter_map(|(name, value)| {
        // What gives paths their fixed names is different on each machine, and with those names says nothing.
        let is_map =
            |word: &&str| word.starts_with("--remap-path-prefix=") || word.starts_with("-ffile-prefix-map=");
        let text = fixed(value.as_ref()?);
        let words = text.split(['\x1f', ' ']).filter(|word| !is_map(word));
        Some((name.clone(), json!(words.collect::<Vec<_>>().join(" "))))
    });
    BTreeMap::from([
        ("environment".to_owned(), set.collect()),
        ("cargo".to_owned(), args.map(|arg| fixed(arg)).collect()),
        ("format".to_owned(), json!(oci::FORMAT)),
    ])
}

/// Source, lock file, base, libraries of the system, packages, toolchain.
fn dependencies(loaded: &Loaded, from: &From<'_>) -> Vec<Resource> {
    let From { source, libraries, packed, sbom } = *from;
    let repository =
        sbom.about.details.get(&sbom.subject.purl()).and_then(|detail| detail.repository.clone());
    let source = source.map(|git| {
        let GitState { revision, dirty, doubts } = git.clone();
        Resource::of_commit(&Commit { revision, dirty, repository, doubts })
    });
    let base = packed.layers.first().map(|layer| Resource::of_digest("base", &layer.digest));
    let lock = Resource::of_digest("Cargo.lock", &Digest::of(&loaded.lock));
    let library = |(name, digest): &(String, Digest)| Resource {
        uri: Some(format!("{LIBRARY}{name}")),
        ..Resource::of_digest(name, digest)
    };
    let libraries = libraries.into_iter().flatten().map(library);
    source.into_iter().chain([lock]).chain(base).chain(libraries).chain(supply::dependencies(sbom)).collect()
}
