//! Content with its digest and size, in memory or in a file. A blob of a file keeps it open: whoever replaces or removes the
//! name meanwhile changes nothing of what is read.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result};
use stdx::{Digest, DigestWriter};

/// As fast as disks are.
const LEVEL: i32 = 3;

/// Some content.
#[derive(Debug, Clone)]
pub struct Blob {
    source: Source,
    digest: Digest,
    size: u64,
}

#[derive(Debug, Clone)]
enum Source {
    Bytes(Arc<[u8]>),
    /// A file, and where in it the content begins.
    File(Arc<File>, u64),
}

/// Reads a file from a place of its own: readers of one blob do not move each other.
struct At {
    file: Arc<File>,
    at: u64,
}

impl Blob {
    /// Content that is in memory.
    pub fn of_bytes(bytes: &[u8]) -> Blob {
        Blob { digest: Digest::of(bytes), size: bytes.len() as u64, source: Source::Bytes(bytes.into()) }
    }

    /// The content of the file at `path`.
    pub fn of_file(path: &Path) -> Result<Blob> {
        let file = stdx::fs::open(path)?;
        Blob::in_file(file, 0).with_context(|| format!("cannot read {}", path.display()))
    }

    /// What `file` holds from `offset` on.
    pub(crate) fn in_file(file: File, offset: u64) -> Result<Blob> {
        let file = Arc::new(file);
        let (digest, size) = Digest::of_reader(At { file: Arc::clone(&file), at: offset })?;
        Ok(Blob { source: Source::File(file, offset), digest, size })
    }

    /// What `write` writes, in a file without a name in `folder` that ends with the blob.
    pub fn written(folder: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<Blob> {
        let file = tempfile::tempfile_in(folder)
            .with_context(|| format!("cannot create a temporary file in {}", folder.display()))?;
        let mut out = DigestWriter::new(io::BufWriter::with_capacity(128 * 1024, file));
        write(&mut out)?;
        let (out, digest, size) = out.finish();
        let file = out.into_inner().map_err(io::IntoInnerError::into_error)?;
        Ok(Blob { source: Source::File(Arc::new(file), 0), digest, size })
    }

    /// The file at `path`, compressed; `folder` is where that is kept meanwhile.
    pub fn of_compressed(path: &Path, folder: &Path) -> Result<Blob> {
        Blob::written(folder, |out| {
            let mut encoder = zstd::Encoder::new(out, LEVEL)?;
            encoder.include_checksum(true)?;
            io::copy(&mut stdx::fs::open(path)?, &mut encoder)
                .with_context(|| format!("cannot compress {}", path.display()))?;
            encoder.finish()?;
            Ok(())
        })
    }

    /// Puts what [`Blob::of_compressed`] took at `path`, as an executable file, whole or not at all.
    ///
    /// # Errors
    /// When the content is none of that, or larger than `limit` bytes.
    pub fn decompress(&self, path: &Path, limit: u64) -> Result<()> {
        let folder = path.parent().context("the path has no folder")?;
        stdx::fs::create_dir_all(folder)?;
        let mut file = tempfile::NamedTempFile::new_in(folder)?;
        let mut content = zstd::Decoder::new(self.open())?.take(limit + 1);
        let copied = io::copy(&mut content, &mut file).context("the content is damaged")?;
        anyhow::ensure!(copied <= limit, "the content is larger than {limit} bytes");
        stdx::fs::persist(file, path, 0o755)
    }

    /// Of the content.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// In bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The content, from its beginning.
    pub fn open(&self) -> Box<dyn Read + Send> {
        match &self.source {
            Source::Bytes(bytes) => Box::new(io::Cursor::new(Arc::clone(bytes))),
            Source::File(file, offset) => {
                Box::new(At { file: Arc::clone(file), at: *offset }.take(self.size))
            }
        }
    }

    /// The content of a small document.
    ///
    /// # Errors
    /// When it is larger than `limit`.
    pub fn bytes(&self, limit: u64) -> Result<Vec<u8>> {
        anyhow::ensure!(self.size <= limit, "{} bytes are more than the {limit} that are read", self.size);
        let mut bytes = Vec::new();
        self.open().read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for At {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read_at(buffer, self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}
