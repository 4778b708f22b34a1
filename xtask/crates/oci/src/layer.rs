//! From a tree to a layer: tar, hashed, compressed, hashed again, in one pass of bounded memory. Reading and hashing run beside
//! compressing, which takes longest; the bytes do not depend on it.

use std::io::{self, BufWriter, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use anyhow::Result;
use serde::{Deserialize, Serialize};
use stdx::{Digest, DigestWriter};

use crate::compress::{Compression, Encoder};
use crate::layout::{BlobWriter, Layout};
use crate::tar;
use crate::tree::Tree;

/// Bytes that go from the archive to the encoder at a time.
const CHUNK: usize = 256 * 1024;
/// How many chunks may wait: enough that neither side waits for the other's turn, and no more than two megabytes.
const WAITING: usize = 8;

/// A packed layer: what an image's manifest and configuration say of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Layer {
    /// Digest of the uncompressed archive: the identity of the content, whatever the encoder.
    pub diff_id: Digest,
    /// Digest of the blob.
    pub digest: Digest,
    /// Size of the blob in bytes.
    pub size: u64,
    /// Size of the uncompressed archive in bytes.
    pub unpacked_size: u64,
    /// How the blob is compressed.
    pub compression: Compression,
    /// One line on what it holds, for `docker history`.
    pub comment: String,
}

impl Layer {
    /// Packs `tree` into a blob of `layout`.
    pub fn pack(tree: &Tree, compression: Compression, comment: &str, layout: &Layout) -> Result<Layer> {
        let blob = layout.blob_writer()?;
        let (sender, receiver) = sync_channel(WAITING);
        let (archived, blob) = thread::scope(|scope| {
            let encoder = scope.spawn(|| encode(compression, receiver, blob));
            let archived = archive(tree, Chunks(sender));
            (archived, encoder.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        // Where encoding failed, the archive only knows that nobody took it.
        let blob = blob?;
        let (diff_id, unpacked_size) = archived?;
        let (digest, size) = blob.finish()?;
        Ok(Layer { diff_id, digest, size, unpacked_size, compression, comment: comment.to_owned() })
    }
}

fn archive(tree: &Tree, out: Chunks) -> Result<(Digest, u64)> {
    let mut buffered = BufWriter::with_capacity(CHUNK, DigestWriter::new(out));
    tar::write(tree, &mut buffered)?;
    let hashed = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    let (_, diff_id, size) = hashed.finish();
    Ok((diff_id, size))
}

fn encode(compression: Compression, chunks: Receiver<Vec<u8>>, blob: BlobWriter) -> Result<BlobWriter> {
    let mut encoder = Encoder::new(compression, blob)?;
    for chunk in chunks {
        encoder.write_all(&chunk)?;
    }
    Ok(encoder.finish()?)
}

/// Sends what is written to it to the encoder's thread.
struct Chunks(SyncSender<Vec<u8>>);

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // What is in memory as a whole must not wait as a whole once more.
        let bytes = &bytes[..bytes.len().min(CHUNK)];
        self.0.send(bytes.to_vec()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::Source;

    /// The bytes of format 1. They change only together with `FORMAT`: an image's digest is part of the interface.
    #[test]
    fn golden_digests_of_format_1() {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout::create(folder.path()).unwrap();
        let mut tree = Tree::new();
        tree.dir("tmp", 0o1777, 0).unwrap();
        tree.dir("data", 0o750, 10001).unwrap();
        tree.file("app/hello", 0o555, Source::Bytes(b"hello world\n".repeat(10_000))).unwrap();
        tree.symlink("etc/localtime", "/usr/share/zoneinfo/UTC").unwrap();
        tree.file(&format!("{}/{}", "long".repeat(30), "name".repeat(40)), 0o444, Source::Bytes(vec![]))
            .unwrap();
        let pack = |compression| Layer::pack(&tree, compression, "", &layout).unwrap();
        let (gzip, plain) = (pack(Compression::Gzip), pack(Compression::None));
        let zstd = pack(Compression::Zstd);
        assert_eq!(crate::FORMAT, 1);
        assert_eq!(
            plain.digest.to_string(),
            "sha256:de885bd2bd048fa325fc66a7d862ebb01942646f104fde3b2bd85d5dcee0034a"
        );
        assert_eq!(
            gzip.digest.to_string(),
            "sha256:b9cd0a5035e72f81f9012d5dc88c099882894733003bf38ad05778a283e5bef9"
        );
        assert_eq!(
            zstd.digest.to_string(),
            "sha256:4ce7a9eee67114fb48e2e98972c427f332d6f1a2897e51e392ae3215908b9ac6"
        );
        for layer in [&gzip, &zstd] {
            assert_eq!((layer.diff_id, layer.unpacked_size), (plain.digest, plain.size));
        }
        assert_eq!(plain.diff_id, plain.digest);
    }
}
