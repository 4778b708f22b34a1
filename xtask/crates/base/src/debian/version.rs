//! Versions of Debian packages and their order.
//!
//! Source: Debian Policy 5.6.12; deb-version(7).

use std::cmp::Ordering;

/// A splitted version. What is not allowed in one is refused where packages are read, so that any text has a place in the order.
#[derive(Debug, Clone, Copy)]
struct Version<'a> {
    epoch: u64,
    upstream: &'a str,
    revision: &'a str,
}

/// Which of two versions is the later one.
pub fn compare(a: &str, b: &str) -> Ordering {
    let (a, b) = (Version::new(a), Version::new(b));
    a.epoch
        .cmp(&b.epoch)
        .then_with(|| compare_part(a.upstream.as_bytes(), b.upstream.as_bytes()))
        .then_with(|| compare_part(a.revision.as_bytes(), b.revision.as_bytes()))
}

/// Whether the text can be a version.
pub(crate) fn is_valid(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || ".+-:~".contains(c);
    !text.is_empty() && text.len() <= 256 && text.chars().all(plain)
}

impl<'a> Version<'a> {
    fn new(text: &'a str) -> Version<'a> {
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, text),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, "0"));
        Version { epoch, upstream, revision }
    }
}

/// Texts and numbers in turn: texts by `~` before the end before letters before the rest, numbers by value.
fn compare_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    while !a.is_empty() || !b.is_empty() {
        let text_a = take(&mut a, |byte| !byte.is_ascii_digit());
        let text_b = take(&mut b, |byte| !byte.is_ascii_digit());
        for at in 0..text_a.len().max(text_b.len()) {
            let order = rank(text_a.get(at)).cmp(&rank(text_b.get(at)));
            if order.is_ne() {
                return order;
            }
        }
        let order = number(take(&mut a, u8::is_ascii_digit)).cmp(&number(take(&mut b, u8::is_ascii_digit)));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

fn take<'a>(bytes: &mut &'a [u8], while_: impl Fn(&u8) -> bool) -> &'a [u8] {
    let end = bytes.iter().position(|byte| !while_(byte)).unwrap_or(bytes.len());
    let (taken, rest) = bytes.split_at(end);
    *bytes = rest;
    taken
}

fn rank(byte: Option<&u8>) -> u32 {
    match byte {
        Some(b'~') => 0,
        None => 1,
        Some(letter) if letter.is_ascii_alphabetic() => u32::from(*letter) + 2,
        Some(other) => u32::from(*other) + 1000,
    }
}

/// Digits of any length: fewer digits are less, equally many are in the order of texts.
fn number(digits: &[u8]) -> (usize, &[u8]) {
    let start = digits.iter().position(|digit| *digit != b'0').unwrap_or(digits.len());
    (digits.len() - start, &digits[start..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const SORTED: [&str; 16] = [
        "0~~",
        "0~~a",
        "0~",
        "0",
        "1.0~rc1-1",
        "1.0-0",
        "1.0-1",
        "1.0-1+b1",
        "1.0-1.1",
        "1.0a-1",
        "1.0+dfsg-1",
        "1.9",
        "1.10",
        "2.36-9+deb12u9",
        "2.36-9+deb12u10",
        "1:0",
    ];

    #[test]
    fn the_order_is_that_of_the_policy() {
        for (i, a) in SORTED.iter().enumerate() {
            for (j, b) in SORTED.iter().enumerate() {
                assert_eq!(compare(a, b), i.cmp(&j), "{a} {b}");
            }
        }
        assert_eq!(compare("1.0", "1.0-0"), Ordering::Equal);
        assert_eq!(compare("1.01", "1.1"), Ordering::Equal);
        assert_eq!(compare("0:1", "1"), Ordering::Equal);
    }

    #[test]
    fn dpkg_is_of_the_same_opinion() {
        if Command::new("dpkg").arg("--version").output().is_err() {
            eprintln!("SKIPPED: there is no dpkg");
            return;
        }
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % below
        };
        let mut version = || {
            let body: String =
                (0..=random(6)).map(|_| char::from(b"0129az.+~-"[random(10) as usize])).collect();
            // dpkg wants a digit in front and something behind the last dash.
            format!("{}{}", random(3), body.trim_end_matches('-'))
        };
        for _ in 0..150 {
            let (a, b) = (version(), version());
            let word = match compare(&a, &b) {
                Ordering::Less => "lt",
                Ordering::Equal => "eq",
                Ordering::Greater => "gt",
            };
            let status = Command::new("dpkg").args(["--compare-versions", &a, word, &b]).status().unwrap();
            assert!(status.success(), "{a} {word} {b}");
        }
    }
}
