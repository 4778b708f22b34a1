//! A file tree as a value: what will be in a layer, in the order of its bytes on disk. It holds no times, and no owner or mode
//! that was not chosen: nothing is taken from the builder's own file system.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::{Result, bail};

/// Entries by path: relative, with `/` between names, in byte order. Parents of every entry are present.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tree {
    entries: BTreeMap<String, Entry>,
}

/// A folder, file or symbolic link with its owner and permission bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A folder.
    Dir {
        /// Permission bits, sticky bit included.
        mode: u32,
        /// User and group that own it.
        owner: u32,
    },
    /// A regular file that belongs to root.
    File {
        /// Permission bits.
        mode: u32,
        /// Its content.
        source: Source,
    },
    /// A symbolic link that belongs to root.
    Symlink {
        /// What it holds, as it stands.
        target: String,
    },
}

/// Where a file's content comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// These bytes.
    Bytes(Vec<u8>),
    /// The file at this path, read when the tree is packed.
    Path(PathBuf),
}

impl Tree {
    /// A tree with nothing in it.
    pub fn new() -> Tree {
        Tree::default()
    }

    /// The entries in the order in which they are packed.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(path, entry)| (path.as_str(), entry))
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a folder; `/` as first character of `path` is allowed.
    pub fn dir(&mut self, path: &str, mode: u32, owner: u32) -> Result<()> {
        self.insert(path, Entry::Dir { mode, owner })
    }

    /// Adds a file that belongs to root.
    pub fn file(&mut self, path: &str, mode: u32, source: Source) -> Result<()> {
        self.insert(path, Entry::File { mode, source })
    }

    /// Adds a symbolic link.
    pub fn symlink(&mut self, path: &str, target: &str) -> Result<()> {
        if target.is_empty() || target.contains('\0') {
            bail!(
                "the link {path} has the target `{}`, which no file system can hold",
                target.escape_debug()
            );
        }
        self.insert(path, Entry::Symlink { target: target.to_owned() })
    }

    /// Adds an entry and the folders above it, which belong to root with mode 0755 unless added by themselves.
    ///
    /// # Errors
    /// When the path is empty or has empty, `.` or `..` segments, when something else than a folder is where a folder must be,
    /// or when the path is taken (a folder may be named twice: the later mode and owner hold).
    fn insert(&mut self, path: &str, entry: Entry) -> Result<()> {
        let path = path.strip_prefix('/').unwrap_or(path);
        if path.split('/').any(|name| matches!(name, "" | "." | "..")) || path.contains('\0') {
            bail!("`{}` is not a path that an image can hold", path.escape_debug());
        }
        for (slash, _) in path.match_indices('/') {
            let parent = &path[..slash];
            let above = self.entries.entry(parent.to_owned()).or_insert(Entry::Dir { mode: 0o755, owner: 0 });
            if !matches!(above, Entry::Dir { .. }) {
                bail!("{path} cannot be added: {parent} is not a folder");
            }
        }
        let both_folders = |old: &Entry| matches!((old, &entry), (Entry::Dir { .. }, Entry::Dir { .. }));
        if self.entries.get(path).is_some_and(|old| !both_folders(old)) {
            bail!("{path} is in the tree twice");
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Source {
        Source::Bytes(text.as_bytes().to_vec())
    }

    #[test]
    fn parents_appear_once_and_before_their_children() {
        let mut tree = Tree::new();
        tree.file("/a/b/c", 0o444, bytes("1")).unwrap();
        tree.dir("a", 0o700, 10001).unwrap();
        tree.symlink("a/b/d", "c").unwrap();
        let paths: Vec<_> = tree.iter().map(|(path, _)| path).collect();
        assert_eq!(paths, ["a", "a/b", "a/b/c", "a/b/d"]);
        assert_eq!(tree.iter().next().unwrap().1, &Entry::Dir { mode: 0o700, owner: 10001 });
    }

    #[test]
    fn paths_that_could_leave_the_image_are_refused() {
        for path in ["", "/", "..", "a/../b", "./a", "a//b", "a/", "a\0b"] {
            assert!(Tree::new().file(path, 0o444, bytes("")).is_err(), "{path:?} was accepted");
        }
    }

    #[test]
    fn a_path_cannot_be_two_things() {
        let mut tree = Tree::new();
        tree.file("a", 0o444, bytes("")).unwrap();
        assert!(tree.file("a", 0o444, bytes("")).is_err());
        assert!(tree.dir("a", 0o755, 0).is_err());
        assert!(tree.file("a/b", 0o444, bytes("")).is_err());
    }
}
