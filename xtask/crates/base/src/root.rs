//! The root that a container sees: the layers' trees on top of each other, with links followed as a kernel follows them, and
//! never out of the root. It knows nothing of ELF files or packages.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oci::{Entry, Source, Tree};

/// Links that are followed for one path, as Linux does it.
const MOST_LINKS: usize = 40;

/// A merged view of trees.
#[derive(Debug, Clone, Default)]
pub struct Root<'a> {
    entries: BTreeMap<&'a str, &'a Entry>,
}

impl<'a> Root<'a> {
    /// The trees from the lowest to the highest.
    ///
    /// # Errors
    /// When a tree has a folder where one below has a link or a file: an engine would replace it, and hide all behind it.
    pub fn new(trees: impl IntoIterator<Item = &'a Tree>) -> Result<Root<'a>> {
        let mut entries: BTreeMap<&str, &Entry> = BTreeMap::new();
        for tree in trees {
            for (path, entry) in tree.iter() {
                let is_folder = |entry: &Entry| matches!(entry, Entry::Dir { .. });
                if let Some(below) = entries.get(path)
                    && is_folder(below) != is_folder(entry)
                {
                    bail!("/{path} is a folder in one layer and none in another");
                }
                entries.insert(path, entry);
            }
        }
        Ok(Root { entries })
    }

    /// All entries, by path.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &'a Entry)> + '_ {
        self.entries.iter().map(|(path, entry)| (*path, *entry))
    }

    /// The entry at `path` itself, links not followed.
    pub fn entry(&self, path: &str) -> Option<&'a Entry> {
        self.entries.get(path.trim_start_matches('/')).copied()
    }

    /// The path, without `/` in front, at which whatever `path` leads to really lies; the root itself is empty.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let mut links = 0;
        let mut todo: Vec<String> = path.split('/').rev().map(str::to_owned).collect();
        let mut real: Vec<String> = Vec::new();
        while let Some(name) = todo.pop() {
            match name.as_str() {
                "" | "." => continue,
                ".." => {
                    real.pop();
                    continue;
                }
                _ => {}
            }
            real.push(name);
            let at = real.join("/");
            match self.entries.get(at.as_str())? {
                Entry::Symlink { target } => {
                    links += 1;
                    if links > MOST_LINKS {
                        return None;
                    }
                    real.pop();
                    if target.starts_with('/') {
                        real.clear();
                    }
                    todo.extend(target.split('/').rev().map(str::to_owned));
                }
                Entry::Dir { .. } => {}
                // Something is looked for below a file.
                Entry::File { .. } if todo.iter().any(|name| !name.is_empty()) => return None,
                Entry::File { .. } => {}
            }
        }
        Some(real.join("/"))
    }

    /// Permission bits and content of the file that `path` leads to.
    pub fn file(&self, path: &str) -> Option<(u32, &'a Source)> {
        match self.entries.get(self.resolve(path)?.as_str())? {
            Entry::File { mode, source } => Some((*mode, source)),
            Entry::Dir { .. } | Entry::Symlink { .. } => None,
        }
    }

    /// `tree` with each path led through the links to folders that are in this root, so that packing it above this root
    /// replaces none of them.
    ///
    /// # Errors
    /// When what a link leads to is no folder.
    pub fn beneath_links(&self, tree: &Tree) -> Result<Tree> {
        let mut moved = Tree::new();
        for (path, entry) in tree.iter() {
            let is_link = |path: &str| matches!(self.entry(path), Some(Entry::Symlink { .. }));
            if matches!(entry, Entry::Dir { .. }) && is_link(path) {
                continue;
            }
            let path = self.through_links(path)?;
            match entry {
                Entry::Dir { mode, owner } => moved.dir(&path, *mode, *owner)?,
                Entry::Symlink { target } => moved.symlink(&path, target)?,
                Entry::File { mode, source } => moved.file(&path, *mode, source.clone())?,
            }
        }
        Ok(moved)
    }

    fn through_links(&self, path: &str) -> Result<String> {
        let Some((folder, name)) = path.rsplit_once('/') else { return Ok(path.to_owned()) };
        // The part of the folder's path that this root knows is followed, the rest is new.
        let mut known = folder;
        loop {
            if self.entries.contains_key(known) {
                let real = self.resolve(known).with_context(|| {
                    format!("/{path} would be written behind the link /{known}, which leads to nothing")
                })?;
                let rest = &folder[known.len()..];
                return Ok(format!("{real}{rest}/{name}"));
            }
            match known.rsplit_once('/') {
                Some((above, _)) => known = above,
                None => return Ok(path.to_owned()),
            }
        }
    }
}

