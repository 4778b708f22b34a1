//! Names of images as Docker reads them: `[host[:port]/]repository[:tag][@digest]`. Pure; knows no registry.
//!
//! Source: the grammar of distribution/reference, and of repository names in distribution-spec 1.1 ("Pulling manifests").

use std::fmt;
use std::str::FromStr;

use stdx::Digest;

/// What a name without a host means.
const DOCKER_HUB: &str = "docker.io";
/// Longer names are refused by registries.
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// The name of an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reference {
    /// Host and, where one is given, port.
    pub host: String,
    /// Path of the repository below the host.
    pub repository: String,
    /// Which of its images, by name.
    pub tag: Option<String>,
    /// Which of its images, by content.
    pub digest: Option<Digest>,
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseReferenceError {
    text: String,
    problem: &'static str,
}

impl Reference {
    /// The same repository with another tag and no digest.
    ///
    /// # Errors
    /// When `tag` is none.
    pub fn with_tag(&self, tag: &str) -> Result<Reference, ParseReferenceError> {
        if !is_tag(tag) {
            return Err(ParseReferenceError { text: tag.to_owned(), problem: TAG });
        }
        Ok(Reference { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// Host and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.host, self.repository)
    }

    /// What a registry is asked for: the digest, else the tag, else `latest`.
    pub fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

const TAG: &str = "a tag has 1 to 128 letters, digits, `_`, `.` and `-`, and does not begin with `.` or `-`";
const HOST: &str = "the part before the first `/` is not a host name with an optional port";
const REPOSITORY: &str = "a repository has lower-case letters and digits, with `.`, `_`, `__` or `-` only between them, and `/` between its parts";
const LENGTH: &str = "it is longer than 255 characters";
const DIGEST: &str = "what follows `@` is not sha256: and 64 lower-case hex digits";

impl FromStr for Reference {
    type Err = ParseReferenceError;

    fn from_str(text: &str) -> Result<Reference, ParseReferenceError> {
        let refuse = |problem| ParseReferenceError { text: text.to_owned(), problem };
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| refuse(DIGEST))?)),
            None => (text, None),
        };
        let is_host = |first: &str| {
            first.contains(['.', ':']) || first == "localhost" || first.chars().any(char::is_uppercase)
        };
        let (host, rest) = match rest.split_once('/') {
            Some((first, rest)) if is_host(first) => (first, rest),
            _ => (DOCKER_HUB, rest),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        if !is_host_name(host) {
            return Err(refuse(HOST));
        }
        if !path.split('/').all(is_component) {
            return Err(refuse(REPOSITORY));
        }
        if let Some(tag) = tag
            && !is_tag(tag)
        {
            return Err(refuse(TAG));
        }
        if host.len() + 1 + path.len() > MAX_NAME {
            return Err(refuse(LENGTH));
        }
        let host = if host == "index.docker.io" { DOCKER_HUB } else { host };
        let is_official = host == DOCKER_HUB && !path.contains('/');
        let repository = if is_official { format!("library/{path}") } else { path.to_owned() };
        Ok(Reference { host: host.to_owned(), repository, tag: tag.map(str::to_owned), digest })
    }
}

/// A name or an IPv4 address, or an IPv6 address in brackets, and an optional port.
pub(crate) fn is_host_name(host: &str) -> bool {
    let is_port = |port: &str| !port.is_empty() && port.parse::<u16>().is_ok_and(|port| port > 0);
    if let Some(rest) = host.strip_prefix('[') {
        let Some((address, rest)) = rest.split_once(']') else { return false };
        let is_address = address.parse::<std::net::Ipv6Addr>().is_ok();
        return is_address && (rest.is_empty() || rest.strip_prefix(':').is_some_and(is_port));
    }
    let (name, port) = host.split_once(':').map_or((host, None), |(name, port)| (name, Some(port)));
    let is_label = |label: &str| {
        let inner = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
        inner && !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
    };
    name.split('.').all(is_label) && port.is_none_or(is_port)
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(part: &str) -> bool {
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = part.as_bytes();
    let (Some(first), Some(last)) = (bytes.first(), bytes.last()) else { return false };
    let separators = part.split(|c: char| c.is_ascii() && is_word(c as u8));
    let is_separator = |text: &str| {
        matches!(text, "" | "." | "_" | "__") || (!text.is_empty() && text.bytes().all(|byte| byte == b'-'))
    };
    is_word(*first) && is_word(*last) && separators.into_iter().all(is_separator)
}

fn is_tag(tag: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
    let starts = tag.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    starts && tag.len() <= MAX_TAG && tag.bytes().all(is_inner)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl fmt::Display for ParseReferenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` is not the name of an image: {}", self.text, self.problem)
    }
}

impl std::error::Error for ParseReferenceError {}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[track_caller]
    fn check(text: &str, full: &str) {
        let parsed: Reference = text.parse().unwrap();
        assert_eq!(parsed.to_string(), full);
        assert_eq!(full.parse::<Reference>().unwrap(), parsed, "the full name means the same");
    }

    #[test]
    fn names_are_read_as_docker_reads_them() {
        check("nginx", "docker.io/library/nginx");
        check("nginx:1.2", "docker.io/library/nginx:1.2");
        check("team/api", "docker.io/team/api");
        check("index.docker.io/team/api", "docker.io/team/api");
        check("localhost/api", "localhost/api");
        check("localhost:5000/a/b/c:x", "localhost:5000/a/b/c:x");
        check("[::1]:5000/a:x", "[::1]:5000/a:x");
        check("HOST/api", "HOST/api");
        check("r.example/a__b/c.d-e--f:V_1.0-x", "r.example/a__b/c.d-e--f:V_1.0-x");
        check(&format!("r.example/a:t@sha256:{HEX}"), &format!("r.example/a:t@sha256:{HEX}"));
    }

    #[test]
    fn what_names_nothing_is_refused_with_the_reason() {
        let long = "a".repeat(256);
        for (text, problem) in [
            ("", REPOSITORY),
            ("Api", REPOSITORY),
            ("r.example/", REPOSITORY),
            ("r.example/a//b", REPOSITORY),
            ("r.example/a___b", REPOSITORY),
            ("r.example/a..b", REPOSITORY),
            ("r.example/-a", REPOSITORY),
            ("r.example/ä", REPOSITORY),
            ("r.example/../a", REPOSITORY),
            ("r.example/a:", TAG),
            ("r.example/a:.b", TAG),
            ("r.example/a:b/c", TAG),
            ("r.example:x/a", HOST),
            ("r.example:0/a", HOST),
            ("user@r.example/a", DIGEST),
            ("-r.example/a", HOST),
            ("[::g]/a", HOST),
            ("r.example/a@sha256:00", DIGEST),
            (&long, LENGTH),
        ] {
            let error = text.parse::<Reference>().unwrap_err();
            assert_eq!((error.problem, text), (problem, text));
        }
    }

    #[test]
    fn the_digest_goes_before_the_tag() {
        let named: Reference = format!("r.example/a:t@sha256:{HEX}").parse().unwrap();
        assert_eq!(named.selector(), format!("sha256:{HEX}"));
        assert_eq!(named.with_tag("x").unwrap().to_string(), "r.example/a:x");
        assert!(named.with_tag("a b").is_err());
        assert_eq!("r.example/a".parse::<Reference>().unwrap().selector(), "latest");
    }
}
