//! Loading an image into a Docker engine.

use anyhow::{Context, Result, ensure};
use bollard::Docker;
use bollard::query_parameters::ImportImageOptionsBuilder;
use futures_util::StreamExt;
use oci::Layout;
use stdx::Digest;

/// Loads the image of `layout` with the manifest digest `image` under the name `reference` into the engine that DOCKER_HOST
/// names, or the local one, and returns the id that the engine gave it.
///
/// # Errors
/// When the engine cannot be reached or refuses, or when what it has then is not this image.
pub(crate) fn load(layout: &Layout, image: Digest, reference: &str) -> Result<String> {
    let manifest = layout.manifest(&image)?;
    let mut archive = Vec::new();
    oci::write_archive(layout, image, reference, &mut archive)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let id = runtime.block_on(send(archive, reference))?;
    // The classic store names an image by its configuration, the containerd store by its manifest.
    let expected = [manifest.config().digest().to_string(), image.to_string()];
    ensure!(expected.contains(&id), "the engine has {reference} as {id}, and it should be {}", expected[0]);
    Ok(id)
}

async fn send(archive: Vec<u8>, reference: &str) -> Result<String> {
    let docker = Docker::connect_with_defaults().context("cannot reach a Docker engine; is it running?")?;
    docker.ping().await.context("cannot reach a Docker engine; is it running, and may you use it?")?;
    let options = ImportImageOptionsBuilder::default().quiet(true).build();
    let mut answers = docker.import_image(options, bollard::body_full(archive.into()), None);
    while let Some(answer) = answers.next().await {
        answer.with_context(|| format!("the Docker engine refused the image {reference}"))?;
    }
    let found = docker
        .inspect_image(reference)
        .await
        .with_context(|| format!("the engine does not have {reference}"))?;
    found.id.context("the engine does not tell the image's id")
}
