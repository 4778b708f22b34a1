//! What manifests and indexes say about other blobs, whatever they were made with. Pure; any bytes give an answer.
//!
//! Source: OCI image-spec 1.1; Docker's "Image Manifest V 2, Schema 2", which has the same members.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use stdx::Digest;

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// The kinds that this client asks for, in the order of its liking.
pub(crate) const ACCEPTED: &[&str] = &[OCI_MANIFEST, OCI_INDEX, DOCKER_MANIFEST, DOCKER_LIST];
/// Registries promise to take manifests of this size, and most take no larger ones.
pub(crate) const MAX_DOCUMENT: u64 = 4 * 1024 * 1024;
/// No image has as many parts; what says so wants to keep us busy.
const MAX_PARTS: usize = 4096;

/// No blob is larger (a pebibyte); numbers beyond would only overflow sums.
pub(crate) const MAX_SIZE: u64 = 1 << 50;

/// A pointer to a blob or manifest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    /// Addresses elsewhere: registries do not hold such layers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) urls: Vec<String>,
    /// What others wrote into it, such as a platform: an index that is written again keeps it.
    #[serde(flatten)]
    pub(crate) rest: BTreeMap<String, serde_json::Value>,
}

/// A manifest or an index.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Document {
    media_type: Option<String>,
    pub(crate) artifact_type: Option<String>,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Vec<Descriptor>,
    manifests: Option<Vec<Descriptor>>,
    pub(crate) subject: Option<Descriptor>,
    pub(crate) annotations: Option<BTreeMap<String, String>>,
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or an index.
    ///
    /// # Errors
    /// When it is neither, or one that no registry holds.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Document> {
        // Otherwise a list would be read as the members in their order.
        ensure!(bytes.trim_ascii_start().starts_with(b"{"), "it is not a manifest");
        let document: Document = serde_json::from_slice(bytes).context("it is not a manifest")?;
        ensure!(
            document.fs_layers.is_none(),
            "it is a manifest of Docker's schema 1, which nobody writes any more"
        );
        let is_index = document.config.is_none();
        let has_list = document.manifests.is_some();
        ensure!(is_index || !has_list, "it wants to be a manifest and an index at once");
        ensure!(!is_index || has_list, "it has neither a configuration nor a list of manifests");
        let parts = document.layers.len() + document.children().len();
        ensure!(parts <= MAX_PARTS, "it has {parts} parts, and {MAX_PARTS} are allowed");
        let all = document
            .layers
            .iter()
            .chain(document.children())
            .chain(&document.config)
            .chain(&document.subject);
        for one in all {
            ensure!(one.size <= MAX_SIZE, "it says that {} is {} bytes long", one.digest, one.size);
        }
        if let Some(said) = &document.media_type {
            let is_of_index = [OCI_INDEX, DOCKER_LIST].contains(&said.as_str());
            ensure!(
                ACCEPTED.contains(&said.as_str()),
                "its media type is {said}, which is no kind of manifest"
            );
            ensure!(is_of_index == is_index, "its media type is {said}, which its content is not");
        }
        Ok(document)
    }

    /// The media type that it says, or that fits what it has.
    pub(crate) fn media_type(&self) -> &str {
        let fitting = if self.config.is_some() { OCI_MANIFEST } else { OCI_INDEX };
        self.media_type.as_deref().unwrap_or(fitting)
    }

    /// What an index lists; nothing for a manifest.
    pub(crate) fn children(&self) -> &[Descriptor] {
        self.manifests.as_deref().unwrap_or_default()
    }

    /// The blobs that a registry must have before it takes this: the layers and then the configuration, each once.
    pub(crate) fn blobs(&self) -> Vec<&Descriptor> {
        let mut found: Vec<&Descriptor> = Vec::new();
        for blob in self.layers.iter().chain(&self.config) {
            if blob.urls.is_empty() && !found.iter().any(|one| one.digest == blob.digest) {
                found.push(blob);
            }
        }
        found
    }

    /// What an index says of this document, once it is stored under `digest`.
    pub(crate) fn descriptor(&self, digest: Digest, size: u64) -> Descriptor {
        let of_config = self.config.as_ref().map(|config| config.media_type.clone());
        Descriptor {
            media_type: self.media_type().to_owned(),
            digest,
            size,
            artifact_type: self.artifact_type.clone().or(of_config),
            annotations: self.annotations.clone(),
            urls: Vec::new(),
            rest: BTreeMap::new(),
        }
    }
}

