//! The gzip writer: own framing around the one pinned deflate encoder. The encoder is scalar code without any choice by
//! processor, so its output depends on its version alone, and that is pinned exactly in the workspace manifest.
//!
//! Source: RFC 1952.

use std::io::{self, Write};

use miniz_oxide::deflate::core::{CompressorOxide, TDEFLFlush, TDEFLStatus, compress};
use miniz_oxide::{DataFormat, deflate::CompressionLevel};

/// No file name, no time, maximum compression not claimed, "unknown" operating system.
const HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

/// Compresses what is written to it. [`GzipWriter::finish`] must be called, or the stream lacks its end.
pub(crate) struct GzipWriter<W> {
    inner: W,
    compressor: CompressorOxide,
    buffer: Vec<u8>,
    crc: crc32fast::Hasher,
    length: u32,
}

impl<W: Write> GzipWriter<W> {
    /// Writes the header to `inner`.
    pub(crate) fn new(mut inner: W) -> io::Result<GzipWriter<W>> {
        inner.write_all(&HEADER)?;
        let compressor =
            CompressorOxide::with_format_and_level(DataFormat::Raw, CompressionLevel::DefaultLevel);
        Ok(GzipWriter {
            inner,
            compressor,
            buffer: vec![0; 64 * 1024],
            crc: crc32fast::Hasher::new(),
            length: 0,
        })
    }

    /// Writes what is left and the trailer, and gives `inner` back.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.deflate(&[], TDEFLFlush::Finish)?;
        self.inner.write_all(&self.crc.finalize().to_le_bytes())?;
        self.inner.write_all(&self.length.to_le_bytes())?;
        Ok(self.inner)
    }

    fn deflate(&mut self, mut input: &[u8], flush: TDEFLFlush) -> io::Result<()> {
        loop {
            let (status, read, written) = compress(&mut self.compressor, input, &mut self.buffer, flush);
            self.inner.write_all(&self.buffer[..written])?;
            input = &input[read..];
            match status {
                TDEFLStatus::Done => return Ok(()),
                TDEFLStatus::Okay
                    if input.is_empty() && written < self.buffer.len() && flush == TDEFLFlush::None =>
                {
                    return Ok(());
                }
                TDEFLStatus::Okay => {}
                TDEFLStatus::BadParam | TDEFLStatus::PutBufFailed => {
                    return Err(io::Error::other("the deflate encoder was used after its end"));
                }
            }
        }
    }
}

impl<W: Write> Write for GzipWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.deflate(bytes, TDEFLFlush::None)?;
        self.crc.update(bytes);
        // The trailer holds the length modulo 2^32.
        self.length = self.length.wrapping_add(bytes.len() as u32);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Read;

    fn gzip(chunks: &[&[u8]]) -> Vec<u8> {
        let mut writer = GzipWriter::new(Vec::new()).unwrap();
        for chunk in chunks {
            writer.write_all(chunk).unwrap();
        }
        writer.finish().unwrap()
    }

    /// Bytes that can be compressed, and are the same each time.
    pub(crate) fn sample(length: usize) -> Vec<u8> {
        let mut state = 1u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8 & 0x1f
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn another_reader_gets_the_bytes_back() {
        for length in [0, 1, 511, 65_536, 1_000_003] {
            let bytes = sample(length);
            let mut back = Vec::new();
            flate2::read::GzDecoder::new(gzip(&[&bytes]).as_slice()).read_to_end(&mut back).unwrap();
            assert!(back == bytes, "{length} bytes");
        }
    }

    #[test]
    fn output_does_not_depend_on_how_the_input_was_cut() {
        let bytes = sample(300_000);
        let pieces: Vec<&[u8]> = bytes.chunks(777).collect();
        assert!(gzip(&[&bytes]) == gzip(&pieces));
    }
}
