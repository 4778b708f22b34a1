//! From named packages to all that they cannot be without, each once, with the reason why it is there. The choice depends on
//! nothing but the index, the request and the versions that were chosen before.
//!
//! It is no full solver: the first alternative that can be had is taken, as the policy advises package authors to expect. Where
//! two packages that were taken exclude each other, that is said and not solved.

use std::cmp::Ordering;
use std::collections::{BTreeMap, VecDeque};

use anyhow::{Context, Result, bail};

use super::index::{Index, Package};
use super::relation::{Alternative, Group, groups};
use super::version::compare;

/// Packages that one request may need.
const MOST_CHOSEN: usize = 5000;

/// What to choose.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request<'a> {
    /// Packages that are asked for.
    pub(crate) asked: &'a [String],
    /// Packages that are taken for present and left out.
    pub(crate) without: &'a [String],
    /// Versions to prefer where they can still be had, by name.
    pub(crate) preferred: BTreeMap<&'a str, &'a str>,
}

/// The packages, by name, each with the reason.
pub(crate) type Chosen<'a> = BTreeMap<&'a str, (&'a Package, String)>;

/// Chooses packages.
///
/// # Errors
/// When something cannot be had, or two packages exclude each other.
pub(crate) fn resolve<'a>(index: &'a Index, request: &Request<'_>) -> Result<Chosen<'a>> {
    let mut resolver = Resolver { index, request, providers: providers(index)?, chosen: BTreeMap::new() };
    let mut todo = VecDeque::new();
    for name in request.asked {
        let wanted = Alternative { name: name.clone(), bound: None };
        let package = resolver.real(&wanted).with_context(|| format!("the archive has no package {name}"))?;
        if resolver.chosen.insert(&package.name, (package, "asked for".to_owned())).is_none() {
            todo.push_back(package);
        }
    }
    while let Some(package) = todo.pop_front() {
        let all = groups(&package.depends)
            .with_context(|| format!("cannot read what {} depends on", package.name))?;
        for group in all {
            let Some(next) = resolver
                .choose(&group)
                .with_context(|| format!("{} needs what cannot be had", package.name))?
            else {
                continue;
            };
            if resolver.chosen.len() >= MOST_CHOSEN {
                bail!("more than {MOST_CHOSEN} packages are needed");
            }
            resolver.chosen.insert(&next.name, (next, format!("needed by {}", package.name)));
            todo.push_back(next);
        }
    }
    resolver.check_conflicts()?;
    Ok(resolver.chosen)
}

struct Resolver<'a, 'b> {
    index: &'a Index,
    request: &'b Request<'b>,
    /// Who provides a name that may be nobody's own, and in which version.
    providers: Providers<'a>,
    chosen: Chosen<'a>,
}

type Providers<'a> = BTreeMap<String, Vec<(&'a Package, Option<String>)>>;

fn providers(index: &Index) -> Result<Providers<'_>> {
    let mut providers = Providers::new();
    for package in index.packages.values().flatten().filter(|package| !package.provides.is_empty()) {
        let provided = groups(&package.provides)
            .with_context(|| format!("cannot read what {} provides", package.name))?;
        for one in provided.into_iter().flatten() {
            let version = one.bound.map(|(_, version)| version);
            providers.entry(one.name).or_default().push((package, version));
        }
    }
    Ok(providers)
}

impl<'a> Resolver<'a, '_> {
    /// A package that satisfies the group; `None` where one that was chosen does, or where it is left out on purpose.
    fn choose(&self, group: &Group) -> Result<Option<&'a Package>> {
        let is_there = |alternative: &Alternative| self.satisfies(alternative);
        let is_left_out = |alternative: &Alternative| self.request.without.contains(&alternative.name);
        if group.iter().any(|alternative| is_there(alternative) || is_left_out(alternative)) {
            return Ok(None);
        }
        for alternative in group {
            if let Some(package) = self.real(alternative).or_else(|| self.virtual_(alternative)) {
                if let Some((other, _)) = self.chosen.get(package.name.as_str()) {
                    bail!(
                        "{} is wanted in the version {} and in {}",
                        package.name,
                        package.version,
                        other.version
                    );
                }
                return Ok(Some(package));
            }
        }
        let names: Vec<&str> = group.iter().map(|alternative| alternative.name.as_str()).collect();
        bail!("the archive has no {} that fits", names.join(" or "))
    }

    fn satisfies(&self, alternative: &Alternative) -> bool {
        if self
            .chosen
            .get(alternative.name.as_str())
            .is_some_and(|(package, _)| alternative.admits(&package.version))
        {
            return true;
        }
        let provided = self.providers.get(&alternative.name).into_iter().flatten();
        provided.into_iter().any(|(package, version)| {
            let is_chosen =
                self.chosen.get(package.name.as_str()).is_some_and(|(chosen, _)| chosen == package);
            is_chosen && provides(alternative, version.as_deref())
        })
    }

    /// The version to prefer of the package with this very name.
    fn real(&self, alternative: &Alternative) -> Option<&'a Package> {
        let all = self.index.packages.get(&alternative.name)?.iter();
        let fitting = all.filter(|package| alternative.admits(&package.version));
        fitting.max_by(|a, b| self.preference(a, b))
    }

    /// The version that was chosen before is before all others, then the latest; of equal ones the main archive's.
    fn preference(&self, a: &Package, b: &Package) -> Ordering {
        let preferred = |package: &Package| {
            self.request.preferred.get(package.name.as_str()) == Some(&package.version.as_str())
        };
        preferred(a)
            .cmp(&preferred(b))
            .then_with(|| compare(&a.version, &b.version))
            .then_with(|| b.archive.cmp(&a.archive))
    }

    fn virtual_(&self, alternative: &Alternative) -> Option<&'a Package> {
        let all = self.providers.get(&alternative.name)?.iter();
        let fitting = all.filter(|(package, version)| {
            provides(alternative, version.as_deref()) && !self.request.without.contains(&package.name)
        });
        // Names in order, and of one name the version to prefer.
        fitting
            .map(|(package, _)| *package)
            .max_by(|a, b| b.name.cmp(&a.name).then_with(|| self.preference(a, b)))
    }

    fn check_conflicts(&self) -> Result<()> {
        for (package, _) in self.chosen.values() {
            let excluded = groups(&package.conflicts)
                .with_context(|| format!("cannot read what {} excludes", package.name))?;
            for one in excluded.into_iter().flatten() {
                let other = self.chosen.get(one.name.as_str());
                if let Some((other, _)) =
                    other.filter(|(other, _)| other.name != package.name && one.admits(&other.version))
                {
                    bail!(
                        "{} and {} cannot be together; leave one out with `without`",
                        package.name,
                        other.name
                    );
                }
            }
        }
        Ok(())
    }
}

