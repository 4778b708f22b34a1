//! What is remembered from one build to the next, in one file beside the images. It only ever saves work: whoever deletes it
//! pays with time, and a file of another version, of another workspace or with damage is treated as missing.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use oci::Layer;
use serde::{Deserialize, Serialize};
use stdx::Digest;

use crate::action::Parts;
use crate::event::{Event, Reporter};
use crate::fresh::Inputs;
use crate::report::{BuildError, Report};

const SCHEMA: &str = "slipway.build-state/2";
/// With more layers than this the state starts to forget: all of them at once, they are cheap to pack again.
const MOST_LAYERS: usize = 256;
/// How often a taken lock is tried again.
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Folders and files of the build output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Paths {
    root: PathBuf,
    folder: PathBuf,
}

/// No other build of the workspace runs until this is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    /// Whether another one had to be waited for.
    pub(crate) has_waited: bool,
    _file: File,
}

/// The content of the file.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct State {
    schema: String,
    /// The workspace that this is about.
    root: PathBuf,
    /// By digest of the packed tree's description.
    layers: BTreeMap<Digest, Layer>,
    /// How many compilations the last build reported.
    pub(crate) units: usize,
    /// What each selection of services was last built from, and what that gave.
    pub(crate) results: BTreeMap<String, Remembered>,
    /// Content of every input when Cargo was last given it.
    pub(crate) seen: BTreeMap<PathBuf, Digest>,
    /// Files that decide which libraries of the system are linked, and the packages that ask for these: Cargo does not know of them.
    #[serde(default)]
    pub(crate) libraries: BTreeMap<PathBuf, BTreeSet<String>>,
    /// When Cargo was last started, in nanoseconds since 1970.
    pub(crate) compiled_ns: i64,
    /// Whether Cargo's folder began with what a store had.
    #[serde(default)]
    pub(crate) restored: bool,
    /// What layers of this build hold, by service and layer.
    #[serde(skip)]
    pub(crate) trees: BTreeMap<(String, String), Parts>,
}

/// A finished build: what it was made from, what it left, and what it reported.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Remembered {
    pub(crate) inputs: Inputs,
    pub(crate) outputs: Inputs,
    pub(crate) report: Report,
}

/// What files about one image are called.
fn stem(service: &str, platform: Option<&str>) -> String {
    platform
        .map_or_else(|| service.to_owned(), |platform| format!("{service}.{}", platform.replace('/', "-")))
}

impl Paths {
    /// Below Cargo's own target folder.
    pub(crate) fn new(root: &Path, target_dir: &Path) -> Paths {
        Paths { root: root.to_owned(), folder: workspace::slipway_dir(root, target_dir) }
    }

    /// The folder that all others are in.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Cargo's output for images.
    pub(crate) fn build_dir(&self) -> PathBuf {
        self.folder.join("cargo")
    }

    /// The OCI image layout.
    pub(crate) fn layout(&self) -> PathBuf {
        self.folder.join("images")
    }

    /// The SBOM of a service; of its image for one platform, where there are several.
    pub(crate) fn sbom(&self, service: &str, platform: Option<&str>) -> PathBuf {
        self.folder.join("sbom").join(format!("{}.cdx.json", stem(service, platform)))
    }

    /// The same as an SPDX document.
    pub(crate) fn spdx(&self, service: &str, platform: Option<&str>) -> PathBuf {
        self.folder.join("sbom").join(format!("{}.spdx.json", stem(service, platform)))
    }

    /// The statement that says how the image of a service was built.
    pub(crate) fn provenance(&self, service: &str, platform: Option<&str>) -> PathBuf {
        self.folder.join("provenance").join(format!("{}.json", stem(service, platform)))
    }

    /// The binaries of services as they go into images.
    pub(crate) fn finished_folder(&self) -> PathBuf {
        self.folder.join("finished")
    }

    /// The binary of a service as it goes into its image.
    pub(crate) fn finished(&self, service: &str, platform: Option<&str>) -> PathBuf {
        self.finished_folder().join(stem(service, platform))
    }

    /// What actions were last made from.
    pub(crate) fn actions(&self) -> PathBuf {
        self.folder.join("actions.json")
    }

    /// The binary of a service that a store had.
    pub(crate) fn restored(&self, service: &str) -> PathBuf {
        self.folder.join("binaries").join(service)
    }

    /// Where compiled dependencies are put together, before they are moved or packed.
    pub(crate) fn staging(&self) -> PathBuf {
        self.folder.join("dependencies")
    }

    /// What Cargo notes about the compiler when it is asked for its unit graph.
    pub(crate) fn graph(&self) -> PathBuf {
        self.folder.join("graph")
    }

    /// What is known of the toolchain's files.
    pub(crate) fn toolchain(&self) -> PathBuf {
        self.folder.join("toolchain.json")
    }

    fn state(&self) -> PathBuf {
        self.folder.join("state.json")
    }

    /// Waits until no other build of this workspace runs.
    pub(crate) fn lock(&self, reporter: &dyn Reporter, interrupted: &AtomicBool) -> Result<Lock> {
        stdx::fs::create_dir_all(&self.folder)?;
        // Backup programs and our own walks leave build output alone.
        let tag = self.folder.join("CACHEDIR.TAG");
        if !tag.exists() {
            stdx::fs::write_atomic(&tag, b"Signature: 8a477f597d28d172789f06886806bc55\n", 0o644)?;
        }
        let path = self.folder.join("lock");
        let file = File::options().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let mut has_waited = false;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Lock { has_waited, _file: file }),
                Err(TryLockError::Error(error)) => {
                    return Err(error).with_context(|| format!("cannot lock {}", path.display()));
                }
                Err(TryLockError::WouldBlock) if interrupted.load(Ordering::SeqCst) => {
                    return Err(BuildError::Interrupted.into());
                }
                Err(TryLockError::WouldBlock) => {
                    if !std::mem::replace(&mut has_waited, true) {
                        reporter.event(Event::Waiting);
                    }
                    std::thread::sleep(LOCK_POLL);
                }
            }
        }
    }
}

impl State {
    /// Reads the state, or starts anew.
    pub(crate) fn load(paths: &Paths) -> State {
        let bytes = stdx::fs::read_if_exists(&paths.state()).ok().flatten();
        let state = bytes.and_then(|bytes| serde_json::from_slice::<State>(&bytes).ok());
        let state = state.filter(|state| state.schema == SCHEMA && state.root == paths.root);
        state.unwrap_or_else(|| State {
            schema: SCHEMA.to_owned(),
            root: paths.root.clone(),
            layers: BTreeMap::new(),
            units: 0,
            results: BTreeMap::new(),
            seen: BTreeMap::new(),
            libraries: BTreeMap::new(),
            compiled_ns: 0,
            restored: false,
            trees: BTreeMap::new(),
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
