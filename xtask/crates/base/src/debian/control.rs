//! Debian's control files: paragraphs of fields, a field being a name, a colon and a text that goes on in indented lines.
//!
//! Source: deb822(5).

use anyhow::{Result, bail};

/// A paragraph; fields are in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Paragraph<'a> {
    fields: Vec<(&'a str, &'a str)>,
}

/// Fields that a paragraph may have.
const MOST_FIELDS: usize = 1000;

impl<'a> Paragraph<'a> {
    /// The text of a field; its case does not matter. Lines after the first are as they stand.
    pub(crate) fn get(&self, name: &str) -> Option<&'a str> {
        let found = self.fields.iter().find(|(field, _)| field.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.trim())
    }
}

/// The paragraphs of a text, each or the reason why it is none.
pub(crate) fn paragraphs(text: &str) -> impl Iterator<Item = Result<Paragraph<'_>>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        rest = rest.trim_start_matches(['\n', '\r']);
        if rest.is_empty() {
            return None;
        }
        let end = rest.find("\n\n").map_or(rest.len(), |end| end + 1);
        let (paragraph, after) = rest.split_at(end);
        rest = after;
        Some(parse(paragraph))
    })
}

fn parse(text: &str) -> Result<Paragraph<'_>> {
    let mut fields: Vec<(&str, &str)> = Vec::new();
    let (mut name, mut start, mut at) = (None, 0, 0);
    for line in text.split_inclusive('\n') {
        let begins = at;
        at += line.len();
        if line.starts_with('#') {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            if name.is_none() {
                bail!("a paragraph begins with an indented line");
            }
            continue;
        }
        fields.extend(name.take().map(|name| (name, &text[start..begins])));
        if line.trim().is_empty() {
            continue;
        }
        let Some((field, _)) = line.split_once(':') else {
            bail!("the line `{}` has no field", line.trim_end().chars().take(60).collect::<String>());
        };
        if field.is_empty() || field.contains(char::is_whitespace) || fields.len() >= MOST_FIELDS {
            bail!("`{}` is no name of a field", field.chars().take(60).collect::<String>());
        }
        name = Some(field);
        start = begins + field.len() + 1;
    }
    fields.extend(name.map(|name| (name, &text[start..])));
    Ok(Paragraph { fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_go_on_in_indented_lines() {
        let text = "# c\nPackage: a\nDescription: one\n two\n .\n three\n\n\nPackage: b\nEmpty:\n";
        let all: Vec<_> = paragraphs(text).map(Result::unwrap).collect();
        assert_eq!(all.len(), 2);
        assert_eq!(all[0].get("description"), Some("one\n two\n .\n three"));
        assert_eq!(
            (all[1].get("Package"), all[1].get("Empty"), all[1].get("x")),
            (Some("b"), Some(""), None)
        );
        for bad in [" indented: 1\n", "no field\n", ": 1\n", "a b: 1\n"] {
            assert!(paragraphs(bad).next().unwrap().is_err(), "{bad}");
        }
    }
}
