//! Signed statements: an envelope around the statement, in the bundle that cosign 3 writes and reads. What is read here is
//! hostile until its signature was checked, and nothing of the statement is looked at before.
//!
//! Source: DSSE 1.0 ("Protocol"); sigstore protobuf-specs, `bundle.proto`, version 0.3.

use std::fmt;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;
use stdx::json::canonical;

use crate::key::{PublicKey, SigningKey};
use crate::statement::{Statement, shown};

/// What a bundle is called in a registry, and calls itself.
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
/// No bundle is longer: an SBOM of a thousand components has a megabyte.
pub const MAX_BUNDLE: u64 = 32 * 1024 * 1024;
/// What is in the envelope.
const PAYLOAD: &str = "application/vnd.in-toto+json";

/// Why a bundle says nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rejected {
    /// It is longer than any bundle is.
    TooLong(u64),
    /// It cannot be read: what is wrong with it.
    Damaged(String),
    /// It is signed with a certificate instead of a key, which this program does not check.
    Keyless,
    /// It has another number of signatures than one.
    Signatures(usize),
    /// The payload is said to be something else than a statement.
    PayloadType(String),
    /// The signature is of another key or of another text.
    WrongKey,
    /// The signature is good, and what is signed is no statement.
    NoStatement(String),
}

/// The bundle of a statement, signed with `key`: the same statement and key give the same bytes.
pub fn sign(statement: &Statement, key: &SigningKey) -> Result<Vec<u8>> {
    let payload = statement.to_bytes()?;
    let signature = key.sign(&pae(PAYLOAD, &payload));
    canonical(&json!({
        "mediaType": BUNDLE,
        "verificationMaterial": { "publicKey": { "hint": key.public().hint()? } },
        "dsseEnvelope": {
            "payload": STANDARD.encode(payload),
            "payloadType": PAYLOAD,
            "signatures": [{ "sig": STANDARD.encode(signature) }],
        },
    }))
}

/// The statement in a bundle that was signed with the private half of `key`.
pub fn verify(bundle: &[u8], key: &PublicKey) -> Result<Statement, Rejected> {
    let size = bundle.len() as u64;
    if size > MAX_BUNDLE {
        return Err(Rejected::TooLong(size));
    }
    let damaged = |what: &str| Rejected::Damaged(what.to_owned());
    let wire: Wire =
        serde_json::from_slice(bundle).map_err(|error| Rejected::Damaged(shown(&error.to_string())))?;
    if wire.media_type != BUNDLE {
        return Err(Rejected::Damaged(format!("it calls itself `{}`", shown(&wire.media_type))));
    }
    if wire.material.public_key.is_none() {
        return Err(Rejected::Keyless);
    }
    let envelope = wire.envelope.ok_or_else(|| damaged("it holds no envelope"))?;
    if envelope.payload_type != PAYLOAD {
        return Err(Rejected::PayloadType(shown(&envelope.payload_type)));
    }
    let [signature] = &envelope.signatures[..] else {
        return Err(Rejected::Signatures(envelope.signatures.len()));
    };
    let payload = STANDARD.decode(&envelope.payload).map_err(|_| damaged("its payload is not base64"))?;
    let signature = STANDARD.decode(&signature.sig).map_err(|_| damaged("its signature is not base64"))?;
    if !key.accepts(&pae(PAYLOAD, &payload), &signature) {
        return Err(Rejected::WrongKey);
    }
    Statement::parse(&payload).map_err(|error| Rejected::NoStatement(shown(&format!("{error:#}"))))
}

