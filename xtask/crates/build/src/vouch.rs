//! Whether it can be said of a build that it was made from its commit and nothing else. A file that was read must be what the commit
//! holds, and nobody may have touched it while it was read; what cannot be told counts against the build. It changes nothing.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::fresh::Inputs;
use crate::git::{self, GitState};
use crate::held::{self, Files};
use crate::session::Loaded;
use crate::work::Read;

/// How many files are named: documents are for people, too.
const MOST_NAMED: usize = 20;

/// A build whose source is a commit.
pub(crate) struct Voucher<'a> {
    loaded: &'a Loaded,
    commit: &'a GitState,
    read: &'a Read,
    begun: SystemTime,
    /// What is wrong whenever one looks: files that are not those of the commit.
    found: BTreeSet<String>,
}

impl<'a> Voucher<'a> {
    /// Holds everything that was read since `begun` against the commit that the work tree of `loaded` is at; `None` where it is at none.
    pub(crate) fn new(
        loaded: &'a Loaded,
        commit: Option<&'a GitState>,
        read: &'a Read,
        begun: SystemTime,
    ) -> Option<Voucher<'a>> {
        let (commit, top) = (commit?, git::top(&loaded.plan.root)?);
        let mut voucher = Voucher { loaded, commit, read, begun, found: BTreeSet::new() };
        match held::differences(top, &commit.revision, &voucher.files(top)) {
            Ok(differences) => {
                let say =
                    |one: &held::Difference| format!("{} {}", voucher.name(&one.path), one.what.words());
                voucher.found = differences.iter().map(say).collect();
            }
            Err(error) => {
                let cause = voucher.without_places(&error.to_string());
                voucher.found = [format!("the files cannot be held against the commit: {cause}")].into();
            }
        }
        voucher.found.extend(voucher.outside(top));
        Some(voucher)
    }

    /// The commit, and what speaks against it as things are now.
    pub(crate) fn state(&self) -> GitState {
        let mut doubts = self.found.clone();
        let touched = self.read.inputs.touched_since(self.begun);
        // Of a file that changed it is enough to name the file.
        let folders = self.read.inputs.folders_touched_since(self.begun);
        let alone = folders.iter().filter(|folder| !touched.iter().any(|path| path.parent() == Some(folder)));
        let said = touched.iter().chain(alone);
        doubts.extend(said.map(|path| format!("{} was changed while the build ran", self.name(path))));
        let rest = doubts.len().saturating_sub(MOST_NAMED);
        let mut doubts: Vec<String> = doubts.into_iter().take(MOST_NAMED).collect();
        doubts.extend((rest > 0).then(|| format!("and {rest} more")));
        self.commit.doubted(doubts)
    }

    fn files(&self, top: &Path) -> Files {
        let Read { inputs, observed, restored } = self.read;
        let declared = observed.iter().flat_map(|observed| &observed.files).chain(restored);
        let mut files = Files { folders: inputs.roots().cloned().collect(), ..Files::default() };
        let in_repository =
            |path: &&PathBuf| path.starts_with(top) && !path.starts_with(&self.loaded.plan.build_dir);
        files.read.extend(declared.filter(in_repository).filter(|path| !path.is_dir()).cloned());
        for (path, stamp) in inputs.files().filter(|(path, _)| path.starts_with(top) && !inputs.is_tool(path))
        {
            let is_read = !inputs.is_in_package(path) || inputs.is_asset(path) || self.may_be_read(path);
            let set = if is_read && stamp.is_some() { &mut files.read } else { &mut files.near };
            set.insert(path.to_owned());
        }
        files
    }

    /// Files that no compilation declares and that count all the same: sources of vendored packages, which can be edited under the
    /// checksum of the lock file, and what a build script lies beside that declares nothing.
    fn may_be_read(&self, path: &Path) -> bool {
        let silent = self.read.observed.iter().flat_map(|observed| &observed.silent);
        let vendored = self.loaded.vendored.iter().map(|(folder, _)| folder);
        silent.chain(vendored).any(|folder| path.starts_with(folder))
    }

    /// Packages of ours that the repository does not have.
    fn outside(&self, top: &Path) -> BTreeSet<String> {
        let inputs: &Inputs = &self.read.inputs;
        let members =
            self.loaded.members.iter().filter(|(folder, _)| inputs.roots().any(|root| root == folder));
        let outside = members.filter(|(folder, _)| !folder.starts_with(top));
        outside.map(|(_, name)| format!("the package {name} lies outside the repository")).collect()
    }

    /// As users know the file: no document may name folders of this machine.
    fn name(&self, path: &Path) -> String {
        let root = &self.loaded.plan.root;
        let top = git::top(root).unwrap_or(root);
        let inside = path.strip_prefix(root).or_else(|_| path.strip_prefix(top));
        inside.map_or_else(
            |_| self.without_places(&path.display().to_string()),
            |inside| inside.display().to_string(),
        )
    }

    fn without_places(&self, text: &str) -> String {
        // The longest path first: the root is the start of the others.
        let remaps = self.loaded.plan.remaps.iter().rev();
        remaps.fold(text.to_owned(), |text, remap| text.replace(&remap.from.display().to_string(), &remap.to))
    }
}
