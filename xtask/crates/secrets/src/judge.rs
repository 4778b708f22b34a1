//! What must hold of a match besides its form: checksums, structure, randomness, and that it does not merely stand in for a
//! secret. Everything here is pure.

use finding::Severity;

use crate::assigned;
use crate::decode;
use crate::name::{Kind, Name};
use crate::pem;
use crate::rule::{Class, Judge, Spec};

/// A match with what stands around it.
pub(crate) struct Subject<'a> {
    pub(crate) spec: &'static Spec,
    pub(crate) name: &'a Name<'a>,
    pub(crate) secret: &'a [u8],
    /// The group `key` of the pattern: what the value is assigned to, or the user of a URL.
    pub(crate) key: &'a [u8],
    /// What stands before `key` in the same name.
    pub(crate) key_prefix: &'a [u8],
    pub(crate) host: &'a [u8],
    pub(crate) before: &'a [u8],
}

/// That it is a secret, and how bad that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) severity: Severity,
    pub(crate) remark: Option<&'static str>,
}

/// `None` where it is no secret.
pub(crate) fn judge(subject: &Subject<'_>) -> Option<Verdict> {
    let spec = subject.spec;
    let is_made_up =
        spec.class != Class::Assignment && !spec.judges.contains(&Judge::Pem) && is_made_up(subject.secret);
    if is_made_up || entropy(subject.secret) < spec.entropy {
        return None;
    }
    let mut verdict = Verdict { severity: spec.severity, remark: None };
    for judge in &spec.judges {
        let lowered = apply(*judge, subject)?;
        if let Some(lowered) = lowered {
            verdict = lowered;
        }
    }
    let is_sample = subject.name.is_sample || assigned::in_rust_tests(subject);
    if spec.class == Class::Format && is_sample && verdict.severity > Severity::Low {
        verdict = Verdict { severity: Severity::Low, remark: Some("in test data, by its place") };
    }
    Some(verdict)
}

/// `None`: no secret. `Some(None)`: as the rule says. Otherwise what it comes down to.
fn apply(judge: Judge, subject: &Subject<'_>) -> Option<Option<Verdict>> {
    let secret = subject.secret;
    let as_is = |holds: bool| holds.then_some(None);
    match judge {
        Judge::Crc32Base62 => Some(checksum(crc32_base62(secret))),
        Judge::Crc32Hex => Some(checksum(crc32_hex(secret))),
        Judge::Bech32 => Some(checksum(bech32(secret))),
        Judge::Jwt => as_is(is_jwt(secret)),
        Judge::Pem => pem::judge(secret),
        Judge::BasicAuth => as_is(is_basic_auth(secret)),
        Judge::Url => as_is(assigned::is_url_password(subject)),
        Judge::Snowflake => as_is(is_snowflake(secret)),
        Judge::Random => as_is(is_random(secret)),
        Judge::Assigned => as_is(assigned::is_assigned(subject)),
        Judge::Stored => as_is(!assigned::looks_up(secret)),
        Judge::Bare => as_is(subject.name.kind == Kind::Config && !subject.name.file.ends_with(".json")),
        Judge::Literal => as_is(assigned::is_literal(secret)),
    }
}

fn checksum(holds: bool) -> Option<Verdict> {
    let remark = "its checksum does not hold, so it is invented or damaged";
    (!holds).then_some(Verdict { severity: Severity::Note, remark: Some(remark) })
}

/// Shannon's entropy of the bytes, in bits a byte.
pub(crate) fn entropy(bytes: &[u8]) -> f64 {
    let mut counts = [0u32; 256];
    for byte in bytes {
        counts[usize::from(*byte)] += 1;
    }
    let total = bytes.len() as f64;
    let term = |count: &u32| f64::from(*count) / total * (total / f64::from(*count)).log2();
    counts.iter().filter(|count| **count > 0).map(term).sum()
}

/// Whether people wrote it to show a form: one character over and over, the alphabet, the word "example".
pub(crate) fn is_made_up(secret: &[u8]) -> bool {
    let is_text = |bytes: &Vec<u8>| bytes.len() > 8 && bytes.iter().all(u8::is_ascii_graphic);
    follows_a_pattern(secret)
        || decode::base64(secret).filter(is_text).is_some_and(|text| follows_a_pattern(&text))
}

