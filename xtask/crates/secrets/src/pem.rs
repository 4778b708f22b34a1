//! Private keys in text blocks: that there is a key, and whether a passphrase protects it.

use finding::Severity;

use crate::decode;
use crate::judge::Verdict;

/// The start of what `ssh-keygen` writes. Source: OpenSSH's PROTOCOL.key.
const OPENSSH: &[u8] = b"openssh-key-v1\0";
/// An elliptic-curve key of 256 bits has at least this many bytes in every encoding.
const SMALLEST: usize = 32;

/// `None`: no key. `Some(None)`: a bare one. Otherwise what it comes down to.
pub(crate) fn judge(block: &[u8]) -> Option<Option<Verdict>> {
    let body = body(block)?;
    let has = |text: &str| memchr::memmem::find(block, text.as_bytes()).is_some();
    let encoded = strip(body);
    // A block that a template fills or that is cut short decodes to nothing.
    let whole = encoded.len() - encoded.len() % 4;
    let bytes = decode::base64(&encoded[..whole])?;
    if bytes.len() < SMALLEST || bytes.iter().all(|byte| *byte == bytes[0]) {
        return None;
    }
    let is_openssh = bytes.starts_with(OPENSSH);
    let cipher_is_none = bytes.get(OPENSSH.len()..OPENSSH.len() + 8) == Some(b"\0\0\0\x04none");
    let is_encrypted = has("ENCRYPTED") || (is_openssh && !cipher_is_none);
    let is_key = is_openssh || has("PGP") || is_encrypted || bytes[0] == 0x30;
    let lowered = Verdict { severity: Severity::Low, remark: Some("encrypted: as strong as its passphrase") };
    is_key.then_some(is_encrypted.then_some(lowered))
}

/// What stands between the first and the last line.
fn body(block: &[u8]) -> Option<&[u8]> {
    let start = memchr::memmem::find(block, b"-----")? + 5;
    let start = start + memchr::memmem::find(&block[start..], b"-----")? + 5;
    let end = memchr::memmem::rfind(block, b"-----END").unwrap_or(block.len());
    block.get(start..end)
}

/// The base64 of the body: without line ends (real or as `\n`), indents, quotes, comment signs, headers and checksum lines.
fn strip(body: &[u8]) -> Vec<u8> {
    let unescaped = body.to_vec();
    let text = String::from_utf8_lossy(&unescaped).replace("\\r", "").replace("\\n", "\n");
    let lines = text
        .lines()
        .map(|line| line.trim_matches([' ', '\t', '"', '\'', '+', ',', '\\', '#', '*', '|', '>']));
    let is_body = |line: &&str| !line.contains(':') && !line.starts_with('=') && !line.contains(' ');
    let digits = lines.filter(is_body).flat_map(str::bytes);
    digits.filter(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')).collect()
}
