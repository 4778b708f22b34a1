//! A file as the body of a request: read while it is sent, so that its size does not matter.

use std::fs::File;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::call::Asset;
use crate::failure::Failure;

/// How much of a file is read at once.
const CHUNK: usize = 64 << 10;

/// A file as the body of a request: read while it is sent, exactly as many bytes as were announced.
pub(crate) struct FileBody {
    file: File,
    left: u64,
}

impl FileBody {
    pub(crate) fn open(asset: &Asset) -> Result<FileBody, Failure> {
        let file = stdx::fs::open(&asset.path).map_err(|error| Failure::input(&error))?;
        Ok(FileBody { file, left: asset.size })
    }
}

impl http_body::Body for FileBody {
    type Data = Bytes;
    type Error = std::io::Error;

    /// Reads without giving way: a file on disk is faster than any line to GitHub, and nothing else runs meanwhile.
    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let mut chunk = vec![0; usize::try_from(self.left).unwrap_or(CHUNK).min(CHUNK)];
        match self.file.read(&mut chunk) {
            Ok(0) => {
                Poll::Ready(Some(Err(std::io::Error::other("the file became shorter while it was sent"))))
            }
            Ok(read) => {
                chunk.truncate(read);
                self.left -= read as u64;
                Poll::Ready(Some(Ok(Frame::data(chunk.into()))))
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
