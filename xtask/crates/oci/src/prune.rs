//! Removing blobs that nothing names any more. A blob goes only when it was found without a name twice, with the grace between:
//! whoever began to read an image before its name moved on can finish, and so can whoever adds blobs before their name.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use stdx::{Digest, json};

use crate::layout::{Key, Layout, digest_of};

/// Beside the index; other readers of a layout pass over files that they do not know.
const NOTES: &str = "unreferenced.json";
const SCHEMA: &str = "slipway.unreferenced/1";

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// How many blobs.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
}

/// Since when files of the blob folder have been without a name.
#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Notes {
    schema: String,
    /// Seconds since 1970, by name of the file.
    since: BTreeMap<String, u64>,
}

impl Layout {
    /// Removes the blobs that neither a name, nor what is attached to a named image, nor `keep` leads to, and that a call at least
    /// `grace` ago found so already; a grace of zero removes at once. What is attached to images that are gone goes with them. `keep`
    /// may name manifests, indexes and plain blobs; what a kept document names is kept. `now` is this machine's clock.
    ///
    /// # Errors
    /// When the index cannot be read, or a file cannot be removed.
    pub fn prune(&self, keep: &BTreeSet<Digest>, grace: Duration, now: SystemTime) -> Result<Pruned> {
        let reachable = self.reachable(keep)?;
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let old = self.notes()?;
        let mut notes = Notes { schema: SCHEMA.to_owned(), since: BTreeMap::new() };
        let mut gone = BTreeSet::new();
        let mut pruned = Pruned::default();
        for (name, path, size) in self.files()? {
            if reachable.contains(&name) {
                continue;
            }
            // A clock that was set back starts the grace again.
            let since = old.since.get(&name).copied().filter(|since| *since <= now).unwrap_or(now);
            if now - since < grace.as_secs() {
                notes.since.insert(name, since);
                continue;
            }
            remove(&path)?;
            pruned.blobs += 1;
            pruned.bytes += size;
            gone.insert(name);
        }
        self.forget_artifacts(&gone)?;
        self.write_notes(&old, &notes)?;
        Ok(pruned)
    }

    /// Names of the files in the blob folder that are needed.
    fn reachable(&self, keep: &BTreeSet<Digest>) -> Result<BTreeSet<String>> {
        let mut seen = BTreeSet::new();
        let named = self.tags()?.into_iter().map(|tagged| tagged.digest);
        let mut todo: Vec<Digest> = named.chain(keep.iter().copied()).collect();
        let mut artifacts = self.artifacts()?;
        while let Some(digest) = todo.pop() {
            if !seen.insert(digest.hex()) {
                continue;
            }
            todo.extend(self.named_by(&digest));
            todo.extend(artifacts.remove(&digest).unwrap_or_default());
        }
        Ok(seen)
    }

    /// Digests of artifacts, by what they are about.
    fn artifacts(&self) -> Result<BTreeMap<Digest, Vec<Digest>>> {
        let mut about: BTreeMap<Digest, Vec<Digest>> = BTreeMap::new();
        for (key, entry) in self.index()? {
            let Key::Artifact(_) = key else { continue };
            let artifact = digest_of(&entry)?;
            // An entry without a name that is about nothing is not ours to judge: it stands for itself.
            let subject = self.json(&artifact).and_then(|manifest| digest_in(&manifest["subject"]));
            about.entry(subject.unwrap_or(artifact)).or_default().push(artifact);
        }
        Ok(about)
    }

    /// What a document names; nothing for any other blob.
    fn named_by(&self, digest: &Digest) -> Vec<Digest> {
        let Some(document) = self.json(digest) else { return Vec::new() };
        let lists = ["layers", "manifests"].into_iter().filter_map(|list| document[list].as_array());
        let mut named: Vec<Digest> = lists.flatten().filter_map(digest_in).collect();
        named.extend(digest_in(&document["config"]));
        named
    }

    fn json(&self, digest: &Digest) -> Option<Value> {
        let path = self.blob_path(digest);
        let begins = std::fs::File::open(&path).and_then(|mut file| {
            let mut first = [0];
            io::Read::read_exact(&mut file, &mut first)?;
            Ok(first)
        });
        // Layers are large, and no document.
        (begins.ok()? == *b"{").then(|| serde_json::from_slice(&self.document(digest).ok()?).ok())?
    }

    /// The files of the blob folder, those of writers that were killed included.
    fn files(&self) -> Result<Vec<(String, PathBuf, u64)>> {
        let folder = self.blob_folder();
        let read = || -> io::Result<Vec<_>> {
            let mut files = Vec::new();
            for entry in std::fs::read_dir(&folder)? {
                let entry = entry?;
                let (Ok(name), Ok(meta)) = (entry.file_name().into_string(), entry.metadata()) else {
                    continue;
                };
                if meta.is_file() {
                    files.push((name, entry.path(), meta.len()));
                }
            }
            Ok(files)
        };
        read().with_context(|| format!("cannot list {}", folder.display()))
    }

    fn forget_artifacts(&self, gone: &BTreeSet<String>) -> Result<()> {
        self.change_index(|index| {
            index.retain(|key, entry| match key {
                Key::Name(_) => true,
                Key::Artifact(_) => digest_of(entry).is_ok_and(|digest| !gone.contains(&digest.hex())),
            });
        })
    }

