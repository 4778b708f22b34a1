//! From a tree to a layer: tar, hashed, compressed, hashed again, in one pass of bounded memory.

use std::io::{self, BufWriter, Write};

use anyhow::Result;
use serde::{Deserialize, Serialize};
use stdx::{Digest, DigestWriter};

use crate::gzip::GzipWriter;
use crate::layout::Layout;
use crate::tar;
use crate::tree::Tree;

/// How a layer's bytes are kept. Both are deterministic; the digest differs, the diff id does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Every engine and registry reads it.
    Gzip,
    /// The plain tar archive.
    None,
}

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
        let mut blob = layout.blob_writer()?;
        let (diff_id, unpacked_size) = match compression {
            Compression::Gzip => {
                let gzip = GzipWriter::new(&mut blob)?;
                let (gzip, diff_id, size) = archive(tree, gzip)?;
                gzip.finish()?;
                (diff_id, size)
            }
            Compression::None => {
                let (_, diff_id, size) = archive(tree, &mut blob)?;
                (diff_id, size)
            }
        };
        let (digest, size) = blob.finish()?;
        Ok(Layer { diff_id, digest, size, unpacked_size, compression, comment: comment.to_owned() })
    }
}

fn archive<W: Write>(tree: &Tree, out: W) -> Result<(W, Digest, u64)> {
    let mut buffered = BufWriter::with_capacity(64 * 1024, DigestWriter::new(out));
    tar::write(tree, &mut buffered)?;
    let hashed = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    Ok(hashed.finish())
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
        assert_eq!(crate::FORMAT, 1);
        assert_eq!(
            plain.digest.to_string(),
            "sha256:de885bd2bd048fa325fc66a7d862ebb01942646f104fde3b2bd85d5dcee0034a"
        );
        assert_eq!(
            gzip.digest.to_string(),
            "sha256:b9cd0a5035e72f81f9012d5dc88c099882894733003bf38ad05778a283e5bef9"
        );
        assert_eq!((gzip.diff_id, gzip.unpacked_size), (plain.digest, plain.size));
        assert_eq!(plain.diff_id, plain.digest);
    }
}
