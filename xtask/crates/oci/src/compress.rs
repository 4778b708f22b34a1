//! The compressions of layers, as writers and as readers. What a writer gives depends on the bytes alone: never on how they were
//! cut, on the number of processors, or on the machine.
//!
//! Source: OCI image-spec 1.1, "Image Layer Filesystem Changeset" (media types); RFC 8878 (zstd).

use std::io::{self, BufReader, Read, Write};
use std::path::Path;

use anyhow::{Result, ensure};
use oci_spec::image::MediaType;
use serde::{Deserialize, Serialize};
use zstd::zstd_safe;

use crate::gzip::GzipWriter;

/// How a layer's bytes are kept. All are deterministic; the digest differs, the diff id does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Every engine and registry reads it.
    Gzip,
    /// Faster to write and to read, and smaller; engines read it since 2023.
    Zstd,
    /// The plain tar archive.
    None,
}

/// The release of libzstd whose bytes are those of [`crate::FORMAT`]. It comes with the pinned crate, unless somebody made the
/// crate link the system's library.
const ZSTD_RELEASE: u32 = 10_507;
/// As fast as a disk writes, and already smaller than gzip at its default; higher ones cost more time than they save bytes.
const ZSTD_LEVEL: i32 = 3;
/// What a reader lets a layer ask for, as the zstd program does: 128 MiB.
const ZSTD_MAX_WINDOW_LOG: u32 = 27;
/// How much of a blob is read at a time.
const READ: usize = 256 * 1024;

impl Compression {
    /// What manifests call a layer of this compression.
    pub fn media_type(self) -> &'static str {
        match self {
            Compression::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Compression::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
            Compression::None => "application/vnd.oci.image.layer.v1.tar",
        }
    }

    /// The compression of layers of this type, Docker's own names included; `None` for any other type.
    pub fn of_media_type(media_type: &str) -> Option<Compression> {
        match media_type.strip_prefix("application/vnd.")? {
            "oci.image.layer.v1.tar" | "docker.image.rootfs.diff.tar" => Some(Compression::None),
            "oci.image.layer.v1.tar+gzip" | "docker.image.rootfs.diff.tar.gzip" => Some(Compression::Gzip),
            "oci.image.layer.v1.tar+zstd" | "docker.image.rootfs.diff.tar.zstd" => Some(Compression::Zstd),
            _ => None,
        }
    }

    pub(crate) fn oci_media_type(self) -> MediaType {
        match self {
            Compression::Gzip => MediaType::ImageLayerGzip,
            Compression::Zstd => MediaType::ImageLayerZstd,
            Compression::None => MediaType::ImageLayer,
        }
    }

    /// The uncompressed bytes of the blob at `path`. Several streams in a row are one file: some tools write layers so.
    ///
    /// # Errors
    /// When the blob cannot be opened. What is not compressed so fails when it is read.
    pub fn open(self, path: &Path) -> Result<Box<dyn Read + Send>> {
        let blob = BufReader::with_capacity(READ, stdx::fs::open(path)?);
        Ok(match self {
            Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(blob)),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(blob)?;
                decoder.window_log_max(ZSTD_MAX_WINDOW_LOG)?;
                Box::new(decoder)
            }
            Compression::None => Box::new(blob),
        })
    }
}

/// Compresses what is written to it. [`Encoder::finish`] must be called, or the stream lacks its end.
pub(crate) enum Encoder<W: Write> {
    Gzip(Box<GzipWriter<W>>),
    Zstd(zstd::stream::write::Encoder<'static, W>),
    None(W),
}

impl<W: Write> Encoder<W> {
    pub(crate) fn new(compression: Compression, out: W) -> Result<Encoder<W>> {
        Ok(match compression {
            Compression::Gzip => Encoder::Gzip(Box::new(GzipWriter::new(out)?)),
            Compression::Zstd => Encoder::Zstd(zstd_encoder(out)?),
            Compression::None => Encoder::None(out),
        })
    }

