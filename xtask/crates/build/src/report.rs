//! What a build gives back.

use std::path::PathBuf;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use stdx::Digest;
use workspace::ServiceConfig;

use crate::git::GitState;
use crate::leak::Leak;

/// What a caller may want to tell apart.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The configuration or this machine does not allow the build; nothing was run.
    #[error(transparent)]
    Refused(anyhow::Error),
    /// Cargo, the compiler or packing failed.
    #[error("the build failed")]
    Failed(#[source] anyhow::Error),
    /// A binary carries paths of this machine.
    #[error(
        "the binary of {service} carries paths of this machine, so nobody can build the same bits elsewhere"
    )]
    Leaks {
        /// Name of the service.
        service: String,
        /// The paths, some of them where there are many.
        leaks: Vec<Leak>,
    },
    /// Something in an image could not be started.
    #[error("the image {image} could not be started, so it is not published")]
    CannotStart {
        /// Name of the service or image.
        image: String,
        /// Why not.
        problems: Vec<base::Problem>,
    },
    /// The same source gave other bits, or would give them elsewhere.
    #[error("not reproducible: {0}")]
    NotReproducible(String),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

/// What a build gave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// Target triple.
    pub target: String,
    /// Where the source stood.
    pub git: Option<GitState>,
    /// The OCI image layout that holds the images.
    pub layout: PathBuf,
    /// By name of the service.
    pub services: Vec<BuiltService>,
    /// How many compilations there were.
    pub units: usize,
    /// How many of them had to be run.
    pub compiled: usize,
    /// Why there was something to do; `None` where nothing had changed.
    pub reason: Option<String>,
    /// What was to be done, and what was done before; empty where nothing changed or nothing of it is known.
    pub actions: Vec<Action>,
    /// Wall time of the whole build.
    pub elapsed_ms: u64,
}

impl Report {
    /// Reads a document of `build --json`, and leaves out what only the document has.
    ///
    /// # Errors
    /// Text that is no such document.
    pub fn from_document(document: &str) -> anyhow::Result<Report> {
        let mut value: serde_json::Map<String, serde_json::Value> =
            serde_json::from_str(document).context("the build printed no report")?;
        for key in ["schema", "signed_by"] {
            value.remove(key);
        }
        serde_json::from_value(value.into()).context("the build printed another kind of report")
    }

    /// Whether anything in it was made elsewhere, or by another build.
    pub(crate) fn came_from_stores(&self) -> bool {
        self.actions.iter().any(|action| action.from.is_some())
    }
}

/// One action of a build, and whether its result was there already.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// `dependencies`, `compile <service>`, or `pack <service>: <layer>`.
    pub action: String,
    /// Whether it had to be carried out.
    pub outcome: Outcome,
    /// The store that had the result; `None` where it was made, or lay in the workspace's own target folder.
    pub from: Option<String>,
    /// In words, the input that changed.
    pub reason: Option<String>,
}

/// Whether an action had to be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// Its result was there.
    Hit,
    /// It was carried out.
    Miss,
}

/// An image that is in the layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltService {
    /// Name of the service, and of the image in the layout.
    pub name: String,
    /// Version of its package.
    pub version: String,
    /// How it wants to be run, as its image was made for it.
    pub config: ServiceConfig,
    /// Digest of the manifest.
    pub image: Digest,
    /// Digest of what runs, whatever commit it was built from.
    pub content: Digest,
    /// Digest of the SBOM.
    pub sbom: Digest,
    /// Where the SBOM lies.
    pub sbom_path: PathBuf,
    /// Digest of the same as an SPDX document.
    pub spdx: Digest,
    /// Where that lies.
    pub spdx_path: PathBuf,
    /// Digest of the statement that says how the image was built.
    pub provenance: Digest,
    /// Where that lies.
    pub provenance_path: PathBuf,
    /// Bytes of the binary.
    pub binary_size: u64,
    /// Bytes of all layers, unpacked.
    pub unpacked_size: u64,
    /// Bytes of all layers as they are kept and sent.
    pub size: u64,
    /// From the lowest to the highest.
    pub layers: Vec<BuiltLayer>,
    /// Wall time of checking and packing it.
    pub elapsed_ms: u64,
}

/// A layer of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BuiltLayer {
    /// What is in it.
    pub comment: String,
    /// Digest of the blob.
    pub digest: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// Whether it was packed before.
    pub reused: bool,
}
