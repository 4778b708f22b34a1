//! What is said about an image beside it: two SBOMs and how it was built. They are attached to the image by its digest, so
//! they never change it. Everything in them is a function of source, settings and toolchain: no path of this machine, no clock.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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
use crate::store::Paths;

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

/// What the documents of a service go by beyond the plan.
pub(crate) struct From<'a> {
    /// Where the source stood, and what speaks against that.
    pub(crate) source: Option<&'a GitState>,
    /// Libraries of the system, by name and digest.
    pub(crate) libraries: Option<&'a BTreeSet<(String, Digest)>>,
    pub(crate) packed: &'a Packed,
    pub(crate) sbom: &'a Sbom,
}

/// How one image was made, beyond what its SBOM says.
pub(crate) struct Making<'a> {
    pub(crate) build_type: &'static str,
    /// What it is called, for people.
    pub(crate) name: &'a str,
    pub(crate) image: Digest,
    /// Who builds, where the settings say so.
    pub(crate) builder: Option<&'a str>,
    pub(crate) external: BTreeMap<String, Value>,
    pub(crate) internal: BTreeMap<String, Value>,
    /// What it was made of, but for the components.
    pub(crate) sources: Vec<Resource>,
}

/// The documents about one image.
pub(crate) struct Documents {
    pub(crate) cyclonedx: Vec<u8>,
    pub(crate) spdx: Vec<u8>,
    pub(crate) provenance: Vec<u8>,
}

/// An image, and what is said of it beside it: what is signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    pub(crate) name: String,
    pub(crate) image: Digest,
    pub(crate) cyclonedx: Document,
    pub(crate) spdx: Document,
    pub(crate) provenance: Document,
}

/// A document by its content, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    pub(crate) digest: Digest,
}

impl Documents {
    pub(crate) fn of(making: Making<'_>, sbom: &Sbom) -> Result<Documents> {
        let (cyclonedx, spdx) = (supply::cyclonedx(sbom)?, supply::spdx(sbom)?);
        let byproduct = |name: &str, media_type: &str, document: &[u8]| Resource {
            media_type: Some(media_type.to_owned()),
            ..Resource::of_digest(name, &Digest::of(document))
        };
        let components = supply::dependencies(sbom);
        let provenance = Provenance {
            build_definition: Definition {
                build_type: making.build_type.to_owned(),
                external_parameters: making.external,
                internal_parameters: making.internal,
                resolved_dependencies: making.sources.into_iter().chain(components).collect(),
            },
            run_details: Run {
                builder: Builder {
                    id: making.builder.unwrap_or(LOCAL_BUILDER).to_owned(),
                    version: BTreeMap::from([("slipway".to_owned(), sbom.tool_version.clone())]),
                },
                byproducts: vec![
                    byproduct("sbom.cdx.json", CYCLONEDX, &cyclonedx),
                    byproduct("sbom.spdx.json", SPDX, &spdx),
                ],
            },
        };
        let statement = Statement {
            subjects: vec![Subject { name: making.name.to_owned(), digest: making.image }],
            predicate_type: predicate::PROVENANCE.to_owned(),
            predicate: provenance.to_predicate()?,
        };
        Ok(Documents { cyclonedx, spdx, provenance: statement.to_bytes()? })
    }

    /// The image with these documents, which will lie where `paths` says.
    pub(crate) fn beside(
        &self,
        name: &str,
        image: Digest,
        paths: &Paths,
        platform: Option<&str>,
    ) -> Described {
        let documents = [
            (&*paths.sbom(name, platform), Digest::of(&self.cyclonedx)),
            (&*paths.spdx(name, platform), Digest::of(&self.spdx)),
            (&*paths.provenance(name, platform), Digest::of(&self.provenance)),
        ];
        Described::at(name, image, documents)
    }

    /// Puts the documents beside the image, and into the layout: a release names them by digest, so there they stay, whatever
    /// is built next.
    pub(crate) fn publish(&self, described: &Described, layout: &Layout) -> Result<()> {
        let none = BTreeMap::new;
        let said = BTreeMap::from([(PREDICATE_TYPE.to_owned(), predicate::PROVENANCE.to_owned())]);
        for (document, bytes, media_type, annotations) in [
            (&described.cyclonedx, &self.cyclonedx, CYCLONEDX, none()),
            (&described.spdx, &self.spdx, SPDX, none()),
            (&described.provenance, &self.provenance, STATEMENT, said),
        ] {
            stdx::fs::write_atomic(&document.path, bytes, 0o644)?;
            layout.attach(&described.image, media_type, bytes, annotations)?;
        }
        Ok(())
    }
}

impl Described {
    /// The image with documents that lie at these paths: CycloneDX, SPDX, provenance.
    pub(crate) fn at(name: &str, image: Digest, documents: [(&Path, Digest); 3]) -> Described {
        let [cyclonedx, spdx, provenance] =
            documents.map(|(path, digest)| Document { path: path.to_owned(), digest });
        Described { name: name.to_owned(), image, cyclonedx, spdx, provenance }
    }
}

impl BuiltService {
    /// The image and what is said of it.
    pub fn described(&self) -> Described {
        let documents = [
            (&*self.sbom_path, self.sbom),
            (&*self.spdx_path, self.spdx),
            (&*self.provenance_path, self.provenance),
        ];
        Described::at(&self.name, self.image, documents)
    }
}

/// How the image of a service is made.
pub(crate) fn making<'a>(loaded: &'a Loaded, service: &'a ServicePlan, from: &From<'_>) -> Making<'a> {
    Making {
        build_type: BUILD_TYPE,
        name: &service.name,
        image: from.packed.image.digest(),
        builder: loaded.workspace.settings.signing.builder.as_deref(),
        external: external(loaded, service),
        internal: internal(&loaded.plan, service),
        sources: sources(loaded, from),
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

/// Source, lock file, base, libraries of the system.
fn sources(loaded: &Loaded, from: &From<'_>) -> Vec<Resource> {
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
    source.into_iter().chain([lock]).chain(base).chain(libraries).collect()
}
