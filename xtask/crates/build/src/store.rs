//! What is remembered from one build to the next, in one file beside the images. It only ever saves work: whoever deletes it
//! pays with time, and a file of another version or with damage is treated as missing.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use oci::Layer;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::event::{Event, Reporter};
use crate::fresh::Inputs;
use crate::run::Report;

const SCHEMA: &str = "slipway.build-state/1";
/// Layers that were not used for this many others are forgotten; their blobs stay until `cargo clean`.
const MOST_LAYERS: usize = 256;

/// Folders and files of the build output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paths {
    pub(crate) folder: PathBuf,
}

/// The content of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    schema: String,
    /// By digest of the packed tree's description.
    layers: BTreeMap<Digest, Layer>,
    /// How many compilations the last build reported.
    pub(crate) units: usize,
    /// What the last build of each selection of services gave, and from what.
    pub(crate) results: BTreeMap<String, Remembered>,
}

/// A finished build and what it was made from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remembered {
    pub(crate) inputs: Inputs,
    pub(crate) report: Report,
}

impl Paths {
    /// Below Cargo's own target folder, so that `cargo clean` clears it.
    pub(crate) fn new(target_dir: &Path) -> Paths {
        Paths { folder: target_dir.join("slipway") }
    }

    /// Cargo's output for images.
    pub(crate) fn build_dir(&self) -> PathBuf {
        self.folder.join("cargo")
    }

    /// The OCI image layout.
    pub(crate) fn layout(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// The SBOM of a service.
    pub(crate) fn sbom(&self, service: &str) -> PathBuf {
        self.folder.join("sbom").join(format!("{service}.cdx.json"))
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// Waits until no other build of this workspace runs. The lock ends with the returned file.
    pub(crate) fn lock(&self, reporter: &dyn Reporter) -> Result<std::fs::File> {
        stdx::fs::create_dir_all(&self.folder)?;
        let path = self.folder.join("lock");
        let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        if file.try_lock().is_err() {
            reporter.event(Event::Waiting);
            file.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(file)
    }
}

impl State {
    /// Reads the state, or starts anew.
    pub(crate) fn load(paths: &Paths) -> State {
        let bytes = stdx::fs::read_if_exists(&paths.state()).ok().flatten();
        let state = bytes.and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        state.filter(|state| state.schema == SCHEMA).unwrap_or_else(|| State {
            schema: SCHEMA.to_owned(),
            layers: BTreeMap::new(),
            units: 0,
            results: BTreeMap::new(),
        })
    }

    /// Writes the state.
    pub(crate) fn write(&self, paths: &Paths) -> Result<()> {
        stdx::fs::write_atomic(&paths.state(), &serde_json::to_vec(self)?, 0o644)
    }

    /// The layer that was packed from a tree of this description.
    pub(crate) fn layer(&self, key: &Digest) -> Option<&Layer> {
        self.layers.get(key)
    }

    /// Remembers a layer.
    pub(crate) fn remember_layer(&mut self, key: Digest, layer: Layer) {
        if self.layers.len() >= MOST_LAYERS {
            self.layers.clear();
        }
        self.layers.insert(key, layer);
    }
}