/// The first bytes of a file's content, at most `most`.
pub(crate) fn beginning(source: &Source, most: usize) -> Result<Vec<u8>> {
    match source {
        Source::Bytes(bytes) => Ok(bytes[..bytes.len().min(most)].to_vec()),
        Source::Path(path) => {
            let mut bytes = Vec::new();
            let file = File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
            file.take(most as u64)
                .read_to_end(&mut bytes)
                .with_context(|| format!("cannot read {}", path.display()))?;
            Ok(bytes)
        }
    }
}

/// The files below `folder`, which is a root laid out on this machine, as a tree.
///
/// # Errors
/// When something there is neither file nor folder nor link, or has a name that is not UTF-8.
pub fn tree_of_folder(folder: &Path) -> Result<Tree> {
    fn add(tree: &mut Tree, folder: &Path, inside: &str) -> Result<()> {
        for entry in std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().with_context(|| format!("the name {} is not UTF-8", name.display()))?;
            let path = if inside.is_empty() { name.to_owned() } else { format!("{inside}/{name}") };
            let kind = entry.file_type()?;
            if kind.is_symlink() {
                let target = std::fs::read_link(entry.path())?;
                tree.symlink(&path, target.to_str().context("a link's target is not UTF-8")?)?;
            } else if kind.is_dir() {
                tree.dir(&path, 0o755, 0)?;
                add(tree, &entry.path(), &path)?;
            } else {
                let mode = std::os::unix::fs::PermissionsExt::mode(&entry.metadata()?.permissions()) & 0o777;
                tree.file(&path, mode, Source::Path(entry.path()))?;
            }
        }
        Ok(())
    }
    let mut tree = Tree::new();
    add(&mut tree, folder, "")?;
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(tree: &mut Tree, path: &str) {
        tree.file(path, 0o444, Source::Bytes(path.as_bytes().to_vec())).unwrap();
    }

    fn merged() -> Tree {
        let mut tree = Tree::new();
        file(&mut tree, "usr/lib/x/liba.so.1");
        tree.symlink("lib", "usr/lib").unwrap();
        tree.symlink("usr/lib/x/liba.so", "../../../../../lib/x/liba.so.1").unwrap();
        tree.symlink("absolute", "/lib/x").unwrap();
        tree.symlink("loop", "loop").unwrap();
        tree
    }

    #[test]
    fn links_are_followed_inside_the_root_and_end() {
        let tree = merged();
        let root = Root::new([&tree]).unwrap();
        let check =
            |path: &str, real: Option<&str>| assert_eq!(root.resolve(path).as_deref(), real, "{path}");
        check("/lib/x/liba.so", Some("usr/lib/x/liba.so.1"));
        check("absolute/../x/liba.so.1", Some("usr/lib/x/liba.so.1"));
        check("/", Some(""));
        check("loop", None);
        check("lib/x/liba.so.1/more", None);
        check("nowhere", None);
    }

    #[test]
    fn nothing_is_written_through_a_link_of_the_base() {
        let base = merged();
        let mut upper = Tree::new();
        file(&mut upper, "lib/x/libb.so.1");
        file(&mut upper, "lib/new/c");
        assert!(Root::new([&base, &upper]).unwrap_err().to_string().contains("/lib is a folder"));
        let moved = Root::new([&base]).unwrap().beneath_links(&upper).unwrap();
        let paths: Vec<_> = moved.iter().map(|(path, _)| path).filter(|path| path.contains('.')).collect();
        assert_eq!(paths, ["usr/lib/x/libb.so.1"]);
        let root = Root::new([&base, &moved]).unwrap();
        assert!(root.file("/lib/x/libb.so.1").is_some() && root.file("/lib/new/c").is_some());
    }
}
