//! What an SBOM says beyond names and versions: who supplied a component and from where, what built the image, when.

use std::collections::BTreeMap;

use stdx::Digest;

use crate::component::{Component, Ecosystem};

/// What is known of an image's components and of its building.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct About {
    /// The commit's time, or what SOURCE_DATE_EPOCH says, in seconds since 1970.
    pub created: i64,
    /// Who distributes the image.
    pub vendor: Option<String>,
    /// By package URL.
    pub details: BTreeMap<String, Detail>,
    /// What compiled and linked: name, and version or digest.
    pub toolchain: BTreeMap<String, String>,
    /// Digests of the image's layers, from the lowest.
    pub layers: Vec<Digest>,
}

/// What is known of one component.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Detail {
    /// Who supplies it, where its ecosystem does not say.
    pub supplier: Option<String>,
    /// Who wrote it.
    pub authors: Vec<String>,
    /// Where its source is kept.
    pub repository: Option<String>,
}

impl About {
    /// Who supplies the component: where it was fetched from, or whoever distributes the image for what was written for it.
    pub(crate) fn supplier(&self, component: &Component) -> Option<String> {
        let detail = self.details.get(&component.purl());
        let named = || detail.and_then(|detail| detail.supplier.clone());
        match &component.ecosystem {
            Ecosystem::Cargo => Some("crates.io".to_owned()),
            Ecosystem::CargoRegistry(url) => Some(host(url)),
            Ecosystem::CargoGit(url, _) => Some(host(url)),
            Ecosystem::Debian { .. } => Some("Debian".to_owned()),
            Ecosystem::CargoWorkspace => {
                let author = || detail.and_then(|detail| detail.authors.first().cloned());
                named().or_else(|| self.vendor.clone()).or_else(author)
            }
            Ecosystem::Generic => named(),
        }
    }

    /// Where the component's source is kept, if that is a URL that documents can hold.
    pub(crate) fn repository<'a>(&'a self, component: &'a Component) -> Option<&'a str> {
        let url = match &component.ecosystem {
            Ecosystem::CargoGit(url, _) => url,
            _ => self.details.get(&component.purl())?.repository.as_ref()?,
        };
        let is_url = ["https://", "http://", "ssh://", "git://"].iter().any(|scheme| url.starts_with(scheme));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._~:/?#@!$&'*+,;=%".contains(c);
        (is_url && !url.contains('@') && url.chars().all(is_plain)).then_some(url.as_str())
    }
}

/// Where the component's archive is fetched from.
pub(crate) fn download(component: &Component) -> Option<String> {
    let Component { name, version, .. } = component;
    match &component.ecosystem {
        Ecosystem::Cargo => Some(format!("https://crates.io/api/v1/crates/{name}/{version}/download")),
        Ecosystem::CargoGit(url, commit) if !url.contains('@') => Some(format!("git+{url}@{commit}")),
        _ => None,
    }
}

/// The host of a URL, without scheme, user and path.
fn host(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or(rest);
    authority.rsplit('@').next().unwrap_or(authority).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_of_a_url_is_no_part_of_its_host() {
        assert_eq!(host("https://user:secret@git.example/team/x"), "git.example");
        assert_eq!(host("sparse+https://r.example/index"), "r.example");
    }
}
