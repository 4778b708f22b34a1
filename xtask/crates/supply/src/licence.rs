//! Licences as valid SPDX expressions, whatever an author wrote.

use spdx::{Expression, ParseMode};

/// Identifiers of the SPDX list, older ones too, and references.
const VALID: ParseMode = ParseMode {
    allow_slash_as_or_operator: false,
    allow_imprecise_license_names: false,
    allow_postfix_plus_on_gpl: false,
    allow_deprecated: true,
    allow_unknown: false,
};

/// The licence as a valid expression. What no list knows becomes a reference to the author's own words.
pub(crate) fn expression(written: &str) -> Option<String> {
    let spaced = written.replace('/', " OR ");
    let text = spaced.split_whitespace().collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        return None;
    }
    let valid = |text: &str| Expression::parse_mode(text, VALID).is_ok();
    if valid(&text) {
        return Some(text);
    }
    let mended = Expression::canonicalize(&text).ok().flatten().filter(|mended| valid(mended));
    Some(mended.unwrap_or_else(|| reference(written)))
}

/// The references in an expression: what a document must explain.
pub(crate) fn references(expression: &str) -> impl Iterator<Item = &str> {
    let words = expression.split(|c: char| c.is_whitespace() || "()".contains(c));
    words.filter(|word| word.starts_with("LicenseRef-"))
}

fn reference(written: &str) -> String {
    /// Words longer than this are no name.
    const MOST: usize = 60;
    let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    let name: String = written.trim().chars().take(MOST).map(plain).collect();
    let name = name.trim_matches('-');
    format!("LicenseRef-{}", if name.is_empty() { "unnamed" } else { name })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_authors_write_becomes_valid() {
        for (written, expected) in [
            ("MIT/Apache-2.0", "MIT OR Apache-2.0"),
            ("MIT  OR Apache-2.0", "MIT OR Apache-2.0"),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", "(MIT OR Apache-2.0) AND Unicode-3.0"),
            ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
            ("GPL-2.0", "GPL-2.0"),
            ("Apache 2.0 OR MIT", "Apache-2.0 OR MIT"),
            ("mit or apache-2.0", "LicenseRef-mit-or-apache-2.0"),
            ("LicenseRef-public-domain", "LicenseRef-public-domain"),
            ("Ask the author!", "LicenseRef-Ask-the-author"),
            ("§", "LicenseRef-unnamed"),
        ] {
            let found = expression(written).unwrap();
            assert_eq!(found, expected);
        }
        assert_eq!(expression(" "), None);
        let references: Vec<_> = references("(MIT OR LicenseRef-a) AND LicenseRef-b.c").collect();
        assert_eq!(references, ["LicenseRef-a", "LicenseRef-b.c"]);
    }
}
