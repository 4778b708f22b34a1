//! How an image was built, as the predicate of a statement: what was asked for, from what, with what, by whom. It claims no more
//! than SLSA build level 1: that it exists.
//!
//! Source: SLSA 1.2, "Build: Provenance" (predicate `https://slsa.dev/provenance/v1`). The build type is defined in
//! docs/guide/supply-chain.md.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stdx::Digest;

use crate::about::download;
use crate::component::{Component, Ecosystem, Use};
use crate::cyclonedx::Sbom;

/// How parameters and dependencies of our builds are to be read.
pub const BUILD_TYPE: &str = "urn:slipway:build:1";
/// The same for images of other people's programs, for which nothing is compiled.
pub const PACKAGES_TYPE: &str = "urn:slipway:packages:1";
/// A builder that nobody vouches for: whoever had the key.
pub const LOCAL_BUILDER: &str = "urn:slipway:builder:local";
/// The annotation of the source that says why it does not count as what the commit holds.
const DOUBTS: &str = "doubts";
/// The name of the dependency that is the source.
const SOURCE: &str = "source";

/// How an image was built.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Provenance {
    /// What was asked for and what it was made from.
    pub build_definition: Definition,
    /// Who built it.
    pub run_details: Run,
}

/// What was asked for and what it was made from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Definition {
    /// [`BUILD_TYPE`] or [`PACKAGES_TYPE`].
    pub build_type: String,
    /// What whoever asked for the build chose.
    pub external_parameters: BTreeMap<String, Value>,
    /// What this program set.
    #[serde(default)]
    pub internal_parameters: BTreeMap<String, Value>,
    /// Source, packages, toolchain and base.
    #[serde(default)]
    pub resolved_dependencies: Vec<Resource>,
}

/// Something by name and digest.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// What it is called here.
    #[serde(default)]
    pub name: String,
    /// What it is called everywhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uri: Option<String>,
    /// By algorithm, in hex.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digest: BTreeMap<String, String>,
    /// Where it is fetched from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub download_location: Option<String>,
    /// For documents: what they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// What else is to be said.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, Value>,
}

/// Who built it, and what else came out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Who built it.
    pub builder: Builder,
    /// What else came out: the SBOMs.
    #[serde(default)]
    pub byproducts: Vec<Resource>,
}

/// Who built it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Builder {
    /// A URI that stands for everything that has to be trusted for this provenance to be true.
    pub id: String,
    /// Versions of what it consists of.
    #[serde(default)]
    pub version: BTreeMap<String, String>,
}

/// The commit that was built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// Full commit id.
    pub revision: String,
    /// Whether the work tree held changes that the commit does not.
    pub dirty: bool,
    /// What speaks against its being what the commit holds, a file each.
    pub doubts: Vec<String>,
    /// Where the source is published, if the package says so.
    pub repository: Option<String>,
}

impl Provenance {
    /// The predicate.
    pub fn to_predicate(&self) -> Result<Value> {
        Ok(serde_json::to_value(self)?)
    }

    /// Reads a predicate.
    pub fn parse(predicate: &Value) -> Result<Provenance> {
        let provenance = Provenance::deserialize(predicate).context("not a SLSA provenance of version 1")?;
        let found = &provenance.build_definition.build_type;
        ensure!(
            [BUILD_TYPE, PACKAGES_TYPE].contains(&found.as_str()),
            "it is of the build type `{}`, and this program reads `{BUILD_TYPE}` and `{PACKAGES_TYPE}`",
            crate::statement::shown(found)
        );
        Ok(provenance)
    }

    /// The commit that was built, if the source was a git checkout.
    pub fn commit(&self) -> Option<Commit> {
        let source = self.build_definition.resolved_dependencies.iter().find(|one| one.name == SOURCE)?;
        let revision = source.digest.get("gitCommit")?;
        let is_plain =
            (revision.len() == 40 || revision.len() == 64) && revision.bytes().all(|b| b.is_ascii_hexdigit());
        is_plain.then(|| Commit {
            revision: revision.clone(),
            // What does not say that it was clean was not.
            dirty: source.annotations.get("dirty") != Some(&Value::Bool(false)),
            doubts: source.annotations.get(DOUBTS).map(texts).unwrap_or_default(),
            repository: source.uri.clone(),
        })
    }

    /// The service that was built, or the image of packages.
    pub fn service(&self) -> Option<&str> {
        let parameter = if self.is_of_packages() { "image" } else { "service" };
        self.build_definition.external_parameters.get(parameter)?.as_str()
    }

    /// Whether it is an image of other people's programs, made of packages.
    pub fn is_of_packages(&self) -> bool {
        self.build_definition.build_type == PACKAGES_TYPE
    }

