//! Statements about images: who is meant, by digest, and what is said of them.
//!
//! Source: in-toto Attestation Framework, "Statement" v1.

use anyhow::{Context, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use stdx::{Digest, json::canonical};

/// The statement's own type.
const TYPE: &str = "https://in-toto.io/Statement/v1";
/// A statement about more subjects than this is none of ours.
const MAX_SUBJECTS: usize = 1_000;

/// What is said, in the field's names.
pub mod predicate {
    /// That an image is meant to be: what `cosign sign` says.
    pub const SIGNATURE: &str = "https://sigstore.dev/cosign/sign/v1";
    /// How an image was built.
    pub const PROVENANCE: &str = "https://slsa.dev/provenance/v1";
    /// What an image consists of, as a CycloneDX document.
    pub const CYCLONEDX: &str = "https://cyclonedx.org/bom";
    /// The same as an SPDX document.
    pub const SPDX: &str = "https://spdx.dev/Document";
}

/// Something said about images.
#[derive(Debug, Clone, PartialEq)]
pub struct Statement {
    /// The images that are meant.
    pub subjects: Vec<Subject>,
    /// What the predicate means.
    pub predicate_type: String,
    /// What is said.
    pub predicate: Value,
}

/// An image that is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// Its name, for people.
    pub name: String,
    /// Digest of its manifest, or of its index.
    pub digest: Digest,
}

#[derive(Deserialize)]
struct Wire {
    #[serde(rename = "_type")]
    kind: String,
    subject: Vec<WireSubject>,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    #[serde(default)]
    predicate: Value,
}

#[derive(Serialize, Deserialize)]
struct WireSubject {
    #[serde(default)]
    name: String,
    digest: std::collections::BTreeMap<String, String>,
}

impl Statement {
    /// The canonical bytes.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let subject =
            |subject: &Subject| json!({ "name": subject.name, "digest": { "sha256": subject.digest.hex() } });
        canonical(&json!({
            "_type": TYPE,
            "subject": self.subjects.iter().map(subject).collect::<Vec<_>>(),
            "predicateType": self.predicate_type,
            "predicate": self.predicate,
        }))
    }

    /// Reads a statement, of anybody's making.
    ///
    /// # Errors
    /// When it is of another version, or a subject has no SHA-256 digest.
    pub fn parse(bytes: &[u8]) -> Result<Statement> {
        let wire: Wire = serde_json::from_slice(bytes).context("not an in-toto statement")?;
        if wire.kind != TYPE {
            bail!("the statement has the type `{}`, and must have `{TYPE}`", shown(&wire.kind));
        }
        ensure!(!wire.subject.is_empty(), "the statement is about nothing");
        ensure!(wire.subject.len() <= MAX_SUBJECTS, "the statement is about {} things", wire.subject.len());
        let subject = |subject: WireSubject| {
            let hex =
                subject.digest.get("sha256").context("a subject of the statement has no SHA-256 digest")?;
            Ok(Subject { name: subject.name, digest: format!("sha256:{hex}").parse()? })
        };
        Ok(Statement {
            subjects: wire.subject.into_iter().map(subject).collect::<Result<_>>()?,
            predicate_type: wire.predicate_type,
            predicate: wire.predicate,
        })
    }

    /// Whether it is about the manifest with this digest.
    pub fn is_about(&self, digest: &Digest) -> bool {
        self.subjects.iter().any(|subject| subject.digest == *digest)
    }
}

/// The start of a text of somebody else's making, for an error.
pub(crate) fn shown(text: &str) -> String {
    let start: String = text.chars().take(100).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if start.len() < text.len() { format!("{start}…") } else { start }
}
