//! The CycloneDX 1.6 document of one image.
//!
//! Source: CycloneDX 1.6 JSON schema. What is not in the image has the scope `excluded`; what compiled and linked is a tool.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde_json::{Value, json};
use stdx::{Digest, json as canonical_json, time};

use crate::about::{About, download};
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
    /// Who supplied what, and what built it.
    pub about: About,
}

impl Sbom {
    /// Components by package URL. What is both linked and built with is linked.
    pub(crate) fn by_purl(&self) -> BTreeMap<String, &Component> {
        let mut found = BTreeMap::new();
        for component in &self.components {
            let purl = component.purl();
            if component.usage == Use::Linked || !found.contains_key(&purl) {
                found.insert(purl, component);
            }
        }
        found.remove(&self.subject.purl());
        found
    }

    /// Whom each component calls on, the subject and those that call on nobody too. Names that are no component are left out.
    pub(crate) fn dependencies(&self) -> BTreeMap<String, BTreeSet<&str>> {
        let known = self.by_purl();
        let subject = self.subject.purl();
        let of = |from: &String| -> BTreeSet<&str> {
            let to = self.edges.get(from).into_iter().flatten().map(String::as_str);
            to.filter(|to| known.contains_key(*to) && *to != from).collect()
        };
        [&subject].into_iter().chain(known.keys()).map(|from| (from.clone(), of(from))).collect()
    }
}

/// The canonical bytes of the document.
pub fn cyclonedx(sbom: &Sbom) -> Result<Vec<u8>> {
    let dependency = |(from, to): (&String, &BTreeSet<&str>)| json!({ "ref": from, "dependsOn": to });
    let mut subject = component(&sbom.subject, &sbom.about, "application");
    if !sbom.about.layers.is_empty() {
        let layer = |layer: &Digest| json!({ "name": "slipway:image:layer", "value": layer });
        subject["properties"] = sbom.about.layers.iter().map(layer).collect();
    }
    let mut metadata = json!({
        "timestamp": time::rfc3339(sbom.about.created),
        "lifecycles": [{ "phase": "build" }],
        "component": subject,
        "tools": { "components": tools(sbom) },
    });
    if let Some(vendor) = &sbom.about.vendor {
        metadata["supplier"] = json!({ "name": vendor });
        metadata["manufacturer"] = json!({ "name": vendor });
    }
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": sbom.by_purl().values().map(|one| component(one, &sbom.about, "library")).collect::<Vec<_>>(),
        "dependencies": sbom.dependencies().iter().map(dependency).collect::<Vec<_>>(),
    });
    let content = Digest::of(canonical_json::canonical(&document)?);
    document["serialNumber"] = json!(format!("urn:uuid:{}", uuid(&content)));
    canonical_json::canonical(&document)
}

/// This program, and what compiled and linked.
fn tools(sbom: &Sbom) -> Vec<Value> {
    let tool = |(name, identity): (&String, &String)| {
        let mut tool = json!({ "type": "application", "name": name });
        match identity.parse::<Digest>() {
            Ok(digest) => tool["hashes"] = json!([{ "alg": "SHA-256", "content": digest.hex() }]),
            Err(_) => tool["version"] = json!(identity),
        }
        tool
    };
    let ours = json!({ "type": "application", "name": "slipway", "version": sbom.tool_version });
    [ours].into_iter().chain(sbom.about.toolchain.iter().map(tool)).collect()
}

fn component(component: &Component, about: &About, kind: &str) -> Value {
    let purl = component.purl();
    let mut value = json!({
        "type": kind,
        "bom-ref": purl,
        "name": component.name,
        "version": component.version,
        "purl": purl,
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
        value["licenses"] = json!([{ "expression": expression, "acknowledgement": "declared" }]);
    }
    if let Some(hash) = &component.hash {
        value["hashes"] = json!([{ "alg": "SHA-256", "content": hash.0 }]);
    }
    if let Some(supplier) = about.supplier(component) {
        value["supplier"] = json!({ "name": supplier });
    }
    let authors = about.details.get(&purl).map_or(&[][..], |detail| &detail.authors);
    if !authors.is_empty() {
        value["authors"] = authors.iter().map(|author| json!({ "name": name(author) })).collect();
    }
    let references = [
        ("distribution", download(component).filter(|url| url.starts_with("https://"))),
        ("vcs", about.repository(component).map(str::to_owned)),
    ];
    let references: Vec<Value> =
        references.into_iter().filter_map(|(kind, url)| Some(json!({ "type": kind, "url": url? }))).collect();
    if !references.is_empty() {
        value["externalReferences"] = json!(references);
    }
    value
}

/// An author without the address: `A B <a@b>` is `A B`.
pub(crate) fn name(author: &str) -> &str {
    author.split(" <").next().unwrap_or(author).trim()
}

/// A UUID of version 8 (RFC 9562: bits of one's own choice) made of the content's digest: equal documents have equal numbers.
pub(crate) fn uuid(digest: &Digest) -> String {
    let hex = digest.hex();
    format!("{}-{}-8{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

#[cfg(test)]
pub(crate) mod tests {
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

    pub(crate) fn sbom() -> Sbom {
        let edges = BTreeMap::from([(
            "pkg:cargo/api@1.0.0".to_owned(),
            BTreeSet::from(["pkg:cargo/a@1.0.0".to_owned(), "pkg:cargo/unknown@1.0.0".to_owned()]),
        )]);
        Sbom {
            subject: named("api", Use::Linked),
            components: BTreeSet::from([named("a", Use::Linked), named("b", Use::BuildOnly)]),
            edges,
            tool_version: "0.1.0".into(),
            about: About::default(),
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
            json!([
                { "ref": "pkg:cargo/a@1.0.0", "dependsOn": [] },
                { "ref": "pkg:cargo/api@1.0.0", "dependsOn": ["pkg:cargo/a@1.0.0"] },
                { "ref": "pkg:cargo/b@1.0.0", "dependsOn": [] },
            ])
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
