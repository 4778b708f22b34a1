//! The stores that settings and mode allow, in the order in which they are asked: this machine's, then the one that others share.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use cache::{Access, Folder, Layered, Mode, Remote, Store, Usage};
use workspace::{CacheSettings, RemoteCache};

use crate::event::{Event, Reporter};

/// Stores of one workspace.
pub struct Stores {
    /// All of them as one.
    pub layered: Layered,
    /// This machine's, however it is used.
    pub local: Folder,
    /// How large that may grow, in bytes.
    pub limit: u64,
    writes: bool,
}

impl Stores {
    /// Opens them. Nothing is made or asked yet.
    pub(crate) fn open(root: &Path, settings: &CacheSettings, mode: Mode) -> Result<Stores> {
        let folder = match &settings.local.path {
            Some(path) => root.join(path),
            None => default_folder(root).context("neither CARGO_HOME nor HOME is set")?,
        };
        let local = Folder::new("local", &folder);
        let writes = matches!(mode, Mode::Local | Mode::ReadWrite);
        let mut layered = Layered::default();
        if mode != Mode::Off {
            layered.add(Box::new(local.clone()), Access { reads: true, writes, is_shared: false });
            if let Some(remote) = &settings.remote {
                let access = Access {
                    reads: remote.read,
                    writes: remote.write && mode == Mode::ReadWrite,
                    is_shared: true,
                };
                layered.add(open_remote(root, remote)?, access);
            }
        }
        Ok(Stores { layered, local, limit: settings.local.limit_gib << 30, writes })
    }

    /// Says what the user should know of the stores.
    pub(crate) fn warn(&self, reporter: &dyn Reporter) {
        for note in self.layered.notes() {
            reporter.event(Event::Diagnostic(format!("warning: {note}")));
        }
    }

    /// Keeps this machine's store within its limit, where it is written to.
    pub(crate) fn collect(&self) -> Result<Vec<Usage>> {
        if self.writes { self.local.collect(self.limit) } else { Ok(Vec::new()) }
    }
}

/// The store that others share, to write to.
///
/// # Errors
/// When settings name none, do not allow it, or this run must not.
pub(crate) fn open_written(root: &Path, settings: &CacheSettings, mode: Mode) -> Result<Box<dyn Store>> {
    let remote = settings.remote.as_ref().context("slipway.yaml names no cache.remote")?;
    ensure!(remote.write, "cache.remote.write in slipway.yaml is not true");
    ensure!(
        mode == Mode::ReadWrite,
        "this run may not write to a store that others share: it builds what nobody has agreed to yet, or was asked not to"
    );
    open_remote(root, remote)
}

/// The store that others share, as settings name it.
pub(crate) fn open_remote(root: &Path, remote: &RemoteCache) -> Result<Box<dyn Store>> {
    match (&remote.registry, &remote.folder) {
        (Some(name), _) => Ok(Box::new(Remote::open(name).context("cache.remote.registry")?)),
        (None, Some(folder)) => Ok(Box::new(Folder::new(&format!("folder {folder}"), &root.join(folder)))),
        (None, None) => bail!("cache.remote names neither a registry nor a folder"),
    }
}

fn default_folder(root: &Path) -> Option<PathBuf> {
    Some(workspace::cargo_home(root)?.join("slipway/cache"))
}
