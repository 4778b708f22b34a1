//! Every parser of what comes from outside, fed with damaged forms of what is right: none may panic, and what is read as a name
//! or document must hold what its kind promises.

use crate::document::Document;
use crate::reference::Reference;
use crate::{challenge, credentials, error, link};

/// A generator that gives the same sequence on every machine (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let mixed = self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33;
        usize::try_from(mixed).unwrap() % limit.max(1)
    }

    fn damage(&mut self, seed: &[u8]) -> Vec<u8> {
        const PIECES: &[&[u8]] = &[
            b"\"",
            b"\\",
            b"[",
            b"{",
            b"}",
            b",",
            b":",
            b"@",
            b"/",
            b"<",
            b"\0",
            b"\xff",
            b"9999999999999999999",
            b"..",
            b"=",
            "ü".as_bytes(),
        ];
        let mut bytes = seed.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(4) {
                0 => bytes.truncate(at),
                1 => drop(bytes.splice(at..at, PIECES[self.below(PIECES.len())].iter().copied())),
                2 if at < bytes.len() => bytes[at] = u8::try_from(self.below(256)).unwrap(),
                _ => {
                    let end = (at + self.below(12)).min(bytes.len());
                    let part = bytes[at..end].to_vec();
                    let to = self.below(bytes.len() + 1);
                    drop(bytes.splice(to..to, part));
                }
            }
        }
        bytes
    }
}

fn each(seeds: &[&str], check: impl Fn(&[u8])) {
    let mut chance = Chance(0x5EED);
    for seed in seeds {
        for _ in 0..4000 {
            check(&chance.damage(seed.as_bytes()));
        }
    }
}

const HEX: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

#[test]
fn references() {
    let full = format!("registry.example:5000/team/api:v1@{HEX}");
    each(&[&full, "nginx", "[::1]:5000/a__b-c/d.e", "localhost/x:y"], |bytes| {
        let Ok(text) = std::str::from_utf8(bytes) else { return };
        let Ok(reference) = text.parse::<Reference>() else { return };
        assert_eq!(reference.to_string().parse::<Reference>().unwrap(), reference, "{text:?}");
        let is_plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        assert!(is_plain(&reference.host) && is_plain(&reference.repository), "{text:?}");
        assert!(!reference.repository.contains("..") && !reference.repository.starts_with('/'), "{text:?}");
    });
}

#[test]
fn challenges_and_links() {
    let bearer = r#"Bearer realm="https://auth.example/token",service="r",scope="repository:a:pull", Basic realm="\"""#;
    each(&[bearer, "Basic realm=x"], |bytes| {
        challenge::parse([&*String::from_utf8_lossy(bytes)]);
    });
    each(&[r#"</v2/a/tags/list?n=1>; rel="next", <x>; rel=prev"#, "https://r.example/v2/?x=y"], |bytes| {
        let text = String::from_utf8_lossy(bytes);
        if let Some(target) = link::next(&text) {
            link::resolve("https://r.example/v2/a/tags/list", target);
        }
        link::resolve(&text, "x");
        link::resolve(&text, "//y");
    });
}

#[test]
fn documents() {
    let one = format!(r#"{{"mediaType":"x/y","digest":"{HEX}","size":3,"annotations":{{"a":"b"}}}}"#);
    let manifest = format!(r#"{{"schemaVersion":2,"config":{one},"layers":[{one},{one}],"subject":{one}}}"#);
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{one}],"annotations":{{}}}}"#);
    each(&[&manifest, &index], |bytes| {
        error::detail(ureq::http::StatusCode::BAD_REQUEST, bytes);
        let Ok(document) = Document::parse(bytes) else { return };
        assert!(document.blobs().is_empty() || document.children().is_empty());
        document.media_type();
    });
}

#[test]
fn credentials_and_answers_of_helpers() {
    let config =
        r#"{"auths":{"r.example":{"auth":"dTpw"},"x":{"identitytoken":"t"}},"credHelpers":{"h":"none"}}"#;
    let answer = r#"{"ServerURL":"x","Username":"u","Secret":"s"}"#;
    each(&[config, answer, "https://r.example/v1/"], credentials::read_anything);
}