fn follows_a_pattern(secret: &[u8]) -> bool {
    let lower = secret.to_ascii_lowercase();
    let has = |word: &str| memchr::memmem::find(&lower, word.as_bytes()).is_some();
    let repeats = lower.windows(6).any(|run| run.iter().all(|byte| *byte == run[0]));
    let counts_up = lower.windows(8).any(|run| run.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
    repeats
        || counts_up
        || [
            "example",
            "placeholder",
            "changeme",
            "redacted",
            "your_",
            "your-",
            "xxxx",
            "deadbeef",
            "****",
            "1234567890",
        ]
        .into_iter()
        .any(has)
}

/// Whether it looks like the output of a generator: letters and digits that alternate often, in one long run.
pub(crate) fn is_random(text: &[u8]) -> bool {
    let longest =
        text.split(|byte| !byte.is_ascii_alphanumeric()).max_by_key(|run| run.len()).unwrap_or_default();
    let is_change = |pair: &&[u8]| pair[0].is_ascii_digit() != pair[1].is_ascii_digit();
    let changes = longest.windows(2).filter(is_change).count();
    longest.len() >= 8 && changes >= 3 && changes * 10 >= longest.len()
}

/// Source: GitHub, "Behind GitHub's new authentication token formats" (2021); npm uses the same form.
fn crc32_base62(token: &[u8]) -> bool {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let body = memchr::memrchr(b'_', token).map_or(token, |underscore| &token[underscore + 1..]);
    let Some((random, sum)) = body.split_last_chunk::<6>() else { return false };
    let mut rest = crc32fast::hash(random) as usize;
    let mut expected = [b'0'; 6];
    for digit in expected.iter_mut().rev() {
        *digit = DIGITS[rest % 62];
        rest /= 62;
    }
    expected == *sum
}

/// Source: Grafana's service account tokens (`glsa_<random>_<checksum>`).
fn crc32_hex(token: &[u8]) -> bool {
    let Some((body, sum)) = token.split_last_chunk::<8>() else { return false };
    let body = body.strip_suffix(b"_").unwrap_or(body);
    let body = memchr::memchr(b'_', body).map_or(body, |underscore| &body[underscore + 1..]);
    format!("{:08x}", crc32fast::hash(body)).as_bytes() == sum
}

/// Source: BIP 173, "Checksum".
fn bech32(text: &[u8]) -> bool {
    const CHARSET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    let lower = text.to_ascii_lowercase();
    let Some(one) = memchr::memrchr(b'1', &lower) else { return false };
    let (prefix, data) = (&lower[..one], &lower[one + 1..]);
    let high = prefix.iter().map(|byte| Some(u32::from(byte >> 5)));
    let low = prefix.iter().map(|byte| Some(u32::from(byte & 31)));
    let values = data.iter().map(|byte| memchr::memchr(*byte, CHARSET).map(|value| value as u32));
    let mut sum = 1u32;
    for value in high.chain([Some(0)]).chain(low).chain(values) {
        let Some(value) = value else { return false };
        let top = sum >> 25;
        sum = (sum & 0x01ff_ffff) << 5 ^ value;
        for (bit, generator) in GENERATOR.iter().enumerate() {
            sum ^= if top >> bit & 1 == 1 { *generator } else { 0 };
        }
    }
    sum == 1
}

/// Source: RFC 7519 and RFC 7515. The token of the first, and the one that jwt.io shows, are known to everybody.
fn is_jwt(token: &[u8]) -> bool {
    let mut parts = token.split(|byte| *byte == b'.');
    let mut object = || {
        let bytes = decode::base64(parts.next()?)?;
        serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&bytes).ok()
    };
    let (Some(header), Some(claims)) = (object(), object()) else { return false };
    let algorithm = header.get("alg").and_then(|alg| alg.as_str()).unwrap_or("none");
    let subject = claims.get("sub").and_then(|sub| sub.as_str());
    let issuer = claims.get("iss").and_then(|iss| iss.as_str());
    !algorithm.eq_ignore_ascii_case("none") && subject != Some("1234567890") && issuer != Some("joe")
}

fn is_basic_auth(secret: &[u8]) -> bool {
    let Some(decoded) = decode::base64(secret) else { return false };
    let is_text = decoded.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let Some(colon) = memchr::memchr(b':', &decoded) else { return false };
    is_text && colon > 0 && assigned::is_literal(&decoded[colon + 1..])
}

fn is_snowflake(secret: &[u8]) -> bool {
    let head = secret.split(|byte| *byte == b'.').next().unwrap_or_default();
    decode::base64(head).is_some_and(|id| (17..=20).contains(&id.len()) && id.iter().all(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entropy_is_that_of_shannon() {
        assert_eq!(
            (entropy(b""), entropy(b"aaaa"), entropy(b"abab"), entropy(b"abcd")),
            (0.0, 0.0, 1.0, 2.0)
        );
    }

    #[test]
    fn generators_and_words_are_told_apart() {
        for text in ["3b6311afca5bd8aac647b316704e9c6d", "nAH2VzKrMrRjySLlt8HCdFU3tM2TUuUZgh39NX"] {
            assert!(is_random(text.as_bytes()), "{text}");
        }
        for text in
            ["my-service-account-token", "sha256WithRSAEncryption", "kubernetes.io/service-account-v1"]
        {
            assert!(!is_random(text.as_bytes()), "{text}");
        }
    }

    /// The valid strings of BIP 173.
    #[test]
    fn bech32_checksums_as_the_standard_has_them() {
        for text in ["A12UEL5L", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxw"] {
            assert!(bech32(text.as_bytes()), "{text}");
        }
        for text in ["A12UEL5M", "abcdef1qpzry9x8gf2tvdw0s3jn54khce6mua7lmqqqxx", "", "b1"] {
            assert!(!bech32(text.as_bytes()), "{text}");
        }
    }
}
