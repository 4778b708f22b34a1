//! How much may be read because a record of a store says that a build read it. Records are not signed: one that names the whole disk
//! must cost a stat or two, no more. It does not read anything itself.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};

/// Files of all records of one run together.
const MOST_FILES: usize = 50_000;
/// Bytes of these.
const MOST_BYTES: u64 = 4 << 30;
/// What lies there is made up by the kernel: some of it never ends.
const UNREAL: [&str; 4] = ["/proc", "/sys", "/dev", "/run"];

/// What was admitted so far.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    admitted: BTreeSet<PathBuf>,
    bytes: u64,
}

impl Allowance {
    /// Takes these files, and what is in those of them that are folders, off what is left. What was admitted before is free.
    ///
    /// # Errors
    /// When that is more than any build reads, or none can read it.
    pub(crate) fn admit<'a>(&mut self, paths: impl Iterator<Item = &'a Path>) -> Result<()> {
        let mut todo: Vec<PathBuf> = paths.map(Path::to_owned).collect();
        while let Some(path) = todo.pop() {
            let real = path.canonicalize().unwrap_or_else(|_| path.clone());
            let is_unreal = UNREAL.iter().any(|folder| real.starts_with(folder));
            ensure!(!is_unreal, "it names {}, which no build reads", path.display());
            if !self.admitted.insert(path.clone()) {
                continue;
            }
            ensure!(self.admitted.len() <= MOST_FILES, "it names more than {MOST_FILES} files");
            let Ok(meta) = fs::metadata(&path) else { continue };
            if meta.is_file() {
                self.bytes += meta.len();
                ensure!(self.bytes <= MOST_BYTES, "it names files of more than {MOST_BYTES} bytes");
            } else if meta.is_dir() && !path.is_symlink() {
                let entries = fs::read_dir(&path).into_iter().flatten().flatten();
                let inside = entries.filter(|entry| !entry.file_name().as_bytes().starts_with(b"."));
                todo.extend(inside.map(|entry| entry.path()).take(MOST_FILES));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_build_reads_is_not_read() {
        let refused =
            |path: &str| Allowance::default().admit([Path::new(path)].into_iter()).unwrap_err().to_string();
        assert!(refused("/").contains("which no build reads") || refused("/").contains("more than"));
        assert!(refused("/proc/kcore").contains("which no build reads"));
        assert!(refused("/tmp/../dev/zero").contains("which no build reads"));
        let folder = tempfile::tempdir().unwrap();
        let large = fs::File::create(folder.path().join("large")).unwrap();
        large.set_len(3 << 30).unwrap();
        fs::write(folder.path().join("small"), "x").unwrap();
        let mut allowance = Allowance::default();
        for _ in 0..3 {
            allowance.admit([folder.path()].into_iter()).unwrap();
        }
        fs::File::create(folder.path().join("other")).unwrap().set_len(2 << 30).unwrap();
        let other = folder.path().join("other");
        assert!(allowance.admit([other.as_path()].into_iter()).unwrap_err().to_string().contains("bytes"));
    }
}
