//! Whether only we and root can have put something where it lies, as ssh asks of its keys: by owners and modes of a file and of all
//! folders above it. It does not know access control lists, nor what a file server lets others do.

use std::fs::{self, DirBuilder, File, Metadata};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Who owns what has no owner in a user namespace: root of the machine, as a rule.
const OVERFLOW: u32 = 65_534;

/// Who asks.
#[derive(Debug, Clone, Copy)]
struct Us {
    user: u32,
    is_namespaced: bool,
}

/// What a file system says of a file or folder.
#[derive(Debug, Clone, Copy)]
struct Facts {
    user: u32,
    group: u32,
    mode: u32,
    /// Whether it only lies above what is to be believed.
    is_above: bool,
}

/// Accepts the folder `path`, which must be there, with all folders above it.
///
/// # Errors
/// Names the first one that others may write to, and what to do.
pub fn require_own_folder(path: &Path) -> Result<()> {
    let real = path.canonicalize().with_context(|| format!("cannot find {}", path.display()))?;
    let us = Us::now();
    for folder in real.ancestors() {
        let meta = fs::metadata(folder).with_context(|| format!("cannot look at {}", folder.display()))?;
        require(&Facts::of(&meta, folder != real), us, folder)?;
    }
    Ok(())
}

/// Accepts an open file in such a folder; `path` is for the error.
///
/// # Errors
/// Where others may write to it.
pub fn require_own_file(file: &File, path: &Path) -> Result<()> {
    let meta = file.metadata().with_context(|| format!("cannot look at {}", path.display()))?;
    require(&Facts::of(&meta, false), Us::now(), path)
}

/// Creates the folder `path` and its parents so that others cannot write to them, whatever the umask is.
pub fn create_own_folder(path: &Path) -> Result<()> {
    let made = DirBuilder::new().recursive(true).mode(0o755).create(path);
    made.with_context(|| format!("cannot create the folder {}", path.display()))
}

impl Us {
    fn now() -> Us {
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let words: Vec<&str> = map.split_whitespace().collect();
        let is_namespaced = !words.is_empty() && words != ["0", "0", "4294967295"];
        Us { user: rustix::process::geteuid().as_raw(), is_namespaced }
    }
}

impl Facts {
    fn of(meta: &Metadata, is_above: bool) -> Facts {
        Facts { user: meta.uid(), group: meta.gid(), mode: meta.mode(), is_above }
    }

    /// What a stranger could do, in words.
    fn objection(&self, us: Us) -> Option<String> {
        let is_root = self.user == 0 || us.is_namespaced && self.user == OVERFLOW;
        if self.user != us.user && !is_root {
            return Some(format!("belongs to the user {}, who is neither you nor root", self.user));
        }
        // In a folder such as /tmp nobody can move what is another's.
        let is_sticky = self.is_above && self.mode & 0o1000 != 0;
        // A group of the same number as the user is the user's own, where a umask of 002 is usual.
        let is_open = self.mode & 0o002 != 0 || self.mode & 0o020 != 0 && self.group != self.user;
        (is_open && !is_sticky)
            .then(|| format!("can be written to by others (mode {:o})", self.mode & 0o7777))
    }
}

fn require(facts: &Facts, us: Us, path: &Path) -> Result<()> {
    let Some(objection) = facts.objection(us) else { return Ok(()) };
    let path = path.display();
    bail!("{path} {objection}; next: `chmod go-w {path}`, or a folder of your own");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn only_what_we_or_root_may_write_is_believed() {
        let us = Us { user: 1000, is_namespaced: false };
        let check = |user, group, mode, is_above, expected: &str| {
            let found = Facts { user, group, mode, is_above }.objection(us).unwrap_or_default();
            assert!(found.contains(expected) && found.is_empty() == expected.is_empty(), "{found}");
        };
        check(1000, 100, 0o755, false, "");
        check(0, 0, 0o755, true, "");
        check(1000, 1000, 0o775, false, "");
        check(0, 0, 0o1777, true, "");
        check(0, 0, 0o1777, false, "mode 1777");
        check(1000, 100, 0o775, false, "mode 775");
        check(1000, 1000, 0o757, true, "mode 757");
        check(1001, 1001, 0o700, true, "the user 1001");
        check(OVERFLOW, OVERFLOW, 0o755, true, "neither you nor root");
        let namespaced = Us { is_namespaced: true, ..us };
        assert!(
            Facts { user: OVERFLOW, group: OVERFLOW, mode: 0o755, is_above: true }
                .objection(namespaced)
                .is_none()
        );
    }

    #[test]
    fn a_folder_is_as_good_as_those_above_it() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("a/b");
        create_own_folder(&inner).unwrap();
        require_own_folder(&inner).unwrap();
        fs::set_permissions(folder.path().join("a"), fs::Permissions::from_mode(0o777)).unwrap();
        let error = require_own_folder(&inner).unwrap_err().to_string();
        assert!(error.contains("/a can be written to by others (mode 777); next: `chmod go-w"), "{error}");
        fs::set_permissions(folder.path().join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        let file = File::create(inner.join("x")).unwrap();
        file.set_permissions(fs::Permissions::from_mode(0o666)).unwrap();
        assert!(require_own_file(&file, &inner.join("x")).unwrap_err().to_string().contains("mode 666"));
    }
}
