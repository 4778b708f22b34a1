//! From unpacked packages to a root: their files side by side, without what only people read, and what their installation scripts
//! would have made, as far as we make it.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use oci::{Entry, Source, Tree};

use super::control::paragraphs;
use super::deb::{Content, Item};
use crate::root::Root;

/// Left out of every root. Of the documentation the copyright files stay: most licences want to come along.
const TRIMMED: [&str; 12] = [
    "usr/share/man",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/bug",
    "usr/share/doc-base",
    "usr/share/menu",
    "usr/share/bash-completion",
    "usr/share/zsh",
    "usr/share/gtk-doc",
    "usr/share/linda",
    "var/cache/apt",
];

/// Folders that Debian has merged into `/usr`.
const MERGED: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Puts the packages, by name, side by side; `drop` are paths to leave out with all below them.
///
/// # Errors
/// When two packages have different files of one name.
pub(crate) fn tree(packages: &BTreeMap<&str, Content>, drop: &[String], files: &Path) -> Result<Tree> {
    let mut placed: BTreeMap<String, (&str, &Item)> = BTreeMap::new();
    for (name, content) in packages {
        for (path, item) in &content.items {
            let path = merged(path);
            let is_merged_link = MERGED.contains(&path.as_str());
            if is_merged_link || is_trimmed(&path) || is_below(&path, drop) {
                continue;
            }
            match placed.get(&path) {
                Some((other, known)) if !agree(known, item) => {
                    let replaces = content.control.contains("\nReplaces:")
                        || packages[other].control.contains("\nReplaces:");
                    if !replaces {
                        bail!("/{path} is in the package {other} and in {name}");
                    }
                }
                _ => {
                    placed.insert(path, (name, item));
                }
            }
        }
    }
    let mut tree = Tree::new();
    for name in MERGED {
        tree.dir(&format!("usr/{name}"), 0o755, 0)?;
        tree.symlink(name, &format!("usr/{name}"))?;
    }
    for (path, (name, item)) in placed {
        let added = match item {
            Item::Dir { mode } => tree.dir(&path, *mode, 0),
            Item::Link { target } => tree.symlink(&path, target),
            Item::File { mode, digest, .. } => {
                // Readable by whoever the image runs as: nothing in a package is secret.
                tree.file(&path, mode | 0o444, Source::Path(files.join(digest.hex())))
            }
        };
        added.with_context(|| format!("cannot place what {name} brings"))?;
    }
    for (name, content) in packages {
        let status = status(&content.control)?;
        tree.file(&format!("var/lib/dpkg/status.d/{name}"), 0o444, Source::Bytes(status.into_bytes()))?;
    }
    without_loose_links(&tree)
}

/// The path with the folders that are links nowadays replaced by what they lead to.
fn merged(path: &str) -> String {
    let is_merged = |name: &&&str| path.strip_prefix(**name).is_some_and(|rest| rest.starts_with('/'));
    match MERGED.iter().find(is_merged) {
        Some(_) => format!("usr/{path}"),
        None => path.to_owned(),
    }
}

fn is_trimmed(path: &str) -> bool {
    let below =
        |folder: &str| path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    if below("usr/share/doc") {
        return !path.ends_with("/copyright");
    }
    TRIMMED.iter().any(|folder| below(folder))
}

fn is_below(path: &str, drop: &[String]) -> bool {
    drop.iter().any(|folder| {
        let folder = merged(folder.trim_matches('/'));
        path.strip_prefix(folder.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

fn agree(one: &Item, other: &Item) -> bool {
    matches!((one, other), (Item::Dir { .. }, Item::Dir { .. })) || one == other
}

/// What dpkg would say of the package: scanners read it. The installed state is the only field that is ours.
fn status(control: &str) -> Result<String> {
    let paragraph = paragraphs(control).next().context("a package says nothing of itself")??;
    let name = paragraph.get("Package").context("a package has no name")?;
    let rest: String = control
        .lines()
        .filter(|line| !line.starts_with("Package:"))
        .map(|line| format!("{line}\n"))
        .collect();
    Ok(format!("Package: {name}\nStatus: install ok installed\n{rest}"))
}

/// Links lead to documentation that was trimmed, to packages that are only recommended, or to what a script would have made.
fn without_loose_links(tree: &Tree) -> Result<Tree> {
    let root = Root::new([tree])?;
    let mut kept = Tree::new();
    for (path, entry) in tree.iter() {
        match entry {
            Entry::Symlink { .. } if root.resolve(path).is_none() => {}
            Entry::Symlink { target } => kept.symlink(path, target)?,
            Entry::Dir { mode, owner } => kept.dir(path, *mode, *owner)?,
            Entry::File { mode, source } => kept.file(path, *mode, source.clone())?,
        }
    }
    Ok(kept)
}

#[cfg(test)]
mod tests {
    use super::*;
    use stdx::Digest;

    fn content(name: &str, items: &[(&str, Item)]) -> Content {
        let control = format!("Package: {name}\nVersion: 1\nDescription: x\n more\n");
        Content {
            control,
            items: items.iter().map(|(path, item)| ((*path).to_owned(), item.clone())).collect(),
        }
    }

    fn file(text: &str) -> Item {
        Item::File { mode: 0o600, digest: Digest::of(text), size: text.len() as u64 }
    }

    fn paths(packages: &[(&str, Content)], drop: &[&str]) -> Result<Vec<String>> {
        let packages = packages.iter().map(|(name, content)| (*name, content.clone())).collect();
        let drop: Vec<String> = drop.iter().map(|path| (*path).to_owned()).collect();
        let tree = tree(&packages, &drop, Path::new("/store"))?;
        Ok(tree
            .iter()
            .filter(|(_, e)| !matches!(e, Entry::Dir { .. }))
            .map(|(path, _)| path.to_owned())
            .collect())
    }

    #[test]
    fn merged_folders_trimmed_documents_and_loose_links() {
        let link = |target: &str| Item::Link { target: target.to_owned() };
        let aa = content(
            "aa",
            &[
                ("lib/x/liba.so.1", file("a")),
                ("usr/lib/x/liba.so", link("liba.so.1")),
                ("usr/share/doc/aa/copyright", file("c")),
                ("usr/share/doc/aa/README", file("r")),
                ("usr/share/man/man1/a.1", file("m")),
                ("usr/bin/loose", link("/etc/alternatives/loose")),
                ("usr/bin/big/file", file("b")),
                ("lib64", link("usr/lib64")),
            ],
        );
        let found = paths(&[("aa", aa)], &["/bin/big"]).unwrap();
        assert_eq!(
            found,
            [
                "bin",
                "lib",
                "lib64",
                "sbin",
                "usr/lib/x/liba.so",
                "usr/lib/x/liba.so.1",
                "usr/share/doc/aa/copyright",
                "var/lib/dpkg/status.d/aa"
            ]
        );
    }

    #[test]
    fn two_packages_with_one_file_must_agree() {
        let one = content("aa", &[("etc/x", file("1"))]);
        let same = content("bb", &[("etc/x", file("1"))]);
        let other = content("bb", &[("etc/x", file("2"))]);
        assert!(paths(&[("aa", one.clone()), ("bb", same)], &[]).is_ok());
        let error = paths(&[("aa", one), ("bb", other)], &[]).unwrap_err().to_string();
        assert!(error.contains("/etc/x is in the package aa and in bb"), "{error}");
    }
}
