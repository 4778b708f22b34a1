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
                believed(root, remote).into_iter().for_each(|note| layered.note(note));
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

/// Refuses to read from a store that others share where there is none, or settings do not allow it.
pub(crate) fn require_read(settings: &CacheSettings) -> Result<()> {
    let remote = settings.remote.as_ref().context("slipway.yaml names no cache.remote")?;
    ensure!(remote.read, "cache.remote.read in slipway.yaml is false");
    Ok(())
}

/// The store that others share, as settings name it.
pub(crate) fn open_remote(root: &Path, remote: &RemoteCache) -> Result<Box<dyn Store>> {
    match (&remote.registry, &remote.folder) {
        (Some(name), _) => Ok(Box::new(Remote::open(name).context("cache.remote.registry")?)),
        (None, Some(_)) if !remote.others_may_write => Ok(Box::new(shared_folder(root, remote))),
        (None, Some(_)) => Ok(Box::new(shared_folder(root, remote).believing_others())),
        (None, None) => bail!("cache.remote names neither a registry nor a folder"),
    }
}

fn shared_folder(root: &Path, remote: &RemoteCache) -> Folder {
    let folder = remote.folder.as_deref().unwrap_or_default();
    Folder::new(&format!("folder {folder}"), &root.join(folder))
}

/// What is to be said of a shared folder that is believed although others may write to it.
fn believed(root: &Path, remote: &RemoteCache) -> Option<String> {
    let store =
        remote.folder.as_ref().filter(|_| remote.others_may_write).map(|_| shared_folder(root, remote))?;
    let objection = store.objection()?;
    Some(format!("the cache is believed because of cache.remote.others_may_write: {objection}"))
}

fn default_folder(root: &Path) -> Option<PathBuf> {
    Some(workspace::cargo_home(root)?.join("slipway/cache"))
}