    /// Writes what is left and gives the writer back.
    pub(crate) fn finish(self) -> io::Result<W> {
        match self {
            Encoder::Gzip(gzip) => gzip.finish(),
            Encoder::Zstd(zstd) => zstd.finish(),
            Encoder::None(out) => Ok(out),
        }
    }
}

impl<W: Write> Write for Encoder<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Encoder::Gzip(gzip) => gzip.write(bytes),
            Encoder::Zstd(zstd) => zstd.write(bytes),
            Encoder::None(out) => out.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Encoder::Gzip(gzip) => gzip.flush(),
            Encoder::Zstd(zstd) => zstd.flush(),
            Encoder::None(out) => out.flush(),
        }
    }
}

/// One frame, made by one thread: what several threads make differs from what one makes. With a checksum, so that whoever does not
/// know the digest notices damage, too; without the content's size, which a stream does not know.
fn zstd_encoder<W: Write>(out: W) -> Result<zstd::stream::write::Encoder<'static, W>> {
    let release = zstd_safe::version_number();
    ensure!(
        release == ZSTD_RELEASE,
        "this program was linked with release {release} of libzstd, whose bytes may differ from those of {ZSTD_RELEASE}; \
         build it without ZSTD_SYS_USE_PKG_CONFIG"
    );
    let mut encoder = zstd::stream::write::Encoder::new(out, ZSTD_LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.include_contentsize(false)?;
    encoder.include_dictid(false)?;
    Ok(encoder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gzip::tests::sample;

    const ALL: [Compression; 3] = [Compression::Gzip, Compression::Zstd, Compression::None];

    fn compressed(compression: Compression, chunks: &[&[u8]]) -> Vec<u8> {
        let mut encoder = Encoder::new(compression, Vec::new()).unwrap();
        for chunk in chunks {
            encoder.write_all(chunk).unwrap();
        }
        encoder.finish().unwrap()
    }

    /// 128 KiB is a block of zstd: its edges are where a cut could show.
    #[test]
    fn output_does_not_depend_on_how_the_input_was_cut() {
        for length in [0, 1, 131_071, 131_072, 131_073, 262_144, 1_000_003] {
            let bytes = sample(length);
            for compression in ALL {
                let whole = compressed(compression, &[&bytes]);
                for cut in [1 << 17, 65_536, 777, 262_145] {
                    let pieces: Vec<&[u8]> = bytes.chunks(cut).collect();
                    assert!(compressed(compression, &pieces) == whole, "{compression:?} {length} by {cut}");
                }
            }
        }
    }

    #[test]
    fn readers_give_the_bytes_back_also_of_several_streams_in_a_row() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let bytes = sample(300_000);
        for compression in ALL {
            let twice =
                [compressed(compression, &[&bytes[..1000]]), compressed(compression, &[&bytes[1000..]])];
            std::fs::write(&path, twice.concat()).unwrap();
            let mut back = Vec::new();
            compression.open(&path).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{compression:?}");
            assert_eq!(Compression::of_media_type(compression.media_type()), Some(compression));
            assert_eq!(compression.oci_media_type().to_string(), compression.media_type());
        }
        assert_eq!(Compression::of_media_type("application/vnd.oci.image.layer.v1.tar+xz"), None);
    }

    #[test]
    fn no_bytes_of_a_blob_make_a_reader_panic() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("blob");
        let mut state = 5usize;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for compression in [Compression::Gzip, Compression::Zstd] {
            let good = compressed(compression, &[&sample(5_000)]);
            for _ in 0..300 {
                let mut bytes = good.clone();
                for _ in 0..=random(4) {
                    let near = 64 + random(good.len());
                    let at = random(bytes.len().min(near));
                    bytes[at] = random(256) as u8;
                }
                bytes.truncate(1 + random(bytes.len() * 4));
                std::fs::write(&path, bytes).unwrap();
                let read = compression
                    .open(&path)
                    .and_then(|blob| Ok(std::io::copy(&mut blob.take(1 << 24), &mut std::io::sink())?));
                assert!(read.is_err() || read.unwrap() <= 1 << 24);
            }
        }
    }

    /// Source: RFC 8878, 3.1.1.1: no single segment (0x20), no content size (0xc0), no dictionary (0x03), a checksum (0x04).
    #[test]
    fn the_frame_says_what_was_decided() {
        let frame = compressed(Compression::Zstd, &[&sample(10)]);
        assert_eq!(frame[..4], [0x28, 0xb5, 0x2f, 0xfd]);
        assert_eq!(frame[4], 0x04);
    }
}
