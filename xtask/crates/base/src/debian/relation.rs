//! What a package asks of others: groups of alternatives with bounds on versions.
//!
//! Source: Debian Policy, chapter 7.

use std::cmp::Ordering;

use anyhow::{Result, bail, ensure};

use super::version;

/// One of these must be there.
pub(crate) type Group = Vec<Alternative>;

/// A package, in some range of versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alternative {
    pub(crate) name: String,
    pub(crate) bound: Option<(Bound, String)>,
}

/// How a version relates to the one that is named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bound {
    Earlier,
    EarlierOrEqual,
    Equal,
    LaterOrEqual,
    Later,
}

/// Groups that one field may have.
const MOST_GROUPS: usize = 2000;

impl Alternative {
    /// Whether a package of this version will do.
    pub(crate) fn admits(&self, found: &str) -> bool {
        let Some((bound, wanted)) = &self.bound else { return true };
        let order = version::compare(found, wanted);
        match bound {
            Bound::Earlier => order == Ordering::Less,
            Bound::EarlierOrEqual => order != Ordering::Greater,
            Bound::Equal => order == Ordering::Equal,
            Bound::LaterOrEqual => order != Ordering::Less,
            Bound::Later => order == Ordering::Greater,
        }
    }
}

/// The groups of a field such as `Depends`.
pub(crate) fn groups(text: &str) -> Result<Vec<Group>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let groups: Vec<Group> = parts
        .map(|part| part.split('|').map(alternative).collect::<Result<Group>>())
        .collect::<Result<_>>()?;
    ensure!(groups.len() <= MOST_GROUPS, "it has too many dependencies");
    Ok(groups)
}

/// `name:any (>= version) [amd64] <!nocheck>`; what stands in the last two brackets is of source packages only.
fn alternative(text: &str) -> Result<Alternative> {
    let text = text.trim();
    let end = text.find(|c: char| c.is_whitespace() || "([<".contains(c)).unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let name = name.split(':').next().unwrap_or(name);
    ensure!(is_name(name), "`{}` is no dependency", text.chars().take(60).collect::<String>());
    let bound = match rest.trim_start().strip_prefix('(') {
        None => None,
        Some(inside) => {
            let Some((inside, _)) = inside.split_once(')') else { bail!("`{name}` has an open bracket") };
            let inside = inside.trim();
            let end = inside.find(|c: char| !"<>=".contains(c)).unwrap_or(inside.len());
            let (operator, version) = inside.split_at(end);
            let bound = match operator {
                "<<" => Bound::Earlier,
                "<=" | "<" => Bound::EarlierOrEqual,
                "=" => Bound::Equal,
                ">=" | ">" => Bound::LaterOrEqual,
                ">>" => Bound::Later,
                _ => bail!("`{name}` has a bound without a known operator"),
            };
            let version = version.trim();
            ensure!(version::is_valid(version), "`{name}` has a bound without a version");
            Some((bound, version.to_owned()))
        }
    };
    Ok(Alternative { name: name.to_owned(), bound })
}

pub(crate) fn is_name(name: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    name.len() >= 2
        && name.len() <= 128
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alternatives_bounds_and_qualifiers() {
        let groups =
            groups("libc6 (>= 2.34), debconf (>= 0.5) | debconf-2.0, perl:any, xx (<<2) [amd64] <!nocheck>,")
                .unwrap();
        let names: Vec<Vec<&str>> =
            groups.iter().map(|g| g.iter().map(|a| a.name.as_str()).collect()).collect();
        assert_eq!(names, [vec!["libc6"], vec!["debconf", "debconf-2.0"], vec!["perl"], vec!["xx"]]);
        assert!(groups[0][0].admits("2.36-9") && !groups[0][0].admits("2.31-13"));
        assert!(groups[3][0].admits("2~rc1") && !groups[3][0].admits("2"));
        assert!(groups[2][0].admits("anything"));
    }

    #[test]
    fn what_is_no_dependency_is_refused() {
        for bad in ["a", "Ü (>= 1)", "ab (>= )", "ab (!! 1)", "ab (>= 1", "ab | | cd"] {
            assert!(groups(bad).is_err(), "{bad}");
        }
    }
}
