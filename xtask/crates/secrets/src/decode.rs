//! Text that stands in base64 or hex, one level deep. Invariant: what does not decode to text is dropped after a few bytes, and
//! what is decoded is bounded.

use std::ops::Range;

use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// Shorter runs hold no token worth looking for.
const SHORTEST: usize = 32;
const LONGEST: usize = 64 * 1024;
/// What is decoded of one file, in all.
const BUDGET: usize = 4 * 1024 * 1024;
/// So much must be text before the rest is decoded; a multiple of both codes' groups.
const PROBE: usize = 24;

const CONFIG: GeneralPurposeConfig = GeneralPurposeConfig::new()
    .with_decode_padding_mode(DecodePaddingMode::Indifferent)
    .with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const URL_SAFE: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

/// Decodes base64 of either alphabet, padded or not.
pub(crate) fn base64(text: &[u8]) -> Option<Vec<u8>> {
    let text = text.trim_ascii_end();
    let end = text.iter().rposition(|byte| *byte != b'=').map_or(0, |last| last + 1);
    let engine = if text.iter().any(|byte| matches!(byte, b'-' | b'_')) { &URL_SAFE } else { &STANDARD };
    engine.decode(&text[..end]).ok()
}

/// Decodes pairs of hex digits.
pub(crate) fn hex(text: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// The texts that are encoded in `bytes`, with where they stand.
pub(crate) fn texts(bytes: &[u8]) -> Vec<(Range<usize>, Vec<u8>)> {
    let mut found = Vec::new();
    let mut left = BUDGET;
    for range in runs(bytes) {
        let run = &bytes[range.start..range.end.min(range.start + LONGEST)];
        if run.len() > left {
            break;
        }
        if let Some(decoded) = text(run, hex).or_else(|| text(run, base64)) {
            left -= run.len();
            found.push((range, decoded));
        }
    }
    found
}

fn text(run: &[u8], decode: fn(&[u8]) -> Option<Vec<u8>>) -> Option<Vec<u8>> {
    let is_text = |bytes: &[u8]| bytes.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n' | b'\r' | b'\t'));
    decode(&run[..PROBE]).filter(|start| is_text(start))?;
    decode(run)
}

/// Runs of bytes of either base64 alphabet. Jumping ahead by the shortest length skips what cannot be one without a look at
/// every byte.
fn runs(bytes: &[u8]) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    std::iter::from_fn(move || {
        while at + SHORTEST <= bytes.len() {
            let window = &bytes[at..at + SHORTEST];
            if let Some(last_foreign) = window.iter().rposition(|byte| !IS_CODE[*byte as usize]) {
                at += last_foreign + 1;
                continue;
            }
            let start = at;
            let rest = &bytes[at + SHORTEST..];
            let more = rest.iter().position(|byte| !IS_CODE[*byte as usize]).unwrap_or(rest.len());
            at = start + SHORTEST + more;
            return Some(start..at);
        }
        None
    })
}

static IS_CODE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] =
            matches!(byte as u8, b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'+' | b'/' | b'-' | b'_');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_decoded_where_it_stands_and_other_bytes_are_not() {
        let text = "a line of plain text that is long enough";
        let (base, hex) =
            (STANDARD.encode(text), text.bytes().map(|b| format!("{b:02x}")).collect::<String>());
        for encoded in [base, hex] {
            let found = texts(format!("key: {encoded}\n").as_bytes());
            let end = 5 + encoded.trim_end_matches('=').len();
            assert_eq!(found, [(5..end, text.as_bytes().to_vec())]);
        }
        assert_eq!(texts(STANDARD.encode([7, 200].repeat(50)).as_bytes()), []);
    }
}
