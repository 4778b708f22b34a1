//! From what Cargo compiled to the components of one image.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use cargo_metadata::{Metadata, Package, PackageId};
use memchr::memmem;
use supply::{About, Component, Detail, Ecosystem, Hash, Sbom, Use};
use workspace::{Split, Unit, split};

use crate::toolchain::Toolchain;

/// What all images of one build have in common.
pub(crate) struct Origin<'a> {
    pub(crate) metadata: &'a Metadata,
    pub(crate) units: &'a [Unit],
    pub(crate) toolchain: &'a Toolchain,
    /// Archive digests from the lock file.
    pub(crate) checksums: BTreeMap<(String, String), String>,
    /// Version of the C library that is linked in, if its archive tells.
    pub(crate) glibc: Option<String>,
    /// The commit's time, or what SOURCE_DATE_EPOCH says.
    pub(crate) created: i64,
    /// Who distributes the images.
    pub(crate) vendor: Option<String>,
    /// What compiles and links, by version or digest.
    pub(crate) tools: BTreeMap<String, String>,
}

/// The components of the image of the package `root`; `extra` are those that its base brings along.
pub(crate) fn sbom(origin: &Origin<'_>, root: &PackageId, extra: &[Component]) -> Sbom {
    let Split { linked, build_only, edges } = split(origin.metadata, origin.units, root);
    let subject = package_component(origin, root, Use::Linked);
    let of = |ids: &BTreeSet<PackageId>, usage| {
        ids.iter().map(|id| package_component(origin, id, usage)).collect::<Vec<_>>()
    };
    let mut components: BTreeSet<Component> =
        of(&linked, Use::Linked).into_iter().filter(|c| *c != subject).collect();
    components.extend(of(&build_only, Use::BuildOnly));
    let purl = |id: &PackageId| package_component(origin, id, Use::Linked).purl();
    let mut edges: BTreeMap<String, BTreeSet<String>> =
        edges.iter().map(|(from, to)| (purl(from), to.iter().map(purl).collect())).collect();
    let packages = linked.iter().chain(&build_only);
    let mut details: BTreeMap<String, Detail> =
        packages.map(|id| (purl(id), detail(&origin.metadata[id]))).collect();
    for (component, supplier) in runtime_components(origin) {
        add(&mut edges, &mut details, &subject, &component, supplier);
        components.insert(component);
    }
    components.extend(extra.iter().cloned());
    let about = About {
        created: origin.created,
        vendor: origin.vendor.clone(),
        details,
        toolchain: origin.tools.clone(),
        layers: vec![],
    };
    Sbom { subject, components, edges, tool_version: env!("CARGO_PKG_VERSION").to_owned(), about }
}

/// Lets the image be known to call on the component, which `supplier` made.
fn add(
    edges: &mut BTreeMap<String, BTreeSet<String>>,
    details: &mut BTreeMap<String, Detail>,
    subject: &Component,
    component: &Component,
    supplier: &str,
) {
    edges.entry(subject.purl()).or_default().insert(component.purl());
    details.insert(component.purl(), Detail { supplier: Some(supplier.to_owned()), ..Detail::default() });
}

fn detail(package: &Package) -> Detail {
    Detail { supplier: None, authors: package.authors.clone(), repository: package.repository.clone() }
}

fn package_component(origin: &Origin<'_>, id: &PackageId, usage: Use) -> Component {
    let package = &origin.metadata[id];
    let (name, version) = (package.name.to_string(), package.version.to_string());
    let is_archive = matches!(ecosystem(package), Ecosystem::Cargo | Ecosystem::CargoRegistry(_));
    let hash =
        origin.checksums.get(&(name.clone(), version.clone())).filter(|_| is_archive).cloned().map(Hash);
    Component {
        ecosystem: ecosystem(package),
        name,
        version,
        usage,
        licence: package.license.clone(),
        hash,
        description: None,
    }
}

fn ecosystem(package: &Package) -> Ecosystem {
    let Some(source) = package.source.as_ref() else { return Ecosystem::CargoWorkspace };
    if source.is_crates_io() {
        return Ecosystem::Cargo;
    }
    match source.repr.strip_prefix("git+") {
        Some(git) => {
            let (url, commit) = git.split_once('#').unwrap_or((git, ""));
            Ecosystem::CargoGit(url.split('?').next().unwrap_or(url).to_owned(), commit.to_owned())
        }
        None => Ecosystem::CargoRegistry(source.repr.clone()),
    }
}