    /// The digest of the SBOM of this media type that came out of the build.
    pub fn byproduct(&self, media_type: &str) -> Option<Digest> {
        let is_it = |one: &&Resource| one.media_type.as_deref() == Some(media_type);
        let hex = self.run_details.byproducts.iter().find(is_it)?.digest.get("sha256")?;
        format!("sha256:{hex}").parse().ok()
    }
}

impl Resource {
    /// Something with a SHA-256 digest.
    pub fn of_digest(name: &str, digest: &Digest) -> Resource {
        let digest = BTreeMap::from([("sha256".to_owned(), digest.hex())]);
        Resource { name: name.to_owned(), digest, ..Resource::default() }
    }

    /// The source.
    pub fn of_commit(commit: &Commit) -> Resource {
        let published = |url: &String| format!("git+{url}@{}", commit.revision);
        Resource {
            name: SOURCE.to_owned(),
            uri: commit.repository.as_ref().map(published),
            digest: BTreeMap::from([("gitCommit".to_owned(), commit.revision.clone())]),
            annotations: [("dirty".to_owned(), Value::Bool(commit.dirty))]
                .into_iter()
                .chain(
                    (!commit.doubts.is_empty())
                        .then(|| (DOUBTS.to_owned(), Value::from(commit.doubts.clone()))),
                )
                .collect(),
            ..Resource::default()
        }
    }

    /// A part of the toolchain, by version or digest.
    pub fn of_tool(name: &str, identity: &str) -> Resource {
        let uri = Some(format!("urn:slipway:toolchain:{name}"));
        match identity.parse::<Digest>() {
            Ok(digest) => Resource { uri, ..Resource::of_digest(name, &digest) },
            Err(_) => Resource {
                name: name.to_owned(),
                uri,
                annotations: BTreeMap::from([("version".to_owned(), Value::from(identity))]),
                ..Resource::default()
            },
        }
    }

    fn of_component(component: &Component) -> Resource {
        let mut digest = BTreeMap::new();
        digest.extend(component.hash.as_ref().map(|hash| ("sha256".to_owned(), hash.0.clone())));
        if let Ecosystem::CargoGit(_, commit) = &component.ecosystem {
            digest.insert("gitCommit".to_owned(), commit.clone());
        }
        let usage = match component.usage {
            Use::Linked => "in the image",
            Use::BuildOnly => "built it",
        };
        Resource {
            name: component.name.clone(),
            uri: Some(component.purl()),
            digest,
            download_location: download(component).filter(|url| url.starts_with("https://")),
            annotations: BTreeMap::from([("use".to_owned(), Value::from(usage))]),
            ..Resource::default()
        }
    }
}

/// The texts of a list, whatever else is in it.
fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

/// Every component of the image and of its building.
pub fn dependencies(sbom: &Sbom) -> Vec<Resource> {
    let tools = sbom.about.toolchain.iter().map(|(name, identity)| Resource::of_tool(name, identity));
    sbom.by_purl().values().map(|component| Resource::of_component(component)).chain(tools).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_built_is_read_back_and_silence_is_not_taken_for_clean() {
        let commit = Commit { revision: "c0".repeat(20), dirty: false, doubts: vec![], repository: None };
        let mut provenance = Provenance {
            build_definition: Definition {
                build_type: BUILD_TYPE.into(),
                external_parameters: BTreeMap::new(),
                internal_parameters: BTreeMap::new(),
                resolved_dependencies: vec![Resource::of_commit(&commit)],
            },
            run_details: Run {
                builder: Builder { id: LOCAL_BUILDER.into(), version: BTreeMap::new() },
                byproducts: vec![Resource {
                    media_type: Some("application/x".into()),
                    ..Resource::of_digest("x", &Digest::of("x"))
                }],
            },
        };
        let read = |provenance: &Provenance| Provenance::parse(&provenance.to_predicate().unwrap()).unwrap();
        assert_eq!(read(&provenance).commit().unwrap(), commit);
        assert_eq!(read(&provenance).byproduct("application/x"), Some(Digest::of("x")));
        assert_eq!(read(&provenance).byproduct("application/y"), None);
        provenance.build_definition.resolved_dependencies[0].annotations.clear();
        assert!(read(&provenance).commit().unwrap().dirty);
        provenance.build_definition.resolved_dependencies[0].digest =
            BTreeMap::from([("gitCommit".to_owned(), "--upload-pack=x".to_owned())]);
        assert_eq!(read(&provenance).commit(), None);
        provenance.build_definition.build_type = "https://other.example/1".into();
        assert!(
            Provenance::parse(&provenance.to_predicate().unwrap())
                .unwrap_err()
                .to_string()
                .contains("build type")
        );
    }
}
