//! One tar archive that `docker load` of any version takes: an OCI image layout with Docker's own `manifest.json` beside it.

use std::io::Write;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use stdx::{Digest, json as canonical_json};

use crate::layout::{Layout, digest_of};
use crate::tar;

/// Writes the image of `layout` with the manifest digest `image` to `out`, to be loaded under the name `reference`
/// (`name:tag`).
pub fn write_archive(layout: &Layout, image: Digest, reference: &str, out: &mut impl Write) -> Result<()> {
    let manifest = layout.manifest(&image)?;
    let config = digest_of(manifest.config())?;
    let layers = manifest.layers().iter().map(digest_of).collect::<Result<Vec<_>>>()?;
    let name = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
    let mut blobs = layers.clone();
    blobs.extend([config, image]);
    blobs.sort();
    blobs.dedup();
    for blob in &blobs {
        let file = stdx::fs::open(&layout.blob_path(blob))?;
        let size = file.metadata()?.len();
        tar::write_file(&name(blob), size, file, out)
            .with_context(|| format!("cannot send the blob {blob}"))?;
    }
    let size = layout.document(&image)?.len();
    let index = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": image,
            "size": size,
            "annotations": { "io.containerd.image.name": reference },
        }],
    });
    let docker = json!([{
        "Config": name(&config),
        "RepoTags": [reference],
        "Layers": layers.iter().map(name).collect::<Vec<_>>(),
    }]);
    let documents: [(&str, Value); 3] = [
        ("index.json", index),
        ("manifest.json", docker),
        ("oci-layout", json!({ "imageLayoutVersion": "1.0.0" })),
    ];
    for (path, document) in documents {
        let bytes = canonical_json::canonical(&document)?;
        tar::write_file(path, bytes.len() as u64, bytes.as_slice(), out)?;
    }
    out.write_all(&[0; 1024])?;
    Ok(())
}
