//! The CycloneDX 1.6 document of one image.
//!
//! Source: CycloneDX 1.6 JSON schema. What is not in the image has the scope `excluded`.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Value, json};
use stdx::{Digest, json as canonical_json};

use crate::component::{Component, Use};

/// What an image is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sbom {
    /// The service itself.
    pub subject: Component,
    /// Everything else, each once.
    pub components: BTreeSet<Component>,
    /// Which component calls on which others, by package URL. The subject has an entry too.
    pub edges: BTreeMap<String, BTreeSet<String>>,
    /// Version of the tool that made this.
    pub tool_version: String,
}

/// The canonical bytes of the document.
pub fn cyclonedx(sbom: &Sbom) -> Result<Vec<u8>> {
    let dependency = |(from, to): (&String, &BTreeSet<String>)| json!({ "ref": from, "dependsOn": to });
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "component": component(&sbom.subject, "application"),
            "tools": { "components": [{ "type": "application", "name": "slipway", "version": sbom.tool_version }] },
        },
        "components": sbom.components.iter().map(|one| component(one, "library")).collect::<Vec<_>>(),
        "dependencies": sbom.edges.iter().map(dependency).collect::<Vec<_>>(),
    });
    let content = Digest::of(canonical_json::canonical(&document)?);
    document["serialNumber"] = json!(format!("urn:uuid:{}", uuid(&content)));
    canonical_json::canonical(&document)
}

fn component(component: &Component, kind: &str) -> Value {
    let mut value = json!({
        "type": kind,
        "bom-ref": component.purl(),
        "name": component.name,
        "version": component.version,
        "purl": component.purl(),
    });
    if kind == "library" {
        value["scope"] = match component.usage {
            Use::Linked => json!("required"),
            Use::BuildOnly => json!("excluded"),
        };
    }
    if let Some(description) = &component.description {
        value["description"] = json!(description);
    }
    if let Some(expression) = component.licence_expression() {
        value["licenses"] = json!([{ "expression": expression }]);
    }
    if let Some(hash) = &component.hash {
        value["hashes"] = json!([{ "alg": "SHA-256", "content": hash.0 }]);
    }
    value
}

/// A UUID of version 8 (RFC 9562: bits of one's own choice) made of the content's digest: equal documents have equal numbers.
fn uuid(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::component::{Ecosystem, Hash};

    fn named(name: &str, usage: Use) -> Component {
        Component {
            ecosystem: Ecosystem::Cargo,
            name: name.into(),
            version: "1.0.0".into(),
            usage,
            licence: Some("MIT".into()),
            hash: Some(Hash("00".repeat(32))),
            description: None,
        }
    }

    fn sbom() -> Sbom {
        let edges = BTreeMap::from([(
            "pkg:cargo/api@1.0.0".to_owned(),
            BTreeSet::from(["pkg:cargo/a@1.0.0".to_owned()]),
        )]);
        Sbom {
            subject: named("api", Use::Linked),
            components: BTreeSet::from([named("a", Use::Linked), named("b", Use::BuildOnly)]),
            edges,
            tool_version: "0.1.0".into(),
        }
    }

    #[test]
    fn what_is_in_the_image_and_what_built_it_are_told_apart() {
        let document: Value = serde_json::from_slice(&cyclonedx(&sbom()).unwrap()).unwrap();
        let scopes: Vec<_> =
            document["components"].as_array().unwrap().iter().map(|c| (&c["name"], &c["scope"])).collect();
        assert_eq!(scopes, [(&json!("a"), &json!("required")), (&json!("b"), &json!("excluded"))]);
        assert_eq!(
            document["dependencies"],
            json!([{ "ref": "pkg:cargo/api@1.0.0", "dependsOn": ["pkg:cargo/a@1.0.0"] }])
        );
    }

    #[test]
    fn the_serial_number_follows_from_the_content() {
        let serial = |sbom: &Sbom| {
            let document: Value = serde_json::from_slice(&cyclonedx(sbom).unwrap()).unwrap();
            document["serialNumber"].as_str().unwrap().to_owned()
        };
        let mut other = sbom();
        other.components.insert(named("c", Use::Linked));
        assert_eq!(serial(&sbom()), serial(&sbom()));
        assert_ne!(serial(&sbom()), serial(&other));
        assert_eq!(serial(&sbom()).len(), "urn:uuid:".len() + 36);
    }
}
