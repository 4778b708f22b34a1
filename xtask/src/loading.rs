//! Built images into the Docker engine that the docker client would use. What is sent, and that it arrived, is `docker`'s business.

use anyhow::Result;
use docker::Engine;
use oci::Layout;
use stdx::Digest;

use crate::exit::{Code, ResultExt};

/// The engine.
pub(crate) fn engine() -> Result<Engine> {
    Engine::connect_default().map_err(anyhow::Error::from).or_exit(Code::Configuration)
}

/// Loads the image with the manifest digest `image` under the name `reference`, and says so.
pub(crate) fn image(engine: &Engine, layout: &Layout, image: Digest, reference: &str) -> Result<()> {
    let sent = engine
        .transfer(layout, image, reference)
        .map_err(anyhow::Error::from)
        .or_exit(Code::Configuration)?;
    eprintln!(
        "loaded {reference} as {} ({} of {} layers, {} bytes)",
        sent.id, sent.sent_layers, sent.layers, sent.sent_bytes
    );
    Ok(())
}
