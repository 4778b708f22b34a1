//! The packages that an archive has: its `Packages` files, and the `Release` file that vouches for them.
//!
//! Source: the Debian repository format.

use std::collections::BTreeMap;

use anyhow::{Context, Result, ensure};
use stdx::Digest;

use super::control::paragraphs;
use super::relation::is_name;
use super::version;

/// A binary package that an archive has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) architecture: String,
    /// Which archive has it: `debian` or `debian-security`.
    pub(crate) archive: String,
    /// Its file, relative to the archive.
    pub(crate) path: String,
    pub(crate) sha256: Digest,
    pub(crate) size: u64,
    /// What it cannot be without, as the field has it.
    pub(crate) depends: String,
    /// What cannot be beside it.
    pub(crate) conflicts: String,
    pub(crate) provides: String,
}

/// All packages for one processor, by name, each in all versions.
#[derive(Debug, Clone, Default)]
pub(crate) struct Index {
    pub(crate) packages: BTreeMap<String, Vec<Package>>,
}

/// Packages of all archives together.
const MOST_PACKAGES: usize = 1_000_000;
/// Bytes of the largest package file that is taken.
const LARGEST_PACKAGE: u64 = 2 << 30;

impl Index {
    /// Adds the packages of the file `text`, which the archive of this name has.
    ///
    /// # Errors
    /// When a paragraph is not what a package says of itself.
    pub(crate) fn add(&mut self, archive: &str, text: &str) -> Result<()> {
        for (count, paragraph) in paragraphs(text).enumerate() {
            ensure!(count < MOST_PACKAGES, "it has too many packages");
            let paragraph = paragraph?;
            let field = |name: &str| paragraph.get(name).unwrap_or_default().to_owned();
            let name = field("Package");
            let package = || -> Result<Package> {
                let both = |one: &str, other: &str| format!("{},{}", field(one), field(other));
                let package = Package {
                    version: field("Version"),
                    architecture: field("Architecture"),
                    archive: archive.to_owned(),
                    path: field("Filename"),
                    sha256: format!("sha256:{}", field("SHA256")).parse()?,
                    size: field("Size").parse().context("its size is no number")?,
                    depends: both("Pre-Depends", "Depends"),
                    conflicts: both("Conflicts", "Breaks"),
                    provides: field("Provides"),
                    name: name.clone(),
                };
                package.check()?;
                Ok(package)
            };
            let package = package().with_context(|| format!("cannot read what is said of `{name}`"))?;
            self.packages.entry(package.name.clone()).or_default().push(package);
        }
        Ok(())
    }
}

impl Package {
    fn check(&self) -> Result<()> {
        ensure!(is_name(&self.name), "its name is none");
        ensure!(version::is_valid(&self.version), "its version is none");
        check_path(&self.path)?;
        ensure!(self.size <= LARGEST_PACKAGE, "it is too large");
        Ok(())
    }
}

/// Refuses a path that could lead out of the archive or change the meaning of an address.
pub(crate) fn check_path(path: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._+-~%:".contains(c);
    let is_inside = path.split('/').all(|name| !matches!(name, "" | "." | ".."));
    ensure!(
        is_inside && path.len() < 1024 && path.chars().all(plain),
        "`{}` is no path in an archive",
        path.escape_debug()
    );
    Ok(())
}

/// What a `Release` file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Release {
    pub(crate) codename: String,
    pub(crate) date: String,
    /// Digest and size of each file below the suite's folder.
    pub(crate) files: BTreeMap<String, (Digest, u64)>,
}

