//! Naming in a layout's index what was made elsewhere: any image, any index, any artifact, as it is.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use stdx::{Digest, fs, json as canonical_json};

use crate::layout::Layout;

const REF_NAME: &str = "org.opencontainers.image.ref.name";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

impl Layout {
    /// Lets `name` stand for the manifest or index `digest`, which is in the layout already; without a name it is listed as an
    /// artifact. What had the name before loses it.
    ///
    /// # Errors
    /// When the layout does not have it, or it is no manifest.
    pub fn adopt(&self, name: Option<&str>, digest: &Digest) -> Result<()> {
        let bytes = self.document(digest)?;
        let entry = entry(&bytes, name, digest).with_context(|| format!("{digest} is not a manifest"))?;
        let lock = fs::open(&self.root().join("oci-layout"))?;
        lock.lock().with_context(|| format!("cannot lock {}", self.root().display()))?;
        let path = self.root().join("index.json");
        let mut index: Value = serde_json::from_slice(&fs::read(&path)?)
            .with_context(|| format!("{} is damaged", path.display()))?;
        let list =
            index["manifests"].as_array_mut().with_context(|| format!("{} has no list", path.display()))?;
        let key = |entry: &Value| match entry["annotations"][REF_NAME].as_str() {
            Some(name) => (true, name.to_owned()),
            None => (false, entry["digest"].as_str().unwrap_or_default().to_owned()),
        };
        list.retain(|other| key(other) != key(&entry));
        list.push(entry);
        list.sort_by_key(key);
        fs::write_atomic(&path, &canonical_json::canonical(&index)?, 0o644)
    }
}

fn entry(bytes: &[u8], name: Option<&str>, digest: &Digest) -> Result<Value> {
    let document: Value = serde_json::from_slice(bytes)?;
    let (is_index, is_manifest) = (document["manifests"].is_array(), document["config"].is_object());
    ensure!(is_index != is_manifest, "it has neither a configuration nor a list of manifests, or both");
    let fitting = if is_index { INDEX } else { MANIFEST };
    let media_type = document["mediaType"].as_str().unwrap_or(fitting);
    let mut entry = json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() });
    if let Some(artifact_type) = document["artifactType"].as_str() {
        entry["artifactType"] = json!(artifact_type);
    }
    if let Some(name) = name {
        entry["annotations"] = json!({ REF_NAME: name });
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tagged;

    #[test]
    fn what_was_made_elsewhere_gets_a_name_and_what_is_attached_is_found() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let source = Layout::create(from.path()).unwrap();
        let target = Layout::create(to.path()).unwrap();
        let index = json!({ "schemaVersion": 2, "manifests": [] }).to_string();
        let image = source.put(index.as_bytes()).unwrap();
        let attached =
            source.attach(&image, "text/x", b"content", [("a".into(), "b".into())].into()).unwrap();
        for digest in [&image, &attached.digest] {
            target.put(&source.document(digest).unwrap()).unwrap();
        }
        target.adopt(None, &attached.digest).unwrap();
        for _ in 0..2 {
            target.adopt(Some("x"), &image).unwrap();
        }
        assert_eq!(target.tags().unwrap(), [Tagged { name: "x".into(), digest: image }]);
        assert_eq!(target.referrers(&image).unwrap(), [attached]);
        assert!(target.adopt(None, &target.put(b"{}").unwrap()).is_err());
    }
}
