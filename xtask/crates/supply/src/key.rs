//! ECDSA keys on the curve P-256, in the files that other tools read. Signatures are those of RFC 6979: the same key and text
//! give the same bytes. The module knows neither where keys are kept nor what is signed.

use std::fmt;

use anyhow::{Context, Result, bail};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::{Signer, Verifier};
use p256::ecdsa::{Signature, SigningKey as Ecdsa, VerifyingKey};
use p256::pkcs8::{DecodePrivateKey, DecodePublicKey, EncodePrivateKey, EncodePublicKey, LineEnding};
use stdx::Digest;

/// No key file of this kind is longer.
const MAX_PEM: usize = 16 * 1024;

/// A private key. Its `Debug` text shows none of it.
#[derive(Clone)]
pub struct SigningKey(Ecdsa);

/// A public key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl SigningKey {
    /// The key that these random bytes stand for; `None` for the few that stand for none (draw again).
    pub fn from_random(bytes: &[u8; 32]) -> Option<SigningKey> {
        Ecdsa::from_slice(bytes).ok().map(SigningKey)
    }

    /// Reads PKCS#8 in PEM form (`BEGIN PRIVATE KEY`).
    ///
    /// # Errors
    /// The text of the error never holds a part of the key.
    pub fn from_pem(pem: &str) -> Result<SigningKey> {
        if pem.len() > MAX_PEM {
            bail!("it is {} bytes long: no private key is", pem.len());
        }
        let label =
            pem.lines().find_map(|line| line.trim().strip_prefix("-----BEGIN ")?.strip_suffix("-----"));
        match label {
            Some("PRIVATE KEY") => {}
            Some(
                "ENCRYPTED SIGSTORE PRIVATE KEY" | "ENCRYPTED COSIGN PRIVATE KEY" | "ENCRYPTED PRIVATE KEY",
            ) => bail!(
                "it is encrypted with a password, which is not supported; keep the plain key in a secret store and name the \
                 command that prints it"
            ),
            Some("EC PRIVATE KEY") => bail!(
                "it is in OpenSSL's old form; `openssl pkcs8 -topk8 -nocrypt -in OLD -out NEW` gives the new one"
            ),
            _ => bail!("it is no private key in PEM form (`-----BEGIN PRIVATE KEY-----`)"),
        }
        let key = Ecdsa::from_pkcs8_pem(pem.trim()).ok();
        Ok(SigningKey(key.context("it is no ECDSA key on the curve P-256, or it is damaged")?))
    }

    /// PKCS#8 in PEM form.
    pub fn to_pem(&self) -> Result<String> {
        Ok(self.0.to_pkcs8_pem(LineEnding::LF).context("cannot write the private key")?.as_str().to_owned())
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(*self.0.verifying_key())
    }

    /// The signature of `text` (over its SHA-256 digest), in DER form.
    pub(crate) fn sign(&self, text: &[u8]) -> Vec<u8> {
        let signature: Signature = self.0.sign(text);
        signature.to_der().as_bytes().to_vec()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey of {:?}", self.public())
    }
}

impl PublicKey {
    /// Reads the PEM form of the key (`BEGIN PUBLIC KEY`).
    pub fn from_pem(pem: &str) -> Result<PublicKey> {
        if pem.len() > MAX_PEM {
            bail!("it is {} bytes long: no public key is", pem.len());
        }
        if pem.contains("PRIVATE KEY") {
            bail!("it is a private key; `cargo xtask verify` needs the public one");
        }
        let key = VerifyingKey::from_public_key_pem(pem.trim()).ok();
        Ok(PublicKey(key.context(
            "it is no public ECDSA key on the curve P-256 in PEM form (`-----BEGIN PUBLIC KEY-----`)",
        )?))
    }

    /// The PEM form of the key.
    pub fn to_pem(&self) -> Result<String> {
        self.0.to_public_key_pem(LineEnding::LF).context("cannot write the public key")
    }

    /// What a bundle calls the key: the digest of its DER form, as cosign does for keys without a certificate.
    pub fn hint(&self) -> Result<String> {
        let der = self.0.to_public_key_der().context("cannot encode the public key")?;
        Ok(STANDARD.encode(Digest::of(der.as_bytes()).bytes()))
    }

    /// Whether `signature`, in DER form, is that of `text` by this key.
    pub(crate) fn accepts(&self, text: &[u8], signature: &[u8]) -> bool {
        Signature::from_der(signature).is_ok_and(|signature| self.0.verify(text, &signature).is_ok())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn key(byte: u8) -> SigningKey {
        SigningKey::from_random(&[byte; 32]).unwrap()
    }

    #[test]
    fn keys_survive_their_files_and_sign_the_same_bytes_each_time() {
        let key = key(7);
        let read = SigningKey::from_pem(&key.to_pem().unwrap()).unwrap();
        assert_eq!(key.sign(b"text"), read.sign(b"text"));
        let public = PublicKey::from_pem(&key.public().to_pem().unwrap()).unwrap();
        assert!(public.accepts(b"text", &key.sign(b"text")));
        assert!(!public.accepts(b"Text", &key.sign(b"text")) && !public.accepts(b"text", b""));
        assert_eq!(public.hint().unwrap().len(), 44);
        assert_eq!(SigningKey::from_random(&[0; 32]).map(drop), None);
    }

    /// Source: RFC 6979, section A.2.5 (P-256, SHA-256, message "sample").
    #[test]
    fn the_signature_of_the_rfc() {
        let bytes: [u8; 32] = [
            0xC9, 0xAF, 0xA9, 0xD8, 0x45, 0xBA, 0x75, 0x16, 0x6B, 0x5C, 0x21, 0x57, 0x67, 0xB1, 0xD6, 0x93,
            0x4E, 0x50, 0xC3, 0xDB, 0x36, 0xE8, 0x9B, 0x12, 0x7B, 0x8A, 0x62, 0x2B, 0x12, 0x0F, 0x67, 0x21,
        ];
        let signature = SigningKey::from_random(&bytes).unwrap().sign(b"sample");
        let hex: String = signature.iter().map(|byte| format!("{byte:02X}")).collect();
        assert!(hex.contains("EFD48B2AACB6A8FD1140DD9CD45E81D69D2C877B56AAF991C34D0EA84EAF3716"), "{hex}");
        assert!(hex.contains("F7CB1C942D657C41D436C7A1B6E29F65F3E900DBB9AFF4064DC4AB2F843ACDA8"), "{hex}");
    }

    #[test]
    fn other_files_are_refused_by_name_and_never_shown() {
        let error = |pem: &str| format!("{:#}", SigningKey::from_pem(pem).unwrap_err());
        let framed = |label: &str| format!("-----BEGIN {label}-----\nc2VjcmV0\n-----END {label}-----\n");
        assert!(error(&framed("ENCRYPTED SIGSTORE PRIVATE KEY")).contains("password"));
        assert!(error(&framed("EC PRIVATE KEY")).contains("openssl pkcs8"));
        assert!(error(&framed("PRIVATE KEY")).contains("P-256"));
        assert!(error("").contains("no private key"));
        assert!(error(&"x".repeat(MAX_PEM + 1)).contains("bytes long"));
        assert!(!error(&framed("PRIVATE KEY")).contains("c2VjcmV0"));
        let private = key(7).to_pem().unwrap();
        assert!(PublicKey::from_pem(&private).unwrap_err().to_string().contains("private"));
        assert!(PublicKey::from_pem("x").is_err() && PublicKey::from_pem(&"x".repeat(MAX_PEM + 1)).is_err());
        assert!(!format!("{:?}", key(7)).contains("07, 07"));
    }
}