/// The components of an image of packages, but for the packages themselves.
pub(crate) fn of_packages(name: &str, version: &str, created: i64, vendor: Option<&str>) -> Sbom {
    let description = "An image of Debian packages";
    let subject = Component { licence: None, ..generic(name, version, "", description) };
    let mut sbom = Sbom {
        components: BTreeSet::new(),
        edges: BTreeMap::from([(subject.purl(), BTreeSet::new())]),
        tool_version: env!("CARGO_PKG_VERSION").to_owned(),
        about: About { created, vendor: vendor.map(str::to_owned), ..About::default() },
        subject,
    };
    // Whoever put the packages together distributes the image.
    let supplier = Detail { supplier: sbom.about.vendor.clone(), ..Detail::default() };
    sbom.about.details.insert(sbom.subject.purl(), supplier);
    for (component, supplier) in data_components() {
        add(&mut sbom.edges, &mut sbom.about.details, &sbom.subject, &component, supplier);
        sbom.components.insert(component);
    }
    sbom
}

fn generic(name: &str, version: &str, licence: &str, description: &str) -> Component {
    Component {
        ecosystem: Ecosystem::Generic,
        name: name.to_owned(),
        version: version.to_owned(),
        usage: Use::Linked,
        licence: Some(licence.to_owned()),
        hash: None,
        description: Some(description.to_owned()),
    }
}

/// The data that every root has where no package brings it, with its supplier.
fn data_components() -> Vec<(Component, &'static str)> {
    let supplier = |name: &str| if name == "tzdata" { "IANA" } else { "Mozilla" };
    let part = |part: &base::Component| {
        (generic(part.name, &part.version, part.licence, part.description), supplier(part.name))
    };
    base::static_components().iter().map(part).collect()
}

/// What is in the image and in no lock file, with its supplier: the standard library, the C library and the data of the base.
fn runtime_components(origin: &Origin<'_>) -> Vec<(Component, &'static str)> {
    let mut components = data_components();
    let release = &origin.toolchain.release;
    let std = generic("rust-std", release, "MIT OR Apache-2.0", "The Rust standard library");
    components.push((std, "The Rust Project"));
    if let Some(glibc) = &origin.glibc {
        let licence = "LGPL-2.1-or-later";
        let glibc = generic("glibc", glibc, licence, "The GNU C library, linked statically");
        components.push((glibc, "The GNU Project"));
    }
    components
}

/// Archive digests by package name and version, from the text of a lock file.
pub(crate) fn checksums(lock: &[u8]) -> Result<BTreeMap<(String, String), String>> {
    let text = std::str::from_utf8(lock).context("Cargo.lock is not UTF-8 text")?;
    let lock: cargo_lock::Lockfile = text.parse().context("cannot read Cargo.lock")?;
    let entry = |package: &cargo_lock::Package| {
        let checksum = package.checksum.as_ref()?.to_string();
        Some(((package.name.to_string(), package.version.to_string()), checksum))
    };
    Ok(lock.packages.iter().filter_map(entry).collect())
}

/// The version of the C library in the archive `libc.a`, which carries it in a line such as `GNU C Library (Debian GLIBC
/// 2.36-9+deb12u10) stable release version 2.36.`; `None` for any other file.
pub(crate) fn glibc_version(path: &Path) -> Option<String> {
    if path.file_name()? != "libc.a" {
        return None;
    }
    let archive = std::fs::read(path).ok()?;
    let at = memmem::find(&archive, b"GNU C Library (")?;
    let line = archive[at..].split(|byte| *byte == b'\n').next()?;
    parse_banner(std::str::from_utf8(line).ok()?)
}

fn parse_banner(banner: &str) -> Option<String> {
    let (_, after) = banner.split_once("GNU C Library (")?;
    let (vendor, rest) = after.split_once(')')?;
    // A distribution's own version says which fixes are in; others only have the release.
    let packaged = vendor.rsplit(' ').next().filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    let release = || rest.rsplit("version ").next().map(|text| text.trim_end_matches(['.', '\n']));
    packaged.or_else(release).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_c_librarys_banner_tells_the_packaged_version() {
        let banner = |text: &str| parse_banner(text).unwrap();
        assert_eq!(
            banner("GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36."),
            "2.36-9+deb12u10"
        );
        assert_eq!(banner("GNU C Library (GNU libc) stable release version 2.41."), "2.41");
    }

    #[test]
    fn checksums_come_from_the_lock_file() {
        let lock = format!(
            "version = 4\n\n[[package]]\nname = \"a\"\nversion = \"1.0.0\"\nsource = \"registry+https://registry.example/index\"\n\
             checksum = \"{}\"\n\n[[package]]\nname = \"ours\"\nversion = \"0.1.0\"\n",
            "ab".repeat(32)
        );
        let found = checksums(lock.as_bytes()).unwrap();
        assert_eq!(found.into_iter().collect::<Vec<_>>(), [(("a".into(), "1.0.0".into()), "ab".repeat(32))]);
    }
}
