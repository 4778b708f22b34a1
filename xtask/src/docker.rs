//! Loading images into a Docker engine. The archive is made while it is sent: memory does not grow with the image.

use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use anyhow::{Context, Result, ensure};
use bollard::Docker;
use bollard::query_parameters::ImportImageOptionsBuilder;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use oci::{ArchiveLayers, Layout};
use stdx::Digest;
use tokio::runtime::Runtime;

/// Bytes that are sent at a time, and how many such pieces wait.
const CHUNK: usize = 256 * 1024;
const WAITING: usize = 8;
/// The version of the interface with which Docker's engine (23.0) learned to read zstd.
const READS_ZSTD: (u32, u32) = (1, 42);

/// A Docker engine that answers.
pub(crate) struct Engine {
    docker: Docker,
    runtime: Runtime,
    /// Processor, in Go's words.
    architecture: String,
    layers: ArchiveLayers,
}

impl Engine {
    /// The engine that DOCKER_HOST names, or the local one.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub(crate) fn connect() -> Result<Engine> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let docker =
            Docker::connect_with_defaults().context("cannot reach a Docker engine; is it running?")?;
        let version = runtime.block_on(docker.version());
        let version = version.context("cannot reach a Docker engine; is it running, and may you use it?")?;
        let layers = if reads_zstd(&version.api_version.unwrap_or_default()) {
            ArchiveLayers::AsStored
        } else {
            ArchiveLayers::WithoutZstd
        };
        Ok(Engine { docker, runtime, architecture: version.arch.unwrap_or_default(), layers })
    }

    /// What its images are for: `linux/amd64`.
    pub(crate) fn platform(&self) -> String {
        format!("linux/{}", self.architecture)
    }

    /// Loads the image of `layout` with the manifest digest `image` under the name `reference`, and returns the id that the engine
    /// gave it.
    ///
    /// # Errors
    /// When the engine refuses, or when what it has then is not this image.
    pub(crate) fn load(&self, layout: &Layout, image: Digest, reference: &str) -> Result<String> {
        let (sender, receiver) = sync_channel(WAITING);
        let (sent, archived) = std::thread::scope(|scope| {
            let archive = scope.spawn(|| {
                let mut out = io::BufWriter::with_capacity(CHUNK, Body(sender));
                let archived = oci::write_archive(layout, image, reference, self.layers, &mut out)?;
                out.flush()?;
                anyhow::Ok(archived)
            });
            let sent = self.runtime.block_on(self.send(receiver, reference));
            (sent, archive.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        // An engine that stops reading says why; that nobody reads any more does not.
        let id = match (sent, archived) {
            (Ok(id), archived) => {
                let expected = [layout.config(&image)?.to_string(), archived?.to_string()];
                ensure!(
                    expected.contains(&id),
                    "the engine has {reference} as {id}, and it should be {}",
                    expected[0]
                );
                id
            }
            (Err(error), Err(cause)) if !is_broken_pipe(&cause) => return Err(cause.context(error)),
            (Err(error), _) => return Err(error),
        };
        Ok(id)
    }

    async fn send(&self, archive: Receiver<io::Result<Bytes>>, reference: &str) -> Result<String> {
        let options = ImportImageOptionsBuilder::default().quiet(true).build();
        // Waiting for the next piece stops this thread, which has nothing else to do.
        let body = bollard::body_try_stream(stream::iter(archive));
        let mut answers = self.docker.import_image(options, body, None);
        while let Some(answer) = answers.next().await {
            answer.with_context(|| format!("the Docker engine refused the image {reference}"))?;
        }
        let found = self
            .docker
            .inspect_image(reference)
            .await
            .with_context(|| format!("the engine does not have {reference}"))?;
        found.id.context("the engine does not tell the image's id")
    }
}

/// Sends what is written to it as the body of a request.
struct Body(SyncSender<io::Result<Bytes>>);

impl Write for Body {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let sent = self.0.send(Ok(Bytes::copy_from_slice(bytes)));
        sent.map(|()| bytes.len()).map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    let is_it = |error: &io::Error| error.kind() == io::ErrorKind::BrokenPipe;
    error.chain().any(|cause| cause.downcast_ref().is_some_and(is_it))
}

fn reads_zstd(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse::<u32>().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= READS_ZSTD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn engines_before_23_get_layers_that_they_can_read() {
        assert!(reads_zstd("1.42") && reads_zstd("1.50") && reads_zstd("2.0"));
        assert!(!reads_zstd("1.41") && !reads_zstd("") && !reads_zstd("x"));
    }
}
