//! The licence of a package from its machine-readable copyright file, as an SPDX expression; nothing where a part of it is not
//! known for sure.
//!
//! Source: Debian's copyright format 1.0.

use std::collections::BTreeSet;

use super::control::paragraphs;

/// Debian's short names and SPDX's.
const NAMES: [(&str, &str); 22] = [
    ("Apache-2.0", "Apache-2.0"),
    ("BSD-2-clause", "BSD-2-Clause"),
    ("BSD-3-clause", "BSD-3-Clause"),
    ("BSL-1.0", "BSL-1.0"),
    ("CC0-1.0", "CC0-1.0"),
    ("Expat", "MIT"),
    ("GFDL-1.3", "GFDL-1.3-only"),
    ("GPL-1+", "GPL-1.0-or-later"),
    ("GPL-2", "GPL-2.0-only"),
    ("GPL-2+", "GPL-2.0-or-later"),
    ("GPL-3", "GPL-3.0-only"),
    ("GPL-3+", "GPL-3.0-or-later"),
    ("ISC", "ISC"),
    ("LGPL-2", "LGPL-2.0-only"),
    ("LGPL-2+", "LGPL-2.0-or-later"),
    ("LGPL-2.1", "LGPL-2.1-only"),
    ("LGPL-2.1+", "LGPL-2.1-or-later"),
    ("LGPL-3+", "LGPL-3.0-or-later"),
    ("MIT", "MIT"),
    ("MPL-2.0", "MPL-2.0"),
    ("PostgreSQL", "PostgreSQL"),
    ("Zlib", "Zlib"),
];

/// The expression for all files of the package together.
pub(crate) fn licence(copyright: &str) -> Option<String> {
    if !copyright.starts_with("Format:") {
        return None;
    }
    let mut parts = BTreeSet::new();
    for paragraph in paragraphs(copyright) {
        let paragraph = paragraph.ok()?;
        if paragraph.get("Files").is_some() {
            parts.insert(expression(paragraph.get("License")?.lines().next()?)?);
        }
    }
    match parts.len() {
        0 => None,
        1 => parts.pop_first(),
        _ => {
            let bracketed = |part: String| if part.contains(" OR ") { format!("({part})") } else { part };
            Some(parts.into_iter().map(bracketed).collect::<Vec<_>>().join(" AND "))
        }
    }
}

fn expression(names: &str) -> Option<String> {
    let alternatives: Option<Vec<String>> = names
        .split(" or ")
        .map(|all| {
            let each: Option<Vec<&str>> =
                all.split(" and ").map(|name| spdx(name.trim().trim_end_matches(','))).collect();
            each.map(|each| each.join(" AND "))
        })
        .collect();
    alternatives.map(|alternatives| alternatives.join(" OR "))
}

fn spdx(name: &str) -> Option<&'static str> {
    NAMES.iter().find(|(debian, _)| debian.eq_ignore_ascii_case(name)).map(|(_, spdx)| *spdx)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_names_become_spdx_and_others_nothing() {
        let check = |licences: &[&str], expected: Option<&str>| {
            let files: String = licences
                .iter()
                .map(|one| format!("\nFiles: *\nCopyright: x\nLicense: {one}\n text\n"))
                .collect();
            let text = format!(
                "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n{files}"
            );
            assert_eq!(licence(&text).as_deref(), expected, "{licences:?}");
        };
        check(&["Expat"], Some("MIT"));
        check(&["GPL-2+ or Expat", "BSD-3-clause"], Some("BSD-3-Clause AND (GPL-2.0-or-later OR MIT)"));
        check(&["GPL-2+", "custom"], None);
        assert_eq!(licence("This is free software."), None);
    }
}
