//! The SPDX 2.3 document of one image, with the same components as the CycloneDX one.
//!
//! Source: SPDX 2.3 specification, JSON schema. What is in the image is what the service depends on or contains; what only built
//! it is a `BUILD_DEPENDENCY_OF` the service, compilers are a `BUILD_TOOL_OF` it.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use serde::Serialize;
use stdx::{Digest, json::canonical, time};

use crate::about::{About, download};
use crate::component::{Component, Ecosystem, Use};
use crate::cyclonedx::{Sbom, name, uuid};
use crate::licence;

const NOTHING_SAID: &str = "NOASSERTION";

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: CreationInfo,
    packages: Vec<Package>,
    relationships: Vec<Relationship>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    has_extracted_licensing_infos: Vec<Licence>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CreationInfo {
    created: String,
    creators: Vec<String>,
    comment: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Package {
    #[serde(rename = "SPDXID")]
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version_info: Option<String>,
    supplier: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    originator: Option<String>,
    download_location: String,
    files_analyzed: bool,
    license_concluded: &'static str,
    license_declared: String,
    copyright_text: &'static str,
    primary_package_purpose: &'static str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    checksums: Vec<Checksum>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<ExternalRef>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source_info: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    summary: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    comment: Option<String>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Checksum {
    algorithm: &'static str,
    checksum_value: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ExternalRef {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Serialize, PartialEq, Eq, PartialOrd, Ord)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: String,
    relationship_type: &'static str,
    related_spdx_element: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Licence {
    license_id: String,
    name: String,
    extracted_text: String,
}

/// The canonical bytes of the document.
pub fn spdx(sbom: &Sbom) -> Result<Vec<u8>> {
    let components = sbom.by_purl();
    let mut packages = vec![package(&sbom.subject, &sbom.about, "APPLICATION")];
    if !sbom.about.layers.is_empty() {
        let layers: Vec<String> = sbom.about.layers.iter().map(Digest::to_string).collect();
        packages[0].comment = Some(format!("the image's layers: {}", layers.join(" ")));
    }
    packages.extend(components.values().map(|one| package(one, &sbom.about, "LIBRARY")));
    packages.extend(sbom.about.toolchain.iter().map(tool));
    let vendor = sbom.about.vendor.iter().map(|vendor| format!("Organization: {vendor}"));
    let tool = format!("Tool: slipway-{}", sbom.tool_version);
    let mut document = Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: "SPDXRef-DOCUMENT",
        name: format!("{}-{}", sbom.subject.name, sbom.subject.version),
        document_namespace: String::new(),
        creation_info: CreationInfo {
            created: time::rfc3339(sbom.about.created),
            creators: vendor.chain([tool]).collect(),
            comment: "made while the image was built, from what was really compiled or unpacked",
        },
        has_extracted_licensing_infos: extracted(sbom),
        relationships: relationships(sbom, &components),
        packages,
    };
    let content = Digest::of(canonical(&serde_json::to_value(&document)?)?);
    // The namespace need not lead anywhere; it must be another one for another content.
    document.document_namespace =
        format!("https://spdx.org/spdxdocs/{}-{}", plain(&document.name), uuid(&content));
    canonical(&serde_json::to_value(&document)?)
}

fn package(component: &Component, about: &About, purpose: &'static str) -> Package {
    let purl = component.purl();
    let author = about.details.get(&purl).and_then(|detail| detail.authors.first());
    let checksum = |hash: &crate::Hash| Checksum { algorithm: "SHA256", checksum_value: hash.0.clone() };
    Package {
        id: id(&component.name, &component.version, &purl),
        name: component.name.clone(),
        version_info: Some(component.version.clone()),
        supplier: about
            .supplier(component)
            .map_or(NOTHING_SAID.to_owned(), |supplier| format!("Organization: {}", name(&supplier))),
        originator: author.map(|author| format!("Person: {}", name(author))),
        download_location: download(component).unwrap_or_else(|| NOTHING_SAID.to_owned()),
        files_analyzed: false,
        license_concluded: NOTHING_SAID,
        license_declared: component.licence_expression().unwrap_or_else(|| NOTHING_SAID.to_owned()),
        copyright_text: NOTHING_SAID,
        primary_package_purpose: purpose,
        checksums: component.hash.iter().map(checksum).collect(),
        external_refs: vec![ExternalRef {
            reference_category: "PACKAGE-MANAGER",
            reference_type: "purl",
            reference_locator: purl,
        }],
        source_info: about.repository(component).map(|url| format!("source kept at {url}")),
        summary: component.description.clone(),
        comment: None,
    }
}

/// What compiled or linked, by version or digest.
fn tool((tool, identity): (&String, &String)) -> Package {
    let digest = identity.parse::<Digest>().ok();
    Package {
        id: tool_id(tool, identity),
        name: tool.clone(),
        // A part of the toolchain that has no version of its own is known by its digest.
        version_info: Some(identity.clone()),
        supplier: NOTHING_SAID.to_owned(),
        originator: None,
        download_location: NOTHING_SAID.to_owned(),
        files_analyzed: false,
        license_concluded: NOTHING_SAID,
        license_declared: NOTHING_SAID.to_owned(),
        copyright_text: NOTHING_SAID,
        primary_package_purpose: "APPLICATION",
        checksums: digest
            .map(|digest| Checksum { algorithm: "SHA256", checksum_value: digest.hex() })
            .into_iter()
            .collect(),
        external_refs: vec![],
        source_info: None,
        summary: None,
        comment: Some("built the image and is not in it".to_owned()),
    }
}

fn relationships(sbom: &Sbom, components: &BTreeMap<String, &Component>) -> Vec<Relationship> {
    let id_of = |component: &Component| id(&component.name, &component.version, &component.purl());
    let subject = id_of(&sbom.subject);
    let relation = |from: &str, kind, to: &str| Relationship {
        spdx_element_id: from.to_owned(),
        relationship_type: kind,
        related_spdx_element: to.to_owned(),
    };
    let mut found = BTreeSet::from([relation("SPDXRef-DOCUMENT", "DESCRIBES", &subject)]);
    let mut reached = BTreeSet::new();
    for (from, to) in sbom.dependencies() {
        let from = components.get(&from).map_or_else(|| subject.clone(), |component| id_of(component));
        for to in to {
            found.insert(relation(&from, "DEPENDS_ON", &id_of(components[to])));
            reached.insert(to);
        }
    }
    for (purl, component) in components {
        match (&component.ecosystem, component.usage) {
            (_, Use::BuildOnly) => {
                found.insert(relation(&id_of(component), "BUILD_DEPENDENCY_OF", &subject));
            }
            // Beside the program, not called by it: data, and packages of a distribution.
            (Ecosystem::Debian { .. }, Use::Linked) => {
                found.insert(relation(&subject, "CONTAINS", &id_of(component)));
            }
            (_, Use::Linked) if !reached.contains(purl.as_str()) => {
                found.insert(relation(&subject, "CONTAINS", &id_of(component)));
            }
            (_, Use::Linked) => {}
        }
    }
    for (tool, identity) in &sbom.about.toolchain {
        found.insert(relation(&tool_id(tool, identity), "BUILD_TOOL_OF", &subject));
    }
    found.into_iter().collect()
}

/// Licences that are not on SPDX's list, in the authors' words.
fn extracted(sbom: &Sbom) -> Vec<Licence> {
    let mut found = BTreeMap::new();
    for component in sbom.components.iter().chain([&sbom.subject]) {
        let (Some(expression), Some(written)) = (component.licence_expression(), &component.licence) else {
            continue;
        };
        for reference in licence::references(&expression) {
            found.entry(reference.to_owned()).or_insert_with(|| written.clone());
        }
    }
    let licence = |(license_id, written): (String, String)| Licence {
        name: license_id.trim_start_matches("LicenseRef-").to_owned(),
        extracted_text: written,
        license_id,
    };
    found.into_iter().map(licence).collect()
}

/// Names may hold letters, digits, `.` and `-` only; the end of it keeps two that would become the same apart.
fn id(name: &str, version: &str, purl: &str) -> String {
    format!("SPDXRef-{}-{}-{}", plain(name), plain(version), &Digest::of(purl).hex()[..8])
}

fn tool_id(tool: &str, identity: &str) -> String {
    format!("SPDXRef-Tool-{}-{}", plain(tool), &Digest::of(format!("{tool} {identity}")).hex()[..8])
}

fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cyclonedx::tests::sbom;
    use serde_json::Value;

    fn document(sbom: &Sbom) -> Value {
        serde_json::from_slice(&spdx(sbom).unwrap()).unwrap()
    }

    #[test]
    fn what_is_in_the_image_and_what_built_it_are_told_apart() {
        let mut sbom = sbom();
        sbom.about.toolchain = BTreeMap::from([("rustc".to_owned(), "1.95.0".to_owned())]);
        let document = document(&sbom);
        let kinds: BTreeMap<&str, usize> =
            document["relationships"].as_array().unwrap().iter().fold(BTreeMap::new(), |mut kinds, one| {
                *kinds.entry(one["relationshipType"].as_str().unwrap()).or_default() += 1;
                kinds
            });
        let expected =
            [("BUILD_DEPENDENCY_OF", 1), ("BUILD_TOOL_OF", 1), ("DEPENDS_ON", 1), ("DESCRIBES", 1)];
        assert_eq!(kinds.into_iter().collect::<Vec<_>>(), expected);
        let ids: BTreeSet<&str> = document["packages"]
            .as_array()
            .unwrap()
            .iter()
            .map(|one| one["SPDXID"].as_str().unwrap())
            .collect();
        assert_eq!(ids.len(), 4);
        for relation in document["relationships"].as_array().unwrap() {
            assert!(ids.contains(relation["relatedSpdxElement"].as_str().unwrap()), "{relation}");
        }
    }

    #[test]
    fn another_content_has_another_namespace_and_the_same_has_the_same() {
        let mut other = sbom();
        other.about.created = 1;
        let namespace = |sbom: &Sbom| document(sbom)["documentNamespace"].as_str().unwrap().to_owned();
        assert_eq!(namespace(&sbom()), namespace(&sbom()));
        assert_ne!(namespace(&sbom()), namespace(&other));
    }

    #[test]
    fn a_licence_that_no_list_knows_is_explained_in_the_authors_words() {
        let mut sbom = sbom();
        sbom.subject.licence = Some("Ask us".to_owned());
        let document = document(&sbom);
        assert_eq!(document["packages"][0]["licenseDeclared"], "LicenseRef-Ask-us");
        assert_eq!(document["hasExtractedLicensingInfos"][0]["extractedText"], "Ask us");
    }
}
