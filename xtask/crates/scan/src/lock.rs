//! The packages of a lock file, with the line that each stands on.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, ensure};
use rustsec::Lockfile;
use rustsec::semver::Version;

/// The largest lock files known have a tenth of this.
const MOST_BYTES: usize = 32 << 20;

/// A package of a lock file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Locked {
    pub(crate) name: String,
    pub(crate) version: Version,
    /// Where it comes from as the lock file writes it; `None` for a local package.
    pub(crate) source: Option<String>,
    /// From 1.
    pub(crate) line: Option<u32>,
}

/// Reads the lock file at `path`.
pub(crate) fn read(path: &Path) -> Result<Vec<Locked>> {
    let text = stdx::fs::read_to_string(path)?;
    parse(&text).with_context(|| format!("cannot read {}", path.display()))
}

fn parse(text: &str) -> Result<Vec<Locked>> {
    ensure!(text.len() <= MOST_BYTES, "it is larger than 32 MiB");
    let lockfile: Lockfile = text.parse()?;
    let lines = lines(text);
    let locked = |package: rustsec::package::Package| {
        let (name, version) = (package.name.to_string(), package.version);
        let line = lines.get(&(name.as_str(), version.to_string().as_str())).copied();
        Locked { source: package.source.map(|source| source.to_string()), name, version, line }
    };
    Ok(lockfile.packages.into_iter().map(locked).collect())
}

/// The line of each `[[package]]`'s name, by name and version. Cargo writes one key a line.
fn lines(text: &str) -> BTreeMap<(&str, &str), u32> {
    let mut found = BTreeMap::new();
    let mut name = None;
    for (index, line) in text.lines().enumerate() {
        let value = |key: &str| line.strip_prefix(key)?.strip_prefix(" = \"")?.strip_suffix('"');
        if let Some(value) = value("name") {
            name = u32::try_from(index + 1).ok().map(|line| (value, line));
        } else if let (Some(version), Some((name, line))) = (value("version"), name.take()) {
            found.entry((name, version)).or_insert(line);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_have_the_line_of_their_name() {
        let text = "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n\n[[package]]\nname = \"a\"\nversion = \"2.0.0\"\n\
                    source = \"registry+https://github.com/rust-lang/crates.io-index\"\n";
        let locked = parse(text).unwrap();
        let brief: Vec<_> = locked.iter().map(|one| (one.line, one.source.is_some())).collect();
        assert_eq!(brief, [(Some(4), false), (Some(8), true)]);
    }

    #[test]
    fn no_bytes_make_it_panic() {
        let good = "version = 4\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\n";
        for at in 0..good.len() {
            for byte in [b'\0', b'"', b'[', b'=', b'\n', 0xff] {
                let mut bytes = good.as_bytes().to_vec();
                bytes[at] = byte;
                let _ = String::from_utf8(bytes).map(|text| parse(&text));
            }
        }
    }
}
