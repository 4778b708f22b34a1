//! Bringing an image of a layout to an engine without a registry, with no more bytes than it lacks. The archive is made while it is
//! sent: memory does not grow with the image.
//!
//! Invariant: an image counts as transferred when the engine knows it by the id that its content gives.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bollard::query_parameters::ImportImageOptionsBuilder;
use bytes::Bytes;
use futures_util::future::{Either, select};
use futures_util::{StreamExt, stream};
use oci::{ArchiveForm, ArchiveLayers, Layout};
use serde_json::Value;
use stdx::Digest;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::watch;

use crate::engine::{Engine, check_reference};
use crate::error::{Error, Result};
use crate::facts::Store;
use crate::image::Image;

/// Bytes that are sent at a time, and how many such pieces wait.
const CHUNK: usize = 256 * 1024;
const WAITING: usize = 8;
/// An engine that takes nothing for so long takes nothing any more. Unpacking comes after the last byte: a disk may need this long for
/// the whole image.
const STALLED: Duration = Duration::from_secs(5 * 60);

/// How an image came to an engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransferKind {
    /// It was there already.
    Present,
    /// Without the layers that were there already.
    Incremental,
    /// Whole.
    Full,
}

/// What a transfer did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The engine's id of the image. Containers are made from it: names can come to mean something else.
    pub id: String,
    /// How it came there.
    pub kind: TransferKind,
    /// Bytes of archives that were sent, those of a first attempt included.
    pub sent_bytes: u64,
    /// Layers whose content was sent.
    pub sent_layers: usize,
    /// Layers that the image has.
    pub layers: usize,
}

/// What is to be there in the end.
struct Wanted<'a> {
    layout: &'a Layout,
    image: Digest,
    config: Digest,
    layers: Vec<Digest>,
    reference: &'a str,
}