/// A name that is provided without a version satisfies no bound.
fn provides(alternative: &Alternative, version: Option<&str>) -> bool {
    match version {
        Some(version) => alternative.admits(version),
        None => alternative.bound.is_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(packages: &[&str]) -> Index {
        let mut text = String::new();
        for package in packages {
            let mut parts = package.splitn(3, ' ');
            let (name, version, more) =
                (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap_or(""));
            text += &format!(
                "Package: {name}\nVersion: {version}\nArchitecture: amd64\nFilename: pool/{name}_{version}.deb\nSize: 1\nSHA256: {}\n{}\n\n",
                "00".repeat(32),
                more.replace("; ", "\n")
            );
        }
        let mut index = Index::default();
        index.add("debian", &text).unwrap();
        index
    }

    fn check(packages: &[&str], asked: &[&str], without: &[&str], expected: &[&str]) {
        let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let (asked, without) = (owned(asked), owned(without));
        let request =
            Request { asked: &asked, without: &without, preferred: BTreeMap::from([("pinned", "1")]) };
        let index = index(packages);
        let found = match resolve(&index, &request) {
            Ok(chosen) => chosen
                .values()
                .map(|(package, reason)| format!("{} {}: {reason}", package.name, package.version))
                .collect(),
            Err(error) => vec![format!("{error:#}")],
        };
        assert_eq!(found, expected);
    }

    #[test]
    fn dependencies_come_with_their_reason() {
        let all = [
            "app 1 Depends: lib (>= 2), mail",
            "lib 1",
            "lib 3 Pre-Depends: base",
            "base 1 Depends: app",
            "exim 1 Provides: mail",
            "other 1 Provides: mail",
        ];
        check(
            &all,
            &["app"],
            &[],
            &["app 1: asked for", "base 1: needed by lib", "exim 1: needed by app", "lib 3: needed by app"],
        );
        check(&all, &["app"], &["lib", "exim"], &["app 1: asked for", "other 1: needed by app"]);
        // One that is there satisfies, whatever comes first.
        check(&all, &["app", "other"], &["lib"], &["app 1: asked for", "other 1: asked for"]);
    }

    #[test]
    fn what_was_chosen_before_is_kept_while_it_can_be_had() {
        check(&["pinned 1", "pinned 2"], &["pinned"], &[], &["pinned 1: asked for"]);
        check(
            &["aa 1 Depends: pinned (>= 2)", "pinned 1", "pinned 2"],
            &["aa"],
            &[],
            &["aa 1: asked for", "pinned 2: needed by aa"],
        );
    }

    #[test]
    fn what_cannot_be_had_is_named() {
        check(
            &["aa 1 Depends: bb (>= 2) | cc", "bb 1"],
            &["aa"],
            &[],
            &["aa needs what cannot be had: the archive has no bb or cc that fits"],
        );
        check(&["aa 1"], &["zz"], &[], &["the archive has no package zz"]);
        check(
            &["aa 1 Depends: vv (>= 1)", "bb 1 Provides: vv"],
            &["aa"],
            &[],
            &["aa needs what cannot be had: the archive has no vv that fits"],
        );
        check(
            &["aa 1 Depends: bb; Conflicts: bb (<< 2)", "bb 1"],
            &["aa"],
            &[],
            &["aa and bb cannot be together; leave one out with `without`"],
        );
    }
}
