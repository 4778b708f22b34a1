//! The list of packages that a binary carries inside itself, in the section `.dep-v0`: scanners that only have the binary know
//! then what it is made of. It holds Cargo packages only; the format has no words for anything else.
//!
//! Source: rust-secure-code/cargo-auditable, PARSING.md and the crate `auditable-serde`.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use auditable_serde::{DependencyKind, Package, Source, VersionInfo};

use crate::component::{Component, Ecosystem, Use};
use crate::cyclonedx::Sbom;

/// The revision of the format in which procedural macros count as what builds, as they do here.
const FORMAT: u32 = 1;
/// The one that cargo-auditable uses. Equal lists must give equal bytes, so it is part of the image format.
const COMPRESSION_LEVEL: u8 = 7;

/// The content of `.dep-v0`: the Cargo packages of `sbom` as compressed JSON.
///
/// # Errors
/// When a package's version is none by the rules of Semantic Versioning.
pub fn audit(sbom: &Sbom) -> Result<Vec<u8>> {
    let components = sbom.components.iter().chain([&sbom.subject]);
    let mut packages: Vec<(&Component, Source)> =
        components.filter_map(|component| Some((component, source(component)?))).collect();
    let order = |component: &Component| {
        (component.name.clone(), component.version.clone(), component.purl(), component.usage)
    };
    packages.sort_by_key(|(component, _)| order(component));
    // What is both linked and built with is linked, and linked sorts first.
    packages.dedup_by_key(|(component, _)| component.purl());
    let places: BTreeMap<String, usize> =
        packages.iter().enumerate().map(|(index, (component, _))| (component.purl(), index)).collect();
    let package = |(component, source): (&Component, Source)| {
        let needed = sbom.edges.get(&component.purl()).into_iter().flatten();
        let mut dependencies: Vec<usize> = needed.filter_map(|purl| places.get(purl).copied()).collect();
        dependencies.sort_unstable();
        dependencies.retain(|index| places.get(&component.purl()) != Some(index));
        let version = component.version.parse();
        let version = version.with_context(|| format!("the version of {} is none", component.name))?;
        Ok(Package {
            name: component.name.clone(),
            version,
            source,
            kind: match component.usage {
                Use::Linked => DependencyKind::Runtime,
                Use::BuildOnly => DependencyKind::Build,
            },
            dependencies,
            root: *component == sbom.subject,
        })
    };
    let packages = packages.into_iter().map(package).collect::<Result<Vec<_>>>()?;
    let json = serde_json::to_vec(&VersionInfo { packages, format: FORMAT })?;
    Ok(miniz_oxide::deflate::compress_to_vec_zlib(&json, COMPRESSION_LEVEL))
}

fn source(component: &Component) -> Option<Source> {
    match component.ecosystem {
        Ecosystem::Cargo => Some(Source::CratesIo),
        Ecosystem::CargoRegistry(_) => Some(Source::Registry),
        Ecosystem::CargoGit(..) => Some(Source::Git),
        Ecosystem::CargoWorkspace => Some(Source::Local),
        Ecosystem::Debian { .. } | Ecosystem::Generic => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn named(name: &str, ecosystem: Ecosystem, usage: Use) -> Component {
        Component {
            ecosystem,
            name: name.into(),
            version: "1.0.0".into(),
            usage,
            licence: None,
            hash: None,
            description: None,
        }
    }

    fn sbom() -> Sbom {
        let git = Ecosystem::CargoGit("https://h/r".into(), "c0ffee".into());
        let subject = named("api", Ecosystem::CargoWorkspace, Use::Linked);
        let linked = named("linked", Ecosystem::Cargo, Use::Linked);
        let builds = named("builds", git, Use::BuildOnly);
        let glibc = named("glibc", Ecosystem::Generic, Use::Linked);
        let edges = BTreeMap::from([
            (subject.purl(), BTreeSet::from([linked.purl(), glibc.purl()])),
            (linked.purl(), BTreeSet::from([builds.purl()])),
        ]);
        Sbom {
            subject,
            components: BTreeSet::from([linked, builds, glibc]),
            edges,
            tool_version: "0".into(),
            about: crate::About::default(),
        }
    }

    #[test]
    fn the_field_s_reader_finds_what_was_written() {
        let json = miniz_oxide::inflate::decompress_to_vec_zlib(&audit(&sbom()).unwrap()).unwrap();
        let read: VersionInfo = std::str::from_utf8(&json).unwrap().parse().unwrap();
        let brief: Vec<_> = read
            .packages
            .iter()
            .map(|one| (one.name.as_str(), one.source.clone(), one.kind, one.dependencies.clone(), one.root))
            .collect();
        let (runtime, build) = (DependencyKind::Runtime, DependencyKind::Build);
        let expected = [
            ("api", Source::Local, runtime, vec![2], true),
            ("builds", Source::Git, build, vec![], false),
            ("linked", Source::CratesIo, runtime, vec![1], false),
        ];
        assert_eq!(brief, expected);
    }

    #[test]
    fn equal_lists_give_equal_bytes_and_other_lists_others() {
        let mut other = sbom();
        other.components.insert(named("more", Ecosystem::Cargo, Use::Linked));
        assert_eq!(audit(&sbom()).unwrap(), audit(&sbom()).unwrap());
        assert_ne!(audit(&sbom()).unwrap(), audit(&other).unwrap());
        let mut bad = sbom();
        bad.subject.version = "one".into();
        assert!(format!("{:#}", audit(&bad).unwrap_err()).contains("the version of api"));
    }
}