/// Reads a `Release` file, or an `InRelease` file whose signature somebody else has checked.
///
/// # Errors
/// When it names no files.
pub(crate) fn release(text: &str) -> Result<Release> {
    let text = signed_part(text);
    let paragraph = paragraphs(&text).next().context("it is empty")??;
    let field = |name: &str| paragraph.get(name).unwrap_or_default().to_owned();
    let mut files = BTreeMap::new();
    for line in paragraph.get("SHA256").context("it has no SHA-256 digests")?.lines() {
        let mut words = line.split_whitespace();
        let (Some(digest), Some(size), Some(path)) = (words.next(), words.next(), words.next()) else {
            continue;
        };
        let digest = format!("sha256:{digest}").parse()?;
        files.insert(path.to_owned(), (digest, size.parse().context("a size is no number")?));
    }
    Ok(Release { codename: field("Codename"), date: field("Date"), files })
}

/// The text between the lines of a clear signature.
///
/// Source: RFC 9580, section 7.
fn signed_part(text: &str) -> String {
    let Some(after) = text.strip_prefix("-----BEGIN PGP SIGNED MESSAGE-----") else { return text.to_owned() };
    let body = after.split_once("\n\n").map_or("", |(_, body)| body);
    let body = body.split("\n-----BEGIN PGP SIGNATURE-----").next().unwrap_or_default();
    body.lines().map(|line| format!("{}\n", line.strip_prefix("- ").unwrap_or(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACKAGE: &str = "Package: libx1\nVersion: 1.0-1\nArchitecture: amd64\nFilename: pool/main/x/libx1_1.0-1_amd64.deb\nSize: 10\n";

    #[test]
    fn packages_are_read_and_hostile_ones_refused() {
        let text = format!("{PACKAGE}SHA256: {}\nDepends: libc6\n", "ab".repeat(32));
        let mut index = Index::default();
        index.add("debian", &text).unwrap();
        let package = &index.packages["libx1"][0];
        assert_eq!((package.size, package.depends.as_str()), (10, ",libc6"));
        for (from, to) in [
            ("pool/main", "../.."),
            ("pool/main", "pool//main"),
            ("Size: 10", "Size: x"),
            ("1.0-1\n", "1 0\n"),
            ("libx1\n", "-\n"),
            ("abab", "AB"),
        ] {
            let error = Index::default().add("debian", &text.replacen(from, to, 1));
            assert!(error.is_err(), "{to}");
        }
    }

    #[test]
    fn no_text_makes_a_parser_panic() {
        let digest = "ab".repeat(32);
        let original = format!(
            "{PACKAGE}SHA256: {digest}\nDepends: libc6 (>= 2.34), a1:any | b2 (<< 1:2~) [amd64]\nProvides: x1 (= 1)\nConflicts: y1\n"
        );
        let mut state = 0x2545_f491_4f6c_dd1d_u64;
        let mut random = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            usize::try_from(state % below as u64).unwrap()
        };
        for _ in 0..3000 {
            let mut bytes = original.clone().into_bytes();
            for _ in 0..=random(6) {
                let at = random(bytes.len());
                bytes[at] = b"\n: (|,<>=)~\t#-\xc3A0"[random(17)];
            }
            bytes.truncate(random(bytes.len()) + 1);
            let text = String::from_utf8_lossy(&bytes);
            let mut index = Index::default();
            if index.add("debian", &text).is_ok() {
                let asked: Vec<String> = index.packages.keys().cloned().collect();
                let request = super::super::resolve::Request { asked: &asked, ..Default::default() };
                super::super::resolve::resolve(&index, &request).ok();
            }
            release(&text).ok();
            super::super::licence::licence(&format!("Format: x\n{text}"));
        }
    }

    #[test]
    fn a_signed_release_file_is_read_without_its_signature() {
        let digest = "cd".repeat(32);
        let text = format!(
            "-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nCodename: bookworm\nDate: Sat\nSHA256:\n {digest} 12 main/binary-amd64/Packages\n-----BEGIN PGP SIGNATURE-----\n\nCodename: evil\n"
        );
        let release = release(&text).unwrap();
        assert_eq!(release.codename, "bookworm");
        assert_eq!(release.files["main/binary-amd64/Packages"].1, 12);
    }
}
