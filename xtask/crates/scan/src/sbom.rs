//! The packages of a stored CycloneDX document, as `supply` writes it: package URLs, and a scope that tells what is in the
//! image (`required`) from what only built it (`excluded`).

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use rustsec::semver::Version;
use serde::Deserialize;

use crate::advisories::toolchain_packages;
use crate::package::Package;

/// The documents of large services have 1 MB.
const MOST_BYTES: usize = 64 << 20;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    bom_format: String,
    #[serde(default)]
    components: Vec<Component>,
}

/// A component of the document.
#[derive(Deserialize)]
pub(crate) struct Component {
    pub(crate) name: String,
    pub(crate) version: Option<String>,
    purl: Option<String>,
    scope: Option<String>,
    #[serde(default)]
    licenses: Vec<Licence>,
}

#[derive(Deserialize)]
struct Licence {
    expression: Option<String>,
}

impl Component {
    /// Whether it is a package of a registry or a repository.
    pub(crate) fn is_cargo(&self) -> bool {
        self.purl.as_ref().is_some_and(|purl| purl.starts_with("pkg:cargo/"))
    }

    /// What does not say that it stayed outside is inside.
    pub(crate) fn is_linked(&self) -> bool {
        self.scope.as_deref() != Some("excluded")
    }

    /// Its SPDX expression. CycloneDX knows other forms; documents of ours have none of them.
    pub(crate) fn licence(&self) -> Option<&str> {
        match &self.licenses[..] {
            [licence] => licence.expression.as_deref(),
            _ => None,
        }
    }
}

/// All components of `document`.
///
/// # Errors
/// When it is no CycloneDX document in JSON.
pub(crate) fn components(document: &[u8]) -> Result<Vec<Component>> {
    ensure!(document.len() <= MOST_BYTES, "it is larger than 64 MiB");
    let document: Document = serde_json::from_slice(document)?;
    ensure!(document.bom_format == "CycloneDX", "its format is `{}`", document.bom_format);
    Ok(document.components)
}

/// The Cargo packages of the public registry in `document`, and the Rust release whose library is in the image of `service`.
///
/// # Errors
/// When it is no CycloneDX document in JSON, or a package has no version.
pub fn sbom_packages(service: &str, document: &[u8]) -> Result<Vec<Package>> {
    let mut packages = Vec::new();
    for component in components(document)? {
        let version = || -> Result<Version> {
            let text = component.version.as_deref().context("no version")?;
            text.parse().with_context(|| format!("`{text}` is no version"))
        };
        let services = BTreeSet::from([service.to_owned()]);
        match component.purl.as_deref() {
            // Qualifiers say where else a package comes from: another registry, a repository.
            Some(purl) if purl.starts_with("pkg:cargo/") && !purl.contains('?') => {
                let version = version().with_context(|| format!("the component {purl}"))?;
                let is_named = purl.strip_prefix("pkg:cargo/").and_then(|rest| rest.split('@').next());
                ensure!(
                    is_named == Some(component.name.as_str()),
                    "{purl} is not the URL of {}",
                    component.name
                );
                let (linked, build_only) = if component.is_linked() {
                    (services, BTreeSet::new())
                } else {
                    (BTreeSet::new(), services)
                };
                let (name, line) = (component.name, None);
                packages.push(Package { name, version, is_from_crates_io: true, line, linked, build_only });
            }
            Some(purl) if purl.starts_with("pkg:generic/rust-std@") => {
                packages.extend(toolchain_packages(&version()?, &services));
            }
            _ => {}
        }
    }
    Ok(packages)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENT: &str = r#"{"bomFormat":"CycloneDX","specVersion":"1.6","components":[
        {"name":"tiny","version":"1.1.0","purl":"pkg:cargo/tiny@1.1.0","scope":"required"},
        {"name":"cc","version":"1.0.0","purl":"pkg:cargo/cc@1.0.0","scope":"excluded"},
        {"name":"fork","version":"1.0.0","purl":"pkg:cargo/fork@1.0.0?vcs_url=git%2Bhttps","scope":"required"},
        {"name":"ours","version":"0.1.0","purl":"pkg:generic/ours@0.1.0","scope":"required"},
        {"name":"rust-std","version":"1.95.0","purl":"pkg:generic/rust-std@1.95.0"}]}"#;

    #[test]
    fn packages_of_the_public_registry_and_the_standard_library_are_read() {
        let packages = sbom_packages("api", DOCUMENT.as_bytes()).unwrap();
        let brief: Vec<_> = packages.iter().map(|one| (one.spec(), one.class().name())).collect();
        let expected = [
            ("tiny@1.1.0", "linked"),
            ("cc@1.0.0", "build-only"),
            ("std@1.95.0", "linked"),
            ("cargo@1.95.0", "build-only"),
            ("rustc@1.95.0", "build-only"),
        ];
        assert_eq!(brief, expected.map(|(spec, class)| (spec.to_owned(), class)));
        assert!(sbom_packages("api", br#"{"bomFormat":"SPDX"}"#).is_err());
    }

    #[test]
    fn no_bytes_make_it_panic() {
        for at in 0..DOCUMENT.len() {
            for byte in [b'\0', b'"', b'[', b'}', b'9', 0xff] {
                let mut bytes = DOCUMENT.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = sbom_packages("api", &bytes);
            }
        }
    }
}