/// What is really signed: the payload's type is part of it, so that a text cannot be passed off as another kind of text.
///
/// Source: DSSE 1.0, "Signature Definition", `PAE`.
fn pae(payload_type: &str, payload: &[u8]) -> Vec<u8> {
    let mut text = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), payload.len()).into_bytes();
    text.extend_from_slice(payload);
    text
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wire {
    media_type: String,
    #[serde(rename = "verificationMaterial")]
    material: Material,
    #[serde(rename = "dsseEnvelope")]
    envelope: Option<Envelope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Material {
    public_key: Option<Hint>,
}

/// The hint is not used: which key counts is for whoever verifies to say.
#[derive(Deserialize)]
struct Hint {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope {
    payload: String,
    payload_type: String,
    signatures: Vec<Signature>,
}

#[derive(Deserialize)]
struct Signature {
    sig: String,
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejected::TooLong(size) => write!(f, "it is {size} bytes long: no bundle is"),
            Rejected::Damaged(what) => write!(f, "it is damaged: {what}"),
            Rejected::Keyless => f.write_str(
                "it is signed with a certificate, not with a key: `cosign` or `gh attestation` checks those",
            ),
            Rejected::Signatures(count) => write!(f, "it has {count} signatures, and must have one"),
            Rejected::PayloadType(found) => {
                write!(f, "its payload is of the type `{found}`, and must be `{PAYLOAD}`")
            }
            Rejected::WrongKey => f.write_str("it is not signed with this key, or it was changed since"),
            Rejected::NoStatement(why) => write!(f, "what is signed is no statement: {why}"),
        }
    }
}

impl std::error::Error for Rejected {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::tests::key;
    use crate::statement::Subject;
    use stdx::Digest;

    fn statement() -> Statement {
        Statement {
            subjects: vec![Subject { name: "web".into(), digest: Digest::of("image") }],
            predicate_type: "https://example.com/p".into(),
            predicate: json!({ "a": [1, "b"] }),
        }
    }

    #[test]
    fn what_is_signed_is_read_back_by_the_right_key_only() {
        let bundle = sign(&statement(), &key(7)).unwrap();
        assert_eq!(bundle, sign(&statement(), &key(7)).unwrap());
        assert_eq!(verify(&bundle, &key(7).public()).unwrap(), statement());
        assert_eq!(verify(&bundle, &key(8).public()).unwrap_err(), Rejected::WrongKey);
        assert!(verify(&bundle, &key(7).public()).unwrap().is_about(&Digest::of("image")));
    }

    /// Source: DSSE 1.0, "Protocol", the test vector.
    #[test]
    fn the_encoding_of_the_specification() {
        assert_eq!(
            pae("http://example.com/HelloWorld", b"hello world"),
            b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
        );
    }

    /// Made by cosign 3.1.3 with `cosign sign --key` and the empty predicate.
    #[test]
    fn what_cosign_signed_is_read() {
        let public = include_str!("../testdata/cosign.pub");
        let bundle = include_bytes!("../testdata/cosign.sigstore.json");
        let key = PublicKey::from_pem(public).unwrap();
        let statement = verify(bundle, &key).unwrap();
        assert_eq!(statement.predicate_type, crate::predicate::SIGNATURE);
        assert!(statement.is_about(
            &"sha256:87298320fbc777c6b60528fb309c194a33298e1b61681a80a3569a933e6828fe".parse().unwrap()
        ));
        assert!(std::str::from_utf8(bundle).unwrap().contains(&key.hint().unwrap()));
    }

    /// Whatever byte is changed, the answer is the statement as it was signed or a refusal, and never a panic.
    #[test]
    fn no_changed_byte_changes_what_is_believed() {
        let bundle = sign(&statement(), &key(7)).unwrap();
        let public = key(7).public();
        for at in 0..bundle.len() {
            for change in [1u8, 0x80] {
                let mut changed = bundle.clone();
                changed[at] ^= change;
                if let Ok(believed) = verify(&changed, &public) {
                    assert_eq!(believed, statement(), "byte {at} ^ {change}");
                }
            }
            assert!(verify(&bundle[..at], &public).is_err());
        }
    }

    #[test]
    fn deep_and_long_input_is_refused() {
        let public = key(7).public();
        assert!(verify("[".repeat(100_000).as_bytes(), &public).is_err());
        let deep = "{\"mediaType\":".repeat(50_000);
        assert!(verify(deep.as_bytes(), &public).is_err());
        let long = vec![b' '; usize::try_from(MAX_BUNDLE).unwrap() + 1];
        assert!(matches!(verify(&long, &public), Err(Rejected::TooLong(_))));
    }
}