    /// Damaged notes are none: the grace begins again.
    fn notes(&self) -> Result<Notes> {
        let bytes = stdx::fs::read_if_exists(&self.root().join(NOTES))?.unwrap_or_default();
        let notes = serde_json::from_slice(&bytes).ok().filter(|notes: &Notes| notes.schema == SCHEMA);
        Ok(notes.unwrap_or_default())
    }

    fn write_notes(&self, old: &Notes, notes: &Notes) -> Result<()> {
        if old.since == notes.since {
            return Ok(());
        }
        let bytes = json::canonical(&serde_json::to_value(notes)?)?;
        stdx::fs::write_atomic(&self.root().join(NOTES), &bytes, 0o644)
    }
}

fn digest_in(descriptor: &Value) -> Option<Digest> {
    descriptor["digest"].as_str()?.parse().ok()
}

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::unpack::tests::spec;
    use crate::{Compression, Layer, Source, Tree};

    const HOUR: Duration = Duration::from_secs(3600);

    struct Fixture {
        _folder: tempfile::TempDir,
        layout: Layout,
    }

    impl Fixture {
        fn new() -> Fixture {
            let folder = tempfile::tempdir().unwrap();
            let layout = Layout::create(folder.path()).unwrap();
            Fixture { _folder: folder, layout }
        }

        /// An image with one file, not named.
        fn image(&self, content: &str) -> Digest {
            let mut tree = Tree::new();
            tree.file("a", 0o444, Source::Bytes(content.into())).unwrap();
            let layer = Layer::pack(&tree, Compression::Zstd, "", &self.layout).unwrap();
            spec(vec![layer]).to_image().unwrap().put(&self.layout).unwrap()
        }

        fn blobs(&self) -> usize {
            self.layout.files().unwrap().len()
        }

        fn prune(&self, keep: &[Digest], grace: Duration, at: u64) -> usize {
            let now = UNIX_EPOCH + Duration::from_secs(at);
            self.layout.prune(&keep.iter().copied().collect(), grace, now).unwrap().blobs
        }

        fn is_whole(&self, image: &Digest) -> bool {
            let named = self.layout.named_by(image);
            named.len() == 2 && named.iter().chain([image]).all(|digest| self.layout.holds(digest))
        }
    }

    #[test]
    fn what_was_replaced_goes_after_the_grace_and_not_before() {
        let fixture = Fixture::new();
        let (old, new) = (fixture.image("old"), fixture.image("new"));
        fixture.layout.tag("api", &new, 1).unwrap();
        assert_eq!(fixture.prune(&[], HOUR, 10_000), 0);
        assert_eq!(fixture.prune(&[], HOUR, 13_599), 0);
        assert!(fixture.is_whole(&old));
        assert_eq!(fixture.prune(&[], HOUR, 13_600), 3);
        assert!(fixture.is_whole(&new) && !fixture.is_whole(&old));
        assert_eq!(fixture.blobs(), 3);
    }

    #[test]
    fn what_got_a_name_again_begins_its_grace_anew() {
        let fixture = Fixture::new();
        let (one, two) = (fixture.image("one"), fixture.image("two"));
        fixture.layout.tag("api", &two, 1).unwrap();
        fixture.prune(&[], HOUR, 10_000);
        fixture.layout.tag("api", &one, 1).unwrap();
        fixture.prune(&[], HOUR, 11_000);
        fixture.layout.tag("api", &two, 1).unwrap();
        assert_eq!(fixture.prune(&[], HOUR, 14_000), 0);
        assert!(fixture.is_whole(&one));
    }

    #[test]
    fn indexes_kept_images_and_what_is_attached_stay() {
        let fixture = Fixture::new();
        let (listed, kept, gone) = (fixture.image("listed"), fixture.image("kept"), fixture.image("gone"));
        fixture.layout.put_index("api", &[listed], &BTreeMap::new()).unwrap();
        let attach = |image: &Digest, content: &str| {
            let annotations = BTreeMap::new();
            fixture.layout.attach(image, "text/plain", content.as_bytes(), annotations).unwrap()
        };
        let plain = fixture.layout.put(b"an SBOM of a release").unwrap();
        let (stays, goes) = (attach(&kept, "about kept"), attach(&gone, "about gone"));
        let killed = fixture.layout.blob_folder().join(".tmpabcdef");
        std::fs::write(&killed, "half").unwrap();
        // Image (3), artifact (2), and what a killed writer left.
        assert_eq!(fixture.prune(&[kept, plain], Duration::ZERO, 10_000), 6);
        assert!(fixture.is_whole(&listed) && fixture.is_whole(&kept) && !fixture.is_whole(&gone));
        assert!(fixture.layout.holds(&plain) && fixture.layout.holds(&stays.content));
        assert!(!fixture.layout.holds(&goes.content) && !killed.exists());
        assert_eq!(fixture.layout.referrers(&kept).unwrap(), [stays]);
        assert_eq!(fixture.layout.referrers(&gone).unwrap(), []);
    }

    #[test]
    fn a_clock_that_went_back_and_damaged_notes_remove_nothing() {
        let fixture = Fixture::new();
        fixture.image("old");
        fixture.prune(&[], HOUR, 100_000);
        assert_eq!(fixture.prune(&[], HOUR, 50_000), 0);
        assert_eq!(fixture.prune(&[], HOUR, 52_000), 0);
        std::fs::write(fixture.layout.root().join(NOTES), "{").unwrap();
        assert_eq!(fixture.prune(&[], HOUR, 90_000), 0);
        assert_eq!(fixture.prune(&[], HOUR, 93_600), 3);
    }
}
