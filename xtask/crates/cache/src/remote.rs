//! A store in a repository of an OCI registry: each entry is an artifact whose tag is its key and whose one layer is its content.
//! Registries compare digests when they take content and the client when it reads, so what is left to check is the name.
//!
//! Source: OCI image-spec 1.1, "Guidelines for Artifact Usage".

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use registry::{Options, Reference, Registry, Repository};
use serde::{Deserialize, Serialize};
use stdx::{Digest, json};

use crate::{Blob, Found, Key, Store};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const ARTIFACT: &str = "application/vnd.slipway.cache.entry.v1";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_JSON: &[u8] = b"{}";
/// The annotation that says which entry an artifact is, so that one under another's tag is noticed.
const KEY: &str = "dev.slipway.cache.key";
/// Nothing that is kept is larger.
const MAX_CONTENT: u64 = 32 << 30;

/// A repository of a registry.
#[derive(Debug)]
pub struct Remote {
    name: String,
    repository: Repository,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Manifest {
    schema_version: u32,
    media_type: String,
    artifact_type: String,
    config: Descriptor,
    layers: Vec<Descriptor>,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    media_type: String,
    digest: Digest,
    size: u64,
}

impl Remote {
    /// The repository with this name, such as `registry.example.com/team/cache`. No request is made yet.
    pub fn open(name: &str) -> Result<Remote> {
        let reference: Reference = name.parse()?;
        let registry = Registry::connect_with(&reference.host, impatient(Options::from_env()))?;
        Ok(Remote {
            name: format!("registry {name}"),
            repository: registry.repository(&reference.repository),
        })
    }
}

/// Whoever waits for a cache waits for nothing that is needed.
fn impatient(options: Options) -> Options {
    Options {
        attempts: 2,
        connect_timeout: Duration::from_secs(5),
        answer_timeout: Duration::from_secs(30),
        ..options
    }
}

impl Store for Remote {
    fn name(&self) -> &str {
        &self.name
    }

    fn get(&self, key: &Key) -> Result<Found> {
        let Some(manifest) = self.repository.manifest(&key.to_string())? else { return Ok(Found::Missing) };
        let content = match content(&manifest.bytes, key) {
            Ok(content) => content,
            Err(damage) => return Ok(Found::Damaged(damage)),
        };
        if self.repository.has_blob(&content.digest)? != Some(content.size) {
            return Ok(Found::Damaged("its content is missing or has another length".to_owned()));
        }
        let read = Blob::written(&std::env::temp_dir(), |out| {
            self.repository.read_blob(&content.digest, content.size, out)
        });
        let blob = read.with_context(|| format!("cannot read the entry {key}"))?;
        if (blob.digest(), blob.size()) != (content.digest, content.size) {
            return Ok(Found::Damaged("its content is not the one that was stored".to_owned()));
        }
        Ok(Found::Whole(blob))
    }

    fn holds(&self, key: &Key) -> Result<bool> {
        Ok(self.repository.manifest(&key.to_string())?.is_some())
    }

    fn put(&self, key: &Key, content: &Blob) -> Result<()> {
        let empty = Blob::of_bytes(EMPTY_JSON);
        for blob in [&empty, content] {
            self.repository.push_blob(&blob.digest(), blob.size(), &|| Ok(blob.open()), None)?;
        }
        let descriptor = |media_type: &str, blob: &Blob| Descriptor {
            media_type: media_type.to_owned(),
            digest: blob.digest(),
            size: blob.size(),
        };
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.to_owned(),
            artifact_type: ARTIFACT.to_owned(),
            config: descriptor(EMPTY, &empty),
            layers: vec![descriptor(ARTIFACT, content)],
            annotations: [(KEY.to_owned(), key.to_string())].into(),
        };
        // Last of all: whoever finds the tag finds everything that it names.
        let bytes = json::canonical(&serde_json::to_value(manifest)?)?;
        self.repository.put_manifest(&key.to_string(), MANIFEST, &bytes).map(drop)
    }

    /// Many registries let nobody delete: what is damaged is then replaced by the next one who writes.
    fn remove(&self, key: &Key) -> Result<()> {
        if let Some(manifest) = self.repository.manifest(&key.to_string())? {
            self.repository.delete_manifest(&manifest.digest).ok();
        }
        Ok(())
    }
}

/// The content that the artifact names; or what is wrong with it.
pub(crate) fn content(manifest: &[u8], key: &Key) -> Result<Descriptor, String> {
    let Ok(manifest) = serde_json::from_slice::<Manifest>(manifest) else {
        return Err("its manifest is none of an entry".to_owned());
    };
    if manifest.artifact_type != ARTIFACT {
        return Err(format!("it is an artifact of the type `{}`", manifest.artifact_type));
    }
    match manifest.annotations.get(KEY) {
        Some(named) if *named == key.to_string() => {}
        named => return Err(format!("it is the entry {}", named.map_or("of nobody", String::as_str))),
    }
    let mut layers = manifest.layers.into_iter();
    match (layers.next(), layers.next()) {
        (Some(layer), None) if layer.size <= MAX_CONTENT => Ok(layer),
        _ => Err("its manifest does not name one content".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Kind;

    #[test]
    fn a_manifest_counts_for_its_own_key_only() {
        let key = Key { kind: Kind::Service, digest: Digest::of("x") };
        let text = |annotation: &str, layers: usize| {
            let layer = serde_json::json!({"mediaType": ARTIFACT, "digest": Digest::of("c"), "size": 1});
            let config = serde_json::json!({"mediaType": EMPTY, "digest": Digest::of("{}"), "size": 2});
            serde_json::json!({"schemaVersion": 2, "mediaType": MANIFEST, "artifactType": ARTIFACT, "config": config,
                "layers": vec![layer; layers], "annotations": {KEY: annotation}})
            .to_string()
        };
        assert!(content(text(&key.to_string(), 1).as_bytes(), &key).is_ok());
        assert!(content(text("service-00", 1).as_bytes(), &key).is_err());
        for layers in [0, 2] {
            assert!(content(text(&key.to_string(), layers).as_bytes(), &key).is_err());
        }
        assert!(content(b"{}", &key).is_err() && content(b"", &key).is_err());
    }
}
