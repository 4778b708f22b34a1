//! A piece of software, and how it relates to an image.

/// A piece of software with its name, version and origin.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Component {
    /// Where its name is defined.
    pub ecosystem: Ecosystem,
    /// Its name there.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it is in the image or only built it.
    pub usage: Use,
    /// SPDX licence expression, as the author wrote it.
    pub licence: Option<String>,
    /// Digest of the archive it came in.
    pub hash: Option<Hash>,
    /// One line on what it is.
    pub description: Option<String>,
}

/// What a component's name means.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ecosystem {
    /// A Cargo package of the default registry.
    Cargo,
    /// A Cargo package of another registry, by its index URL.
    CargoRegistry(String),
    /// A Cargo package in a git repository: URL and commit.
    CargoGit(String, String),
    /// A Cargo package of the workspace itself.
    CargoWorkspace,
    /// A binary package of Debian.
    Debian {
        /// Its release, for instance `bookworm`.
        codename: String,
        /// In Debian's words, for instance `amd64` or `all`.
        architecture: String,
    },
    /// Anything that no package manager names.
    Generic,
}

/// Where a component is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Use {
    /// It is in the image.
    Linked,
    /// It was compiled and run to make the image, and is not in it.
    BuildOnly,
}

/// A SHA-256 digest in hex, without prefix.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hash(pub String);

impl Component {
    /// The package URL.
    ///
    /// Source: the package-url specification, types `cargo`, `deb` and `generic`.
    pub fn purl(&self) -> String {
        let (name, version) = (encode(&self.name), encode(&self.version));
        match &self.ecosystem {
            Ecosystem::Cargo => format!("pkg:cargo/{name}@{version}"),
            Ecosystem::CargoRegistry(index) => {
                format!("pkg:cargo/{name}@{version}?repository_url={}", encode(index))
            }
            Ecosystem::CargoGit(url, commit) => {
                format!("pkg:cargo/{name}@{version}?vcs_url={}", encode(&format!("git+{url}@{commit}")))
            }
            Ecosystem::Debian { codename, architecture } => {
                format!(
                    "pkg:deb/debian/{name}@{version}?arch={}&distro={}",
                    encode(architecture),
                    encode(codename)
                )
            }
            // Not `cargo`: somebody else may own that name in the public registry.
            Ecosystem::CargoWorkspace | Ecosystem::Generic => format!("pkg:generic/{name}@{version}"),
        }
    }

    /// The licence as a valid SPDX expression: Cargo once wrote `MIT/Apache-2.0` where SPDX writes `MIT OR Apache-2.0`, and what
    /// SPDX does not know becomes a `LicenseRef-`.
    pub fn licence_expression(&self) -> Option<String> {
        crate::licence::expression(self.licence.as_ref()?)
    }
}

/// Percent-encodes what a package URL keeps for itself.
fn encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn component(ecosystem: Ecosystem, version: &str) -> Component {
        let licence = Some("MIT/Apache-2.0".to_owned());
        Component {
            ecosystem,
            name: "a-b".into(),
            version: version.into(),
            usage: Use::Linked,
            licence,
            hash: None,
            description: None,
        }
    }

    #[test]
    fn package_urls() {
        let purl = |ecosystem, version: &str| component(ecosystem, version).purl();
        assert_eq!(purl(Ecosystem::Cargo, "1.0.0+x"), "pkg:cargo/a-b@1.0.0%2Bx");
        assert_eq!(purl(Ecosystem::Generic, "2.36-9+deb12u1"), "pkg:generic/a-b@2.36-9%2Bdeb12u1");
        let debian = Ecosystem::Debian { codename: "bookworm".into(), architecture: "amd64".into() };
        assert_eq!(purl(debian, "2:1.0"), "pkg:deb/debian/a-b@2%3A1.0?arch=amd64&distro=bookworm");
        let git = Ecosystem::CargoGit("https://h/r".into(), "c0ffee".into());
        assert_eq!(purl(git, "1.0.0"), "pkg:cargo/a-b@1.0.0?vcs_url=git%2Bhttps%3A%2F%2Fh%2Fr%40c0ffee");
    }

    #[test]
    fn the_old_slash_becomes_or() {
        assert_eq!(component(Ecosystem::Cargo, "1").licence_expression().unwrap(), "MIT OR Apache-2.0");
    }
}
