//! Which packages of a root need which others of it, by what their control files say. Nothing is chosen here: of alternatives all
//! that are in the root count.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result};

use super::control::{Paragraph, paragraphs};
use super::relation::{Alternative, groups};

/// A package of a root: its version and its control file.
pub(crate) struct Described<'a> {
    pub(crate) version: &'a str,
    pub(crate) control: &'a str,
}

/// By name of the package, the packages of the same root that it needs.
///
/// # Errors
/// When a control file cannot be read.
pub(crate) fn needs<'a>(
    packages: &BTreeMap<&'a str, Described<'_>>,
) -> Result<BTreeMap<&'a str, BTreeSet<&'a str>>> {
    let mut controls = BTreeMap::new();
    for (name, package) in packages {
        let control = paragraphs(package.control).next().transpose();
        let control = control.with_context(|| format!("cannot read the control file of {name}"))?;
        controls.insert(*name, control.unwrap_or_default());
    }
    let provided = provided(&controls)?;
    let satisfying = |wanted: &Alternative| {
        let real = packages.get_key_value(wanted.name.as_str());
        let real = real.filter(|(_, package)| wanted.admits(package.version)).map(|(name, _)| *name);
        let others = provided.get(&wanted.name).into_iter().flatten();
        let others = others.filter(|(_, version)| match version {
            Some(version) => wanted.admits(version),
            // What is provided without a version is none of the versions that a bound names.
            None => wanted.bound.is_none(),
        });
        real.into_iter().chain(others.map(|(name, _)| *name)).collect::<Vec<_>>()
    };
    let mut needs = BTreeMap::new();
    for (name, control) in &controls {
        let mut needed = BTreeSet::new();
        for field in ["Depends", "Pre-Depends"] {
            let groups = groups(&one_line(control.get(field).unwrap_or_default()));
            let groups = groups.with_context(|| format!("cannot read what {name} depends on"))?;
            needed.extend(groups.iter().flatten().flat_map(satisfying));
        }
        needed.remove(name);
        needs.insert(*name, needed);
    }
    Ok(needs)
}

type Provided<'a> = BTreeMap<String, Vec<(&'a str, Option<String>)>>;

/// Names that packages stand in for, with the versions that they give.
fn provided<'a>(controls: &BTreeMap<&'a str, Paragraph<'_>>) -> Result<Provided<'a>> {
    let mut provided = Provided::new();
    for (name, control) in controls {
        let all = groups(&one_line(control.get("Provides").unwrap_or_default()));
        for one in all.with_context(|| format!("cannot read what {name} provides"))?.into_iter().flatten() {
            provided.entry(one.name).or_default().push((name, one.bound.map(|(_, version)| version)));
        }
    }
    Ok(provided)
}

fn one_line(field: &str) -> String {
    field.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn real_and_provided_packages_are_found_within_their_bounds() {
        let one = |version, control| Described { version, control };
        let packages = BTreeMap::from([
            ("aa", one("1", "Package: aa\nDepends: bb (>= 2), cc | dd,\n ee (>= 1), ff\n")),
            ("bb", one("2", "Package: bb\nPre-Depends: aa, bb\n")),
            ("dd", one("1", "Package: dd\nProvides: ee, ff\n")),
            ("gg", one("1", "Package: gg\nDepends: bb (<< 2), missing\nProvides: ee (= 3)\n")),
        ]);
        let needs = needs(&packages).unwrap();
        let of = |name: &str| needs[name].iter().copied().collect::<Vec<_>>();
        assert_eq!(of("aa"), ["bb", "dd", "gg"]);
        assert_eq!(of("bb"), ["aa"]);
        assert!(of("dd").is_empty() && of("gg").is_empty());
        let broken = BTreeMap::from([("aa", one("1", "Depends: (x\n"))]);
        assert!(format!("{:#}", super::needs(&broken).unwrap_err()).contains("what aa depends on"));
    }
}