impl Engine {
    /// Brings the image of `layout` with the manifest digest `image` to the engine, under the name `reference` (`name:tag`).
    ///
    /// # Errors
    /// When the layout is damaged, the engine refuses, the way to it breaks, or what it has then is not this image. What was there
    /// before stays, and a transfer that did not end leaves no image.
    pub fn transfer(&self, layout: &Layout, image: Digest, reference: &str) -> Result<Transfer> {
        check_reference("send an image", reference)?;
        let wanted = Wanted::new(layout, image, reference)
            .map_err(|cause| Error::local(format!("send {reference}"), cause))?;
        let count = wanted.layers.len();
        if let Some(id) = self.present(&wanted)? {
            self.tag_image(&id, reference)?;
            let id = self.verified(reference, &[wanted.config, image])?;
            return Ok(Transfer {
                id,
                kind: TransferKind::Present,
                sent_bytes: 0,
                sent_layers: 0,
                layers: count,
            });
        }
        let known = match &self.facts().store {
            Store::GraphDriver(_) => lowest_known(&wanted.layers, &self.images(&crate::Labels::new())?),
            // It reads the archive as a layout, in which nothing may be missing.
            Store::Containerd(_) => 0,
        };
        let transfer = |kind, (id, sent_bytes), without| Transfer {
            id,
            kind,
            sent_bytes,
            sent_layers: count - without,
            layers: count,
        };
        let sent = Arc::new(AtomicU64::new(0));
        if known > 0 {
            match self.load(&wanted, known, &sent) {
                Ok(id) => {
                    return Ok(transfer(
                        TransferKind::Incremental,
                        (id, sent.load(Ordering::Relaxed)),
                        known,
                    ));
                }
                // A layer that was there may be gone meanwhile: somebody tidied up.
                Err(Error::Refused { .. } | Error::NotFound { .. } | Error::WrongImage { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let id = self.load(&wanted, 0, &sent)?;
        Ok(transfer(TransferKind::Full, (id, sent.load(Ordering::Relaxed)), 0))
    }

    fn present(&self, wanted: &Wanted<'_>) -> Result<Option<String>> {
        for id in [wanted.config, wanted.image] {
            if let Some(image) = self.image(&id.to_string())?
                && image.id == id.to_string()
            {
                return Ok(Some(image.id));
            }
        }
        Ok(None)
    }

    /// Sends an archive without the content of the lowest layers, and compares what the engine made of it.
    fn load(&self, wanted: &Wanted<'_>, without_lowest: usize, sent: &Arc<AtomicU64>) -> Result<String> {
        let layers = if self.reads_zstd() { ArchiveLayers::AsStored } else { ArchiveLayers::WithoutZstd };
        let form = ArchiveForm { layers, without_lowest };
        let (sender, receiver) = channel(WAITING);
        let (listening, listener) = watch::channel(());
        let body = Body { sender, listener, runtime: self.runtime().handle().clone() };
        let (answer, archived) = std::thread::scope(|scope| {
            let archive = scope.spawn(|| wanted.write(form, body));
            let answer = self.send(receiver, wanted.reference, sent);
            // A connection that is stuck keeps the other end of the channel.
            drop(listening);
            (answer, archive.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        // An engine that stops reading says why; that nobody reads any more does not.
        match (answer, archived) {
            (Ok(()), Ok(archived)) => self.verified(wanted.reference, &[wanted.config, archived]),
            (_, Err(cause)) if !is_broken_pipe(&cause) => {
                Err(Error::local(format!("send {}", wanted.reference), cause))
            }
            (Err(error), _) => Err(error),
            (Ok(()), Err(cause)) => Err(Error::local(format!("send {}", wanted.reference), cause)),
        }
    }

    fn send(&self, archive: Receiver<Piece>, reference: &str, sent: &Arc<AtomicU64>) -> Result<()> {
        let what = format!("send {reference}");
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        let counted = Arc::clone(sent);
        let body = stream::unfold(Some(archive), |archive| async {
            let mut archive = archive?;
            match archive.recv().await {
                Some(Piece::Bytes(bytes)) => Some((Ok(bytes), Some(archive))),
                Some(Piece::End) => None,
                None => Some((Err(io::Error::other("the archive was not finished")), None)),
            }
        });
        let body = body.inspect(move |piece: &io::Result<Bytes>| {
            let length = piece.as_ref().map_or(0, |bytes| bytes.len() as u64);
            counted.fetch_add(length, Ordering::Relaxed);
        });
        let mut answers = self.docker().import_image(options, bollard::body_try_stream(body), None);
        let load = async {
            while let Some(answer) = answers.next().await {
                answer.map_err(|error| self.told(&what, &error))?;
            }
            Ok(())
        };
        self.wait(&what, None, async {
            match select(pin!(load), pin!(stall(sent))).await {
                Either::Left((answer, _)) => answer,
                Either::Right(_) => Err(Error::Deadline { what: what.clone(), after: STALLED }),
            }
        })
    }
}

/// Ends when nothing was sent for too long.
async fn stall(sent: &AtomicU64) {
    let mut seen = (sent.load(Ordering::Relaxed), Instant::now());
    while seen.1.elapsed() < STALLED {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let now = sent.load(Ordering::Relaxed);
        if now != seen.0 {
            seen = (now, Instant::now());
        }
    }
}

impl<'a> Wanted<'a> {
    fn new(layout: &'a Layout, image: Digest, reference: &'a str) -> anyhow::Result<Wanted<'a>> {
        let config = layout.config(&image)?;
        let document: Value =
            serde_json::from_slice(&layout.document(&config)?).context("no image configuration")?;
        let layers =
            document["rootfs"]["diff_ids"].as_array().context("the image's configuration names no layers")?;
        let layer = |layer: &Value| {
            layer.as_str().context("a layer that is no text")?.parse::<Digest>().context("a layer")
        };
        let layers = layers.iter().map(layer).collect::<anyhow::Result<_>>()?;
        Ok(Wanted { layout, image, config, layers, reference })
    }

    /// Writes the archive; gives the digest of the manifest in it. Without [`Piece::End`] the archive does not look as if it were whole.
    fn write(&self, form: ArchiveForm, to: Body) -> anyhow::Result<Digest> {
        let mut out = io::BufWriter::with_capacity(CHUNK, to);
        let digest = oci::write_archive(self.layout, self.image, self.reference, form, &mut out)?;
        out.into_inner().map_err(io::IntoInnerError::into_error)?.send(Piece::End)?;
        Ok(digest)
    }
}

/// How many of the layers, from the lowest, one of the images has in the same order.
fn lowest_known(layers: &[Digest], images: &[Image]) -> usize {
    let same = |image: &Image| {
        layers.iter().zip(&image.layers).take_while(|(wanted, there)| wanted == there).count()
    };
    let distinct: BTreeSet<usize> = images.iter().map(same).collect();
    distinct.last().copied().unwrap_or(0)
}

/// What is sent of an archive.
enum Piece {
    Bytes(Bytes),
    End,
}

/// Sends what is written to it as the body of a request, as long as somebody waits for the answer.
struct Body {
    sender: Sender<Piece>,
    listener: watch::Receiver<()>,
    runtime: Handle,
}

impl Body {
    fn send(&mut self, piece: Piece) -> io::Result<()> {
        self.runtime.block_on(async {
            match select(pin!(self.sender.send(piece)), pin!(self.listener.changed())).await {
                Either::Left((Ok(()), _)) => Ok(()),
                Either::Left((Err(_), _)) | Either::Right(_) => Err(io::ErrorKind::BrokenPipe.into()),
            }
        })
    }
}

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.send(Piece::Bytes(Bytes::copy_from_slice(bytes)))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_it = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_it))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_layers_in_the_same_order_from_the_lowest_count_as_known() {
        let layers: Vec<Digest> = ["a", "b", "c"].map(Digest::of).to_vec();
        let image = |names: &[&str]| Image {
            id: String::new(),
            references: Vec::new(),
            digests: Vec::new(),
            layers: names.iter().map(Digest::of).collect(),
            user: String::new(),
            labels: crate::Labels::new(),
            architecture: String::new(),
            bytes: 0,
        };
        let known = |images: &[&[&str]]| {
            lowest_known(&layers, &images.iter().map(|names| image(names)).collect::<Vec<_>>())
        };
        assert_eq!(known(&[]), 0);
        assert_eq!(known(&[&["b", "c"], &["x"]]), 0);
        assert_eq!(known(&[&["a"], &["a", "b", "x", "c"]]), 2);
        assert_eq!(known(&[&["a", "b", "c", "d"]]), 3);
    }
}