/// An index of referrers.
pub(crate) fn index(manifests: &[Descriptor]) -> Result<Vec<u8>> {
    let index = serde_json::json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests });
    Ok(serde_json::to_vec(&index)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(content: &str) -> serde_json::Value {
        serde_json::json!({ "mediaType": "x/y", "digest": Digest::of(content), "size": content.len() })
    }

    fn parse(value: &serde_json::Value) -> Result<Document> {
        Document::parse(value.to_string().as_bytes())
    }

    #[test]
    fn a_manifest_names_its_blobs_once_and_none_that_lies_elsewhere() {
        let mut foreign = descriptor("f");
        foreign["urls"] = serde_json::json!(["https://elsewhere.example/"]);
        let manifest = serde_json::json!({
            "schemaVersion": 2, "config": descriptor("c"),
            "layers": [descriptor("a"), descriptor("b"), descriptor("a"), foreign],
        });
        let document = parse(&manifest).unwrap();
        let digests: Vec<Digest> = document.blobs().iter().map(|blob| blob.digest).collect();
        assert_eq!(digests, ["a", "b", "c"].map(Digest::of));
        assert_eq!(document.media_type(), OCI_MANIFEST);
        assert_eq!(document.descriptor(Digest::of("m"), 1).artifact_type.as_deref(), Some("x/y"));
        assert_eq!(parse(&serde_json::json!({ "manifests": [] })).unwrap().media_type(), OCI_INDEX);
    }

    #[test]
    fn what_is_no_manifest_is_refused_with_the_reason() {
        let with = |key: &str, value: serde_json::Value| {
            let mut manifest = serde_json::json!({ "config": descriptor("c"), "layers": [] });
            manifest[key] = value;
            parse(&manifest).unwrap_err().to_string()
        };
        assert!(with("fsLayers", serde_json::json!([])).contains("schema 1"));
        assert!(with("manifests", serde_json::json!([descriptor("x")])).contains("at once"));
        assert!(with("mediaType", OCI_INDEX.into()).contains("is not"));
        assert!(with("mediaType", "text/html".into()).contains("no kind"));
        assert!(with("layers", vec![descriptor("x"); MAX_PARTS + 1].into()).contains("4097 parts"));
        let mut endless = descriptor("x");
        endless["size"] = u64::MAX.into();
        assert!(with("layers", vec![endless].into()).contains("18446744073709551615 bytes"));
        for none in ["", "[]", "{}", "null", r#"{"layers":[]}"#] {
            assert!(Document::parse(none.as_bytes()).is_err(), "{none}");
        }
        let deep = "[".repeat(100_000);
        assert!(Document::parse(deep.as_bytes()).is_err());
    }

    #[test]
    fn an_index_of_referrers_is_read_back_with_what_others_wrote() {
        let entry = Descriptor {
            media_type: OCI_MANIFEST.into(),
            digest: Digest::of("a"),
            size: 1,
            artifact_type: Some("t".into()),
            annotations: Some([("k".into(), "v".into())].into()),
            urls: Vec::new(),
            rest: [("platform".into(), serde_json::json!({ "os": "linux" }))].into(),
        };
        let bytes = index(std::slice::from_ref(&entry)).unwrap();
        assert_eq!(Document::parse(&bytes).unwrap().children(), [entry]);
    }
}
