//! An image as it was built, read from an OCI image layout, whoever made it. It judges the layers and the configuration and
//! asks for no Dockerfile. Invariant: every entry of every layer is looked at, those that a later layer removes too.

mod accounts;
mod documents;
mod files;
mod read;

use std::time::SystemTime;

use anyhow::Result;
use finding::{Finding, Place};
use oci::Layout;
use stdx::Digest;

use crate::rules;

/// What a workspace asks of its images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImagePolicy {
    /// Largest sum of the layers as they are stored, in bytes; no limit where `None`.
    pub max_bytes: Option<u64>,
    /// Labels that must be there and not empty.
    pub required_labels: Vec<String>,
    /// Now; a later date of making is a finding. `None` switches that off.
    pub now: Option<SystemTime>,
}

impl Default for ImagePolicy {
    fn default() -> ImagePolicy {
        let label = |name: &str| format!("org.opencontainers.image.{name}");
        ImagePolicy {
            max_bytes: None,
            required_labels: ["source", "revision", "version"].map(label).to_vec(),
            now: None,
        }
    }
}

/// What is wrong with the image of `service` that has the digest `image` in `layout`: the digest of a manifest or of an index,
/// of which every image is judged. Findings are sorted by place.
///
/// # Errors
/// When the document of this digest is missing or damaged. A layer that cannot be read is a finding.
pub fn image(layout: &Layout, image: &Digest, service: &str, policy: &ImagePolicy) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for manifest in read::manifests(layout, image)? {
        let mut report = Report { service, findings: Vec::new() };
        let config = read::config(layout, &manifest)?;
        documents::audit(&manifest, &config, policy, &mut report);
        let content = read::layers(layout, &manifest, &mut report);
        files::audit(&content, documents::user(&config), &mut report);
        accounts::audit(&content, &mut report);
        findings.extend(report.findings);
    }
    findings.sort_by(|a, b| (&a.place, &a.rule.id, &a.key).cmp(&(&b.place, &b.rule.id, &b.key)));
    findings.dedup();
    Ok(findings)
}

struct Report<'a> {
    service: &'a str,
    findings: Vec<Finding>,
}

impl Report<'_> {
    /// About the documents of the image.
    fn add(&mut self, id: &'static str, key: &str, message: impl Into<String>) {
        let place = Place::Image { service: self.service.to_owned(), path: None };
        self.findings.push(rules::finding(id, place, key, message));
    }

    /// About a path in it.
    fn add_path(&mut self, id: &'static str, path: &str, message: impl Into<String>) {
        let place = Place::Image { service: self.service.to_owned(), path: Some(path.to_owned()) };
        self.findings.push(rules::finding(id, place, path, message));
    }
}

#[cfg(test)]
mod tests;
